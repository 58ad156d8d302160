"""A model with the rows of another vocabulary, written piece by piece: memory is a slice, whatever the model's size.

    write(checkpoint, Resized(adapted, pieces, rows), folder, key)

All tensors but the embeddings and the head (and a head's bias) are copied byte by byte. A row that comes from one old
row is that row bit for bit; others are computed in float64 and rounded once. A NaN is named wherever it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estbench.checkpoint import Checkpoint
from estbench.errors import ModelError
from estbench_training.vocab.assemble import Adapted
from estbench_training.vocab.forms import Vocabulary
from estbench_training.vocab.pieces import Pieces
from estbench_training.weights import FLOATS, SHARD_BYTES, TensorInfo, Weights, Writer, check_finite, gather, names_of

COPIED = 1 << 24  # elements that are read at once
COMPUTED = 1 << 22  # elements of new rows that are computed at once
ID_KEYS = ("_token_id", "_token_ids", "_token_index", "suppress_tokens", "bad_words_ids")  # how keys of token ids end


@dataclass(frozen=True)
class Resized:
    """A new vocabulary and where its rows come from. rows: of the matrices, at least as many as there are tokens."""

    adapted: Adapted
    pieces: Pieces
    rows: int

    @property
    def origins(self) -> NDArray[np.int64]:
        """(rows,): the old row that a row is, bit for bit; -1 where it is computed."""
        found = np.full(self.rows, -1, np.int64)
        own = self.adapted.origins
        found[: len(own)] = np.where(own >= 0, own, self.pieces.origins)
        return found


def matrices(weights: Weights, config: Mapping[str, Any], tokens: int) -> dict[str, TensorInfo]:
    """The tensors that have a row for each token: embeddings, head, the head's bias. ModelError where they have fewer
    rows than the tokenizer has tokens, or another one has such rows, too."""
    names = list(names_of(weights, config).names)
    names += [bias for name in names if (bias := f"{name.removesuffix('weight')}bias") in weights.tensors]
    found = {name: weights.tensors[name] for name in names}
    if odd := [name for name in names if found[name].dtype not in FLOATS]:
        raise ModelError(f"{weights.folder}: {odd[0]} is {found[odd[0]].dtype}: take the model that is not quantised.")
    rows = {info.rows for info in found.values()}
    if len(rows) > 1:
        raise ModelError(f"{weights.folder}: {' and '.join(found)} differ in rows ({sorted(rows)}): save it again.")
    if min(rows) < tokens:
        raise ModelError(
            f"{weights.folder}: {names[0]} has {min(rows):,} rows, and the tokenizer {tokens:,} tokens: add rows for "
            "them first (resize_token_embeddings of transformers)."
        )
    for name, info in weights.tensors.items():
        if name not in found and "embed" in name.lower() and info.rows in rows:
            raise ModelError(f"{weights.folder}: {name} has a row for each token, too: what it does isn't known here.")
    return found


def write(checkpoint: Checkpoint, made: Resized, folder: Path, key: str, *, shard_bytes: float = SHARD_BYTES) -> None:
    """The weights, in a folder that `weights.growing` gives; goes on from what is finished there."""
    with Weights.open(checkpoint) as old:
        sized = matrices(old, checkpoint.config, made.pieces.old_size)
        tensors = {
            name: TensorInfo(info.dtype, (made.rows, *info.shape[1:])) if name in sized else info
            for name, info in old.tensors.items()
        }
        with Writer(folder, tensors, key=key, shard_bytes=shard_bytes) as new:
            for name in tensors:
                if new.done(name):
                    continue
                if name in sized:
                    _rows(old, new, name, made)
                else:
                    _copy(old, new, name)
                new.finished(name)
        checkpoint.check_unchanged()


def _copy(old: Weights, new: Writer, name: str) -> None:
    info = old.tensors[name]
    for start in range(0, info.rows, some := max(1, COPIED // max(1, info.row))):
        rows = old.read(name, start, min(start + some, info.rows))
        check_finite(rows, f"{old.file_of(name)}: {name}", start=start)
        new.write(name, start, rows)


def _rows(old: Weights, new: Writer, name: str, made: Resized) -> None:
    """A matrix of the new vocabulary, some rows at a time."""
    info = old.tensors[name]
    origins, mean = made.origins, None

    def read(ids: NDArray[np.int64]) -> Tensor:
        found = gather(old, name, ids).view(len(ids), -1)
        check_finite(found, f"{old.file_of(name)}: {name}", ids)
        return found

    for start in range(0, made.rows, some := max(1, COMPUTED // info.row)):
        stop = min(start + some, made.rows)
        rows = torch.empty((stop - start, info.row), dtype=info.torch)
        copied = origins[start:stop] >= 0
        if copied.any():
            ids, place = np.unique(origins[start:stop][copied], return_inverse=True)
            rows[torch.from_numpy(copied)] = read(ids)[torch.from_numpy(place)]
        last = min(stop, made.pieces.size)
        if start < last and not copied[: last - start].all():
            computed = rounded(made.pieces.apply(read, start, last), info.torch)
            open_ = torch.from_numpy(~copied[: last - start])
            rows[: last - start][open_] = computed[open_]
        if stop > last:  # rows that no token has
            mean = rounded(made.pieces.mean(read), info.torch) if mean is None else mean
            rows[max(0, last - start) :] = mean
        new.write(name, start, rows.view(stop - start, *info.shape[1:]))


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 in another type, rounded once, to even. torch goes by float32 and rounds there, too."""
    if dtype in (torch.float64, torch.float32):
        return values.to(dtype)
    near = values.to(torch.float32)
    bits = near.view(torch.int32)
    twice = ((bits & 0xFFF) == 0).logical_and_(near.double() != values)  # maybe in the middle of two values by now
    if twice.any():
        exact, some = values[twice], near[twice]
        beyond = some.double().abs() > exact.abs()
        bits[twice] = (bits[twice] - beyond.int()) | 1  # towards 0, and then to odd (Boldo & Melquiond 2008)
    return near.to(dtype)


def renumbered(config: Mapping[str, Any], old: Vocabulary, new: Vocabulary, rows: int, shown: str) -> dict[str, Any]:
    """A config.json or generation_config.json for the new vocabulary: its size, and the ids of tokens by their string.

    ModelError where one names no token, or one that isn't in the new vocabulary. shown: what to call the file.
    """
    ids = {name: place for place, name in enumerate(new.names) if name is not None}

    def of(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [of(key, one) for one in value]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return value
        name = old.names[value] if value < old.size else None
        if name is None:
            raise ModelError(f"{shown}: {key} is {value}, and the tokenizer has no such token: name one that it has.")
        if name not in ids:
            raise ModelError(f"{shown}: {key} is {value} ({name}), and the new vocabulary has no such token.")
        return ids[name]

    made: dict[str, Any] = {}
    for key, value in config.items():
        if key == "vocab_size":
            made[key] = rows
        elif key.endswith(ID_KEYS):
            made[key] = of(key, value)
        else:
            made[key] = renumbered(value, old, new, rows, shown) if key == "text_config" else value
    return made
