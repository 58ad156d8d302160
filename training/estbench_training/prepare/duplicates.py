"""Which documents have an earlier twin, over all sources of a stage; memory is bounded, however many there are.

Records (hash, number of the document) are divided by the hash's first bits into files of at most PARTITION bytes, each
of which is sorted alone. For near-duplicates this is done once a band of the MinHash signatures (`near`): documents
that share a band are compared by their whole signatures, each with the first of its group and with the one before it.
A document goes if one of these is as near as the threshold. What grows with the corpus lies on the disk, mapped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from estbench.runs import atomic
from estbench_training.prepare import near
from estbench_training.prepare.pieces import Piece
from estbench_training.prepare.settings import DuplicateSettings

PARTITION = 1 << 25  # bytes of records that are sorted at once
PAIRS = 1 << 13  # compared at once
KEPT, EXACT, NEAR = range(3)

Flags = NDArray[np.uint8]  # of each document: KEPT, EXACT or NEAR
Records = NDArray[np.uint64]  # (documents, …): the last column is the document's number


@dataclass(frozen=True)
class Corpus:
    """All pieces of a stage, in the order in which documents are kept; documents are numbered through."""

    pieces: Sequence[Piece]
    starts: NDArray[np.int64]  # number of each piece's first document, and the count of all

    @staticmethod
    def of(pieces: Sequence[Piece]) -> Corpus:
        return Corpus(pieces, np.cumsum([0, *(piece.documents for piece in pieces)]))

    @property
    def documents(self) -> int:
        return int(self.starts[-1])


def find(corpus: Corpus, settings: DuplicateSettings, folder: Path) -> Flags:
    """What becomes of each document, mapped from a file that is whole when it is there."""
    path = folder / "duplicates.bin"
    if not path.exists():
        work = folder / "duplicates"
        shutil.rmtree(work, ignore_errors=True)  # of an interrupted run
        work.mkdir(parents=True)
        with atomic(path) as temporary:
            _write(temporary, corpus, settings, work)
        shutil.rmtree(work)
    if not corpus.documents:
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r", shape=(corpus.documents,)))


def _write(path: Path, corpus: Corpus, settings: DuplicateSettings, work: Path) -> None:
    if not corpus.documents:
        return
    flags = np.memmap(path, np.uint8, "w+", shape=(corpus.documents,))
    if settings.exact:
        _exact(corpus, flags, work)
    if settings.near:
        _near(corpus, flags, settings, work)
    flags.flush()


def _exact(corpus: Corpus, flags: Flags, work: Path) -> None:
    keys = (piece.records()[:, :2] for piece in corpus.pieces)
    for records, new in _groups(_numbered(corpus, keys), corpus.documents * 24, work):
        flags[records[~new, -1]] = EXACT


def _near(corpus: Corpus, flags: Flags, settings: DuplicateSettings, work: Path) -> None:
    signatures = [piece.signatures(settings.permutations) for piece in corpus.pieces]
    bands, rows = near.bands(settings.threshold, settings.permutations)
    for band in range(bands):
        columns = slice(band * rows, (band + 1) * rows)
        keys = (near.band_keys(part[:, columns])[:, None] for part in signatures)
        usable = (
            records[(flags[records[:, -1]] == KEPT) & _has_words(part)]
            for records, part in zip(_numbered(corpus, keys), signatures, strict=True)
        )
        for records, new in _groups(usable, corpus.documents * 16, work):
            _compare(corpus, signatures, flags, settings.threshold, records[:, -1].astype(np.int64), new)


def _has_words(signatures: near.Signatures) -> NDArray[np.bool_]:
    return signatures[:, 0] != near.NONE  # type: ignore[no-any-return]


def _numbered(corpus: Corpus, keys: Iterable[NDArray[np.uint64]]) -> Iterator[Records]:
    """Keys of each piece's documents with their numbers behind them."""
    for start, part in zip(corpus.starts.tolist(), keys, strict=False):
        numbers = np.arange(start, start + len(part), dtype=np.uint64)
        yield np.column_stack([part, numbers])


def _groups(parts: Iterable[Records], size: int, work: Path) -> Iterator[tuple[Records, NDArray[np.bool_]]]:
    """(records in order of key and number, whether each is the first with its key), some keys at once.

    size: bytes of all records, at most.
    """
    bits = max(0, (size // PARTITION).bit_length())
    files = [work / f"{number:04d}" for number in range(1 << bits)]
    for part in parts:
        of = (part[:, 0] >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(part), np.int64)
        order = np.argsort(of, kind="stable")
        bounds = np.searchsorted(of[order], np.arange(len(files) + 1))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            with open(files[number], "ab") as file:
                file.write(part[order[bounds[number] : bounds[number + 1]]].tobytes())
        columns = part.shape[1]
    for path in files:
        if path.exists():
            records = np.fromfile(path, np.uint64).reshape(-1, columns)
            path.unlink()
            records = records[np.lexsort(records.T[::-1])]
            new = np.ones(len(records), bool)
            new[1:] = (records[1:, :-1] != records[:-1, :-1]).any(axis=1)
            yield records, new


def _compare(
    corpus: Corpus,
    signatures: Sequence[near.Signatures],
    flags: Flags,
    threshold: float,
    numbers: NDArray[np.int64],
    new: NDArray[np.bool_],
) -> None:
    """Mark the documents that are as near as the threshold to the first of their group, or to the one before them."""
    places = np.arange(len(numbers))
    first = np.maximum.accumulate(np.where(new, places, 0))
    for earlier, asked in ((first, ~new), (places - 1, ~new & (places - 1 != first))):
        later = np.flatnonzero(asked & (flags[numbers] == KEPT))
        for start in range(0, len(later), PAIRS):
            some = later[start : start + PAIRS]
            left = _gathered(corpus, signatures, numbers[earlier[some]])
            right = _gathered(corpus, signatures, numbers[some])
            flags[numbers[some[near.similarity(left, right) >= threshold]]] = NEAR


def _gathered(corpus: Corpus, signatures: Sequence[near.Signatures], numbers: NDArray[np.int64]) -> near.Signatures:
    """The signatures of these documents."""
    found = np.empty((len(numbers), signatures[0].shape[1]), np.uint32)
    owners = np.searchsorted(corpus.starts, numbers, "right") - 1
    for owner in np.unique(owners).tolist():
        rows = np.flatnonzero(owners == owner)
        found[rows] = signatures[owner][numbers[rows] - corpus.starts[owner]]
    return found
