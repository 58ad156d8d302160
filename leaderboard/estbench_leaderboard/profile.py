"""Everything that is known of one model, as one object that its page, its JSON and its CSV show.

    found = profile.of(request, model)
    found.boards[0].skills[0].value, found.runs[0].command, found.lineage

A model is its fingerprint: weights that were overwritten in place are another model, under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estbench.database import queries
from estbench.stats.ranks import Ranked
from estbench_leaderboard import board as boards
from estbench_leaderboard import public
from estbench_leaderboard.decided import Decision
from estbench_leaderboard.query import Query
from estbench_leaderboard.shown import as_text, fit
from estbench_leaderboard.site import Request
from estbench_leaderboard.snapshot import Model, Snapshot, Task

READ = 6  # runs whose manifests a page reads
LISTED = 50  # runs in the history
ENDINGS = ("truncated", "refused", "empty")  # of generated answers
FORWARDED = ("tokens_forwarded", "generation_tokens_forwarded")


@dataclass(frozen=True, slots=True)
class Line:
    """A skill or a task of a board, and what the model has there."""

    column: boards.Column
    value: boards.Value

    @property
    def task(self) -> Task:
        return self.column.tasks[0]


@dataclass(frozen=True, slots=True)
class Group:
    """A skill with its tasks. A skill without a line of its own does not count for the rank."""

    skill: str
    line: Line | None
    tasks: tuple[Line, ...]


@dataclass(frozen=True)
class OnBoard:
    """The model on one of its boards."""

    name: str
    model: Model
    ranked: Ranked | None
    unranked: str | None
    total: int  # models with a rank
    groups: tuple[Group, ...]
    judge: str | None = None  # whether judges gave some of what its rank is made of: uncalibrated, calibrated


@dataclass(frozen=True, slots=True)
class Failures:
    """What went wrong in a task of a run."""

    task: str
    run: str
    n: int
    n_planned: int
    parse_failures: int
    errors: int
    prompts_cut: int
    cut_off: int
    refused: int
    empty: int

    @property
    def any(self) -> bool:
        return any((self.parse_failures, self.errors, self.prompts_cut, self.cut_off, self.refused, self.empty))


@dataclass(frozen=True)
class OfRun:
    """A run as the model's page shows it."""

    row: queries.RunRow
    manifest: Mapping[str, Any]  # without places
    command: str
    skipped: dict[str, str]
    documents: int
    forwarded: int | None  # tokens that the engine computed
    generated: int | None  # tokens of the answers
    spent: str | None  # what an endpoint charged


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A step of how the model came to be."""

    stage: str
    name: str
    tokens: int | None
    fingerprint: str | None
    model: Model | None  # where it is on the board, too


@dataclass(frozen=True)
class Profile:
    """A model."""

    model: Model
    boards: tuple[OnBoard, ...]
    runs: tuple[OfRun, ...]  # those that scores come from, newest first
    failures: tuple[Failures, ...]
    history: tuple[queries.RunRow, ...]
    same_name: tuple[Model, ...]  # other weights under this name, newest first
    lineage: tuple[Ancestor, ...]
    parents: tuple[Ancestor, ...]  # other models that it was made of
    corrections: tuple[Decision, ...]


def find(snapshot: Snapshot, word: str) -> Model | None:
    """The model of a slug, then of a fingerprint, then of a name: nobody takes another's address by a name."""
    models = [model for board in snapshot.boards.values() for model in board.models.values()]
    for key in ("slug", "fingerprint", "name"):
        if found := [model for model in models if getattr(model, key) == word]:
            return max(found, key=lambda model: (model.ranked, model.created))
    return None


def of(request: Request, model: Model) -> Profile:
    """Put together what is known of a model."""
    snapshot = request.snapshot
    own = [row for row in snapshot.runs.values() if row.fingerprint == model.fingerprint]
    found = tuple(on for name in snapshot.boards if (on := _on(snapshot, name, model.fingerprint)) is not None)
    used = {cell.run for on in found for cell in on.model.cells.values() if cell.run}
    rows = sorted(own, key=lambda row: (row.created, row.id), reverse=True)
    runs = tuple(of_run(request, row) for row in [row for row in rows if row.id in used][:READ])
    return Profile(
        model=model,
        boards=found,
        runs=runs,
        failures=_failures(found, {run.row.id: run for run in runs}),
        history=tuple(rows[:LISTED]),
        same_name=_same_name(snapshot, model),
        lineage=tuple(_lineage(snapshot, model)),
        parents=tuple(_ancestors(snapshot, model, "parents")),
        corrections=tuple(
            decision
            for decision in snapshot.decisions
            if decision.model == model.fingerprint or decision.run in {row.id for row in own}
        ),
    )


def _on(snapshot: Snapshot, name: str, fingerprint: str) -> OnBoard | None:
    board = snapshot.boards[name]
    if not any(model.fingerprint == fingerprint for model in board.models.values()):
        return None
    skills = boards.page(snapshot, Query(board=name, all="yes", view="skills"))
    tasks = boards.page(snapshot, Query(board=name, all="yes", view="tasks"))
    row = next(row for row in skills.every if row.model.fingerprint == fingerprint)
    cells = next(other for other in tasks.every if other.model.slug == row.model.slug).cells
    lines = [Line(column, cells[column.key]) for column in tasks.columns]
    counted = {column.key: Line(column, row.cells[column.key]) for column in skills.columns}
    groups = [
        Group(skill, line, tuple(own for own in lines if own.task.skill == skill and own.task in line.column.tasks))
        for skill, line in counted.items()
    ]
    rest = [line for line in lines if line.column.weight == 0 and line.value.cells[0].reason != "not_run"]
    groups += [
        Group(skill, None, tuple(line for line in rest if line.task.skill == skill))
        for skill in dict.fromkeys(line.task.skill for line in rest)
    ]
    return OnBoard(name, row.model, row.ranked, row.unranked, skills.ranked, tuple(groups), row.judge)


def of_run(request: Request, row: queries.RunRow) -> OfRun:
    """A run with its manifest, fit to be seen. Whatever a bundle's manifest holds is taken as it comes."""
    manifest = fit(public.manifest(queries.manifest(request.site.database, row.id)))
    engine, tasks = part(manifest, "engine"), part(manifest, "tasks")
    cards = [card for card in tasks.values() if isinstance(card, Mapping)]
    cost = part(engine, "cost")
    answers = [_count(part(card, "endings"), "tokens") for card in cards]
    return OfRun(
        row=row,
        manifest=manifest,
        command=as_text(manifest.get("command") or ""),
        skipped={str(name): as_text(reason) for name, reason in part(manifest, "skipped").items()},
        documents=sum(_count(card, "n_planned") for card in cards),
        forwarded=sum(_count(engine, key) for key in FORWARDED) or None,
        generated=sum(answers) or None,
        spent=f"{cost['spent']} {cost.get('currency') or ''}".strip() if "spent" in cost else None,
    )


def part(record: Any, key: str) -> Mapping[str, Any]:
    """A part of a record that has to have parts itself; empty where it is something else."""
    found = record.get(key) if isinstance(record, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _count(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _failures(found: Sequence[OnBoard], runs: Mapping[str, OfRun]) -> tuple[Failures, ...]:
    rows = []
    for on in found:
        for task, cell in on.model.cells.items():
            if cell.run is None or cell.score is None:
                continue
            card = part(part(runs[cell.run].manifest if cell.run in runs else {}, "tasks"), task)
            ended = [_count(part(card, "endings"), key) for key in ENDINGS]
            score, cut = cell.score, _count(card, "truncated")
            counts = (score.n, score.n_planned, score.parse_failures, score.errors, cut)
            rows.append(Failures(task, cell.run, *counts, *ended))
    return tuple(row for row in rows if row.any)


def _same_name(snapshot: Snapshot, model: Model) -> tuple[Model, ...]:
    named = {
        other.fingerprint: other
        for board in snapshot.boards.values()
        for other in board.models.values()
        if other.name == model.name and other.fingerprint != model.fingerprint
    }
    return tuple(sorted(named.values(), key=lambda other: other.created, reverse=True))


def _lineage(snapshot: Snapshot, model: Model) -> list[Ancestor]:
    """From the first weights to the model itself, as its training card tells."""
    training, found = model.training or {}, _ancestors(snapshot, model, "lineage")
    if not found:
        return []
    if found[-1].fingerprint != model.fingerprint:
        stage = as_text(fit(training.get("stage") or training.get("kind") or ""))
        found.append(Ancestor(stage, model.name, _count(training, "tokens") or None, model.fingerprint, None))
    return found


def _ancestors(snapshot: Snapshot, model: Model, key: str) -> list[Ancestor]:
    """The models that a list of the training card names."""
    steps = (model.training or {}).get(key)
    return [
        _ancestor(snapshot, step) for step in (steps if isinstance(steps, list) else []) if isinstance(step, Mapping)
    ]


def _ancestor(snapshot: Snapshot, step: Mapping[str, Any]) -> Ancestor:
    fingerprint = step.get("fingerprint")
    known = (
        [other for other in snapshot.everywhere(fingerprint) if other.fingerprint == fingerprint]
        if isinstance(fingerprint, str)
        else []
    )
    name = as_text(fit(step.get("name") or (known[0].name if known else "?")))
    own = fingerprint if isinstance(fingerprint, str) else None
    stage = as_text(fit(step.get("stage") or ""))
    return Ancestor(stage, name, _count(step, "tokens") or None, own, known[0] if known else None)
