"""Evaluations in a process of their own, on a GPU of their own, beside a training that is not kept waiting."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from card_world import checkpoint, context, small_tasks
from estbench_training import background, evaluation
from estbench_training.evaluation import Decision, EvaluateSettings, Evaluator, Interrupted
from estbench_training.kinds import Context

from estbench.errors import ConfigError


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stage(tiny_model: Path, tmp_path: Path, home: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Context:
    small_tasks(tmp_path / "world", monkeypatch)
    return context(tmp_path / "out", tiny_model, said=said)


def test_the_gpu_that_trains_does_not_evaluate(stage: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    background.check_free(7)
    for gpu in (4, 6):
        with pytest.raises(ConfigError, match="is a GPU that training uses"):
            background.check_free(gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    background.check_free(3)
    with pytest.raises(ConfigError, match="is a GPU that training uses"):
        background.check_free(2)


def test_a_background_process_sees_its_gpu_and_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "HIP_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "1")
    found = background.environment(7)
    assert found["CUDA_VISIBLE_DEVICES"] == "7" and "ROCR_VISIBLE_DEVICES" not in found
    assert not found.keys() & {"RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"}
    monkeypatch.setattr(torch.version, "hip", "6.4")
    found = background.environment(7)
    assert found["ROCR_VISIBLE_DEVICES"] == "7"
    assert not found.keys() & {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"}  # they would count within that one


ELSEWHERE = EvaluateSettings(every=1, tasks="both", where="gpu:1")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """`estbench eval` is a process that waits for a file, and answers with the name of the model."""
    gate = tmp_path / "go"
    code = (
        "import json, pathlib, sys, time\n"
        f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
        "assert pathlib.Path(sys.argv[1], 'config.json').exists()\n"
        "if 'fails' in pathlib.Path(sys.argv[1]).name: sys.exit('no room')\n"
        "print(json.dumps({'run': sys.argv[2]}))\n"
    )
    monkeypatch.setattr(
        background, "command", lambda settings: [sys.executable, "-c", code, settings.model, settings.name]
    )
    yield gate
    gate.touch()


def test_evaluations_on_another_gpu_go_on_beside_training_one_at_a_time(stage: Context, stand_in: Path) -> None:
    evaluator = Evaluator(ELSEWHERE, stage, 3)
    for step in (1, 2):
        place = checkpoint(stage, step)
        assert evaluator(place, step, step) == Decision()  # training is not kept waiting
        shutil.rmtree(place)  # and may remove its checkpoint
    assert [job.step for job in evaluator.history.unfinished()] == [1, 2]
    stand_in.touch()
    decision = evaluator(checkpoint(stage, 3), 3, 3)
    assert [point.run for point in decision.points] == [f"mudel-cpt-step-00000{step}" for step in (1, 2, 3)]


def test_a_background_process_that_fails_is_said_and_stops_nothing(
    stage: Context, stand_in: Path, said: list[str]
) -> None:
    stand_in.touch()
    evaluator = Evaluator(replace(ELSEWHERE, name="fails"), stage, 1)
    [point] = evaluator(checkpoint(stage, 1), 1, 1).points
    assert point.run is None and "exit code 1, no room" in said[0]
    assert not list((stage.folder / evaluation.COPIES).iterdir())


def test_what_an_interruption_has_left_is_evaluated_later(stage: Context, stand_in: Path) -> None:
    first = Evaluator(ELSEWHERE, stage, 3)
    first(checkpoint(stage, 1), 1, 1)
    first.close()
    second = Evaluator(ELSEWHERE, stage, 3)
    second(checkpoint(stage, 2), 2, 2)
    stand_in.touch()
    assert [point.step for point in second.finish().points] == [1, 2]


def test_an_evaluation_of_weights_that_training_went_back_from_is_ended(stage: Context, stand_in: Path) -> None:
    evaluator = Evaluator(ELSEWHERE, stage, 3)
    evaluator(checkpoint(stage, 2), 2, 2)
    assert evaluator._child is not None
    _, before = evaluator._child
    evaluator(checkpoint(stage, 1), 1, 1)
    assert before.ended and [job.step for job in evaluator.history.unfinished()] == [1]
    evaluator.close()


def test_an_evaluation_of_weights_that_were_rolled_back_is_ended_and_its_copy_removed(
    stage: Context, stand_in: Path
) -> None:
    evaluator = Evaluator(ELSEWHERE, stage, 3)
    for step in (1, 2):
        evaluator(checkpoint(stage, step), step, step)
    assert evaluator._child is not None
    _, child = evaluator._child
    evaluator.forget(after=1)
    assert not child.ended and [job.step for job in evaluator.history.unfinished()] == [1]  # its weights are in use
    assert [place.name for place in (stage.folder / evaluation.COPIES).iterdir()] == ["mudel-cpt-step-000001"]
    evaluator.forget(after=0)
    assert child.ended and evaluator.history.unfinished() == []
    assert not list((stage.folder / evaluation.COPIES).iterdir())


def test_a_sigterm_ends_the_wait_for_a_background_process_which_is_taken_up_again(
    stage: Context, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(ELSEWHERE, stage, 2)
    evaluator(checkpoint(stage, 1), 1, 1)
    result = background.Background.result

    def asked(self: background.Background) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return result(self)

    monkeypatch.setattr(background.Background, "result", asked)
    with pytest.raises(Interrupted):
        evaluator(checkpoint(stage, 2), 2, 2)
    assert evaluator._child is not None
    child = evaluator._child[1]
    evaluator.close()
    assert child.ended and [job.step for job in Evaluator(ELSEWHERE, stage, 2).history.unfinished()] == [1, 2]


def test_a_background_process_ends_with_this_one(stage: Context, stand_in: Path) -> None:
    evaluator = Evaluator(ELSEWHERE, stage, 3)
    evaluator(checkpoint(stage, 1), 1, 1)
    assert evaluator._child is not None and not evaluator._child[1].ended
    process = evaluator._child[1]._process
    del evaluator
    gc.collect()
    assert process.poll() is not None


@pytest.mark.slow
def test_a_real_process_gives_the_run_that_this_one_gives(tiny_model: Path, tmp_path: Path, home: Path) -> None:
    made = [
        Evaluator(EvaluateSettings(1, "mini", where, limit=2), context(tmp_path / where, tiny_model), 1)
        for where in ("here", "gpu:0")
    ]
    runs = [evaluator(checkpoint(evaluator.context, 1), 1, 1000).points[0] for evaluator in made]
    assert runs[0].scores == runs[1].scores
    assert (
        len({str(point.run)[-12:] for point in runs}) == 1
    )  # the hash of all results; before it stands the folder's name
