"""The state that a training run goes on from when it was interrupted. It appears whole or not at all.

    resume/step-000500/      a distributed checkpoint (torch.distributed.checkpoint) and state.json

It is written beside its place, flushed to the disk and renamed, so a full disk or a kill leaves the one before.
It is tensors and JSON. The only pickle is torch's own table of contents; it is read with nothing but the table's own
classes allowed, and only in a folder of this very run.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from estbench.errors import StoreError
from estbench_training.appearing import appear, write_synced
from estbench_training.cpt.parallel import Ranks

if TYPE_CHECKING:
    from torch.optim import Optimizer

STATE = "state.json"
SCHEMA = 1
STEP = re.compile(r"step-(\d{6,})")
ALLOWED = {  # what torch's table of contents is made of
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float32", "bfloat16", "float16", "float64", "int64", "int32", "uint8", "bool"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePosixPath"},
}


class Checkpoints:
    """The states of one run, newest last. All processes call the same methods in the same order."""

    def __init__(self, folder: Path, key: str, keep: int, ranks: Ranks, say: Callable[[str], None]) -> None:
        self.folder, self.key, self.keep, self.ranks, self.say = folder, key, keep, ranks, say

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state after a step, and remove the oldest beyond `keep`. StoreError: the one before is intact."""
        place = self.folder / f"step-{step:06d}"
        temporary = self.folder / f".{place.name}.part"
        failed = f"{place} can't be written; make room, and the same command goes on from the state before"
        with self._together(failed, temporary):
            if self.ranks.main:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
        with self._together(failed, temporary), _quiet():
            writer = FileSystemWriter(temporary, single_file_per_rank=True, sync_files=True)
            save(dict(tensors), storage_writer=writer, process_group=self.ranks.waiting)
        with self._together(failed, temporary):
            if self.ranks.main:
                self._finish(temporary, place, {"schema": SCHEMA, "key": self.key, "step": step, **facts})

    def _finish(self, temporary: Path, place: Path, facts: Mapping[str, Any]) -> None:
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        write_synced(temporary / STATE, json.dumps({**facts, "files": sizes}, indent=1) + "\n")
        appear(temporary, place)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(self._place(old))

    def newest(self) -> int | None:
        """The newest step whose state is whole; None if there is none. StoreError if it is another run's."""
        with self._together("The state to go on from can't be read"):
            found = next((step for step in reversed(self._steps()) if self._is_whole(step)), None)
        step: int | None = self.ranks.agree(found)
        return step

    def drop(self, step: int) -> None:
        """Remove the state of a step."""
        with self._together(f"{self._place(step)} can't be removed"):
            if self.ranks.main:
                shutil.rmtree(self._place(step))

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Fill the tensors in place with the state of a step; its facts."""
        place = self._place(step)
        with self._together(f"{place} can't be read; remove it, and the same command goes on from the one before"):
            facts = self._facts(step)
            with _quiet():
                load(
                    dict(tensors),
                    storage_reader=_Reader(place),
                    planner=_OnlyTensors(),
                    process_group=self.ranks.waiting,
                )
        return facts

    def _steps(self) -> list[int]:
        """The steps in the folder, ascending."""
        if not self.folder.is_dir():
            return []
        names = (STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _facts(self, step: int) -> dict[str, Any]:
        """state.json; StoreError unless this run wrote it, here."""
        place = self._place(step)
        if any(path.is_symlink() for path in (self.folder, place, *place.iterdir())):
            raise StoreError(f"{place} is a link to elsewhere: a run goes on from its own states only. Remove it.")
        facts = json.loads((place / STATE).read_text("utf-8"))
        if not isinstance(facts, dict) or facts.get("schema") != SCHEMA or facts.get("key") != self.key:
            raise StoreError(f"{place} is the state of another run: a run goes on from its own states only. Remove it.")
        return facts

    def _is_whole(self, step: int) -> bool:
        place = self._place(step)
        try:
            facts = self._facts(step)
        except (OSError, ValueError):
            facts = {"files": {STATE: -1}}
        found = {name: (place / name).stat().st_size if (place / name).is_file() else -1 for name in facts["files"]}
        if damaged := [name for name, size in facts["files"].items() if found[name] != size or size < 0]:
            self.say(f"{place} is left out: {damaged[0]} is damaged.")
        return not damaged

    @contextlib.contextmanager
    def _together(self, failure: str, temporary: Path | None = None) -> Iterator[None]:
        """What one process can't do, none has done: all raise the same StoreError."""
        error = ""
        try:
            yield
        except StoreError as found:
            error = str(found)
        except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, CheckpointException) as found:
            error = f"{failure} ({_reason(found)})."
        if error := self._first(error):
            if temporary is not None and self.ranks.main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise StoreError(error) from None

    def _first(self, error: str) -> str:
        """The first process's error that there is."""
        if self.ranks.world == 1:
            return error
        errors: list[str] = [""] * self.ranks.world
        torch.distributed.all_gather_object(errors, error, group=self.ranks.waiting)
        return next(filter(None, errors), "")


class _Table(pickle.Unpickler):
    """Reads torch's table of contents, and runs nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint's table of contents")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with open(Path(self.path) / ".metadata", "rb") as file:
            table = _Table(file).load()
        table.storage_meta.load_id = self.load_id
        return table


class _OnlyTensors(DefaultLoadPlanner):
    def load_bytes(self, read_item: Any, value: Any) -> None:
        raise ValueError(f"{read_item.dest_index.fqn} is no tensor")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reason(error: BaseException) -> str:
    """What went wrong, in one line; of a DCP error what one of the processes said."""
    if isinstance(error, CheckpointException) and error.failures:
        return _reason(next(iter(error.failures.values()))[0])
    cause: BaseException | None = error
    while cause is not None:  # torch's writer complains of its file's length, after the file did of the disk
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def optimizer_tensors(optimizer: Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's state by name: the two moments and the count of steps of each parameter."""
    return {
        f"adam/{name}/{kind}": value
        for name, weight in names.items()
        for kind, value in optimizer.state[weight].items()
    }
