"""The board: who is ahead on what, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from estbench_leaderboard import board
from estbench_leaderboard.charts import pareto
from estbench_leaderboard.query import ROWS, SIZES, Query
from estbench_leaderboard.site import Content, Request
from estbench_leaderboard.view import SIGNS, View, chosen, default_weights


def page(request: Request) -> Content:
    """The board under the query that the URL holds."""
    query = _query(request)
    found = board.page(request.snapshot, query)
    view = View(request, found)
    today = max((model.created for model in found.board.models.values()), default="")
    canonical = query.url() if query.parameters() else ""
    return Content(
        template="board.html",
        values={
            "found": found,
            "query": query,
            "view": view,
            "signs": SIGNS,
            "sizes": tuple(SIZES),
            "rows": ROWS,
            "plot": pareto.draw(found, request.language),
            "today": today,
            "link": f"{request.site.base_url}{request.url('board')}{canonical}",
        },
        json=lambda: as_data(found),
        table=lambda: _table(found),
        title=request.t("board.title"),
        description=request.t("board.description"),
        canonical=canonical,
    )


def _query(request: Request) -> Query:
    """The query; weights that a form without JavaScript sends one by one become its `tasks`."""
    parameters: Mapping[str, str] = request.parameters
    if any(key.startswith("w.") for key in parameters):
        rest = {key: value for key, value in parameters.items() if not key.startswith("w.")}
        own = board.board_of(request.snapshot, Query.read(rest))
        tasks = chosen(parameters.items())
        parameters = {**rest, "tasks": "" if tasks == default_weights(own) else tasks}
    return Query.read(parameters)


def as_data(found: board.Page) -> dict[str, Any]:
    """The page as plain data: all rows that the query leaves, not those of one page only."""
    return {
        "board": found.board.name,
        "version": found.snapshot.version,
        "query": dict(found.query.parameters()),
        "weights": found.weights,
        "columns": [
            {
                "key": column.key,
                "kind": column.kind,
                "tasks": [task.name for task in column.tasks],
                "weight": column.weight,
                "chance": column.chance,
                "unit": column.unit,
                "higher_is_better": column.higher_is_better,
            }
            for column in found.columns
        ],
        "rows": [_row(row) for row in found.every],
    }


def _row(row: board.Row) -> dict[str, Any]:
    model, ranked = row.model, row.ranked
    return {
        "model": model.slug,
        "name": model.name,
        "fingerprint": model.fingerprint,
        "badge": model.badge,
        "submitter": model.submitter,
        "attempts": model.attempts,
        "parameters": model.parameters,
        "tokens_per_word": model.tokens_per_word,
        "facts": dict(model.facts),
        "created": model.created,
        "unranked": row.unranked,
        "rank": None
        if ranked is None
        else {
            "low": ranked.rank_low,
            "high": ranked.rank_high,
            "class": ranked.klass,
            "score": ranked.score,
            "ci_low": ranked.low,
            "ci_high": ranked.high,
            "judge": row.judge,
            "p_best": ranked.p_best,
            "missing": list(ranked.missing),
        },
        "scores": {
            key: {
                "value": value.value,
                "ci_low": value.low,
                "ci_high": value.high,
                "judge": value.judge,
                "reason": value.reason,
                "flags": list(value.flags),
                "runs": sorted({cell.run for cell in value.cells if cell.run}),
            }
            for key, value in row.cells.items()
        },
    }


def _table(found: board.Page) -> tuple[list[str], list[list[Any]]]:
    header = [
        "model",
        "name",
        "badge",
        "parameters",
        "rank_low",
        "rank_high",
        "class",
        "score",
        "score_low",
        "score_high",
        "score_judge",
    ]
    for column in found.columns:
        header += [column.key, *(f"{column.key}_{part}" for part in ("low", "high", "judge", "note"))]
    rows = []
    for row in found.every:
        ranked = row.ranked
        places = (
            [None] * 7
            if ranked is None
            else [ranked.rank_low, ranked.rank_high, ranked.klass, ranked.score, ranked.low, ranked.high, row.judge]
        )
        cells: list[Any] = []
        for value in row.cells.values():
            note = " ".join((*filter(None, [value.reason]), *value.flags))
            cells += [value.value, value.low, value.high, value.judge, note]
        rows.append([row.model.slug, row.model.name, row.model.badge, row.model.parameters, *places, *cells])
    return header, rows
