"""Short answers: exact match and token F1 against every gold answer, the best one counts.

    exact_match("Tartus.", ["Tartus", "Tartu linnas"])       1
    token_f1("Eesti Vabariigi president", ["president"])     0.5
    lemma_f1("Tartus", ["Tartu"], lemmas.readings)           1.0
    squad_exact_match("The Danube.", ["Danube"])             1, English only

F1 as in SQuAD (Rajpurkar et al. 2016, harmonic mean of token precision and recall, tokens as multisets), but on
Estonian normalisation: no article is removed (English SQuAD code takes "a", which is short for aasta), decimal commas
and grouped thousands are numbers, diacritics stay. Lemma F1 is the same over words that share a reading. The `squad_…`
metrics are SQuAD's own, for English sets, so that published scores compare.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from estbench.errors import TaskError
from estbench.estonian import lemmas
from estbench.estonian.normalise import normalise
from estbench.metrics.base import Metric

METRICS = (
    Metric("em"),
    Metric("f1", kind="mean"),
    Metric("lemma_f1", kind="mean", missing=lemmas.MISSING),
    Metric("contains"),
    Metric("squad_em"),
    Metric("squad_f1", kind="mean"),
    Metric("exact_match"),
    Metric("follow"),
)
Readings = Callable[[str], frozenset[str]]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


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
    given = normalise(answer).split()
    return max((_f1(given, normalise(gold).split()) for gold in golds), default=0.0)


def contains(text: str, golds: Iterable[str]) -> int:
    """1 if the words of a gold answer stand in the text, in a row; a diagnostic for models that answer in sentences."""
    within = f" {normalise(text)} "
    return int(any(f" {normalise(gold)} " in within for gold in golds))


def lemma_f1(answer: str, golds: Sequence[str], readings: Readings) -> float:
    """The best F1 over the gold answers, 0 to 1, where two words are the same if they share a reading.

    `readings` gives a word's possible lemmas. Words are paired so that most pairs come about; at least `token_f1`. An
    answer that differs in its spaces alone is right ("kooli maja", "koolimaja").
    """
    given = normalise(answer).split()
    return max((_lemma_f1(given, normalise(gold).split(), readings) for gold in golds), default=0.0)


def squad_exact_match(answer: str, golds: Iterable[str]) -> int:
    """1 if the answer equals a gold answer after SQuAD's normalisation, which removes English articles."""
    given = _squad_normalise(answer)
    return int(any(given == _squad_normalise(gold) for gold in golds))


def squad_f1(answer: str, golds: Iterable[str]) -> float:
    """The best token F1 after SQuAD's normalisation, 0 to 1."""
    given = _squad_normalise(answer).split()
    return max((_f1(given, _squad_normalise(gold).split()) for gold in golds), default=0.0)


def _squad_normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces: SQuAD's evaluation, in its order."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_NO_PUNCTUATION)).split())


def _f1(given: list[str], gold: list[str]) -> float:
    return _harmonic((Counter(given) & Counter(gold)).total(), given, gold)


def _lemma_f1(given: list[str], gold: list[str], readings: Readings) -> float:
    if given and "".join(given) == "".join(gold):
        return 1.0
    of_given = [readings(word) for word in given]
    alike = [[place for place, lemmas in enumerate(of_given) if lemmas & readings(word)] for word in gold]
    return _harmonic(_pairs(alike), given, gold)


def _harmonic(shared: int, given: list[str], gold: list[str]) -> float:
    return 2 * shared / (len(given) + len(gold)) if shared else 0.0


def _pairs(alike: list[list[int]]) -> int:
    """The most pairs in which each gold word and each given word stands once (Kuhn's augmenting paths).

    `alike[i]` lists the given words that the i-th gold word may be paired with.
    """
    taken: dict[int, int] = {}  # given word -> gold word

    def place(gold: int, tried: set[int]) -> bool:
        for given in alike[gold]:
            if given not in tried:
                tried.add(given)
                if given not in taken or place(taken[given], tried):
                    taken[given] = gold
                    return True
        return False

    return sum(place(gold, set()) for gold in range(len(alike)))
