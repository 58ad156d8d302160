"""Agreement by the book: published examples, statsmodels, and brute force over pairs."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from estbench_judges.agreement import Level, cohen_kappa, compared, error_rates, human_ceiling, krippendorff_alpha
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from estbench.stats import proportion_interval

N = math.nan
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: four observers, twelve units.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]
RATINGS = st.integers(2, 4).flatmap(
    lambda raters: st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, N]), min_size=raters, max_size=raters), min_size=1, max_size=12
    ).map(lambda rows: np.array(rows).T)
)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_that_of_krippendorff_s_example(level: Level, alpha: float) -> None:
    assert krippendorff_alpha(EXAMPLE, level) == pytest.approx(alpha, abs=5e-4)


@given(RATINGS)
@settings(max_examples=60)
def test_alpha_is_that_of_brute_force_over_pairs(ratings: np.ndarray) -> None:
    items = [[value for value in item if value == value] for item in ratings.T]
    items = [item for item in items if len(item) > 1]
    every = [value for item in items for value in item]
    observed = sum(sum((a - b) ** 2 for a, b in permutations(item, 2)) / (len(item) - 1) for item in items)
    expected = sum((a - b) ** 2 for a, b in permutations(every, 2))
    found = krippendorff_alpha(ratings, "interval")
    if not expected:
        assert found is None
    else:
        assert found == pytest.approx(1 - (len(every) - 1) * observed / expected)


@given(RATINGS, st.sampled_from(["nominal", "ordinal", "interval"]))
@settings(max_examples=40)
def test_alpha_does_not_know_who_rated_and_ordinal_alpha_only_the_order(ratings: np.ndarray, level: Level) -> None:
    one = krippendorff_alpha(ratings, level)
    assert krippendorff_alpha(ratings[::-1], level) == pytest.approx(one)
    if level != "interval":
        assert krippendorff_alpha(np.exp(ratings), level) == pytest.approx(one)


@pytest.mark.parametrize(("ours", "theirs"), [("nominal", None), ("linear", "linear"), ("quadratic", "quadratic")])
def test_kappa_is_that_of_statsmodels(ours: str, theirs: str | None) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 200)
    b = np.clip(a + rng.integers(-1, 2, 200), 0, 4)
    table = np.zeros((5, 5))
    np.add.at(table, (a, b), 1)
    peer = cohens_kappa(table, wt=theirs, return_results=False)
    assert cohen_kappa(a, b, ours) == pytest.approx(peer)  # type: ignore[arg-type]
    assert cohen_kappa(b / 4, a / 4, ours) == pytest.approx(peer)  # type: ignore[arg-type]


def test_kappa_leaves_out_what_is_missing_and_says_nothing_without_variation() -> None:
    assert cohen_kappa([1, 0, N, 1], [1, 0, 1, N]) == 1
    assert cohen_kappa([1, 1], [1, 1]) is None and cohen_kappa([N], [1]) is None
    # A category that nobody used lies between the two: a distance of two places, and it is the same κ.
    assert cohen_kappa([0, 1, 1, 0], [0, 1, 0, 0], "linear", categories=[0, 0.5, 1]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="none of the categories"):
        cohen_kappa([0, 2], [0, 1], categories=[0, 1])


def test_error_rates_are_those_of_each_side() -> None:
    human = [1] * 50 + [0] * 30 + [N, 1]
    judge = [1] * 40 + [0] * 10 + [0] * 27 + [1] * 3 + [1, N]
    found = error_rates(judge, human)
    assert found.q1 == proportion_interval([1] * 40 + [0] * 10)
    assert found.q0 == proportion_interval([1] * 27 + [0] * 3)
    with pytest.raises(ValueError, match="0/1"):
        error_rates([0.5], [1])


def test_a_judge_like_a_person_reaches_the_ceiling_and_a_blind_one_does_not() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=400)
    people = np.round(truth + rng.normal(size=(3, 400)))
    people[rng.random(people.shape) < 0.3] = N
    like = compared(np.round(truth + rng.normal(size=400)), people, "interval")
    blind = compared(np.round(rng.normal(size=400) * 1.4), people, "interval")
    assert like.gap.low is not None and like.gap.high is not None and like.gap.low < 0 < like.gap.high
    assert blind.gap.high is not None and blind.gap.high < 0
    assert like.people == human_ceiling(people, "interval")
    assert like.people.value == pytest.approx(krippendorff_alpha(people, "interval"))
    pairs = np.concatenate([np.stack([people[0], person]) for person in people[1:]], axis=1)  # each pair an item
    for level in ("interval", "ordinal", "nominal"):
        found = compared(people[0], people[1:], level, replicates=10)  # type: ignore[arg-type]
        assert found.judge.value == pytest.approx(krippendorff_alpha(pairs, level))  # type: ignore[arg-type]


def test_the_interval_of_alpha_covers() -> None:
    """Two raters of one truth with errors of its size: α is ½."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        found = human_ceiling(rng.normal(size=150) + rng.normal(size=(2, 150)), "interval", replicates=500)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.5 <= found.high
    assert hits >= 0.91 * 200


def test_scores_without_categories_are_an_interval_scale() -> None:
    ratings = np.random.default_rng(3).normal(size=(2, 60))
    assert krippendorff_alpha(ratings, "interval") is not None
    with pytest.raises(ValueError, match="interval"):
        krippendorff_alpha(ratings, "ordinal")


def test_where_nothing_is_paired_or_all_are_equal_nothing_is_said() -> None:
    assert krippendorff_alpha([[1, N], [N, 1]]) is None and krippendorff_alpha([[1, 1], [1, 1]]) is None
    lonely = compared([1, 0, 1], [[1, 0, N]])
    assert lonely.judge.value == 1 and lonely.people.value is None and lonely.gap.value is None
    nothing = compared([N, N], [[1, 0]])
    assert nothing.judge.value is None and nothing.gap.value is None
