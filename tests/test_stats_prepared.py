"""A ranking from the prepared state is the one that the documents give, for each choice of tasks, weights, models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from test_stats_ranks import by_name, made, table

from estbench.stats.aggregate import condensed
from estbench.stats.ranks import Ranked, Ranking, Table, TaskValues, prepare, rank
from estbench.stats.resampling import Floats, resampled_sums


def odd_table(seed: int, count: int = 7) -> Table:
    """Five tasks: 0/1 and not, clusters, models that lack some, all below chance, less is better, no best score."""
    rng = np.random.default_rng(seed)
    abilities = rng.normal(0, 0.5, count).tolist()
    answers, passages, guessed = (made(abilities, n, (seed, n)) for n in (150, 120, 40))
    errors, bits = rng.random((count, 60)), rng.normal(1, 0.2, (count, 50)) - np.array(abilities)[:, None] / 4
    errors[0] = errors[1]
    for values in (passages, guessed, bits):
        values[rng.permutation(count)[: rng.integers(1, count - 3)]] = np.nan
    tasks = [
        TaskValues("answers", answers, chance=0.25),
        TaskValues("passages", passages, rng.integers(0, 30, 120).tolist(), chance=0.1),
        TaskValues("guessed", 0.4 * guessed, chance=0.6),
        TaskValues("errors", errors, rng.integers(0, 20, 60).tolist(), higher_is_better=False),
        TaskValues("bits", bits, maximum=None, higher_is_better=False, chance=1.5, scale=0.5),
    ]
    return Table([f"m{place}" for place in rng.permutation(count).tolist()], tasks)


def part_of(whole: Table, tasks: Sequence[str], models: Sequence[str]) -> Table:
    """Of a table, in the given order."""
    rows = [list(whole.models).index(model) for model in models]
    by_task = {task.name: task for task in whole.tasks}
    return Table(models, [replace(by_task[name], values=by_task[name].values[rows]) for name in tasks])


def sorted_missing(ranking: Ranking) -> list[Ranked]:
    return [replace(row, missing=tuple(sorted(row.missing))) for row in ranking.rows]


def assert_same(one: Ranking, other: Ranking) -> None:
    """Up to rounding."""
    assert set(one.unsure) == set(other.unsure)
    for a, b in zip(sorted_missing(one), sorted_missing(other), strict=True):
        assert replace(a, score=0, low=0, high=0, p_best=0) == replace(b, score=0, low=0, high=0, p_best=0)
        assert [a.score, a.low, a.high] == pytest.approx([b.score, b.low, b.high], abs=1e-9)
        assert a.p_best == pytest.approx(b.p_best, abs=1e-9)


@dataclass(frozen=True, slots=True)
class Plain:
    """A task by the definition: no stand-ins yet; the last row is chance."""

    score: Floats  # (models + 1,); NaN: lacks it
    away: Floats  # (models + 1, replicates)
    influence: Floats  # (models + 1, clusters)
    wider: float
    freedom: float
    largest: float  # what two added clusters add to the variance of a difference
    span: float  # and to that of a score

    def variance(self, a: int, b: int) -> float:
        """Of a difference."""
        return float(self.wider * ((self.influence[a] - self.influence[b]) ** 2).sum() + self.largest)


def plain(task: TaskValues, replicates: int, seed: int) -> Plain:
    floor, top = task.ends()
    n = task.values.shape[1]
    values = np.vstack([(task.values - floor) / (top - floor), np.zeros(n)])
    names = list(range(n)) if task.clusters is None else list(task.clusters)
    members = [np.array([name == each for name in names]) for each in dict.fromkeys(names)]
    sizes = np.array([inside.sum() for inside in members])
    sums = np.array([values[:, inside].sum(axis=1) for inside in members]).T
    rows = np.column_stack([np.arange(len(sizes)), sizes, np.nan_to_num(sums.T)])
    drawn = resampled_sums(rows, replicates, (seed, *task.name.encode()))
    score, part, means = values.mean(axis=1), sizes / n, sums[:-1] / sizes
    wider = float(1 / (1 - 2 * (part**3).sum() / (part**2).sum() + (part**2).sum()))
    largest, span = np.nanmax(np.nanmax(means, axis=0) - np.nanmin(means, axis=0)), np.nanmax(means) - np.nanmin(means)
    return Plain(
        score,
        math.sqrt(wider) * (drawn[:, 2:] / drawn[:, 1:2]).T - math.sqrt(wider) * score[:, None],
        (sums - sizes * score[:, None]) / n,
        wider,
        float(1 / (part**2).sum() - 1),
        float(2 * (largest / (len(sizes) + 2)) ** 2),
        float((span / (len(sizes) + 2)) ** 2 / 2),
    )


def half(critical: float, variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Of an interval: variances of tasks, and their degrees of freedom."""
    freedom = sum(variances) ** 2 / sum(one**2 / of for one, of in zip(variances, freedoms, strict=True))
    wider = critical * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(sum(variances) * freedom * math.expm1(wider**2 / freedom))


def plainly(table: Table, weights: Mapping[str, float], seed: int) -> dict[str, tuple[float, float, int, int]]:
    """Score, its lower bound, lowest and highest rank of each model by the definition, one difference at a time."""
    tasks = [plain(task, 100, seed) for task in table.tasks]
    shares = [weights[task.name] / sum(weights.values()) for task in table.tasks]
    freedoms, normal = [task.freedom for task in tasks], float(scipy_stats.norm.ppf(0.975))
    count, chance = len(table.models), len(table.models)
    worst, leaders = [], []
    for task in tasks:
        had = [(round(float(task.score[at]), 9), name, at) for at, name in enumerate(table.models)]
        had = [each for each in had if not math.isnan(each[0])]
        lowest, _, last = min(had)
        worst.append(last if lowest <= 0 else chance)
        leaders.append(min(had, key=lambda each: (-each[0], each[1]))[2])

    def rows(model: int, instead: Sequence[int]) -> list[int]:
        """The row of each task that counts for the model."""
        return [other if np.isnan(task.score[model]) else model for task, other in zip(tasks, instead, strict=True)]

    def summed(of: Sequence[int], what: str) -> Floats:
        parts = [share * getattr(task, what)[at] for share, task, at in zip(shares, tasks, of, strict=True)]
        return np.asarray(np.sum(parts, axis=0))

    def surely(a: Sequence[int]) -> tuple[int, int]:
        """How many models as they stand are better than `a`, and how many worse."""
        others = [rows(b, worst) for b in range(count)]
        variances = [
            [share**2 * task.variance(*pair) for share, task, *pair in zip(shares, tasks, a, b, strict=True)]
            for b in others
        ]
        t = [
            np.abs(summed(a, "away") - summed(b, "away")) / math.sqrt(sum(v))
            for b, v in zip(others, variances, strict=True)
        ]
        critical = max(normal, float(np.quantile(np.max(t, axis=0), 0.95, method="higher")))
        gaps = [
            (summed(b, "score") - summed(a, "score")) / half(critical, v, freedoms)
            for b, v in zip(others, variances, strict=True)
        ]
        return sum(bool(gap > 1) for gap in gaps), sum(bool(gap < -1) for gap in gaps)

    found = {}
    for model, name in enumerate(table.models):
        stands, best = rows(model, worst), rows(model, leaders)
        own = [
            share**2 * (task.variance(at, chance) - task.largest + task.span)
            for share, task, at in zip(shares, tasks, stands, strict=True)
        ]
        score = float(summed(stands, "score"))
        better, worse = surely(stands)
        found[name] = score, score - half(normal, own, freedoms), 1 + min(better, surely(best)[0]), count - worse
    return found


@pytest.mark.parametrize("seed", range(12))
def test_ranks_are_those_of_the_definition(seed: int) -> None:
    """Sums over documents replace the documents, and change nothing. Negative control: other weights do."""
    whole = odd_table(seed)
    weights = {"answers": 2.0, "passages": 1.0, "guessed": 0.5, "errors": 1.0, "bits": 0.7}
    for models in (whole.models, whole.models[:5]):
        asked = part_of(whole, list(weights), models)
        rows = prepare(whole, 100, seed).rank(weights, models).rows
        found = {row.model: (row.score, row.low, row.rank_low, row.rank_high) for row in rows}
        expected, wrong = plainly(asked, weights, seed), plainly(asked, weights | {"answers": 2.01}, seed)
        for model in models:
            assert found[model] == pytest.approx(expected[model], abs=1e-9)
            assert found[model] != pytest.approx(wrong[model], abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_each_choice_has_one_ranking(seed: int) -> None:
    """Prepared once, or ranked alone; whatever the order of tasks and models."""
    rng = np.random.default_rng(seed)
    whole = odd_table(seed)
    prepared = prepare(whole, 100, seed)
    tasks = rng.permutation(prepared.tasks)[: rng.integers(1, 6)].tolist()
    models = rng.permutation(prepared.models)[: rng.integers(3, 8)].tolist()
    weights = dict(zip(tasks, rng.uniform(0.1, 3, len(tasks)).tolist(), strict=True))
    asked = part_of(whole, tasks, models)
    if any(np.isnan(task.values).all() for task in asked.tasks):
        with pytest.raises(ValueError, match="no model has it"):
            prepared.rank(weights, models)
        return
    for sample in (False, True):
        once = prepared.rank(weights, models, resample_tasks=sample)
        assert_same(once, rank(asked, 100, seed, weights, resample_tasks=sample))
        turned = prepare(part_of(whole, prepared.tasks[::-1], prepared.models[::-1]), 100, seed)
        again = turned.rank(dict(reversed(weights.items())), models[::-1], resample_tasks=sample)
        assert sorted_missing(again) == sorted_missing(once)


def test_other_tasks_and_models_change_a_choice() -> None:
    """Negative control of the above."""
    prepared = prepare(odd_table(1))
    rows = prepared.rank({"answers": 1.0, "bits": 1.0}).rows
    assert rows != prepared.rank({"answers": 1.0, "bits": 1.1}).rows
    assert rows != prepared.rank({"answers": 1.0, "errors": 1.0}).rows
    assert rows != prepare(odd_table(1), seed=1).rank({"answers": 1.0, "bits": 1.0}).rows
    few = by_name(prepared.rank({"answers": 1.0, "bits": 1.0}, prepared.models[:4]))
    assert few != {row.model: row for row in rows if row.model in few}


def test_the_same_documents_are_drawn_whatever_models_take_part() -> None:
    """Two models give four kinds of documents, ten give many: drawn in two ways, p_best would differ."""
    whole = table(made(np.linspace(0.1, 0, 10).tolist(), 1000, 5))
    for models in (["m0", "m1"], ["m4", "m3", "m9"]):
        assert_same(prepare(whole, 200).rank(models=models), rank(part_of(whole, ["t0"], models), 200))


def test_a_model_that_is_not_chosen_widens_nothing() -> None:
    """One far below the others makes their difference less sure: only while it takes part."""
    rng = np.random.default_rng(0)
    values = 0.5 + 0.002 * rng.normal(size=(3, 100)) + [[0.006], [0.0], [0.0]]
    values[2, 50] = -1
    prepared = prepare(table(values), 200)
    pair = prepared.rank(models=["m0", "m1"])
    assert_same(pair, rank(table(values[:2]), 200))
    assert [row.klass for row in pair.rows] == [1, 2]
    assert by_name(prepared.rank())["m1"].klass == 1


def test_of_equally_good_models_the_first_stands_in_whatever_the_rounding() -> None:
    """The same values on other documents: their sums differ in the last digit, which is no reason."""
    values = np.tile([0.1, 0.2, 0.3, 0.7, 0.6], 12)
    owned, larger = np.array([True, True, False]), 0
    for seed in range(20):
        pair = np.stack([values, np.random.default_rng(seed).permutation(values)])
        for sign in (1, -1):  # the best, and all below chance
            part = condensed(sign * pair, owned, None, 1.0, 100, 0)
            rows, stand_in, leader = part.rows(np.arange(3))
            assert leader == 0 and stand_in == rows[2] == (2 if sign == 1 else 0)
            larger += part.score[1] > part.score[0]
    assert larger  # by rounding: the larger would be the second


def test_what_is_missing_depends_on_the_choice() -> None:
    strong, weak = made([1.0, 0.0, -1.0], 300, 7), made([-0.3, 0.2, 0.0], 300, 8)
    weak[0] = np.nan
    prepared = prepare(table(strong, weak))
    assert by_name(prepared.rank())["m0"].missing == ("t1",)
    for weights in ({"t0": 1.0}, {"t0": 2.0, "t1": 0.0}):
        found = by_name(prepared.rank(weights))
        assert found["m0"].missing == () and found["m0"].score == pytest.approx(strong[0].mean())
    assert by_name(prepared.rank(models=["m1", "m2"])).keys() == {"m1", "m2"}
    with pytest.raises(ValueError, match="t1: no model has it"):
        prepared.rank(models=["m0"])
    scores = prepared.task_scores()
    assert scores["t1"] == {"m1": pytest.approx(weak[1].mean()), "m2": pytest.approx(weak[2].mean())}
    assert list(scores) == ["t0", "t1"] and len(scores["t0"]) == 3


def arrays_in(thing: object) -> list[NDArray[np.generic]]:
    """All arrays that it holds, through dataclasses, mappings and sequences."""
    if isinstance(thing, np.ndarray):
        return [thing] if thing.base is None else [thing, *arrays_in(thing.base)]
    inner: Iterable[object] = ()
    if is_dataclass(thing):
        inner = [getattr(thing, part.name) for part in fields(thing)]
    elif isinstance(thing, Mapping):
        inner = thing.values()
    elif isinstance(thing, list | tuple):
        inner = thing
    return [array for part in inner for array in arrays_in(part)]


def test_prepared_holds_no_documents() -> None:
    """Ten times the documents take not one byte more. Negative control: the table itself holds them."""
    few, many = (
        table(made([0.1, 0.0, -0.1], n, 3), made([0.3, 0.0, 0.1], n, 4), clusters=[place // 2 for place in range(n)])
        for n in (434, 4340)
    )
    sizes = [sum(array.nbytes for array in arrays_in(prepare(each, 100))) for each in (few, many)]
    assert sizes[0] == sizes[1] > 0
    assert {217, 434} & {length for array in arrays_in(prepare(few, 100)) for length in array.shape} == set()
    assert {434} & {length for array in arrays_in(few) for length in array.shape}


def test_odd_choices_are_refused() -> None:
    prepared = prepare(odd_table(2), 100)
    with pytest.raises(ValueError, match="no task cats; there are answers, passages, guessed, errors, bits"):
        prepared.rank({"answers": 1.0, "cats": 0.0})
    with pytest.raises(ValueError, match="no model m70"):
        prepared.rank(models=["m0", "m70"])
    for models in ([], ["m0", "m0"]):
        with pytest.raises(ValueError, match="needs models, each one once"):
            prepared.rank(models=models)
    for weights in ({}, {"answers": 0.0}, {"answers": -1.0, "bits": 1.0}, {"answers": math.inf}, {"bits": math.nan}):
        with pytest.raises(ValueError, match="numbers from 0, and not all 0"):
            prepared.rank(weights)
    task = TaskValues("t", np.ones((2, 3)))
    for twice, what in ((Table(["a", "a"], [task]), "models"), (Table(["a", "b"], [task, task]), "tasks")):
        with pytest.raises(ValueError, match=f"{what} of one name: [at]$"):
            prepare(twice)


def test_enormous_and_tiny_weights_are_weights() -> None:
    prepared = prepare(odd_table(3), 100)
    assert prepared.rank({"answers": 1e308, "bits": 1e308}) == prepared.rank({"answers": 1.0, "bits": 1.0})
    for tiny in (1e-20, 1e-300, 5e-324):
        one, both = prepared.rank({"answers": 1e10}), prepared.rank({"answers": 1e10, "bits": tiny})
        assert {row.model: row.score for row in both.rows} == pytest.approx({row.model: row.score for row in one.rows})
