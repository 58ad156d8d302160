"""What a metric is: how per-document values become a score. The metrics themselves stand in the modules beside this.

ACC = Metric("acc")                                      one 0 or 1 a document
aggregate(CHRF, rows)                                    the corpus score of the documents' statistics
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """How per-document values become a score."""

    name: str
    unit: Literal["proportion", "points", "bits"] = "proportion"  # 0 to 1, 0 to 100, or bits from 0
    kind: Literal["binary", "mean", "corpus"] = "binary"
    higher_is_better: bool = True
    missing: str = "no document has a value"  # why there may be none: what has to be installed
    signature: Callable[[], str] | None = None  # what fixes the metric, sacreBLEU's for instance
    prepare: Callable[[Sequence[Any]], Floats] | None = None  # stored values -> (n, k); None: they are the rows
    combine: Callable[[Any], Floats] | None = None  # summed statistics (..., k) -> scores (...)


def aggregate(metric: Metric, values: Sequence[Any]) -> float:
    """The score of the documents' values, as lm-eval's `aggregation` calls it; nan without documents."""
    if not len(values):
        return float("nan")
    if metric.combine is None:
        return float(np.mean(np.asarray(values, float)))
    rows = metric.prepare(values) if metric.prepare else np.asarray(values, float)
    return float(metric.combine(rows.sum(axis=0)))
