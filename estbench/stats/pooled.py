"""One answer over several tasks: the weighted mean of their paired differences.

    pooled([(difference, 1.0), (other, 1.0)], scales=[100, 1]).low(0.05)

Tasks that ask about the same things (the two directions of a translation set) are not independent: units of the same
name move together, and count so. Tasks of which nothing is known can't be pooled: ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from estbench.stats.paired import Difference, StudentT


def pooled(parts: Sequence[tuple[Difference, float]], scales: Sequence[float] | None = None) -> Difference:
    """Σ w_t s_t d_t / Σ w_t, with the variance of the sum over units and Satterthwaite's degrees of freedom.

    scales: s_t, that bring the differences to one unit. Identical results take part as differences of 0 without an
    error.
    """
    total = sum(weight for _, weight in parts)
    if not parts or total <= 0 or any(part.value is None or part.error is None for part, _ in parts):
        raise ValueError("pooled differences need a value, an error and a weight each")
    sizes = [1.0] * len(parts) if scales is None else scales
    shares = [(part, scale * weight / total) for (part, weight), scale in zip(parts, sizes, strict=True)]
    value = sum(share * float(part.value or 0) for part, share in shares)
    n, better, worse = (sum(getattr(part, name) for part, _ in parts) for name in ("n", "better", "worse"))
    method = f"pooled over {len(parts)} tasks, t"
    if all(part.identical for part, _ in parts):
        return Difference(0.0, n, (), 0, 0, "identical: the same responses", error=0.0, identical=True)
    together: dict[Hashable, float] = {}
    own = []
    for part, share in shares:
        for unit, amount in zip(part.units, part.influence, strict=True):
            together[unit] = together.get(unit, 0.0) + share * float(amount)
        own.append(share**2 * float(part.error or 0) ** 2)
    alone = sum(share**2 * float((part.influence**2).sum()) for part, share in shares)
    influence = np.fromiter(together.values(), float, len(together))
    # Each task's own variance, and what units that several tasks share add to it. What they would take from it (tasks
    # that move against each other) is not believed: the tasks' own errors hold more than these sums.
    variance = sum(own) + max(0.0, float((influence**2).sum()) - alone)
    freedom = _satterthwaite(own, [part.freedom for part, _ in parts])
    error = math.sqrt(variance)
    law = StudentT(value, error, freedom)
    return Difference(value, n, tuple(together), better, worse, method, error, influence, law, freedom=freedom)


def _satterthwaite(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of estimated variances (Satterthwaite 1946)."""
    below = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return sum(variances) ** 2 / below
