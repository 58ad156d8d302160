"""Whose row of the embeddings a token is: vocabularies compared, and matched by their tokens.

    one, two = Tokens.of(checkpoint), Tokens.of(other)
    difference(one, two)        # "token 7 is '<a>' in … and '<b>' in …", or None
    rows = chat_rows(into, base, chat, (32000, 32000, 32002), "by_token", special=True)

The chat template is no part of a vocabulary. Of special tokens only the name and number count, not the flags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.checkpoint import Checkpoint, read_json
from estbench.errors import ModelError
from estbench_training.merge.alike import ROWS_CURE
from estbench_training.merge.settings import Rows
from estbench_training.vocab.forms import Form, form_of, has_byte_tokens, meaning, model_vocabulary

CUTTING = ("normalizer", "pre_tokenizer")  # parts of tokenizer.json
OWN = ("bos_token", "eos_token", "unk_token", "pad_token")  # what a model makes text with


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, as tokenizer.json and tokenizer_config.json have it."""

    name: str  # of its model
    numbers: Mapping[str, int]  # token -> its number, added ones included
    added: Mapping[str, Mapping[str, Any]]  # added tokens, as tokenizer.json has them
    merges: tuple[str, ...]
    scores: tuple[float, ...]  # of Unigram's pieces
    cutting: Mapping[str, Any]  # how text is normalised and cut before it is looked up
    own: frozenset[str]  # bos, eos, unk and pad
    form: tuple[Form, str, bool]  # how tokens are spelt: `form_of`, and whether <0xE4> is a byte

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Tokens:
        """The vocabulary of a checkpoint; ModelError where it has no tokenizer.json."""
        path = checkpoint.path / "tokenizer.json"
        if not path.exists():
            raise ModelError(
                f"{checkpoint.name} has no tokenizer.json: save its tokenizer with transformers, then merge."
            )
        try:
            row = json.loads(path.read_text("utf-8"))
            vocab, numbers = row["model"]["vocab"], model_vocabulary(row)
            scores = () if isinstance(vocab, dict) else tuple(float(score) for _, score in vocab)
            cutting = {name: row.get(name) for name in CUTTING}
            added = {entry["content"]: entry for entry in row.get("added_tokens") or ()}
            merges = row["model"].get("merges") or ()
            numbers = {token: int(number) for token, number in numbers.items()}
            numbers |= {token: int(entry["id"]) for token, entry in added.items()}
            form = (*form_of(row), has_byte_tokens(row))
        except (AttributeError, ValueError, KeyError, TypeError, OSError) as error:
            raise ModelError(f"{path} is no tokenizer ({' '.join(str(error).split())}): copy it again.") from None
        merged = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)
        own = _own(checkpoint, numbers)
        return cls(checkpoint.name, numbers, added, merged, scores, cutting, own, form)

    @property
    def special(self) -> list[str]:
        """The added tokens that are special."""
        return [token for token, entry in self.added.items() if entry.get("special")]

    def text(self, token: str) -> str:
        """What a token stands for, in quotes; its name where that is half a letter."""
        try:
            return repr(token if token in self.added else meaning(token, *self.form)[0].decode())
        except UnicodeDecodeError:
            return repr(token)


def _own(checkpoint: Checkpoint, numbers: Mapping[str, int]) -> frozenset[str]:
    """bos, eos, unk and pad, as the tokenizer's and the model's configurations have them."""
    path = checkpoint.path / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    found = {text_of(config.get(name)) for name in OWN}
    named = {number: token for token, number in numbers.items()}
    for name in OWN:
        number = checkpoint.config.get(f"{name}_id")
        found |= {named.get(one) for one in (number if isinstance(number, list) else [number]) if isinstance(one, int)}
    return frozenset(token for token in found if token)


def text_of(token: object) -> str | None:
    """A token of tokenizer_config.json, which is a text or an object that holds one."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def difference(one: Tokens, two: Tokens) -> str | None:
    """The first thing in which two tokenizers differ, in words; None where they make the same numbers."""
    if one.numbers != two.numbers:
        named = [{number: token for token, number in each.numbers.items()} for each in (one, two)]
        first = min(n for n in named[0].keys() | named[1].keys() if named[0].get(n) != named[1].get(n))
        names = [each.get(first) for each in named]
        said = ["none" if name is None else each.text(name) for each, name in zip((one, two), names, strict=True)]
        if said[0] == said[1]:  # one text, spelt in two ways
            said = [repr(name) for name in names]
        return f"token {first} is {said[0]} in {one.name} and {said[1]} in {two.name}"
    if one.merges != two.merges:
        at = next((n for n, (a, b) in enumerate(zip(one.merges, two.merges, strict=False)) if a != b), -1)
        where = f"merge {at} is {one.merges[at]!r} and {two.merges[at]!r}" if at >= 0 else "one has more merges"
        return f"{where} in {one.name} and {two.name}"
    if one.scores != two.scores:
        at = next(n for n, (a, b) in enumerate(zip(one.scores, two.scores, strict=True)) if a != b)
        return f"token {at} has the score {one.scores[at]:g} in {one.name} and {two.scores[at]:g} in {two.name}"
    return None


def cut_otherwise(one: Tokens, two: Tokens) -> list[str]:
    """The parts of tokenizer.json by which one of two tokenizers might cut text otherwise. Libraries write them in
    more than one way, so that a difference need not mean anything."""
    return [name for name in CUTTING if one.cutting[name] != two.cutting[name]]


@dataclass(frozen=True)
class TokenRows:
    """Where each row of the merged matrices comes from. A row: −1 where there is none."""

    base: NDArray[np.int64]  # (rows,): the base's row that is taken away
    chat: NDArray[np.int64]  # (rows,): the chat model's row that is added
    chats: NDArray[np.bool_]  # (rows,): the row is the chat model's, as it is
    appended: Mapping[str, int]  # tokens that `into` lacks -> their numbers


def chat_rows(
    into: Tokens,
    base: Tokens,
    chat: Tokens,
    counts: tuple[int, int, int],
    embeddings: Rows,
    *,
    special: bool,
) -> TokenRows:
    """The rows of a chat vector's embeddings. counts: rows of the matrices of the three models.

    special: rows of the chat model's special tokens, but for those that `into` itself makes text with, are the chat
    model's. ModelError where the vocabularies have to be the same and are not.
    """
    if embeddings == "add":
        for other in (base, chat):
            if found := difference(into, other):
                raise ModelError(f"The tokenizers differ: {found}. {ROWS_CURE}.")
    for vocabulary, rows in zip((into, base, chat), counts, strict=True):
        if (last := max(vocabulary.numbers.values(), default=0)) >= rows:
            raise ModelError(
                f"{vocabulary.name} has a token {last}, and embeddings of {rows} rows: save the model again."
            )
    appended = _appended(into, chat, embeddings) if special else {}
    count = max([counts[0], *(number + 1 for number in appended.values())])
    places = np.arange(count)
    same, none = np.where(places < counts[0], places, -1), np.full(count, -1)
    base_rows, chat_of = (same.copy(), same.copy()) if embeddings == "add" else (none.copy(), none.copy())
    if embeddings == "by_token":
        for token, number in into.numbers.items():
            if token in base.numbers and token in chat.numbers:
                base_rows[number], chat_of[number] = base.numbers[token], chat.numbers[token]
    chats = np.zeros(count, bool)
    numbers = {**into.numbers, **appended}
    for token in [*chat.special, *appended] if special else ():
        if token in numbers and token not in into.own:
            number = numbers[token]
            base_rows[number], chat_of[number], chats[number] = -1, chat.numbers[token], True
    return TokenRows(base_rows, chat_of, chats, appended)


def _appended(into: Tokens, chat: Tokens, embeddings: Rows) -> dict[str, int]:
    """The chat model's added tokens that `into` lacks, in their order, with new numbers."""
    if embeddings == "add":
        return {}
    fresh = [token for token in chat.added if token not in into.numbers]
    first = max(into.numbers.values(), default=-1) + 1
    return {token: first + at for at, token in enumerate(sorted(fresh, key=lambda token: chat.numbers[token]))}
