"""Two models on the same documents: how much better is one, and how sure is that?

    difference(a, b)                                    0/1: McNemar's mid-p, Tango's interval
    difference(a, b, clusters=passages)                 the same at the effective sample size; or clustered t
    corpus_difference(rows_a, rows_b, combine, …)       paired bootstrap of clusters on sufficient statistics
    found.p_below()                                     p of "a is no worse than b" (one-sided)
    found.p_above(-0.01)                                p of "a is worse than b by 0.01 or more"
    found.low(0.05), found.interval()                   a one-sided bound; the 95 % interval
    found.detectable(0.05)                              the smallest difference that would mostly be found

A `Difference` is a − b, turned so that above 0 means that a is better, in the score's unit. Documents of one passage
are one cluster. Where nothing can be said (no document, one cluster, a NaN, no variation in an unbounded metric) all
p-values are 1 and bounds are None: that is never a proof of equality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.stats.distributions import binomial_mid_p, normal_quantile, t_bound, t_tail
from estbench.stats.intervals import Clusters, Floats
from estbench.stats.resampling import resampled_sums

FEW = 30  # clusters below which signs are flipped instead of trusting t
REPLICATES = 10_000
SEEN = 20  # replicates beyond a bound that make it a quantile; with fewer it comes from the standard error
POWER = 0.8


class Law(Protocol):
    """What is known of a difference: tails of a test that it is `than`, and one-sided bounds."""

    def below(self, than: float) -> float:
        """p of "at least `than`"."""

    def above(self, than: float) -> float:
        """p of "at most `than`"."""

    def low(self, tail: float) -> float:
        """The lower bound that is too high with probability `tail`."""

    def high(self, tail: float) -> float:
        """The upper bound that is too low with probability `tail`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference a − b; above 0: a is better. In the score's unit."""

    value: float | None
    n: int  # documents that both have
    units: tuple[Hashable, ...]  # what was drawn: clusters, or documents
    better: int  # documents on which a does better
    worse: int
    method: str
    error: float | None = None  # standard error
    influence: Floats = field(default_factory=lambda: np.zeros(0), compare=False)  # of each unit; their sum is 0
    law: Law | None = None
    at_zero: tuple[float, float] | None = None  # (below, above) of the test that fits "no difference" best
    identical: bool = False  # the same responses: no difference, on whatever documents
    freedom: float = 1.0  # degrees of freedom of the error

    def p_below(self, than: float = 0.0) -> float:
        """One-sided p-value of "the difference is at least `than`": small where a is worse than that."""
        return self._tail(than, 0)

    def p_above(self, than: float = 0.0) -> float:
        """One-sided p-value of "the difference is at most `than`": small where a is better than that."""
        return self._tail(than, 1)

    def _tail(self, than: float, side: int) -> float:
        if self.identical:
            return 1.0 if than == 0 or (than < 0) == (side == 0) else 0.0
        if than == 0 and self.at_zero:
            return self.at_zero[side]
        if self.law is None:
            return 1.0
        return min(1.0, (self.law.below, self.law.above)[side](than))

    def p_value(self) -> float:
        """Two-sided p-value of "no difference"."""
        return min(1.0, 2 * min(self.p_below(), self.p_above()))

    def low(self, tail: float) -> float | None:
        """The lower bound at one-sided level 1 − `tail`; None: nothing can be said."""
        return 0.0 if self.identical else self.law.low(tail) if self.law else None

    def high(self, tail: float) -> float | None:
        """The upper bound at one-sided level 1 − `tail`; None: nothing can be said."""
        return 0.0 if self.identical else self.law.high(tail) if self.law else None

    def interval(self, level: float = 0.95) -> tuple[float | None, float | None]:
        """The two-sided interval."""
        return self.low((1 - level) / 2), self.high((1 - level) / 2)

    def detectable(self, tail: float, power: float = POWER) -> float | None:
        """The smallest fall that a one-sided test at `tail` finds with that power, on documents like these."""
        if self.error is None:
            return None
        return (t_bound(self.freedom, tail) + normal_quantile(1 - power)) * self.error

    def documents_for(self, distance: float, tail: float, power: float = POWER) -> int | None:
        """Documents after which a true difference that lies `distance` from a limit is told from it."""
        if self.error is None or not distance:
            return None
        needed = abs(distance) / (normal_quantile(tail) + normal_quantile(1 - power))
        return math.ceil(self.n * (self.error / needed) ** 2)


def widened(found: Difference, extra: float) -> Difference:
    """The difference with a further standard deviation `extra`, such as noise between training steps, in its error."""
    if not extra or found.identical or found.error is None or found.value is None:
        return found
    error = math.hypot(found.error, extra)
    law = StudentT(found.value, error, found.freedom)
    return replace(found, error=error, law=law, at_zero=None, method=f"{found.method}, with noise of training steps")


def identical(n: int) -> Difference:
    """The difference of two results that are made of the same responses: none."""
    return Difference(0.0, n, (), 0, 0, "identical: the same responses", error=0.0, identical=True)


def difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Clusters = None,
    *,
    span: float | None = 1.0,
    higher_is_better: bool = True,
    units: Sequence[Hashable] | None = None,
) -> Difference:
    """The mean of a − b over documents, each with one number in a and b.

    0/1 values: McNemar's one-sided mid-p at 0 (Lancaster 1961; Fagerland et al. 2013) and Tango's score interval (Tango
    1998); with clusters both at the effective sample size, with t quantiles of G − 1. Other values: clustered t with
    two more clusters, one better and one worse by about as much as any is (as Bonett & Price 2012 do for 0/1: a few
    rare differences do not look more certain than they are); with fewer than 30 clusters the test of 0 flips signs.

    span: what separates the worst possible value from the best; None: no bound. units: names of the documents.
    """
    one, other = np.asarray(a, float).reshape(-1), np.asarray(b, float).reshape(-1)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values of a for {len(other)} of b")
    with np.errstate(invalid="ignore"):  # inf − inf: refused below
        d = (one - other) * (1 if higher_is_better else -1)
    names, codes, count = coded(clusters, units, len(d))
    better, worse = int((d > 0).sum()), int((d < 0).sum())
    if refused := _refusal(d, count, better, worse):
        return refused
    value = float(d.mean())
    sums = np.asarray(np.bincount(codes, d, minlength=count), float)
    influence = np.bincount(codes, d - value, minlength=count) / len(d)
    binary = bool(np.isin(one, (0.0, 1.0)).all() and np.isin(other, (0.0, 1.0)).all())
    # How far a whole cluster may go: as far as one has gone, and at least a third as far as any document. (With less,
    # rare falls of whole passages hide; with more, ordinary falls in tasks of passages do.)
    largest = max(float(np.abs(sums).max()) * count / len(d), float(np.abs(d).max()) / 3) or span
    if not largest:
        return Difference(value, len(d), names, better, worse, "no interval: no variation between documents")
    error, freedom = _error(influence, value, count, largest), _freedom(codes, count)
    shared = (value, len(d), names, better, worse)
    grouped = "" if count == len(d) else f", {count} clusters"
    if binary:
        effective = len(d) / _design_effect(d, codes, count)
        law: Law = _Tango(better, worse, len(d), effective / len(d), math.inf if count == len(d) else freedom)
        if count == len(d):
            method, turns = "McNemar mid-p, Tango", better + worse
            at_zero = (binomial_mid_p(better, turns), binomial_mid_p(worse, turns)) if turns else None
        else:
            method, at_zero = f"Tango{grouped}, effective n {effective:.0f}", _few(sums)
    else:
        law, at_zero = StudentT(value * count / (count + 2), error, freedom), _few(sums)
        method = f"{'sign flips and ' if at_zero else ''}t{grouped}"
    return Difference(*shared, method, error, influence, law, at_zero, freedom=freedom)


def corpus_difference(
    a: ArrayLike,
    b: ArrayLike,
    combine: Callable[[Floats], Floats],
    clusters: Clusters = None,
    *,
    higher_is_better: bool = True,
    units: Sequence[Hashable] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Difference:
    """The difference of two corpus scores from the sufficient statistics (n, k) of the same documents.

    Paired percentile bootstrap (Efron 1979; Koehn 2004): the same documents, or whole clusters, for both; never
    narrower than t with its standard error. replicates=0: only the jackknife's standard error and t, for simulations.
    `combine`: (..., k) sums to (...) scores.
    """
    sign = 1.0 if higher_is_better else -1.0
    one, other = np.asarray(a, float), np.asarray(b, float)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} rows of a for {len(other)} of b")
    names, codes, count = coded(clusters, units, len(one))
    if not len(one):
        return Difference(None, 0, (), 0, 0, "no documents in common")
    sums = [summed(rows, codes, count) for rows in (one, other)]
    scores = [float(combine(rows.sum(axis=0))) for rows in sums]
    value = sign * (scores[0] - scores[1])
    with np.errstate(divide="ignore", invalid="ignore"):  # a document alone may have no score
        gaps = sign * (np.asarray(combine(one), float) - np.asarray(combine(other), float))
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    if count == 1:
        reason = "one document" if len(one) == 1 else "one cluster"
        whole = value if math.isfinite(value) else None
        return Difference(whole, len(one), (), better, worse, f"no interval: {reason}")
    jackknife = [sign * leave_one_out(rows, combine) for rows in sums]
    influence = (jackknife[0] - jackknife[1]) * (count - 1) / count
    shared = (value if math.isfinite(value) else None, len(one), names, better, worse)
    if not math.isfinite(value) or not np.isfinite(influence).all():
        return Difference(*shared, "no interval: the score is not a number")
    error = math.sqrt(count / (count - 1) * float((influence**2).sum()))
    grouped = "" if count == len(one) else f", {count} clusters"
    freedom = _freedom(codes, count)
    if error <= 1e-12 * max(map(abs, scores)):  # rounding is no variation
        reach = float(np.ptp(jackknife[0])) * (count - 1)  # from the worst document to the best
        if value or reach <= 1e-9 * abs(scores[0]):
            return Difference(*shared, "no interval: no variation between documents")
        error = _error(np.zeros(count), 0.0, count, reach)
        t = StudentT(0.0, error, freedom)
        return Difference(*shared, f"t, no document differs{grouped}", error, influence, t, freedom=freedom)
    if not replicates:
        t = StudentT(value, error, freedom)
        return Difference(*shared, f"jackknife, t{grouped}", error, influence, t, freedom=freedom)
    width = one.shape[1]
    drawn = resampled_sums(np.concatenate(sums, axis=1), replicates, seed)
    draws = np.sort(sign * (combine(drawn[:, :width]) - combine(drawn[:, width:])))
    law = _Bootstrap(value, draws, max(error, float(draws.std(ddof=1))), freedom)
    method = f"paired bootstrap, {replicates:,} replicates{grouped}"
    return Difference(*shared, method, error, influence, law, freedom=freedom)


def coded(
    clusters: Clusters, units: Sequence[Hashable] | None, n: int
) -> tuple[tuple[Hashable, ...], NDArray[np.intp], int]:
    """Names of what is drawn, each document's place among them, and how many there are. A document without a cluster
    stands for itself, by its name in `units` or its place."""
    own: Sequence[Hashable] = range(n) if units is None else units
    if len(own) != n or (clusters is not None and len(clusters) != n):
        raise ValueError(f"clusters and units have to be as many as the {n} documents")
    pairs = zip(clusters if clusters is not None else [None] * n, own, strict=True)
    names = [("document", name) if cluster is None else ("cluster", cluster) for cluster, name in pairs]
    seen: dict[Hashable, int] = {}
    codes = np.fromiter((seen.setdefault(name, len(seen)) for name in names), np.intp, n)
    return tuple(seen), codes, len(seen)


def summed(rows: Floats, codes: NDArray[np.intp], count: int) -> Floats:
    """Statistics (n, k) of documents as those of their clusters (count, k)."""
    if count == len(rows):
        return rows
    grouped = np.zeros((count, rows.shape[1]))
    np.add.at(grouped, codes, rows)
    return grouped


def leave_one_out(rows: Floats, combine: Callable[[Floats], Floats]) -> Floats:
    """What each row adds to the corpus score: the mean of the scores without one row, less that without this row."""
    without = np.asarray(combine(rows.sum(axis=0) - rows), float)
    return np.asarray(without.mean() - without, float)


def _refusal(d: Floats, count: int, better: int, worse: int) -> Difference | None:
    n = len(d)
    if not n:
        return Difference(None, 0, (), 0, 0, "no documents in common")
    if not np.isfinite(d).all():
        return Difference(None, n, (), better, worse, "no difference: a value is not a number")
    if count == 1:
        reason = "one document" if n == 1 else "one cluster"
        return Difference(float(d.mean()), n, (), better, worse, f"no interval: {reason}")
    return None


def _freedom(codes: NDArray[np.intp], count: int) -> float:
    """Degrees of freedom of a clustered variance: G − 1, of as many clusters of equal size as the unequal ones are
    worth (Kish 1965)."""
    sizes = np.bincount(codes, minlength=count).astype(float)
    return max(1.0, min(count, float(sizes.sum() ** 2 / (sizes**2).sum())) - 1)


def _error(influence: Floats, value: float, count: int, largest: float) -> float:
    """The clustered standard error with one cluster added that is better by `largest`, and one that is worse."""
    total = count + 2
    scale = count / total  # of the old sums: there are more documents now
    mean = scale * value
    squares = float(((scale * influence + (value - mean) / total) ** 2).sum())
    ends = ((largest - mean) ** 2 + (largest + mean) ** 2) / total**2
    return math.sqrt(total / (total - 1) * (squares + ends))


def _design_effect(d: Floats, codes: NDArray[np.intp], count: int) -> float:
    """The clustered variance of a mean of −1, 0, 1 over that of independent documents, at least 1; two half-sized
    clusters are added, one all better and one all worse. Without a difference each cluster counts as one document."""
    if count == len(d):
        return 1.0
    if not d.any():
        return len(d) / count
    half = len(d) / count / 2
    total = len(d) + 2 * half
    mean = float(d.sum()) / total
    clustered = (np.bincount(codes, d - mean, minlength=count) ** 2).sum() + half**2 * (
        (1 - mean) ** 2 + (1 + mean) ** 2
    )
    alone = ((d - mean) ** 2).sum() + half * ((1 - mean) ** 2 + (1 + mean) ** 2)
    return max(1.0, float(count / (count - 1) * clustered / alone))


def _few(sums: Floats) -> tuple[float, float] | None:
    """One-sided p-values of the sign-flip test of clusters, where there are few of them."""
    return sign_flip(sums) if len(sums) < FEW else None


def sign_flip(sums: ArrayLike) -> tuple[float, float]:
    """(below, above): the shares of all ways to swap a and b in whole clusters whose sum is as low, or as high, as the
    one seen (Fisher 1935). Exact: the sums of two halves of the clusters are listed and matched (Pagano & Tritchler
    1983 count them otherwise), which takes 2^(G/2) steps."""
    values = np.asarray(sums, float)
    values = values[values != 0]
    seen, near = float(values.sum()), 1e-9 * float(np.abs(values).sum())
    one, other = _all_signs(values[::2]), np.sort(_all_signs(values[1::2]))
    ways = len(one) * len(other)
    lower = int(np.searchsorted(other, seen + near - one, "right").sum())
    higher = ways - int(np.searchsorted(other, seen - near - one, "left").sum())
    return lower / ways, higher / ways


def _all_signs(values: Floats) -> Floats:
    """The sums of all ways to give signs to some values."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


@dataclass(frozen=True, slots=True)
class StudentT:
    """A normal estimate with its standard error, by Student's t."""

    value: float
    error: float
    freedom: float

    def below(self, than: float) -> float:
        return t_tail((than - self.value) / self.error, self.freedom)

    def above(self, than: float) -> float:
        return t_tail((self.value - than) / self.error, self.freedom)

    def low(self, tail: float) -> float:
        return self.value - t_bound(self.freedom, tail) * self.error

    def high(self, tail: float) -> float:
        return self.value + t_bound(self.freedom, tail) * self.error


@dataclass(frozen=True, slots=True)
class _Tango:
    """Tango's score test of a difference of paired proportions. share: effective documents of one document."""

    better: int
    worse: int
    n: int
    share: float
    freedom: float

    def score(self, than: float) -> float:
        """The score statistic of "the difference is `than`"; falls as `than` grows."""
        n, better, worse = (self.share * count for count in (self.n, self.better, self.worse))
        far = than * (1 - than)
        b = -better - worse + (2 * n - better + worse) * than
        root = math.sqrt(max(0.0, b * b + 8 * n * worse * far))
        least = (root - b) / (4 * n)  # probability of "only b is right" under the restriction
        variance = n * (2 * least + far)
        gap = better - worse - n * than
        if variance <= 1e-12 * n:
            return math.copysign(math.inf, gap) if abs(gap) > 1e-9 * n else 0.0
        return gap / math.sqrt(variance)

    def below(self, than: float) -> float:
        return t_tail(-self.score(than), self.freedom)

    def above(self, than: float) -> float:
        return t_tail(self.score(than), self.freedom)

    def low(self, tail: float) -> float:
        return self._where(t_bound(self.freedom, tail))

    def high(self, tail: float) -> float:
        return self._where(-t_bound(self.freedom, tail))

    def _where(self, wanted: float) -> float:
        """The difference whose score is `wanted`."""
        low, high = -1.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.score(middle) > wanted else (low, middle)
        return (low + high) / 2


@dataclass(frozen=True, slots=True)
class _Bootstrap:
    """Sorted replicates of a difference. Percentiles are too narrow where there are few clusters, and end where the
    replicates do: t with the larger of the jackknife's and the bootstrap's error is the least width."""

    value: float
    draws: Floats
    error: float
    freedom: float

    @property
    def normal(self) -> StudentT:
        return StudentT(self.value, self.error, self.freedom)

    def below(self, than: float) -> float:
        beyond = len(self.draws) - int(np.searchsorted(self.draws, than, "left"))
        return self._tail(beyond, self.normal.below(than))

    def above(self, than: float) -> float:
        return self._tail(int(np.searchsorted(self.draws, than, "right")), self.normal.above(than))

    def _tail(self, beyond: int, normal: float) -> float:
        return max(normal, (beyond + 1) / (len(self.draws) + 1)) if beyond >= SEEN else normal

    def low(self, tail: float) -> float:
        normal = self.normal.low(tail)
        return min(normal, float(np.quantile(self.draws, tail))) if tail * len(self.draws) >= SEEN else normal

    def high(self, tail: float) -> float:
        normal = self.normal.high(tail)
        return max(normal, float(np.quantile(self.draws, 1 - tail))) if tail * len(self.draws) >= SEEN else normal
