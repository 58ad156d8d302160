"""All tasks on the boards, by skill: what each measures, by what, what guessing gives, and how far models have come."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estbench import report
from estbench.references import VARIANTS
from estbench_leaderboard import public
from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.shown import as_text, fit, line
from estbench_leaderboard.site import Content, Request
from estbench_leaderboard.skills import SKILLS
from estbench_leaderboard.snapshot import Board, Model, Snapshot, Task

HEADER = (
    *("task", "board", "skill", "language", "title", "metric", "unit", "higher_is_better", "chance", "documents"),
    *("shots", "licence", "documents_shown", "models", "best", "best_low", "best_high", "best_model", "judge"),
)
OTHERS = "english"  # the group of tasks in other languages than Estonian


@dataclass(frozen=True, slots=True)
class Row:
    """A task of a board."""

    task: Task
    measured: int  # models with a score
    best: Model | None  # of the ranked ones


def page(request: Request) -> Content:
    """The list of tasks."""
    groups = grouped(request.snapshot)
    t = request.t
    return Content(
        template="tasks.html",
        values={"groups": groups, "about": about, "metric": metric_name, "open": shows_items, "short": line},
        json={
            "version": request.snapshot.version,
            "tasks": [dict(zip(HEADER, _cells(request, row), strict=True)) for rows in groups.values() for row in rows],
        },
        table=(HEADER, [_cells(request, row) for rows in groups.values() for row in rows]),
        title=t("task.list.title"),
        description=t("task.list.description"),
    )


def grouped(snapshot: Snapshot) -> dict[str, list[Row]]:
    """Skill -> its tasks; tasks in English come last, whatever they ask for."""
    found: dict[str, list[Row]] = defaultdict(list)
    for board in snapshot.boards.values():
        for task in board.tasks.values():
            found[skill_of(task) if task.estonian else OTHERS].append(_row(board, task))
    order = {name: place for place, name in enumerate((*SKILLS, OTHERS))}
    for rows in found.values():
        rows.sort(key=lambda row: (base(row.task.name), list(snapshot.boards).index(row.task.board), row.task.name))
    return dict(sorted(found.items(), key=lambda pair: order[pair[0]]))


def _row(board: Board, task: Task) -> Row:
    shown = [model for model in board.models.values() if model.withdrawn is None]
    scores = {model.slug: cell.score for model in shown if (cell := model.cells[task.name]).score is not None}
    measured = [slug for slug, score in scores.items() if score.value is not None]
    ranked = [board.models[slug] for slug in measured if counts(board.models[slug], task)]
    sign = 1 if task.higher_is_better else -1
    best = max(ranked, key=lambda model: sign * (scores[model.slug].value or 0.0), default=None)
    return Row(task, len(measured), best)


def counts(model: Model, task: Task) -> bool:
    """Whether a model's score in a task is ranked."""
    return model.ranked and model.cells[task.name].reason is None


def skill_of(task: Task) -> str:
    """The skill, one of ours: a task from outside may name any."""
    return task.skill if task.skill in SKILLS else "other"


def base(name: str) -> str:
    """The benchmark that a task is a form of."""
    for ending in VARIANTS:
        name = name.removesuffix(ending)
    return name


def about(language: Language, task: Task) -> str:
    """What a task measures, in one sentence."""
    key = f"task.about.{base(task.name)}"
    return language.t(key if language.has(key) else f"skill.{skill_of(task)}.sentence")


def metric_name(language: Language, metric: str) -> str:
    """A metric in words; our own name for it where nobody has written those."""
    key = f"task.metric.{metric}.name"
    return language.t(key) if language.has(key) else metric


def shows_items(snapshot: Snapshot, task: Task) -> bool:
    """Whether documents of a task may be shown. What a run says of them has to be asked besides."""
    return public.shows_items(snapshot, task.name, task.publish_items, task.card)


@functools.cache
def _registry() -> Mapping[str, Any]:
    from estbench.registry import Registry

    return Registry().tasks


def metadata(name: str) -> dict[str, Any]:
    """What the task's own file says that manifests lack: its citation and its version."""
    card = _registry().get(name)
    return {key: None if card is None else card.metadata.get(key) for key in ("citation", "version")}


def _cells(request: Request, row: Row) -> list[Any]:
    task, language = row.task, request.language
    score = row.best.cells[task.name].score if row.best else None
    licence = None if task.licence is None else fit(as_text(task.licence))
    head = [
        task.name,
        task.board,
        skill_of(task),
        task.language,
        line(language.pick(task.title)),
        task.metric,
        task.unit,
    ]
    middle = [
        task.higher_is_better,
        task.chance,
        task.n_docs,
        task.shots,
        licence,
        shows_items(request.snapshot, task),
        row.measured,
    ]
    best = [score.value, score.ci_low, score.ci_high] if score else [None] * 3
    return [*head, *middle, *best, row.best.slug if row.best else None, report.judge_of([score])]
