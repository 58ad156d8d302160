"""Tasks of multiple choice: their samples, prompts, shots and scores, all on the rows that come with estbench.

Log-likelihoods are drawn at random where lm-eval's own results are the measure; models that like a letter, or always
choose the longest option, stand for what must not score well.
"""

from __future__ import annotations

import collections
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from estbench.engines.base import Generated
from estbench.metrics import aggregate, get
from estbench.metrics.choice import LETTERS
from estbench.registry import Registry

pytest.importorskip("lm_eval")

REGISTRY = Registry()
SAMPLES = REGISTRY.folder / "samples"
GOLD = SAMPLES / "gold" / "winogrande_et.jsonl"
TEXTS = ["belebele_et_cf", "estcopa", "exam_et", "global_piqa_et", "include_et_cf", "trivia_et", "xcopa_et"]
LETTERED = ["belebele_et", "estcopa_mcf", "exam_et_mcf", "include_et", "trivia_et_mcf"]
CHAT = ["belebele_et_chat", "estcopa_chat", "exam_et_chat", "global_piqa_et_chat"]
CHAT += ["include_et_chat", "trivia_et_chat", "winogrande_et_chat"]
BOTH_ORDERS = ["estcopa_mcf", "estcopa_chat", "global_piqa_et_chat", "winogrande_et_chat"]
TASKS = [*TEXTS, *LETTERED, *CHAT, "winogrande_et"]
SUBJECTS = ["ajalugu", "bioloogia", "eesti_keel_gymn", "eesti_keel_pohikool"]
SUBJECTS += ["fyysika", "geograafia", "keemia", "yhiskond"]
FIELDS = {
    "cambridgeltl/xcopa": "premise choice1 choice2 question label idx changed",
    "facebook/belebele": "link question_number flores_passage question mc_answer1 mc_answer2 mc_answer3 mc_answer4 "
    "correct_answer_num dialect ds",
    "TalTechNLP/exam_et": "küsimus vastusevariandid vastus config",
    "TalTechNLP/trivia_et": "id küsimus vastusevariandid vastus",
    "tartuNLP/winogrande_et": "qID sentence option1 option2 corrected culturally_adapted ambiguous answer",
    "mrlbenchmarks/global-piqa-nonparallel": "prompt solution0 solution1 label "
    "language categories example_id supplement",
    "CohereForAI/include-base-44": "language country domain subject regional_feature level question "
    "option_a option_b option_c option_d answer",
}


@cache
def built(name: str, gold: bool = True) -> Any:
    """The task over its sample."""
    from estbench.lm_tasks import LmTask

    card = REGISTRY.task(name)
    return LmTask(card, data_dir=Path("samples"), gold=GOLD if gold and card.access == "withheld" else None)


def prompt(name: str, doc_id: int = 0) -> str:
    """A document's own part of its prompt."""
    text = built(name).render(doc_id).prompt
    return str(text.rpartition("\n\n")[2]) if REGISTRY.task(name).form == "completion" else str(text)


def options(name: str, doc: dict[str, Any]) -> list[str]:
    """The texts of a row's options."""
    fields = {
        "belebele": ["mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4"],
        "estcopa": ["choice1", "choice2"],
        "xcopa": ["choice1", "choice2"],
        "global": ["solution0", "solution1"],
        "winogrande": ["option1", "option2"],
        "include": ["option_a", "option_b", "option_c", "option_d"],
    }.get(name.split("_")[0])
    return [doc[field] for field in fields] if fields else list(doc["vastusevariandid"])


def scores(name: str, answer: Callable[[dict[str, Any]], Any]) -> dict[str, float]:
    """The scores of what `answer` gives for each document: log-likelihoods, or a text."""
    task, values = built(name).task, collections.defaultdict(list)
    for doc in built(name).docs:
        given = answer(doc)
        results = [given] if isinstance(given, str) else [(value, False) for value in given]
        for metric, value in task.process_results(doc, results).items():
            values[metric].append(value)
    mean = task.aggregation()["acc"]  # lm-eval's for what the file does not list: scores by group
    return {metric: float(task.aggregation().get(metric, mean)(found)) for metric, found in values.items()}


def drawn(name: str, seed: int = 0) -> Callable[[dict[str, Any]], list[float]]:
    """Random log-likelihoods, always the same for a document."""
    return lambda doc: [
        random.Random(f"{seed} {place} {doc}").uniform(-60, -1) for place in range(len(options(name, doc)))
    ]


# --- samples and shots ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_the_sample_has_the_fields_of_the_data_and_rows_enough(name: str) -> None:
    task = built(name)
    rows = task.dataset.splits[REGISTRY.task(name).splits[0]]
    assert len(rows) >= 20
    assert {*rows[0]} == {*FIELDS[REGISTRY.task(name).dataset[0]].split()}  # type: ignore[index]
    for row in rows:
        texts = options(name, row)
        assert len({text.casefold() for text in texts}) == len(texts) >= 2 and all(texts)
        assert all(text == text.strip() for text in texts)


def test_the_sample_of_winogrande_has_no_gold_and_its_ids_say_nothing() -> None:
    path = SAMPLES / "tartuNLP__winogrande_et" / "human_translated" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    gold = {row["qID"]: row["answer"] for row in map(json.loads, GOLD.read_text("utf-8").splitlines())}
    assert not any("answer" in row for row in rows) and {row["qID"] for row in rows} == gold.keys()
    assert sum(answer == qid[-1] for qid, answer in gold.items()) * 2 == len(gold)
    twins = collections.Counter(qid.rpartition("-")[0] for qid in gold)
    assert set(twins.values()) == {2}


@pytest.mark.parametrize("name", [name for name in TASKS if REGISTRY.task(name).shots])
def test_shots_are_balanced_and_none_of_the_documents(name: str) -> None:
    task = built(name)
    shots = REGISTRY.task(name).config["fewshot_config"]["samples"][: task.shots]
    answers = collections.Counter(str(task.task.doc_to_target(shot)) for shot in shots)
    if name == "winogrande_et":
        answers = collections.Counter(shot["answer"] for shot in shots)
    assert max(answers.values()) - min(answers.values()) <= 1
    asked = {built(name).task.doc_to_text(doc) for doc in task.docs}
    for shot in shots:
        fields = {key for key in task.docs[0] if key != "config"}  # the config is where a row comes from, not in it
        assert shot.keys() == fields
        if name != "winogrande_et":
            assert task.task.doc_to_text(shot) not in asked


@pytest.mark.parametrize("name", [*LETTERED, *CHAT])
@pytest.mark.parametrize("letter", "ABCD")
def test_a_constant_letter_gains_nothing(name: str, letter: str) -> None:
    place = LETTERS.index(letter)
    chance = REGISTRY.task(name).chance or 0.0
    if REGISTRY.task(name).form == "chat":
        found = scores(name, lambda doc: f"Vastus: {letter}")
    else:
        found = scores(name, lambda doc: [-float(at != place) for at in range(len(options(name, doc)))])
    assert found["acc"] <= chance + 0.1
    if name in BOTH_ORDERS and place < 2:
        assert found["acc"] == 0.5 and found["consistency"] == 0.0 and found["rstd"] == 0.5


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_or_shortest_option_gains_nothing(name: str, sign: int) -> None:
    found = scores(
        name, lambda doc: [float(sign * len(text) + place * 1e-6) for place, text in enumerate(options(name, doc))]
    )
    assert found["acc"] <= (REGISTRY.task(name).chance or 0.0) + 0.15  # a correct answer tends to be longer


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TEXTS, *LETTERED, "winogrande_et"])
def test_scores_are_those_of_lm_eval(name: str) -> None:
    """Our results functions against lm-eval's own of the same task, for random log-likelihoods."""
    task = built(name).task
    ours = task.config.process_results
    agreed = 0
    for seed in range(5):
        for doc in built(name).docs:
            given = [(value, False) for value in drawn(name, seed)(doc)]
            found = task.process_results(doc, given)
            task.config.process_results = None
            try:
                theirs = task.process_results(doc, given)
            finally:
                task.config.process_results = ours
            # the gap's options stand before what is scored: lm-eval's lengths are not those of the options
            for metric in ("acc", "acc_norm", "acc_bytes") if name in TEXTS else ("acc",):
                assert found[metric] == theirs[metric]
                agreed += 1
            assert (found["margin"] > 0) == (found["acc"] == 1)
    assert agreed >= 100


@pytest.mark.parametrize("name", CHAT)
def test_gold_answers_score_full_and_their_neighbours_nothing(name: str) -> None:
    task = built(name).task
    gold = scores(name, lambda doc: f"Õige vastus on {task.doc_to_target(doc)}.")
    assert gold["acc"] == 1.0 and gold["parse_failure"] == 0.0
    assert gold.get("rstd", 0.0) == 0.0 and gold.get("consistency", 1.0) == 1.0
    wrong = scores(name, lambda doc: LETTERS[(LETTERS.index(task.doc_to_target(doc)) + 1) % len(options(name, doc))])
    assert wrong["acc"] == 0.0 and wrong["parse_failure"] == 0.0
    nothing = scores(name, lambda doc: "Seda ei oska ma öelda.")
    assert nothing["acc"] == 0.0 and nothing["parse_failure"] == 1.0 and nothing.get("consistency", 0.0) == 0.0


@pytest.mark.parametrize("name", CHAT)
def test_the_text_of_the_gold_option_is_an_answer(name: str) -> None:
    task = built(name).task
    found = scores(name, lambda doc: f"Vastus: {options(name, doc)[LETTERS.index(task.doc_to_target(doc))]}")
    assert found["acc"] == 1.0


@pytest.mark.parametrize("name", BOTH_ORDERS)
def test_each_question_is_asked_in_both_orders_as_one_cluster(name: str) -> None:
    from estbench.plan import cluster_of

    docs = built(name).docs
    for first, second in zip(docs[::2], docs[1::2], strict=True):
        assert options(name, first) == options(name, second)[::-1]
        assert cluster_of(REGISTRY.task(name), first) == cluster_of(REGISTRY.task(name), second) is not None
        assert {built(name).task.doc_to_target(doc) for doc in (first, second)} in ({"A", "B"}, {0, 1})
    clusters = {cluster_of(REGISTRY.task(name), doc) for doc in docs}
    assert len(clusters) == len(docs) // (4 if name.startswith("winogrande") else 2)  # twins share a cluster


def test_consistency_looks_at_what_was_chosen_and_not_at_the_letter() -> None:
    always_the_same = scores("estcopa_chat", lambda doc: "AB"[doc["choice2"] < doc["choice1"]])
    assert always_the_same["consistency"] == 1.0 and always_the_same["parse_failure"] == 0.0
    one_order_fails = scores("estcopa_chat", lambda doc: "A" if doc["choice1"] < doc["choice2"] else "ei tea")
    assert one_order_fails["consistency"] == 0.0 and one_order_fails["parse_failure"] == 0.5


def test_cause_and_effect_are_reported_apart() -> None:
    found = scores(
        "xcopa_et", lambda doc: [-1.0, -2.0] if (doc["label"] == 0) == (doc["question"] == "cause") else [-2.0, -1.0]
    )
    assert (found["acc/cause"], found["acc/effect"], found["acc"]) == (1.0, 0.0, 0.5)


@pytest.mark.parametrize(("name", "by"), [("exam_et", "acc_norm"), ("exam_et_mcf", "acc")])
def test_exams_are_one_score_with_a_table_of_subjects(name: str, by: str) -> None:
    task = built(name)
    found = scores(name, drawn(name))
    subjects = [found[f"{by}/{subject}"] for subject in SUBJECTS]
    assert sum(subjects) / len(subjects) == pytest.approx(found[by])  # as many questions of each subject in the sample
    assert [doc["config"] for doc in task.docs[::5]] == SUBJECTS
    assert found["guessing"] == pytest.approx(sum(1 / len(options(name, doc)) for doc in task.docs) / len(task.docs))
    assert max(len(options(name, doc)) for doc in task.docs) == 15


def test_without_golds_winogrande_is_asked_alike_and_has_no_score() -> None:
    chat, completion = built("winogrande_et_chat", gold=False), built("winogrande_et", gold=False)
    assert chat.docs[0]["answer"] is None and chat.task.doc_to_target(chat.docs[0]) == ""
    assert chat.dataset.withheld and completion.dataset.withheld
    answered = chat.results([(0, chat.render(0), [Generated("A", 1, "stop")])])
    assert [(doc_id, values) for doc_id, values, _ in answered] == [(0, {})]
    with_gold = built("winogrande_et")
    assert [with_gold.render(at).pairs for at in range(3)] == [completion.render(at).pairs for at in range(3)]


def test_a_gold_answer_that_is_no_option_is_refused() -> None:
    from estbench.errors import TaskError
    from estbench.metrics.tasks import exam_text_results, include_letter_results

    row = {"küsimus": "Mis on 1 + 1?", "vastusevariandid": ["1", "2"], "vastus": 2, "config": "keemia"}
    with pytest.raises(TaskError, match="option 3 of 2"):
        exam_text_results(row, [(-1.0, False), (-2.0, False)])
    with pytest.raises(TaskError, match="empty option"):
        exam_text_results(row | {"vastus": 0, "vastusevariandid": ["1", " "]}, [(-1.0, False), (-2.0, False)])
    include = {"question": "?", "answer": 4} | {f"option_{letter}": letter for letter in "abcd"}
    with pytest.raises(TaskError, match="option 5 of 4"):
        include_letter_results(include, ["A"])


@pytest.mark.parametrize("name", TASKS)
def test_lm_eval_runs_the_file_and_reports_its_metrics(name: str) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.dummy import DummyLM

    task = built(name).task
    result = evaluate(lm=DummyLM(), task_dict={name: task}, bootstrap_iters=0)
    listed = {metric["metric"] for metric in REGISTRY.task(name).config["metric_list"]}
    assert {f"{metric},none" for metric in listed} <= set(result["results"][name])
    found = task.process_results(task.docs[0], given(name, task.docs[0]))
    assert {metric for metric in found if metric.partition("/")[0] == metric} <= listed


def given(name: str, doc: dict[str, Any]) -> list[Any]:
    """Some results of a document in the task's own form."""
    if REGISTRY.task(name).form == "chat":
        return ["A"]
    return [(value, False) for value in drawn(name)(doc)]


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_the_connective_form_of_xcopa_is_one_sentence() -> None:
    cause, effect = built("xcopa_et").render(0), built("xcopa_et").render(1)
    assert cause.prompt.endswith("\n\nPoiss pani kindad kätte, sest")
    assert [continuation for _, continuation in cause.pairs] == [" väljas oli pakane.", " toas oli palav."]
    assert effect.prompt.endswith("\n\nTüdruk puhus õhupalli liiga suureks, seetõttu")
    from estbench.metrics.tasks import xcopa_connective_choices

    row = {"choice1": "TV läks katki. ", "choice2": "Öö oli külm."}
    assert xcopa_connective_choices(row) == ["TV läks katki.", "öö oli külm."]


def test_no_choice_of_the_real_xcopa_loses_more_than_its_first_capital(mirror: Path) -> None:
    from estbench.metrics.tasks import xcopa_connective_choices

    lines = (mirror / "cambridgeltl__xcopa" / "et" / "test.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        assert row["premise"].strip().endswith(".")
        for text, whole in zip(xcopa_connective_choices(row), (row["choice1"], row["choice2"]), strict=True):
            assert text[1:] == whole.strip()[1:] and text[0] == whole.strip()[0].lower()


def test_the_gap_is_filled_and_the_rest_of_the_sentence_is_scored() -> None:
    rendered = built("winogrande_et").render(0)
    assert [context.rpartition("\n\n")[2] for context, _ in rendered.pairs] == [
        "Kapp ei mahtunud lifti, sest kapp",
        "Kapp ei mahtunud lifti, sest lift",
    ]
    assert {continuation for _, continuation in rendered.pairs} == {" oli liiga kõrge."}
    assert "_" not in rendered.pairs[0][0] and rendered.pairs[0][0].startswith(
        "Kristi kinkis Moonikale salli, sest Moonika"
    )


@pytest.mark.parametrize("name", ["winogrande_et", "winogrande_et_chat"])
def test_ids_never_enter_a_prompt(name: str) -> None:
    for doc_id, doc in enumerate(built(name).docs):
        rendered = built(name).render(doc_id)
        assert all(
            doc["qID"] not in text and "OMA" not in text for text in [rendered.prompt, *map(str, rendered.pairs)]
        )


def test_prompts_read_as_written() -> None:
    assert prompt("exam_et") == (
        "Küsimus: Mis aastal algas Jüriöö ülestõus?\nVastusevariandid:\n- 1343\n- 1242\n- 1410\n- 1558\nVastus:"
    )
    assert (
        prompt("exam_et_mcf")
        == "Küsimus: Mis aastal algas Jüriöö ülestõus?\nA. 1343\nB. 1242\nC. 1410\nD. 1558\nVastus:"
    )
    assert prompt("exam_et_chat", 3).endswith("A. vale\nB. õige\n\nVasta ainult õige variandi tähega: A või B.")
    assert prompt("estcopa_mcf").endswith("Mis oli selle põhjus?\nA. Väljas oli pakane.\nB. Toas oli palav.\nVastus:")
    assert prompt("belebele_et_cf").endswith("\nKüsimus: Mis aastal asutati Lahemaa rahvuspark?\nVastus:")
    assert prompt("global_piqa_et") == "Kui tahad, et rukkileib kauem värske püsiks, siis hoia seda"
    assert prompt("include_et_cf") == "Küsimus: Milline organ puhastab inimese verd ja toodab uriini?\nVastus:"


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_whole_and_hold_no_bare_answer(name: str) -> None:
    for doc_id in range(len(built(name).docs)):
        rendered = built(name).render(doc_id)
        contexts = [context for context, _ in rendered.pairs] or [rendered.prompt]
        for text in contexts:
            assert text == text.rstrip() and "\n\n\n" not in text and "{" not in text and "[" not in text
        assert len(rendered.pairs) == (
            0 if REGISTRY.task(name).form == "chat" else len(options(name, built(name).docs[doc_id]))
        )


def metrics_listed() -> Iterator[str]:
    for name in TASKS:
        yield from (metric["metric"] for metric in REGISTRY.task(name).config["metric_list"])


def test_every_metric_but_the_margin_is_known() -> None:
    assert {name for name in metrics_listed() if get(name.partition("/")[0]) is None} <= {"margin"}
    assert aggregate("guessing", [0.5, 0.25]) == 0.375
