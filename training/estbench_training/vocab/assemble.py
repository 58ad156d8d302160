"""A tokenizer.json put together anew: the old one's normaliser, splitting, decoder and special tokens around another
model.

    adapted = assemble(old, names, origins, Bpe(merges))
    adapted.tokenizer()         # tokenizers.Tokenizer
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from estbench.errors import ModelError
from estbench_training.vocab.forms import Vocabulary, has_byte_tokens, model_vocabulary, parts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Merge = tuple[str, str]


@dataclass(frozen=True)
class Bpe:
    """A BPE model's merges, first ones first."""

    merges: Sequence[Merge]


@dataclass(frozen=True)
class Unigram:
    """A Unigram model's log-probabilities by token. others: of tokens that have none (special ones and bytes)."""

    scores: Mapping[str, float]
    others: float


@dataclass(frozen=True)
class Adapted:
    """A new vocabulary. origins (size,): the old id of a token that has all of its row from there, else -1."""

    row: Mapping[str, Any]  # tokenizer.json
    origins: NDArray[np.int64]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(json.dumps(self.row))

    def vocabulary(self) -> Vocabulary:
        """Its tokens."""
        return Vocabulary.of_row(self.row)


def assemble(old: Vocabulary, names: Sequence[str | None], origins: Sequence[int], model: Bpe | Unigram) -> Adapted:
    """names: of the new tokens by id, None where there is none; all that are `named` in the old vocabulary are there.

    Added tokens at the end that the old model didn't know stay outside of the new one, as the library would number
    them in the same way; others have to be inside.
    """
    ids = {name: place for place, name in enumerate(names) if name is not None}
    known, inside = model_vocabulary(old.row), len(names)
    while inside and names[inside - 1] in old.specials and names[inside - 1] not in known:
        inside -= 1
    row = copy.deepcopy(dict(old.row)) | {"truncation": None, "padding": None}
    row["model"] = _model(old, names[:inside], model)
    for token in row["added_tokens"]:
        token["id"] = ids[token["content"]]
    row["added_tokens"].sort(key=lambda token: token["id"])
    _renumber(row.get("post_processor"), ids)
    return Adapted(row, np.asarray(origins, np.int64))


def _model(old: Vocabulary, names: Sequence[str | None], model: Bpe | Unigram) -> dict[str, Any]:
    before = old.row["model"]
    unknown = None if old.unknown is None else old.names[old.unknown]
    if isinstance(model, Unigram):
        if unknown is None and has_byte_tokens(old.row):  # Unigram wants one, though bytes say all that is not known
            unknown = next((name for name in names if name in old.specials), "<0x00>")
        return {
            "type": "Unigram",
            "unk_id": None if unknown is None else names.index(unknown),
            "vocab": [[name, model.scores.get(str(name), model.others)] for name in names],
            "byte_fallback": has_byte_tokens(old.row),
        }
    if before["type"] != "BPE":
        before = {"type": "BPE", "unk_token": unknown, "fuse_unk": True, "byte_fallback": has_byte_tokens(old.row)}
        before |= dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    vocabulary = {name: place for place, name in enumerate(names) if name is not None}
    return {**before, "vocab": vocabulary, "merges": [list(merge) for merge in model.merges]}


def _renumber(processor: Any, ids: Mapping[str, int]) -> None:
    """The ids of what is put around texts, by name."""
    for part in parts(processor):
        if part["type"] == "TemplateProcessing":
            for token in part["special_tokens"].values():
                token["ids"] = [ids[name] for name in token["tokens"]]
        for end in ("sep", "cls"):
            if isinstance(part.get(end), list):
                part[end][1] = ids[part[end][0]]


def check(old: Vocabulary) -> None:
    """ModelError for a tokenizer whose vocabulary can't be changed here."""
    model = old.row["model"]
    if model["type"] not in ("BPE", "Unigram"):
        raise ModelError(f"The model's tokenizer is {model['type']}: vocabularies of BPE and Unigram can be changed.")
    byte_level = [part for part in parts(old.row.get("pre_tokenizer")) if part["type"] == "ByteLevel"]
    if old.form == "byte-level" and not byte_level:
        raise ModelError(
            "The model's tokenizer makes bytes elsewhere than in its pre_tokenizer: that is not known here."
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ModelError("The model's tokenizer marks parts or ends of words, as CLIP's does: that is not known here.")
