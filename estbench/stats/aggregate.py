"""Scores and differences of many models over many tasks together: what `ranks` needs to know of a choice of tasks.

    part = condensed(values, owned, clusters, ceiling, replicates, seed)    a task, without its documents
    found = aggregated({"estcopa": part, …}, shares, chosen)                any models on any tasks, in milliseconds
    found.gaps(), found.half_width()

Only sums over documents are kept: scores, bootstrap replicates, variances of all differences. Their size depends on
models and replicates alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.stats.distributions import LEVEL, normal_quantile
from estbench.stats.intervals import Clusters
from estbench.stats.paired import coded, summed
from estbench.stats.resampling import Floats, resampled_sums

TIE = 1e-9  # corrected scores closer than that are equal
DRAWN_TIE = 1e-6  # the same for replicates, which are float32
Places = NDArray[np.intp]
Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """A task, corrected for chance. Rows are its k models, and as the last one chance: it is 0 on all documents."""

    place: Places  # (models,): row of each model of the table; −1: it lacks the task
    score: Floats  # (k + 1,)
    draws: Singles  # (k + 1, replicates): distances from the score
    variances: Floats  # (k + 1, k + 1): of all differences; the last column is those of the scores
    apart: Singles  # (k, k): how far two models are apart on one cluster, at most; above the diagonal
    lowest: Floats  # (k,): the model's mean on its worst cluster
    highest: Floats  # (k,): and on its best
    clusters: int
    freedom: float  # of the variances
    ceiling: float  # the best possible score

    def rows(self, chosen: Places) -> tuple[Places, int, int]:
        """Among chosen models: the row that counts for each, the row of those who lack the task, and the best one."""
        own = self.place[chosen]
        present = own[own >= 0]
        score = self.score.round(12)
        worst = present[score[present].argmin()]
        stand_in = worst if score[worst] <= 0 else len(self.score) - 1
        return np.where(own >= 0, own, stand_in), int(stand_in), int(present[score[present].argmax()])

    def extremes(self, chosen: Places) -> tuple[float, float]:
        """Among chosen models: how far two are apart on one cluster, and how far two clusters are apart, at most."""
        present = self.place[chosen]
        present = present[present >= 0]
        apart = self.apart if len(present) == len(self.apart) else self.apart[np.ix_(present, present)]
        return float(apart.max()), float(self.highest[present].max() - self.lowest[present].min())


def condensed(
    values: Floats,
    owned: NDArray[np.bool_],
    clusters: Clusters,
    ceiling: float,
    replicates: int,
    seed: int | Sequence[int],
) -> Part:
    """The task with these values (k, n) of the models that have it, out of all (`owned`)."""
    n = values.shape[1]
    _, codes, count = coded(clusters, None, n)
    # Three more columns. The number of the cluster makes each row another: else what is drawn would depend on how many
    # models there are (few kinds of rows are drawn in another way). Chance, and the sizes of the clusters.
    rows = summed(np.vstack([values, np.zeros(n), np.ones(n)]).T, codes, count)
    drawn = resampled_sums(np.column_stack([np.arange(count), rows]), replicates, seed)[:, 1:]
    sums, sizes = rows[:, :-1], rows[:, -1:]
    score, weights = sums.sum(axis=0) / n, sizes[:, 0] / n
    correction = _correction(weights) if count > 1 else 0.0
    draws = math.sqrt(correction) * (drawn[:, :-1] / drawn[:, -1:] - score)
    influence = (sums - sizes * score) / n
    means = np.ascontiguousarray((sums[:, :-1] / sizes).T)
    return Part(
        place=np.where(owned, np.cumsum(owned) - 1, -1),
        score=score,
        draws=np.ascontiguousarray(draws.T, np.float32),
        variances=correction * _variances(influence),
        apart=_farthest(means.astype(np.float32)),
        lowest=means.min(axis=1),
        highest=means.max(axis=1),
        clusters=count,
        freedom=_effective(weights),
        ceiling=ceiling,
    )


def _farthest(means: Singles) -> Singles:
    """(k, k) largest distances between rows (k, clusters), above the diagonal."""
    apart = np.zeros((len(means), len(means)), np.float32)
    buffer = np.empty_like(means)
    for place, row in enumerate(means):
        part = np.subtract(means[place:], row, out=buffer[place:])
        np.abs(part, out=part).max(axis=1, out=apart[place, place:])
    return apart


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What is known of the aggregate. Columns are the models as they stand, then the incomplete ones at their best."""

    incomplete: Places  # models that lack a task
    scores: Floats  # (tasks, models)
    score: Floats  # (columns,)
    away: Singles  # (columns, replicates): distances from the score
    spread: _Spread
    unsure: tuple[str, ...]  # tasks of which nothing is known

    def gaps(self) -> tuple[Floats, Floats, Floats]:
        """How much better each model is than a column, and how much it has to be for that to be sure: among the
        column's differences to all models, and among all differences of all. Each (columns, models)."""
        models = self.scores.shape[1]
        gaps = self.score[:models] - self.score[:, None]
        if self.unsure:
            return gaps, np.full(gaps.shape, math.inf), np.full(gaps.shape, math.inf)
        error = np.sqrt(self.spread.pairs)
        inverse = np.divide(1, error, out=np.zeros_like(error), where=error > 0).astype(np.float32)
        farthest, buffer = np.empty_like(self.away), np.empty_like(self.away[:models])
        for row, scale, out in zip(self.away, inverse[:, :, None], farthest, strict=True):
            np.subtract(self.away[:models], row, out=buffer)
            np.abs(buffer, out=buffer)
            np.multiply(buffer, scale, out=buffer).max(axis=0, out=out)
        limits = np.quantile(farthest, LEVEL, axis=1, method="higher", keepdims=True).astype(float)
        limit = float(np.quantile(farthest.max(axis=0), LEVEL, method="higher"))
        freedom = _freedom(self.spread.pairs, self.spread.pair_squares)
        normal = normal_quantile((1 - LEVEL) / 2)
        own = error * _students(np.maximum(limits, normal), freedom)
        return gaps, own + TIE, error * _students(max(normal, limit), freedom) + TIE

    def half_width(self) -> Floats:
        """Of the scores' intervals (models,); 0 where nothing can be said."""
        if self.unsure:
            return np.zeros(self.scores.shape[1])
        freedom = _freedom(self.spread.own, self.spread.own_squares)
        return np.sqrt(self.spread.own) * _students(normal_quantile((1 - LEVEL) / 2), freedom)

    def shares_of_best(self) -> Floats:
        """How often each model is the best, (models,); those that tie share."""
        models = self.scores.shape[1]
        draws = self.score[:models, None] + self.away[:models]
        best = draws >= draws.max(axis=0) - DRAWN_TIE
        return np.asarray((best / best.sum(axis=0)).mean(axis=1), float)


def aggregated(
    parts: Mapping[str, Part], shares: Floats, chosen: Places, *, resample_tasks: bool = False, seed: int = 0
) -> Aggregate:
    """All tasks together, of the chosen models, each of which is had by one of them. resample_tasks: they are drawn."""
    tasks = list(parts.values())
    lacking = np.array([part.place[chosen] < 0 for part in tasks])
    incomplete = np.flatnonzero(lacking.any(axis=0))
    models, replicates = len(chosen), tasks[0].draws.shape[1]
    factors = np.tile(shares[:, None], (1, replicates))
    if resample_tasks:
        even = np.full(len(tasks), 1 / len(tasks))
        factors *= np.random.default_rng((seed, len(tasks))).multinomial(len(tasks), even, replicates).T
        factors /= factors.sum(axis=0)
    scores, spread = np.empty((len(tasks), models + len(incomplete))), _Spread(models, len(incomplete))
    away, better = np.zeros((models, replicates), np.float32), np.zeros((len(incomplete), replicates), np.float32)
    unsure = []
    for at, (name, part) in enumerate(parts.items()):
        rows, stand_in, leader = part.rows(chosen)
        without = lacking[at, incomplete]
        take = np.concatenate([rows, np.where(without, leader, rows[incomplete])])
        factor = factors[at].astype(np.float32)
        away += factor * part.draws[rows]
        better[without] += factor * (part.draws[leader] - part.draws[stand_in])
        scores[at] = part.score[take]
        if part.clusters > 1:
            spread.add(part, rows, take, shares[at] ** 2, *part.extremes(chosen))
        else:
            unsure.append(name)
    score = np.asarray(shares @ scores)
    away = np.concatenate([away, away[incomplete] + better])
    if resample_tasks:
        away += ((factors - shares[:, None]).T @ scores).T.astype(np.float32)
        if len(tasks) > 1:
            spread.add_tasks(shares, scores - score)
        else:
            unsure = list(parts)
    return Aggregate(incomplete, scores[:, :models], score, away, spread, tuple(unsure))


class _Spread:
    """Variances of all differences (columns, models), and of all scores (models,), as sums over tasks; with
    Satterthwaite's (1946) freedom."""

    def __init__(self, models: int, incomplete: int) -> None:
        self.pairs, self.own = np.zeros((models + incomplete, models)), np.zeros(models)
        self.pair_squares, self.own_squares = np.zeros_like(self.pairs), np.zeros_like(self.own)

    def add(self, part: Part, rows: Places, take: Places, square: float, largest: float, span: float) -> None:
        """Add a task whose share has that square; `rows` are those of the models, `take` those of the columns.

        Differences get two clusters more, `largest` in favour of one and of the other; scores get two that are `span`
        apart: what rarely differs does not look more certain than it is (Bonett & Price 2012 for 0/1).
        """
        more = square / (part.clusters + 2) ** 2
        pairs = square * part.variances[:, rows] + more * 2 * largest**2
        own = square * part.variances[rows, -1] + more * span**2 / 2
        self.pairs += pairs[take]
        self.pair_squares += (pairs**2 / part.freedom)[take]
        self.own += own
        self.own_squares += own**2 / part.freedom

    def add_tasks(self, shares: Floats, distances: Floats) -> None:
        """Add what comes of tasks that are a sample: distances (tasks, columns) of their scores from the aggregate."""
        models = len(self.own)
        influence = shares[:, None] * distances
        pairs = _correction(shares) * _variances(influence)[:, :models]
        own = _correction(shares) * (influence[:, :models] ** 2).sum(axis=0)
        self.pairs += pairs
        self.pair_squares += pairs**2 / _effective(shares)
        self.own += own
        self.own_squares += own**2 / _effective(shares)


def _variances(influence: Floats) -> Floats:
    """Of all differences of columns whose influences (clusters, columns) sum to 0, before the correction."""
    products = influence.T @ influence
    own = products.diagonal()
    return np.maximum(0.0, own[:, None] + own - 2 * products)


def _correction(weights: Floats) -> float:
    """What makes the squared influences of clusters an unbiased variance where their documents are all alike; G/(G − 1)
    for equal ones. A large cluster pulls the mean towards itself, and seems to be closer to it than it is."""
    squares = float((weights**2).sum())
    return 1 / (1 - 2 * float((weights**3).sum()) / squares + squares)


def _effective(weights: Floats) -> float:
    """Degrees of freedom of clusters with those shares of the documents."""
    return max(1.0, 1 / float((weights**2).sum()) - 1)


def _freedom(variance: Floats, squares: Floats) -> Floats:
    return np.divide(variance**2, squares, out=np.ones_like(variance), where=squares > 0)


def _students(z: ArrayLike, freedom: Floats) -> Floats:
    """The quantile of Student's t that belongs to the normal one, never below it (Wallace 1959)."""
    with np.errstate(over="ignore"):  # of one or two clusters: nothing is told apart
        wider = np.asarray(z) * (8 * freedom + 3) / (8 * freedom + 1)
        return np.asarray(np.sqrt(freedom * np.expm1(wider**2 / freedom)), float)
