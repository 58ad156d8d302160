"""Per-doc values, lists and records as compact blobs. What is unpacked equals what was packed.

packed = pack_values([1, 0, 1])              # kind "u1", width 0
unpack_values(packed.kind, packed.width, packed.data)
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 6  # zlib; 9 wins 1 % at twice the time
DTYPES = {"u1": "|u1", "i4": "<i4", "i8": "<i8", "f8": "<f8"}
EXACT = 2**53  # whole numbers up to here are exact as float64


@dataclass(frozen=True, slots=True)
class Packed:
    """Values of a metric: `kind` is a key of DTYPES or "json"; `width` is k of (n, k), 0 for one number a doc."""

    kind: str
    width: int
    data: bytes


def pack_values(values: Sequence[Any]) -> Packed:
    """Numbers (n), or lists of k numbers (n, k); what is neither (ragged or nested lists) is kept as JSON."""
    width = len(values[0]) if values and isinstance(values[0], list) else 0
    even = not width or all(isinstance(value, list) and len(value) == width for value in values)
    rows = [number for value in values for number in value] if width and even else values
    kind = _kind(rows, scalar=not width) if even else "json"
    if kind == "json":
        return Packed("json", 0, zlib.compress(_dump(list(values)), LEVEL))
    return Packed(kind, width, zlib.compress(np.asarray(rows, dtype=DTYPES[kind]).tobytes(), LEVEL))


def _kind(numbers: Sequence[Any], *, scalar: bool) -> str:
    """The smallest type that holds all the numbers exactly."""
    if not all(isinstance(number, int | float) for number in numbers):
        return "json"
    if scalar and all(number in (0, 1) and math.copysign(1, number) > 0 for number in numbers):  # -0.0 stays a float
        return "u1"
    whole = [abs(number) for number in numbers if isinstance(number, int)]
    largest = max(whole, default=0)
    if len(whole) == len(numbers):
        return "i4" if largest < 2**31 else "i8" if largest < 2**63 else "json"
    return "f8" if largest <= EXACT else "json"


def unpack_values(kind: str, width: int, data: bytes) -> NDArray[Any]:
    """(n) or (n, width) in the packed type; (n) of objects for "json"."""
    raw = zlib.decompress(data)
    if kind == "json":
        values = json.loads(raw)
        cells = np.empty(len(values), dtype=object)
        for position, value in enumerate(values):  # one by one: numpy would try to make lists into rows
            cells[position] = value
        return cells
    array = np.frombuffer(raw, dtype=DTYPES[kind])
    return array.reshape(-1, width) if width else array


def pack_mask(present: Sequence[bool]) -> bytes | None:
    """A bit a doc; None when all are set."""
    return None if all(present) else np.packbits(np.asarray(present, dtype=bool)).tobytes()


def unpack_mask(data: bytes, n: int) -> NDArray[np.bool_]:
    """The `n` bits of `pack_mask`."""
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=n).astype(bool)


def pack_list(values: Sequence[Any]) -> tuple[str, bytes]:
    """A list by its content: its hash (32 hex digits) and its blob."""
    raw = _dump(list(values))
    return hashlib.sha256(raw).hexdigest()[:32], zlib.compress(raw, LEVEL)


@lru_cache(maxsize=64)  # a page reads the same doc list for every run; keyed by the bytes themselves
def unpack_list(data: bytes) -> tuple[Any, ...]:
    """The values of `pack_list`. Do not change what is in it: it is shared."""
    return tuple(json.loads(zlib.decompress(data)))


def pack_records(records: Iterable[Any]) -> bytes:
    """JSON values, a line each."""
    return zlib.compress(b"\n".join(map(_dump, records)), LEVEL)


def unpack_record(data: bytes, position: int) -> Any:
    """The record at that position; the others are not parsed."""
    return json.loads(zlib.decompress(data).split(b"\n")[position])


def pack_text(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "surrogatepass"), LEVEL)


def unpack_text(data: bytes) -> str:
    return zlib.decompress(data).decode("utf-8", "surrogatepass")


def _dump(value: Any) -> bytes:
    # A model can answer with half a surrogate pair: it is kept as it came.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
