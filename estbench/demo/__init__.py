"""The demo world: an Estonian micro-language with its own texts, tasks and models, so that everything can be shown
without a download.

    lexicon.py, lexicon/*.csv       words and their forms
    world.py, facts.py              sentences in both languages; random facts
    tasks.py, spoil.py, follow.py   the seven mini tasks
    stream.py                       training data by kind
    tokenizer.py, train.py          how the models are made
    baselines.py                    what guessing gives

    rows("mini_qa")["test"]         documents of a task
    model_path("demo")              a checkpoint, made on first use

`demo` learnt Estonian, English and the tasks; `demo-base` only English. Both keep transformers' format and have one
tokenizer.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from estbench.demo.tasks import TASKS, rows
from estbench.errors import ModelError, StoreError, did_you_mean
from estbench.home import home

__all__ = ["MODELS", "TASKS", "model_path", "rows"]

MODELS = ("demo", "demo-base")
SHAPES_WEIGHTS = (
    "lexicon.py",
    "world.py",
    "tasks.py",
    "spoil.py",
    "follow.py",
    "stream.py",
    "tokenizer.py",
    "train.py",
    "lexicon/*.csv",
)


def model_path(name: str, say: Callable[[str], None] | None = None) -> Path:
    """The folder of a demo model, made now if there is none for this recipe; two processes at once make it once.

    Making takes a minute or two on two cores. say: gets a line of progress now and then.
    """
    if name not in MODELS:
        raise ModelError(f"There is no demo model {name!r}.{did_you_mean(name, MODELS)}")
    folder = home() / "models" / f"{name}-{recipe_hash(name)}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                from transformers.utils import logging

                from estbench.demo import train

                logging.disable_progress_bar()  # type: ignore[no-untyped-call]
                if say:
                    say(f"making the model {name!r} (once, a minute or two)")
                train.train(train.RECIPES[name], folder, say)
    except OSError as error:
        raise StoreError(
            f"The model {name!r} can't be kept in {folder.parent}: {error.strerror or error}. "
            "Set ESTBENCH_HOME to a writable folder."
        ) from None
    return folder


def recipe_hash(name: str) -> str:
    """Twelve hex digits over everything that shapes the weights: the generator's files and the recipe."""
    from estbench.demo.train import RECIPES

    digest = hashlib.sha256(json.dumps(dataclasses.asdict(RECIPES[name]), sort_keys=True).encode())
    here = Path(__file__).parent
    for pattern in SHAPES_WEIGHTS:
        for path in sorted(here.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[Any]:
    """Wait until nobody else holds this file, and hold it."""
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
