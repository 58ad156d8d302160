"""Noise between checkpoints: unbiased, blind to a trend, and free of what the documents explain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from estbench.stats.noise import step_noise

SERIES = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=4, max_size=30)


@pytest.mark.parametrize(("count", "slope"), [(4, 0.0), (8, 0.1), (30, -0.5)])
def test_the_variance_is_unbiased_whatever_the_slope(count: int, slope: float) -> None:
    rng = np.random.default_rng(count)
    found = [step_noise(slope * np.arange(count) + rng.normal(0, 0.02, count)) for _ in range(4000)]
    variances = np.array([one.noise**2 for one in found]) / 0.02**2
    assert variances.mean() == pytest.approx(1, abs=0.06)
    assert 2 / variances.var() == pytest.approx(found[0].freedom, rel=0.2)


def test_the_plain_deviation_would_take_a_trend_for_noise() -> None:
    """Negative control."""
    rng = np.random.default_rng(1)
    values = 0.01 * np.arange(40) + rng.normal(0, 0.02, 40)
    assert step_noise(values).noise == pytest.approx(0.02, rel=0.3)
    assert values.std(ddof=1) > 4 * 0.02


def test_a_straight_line_has_no_noise() -> None:
    found = step_noise([0.1, 0.2, 0.3, 0.4, 0.5], sampling=0.0)
    assert (found.noise, found.excess, found.upper, found.snr) == (0.0, 0.0, 0.0, None)
    assert found.signal == pytest.approx(0.2)
    flat = step_noise([0.7] * 6)
    assert (flat.noise, flat.signal, flat.snr, flat.excess) == (0.0, 0.0, None, None)


@given(SERIES, st.floats(-1, 1), st.floats(-1, 1))
def test_a_line_added_changes_nothing(values: list[float], start: float, slope: float) -> None:
    line = start + slope * np.arange(len(values))
    assert step_noise(values + line).noise == pytest.approx(step_noise(values).noise, abs=1e-12)


@given(SERIES)
def test_units_scale(values: list[float]) -> None:
    one, hundred = step_noise(values, 0.01), step_noise([100 * value for value in values], 100.0)
    assert hundred.noise == pytest.approx(100 * one.noise, abs=1e-9)
    assert one.excess is not None and hundred.excess == pytest.approx(1e4 * one.excess, abs=1e-9)


def test_flips_of_documents_are_not_counted_twice() -> None:
    """Checkpoints of one ability, whose answers flip on their own: all noise is sampling, and none is in excess."""
    rng = np.random.default_rng(2)
    count, n = 12, 400
    excess, total = [], []
    for _ in range(3000):
        answers = rng.random((count, n)) < 0.6
        apart = answers[1:].astype(float) - answers[:-1]
        found = step_noise(answers.mean(axis=1), sampling=float((apart.var(axis=1) / n).mean()))
        assert found.excess is not None
        excess.append(found.excess)
        total.append(found.noise**2)
    assert np.mean(total) == pytest.approx(0.24 / n, rel=0.05)
    assert np.median(excess) < 0.1 * np.mean(total)


def test_noise_beyond_the_documents_is_found() -> None:
    """Abilities that jump by 2 points from step to step, on 2,000 documents."""
    rng = np.random.default_rng(3)
    excess = []
    for _ in range(300):
        abilities = 0.5 + 0.002 * np.arange(20) + rng.normal(0, 0.02, 20)
        answers = rng.random((20, 2000)) < abilities[:, None]
        apart = answers[1:].astype(float) - answers[:-1]
        found = step_noise(answers.mean(axis=1), sampling=float((apart.var(axis=1) / 2000).mean()))
        assert found.excess is not None
        excess.append(found.excess)
    assert np.mean(excess) == pytest.approx(0.02**2, rel=0.08)


@pytest.mark.parametrize("count", [4, 6, 20])
def test_the_upper_limit_holds_the_variance(count: int) -> None:
    """In 90 % of series or more, also of 4 checkpoints. Negative control: the estimate does so in half or less."""
    rng = np.random.default_rng(count)
    series = [step_noise(rng.normal(0, 0.02, count), sampling=0.0) for _ in range(4000)]
    covered = np.mean([found.upper is not None and found.upper >= 0.02**2 for found in series])
    assert 0.89 < covered < 0.97
    assert np.mean([found.excess is not None and found.excess >= 0.02**2 for found in series]) < 0.55


@pytest.mark.parametrize("count", [4, 6, 20])
def test_a_gate_with_the_upper_limit_keeps_its_level(count: int) -> None:
    """Two checkpoints of one ability, at a level of 0.4 %. Negative control: with `excess` they differ too often."""
    rng = np.random.default_rng(count)
    series = [step_noise(rng.normal(0, 1, count), sampling=0.0) for _ in range(4000)]
    limit = scipy_stats.norm.isf(0.004)  # in units of the error that is believed; the true one is √2
    upper, excess = (
        scipy_stats.norm.sf(limit * np.sqrt([getattr(found, name) for found in series])) for name in ("upper", "excess")
    )
    assert upper.mean() < 0.004 + 3 * upper.std() / math.sqrt(len(series))
    assert excess.mean() > 0.01


@given(SERIES, st.floats(0, 0.1))
def test_the_upper_limit_is_above_the_estimate(values: list[float], sampling: float) -> None:
    found, bare = step_noise(values, sampling), step_noise(values)
    assert found.upper is not None and found.excess is not None and found.upper >= found.excess
    assert (bare.upper, bare.excess) == (None, None)


def test_the_signal_is_what_the_trend_covers() -> None:
    found = step_noise([0.0, 0.3, 0.0, 0.3, 0.6, 0.3, 0.6])
    assert found.signal == pytest.approx(0.4)
    assert found.snr == pytest.approx(found.signal / found.noise)
    rng = np.random.default_rng(4)
    steps = np.arange(30) / 30
    learns, guesses = step_noise(steps + rng.normal(0, 0.05, 30)), step_noise(rng.normal(0, 0.05, 30))
    assert learns.snr is not None and guesses.snr is not None
    assert learns.snr > 10 > 4 > guesses.snr


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_checkpoints_say_so(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} checkpoints: .* at least 4"):
        step_noise([0.5] * count)


@pytest.mark.parametrize(
    ("scores", "sampling"), [([0.1, 0.2, math.nan, 0.3], None), ([0.1] * 4, -1.0), ([0.1] * 4, math.nan)]
)
def test_what_is_no_number_is_refused(scores: list[float], sampling: float | None) -> None:
    with pytest.raises(ValueError, match="needs a number for each checkpoint, and a variance"):
        step_noise(scores, sampling)
