"""How much a score moves from one checkpoint to the next for no reason, and whether a task shows training at all.

    found = step_noise([0.41, 0.44, 0.43, 0.47, 0.50], sampling=0.0004)
    found.noise       standard deviation of one checkpoint around its trend, in the score's unit
    found.excess      the part of that variance which the choice of documents does not explain
    found.snr         what the trend covers, in units of that noise

Heineman et al. 2025 ("Signal and Noise", arXiv 2508.13144) show that tasks with a high ratio of the two decide better
between models. Theirs is the spread of many models over the deviation of one model's last checkpoints; here both come
from one series, so that a task can be judged with the checkpoints of one's own training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from estbench.stats.distributions import normal_quantile

LEAST = 4  # checkpoints


@dataclass(frozen=True, slots=True)
class StepNoise:
    """Noise and signal of a series of checkpoints; in the score's unit, variances in its square."""

    checkpoints: int
    noise: float  # standard deviation of one checkpoint around its trend, documents' flips included
    excess: float | None  # variance of one checkpoint beyond the sampling of documents; None: sampling not given
    upper: float | None  # its 90 % upper limit: few checkpoints say little, and a gate has to be on the safe side
    freedom: float  # degrees of freedom of the variance: few checkpoints say little about their noise
    signal: float  # from the lowest to the highest mean of three neighbours
    snr: float | None  # signal / noise; None: no noise was seen


def step_noise(scores: Sequence[float], sampling: float | None = None) -> StepNoise:
    """The noise of evenly spaced checkpoints, in the order of training.

    The variance is the mean square of (x[t−1] − 2 x[t] + x[t+1]) / √6: what is left when a straight line through three
    neighbours is taken away, so that steady progress counts as none (second differences, as von Neumann et al. 1941 do
    with first ones). It is unbiased for noise that is independent from one checkpoint to the next (its root is a little
    low: 14 % with 4 checkpoints, 5 % with 10); what wanders slowly counts as trend. The means of three hold some noise
    themselves: a series without a trend has a signal of about one or two standard deviations, not 0.

    sampling: the mean variance of a paired difference of neighbouring checkpoints that the sampling of documents
    explains; half of it belongs to each of the two. A gate that compares two checkpoints, and already counts that
    sampling, adds twice `upper` to its variance (with `excess` itself, estimated from 4 checkpoints, a test at 0.4 %
    would fail on 6 %). ValueError: fewer than 4 checkpoints, or a score that is no number.
    """
    values = np.asarray(scores, float)
    if len(values) < LEAST:
        raise ValueError(f"{len(values)} checkpoints: noise from step to step needs at least {LEAST}")
    if not np.isfinite(values).all() or (sampling is not None and not sampling >= 0):
        raise ValueError("noise from step to step needs a number for each checkpoint, and a variance from 0")
    bends = np.convolve(values, [1, -2, 1], "valid") / math.sqrt(6)
    variance = float((bends**2).mean())
    # Neighbouring bends share checkpoints, correlations −2/3 and 1/6, so that they count for about half their number.
    count = len(bends)
    freedom = count**2 / (count + 2 * (count - 1) * 4 / 9 + 2 * (count - 2) / 36)
    signal = float(np.ptp(np.convolve(values, np.full(3, 1 / 3), "valid")))
    noise = math.sqrt(variance)
    limit = variance * freedom / _chi_square(0.1, freedom)
    still = noise <= 1e-12 * float(np.abs(values).max())  # rounding of a straight line
    return StepNoise(
        checkpoints=len(values),
        noise=0.0 if still else noise,
        excess=None if sampling is None else 0.0 if still else max(0.0, variance - sampling / 2),
        upper=None if sampling is None else 0.0 if still else max(0.0, limit - sampling / 2),
        freedom=freedom,
        signal=signal,
        snr=None if still else signal / noise,
    )


def _chi_square(below: float, freedom: float) -> float:
    """The value that chi-square is below with that probability, by Wilson & Hilferty (1931); within 7 % from 2 degrees
    of freedom up, and too small rather than too large."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread - normal_quantile(below) * math.sqrt(spread)) ** 3
