"""The formulas of merging, on slices of tensors that are already in the precision they are computed with.

θ_i are models, θ_0 their base, τ_i = θ_i − θ_0, λ the scale. All functions are pure but for those that end in an
underscore, which overwrite what they are given; a slice is one row (n,).

Sources: chat vector, Huang et al. 2024 (arXiv 2310.04799); task arithmetic, Ilharco et al. 2023 (2212.04089); TIES,
Yadav et al. 2023 (2306.01708); DARE, Yu et al. 2024 (2311.03099); model stock, Jang et al. 2024 (2403.19522).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALMOST_PARALLEL = 0.9995  # |cos| beyond which slerp is a straight line


def add_difference_(into: Tensor, base: Tensor, tuned: Tensor, scale: float) -> None:
    """into ← into + λ (tuned − base). Where tuned is base, into stays bit for bit, its zeros' signs included; base is
    overwritten."""
    if scale >= 0:  # a difference of +0 times λ is +0, and x − (+0) is x, also where x is −0
        into.sub_(base.sub_(tuned), alpha=scale)
    else:
        into.sub_(torch.sub(tuned, base, out=base), alpha=-scale)


def take_where_equal_(result: Tensor, into: Tensor, base: Tensor, tuned: Tensor) -> None:
    """result ← tuned wherever into is base, bit for bit: there base + (tuned − base) is tuned, though in floating point
    a base that is much larger swallows it. All are of one type, as they are stored."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[result.element_size()]
    bits, other, same, wanted = (one.view(kind).numpy() for one in (result, into, base, tuned))
    swallowed = np.equal(other, same)
    swallowed &= np.not_equal(bits, wanted)
    if swallowed.any():  # few, if any: a comparison is a tenth of the price of choosing
        np.copyto(bits, wanted, where=swallowed)


def chat_vector(into: Tensor, instruct: Tensor, base: Tensor, scale: float = 1.0) -> Tensor:
    """into + λ (instruct − base), in the type of all three, which stay as they are; with λ = 1 instruct bit for
    bit where into is base, and with any λ into where instruct is base."""
    made = into.clone()
    add_difference_(made, base.clone(), instruct, scale)
    if scale == 1:
        take_where_equal_(made, into, base, instruct)
    return made


def weighted_sum(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i x_i, added up in order."""
    found = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        found.add_(part, alpha=weight)
    return found


def ties(differences: Sequence[Tensor], weights: Sequence[float], thresholds: Sequence[float]) -> Tensor:
    """TIES' merged τ: of each τ_i what reaches its threshold, the sign of the weighted sum elected, then the weighted
    mean of those that have it. Where the sum is zero nothing is elected, and nothing changes."""
    trimmed = [
        torch.where(magnitude(one) >= threshold, one, 0.0)
        for one, threshold in zip(differences, thresholds, strict=True)
    ]
    elected = weighted_sum(trimmed, weights).sign_()
    total, share = torch.zeros_like(elected), torch.zeros_like(elected)
    for one, weight in zip(trimmed, weights, strict=True):
        agrees = (one.sign() == elected) & (elected != 0)
        total.add_(torch.where(agrees, one, 0.0), alpha=weight)
        share.add_(agrees, alpha=weight)
    return torch.where(share > 0, total / share, 0.0)


def magnitude(difference: Tensor) -> Tensor:
    """|τ| as TIES ranks it: in single precision, whatever it is computed with."""
    return difference.abs().to(torch.float32)


def kept_by_dare(seed: int, tensor: str, part: int, start: int, count: int, drop: float) -> NDArray[np.bool_]:
    """Which elements [start, start + count) of a model's tensor DARE keeps, each with probability 1 − p: by a counter
    (Philox 4x64), a step of which is for eight elements, so that it doesn't depend on how the tensor is cut.

    part: the model's place among those that are merged. start: a multiple of 8.
    """
    if start % 8:
        raise ValueError("slices begin at a multiple of eight")
    text = f"{seed}:{part}:{tensor}".encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], np.uint64)
    dice = np.random.Philox(key=key)
    dice.advance(start // 8)
    words = dice.random_raw(4 * math.ceil(count / 8)).astype("<u8", copy=False).view("<u4")[:count]
    return words >= math.ceil(drop * 2**32)


def slerp(first: Tensor, second: Tensor, t: float, dots: Sequence[float]) -> Tensor:
    """sin((1−t)ω)/sin ω · a + sin(tω)/sin ω · b of slices of tensors whose |a|², |b|², a·b are dots, over all of them.

    ω is the angle between them; where they are almost parallel, or one is zero, it is the straight line.
    """
    lengths = math.sqrt(dots[0]) * math.sqrt(dots[1])
    cosine = max(-1.0, min(1.0, dots[2] / lengths)) if lengths > 0 else 1.0
    if abs(cosine) > ALMOST_PARALLEL:
        return weighted_sum((first, second), (1 - t, t))
    angle = math.acos(cosine)
    shares = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return weighted_sum((first, second), shares)


def stock_ratio(dots: NDArray[np.float64]) -> float:
    """Model stock's t = N cos / (1 + (N − 1) cos) of a tensor: how far from the base the mean of the models is taken.

    dots: (N, N), dots of the τ_i with each other; cos is the mean over pairs. Below zero it counts as zero: t = 0.
    """
    count = len(dots)
    lengths = np.sqrt(np.diag(dots))
    pairs = [(i, j) for i in range(count) for j in range(i)]
    cosines = [dots[i, j] / (lengths[i] * lengths[j]) if lengths[i] * lengths[j] > 0 else 0.0 for i, j in pairs]
    cosine = min(1.0, max(0.0, float(np.mean(cosines))))
    return count * cosine / (1 + (count - 1) * cosine)
