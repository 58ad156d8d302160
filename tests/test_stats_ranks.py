"""Ranks are as sure as they say: simulated coverage, pairing, ties, missing tasks, and degenerate tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from estbench.metrics.translation import chrf
from estbench.stats import corpus_difference, mean_interval
from estbench.stats.ranks import Ranked, Ranking, Table, TaskValues, linearised, rank
from estbench.stats.resampling import Floats


def made(
    abilities: Sequence[float], n: int, seed: int | tuple[int, ...], noise: float = 1.0, of_passage: int = 1
) -> Floats:
    """0/1 answers (models, n) to documents of which some are hard for all; `of_passage` documents are equally hard."""
    rng = np.random.default_rng(seed)
    hard = np.repeat(rng.normal(size=n // of_passage), of_passage)
    return (np.array(abilities)[:, None] + noise * rng.normal(size=(len(abilities), n)) > hard).astype(float)


def table(*tasks: Floats, chance: float | None = None, clusters: Sequence[int] | None = None) -> Table:
    models = [f"m{place}" for place in range(len(tasks[0]))]
    return Table(models, [TaskValues(f"t{place}", values, clusters, chance) for place, values in enumerate(tasks)])


def by_name(ranking: Ranking) -> dict[str, Ranked]:
    return {row.model: row for row in ranking.rows}


def chrf_rows(seed: int, n: int, quality: float) -> Floats:
    """Counts (n, 24) like those of chrF++."""
    rng = np.random.default_rng(seed)
    totals = rng.integers(20, 60, (n, 8)).astype(float)
    return np.stack([totals, totals + 2, rng.binomial(totals.astype(int), quality)], axis=-1).reshape(n, 24)


@pytest.mark.parametrize(("count", "n", "of_passage"), [(5, 200, 1), (4, 200, 10), (3, 12, 1)])
def test_equal_models_share_all_ranks(count: int, n: int, of_passage: int) -> None:
    """The hardest case: each interval has to reach from the first to the last rank, and there is one class."""
    codes = (np.arange(n) // of_passage).tolist()
    whole, single, runs = 0, 0, 200
    for seed in range(runs):
        found = rank(
            table(*(made([0.0] * count, n, (seed, task), 1.0, of_passage) for task in (1, 2)), clusters=codes), 200
        )
        whole += sum((row.rank_low, row.rank_high) == (1, count) for row in found.rows)
        single += found.rows[-1].klass == 1
    assert whole / runs / count > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)
    assert single / runs > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(("passages", "spread"), [(20, 1.0), (60, 1.5)])
def test_passages_of_unequal_size_split_no_equal_models(passages: int, spread: float) -> None:
    """A few passages hold half of the documents: counted by their number, one table in ten would be split."""
    whole, single, runs = 0, 0, 300
    for seed in range(runs):
        rng = np.random.default_rng((19, seed))
        sizes = rng.lognormal(0, spread, passages)
        codes = np.concatenate([np.arange(passages), rng.choice(passages, 600 - passages, p=sizes / sizes.sum())])
        passage, own = rng.normal(0, 0.6, (6, passages)), rng.normal(0, 0.8, (6, 600))
        answers = (passage[:, codes] + own > rng.normal(size=600)).astype(float)
        found = rank(table(answers, clusters=codes.tolist()), 200)
        whole += sum((row.rank_low, row.rank_high) == (1, 6) for row in found.rows)
        single += found.rows[-1].klass == 1
    assert whole / runs / 6 > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)
    assert single / runs > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_one_passage_with_nearly_all_documents_tells_next_to_nothing() -> None:
    """Negative control: in passages of equal size the same answers tell the models apart."""
    values = np.array([[1.0] * 400, [0.0] * 400])
    values[:, ::10] = 1 - values[:, ::10]
    giant = [0] * 398 + [1, 2]
    assert [row.klass for row in rank(table(values, clusters=giant)).rows] == [1, 1]
    assert [row.klass for row in rank(table(values, clusters=(np.arange(400) // 10).tolist())).rows] == [1, 2]


def test_intervals_hold_the_true_ranks_and_scores() -> None:
    abilities = [0.4, 0.2, 0.15, 0.0, -0.5]
    ranks, scores, narrow, runs = 0, 0, 0, 150
    for seed in range(runs):
        for row in rank(table(made(abilities, 400, (seed, 1)), made(abilities, 400, (seed, 2))), 200).rows:
            place = int(row.model[1:])
            ranks += row.rank_low <= place + 1 <= row.rank_high
            narrow += row.rank_high - row.rank_low < 4
            assert row.low is not None and row.high is not None
            scores += row.low <= scipy_stats.norm.cdf(abilities[place] / math.sqrt(2)) <= row.high
    assert ranks / runs / 5 > 0.95
    assert 0.93 < scores / runs / 5 < 0.97
    assert narrow / runs / 5 > 0.9  # and they say something


def test_documents_of_one_passage_are_one() -> None:
    """Ten copies of each document tell no more than one. Negative control: without clusters they would."""
    values = made([0.2, 0.1, 0.0], 60, 2)
    codes = np.repeat(np.arange(60), 10).tolist()
    copies = np.repeat(values, 10, axis=1)
    single, clustered, alone = (
        rank(table(values)).rows,
        rank(table(copies, clusters=codes)).rows,
        rank(table(copies)).rows,
    )
    for one, many, wrong in zip(single, clustered, alone, strict=True):
        assert (one.rank_low, one.rank_high, one.klass) == (many.rank_low, many.rank_high, many.klass)
        assert one.low == pytest.approx(many.low)
        assert wrong.low is not None and one.low is not None and one.score - one.low > 2.5 * (wrong.score - wrong.low)
    assert single[-1].klass == 1 < alone[-1].klass


def test_models_are_compared_on_the_same_documents() -> None:
    """Two points apart where hard documents are hard for both. Negative control: with one model's documents shuffled
    the same scores can't be told apart."""
    values = made([0.06, 0.0], 1000, 3, noise=0.05)
    assert [row.klass for row in rank(table(values)).rows] == [1, 2]
    shuffled = np.stack([values[0], np.random.default_rng(0).permutation(values[1])])
    unpaired = rank(table(shuffled)).rows
    assert [row.klass for row in unpaired] == [1, 1]
    assert [(row.rank_low, row.rank_high) for row in unpaired] == [(1, 2), (1, 2)]
    assert [row.score for row in unpaired] == pytest.approx([row.score for row in rank(table(values)).rows])


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_ranking_is_coherent(seed: int, count: int, tasks: int) -> None:
    rng = np.random.default_rng(seed)
    values = [made(rng.normal(0, 0.5, count).tolist(), int(rng.integers(2, 60)), (seed, task)) for task in range(tasks)]
    for task in values[1:]:
        task[rng.random(count) < 0.3] = np.nan
    values = [task for task in values if not np.isnan(task).all()]
    rows = rank(table(*values, chance=0.25), 100, seed).rows
    assert sorted(row.model for row in rows) == [f"m{place}" for place in range(count)]
    assert all(before.score >= after.score - 1e-9 for before, after in pairwise(rows))
    assert [row.klass for row in rows] == sorted(row.klass for row in rows)
    assert rows[0].klass == rows[0].rank_low == rows[0].rank == 1
    assert sum(row.p_best or 0 for row in rows) == pytest.approx(1)
    for row in rows:
        assert 1 <= row.rank_low <= row.rank <= row.rank_high <= count
        assert row.low is None or row.high is None or row.low < row.score <= row.high <= 1
        assert (row.leave_one_out is None) == (len(values) == 1)


def test_one_tasks_interval_is_nearly_students() -> None:
    """Two clusters more and an approximate quantile: a little wider, never narrower."""
    rng = np.random.default_rng(5)
    for n, most in ((10, 1.3), (40, 1.12), (400, 1.03)):
        values = rng.normal(0.5, 0.1, (1, n))
        [row] = rank(table(values)).rows
        expected = mean_interval(values[0])
        assert row.low is not None and row.high is not None and expected.low is not None and expected.high is not None
        width = (row.high - row.low) / (expected.high - expected.low)
        assert 1 <= width < most
        assert row.score == pytest.approx(values.mean())


def test_scores_are_corrected_for_chance_and_averaged() -> None:
    choice = TaskValues("choice", np.array([[1.0, 1, 1, 0], [0, 1, 0, 0]]), chance=0.25)
    points = TaskValues("points", np.array([[80.0, 90], [70, 60]]), maximum=100.0, chance=20.0)
    found = by_name(rank(Table(["a", "b"], [choice, points])))
    assert found["a"].score == pytest.approx(((0.75 - 0.25) / 0.75 + (85 - 20) / 80) / 2)
    assert found["b"].score == pytest.approx((0.0 + (65 - 20) / 80) / 2)
    weighted = by_name(rank(Table(["a", "b"], [choice, points]), weights={"choice": 3.0, "points": 1.0}))
    assert weighted["a"].score == pytest.approx(0.75 * (2 / 3) + 0.25 * (85 - 20) / 80)
    only = by_name(rank(Table(["a", "b"], [choice, points]), weights={"choice": 0.0, "points": 2.0}))
    assert only["b"].score == pytest.approx((65 - 20) / 80)
    assert only["b"].leave_one_out is None


def test_lower_can_be_better() -> None:
    """Errors: 0 is best; chance, or the worst possible, counts as 0."""
    errors = np.array([[0.1] * 5 + [0.2] * 5, [0.4] * 5 + [0.3] * 5])
    task = TaskValues("errors", errors, higher_is_better=False)
    found = by_name(rank(Table(["a", "b"], [task])))
    assert (found["a"].score, found["b"].score) == pytest.approx((0.85, 0.65))
    task = TaskValues("errors", errors, higher_is_better=False, chance=0.5)
    found = by_name(rank(Table(["a", "b"], [task])))
    assert (found["a"].score, found["b"].score) == pytest.approx((0.7, 0.3))


def test_bits_need_a_scale() -> None:
    bits = np.array([[0.8, 0.9, 1.0], [1.2, 1.1, 1.0]])
    scaled = TaskValues("bits", bits, maximum=None, higher_is_better=False, chance=1.5, scale=0.5)
    assert by_name(rank(Table(["a", "b"], [scaled])))["a"].score == pytest.approx((1.5 - 0.9) / 0.5)
    for half in ({"chance": 1.5}, {"scale": 0.5}):
        with pytest.raises(ValueError, match="bits has no best possible score: give chance and scale, or leave it out"):
            rank(Table(["a", "b"], [TaskValues("bits", bits, maximum=None, higher_is_better=False, **half)]))
    with pytest.raises(ValueError, match="nothing is better than chance"):
        rank(Table(["a", "b"], [TaskValues("easy", bits, chance=1.0)]))


def test_units_do_not_matter() -> None:
    values = made([0.3, 0.1, 0.0], 100, 6)
    whole = Table(["a", "b", "c"], [TaskValues("t", 100 * values, maximum=100.0)])
    for one, other in zip(rank(Table(["a", "b", "c"], [TaskValues("t", values)])).rows, rank(whole).rows, strict=True):
        assert (one.model, one.rank_low, one.rank_high, one.klass) == (
            other.model,
            other.rank_low,
            other.rank_high,
            other.klass,
        )
        assert one.low == pytest.approx(other.low)


def test_a_missing_task_is_never_free() -> None:
    """The best model leaves out the task in which it is weakest: it gets the worst model's place there."""
    strong, weak = made([1.0, 0.0, -1.0], 300, 7), made([-0.3, 0.2, 0.0], 300, 8)
    with_it = by_name(rank(table(strong, weak)))["m0"]
    lacking = weak.copy()
    lacking[0] = np.nan
    without = by_name(rank(table(strong, lacking)))["m0"]
    assert without.missing == ("t1",) and with_it.missing == ()
    assert without.score == pytest.approx(strong[0].mean() / 2)  # chance: 0
    assert without.score < with_it.score
    assert without.rank_low <= with_it.rank_low and without.rank_high >= with_it.rank_high
    assert without.rank_low == 1  # with the best model's answers it would lead
    assert by_name(rank(table(strong, lacking)))["m1"].missing == ()


def test_where_all_are_below_chance_a_missing_task_counts_as_the_worst() -> None:
    one, other = (
        np.array([[1.0, 0] * 20, [1, 0] * 20, [1, 1] * 20]),
        np.array([[0.0] * 40, [1, 0, 0, 0] * 10, [0.0] * 40]),
    )
    other[2] = np.nan
    found = by_name(rank(table(one, other, chance=0.5)))
    assert found["m2"].score == pytest.approx((1 - 1) / 2)  # 1 and −1
    assert found["m0"].score == pytest.approx((0 - 1) / 2)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_leaving_out_a_task_gains_nothing_on_those_who_did_not(seed: int) -> None:
    """On the missing task nobody is behind the one who lacks it."""
    rng = np.random.default_rng(seed)
    values = [made(rng.normal(0, 1, 4).tolist(), 40, (seed, task)) for task in (1, 2)]
    values[1][2] = np.nan
    worst = min(0.0, float((np.delete(values[1], 2, axis=0).mean(axis=1).min() - 0.5) / 0.5))
    found = by_name(rank(table(*values, chance=0.5), 100))
    assert found["m2"].score == pytest.approx(((values[0][2].mean() - 0.5) / 0.5 + worst) / 2)


def test_identical_models_tie() -> None:
    values = made([0.5, -0.5], 200, 9)
    rows = rank(table(np.stack([values[0], values[1], values[0]]), np.stack([values[0], values[1], values[0]]))).rows
    first, second, last = rows
    assert (first.model, second.model, last.model) == ("m0", "m2", "m1")
    assert (first.rank, second.rank, last.rank) == (1, 1, 3)
    assert (first.rank_low, first.rank_high) == (second.rank_low, second.rank_high) == (1, 2)
    assert (first.klass, second.klass, last.klass) == (1, 1, 2)
    assert (first.p_best, second.p_best, last.p_best) == (0.5, 0.5, 0.0)
    same = rank(table(np.repeat(values[:1], 4, axis=0))).rows
    assert [(row.rank, row.rank_low, row.rank_high, row.klass) for row in same] == [(1, 1, 4, 1)] * 4


def test_all_right_against_all_wrong() -> None:
    """A hundred documents tell them apart, two do not."""
    assert [row.klass for row in rank(table(np.repeat([[1.0], [0.0]], 100, axis=1))).rows] == [1, 2]
    few = rank(table(np.repeat([[1.0], [0.0]], 2, axis=1))).rows
    assert [(row.rank_low, row.rank_high, row.klass) for row in few] == [(1, 2, 1), (1, 2, 1)]


def test_one_model_is_first() -> None:
    [row] = rank(table(made([0.0], 50, 10))).rows
    assert (row.rank, row.rank_low, row.rank_high, row.p_best, row.klass, row.leave_one_out) == (1, 1, 1, 1.0, 1, None)


@pytest.mark.parametrize("clusters", [None, [7] * 30])
def test_one_document_or_one_cluster_tells_nothing(clusters: list[int] | None) -> None:
    """Beside a task that would tell a lot: it takes part in the aggregate, so that nothing is known of that."""
    single = np.tile([[1.0], [0.0]], 30 if clusters else 1)
    both = Table(["a", "b"], [TaskValues("one", single, clusters), TaskValues("many", made([1.0, -1.0], 200, 11))])
    found = rank(both)
    assert found.unsure == ("one",)
    for row in found.rows:
        assert (row.low, row.high, row.p_best, row.rank_low, row.rank_high, row.klass) == (None, None, None, 1, 2, 1)
    weighted = rank(both, weights={"one": 0.0, "many": 1.0})
    assert weighted.unsure == () and [row.klass for row in weighted.rows] == [1, 2]


def test_leaving_one_task_out_shows_who_lives_on_it() -> None:
    values = [
        made(abilities, 400, (12, place))
        for place, abilities in enumerate([(2.0, 0.0, -0.5), (0, 0.3, -0.5), (0, 0.3, -0.5)])
    ]
    found = by_name(rank(table(*values)))
    assert found["m0"].rank == 1
    assert found["m0"].leave_one_out == (1, 2)
    assert found["m1"].leave_one_out == (1, 2)
    assert found["m2"].leave_one_out == (3, 3)


def test_a_sample_of_tasks_is_less_sure() -> None:
    values = [made([0.2 + shift, 0.0], 500, (13, place)) for place, shift in enumerate([0.4, -0.3, 0.2, -0.1, 0.3])]
    fixed, sampled = rank(table(*values)), rank(table(*values), resample_tasks=True)
    assert [row.klass for row in fixed.rows] == [1, 2]
    assert [row.klass for row in sampled.rows] == [1, 1]
    assert (fixed.rows[0].p_best or 0) > (sampled.rows[0].p_best or 0)
    assert [row.score for row in fixed.rows] == [row.score for row in sampled.rows]
    assert rank(table(values[0]), resample_tasks=True).unsure == ("t0",)


def test_the_same_seed_gives_the_same_ranking() -> None:
    values = made([0.3, 0.1, 0.0], 100, 14)
    assert rank(table(values), seed=1) == rank(table(values), seed=1)
    assert rank(table(values), seed=1) != rank(table(values), seed=2)


def test_odd_tables_are_refused() -> None:
    values = made([0.3, 0.1], 10, 15)
    broken = values.copy()
    broken[1, 3] = np.nan
    with pytest.raises(ValueError, match="t0: m1 has 9 of 10 documents; all or none"):
        rank(table(broken))
    with pytest.raises(ValueError, match="t0: no model has it"):
        rank(table(np.full((2, 10), np.nan)))
    with pytest.raises(ValueError, match="t: values of 3 models and at least one document"):
        rank(Table(["a", "b", "c"], [TaskValues("t", values)]))
    for empty in (Table([], []), Table(["a"], [])):
        with pytest.raises(ValueError, match="needs a model, a task and at least 100 replicates"):
            rank(empty)
    for weights in ({}, {"t0": 1.0, "other": 1.0}):
        with pytest.raises(ValueError, match="each task needs one weight"):
            rank(table(values), weights=weights)
    for weight in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="numbers from 0, and not all 0"):
            rank(table(values), weights={"t0": weight})


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_linearised_values_average_to_the_corpus_score(seed: int, n: int, grouped: bool) -> None:
    rows = chrf_rows(seed % 1000, n, 0.6)
    clusters = (np.arange(n) // 3).tolist() if grouped else None
    values = linearised(rows, chrf, clusters)
    assert values.mean() == pytest.approx(float(chrf(rows.sum(axis=0))), rel=1e-12)


@pytest.mark.parametrize("size", [1, 4])
def test_linearised_values_are_the_jackknifes(size: int) -> None:
    """By hand for documents; the standard error is that of the paired corpus difference, clusters included."""
    a, b = chrf_rows(1, 80, 0.6), chrf_rows(2, 80, 0.55)
    clusters = (np.arange(80) // size).tolist()
    if size == 1:
        whole = float(chrf(a.sum(axis=0)))
        pseudo = np.array(
            [80 * whole - 79 * float(chrf(np.delete(a, place, axis=0).sum(axis=0))) for place in range(80)]
        )
        assert linearised(a, chrf) - whole == pytest.approx(pseudo - pseudo.mean(), abs=1e-8)
    d = linearised(a, chrf, clusters) - linearised(b, chrf, clusters)
    expected = corpus_difference(a, b, chrf, clusters, replicates=0)
    interval = mean_interval(d, clusters)
    assert interval.value == pytest.approx(expected.value)
    assert interval.low == pytest.approx(expected.low(0.025))


def test_linearised_degenerate_corpora() -> None:
    rows = chrf_rows(3, 5, 0.5)
    assert linearised(rows, chrf, [1] * 5) == pytest.approx(float(chrf(rows.sum(axis=0))))  # one cluster: all the same
    assert len(linearised(rows[:1], chrf)) == 1
    for broken in (np.empty((0, 1)), np.array([[1.0], [math.nan]])):
        with pytest.raises(ValueError, match="corpus score is not a number"):
            linearised(broken, lambda sums: sums[..., 0])
