"""The demo world: an Estonian micro-language with its own texts, tasks and models, so that everything can be shown
without a download.

    lexicon.py, lexicon/*.csv       words and their forms
    world.py, facts.py              sentences in both languages; random facts
    tasks.py, spoil.py, follow.py   the seven mini tasks
    english.py, language.py         two of them in English; minimal pairs of both languages
    stream.py                       training data by kind
    recipes.py                      what each model is made of
    tokenizer.py, train.py          how a model is made
    models.py, about.py             which models there are; what their folders say of them
    baselines.py                    what guessing gives

    rows("mini_qa")["test"]         documents of a task
    model_path("demo")              a checkpoint, made on first use

`demo` learnt Estonian, English and the tasks (`demo-1500`, `demo-3000` and `demo-4500`: up to that step), `demo-base`
only English; `demo-small` is `demo` at a third of its size, `demo-et` goes on from `demo-base` with Estonian and the
tasks. `demo-chat` and `demo-et-chat` were tuned on the tasks in chat form. `demo-en` learnt English and two tasks in
it, and so did `demo-english`, whose tokenizer knows English alone. All keep transformers' format, and all but
`demo-english` have one vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from estbench.demo.tasks import TASKS, rows

__all__ = ["MODELS", "TASKS", "is_made", "model_path", "rows"]

MODELS = (
    "demo",
    "demo-base",
    "demo-en",
    "demo-english",
    "demo-1500",
    "demo-3000",
    "demo-4500",
    "demo-small",
    "demo-et",
    "demo-chat",
    "demo-et-chat",
)
# Loaded by name: scores of the tasks depend on the modules that this one imports, and not on how models are made.
_WORKSHOP = "estbench.demo.models"


def model_path(name: str, say: Callable[[str], None] | None = None) -> Path:
    """The folder of a demo model, made now if there is none for its recipe; two processes at once make it once.

    `demo` takes about two minutes, any other one at most one. say: gets a line of progress now and then.
    """
    path: Path = importlib.import_module(_WORKSHOP).model_path(name, say)
    return path


def is_made(name: str) -> bool:
    """Whether a demo model is here."""
    return bool(importlib.import_module(_WORKSHOP).place(name).is_dir())
