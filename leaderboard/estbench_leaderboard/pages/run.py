"""A run: its manifest in parts that can be read, its scores, the command that makes it again, and its documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from estbench import judged, report
from estbench.database import queries
from estbench.runs import Score
from estbench_leaderboard import answers, judging, profile, public
from estbench_leaderboard.answers import ORDERS, Documents
from estbench_leaderboard.errors import BadRequest, Gone, NotFound, Withheld
from estbench_leaderboard.pages.runs import of_run, page_number
from estbench_leaderboard.profile import OfRun
from estbench_leaderboard.shown import as_text, line
from estbench_leaderboard.site import Content, Request

HEADER = (*(field.name for field in dataclasses.fields(Score)), "judge")
DOCUMENTS = ("position", "doc", "doc_id", "cluster", "value", "parse_failure", "error", "answer")


def row_of(request: Request, run: str) -> queries.RunRow:
    """A run that may be seen; NotFound or Gone."""
    row = request.snapshot.runs.get(run)
    if row is None:
        raise NotFound("run", run)
    reason = request.snapshot.hidden.withdrawn(row.fingerprint)
    if reason is not None:
        raise Gone(row.model, reason)
    return row


def tasks_of(request: Request, run: str) -> dict[str, queries.TaskRow]:
    """The tasks of a run that are on the board."""
    rows = queries.tasks(request.site.database, run)
    return {row.task: row for row in rows if request.snapshot.hidden.shows_task(row.task)}


def shows_items(request: Request, row: queries.TaskRow) -> bool:
    """Whether documents of a task of a run may be seen."""
    return public.shows_items(request.snapshot, row.task, row.publish_items, row.card or {})


def page(request: Request, run: str) -> Content:
    """The page of a run; with `task` also a page of its documents."""
    row = row_of(request, run)
    tasks = tasks_of(request, run)
    found = profile.of_run(request, row)
    shown = request.snapshot.hidden.shows_task
    scores = [own.score for own in queries.scores(request.site.database, runs=[run]) if shown(own.score.task)]
    documents = _documents(request, run, tasks, scores)
    named = {name: request.language.pick((task.card or {}).get("title")) or name for name, task in tasks.items()}
    places = [judging.Place(run, name, line(title), request.url("task", task=name)) for name, title in named.items()]
    numbers = judging.beside(request, [place for place in places if "judge" in (tasks[place.task].card or {})])
    open_tasks = [name for name, task in tasks.items() if task.n and shows_items(request, task)]
    t = request.t
    return Content(
        template="run.html",
        values={
            "row": row,
            "found": found,
            "model": of_run(request, row),
            "badge": request.snapshot.hidden.badge(run),
            "submitter": request.snapshot.hidden.submitter(run),
            "tasks": tasks,
            "scores": [score for score in scores if "/" not in score.metric],
            "groups": [score for score in scores if "/" in score.metric],
            "skipped": {name: why for name, why in found.skipped.items() if shown(name)},
            "open_tasks": open_tasks,
            "judged": numbers,
            "documents": documents,
            "orders": ORDERS,
            "sections": sections(request, found),
            "absolute": request.site.base_url + request.url("run", run=run),
        },
        json=as_data(request, found, tasks, scores, documents) | {"judged": numbers},
        table=_table(scores, documents),
        title=t("run.title", model=row.model, date=request.language.date(row.created)),
        description=t("run.description", model=row.model, n=len(tasks), date=request.language.date(row.created)),
        canonical=""
        if documents is None
        else "?" + urlencode({"task": documents.task, "order": documents.order, "page": documents.page}),
    )


def _documents(
    request: Request, run: str, tasks: Mapping[str, queries.TaskRow], scores: Sequence[Score]
) -> Documents | None:
    name = request.parameters.get("task", "").strip()
    order = request.parameters.get("order", "").strip() or ORDERS[0]
    if order not in ORDERS:
        raise BadRequest("order", order)
    if not name:
        return None
    if name not in tasks:
        raise NotFound("task", name)
    if not shows_items(request, tasks[name]):
        raise Withheld(name)
    score = next((score for score in scores if score.task == name and score.primary), None)
    if score is None:
        raise NotFound("task", name)
    number = page_number(request.parameters, max(1, -(-tasks[name].n // answers.ROWS)))
    return answers.listed(request.site.database, run, name, score, order, number)


def sections(request: Request, found: OfRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """The manifest in parts: (title, rows of name and value)."""
    manifest = found.manifest
    made = []
    for key in ("identity", "model", "engine", "versions"):
        record = profile.part(manifest, key)
        rows = [(name, as_text(value)) for name, value in _flat(record) if name not in ("training", "card")]
        made.append((request.t(f"run.part.{key}"), rows))
    return [(title, rows) for title, rows in made if rows]


def _flat(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Parts of parts, with dots in their names; what is not known is left out."""
    rows: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, Mapping) and name not in ("training", "card"):
            rows += [(f"{name}.{inner}", part) for inner, part in value.items() if part is not None]
        elif value is not None:
            rows.append((name, value))
    return rows


def as_data(
    request: Request,
    found: OfRun,
    tasks: Mapping[str, queries.TaskRow],
    scores: Sequence[Score],
    documents: Documents | None,
) -> dict[str, Any]:
    """The page as plain data."""
    row = found.row
    shown = request.snapshot.hidden.shows_task
    manifest = dict(found.manifest)
    for key in ("tasks", "skipped"):
        manifest[key] = {name: card for name, card in profile.part(manifest, key).items() if shown(name)}
    return {
        "run": row.id,
        "model": row.model,
        "fingerprint": row.fingerprint,
        "created": row.created,
        "badge": request.snapshot.hidden.badge(row.id),
        "submitter": request.snapshot.hidden.submitter(row.id),
        "command": found.command,
        "tasks": [
            {"task": task.task, "n": task.n, "n_planned": task.n_planned, "documents_shown": shows_items(request, task)}
            for task in tasks.values()
        ],
        "scores": [dict(zip(HEADER, _cells(score), strict=True)) for score in scores],
        "manifest": manifest,
        "documents": None
        if documents is None
        else {
            "task": documents.task,
            "metric": documents.metric,
            "judge": report.judge_of(score for score in scores if score.task == documents.task and score.primary),
            "order": documents.order,
            "page": documents.page,
            "pages": documents.pages,
            "total": documents.total,
            "rows": documents.rows,
        },
    }


def _table(scores: Sequence[Score], documents: Documents | None) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Scores, or the documents that are shown."""
    if documents is not None:
        return DOCUMENTS, [[getattr(row, name) for name in DOCUMENTS] for row in documents.rows]
    return HEADER, [_cells(score) for score in scores]


def _cells(score: Score) -> list[Any]:
    return [*(getattr(score, name) for name in HEADER[:-1]), judged.state(score)]
