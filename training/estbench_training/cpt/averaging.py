"""Averages of the weights over the steps, in fp32, beside the weights that are trained.

An exponential moving average is updated after every `every` steps, a ← decay·a + (1 - decay)·w, and begins with the
weights at the start (Polyak averaging with a fixed horizon). `last` is the plain mean of `count` snapshots, `every`
steps apart, of which the newest is the last step's (checkpoint averaging, as in Vaswani et al. 2017, section 6.1); it
is kept as a running mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from estbench_training.cpt.settings import Average


class Averages:
    """The averages of named weights; nothing for `kind: none`."""

    def __init__(self, settings: Average, weights: Mapping[str, Tensor], steps: int) -> None:
        self.settings = settings
        self.steps = steps
        self._weights = dict(weights) if settings.kind != "none" else {}
        self.taken = 0  # snapshots of `last` that the mean holds; part of the state
        self.values = {name: weight.detach().to(torch.float32, copy=True) for name, weight in self._weights.items()}

    def update(self, step: int) -> None:
        """Take in the weights after `step` steps, if it is their turn."""
        share = self._share(step)
        if share is None or not self.values:
            return
        into = [local(value) for value in self.values.values()]
        new = [local(weight.detach()).to(torch.float32) for weight in self._weights.values()]
        torch._foreach_lerp_(into, new, share)
        self.taken += 1

    @property
    def exported(self) -> Mapping[str, Tensor]:
        """What stands in for the weights in a checkpoint: nothing before the first snapshot."""
        return self.values if self.settings.kind == "ema" or self.taken else {}

    @property
    def _snapshots(self) -> int:
        return min(self.settings.count, (self.steps - 1) // self.settings.every + 1)

    @property
    def _first(self) -> int:
        return self.steps - (self._snapshots - 1) * self.settings.every

    def _share(self, step: int) -> float | None:
        """The share of the new weights; None if they don't count."""
        every = self.settings.every
        if self.settings.kind == "ema":
            return 1 - self.settings.decay if step % every == 0 else None
        into = step - self._first
        if into < 0 or into % every:
            return None
        return 1 / (self.taken + 1)  # the first snapshot replaces what was there


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; a plain one as it is."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
