"""A training run that is interrupted goes on as if it had not been; its state is whole, its own, and runs no code."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import training_world as world
from estbench_training.cpt import loop
from estbench_training.cpt.saving import _Table

from estbench import identity
from estbench.errors import StoreError

STEPS, LAST = 4, 3  # interruptions come when step LAST (from 0) is at work: its state is not saved
USUAL: dict[str, Any] = {"steps": STEPS, "save": {"every": 1}}
LORA = {"freeze": "lora", "lora": {"rank": 4, "dropout": 0.2}}  # dropout draws random numbers


class Killed(BaseException):
    """Ends a run without a chance to save, as kill -9 does."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and shards of 800 tokens: STEPS steps are more than an epoch."""
    folder = tmp_path_factory.mktemp("resume")
    world.make_shards(folder / "shards", world.make_model(folder / "base"), {"et": 500, "en": 300})
    return folder


@pytest.fixture
def recipe(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a recipe with other keys than usual."""
    world.without_curves(monkeypatch)

    def write(**keys: Any) -> Path:
        return world.make_recipe(place, place / "base", f"{tmp_path.name}.yaml", **USUAL | keys)

    return write


@pytest.fixture(scope="module")
def whole(place: Path) -> Callable[..., Path]:
    """The folder of a run that was not interrupted, made once for all tests."""
    done: dict[str, Path] = {}

    def run(**keys: Any) -> Path:
        name = identity.digest(keys)[:12]
        if name not in done:
            path = world.make_recipe(place, place / "base", f"{name}.yaml", **USUAL | keys)
            with pytest.MonkeyPatch.context() as patch:
                world.without_curves(patch)
                done[name] = world.train(path, place / name)
        return done[name]

    return run


@contextmanager
def interrupted(at: int, how: Callable[[], None]) -> Iterator[None]:
    """Call `how` when the step with this number (from 0) has been computed and not yet been taken."""
    gradients = loop.gradients

    def broken(run: Any, step: Any, stopping: Any) -> Any:
        if step.number == at:
            how()
        return gradients(run, step, stopping)

    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "gradients", broken)
    try:
        yield
    finally:
        patch.undo()


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "resume").iterdir())


@pytest.mark.parametrize(
    "keys",
    [{}, LORA, {"average": {"kind": "ema", "decay": 0.8}}, {"precision": "bf16_pure"}],
    ids=["all", "dropout", "average", "bf16"],
)
def test_a_run_that_was_killed_goes_on_bit_by_bit(
    recipe: Callable[..., Path], whole: Callable[..., Path], tmp_path: Path, keys: Any
) -> None:
    keys = keys | {"save": {"every": 2}}  # a step is taken again
    path = recipe(**keys)
    with pytest.raises(Killed), interrupted(LAST, kill):
        world.train(path, tmp_path / "broken")
    folder = world.stage_folder(path, tmp_path / "broken")
    assert states(folder) == ["step-000002"] and len(world.losses(folder)) == 3
    said: list[str] = []
    world.train(path, tmp_path / "broken", said.append)
    assert any("goes on after step 2" in line for line in said)
    assert world.losses(folder) == world.losses(whole(**keys))
    assert world.same(world.weights(folder / "model"), world.weights(whole(**keys) / "model"))


def test_a_state_that_lost_its_moments_would_be_noticed(
    recipe: Callable[..., Path], whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control for the test above."""
    path = recipe()
    with pytest.raises(Killed), interrupted(LAST, kill):
        world.train(path, tmp_path)
    monkeypatch.setattr("estbench_training.cpt.saving.optimizer_tensors", lambda *_: {})
    folder = world.train(path, tmp_path)
    assert world.losses(folder) == world.losses(whole())  # the last step's loss comes before its moments are used
    assert not world.same(world.weights(folder / "model"), world.weights(whole() / "model"))


def test_sigterm_saves_at_the_next_step_and_asks_for_requeue(
    recipe: Callable[..., Path], whole: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(save={"every": 100})
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, interrupted(2, terminate):
        world.train(path, tmp_path / "broken")
    assert caught.value.code == 75 and signal.getsignal(signal.SIGTERM) == before
    folder = world.stage_folder(path, tmp_path / "broken")
    assert states(folder) == ["step-000003"] and not (folder / "model").exists()
    world.train(path, tmp_path / "broken")
    assert world.same(world.weights(folder / "model"), world.weights(whole() / "model"))


@pytest.mark.slow
def test_a_process_that_is_killed_with_signal_9_goes_on_bit_by_bit(
    recipe: Callable[..., Path], whole: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(steps=60)
    folder = world.stage_folder(path, tmp_path / "broken")
    (process,) = world.start(world.TRAIN, 1, path, tmp_path / "broken")
    try:
        while not (folder / "resume").is_dir() or not any(name.startswith("step") for name in states(folder)):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -9 and not (folder / "model").exists()
    world.train(path, tmp_path / "broken")
    assert world.losses(folder) == world.losses(whole(steps=60))
    assert world.same(world.weights(folder / "model"), world.weights(whole(steps=60) / "model"))


def test_a_run_whose_model_has_appeared_is_over(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(steps=2)
    folder = world.train(path, tmp_path)
    (folder / "done.json").unlink()
    with interrupted(0, kill):  # no step is taken again
        world.train(path, tmp_path)
    assert (folder / "done.json").exists() and not (folder / "resume").exists()


def test_other_ways_of_computing_go_on_with_the_same_state(
    recipe: Callable[..., Path], whole: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(Killed), interrupted(LAST, kill):
        world.train(recipe(), tmp_path)
    other = world.train(recipe(micro_batch=1, activation_checkpointing="full"), tmp_path)
    assert other == world.stage_folder(recipe(), tmp_path)
    assert world.losses(other) == pytest.approx(world.losses(whole()), abs=1e-6)


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """A run that was killed in step 4, with states of steps 2 and 3: recipe, output and the stage's folder."""

    def make(name: str = "broken", **keys: Any) -> tuple[Path, Path, Path]:
        path, output = recipe(**keys), tmp_path / name
        with pytest.raises(Killed), interrupted(LAST, kill):
            world.train(path, output)
        return path, output, world.stage_folder(path, output)

    return make


def test_only_the_newest_states_are_kept(broken: Callable[..., Any]) -> None:
    _, _, folder = broken(save={"every": 1, "keep": 1})
    assert states(folder) == ["step-000003"]


def test_a_damaged_state_is_left_out_for_the_one_before(broken: Callable[..., Any]) -> None:
    path, output, folder = broken()
    (damaged,) = (folder / "resume/step-000003").glob("*.distcp")
    os.truncate(damaged, damaged.stat().st_size - 1)
    said: list[str] = []
    world.train(path, output, said.append)
    assert any("step-000003 is left out" in line and ".distcp is damaged" in line for line in said)
    assert any("goes on after step 2" in line for line in said)
    assert len(world.losses(folder)) == STEPS


def test_a_state_that_was_not_finished_is_no_state(broken: Callable[..., Any]) -> None:
    path, output, folder = broken()
    os.rename(folder / "resume/step-000003", folder / "resume/.step-000003.part")
    said: list[str] = []
    world.train(path, output, said.append)
    assert any("goes on after step 2" in line for line in said)


def test_the_state_of_another_run_is_refused(broken: Callable[..., Any]) -> None:
    _, _, other = broken("other", rate=1e-3)
    path, output, folder = broken()
    shutil.rmtree(folder / "resume/step-000003")
    shutil.copytree(other / "resume/step-000003", folder / "resume/step-000003")
    with pytest.raises(StoreError, match="is the state of another run"):
        world.train(path, output)


def test_a_state_that_is_linked_from_elsewhere_is_refused(broken: Callable[..., Any], tmp_path: Path) -> None:
    path, output, folder = broken()
    shutil.move(folder / "resume/step-000003", tmp_path / "elsewhere")
    (folder / "resume/step-000003").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link to elsewhere"):
        world.train(path, output)


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path(os.environ["ESTBENCH_HOME"]) / "ran"),)


def test_a_pickle_in_a_state_runs_no_code(broken: Callable[..., Any]) -> None:
    path, output, folder = broken()
    place = folder / "resume/step-000003"
    (place / ".metadata").write_bytes(pickle.dumps(Hostile()))
    facts = json.loads((place / "state.json").read_text("utf-8"))
    facts["files"][".metadata"] = (place / ".metadata").stat().st_size
    (place / "state.json").write_text(json.dumps(facts), "utf-8")
    ran = Path(os.environ["ESTBENCH_HOME"]) / "ran"
    with pytest.raises(StoreError, match="has no place in a checkpoint's table"):
        world.train(path, output)
    assert not ran.exists()
    pickle.loads((place / ".metadata").read_bytes())  # negative control: a plain reader would have run it
    assert ran.exists()
    ran.rmdir()


def test_a_table_of_contents_may_name_its_own_classes_only(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(pickle.dumps(os.path.join))
    with open(tmp_path / "table", "rb") as file, pytest.raises(pickle.UnpicklingError, match="has no place"):
        _Table(file).load()


# --- a full disk ------------------------------------------------------------------------------------------------------


@contextmanager
def no_room(most: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_state_before_intact(broken: Callable[..., Any], whole: Callable[..., Path]) -> None:
    path, output, folder = broken()
    before = {file: file.read_bytes() for file in sorted((folder / "resume").rglob("*")) if file.is_file()}
    with pytest.raises(StoreError, match="step-000004 can't be written") as caught, no_room(100_000):
        world.train(path, output)
    assert "\n" not in str(caught.value) and "File too large" in str(caught.value)
    assert before == {file: file.read_bytes() for file in sorted((folder / "resume").rglob("*")) if file.is_file()}
    assert states(folder) == ["step-000002", "step-000003"]
    world.train(path, output)
    assert world.same(world.weights(folder / "model"), world.weights(whole() / "model"))


def test_a_disk_too_full_for_the_model_leaves_nothing_half(broken: Callable[..., Any]) -> None:
    from estbench_training.cpt import exporting

    path, output, folder = broken()
    write, patch = exporting._write_model, pytest.MonkeyPatch()

    def full(*given: Any) -> None:
        with no_room(100_000):
            write(*given)

    patch.setattr(exporting, "_write_model", full)
    with pytest.raises(StoreError, match="model can't be written"):
        world.train(path, output)
    assert not [file.name for file in folder.iterdir() if "model" in file.name] and states(folder)
    patch.undo()
    with interrupted(LAST, kill):  # no step is taken again
        world.train(path, output)
    assert (folder / "model/model.safetensors").exists()
