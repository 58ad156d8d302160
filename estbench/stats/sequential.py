"""Looking more than once: a test that may stop early, whose errors at all looks together stay below alpha.

    nominal_levels(0.025, (0.1, 0.2, 0.4, 0.7, 1.0))      what a one-sided p-value has to reach at each look
    spent(0.025, 0.4)                                     alpha that may have been used up by then

Alpha spending (Lan & DeMets 1983): a function of the share of documents seen says how much of alpha may be used by
then, and the levels follow from the joint normal distribution of the looks, correlation √(t_i / t_j), by the recursive
integration of Armitage, McPherson & Rowe (1969). The looks need not be planned: a level depends on no later look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from estbench.stats.distributions import normal_quantile, normal_tail

Floats = NDArray[np.float64]
Spending = Literal["pocock", "obrien-fleming", "linear"]
REACH = 7.0  # standard deviations below 0 from which a later crossing counts for nothing
FAR = 40.0  # standard deviations that nothing reaches: P < 1e-300
NODES = 16  # of each panel of the integration
PANEL = 1.5  # its width, in standard deviations of the narrower step beside it


def spent(alpha: float, share: float, spending: Spending = "pocock") -> float:
    """How much of `alpha` may be used when `share` (0 to 1) of the information is in.

    "pocock": α ln(1 + (e − 1) t), about the same level at each look; "obrien-fleming": 2 (1 − Φ(z / √t)) with
    z = Φ⁻¹(1 − α/2), next to nothing early (both Lan & DeMets 1983); "linear": α t.
    """
    if spending == "pocock":
        return alpha * math.log1p(math.expm1(1) * share)
    if spending == "obrien-fleming":
        return 2 * normal_tail(normal_quantile(alpha / 2) / math.sqrt(share)) if share > 0 else 0.0
    if spending == "linear":
        return alpha * share
    raise ValueError(f"spending {spending!r} is none of pocock, obrien-fleming, linear")


def nominal_levels(
    alpha: float, shares: Sequence[float], spending: Spending = "pocock", *, final: bool = True
) -> tuple[float, ...]:
    """The level of each look: a one-sided test that stops at the first look whose p-value is at or below its level is
    wrong with probability `alpha`.

    shares: of the information (documents), growing, above 0 and at most 1. final: the last look uses up what is left
    of alpha, also before share 1; otherwise what the spending function keeps for later is kept. A level of 0 means that
    the look can't stop the test. ValueError: alpha or shares that make no sense.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha has to lie between 0 and 1, not {alpha}")
    if not (
        len(shares) and shares[0] > 0 and shares[-1] <= 1 and all(early < late for early, late in pairwise(shares))
    ):
        raise ValueError(f"shares have to grow, from above 0 to at most 1: {', '.join(map(str, shares)) or 'none'}")
    totals = [spent(alpha, share, spending) for share in shares]
    if final:
        totals[-1] = alpha
    return _levels(tuple(shares), tuple(totals))


@lru_cache(maxsize=4096)
def _levels(shares: tuple[float, ...], totals: tuple[float, ...]) -> tuple[float, ...]:
    """The level of each look, by which so much has been spent."""
    levels = []
    # The sum of what has been seen, as long as no look stopped the test: places and probability. It starts at 0.
    places, mass = np.zeros(1), np.ones(1)
    for share, before, after, used, total in zip(
        shares, (0.0, *shares), (*shares[1:], math.inf), (0.0, *totals), totals, strict=False
    ):
        step, scale = math.sqrt(share - before), math.sqrt(share)
        bound = _bound(places, mass, step, scale, total - used)
        levels.append(normal_tail(bound / scale))
        narrower = min(step, math.sqrt(after - share))
        nodes, weights = _panels(-REACH * scale, min(bound, FAR * scale), PANEL * narrower)
        places, mass = nodes, weights * _density(nodes, places, mass, step)
    return tuple(levels)


def _bound(places: Floats, mass: Floats, step: float, scale: float, wanted: float) -> float:
    """The sum that is reached for the first time at this look with probability `wanted`; inf where that is 0.

    Newton's method on the logarithm of the probability, from the bound of a single look, where fewer cross; halving
    where it leaves the bracket (looks so close that next to nothing is left up there).
    """
    if wanted <= 0:
        return math.inf
    low, high = -REACH * scale, scale * normal_quantile(wanted)
    bound = high
    for _ in range(100):
        reached = float(mass @ [normal_tail(gap) for gap in (bound - places) / step])
        low, high = (bound, high) if reached > wanted else (low, bound)
        density = float(_density(np.array([bound]), places, mass, step)[0])
        change = math.log(reached / wanted) * reached / density if reached > 0 and density > 0 else math.inf
        if abs(change) < 1e-12 * scale:
            break
        bound = bound + change if low < bound + change < high else (low + high) / 2
    return bound


def _density(at: Floats, places: Floats, mass: Floats, step: float) -> Floats:
    """The density of the sum after one more step of that standard deviation."""
    steps = (at[:, None] - places) / step
    return np.asarray(np.exp(-(steps**2) / 2) @ mass / (step * math.sqrt(2 * math.pi)), float)


def _panels(low: float, high: float, width: float) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss and Legendre's integration between two ends, panel by panel."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    edges = np.linspace(low, high, 1 + max(1, math.ceil((high - low) / width)))
    halves = np.diff(edges)[:, None] / 2
    return ((edges[:-1, None] + halves) + halves * nodes).ravel(), (halves * weights).ravel()
