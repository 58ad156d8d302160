"""What came from outside, made fit to be seen: texts with their invisible characters marked.

    shown("Tere\\u202emaailm", 4000).pieces     # "Tere", then a mark for U+202E, then "maailm"
    line(answer)                               # the start of it, for a list
    readable(value)                            # half surrogate pairs replaced; fit(value): passwords in URLs, too

A text is never changed but only marked: a right-to-left override that hides the end of an answer has to be seen.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LIMIT = 4000  # characters that a page shows before it is asked for all
MOST = 200_000  # and then; what is longer is in the JSON
DEEPEST = 12  # levels of a manifest

# Controls, formats, fillers that look like nothing, half surrogate pairs; not line feed and tab.
HIDDEN = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u08e2\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff])\\1*"
)
SURROGATE = re.compile("[\ud800-\udfff]")
SECRETS = re.compile(r"(://)(?:[^/@\s]*@)?([^\s'\"?]*)(?:\?[^\s'\"]*)?")  # a URL's password, and its query


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text; with a `code` it stands for invisible characters."""

    text: str
    code: str = ""  # U+202E
    name: str = ""  # its name in Unicode
    times: int = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """A text as a page shows it."""

    pieces: tuple[Piece, ...]
    length: int  # characters of the whole
    cut: bool

    @property
    def marks(self) -> int:
        """How many invisible characters there are in what is shown."""
        return sum(piece.times for piece in self.pieces if piece.code)


def shown(text: str, limit: int = LIMIT) -> Shown:
    """A text in pieces, cut after `limit` characters."""
    part = text[:limit]
    pieces: list[Piece] = []
    at = 0
    for match in HIDDEN.finditer(part):
        if match.start() > at:
            pieces.append(Piece(part[at : match.start()]))
        sign = match[1]
        name = unicodedata.name(sign, "control character")
        pieces.append(Piece(sign, f"U+{ord(sign):04X}", name, match.end() - match.start()))
        at = match.end()
    if at < len(part):
        pieces.append(Piece(part[at:]))
    return Shown(tuple(pieces), len(text), len(text) > limit)


def line(text: str, limit: int = 80) -> str:
    """The start of a text in one line, without invisible characters: for lists."""
    words = " ".join(HIDDEN.sub("�", text[: 4 * limit]).split())
    return words if len(words) <= limit and len(text) <= 4 * limit else words[: limit - 1].rstrip() + "…"


def as_text(value: Any) -> str:
    """A value of a record as text: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def fit(value: Any) -> Any:
    """A part of a manifest that can be sent: `readable`, and without the password and query of a URL."""
    return _each(value, lambda text: SECRETS.sub(r"\1\2", SURROGATE.sub("\ufffd", text)))


def readable(value: Any) -> Any:
    """A text or record from outside that can be sent, as it is: half surrogate pairs replaced, and not too deep."""
    return _each(value, lambda text: SURROGATE.sub("\ufffd", text))


def _each(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping | list | tuple) and depth > DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {change(str(key)): _each(part, change, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_each(part, change, depth + 1) for part in value]
    return value
