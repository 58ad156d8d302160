"""Work spread over processes, its results in order; no more than a few items wait, so that memory is bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from estbench.errors import EstbenchError

AHEAD = 3  # items a process that wait

Job = TypeVar("Job")
Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None  # of a process of the pool


def in_order(
    make: Callable[[Job], Callable[[Item], Result]], job: Job, items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Result], None, None]:
    """(item, what `make(job)` makes of it), in the items' order. One worker is this process; `make` runs once in each.

    `make`, `job`, items and results have to be picklable. Raises what the work raises; EstbenchError if a process dies.
    """
    if workers == 1:
        work = make(job)
        for item in items:
            yield item, work(item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    # spawn: a fork of a process with threads (pyarrow's, the tokenizer's) can hang
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (make, job)) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(_do, item)))
                if len(waiting) > AHEAD * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool:
            raise EstbenchError("A process died (out of memory?): use fewer with workers: 1.") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[Any], Callable[[Any], Any]], job: Any) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process a core
    _work = make(job)


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)
