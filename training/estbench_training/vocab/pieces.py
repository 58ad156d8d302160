"""A new vocabulary in the pieces of an old one: which old tokens make up each new token, and with what weights.

    pieces = pieces_of(old_tokenizer, new_tokenizer)
    rows = pieces.apply(read, start, stop)        # of new tokens, float64, from old rows; never the whole matrix
    old_ids, new_ids = overlap(old_tokenizer, new_tokenizer)

A new token whose bytes are those of one old token is that token. Otherwise its text is encoded by the old tokenizer,
without special tokens and without a space in front; bytes that are no text alone go by the old tokenizer's merges, or
by its byte tokens. A special token is the old one of the same string. What has no old pieces at all (a new special
token, an id without a token) is the mean of all old rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estbench_training.vocab import forms
from estbench_training.vocab.forms import BYTE, HOLE, ORDINARY, SPECIAL, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Weighting = Literal["mean", "weighted"]
Ids = NDArray[np.int64]
Read = Callable[[Ids], Tensor]
LIGHT = 0.1  # the weight of a piece of white space alone, in bytes
ROWS = 4096  # of the old matrix that are read at once


@dataclass(frozen=True)
class Pieces:
    """New tokens as weighted old ones, as a CSR matrix (new_size, old_size) whose rows sum to 1, or are empty.

    indices of a row are distinct and rise. An empty row means the mean of all old rows.
    """

    indptr: NDArray[np.int64]  # (new_size + 1,)
    indices: NDArray[np.int32]  # (pieces,)
    weights: NDArray[np.float64]  # (pieces,)
    old_size: int

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[int]], weights: Sequence[Sequence[float]], old_size: int) -> Pieces:
        """Of each new token's old ids, in which one may come twice, and their weights, of any positive sum."""
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        rows = np.repeat(np.arange(len(lists)), lengths)
        ids = np.fromiter((one for some in lists for one in some), np.int64, int(lengths.sum()))
        heavy = np.fromiter((one for some in weights for one in some), np.float64, int(lengths.sum()))
        cells, place = np.unique(rows * max(old_size, 1) + ids, return_inverse=True)
        summed = np.bincount(place, heavy, len(cells)).astype(np.float64)
        rows, columns = cells // max(old_size, 1), cells % max(old_size, 1)
        counts = np.bincount(rows, minlength=len(lists))
        whole = np.bincount(rows, summed, len(lists)).astype(np.float64)
        summed = summed / whole[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(indptr, columns.astype(np.int32), summed, old_size)

    @property
    def size(self) -> int:
        """New tokens."""
        return len(self.indptr) - 1

    @property
    def empty(self) -> Ids:
        """The new ids that have no old pieces."""
        return np.flatnonzero(np.diff(self.indptr) == 0)

    @property
    def origins(self) -> Ids:
        """(new_size,): the old token that a new one is, -1 where it is none or more than one."""
        counts = np.diff(self.indptr)
        found = np.full(self.size, -1, np.int64)
        found[counts == 1] = self.indices[self.indptr[:-1][counts == 1]]
        return found

    def apply(self, read: Read, start: int, stop: int) -> Tensor:
        """(stop - start, d) in float64: the rows of new tokens start … stop - 1.

        read: old ids, distinct and rising -> their rows (ids, d), of any dtype. It is asked for what is needed, and
        for all rows where a token has no pieces; for `ROWS` at a time.
        """
        begin, end = self.indptr[start], self.indptr[stop]
        needed, local = np.unique(self.indices[begin:end], return_inverse=True)
        counts = np.diff(self.indptr[start : stop + 1])
        missing = torch.from_numpy(np.flatnonzero(counts == 0))
        if not len(needed):
            return self.mean(read).expand(stop - start, -1).clone()
        owners, made = np.repeat(np.arange(stop - start), counts), None
        for first in range(0, len(needed), ROWS):
            some = np.flatnonzero((local >= first) & (local < first + ROWS))
            summed = torch.nn.functional.embedding_bag(
                torch.from_numpy(local[some] - first),
                read(needed[first : first + ROWS].astype(np.int64)).double(),
                torch.from_numpy(np.searchsorted(owners[some], np.arange(stop - start + 1))),
                mode="sum",
                per_sample_weights=torch.from_numpy(self.weights[begin:end][some]),
                include_last_offset=True,
            )
            made = summed if made is None else made.add_(summed)
        assert made is not None
        if len(missing):
            made[missing] = self.mean(read)
        return made

    def mean(self, read: Read) -> Tensor:
        """(d,) in float64: the mean of all old rows."""
        total: Tensor | None = None
        for begin in range(0, self.old_size, ROWS):
            some = read(np.arange(begin, min(begin + ROWS, self.old_size))).double().sum(0)
            total = some if total is None else total + some
        assert total is not None
        return total / self.old_size


def pieces_of(old_tokenizer: Any, new_tokenizer: Any, *, weighting: Weighting = "mean") -> Pieces:
    """Every new token in old tokens. Tokenizers: transformers' fast ones, tokenizers.Tokenizer, folders, Vocabulary.

    mean: the old pieces weigh the same. weighted: a piece weighs as many bytes as it has without white space, and 0.1
    where it has none: long pieces say most. After Ruadapt (arXiv 2412.21140), whose code gives white space a tenth of
    the weight, and has exp(-k·i) by the piece's place i where we have the length.
    """
    old, new = Vocabulary.of(old_tokenizer), Vocabulary.of(new_tokenizer)
    lists: list[Sequence[int]] = [_same(old, new, place) for place in range(new.size)]
    open_ = [place for place in range(new.size) if not lists[place] and _has_text(new, place)]
    for place, found in zip(open_, _encoded(old, [new.content[place] for place in open_]), strict=True):
        lists[place] = found
    if weighting == "mean":
        return Pieces.of_lists(lists, [[1.0] * len(some) for some in lists], old.size)
    weigh = [max(float(len(content.strip())), LIGHT) for content in old.content]
    return Pieces.of_lists(lists, [[weigh[one] for one in some] for some in lists], old.size)


def overlap(old_tokenizer: Any, new_tokenizer: Any) -> tuple[Ids, Ids]:
    """(old ids, new ids) of the tokens that are in both: the same bytes and kind, or special and the same string."""
    old, new = Vocabulary.of(old_tokenizer), Vocabulary.of(new_tokenizer)
    both = sorted((new_id, old.ids[key]) for key, new_id in new.ids.items() if key in old.ids)
    found: dict[int, int] = {}
    for new_id, old_id in both:
        found.setdefault(new_id, old_id)
    return np.array(list(found.values()), np.int64), np.array(list(found), np.int64)


def _has_text(vocabulary: Vocabulary, place: int) -> bool:
    kind = vocabulary.kinds[place]
    return bool(kind in (ORDINARY, BYTE) or (kind == SPECIAL and vocabulary.names[place] in vocabulary.texts))


def _same(old: Vocabulary, new: Vocabulary, place: int) -> list[int]:
    """The old token that a new one is, as a list; empty where there is none."""
    kind, content = int(new.kinds[place]), new.content[place]
    if kind == HOLE:
        return []
    if place < old.size and (old.names[place], old.kinds[place], old.content[place]) == (
        new.names[place],
        kind,
        content,
    ):
        return [place]  # two tokens may have the same bytes
    if kind == SPECIAL:
        kinds: tuple[int, ...] = (SPECIAL, ORDINARY) if new.names[place] in new.texts else (SPECIAL,)
    else:
        kinds = (kind, BYTE if kind == ORDINARY else ORDINARY)
    return next(([old.ids[key]] for one in kinds if (key := (one, content)) in old.ids), [])


def _encoded(old: Vocabulary, contents: Sequence[bytes]) -> list[list[int]]:
    """The old tokens of each of some bytes."""
    encoder = old.encoder()
    whole = [place for place, content in enumerate(contents) if forms.is_text(content)]
    made: list[list[int]] = [[] for _ in contents]
    texts = [old.spelled(contents[place].decode()) for place in whole]
    for place, encoding in zip(whole, encoder.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        made[place] = [one for one in encoding.ids if one != old.unknown]
    for place, content in enumerate(contents):
        if not made[place]:
            made[place] = _of_bytes(old, encoder, content)
    return made


def _of_bytes(old: Vocabulary, encoder: Tokenizer, content: bytes) -> list[int]:
    """The old tokens of bytes that are no text alone: by the merges, or text by text and byte by byte."""
    if old.form == "byte-level":
        characters = "".join(forms.byte_characters()[byte] for byte in content)
        return [token.id for token in encoder.model.tokenize(characters) if token.id != old.unknown]
    found: list[int] = []
    for run in forms.runs(content):
        if isinstance(run, str):
            encoding = encoder.encode(old.spelled(run), add_special_tokens=False)
            found += [one for one in encoding.ids if one != old.unknown]
        elif (one := old.ids.get((BYTE, bytes([run])))) is not None:
            found.append(one)
    return found
