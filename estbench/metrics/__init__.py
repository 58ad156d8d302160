"""Metrics: what a document's answer is worth, and how documents make a score.

    get("chrf++").combine(rows.sum(axis=0))      the corpus score from summed statistics
    get("acc").kind                              "binary": one 0 or 1 a document

`estbench.metrics.tasks` has the functions that task files name. Importing this needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from estbench.metrics import gec, translation

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """How per-document values become a score."""

    name: str
    unit: Literal["proportion", "points"] = "proportion"  # 0 to 1, or 0 to 100
    kind: Literal["binary", "mean", "corpus"] = "binary"
    higher_is_better: bool = True
    signature: Callable[[], str] | None = None  # what fixes the metric, sacreBLEU's for instance
    prepare: Callable[[Sequence[Any]], Floats] | None = None  # stored values -> (n, k); None: they are the rows
    combine: Callable[[Any], Floats] | None = None  # summed statistics (..., k) -> scores (...)


def _gec_signature() -> str:
    return f"maxmatch|beta:{gec.BETA}|unchanged:{gec.MAX_UNCHANGED}|pseudo:R:WO|tok:projected|version:1"


def _gec(name: str, combine: Callable[[Any], Floats]) -> Metric:
    return Metric(name, kind="corpus", signature=_gec_signature, prepare=gec.select, combine=combine)


_METRICS = {
    metric.name: metric
    for metric in (
        Metric("acc"),
        Metric("acc_norm"),
        Metric("acc_bytes"),
        Metric("exact_match"),
        Metric("em"),
        Metric("f1", kind="mean"),
        Metric("follow"),
        Metric("parse_failure", higher_is_better=False),
        Metric(
            "chrf++", "points", "corpus", signature=partial(translation.signature, "chrf++"), combine=translation.chrf
        ),
        Metric("bleu", "points", "corpus", signature=partial(translation.signature, "bleu"), combine=translation.bleu),
        _gec("f0.5", gec.f_score),
        _gec("gec_precision", gec.precision),
        _gec("gec_recall", gec.recall),
    )
}


def get(name: str) -> Metric | None:
    """The metric of that name, or None: lm-eval may know it."""
    return _METRICS.get(name)


def names() -> list[str]:
    """All names that `get` knows."""
    return list(_METRICS)


def aggregate(name: str, values: Sequence[Any]) -> float:
    """The score of the documents' values, as lm-eval's `aggregation` calls it; nan without documents."""
    metric = _METRICS[name]
    if not len(values):
        return float("nan")
    if metric.combine is None:
        return float(np.mean(np.asarray(values, float)))
    rows = metric.prepare(values) if metric.prepare else np.asarray(values, float)
    return float(metric.combine(rows.sum(axis=0)))
