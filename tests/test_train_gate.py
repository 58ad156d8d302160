"""The gate over the evaluations of a training: advice or an end, and the same after an interruption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from card_world import bare, context, small_tasks
from estbench_training.evaluation import EvaluateSettings, Evaluator, Job
from estbench_training.kinds import Context
from estbench_training.watching import GateSettings, Look
from gate_world import sibling, variant, with_values
from worlds import World, rows

from estbench import registry, runner
from estbench.config import EvalSettings
from estbench.runs import Run, find_run

WATCHED = {"et": ("letters",), "en": ("words",)}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stage(tiny_model: Path, tmp_path: Path, home: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Context:
    small_tasks(tmp_path / "world", monkeypatch)
    return context(tmp_path / "out", tiny_model, said=said)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`answered(evaluator, run)`: what an evaluation ends with, by step; nothing is computed."""

    def use(evaluator: Evaluator, outcomes: Callable[[Job], tuple[str | None, str]]) -> None:
        monkeypatch.setattr(evaluator, "_here", outcomes)

    return use


@pytest.fixture(scope="module")
def stored(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both tasks, made once: a folder to copy."""
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        made = World(folder / "world", n=4)
        for task in ("letters", "words"):
            made.fill(task, rows(300), rows(4, start=5000))
        patch.setattr(registry, "project_file", lambda name: made.folder / name)
        job = runner.prepare(EvalSettings(model=str(tiny_model), tasks="both", data=str(made.data)))
        return runner.evaluate(job).path


@pytest.fixture
def points(stage: Context, stored: Path, home: Path) -> Callable[[Job], tuple[str, str]]:
    """Runs in which `words`, the English task here, falls by 10 points from step 2 on, but for a step back at 4."""
    run = Run(shutil.copytree(stored, home / "runs" / stored.name))
    start = variant(run, "algus", with_values(0.7))
    fallen, level = with_values(0.58, tasks=("words",)), sibling(0.7, 0.06)
    made = {0: start.id}
    for step in (1, 4):
        made[step] = variant(run, f"samm-{step}", level).id
    for step in (2, 3, 5, 6):
        made[step] = variant(start, f"samm-{step}", fallen).id
    return lambda job: (made[job.step], "")


def gated(stage: Context, mode: str = "advise", **gate: Any) -> Evaluator:
    settings = GateSettings(mode=mode, languages=WATCHED, **gate)  # type: ignore[arg-type]
    return Evaluator(EvaluateSettings(1, "both", gate=settings), stage, 6)


def test_a_fall_is_advice_once_the_next_evaluation_confirms_it(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None]
) -> None:
    evaluator = gated(stage)
    answered(evaluator, points)
    decisions = [evaluator(bare(stage, step), step, step) for step in range(1, 7)]
    assert not any(decision.stop for decision in decisions)
    assert decisions[0].reason == "" and [point.step for point in decisions[0].points] == [0, 1]
    assert "English -10.0 points" in decisions[1].reason and "to be confirmed" in decisions[1].reason
    assert "confirmed" in decisions[2].reason and "to be" not in decisions[2].reason
    assert "not confirmed, and dropped" in decisions[3].reason
    assert "Estonian" not in "".join(decision.reason for decision in decisions)


def test_it_stops_where_it_is_told_to(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None]
) -> None:
    evaluator = gated(stage, "stop")
    answered(evaluator, points)
    decisions = [evaluator(bare(stage, step), step, step) for step in range(1, 4)]
    assert [decision.stop for decision in decisions] == [False, False, True]


def test_a_stored_run_is_a_baseline_too(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None]
) -> None:
    baseline, _ = points(Job(0, 0, "", Path()))
    evaluator = gated(stage, "stop", baseline=str(baseline))
    answered(evaluator, points)
    decisions = [evaluator(bare(stage, step), step, step) for step in range(1, 4)]
    assert [decision.stop for decision in decisions] == [False, False, True]
    assert 0 not in evaluator.history.points  # nothing was evaluated for it


def test_a_training_that_is_resumed_decides_as_one_that_was_not(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None], tmp_path: Path
) -> None:
    """Each step by a process of its own, and by one for all: looks, levels and words are the same."""
    whole = gated(context(tmp_path / "whole", stage.model))
    answered(whole, points)
    expected = [whole(bare(whole.context, step), step, step) for step in range(1, 7)]
    found = []
    for step in range(1, 7):
        evaluator = gated(stage)
        answered(evaluator, points)
        found.append(evaluator(bare(stage, step), step, step))
    assert found == expected
    looks = [point.look for decision in found for point in decision.points if point.look]
    assert len(looks) == 6 and all(Look.from_row(json.loads(json.dumps(look.to_row()))) == look for look in looks)


def test_an_evaluation_that_failed_leaves_its_share_to_the_next(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None]
) -> None:
    evaluator = gated(stage)
    answered(evaluator, lambda job: (None, "out of memory") if job.step == 2 else points(job))
    made = [evaluator(bare(stage, step), step, step).points[-1] for step in range(1, 5)]
    levels = [point.look and point.look.readings["en"].level for point in made]
    assert levels[1] is None and levels[0] is not None
    assert levels[2] == pytest.approx(2 * levels[0]) and levels[3] == pytest.approx(levels[0])


@pytest.mark.parametrize("resumed", [False, True])
def test_a_fall_of_weights_that_were_given_up_is_not_confirmed(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None], resumed: bool
) -> None:
    """Found at step 2, which is rolled back to step 1; step 3 has fallen, too, and is the first to say so."""
    evaluator = gated(stage, "stop")
    answered(evaluator, points)
    made = [evaluator(bare(stage, step), step, step) for step in (1, 2)]
    assert "to be confirmed" in made[1].reason
    evaluator.forget(after=1)
    if resumed:
        evaluator = gated(stage, "stop")
        answered(evaluator, points)
    third = evaluator(bare(stage, 3), 3, 3)
    assert not third.stop and "to be confirmed" in third.reason
    levels = [one.points[-1].look.readings["en"].level for one in (*made, third)]  # type: ignore[union-attr]
    assert levels == pytest.approx([levels[0]] * 3)  # what step 2 used of alpha is not used again


def test_without_a_roll_back_it_would_be(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None]
) -> None:
    evaluator = gated(stage, "stop")
    answered(evaluator, points)
    assert [evaluator(bare(stage, step), step, step).stop for step in (1, 2, 3)][-1]


def test_a_baseline_that_failed_is_tried_again(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None], said: list[str]
) -> None:
    evaluator = gated(stage)
    answered(evaluator, lambda job: (None, "out of memory") if job.step == 0 else points(job))
    assert [point.look for point in evaluator(bare(stage, 1), 1, 1).points] == [None, None]
    answered(evaluator, points)
    assert [point.look is not None for point in evaluator(bare(stage, 2), 2, 2).points] == [False, True]


def test_runs_that_cannot_be_compared_are_said_once(
    stage: Context, points: Callable[..., Any], answered: Callable[..., None], said: list[str]
) -> None:
    def other(job: Job) -> tuple[str, str]:
        run = Run(find_run(points(job)[0]))
        if job.step:
            manifest = run.manifest | {"engine": run.manifest["engine"] | {"dtype": "float16"}}
            (run.path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        return run.id, ""

    evaluator = gated(stage, "stop")
    answered(evaluator, other)
    assert not any(evaluator(bare(stage, step), step, step).stop for step in range(1, 5))
    assert len(said) == 1 and "dtype float16" in said[0]
