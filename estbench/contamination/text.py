"""Text as it is compared, and hashes of its parts: a few array operations a block, no loop over characters.

    normalise(["Õues sadas 3 päeva – vihma!"])     codes of "õues sadas päeva vihma", a mark behind each document
    plain(["Õues sadas 3 päeva – vihma!"])         the same as text

Normalised text is NFC and case folded, its digits and punctuation are gone: letters, and one space between words. Signs
beyond U+FFFF part words. A hash of any stretch comes from two prefix sums: Σ r(c)·Bⁱ mod 2⁶⁴ with random r and odd B.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint16]
Hashes = NDArray[np.uint64]
Places = NDArray[np.intp]

SEPARATOR, MARK, DROPPED, RARE = range(4)  # no letter has such a small code
END = "\uffff"  # a noncharacter: what parts documents in a block
BLOCK = 1 << 17  # UTF-16 units that are worked on together; longer documents are cut
TOGETHER = 1000  # texts that `plain` works on together
LONGEST = 1 << 21  # units that a block can have, at most
_BASE = 0x9E3779B97F4A7C15


@lru_cache(maxsize=1)
def _tables() -> tuple[Codes, Codes]:
    """Code unit -> what it becomes. In the first, RARE is what can't be decided sign by sign (NFC, ß)."""
    seconds = set()  # what may merge with the letter before it
    for code in range(0x10000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
    exact = np.zeros(0x10000, np.uint16)
    for code in range(0x41, 0x10000):
        sign = chr(code)
        kind = unicodedata.category(sign)
        if kind == "Cf":
            exact[code] = DROPPED  # soft hyphens, zero-width signs
        elif kind[0] in "LM":
            exact[code] = code
    exact[0xFFFF] = MARK
    fast = exact.copy()
    for code in np.flatnonzero(exact > RARE).tolist():
        sign = chr(code)
        folded = sign.casefold()
        alone = code not in seconds and not 0x1160 <= code < 0x1200 and not unicodedata.combining(sign)
        simple = alone and len(folded) == 1 and unicodedata.is_normalized("NFC", sign + folded)
        fast[code] = ord(folded) if simple else RARE
    return fast, exact


@dataclass(frozen=True, slots=True)
class Normalised:
    """A block of documents in their normalised form."""

    codes: Codes  # letters, single SEPARATORs, a MARK behind each document
    units: Codes  # the block in UTF-16
    shown: Places  # the units that became codes
    starts: Places  # where documents begin, in units

    def documents(self, places: Places) -> tuple[Places, Places]:
        """(documents, line ends before them in the document) of places in `codes`."""
        units = self.shown[places]
        numbers = np.searchsorted(self.starts, units, "right") - 1
        ends = np.flatnonzero(self.units == ord("\n"))
        return numbers, np.searchsorted(ends, units) - np.searchsorted(ends, self.starts[numbers])

    def words(self) -> tuple[Places, Places]:
        """Where words begin and end in `codes`."""
        letters = np.zeros(len(self.codes) + 2, bool)
        np.greater(self.codes, RARE, out=letters[1:-1])
        edges = np.flatnonzero(letters[1:] != letters[:-1])
        return edges[::2], edges[1::2]


def normalise(texts: Sequence[str]) -> Normalised:
    """Documents in the form in which they are compared."""
    units, starts = _joined(texts)
    fast, exact = _tables()
    codes = fast[units]
    rare = np.flatnonzero(codes == RARE)
    if len(rare):
        texts = list(texts)
        for number in np.unique(np.searchsorted(starts, rare, "right") - 1).tolist():
            texts[number] = _folded(texts[number])
        units, starts = _joined(texts)
        codes = exact[units]
        others = fast[units]
        np.copyto(codes, others, where=others != RARE)
    shown = np.flatnonzero(codes != DROPPED)
    gaps = codes[shown] == SEPARATOR
    gaps[1:] &= gaps[:-1].copy()
    gaps[:1] = False
    shown = shown[~gaps]
    return Normalised(codes[shown], units, shown, starts)


def _joined(texts: Sequence[str]) -> tuple[Codes, Places]:
    parts = [text.encode("utf-16-le", "surrogatepass") for text in texts]
    starts = np.cumsum([0, *(len(part) // 2 + 1 for part in parts)])[:-1]
    mark = END.encode("utf-16-le")
    return np.frombuffer(mark.join(parts) + mark, "<u2"), starts


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def plain(texts: Sequence[str]) -> list[str]:
    """The normalised form of each text, as text."""
    found: list[str] = []
    for start in range(0, len(texts), TOGETHER):
        codes = normalise([text.replace(END, " ") for text in texts[start : start + TOGETHER]]).codes
        codes[codes == SEPARATOR] = ord(" ")
        parts = codes.tobytes().decode("utf-16-le", "surrogatepass").split(chr(MARK))[:-1]
        found += [part.strip() for part in parts]
    return found


@lru_cache(maxsize=1)
def _constants() -> tuple[Hashes, Hashes, Hashes]:
    """Random values of codes; powers of the base and of its inverse."""
    values = np.random.default_rng(20).integers(0, 1 << 64, 0x10000, np.uint64)
    powers = [np.full(LONGEST + 1, base, np.uint64) for base in (_BASE, pow(_BASE, -1, 1 << 64))]
    for row in powers:
        row[0] = 1
        np.cumprod(row, out=row)
    return values, powers[0], powers[1]


def prefixes(codes: Codes) -> Hashes:
    """Prefix sums (length + 1) that `hashes` takes differences of."""
    values, powers, _ = _constants()
    sums = np.zeros(len(codes) + 1, np.uint64)
    terms = values[codes]
    terms *= powers[: len(codes)]
    np.cumsum(terms, out=sums[1:])
    return sums


def hashes(sums: Hashes, begins: Places, ends: Places) -> Hashes:
    """64-bit hashes of the stretches from `begins` to `ends`."""
    found = sums[ends] - sums[begins]
    found *= _constants()[2][begins]
    return found


def window_hashes(sums: Hashes, size: int) -> Hashes:
    """64-bit hashes of all stretches of `size` codes; empty if there are fewer."""
    if len(sums) <= size:
        return np.zeros(0, np.uint64)
    found = sums[size:] - sums[:-size]
    found *= _constants()[2][: len(found)]
    return found
