"""The chain of a recipe's stages: which are done, and running those that are not.

    for step in chain(recipe, output):      # keys, folders, what is done
        print(step.stage.name, step.folder, step.done)
    run(recipe, output, say=print)

A stage's key is a hash of all that goes into what it makes: its kind and that kind's version, its settings and seed,
the keys of the stages that it reads, the content of files from outside, the fingerprint of a model from outside. Its
folder is NAME-KEY; stage.json in it says what the key is made of, recipe.yaml what the recipe was, and done.json,
written last, that it is whole. So the same command runs what is not done, another setting runs that stage and those
behind it, and an interrupted stage finds what it left.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import identity
from estbench.checkpoint import Checkpoint, find
from estbench.errors import ConfigError, DataError, MissingPartError, ModelError, StoreError, did_you_mean
from estbench.runs import atomic
from estbench_training.kinds import Context, Say
from estbench_training.recipe import Recipe, Stage

SCHEMA = 1
DONE, LOCK, STAGE, RECIPE = "done.json", ".lock", "stage.json", "recipe.yaml"
WAIT = 1.0  # seconds between looks of the ranks that wait for rank 0


@dataclass(frozen=True)
class Step:
    """A stage in the chain."""

    stage: Stage
    key: str
    folder: Path
    needs: tuple[str, ...]  # the stages whose folders it reads
    model: str | None  # the stage, or the model from elsewhere, that it starts from
    made_of: Mapping[str, Any]  # what the key is a hash of

    @property
    def done(self) -> bool:
        """Whether the folder is whole and made by this very key."""
        return (_done(self.folder) or {}).get("key") == self.key


def chain(recipe: Recipe, output: Path, say: Say = lambda line: None, *, only: Sequence[str] = ()) -> list[Step]:
    """The stages in order, or those named in `only` and what they need, with keys. Reads all files from outside."""
    wanted = closure(recipe, only) if only else {stage.name for stage in recipe.stages}
    steps: dict[str, Step] = {}
    for stage in recipe.stages:
        if stage.name in wanted:
            steps[stage.name] = _step(recipe, stage, output, steps, say)
    return list(steps.values())


def closure(recipe: Recipe, names: Iterable[str]) -> set[str]:
    """The stages named, and all that they read."""
    known = {stage.name for stage in recipe.stages}
    open_, found = [recipe.stage(name) for name in names], set()
    while open_:
        stage = open_.pop()
        found.add(stage.name)
        needs = [
            *stage.settings.inputs(),
            *stage.settings.models(),
            recipe.model_before(stage) if stage.needs_model else None,
        ]
        open_ += [recipe.stage(name) for name in needs if name in known and name not in found]
    return found


def _step(recipe: Recipe, stage: Stage, output: Path, before: Mapping[str, Step], say: Say) -> Step:
    model = recipe.model_before(stage) if stage.needs_model else None
    made_of: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": stage.kind.name,
        "version": stage.kind.version,
        "settings": stage.kind.key_of(stage.settings),
        "seed": seed_of(recipe, stage),
        "inputs": [[name, before[name].key] for name in stage.settings.inputs()],
        "files": _hashes(recipe, stage),
        "outside": dict(stage.settings.outside(recipe)),
    }
    if model is not None:
        made_of["model"] = _key_of_model(recipe, model, before, say, stage.kind.needs)
    more = stage.settings.models()
    if more:
        made_of["models"] = [[name, _key_of_model(recipe, name, before, say)] for name in more]
    key = identity.digest(made_of)
    needs = (*stage.settings.inputs(), *(name for name in (model, *more) if name in before))
    return Step(stage, key, output / f"{stage.name}-{key[:12]}", tuple(map(str, needs)), model, made_of)


def _key_of_model(recipe: Recipe, name: str, before: Mapping[str, Step], say: Say, needs: str = "weights") -> Any:
    """Of a stage its key, of a model from elsewhere its fingerprint, or its tokenizer's where no more is needed."""
    if name in before:
        return before[name].key
    fingerprint = from_outside(recipe, name, say).fingerprint()
    return fingerprint if needs == "weights" else fingerprint["tokenizer"]


def seed_of(recipe: Recipe, stage: Stage) -> int:
    """The stage's own seed, or the recipe's."""
    return recipe.head.seed if stage.common.seed is None else stage.common.seed


def from_outside(recipe: Recipe, model: str, say: Say) -> Checkpoint:
    """A model that no stage makes: a folder as the recipe means it, a demo model, owner/name on the Hub."""
    inside = recipe.path(model)
    if inside.is_dir():
        return find(str(inside), say=say)
    try:
        return find(model, recipe.head.revision if model == recipe.head.base else None, say)
    except ModelError as error:
        raise ModelError(f"{error}{did_you_mean(model, [stage.name for stage in recipe.stages])}") from None


def _hashes(recipe: Recipe, stage: Stage) -> list[list[str]]:
    """(the recipe's pattern, path from where it begins, SHA-256) of files from outside, wherever the recipe lies;
    DataError for one that isn't there."""
    found: list[tuple[str, str, Path]] = []
    for pattern in stage.settings.files():
        path = str(recipe.path(pattern))
        for match in sorted(glob.glob(path, recursive=True)) or [path]:
            files = _inside(Path(match)) if os.path.isdir(match) else [match]
            if missing := [file for file in files if not os.path.isfile(file)]:
                raise DataError(f"Stage {stage.name!r}: there is no file {missing[0]}.")
            found += [(pattern, os.path.relpath(file, _fixed(path)), Path(file)) for file in files]
    hashes = identity.FileHashes().of([file for _, _, file in found])
    return [[pattern, name, hashes[file][0]] for pattern, name, file in found]


def _fixed(pattern: str) -> str:
    """The folder before the first part of a pattern that matches several."""
    parts = Path(pattern).parts
    plain = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return str(Path(*parts[:plain]))


def _inside(folder: Path) -> list[str]:
    return sorted(str(file) for file in folder.rglob("*") if file.is_file())


def run(recipe: Recipe, output: Path, say: Say, *, only: Sequence[str] = ()) -> list[Step]:
    """Run what is not done, in order. Under torchrun each rank calls it; stages that aren't parallel run on rank 0."""
    rank = int(os.environ.get("RANK", "0"))
    with _locked(output) if rank == 0 else _unlocked():
        steps = chain(recipe, output, say if rank == 0 else lambda line: None, only=only)
        made: dict[str, Step] = {}
        for step in steps:
            made[step.stage.name] = step
            if step.done:
                _say_on_rank_0(say, rank, f"{step.stage.name}: done before, in {step.folder}{_old_head(recipe, step)}")
                continue
            if rank != 0 and not step.stage.kind.parallel:
                _wait(step)
                continue
            _run(recipe, step, made, say, rank)
    return steps


def _run(recipe: Recipe, step: Step, made: Mapping[str, Step], say: Say, rank: int) -> None:
    started = time.monotonic()
    _say_on_rank_0(say, rank, f"{step.stage.name}: {step.stage.kind.name} in {step.folder}")
    context = Context(
        recipe=recipe,
        stage=step.stage,
        folder=step.folder,
        key=step.key,
        seed=seed_of(recipe, step.stage),
        say=say if rank == 0 else lambda line: None,
        inputs={name: made[name].folder for name in step.stage.settings.inputs()},
        model=None if step.model is None else _folder_of_model(recipe, step.model, made, say),
        models={name: _folder_of_model(recipe, name, made, say) for name in step.stage.settings.models()},
    )
    try:
        step.folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            _write_down(recipe, step, step.folder)
        step.stage.kind.run(step.stage.settings, context)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("estbench"):
            raise
        raise MissingPartError(f"Stage {step.stage.name!r} needs {error.name}: pip install 'estbench[train]'") from None
    except OSError as error:
        raise StoreError(
            f"Stage {step.stage.name!r} can't go on: {error.strerror or error}"
            f"{f': {error.filename}' if error.filename else ''}. The same command goes on from what is stored."
        ) from None
    if rank == 0:
        _finish(recipe, step, time.monotonic() - started)
    elif step.stage.kind.parallel:
        _wait(step)


def _write_down(recipe: Recipe, step: Step, folder: Path) -> None:
    """What goes into the stage, and the recipe as it is now, beside what is made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / STAGE) as temporary:
        temporary.write_text(json.dumps(step.made_of, ensure_ascii=False, indent=1) + "\n", "utf-8")
    with atomic(folder / RECIPE) as temporary:
        temporary.write_text(recipe.text, "utf-8")


def _folder_of_model(recipe: Recipe, name: str, made: Mapping[str, Step], say: Say) -> Path:
    """The folder of a model that a stage reads, which is what it was when it was made."""
    if name not in made:
        return from_outside(recipe, name, say).path
    folder = made[name].folder
    expected = (_done(folder) or {}).get("model")
    if find(str(folder / "model")).fingerprint() != expected:
        raise ModelError(f"{folder / 'model'} changed since it was made: remove {folder} to make it again.")
    return folder / "model"


def _finish(recipe: Recipe, step: Step, seconds: float) -> None:
    row: dict[str, Any] = {
        "schema": SCHEMA,
        "key": step.key,
        "name": step.stage.name,
        "kind": step.stage.kind.name,
        "seconds": round(seconds, 1),
        "head": _head(recipe),
    }
    if step.stage.kind.makes_model:
        row["model"] = find(str(step.folder / "model")).fingerprint()
        _write_down(recipe, step, step.folder / "model")
    with atomic(step.folder / DONE) as temporary:
        temporary.write_text(json.dumps(row, indent=1) + "\n", "utf-8")


def _head(recipe: Recipe) -> dict[str, Any]:
    """What a model's card says of the recipe and no key depends on."""
    return {"licence": recipe.head.licence, "languages": list(recipe.head.languages), "title": recipe.head.title}


def _old_head(recipe: Recipe, step: Step) -> str:
    """A warning where the card of a finished model says what the recipe no longer does."""
    before = (_done(step.folder) or {}).get("head", {})
    changed = [name for name, value in _head(recipe).items() if before.get(name, value) != value]
    if not step.stage.kind.makes_model or not changed:
        return ""
    return f"; its card still has the {' and '.join(changed)} of then: mend model/README.md, or remove the folder"


def _done(folder: Path) -> dict[str, Any] | None:
    try:
        row = json.loads((folder / DONE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None


def _wait(step: Step) -> None:
    """Until rank 0 has finished the stage; where it fails, torchrun ends all ranks."""
    while not step.done:
        time.sleep(WAIT)


def _say_on_rank_0(say: Say, rank: int, line: str) -> None:
    if rank == 0:
        say(line)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the output folder; ConfigError if another command does."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = open(output / LOCK, "w", encoding="utf-8")  # noqa: SIM115  held as long as the stages run
    except OSError as error:
        raise StoreError(f"{output} can't be written: {error.strerror}. Give another output_dir=.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"Another command is at work in {output}: wait for it, or give output_dir=.") from None
        yield


@contextmanager
def _unlocked() -> Iterator[None]:
    yield
