"""Choices: what the options' log-likelihoods say, the letter of a generated answer, and a liking for letters.

    scores([-9.0, -8.0], ["kass", "koer"], 1)                   {"acc": 1, "acc_norm": 1, "acc_bytes": 1, "margin": 1.0}
    chosen("Õige vastus on teine, sest …", ["kass", "koer"])    1
    chosen("Raske öelda.", ["kass", "koer"])                    None: a parse failure, which counts as wrong

The first explicit answer wins ("Vastus: B", "B-variant", "õige on teine", "B. kass" at the beginning). Without one, the
text of exactly one option, or a letter that stands alone and is not denied. Nothing is guessed.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from estbench.estonian.normalise import ANSWER_LABELS, answer_text, normalise, without_thinking
from estbench.metrics.base import Floats, Metric

ORDINALS = (
    *("esimene", "teine", "kolmas", "neljas", "viies", "kuues", "seitsmes", "kaheksas", "üheksas", "kümnes"),
    *("üheteistkümnes", "kaheteistkümnes", "kolmeteistkümnes", "neljateistkümnes", "viieteistkümnes"),
)
LETTERS = "ABCDEFGHIJKLMNO"  # no known task has more than 15 options


def margin(log_likelihoods: Sequence[float], gold: int) -> float:
    """The gold option's log-likelihood minus the best other one's (nats); positive means that gold was chosen."""
    return log_likelihoods[gold] - max(value for place, value in enumerate(log_likelihoods) if place != gold)


def scores(log_likelihoods: Sequence[float], options: Sequence[str], gold: int) -> dict[str, float]:
    """{acc, acc_norm, acc_bytes, margin} of the options' total log-likelihoods: as they are, by character and by UTF-8
    byte. Equal ones: the first is chosen. As lm-eval computes them."""
    by_character = [value / len(option) for value, option in zip(log_likelihoods, options, strict=True)]
    by_byte = [value / len(option.encode()) for value, option in zip(log_likelihoods, options, strict=True)]
    return {
        "acc": int(likeliest(log_likelihoods) == gold),
        "acc_norm": int(likeliest(by_character) == gold),
        "acc_bytes": int(likeliest(by_byte) == gold),
        "margin": margin(log_likelihoods, gold),
    }


def likeliest(values: Sequence[float]) -> int:
    """The place of the largest value, the first of equal ones."""
    return max(range(len(values)), key=values.__getitem__)


# --- a liking for letters ---------------------------------------------------------------------------------------------


def letter_counts(answer: int | None, gold: int, options: int) -> list[int]:
    """What `rstd` stores of a document: for each letter whether it is gold, then whether it is gold and was chosen."""
    golds = [int(place == gold) for place in range(options)]
    return golds + [int(is_gold and answer == gold) for is_gold in golds]


def order_answer(question: str, options: Sequence[str], answer: int | None) -> list[int]:
    """What `consistency` stores of a document: its question's number, and the chosen option's place among the sorted
    ones (-1: none). Both are the same in each order of the options."""
    ordered = sorted(options)
    key = hashlib.sha256("\0".join([question, *ordered]).encode("utf-8", "surrogatepass")).digest()
    return [int.from_bytes(key[:6], "big"), -1 if answer is None else ordered.index(options[answer])]


def _padded(values: Sequence[Any]) -> Floats:
    """(n, 2 × letters): `letter_counts` of documents whose numbers of options may differ. A letter that a document does
    not have is not gold in it."""
    letters = max(len(counts) for counts in values) // 2
    rows = np.zeros((len(values), 2, letters))
    for row, counts in zip(rows, values, strict=True):
        row[:, : len(counts) // 2] = np.reshape(counts, (2, -1))
    return rows.reshape(len(values), -1)


def _recall_spread(sums: Floats) -> Floats:
    """Standard deviation of the letters' recalls (RStd, Zheng et al. 2024); letters that are never gold don't count."""
    golds, hits = np.split(np.asarray(sums, float), 2, axis=-1)
    asked = golds > 0
    recalls = np.divide(hits, golds, out=np.zeros_like(hits), where=asked)
    count = asked.sum(axis=-1, keepdims=True)
    mean = recalls.sum(axis=-1, keepdims=True) / count
    squares = np.where(asked, (recalls - mean) ** 2, 0.0)
    spread: Floats = np.sqrt(squares.sum(axis=-1) / count[..., 0])
    return spread


def _agreement(values: Sequence[Any]) -> Floats:
    """(n, 2): whether the orders of a document's question got the same answer, and whether it was asked in several."""
    answers = defaultdict(list)
    for key, answer in values:
        answers[key].append(answer)
    agreed = {key: given[0] != -1 and len(set(given)) == 1 for key, given in answers.items()}
    return np.array(
        [(agreed[key] and several, several) for key, _ in values for several in [len(answers[key]) > 1]], float
    )


def _share(sums: Floats) -> Floats:
    agreed, asked = np.asarray(sums, float)[..., 0], np.asarray(sums, float)[..., 1]
    # a resample without a pair counts as none that agree: it widens the interval, which a nan would void
    nothing = np.zeros_like(agreed) if agreed.ndim else np.full_like(agreed, np.nan)
    share: Floats = np.divide(agreed, asked, out=nothing, where=asked > 0)
    return share


RSTD = Metric("rstd", kind="corpus", higher_is_better=False, prepare=_padded, combine=_recall_spread)
CONSISTENCY = Metric("consistency", kind="corpus", prepare=_agreement, combine=_share)
METRICS = (
    Metric("acc"),
    Metric("acc_norm"),
    Metric("acc_bytes"),
    Metric("guessing", kind="mean"),  # what choosing at random gives, where questions differ in their number of options
    Metric("parse_failure", higher_is_better=False),
    RSTD,
    CONSISTENCY,
)


# --- generated answers ------------------------------------------------------------------------------------------------


def chosen(response: str, options: Sequence[str]) -> int | None:
    """The index of the option that the response names, or None."""
    response = _single_spaces(response)
    text = re.sub(r"\\boxed\{\s*(?:\\text\{)?\s*(\w)\s*\}+", r"\1", without_thinking(response))
    text = re.sub(r"[*_`#$]", "", text)
    for option in options:  # "E. Vilde" names nobody by letter
        text = text.replace(option.strip(), " ") if re.match(r"\s*[A-ZÕÄÖÜŠŽ]\.\s?\w", option) else text
    text = _single_spaces(text)
    patterns = _patterns(len(options))
    bare = patterns["letter"].fullmatch(text)
    if bare:
        return _index(bare[1])
    if (same := _said(response, options)) is not None:
        return same
    if place := patterns["place"].fullmatch(text):
        return _index(place[1])
    found = [match for name in ("answer", "opening") for match in _allowed(patterns, name, text)]
    if not found:
        found = list(_allowed(patterns, "variant", text))
    if found:
        first = min(found, key=lambda match: match.start())
        return _index(next(group for group in first.groups() if group))
    alone = {match[1] for match in _allowed(patterns, "alone", text)}
    return _index(alone.pop()) if len(alone) == 1 else None


def _single_spaces(text: str) -> str:
    """The text without empty lines and runs of spaces, on which patterns with several `\\s*` would be cubic."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _said(response: str, options: Sequence[str]) -> int | None:
    """The only option whose text is the answer, or begins it where a reason follows ("Vastus: Tartu, sest …")."""
    said = answer_text(response, (*ANSWER_LABELS, "õige variant", "õige vastusevariant"))
    if said and sum(option.strip() == said for option in options) == 1:  # options may differ by a comma only
        return [option.strip() for option in options].index(said)
    whole = [place for place, option in enumerate(options) if normalise(option) == normalise(said)]
    if len(whole) == 1 or not said:
        return whole[0] if whole else None
    head = re.split(r"(?:,|\s[–—-])?\s+(?:sest|kuna|because|since)\b|\s\(", said, maxsplit=1)[0]
    numbered = re.fullmatch(r"(\d{1,2})[.)]\s+(.+)", said)
    if numbered and 1 <= int(numbered[1]) <= len(options):  # "2. Tartu", if Tartu is the second
        place = int(numbered[1]) - 1
        return place if normalise(options[place]) == normalise(numbered[2]) else None
    begun = [place for place, option in enumerate(options) if normalise(option) == normalise(head)]
    return begun[0] if len(begun) == 1 and len(normalise(head)) > 1 else None


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
        before = text[max(0, match.start() - 80) : match.start()]
        denied = patterns["denied"].match(text, match.end()) or patterns["denial"].search(before)
        several = patterns["another"].match(text, match.end()) or patterns["other"].search(before)
        if not denied and not several:
            yield match


# "A" in front of a small letter is the English article, unless that word says something about the option
_ARTICLE = r"(?!(?<=A) (?!(?:is|was|fits|seems|and|or|because|on|ei|ega|ja|ning|või|kui|sest|sobib)\b)[a-zõäöüšž])"
_INITIALS = r"(?!\.\s?[A-ZÕÄÖÜŠŽ]\.)"  # A. H. Tammsaare
_ROMAN = r"(?!(?<=I)[ \t]+[a-zõäöüšž])"  # I maailmasõda
# not "teine maailmasõda", "2 korda", "2. sajand"
_COUNTED = r"(?i:varian|valik|vastus|lause|võimalus|väide|(?:on|sest|kuna|ja|või|ning|or|and|is)\b)"
_NOUN = r"(?:vastus|vastuseks|vastusevariant|valik|valikvastus|variant|täht|answer|option|choice)"
_JOINED = r"(?:\s+(?:on|oleks|jääb|is|would be))?\s*[:=–-]?\s*(?:(?:variant|valik|vastus|täht|number|option)\s*:?\s*)?"
_BOTH = r"\s*(?:/|või|ja|ning|or|and|kuni)\s*"
_AGAIN = r"(?:(?i:varian[td]i?|valik|vastus)\s+)?"
_EITHER = rf"(?:{_BOTH}|\s*,\s*)[(\"„]?"


@cache
def _patterns(options: int) -> dict[str, re.Pattern[str]]:
    upper, lower = LETTERS[:options], LETTERS[:options].lower()
    without_roman = upper.replace("I", "")
    digits = "|".join(str(number) for number in range(options, 0, -1))
    letter = (
        rf"[(\[\"'„“]?\s*([{upper}](?![\w-]){_INITIALS}{_ROMAN}|[{upper}](?=-?varian[td])"
        rf"|[{lower}](?=\s*[).\]:](?:\s|\Z)|\s+[–—-]\s|\s*\Z))"
    )
    ordinals = "|".join(sorted(ORDINALS[:options], key=len, reverse=True))
    ordinal = rf"((?i:{ordinals}))\b(?![ \t]+(?!{_COUNTED})\w)"
    number = rf"({digits})(?![\w%]|[.,]\d|\.[ \t]*\w|\s*%|[ \t]+(?!{_COUNTED})\w)"
    named = rf"(?:{letter}|{ordinal}|{number})"
    return {
        "letter": re.compile(rf"[(\[\"'„]?([{upper}{lower}])[)\]\"'“”.:!,]*"),
        "place": re.compile(rf"[(\[\"'„]?({digits}|(?i:{ordinals}))[)\]\"'“”.:!,]*"),
        "answer": re.compile(
            rf"(?i:\b(?:vastus|vastuseks|answer|õige|correct)\b{_JOINED})(?i:{_NOUN}{_JOINED})?{named}"
        ),
        "opening": re.compile(
            rf"\A[(\[\"'„]?([{upper}]{_INITIALS})(?:[).\]:]|\s*(?:\n|\Z)|\s+[–—-]\s)|\A\(?([{lower}])\)\s"
        ),
        "listed": re.compile(rf"^\s*[(\[]?([{upper}{lower}])[).\]:]", re.MULTILINE),
        "variant": re.compile(
            rf"\b([{upper}])[ -]?(?:varian[td]|valik|vastus|option)"
            rf"|(?i:\b(?:variant|variandi|valik|valiku|valin|vastuse|option|choose|choice)(?:ks|ga)?:?\s+){letter}"
            rf"|\b{ordinal}\s+(?i:variant|valik|vastus|lause|võimalus|väide)"
            rf"|\b(?i:variant|valik|vastus)\s+{number}"
            rf"|\b({digits})\.\s+(?i:variant|valik|vastus)\b"
            rf"|\b([{upper}])\s+on\s+(?:õige|tõenäolisem|parem)\b"
        ),
        "alone": re.compile(rf"(?<![\w-])(?<![A-ZÕÄÖÜŠŽ]\. )([{without_roman}])(?![\w-]){_INITIALS}{_ARTICLE}"),
        "denied": re.compile(  # never past a full stop or line break: "Vastus: B. Ei ole teisi sobivaid variante."
            r"[)\]\"”“]* ?(?:ei\b|pole\b|on (?:vale|väär|ebaõige|välistatud)|is (?:not|wrong|incorrect))",
            re.IGNORECASE,
        ),
        "denial": re.compile(
            r"\b(?:mitte|ei ole|pole|not|(?:vale|väär|ebaõige|wrong|incorrect)(?: (?:vastus|variant|answer))?"
            r"(?: on| is)?)\s*[:(\"„]*\s*\Z",
            re.IGNORECASE,
        ),
        "another": re.compile(
            rf"[)\].\"”“]*(?:{_EITHER}{_AGAIN}(?:[{upper}](?![\w-])|[{lower}]\))|{_BOTH}(?i:(?:{ordinals})\b|(?:{digits})\b))"
        ),
        "other": re.compile(rf"(?<![\w-])[{upper}][)\].\"”“]*{_EITHER}{_AGAIN}\Z"),
    }
