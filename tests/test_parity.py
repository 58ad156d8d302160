"""Parity with lm-eval's own `hf` backend: the same files, rows and model give the same log-likelihoods and metrics."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import copy_home
from worlds import World, rows

from estbench import registry, runner
from estbench.config import EvalSettings
from estbench.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval's own


def lm_eval_results(
    folder: Path, names: list[str], model: Path, limit: int | None = None, **engine: Any
) -> dict[str, Any]:
    """`simple_evaluate` on task files, as `lm-eval --include_path folder --tasks ...` runs them."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=8, **engine)
    found = simple_evaluate(
        model=lm,
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        limit=limit,
        fewshot_random_seed=1234,
    )
    assert isinstance(found, dict)
    return found


def ours(names: str, model: Path, data: Path | None = None, **settings: Any) -> Run:
    asked = EvalSettings(model=str(model), tasks=names, data=str(data) if data else None, **settings)
    return runner.evaluate(runner.prepare(asked))


def compare(run: Run, theirs: dict[str, Any], task: str, *, atol: float = 1e-4) -> int:
    """Log-likelihoods doc by doc, and every metric; returns how many numbers were compared."""
    compared = 0
    expected = {sample["doc_id"]: sample for sample in theirs["samples"][task]}
    mine: dict[int, list[Any]] = {}
    for row in run.responses(task):
        mine.setdefault(row["doc_id"], []).append(row)
    assert set(mine) == set(expected)
    for doc_id, answers in mine.items():
        resps = [resp[0] for resp in expected[doc_id]["resps"]]
        if "logprob" in answers[0]:
            np.testing.assert_allclose([a["logprob"] for a in answers], [r[0] for r in resps], atol=atol)
            assert [a["greedy"] for a in answers] == [r[1] for r in resps]
        else:
            assert [a["text"] for a in answers] == resps
        compared += len(answers)
    for score in run.scores():
        if score.task == task:
            assert score.value == pytest.approx(theirs["results"][task][f"{score.metric},none"], abs=1e-9), score.metric
            compared += 1
    return compared


def offline_yaml(card: registry.Task, data: Path, folder: Path) -> None:
    """The task file with its data set replaced by local files: the way to run lm-eval on it without a network."""
    config = registry.read_yaml(card.path)
    path, name = config.pop("dataset_path"), config.pop("dataset_name")
    files = {split: str(data / path.replace("/", "__") / name / f"{split}.jsonl") for split in card.splits}
    config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    (folder / card.path.name).write_text(yaml.dump(config, allow_unicode=True, Dumper=_WithFunctions), "utf-8")
    if (code := card.path.parent / "functions.py").exists():
        shutil.copy(code, folder)


class _WithFunctions(yaml.SafeDumper):
    """Writes `!function` as it was read."""


_WithFunctions.add_representer(
    registry.Function, lambda dumper, value: dumper.represent_scalar("!function", str(value))
)


@pytest.mark.parametrize("sampler", ["first_n", "default"])
def test_own_tasks_score_as_in_lm_eval(
    tmp_path: Path, home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    world = World(tmp_path / "world", n=20)
    monkeypatch.setattr(registry, "project_file", lambda name: world.folder / name)
    world.fill("letters", [row | {"first": row["first"] + " ja veel" * (i % 3)} for i, row in enumerate(rows(20))])
    for task in ("letters", "words"):
        world.edit(task, fewshot_config={"sampler": sampler})
    run = ours("both", tiny_model, world.data)
    offline = tmp_path / "offline"
    offline.mkdir()
    for card in registry.Registry().select("both").tasks:
        offline_yaml(card, world.data, offline)
    theirs = lm_eval_results(offline, ["letters", "words"], tiny_model)
    assert compare(run, theirs, "letters") == 42 and compare(run, theirs, "words") == 21


def test_parity_is_not_by_accident(
    tmp_path: Path, home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "world", n=8)
    monkeypatch.setattr(registry, "project_file", lambda name: world.folder / name)
    offline = tmp_path / "offline"
    offline.mkdir()
    for card in registry.Registry().select("letters").tasks:
        offline_yaml(card, world.data, offline)
    theirs = lm_eval_results(offline, ["letters"], tiny_model)
    world.edit("letters", doc_to_text="Küsimus: {{question}}\nVastus :")
    with pytest.raises(AssertionError):
        compare(ours("letters", tiny_model, world.data), theirs, "letters")


def test_estcopa_on_real_data_scores_as_in_lm_eval(tmp_path: Path, home: Path, mirror: Path, tiny_model: Path) -> None:
    card = registry.Registry().task("estcopa")
    offline_yaml(card, mirror, tmp_path)
    run = ours("estcopa", tiny_model, mirror)
    theirs = lm_eval_results(tmp_path, ["estcopa"], tiny_model)
    assert compare(run, theirs, "estcopa") >= 1000 + 1


@pytest.mark.slow
def test_mini_tasks_score_as_in_lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_results: Path, demo_model: Path
) -> None:
    monkeypatch.setenv("ESTBENCH_HOME", str(copy_home(demo_results, tmp_path / "home")))
    names = [card.name for card in registry.Registry().select("mini").tasks]
    run = ours("mini", demo_model)
    theirs = lm_eval_results(registry.Registry().folder, names, demo_model)
    assert all(compare(run, theirs, name) > 300 for name in names)
