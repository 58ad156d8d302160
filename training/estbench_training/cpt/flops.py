"""How much arithmetic a model takes, by its config: parameters, FLOPs per token, share of the hardware's peak.

FLOPs per token of forward and backward = 6 (N - embeddings) + 12 L d S: 2 a weight and token forward and twice that
backward, and attention over S positions, not halved for causality (Chowdhery et al. 2022, PaLM, arXiv 2204.02311,
appendix B; torchtitan counts so, too). MFU is that, a second, over the peak; HFU adds what activation checkpointing
computes a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from estbench.errors import ModelError

Checkpointing = Literal["none", "full", "selective"]

GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")  # three MLP matrices
UNGATED = ("apertus",)  # two
HEAD_NORMS = ("qwen3", "apertus", "gemma3_text")  # RMSNorm over a head's width on queries and on keys
FOUR_NORMS = ("gemma2", "gemma3_text")  # before and after attention and MLP


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with grouped-query attention."""

    kind: str  # config.model_type
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool  # the output layer is the embeddings
    bias: bool = False  # on queries, keys and values

    @property
    def embeddings(self) -> int:
        """Parameters of the input embeddings."""
        return self.vocab * self.hidden

    @property
    def layer_weights(self) -> int:
        """Parameters of the matrices of one layer."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return attention + self.hidden * self.intermediate * (2 if self.kind in UNGATED else 3)

    @property
    def parameters(self) -> int:
        """All parameters."""
        norms = (4 if self.kind in FOUR_NORMS else 2) * self.hidden
        norms += 2 * self.head_dim if self.kind in HEAD_NORMS else 0
        norms += 2 if self.kind == "apertus" else 0  # xIELU's two scalars
        bias = self.head_dim * (self.heads + 2 * self.kv_heads) if self.bias else 0
        head = 0 if self.tied else self.embeddings
        return self.embeddings + head + self.layers * (self.layer_weights + norms + bias) + self.hidden


def shape(config: Any) -> Shape:
    """The shape of a config.json (a Mapping) or of a transformers config; ModelError for one of another build."""
    row: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    row = {**row, **row["text_config"]} if isinstance(row.get("text_config"), Mapping) else row
    kind = str(row.get("model_type"))
    if kind not in (*GATED, *UNGATED):
        known = ", ".join((*GATED, *UNGATED))
        raise ModelError(f"How much arithmetic a model of type {kind!r} takes is not known here. Known: {known}.")
    try:
        heads, hidden = int(row["num_attention_heads"]), int(row["hidden_size"])
        return Shape(
            kind=kind,
            layers=int(row["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(row.get("num_key_value_heads") or heads),
            head_dim=int(row.get("head_dim") or hidden // heads),
            intermediate=int(row["intermediate_size"]),
            vocab=int(row["vocab_size"]),
            tied=bool(row.get("tie_word_embeddings", kind.startswith("gemma"))),
            bias=bool(row.get("attention_bias", kind == "qwen2")),
        )
    except KeyError as error:
        raise ModelError(f"config.json of a {kind} model lacks {error.args[0]!r}.") from None


def params(config: Any) -> int:
    """Parameters of the model of a config."""
    return _shape(config).parameters


def per_token(config: Any, sequence: int, *, trained: float = 1.0) -> float:
    """FLOPs per token of forward and backward at a sequence length.

    Args:
        config: config.json, a transformers config, or a Shape.
        sequence: tokens of a sequence, S.
        trained: share of the weights that have a gradient; of the others the backward pass computes only the
            gradient of what comes in (2 of the 4 FLOPs).
    """
    size = _shape(config)
    multiplied = size.parameters - (0 if size.tied else size.embeddings)  # looking up a row is no arithmetic
    attention = 12 * size.layers * size.heads * size.head_dim * sequence
    return (4 + 2 * trained) * multiplied + attention


def recomputed(checkpointing: Checkpointing) -> float:
    """What activation checkpointing multiplies the arithmetic by: `full` repeats the forward pass, a third of all;
    `selective` repeats it for every second layer."""
    return {"none": 1.0, "selective": 7 / 6, "full": 4 / 3}[checkpointing]


def mfu(tokens_per_second: float, config: Any, sequence: int, peak: float) -> float:
    """Model FLOPs utilisation: share of `peak` (FLOP/s of a GPU) that `tokens_per_second` (of a GPU) are."""
    return tokens_per_second * per_token(config, sequence) / peak


def hfu(
    tokens_per_second: float, config: Any, sequence: int, peak: float, checkpointing: Checkpointing = "none"
) -> float:
    """Hardware FLOPs utilisation: MFU with what is computed twice."""
    return mfu(tokens_per_second, config, sequence, peak) * recomputed(checkpointing)


def _shape(config: Any) -> Shape:
    return config if isinstance(config, Shape) else shape(config)
