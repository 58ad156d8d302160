"""What people would have said of all documents: a judge's scores corrected by people's labels on some of them.

    ppi(human, judge_labelled, judge_unlabelled)      PPI++: any scores from 0 to 1
    rogan_gladen(verdicts, judge, human)              0/1 verdicts, by the judge's error rates

Estimand: the mean human score over documents like those of this model, of which the n labelled and the N unlabelled
ones are a sample. For these n + N alone the intervals are a little wide. The labelled ones have to be drawn at random
from *this model's* documents: labels of other models say nothing about how the judge errs on this one. With fewer than
200 of them there is no correction (`Missing`), not a bad one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.stats import mean_interval, t_quantile
from estbench.stats.intervals import Floats
from estbench_judges.agreement import error_rates

LEAST = 200  # labels of one model; from there the intervals' simulated coverage is 95 %, and λ̂'s own error doesn't show


@dataclass(frozen=True, slots=True)
class Corrected:
    """A corrected mean, 0 to 1, with its 95 % interval; None where it is refused, `method` says why."""

    value: float | None
    low: float | None
    high: float | None
    lam: float | None  # the weight of the judge's scores: 0 people alone, 1 plain PPI; None: not that method
    n: int  # labels
    N: int  # documents without a label
    method: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Too few labels for a correction."""

    n_labels: int
    lacking: int


def ppi(
    y: ArrayLike,
    f_labelled: ArrayLike,
    f_unlabelled: ArrayLike,
    clusters: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
) -> Corrected | Missing:
    """PPI++ (Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453): θ̂ = mean_n(y − λf) + λ·mean_N(f).

    y: (n,) people's scores; f: (n,) and (N,) the judge's on the same documents and on the others, all 0 to 1. Where the
    judge has no valid verdict (nan) the document keeps its label and counts with the mean of the judge's scores, which
    is a prediction like any other: nothing is selected by the judge's failures. clusters: of the labelled documents and
    of the others.

    λ̂ minimises the estimated variance, Σ_c A_c B_c / Σ_c B_c² with the clusters' influences A of mean(y) and B of
    mean_n(f) − mean_N(f), which is Cov(y, f)/(Var_n f + n/N·Var_N f) without clusters; it is clipped to [0, 1]. At
    λ = 0 people stand alone, so the estimated variance is never above theirs. t with n − 2 degrees of freedom (labelled
    clusters − 2); for 0/1 labels Wilson's interval at the sample size that the variance is worth.
    ValueError: lengths that differ, a label that is nan, a score outside 0 to 1.
    """
    human, known, others, valid = _scores(y, f_labelled, f_unlabelled)
    n, count = len(human), len(others)
    if n < LEAST:
        return Missing(n, LEAST - n)
    codes, groups, labelled = _codes(clusters, n, count)
    a = np.bincount(codes[:n], (human - human.mean()) / n, minlength=groups)
    b = np.zeros(groups)
    if count:
        b += np.bincount(codes[:n], (known - known.mean()) / n, minlength=groups)
        b -= np.bincount(codes[n:], (others - others.mean()) / count, minlength=groups)
    square = float((b**2).sum())
    lam = min(1.0, max(0.0, float((a * b).sum()) / square)) if square > 1e-18 else 0.0
    if not lam:
        alone = mean_interval(human, None if clusters is None else clusters[0], bounds=(0, 1))
        return Corrected(alone.value, alone.low, alone.high, 0.0, n, count, f"people alone, {alone.method}")
    value = float((human - lam * known).mean() + lam * others.mean())
    freedom = labelled - 2
    error = math.sqrt(float(((a - lam * b) ** 2).sum()) * labelled / max(1, freedom))
    method = f"PPI++, λ {lam:.2f} by least variance, t"
    if groups < n + count:
        method += f", {labelled} labelled clusters"
    if not valid.all():
        method += f", {int((~valid).sum())} without a verdict"
    if freedom < 1 or not error:
        return Corrected(min(1.0, max(0.0, value)), None, None, lam, n, count, f"{method}: no interval, no variation")
    binary = bool(np.isin(human, (0.0, 1.0)).all())
    low, high = _ends(value, error, t_quantile(freedom), binary)
    return Corrected(min(1.0, max(0.0, value)), low, high, lam, n, count, method)


def rogan_gladen(verdicts: ArrayLike, judge: ArrayLike, human: ArrayLike) -> Corrected | Missing:
    """The share of 1 that people would find (Rogan & Gladen 1978; for LLM judges arXiv 2511.21140):
    θ̂ = (p̂ + q̂0 − 1)/(q̂0 + q̂1 − 1), with the delta method's interval.

    verdicts: (N,) the judge's 0/1 on the documents without a label; judge, human: (n,) on those with one. Pairs and
    verdicts that are nan are left out. Variances are those of shares with Agresti & Coull's added successes and
    failures (Lang & Reiczigel 2014), so that a share of exactly 0 or 1 is not taken as certain. Refused (value None)
    where q̂0 + q̂1 ≤ 1: such a judge says nothing. Prefer `ppi`: its variance is lower, and it needs no 0/1.
    ValueError: a value that is not 0 or 1.
    """
    found, one, other = (np.asarray(values, float) for values in (verdicts, judge, human))
    found = found[~np.isnan(found)]
    n = int((~(np.isnan(one) | np.isnan(other))).sum())
    if n < LEAST:
        return Missing(n, LEAST - n)
    if not np.isin(found, (0.0, 1.0)).all():
        raise ValueError("Rogan–Gladen needs 0/1 verdicts")
    rates = error_rates(one, other)
    q0, q1 = rates.q0.value, rates.q1.value
    if q0 is None or q1 is None or not len(found):
        reason = "no verdict" if not len(found) else "people gave one answer only"
        return Corrected(None, None, None, None, n, len(found), f"refused: {reason}")
    informed = q0 + q1 - 1
    if informed <= 0:
        reason = f"q0 + q1 = {q0 + q1:.2f} is not above 1: the judge says nothing"
        return Corrected(None, None, None, None, n, len(found), f"refused: {reason}")
    value = min(1.0, max(0.0, (float(found.mean()) + q0 - 1) / informed))
    spread = _share_variance(float(found.sum()), len(found), 2.0)
    spread += (1 - value) ** 2 * _share_variance(q0 * rates.q0.n, rates.q0.n, 1.0)
    spread += value**2 * _share_variance(q1 * rates.q1.n, rates.q1.n, 1.0)
    half = t_quantile(n - 2) * math.sqrt(spread) / informed
    method = f"Rogan–Gladen, q0 {q0:.2f}, q1 {q1:.2f}, delta method"
    return Corrected(value, max(0.0, value - half), min(1.0, value + half), None, n, len(found), method)


def _scores(
    y: ArrayLike, f_labelled: ArrayLike, f_unlabelled: ArrayLike
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Labels and scores with the judge's missing ones filled in, and which of all documents have a verdict."""
    human, known, others = (np.asarray(values, float).reshape(-1) for values in (y, f_labelled, f_unlabelled))
    if len(human) != len(known):
        raise ValueError(f"{len(human)} labels for {len(known)} scores of the judge")
    scores = np.concatenate([known, others])
    valid = ~np.isnan(scores)
    if not ((human >= 0) & (human <= 1)).all() or ((scores < 0) | (scores > 1)).any():
        raise ValueError("labels and scores lie between 0 and 1; a document without a label is not a labelled one")
    scores = np.where(valid, scores, scores[valid].mean() if valid.any() else 0.0)
    return human, scores[: len(human)], scores[len(human) :], valid


def _codes(
    clusters: tuple[Sequence[Hashable], Sequence[Hashable]] | None, n: int, count: int
) -> tuple[NDArray[np.intp], int, int]:
    """Each document's cluster, how many there are, and how many of them have a label."""
    if clusters is None:
        return np.arange(n + count), n + count, n
    if (len(clusters[0]), len(clusters[1])) != (n, count):
        raise ValueError(f"{len(clusters[0])} and {len(clusters[1])} clusters for {n} and {count} documents")
    seen: dict[Hashable, int] = {}
    codes = np.array([seen.setdefault(name, len(seen)) for part in clusters for name in part], np.intp)
    return codes, len(seen), len(set(clusters[0]))


def _ends(value: float, error: float, quantile: float, binary: bool) -> tuple[float, float]:
    """The interval within 0 and 1. Of shares Wilson's, at the sample size that the error is worth."""
    if not binary or not 0 < value < 1:
        return max(0.0, value - quantile * error), min(1.0, value + quantile * error)
    square = quantile**2 * error**2 / (value * (1 - value))
    centre = (value + square / 2) / (1 + square)
    half = math.sqrt(square * (value * (1 - value) + square / 4)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def _share_variance(successes: float, n: int, added: float) -> float:
    """Of a share, with as many successes and failures added."""
    share = (successes + added) / (n + 2 * added)
    return share * (1 - share) / (n + 2 * added)
