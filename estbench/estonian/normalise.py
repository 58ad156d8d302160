"""Text as it is compared, and the answer as it is read out of a response.

    normalise("„Lõuna–Eesti“, 1 234,5 km!")      'lõuna-eesti 1234.5 km'
    answer_text("<think>…</think>**Vastus:** Tartu.")   'Tartu.'

Both sides of a comparison go through `normalise`. Diacritics are letters and are never stripped (täis, tais), and there
are no articles to remove ("a" is short for aasta).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−﹣－", "-"))
QUOTES = "\"'„“”«»‚‘’‹›`´"
QUOTE_PAIRS = {"„": '“”"', "“": '”"', "«": "»", "»": "«", "‚": "‘’", "‘": "’", "‹": "›", '"': '"', "'": "'", "`": "`"}
ANSWER_LABELS = ("õige vastus", "lõplik vastus", "lühivastus", "vastus", "vorm", "final answer", "answer")

_ANSWER_IS = re.compile(r"\A[\s*_]*(?:õige |lõplik |the )?(?:vastus on|answer is):?[\s*_]+(?=\S)", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")
_KEPT = re.compile(r"(?<=\d)\.(?=\d)|(?<=\w)-(?=\w)|(?<!\S)-(?=\d)")  # 3.5, Lõuna-Eesti, -5


def normalise(text: str) -> str:
    """The form in which two answers are compared: NFC, case folded, one kind of dash, no quotes or punctuation, decimal
    point, thousands joined, single spaces. Punctuation that is all there is stays."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).translate(DASHES)
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")  # soft hyphens, zero-width signs
    text = " ".join(text.split())  # no-break spaces among them
    text = _THOUSANDS.sub(lambda number: number[0].replace(" ", ""), text)
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    for sign in QUOTES:
        text = text.replace(sign, "")
    kept = {match.start() for match in _KEPT.finditer(text)}
    signs = [
        " " if unicodedata.category(sign)[0] == "P" and place not in kept else sign for place, sign in enumerate(text)
    ]
    return " ".join("".join(signs).split()) or text.strip()


def without_thinking(response: str) -> str:
    """The response without its reasoning block, which may have been opened by the template (`…</think>`). Only the
    first block goes; one that never ends leaves nothing."""
    before, closed, after = response.partition("</think>")
    if closed and (before.lstrip().startswith("<think>") or "<think>" not in before):
        return after.strip()
    return "" if response.lstrip().startswith("<think>") else response.strip()


def without_label(text: str, labels: Iterable[str]) -> str:
    """The text without a leading "Vastus:" (one of the `labels`, in bold perhaps)."""
    names = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    return re.sub(rf"\A[\s*_#]*(?:{names})[\s*_]*:[\s*_]*", "", text, count=1, flags=re.IGNORECASE)


def without_markup(text: str) -> str:
    """The text without a code fence, bold, or italics around the whole of it."""
    text = re.sub(r"\A```\w*\n(.*?)\n?```\Z", r"\1", text.strip(), flags=re.DOTALL)
    return re.sub(r"\A(\*\*|__|\*|_|`)(?=\S)((?:(?!\1).)+)(?<=\S)\1(?=[.!?]?\Z)", r"\2", text.strip(), flags=re.DOTALL)


def without_quotes(text: str) -> str:
    """The text without a pair of quotes around the whole of it; quotes inside mean that the outer ones are no pair."""
    if len(text) > 2 and text[-1] in QUOTE_PAIRS.get(text[0], "") and not set(text[1:-1]) & set('"„“”«»'):
        return text[1:-1].strip()
    return text


def answer_text(response: str, labels: Iterable[str] = ANSWER_LABELS) -> str:
    """A short answer: the first line with text, without reasoning, label, markup and quotes. Empty: there is none."""
    text = without_label(without_markup(without_thinking(response)), labels)
    line = next((line.strip() for line in text.splitlines() if line.strip(" *_`#")), "")
    line = _ANSWER_IS.sub("", without_label(line, labels), count=1)
    return without_quotes(without_markup(line))


def sentence_text(response: str, source: str, labels: Iterable[str]) -> str:
    """A rewritten sentence (translation, correction) on one line, without reasoning, label and markup, and without
    quotes if the `source` has none around it. Several sentences are kept."""
    text = without_markup(without_thinking(response))
    if without_label(source, labels) == source:
        text = without_label(text, labels)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":") and ":" not in source:  # "Siin on tõlge:"
        lines = lines[1:]
    text = without_markup(" ".join(lines))
    return text if source.strip()[:1] in QUOTE_PAIRS else without_quotes(text)
