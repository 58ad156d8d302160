"""Near-duplicates: how much of a test's word 3-grams lies in a stretch of the corpus of twice its length.

A unit is a text of a document (parts of at most 300 words), or all its texts together where each is short. It is found
where a window of twice its words holds at least 70 % of its distinct 3-grams. Nothing is missed: a window with that
many holds one of the unit's `n - needed + 1` rarest 3-grams, which are looked up first; what they lead to is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.contamination import text
from estbench.contamination.index import batches, bit_filter, mapped, members
from estbench.contamination.items import SHORT, Item
from estbench.contamination.text import Hashes, Normalised

GRAM = 3  # words
CONTAINED = 0.7
FEWEST = 5  # distinct 3-grams of a unit; fewer are no evidence
PART = 300  # words of a unit at most
OVERLAP = 2 * PART * 20  # units of text that neighbouring pieces share, so that a window lies in one of them
Units = list[list[str]]  # the texts of each unit


def units(items: Sequence[Item], texts: Sequence[str]) -> tuple[Units, list[list[int]]]:
    """(distinct units, for each item the numbers of its units)."""
    numbers: dict[tuple[str, ...], int] = {}
    owned = []
    for item in items:
        members = [texts[number] for number in (*item.texts, *item.golds)]
        long = [one for one in members if one.count(" ") + 1 >= SHORT]
        parts = [part for one in long for part in _parts(one)] or [tuple(members)]
        owned.append([numbers.setdefault(part, len(numbers)) for part in parts])
    return [list(unit) for unit in numbers], owned


def _parts(one: str) -> Iterator[tuple[str, ...]]:
    words = one.split(" ")
    pieces = math.ceil(len(words) / PART)
    size = math.ceil(len(words) / pieces)
    for start in range(0, len(words), size):
        yield (" ".join(words[start : start + size]),)


class NearIndex:
    """The units' 3-grams as arrays in a folder: all distinct ones, each unit's, and which units a rare one leads to."""

    def __init__(self, all_units: Units) -> None:
        grams, owners = _grams(all_units)
        self.hashes, numbers = np.unique(grams, return_inverse=True)
        spread = np.bincount(numbers, minlength=len(self.hashes))
        order = np.lexsort((numbers, spread[numbers], owners))  # by unit, its rarest 3-grams first
        self.grams = numbers[order].astype(np.int64)
        self.bounds = np.searchsorted(owners[order], np.arange(len(all_units) + 1)).astype(np.int64)
        self.words = np.array([sum(one.count(" ") + 1 for one in unit) for unit in all_units], np.int64)
        sizes = np.diff(self.bounds)
        rank = np.arange(len(order)) - np.repeat(self.bounds[:-1], sizes)
        leading = rank <= np.repeat(sizes - needed(sizes), sizes)
        lead_grams = self.grams[leading]
        by_gram = np.argsort(lead_grams, kind="stable")
        self.leads = owners[order][leading][by_gram].astype(np.int64)
        self.first = np.searchsorted(lead_grams[by_gram], np.arange(len(self.hashes) + 1)).astype(np.int64)

    def save(self, folder: Path) -> None:
        """What a NearMatcher needs, as files."""
        for name in ("hashes", "bounds", "grams", "words", "leads", "first"):
            np.save(folder / f"near_{name}.npy", getattr(self, name))
        np.save(folder / "near_filter.npy", bit_filter(self.hashes))


def needed(grams: Any) -> Any:
    """How many of a unit's distinct 3-grams make a near-duplicate; of a number or an array."""
    return np.ceil(CONTAINED * grams - 1e-9).astype(np.int64)


def _grams(all_units: Units) -> tuple[Hashes, NDArray[np.int64]]:
    """(distinct 3-grams of each unit, which unit), unit by unit. None spans two texts; units with few have none."""
    texts = [one for unit in all_units for one in unit]
    units_of = np.repeat(np.arange(len(all_units)), [len(unit) for unit in all_units])
    parts: list[tuple[Hashes, NDArray[np.int64]]] = []
    for start, batch in batches(texts):
        block = text.normalise(batch)
        begins, ends = block.words()
        begins, ends = begins[: len(begins) - GRAM + 1], ends[GRAM - 1 :]
        if len(begins):
            owner = np.searchsorted(np.flatnonzero(block.codes == text.MARK), np.stack([begins, ends - 1]))
            whole = owner[0] == owner[1]
            found = text.hashes(text.prefixes(block.codes), begins[whole], ends[whole])
            parts.append((found, units_of[owner[0][whole] + start]))
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashes, owners = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((hashes, owners))
    hashes, owners = hashes[order], owners[order]
    distinct = np.ones(len(order), bool)
    distinct[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    hashes, owners = hashes[distinct], owners[distinct]
    enough = np.bincount(owners, minlength=len(all_units))[owners] >= FEWEST
    return hashes[enough], owners[enough]


class NearMatcher:
    """Looks for the units of a saved NearIndex in blocks. Each unit is reported once."""

    def __init__(self, folder: Path) -> None:
        self.hashes, self.filter, self.bounds, self.grams, self.words, self.leads, self.first = (
            mapped(folder, f"near_{name}")
            for name in ("hashes", "filter", "bounds", "grams", "words", "leads", "first")
        )
        self.seen = np.zeros(len(self.words), bool)

    def finds(self, block: Normalised) -> Iterator[tuple[int, int, float]]:
        """(unit, place in the block's codes, containment) of every unit that is new."""
        begins, ends = block.words()
        if len(begins) < GRAM or not len(self.hashes):
            return
        begins, ends = begins[: len(begins) - GRAM + 1], ends[GRAM - 1 :]
        wanted = text.hashes(text.prefixes(block.codes), begins, ends)
        places, grams = members(wanted, self.filter, self.hashes)
        document = np.searchsorted(np.flatnonzero(block.codes == text.MARK), begins[places])
        positions = places + document * (4 * PART)  # no window reaches into the next document
        leading = self.first[grams + 1] - self.first[grams]
        where = np.repeat(np.arange(len(grams)), leading)
        offsets = np.arange(len(where)) - np.repeat(np.cumsum(leading) - leading, leading)
        candidates = self.leads[self.first[grams[where]] + offsets]
        fresh = ~self.seen[candidates]
        where, candidates = where[fresh], candidates[fresh]
        order = np.argsort(candidates, kind="stable")
        heads = np.flatnonzero(np.diff(candidates[order], prepend=-1))
        for group in np.split(order, heads[1:]) if len(order) else []:
            unit = int(candidates[group[0]])
            best, at = self._contained(unit, positions[where[group]], positions, grams)
            if best >= needed(int(self.bounds[unit + 1] - self.bounds[unit])):
                self.seen[unit] = True
                yield unit, int(begins[places[at]]), best / int(self.bounds[unit + 1] - self.bounds[unit])

    def _contained(
        self, unit: int, leads: NDArray[np.intp], positions: NDArray[np.intp], grams: NDArray[np.intp]
    ) -> tuple[int, int]:
        """(most distinct 3-grams of the unit in a window, index of that window's first one)."""
        width = 2 * int(self.words[unit]) - GRAM + 1  # places where a 3-gram can begin in a window
        own = set(self.grams[self.bounds[unit] : self.bounds[unit + 1]].tolist())
        best, at = 0, 0
        for low, high in _regions(leads.tolist(), width):
            start, end = np.searchsorted(positions, (low, high))
            if end - start < needed(len(own)):
                continue
            inside = [(start + i, gram) for i, gram in enumerate(grams[start:end].tolist()) if gram in own]
            count: Counter[int] = Counter()
            left = 0
            for i, gram in inside:
                count[gram] += 1
                while positions[inside[left][0]] <= positions[i] - width:
                    old = inside[left][1]
                    count[old] -= 1
                    if not count[old]:
                        del count[old]
                    left += 1
                if len(count) > best:
                    best, at = len(count), inside[left][0]
        return best, at


def _regions(leads: list[int], width: int) -> Iterator[tuple[int, int]]:
    """Stretches in which all windows with one of the (sorted) leads lie; those that touch are one."""
    start = 0
    while start < len(leads):
        end = start
        while end + 1 < len(leads) and leads[end + 1] - leads[end] < 2 * width:
            end += 1
        yield leads[start] - width + 1, leads[end] + width
        start = end + 1
