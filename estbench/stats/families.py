"""Many questions at once: adjusted p-values.

holm([0.01, 0.04, 0.03])                      family-wise: the chance of any false alarm stays below alpha
holm(p_values, weights=[0.2, 0.4, 0.4])       where some questions get a larger share of alpha
benjamini_hochberg(p_values)                  of what is called a difference, at most alpha is none
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Adjusted p-values (Holm 1979; with weights Benjamini & Hochberg 1997): those at or below alpha are rejected.

    `weights` are shares of alpha and are scaled to a sum of 1; a question of weight 0 is never rejected.
    """
    shares = _shares(len(p_values), weights)
    adjusted = [1.0] * len(p_values)
    left = [place for place in range(len(p_values)) if shares[place] > 0]
    worst = 0.0
    while left:
        remaining = sum(shares[place] for place in left)
        place = min(left, key=lambda at: (p_values[at] / shares[at], at))
        worst = max(worst, min(1.0, p_values[place] * remaining / shares[place]))
        adjusted[place] = worst
        left.remove(place)
    return adjusted


def step_down(
    p_values: Sequence[float],
    weights: Sequence[float],
    alpha: float,
    nominal: Callable[[float], float] = lambda level: level,
) -> list[bool]:
    """Which questions `holm` rejects at alpha. nominal: the p-value that a share of alpha asks for, where it is spent
    over several looks and not all at once."""
    shares = _shares(len(p_values), weights)
    rejected = [False] * len(p_values)
    left = [place for place in range(len(p_values)) if shares[place] > 0]
    while left:
        remaining = sum(shares[place] for place in left)
        passing = [at for at in left if p_values[at] <= nominal(alpha * shares[at] / remaining)]
        if not passing:
            break
        for at in passing:
            rejected[at] = True
            left.remove(at)
    return rejected


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
    if weights is None or not count:
        return [1 / max(1, count)] * count
    total = sum(weights)
    if len(weights) != count or min(weights, default=0) < 0 or (count and total <= 0):
        raise ValueError(f"{len(weights)} weights for {count} p-values: as many, from 0, and not all 0")
    return [weight / total for weight in weights]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values under which the false discovery rate holds (Benjamini & Hochberg 1995)."""
    values = np.asarray(p_values, float)
    order = np.argsort(-values, kind="stable")
    ranks = np.arange(len(values), 0, -1)
    adjusted = np.minimum.accumulate(np.minimum(1.0, values[order] * len(values) / ranks))
    found = np.empty_like(values)
    found[order] = adjusted
    return [float(value) for value in found]
