"""The bootstrap draws what it says: exact multinomials, exact sums, the same for a seed whatever the threads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from estbench.stats import resampling
from estbench.stats.resampling import resampled_sums


def test_draws_are_those_of_the_multinomial() -> None:
    """All ten ways to draw three rows of three, as often as they should be."""
    drawn = resampled_sums(np.eye(3), 40_000, seed=1)
    kinds, seen = np.unique(drawn, axis=0, return_counts=True)
    expected = scipy_stats.multinomial.pmf(kinds, 3, [1 / 3] * 3) * len(drawn)
    assert len(kinds) == 10
    assert scipy_stats.chisquare(seen, expected).pvalue > 0.001


def test_few_distinct_rows_are_drawn_as_often_as_many() -> None:
    """0/1 data takes another way, by numbers; the same binomial comes out."""
    bits = np.array([1.0] * 20 + [0.0] * 76)[:, None]
    for rows in (bits, np.hstack([bits, np.arange(96.0)[:, None]])):  # the second column makes all rows distinct
        drawn = resampled_sums(rows, 20_000, seed=2)[:, 0]
        places = np.arange(10, 32)
        seen = [int((drawn == place).sum()) for place in places]
        expected = scipy_stats.binom.pmf(places, 96, 20 / 96)
        scaled = expected / expected.sum() * sum(seen)
        assert scipy_stats.chisquare(seen, scaled).pvalue > 0.001


@pytest.mark.parametrize("n", [1, 2, 7, 640, 70_000])
def test_each_replicate_has_as_many_draws_as_rows(n: int) -> None:
    """Also where a block holds one replicate or less. Negative control: Poisson weights would give other numbers."""
    rows = np.column_stack([np.ones(n), np.arange(n)])
    replicates = max(30, 1 + 2 * resampling.CHUNK // n) if n > 10_000 else 300
    drawn = resampled_sums(rows, replicates, seed=3)
    assert (drawn[:, 0] == n).all()
    assert (drawn[:, 1] == drawn[:, 1].round()).all()
    poisson = np.random.default_rng(0).poisson(1, (300, n)).sum(axis=1)
    assert (poisson != n).any()


def test_sums_of_large_whole_numbers_are_exact() -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 10**6, 60)
    drawn = resampled_sums(np.column_stack([values, np.eye(60)]), 500, seed=4)
    times = drawn[:, 1:].astype(np.int64)
    assert (drawn[:, 0].astype(np.int64) == times @ values).all()
    single = times.astype(np.float32) @ values.astype(np.float32)  # negative control: float32 would not do
    assert (single.astype(np.int64) != times @ values).any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_sums_lie_between_the_extremes(seed: int, n: int, width: int, levels: int) -> None:
    rows = np.random.default_rng(seed).integers(-levels, levels + 1, (n, width)).astype(float)
    drawn = resampled_sums(rows, 50, seed)
    assert drawn.shape == (50, width)
    assert (drawn >= n * rows.min(axis=0)).all() and (drawn <= n * rows.max(axis=0)).all()


@pytest.mark.parametrize("distinct", [3, 10_000])
def test_mean_and_covariance_are_those_of_the_bootstrap(distinct: int) -> None:
    """The sum's covariance is n times that of the rows (divided by n, not n − 1)."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(distinct, 2))[rng.integers(0, distinct, 400)] @ np.array([[1.0, 0.8], [0.0, 0.6]])
    drawn = resampled_sums(rows, 20_000, seed=5)
    expected = len(rows) * np.cov(rows.T, bias=True)
    assert np.cov(drawn.T) == pytest.approx(expected, rel=0.05)
    error = np.sqrt(np.diag(expected) / len(drawn))
    assert (np.abs(drawn.mean(axis=0) - rows.sum(axis=0)) < 4 * error).all()


def test_quantiles_are_those_of_scipys_bootstrap() -> None:
    rng = np.random.default_rng(6)
    one = rng.exponential(size=80)
    other = one + rng.normal(0.2, 0.5, 80)
    theirs = scipy_stats.bootstrap(
        (one, other),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        batch=1000,
        method="percentile",
        rng=rng,
    )
    sums = resampled_sums(np.column_stack([one, other]), 20_000)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


def test_a_seed_gives_the_same_replicates_however_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "CHUNK", 50_000)
    for rows in (np.arange(2000.0).reshape(1000, 2), np.arange(1000.0)[:, None] % 2):
        found = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(resampling, "THREADS", threads)
            found.append(resampled_sums(rows, 230, seed=7))
        assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
        assert (found[0] != resampled_sums(rows, 230, seed=8)).any()
        assert (found[0] != resampled_sums(rows, 230, seed=(7, 1))).any()


def test_chunks_do_not_repeat_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "CHUNK", 1000)
    drawn = resampled_sums(np.random.default_rng(9).normal(size=(100, 1)), 1000, seed=9)
    assert len(np.unique(drawn)) == 1000


def test_nothing_to_draw() -> None:
    assert resampled_sums(np.empty((0, 3)), 5).tolist() == [[0.0] * 3] * 5
    assert resampled_sums([[1.0, 2.0]], 0).shape == (0, 2)
    assert resampled_sums([[1.0, 2.0]], 3).tolist() == [[1.0, 2.0]] * 3


def test_what_is_no_number_stays_none() -> None:
    drawn = resampled_sums([[1.0, math.nan], [2.0, 1.0]], 20)
    assert np.isfinite(drawn[:, 0]).all()
    assert np.isnan(drawn[:, 1]).any()
