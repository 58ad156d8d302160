"""The three models of LEP, opened and held against each other before anything is computed.

with opened(source, target, donor) as roles:        # folders; ModelError, one line, where they don't fit
    roles.donor.rows("input")(np.array([3, 17]))    # (2, d) rows of its embeddings, as they are stored
    roles.special                                   # (ids in the new vocabulary, ids in the target's)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estbench.checkpoint import Checkpoint, find
from estbench.errors import ModelError
from estbench_training.vocab.files import vocabulary
from estbench_training.vocab.forms import SPECIAL, Vocabulary
from estbench_training.vocab.resize import matrices
from estbench_training.weights import FLOATS, Embeddings, Weights, check_finite, gather, names_of
from estbench_training.weights.embeddings import is_tied

Ids = NDArray[np.int64]
Read = Callable[[Ids], Tensor]
Part = Literal["input", "output"]
SHOWN = 5  # names in a complaint


@dataclass(frozen=True)
class Model:
    """One of the three. tied: its head is its embeddings, whether or not a copy of them is stored as a head."""

    role: str
    checkpoint: Checkpoint
    weights: Weights
    vocabulary: Vocabulary
    names: Embeddings
    tied: bool

    @classmethod
    def open(cls, role: str, folder: Path) -> Model:
        """ModelError for a checkpoint that isn't whole, whose embeddings can't be told, or that lacks rows."""
        checkpoint = find(str(folder), fetch=False)
        weights = Weights.open(checkpoint)
        names = names_of(weights, checkpoint.config)
        tied = names.output is None or is_tied(checkpoint.config) is True
        made = cls(role, checkpoint, weights, vocabulary(checkpoint), names, tied)
        sized = matrices(weights, checkpoint.config, made.vocabulary.size)
        if bias := [name for name in sized if name not in names.names]:
            raise ModelError(f"{folder}: {bias[0]} is a bias of its own for each token, which is not carried over.")
        for name, info in weights.tensors.items():
            if info.torch.is_floating_point and info.dtype not in FLOATS:
                raise ModelError(f"{folder}: {name} is {info.dtype}: take the model that is not quantised.")
        return made

    @property
    def parts(self) -> dict[Part, str]:
        """The names of its matrices of tokens: of the input, and of the head where it has its own."""
        if self.tied or self.names.output is None:
            return {"input": self.names.input}
        return {"input": self.names.input, "output": self.names.output}

    @property
    def width(self) -> int:
        """Numbers in a row of its embeddings."""
        return self.weights.tensors[self.names.input].shape[1]

    def row_count(self, part: Part) -> int:
        """Rows of a matrix, those that are no token's, too."""
        return self.weights.tensors[self.parts[part]].shape[0]

    def rows(self, part: Part) -> Read:
        """A function from ids, in any order, to their rows; ModelError for a row with a number that is none."""
        name = self.parts[part]

        def read(ids: Ids) -> Tensor:
            wanted, place = np.unique(ids, return_inverse=True)
            found = gather(self.weights, name, wanted)
            check_finite(found, f"{self.weights.file_of(name)}: {name}", wanted)
            return found[torch.from_numpy(place)]

        return read


@dataclass(frozen=True)
class Roles:
    """Source, target and donor, that fit each other."""

    source: Model
    target: Model
    donor: Model

    @property
    def parts(self) -> tuple[Part, ...]:
        """The matrices of tokens that each has."""
        return tuple(self.target.parts)

    @cached_property
    def same_vocabulary(self) -> bool:
        """Whether the donor's vocabulary is that of the others."""
        return self.donor.vocabulary.names == self.source.vocabulary.names and all(
            self.donor.row_count(part) == self.source.row_count(part) == self.target.row_count(part)
            for part in self.parts
        )

    @cached_property
    def special(self) -> tuple[Ids, Ids]:
        """(ids in the donor's vocabulary, rising; ids in the target's) of the target's added tokens, by their string.

        ModelError if the donor's vocabulary lacks one that is special; one that is only text may be missing.
        """
        new, old = self.donor.vocabulary.specials, self.target.vocabulary.specials
        missing = [text for text in old if text not in new and text not in self.target.vocabulary.texts]
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise ModelError(
                f"The vocabulary of the donor {self.donor.checkpoint.path} lacks special tokens of the target: "
                f"{', '.join(missing[:SHOWN])}{more}. Make the donor's vocabulary of one that has them."
            )
        both = sorted((new[text], place) for text, place in old.items() if text in new)
        found = np.array(both, np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]


@contextlib.contextmanager
def opened(source: Path, target: Path, donor: Path) -> Iterator[Roles]:
    """The three, open as long as it takes. ModelError where one is broken, or where they don't fit."""
    with contextlib.ExitStack() as stack:
        found = []
        for role, folder in (("source", source), ("target", target), ("donor", donor)):
            found.append(Model.open(role, folder))
            stack.enter_context(found[-1].weights)
        roles = Roles(*found)
        _check_kinds(roles)
        _check_heads(roles)
        _check_widths(roles)
        _check_vocabularies(roles.source, roles.target)
        roles.special  # noqa: B018  which complains
        yield roles


def _check_kinds(roles: Roles) -> None:
    target = roles.target.checkpoint.config.get("model_type")
    for model in (roles.source, roles.donor):
        kind = model.checkpoint.config.get("model_type")
        if kind != target:
            raise ModelError(
                f"The {model.role} is a {kind} and the target a {target}: these are no siblings, and nothing can be "
                "carried over."
            )


def _check_heads(roles: Roles) -> None:
    models = (roles.source, roles.target, roles.donor)
    if len({model.tied for model in models}) > 1:
        said = ", ".join(f"{'tied' if model.tied else 'its own'} in the {model.role}" for model in models)
        raise ModelError(f"The head is {said}: all three have to have it in the same way.")


def _check_widths(roles: Roles) -> None:
    for model in (roles.source, roles.donor):
        for part in roles.parts:
            name = model.parts[part]
            width, expected = (one.weights.tensors[one.parts[part]].shape[1] for one in (model, roles.target))
            if width != expected:
                raise ModelError(
                    f"{name} has {width:,} columns in the {model.role} and {expected:,} in the target: these are no "
                    "siblings, and nothing can be carried over."
                )


def _check_vocabularies(source: Model, target: Model) -> None:
    """Every token of the source is the target's of the same id; the target may have added some."""
    old, new = source.vocabulary, target.vocabulary
    for place in range(max(old.size, new.size)):
        one, other = (v.names[place] if place < v.size else None for v in (old, new))
        if one != other and not (one is None and new.kinds[place] == SPECIAL):
            cure = "The source has to be what the target was trained from."
            if one in old.specials and other in new.specials and one not in new.specials and other not in old.specials:
                cure = "Give it that name in copies of source and donor (tokenizer.json, tokenizer_config.json)."
            raise ModelError(
                f"Source and target have other tokenizers: token {place:,} is {one!r} in {source.checkpoint.path} and "
                f"{other!r} in {target.checkpoint.path}. {cure}"
            )
