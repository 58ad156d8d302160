"""The demo models: where each is kept, and how it comes to be there, once.

    path = model_path("demo-et", say=print)     makes demo-base first, from which it goes on
    place("demo-1500")                          where it is or will be: in the folder of `demo`, whose training it is

A training leaves one folder, with its checkpoints inside: it appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from estbench.demo import MODELS, train
from estbench.demo.recipes import RECIPES
from estbench.errors import ModelError, StoreError, did_you_mean
from estbench.home import home

SHAPES_FOLDER = (
    "lexicon.py",
    "world.py",
    "tasks.py",
    "spoil.py",
    "follow.py",
    "stream.py",
    "tokenizer.py",
    "train.py",
    "about.py",
    "lexicon/*.csv",
)
SHAPES_ENGLISH = ("english.py",)  # what shapes the English tokenizer beside


def model_path(name: str, say: Callable[[str], None] | None = None) -> Path:
    """As `estbench.demo.model_path`. ModelError for an unknown name, StoreError where it can't be kept."""
    path = place(name)
    if path.is_dir():
        return path
    recipe, _ = _training(name)
    folder = place(recipe)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        start = RECIPES[recipe].start
        before = model_path(start, say) if start else None
        with _locked(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                _make(recipe, folder, before, say)
    except OSError as error:
        raise StoreError(
            f"The model {name!r} can't be kept in {folder.parent}: {error.strerror or error}. "
            "Set ESTBENCH_HOME to a writable folder."
        ) from None
    return path


def place(name: str) -> Path:
    """Where a demo model is once it is made."""
    recipe, step = _training(name)
    folder = home() / "models" / f"{recipe}-{recipe_hash(recipe)}"
    return folder / f"step-{step}" if step else folder


def recipe_hash(recipe: str) -> str:
    """Twelve hex digits over all that shapes the folder: the generator's files, the recipe, what it begins with."""
    made_of = RECIPES[recipe]
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(made_of), sort_keys=True).encode())
    if made_of.start:
        digest.update(recipe_hash(made_of.start).encode())
    here = Path(__file__).parent
    for pattern in (*SHAPES_FOLDER, *(SHAPES_ENGLISH if made_of.english_only else ())):
        for path in sorted(here.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _training(name: str) -> tuple[str, int | None]:
    """The recipe whose training makes a model, and the step where it is a checkpoint on the way."""
    if name not in MODELS:
        raise ModelError(f"There is no demo model {name!r}.{did_you_mean(name, MODELS)}")
    checkpoint = re.fullmatch(r"(.+)-(\d+)", name)
    return (checkpoint[1], int(checkpoint[2])) if checkpoint else (name, None)


def _make(recipe: str, folder: Path, before: Path | None, say: Callable[[str], None] | None) -> None:
    from transformers.utils import logging

    from estbench.demo.about import About

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if say:
        say(f"making the model {recipe!r} (once, {'a minute or two' if recipe == 'demo' else 'a minute or less'})")
    about = About(recipe, RECIPES[recipe], recipe_hash(recipe), before)
    train.train(RECIPES[recipe], folder, say, start=before, label=about.write)


@contextmanager
def _locked(path: Path) -> Iterator[Any]:
    """Wait until nobody else holds this file, and hold it."""
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
