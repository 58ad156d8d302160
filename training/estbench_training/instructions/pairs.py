"""Which pairs of parallel text are no translations of each other, by signs that need no model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

from estbench.estonian.language import UNKNOWN, code_of, identify
from estbench_training.instructions.settings import PairFilterSettings, TranslationSettings

ENDS = re.compile(r"[.!?…]+")  # a run of marks that ends a sentence
LAST = re.compile(r"([.!?…])[\"'“”»)\]]*$")
WORD = re.compile(r"[^\W\d_]+")
MOST_ENDS = 2  # by which the numbers of ends may differ
SHARED = 0.6  # of the words of both sides: more is a copy
FEWEST = 4  # words of which that is asked: names are the same in both languages


def reason(settings: TranslationSettings, pair: Mapping[str, str]) -> str | None:
    """Why a pair is left out, or None. pair: texts by language; NFC, spaces at the ends cut off."""
    filters = settings.filters
    one, other = (pair[code] for code in settings.languages)
    return _size(filters, one, other) or _content(filters, one, other) or _language(filters, pair)


def _size(filters: PairFilterSettings, one: str, other: str) -> str | None:
    short, long = sorted((len(one), len(other)))
    if not short:
        return "empty"
    if short < filters.min_characters:
        return "too_short"
    if long > filters.max_characters:
        return "too_long"
    if filters.length_ratio is not None and long > filters.length_ratio * short:
        return "length_ratio"
    return None


def _content(filters: PairFilterSettings, one: str, other: str) -> str | None:
    if any(sum(map(str.isalpha, side)) < filters.letters * len(side.replace(" ", "")) for side in (one, other)):
        return "few_letters"
    if filters.copies and _is_copy(one, other):
        return "copy"
    if filters.numbers and digits(one) != digits(other):
        return "numbers"
    if filters.punctuation and not _punctuated_alike(one, other):
        return "punctuation"
    return None


def digits(text: str) -> Counter[str]:
    """The digits of a text, in any script, without zeros: how often each is there. Separators make no difference."""
    found = (str(unicodedata.digit(sign)) for sign in text if sign.isdigit())
    return Counter(digit for digit in found if digit != "0")


def _is_copy(one: str, other: str) -> bool:
    left, right = ([word.casefold() for word in WORD.findall(side)] for side in (one, other))
    if left == right:
        return True
    if min(len(left), len(right)) < FEWEST:
        return False
    both = set(left) | set(right)
    return len(set(left) & set(right)) >= SHARED * len(both)


def _punctuated_alike(one: str, other: str) -> bool:
    ends = [match.group(1) if (match := LAST.search(side)) else None for side in (one, other)]
    if ends.count(None) == 1 or ends.count("?") == 1:
        return False
    return abs(len(ENDS.findall(one)) - len(ENDS.findall(other))) <= MOST_ENDS


def _language(filters: PairFilterSettings, pair: Mapping[str, str]) -> str | None:
    if not filters.languages:
        return None
    for code, text in pair.items():
        found = identify(text)
        if found == UNKNOWN and filters.unknown == "drop":
            return "unknown_language"
        if found not in (UNKNOWN, code_of(code)):
            return "other_language"
    return None
