"""Scores of battles, their style covariates, and what is missing in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from estbench_judges.battles import (
    Battles,
    bounds,
    first_position_bias,
    position_consistency,
    swap_scores,
    win_rate,
)
from estbench_judges.style import Features, differences, features
from hypothesis import given
from hypothesis import strategies as st

from estbench.stats import mean_interval
from estbench.stats.resampling import Floats

VERDICT = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan])
BATTLES = st.lists(st.tuples(VERDICT, VERDICT), min_size=1, max_size=40).map(
    lambda pairs: Battles(*np.array(pairs, float).T)
)


def battles(first: list[float], second: list[float]) -> Battles:
    return Battles(np.array(first), np.array(second))


def test_one_order_alone_is_no_score() -> None:
    found = swap_scores(battles([1, 1, math.nan, 0.75], [0, math.nan, 1, 1]))
    np.testing.assert_array_equal(found, [0.5, math.nan, math.nan, 0.875])


def test_consistency_and_bias_are_those_of_prompts_with_both_orders() -> None:
    b = battles([1, 0.75, 0.5, 0, 1, math.nan], [1, 0.25, 0.5, 0, math.nan, 0])
    consistency, bias = position_consistency(b), first_position_bias(b)
    assert consistency and (consistency.value, consistency.n) == (0.75, 4)
    assert bias and (bias.value, bias.n) == (0.25, 4)


def test_without_both_orders_nothing_is_said() -> None:
    b = battles([1, math.nan], [math.nan, 1])
    assert position_consistency(b) is None and first_position_bias(b) is None
    assert win_rate(swap_scores(b)).value is None


@given(BATTLES)
def test_a_bias_is_the_mean_over_games_by_brute_force(b: Battles) -> None:
    kept = [
        (one, other) for one, other in zip(b.model_first, b.model_second, strict=True) if one == one and other == other
    ]
    games = [value for one, other in kept for value in (one, 1 - other)]
    found = first_position_bias(b)
    if not kept:
        assert found is None
        return
    assert found and found.value == pytest.approx(np.mean([np.sign(value - 0.5) for value in games]))


@given(BATTLES)
def test_seen_from_the_anchor_scores_turn_and_the_bias_stays(b: Battles) -> None:
    other = Battles(1 - b.model_second, 1 - b.model_first)
    np.testing.assert_allclose(swap_scores(other), 1 - swap_scores(b))
    one, two = first_position_bias(b), first_position_bias(other)
    assert (one is None) == (two is None)
    if one and two:
        assert one.value == pytest.approx(two.value)
        assert position_consistency(b) == position_consistency(other)


@given(BATTLES)
def test_bounds_hold_whatever_the_missing_would_have_been(b: Battles) -> None:
    values = swap_scores(b)
    low, high = bounds(values, len(values))
    for filled in (0.0, 0.3, 1.0):
        assert low - 1e-12 <= np.nan_to_num(values, nan=filled).mean() <= high + 1e-12


def test_bounds_count_what_was_never_asked_and_refuse_nonsense() -> None:
    assert bounds([1.0, 0.5, math.nan], 5) == (0.3, 0.9)
    for values, planned in (([1.0, 1.0], 1), ([], 0)):
        with pytest.raises(ValueError, match="planned"):
            bounds(values, planned)
    with pytest.raises(ValueError, match="between 0 and 1"):
        battles([1.5], [0])


def test_perfect_agreement_is_not_taken_for_certainty() -> None:
    b = battles([1.0] * 30 + [0.0] * 30, [1.0] * 30 + [0.0] * 30)
    bias = first_position_bias(b)
    assert (
        bias and bias.value == 0 and bias.low is not None and bias.low < 0 and bias.high is not None and bias.high > 0
    )


def test_win_rate_is_the_house_s_interval_of_clusters() -> None:
    values: Floats = np.random.default_rng(0).choice([0, 0.5, 1, math.nan], 200)
    prompts = [place // 2 for place in range(200)]
    kept = np.isfinite(values)
    expected = mean_interval(
        values[kept], [one for one, known in zip(prompts, kept, strict=True) if known], bounds=(0, 1)
    )
    assert win_rate(values, prompts) == expected


def test_features_of_markdown() -> None:
    text = "# Pealkiri\n\n**Tere**, __maailm__ ja snake__case__nimi\n- üks\n* kaks\n1. kolm\n"
    text += "```\n# kood\n- ei loe\n```\n-miinus"
    assert features(text) == Features(len(text.split()), headers=1, items=3, bold=2)
    assert features("") == Features(0, 0, 0, 0)


def test_differences_are_those_of_arena_hard() -> None:
    found = differences(Features(99, 2, 0, 5), Features(49, 0, 4, 5))
    d = [(2 / 100, 0.0), (0.0, 4 / 50), (5 / 100, 5 / 50)]
    np.testing.assert_allclose(found, [50 / 148, *((a - b) / (a + b + 1) for a, b in d)])
    assert not differences("", "").any()


@given(st.text(max_size=200), st.text(max_size=200))
def test_swapping_turns_the_sign(a: str, b: str) -> None:
    np.testing.assert_allclose(differences(a, b), -differences(b, a))
    assert (np.abs(differences(a, b)) <= 1).all() and not differences(a, a).any()


def test_long_nonsense_is_read_in_linear_time() -> None:
    for sign in ("**a", "__a", "#", " ", "1.", "*", "_"):
        features(sign * 300_000)  # in quadratic time this takes hours
