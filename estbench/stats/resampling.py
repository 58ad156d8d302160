"""The bootstrap: sums of rows drawn with replacement.

    resampled_sums(rows, 10_000)      (n, k) statistics -> (10_000, k) sums of n drawn rows

10,000 replicates of 10,000 rows are 10⁸ draws: small integers, counted row by row, and one matrix product a chunk. Each
chunk has a generator of its own, so that a seed gives the same replicates however many threads there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CHUNK = 1_000_000  # draws at once
THREADS = 2


def resampled_sums(rows: ArrayLike, replicates: int = 10_000, seed: int = 0) -> Floats:
    """(replicates, k): sums of as many rows (n, k) as there are, drawn with replacement (Efron 1979)."""
    table = np.asarray(rows, float)
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(lambda weights: weights() @ table, _chunks(len(table), replicates, seed)))
    return np.concatenate(parts)


def resampled_weights(n: int, replicates: int, seed: int = 0) -> Floats:
    """(replicates, n): how often each of n rows is drawn."""
    return np.concatenate([weights() for weights in _chunks(n, replicates, seed)])


class _Draw:
    def __init__(self, n: int, count: int, seed: np.random.SeedSequence) -> None:
        self.n, self.count, self.seed = n, count, seed

    def __call__(self) -> Floats:
        rng = np.random.Generator(np.random.PCG64(self.seed))
        kind = np.uint16 if self.n <= 1 << 16 else np.uint32
        weights = np.empty((self.count, self.n))
        for place, draws in enumerate(rng.integers(0, self.n, (self.count, self.n), dtype=kind)):
            weights[place] = np.bincount(draws, minlength=self.n)
        return weights


def _chunks(n: int, replicates: int, seed: int) -> Iterator[_Draw]:
    size = max(1, CHUNK // n)
    counts = [min(size, replicates - begin) for begin in range(0, replicates, size)]
    seeds = np.random.SeedSequence(seed).spawn(len(counts))
    yield from (_Draw(n, count, one) for count, one in zip(counts, seeds, strict=True))
