"""MinHash signatures of documents' word 5-grams, and the bands by which near-duplicates meet.

The share of equal places in two signatures estimates the Jaccard similarity of the two sets of 5-grams: unbiased, with
standard deviation √(J(1−J)/permutations) (Broder 1997). Words are those of `estbench.contamination.text`: NFC, case
folded, letters only; of a document beyond 524,288 characters that many count. A text with fewer than five words is one
"5-gram". Permutations are affine maps modulo 2³² of a mixed hash, as datasketch's scheme "affine32" has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from estbench.contamination import text
from estbench.contamination.index import batches

GRAM = 5  # words
RECALL = 0.98  # of pairs at the threshold that share a band
NONE = np.uint32(0xFFFFFFFF)  # in all places of a text without words

Signatures = NDArray[np.uint32]


def signatures(texts: Sequence[str], permutations: int) -> Signatures:
    """uint32 (texts, permutations)."""
    found = np.full((len(texts), permutations), NONE, np.uint32)
    for start, batch in batches([one.replace(text.END, " ") for one in texts]):
        grams, owners = _grams(batch)
        if not len(grams):
            continue
        heads = np.flatnonzero(np.diff(owners, prepend=-1))
        rows = start + owners[heads]
        for place, (factor, term) in enumerate(zip(*permuted(permutations), strict=True)):
            found[rows, place] = np.minimum.reduceat(grams * factor + term, heads)
    return found


def _grams(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
    """(hash of each word 5-gram, number of its text), text by text."""
    block = text.normalise(texts)
    begins, ends = block.words()
    if not len(begins):
        return np.zeros(0, np.uint32), np.zeros(0, np.intp)
    owners = np.searchsorted(np.flatnonzero(block.codes == text.MARK), begins)
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    behind = np.append(firsts[1:], len(owners))
    places = np.arange(len(owners))
    last = np.minimum(places + GRAM, np.repeat(behind, behind - firsts)) - 1
    whole = last - places == GRAM - 1
    whole[firsts] = True
    hashes = text.hashes(text.prefixes(block.codes), begins[whole], ends[last[whole]])
    return mixed((hashes >> np.uint64(32)).astype(np.uint32)), owners[whole]


def mixed(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The finaliser of MurmurHash3, 32 bits: a bijection that spreads every bit."""
    hashes = hashes ^ (hashes >> np.uint32(16))
    hashes = hashes * np.uint32(0x85EBCA6B)
    hashes = hashes ^ (hashes >> np.uint32(13))
    hashes = hashes * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


@lru_cache(maxsize=4)
def permuted(permutations: int) -> tuple[Signatures, Signatures]:
    """(odd factors, terms) of the permutations h -> factor·h + term modulo 2³²."""
    dice = np.random.default_rng(5)
    values = dice.integers(0, 1 << 32, (2, permutations), np.uint32)
    return values[0] | np.uint32(1), values[1]


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows of each): as many rows as leave RECALL of the pairs at the threshold with an equal band.

    1 − (1 − tʳ)ᵇ is the chance that two documents of similarity t share one of b bands of r rows. Pairs that do are
    compared by their whole signatures, so that many rows only save work.
    """
    for rows in range(permutations, 1, -1):
        count = permutations // rows
        if 1 - (1 - threshold**rows) ** count >= RECALL:
            return count, rows
    return permutations, 1


def band_keys(rows: Signatures) -> NDArray[np.uint64]:
    """64-bit hash of each row of (documents, rows of a band)."""
    keys = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        keys ^= column.astype(np.uint64)
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def similarity(left: Signatures, right: Signatures) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of each pair of rows."""
    return (left == right).mean(axis=1)  # type: ignore[no-any-return]
