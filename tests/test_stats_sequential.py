"""Looking early does not cost more than alpha: against published boundaries, scipy's integrals, and by simulation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as scipy_stats

from estbench.stats.sequential import Spending, nominal_levels, spent

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)
LOOKS = (0.1, 0.2, 0.4, 0.7, 1.0)
SPENDINGS: list[Spending] = ["pocock", "obrien-fleming", "linear"]


def bounds(levels: tuple[float, ...]) -> list[float]:
    return [float(scipy_stats.norm.isf(level)) for level in levels]


def crossings(levels: tuple[float, ...], shares: tuple[float, ...], paths: int = 400_000) -> np.ndarray:
    """Simulated shares of paths without an effect that have crossed by each look."""
    rng = np.random.default_rng(1)
    steps = np.sqrt(np.diff([0.0, *shares]))
    looks = (rng.normal(size=(paths, len(shares))) * steps).cumsum(axis=1) / np.sqrt(shares)
    return np.asarray(np.logical_or.accumulate(looks >= bounds(levels), axis=1).mean(axis=0))


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        ("obrien-fleming", [4.877, 3.357, 2.680, 2.290, 2.031]),
        ("pocock", [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_boundaries_are_the_published_ones(spending: Spending, published: list[float]) -> None:
    """Lan & DeMets' functions, one-sided 0.025, five equal looks (as in Jennison & Turnbull 2000 and gsDesign)."""
    assert bounds(nominal_levels(0.025, FIVE, spending)) == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("spending", SPENDINGS)
def test_simulated_errors_follow_the_spending_function(spending: Spending) -> None:
    found = crossings(nominal_levels(0.05, LOOKS, spending), LOOKS)
    expected = [spent(0.05, share, spending) for share in LOOKS]
    assert found == pytest.approx(expected, abs=4 * math.sqrt(0.05 * 0.95 / 400_000))


def test_the_same_level_at_each_look_would_err_too_often() -> None:
    """Negative control: what happens without spending."""
    assert crossings((0.05,) * 5, LOOKS)[-1] > 0.12


@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=3, unique=True),
    st.floats(1e-3, 0.3),
    st.sampled_from(SPENDINGS),
)
@settings(max_examples=25, deadline=None)
def test_the_total_is_alpha_by_scipys_integral(places: list[int], alpha: float, spending: Spending) -> None:
    shares = np.array(sorted(places)) / 20
    correlation = np.sqrt(np.minimum.outer(shares, shares) / np.maximum.outer(shares, shares))
    limits = np.minimum(bounds(nominal_levels(alpha, tuple(shares), spending)), 30)
    law = scipy_stats.multivariate_normal(np.zeros(len(shares)), correlation, maxpts=200_000, abseps=1e-6, seed=1)
    assert 1 - law.cdf(limits) == pytest.approx(alpha, abs=1e-5)


@pytest.mark.parametrize("alpha", [1e-5, 1e-9])
@pytest.mark.parametrize("spending", SPENDINGS)
def test_tiny_alphas_are_exact(alpha: float, spending: Spending) -> None:
    """Two looks, by one integral: P(Z₁ < b₁, Z₂ ≥ b₂)."""
    first, second = bounds(nominal_levels(alpha, (0.5, 1.0), spending))
    correlation = math.sqrt(0.5)

    def later(z: float) -> float:
        beyond = scipy_stats.norm.sf((second - correlation * z) / math.sqrt(1 - correlation**2))
        return float(scipy_stats.norm.pdf(z) * beyond)

    rest = integrate.quad(later, -10, first, epsabs=0, epsrel=1e-10, limit=200)[0]
    assert scipy_stats.norm.sf(first) == pytest.approx(spent(alpha, 0.5, spending), rel=1e-7)
    assert scipy_stats.norm.sf(first) + rest == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("spending", SPENDINGS)
def test_a_level_depends_on_no_later_look(spending: Spending) -> None:
    whole = nominal_levels(0.05, LOOKS, spending)
    for count in (1, 2, 4):
        assert nominal_levels(0.05, LOOKS[:count], spending, final=False) == pytest.approx(whole[:count], rel=1e-6)


def test_what_is_left_is_spent_at_the_last_look_or_kept() -> None:
    shares = (0.1, 0.3)
    kept, used = nominal_levels(0.05, shares, final=False), nominal_levels(0.05, shares)
    assert crossings(kept, shares)[-1] == pytest.approx(spent(0.05, 0.3), abs=0.0012)
    assert crossings(used, shares)[-1] == pytest.approx(0.05, abs=0.0015)
    assert used[0] == pytest.approx(kept[0])
    assert used[1] > kept[1]


@given(st.floats(1e-6, 0.5), st.sampled_from(SPENDINGS))
def test_one_look_has_all_of_alpha(alpha: float, spending: Spending) -> None:
    assert nominal_levels(alpha, [1.0], spending) == pytest.approx((alpha,), rel=1e-9)
    assert nominal_levels(alpha, [0.4], spending) == pytest.approx((alpha,), rel=1e-9)


@given(st.floats(1e-6, 0.5), st.sampled_from(SPENDINGS))
def test_spending_grows_from_nothing_to_alpha(alpha: float, spending: Spending) -> None:
    totals = [spent(alpha, share / 20, spending) for share in range(21)]
    assert totals[0] == 0
    assert totals[-1] == pytest.approx(alpha)
    assert all(before <= after for before, after in pairwise(totals))


def test_a_look_too_early_for_any_alpha_can_not_stop() -> None:
    levels = nominal_levels(1e-5, (0.005, 0.5, 1.0), "obrien-fleming")
    assert levels[0] == 0
    assert levels[1:] == pytest.approx(nominal_levels(1e-5, (0.5, 1.0), "obrien-fleming"), rel=1e-9)


def test_close_looks_are_nearly_one() -> None:
    """Looks after 500 and 501 of 1,000: the second adds next to nothing to what the first could find."""
    levels = nominal_levels(0.05, (0.5, 0.501, 1.0))
    assert crossings(levels, (0.5, 0.501, 1.0))[-1] == pytest.approx(0.05, abs=0.0015)
    assert levels[2] == pytest.approx(nominal_levels(0.05, (0.5, 1.0))[1], rel=0.01)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_an_alpha_that_is_no_probability_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha has to lie between 0 and 1"):
        nominal_levels(alpha, LOOKS)


@pytest.mark.parametrize("shares", [(), (0.0, 1.0), (0.5, 0.5), (0.6, 0.4), (0.5, 1.1), (math.nan, 1.0)])
def test_shares_that_do_not_grow_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares have to grow"):
        nominal_levels(0.05, shares)


def test_an_unknown_spending_is_refused() -> None:
    with pytest.raises(ValueError, match="'hwang' is none of pocock, obrien-fleming, linear"):
        nominal_levels(0.05, LOOKS, "hwang")  # type: ignore[arg-type]
