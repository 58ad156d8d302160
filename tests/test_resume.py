"""Kill it anywhere, run the same command, it finishes: with the bits of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from worlds import World, rows

from estbench.runs import Run

SCRIPT = """
import sys
from pathlib import Path
from estbench import registry
from estbench.engines.base import Packing
from estbench.engines.hf import HFEngine
from estbench.cli import main
folder = Path(sys.argv[1])
registry.project_file = lambda name: folder / name
HFEngine.packing = Packing(nodes=40, rows=4)  # many packs, so that there is something to interrupt
sys.exit(main(sys.argv[2:]))
"""


class Victim:
    """`estbench eval` in a process of its own, in a home of its own."""

    def __init__(self, world: World, model: Path, home: Path) -> None:
        self.words = [
            sys.executable,
            "-c",
            SCRIPT,
            str(world.folder),
            "eval",
            f"model={model}",
            "tasks=both",
            f"data={world.data}",
        ]
        self.env = os.environ | {"ESTBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.home = home

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.words, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self) -> tuple[dict[str, Any], str]:
        done = subprocess.run(self.words, env=self.env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout), done.stderr.decode()

    def stored(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.home.glob("responses/*/*.jsonl"))

    def kill_after(self, packs: int) -> bool:
        """Start, kill -9 once so many packs are stored; False if it finished before."""
        process = self.start()
        before = self.stored()
        while process.poll() is None and self.stored() < before + packs:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL


def evidence(result: dict[str, Any]) -> Any:
    """Everything that must be equal to the last bit."""
    run = Run(result["folder"])
    return {
        "scores": result["scores"],
        "identity": result["identity"],
        "responses": {task: list(run.responses(task)) for task in run.tasks},
        "samples": {task: list(run.samples(task)) for task in run.tasks},
    }


def check_kills_leave_no_trace(world: World, model: Path, folder: Path, kills: int, seed: int) -> None:
    calm, _ = Victim(world, model, folder / "calm").finish()
    expected = evidence(calm)
    victim = Victim(world, model, folder / "disturbed")
    dice = random.Random(seed)
    killed = sum(victim.kill_after(dice.randint(1, 4)) for _ in range(kills))
    assert killed >= min(kills, 3)
    if torn := sorted(victim.home.glob("responses/*/*.jsonl")):  # and the last record of one file is torn
        content = torn[-1].read_bytes()
        torn[-1].write_bytes(content[: -dice.randint(1, len(content) // 2)])
    result, err = victim.finish()
    assert "are stored already" in err
    found = evidence(result)
    assert found == expected
    ids = [row["doc_id"] for row in found["responses"]["words"]]
    assert len(ids) == len(set(ids)) == len(found["samples"]["words"])  # no document twice, none lost


@pytest.mark.slow
def test_scores_after_five_kills_are_bit_identical(tmp_path: Path, tiny_model: Path) -> None:
    world = World(tmp_path / "world", n=60)
    check_kills_leave_no_trace(world, tiny_model, tmp_path, kills=5, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_scores_after_twenty_kills_are_bit_identical(tmp_path: Path, tiny_model: Path, seed: int) -> None:
    world = World(tmp_path / "world", n=150)
    check_kills_leave_no_trace(world, tiny_model, tmp_path, kills=20, seed=seed)


def test_bit_identity_can_fail(tmp_path: Path, tiny_model: Path) -> None:
    """The control: other packs give other last bits, which this comparison sees."""
    from estbench.checkpoint import find
    from estbench.engines.hf import HFEngine
    from estbench.plan import Scope, render
    from estbench.registry import Registry
    from estbench.tokens import Tokens

    world = World(tmp_path / "world", n=40)
    world.fill("letters", [row | {"question": row["question"] * (1 + i % 5)} for i, row in enumerate(rows(40))])
    tokens = Tokens(tiny_model)
    engine = HFEngine(find(str(tiny_model)), tokens)
    engine.load()
    plan = render(Registry(world.tasks).task("letters"), tokens, 512, Scope(data=world.data))
    requests = [request for doc in plan.docs for request in doc.requests]
    alone = [engine.score([request])[0].logprob for request in requests]
    together = [scored.logprob for scored in engine.score(requests)]
    assert alone == pytest.approx(together, abs=1e-4)
    assert alone == [engine.score([request])[0].logprob for request in requests]
    assert alone != together


@pytest.mark.slow
def test_two_evals_at_once_lose_nothing(tmp_path: Path, tiny_model: Path) -> None:
    world = World(tmp_path / "world", n=30)
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    with open(other / "model.safetensors", "r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(bytes(40))
    home = tmp_path / "home"
    processes = [Victim(world, model, home).start() for model in (tiny_model, other)]
    results = []
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err.decode()
        results.append(json.loads(out)["run"])
    from estbench.database import open_database, queries

    with open_database(f"sqlite:///{home}/estbench.db") as database:
        assert sorted(row.id for row in queries.runs(database)) == sorted(results)
