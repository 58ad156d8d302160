"""The processes of a training run: who they are, how the model is shared among them, what they tell each other.

    ranks = join(settings.parallel)         # as torchrun says, or this process alone
    shard(module, ranks, settings)          # fully_shard: FSDP, or HSDP on a mesh of two dimensions

The weights stay fp32 and are cast to bf16 layer by layer when they are gathered; gradients are summed in fp32. `none`
is HSDP whose groups have one process each: every process has all the weights, gradients are added up over all.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from estbench.errors import ConfigError
from estbench_training.cpt.settings import Parallel, Precision

PATIENCE = timedelta(days=7)  # for the rank that evaluates or writes while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among all. mesh: None where the model is not sharded."""

    rank: int
    world: int
    device: torch.device
    mesh: Any = None
    waiting: Any = None  # the group (gloo) in which the others wait for rank 0

    @property
    def main(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def total(self, *values: Tensor) -> list[float]:
        """The sums over all processes of some numbers (), each of which is on the device."""
        packed = torch.stack([value.double() for value in values])
        if self.world > 1:
            dist.all_reduce(packed)
        return packed.tolist()

    def barrier(self) -> None:
        """Wait for all, however long it takes."""
        self.agree(None)

    def agree(self, value: Any) -> Any:
        """What rank 0 says."""
        said = [value]
        if self.world > 1:
            dist.broadcast_object_list(said, src=0, group=self.waiting)
        return said[0]


def join(settings: Parallel, *, always_shard: bool | None = None) -> Ranks:
    """Meet the other processes, if there are any.

    Args:
        settings: how the model is shared.
        always_shard: shard over a single process, too; by default on a GPU, where it keeps only one layer in bf16.
    """
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    device = _device(int(os.environ.get("LOCAL_RANK", "0")))
    shards = world > 1 or (device.type == "cuda" if always_shard is None else always_shard)
    if not shards:
        return Ranks(rank, world, device)
    from torch.distributed.device_mesh import init_device_mesh

    if not dist.is_initialized():
        alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, **({} if world > 1 else alone))
        atexit.register(_leave)
    sizes = mesh_sizes(settings, world, int(os.environ.get("LOCAL_WORLD_SIZE", str(world))))
    names = ("shard",) if len(sizes) == 1 else ("replicate", "shard")
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)
    return Ranks(rank, world, device, mesh, dist.new_group(backend="gloo", timeout=PATIENCE))


def mesh_sizes(settings: Parallel, world: int, local: int) -> tuple[int, ...]:
    """(shards,), or (groups, shards of each).

    Args:
        settings: how the model is shared.
        world: all processes.
        local: those of a node.
    """
    if settings.shard == "full":
        return (world,)
    if settings.shard == "none":
        return world, 1
    groups = settings.replicas or max(1, world // local)
    if world % groups:
        raise ConfigError(f"parallel.replicas: {groups} groups can't be made of {world} processes.")
    return groups, world // groups


def _device(local: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(module: nn.Module, layers: Sequence[nn.Module], ranks: Ranks, precision: Precision) -> None:
    """Make each layer a unit that is gathered when it is needed, and the rest (embeddings, output layer) another."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    computed = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=None if precision == "fp32" else torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=ranks.mesh, mp_policy=policy)
    fully_shard(module, mesh=ranks.mesh, mp_policy=policy)


def last_of_step(module: nn.Module, last: bool) -> None:
    """Between replicas, gradients are added up once a step, after its last micro batch."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.set_requires_all_reduce(last)


def at_rest(module: nn.Module) -> None:
    """Give up what a forward pass without a backward pass has gathered."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.reshard()


def whole(tensor: Tensor, keep: bool) -> Tensor | None:
    """All of a sharded tensor, in the memory of the CPU; None where it isn't kept. All processes have to call it."""
    from torch.distributed.tensor import DTensor

    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu() if keep else None
