"""Who is ahead, and how sure is that: ranks with 95 % intervals, and classes of models that can't be told apart.

    table = Table(["a", "b"], [TaskValues("estcopa", values, chance=0.5), …])
    for row in rank(table).rows: row.model, row.score, row.rank_low, row.rank_high, row.klass
    prepared = prepare(table)                 the same for any choice of tasks, weights and models, in milliseconds
    prepared.rank(weights={"estcopa": 2.0, "estqa": 1.0}, models=["a", "b"])
    linearised(rows, combine, clusters)       a corpus metric as values of documents, for `TaskValues`

Scores are corrected for chance, 0 is guessing and 1 the best possible, and averaged over tasks. Documents (whole
clusters, where there are some) are drawn once for all models, so that easy and hard ones count for and against all
alike; tasks are drawn independently of each other. A task that a model lacks is never free: see `rank`.

Nothing depends on the order of models and tasks, and what is drawn from a task only on its name, its clusters and the
seed: each choice has one ranking, however it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.stats.aggregate import TIE, Aggregate, Part, aggregated, condensed
from estbench.stats.intervals import Clusters
from estbench.stats.paired import coded, leave_one_out, summed
from estbench.stats.resampling import Floats

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
    begins where it would be with the best model's score; others are compared with its score as it stands. Of equally
    good models the first by name is the best or the worst.

    weights: of tasks, 1 each if not given. resample_tasks: tasks count as a sample of tasks, which is much less sure.
    ValueError: a task that can't be corrected for chance, a model with a part of a task's documents, odd weights.
    """
    if weights is None or not table.tasks:
        return prepare(table, replicates, seed).rank(resample_tasks=resample_tasks)
    names = [task.name for task in table.tasks]
    if set(weights) != set(names):
        raise ValueError(f"each task needs one weight: tasks {', '.join(names)}; weights of {', '.join(weights)}")
    counted = _counted(weights)
    tasks = [task for task in table.tasks if task.name in counted]
    return prepare(Table(table.models, tasks), replicates, seed).rank(counted, resample_tasks=resample_tasks)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that ranks need to know of a table, without its documents: see `prepare`."""

    models: tuple[str, ...]  # as in the table
    tasks: tuple[str, ...]
    _parts: Mapping[str, Part] = field(repr=False)  # by name, as are the models in them
    _seed: int

    def rank(
        self,
        weights: Mapping[str, float] | None = None,
        models: Collection[str] | None = None,
        *,
        resample_tasks: bool = False,
    ) -> Ranking:
        """What `rank` gives for a table of these models and tasks alone.

        weights: of tasks; those of weight 0 or without one take no part. None: 1 each. models: to rank among
        themselves; None: all. ValueError: an unknown task or model, odd weights, a task that none of the models has.
        """
        shares = self._shares(weights)
        chosen = self._chosen(models)
        parts = {name: self._parts[name] for name in shares}
        lonely = [name for name in self.tasks if name in parts and (parts[name].place[chosen] < 0).all()]
        if lonely:
            raise ValueError(f"{lonely[0]}: no model has it")
        values = np.array(list(shares.values()))
        found = aggregated(parts, values, chosen, resample_tasks=resample_tasks, seed=self._seed)
        names = sorted(self.models)
        rows = tuple(_rows([names[at] for at in chosen], self.tasks, parts, values, chosen, found))
        return Ranking(rows, tuple(name for name in self.tasks if name in found.unsure))

    def task_scores(self) -> dict[str, dict[str, float]]:
        """Of each task, the scores of the models that have it; corrected for chance."""
        return {
            task: {
                model: float(self._parts[task].score[at])
                for model, at in zip(sorted(self.models), self._parts[task].place.tolist(), strict=True)
                if at >= 0
            }
            for task in self.tasks
        }

    def _shares(self, weights: Mapping[str, float] | None) -> dict[str, float]:
        """The share of each task that counts, by name."""
        given = dict.fromkeys(self.tasks, 1.0) if weights is None else weights
        unknown = [name for name in given if name not in self._parts]
        if unknown:
            raise ValueError(f"no task {', '.join(unknown)}; there are {', '.join(self.tasks)}")
        counted = _counted(given)
        total = math.fsum(counted.values())
        return {name: counted[name] / total for name in sorted(counted)}

    def _chosen(self, models: Collection[str] | None) -> NDArray[np.intp]:
        """Places of models, by name."""
        if models is None:
            return np.arange(len(self.models))
        unknown = sorted(set(models) - set(self.models))
        if unknown or not models or len(set(models)) < len(models):
            raise ValueError(f"no model {', '.join(unknown)}" if unknown else "a ranking needs models, each one once")
        wanted = set(models)
        return np.flatnonzero([name in wanted for name in sorted(self.models)])


def prepare(table: Table, replicates: int = 1000, seed: int = 0) -> Prepared:
    """The table as ranks under any choice of tasks, weights and models need it. That takes a moment, each choice
    milliseconds: `prepare(table, …).rank(weights)` gives what `rank(table, …, weights)` does.

    Memory: for each task 4 bytes × models × replicates and 12 bytes × models². The tasks are read one at a time, and no
    document of theirs is kept. ValueError: as `rank`.
    """
    if not table.models or not table.tasks or replicates < LEAST:
        raise ValueError(f"a ranking needs a model, a task and at least {LEAST} replicates")
    names = tuple(task.name for task in table.tasks)
    for what, given in (("tasks", names), ("models", table.models)):
        if len(set(given)) < len(given):
            raise ValueError(
                f"{what} of one name: {', '.join(sorted({name for name in given if given.count(name) > 1}))}"
            )
    parts = {task.name: _part(task, table.models, replicates, (seed, *task.name.encode())) for task in table.tasks}
    return Prepared(tuple(table.models), names, dict(sorted(parts.items())), seed)


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
    models: Sequence[str],
    tasks: Sequence[str],
    parts: Mapping[str, Part],
    shares: Floats,
    chosen: NDArray[np.intp],
    found: Aggregate,
) -> Iterator[Ranked]:
    """The models with their places, the best first."""
    count = len(models)
    gaps, needed, jointly = found.gaps()
    lowest = 1 + (gaps > needed).sum(axis=1)
    highest = count - (gaps < -needed).sum(axis=1)
    lowest[found.incomplete] = np.minimum(lowest[found.incomplete], lowest[count:])
    score = found.score[:count]
    order = np.argsort(-score.round(12), kind="stable")
    classes = _classes(order, gaps < -jointly)
    half = found.half_width()
    top = found.shares_of_best()
    apart = _left_out(shares, found.scores)
    ceiling = float(shares @ [part.ceiling for part in parts.values()])
    lacking = [(name, parts[name].place[chosen] < 0) for name in tasks if name in parts]
    for at in order.tolist():
        yield Ranked(
            model=models[at],
            score=float(score[at]),
            low=float(score[at] - half[at]) if half[at] else None,
            high=min(ceiling, float(score[at] + half[at])) if half[at] else None,
            rank=1 + int((score > score[at] + TIE).sum()),
            rank_low=int(lowest[at]),
            rank_high=int(highest[at]),
            p_best=None if found.unsure else float(top[at]),
            klass=classes[at],
            missing=tuple(name for name, lacks in lacking if lacks[at]),
            leave_one_out=apart[at],
        )


def _counted(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of tasks that count, as parts of the largest."""
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise ValueError("weights of tasks have to be numbers from 0, and not all 0")
    largest = max(weights.values())
    return {name: part for name, weight in weights.items() if (part := weight / largest)}


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


def _part(task: TaskValues, models: Sequence[str], replicates: int, seed: Sequence[int]) -> Part:
    """The task without its documents, models by name."""
    owned = _owned(task, models)
    floor, best = task.ends()
    order = np.array(sorted(range(len(models)), key=models.__getitem__))
    values = (np.asarray(task.values, float)[order[owned[order]]] - floor) / (best - floor)
    ceiling = math.inf if task.maximum is None else 1.0
    return condensed(values, owned[order], task.clusters, ceiling, replicates, seed)


def _classes(order: NDArray[np.intp], worse: NDArray[np.bool_]) -> list[int]:
    """The class of each model: the first, in order, that is surely worse than the best of a class begins the next."""
    classes = [1] * len(order)
    anchor, number = order[0], 1
    for at in order:
        if worse[anchor, at]:
            anchor, number = at, number + 1
        classes[at] = number
    return classes


def _left_out(shares: Floats, scores: Floats) -> list[tuple[int, int] | None]:
    """Each model's lowest and highest rank when one task is left out; None: there is one task."""
    if len(shares) == 1:
        return [None] * scores.shape[1]
    others = np.where(np.eye(len(shares), dtype=bool), 0.0, shares)
    without = others / others.sum(axis=1, keepdims=True) @ scores
    ranks = np.array([1 + (row > row[:, None] + TIE).sum(axis=1) for row in without])
    return list(zip(ranks.min(axis=0).tolist(), ranks.max(axis=0).tolist(), strict=True))
