"""Named entities as JSON: {"inimene": ["Lydia Koidula"], "asukoht": ["Tartus"], …}; micro-F1 over (type, mention).

    gold_entities(["Tartu", "Ülikool"], ["B-ORG", "I-ORG"])       Counter({("organisatsioon", "Tartu Ülikool"): 1})
    read_entities('```json\\n{"asukoht": ["Tartus"]}\\n```')        Counter({("asukoht", "Tartus"): 1}); None: no JSON
    entity_statistics(given, gold)                                [tp, fp, fn]

Mentions are compared as they stand in the text (case and inflection count), but for spaces and the kind of quotes:
tokens are joined with spaces, and a model may or may not keep those. A mention counts as often as it occurs.
EstNER's eleven types (Sirts 2023) are merged into four; dates, times, amounts, percentages and titles are no names.
Only the first level of nested tags is used.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from estbench.errors import TaskError
from estbench.estonian.normalise import DASHES, QUOTES, without_thinking
from estbench.metrics.base import Floats, Metric

Entities = Counter[tuple[str, str]]  # (type, mention) -> how often
TYPES = ("inimene", "asukoht", "organisatsioon", "muu")
TYPE_OF = {
    "PER": "inimene",
    "LOC": "asukoht",
    "GPE": "asukoht",
    "ORG": "organisatsioon",
    "PROD": "muu",
    "EVENT": "muu",
    **dict.fromkeys(("TITLE", "DATE", "TIME", "MONEY", "PERCENT")),
}


def spans(tokens: Sequence[str], tags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(label, mention) of each entity of an IOB2 sequence, in order. TaskError: tags that are none."""
    if len(tokens) != len(tags):
        raise TaskError(f"A row has {len(tokens)} tokens and {len(tags)} tags: correct or drop the row.")
    label, words = "", list[str]()
    for token, tag in [*zip(tokens, tags, strict=True), ("", "O")]:
        if words and tag != f"I-{label}":
            yield label, " ".join(words)
            words = []
        if tag != "O":
            if not re.fullmatch("[BI]-.+", tag):
                raise TaskError(
                    f"A row has the tag {tag!r}, which is not IOB2 (B-PER, I-PER, O): correct or drop the row."
                )
            label, words = tag[2:], [*words, token]


def gold_mentions(tokens: Sequence[str], tags: Sequence[str]) -> dict[str, list[str]]:
    """The gold answer: mentions by type, all four types, in the order of the text."""
    found: dict[str, list[str]] = {kind: [] for kind in TYPES}
    for label, mention in spans(tokens, tags):
        if label not in TYPE_OF:
            raise TaskError(f"A row has the entity type {label!r}; known are {', '.join(TYPE_OF)}.")
        kind = TYPE_OF[label]
        if kind is not None:
            found[kind].append(mention)
    return found


def gold_entities(tokens: Sequence[str], tags: Sequence[str]) -> Entities:
    """The gold entities of an IOB2 sequence."""
    return Counter((kind, mention) for kind, mentions in gold_mentions(tokens, tags).items() for mention in mentions)


def read_entities(response: str) -> Entities | None:
    """The entities of an answer: its first JSON object with one of the four keys; None if there is none.

    Other keys are left out, a single string counts as a list of one, what is no string is left out.
    """
    text = without_thinking(response)
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, brace.start())
        except ValueError:  # not the beginning of an object
            continue
        except RecursionError:
            return None
        keys = {str(key).strip().casefold(): part for key, part in value.items()}
        if keys.keys() & set(TYPES):
            return Counter((kind, mention) for kind in TYPES for mention in _strings(keys.get(kind)))
    return None


def _strings(value: Any) -> list[str]:
    parts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [part for part in parts if isinstance(part, str) and part.strip()]


def entity_statistics(given: Entities, gold: Entities) -> list[int]:
    """[true positives, false positives, false negatives] of one document."""
    found, wanted = _keys(given), _keys(gold)
    right = (found & wanted).total()
    return [right, found.total() - right, wanted.total() - right]


def _keys(entities: Entities) -> Entities:
    keys: Entities = Counter()
    for (kind, mention), times in entities.items():
        text = unicodedata.normalize("NFC", mention).translate(DASHES)
        keys[kind, "".join("".join(text.split()).translate({ord(sign): '"' for sign in QUOTES}))] += times
    return keys


def micro_f1(statistics: ArrayLike) -> Floats:
    """Summed counts (..., 3) to micro-F1 (...), 0 to 1; 0 where there is nothing to find and nothing was found."""
    counts = np.asarray(statistics, float)
    below = 2 * counts[..., 0] + counts[..., 1] + counts[..., 2]
    f1: Floats = np.divide(2 * counts[..., 0], below, out=np.zeros_like(below), where=below > 0)
    return f1


METRICS = (Metric("entity_f1", kind="corpus", combine=micro_f1),)
