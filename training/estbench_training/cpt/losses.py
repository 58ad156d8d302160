"""The loss of a causal language model as a sum over targets, with the logits in memory a piece at a time.

    module = LossModel(model, chunked=True)
    module(input_ids=…, position_ids=…, labels=…)     # the summed loss; labels are shifted already, -100 is no target
    module(input_ids=…, position_ids=…)               # the model's own output, with logits

Logits of 8,192 positions over 128k tokens are 3.9 GiB in fp32, and a plain cross-entropy holds several copies. Here a
piece's logits are turned into the gradients of hidden states and output layer at once, as in Liger's fused linear
cross-entropy (Hsu et al. 2024, arXiv 2410.10989), and dropped: nothing is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100
LOGITS = {"cpu": 1 << 24, "cuda": 1 << 29}  # bytes of a piece's logits in fp32
LEAST_ROWS = 64


class LossModel(nn.Module):
    """A transformers model whose forward pass ends with the loss, where FSDP has gathered all weights."""

    def __init__(self, model: Any, *, chunked: bool, liger: bool = False) -> None:
        super().__init__()
        self.model = model
        self.chunked, self.liger = chunked, liger
        # The one kernel of transformers that keeps documents apart in a batch of one row only.
        self.flat = model.config._attn_implementation == "flash_attention_2"

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, labels: Tensor | None = None, use_cache: bool = False
    ) -> Any:
        """
        Args:
            input_ids: (batch, sequence).
            position_ids: (batch, sequence), from 0 in each document; this alone keeps documents apart.
            labels: (batch, sequence), the token that comes next, or -100; without them the model's output is returned.
            use_cache: has to be off, since transformers would mask nothing with it.
        """
        shape = input_ids.shape
        if self.flat:  # each row begins with position 0, so its documents stay apart from the row's before
            input_ids, position_ids = input_ids.view(1, -1), position_ids.view(1, -1)
        if labels is None:
            output = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)
            if self.flat:
                output.logits = output.logits.view(*shape, -1).clone()  # FSDP wants no view
            return output
        if not self.chunked:
            logits = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
            return summed(logits, labels)
        decoder = self.model.get_decoder()
        hidden = decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        weight = self.model.get_output_embeddings().weight
        if self.liger:
            return _liger_loss(hidden, weight, labels)
        return chunked(hidden, weight, labels)


def summed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, in fp32, summed over the targets: logits (…, V), labels (…) -> ()."""
    return functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor, rows: int | None = None) -> Tensor:
    """The summed cross-entropy of hidden states (…, d) with an output layer (V, d): what `summed` gives.

    rows: positions whose logits are in memory at once; by default as many as fit into LOGITS.
    """
    if rows is None:
        rows = max(LEAST_ROWS, LOGITS[hidden.device.type] // (4 * weight.shape[0]))
    loss: Tensor = _Chunked.apply(hidden.flatten(0, -2), weight, labels.flatten(), rows)  # type: ignore[no-untyped-call]
    return loss


class _Chunked(torch.autograd.Function):
    """Computes loss and gradients together in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, rows: int) -> Tensor:
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device, enabled=False):
            matrix = weight.to(low)
            for begin in range(0, len(hidden), rows):
                piece, targets = hidden[begin : begin + rows].to(low), labels[begin : begin + rows]
                loss, slope = _piece(piece @ matrix.T, targets, wants_hidden or wants_weight)
                total += loss
                if grad_hidden is not None:
                    grad_hidden[begin : begin + rows] = slope.to(low) @ matrix
                if grad_weight is not None:
                    _add_product(grad_weight, slope.to(low), piece)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = outer  # fp32, and so is the product: 1 / targets is no number of bf16
        return (
            None if grad_hidden is None else grad_hidden.float().mul_(scale).to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight.mul_(scale).to(ctx.dtype),
            None,
            None,
        )


def _piece(logits: Tensor, targets: Tensor, wants_slope: bool) -> tuple[Tensor, Tensor]:
    """The summed loss () of logits (n, V), and its slope with respect to them (n, V) in fp32; in place where it can."""
    logits = logits.float()
    kept = targets != IGNORED
    at = targets.where(kept, 0).unsqueeze(1)
    total = logits.logsumexp(1, keepdim=True)
    loss = (total - logits.gather(1, at)).squeeze(1).where(kept, 0.0).sum()
    if not wants_slope:
        return loss, logits
    slope = logits.sub_(total).exp_()
    slope.scatter_add_(1, at, torch.full_like(total, -1.0))
    return loss, slope.mul_(kept.unsqueeze(1))


def _add_product(into: Tensor, slope: Tensor, piece: Tensor) -> None:
    """into (V, d) += slope (n, V)ᵀ piece (n, d)."""
    if slope.dtype == into.dtype:
        into.addmm_(slope.T, piece)
    else:
        into += slope.T @ piece


def _liger_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum")
    found: Tensor = loss(weight, hidden.flatten(0, -2), labels.flatten())
    return found


def plain_head(module: LossModel, input_ids: Tensor, position_ids: Tensor, tolerance: float) -> bool:
    """Whether the logits are the output layer times the decoder's last hidden state, and nothing else.

    Some models scale or cap them, or have a bias; those need the whole logits. Compares the two losses on a sample.
    """
    labels = input_ids.roll(-1, 1)
    was = module.chunked
    with torch.no_grad():
        module.chunked = True
        try:
            pieces = module(input_ids, position_ids, labels)
            seen: list[Tensor] = []
            head = module.model.get_output_embeddings()
            handle = head.register_forward_hook(lambda layer, given, output: seen.append(output))
        except (AttributeError, TypeError):  # no get_decoder() or output layer as others have it
            return False
        finally:
            module.chunked = was
        logits = module(input_ids, position_ids).logits
        handle.remove()
        if not seen or not torch.equal(seen[-1].float().flatten(), logits.float().flatten()):
            return False  # capped or scaled, be it ever so little
        whole = summed(logits, labels)
    return bool((pieces - whole).abs() <= tolerance * whole.abs())
