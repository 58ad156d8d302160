"""The board: who is ahead on what, and how sure that is."""

from __future__ import annotations

import itertools
from typing import Any

from estbench_leaderboard import board
from estbench_leaderboard.charts import pareto
from estbench_leaderboard.query import SIZES, Query, tasks_text
from estbench_leaderboard.site import Content, Request
from estbench_leaderboard.skills import PRESETS
from estbench_leaderboard.snapshot import BOARDS, Model


def page(request: Request) -> Content:
    """The board under the query that the URL holds."""
    query = Query.read(request.parameters)
    found = board.page(request.snapshot, query)
    t = request.t
    today = max((model.created for model in found.board.models.values()), default="")
    path = request.url("board")
    canonical = query.url() if query.parameters() else ""
    return Content(
        template="board.html",
        values={
            "found": found,
            "query": query,
            "bare": Query(board=query.board, view=query.view, preset=query.preset),
            "boards": BOARDS,
            "presets": tuple(PRESETS),
            "offered": _offered(found),
            "sizes": tuple(SIZES),
            "groups": _groups(found),
            "summary": _summary(request, found),
            "chosen": tasks_text(query.tasks) or ",".join(found.weights),
            "plot": pareto.draw(found, request.language),
            "quote": _quote(request, found, today),
            "today": today,
            "link": f"{request.site.base_url}{path}{canonical}",
            "price": lambda model: _price(request, model),
            "tenths": lambda share: request.language.count(round(10 * share)),
        },
        json=as_data(found),
        table=_table(found),
        title=t("board.title"),
        description=t("board.description"),
        canonical=canonical,
    )


def _offered(found: board.Page) -> set[str]:
    """The presets for which the board has tasks."""
    skills = {task.skill for task in found.board.tasks.values()}
    return {name for name, wanted in PRESETS.items() if not wanted or skills & set(wanted)}


def _groups(found: board.Page) -> list[tuple[int, list[board.Row]]]:
    """The rows by class, where they are in the order of ranks; else all as one group, which has no name: 0."""
    if found.query.sort != "rank" or found.query.order:
        return [(0, list(found.rows))]
    groups = itertools.groupby(found.rows, key=lambda row: row.ranked.klass if row.ranked else 0)
    return [(klass, list(rows)) for klass, rows in groups]


def _summary(request: Request, found: board.Page) -> str:
    """Who is ahead, in a sentence."""
    rows = found.ranking.rows if found.ranking else ()
    first = [row for row in rows if row.klass == 1]
    if not first:
        return request.t("board.summary.none")
    name = found.board.models[first[0].model].name
    if len(first) == 1:
        return request.t("board.summary.alone", name=name, n=len(rows))
    return request.t("board.summary.some", name=name, n=len(first))


def _quote(request: Request, found: board.Page, today: str) -> str:
    """One sentence to quote, with its uncertainty."""
    if not found.ranking or not found.ranking.rows:
        return request.t("board.cite.none")
    first, language = found.ranking.rows[0], request.language
    return request.t(
        "board.cite.quote",
        date=language.date(today),
        name=found.board.models[first.model].name,
        score=language.score(first.score, "corrected"),
        interval=language.interval(first.low, first.high, "corrected") or "–",
        rank=rank_words(request, first.rank_low, first.rank_high, found.ranked),
    )


def rank_words(request: Request, low: int, high: int, total: int) -> str:
    """A rank with its range in words."""
    key = "exact" if low == high else "open" if low == 1 and high >= total else "top" if low == 1 else "range"
    return (
        request.t(f"rank.{key}", place=request.language.places(low, high)) if key != "open" else request.t("rank.open")
    )


def _price(request: Request, model: Model) -> str:
    """What a million tokens cost, in and out."""
    prices = [model.facts.get("price_in"), model.facts.get("price_out")]
    if not all(isinstance(price, int | float) for price in prices):
        return "–"
    ends = [request.language.decimal(float(price), 2) for price in prices if price is not None]
    return request.t("board.price", **{"in": ends[0], "out": ends[1]})


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
            "p_best": ranked.p_best,
            "missing": list(ranked.missing),
        },
        "scores": {
            key: {
                "value": value.value,
                "ci_low": value.low,
                "ci_high": value.high,
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
    ]
    for column in found.columns:
        header += [column.key, f"{column.key}_low", f"{column.key}_high", f"{column.key}_note"]
    rows = []
    for row in found.every:
        ranked = row.ranked
        places = (
            [None] * 6
            if ranked is None
            else [ranked.rank_low, ranked.rank_high, ranked.klass, ranked.score, ranked.low, ranked.high]
        )
        cells: list[Any] = []
        for value in row.cells.values():
            cells += [value.value, value.low, value.high, " ".join((*filter(None, [value.reason]), *value.flags))]
        rows.append([row.model.slug, row.model.name, row.model.badge, row.model.parameters, *places, *cells])
    return header, rows
