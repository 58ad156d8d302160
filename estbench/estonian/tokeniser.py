"""Tokens of a model's running text in the manner of a tokenised source sentence.

    project_tokens("Mul on abi vaja.", ["Mulle", "on", "vaja", "appi", "."])     Mul on abi vaja .

GEC gold is tokenised, models write running text, and the difference alone costs about 28 points of F0.5. Text is cut
into pieces (words, single other signs); where pieces in a row are the source's too, they are joined or parted as the
source has them, so that an unchanged sentence gives the source's own tokens. Elsewhere common rules apply. A space in
the text always parts, and two words written together stay together (that may be the correction).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from estbench.errors import MissingPartError
from estbench.estonian import lemmas

_PIECE = re.compile(r"[^\W_]+(?=n['’]t\b)|n['’]t\b|[^\W_]+|\S")  # English do|n't is two tokens in corpora
_ASCII_QUOTES = {"„": '"', "“": '"', "”": '"', "«": '"', "»": '"', "‚": "'", "‘": "'", "’": "'"}
_INVISIBLE = "\u00ad\u200b\u2060\ufeff"


def project_tokens(text: str, source_tokens: Sequence[str]) -> list[str]:
    """The tokens of `text`, cut as `source_tokens` are where both agree, by common rules elsewhere. Typographic quotes
    that the source has not become ASCII."""
    return _projected(_as_the_source(text, source_tokens), source_tokens, None)


def estnltk_tokens(text: str, source_tokens: Sequence[str]) -> list[str]:
    """As `project_tokens`, but where text and source differ EstNLTK's layer `words` says where a token begins.
    MissingPartError without EstNLTK."""
    text = _as_the_source(text, source_tokens)
    return _projected(text, source_tokens, _estnltk_starts(text))


def _as_the_source(text: str, source_tokens: Sequence[str]) -> str:
    """The text in the source's Unicode form, without invisible signs, with ASCII quotes if the source has no others."""
    source = " ".join(source_tokens)
    if unicodedata.is_normalized("NFC", source):
        text = unicodedata.normalize("NFC", text)
    for sign in _INVISIBLE:
        if sign not in source:
            text = text.replace(sign, "")
    for quote, plain in _ASCII_QUOTES.items():
        if quote not in source:
            text = text.replace(quote, plain)
    return text


def _estnltk_starts(text: str) -> set[int]:
    """Where EstNLTK's words begin."""
    spans = _text_class()(text).tag_layer("words").words
    return {word.start for word in spans}


@cache
def _text_class() -> Any:
    if not lemmas.installed():
        raise MissingPartError(f"{lemmas.MISSING}.")
    from estnltk import Text

    return Text


def _projected(text: str, source_tokens: Sequence[str], starts: set[int] | None) -> list[str]:
    """`starts`: where tokens begin outside of what is the source's; None: common rules."""
    pieces = [(match[0], match.start(), match.end()) for match in _PIECE.finditer(text)]
    source = [piece[0] for token in source_tokens for piece in _PIECE.finditer(token)]
    parted = _boundaries(source_tokens)
    tokens: list[str] = []
    place_in_source = _aligned([piece for piece, _, _ in pieces], source)
    for here, (piece, start, _) in enumerate(pieces):
        if not here:
            tokens.append(piece)
            continue
        spaced = pieces[here - 1][2] < start
        ours, before = place_in_source.get(here), place_in_source.get(here - 1)
        if spaced:
            part = True
        elif ours is not None and before is not None and ours == before + 1:
            part = ours in parted
        elif starts is not None:
            part = start in starts
        else:
            part = _usually_parted(pieces[here - 1][0], piece, text[start:], tokens[-1])
        if part:
            tokens.append(piece)
        else:
            tokens[-1] += piece
    return tokens


def _boundaries(tokens: Sequence[str]) -> set[int]:
    """The positions of the pieces that begin a token."""
    found, place = set(), 0
    for token in tokens:
        found.add(place)
        place += len(_PIECE.findall(token))
    return found


def _aligned(ours: list[str], source: list[str]) -> dict[int, int]:
    """Our piece -> the source's piece that it is."""
    blocks = SequenceMatcher(None, ours, source, autojunk=False).get_matching_blocks()
    return {block.a + k: block.b + k for block in blocks for k in range(block.size)}


def _usually_parted(left: str, right: str, rest: str, token: str) -> bool:
    """Whether a token begins between two pieces that are written together."""
    following = rest[len(right) :][:1]
    if left == right and not left.isalnum():  # ... !! --
        return False
    if right in "-'’/:.,%" and left.isalnum() and following.isalnum():  # Lõuna-Eesti, NATO-sse, 3,5, 8.30
        return right in ".," and not (left[-1].isdigit() and following.isdigit())
    if left in "-'’/:.," and right.isalnum() and len(token) > 1:
        return left in ".," and not right[0].isdigit()
    if right == "." and left.isdigit() and following:  # 24. veebruar
        return False
    return not (left == "-" and right.isalnum())
