"""Which rows of a source are taken, in which order, and how sources alternate.

A source's items are ordered by the hash of what they say, and that order is permuted by a key of the seed: so neither
the order of its files nor that of their lines matters. What grows with the number of items is a few numbers each (about
40 bytes); the texts lie on the disk, mapped.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.errors import DataError
from estbench_training.instructions.turns import fractions
from estbench_training.mixture import permute, schedule
from estbench_training.prepare.duplicates import KEPT, Flags
from estbench_training.prepare.pieces import Piece

Numbers = NDArray[np.int64]


def key_of(*parts: object) -> bytes:
    """64 bytes by which a permutation is told from others."""
    return hashlib.sha512("/".join(map(str, parts)).encode()).digest()


def chosen(pieces: Sequence[Piece], flags: Flags, limit: int | None, seed: int, name: str) -> Numbers:
    """The numbers of the items that are taken, in the order of what they say; flags: of these pieces' items."""
    kept = np.flatnonzero(flags == KEPT)
    hashes = np.concatenate([np.zeros((0, 2), np.uint64), *(piece.records()[:, :2] for piece in pieces)])[kept]
    kept = kept[np.lexsort((kept, hashes[:, 1], hashes[:, 0]))]
    if limit is None or limit >= len(kept):
        return kept
    places = np.sort(permute(np.arange(limit), len(kept), key_of(seed, "limit", name)))
    return np.asarray(kept[places])


class Drawn:
    """The items of a source that are taken, on disk; `drawn[i]` is the item that its i-th row is made of."""

    def __init__(self, path: Path, pieces: Sequence[Piece], numbers: Numbers, seed: int, name: str) -> None:
        """numbers: of the items, in the order of what they say."""
        self.count, self._seed, self._name = len(numbers), seed, name
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        rank = np.full(sum(piece.documents for piece in pieces), -1, np.int64)
        rank[numbers] = np.arange(self.count)
        self._bounds = np.zeros((self.count, 2), np.int64)
        at = number = 0
        with open(path, "wb") as file:
            for piece in pieces:
                for texts in piece.texts():
                    for text in texts:
                        if rank[number] >= 0:
                            written = file.write(text.encode())
                            self._bounds[rank[number]] = at, at + written
                            at += written
                        number += 1
        with open(path, "rb") as file:
            self._texts: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if at else b""

    def __getitem__(self, i: int) -> str:
        epoch, place = divmod(i, self.count)
        if epoch != self._epoch:
            key = key_of(self._seed, "epoch", epoch, self._name)
            self._epoch, self._order = epoch, permute(np.arange(self.count), self.count, key)
        begin, end = self._bounds[self._order[place]]
        return str(self._texts[begin:end], "utf-8")


def available(items: int, epochs: float) -> int:
    """How many rows a source has."""
    return math.floor(items * epochs + 1e-9)


def alternation(have: Mapping[str, int], weights: Mapping[str, float], rows: int | None) -> NDArray[np.uint16]:
    """(rows,): the number of the source of each row. Of every first i rows, each source has its share to less than one.

    have: rows of each source. weights: of each source, or of none: then by what they have. rows: how many in all; as
    many as the shares allow, if not said. DataError where they don't allow so many.
    """
    names = list(have)
    shares = list(fractions(weights or {name: float(count) for name, count in have.items()}).values())
    ends = [math.floor((count + 1) / share) for count, share in zip(have.values(), shares, strict=True)]
    most = min(ends) if rows is None else rows
    order = np.resize(schedule(shares, most), most)
    short = {}
    for number, name in enumerate(names):
        turns = np.flatnonzero(order == number)
        if len(turns) > have[name]:
            short[int(turns[have[name]])] = name
    if not short:
        return order
    end = min(short)
    if rows is not None:
        raise DataError(
            f"rows: {rows:,} are more than the sources have: of {short[end]} there are {have[short[end]]:,}, enough "
            f"for {end:,} in all. Lower rows or its weight, or raise its epochs."
        )
    return order[:end]
