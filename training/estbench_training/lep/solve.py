"""The matrix P that carries rows of A to rows of B best: least squares with a ridge towards I, by streaming.

    normal = Normal(width=4096)
    for rows in slices(count):                    # of one size, so that sums are taken in the same order
        normal.add(a[rows], b[rows])              # (n, d) each, any float type
    solution = solve(normal, ridge=1e-9)
    solution.p                                    # (d, d) float64: new rows are x @ p
    solution.fit                                  # residuals, condition, ridge: what a report says

    P = argmin ‖A P − B‖² + λ ‖P − I‖²,   λ = ridge · mean of the diagonal of AᵀA

With Q = P − I the normal equations are (AᵀA + λ I) Q = Aᵀ(B − A); both sides are sums over rows, kept in float64, so
that one pass over the rows and four matrices of d × d are all it takes, and about seven more while it is solved. Where
A = B the right side is 0 and P = I bit for bit, whatever the ridge. Where there are fewer rows than d, P does nothing
in the directions that no row has; a plain least-squares solver of least norm (gelsy) would set these to 0. With ridge 0
and enough rows it is the solution of LEP (Tikhomirov & Chernyshev 2024, arXiv 2412.21140), which takes
torch.linalg.lstsq with gelsy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from estbench.errors import DataError

EVERY = 20  # each 20th row is held out of the fit that is tested on them; P itself is made of all
SLICE = 4096  # rows that are added together
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Fit:
    """How well P does. Residuals are ‖A P − B‖ / ‖B‖ (Frobenius).

    held_out: of every 20th row, with a P that was made of the others; far above `residual` where P only fits the rows
    that it was made of. before: ‖A − B‖ / ‖B‖, what P = I leaves; held_before: of the held out rows alone, which may be
    other than the rest. condition: of AᵀA + λ I. moved: ‖P − I‖ / ‖I‖.
    """

    rows: int
    width: int
    ridge: float
    condition: float
    residual: float
    held_out: float | None
    held_before: float | None
    before: float
    moved: float


@dataclass(frozen=True)
class Solution:
    """P (d, d) in float64, and how well it does."""

    p: Tensor
    fit: Fit


@dataclass
class _Sums:
    """Over some of the rows, with C = B − A: AᵀA, AᵀC, and the squared norms of C and B."""

    gram: Tensor
    moment: Tensor
    difference: float = 0.0
    target: float = 0.0
    rows: int = 0

    @classmethod
    def empty(cls, width: int) -> _Sums:
        return cls(torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    def add(self, a: Tensor, b: Tensor) -> None:
        c = b - a
        self.gram.addmm_(a.T, a)
        self.moment.addmm_(a.T, c)
        self.difference += float(c.square().sum())
        self.target += float(b.square().sum())
        self.rows += len(a)

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(
            self.gram + other.gram,
            self.moment + other.moment,
            self.difference + other.difference,
            self.target + other.target,
            self.rows + other.rows,
        )

    def left(self, q: Tensor) -> float:
        """‖A (I + Q) − B‖ / ‖B‖ from the sums: ‖A Q − C‖² = tr(Qᵀ AᵀA Q) − 2 tr(Qᵀ AᵀC) + ‖C‖².
        To about 1e-8 · max(1, ‖C‖ / ‖B‖), as the difference of large squares leaves it."""
        square = float((q * (self.gram @ q)).sum() - 2 * (q * self.moment).sum()) + self.difference
        return _ratio(max(square, 0.0), self.target)


class Normal:
    """The sums of the normal equations; rows are added once, in order."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._kept, self._held = _Sums.empty(width), _Sums.empty(width)

    @property
    def rows(self) -> int:
        """How many were added."""
        return self._kept.rows + self._held.rows

    def add(self, a: Tensor, b: Tensor) -> None:
        """Rows of A and of B, (n, d) each, any float type.

        The bits of the sums depend on how the rows are cut into calls: cut them by `slices`.
        """
        held = (torch.arange(self.rows, self.rows + len(a)) % EVERY) == EVERY - 1
        a, b = a.double(), b.double()
        self._kept.add(a[~held], b[~held])
        if bool(held.any()):
            self._held.add(a[held], b[held])


def slices(count: int, size: int = SLICE) -> Iterator[tuple[int, int]]:
    """(start, stop) over `count` rows."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


def solve(normal: Normal, ridge: float) -> Solution:
    """P of the rows that were added.

    Args:
        ridge: λ as a multiple of the mean of AᵀA's diagonal, 0 or more. 1e-9 changes a well-determined P by less than
            a 16-bit weight shows, and settles what the rows leave open.

    DataError: there are no rows, a number is not finite, or the rows leave P open and ridge is 0.
    """
    whole = normal._kept.plus(normal._held)
    if not whole.rows:
        raise DataError("there are no rows to solve for P")
    if not (bool(torch.isfinite(whole.gram).all()) and bool(torch.isfinite(whole.moment).all())):
        raise DataError("the rows to solve for P hold numbers that are not finite")
    damping = ridge * float(whole.gram.diagonal().mean())
    lowest, highest = _spectrum(whole.gram, damping)
    if lowest <= (least := normal.width * EPS * highest):
        raise DataError(_open(whole, normal.width, ridge, least))
    q, tested = _solved(whole, damping), _solved(normal._kept, damping)
    assert q is not None  # as its condition says
    held = normal._held
    fit = Fit(
        rows=whole.rows,
        width=normal.width,
        ridge=ridge,
        condition=highest / lowest,
        residual=whole.left(q),
        held_out=held.left(tested) if held.rows and tested is not None else None,
        held_before=_ratio(held.difference, held.target) if held.rows else None,
        before=_ratio(whole.difference, whole.target),
        moved=float(q.norm()) / math.sqrt(normal.width),
    )
    q.diagonal().add_(1.0)
    return Solution(q, fit)


def _spectrum(gram: Tensor, damping: float) -> tuple[float, float]:
    """The least and the greatest eigenvalue of AᵀA + λ I."""
    values = torch.linalg.eigvalsh(gram)
    return float(values[0]) + damping, float(values[-1]) + damping


def _open(sums: _Sums, width: int, ridge: float, least: float) -> str:
    """What is wrong where the rows leave P open. least: what λ has to be above."""
    mean = float(sums.gram.diagonal().mean())
    if not mean:
        return f"the {sums.rows:,} rows to solve for P are all zero"
    enough = 10.0 ** math.ceil(math.log10(2 * least / mean))
    return (
        f"{sums.rows:,} rows do not determine P in {width} dimensions with ridge: {ridge:g}; "
        f"ridge: {max(enough, 1e-9):g} leaves what they say nothing of as it is"
    )


def _solved(sums: _Sums, damping: float) -> Tensor | None:
    """Q of (AᵀA + λ I) Q = AᵀC, by Cholesky; None where the rows leave it open."""
    matrix = sums.gram.clone()
    matrix.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal().square()
    if int(failed) or float(pivots.min()) <= len(matrix) * EPS * float(pivots.max()):
        return None
    return torch.cholesky_solve(sums.moment, factor)


def _ratio(square: float, of: float) -> float:
    return math.sqrt(square / of) if of else 0.0
