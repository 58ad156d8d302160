"""The exception tree: what can go wrong, and the exit code each ending has.

EstbenchError                    4  the base; anything estbench refuses to go on with
├── UserError                    2  the input is at fault; the message is one line with the cure
│   ├── ConfigError                 unknown key, task, suite or value
│   ├── ModelError                  no checkpoint, truncated or pickled weights, no chat template
│   ├── DataError                   data missing, gated, changed or not matching the lock
│   ├── PlanError                   a template that did not render, a prompt longer than the context
│   └── StoreError                  a home, run folder or database that can't be read or written
├── EngineError                  4  the engine died or answered nonsense
├── TaskError                    4  a task's own code failed on a document
└── MissingPartError             4  a part that has to be installed first is missing

Messages are written for the person at the terminal: what is wrong, where, and what to do now.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EstbenchError(Exception):
    """Base of all errors that estbench raises on purpose."""

    exit_code = 4


class UserError(EstbenchError):
    """The input is at fault: nothing was written, the message says the cure."""

    exit_code = 2


class ConfigError(UserError):
    """An unknown key, task, suite, or a value that does not fit."""


class ModelError(UserError):
    """A path that is no usable checkpoint, or one that lacks what the task needs."""


class DataError(UserError):
    """Data that is missing, gated, changed, or does not match the lock."""


class PlanError(UserError):
    """A plan that can't be rendered as it stands."""


class StoreError(UserError):
    """A folder, file or database that can't be read or written."""


class EngineError(EstbenchError):
    """The engine failed while it worked."""


class TaskError(EstbenchError):
    """A task's own code failed on a document."""


class MissingPartError(EstbenchError):
    """A part that has to be installed first is missing."""


def did_you_mean(word: str, known: Iterable[str], *, most: int = 3) -> str:
    """A hint with the nearest known names, or an empty string: ` Did you mean: a, b?`."""
    near = difflib.get_close_matches(word, list(known), n=most, cutoff=0.55)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
