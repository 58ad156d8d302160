"""One judge's verdicts of one model against the anchor, and what they say: scores, consistency, position bias.

    b = Battles(model_first, model_second)      verdicts prompt by prompt, nan where there is none
    win_rate(swap_scores(b))                    the mean over both orders with its 95 % interval
    bounds(swap_scores(b), n_planned=300)       what it could be if the missing prompts were all lost, or all won
    position_consistency(b), first_position_bias(b)

A verdict that is missing stays missing: it is neither a tie nor dropped in silence, `bounds` says what it may hide.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.stats import Difference, Interval, difference, mean_interval, proportion_interval
from estbench.stats.intervals import Clusters, Floats

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Battles:
    """Verdicts of one model against the anchor: the model's score in each game, 0 (lost) to 1 (won), .5 a tie; nan: no
    valid verdict. ValueError: arrays of unequal length, a value that is no score."""

    model_first: Floats  # (n,): the games in which the model's answer stood first
    model_second: Floats  # (n,): the same prompts with the answers swapped

    def __post_init__(self) -> None:
        if self.model_first.shape != self.model_second.shape or self.model_first.ndim != 1:
            raise ValueError("a model has as many games where it stands first as where it stands second")
        for games in (self.model_first, self.model_second):
            if ((games < 0) | (games > 1) | np.isinf(games)).any():
                raise ValueError("scores of games lie between 0 and 1, or are nan")

    @property
    def paired(self) -> Flags:
        """(n,): the prompts with a valid verdict in both orders."""
        return np.isfinite(self.model_first) & np.isfinite(self.model_second)


def swap_scores(b: Battles) -> Floats:
    """(n,): the model's score on each prompt, the mean of both orders; nan unless both are valid (one order alone would
    carry the position bias)."""
    return np.asarray((b.model_first + b.model_second) / 2, float)


def position_consistency(b: Battles, clusters: Clusters = None) -> Interval | None:
    """The share of prompts, of those valid in both orders, in which the same side wins or both games are ties. Wilson.
    None: no such prompt."""
    first, second = _sides(b)
    return proportion_interval(first == second, subset(clusters, b.paired)) if len(first) else None


def first_position_bias(b: Battles, clusters: Clusters = None) -> Interval | None:
    """P(the first answer wins) − P(the second wins), −1 to 1, over the games of prompts valid in both orders: only
    there does the quality of the answers cancel. None: no such prompt.

    Each prompt is one observation, not its two games. The interval is that of a paired difference
    (`estbench.stats.difference`), which also holds where all games agree.
    """
    found = position_difference(b, clusters)
    if found.value is None:
        return None
    low, high = found.interval()
    return Interval(found.value, low, high, int(b.paired.sum()), found.method)


def position_difference(b: Battles, clusters: Clusters = None) -> Difference:
    """The same as a paired difference: how often the model wins when it stands first, less when it stands second."""
    first, second = _sides(b)
    return difference((first + 1) / 2, (second + 1) / 2, subset(clusters, b.paired))


def win_rate(values: ArrayLike, clusters: Clusters = None) -> Interval:
    """The mean of swap scores (n,), 0 to 1, with its 95 % interval; `n` counts those that are not nan, and says with
    `bounds` how much is missing."""
    numbers = np.asarray(values, float)
    valid = ~np.isnan(numbers)
    return mean_interval(numbers[valid], subset(clusters, valid), bounds=(0, 1))


def bounds(values: ArrayLike, n_planned: int) -> tuple[float, float]:
    """The lowest and the highest mean that `n_planned` scores could have: those missing all 0, or all 1 (Manski 2003).

    values: (n,) scores, nan or absent where missing. ValueError: nothing planned, or less than there is.
    """
    numbers = np.asarray(values, float)
    valid = numbers[~np.isnan(numbers)]
    if n_planned < max(1, len(valid)):
        raise ValueError(f"{len(valid)} scores of {n_planned} planned ones")
    total = float(valid.sum())
    return total / n_planned, (total + n_planned - len(valid)) / n_planned


def subset(clusters: Clusters, kept: Flags) -> Sequence[Hashable] | None:
    """The clusters of the documents kept. ValueError: not as many clusters as documents."""
    if clusters is None:
        return None
    if len(clusters) != len(kept):
        raise ValueError(f"{len(clusters)} clusters for {len(kept)} values")
    return [clusters[place] for place in np.flatnonzero(kept).tolist()]


def _sides(b: Battles) -> tuple[Floats, Floats]:
    """Of prompts valid in both orders, who won each game: 1 the model, −1 the anchor, 0 nobody."""
    return np.sign(b.model_first[b.paired] - 0.5), np.sign(b.model_second[b.paired] - 0.5)
