"""Tensors of a checkpoint, read in slices with pread: memory is the slice, and a file that shrinks is an error.

    with Weights.open(find("demo-base")) as weights:
        weights.tensors["model.norm.weight"]                       # TensorInfo(dtype="BF16", shape=(64,))
        weights.read("model.embed_tokens.weight", 0, 100)          # rows 0 … 99, as they are stored
        weights.read_flat("model.norm.weight", 0, 32, out=buffer)  # elements, into memory that is there

A memory map would be shorter, but a file that is cut while it is mapped ends the process, and mapped pages count as
its memory. All methods may be called from several threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from estbench.checkpoint import Checkpoint, read_header, read_json
from estbench.errors import ModelError

DTYPES: Mapping[str, torch.dtype] = {  # of safetensors, that torch has
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
FLOATS = ("BF16", "F16", "F32", "F64")  # types that are computed with; other floats are quantised


def computing(*dtypes: torch.dtype) -> torch.dtype:
    """The type that weights of these types are computed in: fp32 if all have 16 bits or less, else fp64."""
    return torch.float64 if any(dtype.itemsize > 2 for dtype in dtypes) else torch.float32


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a tensor is: its type in safetensors' words ("BF16", "F32", …) and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def torch(self) -> torch.dtype:
        """Its type in torch's words."""
        return DTYPES[self.dtype]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """How many numbers one row of its first dimension holds; 1 of a scalar."""
        return math.prod(self.shape[1:])

    @property
    def rows(self) -> int:
        """The size of its first dimension; 1 of a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def bytes(self) -> int:
        """Its size on the disk."""
        return self.elements * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class _Place:
    file: Path
    begin: int  # byte in the file


class Weights:
    """The tensors of one checkpoint. `tensors`: by name, sorted."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], places: Mapping[str, _Place]) -> None:
        self.folder = folder
        self.tensors: Mapping[str, TensorInfo] = dict(sorted(tensors.items()))
        self._places = places
        self._files: dict[Path, int] = {}
        try:
            for file in sorted({place.file for place in places.values()}):
                self._files[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise ModelError(f"{error.filename} can't be read: {error.strerror}.") from None

    @classmethod
    def open(cls, checkpoint: Checkpoint) -> Weights:
        """The weights of a checkpoint; ModelError where a shard is missing, pickled, truncated or not what it says."""
        tensors: dict[str, TensorInfo] = {}
        places: dict[str, _Place] = {}
        for file in checkpoint.weight_files:
            header = read_header(file)
            begin = 8 + _header_length(file)
            for name, row in header.items():
                if name in tensors:
                    raise ModelError(f"{file} and {places[name].file.name} both have {name}: keep one of them.")
                tensors[name] = _info(file, name, row)
                places[name] = _Place(file, begin + row["data_offsets"][0])
        if not tensors:
            raise ModelError(f"{checkpoint.path} has no tensor in {checkpoint.weight_files[0].name}: save it again.")
        _check_index(checkpoint, places)
        return cls(checkpoint.path, tensors, places)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows [start, stop) of the first dimension, (stop - start, …) in the stored type; a scalar as it is."""
        info = self.tensors[name]
        stop = info.rows if stop is None else stop
        flat = self.read_flat(name, start * info.row, stop * info.row)
        return flat.view((stop - start, *info.shape[1:]) if info.shape else ())

    def read_flat(self, name: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Elements [start, stop) of the tensor as one row, (stop - start,) in the stored type.

        out: at least that many elements of that type, one after another, which are filled; what is filled is returned.
        ModelError if the file has become shorter than it was.
        """
        info, place = self.tensors[name], self._places[name]
        if not 0 <= start <= stop <= info.elements:
            raise ValueError(f"{name} has {info.elements} elements, not [{start}, {stop})")
        found = torch.empty(stop - start, dtype=info.torch) if out is None else out[: stop - start]
        if found.dtype != info.torch:
            raise ValueError(f"{name} is {info.dtype}, the memory for it is {found.dtype}")
        size = info.torch.itemsize
        self._fill(place.file, found.view(torch.uint8).numpy().data, place.begin + start * size)
        return found

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._places[name].file

    def _fill(self, file: Path, memory: memoryview, at: int) -> None:
        done = 0
        while done < len(memory):
            try:
                count = os.preadv(self._files[file], [memory[done:]], at + done)
            except OSError as error:
                raise ModelError(f"{file} can't be read: {error.strerror}.") from None
            if not count:
                raise ModelError(f"{file} became shorter while it was read: wait until it is written, then run again.")
            done += count

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _header_length(file: Path) -> int:
    with open(file, "rb") as data:
        return int.from_bytes(data.read(8), "little")


def _info(file: Path, name: str, row: Mapping[str, Any]) -> TensorInfo:
    """A tensor's row of a header, its type known and its size that of its shape."""
    try:
        dtype, shape, (begin, end) = str(row["dtype"]), tuple(row["shape"]), row["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{file}: its header says too little of {name}: copy or save it again.") from None
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ModelError(f"{file}: {name} has a size of {list(shape)} at {begin} to {end}: copy or save it again.")
    if dtype not in DTYPES:
        raise ModelError(f"{file}: {name} is of type {dtype}, which can't be computed with: use the unquantised model.")
    info = TensorInfo(dtype, shape)
    if end - begin != info.bytes:
        raise ModelError(
            f"{file}: {name} has {end - begin:,} bytes where its shape asks for {info.bytes:,}: save it again."
        )
    return info


def _check_index(checkpoint: Checkpoint, places: Mapping[str, _Place]) -> None:
    """Every tensor that the index names is in the file that it names."""
    path = checkpoint.path / "model.safetensors.index.json"
    if not path.exists():
        return
    for name, file in read_json(path)["weight_map"].items():
        if name not in places or places[name].file.name != file:
            raise ModelError(f"{checkpoint.path / file} lacks {name}, which the index says is there: copy it again.")
