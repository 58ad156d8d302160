"""Instructions whose fulfilment code can check: what mini_follow and mini_follow_en ask for and how they are scored.

A document has words and up to three rules, one of a group each: `order` (which words in which order), `join` (what
stands between them), `case` and `end`. `answer` follows them; `follows` checks an answer rule by rule. Both are in
Estonian unless they are handed another `Language`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GROUPS = {
    "order": ("reverse", "twice", "sort", "first", "last"),
    "join": ("commas", "and"),
    "case": ("upper",),
    "end": ("exclaim", "quotes"),
}
WORDING = {
    "reverse": "kirjuta sõnad vastupidises järjekorras",
    "twice": "kirjuta kogu rida kaks korda",
    "sort": "järjesta sõnad tähestiku järgi",
    "first": "vasta ainult esimese sõnaga",
    "last": "vasta ainult viimase sõnaga",
    "commas": "eralda sõnad komadega",
    "and": "pane sõnade vahele „ja“",
    "upper": "kasuta ainult suurtähti",
    "exclaim": "lõpeta vastus hüüumärgiga",
    "quotes": "pane vastus jutumärkidesse",
    "count": "mitu sõna siin on",
}


@dataclass(frozen=True)
class Language:
    """How a language says the rules, and what their fulfilment looks like in it."""

    wording: Mapping[str, str]  # rule -> what is asked for
    numbers: Mapping[int, str]
    joint: str  # what "and" puts between words
    quotes: str  # an opening and a closing mark
    alphabet: str


ESTONIAN = Language(WORDING, {2: "kaks", 3: "kolm", 4: "neli"}, "ja", "„“", "abcdefghijklmnopqrsšzžtuvwõäöüxy")


def instruction(rules: Sequence[str], words: Sequence[str], language: Language = ESTONIAN) -> str:
    """The instruction: Kasuta ainult suurtähti ja lõpeta vastus hüüumärgiga: õun pall."""
    said = [language.wording[rule] for rule in rules]
    wish = f" {language.joint} ".join([", ".join(said[:-1]), said[-1]]) if len(said) > 1 else said[0]
    return f"{wish[0].upper()}{wish[1:]}{'?' if 'count' in rules else ':'} {' '.join(words)}"


def arranged(rules: Sequence[str], words: Sequence[str], language: Language = ESTONIAN) -> list[str]:
    """The words that the answer must have, in order."""
    if "reverse" in rules:
        return list(reversed(words))
    if "twice" in rules:
        return [*words, *words]
    if "sort" in rules:
        return sorted(words, key=lambda word: [language.alphabet.index(letter) for letter in word])
    if "first" in rules:
        return [words[0]]
    return [words[-1]] if "last" in rules else list(words)


def answer(rules: Sequence[str], words: Sequence[str], language: Language = ESTONIAN) -> str:
    """What fulfils the rules."""
    if "count" in rules:
        return language.numbers[len(words)]
    text = _between(rules, language).join(arranged(rules, words, language))
    if "upper" in rules:
        text = text.upper()
    if "exclaim" in rules:
        text += "!"
    return text.join(language.quotes) if "quotes" in rules else text


def _between(rules: Sequence[str], language: Language) -> str:
    """What stands between the words of the answer."""
    return ", " if "commas" in rules else f" {language.joint} " if "and" in rules else " "


def follows(rules: Sequence[str], words: Sequence[str], response: str, language: Language = ESTONIAN) -> bool:
    """Whether the response fulfils every rule and says nothing else."""
    text = response.strip()
    if "count" in rules:
        return text.rstrip(".").lower() in (language.numbers[len(words)], str(len(words)))
    wanted, between = arranged(rules, words, language), _between(rules, language)
    quoted = re.fullmatch(r"[„“\"«](.*)[“”\"»]", text)
    if ("quotes" in rules) != bool(quoted):
        return False
    text = quoted[1] if quoted else text
    if text.endswith("!") != ("exclaim" in rules):
        return False
    text = text.removesuffix("!").rstrip()
    if "upper" in rules:
        if text != text.upper():
            return False
        wanted, between = [word.upper() for word in wanted], between.upper()
    return text.split(between) == wanted


def follow_results(doc: dict[str, object], results: Sequence[str], language: Language = ESTONIAN) -> dict[str, int]:
    """lm-eval's `process_results`: {"follow": 0 or 1}."""
    rules, words = doc["rules"], doc["words"]
    assert isinstance(rules, list) and isinstance(words, list)
    return {"follow": int(follows(rules, words, results[0], language))}
