"""Continued pretraining in several processes: FSDP, HSDP and copies give what one process gives, and resume each other.

Two processes on this machine talk by gloo. They are started once for all recipes, since starting takes longest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import training_world as world
from estbench_training.cpt import parallel
from estbench_training.cpt.settings import Parallel

from estbench.errors import ConfigError

# Runs a list of {recipe, output, …} and writes down how each ended: what is asked for beside that happens in step `at`.
JOB = """
import json, os, resource, signal, sys
from pathlib import Path
import training_world as world
from estbench_training import recipe as recipes, stages
from estbench_training.cpt import loop, plots, setup
from torch.distributed.tensor import DTensor

plots.curves = lambda *_: None
rank, gradients, ended, seen = int(os.environ["RANK"]), loop.gradients, [], {}

def step(run, step, stopping):
    seen.update(
        sharded=all(isinstance(weight, DTensor) for weight in run.model.parameters()),
        here=sum(weight.to_local().numel() for weight in run.weights.values()),
        all=sum(weight.numel() for weight in run.weights.values()),
        types=sorted({str(weight.dtype) for weight in run.weights.values()}),
    )
    if step.number == task.get("at"):
        if task.get("kill"):
            raise KeyboardInterrupt
        if task.get("terminate") == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        if task.get("full") == rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return gradients(run, step, stopping)

loop.gradients = step
whole = setup._loaded
for task in json.loads(sys.argv[1]):
    seen.clear()
    setup._loaded = whole if task.get("loaded") else None
    try:
        stages.run(recipes.load(Path(task["recipe"])), Path(task["output"]), lambda line: None)
        ended.append({"ended": "whole", **seen})
    except BaseException as error:
        ended.append({"ended": type(error).__name__, "code": getattr(error, "code", None), "said": str(error), **seen})
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(ended))
"""
LORA = {"freeze": "lora", "lora": {"rank": 4, "dropout": 0.0}}
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "tied": {"base": "tied"},
    "hybrid": {"parallel": {"shard": "hybrid", "replicas": 2}},
    "none": {"parallel": {"shard": "none"}},
    "average": {"average": {"kind": "ema", "decay": 0.8}},
    "recomputed": {"activation_checkpointing": "full"},
    "whole logits": {"kernels": {"chunked_loss": False}},
    "embeddings": {"freeze": "embeddings"},
    "lora": LORA,
    "bf16": {"precision": "bf16"},
    "one micro batch": {"micro_batch": 4},
}


@dataclass
class Trained:
    """What two processes did: a list of endings by rank, by name of a task."""

    folder: Path
    ended: dict[str, list[dict[str, Any]]]
    recipes: dict[str, Path]

    def stage(self, kind: str, output: str = "two") -> Path:
        return world.stage_folder(self.recipes[kind], self.folder / output / kind)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All KINDS in two processes, and interruptions of some."""
    folder = tmp_path_factory.mktemp("parallel")
    world.make_model(folder / "tied", tied=True)
    world.make_shards(folder / "shards", world.make_model(folder / "base"), {"et": 4000, "en": 2000})
    recipes, tasks = {}, {}
    for kind, keys in KINDS.items():
        base, others = keys.get("base", "base"), {key: value for key, value in keys.items() if key != "base"}
        recipes[kind] = world.make_recipe(folder, folder / base, f"{kind}.yaml", **others)
        tasks[kind] = {"recipe": recipes[kind], "output": folder / "two" / kind, "loaded": kind == "lora"}
    for name, extra in {
        "killed": {"kill": True, "at": 3},
        "terminated": {"terminate": 1, "at": 2},
        "disk full": {"full": 1, "at": 3},
    }.items():
        tasks[name] = {"recipe": recipes["full"], "output": folder / name / "full", **extra}
    monkeypatch = pytest.MonkeyPatch()
    world.without_curves(monkeypatch)
    with pytest.raises(KeyboardInterrupt):  # one process is killed, two go on
        _killed(monkeypatch, 3, recipes["full"], folder / "one killed" / "full")
    tasks["two go on"] = {"recipe": recipes["full"], "output": folder / "one killed" / "full"}
    for kind in KINDS:
        world.train(recipes[kind], folder / "one" / kind)
    monkeypatch.undo()
    world.processes(JOB, 2, json.dumps(list(tasks.values()), default=str), folder)
    rows = [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
    return Trained(folder, {name: [row[place] for row in rows] for place, name in enumerate(tasks)}, recipes)


def _killed(monkeypatch: pytest.MonkeyPatch, at: int, recipe: Path, output: Path) -> None:
    from estbench_training.cpt import loop

    gradients = loop.gradients

    def step(run: Any, step: Any, stopping: Any) -> Any:
        if step.number == at:
            raise KeyboardInterrupt
        return gradients(run, step, stopping)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "gradients", step)
        world.train(recipe, output)


def near(a: Path, b: Path, most: float) -> bool:
    first, second = world.weights(a / "model"), world.weights(b / "model")
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=0, atol=most) for name in first
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bf16"])
def test_two_processes_give_what_one_gives(trained: Trained, kind: str) -> None:
    assert [row["ended"] for row in trained.ended[kind]] == ["whole", "whole"]
    one, two = trained.stage(kind, "one"), trained.stage(kind)
    assert world.losses(two) == pytest.approx(world.losses(one), abs=2e-6)
    assert near(one, two, 2e-6)


@pytest.mark.slow
def test_two_processes_in_mixed_precision_are_near_one(trained: Trained) -> None:
    one, two, exact = trained.stage("bf16", "one"), trained.stage("bf16"), trained.stage("full")
    assert world.losses(two) == pytest.approx(world.losses(one), abs=0.02)
    assert world.losses(two) != world.losses(exact)
    assert trained.ended["bf16"][0]["types"] == ["torch.float32"]


@pytest.mark.slow
def test_the_weights_really_are_shared_out(trained: Trained) -> None:
    assert all(row["sharded"] for kind in KINDS for row in trained.ended[kind])
    for kind, share in {"full": 0.5, "hybrid": 1.0, "none": 1.0}.items():
        for row in trained.ended[kind]:
            assert row["here"] == pytest.approx(share * row["all"], rel=0.01)


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_the_state(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained.stage("full", "one")
    assert [row["ended"] for row in trained.ended["killed"]] == ["KeyboardInterrupt"] * 2
    assert [row["ended"] for row in trained.ended["two go on"]] == ["whole"] * 2
    world.without_curves(monkeypatch)
    world.train(trained.recipes["full"], trained.folder / "killed" / "full")
    for output in ("killed", "one killed"):
        folder = trained.stage("full", output)
        assert world.losses(folder) == pytest.approx(world.losses(whole), abs=2e-6)
        assert near(whole, folder, 2e-6)


@pytest.mark.slow
def test_sigterm_to_one_process_makes_all_save_and_ask_for_requeue(trained: Trained) -> None:
    assert [(row["ended"], row["code"]) for row in trained.ended["terminated"]] == [("StopForRequeue", 75)] * 2
    folder = trained.stage("full", "terminated")
    assert [path.name for path in sorted((folder / "resume").iterdir())] == ["step-000002", "step-000003"]


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_stops_all_and_keeps_the_state_before(trained: Trained) -> None:
    rows = trained.ended["disk full"]
    assert [row["ended"] for row in rows] == ["StoreError"] * 2
    assert rows[0]["said"] == rows[1]["said"] and "step-000004 can't be written" in rows[0]["said"]
    assert "(File too large)" in rows[0]["said"] and "make room" in rows[0]["said"]
    folder = trained.stage("full", "disk full")
    assert [path.name for path in (folder / "resume").iterdir()] == ["step-000002"]


@pytest.mark.slow
def test_one_process_may_shard_too_as_on_a_gpu(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it keeps a layer at a time in bf16; here in fp32, to be compared."""
    world.without_curves(monkeypatch)
    join = parallel.join
    monkeypatch.setattr(parallel, "join", lambda settings: join(settings, always_shard=True))
    try:
        folder = world.train(trained.recipes["full"], trained.folder / "sharded" / "full")
    finally:
        torch.distributed.destroy_process_group()
    one = trained.stage("full", "one")
    assert world.losses(folder) == pytest.approx(world.losses(one), abs=1e-6)
    assert near(one, folder, 1e-6)


@pytest.mark.slow
def test_torchrun_runs_a_recipe(tmp_path: Path) -> None:
    base = world.make_model(tmp_path / "base")
    world.make_shards(tmp_path / "shards", base, {"et": 1000, "en": 500})
    path = world.make_recipe(tmp_path, base, steps=2)
    words = ["--standalone", "--nproc-per-node", "2", "-m", "estbench_training", f"recipe={path}", "output=json"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, f"output_dir={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = world.stage_folder(path, tmp_path / "out")
    assert (folder / "done.json").exists() and len(world.losses(folder)) == 2


@pytest.mark.parametrize(
    ("settings", "world_size", "local", "sizes"),
    [
        (Parallel(), 8, 4, (8,)),
        (Parallel("none"), 8, 4, (8, 1)),
        (Parallel("hybrid"), 16, 8, (2, 8)),
        (Parallel("hybrid"), 4, 8, (1, 4)),
        (Parallel("hybrid", 4), 16, 8, (4, 4)),
    ],
)
def test_the_mesh_has_a_group_for_each_copy(
    settings: Parallel, world_size: int, local: int, sizes: tuple[int, ...]
) -> None:
    assert parallel.mesh_sizes(settings, world_size, local) == sizes


def test_copies_that_processes_cannot_make_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 groups can't be made of 8 processes"):
        parallel.mesh_sizes(Parallel("hybrid", 3), 8, 8)
