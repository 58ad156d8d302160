"""What judges say, a number a document. Judging itself is `estbench_judges`, once the answers are there.

    win_rate      share of games won against the anchor, both orders, ties as halves
    checklist     share of a document's criteria that its answer meets
    rating        a rubric's scale from 1 to 5 as (score − 1)/4, expected over the judge's label probabilities
    equivalent    1 where an answer says the same as the reference

`win_rate/language_quality` is the same under another rubric than the task's own.
"""

from __future__ import annotations

from estbench.metrics.base import Metric

AWAITING = "awaiting judge: `estbench judge run=RUN judge=MODEL@URL`"
METRICS = (
    Metric("win_rate", kind="mean", missing=AWAITING),
    Metric("checklist", kind="mean", missing=AWAITING),
    Metric("rating", kind="mean", missing=AWAITING),
    Metric("equivalent", kind="mean", missing=AWAITING),
)
NAMES = frozenset(metric.name for metric in METRICS)


def is_judged(metric: str) -> bool:
    """Whether a metric's values come from judges."""
    return metric.split("/")[0] in NAMES
