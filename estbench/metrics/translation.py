"""chrF++ and BLEU as sums: each document keeps its sufficient statistics, their sum gives sacreBLEU's corpus score.

    rows = [chrf_statistics(output, reference) for ...]      (n, 24) counts
    chrf(np.sum(rows, axis=0))                               points, equal to sacrebleu.CHRF(word_order=2).corpus_score

`chrf` and `bleu` take leading axes, so that a bootstrap of a thousand replicates is one matrix product. This is the
only module that touches sacreBLEU's internals (`_extract_corpus_statistics`); a test compares the sums with its corpus
scores. chrF++: Popović 2017. BLEU: Papineni et al. 2002, 13a tokens, exponential smoothing (Post 2018).
An empty output has no n-grams of its own, while those of its reference still count: it lowers recall.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from estbench.metrics.base import Floats, Metric

CHRF_ORDERS = 8  # characters 1 to 6, words 1 and 2: [hypothesis, reference, match] each
CHRF_BETA = 2
BLEU_ORDERS = 4  # [hypothesis length, reference length, correct 1 to 4, total 1 to 4]


@cache
def _sacrebleu(name: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=2) if name == "chrf++" else BLEU()


def _statistics(name: str, output: str, reference: str) -> list[int]:
    [row] = _sacrebleu(name)._extract_corpus_statistics([output], [[reference]])
    return [int(count) for count in row]


def chrf_statistics(output: str, reference: str) -> list[int]:
    """24 counts of one document: [hypothesis, reference, match] n-grams of each order."""
    return _statistics("chrf++", output, reference)


def bleu_statistics(output: str, reference: str) -> list[int]:
    """10 counts of one document: lengths, correct n-grams, all n-grams."""
    return _statistics("bleu", output, reference)


def signature(name: str) -> str:
    """sacreBLEU's signature of "chrf++" or "bleu", as it prints it: `nrefs:1|case:mixed|…|version:2.6.0`."""
    metric = _sacrebleu(name)
    metric.num_refs = 1
    return str(metric.get_signature())


def chrf(statistics: ArrayLike) -> Floats:
    """Summed counts (..., 24) to chrF++ (...), 0 to 100: F2 of precision and recall, each averaged over the orders that
    occur on both sides."""
    counts = np.asarray(statistics, float)
    hypothesis, reference, match = (counts[..., place::3] for place in range(3))
    used = (hypothesis > 0) & (reference > 0)
    orders = np.maximum(used.sum(axis=-1), 1)
    precision = np.divide(match, hypothesis, out=np.zeros_like(match), where=used).sum(axis=-1) / orders
    recall = np.divide(match, reference, out=np.zeros_like(match), where=used).sum(axis=-1) / orders
    factor = CHRF_BETA**2
    below = factor * precision + recall
    score: Floats = np.divide((1 + factor) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
    return 100 * score


def bleu(statistics: ArrayLike) -> Floats:
    """Summed counts (..., 10) to BLEU (...), 0 to 100, with sacreBLEU's default smoothing ("exp": the first order
    without a match counts as 1/2, the next as 1/4, ...)."""
    counts = np.asarray(statistics, float)
    length, reference = counts[..., 0], counts[..., 1]
    correct, total = counts[..., 2 : 2 + BLEU_ORDERS], counts[..., 2 + BLEU_ORDERS :]
    missed = np.cumsum((correct == 0) & (total > 0), axis=-1)
    smoothed = np.where(correct > 0, correct, np.where(total > 0, 0.5**missed, 0.0))
    precision = np.divide(smoothed, total, out=np.zeros_like(total), where=total > 0)
    with np.errstate(divide="ignore"):
        mean_log = np.log(precision).mean(axis=-1)  # -inf where an order has no n-gram at all
    ratio = np.divide(reference, length, out=np.full_like(length, np.inf), where=length > 0)
    brevity = np.where(length < reference, np.exp(1 - ratio), 1.0)
    return np.where(correct.any(axis=-1), 100 * brevity * np.exp(mean_log), 0.0)


METRICS = (
    Metric("chrf++", "points", "corpus", signature=partial(signature, "chrf++"), combine=chrf),
    Metric("bleu", "points", "corpus", signature=partial(signature, "bleu"), combine=bleu),
    Metric("off_target", higher_is_better=False),  # the output is in another language
)
