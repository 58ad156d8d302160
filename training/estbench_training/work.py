"""What a stage that trains computes, in one form for all kinds: sequences of a step, steps, and how devices share them.

work = work_of(stage.settings)                  # None: a stage that trains nothing
work.flops(shape), work.memory(shape, machine, gpus)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from estbench_training import memory
from estbench_training.cpt import flops
from estbench_training.cpt.flops import Checkpointing, Shape
from estbench_training.kinds import StageSettings
from estbench_training.machines import GIB, Machine
from estbench_training.memory import Memory, Precision

if TYPE_CHECKING:
    from estbench_training.cpt.settings import CptSettings
    from estbench_training.dpo import DpoSettings
    from estbench_training.sft import SftSettings

UNBUILT = "its steps are unknown until its rows are built"
EMBEDDINGS, HEAD = "embed_tokens", "lm_head"  # modules that are trained whole beside adapters
AT_MOST = "at most, if all sequences are full"
MOST_DOUBLINGS = 10  # of the devices, in search of room


@dataclass(frozen=True)
class Work:
    """A stage that trains."""

    sequence: int  # tokens
    sequences: int  # of an optimizer step, over all devices
    micro: int  # sequences that a device computes at once
    steps: int | None  # None: not known before its rows are built
    precision: Precision
    shard: Literal["full", "hybrid", "none"]
    replicas: int | None  # hybrid: groups; None for one a node
    checkpointing: Checkpointing
    chunked: bool  # whether the loss goes over the logits in pieces
    trained: Callable[[Shape], float]  # share of the multiplied weights that have gradients
    input_embeddings: bool = True  # whether they are trained, too
    copies: float = 0.0  # of the weights in fp32, beside them
    passes: float = 1.0  # arithmetic, in forward and backward passes: more where a reference model answers, too
    whole: bool = False  # whether each process reads all of the model, also if it is sharded then
    evaluated: int = 0  # bytes of a weight of the model that the first device evaluates on the way; 0: none
    note: str = ""

    @property
    def tokens(self) -> int | None:
        """Tokens that are read in all steps."""
        return None if self.steps is None else self.steps * self.sequences * self.sequence

    def flops(self, size: Shape) -> float | None:
        """The arithmetic of all steps."""
        if self.tokens is None:
            return None
        return self.passes * self.tokens * flops.per_token(size, self.sequence, trained=self.trained(size))

    def memory(self, size: Shape, machine: Machine, gpus: int) -> Memory:
        """The memory of each of `gpus` devices."""
        looked_up = size.embeddings if self.input_embeddings and not size.tied else 0
        groups = self.replicas or max(1, gpus // machine.per_node)
        shard = {"full": gpus, "hybrid": max(1, gpus // groups), "none": 1}[self.shard]
        return memory.of(
            size,
            self.micro * self.sequence,
            precision=self.precision,
            shard=shard,
            trained=(self.trained(size) * multiplied(size) + looked_up) / size.parameters,
            checkpointing=self.checkpointing,
            chunked=self.chunked,
            copies=self.copies,
        )

    def host(self, size: Shape, machine: Machine, gpus: int) -> float:
        """Bytes of a node's own memory, at most."""
        processes = min(gpus, machine.per_node) if self.whole or self.shard == "none" or gpus == 1 else 0
        return memory.host_bytes(size, precision=self.precision, processes=processes)

    def evaluating(self, size: Shape, machine: Machine, gpus: int) -> float | None:
        """Bytes of the first device while it evaluates: what training keeps between steps, and the model once more."""
        kept = self.memory(size, machine, gpus)
        return kept.weights + kept.optimizer + self.evaluated * size.parameters if self.evaluated else None

    def undivided(self, gpus: int) -> str:
        """Why so many devices can't share a step equally, or nothing."""
        if self.sequences % (gpus * self.micro) == 0:
            return ""
        return (
            f"the {self.sequences} sequences of a step can't be dealt out to {gpus} devices in micro batches of "
            f"{self.micro}"
        )

    def cure(self, size: Shape, machine: Machine, gpus: int) -> str:
        """What to change so that a device has room for it, the cheapest first."""
        room = f"needs more than a device's {machine.memory / GIB:.0f} GiB"
        leanest = replace(self, checkpointing="full")
        changes = [] if self.checkpointing == "full" else ["recompute activations"]
        if leanest.memory(size, machine, gpus).fits(machine.memory):
            return f"{room}: recompute activations (activation_checkpointing)"
        shared = replace(leanest, shard="full")
        if self.shard != "full":
            changes.append("shard: full")
        for times in range(MOST_DOUBLINGS + 1):
            if shared.memory(size, machine, gpus << times).fits(machine.memory):
                more = [f"{gpus << times} devices"] if times else []
                return f"{room}: {_listed([*changes, *more])}"
        return f"{room}: take a smaller micro_batch or sequence, or lora"

    def other_room(self, size: Shape, machine: Machine, gpus: int) -> str:
        """Why evaluations, or reading and writing the model, have no room, and what to change; or nothing."""
        notes = []
        evaluating, host = self.evaluating(size, machine, gpus), self.host(size, machine, gpus)
        if evaluating is not None and evaluating > machine.memory * (1 - memory.OVERHEAD):
            notes.append(
                f"an evaluation here takes {evaluating / GIB:,.0f} GiB of the first device, which has "
                f"{machine.memory / GIB:.0f}: say where: none, and export: {{every: …}} for a job of its own "
                "(docs/slurm.md)"
            )
        if host > machine.host:
            reads = "each process reads the whole model" if self.whole or self.shard == "none" else "writing the model"
            notes.append(
                f"{reads}: {host / GIB:,.0f} GiB of a node's own memory, which has {machine.host / GIB:,.0f}; it needs "
                "nodes with more, or fewer processes on each"
            )
        return "; ".join(notes)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def work_of(settings: StageSettings, rows: int | None = None) -> Work | None:
    """The work of a stage by its settings; None for a stage that trains nothing.

    rows: conversations or pairs that it is given at most, where that is known before they are built.
    """
    from estbench_training.cpt.settings import CptSettings
    from estbench_training.dpo import DpoSettings
    from estbench_training.sft import SftSettings

    if isinstance(settings, CptSettings):
        return _cpt(settings)
    if isinstance(settings, SftSettings):
        return _tuning(settings, rows, sides=1)
    if isinstance(settings, DpoSettings):  # two answers, and of each a forward pass of the reference
        return _tuning(settings, rows, sides=2, passes=4 / 3)
    return None


def _cpt(settings: CptSettings) -> Work:
    def trained(size: Shape) -> float:
        if settings.freeze == "embeddings":
            return size.embeddings / multiplied(size)
        if settings.freeze == "ends":
            layers = min(size.layers, settings.ends.first + settings.ends.last)
            return layers * size.layer_weights / multiplied(size)
        if settings.freeze == "lora":
            head = size.embeddings if (EMBEDDINGS if size.tied else HEAD) in settings.lora.whole else 0
            return adapted(size, settings.lora.rank) + head / multiplied(size)
        return 1.0

    return Work(
        sequence=settings.sequence,
        sequences=settings.batch_sequences,
        micro=settings.micro_batch,
        steps=settings.total_steps,
        precision=settings.precision,
        shard=settings.parallel.shard,
        replicas=settings.parallel.replicas,
        checkpointing=settings.activation_checkpointing,
        chunked=settings.kernels.chunked_loss is not False,
        trained=trained,
        input_embeddings=settings.freeze in ("none", "embeddings") or EMBEDDINGS in settings.lora.whole,
        copies=0.0 if settings.average.kind == "none" else 1.0,
        whole=settings.freeze == "lora",
        evaluated=_evaluated(settings),
    )


def _evaluated(settings: CptSettings) -> int:
    if settings.evaluate is None or settings.evaluate.where != "here":
        return 0
    return 4 if "float32" in (settings.export.dtype, settings.evaluate.options.get("dtype")) else 2


def _tuning(settings: SftSettings | DpoSettings, rows: int | None, sides: int, passes: float = 1.0) -> Work:
    rank = settings.lora.rank if settings.lora else None
    counts = [count for count in (rows, settings.limit) if count is not None]
    steps = settings.steps
    if steps is None and counts:
        steps = math.ceil(min(counts) * settings.epochs / settings.batch)
    return Work(
        sequence=settings.max_length,
        sequences=sides * settings.batch,
        micro=sides * settings.micro_batch,
        steps=steps,
        precision=settings.precision,
        shard=settings.shard,
        replicas=None,
        checkpointing="full" if settings.activation_checkpointing else "none",
        chunked=False,
        trained=lambda size: 1.0 if rank is None else adapted(size, rank),
        input_embeddings=rank is None,
        passes=passes,
        whole=True,
        note=UNBUILT if steps is None else AT_MOST,
    )


def multiplied(size: Shape) -> int:
    """Weights that a token is multiplied with: all but the input embeddings."""
    return size.parameters - (0 if size.tied else size.embeddings)


def adapted(size: Shape, rank: int) -> float:
    """Weights of adapters at all linear layers, as a share of those multiplied: rank · (rows + columns) of each."""
    attention = 4 * size.hidden + 2 * size.head_dim * (size.heads + size.kv_heads)
    mlp = (2 if size.kind in flops.UNGATED else 3) * (size.hidden + size.intermediate)
    return rank * size.layers * (attention + mlp) / multiplied(size)
