"""Who is ahead, and how sure is that: ranks with 95 % intervals, and classes of models that can't be told apart.

    table = Table(["a", "b"], [TaskValues("estcopa", values, chance=0.5), …])
    for row in rank(table).rows: row.model, row.score, row.rank_low, row.rank_high, row.klass
    linearised(rows, combine, clusters)       a corpus metric as values of documents, for `TaskValues`

Scores are corrected for chance, 0 is guessing and 1 the best possible, and averaged over tasks. Documents (whole
clusters, where there are some) are drawn once for all models, so that easy and hard ones count for and against all
alike; tasks are drawn independently of each other. A task that a model lacks is never free: see `rank`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.stats.distributions import LEVEL, normal_quantile
from estbench.stats.intervals import Clusters
from estbench.stats.paired import coded, leave_one_out, summed
from estbench.stats.resampling import Floats, resampled_sums

TIE = 1e-9  # corrected scores closer than that are equal
LEAST = 100  # replicates


@dataclass(frozen=True, slots=True)
class TaskValues:
    """A task's values of all models, in the task's own unit."""

    name: str
    values: Floats  # (models, n); a row of NaN: the model lacks the task
    clusters: Clusters = None  # of the n documents
    chance: float | None = None  # None: the worst possible, which is 0, or `maximum` where lower is better
    maximum: float | None = 1.0  # the largest possible value; None: there is none (bits), then `scale` and `chance`
    higher_is_better: bool = True
    scale: float | None = None  # distance from chance that counts as 1, where there is no best value

    def ends(self) -> tuple[float, float]:
        """The values that count as 0 (chance) and as 1 (the best possible); ValueError where there are none."""
        sign = 1 if self.higher_is_better else -1
        if self.maximum is None:
            if self.scale is None or self.chance is None:
                raise ValueError(f"{self.name} has no best possible score: give chance and scale, or leave it out")
            floor, best = self.chance, self.chance + sign * self.scale
        else:
            worst, best = (0.0, self.maximum) if self.higher_is_better else (self.maximum, 0.0)
            floor = worst if self.chance is None else self.chance
        if not sign * (best - floor) > 0:
            raise ValueError(f"{self.name}: nothing is better than chance ({floor}), so no score can be corrected")
        return floor, best


@dataclass(frozen=True, slots=True)
class Table:
    """Models × tasks."""

    models: Sequence[str]
    tasks: Sequence[TaskValues]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A model's place. Scores are corrected for chance: 0 is guessing, 1 the best possible."""

    model: str
    score: float
    low: float | None  # 95 % interval of the score; None: nothing can be said
    high: float | None
    rank: int  # 1 + the models with a higher score
    rank_low: int  # 95 % interval of the rank
    rank_high: int
    p_best: float | None  # share of replicates in which it is the best; None: nothing can be said
    klass: int  # models of one class can't be told from its best
    missing: tuple[str, ...]  # tasks that it lacks
    leave_one_out: tuple[int, int] | None  # lowest and highest rank when any one task is left out; None: one task


@dataclass(frozen=True, slots=True)
class Ranking:
    """All models, the best first."""

    rows: tuple[Ranked, ...]
    unsure: tuple[str, ...]  # tasks with a single cluster: while they take part, no two models can be told apart


def rank(
    table: Table,
    replicates: int = 1000,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    *,
    resample_tasks: bool = False,
) -> Ranking:
    """Ranks, their intervals and classes.

    A rank's interval comes from the simultaneous interval of one model's differences to all others, by the bootstrap of
    their largest |t|: 1 + the models that are surely better, to all less those that are surely worse (Mogstad, Romano,
    Shaikh & Wilhelm 2024). Standard errors are clustered, with two clusters more, one better and one worse; the
    critical value is widened for few clusters as Student's t is (Wallace 1959), by Satterthwaite's freedom, where
    clusters of unequal size count as the equal ones that they are worth (Kish 1965). The first class is the best model
    and all that can't be told from it; the first that can begins the next class. Classes hold for all models at once:
    equal ones are split with a probability of 5 %, however many they are.

    A model that lacks a task gets there chance or the score of the worst model, whichever is lower. Its rank's interval
    begins where it would be with the best model's score; others are compared with its score as it stands.

    weights: of tasks, 1 each if not given. resample_tasks: tasks count as a sample of tasks, which is much less sure.
    ValueError: a task that can't be corrected for chance, a model with a part of a task's documents, odd weights.
    """
    if not table.models or not table.tasks or replicates < LEAST:
        raise ValueError(f"a ranking needs a model, a task and at least {LEAST} replicates")
    tasks, shares = _chosen(table.tasks, weights)
    owned = np.array([_owned(task, table.models) for task in tasks])  # (tasks, models)
    found = _measured(tasks, shares, owned, replicates, seed, resample_tasks)
    return Ranking(tuple(_rows(table.models, tasks, shares, owned, found)), found.unsure)


def linearised(rows: ArrayLike, combine: Callable[[Floats], Floats], clusters: Clusters = None) -> Floats:
    """(n,): values of documents whose mean is the corpus score of their statistics (n, k), and whose distances from it
    are those of the jackknife's pseudo-values (Tukey 1958), leaving out one document, or one whole cluster, at a time.

    Documents of one cluster share its value. ValueError: a score that is not a number.
    """
    table = np.asarray(rows, float)
    n = len(table)
    _, codes, count = coded(clusters, None, n)
    score = float(combine(table.sum(axis=0))) if n else math.nan
    influence = np.zeros(count)
    if count > 1:
        influence = leave_one_out(summed(table, codes, count), combine) * (count - 1) / count
    if not math.isfinite(score) or not np.isfinite(influence).all():
        raise ValueError("the corpus score is not a number, with all documents or without one of them")
    return np.asarray(score + (influence * n / np.bincount(codes, minlength=count))[codes], float)


def _rows(
    names: Sequence[str], tasks: Sequence[TaskValues], shares: Floats, owned: NDArray[np.bool_], found: _Measured
) -> Iterator[Ranked]:
    """The models with their places, the best first."""
    models, incomplete = len(names), np.flatnonzero(~owned.all(axis=0))
    gaps, needed, jointly = found.gaps(models)
    lowest = 1 + (gaps > needed).sum(axis=1)
    highest = models - (gaps < -needed).sum(axis=1)
    lowest[incomplete] = np.minimum(lowest[incomplete], lowest[models:])
    score = found.score[:models]
    order = np.argsort(-score.round(12), kind="stable")
    classes = _classes(order, gaps < -jointly)
    half = found.half_width()
    top = _shares_of_best(found.draws[:, :models])
    apart = _left_out(shares, found.scores[:, :models])
    ceiling = float(shares @ [1.0 if task.maximum is not None else math.inf for task in tasks])
    for at in order.tolist():
        yield Ranked(
            model=names[at],
            score=float(score[at]),
            low=float(score[at] - half[at]) if half[at] else None,
            high=min(ceiling, float(score[at] + half[at])) if half[at] else None,
            rank=1 + int((score > score[at] + TIE).sum()),
            rank_low=int(lowest[at]),
            rank_high=int(highest[at]),
            p_best=None if found.unsure else float(top[at]),
            klass=classes[at],
            missing=tuple(task.name for task, own in zip(tasks, owned[:, at], strict=True) if not own),
            leave_one_out=apart[at],
        )


def _chosen(tasks: Sequence[TaskValues], weights: Mapping[str, float] | None) -> tuple[list[TaskValues], Floats]:
    """The tasks that count, and the share of each."""
    names = [task.name for task in tasks]
    given = dict.fromkeys(names, 1.0) if weights is None else weights
    if len(set(names)) < len(names) or set(given) != set(names):
        raise ValueError(f"each task needs one weight: tasks {', '.join(names)}; weights of {', '.join(given)}")
    if not all(0 <= weight < math.inf for weight in given.values()) or not any(given.values()):
        raise ValueError("weights of tasks have to be numbers from 0, and not all 0")
    chosen = [task for task in tasks if given[task.name]]
    shares = np.array([given[task.name] for task in chosen], float)
    return chosen, shares / shares.sum()


def _owned(task: TaskValues, models: Sequence[str]) -> NDArray[np.bool_]:
    """Which models have the task."""
    values = np.asarray(task.values, float)
    if values.ndim != 2 or len(values) != len(models) or not values.shape[1]:
        raise ValueError(f"{task.name}: values of {len(models)} models and at least one document, not {values.shape}")
    finite = np.isfinite(values)
    for model, row, known in zip(models, values, finite, strict=True):
        if not known.all() and not np.isnan(row).all():
            raise ValueError(f"{task.name}: {model} has {known.sum():,} of {known.size:,} documents; all or none")
    if not finite.any():
        raise ValueError(f"{task.name}: no model has it")
    return np.asarray(finite.all(axis=1))


@dataclass(frozen=True, slots=True)
class _Part:
    """A task, corrected for chance, of all models and of the incomplete ones at their best."""

    score: Floats  # (columns,)
    influence: Floats  # (clusters, columns); sums of 0
    draws: Floats  # (replicates, columns): distances from the score
    weights: Floats  # (clusters,): shares of the documents
    largest: float  # how far two models are apart on one cluster, at most
    span: float  # how far two clusters are apart, at most


def _part(
    task: TaskValues, owned: NDArray[np.bool_], incomplete: NDArray[np.intp], replicates: int, seed: Sequence[int]
) -> _Part:
    floor, best = task.ends()
    values = (np.asarray(task.values, float)[owned] - floor) / (best - floor)
    n = values.shape[1]
    _, codes, count = coded(task.clusters, None, n)
    # Two more columns: one of chance, for those who lack the task, and the sizes of the clusters.
    rows = summed(np.vstack([values, np.zeros(n), np.ones(n)]).T, codes, count)
    sums, sizes = rows[:, :-1], rows[:, -1:]
    score = sums.sum(axis=0) / n
    drawn = resampled_sums(rows, replicates, seed)
    weights = sizes[:, 0] / n
    wider = math.sqrt(_correction(weights)) if count > 1 else 0.0
    draws = wider * (drawn[:, :-1] / drawn[:, -1:] - score)
    influence = (sums - sizes * score) / n
    means = sums[:, :-1] / sizes
    place = np.cumsum(owned) - 1
    stand_in, leader = score.argmin(), score[:-1].argmax()
    take = np.concatenate([np.where(owned, place, stand_in), np.where(owned[incomplete], place[incomplete], leader)])
    largest, span = float(np.ptp(means, axis=1).max()), float(np.ptp(means))
    return _Part(score[take], influence[:, take], draws[:, take], weights, largest, span)


def _measured(
    tasks: Sequence[TaskValues],
    shares: Floats,
    owned: NDArray[np.bool_],
    replicates: int,
    seed: int,
    resample_tasks: bool,
) -> _Measured:
    """All tasks together. Columns are the models as they stand, then the incomplete ones at their best."""
    incomplete = np.flatnonzero(~owned.all(axis=0))
    columns = owned.shape[1] + len(incomplete)
    factors = np.tile(shares, (replicates, 1))
    if resample_tasks:
        even = np.full(len(tasks), 1 / len(tasks))
        factors *= np.random.default_rng((seed, len(tasks))).multinomial(len(tasks), even, replicates)
        factors /= factors.sum(axis=1, keepdims=True)
    scores, draws, spread = np.empty((len(tasks), columns)), np.zeros((replicates, columns)), _Spread(columns)
    unsure = []
    for place, (task, share) in enumerate(zip(tasks, shares.tolist(), strict=True)):
        part = _part(task, owned[place], incomplete, replicates, (seed, place))
        scores[place] = part.score
        draws += factors[:, place, None] * (part.score + part.draws)
        if not spread.add(share * part.influence, part.weights, share * part.largest, share * part.span):
            unsure.append(task.name)
    score = np.asarray(shares @ scores)
    if resample_tasks and not spread.add(shares[:, None] * (scores - score), shares):
        unsure = [tasks[0].name]
    return _Measured(scores, score, draws, spread, tuple(unsure))


class _Spread:
    """Variances of all differences, and of all scores, as sums over tasks; with Satterthwaite's (1946) freedom."""

    def __init__(self, columns: int) -> None:
        self.pairs, self.pair_squares = np.zeros((columns, columns)), np.zeros((columns, columns))
        self.own, self.own_squares = np.zeros(columns), np.zeros(columns)

    def add(self, influence: Floats, weights: Floats, largest: float = 0.0, span: float = 0.0) -> bool:
        """Add the influences (clusters, columns) of a task, whose clusters hold those shares of its documents; False:
        it has one cluster, and nothing is known of it.

        Differences get two clusters more, `largest` in favour of one and of the other; scores get two that are `span`
        apart: what rarely differs does not look more certain than it is (Bonett & Price 2012 for 0/1).
        """
        count = len(influence)
        if count < 2:
            return False
        correction, freedom = _correction(weights), max(1.0, 1 / float((weights**2).sum()) - 1)
        products = influence.T @ influence
        own = products.diagonal()
        pairs = np.maximum(0.0, own[:, None] + own - 2 * products)
        for total, squares, variance, ends in (
            (self.pairs, self.pair_squares, pairs, 2 * largest**2),
            (self.own, self.own_squares, own, span**2 / 2),
        ):
            added = correction * variance + ends / (count + 2) ** 2
            total += added
            squares += added**2 / freedom
        return True


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is known of the aggregate."""

    scores: Floats  # (tasks, columns)
    score: Floats  # (columns,)
    draws: Floats  # (replicates, columns)
    spread: _Spread
    unsure: tuple[str, ...]

    def gaps(self, models: int) -> tuple[Floats, Floats, Floats]:
        """How much better each model is than a column, and how much it has to be for that to be sure: among the
        column's differences to all models, and among all differences of all. Each (columns, models)."""
        gaps = self.score[:models] - self.score[:, None]
        if self.unsure:
            return gaps, np.full(gaps.shape, math.inf), np.full(gaps.shape, math.inf)
        error = np.sqrt(self.spread.pairs[:, :models])
        inverse = np.divide(1, error, out=np.zeros_like(error), where=error > 0).astype(np.float32)
        away = np.ascontiguousarray((self.draws - self.score).T, np.float32)
        farthest, limits = np.zeros(away.shape[1], np.float32), np.empty((len(away), 1))
        for place, row in enumerate(away):
            distances = (np.abs(away[:models] - row) * inverse[place, :, None]).max(axis=0)
            limits[place] = np.quantile(distances, LEVEL, method="higher")
            np.maximum(farthest, distances, out=farthest)
        freedom = _freedom(self.spread.pairs, self.spread.pair_squares)[:, :models]
        normal = normal_quantile((1 - LEVEL) / 2)
        own = error * _students(np.maximum(limits, normal), freedom)
        joint = error * _students(max(normal, float(np.quantile(farthest, LEVEL, method="higher"))), freedom)
        return gaps, own + TIE, joint + TIE

    def half_width(self) -> Floats:
        """Of the scores' intervals (columns,); 0 where nothing can be said."""
        if self.unsure:
            return np.zeros(len(self.score))
        freedom = _freedom(self.spread.own, self.spread.own_squares)
        return np.sqrt(self.spread.own) * _students(normal_quantile((1 - LEVEL) / 2), freedom)


def _correction(weights: Floats) -> float:
    """What makes the squared influences of clusters an unbiased variance where their documents are all alike; G/(G − 1)
    for equal ones. A large cluster pulls the mean towards itself, and seems to be closer to it than it is."""
    squares = float((weights**2).sum())
    return 1 / (1 - 2 * float((weights**3).sum()) / squares + squares)


def _freedom(variance: Floats, squares: Floats) -> Floats:
    return np.divide(variance**2, squares, out=np.ones_like(variance), where=squares > 0)


def _students(z: ArrayLike, freedom: Floats) -> Floats:
    """The quantile of Student's t that belongs to the normal one, never below it (Wallace 1959)."""
    with np.errstate(over="ignore"):  # of one or two clusters: nothing is told apart
        wider = np.asarray(z) * (8 * freedom + 3) / (8 * freedom + 1)
        return np.asarray(np.sqrt(freedom * np.expm1(wider**2 / freedom)), float)


def _classes(order: NDArray[np.intp], worse: NDArray[np.bool_]) -> list[int]:
    """The class of each model: the first, in order, that is surely worse than the best of a class begins the next."""
    classes = [1] * len(order)
    anchor, number = order[0], 1
    for at in order:
        if worse[anchor, at]:
            anchor, number = at, number + 1
        classes[at] = number
    return classes


def _shares_of_best(draws: Floats) -> Floats:
    """How often each model is the best; those that tie share."""
    best = draws >= draws.max(axis=1, keepdims=True) - TIE
    return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0), float)


def _left_out(shares: Floats, scores: Floats) -> list[tuple[int, int] | None]:
    """Each model's lowest and highest rank when one task is left out; None: there is one task."""
    if len(shares) == 1:
        return [None] * scores.shape[1]
    without = (shares @ scores - shares[:, None] * scores) / (1 - shares[:, None])
    ranks = np.array([1 + (row > row[:, None] + TIE).sum(axis=1) for row in without])
    return list(zip(ranks.min(axis=0).tolist(), ranks.max(axis=0).tolist(), strict=True))
