"""Summaries: ROUGE-1, ROUGE-2 and ROUGE-L against one reference, and how long the output is.

    rouge_n(words(output), words(reference), 2)     F1 of the shared word pairs, 0 to 1
    rouge_l(words(output), words(reference))        F1 of the longest common subsequence

ROUGE: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; F1, no stemming (the usual stemmer is
English), on lower-cased words without punctuation, in which diacritics are letters. The score of a set is the mean over
its documents. The length ratio is a ratio of sums: words of all outputs by words of all references; 1 is the
references' length.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from estbench.metrics.base import Floats, Metric

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-cased words: runs of letters and digits."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def rouge_n(output: Sequence[str], reference: Sequence[str], n: int) -> float:
    """F1 of shared n-grams as multisets, 0 to 1; 0 if either has none."""
    given, wanted = (Counter(zip(*(text[at:] for at in range(n)), strict=False)) for text in (output, reference))
    return _f1((given & wanted).total(), given.total(), wanted.total())


def rouge_l(output: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words, 0 to 1."""
    best = [0] * (len(reference) + 1)
    for word in output:
        diagonal = 0
        for place, other in enumerate(reference, 1):
            above = best[place]
            best[place] = diagonal + 1 if word == other else max(above, best[place - 1])
            diagonal = above
    return _f1(best[-1], len(output), len(reference))


def _f1(shared: int, given: int, wanted: int) -> float:
    return 2 * shared / (given + wanted) if shared else 0.0


def length_ratio(statistics: ArrayLike) -> Floats:
    """Summed (..., 2) words of outputs and references to their ratio (...); 0 without reference words."""
    counts = np.asarray(statistics, float)
    ratio: Floats = np.divide(
        counts[..., 0], counts[..., 1], out=np.zeros_like(counts[..., 0]), where=counts[..., 1] > 0
    )
    return ratio


def signature(name: str) -> str:
    """What fixes a ROUGE score: `rouge2|nrefs:1|f1|case:lower|words:unicode|stem:no`."""
    return f"{name}|nrefs:1|f1|case:lower|words:unicode|stem:no"


METRICS = (
    *(Metric(name, kind="mean", signature=partial(signature, name)) for name in ("rouge1", "rouge2", "rougeL")),
    Metric("length_ratio", kind="corpus", combine=length_ratio),
)
