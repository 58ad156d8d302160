"""Distributions as scipy has them, adjusted p-values as statsmodels and the closed test have them, pools by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from estbench.stats import benjamini_hochberg, difference, holm, identical, pooled
from estbench.stats.distributions import (
    beta_share,
    binomial_cdf,
    binomial_mid_p,
    normal_quantile,
    normal_tail,
    t_bound,
    t_quantile,
    t_tail,
)
from estbench.stats.families import step_down
from estbench.stats.paired import Difference, corpus_difference, widened

P_VALUES = st.lists(st.floats(0, 1) | st.sampled_from([0.001, 0.01, 0.05, 1.0]), min_size=1, max_size=7)
FREEDOMS = st.floats(0.5, 5000) | st.integers(1, 200).map(float)
Floats = NDArray[np.float64]

# Distributions.


@given(st.floats(-60, 60), FREEDOMS)
def test_tails_of_t_are_scipys_also_tiny_ones_and_with_a_fraction_of_freedom(t: float, freedom: float) -> None:
    assert t_tail(t, freedom) == pytest.approx(scipy_stats.t.sf(t, freedom), rel=1e-7, abs=1e-280)


@pytest.mark.parametrize(("t", "freedom"), [(300.0, 7.5), (40.0, 50.0), (36.0, 1e6), (1e8, 0.5), (1e-12, 3.0)])
def test_extreme_tails_keep_their_digits(t: float, freedom: float) -> None:
    expected = scipy_stats.t.sf(t, freedom)
    assert 0 < t_tail(t, freedom) == pytest.approx(expected, rel=1e-6)


def test_tails_of_infinite_freedom_are_normal_and_infinite_t_has_none() -> None:
    for z in (-9.0, 0.0, 1.0, 5.0, 37.0):
        assert t_tail(z, math.inf) == normal_tail(z) == pytest.approx(scipy_stats.norm.sf(z), rel=1e-12)
    for freedom in (1.5, 30.0):
        assert (t_tail(math.inf, freedom), t_tail(-math.inf, freedom), t_tail(0.0, freedom)) == (0.0, 1.0, 0.5)
    assert t_tail(3.0, 1e9) == pytest.approx(normal_tail(3.0), rel=1e-5)


@given(FREEDOMS, st.floats(1e-8, 1 - 1e-8))
def test_bounds_of_t_are_scipys(freedom: float, tail: float) -> None:
    assert t_bound(freedom, tail) == pytest.approx(scipy_stats.t.isf(tail, freedom), rel=1e-6, abs=1e-7)
    assert t_bound(math.inf, tail) == pytest.approx(scipy_stats.norm.isf(tail), rel=1e-6, abs=1e-7)
    assert normal_quantile(tail) == pytest.approx(scipy_stats.norm.isf(tail), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("freedom", [2.5, 30.0, 500.0, math.inf])
@pytest.mark.parametrize("tail", [1e-10, 1e-14, 1e-18, 1e-25])
def test_bounds_of_tiny_levels_are_scipys(freedom: float, tail: float) -> None:
    """A task of small weight has a small share of an alpha that is small already: 1e-9 × 1e-9."""
    law = scipy_stats.norm if math.isinf(freedom) else scipy_stats.t(freedom)
    assert t_bound(freedom, tail) == pytest.approx(law.isf(tail), rel=1e-6)


@given(FREEDOMS, st.floats(1e-6, 0.5))
def test_bounds_and_tails_are_inverse(freedom: float, tail: float) -> None:
    near = 1e-7  # of a half, where the tail hardly changes with t
    assert t_tail(t_bound(freedom, tail), freedom) == pytest.approx(tail, rel=2 * near)
    assert t_bound(freedom, 1 - tail) == pytest.approx(-t_bound(freedom, tail), rel=1e-6, abs=near)
    assert t_quantile(freedom, 1 - 2 * tail) == pytest.approx(t_bound(freedom, tail), rel=1e-6, abs=near)


@given(st.integers(1, 3000), st.floats(0.001, 0.999), st.data())
def test_the_binomial_is_scipys(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(-1, n))
    assert binomial_cdf(k, n, p) == pytest.approx(scipy_stats.binom.cdf(k, n, p), rel=1e-6, abs=1e-280)


@pytest.mark.parametrize(("k", "n"), [(0, 40), (3, 100), (10, 300), (200, 2000)])
def test_small_binomial_tails_keep_their_digits(k: int, n: int) -> None:
    assert 0 < binomial_cdf(k, n, 0.5) == pytest.approx(scipy_stats.binom.cdf(k, n, 0.5), rel=1e-6)


def test_the_binomial_at_its_ends() -> None:
    assert [binomial_cdf(k, 10, 0.3) for k in (-5, -1, 10, 11)] == [0, 0, 1, 1]
    assert (binomial_cdf(0, 10, 0.0), binomial_cdf(9, 10, 1.0), binomial_cdf(0, 0, 0.5)) == (1, 0, 1)


@given(st.integers(0, 400), st.floats(0.05, 0.95), st.data())
def test_mid_p_is_half_of_what_was_seen_and_all_below(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    law = scipy_stats.binom(n, p)
    assert binomial_mid_p(k, n, p) == pytest.approx(law.cdf(k - 1) + law.pmf(k) / 2, rel=1e-6, abs=1e-280)


@given(st.integers(0, 40), st.data())
def test_mid_p_of_both_sides_is_one(n: int, data: st.DataObject) -> None:
    """Negative control: the exact tails of both sides share what was seen."""
    k = data.draw(st.integers(0, n))
    assert binomial_mid_p(k, n) + binomial_mid_p(n - k, n) == pytest.approx(1)
    assert binomial_cdf(k, n, 0.5) + binomial_cdf(n - k, n, 0.5) > 1


@given(st.floats(0.1, 500), st.floats(0.1, 500), st.floats(1e-300, 1))
def test_the_beta_function_is_scipys(a: float, b: float, x: float) -> None:
    assert beta_share(a, b, x) == pytest.approx(scipy_stats.beta.cdf(x, a, b), rel=1e-6, abs=1e-280)


# Families.


@given(P_VALUES)
@settings(max_examples=20)
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@given(P_VALUES)
@settings(max_examples=20)
def test_benjamini_hochberg_is_statsmodels(p_values: list[float]) -> None:
    assert benjamini_hochberg(p_values) == pytest.approx(list(multipletests(p_values, method="fdr_bh")[1]))


def closed_test(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Adjusted p-values of the closed test whose intersections are tested by weighted Bonferroni: a question is
    rejected if each set of questions that holds it is (Marcus, Peritz & Gabriel 1976)."""
    places = [at for at, weight in enumerate(weights) if weight > 0]
    adjusted = [1.0 if weight == 0 else 0.0 for weight in weights]
    for size in range(1, len(places) + 1):
        for chosen in itertools.combinations(places, size):
            total = sum(weights[at] for at in chosen)
            p = min(1.0, min(p_values[at] * total / weights[at] for at in chosen))
            for at in chosen:
                adjusted[at] = max(adjusted[at], p)
    return adjusted


WEIGHTS = st.floats(0.01, 10) | st.sampled_from([0.0, 1.0])


@given(P_VALUES, st.data())
def test_weighted_holm_is_the_closed_test_of_weighted_bonferroni(p_values: list[float], data: st.DataObject) -> None:
    weights = data.draw(st.lists(WEIGHTS, min_size=len(p_values), max_size=len(p_values)))
    assume(sum(weights) > 0)
    assert holm(p_values, weights) == pytest.approx(closed_test(p_values, weights))
    assert holm(p_values, [3 * weight for weight in weights]) == pytest.approx(holm(p_values, weights))


@given(P_VALUES)
def test_equal_weights_are_no_weights(p_values: list[float]) -> None:
    assert holm(p_values, [0.3] * len(p_values)) == pytest.approx(holm(p_values))


@given(P_VALUES, st.floats(0.001, 0.5), st.data())
def test_stepping_down_rejects_what_holms_p_values_do(p_values: list[float], alpha: float, data: st.DataObject) -> None:
    weights = data.draw(st.lists(WEIGHTS, min_size=len(p_values), max_size=len(p_values)))
    assume(sum(weights) > 0)
    adjusted = holm(p_values, weights)
    assume(all(abs(p - alpha) > 1e-9 for p in adjusted))
    assert step_down(p_values, weights, alpha) == [p <= alpha for p in adjusted]


def test_a_nominal_level_is_asked_for_each_share() -> None:
    """Half of each share may be spent at this look: what has 0.02 of alpha has to be below 0.01."""
    asked = []

    def half(level: float) -> float:
        asked.append(round(level, 9))
        return level / 2

    assert step_down([0.009, 0.011, 0.3], [0.4, 0.4, 0.2], 0.05, half) == [True, True, False]
    assert asked[:3] == [0.02, 0.02, 0.01] and asked[3:5] == [0.033333333, 0.016666667]
    assert step_down([0.011, 0.011], [0.5, 0.5], 0.04, half) == [False, False]


def test_family_wise_errors_are_alpha_at_most_and_plain_tests_are_not_enough() -> None:
    """Ten true hypotheses, correlated by half; the second half is the negative control."""
    rng = np.random.default_rng(1)
    z = math.sqrt(0.5) * rng.standard_normal((4000, 1)) + math.sqrt(0.5) * rng.standard_normal((4000, 10))
    p_values = scipy_stats.norm.sf(z)
    weights = [0.2, *[0.8 / 9] * 9]
    assert np.mean([min(holm(row, weights)) <= 0.05 for row in p_values.tolist()]) <= 0.055
    assert (p_values.min(axis=1) <= 0.05).mean() > 0.2


def test_nothing_is_asked() -> None:
    assert (benjamini_hochberg([]), step_down([], [], 0.05), holm([], [])) == ([], [], [])
    assert holm([]) == []


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.5], [0.0, 0.0]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="for 2 p-values"):
        holm([0.1, 0.2], weights)


# Pools.


def answers(seed: int, n: int = 400, discordance: float = 0.2) -> tuple[Floats, Floats]:
    """0/1 values of two models."""
    kind = np.random.default_rng(seed).choice(4, n, p=[discordance / 2, discordance / 2, 0.5, 0.5 - discordance])
    return np.isin(kind, (0, 2)).astype(float), np.isin(kind, (1, 2)).astype(float)


def named(task: int, n: int) -> list[tuple[int, int]]:
    return [(task, place) for place in range(n)]


def test_a_pool_of_independent_tasks_is_the_difference_on_all_their_documents() -> None:
    """Tasks weighted by their size: the same mean and error as of one long task."""
    sizes, pairs = (300, 500, 1200), [answers(seed, n) for seed, n in ((1, 300), (2, 500), (3, 1200))]
    parts = [(difference(*pair, units=named(task, len(pair[0]))), float(n))
             for task, (pair, n) in enumerate(zip(pairs, sizes, strict=True))]  # fmt: skip
    found = pooled(parts)
    whole = difference(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    assert found.value == pytest.approx(whole.value)
    assert found.error == pytest.approx(whole.error, rel=0.01)
    assert (found.n, found.better, found.worse) == (whole.n, whole.better, whole.worse)
    assert np.sort(found.influence) == pytest.approx(np.sort(whole.influence), abs=2e-4)
    assert found.interval() == pytest.approx(whole.interval(), abs=5e-4)


def test_a_pool_weighs_and_scales() -> None:
    points = corpus_difference(*rows(4), mean_of)  # as a metric in points beside shares of right answers
    share = difference(*answers(5), units=named(5, 400))
    found = pooled([(share, 1.0), (points, 3.0)], [100.0, 1.0])
    assert found.value == pytest.approx((100 * share.value + 3 * points.value) / 4)  # type: ignore[operator]
    assert found.error == pytest.approx(math.hypot(100 * share.error, 3 * points.error) / 4)  # type: ignore[operator]


def rows(seed: int, n: int = 250) -> tuple[Floats, Floats]:
    """Statistics of two systems: value and one a document."""
    rng = np.random.default_rng(seed)
    base = rng.normal(50, 15, n)
    return np.column_stack([base, np.ones(n)]), np.column_stack([base + rng.normal(0.3, 6, n), np.ones(n)])


def mean_of(sums: Floats) -> Floats:
    quotient: Floats = sums[..., 0] / sums[..., 1]
    return quotient


@pytest.mark.parametrize("groups", [None, [place // 4 for place in range(400)]])
def test_tasks_on_the_same_units_have_the_variance_of_their_sum(groups: list[int] | None) -> None:
    """Perfectly correlated tasks: pooling them gains nothing. Under other names they would count as independent."""
    one, other = answers(6)
    same = difference(one, other, groups, units=named(0, 400))
    twice = pooled([(same, 1.0), (same, 1.0)])
    assert twice.value == same.value
    assert twice.error == pytest.approx(same.error, rel=0.02)
    assert len(twice.units) == len(same.units)
    apart = None if groups is None else [(1, group) for group in groups]
    elsewhere = difference(one, other, apart, units=named(1, 400))
    assert pooled([(same, 1.0), (elsewhere, 1.0)]).error == pytest.approx(same.error / math.sqrt(2))  # type: ignore[operator]


def test_shared_units_count_by_simulation() -> None:
    """Two tasks on the same documents whose differences correlate: the pooled error is the deviation that is seen."""
    rng = np.random.default_rng(7)
    values, errors = [], []
    for _ in range(1500):
        common, *own = (rng.choice([-1.0, 0.0, 1.0], 300, p=[0.1, 0.8, 0.1]) for _ in range(3))
        sides = [np.where(rng.random(300) < 0.7, common, alone) for alone in own]
        parts = [(difference(np.maximum(d, 0), np.maximum(-d, 0)), 1.0) for d in sides]
        found = pooled(parts)
        values.append(found.value)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.06)
    assert np.mean(errors) > 1.15 * np.mean([part.error for part, _ in parts]) / math.sqrt(2)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(0, 1))
@settings(max_examples=50)
def test_tasks_that_cancel_out_are_no_crash(seed: int, n: int, share: float) -> None:
    """What one task gains on a document the other loses: their mean is the same whatever is drawn."""
    rng = np.random.default_rng(seed)
    one = (rng.random(n) < 0.5).astype(float)
    other = np.where(rng.random(n) < share, 1 - one, one)
    found = pooled([(difference(one, other), 1.0), (difference(other, one), 1.0)])
    assert found.value == pytest.approx(0)
    assert found.error is not None and found.error >= 0
    low, high = found.interval()
    assert low is not None and high is not None and low <= 0 <= high


def test_freedom_is_satterthwaites() -> None:
    """Equal variances of 10 and 20 clusters: Welch's degrees of freedom."""
    parts = [
        Difference(0.1, 100, ((task, 0), (task, 1)), 1, 1, "", 0.05, np.zeros(2), freedom=count - 1.0)
        for task, count in enumerate((10, 20))
    ]
    freedom = (2 * 0.05**2) ** 2 / (0.05**4 / 9 + 0.05**4 / 19)
    law = scipy_stats.t(freedom, loc=0.1, scale=0.05 / math.sqrt(2))
    assert pooled([(part, 1.0) for part in parts]).low(0.05) == pytest.approx(law.ppf(0.05))


def test_identical_results_are_pooled_as_no_difference() -> None:
    found = pooled([(identical(500), 1.0), (identical(200), 1.0)])
    assert found.identical and (found.value, found.n, found.p_value(), found.low(0.05)) == (0, 700, 1, 0)
    part = difference(*answers(8))
    half = pooled([(part, 1.0), (identical(400), 1.0)])
    assert half.value == pytest.approx(part.value / 2)  # type: ignore[operator]
    assert half.error == pytest.approx(part.error / 2)  # type: ignore[operator]
    assert half.p_below() == pytest.approx(scipy_stats.t.cdf(part.value / part.error, 399), rel=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(difference([], []), 1.0)],
        [(difference([1], [0]), 1.0)],
        [(difference([1, 0], [0, 1]), 0.0)],
        [(difference([1.0, math.nan], [0.0, 1.0]), 1.0), (difference([1, 0], [0, 1]), 1.0)],
    ],
)
def test_what_has_no_error_can_not_be_pooled(parts: list[tuple[Difference, float]]) -> None:
    with pytest.raises(ValueError, match="need a value, an error and a weight"):
        pooled(parts)


@given(st.floats(0, 0.2))
def test_noise_widens_by_its_variance(extra: float) -> None:
    plain = difference(*answers(9))
    wide = widened(plain, extra)
    assert wide.value == plain.value and plain.error is not None
    assert wide.error == pytest.approx(math.hypot(plain.error, extra))
    if extra:
        law = scipy_stats.t(len(plain.units) - 1, loc=plain.value, scale=wide.error)
        assert wide.interval() == pytest.approx(law.interval(0.95))
        assert wide.p_below() == pytest.approx(law.sf(0)) and "noise" in wide.method
    assert pooled([(wide, 1.0)]).error == pytest.approx(wide.error)
    assert widened(identical(9), extra).identical and widened(difference([], []), extra).value is None
