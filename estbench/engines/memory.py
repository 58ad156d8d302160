"""What a model needs beside its weights, and how large packs may be: a function of the model and the device alone.

Free memory is never asked: it differs from run to run, and packs (so the last bits of scores) would differ with it.
Where the estimate is wrong, a pack that does not fit is halved and the store notes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from estbench.engines.base import Packing

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SHARE = 0.4  # of the memory that the weights leave; the rest is for what the allocator loses and attention's masks
CPU = Packing(nodes=2048, rows=32, tokens=8192)
LEAST, MOST = Packing(nodes=256, rows=8, tokens=2048), Packing(nodes=8192, rows=256, tokens=1 << 18)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that is about the language model."""
    return config.get("text_config") or config


def kv_bytes(config: Mapping[str, Any], size: int) -> int:
    """Bytes of keys and values that a token leaves behind; `size`: bytes of a number."""
    config = text_config(config)
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    width = config.get("hidden_size") or config.get("n_embd") or 0
    per_head = config.get("head_dim") or width // heads
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 0
    return int(2 * layers * (config.get("num_key_value_heads") or heads) * per_head * size)


def activation_bytes(config: Mapping[str, Any], size: int) -> int:
    """Bytes that one layer holds for a token while it is forwarded; layers follow each other, so that one counts."""
    config = text_config(config)
    width = config.get("hidden_size") or config.get("n_embd") or 0
    return int((12 * width + 3 * (config.get("intermediate_size") or 4 * width)) * size)


def logits_bytes(config: Mapping[str, Any], size: int) -> int:
    """Bytes that a scored position needs: its logits, and in float32 a copy and their log-softmax."""
    return int(text_config(config).get("vocab_size") or 0) * (size + 8)


def packing_on(total: int, weights: int, config: Mapping[str, Any], dtype: str) -> Packing:
    """Packs for a GPU of `total` bytes that holds `weights` bytes. Powers of two, so that small drifts change nothing.

    Nodes also stop where attention among a pack's own tokens, which grows with their square, would cost more than it
    spares.
    """
    size = BYTES.get(dtype, 4)
    room = SHARE * max(0, total - weights)
    token = kv_bytes(config, size) + activation_bytes(config, size) or 1
    tokens = _clamp(room / token, LEAST.tokens, MOST.tokens)
    nodes = _clamp(room / (token + logits_bytes(config, size)), LEAST.nodes, MOST.nodes)
    return Packing(nodes, _clamp(tokens / 256, LEAST.rows, MOST.rows), tokens)


def _clamp(value: float, least: int, most: int) -> int:
    """The power of two at or below `value`, within bounds that are powers of two."""
    return min(most, max(least, 1 << max(0, int(value).bit_length() - 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whichever device: torch has a class for GPUs, and mere words for the others."""
    import torch

    words = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
