"""Task files over real data sets: lm-eval runs them as they are, prompts are whole, shots clean, scores right.

Own rows in each data set's schema stand in for the data; the same tests run on an offline copy where there is one.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from estbench.config import FORMS
from estbench.data import DatasetRef, load, missing, references, row_hash
from estbench.data_checks import verify
from estbench.registry import ACCESS, SKILLS, Registry, Task

REGISTRY = Registry()
TASKS = REGISTRY.tasks
REAL = [name for name, task in TASKS.items() if task.dataset is not None]
COPY = Path(os.environ.get("ESTBENCH_DATA") or Path(__file__).parents[2] / "shared" / "data" / "mirror")

ROWS: dict[str, list[dict[str, Any]]] = {
    "cambridgeltl/xcopa": [
        {
            "premise": "Poiss pani mütsi pähe.",
            "choice1": "Väljas oli külm.",
            "choice2": "Tal oli palav.",
            "question": "cause",
        },
        {
            "premise": "Mari võttis vihmavarju kaasa.",
            "choice1": "Ta sai märjaks.",
            "choice2": "Ta jäi kuivaks.",
            "question": "effect",
        },
        {
            "premise": "Jüri magas sisse. ",
            "choice1": "Ta jäi hiljaks.",
            "choice2": "Ta jõudis 'õigel' ajal. ",
            "question": "effect",
        },
    ],
    "facebook/belebele": [
        {
            "flores_passage": "Tallinnas sadas. Tartus paistis päike.",
            "question": "Kus sadas?",
            "mc_answer1": "Tartus",
            "mc_answer2": "Tallinnas ",
        },
        {
            "flores_passage": "Tallinnas sadas. Tartus paistis päike.",
            "question": "Kus paistis päike?",
            "mc_answer1": "Tartus",
            "mc_answer2": "Narvas",
        },
        {"flores_passage": "Jõgi on pikk.", "question": "Mis on pikk?", "mc_answer1": "Järv", "mc_answer2": "Tee"},
    ],
    "facebook/flores": [
        {"sentence_eng_Latn": "The ice broke in the spring.", "sentence_est_Latn": "Jää murdus kevadel."},
        {"sentence_eng_Latn": '"Yes," she said.', "sentence_est_Latn": "„Jah,“ ütles ta."},
        {"sentence_eng_Latn": "It cost 3.5 euros.", "sentence_est_Latn": "See maksis 3,5 eurot."},
    ],
    "anukaver/EstQA": [
        {
            "title": "Emajõgi",
            "context": "Emajõgi algab Võrtsjärvest.",
            "question": "Kust algab Emajõgi?",
            "answers": ["Võrtsjärvest"],
        },
        {
            "title": "Emajõgi",
            "context": "Jõe pikkus on 100 km.",
            "question": "Kui pikk on jõgi?",
            "answers": ["100 km", "100"],
        },
        {"title": "Jänes", "context": "Jänes sööb rohtu.", "question": "Kes sööb rohtu?", "answers": ["Jänes"]},
    ],
}


def own_rows(path: str, split: str) -> list[dict[str, Any]]:
    """Three rows in the Hub's schema (eight for dev, so that there are shots enough)."""
    by_path: dict[str, list[dict[str, Any]]] = {
        "cambridgeltl/xcopa": [{"label": i % 2, "idx": i, "changed": False} for i in range(3)],
        "facebook/belebele": [
            {
                "link": f"l{i // 2}",
                "question_number": i % 2 + 1,
                "mc_answer3": "Pärnus",
                "mc_answer4": "Jõgi",
                "dialect": "est_Latn",
                "ds": "2023-06-01",
            }
            | {"correct_answer_num": str([2, 1, 4][i])}
            for i in range(3)
        ],
        "facebook/flores": [{"id": i, "URL": f"u{i // 2}"} for i in range(3)],
        "anukaver/EstQA": [{"id": str(i)} for i in range(3)],
    }
    rows = [row | more for row, more in zip(ROWS[path], by_path[path], strict=True)]
    if path == "anukaver/EstQA":
        rows = [
            row | {"answers": [{"answer_start": row["context"].index(a), "text": a} for a in row["answers"]]}
            for row in rows
        ]
    if split == "dev":
        rows = [
            {**rows[i % 3], "id": 100 + i, "sentence_eng_Latn": f"Sentence {i}.", "sentence_est_Latn": f"Lause {i}."}
            for i in range(8)
        ]
    return rows


def has_copy(task: Task) -> bool:
    return COPY.is_dir() and missing(DatasetRef(*(task.dataset or ("", None))), task.splits, COPY) is None


@pytest.fixture(scope="module")
def manager() -> Any:
    lm_eval_tasks = pytest.importorskip("lm_eval.tasks")
    return lm_eval_tasks.TaskManager(include_path=str(REGISTRY.folder), include_defaults=False)


@pytest.fixture
def build(manager: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's own task object, fed with own rows or with those of the copy."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    original = ConfigurableTask.download
    where = {"copy": False}

    def download(self: Any, dataset_kwargs: Any = None, **rest: Any) -> None:
        task = TASKS[self.config.task]
        if task.dataset is None:
            original(self, dataset_kwargs, **rest)
            return
        if where["copy"]:
            splits = load(DatasetRef(*task.dataset), task.splits, data=COPY).splits
        else:
            splits = {split: own_rows(task.dataset[0], split) for split in task.splits}
        self.dataset = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}

    monkeypatch.setattr(ConfigurableTask, "download", download)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    def make(name: str, *, copy: bool = False) -> Any:
        where["copy"] = copy
        return manager.load([name])["tasks"][name]

    return make


def rendered(task: Any, shots: int | None = None) -> Iterator[tuple[dict[str, Any], str, list[str], Any]]:
    """(doc, prompt, continuations, target) of every doc, as lm-eval makes them."""
    for doc in task.eval_docs:
        prompt = task.fewshot_context(doc, task.config.num_fewshot if shots is None else shots)
        choices = task.doc_to_choice(doc) if task.config.doc_to_choice else []
        yield doc, prompt, choices, task.doc_to_target(doc)


def check_prompts(task: Any, shots: int | None = None) -> int:
    """Look at every prompt; returns how many there are."""
    stops = (task.config.generation_kwargs or {}).get("until", [])
    items = list(rendered(task, shots))
    for _, prompt, choices, target in items:
        for text in [prompt, *choices, *([target] if isinstance(target, str) else [])]:
            assert text.strip(), "an empty prompt, choice or target"
            assert "{{" not in text and "{%" not in text and "\uff1a" not in text
        assert prompt == prompt.rstrip()  # the space before the answer belongs to the answer
        assert "\n\n\n" not in prompt
        if isinstance(target, int):
            assert 0 <= target < len(choices)
        else:
            assert not any(stop in target for stop in stops)
    return len(items)


# --- every task file ------------------------------------------------------------------------------------------------


def test_the_real_tasks_stand_in_both_forms() -> None:
    names = ["belebele_et", "estcopa", "estqa", "flores_en_et", "flores_et_en"]
    assert {*names, *(f"{name}_chat" for name in names)} <= set(REAL)


@pytest.mark.parametrize("name", TASKS)
def test_lm_eval_finds_and_builds_every_task(name: str, build: Any) -> None:
    task = build(name)
    assert task.config.task == name
    assert {metric["metric"] for metric in task.config.metric_list} == set(task.aggregation())
    assert TASKS[name].primary in task.aggregation()


@pytest.mark.parametrize("name", TASKS)
def test_the_card_of_every_task_is_complete(name: str) -> None:
    task, card = TASKS[name], TASKS[name].metadata
    required = {
        *("version", "title", "skill", "language", "licence", "citation", "chance"),
        *("primary", "form", "cluster", "publish_items", "data_seen"),
    }
    assert required <= set(card) <= required | {"access", "repository"}
    assert card.get("access", "public") in ACCESS
    assert card["version"] == 1 and set(card["title"]) == {"et", "en"} and all(card["title"].values())
    assert card["skill"] in SKILLS and card["language"] in ("et", "en", "en-et", "et-en") and card["form"] in FORMS
    assert card["licence"] and card["citation"] and card["data_seen"] in ("real", "subset", "own")
    assert isinstance(card["chance"], int | float) and isinstance(card["publish_items"], bool)
    assert card["cluster"] is None or "{{" in card["cluster"]
    shown = [metric["metric"] for metric in task.config["metric_list"]]
    assert card["primary"] in shown and all(
        {"aggregation", "higher_is_better"} <= set(m) for m in task.config["metric_list"]
    )
    if card["form"] == "chat":
        assert task.shots == 0 and task.config["output_type"] == "generate_until" and "parse_failure" in shown


def test_suites_name_existing_tasks_of_their_own_form() -> None:
    assert {"mini", "core", "core_base"} <= set(REGISTRY.suites)
    for suite in REGISTRY.suites.values():
        assert set(suite.title) == {"et", "en"} and suite.form in FORMS and len(set(suite.tasks)) == len(suite.tasks)
        assert {name: REGISTRY.task(name).form for name in suite.tasks} == dict.fromkeys(suite.tasks, suite.form)


@pytest.mark.parametrize("path", sorted(REGISTRY.folder.rglob("*.yaml")), ids=lambda path: path.name)
def test_task_files_are_nfc_and_have_no_full_width_colon(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text == unicodedata.normalize("NFC", text) and "\uff1a" not in text


def test_every_real_dataset_has_a_line_in_the_lock() -> None:
    import json

    lock = json.loads((REGISTRY.folder / "data.lock").read_text("utf-8"))
    assert {str(ref) for ref in references(TASKS.values())} <= set(lock)


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_prompts_are_whole(name: str, build: Any) -> None:
    assert check_prompts(build(name)) >= 3


@pytest.mark.parametrize("name", REAL)
def test_prompts_are_whole_on_an_offline_copy(name: str, build: Any) -> None:
    if not has_copy(TASKS[name]):
        pytest.skip(f"no offline copy of {TASKS[name].dataset} here")
    expected = {"estcopa": 500, "estcopa_chat": 1000}.get(name, 100)
    assert check_prompts(build(name, copy=True), shots=1) >= expected


def test_the_offline_copy_has_the_checksums_it_claims() -> None:
    if not COPY.is_dir():
        pytest.skip("no offline copy here")
    found = [line for line in verify(references(TASKS.values()), COPY) if line.place == str(COPY)]
    assert found and not [line for line in found if line.level == "error" and "checksum" in line.message]


@pytest.mark.parametrize("name", REAL)
def test_a_row_that_lacks_a_field_fails_and_does_not_render_as_nothing(name: str, build: Any) -> None:
    import jinja2

    task = build(name)
    with pytest.raises((jinja2.UndefinedError, KeyError)):
        task.doc_to_text({"id": 1})


@pytest.mark.parametrize("name", [name for name in REAL if TASKS[name].form == "completion"])
def test_all_docs_share_one_prefix_of_shots(name: str, build: Any) -> None:
    task = build(name)
    prefixes = {prompt.removesuffix(task.doc_to_text(doc)) for doc, prompt, *_ in rendered(task)}
    assert len(prefixes) == 1
    (prefix,) = prefixes
    assert prefix.count("\n\n") >= TASKS[name].shots and prefix.endswith("\n\n")


@pytest.mark.parametrize("name", REAL)
def test_shots_never_come_from_the_tested_split(name: str, build: Any) -> None:
    config = TASKS[name].config["fewshot_config"]
    assert config["sampler"] == "first_n" and config.get("split") != TASKS[name].config["test_split"]
    for copy in [False, True] if has_copy(TASKS[name]) else [False]:
        task = build(name, copy=copy)
        tested = {row_hash(doc) for doc in task.eval_docs}
        texts = {task.doc_to_text(doc) for doc in task.eval_docs}
        for shot in list(task.fewshot_docs())[:8]:
            assert row_hash(shot) not in tested and task.doc_to_text(shot) not in texts


@pytest.mark.parametrize("name", [name for name in REAL if "samples" in TASKS[name].config["fewshot_config"]])
def test_own_shots_have_the_fields_of_the_data(name: str) -> None:
    task = TASKS[name]
    assert task.dataset is not None
    for shot in task.config["fewshot_config"]["samples"]:
        assert shot.keys() == own_rows(task.dataset[0], "test")[0].keys()
        assert all(text == text.strip() for text in shot.values() if isinstance(text, str))


def test_own_shots_of_estqa_point_at_their_answers() -> None:
    for shot in TASKS["estqa"].config["fewshot_config"]["samples"]:
        (answer,) = shot["answers"]
        assert shot["context"][answer["answer_start"] :].startswith(answer["text"])


def test_own_shots_are_balanced() -> None:
    samples = TASKS["estcopa"].config["fewshot_config"]["samples"]
    for part in (samples[:4], samples):
        assert (
            sum(shot["label"] for shot in part) * 2
            == len(part)
            == sum(shot["question"] == "cause" for shot in part) * 2
        )
    answers = [shot["correct_answer_num"] for shot in TASKS["belebele_et"].config["fewshot_config"]["samples"]]
    assert len(answers) == TASKS["belebele_et"].shots and set(answers) == set("1234")


def test_both_shapes_of_estqa_answers_give_the_same_target(build: Any) -> None:
    task = build("estqa")
    row = own_rows("anukaver/EstQA", "test")[1]
    columns = {key: [answer[key] for answer in row["answers"]] for key in ("answer_start", "text")}
    assert task.doc_to_target(row) == task.doc_to_target(row | {"answers": columns}) == "100 km"


def test_clusters_are_the_shared_passages() -> None:
    import jinja2

    def clusters(name: str, rows: list[dict[str, Any]]) -> list[str]:
        template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TASKS[name].metadata["cluster"])
        return [template.render(**row) for row in rows]

    assert clusters("belebele_et", own_rows("facebook/belebele", "test")) == ["l0", "l0", "l1"]
    assert clusters("estqa", own_rows("anukaver/EstQA", "test")) == ["Emajõgi", "Emajõgi", "Jänes"]
    flores = own_rows("facebook/flores", "test")
    assert clusters("flores_en_et", flores) == ["u0", "u0", "u1"]
    assert clusters("flores_en_et", [{k: v for k, v in row.items() if k != "URL"} for row in flores]) == ["0", "1", "2"]
    assert TASKS["estcopa"].metadata["cluster"] is None


def test_frames_of_estcopa_are_whole_sentences(build: Any) -> None:
    (_, cause, choices, _), (_, effect, *_), *_ = rendered(build("estcopa"), shots=0)
    assert cause == "Poiss pani mütsi pähe. Mis oli selle põhjus?"
    assert effect == "Mari võttis vihmavarju kaasa. Mis oli selle tagajärg?"
    assert choices == ["Väljas oli külm.", "Tal oli palav."]


def test_estcopa_chat_asks_every_item_in_both_orders(build: Any) -> None:
    docs = list(build("estcopa_chat").eval_docs)
    assert len(docs) == 6
    asked = {(doc["idx"], doc["choice1"], doc["label"]) for doc in docs}
    assert len(asked) == 6
    assert {(doc["idx"], (doc["choice1"], doc["choice2"])[doc["label"]]) for doc in docs} == {
        (0, "Väljas oli külm."), (1, "Ta jäi kuivaks."), (2, "Ta jäi hiljaks."),
    }  # fmt: skip


# --- scores ---------------------------------------------------------------------------------------------------------

GENERATED = [name for name in REAL if TASKS[name].config["output_type"] == "generate_until"]


def score(task: Any, answers: list[str]) -> dict[str, float]:
    """The task's metrics for these answers, the way lm-eval gets them."""
    values: dict[str, list[Any]] = {}
    for doc, answer in zip(task.eval_docs, answers, strict=True):
        for metric, value in task.process_results(doc, [answer]).items():
            values.setdefault(metric, []).append(value)
    assert set(values) == set(task.aggregation())
    return {metric: task.aggregation()[metric](items) for metric, items in values.items()}


@pytest.mark.parametrize("name", GENERATED)
def test_gold_answers_score_full_and_empty_ones_nothing(name: str, build: Any) -> None:
    task, primary = build(name), TASKS[name].primary
    full = 100.0 if "++" in primary else 1.0
    gold = [str(task.doc_to_target(doc)) for doc in task.eval_docs]
    best = score(task, gold)
    assert best[primary] == pytest.approx(full) and best["parse_failure"] == 0
    if "_chat" in name and primary == "acc":
        assert score(task, [f"Õige vastus on {letter}, sest nii on tekstis." for letter in gold])["acc"] == 1
    nothing = score(task, [""] * len(gold))
    assert nothing[primary] == 0 and nothing["parse_failure"] == 1


@pytest.mark.parametrize("name", ["flores_en_et", "flores_et_en"])
def test_chance_of_flores_is_what_copying_the_source_scores(name: str, build: Any) -> None:
    if not has_copy(TASKS[name]):
        pytest.skip("no offline copy of facebook/flores here")
    task = build(name, copy=True)
    source = {"flores_en_et": "sentence_eng_Latn", "flores_et_en": "sentence_est_Latn"}[name]
    copied = score(task, [doc[source] for doc in task.eval_docs])
    assert copied["chrf++"] == pytest.approx(TASKS[name].chance, abs=0.5)


@pytest.mark.parametrize("name", REAL)
def test_lm_eval_runs_the_file_as_it_is(name: str, build: Any) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.dummy import DummyLM

    task = build(name)
    result = evaluate(lm=DummyLM(), task_dict={name: task}, bootstrap_iters=0)
    assert {f"{metric},none" for metric in task.aggregation()} <= set(result["results"][name])
