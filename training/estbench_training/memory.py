"""The memory that training takes of each device, by formula: good to some ten per cent, and before anything is loaded.

Weights, gradients and AdamW's two moments are exact and shared out over the devices of a shard. Activations are what
transformers' Llama keeps for the backward pass with flash or memory-efficient attention; a test counts them. What the
framework itself, communication and fragmentation take is not in it: OVERHEAD is set aside for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from estbench_training.cpt.flops import HEAD_NORMS, UNGATED, Checkpointing, Shape

Precision = Literal["bf16", "fp32", "bf16_pure"]
OVERHEAD = 0.08  # of a device's memory: context, communication buffers, fragmentation
PIECE = 1 << 29  # bytes of logits in fp32 that a chunked loss has in memory at once: losses.LOGITS on a GPU
# bytes of a weight as it is kept, of its gradient, of the optimizer's state
KEPT: dict[Precision, tuple[int, int, int]] = {"bf16": (4, 4, 8), "fp32": (4, 4, 8), "bf16_pure": (2, 2, 4)}


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float  # weights of the layers at work, whole and in the type they are computed with
    activations: float
    logits: float  # and what the loss makes of them

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.logits

    def fits(self, capacity: float) -> bool:
        """Whether a device with so many bytes has room for it."""
        return self.total <= capacity * (1 - OVERHEAD)


def of(
    size: Shape,
    tokens: int,
    *,
    precision: Precision = "bf16",
    shard: int = 1,
    trained: float = 1.0,
    checkpointing: Checkpointing = "none",
    chunked: bool = True,
    copies: float = 0.0,
) -> Memory:
    """The memory of a training step on each device.

    Args:
        size: the model's shape.
        tokens: tokens that a device computes at once (micro-batch × sequence).
        precision: bf16 keeps weights, gradients and moments in fp32 and computes in bf16.
        shard: devices that weights, gradients and moments are shared out over.
        trained: share of the weights that have gradients and moments.
        checkpointing: whether activations are computed a second time instead of kept.
        chunked: the loss goes over the logits in pieces, and keeps the output layer's gradient in fp32.
        copies: fp32 copies of the weights beside them (an average; a reference model).
    """
    kept, gradient, moments = KEPT[precision]
    each, width = size.parameters / shard, 4 if precision == "fp32" else 2
    gathered = 0.0
    if shard > 1 or precision == "bf16":  # embeddings, output layer, the layer at work and the next one
        gathered = width * (size.embeddings * (1 if size.tied else 2) + 2 * size.layer_weights)
    layer = layer_bytes(size, width) * tokens
    inputs = size.layers * size.hidden * width * tokens
    activations = {
        "none": size.layers * layer,
        "selective": inputs / 2 + (size.layers / 2 + 1) * layer,  # every second layer is kept, one is at work
        "full": inputs + layer,
    }[checkpointing]
    return Memory(
        weights=each * (kept + 4 * copies),
        gradients=each * gradient * trained,
        optimizer=each * moments * trained,
        gathered=gathered,
        activations=activations,
        logits=chunk_bytes(size, tokens, width) if chunked else logit_bytes(size, tokens, width),
    )


def host_bytes(size: Shape, *, precision: Precision = "bf16", processes: int = 0) -> float:
    """Bytes of a node's own memory at most: the model in bf16 that the first process gathers to write it, or the models
    that so many processes of a node read whole, before they are on their devices."""
    return float(size.parameters * max(2, processes * KEPT[precision][0]))


def layer_bytes(size: Shape, width: int = 2) -> float:
    """Bytes that a layer keeps of each token for its backward pass.

    Two RMSNorms (input in fp32, normalised, scaled), queries, keys, values, attention's output and the logarithm of
    its sums, and the MLP: gate, its activation, up and the product; xIELU in plain torch keeps five and a mask.
    """
    queries, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    norms = 2 * (size.hidden * (4 + 2 * width) + 4)
    attention = width * (2 * queries + 2 * keys) + 4 * size.heads
    if size.kind in HEAD_NORMS:
        norms += (4 + width) * (queries + keys) + 4 * (size.heads + size.kv_heads)
    mlp = size.intermediate * (5 * width + 1 if size.kind in UNGATED else 4 * width)
    return float(norms + attention + mlp)


def logit_bytes(size: Shape, tokens: int, width: int = 2) -> float:
    """Bytes of the logits as they are computed, of them in fp32, and of their gradient in fp32."""
    return float(tokens * size.vocab * (8 if width == 4 else width + 8))


def chunk_bytes(size: Shape, tokens: int, width: int = 2) -> float:
    """Bytes of one piece of the logits, and of the output layer's gradient in fp32."""
    return logit_bytes(size, min(tokens, PIECE // (4 * size.vocab)), width) + 4 * size.embeddings
