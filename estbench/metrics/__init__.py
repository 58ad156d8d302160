"""Metrics: what a document's answer is worth, and how documents make a score.

    get("chrf++").combine(rows.sum(axis=0))      the corpus score from summed statistics
    get("acc").kind                              "binary": one 0 or 1 a document

Each module lists its own in `METRICS`; `estbench.metrics.tasks` has the functions that task files name. Importing this
needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estbench.metrics import (
    base,
    choice,
    classification,
    entities,
    gec,
    ifeval,
    judgments,
    modelling,
    qa,
    summary,
    translation,
)
from estbench.metrics.base import Metric

__all__ = ["Metric", "aggregate", "get", "names"]

_MODULES = (choice, classification, qa, translation, gec, summary, entities, modelling, ifeval, judgments)
_METRICS = {metric.name: metric for module in _MODULES for metric in module.METRICS}


def get(name: str) -> Metric | None:
    """The metric of that name, or None: lm-eval may know it."""
    return _METRICS.get(name)


def names() -> list[str]:
    """All names that `get` knows."""
    return list(_METRICS)


def aggregate(name: str, values: Sequence[Any]) -> float:
    """The score of the documents' values by a metric's name; nan without documents."""
    return base.aggregate(_METRICS[name], values)
