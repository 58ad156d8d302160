"""Models that are to be merged, opened, and refused unless they fit together: one line that names the tensor.

with opened({"into": checkpoint, "base": …, "instruct": …}) as models:
    check(models, exempt=set())
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from estbench.checkpoint import Checkpoint
from estbench.errors import ModelError
from estbench_training.kinds import Say
from estbench_training.merge.stream import cut
from estbench_training.weights import FLOATS, Embeddings, TensorInfo, Weights, names_of
from estbench_training.weights.embeddings import is_tied

ROWS_CURE = "embeddings=by_token (chat_vector) matches rows by their tokens, embeddings=skip leaves them as they are"
COMPUTED = ".rotary_emb.inv_freq"  # older Llamas stored it; it is made from config.json, and what is stored is not read
SAID = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "vocab_size")


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is merged. tensors: without a head that only repeats the embeddings it is tied to."""

    name: str  # as the user calls it
    checkpoint: Checkpoint
    weights: Weights
    tensors: Mapping[str, TensorInfo]
    embeddings: Embeddings

    @property
    def by_tokens(self) -> tuple[str, ...]:
        """The tensors whose rows are tokens: the embeddings, the head and its bias, as far as they are stored."""
        head = self.embeddings.output
        bias = f"{head.removesuffix('weight')}bias" if head else ""
        return (*self.embeddings.names, bias) if bias in self.tensors else self.embeddings.names


@contextlib.contextmanager
def opened(checkpoints: Sequence[Checkpoint]) -> Iterator[list[Model]]:
    """The models, in order; their files are closed afterwards."""
    with contextlib.ExitStack() as stack:
        yield [_model(checkpoint, stack.enter_context(Weights.open(checkpoint))) for checkpoint in checkpoints]


def _model(checkpoint: Checkpoint, weights: Weights) -> Model:
    found = names_of(weights, checkpoint.config)
    tensors = {name: info for name, info in weights.tensors.items() if not name.endswith(COMPUTED)}
    _check_not_quantised(checkpoint, tensors)
    if found.output is not None and is_tied(checkpoint.config):
        if not _equal(weights, found.input, weights, found.output):
            raise ModelError(
                f"{checkpoint.name}: config.json ties the head to the embeddings, but {found.output} differs from "
                f"{found.input}: set tie_word_embeddings to false, or save the model again."
            )
        del tensors[found.output]
        found = Embeddings(found.input, None)
    return Model(checkpoint.name, checkpoint, weights, tensors, found)


def _check_not_quantised(checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo]) -> None:
    odd = [name for name, info in tensors.items() if info.torch.is_floating_point and info.dtype not in FLOATS]
    if odd or checkpoint.config.get("quantization_config"):
        why = f"{odd[0]} is {tensors[odd[0]].dtype}" if odd else "config.json has a quantization_config"
        raise ModelError(f"{checkpoint.name} is quantised ({why}): merge the model that it was made of.")


def check(models: Sequence[Model], exempt: Collection[str], cure: str, say: Say) -> None:
    """Refuse models whose type, tensors or shapes differ from the first one's. exempt: tensors whose number of rows may
    differ. cure: what to do where there are more tokens in one than in the other. ModelError names the tensor, both
    models and both shapes. Differences of configurations are said."""
    first = models[0]
    for other in models[1:]:
        _check_type(first, other)
        _check_names(first, other)
        for name in first.tensors:
            _check_tensor(first, other, name, name in exempt, cure)
        differ = _differing(first, other)
        if differ:
            say(f"{other.name} and {first.name} differ in {', '.join(differ)} of config.json: {first.name}'s stay.")


def _check_type(first: Model, other: Model) -> None:
    kinds = [model.checkpoint.config.get("model_type") for model in (first, other)]
    if kinds[0] != kinds[1]:
        raise ModelError(f"{other.name} is a {kinds[1]} and {first.name} a {kinds[0]}: only models of one kind merge.")


def _check_names(first: Model, other: Model) -> None:
    for one, two in ((first, other), (other, first)):
        if lacking := [name for name in one.tensors if name not in two.tensors]:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            cure = "they are not of one family"
            if lacking[0] == one.embeddings.output:
                cure = f"{two.name}'s head is tied to its embeddings, {one.name}'s is not: save both alike"
            raise ModelError(f"{two.name} lacks {lacking[0]}{more}, which {one.name} has: {cure}.")


def _check_tensor(first: Model, other: Model, name: str, rows_may_differ: bool, cure: str) -> None:
    one, two = first.tensors[name], other.tensors[name]
    shapes = (one.shape[1:], two.shape[1:]) if rows_may_differ else (one.shape, two.shape)
    if shapes[0] != shapes[1] or len(one.shape) != len(two.shape):
        if name not in first.by_tokens or one.shape[1:] != two.shape[1:]:
            cure = "they are not of one size"
        raise ModelError(f"{name} is {list(two.shape)} in {other.name} and {list(one.shape)} in {first.name}: {cure}.")
    if one.torch.is_floating_point != two.torch.is_floating_point:
        raise ModelError(f"{name} is {two.dtype} in {other.name} and {one.dtype} in {first.name}: save both alike.")
    if not one.torch.is_floating_point and not _equal(first.weights, name, other.weights, name):
        raise ModelError(f"{name} holds whole numbers ({one.dtype}) that differ in {other.name} and {first.name}.")


def _differing(first: Model, other: Model) -> list[str]:
    """Keys of the two configurations that have other values, but for those that say nothing of the arithmetic."""
    one, two = (_spelt_alike(model.checkpoint.config) for model in (first, other))
    keys = sorted(key for key in one.keys() | two.keys() if key not in SAID and not key.endswith("_token_id"))
    return [key for key in keys if (one.get(key) or None) != (two.get(key) or None)]  # left out is off


def _spelt_alike(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, in the words of transformers 5 where version 4 had others or left things out."""
    found = dict(config)
    rope = {"rope_theta": found.pop("rope_theta", None), **(found.pop("rope_scaling", None) or {})}
    rope |= found.get("rope_parameters") or {}
    rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type") or "default"
    found["rope_parameters"] = {key: value for key, value in rope.items() if value is not None}
    heads, width = found.get("num_attention_heads"), found.get("hidden_size")
    if not found.get("head_dim") and isinstance(heads, int) and isinstance(width, int) and heads:
        found["head_dim"] = width // heads
    return found


def _equal(one: Weights, name: str, two: Weights, other: str) -> bool:
    """Whether two tensors are the same, bit for bit."""
    info = one.tensors[name]
    return info == two.tensors[other] and all(
        torch.equal(one.read_flat(name, *span).view(torch.uint8), two.read_flat(other, *span).view(torch.uint8))
        for span in cut(info)
    )
