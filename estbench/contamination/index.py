"""The hashes that a corpus is compared with, and the comparison of one block.

Three kinds of stretches are looked for: short texts whole, windows of 8 words, windows of 50 characters (letters and
single spaces). All are stretches of normalised text, so that one table of hashes serves them; what it finds is compared
letter by letter once. The arrays lie in a folder and are mapped, so that processes share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.contamination import text
from estbench.contamination.items import LEAST_WORDS, SHORT
from estbench.contamination.text import Codes, Hashes, Normalised, Places

WORDS, CHARACTERS = 8, 50  # sizes of windows
EXACT, WORD_WINDOW, CHARACTER_WINDOW = range(3)
COMMON = 10  # a stretch of more texts than this is a turn of phrase, and no evidence
LARGEST = 60_000  # codes of a stretch
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stretches:
    """Stretches of texts, by column: hash, where it begins in all texts' codes, length, kind. 15 bytes each."""

    hashes: Hashes
    begins: NDArray[np.uint32]
    lengths: NDArray[np.uint16]
    kinds: NDArray[np.uint8]

    @staticmethod
    def joined(parts: Sequence[Stretches]) -> Stretches:
        none = np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.uint16), np.zeros(0, np.uint8)
        columns = zip(Stretches.__slots__, none, strict=True)
        return Stretches(
            *(np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name, empty in columns)
        )

    def chosen(self, where: NDArray[np.bool_] | Places) -> Stretches:
        return Stretches(*(getattr(self, name)[where] for name in Stretches.__slots__))


@dataclass(frozen=True, slots=True)
class Cover:
    """What was found: kinds of stretches by text (no key: nothing), and which codes of all texts lie in one."""

    kinds: dict[int, set[int]]
    codes: NDArray[np.bool_]
    starts: Numbers  # where the texts' codes begin, and behind the last one

    def of(self, number: int) -> NDArray[np.bool_]:
        """Which codes of a text were found."""
        return self.codes[self.starts[number] : self.starts[number + 1] - 1]


class Index:
    """Distinct hashes in order; of each, the stretches that have it (`first[i]` to `first[i + 1]`)."""

    def __init__(self, texts: Sequence[str]) -> None:
        codes: list[Codes] = []
        parts: list[Stretches] = []
        base = 0
        for _, batch in batches(texts):
            block = text.normalise(batch)
            parts += _stretches(block, base)
            codes.append(block.codes)
            base += len(block.codes)
        self.codes = np.concatenate([np.zeros(0, np.uint16), *codes])
        self.starts = np.concatenate([[0], np.flatnonzero(self.codes == text.MARK) + 1])
        found = Stretches.joined(parts)
        parts.clear()
        found = found.chosen(np.argsort(found.hashes))
        heads = np.flatnonzero(np.concatenate([[True], found.hashes[1:] != found.hashes[:-1]])[: len(found.hashes)])
        counts = np.diff(np.append(heads, len(found.hashes)))
        usable = np.ones(len(heads), bool)
        for i in np.flatnonzero(counts > COMMON).tolist():
            usable[i] = len(np.unique(self._texts(found.begins[heads[i] : heads[i] + counts[i]]))) <= COMMON
        self.stretches = found if usable.all() else found.chosen(np.repeat(usable, counts))
        self.hashes, counts = found.hashes[heads[usable]], counts[usable]
        self.first = np.concatenate([[0], np.cumsum(counts)])

    def _texts(self, begins: NDArray[np.uint32]) -> Numbers:
        """The texts that stretches belong to."""
        return np.searchsorted(self.starts, begins, "right") - 1

    def covered(self, found: NDArray[np.bool_]) -> Cover:
        """What the found hashes cover."""
        stretches = self.stretches.chosen(np.repeat(found, np.diff(self.first)))
        edges = np.zeros(len(self.codes) + 1, np.int32)
        np.add.at(edges, stretches.begins, 1)
        np.add.at(edges, stretches.begins + stretches.lengths, -1)
        kinds: dict[int, set[int]] = {}
        for pair in np.unique(self._texts(stretches.begins) * 3 + stretches.kinds).tolist():
            kinds.setdefault(pair // 3, set()).add(pair % 3)
        return Cover(kinds, np.cumsum(edges, dtype=np.int32)[:-1] > 0, self.starts)

    def texts_of(self, numbers: Numbers) -> Iterator[tuple[int, int]]:
        """(text, place in `numbers` of the first hash that is of it)."""
        sizes = self.first[numbers + 1] - self.first[numbers]
        of = np.repeat(np.arange(len(numbers)), sizes)
        offsets = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        begins = self.stretches.begins[self.first[numbers[of]] + offsets]
        texts, where = np.unique(self._texts(begins), return_index=True)
        yield from zip(texts.tolist(), of[where].tolist(), strict=True)

    def save(self, folder: Path) -> None:
        """What a Matcher needs, as files."""
        heads = self.first[:-1]
        for name, array in {
            "codes": self.codes,
            "hashes": self.hashes,
            "begins": self.stretches.begins[heads],
            "lengths": self.stretches.lengths[heads],
            "sizes": np.array(sorted(self._word_sizes()), np.int64),
        }.items():
            np.save(folder / f"{name}.npy", array)
        np.save(folder / "filter.npy", bit_filter(self.hashes))

    def _word_sizes(self) -> set[int]:
        """The word counts of windows to look at."""
        sizes = {WORDS}
        for i in np.flatnonzero(self.stretches.kinds == EXACT).tolist():
            begin, length = int(self.stretches.begins[i]), int(self.stretches.lengths[i])
            sizes.add(int((self.codes[begin : begin + length] == text.SEPARATOR).sum()) + 1)
        return sizes


def batches(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of the first, texts) in amounts that make a block."""
    start, batch, size = 0, list[str](), 0
    for number, one in enumerate(texts):
        if batch and size + len(one) >= text.BLOCK:
            yield start, batch
            start, batch, size = number, [], 0
        batch.append(one[: text.LONGEST // 4])
        size += len(one) + 1
    if batch:
        yield start, batch


def _stretches(block: Normalised, base: int) -> list[Stretches]:
    """All stretches of a block of texts; its codes begin at `base` in all texts' codes."""
    sums = text.prefixes(block.codes)
    marks = np.flatnonzero(block.codes == text.MARK)
    begins, ends = block.words()
    owner = np.searchsorted(marks, begins)  # the text of each word
    firsts = np.searchsorted(owner, np.arange(len(marks)))
    lasts = np.searchsorted(owner, np.arange(len(marks)), "right")

    def made(b: Places, e: Places, kind: int) -> Stretches:
        fits = e - b <= LARGEST
        b, e = b[fits], e[fits]
        return Stretches(
            text.hashes(sums, b, e),
            (b + base).astype(np.uint32),
            (e - b).astype(np.uint16),
            np.full(len(b), kind, np.uint8),
        )

    counts = lasts - firsts
    short = np.flatnonzero((counts >= LEAST_WORDS) & (counts < SHORT))
    eight = np.arange(len(begins) - WORDS + 1)
    eight = eight[owner[eight] == owner[eight + WORDS - 1]] if len(eight) else eight
    chars = np.arange(len(block.codes) - CHARACTERS + 1)
    chars = chars[np.searchsorted(marks, chars) == np.searchsorted(marks, chars + CHARACTERS - 1)]
    chars = chars[block.codes[chars + CHARACTERS - 1] != text.MARK]
    return [
        made(begins[firsts[short]], ends[lasts[short] - 1], EXACT),
        made(begins[eight], ends[eight + WORDS - 1], WORD_WINDOW),
        made(chars, chars + CHARACTERS, CHARACTER_WINDOW),
    ]


def bit_filter(hashes: Hashes) -> NDArray[np.bool_]:
    """A Bloom filter of two bits a hash, with at least sixteen places for each (2²⁸ in all at most)."""
    table = np.zeros(1 << min(28, max(16, (16 * len(hashes)).bit_length())), bool)
    for slots in (_slots, _other_slots):
        table[slots(hashes, table)] = True
    return table


def _slots(hashes: Hashes, table: NDArray[np.bool_]) -> Places:
    return (hashes >> np.uint64(65 - len(table).bit_length())).view(np.intp)


def _other_slots(hashes: Hashes, table: NDArray[np.bool_]) -> Places:
    return _slots(hashes * np.uint64(0xD1342543DE82EF95), table)


def members(wanted: Hashes, table: NDArray[np.bool_], known: Hashes) -> tuple[Places, Places]:
    """(places in `wanted`, places in `known`) of equal hashes; `table` is the filter of `known`."""
    maybe = np.flatnonzero(table.take(_slots(wanted, table), mode="wrap"))  # wrap: no check of bounds
    maybe = maybe[table[_other_slots(wanted[maybe], table)]]
    if not len(maybe) or not len(known):
        return maybe[:0], maybe[:0]
    left = wanted[maybe]
    order = np.argsort(left)  # three times as fast as to look in disorder
    place = np.empty(len(left), np.intp)
    place[order] = np.searchsorted(known, left[order])
    place[place == len(known)] = 0
    equal = known[place] == left
    return maybe[equal], place[equal]


def mapped(folder: Path, name: str) -> NDArray[Any]:
    """An array of a file, shared by all processes that map it."""
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))


class Matcher:
    """Compares blocks with a saved Index. Each hash is reported once, at the first place this matcher saw it."""

    def __init__(self, folder: Path) -> None:
        self.codes, self.hashes, self.begins, self.lengths, self.filter = (
            mapped(folder, name) for name in ("codes", "hashes", "begins", "lengths", "filter")
        )
        self.sizes = mapped(folder, "sizes").tolist()
        self.seen = np.zeros(len(self.hashes), bool)

    def finds(self, block: Normalised) -> tuple[Numbers, Places]:
        """(numbers of hashes, places in the block's codes) of everything that is new, in the block's order."""
        sums = text.prefixes(block.codes)
        begins, ends = block.words()
        found = [self._new(text.window_hashes(sums, CHARACTERS), None, block)]
        for size in self.sizes:
            if len(begins) >= size:
                heads = begins[: len(begins) - size + 1]
                found.append(self._new(text.hashes(sums, heads, ends[size - 1 :]), heads, block))
        numbers, places = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(places, kind="stable")
        return numbers[order], places[order]

    def _new(self, wanted: Hashes, heads: Places | None, block: Normalised) -> tuple[Numbers, Places]:
        places, numbers = members(wanted, self.filter, self.hashes)
        fresh = ~self.seen[numbers]
        numbers, which = np.unique(numbers[fresh], return_index=True)
        places = places[fresh][which]
        if heads is not None:
            places = heads[places]
        same = self._same(numbers, places, block)
        self.seen[numbers[same]] = True
        return numbers[same], places[same]

    def _same(self, numbers: Numbers, places: Places, block: Normalised) -> NDArray[np.bool_]:
        """Whether the block has the very letters that the hashes stand for."""
        lengths = self.lengths[numbers].astype(np.int64)
        same = places + lengths <= len(block.codes)
        for length in np.unique(lengths[same]).tolist():
            rows = np.flatnonzero(same & (lengths == length))
            inside = np.arange(length)
            theirs = self.codes[self.begins[numbers[rows]][:, None] + inside]
            same[rows] = (block.codes[places[rows][:, None] + inside] == theirs).all(axis=1)
        return same
