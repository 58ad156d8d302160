"""Intervals: against statsmodels, scipy and sacreBLEU, by simulated coverage, and on degenerate input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from estbench.metrics import translation
from estbench.stats import Interval, corpus_interval, mean_interval, proportion_interval, t_quantile

BITS = st.lists(st.sampled_from([0, 1]), min_size=1, max_size=60)


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


@given(BITS)
def test_a_proportion_has_wilsons_interval(values: list[int]) -> None:
    expected = proportion_confint(sum(values), len(values), method="wilson")
    interval = proportion_interval(values)
    assert bounds(interval) == pytest.approx(expected, abs=1e-9)
    assert interval.value == pytest.approx(np.mean(values))
    assert interval.n == len(values)


@given(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=2, max_size=40))
def test_a_mean_has_the_t_interval(values: list[float]) -> None:
    interval = mean_interval(values)
    if np.ptp(values) < 1e-6 or set(values) <= {0.0, 1.0}:
        return
    expected = scipy_stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy_stats.sem(values))
    assert bounds(interval) == pytest.approx(expected, abs=1e-8)


@given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_t_quantiles_are_scipys(freedom: int, level: float) -> None:
    assert t_quantile(freedom, level) == pytest.approx(scipy_stats.t.ppf((1 + level) / 2, freedom), rel=1e-8)


def test_the_quantile_of_infinite_freedom_is_normal() -> None:
    assert t_quantile(math.inf) == pytest.approx(scipy_stats.norm.ppf(0.975))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_clustered_errors_are_those_of_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = np.sort(rng.integers(0, 12, 80))
    values = rng.normal(size=12)[clusters] + rng.normal(size=80)
    fit = sm.OLS(values, np.ones(80)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    count = len(set(clusters))
    error = fit.bse[0] * math.sqrt(count / (count - 1))  # statsmodels' own correction has another factor
    low, high = bounds(mean_interval(values, clusters.tolist()))
    assert (high - low) / 2 == pytest.approx(error * t_quantile(count - 1))


def test_ignoring_clusters_would_be_too_sure() -> None:
    """Negative control: ten equal answers a passage are one answer, not ten."""
    passages = np.repeat(np.arange(20), 10)
    values = (np.arange(20) % 2)[passages]
    alone, clustered = bounds(proportion_interval(values)), bounds(proportion_interval(values, passages.tolist()))
    assert clustered[1] - clustered[0] > 2.5 * (alone[1] - alone[0])
    by_hand = proportion_confint(10, 20, method="wilson")
    assert clustered[0] == pytest.approx(by_hand[0], abs=0.03)


@given(BITS, st.data())
def test_a_proportions_interval_is_inside_and_has_width(values: list[int], data: st.DataObject) -> None:
    clusters = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    interval = proportion_interval(values, clusters)
    if interval.low is None:
        assert len(set(clusters)) == 1 < len(values)
        assert interval.method == "no interval: one cluster"
        return
    low, high = bounds(interval)
    assert interval.value is not None
    assert 0 <= low <= interval.value <= high <= 1
    assert high - low > 0.01


def test_clusters_that_cancel_out_are_no_proof_of_certainty() -> None:
    """Pairs with one right answer each (two orders, a model that always says A): no variance between clusters."""
    values, pairs = [1, 0] * 50, [place // 2 for place in range(100)]
    low, high = bounds(proportion_interval(values, pairs))
    assert high - low > 0.15
    f1 = mean_interval([0.9, 0.1] * 50, pairs)
    assert (f1.low, f1.high) == (None, None)
    assert "same mean" in f1.method


def test_all_right_and_all_wrong() -> None:
    assert bounds(proportion_interval([1] * 100)) == pytest.approx((0.963, 1.0), abs=1e-3)
    assert bounds(proportion_interval([0] * 100)) == pytest.approx((0.0, 0.037), abs=1e-3)
    clusters = [place // 5 for place in range(100)]
    low, high = bounds(proportion_interval([1] * 100, clusters))
    assert high == 1
    assert low < 0.85  # twenty passages say less than a hundred documents
    assert bounds(mean_interval([1.0] * 100)) == bounds(proportion_interval([1] * 100))


@pytest.mark.parametrize("clusters", [None, []])
def test_no_document_is_no_score(clusters: list[int] | None) -> None:
    for interval in (
        proportion_interval([], clusters),
        mean_interval([], clusters),
        corpus_interval(np.empty((0, 3)), lambda sums: sums[..., 0], clusters),
    ):
        assert interval == Interval(None, None, None, 0, "no documents")


def test_one_document() -> None:
    assert bounds(proportion_interval([1])) == pytest.approx(proportion_confint(1, 1, method="wilson"))
    assert mean_interval([0.5]) == Interval(0.5, None, None, 1, "no interval: one document")
    assert corpus_interval([[1, 2]], ratio) == Interval(0.5, None, None, 1, "no interval: one document")


def test_one_cluster_has_no_interval() -> None:
    same = ["text"] * 10
    assert proportion_interval([1, 0] * 5, same) == Interval(0.5, None, None, 10, "no interval: one cluster")
    assert mean_interval([0.2, 0.4] * 5, same).low is None
    assert corpus_interval([[1, 2]] * 10, ratio, same).low is None


def test_a_value_that_is_no_number_is_no_score() -> None:
    assert mean_interval([0.5, math.nan]).value is None
    assert corpus_interval([[0.0, 0.0]] * 3, ratio).value is None


def test_documents_without_a_cluster_stand_alone() -> None:
    assert proportion_interval([1, 0, 1], [None, None, None]).method == "Wilson"
    assert proportion_interval([1, 0, 1], ["a", "b", "c"]).method == "Wilson"
    assert "3 clusters" in proportion_interval([1, 0, 1, 1], [None, "a", "a", None]).method
    with pytest.raises(ValueError, match="2 clusters for 3 values"):
        proportion_interval([1, 0, 1], [1, 2])


def test_bounds_cut_a_mean() -> None:
    values = [1.0] * 9 + [0.5]
    assert bounds(mean_interval(values))[1] > 1
    assert bounds(mean_interval(values, bounds=(0, 1)))[1] == 1


def ratio(sums: np.ndarray) -> np.ndarray:
    """A corpus metric: the first sum over the second."""
    with np.errstate(invalid="ignore"):
        quotient: np.ndarray = sums[..., 0] / sums[..., 1]
    return quotient


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = np.random.default_rng(1).random((50, 2)) + 0.5
    assert corpus_interval(rows, ratio, seed=3) == corpus_interval(rows, ratio, seed=3)
    assert corpus_interval(rows, ratio, seed=3) != corpus_interval(rows, ratio, seed=4)


def test_a_bootstrapped_mean_has_the_spread_of_the_t_interval() -> None:
    values = np.random.default_rng(0).random(400)
    rows = np.stack([values, np.ones(400)], axis=1)
    low, high = bounds(corpus_interval(rows, ratio))
    assert (low, high) == pytest.approx(bounds(mean_interval(values)), abs=0.004)


def test_a_bootstrap_of_clusters_is_wider_where_clusters_matter() -> None:
    passages = np.repeat(np.arange(30), 8)
    values = np.random.default_rng(0).random(30)[passages]
    rows = np.stack([values, np.ones(len(values))], axis=1)
    low, high = bounds(corpus_interval(rows, ratio, passages.tolist()))
    plain = bounds(corpus_interval(rows, ratio))
    assert high - low > 2 * (plain[1] - plain[0])
    assert (low, high) == pytest.approx(bounds(mean_interval(values, passages.tolist())), abs=0.02)


def test_a_corpus_metrics_interval_is_near_sacrebleus() -> None:
    rng = np.random.default_rng(0)
    words = ["ta", "läks", "koju", "poodi", "metsa", "ja", "jäi", "sinna", "õhtul", "koos", "emaga"]
    references = [" ".join(rng.choice(words, 8)) for _ in range(120)]
    outputs = [
        " ".join(w if rng.random() < 0.7 else str(rng.choice(words)) for w in text.split()) for text in references
    ]
    theirs = CHRF(word_order=2, references=[references]).corpus_score(outputs, None, n_bootstrap=1000)
    rows = [translation.chrf_statistics(*pair) for pair in zip(outputs, references, strict=True)]
    low, high = bounds(corpus_interval(rows, translation.chrf))
    assert theirs.score == pytest.approx(float(translation.chrf(np.sum(rows, axis=0))))
    assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.12)


def test_a_score_without_variation_has_no_zero_width_interval() -> None:
    interval = corpus_interval([[0, 3]] * 20, ratio)
    assert (interval.value, interval.low, interval.high) == (0.0, None, None)
    assert mean_interval([0.5] * 20).low is None


def coverage(p: float, sims: int, clusters: int = 0, per_cluster: int = 5, share: float = 0.3, n: int = 200) -> float:
    """How often the interval holds the true p. In a cluster answers are copied from its first with probability √share,
    so that their correlation is `share`."""
    rng = np.random.default_rng(int(1000 * p) + clusters)
    held = 0
    for _ in range(sims):
        if clusters:
            names = np.repeat(np.arange(clusters), per_cluster)
            copied = rng.random(len(names)) < math.sqrt(share)
            values = np.where(copied, (rng.random(clusters) < p)[names], rng.random(len(names)) < p)
            low, high = bounds(proportion_interval(values, names.tolist()))
        else:
            low, high = bounds(proportion_interval(rng.random(n) < p))
        held += low <= p <= high
    return held / sims


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.95])
def test_wilsons_interval_holds_the_truth_about_95_times_in_100(p: float) -> None:
    assert 0.93 <= coverage(p, 1500) <= 0.97


@pytest.mark.parametrize(("p", "clusters"), [(0.5, 20), (0.9, 40), (0.1, 20)])
def test_the_clustered_interval_holds_the_truth_about_95_times_in_100(p: float, clusters: int) -> None:
    assert 0.92 <= coverage(p, 1000, clusters) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
@pytest.mark.parametrize("clusters", [20, 60, 200])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_coverage_over_the_whole_range(p: float, clusters: int, share: float) -> None:
    assert 0.925 <= coverage(p, 4000, clusters, share=share) <= 0.99  # 93 % but for the simulation's own noise


@pytest.mark.slow
@pytest.mark.parametrize("make", [np.random.default_rng(5).beta, np.random.default_rng(6).beta])
def test_coverage_of_means(make: Callable[[float, float, int], np.ndarray]) -> None:
    held = [bounds(mean_interval(make(0.8, 1.6, 100))) for _ in range(4000)]
    assert 0.93 <= np.mean([low <= 1 / 3 <= high for low, high in held]) <= 0.97
