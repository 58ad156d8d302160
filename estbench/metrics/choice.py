"""Choices: the margin between log-likelihoods, and the letter of a generated answer.

    chosen("Õige vastus on teine, sest …", ["kass", "koer"])    1
    chosen("Raske öelda.", ["kass", "koer"])                    None: a parse failure, which counts as wrong

The first explicit answer wins ("Vastus: B", "B-variant", "õige on teine", "B. kass" at the beginning). Without one, the
text of exactly one option, or a letter that stands alone and is not denied. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from estbench.estonian.normalise import answer_text, normalise, without_thinking
from estbench.metrics.base import Metric

ORDINALS = ("esimene", "teine", "kolmas", "neljas", "viies", "kuues", "seitsmes", "kaheksas")
LETTERS = "ABCDEFGH"
METRICS = (
    Metric("acc"),
    Metric("acc_norm"),
    Metric("acc_bytes"),
    Metric("parse_failure", higher_is_better=False),
)


def margin(log_likelihoods: Sequence[float], gold: int) -> float:
    """The gold option's log-likelihood minus the best other one's (nats); positive means that gold was chosen."""
    return log_likelihoods[gold] - max(value for place, value in enumerate(log_likelihoods) if place != gold)


def chosen(response: str, options: Sequence[str]) -> int | None:
    """The index of the option that the response names, or None."""
    text = re.sub(r"\\boxed\{\s*(?:\\text\{)?\s*(\w)\s*\}+", r"\1", without_thinking(response))
    text = re.sub(r"[*_`#$]", "", text).strip()
    patterns = _patterns(len(options))
    bare = patterns["bare"].fullmatch(text)
    if bare:
        return _index(bare[1])
    found = [match for name in ("answer", "opening") for match in _allowed(patterns, name, text)]
    if not found:
        found = list(_allowed(patterns, "variant", text))
    if found:
        first = min(found, key=lambda match: match.start())
        return _index(next(group for group in first.groups() if group))
    said = normalise(answer_text(response))
    same = [place for place, option in enumerate(options) if normalise(option) == said]
    if len(same) == 1:
        return same[0]
    alone = {match[1] for match in _allowed(patterns, "alone", text)}
    return _index(alone.pop()) if len(alone) == 1 else None


def _index(named: str) -> int:
    """A letter, ordinal or number as a 0-based index."""
    word = named.casefold()
    if word in ORDINALS:
        return ORDINALS.index(word)
    return int(word) - 1 if word.isdigit() else LETTERS.index(word.upper())


def _allowed(patterns: dict[str, re.Pattern[str]], name: str, text: str) -> Iterator[re.Match[str]]:
    """The matches that are neither denied ("A ei ole õige") nor one of several ("A või B")."""
    if name == "opening" and len({match[1] for match in patterns["listed"].finditer(text)}) > 1:
        return  # the options are repeated, none of them is chosen by that
    for match in patterns[name].finditer(text):
        before = text[: match.start()]
        denied = patterns["denied"].match(text, match.end()) or patterns["denial"].search(before)
        several = patterns["another"].match(text, match.end()) or patterns["other"].search(before)
        if not denied and not several:
            yield match


@cache
def _patterns(options: int) -> dict[str, re.Pattern[str]]:
    upper, lower = LETTERS[:options], LETTERS[:options].lower()
    letter = rf"[(\[\"'„“]?\s*([{upper}](?![\w-])|[{upper}](?=-?varian[td])|[{lower}](?=\s*[).\]](?:\s|\Z)|\s*\Z))"
    ordinal = rf"((?i:{'|'.join(ORDINALS[:options])}))\b"
    number = rf"([1-{options}])(?![\w,]|\.\d)"
    named = rf"(?:{letter}|{ordinal}|{number})"
    noun = r"(?:vastus|vastuseks|vastusevariant|valik|valikvastus|variant|täht|answer|option|choice)"
    joined = r"(?:\s+(?:on|oleks|jääb|is|would be))?\s*[:=–-]?\s*(?:(?:variant|valik|vastus|täht|option)\s*:?\s*)?"
    either = r"\s*(?:,|/|või|ja|ning|or|and|kuni)\s*[(\"„]?"
    return {
        "bare": re.compile(rf"[(\[\"'„]?([{upper}{lower}]|[1-{options}])[)\]\"'“”.:!,]*"),
        "answer": re.compile(rf"(?i:\b(?:vastus|vastuseks|answer|õige|correct){joined})(?i:{noun}{joined})?{named}"),
        "opening": re.compile(rf"\A[(\[\"'„]?([{upper}])(?:[).\]:]|\s*(?:\n|\Z)|\s+[–—-]\s)"),
        "listed": re.compile(rf"^\s*[(\[]?([{upper}])[).\]:]", re.MULTILINE),
        "variant": re.compile(
            rf"\b([{upper}])[ -]?(?:varian[td]|valik|vastus|option)"
            rf"|(?i:\b(?:variant|variandi|valik|valiku|valin|vastuse|option|choose|choice)(?:ks|ga)?:?\s+){letter}"
            rf"|\b{ordinal}\s+(?i:variant|valik|vastus|lause|võimalus|väide)"
            rf"|\b(?i:variant|valik|vastus)\s+{number}"
            rf"|\b([{upper}])\s+on\s+(?:õige|tõenäolisem|parem)\b"
        ),
        "alone": re.compile(rf"(?<![\w-])([{upper}])(?![\w-])"),
        "denied": re.compile(
            r"[)\].\"”“]*\s*(?:ei\b|pole\b|on (?:vale|väär|ebaõige|välistatud)|is (?:not|wrong|incorrect))",
            re.IGNORECASE,
        ),
        "denial": re.compile(r"(?:\bmitte|\bei ole|\bpole|\bnot|\bvale vastus on)\s*[:(\"„]*\s*\Z", re.IGNORECASE),
        "another": re.compile(rf"[)\].\"”“]*{either}[{upper}](?![\w-])"),
        "other": re.compile(rf"(?<![\w-])[{upper}][)\].\"”“]*{either}\Z"),
    }
