"""A checkpoint's weights, written in slices and in any order, in shards whose layout is fixed from the start.

    with growing(place, key) as folder:                 # .NAME.part beside it, which gets its name at the end
        with Writer(folder, {"lm_head.weight": TensorInfo("BF16", (32000, 512))}, key=key) as writer:
            writer.write("lm_head.weight", 0, rows)     # any rows, from any thread
            writer.finished("lm_head.weight")

The layout depends on the tensors' names, types and shapes alone. What is finished is noted in a journal once it is on
the disk, and a run with the same key goes on from there: kill -9 or a crash costs a few times `SYNC_BYTES` of work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from estbench import identity
from estbench.errors import EstbenchError, StoreError
from estbench.identity import FileHashes
from estbench_training.appearing import appear, write_synced
from estbench_training.weights.behind import Behind
from estbench_training.weights.reading import DTYPES, TensorInfo

JOURNAL = ".journal"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
SYNC_BYTES = 1 << 27  # finished tensors are flushed and noted when so much of them waits; the next ones go on meanwhile


@contextlib.contextmanager
def growing(place: Path, key: str) -> Iterator[Path]:
    """The folder `.NAME.part` to write into, with what a run of the same key left; it becomes `place` at the end.

    It stays where the process is interrupted or killed. After an error of ours, or a full disk (StoreError), nothing is
    left. StoreError, too, while another process writes this model; what that has written stays.
    """
    folder = place.with_name(f".{place.name}.part")
    with _alone(folder, place):
        try:
            if _key(folder) != key:
                _clear(folder)
            yield folder
            (folder / JOURNAL).unlink(missing_ok=True)
            appear(folder, place)
            FileHashes().moved(folder, place)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _unwritten(place, error) from None
        except EstbenchError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def _alone(folder: Path, place: Path) -> Iterator[None]:
    """Make a folder, and lock it until the process ends at the latest; unlocked where the file system has no locks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritten(place, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{place} is being written by another process: wait until it is there.") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    """Remove what is in a folder, and not the folder, which is locked."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _unwritten(place: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = "make room, then run again" if full else "write elsewhere, or mend that first"
    return StoreError(f"{place} can't be written ({error.strerror or error}): {cure}.")


class Writer:
    """Writes a model's tensors. Their files have their full size and their headers when it is made.

    key: what goes into the model; another one's leftovers are removed. hashed: the files are hashed behind the writing,
    and `FileHashes` knows them afterwards. StoreError where there is no room.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, TensorInfo],
        *,
        key: str,
        shard_bytes: float = SHARD_BYTES,
        hashed: bool = True,
    ) -> None:
        self.folder = folder
        self.tensors: Mapping[str, TensorInfo] = dict(sorted(tensors.items()))
        self._shards = _shards(self.tensors, shard_bytes)
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._flusher = ThreadPoolExecutor(1, "flush")
        self._flushed: list[Future[None]] = []
        self._files: dict[str, int] = {}
        self._places: dict[str, tuple[str, int]] = {}  # name -> file, byte in it
        self._behind = Behind() if hashed else None
        self._unfinished = {file: deque(names) for file, names in self._shards.items()}  # in the order of the file
        self._head = {"key": key, "layout": identity.digest(self._layout())}
        with self._disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._done = self._left()
            self._check_room()
            for file, names in self._shards.items():
                self._begin(file, names)
                self._hash(file)

    def done(self, name: str) -> bool:
        """Whether an interrupted run has finished a tensor, or this one."""
        return name in self._done

    def write(self, name: str, start: int, rows: Tensor) -> None:
        """Rows from row `start` on, (n, …) in the type that was announced."""
        info = self.tensors[name]
        if info.shape and tuple(rows.shape[1:]) != info.shape[1:]:
            raise ValueError(f"{name} has rows of shape {info.shape[1:]}, not {tuple(rows.shape[1:])}")
        self.write_flat(name, start * info.row, rows.reshape(-1))

    def write_flat(self, name: str, start: int, values: Tensor) -> None:
        """Elements from `start` on of the tensor as one row, (n,). StoreError if the disk is full."""
        info, count = self.tensors[name], values.numel()
        if values.dtype != info.torch or not 0 <= start <= start + count <= info.elements:
            raise ValueError(f"{name} is {info}: {values.dtype} [{start}, {start + count}) doesn't fit")
        file, begin = self._places[name]
        memory = values.contiguous().view(torch.uint8).numpy().data
        at, done = begin + start * info.torch.itemsize, 0
        with self._disk_errors():
            while done < len(memory):
                done += os.pwrite(self._files[file], memory[done:], at + done)

    def finished(self, name: str) -> None:
        """All of a tensor is written; noted in the journal once it is on the disk. StoreError: one before can't be."""
        with self._lock:
            self._done.add(name)
            self._hash(self._places[name][0])
            self._waiting.append(name)
            if sum(self.tensors[one].bytes for one in self._waiting) >= SYNC_BYTES:
                self._flushed.append(self._flusher.submit(self._note, self._waiting))
                self._waiting = []
            while self._flushed and self._flushed[0].done():
                self._flushed.pop(0).result()

    def close(self) -> None:
        """Flush, write the index; `growing` removes the journal. RuntimeError if a tensor isn't finished."""
        if missing := [name for name in self.tensors if name not in self._done]:
            raise RuntimeError(f"{missing[0]} was not written")
        with self._lock, self._disk_errors():
            while self._flushed:
                self._flushed.pop(0).result()
            for descriptor in self._files.values():
                os.fsync(descriptor)
            self._note(self._waiting)
            self._waiting = []
            if self._behind is not None:
                self._behind.finish()
            if list(self._shards) != [SINGLE]:
                write_synced(self.folder / INDEX, json.dumps(self._index(), indent=2, ensure_ascii=False) + "\n")
        self._release()

    def _index(self) -> dict[str, object]:
        sizes = {
            "total_size": sum(info.bytes for info in self.tensors.values()),
            "total_parameters": sum(info.elements for info in self.tensors.values()),
        }
        return {"metadata": sizes, "weight_map": {name: self._places[name][0] for name in self.tensors}}

    def _layout(self) -> list[list[object]]:
        return [
            [file, name, self.tensors[name].dtype, list(self.tensors[name].shape)]
            for file, names in self._shards.items()
            for name in names
        ]

    def _left(self) -> set[str]:
        """The tensors that an interrupted run of the same key finished; what any other left is removed."""
        lines = _lines(self.folder / JOURNAL)
        if lines and _json(lines[0]) == self._head and all((self.folder / file).is_file() for file in self._shards):
            return {name for line in lines[1:] if isinstance(name := _json(line), str) and name in self.tensors}
        for path in (*self.folder.glob("*.safetensors"), self.folder / INDEX):
            path.unlink(missing_ok=True)
        write_synced(self.folder / JOURNAL, json.dumps(self._head) + "\n")
        return set()

    def _check_room(self) -> None:
        """Refuse before the work what could not be written after it."""
        needed = sum(info.bytes for info in self.tensors.values())
        files = [self.folder / file for file in self._shards if (self.folder / file).exists()]
        needed -= sum(file.stat().st_blocks * 512 for file in files)
        room = os.statvfs(self.folder)
        free = room.f_bavail * room.f_frsize
        if needed > free:
            raise StoreError(
                f"{self.folder.parent} has {free / 1e9:,.3g} GB free, and the model needs {needed / 1e9:,.3g} GB more: "
                "make room, or write it elsewhere."
            )

    def _begin(self, file: str, names: list[str]) -> None:
        """A shard's file in its full length, with its header."""
        rows: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            info = self.tensors[name]
            rows[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [end, end + info.bytes]}
            self._places[name] = (file, end)
            end += info.bytes
        text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()
        header = text + b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
        for name in names:
            self._places[name] = (file, self._places[name][1] + 8 + len(header))
        descriptor = os.open(self.folder / file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._files[file] = descriptor
        os.ftruncate(descriptor, 8 + len(header) + end)
        os.pwrite(descriptor, len(header).to_bytes(8, "little") + header, 0)

    def _note(self, names: Sequence[str]) -> None:
        """Write tensors through to the disk, then say so in the journal."""
        with self._disk_errors():
            for file in {self._places[name][0] for name in names}:
                os.fdatasync(self._files[file])
            with open(self.folder / JOURNAL, "a", encoding="utf-8") as journal:
                journal.writelines(json.dumps(name) + "\n" for name in names)
                journal.flush()
                os.fsync(journal.fileno())

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unwritten(self.folder, error) from None

    def _hash(self, file: str) -> None:
        """Have the start of a file hashed, as far as its tensors are finished."""
        waiting, end = self._unfinished[file], None
        while waiting and waiting[0] in self._done:
            name = waiting.popleft()
            end = self._places[name][1] + self.tensors[name].bytes
        if end is not None and self._behind is not None:
            self._behind.upto(self.folder / file, self._files[file], end)

    def _release(self) -> None:
        if self._behind is not None:
            self._behind.close()
        self._flusher.shutdown()  # what waits for it is noted, so that an interrupted run has it, too
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._release()


def _shards(tensors: Mapping[str, TensorInfo], most: float) -> dict[str, list[str]]:
    """File -> its tensors in order. A shard is filled in name order; in it come the wider types first (alignment)."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, info in tensors.items():
        if groups[-1] and size + info.bytes > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += info.bytes
    for group in groups:
        group.sort(key=lambda name: (-DTYPES[tensors[name].dtype].itemsize, name))
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{at:05d}-of-{len(groups):05d}.safetensors": group for at, group in enumerate(groups, 1)}


def _key(folder: Path) -> object:
    """The key that an interrupted run noted."""
    lines = _lines(folder / JOURNAL)
    head = _json(lines[0]) if lines else None
    return head.get("key") if isinstance(head, dict) else None


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a killed process may have left part of one behind them."""
    try:
        return path.read_text("utf-8").split("\n")[:-1]
    except (OSError, ValueError):
        return []


def _json(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None
