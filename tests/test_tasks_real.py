"""Task files as lm-eval sees them, on our samples and on offline copies: they build, run, show fixed, clean shots."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from estbench import data
from estbench.data_checks import verify
from estbench.registry import Registry, Task
from estbench.task_checks import check_task

REGISTRY = Registry()
TASKS = REGISTRY.tasks
REAL = [name for name, task in TASKS.items() if task.dataset is not None]
WITH_SHOTS = [name for name in REAL if TASKS[name].shots]
COPY = Path(os.environ.get("ESTBENCH_DATA") or Path(__file__).parents[2] / "shared" / "data" / "mirror")
SAMPLES = Path("samples")


def gold_of(name: str) -> Path | None:
    path = REGISTRY.folder / "samples" / "gold" / f"{name.removesuffix('_chat')}.jsonl"
    return path if path.exists() else None


def has_copy(task: Task) -> bool:
    return COPY.is_dir() and all(data.missing(ref, task.splits, COPY) is None for ref in data.references([task]))


@pytest.fixture(scope="module")
def manager() -> Any:
    lm_eval_tasks = pytest.importorskip("lm_eval.tasks")
    return lm_eval_tasks.TaskManager(include_path=str(REGISTRY.folder), include_defaults=False)


@pytest.fixture
def build(manager: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's own task object, fed with our sample or with the rows of the copy."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    original = ConfigurableTask.download
    where = {"data": SAMPLES}

    def download(self: Any, dataset_kwargs: Any = None, **rest: Any) -> None:
        card = TASKS[self.config.task]
        if card.dataset is None:
            original(self, dataset_kwargs, **rest)
            return
        splits = data.of_task(card, data=where["data"], gold=gold_of(card.name)).splits
        self.dataset = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}

    monkeypatch.setattr(ConfigurableTask, "download", download)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)

    def make(name: str, *, copy: bool = False) -> Any:
        where["data"] = COPY if copy else SAMPLES
        return manager.load([name])["tasks"][name]

    return make


@pytest.mark.parametrize("name", TASKS)
def test_lm_eval_builds_and_runs_the_file_as_it_is(name: str, build: Any) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.dummy import DummyLM

    class Dummy(DummyLM):  # type: ignore[misc]
        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            return [-1.0 for _ in requests]

    task = build(name)
    assert task.config.task == name
    listed = {metric["metric"] for metric in task.config.metric_list}
    assert listed == set(task.aggregation()) and TASKS[name].primary in listed
    result = evaluate(lm=Dummy(), task_dict={name: task}, bootstrap_iters=0, limit=4)
    judged = TASKS[name].metadata.get("judge")  # lm-eval knows no judges: it says what can be said without one
    shown = "parse_failure" if judged else TASKS[name].primary
    assert f"{shown},none" in result["results"][name]


@pytest.mark.parametrize("name", REAL)
def test_tasks_have_no_problem_on_an_offline_copy(name: str) -> None:
    if not has_copy(TASKS[name]):
        pytest.skip(f"no offline copy of {TASKS[name].dataset} here")
    assert [str(problem) for problem in check_task(TASKS[name], COPY)] == []


def test_the_offline_copy_has_the_checksums_it_claims() -> None:
    if not COPY.is_dir():
        pytest.skip("no offline copy here")
    found = [line for line in verify(data.references(TASKS.values()), COPY) if line.place == str(COPY)]
    assert found and not [line for line in found if line.level == "error" and "checksum" in line.message]


@pytest.mark.parametrize("name", REAL)
def test_a_row_that_lacks_a_field_fails_and_does_not_render_as_nothing(name: str, build: Any) -> None:
    import jinja2

    task = build(name)
    ask = task.doc_to_choice if task.multiple_input or not task.config.doc_to_text else task.doc_to_text
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        ask = task.doc_to_target
    with pytest.raises((jinja2.UndefinedError, KeyError, TypeError)):
        ask({"id": 1})


@pytest.mark.parametrize("name", WITH_SHOTS)
def test_all_docs_share_one_prefix_of_shots(name: str, build: Any) -> None:
    task = build(name)
    prefixes = set()
    for doc in task.eval_docs:
        prompt = task.fewshot_context(doc, TASKS[name].shots)
        prompt = prompt[0] if isinstance(prompt, list) else prompt
        question = task.doc_to_choice(doc)[0] if task.multiple_input else task.doc_to_text(doc)
        assert prompt.endswith(question)
        assert task.multiple_input or prompt == prompt.rstrip()  # the space before the answer belongs to the answer
        prefixes.add(prompt.removesuffix(question))
    (prefix,) = prefixes
    assert prefix.count("\n\n") >= TASKS[name].shots and prefix.endswith("\n\n") and "\n\n\n" not in prefix


@pytest.mark.parametrize("name", WITH_SHOTS)
def test_own_shots_have_the_fields_of_the_data(name: str) -> None:
    samples = (TASKS[name].config.get("fewshot_config") or {}).get("samples")
    if not samples:
        pytest.skip("its shots are of the training data")
    rows = data.of_task(TASKS[name], data=SAMPLES, gold=gold_of(name)).splits[TASKS[name].splits[0]]
    for shot in samples:
        assert shot.keys() <= rows[0].keys() | {"source"}, "a field that the data has not"


def test_own_shots_of_estqa_point_at_their_answers() -> None:
    for shot in TASKS["estqa"].config["fewshot_config"]["samples"]:
        (answer,) = shot["answers"]
        assert shot["context"][answer["answer_start"] :].startswith(answer["text"])


@pytest.mark.parametrize(
    ("name", "options"),
    [("belebele_et", 4), ("belebele_en", 4), ("include_et", 4), ("estcopa", 2), ("estcopa_mcf", 2), ("trivia_et", 4)],
)
def test_gold_answers_of_own_shots_are_balanced(name: str, options: int, build: Any) -> None:
    task = build(name)
    golds = [int(task.doc_to_target(dict(shot))) for shot in task.sampler.df][: TASKS[name].shots]
    counts = [golds.count(option) for option in range(options)]
    assert max(counts) - min(counts) <= 1, counts


def test_both_shapes_of_estqa_answers_give_the_same_target(build: Any) -> None:
    task = build("estqa")
    row = next(row for row in task.eval_docs if isinstance(row["answers"], list) and row["answers"])
    columns = {key: [answer[key] for answer in row["answers"]] for key in ("answer_start", "text")}
    assert task.doc_to_target(row) == task.doc_to_target(row | {"answers": columns}) != ""


@pytest.mark.parametrize("name", [name for name in REAL if TASKS[name].metadata["cluster"]])
def test_clusters_are_made_of_the_rows_and_tell_documents_apart(name: str, build: Any) -> None:
    from lm_eval.utils import apply_template

    task = build(name)
    found = {apply_template(TASKS[name].metadata["cluster"], doc) for doc in task.eval_docs}
    assert 3 <= len(found) <= len(task.eval_docs)


def test_frames_of_estcopa_are_whole_sentences(build: Any) -> None:
    task = build("estcopa")
    for doc in task.eval_docs:
        assert task.doc_to_text(doc).endswith(("Mis oli selle põhjus?", "Mis oli selle tagajärg?"))


@pytest.mark.parametrize("name", ["estcopa_chat", "estcopa_mcf", "winogrande_en_chat", "winogrande_et_chat"])
def test_two_options_are_asked_in_both_orders(name: str, build: Any) -> None:
    task = build(name)
    golds = [str(task.doc_to_target(doc)) for doc in task.eval_docs]
    assert len(set(golds)) == 2 and golds.count(golds[0]) * 2 == len(golds)


@pytest.mark.parametrize("name", ["flores_en_et", "flores_et_en"])
def test_chance_of_flores_is_what_copying_the_source_scores(name: str, build: Any) -> None:
    if not has_copy(TASKS[name]):
        pytest.skip("no offline copy of facebook/flores here")
    task = build(name, copy=True)
    source = {"flores_en_et": "sentence_eng_Latn", "flores_et_en": "sentence_est_Latn"}[name]
    values = [task.process_results(doc, [doc[source]])["chrf++"] for doc in task.eval_docs]
    assert task.aggregation()["chrf++"](values) == pytest.approx(TASKS[name].chance, abs=0.5)
