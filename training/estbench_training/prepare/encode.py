"""Texts into token ids, as fast as the tokenizer's library gives them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from estbench.errors import ModelError
from estbench_training.prepare.duplicates import KEPT, Flags
from estbench_training.prepare.pieces import Piece
from estbench_training.shards import Numbers, Tokens, tokenizer_hash

PROBE = "a"


@dataclass(frozen=True)
class Frame:
    """A tokenizer for another process, and what stands around a document's own tokens."""

    tokenizer: str  # JSON of the library's own form
    prefix: tuple[int, ...]  # what the tokenizer puts in front by itself: the BOS, or nothing
    eos: int


def frame_of(tokenizer: Any, shown: str) -> Frame:
    """Of a loaded fast tokenizer. ModelError if it has no EOS: documents would run into one another."""
    if tokenizer.eos_token_id is None:
        raise ModelError(f"The tokenizer of {shown} has no EOS token: set eos_token in its tokenizer_config.json.")
    plain = tokenizer(PROBE, add_special_tokens=False).input_ids
    special = tokenizer(PROBE).input_ids
    at = next((i for i in range(len(special)) if special[i : i + len(plain)] == plain), 0)
    return Frame(tokenizer.backend_tokenizer.to_str(), tuple(special[:at]), int(tokenizer.eos_token_id))


def describe(tokenizer: Any, frame: Frame, shown: str) -> dict[str, Any]:
    """What the manifest says of a tokenizer."""
    return {
        "hash": tokenizer_hash(tokenizer),
        "name": shown,
        "vocab_size": len(tokenizer),
        "bos": frame.prefix[0] if frame.prefix else None,
        "eos": frame.eos,
    }


class Encoder:
    """Tokenises documents: what the tokenizer puts in front, the text's own tokens, the EOS.

    The names of special tokens in a text are text: a page on tokenizers can't end a document.
    """

    def __init__(self, frame: Frame) -> None:
        from tokenizers import Tokenizer

        self.prefix, self.eos = array("I", frame.prefix), frame.eos
        self.backend = Tokenizer.from_str(frame.tokenizer)
        self.backend.encode_special_tokens = True
        self.backend.no_truncation()
        self.backend.no_padding()

    def __call__(self, texts: Sequence[str]) -> tuple[Tokens, Numbers]:
        """(tokens of all, one document after another, uint32; the length of each, int64)."""
        found = array("I")
        lengths = []
        for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False):
            ids = encoding.ids
            ids.append(self.eos)
            found.extend(self.prefix)
            found.fromlist(ids)
            lengths.append(len(self.prefix) + len(ids))
        return np.frombuffer(found, np.uint32), np.array(lengths, np.int64)


def kept(pieces: Sequence[Piece], flags: Flags, skip: int) -> Iterator[list[str]]:
    """The texts that are no duplicates, some at once, without the first `skip`; flags: of these pieces' documents."""
    begin = 0
    for piece in pieces:
        stays = flags[begin : begin + piece.documents] == KEPT
        begin += piece.documents
        left = int(stays.sum())
        if skip >= left:
            skip -= left
            continue
        at = 0
        for texts in piece.texts():
            some = [text for text, stay in zip(texts, stays[at : at + len(texts)].tolist(), strict=True) if stay]
            at += len(texts)
            dropped = min(skip, len(some))
            skip -= dropped
            if some[dropped:]:
                yield some[dropped:]
