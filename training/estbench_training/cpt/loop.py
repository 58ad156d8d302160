"""The training loop.

A step is: the micro batches of this process forward and backward, each loss divided by the targets of the whole step
(so that accumulation and processes change nothing); the gradients clipped by their global norm; the guard's verdict;
AdamW. Whatever a step depends on is a function of its number or part of the saved state, so a run that was killed goes
on bit by bit as it would have.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from estbench_training.cpt import parallel
from estbench_training.cpt.logs import Log, Record
from estbench_training.cpt.schedule import rate_at
from estbench_training.cpt.setup import Run, computing
from estbench_training.packing import Batches, Step

if TYPE_CHECKING:
    from torch import Tensor

REQUEUE = 75  # EX_TEMPFAIL: saved, and to be started again
STOPPED = "{stage}: stopped after step {step:,}, its state is saved; the same command goes on."


class StopForRequeue(SystemExit):
    """The run was asked to end (SIGTERM), has saved its state, and is to be started again."""

    def __init__(self) -> None:
        super().__init__(REQUEUE)


class Stopping:
    """Notes a SIGTERM; the loop asks for it after each step."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Stopping:
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread: nobody sends it signals
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@dataclass(frozen=True)
class Measured:
    """A step before its optimizer step."""

    loss: float  # nats a target
    grad_norm: float
    stop: bool  # a process was asked to end


def train(
    run: Run,
    batches: Batches,
    log: Log,
    at_step: Callable[[Run], bool] = lambda run: False,
    mfu: Callable[[float], float | None] = lambda tokens_per_second: None,
) -> None:
    """Take the steps that are left.

    Args:
        run: at its beginning, or restored.
        batches: micro batches by step.
        log: where the steps are written down.
        at_step: called after each step, by all processes; whether the training is to end here.
        mfu: utilisation of a device by tokens a second of all.
    """
    settings, steps, ranks = run.settings, run.settings.total_steps, run.ranks
    turns, began = run.turns, time.monotonic()
    with Stopping() as stopping:
        for step in batches.prefetch(run.step, steps, ranks.rank, ranks.world):
            rate = rate_at(settings, run.step, steps)
            if run.step in turns:
                run.guard.forget()
            measured = gradients(run, step, stopping)
            verdict = run.guard.check(measured.loss, measured.grad_norm)
            if verdict == "ok":
                for group in run.optimizer.param_groups:
                    group["lr"] = rate
                run.optimizer.step()
            else:
                run.skipped += 1
            if verdict == "roll_back":
                log.roll_back(run.step + 1, run.roll_back(), run.guard.reason)
            run.optimizer.zero_grad(set_to_none=True)
            run.step += 1
            run.averages.update(run.step)
            seconds = time.monotonic() - began
            run.seconds += seconds
            speed = settings.batch_tokens / seconds
            log.write(
                Record(
                    step=run.step,
                    tokens=run.step * settings.batch_tokens,
                    loss=measured.loss,
                    rate=rate,
                    grad_norm=measured.grad_norm,
                    tokens_per_second=speed,
                    mfu=mfu(speed),
                    seconds=run.seconds,
                    memory_bytes=peak_memory(ranks.device),
                    verdict=verdict,
                    reason=run.guard.reason,
                )
            )
            last = run.step == steps
            due = run.step % settings.save.every == 0 and verdict == "ok"  # what comes after a bad step may be bad, too
            if due or last or measured.stop:
                run.save()
            if measured.stop and not last:
                run.context.say(STOPPED.format(stage=run.context.stage.name, step=run.step))
                raise StopForRequeue
            if at_step(run):
                return
            began = time.monotonic()


def gradients(run: Run, step: Step, stopping: Stopping) -> Measured:
    """Forward and backward of a step; the gradients are those of the mean loss over all its targets, and clipped."""
    ranks, device = run.ranks, run.ranks.device
    torch.manual_seed(seed_of(run.context.seed, run.step, ranks.rank))  # of dropout
    micro, targets = step.micro_batches, step.targets
    total = torch.zeros((), dtype=torch.float64, device=device)
    for number, batch in enumerate(micro, 1):
        parallel.last_of_step(run.model, number == len(micro))
        with computing(run.settings, ranks):
            loss: Tensor = run.model(**{name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()})
        # FSDP takes the mean of the gradients over the processes, and here a sum is wanted.
        torch.autograd.backward(loss * (ranks.world / targets))
        total += loss.detach()
    norm = clip(run)
    stop = torch.tensor(float(stopping.asked), device=device)
    summed, asked = ranks.total(total, stop)
    return Measured(summed / targets, norm, asked > 0)


def clip(run: Run) -> float:
    """Scale the gradients so that their norm is at most `clip`; the norm before."""
    weights = [weight for weight in run.weights.values() if weight.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if run.settings.optimizer.clip > 0:
        torch.nn.utils.clip_grads_with_norm_(weights, run.settings.optimizer.clip, norm)
    return float(norm)


def seed_of(seed: int, step: int, rank: int) -> int:
    """A seed for each step and process, so that no state of a generator has to be kept."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7], "big")


def peak_memory(device: torch.device) -> int | None:
    """Bytes of a GPU at most so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
