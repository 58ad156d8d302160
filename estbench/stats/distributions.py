"""Tails and quantiles of the normal, Student's t and the binomial distribution, numpy-free and exact enough for tails
of 1e-12: what scipy would give, without its second of import time.

    t_quantile(19)                        2.093…: P(|T| <= q) = 0.95
    t_tail(2.093, 19)                     0.025: P(T >= t)
    binomial_mid_p(3, 12)                 P(X < 3) + P(X = 3)/2 of Bin(12, ½)

All rest on the regularised incomplete beta function, by its continued fraction (Abramowitz & Stegun 26.5.8, evaluated
by Lentz' method).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

LEVEL = 0.95
TINY = 1e-300


def beta_share(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 to 1, with relative accuracy also where it is tiny."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, 1 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            total *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return total


def _away(value: float) -> float:
    return value if abs(value) > TINY else TINY


def normal_tail(z: float) -> float:
    """P(Z >= z)."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def normal_quantile(tail: float) -> float:
    """The z with P(Z >= z) = `tail`, which is between 0 and 1."""
    return -NormalDist().inv_cdf(tail)


def t_tail(t: float, freedom: float) -> float:
    """P(T >= t) of Student's t. `freedom`: any number above 0, or inf (normal)."""
    if math.isinf(freedom):
        return normal_tail(t)
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    square = t * t
    if square < 1:  # near 0 the other form would lose t in the rounding of freedom + t²
        half = 0.5 - beta_share(0.5, freedom / 2, square / (freedom + square)) / 2
    else:
        half = beta_share(freedom / 2, 0.5, freedom / (freedom + square)) / 2
    return half if t >= 0 else 1 - half


def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t: P(|T| <= q) = `level`. `freedom`: above 0, or inf (normal)."""
    return t_bound(freedom, (1 - level) / 2)


@lru_cache(maxsize=4096)
def t_bound(freedom: float, tail: float) -> float:
    """The one-sided quantile: P(T >= q) = `tail`; negative above one half. ValueError: a tail that is none."""
    if not 0 < tail < 1:
        raise ValueError(f"a tail lies between 0 and 1, not {tail}")
    if tail > 0.5:
        return -t_bound(freedom, 1 - tail)
    z = normal_quantile(tail)
    if math.isinf(freedom):
        return z
    low, high = 0.0, max(1.0, z)
    while t_tail(high, freedom) > tail:
        low, high = high, 2 * high
    return _solved(freedom, tail, low, high)


def _solved(freedom: float, tail: float, low: float, high: float) -> float:
    """The quantile between two bounds: Newton's steps on the logarithm of the tail, halving where one leaves them."""
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    point, wanted = (low + high) / 2, math.log(tail)
    for _ in range(200):
        value = t_tail(point, freedom)
        low, high = (point, high) if value > tail else (low, point)
        density = math.exp(scale - (freedom + 1) / 2 * math.log1p(point * point / freedom))
        step = (math.log(value) - wanted) * value / density if value > 0 and density > 0 else math.inf
        follower = point + step if low < point + step < high else (low + high) / 2
        if follower in (low, high) or abs(follower - point) <= 2e-16 * point:
            return follower
        point = follower
    return point


def binomial_mid_p(k: int, n: int, p: float = 0.5) -> float:
    """P(X < k) + P(X = k)/2 of Bin(n, p): the lower tail that is neither too large nor too small on average (Lancaster
    1961)."""
    below = binomial_cdf(k - 1, n, p)
    return (below + binomial_cdf(k, n, p)) / 2


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) of Bin(n, p)."""
    if k < 0 or k >= n:
        return 0.0 if k < 0 else 1.0
    return beta_share(n - k, k + 1, 1 - p)
