"""Which tensors of a model are its embeddings and its head, by their names.

names_of(weights, checkpoint.config)   # Embeddings(input="model.embed_tokens.weight", output=None): tied
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from estbench.errors import ModelError
from estbench_training.weights.reading import Weights

INPUTS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
OUTPUTS = ("lm_head.weight", "embed_out.weight")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Names of the two matrices whose rows are tokens. output: None where the head is tied and not stored."""

    input: str
    output: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are stored."""
        return (self.input,) if self.output is None else (self.input, self.output)


def names_of(weights: Weights | Iterable[str], config: Mapping[str, Any]) -> Embeddings:
    """The embeddings among the tensors of a model; ModelError where they can't be told."""
    names = list(weights.tensors) if isinstance(weights, Weights) else list(weights)
    where = str(weights.folder) if isinstance(weights, Weights) else "The model"
    inputs, outputs = _ending(names, INPUTS), _ending(names, OUTPUTS)
    if len(inputs) != 1:
        said = f"{len(inputs)} of them: {', '.join(inputs)}" if inputs else f"no tensor ends in {', '.join(INPUTS)}"
        raise ModelError(f"{where}: its embeddings can't be told by their name, there is {said}.")
    if len(outputs) > 1:
        raise ModelError(f"{where}: its head can't be told by its name, there are {', '.join(outputs)}.")
    if not outputs and is_tied(config) is False:
        raise ModelError(f"{where} has no head, though config.json says that it isn't tied: copy the checkpoint again.")
    return Embeddings(inputs[0], outputs[0] if outputs else None)


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """What config.json says of the head, outside or inside of text_config; None where it says nothing."""
    for part in (config, config.get("text_config") or {}):
        if isinstance(part.get("tie_word_embeddings"), bool):
            return bool(part["tie_word_embeddings"])
    return None


def _ending(names: Iterable[str], endings: Iterable[str]) -> list[str]:
    return [name for name in names if any(name == end or name.endswith(f".{end}") for end in endings)]
