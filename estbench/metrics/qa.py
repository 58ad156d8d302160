"""Short answers: exact match and token F1 against every gold answer, the best one counts.

    exact_match("Tartus.", ["Tartus", "Tartu linnas"])       1
    token_f1("Eesti Vabariigi president", ["president"])     0.5

F1 as in SQuAD (Rajpurkar et al. 2016, harmonic mean of token precision and recall, tokens as multisets), but on
Estonian normalisation: no article is removed (English SQuAD code takes "a", which is short for aasta), decimal commas
and grouped thousands are numbers, diacritics stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from estbench.errors import TaskError
from estbench.estonian.normalise import normalise
from estbench.metrics.base import Metric

METRICS = (Metric("em"), Metric("f1", kind="mean"), Metric("exact_match"), Metric("follow"))


def gold_answers(answers: Any) -> list[str]:
    """The gold answers of a row: ["…"], {"text": ["…"], …} (SQuAD on the Hub) or [{"text": "…", …}]; repeats once.

    Raises TaskError if there is none: a document without gold can't be scored.
    """
    texts = answers.get("text", []) if isinstance(answers, Mapping) else answers
    texts = [texts] if isinstance(texts, str) else texts
    found = [str(entry["text"] if isinstance(entry, Mapping) else entry) for entry in texts]
    golds = list(dict.fromkeys(text for text in found if text.strip()))
    if not golds:
        raise TaskError(f"A row has no gold answer in its field `answers` ({answers!r}): correct or drop the row.")
    return golds


def exact_match(answer: str, golds: Iterable[str]) -> int:
    """1 if the normalised answer equals a normalised gold answer, else 0."""
    given = normalise(answer)
    return int(any(given == normalise(gold) for gold in golds))


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """The best token F1 over the gold answers, 0 to 1; an empty answer has 0."""
    given = Counter(normalise(answer).split())
    return max((_f1(given, Counter(normalise(gold).split())) for gold in golds), default=0.0)


def _f1(given: Counter[str], gold: Counter[str]) -> float:
    shared = (given & gold).total()
    return 2 * shared / (given.total() + gold.total()) if shared else 0.0
