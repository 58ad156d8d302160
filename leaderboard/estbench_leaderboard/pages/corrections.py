"""The public log: what was hidden, corrected, marked, withdrawn or rejected, by whom and why."""

from __future__ import annotations

from typing import Any

from estbench_leaderboard.decided import Decision
from estbench_leaderboard.shown import line
from estbench_leaderboard.site import Content, Request

MOST = 500  # lines on the page; all are in the JSON and the CSV
FIELDS = ("id", "created", "actor", "action", "run", "model", "task", "submission", "reason", "details")


def page(request: Request) -> Content:
    """All public decisions, newest first."""
    t, snapshot = request.t, request.snapshot
    lines = [_line(request, decision) for decision in snapshot.decisions]
    rows = [[getattr(decision, name) for name in FIELDS] for decision in snapshot.decisions]
    return Content(
        template="corrections.html",
        values={"lines": lines[:MOST], "total": len(lines)},
        json={"corrections": [dict(zip(FIELDS, row, strict=True)) for row in rows]},
        table=(FIELDS, rows),
        title=t("corrections.title"),
        description=t("corrections.description"),
    )


def _line(request: Request, decision: Decision) -> dict[str, Any]:
    """A decision with links to what it is about, as far as that is still shown."""
    model = request.snapshot.model(decision.model) if decision.model else None
    about: list[tuple[str, str | None]] = []
    if decision.model:
        about.append(
            (model.name if model else decision.model[:12], request.url("model", slug=model.slug) if model else None)
        )
    if decision.run:
        shown = decision.run in request.snapshot.runs
        about.append((decision.run, request.url("run", run=decision.run) if shown else None))
    if decision.task:
        shown = request.snapshot.task(decision.task) is not None
        about.append((decision.task, request.url("task", task=decision.task) if shown else None))
    details = decision.details if isinstance(decision.details, dict) else {}
    if isinstance(name := details.get("model_name"), str):
        about.insert(0, (line(name), None))
    reply = details.get("reply")
    return {"decision": decision, "about": about, "reply": reply if isinstance(reply, str) else None}
