"""What results functions take and give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from estbench.metrics.base import Metric
from estbench.metrics.base import aggregate as combined

Doc = Mapping[str, Any]
Results = dict[str, Any]


def aggregation(metric: Metric) -> Callable[[Sequence[Any]], float]:
    """The `aggregation` of a corpus metric, as lm-eval calls it."""

    def aggregate(items: Sequence[Any]) -> float:
        return combined(metric, items)

    aggregate.__doc__ = f"{metric.name} of the documents' statistics."
    return aggregate
