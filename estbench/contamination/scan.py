"""The scan: chunks of a corpus over processes, what they find put together.

Processes read and compare; this one hands out chunks in order, no more than a few ahead, so that memory does not depend
on the corpus. The index lies in files that all map. What is found is the same for any number of processes: the first
place of each stretch in the corpus's order.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from estbench.contamination import near, text
from estbench.contamination.corpus import Chunk, Document, Source, Tally, chunks, documents
from estbench.contamination.index import Index, Matcher
from estbench.contamination.items import Material
from estbench.errors import DataError, EstbenchError

ALONE = 4 << 20  # bytes of a corpus that is not worth other processes
OVERLAP = 1000  # units that neighbouring pieces share: more than 8 words or 50 letters, whatever lies between
AHEAD = 3  # chunks a process that wait

Progress = Callable[[int], None]  # bytes read so far


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the corpus: file, line or row from 1, the document's own id if it has one."""

    file: str
    line: int
    id: str | None


@dataclass(slots=True)
class Found:
    """What a corpus holds of the tests."""

    index: Index
    hashes: NDArray[np.bool_]  # which of the index's were found
    places: dict[int, Place] = field(default_factory=dict)  # by text: where its first stretch was found
    units: list[list[list[int]]] = field(default_factory=list)  # task, item -> units
    near: dict[int, tuple[Place, float]] | None = None  # by unit, with the containment; None: not looked for
    tally: Tally = field(default_factory=Tally)
    broken: list[str] = field(default_factory=list)  # files that could not be read to their end, and why
    seconds: float = 0.0


Where = tuple[int, str | None]  # line, id
Hits = tuple[NDArray[np.int64], list[Where], list[tuple[int, float]], list[Where]]  # hashes, units and containment


class Worker:
    """Reads a chunk and compares it."""

    def __init__(self, folder: Path, name: str, with_near: bool) -> None:
        self.name = name
        self.matcher = Matcher(folder)
        self.near = near.NearMatcher(folder) if with_near else None
        self.overlap = near.OVERLAP if with_near else OVERLAP

    def __call__(self, chunk: Chunk) -> tuple[Hits, Tally]:
        found, tally = documents(chunk, self.name)
        numbers: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        units: list[tuple[int, float]] = []
        exact: list[Where] = []
        close: list[Where] = []
        for pieces in _blocks(found, self.overlap):
            block = text.normalise([document.text[start : start + text.BLOCK] for document, start in pieces])
            new, places = self.matcher.finds(block)
            numbers.append(new)
            exact += _where(block, pieces, places)
            if self.near:
                near_finds = list(self.near.finds(block))
                units += [(unit, share) for unit, _, share in near_finds]
                close += _where(block, pieces, np.array([place for _, place, _ in near_finds], np.intp))
        return (np.concatenate(numbers), exact, units, close), tally


def _blocks(found: list[Document], overlap: int) -> Iterator[list[tuple[Document, int]]]:
    """Documents in blocks of about text.BLOCK; a longer one is cut into pieces that share `overlap`."""
    block: list[tuple[Document, int]] = []
    size = 0
    for document in found:
        length = len(document.text)
        for start in range(0, length - overlap, text.BLOCK - overlap) if length > text.BLOCK else (0,):
            block.append((document, start))
            size += min(text.BLOCK, length - start) + 1
            if size >= text.BLOCK:
                yield block
                block, size = [], 0
    if block:
        yield block


def _where(block: text.Normalised, pieces: list[tuple[Document, int]], places: text.Places) -> list[Where]:
    if not len(places):
        return []
    result = []
    for number, lines in zip(*(column.tolist() for column in block.documents(places)), strict=True):
        document, start = pieces[number]
        further = lines + document.text.count("\n", 0, start) if document.lines else 0
        result.append((document.line + further, document.id))
    return result


_worker: Worker | None = None  # of a process of the pool


def _begin(folder: str, name: str, with_near: bool) -> None:
    global _worker
    _worker = Worker(Path(folder), name, with_near)


def _work(chunk: Chunk) -> tuple[Hits, Tally]:
    assert _worker is not None
    return _worker(chunk)


def scan(
    files: list[Source],
    tests: Material,
    *,
    name: str = "text",
    with_near: bool = False,
    processes: int | None = None,
    progress: Progress = lambda done: None,
) -> Found:
    """Stream the corpus once against all tests.

    name: the field of JSONL and Parquet that holds the text. processes: as many as there are cores, if None.
    Raises DataError where nothing of the corpus can be read; what part of it can't is counted in `tally`.
    """
    begun = time.monotonic()
    index = Index(tests.texts)
    found = Found(index, np.zeros(len(index.hashes), bool), near={} if with_near else None)
    if processes is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = cores if sum(source.path.stat().st_size for source in files) > ALONE else 1
    overlap = 4 * (near.OVERLAP if with_near else OVERLAP)
    with tempfile.TemporaryDirectory(prefix="estbench-contamination-") as folder:
        index.save(Path(folder))
        if with_near:
            items = [item for task in tests.tasks for item in task.items]
            all_units, owned = near.units(items, tests.texts)
            near.NearIndex(all_units).save(Path(folder))
            each = iter(owned)
            found.units = [[next(each) for _ in task.items] for task in tests.tasks]
        stream = chunks(files, name, overlap, found.broken)
        for chunk, (hits, tally) in _answers(stream, processes, folder, name, with_near):
            _take(found, hits, str(files[chunk].path))
            found.tally.add(tally)
            progress(found.tally.bytes)
    found.seconds = time.monotonic() - begun
    _check(found, files, name)
    return found


def _answers(
    stream: Iterator[Chunk], processes: int, folder: str, name: str, with_near: bool
) -> Iterator[tuple[int, tuple[Hits, Tally]]]:
    """(number of the file, what was found) for each chunk, in order."""
    if processes == 1:
        worker = Worker(Path(folder), name, with_near)
        for chunk in stream:
            yield chunk.source, worker(chunk)
        return
    waiting: deque[tuple[int, Future[tuple[Hits, Tally]]]] = deque()
    # spawn: a fork of a process with threads (pyarrow's, torch's) can hang
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (folder, name, with_near)) as pool:
        try:
            for chunk in stream:
                waiting.append((chunk.source, pool.submit(_work, chunk)))
                if len(waiting) > AHEAD * processes:
                    number, future = waiting.popleft()
                    yield number, future.result()
            while waiting:
                number, future = waiting.popleft()
                yield number, future.result()
        except BrokenProcessPool:
            raise EstbenchError("A process of the scan died (out of memory?): use fewer with processes=1.") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _take(found: Found, hits: Hits, file: str) -> None:
    numbers, exact, units, close = hits
    new = np.flatnonzero(~found.hashes[numbers])
    found.hashes[numbers[new]] = True
    for one, place in found.index.texts_of(numbers[new]):
        found.places.setdefault(one, Place(file, *exact[int(new[place])]))
    if found.near is not None:
        for (unit, share), where in zip(units, close, strict=True):
            found.near.setdefault(unit, (Place(file, *where), share))


def _check(found: Found, files: list[Source], name: str) -> None:
    """DataError where nothing could be read."""
    tally = found.tally
    if tally.documents or tally.pieces:
        return
    if found.broken:
        raise DataError(found.broken[0])
    corpus = str(files[0].path) + (f" and {len(files) - 1:,} more" if len(files) > 1 else "")
    if tally.lacking:
        raise DataError(
            f"{corpus}: no row has text in the field {name!r}. The first has {', '.join(tally.fields)}: name one with "
            "field=."
        )
    if tally.damaged or tally.not_utf8:
        raise DataError(
            f"{corpus}: nothing can be read, {tally.damaged:,} lines are no JSON object or too long, "
            f"{tally.not_utf8:,} not UTF-8."
        )
    raise DataError(f"{corpus}: there is no text.")
