"""Classification: the label that an answer names, and MCC and macro-F1 over all documents.

    named("Meelestatus on pigem negatiivne.", ["positiiv\\w*", "neutraal\\w*", "negatiiv\\w*"])     2
    outcome(0, 2, 3)                   [0, 2, 3]: gold label, given label, number of labels; None given is [0, 3, 3]
    mcc(cells([[0, 0, 2], [1, 0, 2]]).sum(axis=0))

A document's statistic is its cell of the confusion matrix, labels × (labels + 1): the last column holds the documents
without an answer, which count as wrong. MCC is the one for several classes (Gorodkin 2004), macro-F1 the plain mean of
the F1 of all labels that occur; both as scikit-learn has them, 0 where nothing is defined.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from estbench.errors import TaskError
from estbench.estonian.normalise import without_thinking
from estbench.metrics.base import Floats, Metric

REACH = 80  # characters before a mention in which a denial of it, or another label, is looked for


def outcome(gold: int, given: int | None, labels: int) -> list[int]:
    """What is kept of a document: [gold label, given label (`labels` if there is none), number of labels]."""
    return [gold, labels if given is None else given, labels]


def cells(values: Sequence[Any]) -> Floats:
    """Outcomes (n, 3) as one-hot cells (n, labels × (labels + 1)). TaskError if their numbers of labels differ."""
    kept = np.asarray(values, int).reshape(-1, 3)
    if len(kinds := set(kept[:, 2].tolist())) > 1:
        raise TaskError(f"The documents of a task have different numbers of labels: {sorted(kinds)}.")
    labels = kinds.pop() if kinds else 0
    rows = np.zeros((len(kept), labels * (labels + 1)))
    rows[np.arange(len(kept)), kept[:, 0] * (labels + 1) + kept[:, 1]] = 1
    return rows


def mcc(statistics: ArrayLike) -> Floats:
    """Summed cells (..., labels × (labels + 1)) to Matthews' correlation (...), -1 to 1."""
    matrix = _matrix(statistics)
    gold, given = matrix.sum(axis=-1), matrix.sum(axis=-2)
    total, right = gold.sum(axis=-1), _diagonal(matrix).sum(axis=-1)
    both = (gold * given[..., :-1]).sum(axis=-1)
    spread = (total**2 - (gold**2).sum(axis=-1)) * (total**2 - (given**2).sum(axis=-1))
    result: Floats = np.divide(right * total - both, np.sqrt(spread), out=np.zeros_like(total), where=spread > 0)
    return result


def macro_f1(statistics: ArrayLike) -> Floats:
    """Summed cells (..., labels × (labels + 1)) to the mean F1 (...), 0 to 1, of the labels that are gold or given."""
    matrix = _matrix(statistics)
    either = matrix.sum(axis=-1) + matrix.sum(axis=-2)[..., :-1]
    scores = np.divide(2 * _diagonal(matrix), either, out=np.zeros_like(either), where=either > 0)
    occurring = np.maximum((either > 0).sum(axis=-1), 1)
    result: Floats = scores.sum(axis=-1) / occurring
    return result


METRICS = (
    Metric("mcc", kind="corpus", prepare=cells, combine=mcc),
    Metric("macro_f1", kind="corpus", prepare=cells, combine=macro_f1),
)


def named(response: str, forms: Sequence[str]) -> int | None:
    """The index of the label that the response names, or None. `forms` has a regular expression for each label.

    The first explicit answer wins ("Vastus: sport", "Meelestatus on negatiivne", "pigem neutraalne", or the label at
    the beginning). Without one, the only label that is mentioned and not denied. Nothing is guessed.
    """
    text = re.sub(r"[*_`#]", "", without_thinking(response))
    text = " ".join(text.split())  # the patterns take more than linear time on runs of spaces
    patterns = _patterns(tuple(forms))
    said = [match for match in patterns["label"].finditer(text) if not _denied(patterns, text, match)]
    starts = {match.start() for match in said}
    for match in patterns["explicit"].finditer(text):
        if match.start("found") in starts and not _listed(patterns, text, match):
            return _which(patterns["label"].match(text, match.start("found")))
    mentioned = {_which(match) for match in said}
    return mentioned.pop() if len(mentioned) == 1 else None


def _which(match: re.Match[str] | None) -> int:
    assert match is not None and match.lastgroup is not None
    return int(match.lastgroup.removeprefix("label"))


def _denied(patterns: dict[str, re.Pattern[str]], text: str, match: re.Match[str]) -> bool:
    """Whether the mention is denied: "ei ole positiivne", "positiivne ei ole"."""
    start = match.start()
    return bool(
        patterns["denial"].search(text, max(0, start - REACH), start) or patterns["denied"].match(text, match.end())
    )


def _listed(patterns: dict[str, re.Pattern[str]], text: str, match: re.Match[str]) -> bool:
    """Whether the mention is one of several: "positiivne või negatiivne"."""
    start = match.start("found")
    return bool(
        patterns["another"].match(text, match.end()) or patterns["other"].search(text, max(0, start - REACH), start)
    )


@cache
def _patterns(forms: tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    any_form = rf"\b(?:{'|'.join(forms)})"
    nouns = (
        r"(?:vastus|meelestatus|hinnang|tonaalsus|toon|hoiak|teema|kategooria|valdkon[dn]|silt|liik|answer|label)\w*+"
    )
    quotes, joined = r"[\"'„“”«»()\[\]]*", r"\s*(?:,|/|\||või|ja|ning|ega|kuni)\s*"
    # up to two words may stand between ("Teksti teema on selgelt sport"), labels and sentence ends may not
    between = rf"\s*(?:[:=–-]|\bon\b:?)?\s*(?:(?!{any_form})\w+\s+){{0,2}}{quotes}"
    sources = {
        "label": r"\b(?:" + "|".join(f"(?P<label{place}>{form})" for place, form in enumerate(forms)) + ")",
        "explicit": rf"(?:\A{quotes}|\b{nouns}{between}|\b(?:pigem|kuulub)\s+{quotes})(?P<found>{any_form})",
        "another": rf"{quotes}{joined}{quotes}{any_form}",
        "other": rf"{any_form}{quotes}{joined}{quotes}\Z",
        "denial": rf"\b(?:ei|pole|mitte|ega)\s+(?:(?!vaid\b)\w+\s+){{0,2}}{quotes}\Z",
        "denied": rf"{quotes}\s+(?:(?:see|tekst)\s+)?(?:ei\b|pole\b|on\s+(?:vale|väär)\b)",
    }
    return {name: re.compile(source, re.IGNORECASE) for name, source in sources.items()}


def _matrix(statistics: ArrayLike) -> Floats:
    """Cells (..., labels × (labels + 1)) as matrices (..., labels, labels + 1)."""
    flat = np.asarray(statistics, float)
    labels = (math.isqrt(1 + 4 * flat.shape[-1]) - 1) // 2
    return flat.reshape(*flat.shape[:-1], labels, labels + 1)


def _diagonal(matrix: Floats) -> Floats:
    return np.diagonal(matrix, axis1=-2, axis2=-1)
