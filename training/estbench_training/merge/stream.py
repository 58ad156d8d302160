"""Work on slices by a few threads: while one reads, another computes and a third writes. Memory is a few slices.

    with Pool(threads) as pool:
        for done in pool.ordered(function, items):     # results in the order of items; few are ahead
            …

How a tensor is cut depends on its shape alone, so that results don't depend on threads or on files.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from estbench_training.weights import TensorInfo

SLICE = 1 << 18  # elements; what is computed with stays in the cache of a core
BATCH = 8  # items that a thread takes at once: to hand one over costs as much as to compute with half a slice
AHEAD = 3  # batches that are begun, for each thread

T = TypeVar("T")
R = TypeVar("R")


class Memory(threading.local):
    """A thread's memory, by what it is for; asked for again it is the same, whatever was in it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, torch.dtype], Tensor] = {}

    def get(self, use: str, count: int, dtype: torch.dtype) -> Tensor:
        """Memory for `count` elements, (count,), that are to be overwritten."""
        found = self._found.get((use, dtype))
        if found is None or found.numel() < count:
            found = self._found[use, dtype] = torch.empty(max(count, SLICE), dtype=dtype)
        return found[:count]


class Pool:
    """Threads, each of which computes with one core."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or default_threads()
        self._before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.threads, "merge", initializer=torch.set_num_threads, initargs=(1,))

    def ordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """function of each item, in order; it is called in several threads. Items are taken as they are needed, in the
        caller's thread. After an error none is running any more."""
        window: deque[Future[list[R]]] = deque()
        left = iter(items)
        try:
            while batch := list(itertools.islice(left, BATCH)):
                window.append(self._pool.submit(lambda some: [function(one) for one in some], batch))
                if len(window) >= AHEAD * self.threads:
                    yield from window.popleft().result()
            while window:
                yield from window.popleft().result()
        finally:
            for future in window:
                future.cancel()
            wait(window)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        torch.set_num_threads(self._before)


def default_threads() -> int:
    """One a core that this process may use, from 2, so that reading and computing overlap, to 8, which fill a disk."""
    return max(2, min(8, len(os.sched_getaffinity(0))))


def cut(info: TensorInfo, *, rows: bool = False) -> Iterator[tuple[int, int]]:
    """[start, stop) of the slices of a tensor, in elements. rows: each is made of whole rows."""
    size = max(1, SLICE // max(1, info.row)) * info.row if rows else SLICE
    for start in range(0, info.elements, max(1, size)):
        yield start, min(start + size, info.elements)
