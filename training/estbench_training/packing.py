"""What a training step sees: windows of the token stream as packed rows, and the proof that the model keeps them apart.

    batches = Batches(mixture, shards, batch=64, micro_batch=2)
    for step in batches.prefetch(first_step, batches.steps, rank, world):
        for micro in step.micro_batches:                      # input_ids, labels, position_ids: int64 (micro_batch, S)
            logits = call(model, micro).logits
            …                                                 # summed loss / step.targets

A row of S tokens is a window of S + 1 tokens of one source: the first S are the inputs, the last S the labels, which
are thus shifted already. A label is -100 where the next token begins another document, so a document of n tokens has
n - 1 targets wherever windows cut it. A document that a window cuts is not lost: its rest is in the window that begins
there. That rest can't see what is before the window, and its positions begin at 0 like a document's: no position then
passes the context the model was made for, and the row is what the model gets at inference when a text begins in its
middle. Only with `sequence` below most documents' length does this cost much; a longer sequence is the cure.

transformers (its PR #39194) masks documents from position_ids alone, and only if it gets no attention_mask and
no cache. Any 2-D mask, even of ones, or the default use_cache=True silently lets documents see each other. So `call` is
the only way to call a model on packed rows, and `self_test` proves before training that this model, attention
implementation, dtype and device keep documents apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from estbench.errors import ConfigError, DataError, ModelError
from estbench_training.mixture import Mixture, Sample
from estbench_training.shards import Shards

if TYPE_CHECKING:
    import torch

IGNORED = -100  # labels that torch's cross-entropy leaves out
DOCUMENTS = (1, 2, 5, 17)  # tokens of the self-test's first documents; two more fill the row

Batch = Mapping[str, "torch.Tensor"]
Loss = Callable[[Any, Batch], "torch.Tensor"]  # summed over the targets of a batch: ()


@dataclass(frozen=True)
class Example:
    """A packed row, each int64 (sequence,). Labels are shifted: labels[p] is what comes after input_ids[p], or -100."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]


def example(shards: Mapping[str, Shards], sample: Sample, sequence: int) -> Example:
    """The row of a sample."""
    source = shards[sample.source]
    tokens = source.read(sample.start, sequence + 1).astype(np.int64)
    begins = source.boundaries(sample.start, sequence + 1)
    labels = tokens[1:].copy()
    labels[begins[begins > 0] - 1] = IGNORED
    first = np.zeros(sequence, np.int64)  # where each token's document begins
    inside = begins[begins < sequence]
    first[inside] = inside
    return Example(tokens[:-1], labels, np.arange(sequence) - np.maximum.accumulate(first))


@dataclass(frozen=True)
class Step:
    """An optimizer step: this process's micro-batches, and the number of targets over all processes' micro-batches."""

    number: int
    micro_batches: list[dict[str, torch.Tensor]]
    targets: int


class Batches:
    """The rows of every optimizer step: of step s, samples s · batch to (s + 1) · batch - 1 of the mixture.

    Processes take equal stretches of a step's samples in the order of their ranks, so a step has the same rows for
    any number of processes and any size of micro-batches.
    """

    def __init__(self, mixture: Mixture, shards: Mapping[str, Shards], batch: int, micro_batch: int) -> None:
        """batch: rows of a step over all processes; micro_batch: rows that a process computes at once."""
        self.mixture, self.shards = mixture, shards
        self.size, self.micro_batch = batch, micro_batch
        self.sequence = mixture.sequence
        self.steps = len(mixture) // batch

    def step(self, step: int, rank: int = 0, world: int = 1) -> Step:
        """A process's micro-batches of a step, and the targets of all. ConfigError if the rows can't be divided."""
        samples = self._samples(step)
        return Step(step, self._micro_batches(samples, rank, world), self._targets(samples, step))

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[dict[str, torch.Tensor]]:
        """`step`'s micro-batches."""
        return self._micro_batches(self._samples(step), rank, world)

    def targets(self, step: int) -> int:
        """`step`'s targets: labels other than -100 over all processes, by the documents' borders alone."""
        return self._targets(self._samples(step), step)

    def _samples(self, step: int) -> list[Sample]:
        return self.mixture.samples(step * self.size, (step + 1) * self.size)

    def _micro_batches(self, samples: list[Sample], rank: int, world: int) -> list[dict[str, torch.Tensor]]:
        import torch

        if self.size % (world * self.micro_batch):
            raise ConfigError(
                f"A step has {self.size} sequences, which {world} processes with micro-batches of {self.micro_batch} "
                f"can't divide: batch_tokens has to be a multiple of {world * self.micro_batch * self.sequence:,}."
            )
        own = self.size // world
        rows = [example(self.shards, sample, self.sequence) for sample in samples[rank * own : (rank + 1) * own]]
        return [
            {
                name: torch.from_numpy(np.stack([getattr(row, name) for row in rows[first : first + self.micro_batch]]))
                for name in ("input_ids", "labels", "position_ids")
            }
            for first in range(0, own, self.micro_batch)
        ]

    def _targets(self, samples: list[Sample], step: int) -> int:
        borders = sum(len(self.shards[one.source].boundaries(one.start + 1, self.sequence)) for one in samples)
        if borders == self.size * self.sequence:
            raise DataError(f"Step {step} has nothing to learn: all its documents are single tokens. Filter them out.")
        return self.size * self.sequence - borders

    def prefetch(self, start: int, stop: int, rank: int = 0, world: int = 1, ahead: int = 2) -> Iterator[Step]:
        """Steps start ≤ step < stop; a thread makes up to `ahead` while the caller computes.

        What goes wrong in the thread is raised here, at its step. The thread ends with the iterator, also when that is
        closed or dropped early.
        """
        with ThreadPoolExecutor(1, "estbench-batches") as pool:
            waiting: deque[Future[Step]] = deque()
            try:
                for step in range(start, stop):
                    waiting.append(pool.submit(self.step, step, rank, world))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)


def call(model: Any, batch: Batch) -> Any:
    """The model's output for packed rows: positions, no attention mask, no cache."""
    return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)


def self_test(
    model: Any, device: torch.device | str, *, rows: int = 1, length: int = 128, loss: Loss | None = None
) -> None:
    """Refuse a model that lets packed documents see each other: ModelError, with what to do.

    Six documents of random tokens in each of `rows` rows (the micro-batch that will be used) of `length` tokens: losses
    of each token and gradients have to be those of the documents alone. What is measured is the distance from them, as
    a share of the distance that rows without borders have (the size of the fault that is looked for): see `_limit`. A
    document alone is a row that begins with it: a causal model can't see what comes behind. All calls have the same
    shapes; test a compiled model with length=its sequence, or it is compiled for another one.

    Call it on all ranks alike, with the model as it will be trained (wrapped, sharded, compiled), inside the autocast
    that training has, if any. loss: the summed loss as training computes it, whose gradients are then compared (without
    it, those of the cross-entropy of the logits). Dropout is off meanwhile; weights, random numbers and modes are
    afterwards as before, and there are no gradients.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        shares = _shares(model, device, rows, length, loss)
        bad = {name: share for name, (share, limit) in shares.items() if not share <= limit}
        if not bad:
            return
        alone = rows > 1 and all(share <= limit for share, limit in _shares(model, device, 1, length, loss).values())
    finally:
        for module, training in modes:
            module.training = training
        for parameter in model.parameters():
            parameter.grad = None
    raise ModelError(_complaint(model, bad, rows, alone))


def _shares(
    model: Any, device: torch.device | str, rows: int, length: int, loss: Loss | None
) -> dict[str, tuple[float, float]]:
    """For losses and gradients: distance of packed from alone / distance of borderless from alone; and its limit."""
    import torch

    packed, alone = _packed(_vocabulary(model), rows, length)
    losses, gradients, dtype = _measure(model, device, [packed], loss)
    borderless = dict(packed, position_ids=torch.arange(length).repeat(rows, 1))
    mixed_losses, mixed_gradients, _ = _measure(model, device, [borderless], loss)
    alone_losses, alone_gradients, _ = _measure(model, device, [batch for batch, _ in alone], loss)
    target = torch.zeros_like(losses[0])
    for own, (_, places) in zip(alone_losses, alone, strict=True):
        for row, (begin, count) in enumerate(places):
            target[row, begin : begin + count] = own[row, :count]
    sums = _summed(
        [
            *(((one - target) ** 2).sum() for one in (losses[0], mixed_losses[0])),
            *(((one - alone_gradients) ** 2).sum() for one in (gradients, mixed_gradients)),
        ],
        device,
    )
    found = {"losses": sums[:2]} | ({"gradients": sums[2:]} if sums[3] else {})
    limit = _limit(dtype)
    return {name: ((ours / theirs) ** 0.5 if theirs else float("nan"), limit) for name, (ours, theirs) in found.items()}


def _limit(dtype: torch.dtype) -> float:
    """The largest share of the fault that rounding explains, by the logits' dtype; the fault itself has about 1.

    Half precisions differ by other tiles and orders of sums, of logits of about 16 by up to 0.06; fp32 may be TF32.
    """
    import torch

    return {torch.float64: 1e-4, torch.float32: 0.05}.get(dtype, 0.2)


def _packed(
    vocabulary: int, rows: int, length: int
) -> tuple[dict[str, torch.Tensor], list[tuple[dict[str, torch.Tensor], list[tuple[int, int]]]]]:
    """Random documents packed, and each document of a row alone: (batch, where in the pack the rows' documents are)."""
    import torch

    dice = torch.Generator().manual_seed(0)
    rest = length - sum(DOCUMENTS)
    if rest < 2:
        raise ConfigError(f"The self-test needs rows of at least {sum(DOCUMENTS) + 2} tokens, not {length}.")
    lengths = [*DOCUMENTS, rest // 2, rest - rest // 2]
    ids = torch.randint(vocabulary, (rows, length), generator=dice)
    labels = torch.randint(vocabulary, (rows, length), generator=dice)
    positions = torch.empty_like(ids)
    places = []
    for row in range(rows):
        order = lengths[row % len(lengths) :] + lengths[: row % len(lengths)]
        begins = [sum(order[:number]) for number in range(len(order))]
        places.append(list(zip(begins, order, strict=True)))
        positions[row] = torch.cat([torch.arange(count) for count in order])
    alone = []
    for number in range(len(lengths)):
        own_ids, own_labels = torch.randint(vocabulary, ids.shape, generator=dice), torch.full_like(labels, IGNORED)
        for row, (begin, count) in enumerate(own := [place[number] for place in places]):
            own_ids[row, :count] = ids[row, begin : begin + count]
            own_labels[row, :count] = labels[row, begin : begin + count]
        batch = {"input_ids": own_ids, "labels": own_labels, "position_ids": torch.arange(length).repeat(rows, 1)}
        alone.append((batch, own))
    return {"input_ids": ids, "labels": labels, "position_ids": positions}, alone


def _measure(
    model: Any, device: torch.device | str, batches: list[dict[str, torch.Tensor]], loss: Loss | None
) -> tuple[list[torch.Tensor], torch.Tensor, torch.dtype]:
    """Per-token losses of batches, each (rows, S); a sample of the gradients of their sum; the logits' dtype."""
    import torch
    from torch.nn.functional import cross_entropy

    for parameter in model.parameters():
        parameter.grad = None
    losses = []
    for batch in batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.set_grad_enabled(loss is None):
            logits = _logits(model, batch)
        dtype = logits.dtype
        wide = logits.double() if dtype == torch.float64 else logits.float()
        own = cross_entropy(wide.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="none")
        torch.autograd.backward(loss(model, batch) if loss else own.sum())
        losses.append(own.detach().double().view_as(batch["labels"]))
    return losses, _sampled_gradients(model), dtype


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    try:
        found: torch.Tensor = call(model, batch).logits
    except TypeError as error:
        raise ModelError(
            f"{type(model).__name__} can't be called on packed rows ({error}): it has to take input_ids, position_ids "
            "and use_cache, as the decoders of transformers do."
        ) from None
    return found


def _sampled_gradients(model: Any, most: int = 4096) -> torch.Tensor:
    """Evenly spaced entries, up to about 2 × `most` a parameter, of this process's shards of the gradients."""
    import torch

    parts = [torch.zeros(0, dtype=torch.float64)]
    for parameter in model.parameters():
        if parameter.grad is not None:
            own = parameter.grad.to_local() if hasattr(parameter.grad, "to_local") else parameter.grad
            parts.append(own.detach().flatten()[:: max(1, own.numel() // most)].double().cpu())
    return torch.cat(parts)


def _summed(values: list[torch.Tensor], device: torch.device | str) -> list[float]:
    """Sums over all processes, so that all of them decide alike."""
    import torch
    from torch import distributed

    sums = torch.stack([value.double().to(device) for value in values])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(sums)
    return [float(value) for value in sums.cpu()]


def _vocabulary(model: Any) -> int:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return int(config.vocab_size)


def _complaint(model: Any, bad: Mapping[str, float], rows: int, alone: bool) -> str:
    kind, attention = (getattr(model.config, name, "unknown") for name in ("model_type", "_attn_implementation"))
    what = " and ".join(f"{name} ({share:.0%} of the fault's size)" for name, share in bad.items())
    if any(share != share for share in bad.values()):
        cause = "what it computes does not depend on the context or is not a number: load trained weights"
    elif alone:
        cause = f"its attention keeps documents apart in one row, but not in {rows}: set micro_batch: 1"
    else:
        cause = (
            "set kernels.attention: sdpa; no wrapper may add an attention_mask or a cache, and the model's class has "
            "to make its masks from position_ids (the decoders of transformers do)"
        )
    return f"{type(model).__name__} ({kind}, attention {attention}) mixes packed documents, by their {what}: {cause}."
