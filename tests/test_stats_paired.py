"""Paired differences: against scipy, statsmodels and sacreBLEU, by simulated coverage and power, degenerate input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from estbench.metrics import translation
from estbench.stats import corpus_difference, difference, identical, pooled
from estbench.stats.distributions import binomial_cdf, normal_tail, t_bound, t_tail
from estbench.stats.paired import Difference, sign_flip, widened

COUNTS = st.integers(0, 40)


def pairs(better: int, worse: int, both: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * better + [0] * worse + [1] * both + [0] * neither
    b = [0] * better + [1] * worse + [1] * both + [0] * neither
    return a, b


def bound(value: float | None) -> float:
    assert value is not None
    return value


# --- distributions ----------------------------------------------------------------------------------------------------


@given(st.floats(-40, 40), st.floats(0.5, 5000))
def test_tails_of_t_are_scipys(t: float, freedom: float) -> None:
    assert t_tail(t, freedom) == pytest.approx(scipy_stats.t.sf(t, freedom), rel=1e-7, abs=1e-290)


@given(st.floats(1e-9, 0.999), st.floats(1, 500))
def test_one_sided_bounds_of_t_are_scipys(tail: float, freedom: float) -> None:
    assert t_bound(freedom, tail) == pytest.approx(scipy_stats.t.isf(tail, freedom), rel=1e-6, abs=1e-8)


@given(st.integers(1, 400), st.data(), st.floats(0.01, 0.99))
def test_binomial_tails_are_scipys(n: int, data: st.DataObject, p: float) -> None:
    k = data.draw(st.integers(-1, n + 1))
    assert binomial_cdf(k, n, p) == pytest.approx(scipy_stats.binom.cdf(k, n, p), rel=1e-8, abs=1e-280)


# --- right or wrong ---------------------------------------------------------------------------------------------------


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_two_sided_p_is_mcnemars_mid_p(better: int, worse: int, both: int, neither: int) -> None:
    a, b = pairs(better, worse, both + 1, neither + 1)
    found = difference(a, b)
    exact = mcnemar([[both, better], [worse, neither]], exact=True).pvalue
    tie = scipy_stats.binom.pmf(min(better, worse), better + worse, 0.5)
    assert found.p_value() == pytest.approx(1.0 if better == worse else exact - tie)
    assert (found.better, found.worse) == (better, worse)


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


def test_higher_is_not_always_better() -> None:
    a, b = [0.3, 0.2, 0.4, 0.35], [0.5, 0.6, 0.45, 0.7]
    assert bound(difference(a, b, higher_is_better=False).value) > 0 > bound(difference(a, b).value)


# --- numbers and clusters ---------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_errors_of_clustered_means_come_close_to_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(200), 4)
    a = rng.random(800) * 0.5 + 0.2 * rng.random(200)[clusters]
    b = rng.random(800) * 0.5 + 0.2 * rng.random(200)[clusters]
    fit = sm.OLS(a - b, np.ones(800)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    found = difference(a, b, clusters.tolist())
    assert found.error == pytest.approx(fit.bse[0], rel=0.08)  # two clusters are added: a little more
    assert bound(found.error) > 0.99 * fit.bse[0]


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


def test_many_clusters_are_flipped_at_random_and_agree_with_the_exact_shares() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, 18)
    every = 1 - 2 * ((np.arange(1 << 18)[:, None] >> np.arange(18)) & 1)
    exact = (
        float((every @ values <= values.sum() + 1e-12).mean()),
        float((every @ values >= values.sum() - 1e-12).mean()),
    )
    assert sign_flip(values) == pytest.approx(exact, abs=0.005)
    assert sign_flip(values) == sign_flip(values)


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


# --- several tasks ----------------------------------------------------------------------------------------------------


def simulated(n: int, better: float, worse: float, rng: np.random.Generator, clusters: int = 0) -> Difference:
    u = rng.random(n)
    if clusters:
        names = np.repeat(np.arange(clusters), n // clusters)
        u = np.where(rng.random(n) < 0.6, rng.random(clusters)[names], u)
    a, b = ((u < better) | (u > 0.6)).astype(float), ((u > better) & (u < better + worse) | (u > 0.6)).astype(float)
    return difference(a, b, names.tolist() if clusters else None)


def test_a_pool_of_independent_tasks_adds_their_variances() -> None:
    rng = np.random.default_rng(5)
    parts = [difference(rng.random(300), rng.random(300), units=[f"{t}{i}" for i in range(300)]) for t in "abc"]
    found = pooled([(part, weight) for part, weight in zip(parts, (1, 2, 1), strict=True)], scales=[100, 100, 1])
    weights = np.array([25, 50, 0.25])
    assert found.value == pytest.approx(sum(w * bound(part.value) for w, part in zip(weights, parts, strict=True)))
    squares = sum((w * bound(part.error)) ** 2 for w, part in zip(weights, parts, strict=True))
    assert found.error == pytest.approx(math.sqrt(squares))


def test_tasks_over_the_same_documents_are_not_independent() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(400), rng.random(400)
    alone = difference(a, b, units=list(range(400)))
    twice = pooled([(alone, 1.0), (difference(a, b, units=list(range(400))), 1.0)])
    assert twice.error == pytest.approx(bound(alone.error), rel=0.02)
    apart = pooled([(alone, 1.0), (difference(a, b, units=[f"x{i}" for i in range(400)]), 1.0)])
    assert bound(apart.error) < 0.75 * bound(twice.error)


def test_a_pool_needs_something_to_pool() -> None:
    with pytest.raises(ValueError, match="value, an error and a weight"):
        pooled([])
    with pytest.raises(ValueError, match="value, an error and a weight"):
        pooled([(difference([], []), 1.0)])
    assert pooled([(identical(5), 1.0), (identical(9), 1.0)]).p_value() == 1.0


# --- how sure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "better", "worse", "clusters"),
    [(100, 0.1, 0.1, 0), (300, 0.02, 0.05, 0), (1000, 0.05, 0.05, 0), (200, 0.1, 0.1, 20), (600, 0.08, 0.12, 60)],
)
def test_intervals_hold_the_truth_about_95_times_in_100(n: int, better: float, worse: float, clusters: int) -> None:
    rng, held = np.random.default_rng(n + clusters), 0
    for _ in range(1200):
        low, high = simulated(n, better, worse, rng, clusters).interval()
        held += bound(low) <= better - worse <= bound(high)
    assert 0.93 <= held / 1200 <= 0.985


def test_intervals_of_means_hold_the_truth() -> None:
    rng, held = np.random.default_rng(8), 0
    for _ in range(1500):
        shared = rng.random(120)
        a, b = (np.clip(shared + rng.normal(0, 0.3, 120), 0, 1) for _ in range(2))
        low, high = difference(a, b).interval()
        held += bound(low) <= 0 <= bound(high)
    assert 0.93 <= held / 1500 <= 0.975


def test_ignoring_clusters_would_be_too_sure() -> None:
    """Negative control: whole passages turn together."""
    rng, held = np.random.default_rng(9), [0, 0]
    for _ in range(400):
        names = np.repeat(np.arange(40), 8)
        u = rng.random(40)[names]
        a, b = ((u < 0.15) | (u > 0.5)).astype(float), ((u > 0.15) & (u < 0.3) | (u > 0.5)).astype(float)
        for place, clusters in enumerate((names.tolist(), None)):
            low, high = difference(a, b, clusters).interval()
            held[place] += bound(low) <= 0 <= bound(high)
    assert held[0] / 400 >= 0.92 and held[1] / 400 < 0.7


def test_pairing_is_what_makes_small_differences_visible() -> None:
    rng = np.random.default_rng(10)
    u = rng.random(1000)
    a, b = (u < 0.62).astype(float), (u < 0.6).astype(float)
    paired, unpaired = difference(a, b), difference(a, rng.permutation(b))
    assert bound(unpaired.error) > 3 * bound(paired.error)


def test_the_detectable_fall_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(11)
    size = float(np.mean([bound(simulated(800, 0.08, 0.08, rng).detectable(0.05)) for _ in range(50)]))
    found = [simulated(800, 0.08 - size / 2, 0.08 + size / 2, rng).p_below() <= 0.05 for _ in range(1000)]
    assert 0.77 <= np.mean(found) <= 0.87


def test_more_documents_by_the_number_named_would_decide() -> None:
    found = simulated(400, 0.06, 0.08, np.random.default_rng(12))
    n = found.documents_for(0.02, 0.05)
    assert n is not None and n > 400
    assert bound(found.error) * math.sqrt(400 / n) == pytest.approx(0.02 / (1.6449 + 0.8416), rel=0.01)


def test_noise_of_training_widens_everything() -> None:
    found = simulated(500, 0.05, 0.05, np.random.default_rng(13))
    wider = widened(found, 0.03)
    assert bound(wider.error) == pytest.approx(math.hypot(bound(found.error), 0.03))
    assert bound(wider.low(0.05)) < bound(found.low(0.05)) and wider.value == found.value
    assert widened(found, 0.0) is found and widened(identical(5), 1.0).identical


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


def test_lengths_have_to_agree() -> None:
    with pytest.raises(ValueError, match="2 values of a for 3 of b"):
        difference([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="as many as the 2 documents"):
        difference([1, 0], [0, 1], ["x"])
