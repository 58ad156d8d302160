"""SHA-256 of files while they are written, so that nobody has to read them again for it.

    behind = Behind()
    behind.upto(path, descriptor, 1_000_000)   # so many bytes from the start on are final; returns at once
    behind.finish()                            # waits, and remembers the hash of each file, which has to be whole

Reads back what has just been written, in threads of its own, a file in one thread at a time.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from estbench.identity import FileHashes

BLOCK = 1 << 20  # bytes that are read at once
THREADS = 4  # files at the same time; one is enough while they are written one after another


class Behind:
    """Hashes of files that grow from their start on."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0))), "hash")
        self._files: dict[Path, _File] = {}
        self._stopped = threading.Event()

    def upto(self, path: Path, descriptor: int, stop: int) -> None:
        """The first `stop` bytes of a file will not change any more."""
        file = self._files.setdefault(path, _File())
        file.waited.append(self._pool.submit(file.read, descriptor, stop, self._stopped))

    def finish(self) -> None:
        """Wait for all, and remember the hashes in `home()/fingerprints.jsonl`. OSError: a file can't be read."""
        known = FileHashes()
        for path, file in self._files.items():
            for future in file.waited:
                future.result()
            known.note(path, file.hasher.hexdigest())

    def close(self) -> None:
        """End the threads, whether they are done or not; the files may be closed afterwards."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)


class _File:
    def __init__(self) -> None:
        self.hasher, self.done, self.lock = hashlib.sha256(), 0, threading.Lock()
        self.waited: list[Future[None]] = []

    def read(self, descriptor: int, stop: int, stopped: threading.Event) -> None:
        """Hash from where it is to byte `stop`."""
        block = memoryview(bytearray(BLOCK))
        with self.lock:
            while self.done < stop and not stopped.is_set():
                count = os.preadv(descriptor, [block[: min(BLOCK, stop - self.done)]], self.done)
                if not count:
                    raise OSError(f"the file ends at byte {self.done:,}")
                self.hasher.update(block[:count])
                self.done += count
