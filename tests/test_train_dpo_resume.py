"""What stops DPO half-way costs nothing, and two processes compute what one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dpo_world import KEYS, Row, World, losses, without_curves, world
from estbench_training import dpo, reference, stages
from estbench_training.cpt.logs import read
from estbench_training.trainer_state import last_whole, mark_whole

__all__ = ["without_curves", "world"]  # fixtures

KEY = "ab" * 32  # of a stage


class Stop(Exception):
    """Stands for a kill."""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    wanted: list[int | None] = [None]
    check = dpo.Training.check

    def checked(self: dpo.Training, step: int, loss: float) -> None:
        if step == wanted[0]:
            raise Stop
        check(self, step, loss)

    monkeypatch.setattr(dpo.Training, "check", checked)
    return lambda step: wanted.__setitem__(0, step)


def test_an_interrupted_training_goes_on_bit_by_bit(world: World, stop_at: Callable[[int | None], None]) -> None:
    keys: Row = {"steps": 9, "save": {"every": 2}}  # 4 steps an epoch: it stops in the middle of the second
    whole = world.train(**keys, output="whole")
    stop_at(7)
    with pytest.raises(Stop):
        world.train(**keys)
    stop_at(None)
    folder = world.train(**keys)
    assert any("goes on from step 6 of 9" in line for line in world.said)
    assert losses(folder) == losses(whole)
    tokens = [[row["tokens"] for row in read(one / "log.jsonl")] for one in (folder, whole)]
    assert tokens[0] == tokens[1]
    assert (folder / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_a_checkpoint_that_was_torn_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        mark_whole(folder, KEY)
    newest = tmp_path / "checkpoint-10"
    assert last_whole(tmp_path, KEY, clean=False) == newest
    (newest / "model.safetensors").write_bytes(b"wei")
    (tmp_path / "checkpoint-4" / "whole.json").unlink()
    assert last_whole(tmp_path, KEY, clean=False) == tmp_path / "checkpoint-2" and newest.exists()
    assert last_whole(tmp_path, KEY, clean=True) == tmp_path / "checkpoint-2" and not newest.exists()
    assert last_whole(tmp_path / "none", KEY, clean=True) is None


SCRIPT = """
import json, sys
from pathlib import Path
from estbench_training import recipe, stages
row, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
stages.run(recipe.from_row(row, folder), folder / sys.argv[3], print)
"""


def elsewhere(world: World, output: str, *launcher: str, **keys: Any) -> list[str]:
    """The command that trains in processes of its own."""
    script = world.folder / "train.py"
    script.write_text(SCRIPT)
    stage = {"name": "dpo", "kind": "dpo", "data": "./pairs.jsonl", **KEYS, **keys}
    row = {"name": "toy", "base": str(world.model), "seed": 1, "stages": [stage]}
    return [sys.executable, *launcher, str(script), json.dumps(row), str(world.folder), output]


@pytest.mark.slow
def test_kill_9_loses_nothing(world: World) -> None:
    keys: Row = {"steps": 60, "save": {"every": 5}}
    whole = world.train(**keys, output="whole")
    [step] = stages.chain(world.recipe(**keys), world.folder / "killed")
    command = elsewhere(world, "killed", **keys)
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as child:
        until = time.monotonic() + 300
        while last_whole(step.folder / "resume", step.key, clean=False) is None and time.monotonic() < until:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    assert last_whole(step.folder / "resume", step.key, clean=False) is not None
    folder = world.train(**keys, output="killed")
    assert any("goes on from step" in line for line in world.said)
    assert (folder / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_compute_what_one_does(world: World, home: Path) -> None:
    keys: Row = {"micro_batch": 1, "steps": 6}
    [step] = stages.chain(world.recipe(**keys), world.folder / "two")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    subprocess.run(
        elsewhere(world, "two", *launcher, **keys), env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=500, check=True
    )
    [file] = (home / "reference").iterdir()
    together = reference.load(file, file.stem, 16)
    file.unlink()
    alone = world.train(**keys, output="one")
    by_itself = reference.load(file, file.stem, 16)
    assert losses(step.folder) == pytest.approx(losses(alone), abs=1e-5)
    assert together is not None and by_itself is not None
    for two, one in zip(together, by_itself, strict=True):  # each pair its own, in order
        assert two == pytest.approx(one, abs=1e-4) and len({*one.round(3).tolist()}) > 1
