"""The response store: cache and resume in one.

Everything a model answered lies under `home()/responses/<fingerprint>/`, one append-only file a process, so that
nobody ever writes into another's file (safe on network file systems). A line is a whole pack of responses behind its
checksum; a pack is there whole or not at all, which is why resumed scores keep their bits. Lines are handed to the
system as soon as a pack is done and forced to disk at most a second later. A torn last line is dropped.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any

from estbench.engines.base import Response, from_record, to_record
from estbench.errors import StoreError
from estbench.home import home

SYNC_EVERY = 1.0  # seconds


class ResponseStore:
    """The responses of one fingerprint. Use as a context manager; `append` is for one thread."""

    def __init__(self, fingerprint: str, root: Path | None = None) -> None:
        self.folder = (root or home() / "responses") / fingerprint
        self.damaged = 0  # lines that could not be read, other than a torn last one
        self.splits: set[str] = set()  # ids of packs that were halved, known after `load`
        self._file: IO[bytes] | None = None
        self._unsynced = threading.Event()
        self._closing = threading.Event()
        self._syncer: threading.Thread | None = None
        self._failed: OSError | None = None

    def __enter__(self) -> ResponseStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, wanted: Container[str], since: float | None = None) -> dict[str, Response]:
        """The stored responses among these keys. since: Unix time; files that were begun before don't count."""
        found: dict[str, Response] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            if since is not None and int(path.name.partition("-")[0]) < since:
                continue
            for pack in self._read(path):
                if "split" in pack:
                    self.splits.add(str(pack["split"]))
                else:
                    found |= {key: from_record(record) for key, record in pack.items() if key in wanted}
        return found

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror}.") from None
        for line in lines[:-1]:  # what follows the last newline is torn, or nothing
            checksum, _, body = line.partition(b" ")
            if checksum == b"%08x" % zlib.crc32(body):
                yield json.loads(body)
            else:
                self.damaged += 1

    def append(self, pack: dict[str, Response]) -> None:
        """Keep a finished pack. When this returns the system has it: a kill of this process can't lose it."""
        self._write({key: to_record(response) for key, response in pack.items()})

    def split(self, pack: str) -> None:
        """Note that a pack is computed in halves from now on, so that a run that goes on gives the same bits."""
        self._write({"split": pack})

    def _write(self, value: dict[str, Any]) -> None:
        if self._failed:
            raise self._cant_write(self._failed)
        body = json.dumps(value, ensure_ascii=False).encode()
        line = b"%08x %b\n" % (zlib.crc32(body), body)
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            while line:  # an unbuffered write may take a part only
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._cant_write(error) from None
        self._unsynced.set()

    def check_writable(self) -> None:
        """Find a read-only or full disk before any work is done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"\0" * 65536)
            probe.unlink()
        except OSError as error:
            raise self._cant_write(error) from None

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        worker = f"{int(time.time())}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._file = open(self.folder / f"{worker}.jsonl", "xb", buffering=0)  # noqa: SIM115  lives as long as the store
        self._syncer = threading.Thread(target=self._sync, name="estbench-fsync", daemon=True)
        self._syncer.start()

    def _sync(self) -> None:
        while not self._closing.is_set():
            self._unsynced.wait()
            self._unsynced.clear()
            try:
                assert self._file is not None
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failed = error
                return
            self._closing.wait(SYNC_EVERY)

    def close(self) -> None:
        """Force what was written to disk."""
        if self._file is None:
            return
        self._closing.set()
        self._unsynced.set()
        assert self._syncer is not None
        self._syncer.join()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._failed = error
        self._file.close()
        self._file = None
        if self._failed:
            raise self._cant_write(self._failed)

    def _cant_write(self, error: OSError) -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "free some space" if full else "set ESTBENCH_HOME to a folder that can be written"
        return StoreError(
            f"{self.folder} can't be written ({error.strerror}): {cure} and run the same command again; "
            "what is stored is kept."
        )
