"""Corrected scores: PPI++ by its formula, never less certain than people, refused where labels lack."""

from __future__ import annotations

import math

import numpy as np
import pytest
from estbench_judges.corrected import LEAST, Corrected, Missing, ppi, rogan_gladen
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from estbench.stats import mean_interval
from estbench.stats.resampling import Floats


def pair(seed: int, n: int, noise: float = 0.2) -> tuple[Floats, Floats]:
    """People's scores and a judge's, which sees the same with an error and a bias."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(2, 2, n)
    return truth, np.clip(truth + 0.15 + noise * rng.normal(size=n), 0, 1)


def corrected(found: Corrected | Missing) -> Corrected:
    assert isinstance(found, Corrected)
    return found


def test_it_is_the_published_formula() -> None:
    y, f = pair(0, 1000)
    n, count = 250, 750
    found = corrected(ppi(y[:n], f[:n], f[n:]))
    lam = np.cov(y[:n], f[:n], ddof=0)[0, 1] / (
        f[:n].var() + n / count * f[n:].var() * (1 - 1 / count) / (1 - 1 / count)
    )
    value = lam * f[n:].mean() + (y[:n] - lam * f[:n]).mean()
    error = math.sqrt((y[:n] - lam * f[:n]).var() / n + lam**2 * f[n:].var() / count)
    assert found.lam == pytest.approx(lam) and found.value == pytest.approx(value)
    assert (found.n, found.N) == (n, count)
    half = scipy_stats.t.ppf(0.975, n - 2) * error * math.sqrt(n / (n - 2))
    assert (found.low, found.high) == (pytest.approx(value - half), pytest.approx(value + half))


@given(st.integers(0, 10_000), st.floats(0, 3), st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_it_is_never_wider_than_people_alone(seed: int, noise: float, others: int) -> None:
    y, f = pair(seed, LEAST + others, noise)
    found, alone = corrected(ppi(y[:LEAST], f[:LEAST], f[LEAST:])), mean_interval(y[:LEAST])
    assert found.low is not None and found.high is not None and alone.low is not None and alone.high is not None
    assert found.lam is not None and 0 <= found.lam <= 1
    assert found.high - found.low <= (alone.high - alone.low) * 1.005  # one degree of freedom, for λ


def test_a_judge_that_says_nothing_leaves_people_alone() -> None:
    y, f = pair(1, 600)
    for useless in (np.full(600, 0.5), np.full(600, math.nan), 1 - f):
        found = corrected(ppi(y[:300], useless[:300], useless[300:]))
        assert found.lam == 0 and found.value == y[:300].mean()
        assert (found.low, found.high) == (mean_interval(y[:300]).low, mean_interval(y[:300]).high)
    found = corrected(ppi(y[:300], f[:300], []))
    assert (found.lam, found.N, found.value) == (0, 0, y[:300].mean())


def test_a_perfect_judge_is_worth_its_documents() -> None:
    y, _ = pair(2, 4000)
    found, every = corrected(ppi(y[:200], y[:200], y[200:])), mean_interval(y)
    assert found.low is not None and found.high is not None and every.low is not None and every.high is not None
    assert found.high - found.low == pytest.approx(every.high - every.low, rel=0.05)


def test_few_labels_are_no_correction() -> None:
    y, f = pair(3, 500)
    assert ppi(y[:150], f[:150], f[150:]) == Missing(150, 50)
    assert isinstance(ppi(y[:200], f[:200], f[200:]), Corrected)
    assert rogan_gladen([1, 0], [1] * 199, [1] * 199) == Missing(199, 1)
    assert rogan_gladen([1, 0], [1] * 200 + [math.nan], [1] * 201) != Missing(201, 0)


def test_nonsense_is_refused() -> None:
    y, f = pair(4, 500)
    for human, known, others in (([math.nan, *y[1:]], f, f), (y, f[1:], f), (y * 5, f, f), (y, f, f + 1)):
        with pytest.raises(ValueError, match="labels"):
            ppi(human, known, others)
    with pytest.raises(ValueError, match="clusters"):
        ppi(y, f, f, clusters=(list(range(500)), [1]))
    with pytest.raises(ValueError, match="0/1"):
        rogan_gladen([0.5], np.r_[0.0, np.ones(250)], np.r_[0.0, np.ones(250)])


def coverage(seed: int, simulations: int, *, copies: int = 1, clustered: bool = False, rare: bool = False) -> float:
    """Share of intervals that hold the true mean: 200 labels of 800 documents; each document `copies` times."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(simulations):
        own = rng.beta(2, 2, 800 // copies)
        truth = np.repeat(own, copies)
        f = np.clip(truth + 0.2 + 0.15 * rng.normal(size=800), 0, 1)
        y = np.clip(truth + 0.05 * rng.normal(size=800), 0, 1)
        if rare:
            y = (rng.random(800) < 0.06 * truth).astype(float)
            f = np.where(rng.random(800) < 0.9, y, 1 - y)
        names = np.repeat(np.arange(800 // copies), copies).tolist()
        found = corrected(ppi(y[:200], f[:200], f[200:], (names[:200], names[200:]) if clustered else None))
        assert found.low is not None and found.high is not None
        hits += found.low <= (0.03 if rare else 0.5) <= found.high
    return hits / simulations


def test_intervals_of_clusters_cover_and_those_that_ignore_them_do_not() -> None:
    assert coverage(0, 500, copies=5, clustered=True) >= 0.93
    assert coverage(0, 500, copies=5) < 0.75  # negative control


def test_rare_successes_are_covered() -> None:
    assert coverage(1, 500, rare=True) >= 0.93


def test_rogan_gladen_covers_where_the_judge_s_own_share_does_not() -> None:
    rng = np.random.default_rng(5)
    hits = raw = 0
    for _ in range(500):
        y = (rng.random(1000) < 0.3).astype(float)
        f = np.where(rng.random(1000) < np.where(y == 1, 0.85, 0.75), y, 1 - y)
        found, plain = corrected(rogan_gladen(f[250:], f[:250], y[:250])), mean_interval(f)
        assert found.low is not None and found.high is not None and plain.low is not None and plain.high is not None
        hits += found.low <= 0.3 <= found.high
        raw += plain.low <= 0.3 <= plain.high
    assert hits >= 0.93 * 500 and raw < 0.1 * 500


def test_rogan_gladen_turns_shares_by_the_error_rates() -> None:
    judge, human = [1] * 80 + [0] * 20 + [0] * 90 + [1] * 10, [1] * 100 + [0] * 100
    found = corrected(rogan_gladen([1] * 45 + [0] * 55, judge, human))
    assert found.value == pytest.approx((0.45 + 0.9 - 1) / (0.9 + 0.8 - 1))
    assert corrected(rogan_gladen([0] * 100, judge, human)).value == 0  # bounded


def test_a_judge_without_information_is_refused() -> None:
    human = [1] * 100 + [0] * 100
    for judge in ([1] * 200, [0] * 100 + [1] * 100):
        found = corrected(rogan_gladen([1, 0], judge, human))
        assert found.value is None and found.low is None and "not above 1" in found.method
    assert corrected(rogan_gladen([1, 0], human, [1] * 200)).method == "refused: people gave one answer only"
    assert corrected(rogan_gladen([], human, human)).method == "refused: no verdict"
