"""What a recipe would take, before anything starts: tokens, FLOPs, memory of each GPU, GPU-hours on a named machine.

    plan = of(recipe, machine="lumi", gpus=256)
    show(plan, output=None)                      # a table on a terminal, JSON on a pipe

Nothing is fetched or loaded: the model's shape comes from its config.json where that is here, and from a table of the
bases that our recipes name where it isn't. What depends on rows that are not built yet is unknown, and said to be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from estbench import report
from estbench.errors import ModelError
from estbench_training import stages
from estbench_training.cpt import flops
from estbench_training.cpt.flops import Shape
from estbench_training.cpt.logs import duration
from estbench_training.machines import CONFIGS, GIB, Machine, machine_of
from estbench_training.memory import Memory
from estbench_training.recipe import Recipe, Stage
from estbench_training.work import work_of

Span = tuple[float, float]


@dataclass(frozen=True)
class StagePlan:
    """What a stage would take. None: not known before it runs, `note` says why."""

    stage: str
    kind: str
    model: str | None  # what it starts from
    parameters: int | None = None
    tokens: int | None = None
    steps: int | None = None
    flops: float | None = None
    memory: Memory | None = None  # of each device
    fits: bool | None = None
    host_memory: float | None = None  # bytes of a node's own memory, at most
    evaluating: float | None = None  # bytes of the first device while it evaluates; None: it doesn't
    hours: Span | None = None  # device-hours, at the upper and at the lower end of the machine's utilisation
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What a recipe would take on a machine."""

    recipe: str
    base: str | None
    machine: Machine
    gpus: int
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> Span:
        """Device-hours of all stages whose hours are known."""
        known = [stage.hours for stage in self.stages if stage.hours is not None]
        return sum(low for low, _ in known), sum(high for _, high in known)

    def as_row(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "recipe": self.recipe,
            "base": self.base,
            "machine": asdict(self.machine),
            "gpus": self.gpus,
            "stages": [_stage_row(stage, self.gpus) for stage in self.stages],
            "gpu_hours": list(self.hours),
        }

    def as_text(self) -> str:
        """The plan for a terminal."""
        return "\n".join(_lines(self))


def of(recipe: Recipe, *, machine: str | None = None, gpus: int | None = None, only: Sequence[str] = ()) -> Plan:
    """The plan of a recipe, or of the stages named in `only` and what they need.

    Args:
        machine: laptop, lumi, leonardo, h100 or h200; by default the recipe's.
        gpus: devices that work together; by default those of one node.
    """
    found = machine_of(machine or recipe.head.machine)
    count = gpus or found.per_node
    planned = tuple(_stage(recipe, stage, found, count) for stage in wanted(recipe, only))
    return Plan(recipe.name, recipe.head.base, found, count, planned)


def wanted(recipe: Recipe, only: Sequence[str] = ()) -> list[Stage]:
    """The stages named in `only` and what they need, in order; all if none is named."""
    names = stages.closure(recipe, only) if only else {stage.name for stage in recipe.stages}
    return [stage for stage in recipe.stages if stage.name in names]


def shape_of(recipe: Recipe, stage: Stage) -> Shape | None:
    """The shape of the model that a stage starts from; None where it isn't known here.

    No stage changes it but for the rows of the embeddings: those are as many as the newest vocab stage says.
    """
    rows: int | None = None
    model = recipe.model_before(stage)
    while model is not None and model in (earlier.name for earlier in recipe.stages):
        made_by = recipe.stage(model)
        rows = rows or made_by.settings.vocabulary()
        model = recipe.model_before(made_by)
    found = None if model is None else _shape_from_outside(recipe, model)
    return replace(found, vocab=rows) if found and rows else found


def _shape_from_outside(recipe: Recipe, model: str) -> Shape | None:
    from estbench.checkpoint import Checkpoint, find

    inside = recipe.path(model)
    try:
        if inside.is_dir():
            return flops.shape(Checkpoint(inside, model).config)
        return flops.shape(CONFIGS[model] if model in CONFIGS else find(model, fetch=False).config)
    except ModelError:  # not here, or of a build whose arithmetic isn't known
        return None


def rows_of(recipe: Recipe, stage: Stage) -> int | None:
    """The rows that a stage learns from at most, if all that it reads are stages that say how many they make."""
    stages_by_name = {earlier.name: earlier.settings for earlier in recipe.stages}
    sources = getattr(stage.settings, "sources", ())
    limits: list[int | None] = [getattr(stages_by_name.get(name), "rows", None) for name in sources]
    known = [limit for limit in limits if limit is not None]
    return sum(known) if known and len(known) == len(limits) else None


def show(plan: Plan, output: str | None) -> None:
    """Print it: a table on a terminal, JSON on a pipe."""
    if output == "json" or (output is None and not sys.stdout.isatty()):
        print(report.as_json(plan.as_row()))
    else:
        print(plan.as_text())


def _stage(recipe: Recipe, stage: Stage, machine: Machine, gpus: int) -> StagePlan:
    model = recipe.model_before(stage) if stage.needs_model else None
    begun = StagePlan(stage.name, stage.kind.name, model)
    work, size = work_of(stage.settings, rows_of(recipe, stage)), shape_of(recipe, stage)
    if work is None:
        return replace(begun, note="trains nothing, so its time isn't planned")
    begun = replace(begun, tokens=work.tokens, steps=work.steps)
    notes = [work.note, work.undivided(gpus)]
    if size is None:
        return replace(begun, note=_joined([f"{model} isn't here, so its size is unknown", *notes]))
    need, arithmetic = work.memory(size, machine, gpus), work.flops(size)
    fits = need.fits(machine.memory)
    return replace(
        begun,
        parameters=size.parameters,
        flops=arithmetic,
        memory=need,
        fits=fits,
        host_memory=work.host(size, machine, gpus),
        evaluating=work.evaluating(size, machine, gpus),
        hours=None if arithmetic is None else machine.hours(arithmetic),
        note=_joined([*notes, "" if fits else work.cure(size, machine, gpus), work.other_room(size, machine, gpus)]),
    )


def _joined(notes: Sequence[str]) -> str:
    return "; ".join(note for note in notes if note)


def _stage_row(stage: StagePlan, gpus: int) -> dict[str, Any]:
    row = {key: value for key, value in asdict(stage).items() if key not in ("memory", "hours")}
    row["memory"] = None if stage.memory is None else asdict(stage.memory) | {"total": stage.memory.total}
    row["gpu_hours"] = None if stage.hours is None else list(stage.hours)
    row["wall_hours"] = None if stage.hours is None else [hours / gpus for hours in stage.hours]
    return row


def _lines(plan: Plan) -> Iterator[str]:
    machine = plan.machine
    yield f"{plan.recipe}: from {plan.base or 'no base'}, on {plan.gpus} × {machine.device} ({machine.name})"
    yield ""
    columns = {"stage": "stage", "kind": "kind", "model": "starts from", "parameters": ">parameters"}
    columns |= {"tokens": ">tokens", "steps": ">steps", "flops": ">FLOPs", "memory": ">GiB/device"}
    columns |= {"hours": ">device-hours", "time": ">time"}
    yield report.listing([_cells(stage, plan.gpus) for stage in plan.stages], columns)
    yield ""
    for stage in plan.stages:
        if stage.memory is not None:
            parts = ", ".join(f"{name} {_gib(value)}" for name, value in asdict(stage.memory).items())
            yield f"{stage.stage}: memory of a device in GiB: {parts}"
            yield f"{stage.stage}: {_others(stage, machine)}"
    yield from (f"{stage.stage}: {stage.note}" for stage in plan.stages if stage.note)
    low, high = machine.mfu
    peak = f"{machine.peak / 1e12:,.1f} TFLOP/s" if machine.peak >= 1e12 else f"{machine.peak / 1e9:,.0f} GFLOP/s"
    yield f"Assumed: {100 * low:.0f} to {100 * high:.0f} % of {peak} a device ({machine.assumption})."


def _others(stage: StagePlan, machine: Machine) -> str:
    host = f"of a node's {machine.host / GIB:,.0f} GiB {_gib(stage.host_memory or 0)} to read and write the model"
    if stage.evaluating is None:
        return host
    return f"{host}; while it evaluates, {_gib(stage.evaluating)} GiB of the first device"


def _cells(stage: StagePlan, gpus: int) -> dict[str, Any]:
    cells: dict[str, Any] = {"stage": stage.stage, "kind": stage.kind, "model": stage.model}
    for name in ("parameters", "tokens", "steps"):
        value = getattr(stage, name)
        cells[name] = None if value is None else f"{value:,}"
    if stage.flops is not None:
        cells["flops"] = f"{stage.flops:.2e}"
    if stage.memory is not None:
        cells["memory"] = f"{_gib(stage.memory.total)}{'' if stage.fits else ' (too much)'}"
    if stage.hours is not None:
        cells["hours"] = _span([f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}" for hours in stage.hours])
        cells["time"] = _span([duration(3600 * hours / gpus) for hours in stage.hours])
    elif "unknown" in stage.note:
        cells["hours"] = "unknown"
    return cells


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= 0.1 * GIB else f"{size / GIB:.2g}"


def _span(ends: Sequence[str]) -> str:
    return ends[0] if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"
