"""Paired differences: against scipy, statsmodels and sacreBLEU, and degenerate input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_answers import bound, pairs
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from estbench.metrics import translation
from estbench.stats import corpus_difference, difference, identical
from estbench.stats.distributions import normal_tail
from estbench.stats.paired import Difference, sign_flip

COUNTS = st.integers(0, 40)


# --- right or wrong ---------------------------------------------------------------------------------------------------


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_two_sided_p_is_mcnemars_mid_p(better: int, worse: int, both: int, neither: int) -> None:
    a, b = pairs(better, worse, both + 1, neither + 1)
    found = difference(a, b)
    exact = mcnemar([[both, better], [worse, neither]], exact=True).pvalue
    tie = scipy_stats.binom.pmf(min(better, worse), better + worse, 0.5)
    assert found.p_value() == pytest.approx(1.0 if better == worse else exact - tie)
    assert (found.better, found.worse) == (better, worse)


@pytest.mark.parametrize(
    ("better", "worse", "n", "level", "published"),
    [
        (1, 7, 21, 0.95, (-0.517, -0.026)),  # Fagerland, Lydersen & Laake 2014, airway hyper-responsiveness
        (28, 25, 618, 0.90, (-0.0148, 0.0247)),  # R's PropCIs, scoreci.mp(25, 28, 618, 0.9)
    ],
)
def test_tangos_intervals_are_the_published_ones(
    better: int, worse: int, n: int, level: float, published: tuple[float, float]
) -> None:
    found = difference(*pairs(better, worse, n - better - worse, 0))
    assert found.interval(level) == pytest.approx(published, abs=6e-4 if n < 100 else 6e-5)


def test_one_sided_p_is_the_published_mid_p() -> None:
    """The same children: mid-p 0.039, where the exact test has 0.070."""
    found = difference(*pairs(1, 7, 5, 8))
    assert found.p_value() == pytest.approx(0.0391, abs=5e-5)
    assert found.p_below() == pytest.approx(found.p_value() / 2) and found.p_above() == 1 - found.p_below()


def likelihood_score(better: int, worse: int, n: int, than: float) -> float:
    """Tango's statistic by brute force: the nuisance parameter by maximising the likelihood."""

    def loss(q: float) -> float:  # q: probability that only b is right
        logs = [better * math.log(q + than), worse * math.log(q), (n - better - worse) * math.log(1 - 2 * q - than)]
        return -sum(logs)

    low, high = max(0.0, -than) + 1e-12, (1 - than) / 2 - 1e-12
    q = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return float((better - worse - n * than) / math.sqrt(n * (2 * q + than * (1 - than))))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(5, 200), st.floats(-0.6, 0.6))
@settings(max_examples=60)
def test_tails_at_a_margin_are_tangos_score_test(better: int, worse: int, rest: int, than: float) -> None:
    a, b = pairs(better, worse, rest, 0)
    if abs(than) < 1e-6:
        return
    expected = likelihood_score(better, worse, len(a), than)
    found = difference(a, b)
    assert found.p_above(than) == pytest.approx(normal_tail(expected), abs=2e-5)
    assert found.p_below(than) == pytest.approx(normal_tail(-expected), abs=2e-5)


@given(COUNTS, COUNTS, COUNTS, st.sampled_from([0.001, 0.025, 0.05, 0.2]))
def test_bounds_are_where_the_test_turns_and_swapping_turns_them(
    better: int, worse: int, both: int, tail: float
) -> None:
    a, b = pairs(better, worse, both, 5)
    found, turned = difference(a, b), difference(b, a)
    low, high = bound(found.low(tail)), bound(found.high(tail))
    assert -1 <= low <= bound(found.value) <= high <= 1 and high - low > 1e-4
    assert found.law is not None
    assert found.law.above(low) == pytest.approx(tail, abs=1e-4) and found.law.below(high) == pytest.approx(
        tail, abs=1e-4
    )
    assert (bound(turned.low(tail)), bound(turned.high(tail))) == pytest.approx((-high, -low), abs=1e-9)
    assert turned.p_below() == pytest.approx(found.p_above())


LAWS = ("0/1", "0/1, clusters", "t", "t, clusters", "bootstrap", "jackknife")


def of_kind(kind: str, seed: int) -> Difference:
    """120 documents of two models, in 40 clusters if the kind says so."""
    rng = np.random.default_rng(seed)
    a, b = (rng.random(120) < 0.6, rng.random(120) < 0.5) if "0/1" in kind else (rng.random(120), rng.random(120))
    clusters = (np.arange(120) // 3).tolist() if "clusters" in kind else None
    if kind in ("bootstrap", "jackknife"):
        rows = [np.stack([side, np.ones(120)], axis=1) for side in (a, b)]
        return corpus_difference(*rows, ratio, replicates=2000 * (kind == "bootstrap"))
    return difference(a, b, clusters)


@given(st.sampled_from(LAWS), st.integers(0, 2**32 - 1), st.floats(0.002, 0.4))
@settings(max_examples=40, deadline=None)
def test_p_values_and_bounds_move_with_margin_and_level_and_agree(kind: str, seed: int, tail: float) -> None:
    """Zero is left out: there right-or-wrong answers have a test of their own, McNemar's."""
    found = of_kind(kind, seed)
    margins = [than for than in np.linspace(-0.5, 0.5, 41).tolist() if than]
    below, above = ([test(than) for than in margins] for test in (found.p_below, found.p_above))
    assert below == sorted(below, reverse=True) and above == sorted(above)
    assert all(0 < p <= 1 for p in (*below, *above))
    low, high = bound(found.low(tail)), bound(found.high(tail))
    assert bound(found.low(tail / 2)) <= low < high <= bound(found.high(tail / 2)) or tail > 0.3
    for than, p, q in zip(margins, below, above, strict=True):
        if min(abs(than - low), abs(than - high)) > 0.005:
            assert (p <= tail) == (high < than) and (q <= tail) == (low > than)


@given(st.sampled_from(LAWS), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_swapping_the_models_turns_everything(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.random(60).round() if "0/1" in kind else rng.random(60) for _ in range(2))
    clusters = (np.arange(60) // 3).tolist() if "clusters" in kind else None  # 20: signs are flipped
    found, turned = difference(a, b, clusters), difference(b, a, clusters)
    lower = difference(a, b, clusters, higher_is_better=False)
    for other in (turned, lower):
        assert other.value == -bound(found.value) and other.error == pytest.approx(found.error)
        assert other.interval() == pytest.approx(tuple(-bound(one) for one in reversed(found.interval())), abs=1e-9)
        assert (other.p_below(), other.p_above(0.1)) == pytest.approx((found.p_above(), found.p_below(-0.1)))
        assert (other.better, other.worse) == (found.worse, found.better)


# --- numbers and clusters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", [None, np.arange(6000) // 3])
def test_errors_of_many_documents_are_those_of_statsmodels(clusters: Any) -> None:
    rng = np.random.default_rng(1)
    d = 0.5 * rng.standard_normal(2000).repeat(3) + rng.standard_normal(6000)
    kind = {"cov_type": "HC1"} if clusters is None else {"cov_type": "cluster", "cov_kwds": {"groups": clusters}}
    fit = sm.OLS(d, np.ones(6000)).fit(**kind)
    found = difference(d, np.zeros(6000), clusters if clusters is None else clusters.tolist())
    assert found.error == pytest.approx(fit.bse[0], rel=0.02)  # two more clusters
    low, high = found.interval()
    assert (bound(low), bound(high)) == pytest.approx(tuple(fit.conf_int()[0]), abs=0.001)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
@settings(max_examples=40)
def test_sign_flips_are_scipys_permutation_test(sums: list[float]) -> None:
    values = np.round(sums, 3)
    expected = [
        scipy_stats.permutation_test(
            (values,), np.sum, permutation_type="samples", alternative=side, n_resamples=np.inf, vectorized=False
        ).pvalue
        for side in ("less", "greater")
    ]
    assert sign_flip(values) == pytest.approx(expected)


def test_signs_of_29_clusters_are_flipped_exactly() -> None:
    """More ways than can be listed one by one: scipy draws some of them. With whole numbers they can be counted."""
    values = np.random.default_rng(1).normal(0.3, 1, 29)
    draws = {"n_resamples": 40_000, "permutation_type": "samples", "rng": np.random.default_rng(2)}
    for mine, side in zip(sign_flip(values), ("less", "greater"), strict=True):
        drawn = scipy_stats.permutation_test((values,), lambda x, axis: x.sum(axis), alternative=side, **draws)
        assert mine == pytest.approx(drawn.pvalue, abs=4 * math.sqrt(mine * (1 - mine) / 40_000))
    ones = np.array([1.0] * 19 + [-1.0] * 10 + [0.0] * 5)
    assert sign_flip(ones) == pytest.approx((scipy_stats.binom.cdf(19, 29, 0.5), scipy_stats.binom.sf(18, 29, 0.5)))


# --- corpus metrics ---------------------------------------------------------------------------------------------------

WORDS = ["ta", "läks", "koju", "poodi", "metsa", "ja", "jäi", "sinna", "õhtul", "koos", "emaga"]


def translations(share: float, seed: int, references: list[str]) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(w if rng.random() < share else str(rng.choice(WORDS)) for w in text.split()) for text in references
    ]


def test_a_corpus_metrics_difference_is_sacrebleus_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(WORDS, 8)) for _ in range(150)]
    systems = [("b", translations(0.7, 1, references)), ("a", translations(0.66, 2, references))]
    theirs = PairedTest(systems, {"chrf": CHRF(word_order=2)}, references=[references], test_type="bs", n_samples=2000)
    _, scores = theirs()
    [base, other] = next(scores[name] for name in scores if name != "System")
    rows = [
        np.array([translation.chrf_statistics(*pair) for pair in zip(texts, references, strict=True)], float)
        for _, texts in systems
    ]
    found = corpus_difference(rows[1], rows[0], translation.chrf)
    assert found.value == pytest.approx(other.score - base.score)
    assert found.p_value() == pytest.approx(other.p_value, abs=0.05)
    jackknife = corpus_difference(rows[1], rows[0], translation.chrf, replicates=0)
    assert [bound(one) for one in found.interval()] == pytest.approx(
        [bound(one) for one in jackknife.interval()], abs=0.4
    )


def test_the_spread_of_a_corpus_metric_is_that_of_sacrebleus_scores_of_drawn_documents() -> None:
    rng, metric = np.random.default_rng(4), CHRF(word_order=2)
    references = [" ".join(rng.choice(WORDS, 8)) for _ in range(80)]
    one = [text if place % 2 else "" for place, text in enumerate(translations(0.8, 1, references))]
    systems = one, translations(0.8, 2, one)  # both are empty where the first one is
    rows = [
        np.array([translation.chrf_statistics(*pair) for pair in zip(texts, references, strict=True)])
        for texts in systems
    ]
    drawn = [
        [metric._compute_score_from_stats(side[places].sum(axis=0)).score for side in rows]
        for places in rng.integers(0, 80, (1500, 80))
    ]
    spread = np.std([one - other for one, other in drawn])
    found, jackknife = (corpus_difference(*rows, translation.chrf, replicates=count) for count in (4000, 0))
    low, high = (bound(one) for one in found.interval())
    assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.08)
    assert jackknife.error == pytest.approx(spread, rel=0.08) and found.error == jackknife.error
    unpaired = np.hypot(*(np.std(column) for column in zip(*drawn, strict=True)))
    assert unpaired > 1.15 * spread  # negative control: pairing matters here


def ratio(sums: Any) -> Any:
    return sums[..., 0] / sums[..., 1]


def test_a_mean_as_a_corpus_metric_is_the_mean() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(300), rng.random(300)
    rows = [np.stack([values, np.ones(300)], axis=1) for values in (a, b)]
    found, mean = corpus_difference(*rows, ratio), difference(a, b)
    assert found.value == pytest.approx(bound(mean.value))
    assert found.error == pytest.approx(bound(mean.error), rel=0.03)
    assert [bound(one) for one in found.interval()] == pytest.approx([bound(one) for one in mean.interval()], abs=0.006)
    far = (found.p_below(0.2), found.p_above(0.2))  # beyond the replicates: from the standard error, and never 0
    assert 0 < far[0] < 1e-4 and far[1] > 0.999


# --- degenerate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "clusters", "method"),
    [
        ([], [], None, "no documents in common"),
        ([1.0], [0.0], None, "no interval: one document"),
        ([0.4], [0.5], None, "no interval: one document"),
        ([1, 0, 1], [0, 0, 1], ["x"] * 3, "no interval: one cluster"),
        ([math.nan, 1], [0, 1], None, "no difference: a value is not a number"),
        ([math.inf, 1], [0, 1], None, "no difference: a value is not a number"),
    ],
)
def test_where_nothing_can_be_said_nothing_is_claimed(a: Any, b: Any, clusters: Any, method: str) -> None:
    found = difference(a, b, clusters)
    assert found.method == method
    assert (found.low(0.05), found.high(0.05), found.error, found.detectable(0.05)) == (None, None, None, None)
    assert found.p_below() == found.p_above(-0.5) == found.p_value() == 1.0


@pytest.mark.parametrize("value", [0, 1], ids=["all wrong", "all right"])
@pytest.mark.parametrize("clusters", [None, [place // 5 for place in range(100)]])
def test_no_difference_on_any_document_is_no_proof(value: int, clusters: Any) -> None:
    found = difference([value] * 100, [value] * 100, clusters)
    assert found.p_value() == 1.0 and found.value == 0
    assert bound(found.low(0.05)) < (-0.02 if clusters is None else -0.1)


def test_equal_numbers_have_a_width_where_the_scale_has_ends() -> None:
    found = difference([0.5, 0.25] * 30, [0.5, 0.25] * 30)
    assert bound(found.low(0.05)) < -0.02 and found.p_value() == 1.0
    unbounded = difference([3.5, 2.25] * 30, [3.5, 2.25] * 30, span=None)
    assert unbounded.low(0.05) is None and "no variation" in unbounded.method


def test_corpus_metrics_without_variation_or_number_have_no_interval() -> None:
    same = [[1.0, 3.0]] * 20
    assert "no variation" in corpus_difference(same, same, ratio).method
    with np.errstate(invalid="ignore"):
        assert corpus_difference([[0.0, 0.0]] * 3, [[1.0, 1.0]] * 3, ratio).value is None
    assert corpus_difference([[1, 2]], [[1, 3]], ratio).low(0.05) is None


def test_the_same_responses_differ_nowhere() -> None:
    found = identical(40)
    assert (found.low(1e-9), found.high(1e-9), found.p_value(), found.p_below(-0.01)) == (0.0, 0.0, 1.0, 1.0)
    assert found.p_below(0.01) == 0.0 and found.p_above(-0.01) == 0.0


def test_documents_without_a_cluster_stand_for_themselves() -> None:
    a, b = [1, 0, 1, 1, 0, 0] * 20, [0, 0, 1, 0, 0, 1] * 20
    alone = difference(a, b, [None] * 120)
    assert alone.method == "McNemar mid-p, Tango" and alone.interval() == difference(a, b).interval()
    some = difference(a, b, ["x", "x", *[None] * 118])
    assert "119 clusters" in some.method and len(some.units) == 119
    named = difference(a, b, [None] * 120, units=[f"doc {place}" for place in range(120)])
    assert named.units[0] == ("document", "doc 0")


def test_two_documents_and_two_clusters_say_next_to_nothing() -> None:
    assert bound(difference([1, 1], [0, 0]).low(0.05)) < 0.1
    low, high = difference([1, 1, 1, 1], [0, 0, 0, 1], ["x", "x", "y", "y"]).interval()
    assert bound(low) < -0.5 and bound(high) > 0.9


def test_lengths_have_to_agree() -> None:
    with pytest.raises(ValueError, match="2 values of a for 3 of b"):
        difference([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="as many as the 2 documents"):
        difference([1, 0], [0, 1], ["x"])
