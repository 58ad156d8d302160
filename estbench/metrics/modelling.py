"""How well text is modelled and repeated: bits per byte, and the character error rate of a copy.

    bits_per_byte([nats, bytes])           −log2 p(text) by UTF-8 bytes: comparable between tokenizers
    edit_distance("täis", "tais")          1

Bits per byte of a set is the ratio of sums, so that long documents count for more. Character error rate: Levenshtein
distance by the reference's characters, a ratio of sums as well. It can exceed 1; `copy_results` counts no document as
more than wholly wrong.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from estbench.metrics.base import Floats, Metric


def bits_per_byte(statistics: ArrayLike) -> Floats:
    """Summed (..., 2) nats (−log-likelihood) and UTF-8 bytes to bits per byte (...)."""
    sums = np.asarray(statistics, float)
    bits: Floats = sums[..., 0] / (math.log(2) * sums[..., 1])
    return bits


def edit_distance(output: str, reference: str) -> int:
    """Levenshtein distance in code points."""
    signs = np.array([ord(sign) for sign in reference], dtype=np.int64)
    row = np.arange(len(reference) + 1)
    steps = np.arange(len(reference) + 1)
    for at, sign in enumerate(output, 1):
        above = np.minimum(row[:-1] + (signs != ord(sign)), row[1:] + 1)
        above = np.concatenate(([at], above))
        row = np.minimum.accumulate(above - steps) + steps  # insertions from the left
    return int(row[-1])


def error_rate(statistics: ArrayLike) -> Floats:
    """Summed (..., 2) edits and characters of the reference to the error rate (...)."""
    sums = np.asarray(statistics, float)
    rate: Floats = sums[..., 0] / sums[..., 1]
    return rate


METRICS = (
    Metric("bits_per_byte", "bits", "corpus", higher_is_better=False, combine=bits_per_byte),
    Metric("character_error_rate", kind="corpus", higher_is_better=False, combine=error_rate),
)
