"""Tasks that name a label, English tasks and minimal pairs: their results functions, layouts, shots and sample rows."""

from __future__ import annotations

import ast
import json
from collections import Counter
from typing import Any

import jinja2
import pytest

from estbench.errors import TaskError
from estbench.estonian.normalise import normalise
from estbench.metrics import classification, qa, tasks
from estbench.metrics.tasks.labels import TOPICS, VALENCES
from estbench.registry import Registry

REGISTRY = Registry()
SAMPLES = REGISTRY.folder / "samples"
TOPIC_NAMES = ["teadus ja tehnika", "reisimine", "poliitika", "sport", "tervis", "meelelahutus", "geograafia"]


class Rows(list[dict[str, Any]]):
    """The two things that `process_docs` functions ask of a datasets.Dataset."""

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def select(self, places: list[int]) -> Rows:
        return Rows(super(Rows, self).__getitem__(place) for place in places)


def sample(name: str) -> Rows:
    """The rows of the tested split of a task's data set, all its configs."""
    task = REGISTRY.task(name)
    assert task.dataset is not None
    path, config = task.dataset
    configs = (task.config.get("dataset_kwargs") or {}).get("configs") or [config or "default"]
    files = [SAMPLES / path.replace("/", "__") / part / f"{task.splits[0]}.jsonl" for part in configs]
    return Rows(json.loads(line) for file in files for line in file.read_text("utf-8").splitlines())


def shots(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = REGISTRY.task(name).config["fewshot_config"]["samples"]
    return found


def render(template: str, row: dict[str, Any]) -> str:
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(**row)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "labels"), [("sib200_et", list(TOPICS)), ("valence_et", list(VALENCES))])
def test_the_options_of_the_task_file_are_the_labels_in_order(name: str, labels: list[str]) -> None:
    """The likeliest option is read by its place, in the task file and in Python."""
    config, chat = REGISTRY.task(name).config, REGISTRY.task(f"{name}_chat").config
    field = "category" if name == "sib200_et" else "valence"
    rows = [{field: label} for label in labels]
    assert [render(config["doc_to_target"], row) for row in rows] == [str(place) for place in range(len(labels))]
    target = chat["doc_to_target"]
    assert [render(target, row) if "{{" in target else row[target] for row in rows] == config["doc_to_choice"]


@pytest.mark.parametrize("name", ["sib200_et", "valence_et"])
def test_every_option_is_understood_as_a_written_answer(name: str) -> None:
    forms = list((TOPICS if name == "sib200_et" else VALENCES).values())
    options = REGISTRY.task(name).config["doc_to_choice"]
    for place, option in enumerate(options):
        for answer in (option, f"Vastus: {option.upper()}.", f"„{option}“", f"Õige vastus on {option}, sest …"):
            assert classification.named(answer, forms) == place, answer
    assert classification.named(", ".join(options), forms) is None


@pytest.mark.parametrize(
    ("response", "place"),
    [
        ("Teadus", 0),
        ("teadus/tehnoloogia", 0),
        ("Lause räägib reisimisest.", 1),
        ("Teema on poliitika, mitte sport.", 2),
        ("See kuulub spordi valdkonda.", 3),
        ("Lause kuulub kategooriasse „tervis“.", 4),
        ("Meelelahutuse teema", 5),
        ("Teemaks on geograafia", 6),
        ("Lause räägib transpordist.", None),
        ("sport ja meelelahutus", None),
    ],
)
def test_topics_are_understood_in_their_inflected_forms(response: str, place: int | None) -> None:
    assert classification.named(response, list(TOPICS.values())) == place


def test_scored_and_written_answers_keep_the_same_statistics() -> None:
    doc = {"category": "health", "text": "Palavik langes."}
    likeliest = tasks.sib200_choice_results(doc, [(-9.0 + (place == 4), False) for place in range(7)])
    written = tasks.sib200_label_results(doc, ["tervis"])
    assert likeliest == {"acc": 1, "mcc": [4, 4, 7], "macro_f1": [4, 4, 7]}
    assert written == likeliest | {"parse_failure": 0}
    missed = tasks.sib200_label_results(doc, ["Ei tea."])
    assert missed == {"acc": 0, "mcc": [4, 7, 7], "macro_f1": [4, 7, 7], "parse_failure": 1}


def test_equal_likelihoods_give_the_first_option() -> None:
    assert tasks.valence_choice_results({"valence": "positiivne"}, [(-1.0, False)] * 3)["acc"] == 1
    assert tasks.valence_choice_results({"valence": "negatiivne"}, [(-1.0, False)] * 3)["acc"] == 0


def test_an_unknown_label_is_an_error_and_mixed_paragraphs_are_left_out() -> None:
    with pytest.raises(TaskError, match="vastuoluline"):
        tasks.valence_label_results({"valence": "vastuoluline"}, ["positiivne"])
    rows = sample("valence_et")
    assert Counter(rows["valence"]) == {"positiivne": 7, "neutraalne": 7, "negatiivne": 7, "vastuoluline": 3}
    assert Counter(tasks.valence_docs(rows)["valence"]) == dict.fromkeys(VALENCES, 7)


# --- English tasks ----------------------------------------------------------------------------------------------------


def test_winogrande_compares_what_follows_the_gap_after_each_option() -> None:
    config = REGISTRY.task("winogrande_en").config
    doc = {
        "sentence": "The cat ate the fish because the _ was hungry.",
        "option1": "fish",
        "option2": "cat",
        "answer": "2",
    }
    assert render(config["doc_to_text"], doc) == "1"
    before = "The cat ate the fish because the "
    assert ast.literal_eval(render(config["doc_to_choice"], doc)) == [f"{before}fish", f"{before}cat"]
    assert config["target_delimiter"] + render(config["doc_to_target"], doc) == " was hungry."


def test_every_winogrande_sentence_has_one_gap_and_an_ending() -> None:
    for row in [*sample("winogrande_en"), *shots("winogrande_en")]:
        before, gap, after = row["sentence"].partition("_")
        assert gap and "_" not in after and before.endswith(" ") and len(after) > 2


def test_only_checked_mmlu_questions_are_asked() -> None:
    rows = sample("mmlu_redux")
    kept = tasks.mmlu_redux_docs(rows)
    assert (len(rows), len(kept)) == (60, 57) and set(kept["error_type"]) == {"ok"}


def test_mmlu_letters_scored_and_generated() -> None:
    doc = {"question": "How many?", "choices": ["one", "two", "three", "four"], "answer": 2}
    scored = tasks.mmlu_redux_letter_results(doc, [(-3.0, False), (-2.0, False), (-1.5, True), (-4.0, False)])
    assert scored == {"acc": 1, "rstd": [0, 0, 1, 0, 0, 0, 1, 0], "margin": 0.5}
    assert tasks.mmlu_redux_letter_results(doc, ["The answer is C."])["acc"] == 1
    assert tasks.mmlu_redux_letter_results(doc, ["I don't know."]) == {
        "acc": 0, "rstd": [0, 0, 1, 0, 0, 0, 0, 0], "parse_failure": 1,
    }  # fmt: skip
    with pytest.raises(TaskError, match="option 5 of 4"):
        tasks.mmlu_redux_letter_results(doc | {"answer": 4}, ["C"])


def test_long_articles_are_left_out() -> None:
    rows = sample("multiwikiqa_et")
    assert len(rows) - len(tasks.multiwikiqa_docs(rows)) == 1
    assert max(map(len, tasks.multiwikiqa_docs(rows)["context"])) <= 5000


# --- minimal pairs ----------------------------------------------------------------------------------------------------


def test_minimal_pairs_differ_in_one_word_and_neither_place_is_better() -> None:
    config = REGISTRY.task("multiblimp_est").config
    places = []
    for row in sample("multiblimp_est"):
        place = int(render(config["doc_to_target"], row))
        options = ast.literal_eval(render(config["doc_to_choice"], row))  # as lm-eval reads a template's list
        assert [row["sen"], row["wrong_sen"]] == options[:: -1 if place else 1]
        differing = [a != b for a, b in zip(row["sen"].split(), row["wrong_sen"].split(), strict=True)]
        assert sum(differing) == 1
        places.append(place)
    assert Counter(places) == {0: 10, 1: 10}


# --- sample rows and shots --------------------------------------------------------------------------------------------

ANSWERED = ["estqa", "multiwikiqa_et", "xquad_en"]
GOLDS = {
    "belebele_en": lambda row: row["correct_answer_num"],
    "mmlu_redux": lambda row: row["answer"],
    "winogrande_en": lambda row: row["answer"],
    "csr_en": lambda row: row["label"],
    "sib200_et": lambda row: row["category"],
    "valence_et": lambda row: row["valence"],
}


@pytest.mark.parametrize("name", ANSWERED)
def test_answers_stand_where_the_rows_say(name: str) -> None:
    for row in [*sample(name), *shots(name)]:
        answers = row["answers"]
        if isinstance(answers, dict):
            answers = [
                {"answer_start": at, "text": text}
                for at, text in zip(answers["answer_start"], answers["text"], strict=True)
            ]
        for answer in answers:
            assert row["context"][answer["answer_start"] :].startswith(answer["text"])


@pytest.mark.parametrize("name", ANSWERED)
def test_copying_the_text_or_one_answer_for_all_scores_next_to_nothing(name: str) -> None:
    rows = sample(name)
    golds = [qa.gold_answers(row["answers"]) for row in rows]
    f1 = qa.squad_f1 if name == "xquad_en" else qa.token_f1
    copied = sum(f1(row["context"], gold) for row, gold in zip(rows, golds, strict=True)) / len(rows)
    constant = max(sum(f1(first, gold) for gold in golds) / len(rows) for [first, *_] in golds)
    assert max(copied, constant) <= 0.10


@pytest.mark.parametrize("name", GOLDS)
def test_a_constant_label_scores_what_guessing_does(name: str) -> None:
    golds = Counter(GOLDS[name](row) for row in sample(name) if row.get("error_type", "ok") == "ok")
    golds.pop("vastuoluline", None)
    assert len(golds) > 1 and max(golds.values()) / golds.total() <= 1 / len(golds) + 0.02
    of_shots = Counter(GOLDS[name](row) for row in shots(name))
    assert set(of_shots) == set(golds) and max(of_shots.values()) - min(of_shots.values()) <= 1


@pytest.mark.parametrize("name", [*ANSWERED, *GOLDS])
def test_shots_have_the_fields_of_the_rows_and_are_none_of_them(name: str) -> None:
    rows, task = sample(name), REGISTRY.task(name)
    added = {"config"} if task.config.get("dataset_kwargs") else set()
    assert len(rows) >= 20 and len(shots(name)) == task.shots
    texts = {normalise(json.dumps(row, ensure_ascii=False)) for row in rows}
    for shot in shots(name):
        assert shot.keys() == rows[0].keys() | added
        assert normalise(json.dumps(shot, ensure_ascii=False)) not in texts
    for question in ("context", "flores_passage", "question", "sentence", "premise", "text", "paragraph"):
        asked = {row[question] for row in rows if question in row and question != "question"}
        assert not asked & {shot.get(question) for shot in shots(name)}
