"""All runs, the newest first: one model on one plan each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from estbench.database.queries import RunRow
from estbench_leaderboard import profile, public
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.site import Content, Request
from estbench_leaderboard.snapshot import Model

ROWS = 50
LONGEST = 200  # characters of a filter
HEADER = ("run", "model", "fingerprint", "created", "seconds", "partial", "badge", "submitter", "suites", "tasks")


def page(request: Request) -> Content:
    """A page of the list, of one model or task if asked for."""
    wanted = {key: _filter(request.parameters, key) for key in ("model", "task")}
    rows = [row for row in public.runs(request.snapshot).values() if _kept(request, row, wanted)]
    number = page_number(request.parameters, max(1, math.ceil(len(rows) / ROWS)))
    shown = rows[(number - 1) * ROWS : number * ROWS]
    known = [(key, value) for key, value in wanted.items() if value]
    decided = request.snapshot.hidden
    t = request.t
    return Content(
        template="runs.html",
        values={
            "rows": [(row, of_run(request, row)) for row in shown],
            "badge_of": decided.badge,
            "wanted": wanted,
            "total": len(rows),
            "number": number,
            "pages": max(1, math.ceil(len(rows) / ROWS)),
            "tasks": sorted({task for row in request.snapshot.runs.values() for task in row.tasks}),
            "query": urlencode(known),
        },
        json={
            "total": len(rows),
            "page": number,
            "pages": max(1, math.ceil(len(rows) / ROWS)),
            "runs": [dict(zip(HEADER, _cells(request, row), strict=True)) for row in shown],
        },
        table=(HEADER, [[_joined(cell) for cell in _cells(request, row)] for row in rows]),
        title=t("run.list.title"),
        description=t("run.list.description"),
        canonical=_canonical(known, number),
    )


def _canonical(known: list[tuple[str, str]], number: int) -> str:
    pairs = [*known, *([("page", str(number))] if number > 1 else [])]
    return f"?{urlencode(pairs)}" if pairs else ""


def _filter(parameters: Mapping[str, str], key: str) -> str:
    value = parameters.get(key, "").strip()
    if len(value) > LONGEST or not value.isprintable():
        raise BadRequest(key, value)
    return value


def page_number(parameters: Mapping[str, str], pages: int) -> int:
    """`page` of the URL; BadRequest where there is no such page."""
    text = parameters.get("page", "").strip() or "1"
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text) or int(text) > pages:
        raise BadRequest("page", text)
    return int(text)


def _kept(request: Request, row: RunRow, wanted: Mapping[str, str]) -> bool:
    if wanted["task"] and wanted["task"] not in row.tasks:
        return False
    if not wanted["model"]:
        return True
    model = of_run(request, row)
    return wanted["model"] in (row.model, row.fingerprint, model.slug if model else None)


def of_run(request: Request, row: RunRow) -> Model | None:
    """The model of a run; None where none of its tasks is on a board."""
    found = [model for model in request.snapshot.everywhere(row.fingerprint) if model.fingerprint == row.fingerprint]
    return found[0] if found else profile.find(request.snapshot, row.fingerprint)


def _cells(request: Request, row: RunRow) -> list[Any]:
    decided = request.snapshot.hidden
    shown = [task for task in row.tasks if decided.shows_task(task)]
    head = [row.id, row.model, row.fingerprint, row.created, row.seconds, row.partial]
    return [*head, decided.badge(row.id), decided.submitter(row.id), row.suites, shown]


def _joined(cell: Any) -> Any:
    return " ".join(map(str, cell)) if isinstance(cell, list) else cell
