"""The bootstrap: sums of rows drawn with replacement.

    resampled_sums(rows, 10_000)      (n, k) statistics -> (10_000, k) sums of n drawn rows

10,000 replicates of 10,000 rows are 10⁸ draws: counted in blocks that stay in a core's cache, and one matrix product a
chunk. Few distinct rows (0/1 data has three kinds of differences) are drawn by their numbers: one multinomial a
replicate. Each chunk has a generator of its own, so that a seed gives the same replicates however many threads there
are. What has to be drawn together (two systems on the same documents) are columns of one call: two calls are not
paired, even with the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CHUNK = 2_000_000  # weights at once, in each thread
BLOCK = 1 << 16  # draws at once: they and their counts fit in the cache
FEW = 32  # rows for each distinct one above which drawing numbers is faster than drawing rows
THREADS = 2


def resampled_sums(rows: ArrayLike, replicates: int = 10_000, seed: int | Sequence[int] = 0) -> Floats:
    """(replicates, k): sums of as many rows (n, k) as there are, drawn with replacement (Efron 1979).

    The draws are those of the multinomial, without a shortcut; sums of whole numbers are exact up to 2⁵³. Clusters are
    rows that were summed before.
    """
    table = np.asarray(rows, float)
    n = len(table)
    sums = np.zeros((replicates, table.shape[1]))
    if not n or not replicates:
        return sums
    kinds, times = np.unique(table, axis=0, return_counts=True)
    few = len(kinds) * FEW <= n
    table = kinds if few else table
    size = max(1, CHUNK // len(table))
    begins = range(0, replicates, size)

    def fill(begin: int, own: np.random.SeedSequence) -> None:
        rng = np.random.default_rng(own)
        count = min(size, replicates - begin)
        weights = rng.multinomial(n, times / n, count) if few else _weights(rng, n, count)
        sums[begin : begin + count] = weights @ table

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, begins, np.random.SeedSequence(seed).spawn(len(begins))))
    return sums


def _weights(rng: np.random.Generator, n: int, count: int) -> Floats:
    """(count, n): how often each of n rows is drawn in n draws."""
    weights = np.empty((count, n))
    step = max(1, BLOCK // n)
    for begin in range(0, count, step):
        part = weights[begin : begin + step]
        draws = rng.integers(0, n, part.shape, dtype=np.uint32)
        draws += np.arange(len(part), dtype=np.uint32)[:, None] * np.uint32(n)
        part[:] = np.bincount(draws.ravel(), minlength=part.size).reshape(part.shape)
    return weights
