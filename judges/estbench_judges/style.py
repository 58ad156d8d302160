"""What an answer looks like, in numbers: the covariates that a style-controlled rating holds equal.

    features(answer)             Features(words=120, headers=2, items=7, bold=3)
    differences(one, other)      (4,): length, headers, list items, bold; each between −1 and 1

The differences are those of Arena-Hard 2.0 (lmarena/arena-hard-auto, utils/math_utils.py; Li et al. 2024, "Does style
matter?"), with words in place of tokens: length is (a − b)/(a + b), the others are densities d = count/(words + 1),
(a − b)/(a + b + 1). Swapping the answers turns the sign, equal answers give 0. Scaling to unit variance is left to the
fit.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from estbench.stats.intervals import Floats

NAMES = ("length", "headers", "lists", "bold")
FENCE = re.compile(r"\s{0,3}(?:```|~~~)")
HEADER = re.compile(r"\s{0,3}#{1,6}\s+\S")
ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S")
BOLD = re.compile(r"\*\*(?=\S)[^*\n]{1,500}\*\*|(?<!\w)__(?=\S)[^_\n]{1,500}__(?!\w)")


class Features(NamedTuple):
    """Counts in one answer. Markdown inside code blocks is code, and counts as words only."""

    words: int
    headers: int
    items: int
    bold: int


def features(text: str) -> Features:
    """The counts of a text."""
    headers = items = bold = 0
    code = False
    for line in text.splitlines():
        if FENCE.match(line):
            code = not code
        elif not code:
            headers += HEADER.match(line) is not None
            items += ITEM.match(line) is not None
            bold += len(BOLD.findall(line))
    return Features(len(text.split()), headers, items, bold)


def differences(a: str | Features, b: str | Features) -> Floats:
    """(4,): how much longer and more marked up a is than b, in the order of NAMES."""
    one, other = (features(answer) if isinstance(answer, str) else answer for answer in (a, b))
    total = one.words + other.words
    length = (one.words - other.words) / total if total else 0.0
    dense = np.array(one[1:]) / (one.words + 1)
    others = np.array(other[1:]) / (other.words + 1)
    return np.concatenate(([length], (dense - others) / (dense + others + 1)))
