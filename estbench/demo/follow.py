"""Instructions whose fulfilment code can check: what mini_follow asks for and how it is scored.

A document has words and up to three rules, one of a group each: `order` (which words in which order), `join` (what
stands between them), `case` and `end`. `answer` follows them; `follows` checks an answer rule by rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBERS = {2: "kaks", 3: "kolm", 4: "neli"}
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
ALPHABET = {letter: place for place, letter in enumerate("abcdefghijklmnopqrsšzžtuvwõäöüxy")}


def instruction(rules: Sequence[str], words: Sequence[str]) -> str:
    """The instruction in Estonian: Kasuta ainult suurtähti ja lõpeta vastus hüüumärgiga: õun pall."""
    said = [WORDING[rule] for rule in rules]
    wish = " ja ".join([", ".join(said[:-1]), said[-1]]) if len(said) > 1 else said[0]
    return f"{wish[0].upper()}{wish[1:]}{'?' if 'count' in rules else ':'} {' '.join(words)}"


def arranged(rules: Sequence[str], words: Sequence[str]) -> list[str]:
    """The words that the answer must have, in order."""
    if "reverse" in rules:
        return list(reversed(words))
    if "twice" in rules:
        return [*words, *words]
    if "sort" in rules:
        return sorted(words, key=lambda word: [ALPHABET[letter] for letter in word])
    if "first" in rules:
        return [words[0]]
    return [words[-1]] if "last" in rules else list(words)


def answer(rules: Sequence[str], words: Sequence[str]) -> str:
    """What fulfils the rules."""
    if "count" in rules:
        return NUMBERS[len(words)]
    text = (", " if "commas" in rules else " ja " if "and" in rules else " ").join(arranged(rules, words))
    if "upper" in rules:
        text = text.upper()
    if "exclaim" in rules:
        text += "!"
    return f"„{text}“" if "quotes" in rules else text


def follows(rules: Sequence[str], words: Sequence[str], response: str) -> bool:
    """Whether the response fulfils every rule and says nothing else."""
    text = response.strip()
    if "count" in rules:
        return text.rstrip(".").lower() in (NUMBERS[len(words)], str(len(words)))
    wanted = arranged(rules, words)
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
        wanted = [word.upper() for word in wanted]
    between = (
        ", "
        if "commas" in rules
        else " JA "
        if "and" in rules and "upper" in rules
        else " ja "
        if "and" in rules
        else " "
    )
    return text.split(between) == wanted


def follow_results(doc: dict[str, object], results: Sequence[str]) -> dict[str, int]:
    """lm-eval's `process_results`: {"follow": 0 or 1}."""
    rules, words = doc["rules"], doc["words"]
    assert isinstance(rules, list) and isinstance(words, list)
    return {"follow": int(follows(rules, words, results[0]))}
