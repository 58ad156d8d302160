"""How well a judge agrees with people, beside how well people agree with each other.

    cohen_kappa(judge, human, weights="quadratic")
    krippendorff_alpha(ratings, "ordinal")            (raters, n) with nan where someone did not rate
    error_rates(judge, human)                         specificity q0 and sensitivity q1 of a 0/1 judge
    compared(judge, people)                           the judge's α, the ceiling that people set, and the gap

A judge can't be validated on what people don't agree on: where the ceiling is low, so is what any judge can reach.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from estbench.stats import Interval, corpus_interval, proportion_interval
from estbench.stats.intervals import Clusters, Floats

Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["nominal", "linear", "quadratic"]
REPLICATES = 2000
MOST_VALUES = 50  # of a nominal or ordinal scale: α needs a table of them for each item


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """How often a 0/1 judge is right."""

    q0: Interval  # specificity: P(judge says 0 | people say 0)
    q1: Interval  # sensitivity: P(judge says 1 | people say 1)


@dataclass(frozen=True, slots=True)
class Compared:
    """Krippendorff's α of a judge with people and of people among themselves, with bootstrap intervals over items."""

    judge: Interval  # over all pairs of the judge and one person
    people: Interval  # the ceiling; None values: no item has two people
    gap: Interval  # judge − people, the same draws of items


def cohen_kappa(
    a: ArrayLike, b: ArrayLike, weights: Weights = "nominal", categories: ArrayLike | None = None
) -> float | None:
    """Cohen's κ (1960; weighted 1968) of two raters (n,): 1 − observed/expected disagreement; nan pairs are left out.

    Weighted disagreement is the distance of two categories' places (its square). categories: all that there are, in
    order; those that occur if not given. None: no pair, or both only ever use one category.
    ValueError: a rating that is none of the categories.
    """
    one, other = np.asarray(a, float), np.asarray(b, float)
    valid = ~(np.isnan(one) | np.isnan(other))
    one, other = one[valid], other[valid]
    known = np.unique(np.concatenate([one, other]) if categories is None else np.asarray(categories, float))
    if not np.isin(one, known).all() or not np.isin(other, known).all():
        raise ValueError("a rating is none of the categories")
    if not len(one):
        return None
    places = np.arange(len(known))
    apart = np.abs(places[:, None] - places).astype(float)
    distance = {"nominal": (apart > 0).astype(float), "linear": apart, "quadratic": apart**2}[weights]
    first, second = np.searchsorted(known, one), np.searchsorted(known, other)
    shares = [np.bincount(codes, minlength=len(known)) / len(one) for codes in (first, second)]
    expected = float(shares[0] @ distance @ shares[1])
    return 1 - float(distance[first, second].mean()) / expected if expected else None


def krippendorff_alpha(ratings: ArrayLike, level: Level = "nominal") -> float | None:
    """Krippendorff's α (Content Analysis, 2004, ch. 11; "Computing Krippendorff's alpha-reliability", 2011): 1 less
    the observed over the expected disagreement of pairs of ratings of one item.

    ratings: (raters, n), nan where one did not rate; items with one rating say nothing. level: how far apart two values
    are. None: no pair of ratings, or all are equal. ValueError: more than 50 values, but not of an interval scale.
    """
    table = np.asarray(ratings, float)
    kind = _Kind(level, _values(table))
    alpha = float(kind.alpha(kind.rows(table).sum(axis=0))) if len(kind.values) else np.nan
    return None if np.isnan(alpha) else alpha


def human_ceiling(
    people: ArrayLike,
    level: Level = "nominal",
    clusters: Clusters = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval:
    """α among people (raters, n) with a bootstrap interval over items (whole clusters of them)."""
    table = np.asarray(people, float)
    kind = _Kind(level, _values(table))
    return _bootstrapped(kind.rows(table), kind, clusters, replicates, seed)


def compared(
    judge: ArrayLike,
    people: ArrayLike,
    level: Level = "nominal",
    clusters: Clusters = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Compared:
    """The judge (n,) and the people (raters, n) on the same items, nan where there is no rating.

    The judge's α is that of all pairs (judge, person), each person's rating counting once, so that it stands beside α
    among people whatever their number. The gap is resampled with both on the same items.
    """
    one, table = np.asarray(judge, float), np.asarray(people, float)
    kind = _Kind(level, _values(np.vstack([one, table])))
    beside = sum((kind.rows(np.vstack([one, person])) for person in table[1:]), kind.rows(np.vstack([one, table[0]])))
    among = kind.rows(table)
    both = np.concatenate([beside, among], axis=1)

    def gap(sums: Floats) -> Floats:
        half = sums.shape[-1] // 2
        return kind.alpha(sums[..., :half]) - kind.alpha(sums[..., half:])

    given = (clusters, replicates, seed)
    return Compared(
        _bootstrapped(beside, kind, *given),
        _bootstrapped(among, kind, *given),
        _checked(corpus_interval(both, gap, *given) if len(kind.values) else NOTHING),
    )


def error_rates(judge: ArrayLike, human: ArrayLike, clusters: Clusters = None) -> ErrorRates:
    """Specificity and sensitivity of a judge's 0/1 verdicts against people's (n,), with Wilson intervals; pairs with a
    nan are left out. ValueError: a value that is not 0 or 1."""
    one, other = np.asarray(judge, float), np.asarray(human, float)
    valid = ~(np.isnan(one) | np.isnan(other))
    if not np.isin(np.concatenate([one[valid], other[valid]]), (0.0, 1.0)).all():
        raise ValueError("error rates are those of 0/1 verdicts")
    found = []
    for side in (0.0, 1.0):
        kept = valid & (other == side)
        own = None if clusters is None else [clusters[place] for place in np.flatnonzero(kept).tolist()]
        found.append(proportion_interval(one[kept] == side, own))
    return ErrorRates(*found)


NOTHING = Interval(None, None, None, 0, "no item has two ratings")


def _values(table: Floats) -> Floats:
    """The values that are paired with another somewhere."""
    paired = table[:, (~np.isnan(table)).sum(axis=0) > 1]
    return np.unique(paired[~np.isnan(paired)])


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """α of a level as a function of sums over items, so that a bootstrap is a product of matrices."""

    level: Level
    values: Floats

    def __post_init__(self) -> None:
        if self.level != "interval" and len(self.values) > MOST_VALUES:
            raise ValueError(f"{len(self.values)} values are not {self.level} categories; their level is interval")

    def rows(self, table: Floats) -> Floats:
        """Statistics of each item (n, k). Of intervals: disagreement, ratings, their sum and sum of squares; else the
        coincidences: how often each pair of values meets. An item with m ratings counts m in all, one with a single
        rating nothing."""
        raters = (~np.isnan(table)).sum(axis=0)
        if self.level == "interval":
            centred = np.nan_to_num(table - (self.values.mean() if len(self.values) else 0))
            sums, squares = centred.sum(axis=0), (centred**2).sum(axis=0)
            apart = 2 * (raters * squares - sums**2) / np.maximum(raters - 1, 1)
            return np.where(raters[:, None] > 1, np.column_stack([apart, raters, sums, squares]), 0.0)
        counts = (table[..., None] == self.values).sum(axis=0).astype(float)  # (n, V)
        pairs = counts[:, :, None] * counts[:, None, :]
        diagonal = np.arange(len(self.values))
        pairs[:, diagonal, diagonal] -= counts
        return np.asarray((pairs / np.maximum(raters - 1, 1)[:, None, None]).reshape(len(counts), -1), float)

    def alpha(self, sums: Floats) -> Floats:
        """(...,): α of summed statistics (..., k); nan where all ratings are equal."""
        if self.level == "interval":
            observed, total, linear, square = np.moveaxis(sums, -1, 0)
            expected = 2 * (total * square - linear**2)
            expected = np.where(expected > 1e-12 * total * square, expected, 0.0)
        else:
            count = len(self.values)
            met = sums.reshape(*sums.shape[:-1], count, count)
            times = met.sum(axis=-1)
            distance = self._distances(times)
            total = times.sum(axis=-1)
            observed = (met * distance).sum(axis=(-1, -2))
            expected = (times[..., :, None] * times[..., None, :] * distance).sum(axis=(-1, -2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan), float)

    def _distances(self, times: Floats) -> Floats:
        """(..., V, V): squared distances of values; ordinal ones depend on how often (..., V) each value occurs."""
        if self.level == "nominal":
            return np.asarray(self.values[:, None] != self.values, float)
        middle = np.cumsum(times, axis=-1) - times / 2  # the ratings below, and half of those at the value
        return np.asarray((middle[..., :, None] - middle[..., None, :]) ** 2, float)


def _bootstrapped(rows: Floats, kind: _Kind, clusters: Clusters, replicates: int, seed: int) -> Interval:
    if not len(kind.values):
        return NOTHING
    found = corpus_interval(rows, kind.alpha, clusters, replicates, seed)
    return _checked(replace(found, n=int(rows.any(axis=1).sum())))


def _checked(found: Interval) -> Interval:
    """A replicate in which all ratings are equal has no α: then nothing is said of how sure the value is."""
    if found.low is not None and np.isnan(found.low):
        return replace(found, low=None, high=None, method="no interval: too few items differ")
    return found
