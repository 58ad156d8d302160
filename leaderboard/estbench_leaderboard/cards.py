"""The picture that goes with a link to a model: /kaart/MODEL.svg, /en/kaart/MODEL.svg, 1200 × 630.

It shows the name, the rank in words and the skills as bars with their intervals. It is SVG: to make PNG of it, which
many clients insist on, a converter such as `rsvg-convert` is needed.

    cards.svg(snapshot, model, language)
"""

from __future__ import annotations

from estbench_leaderboard.badges import picture
from estbench_leaderboard.board import Column, Page, Row, Value, page
from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts.svg import Scale, element, line, text
from estbench_leaderboard.judging import named
from estbench_leaderboard.query import Query
from estbench_leaderboard.snapshot import Model, Snapshot

WIDTH, HEIGHT = 1200, 630
LONGEST = 44  # signs of a name
MOST = 7  # skills
INK, QUIET, RULE, BAR, PAPER = "#1c2430", "#5b6675", "#d9dee5", "#0b5cad", "#ffffff"


def svg(snapshot: Snapshot, model: Model, language: Language) -> str:
    """The card of a model."""
    found = page(snapshot, Query(board=model.board, all="yes"))
    row = next(row for row in found.every if row.model is model)
    words = _words(found, row, language)
    name = model.name if len(model.name) <= LONGEST else f"{model.name[: LONGEST - 1]}…"
    parts = [
        element("rect", width=WIDTH, height=HEIGHT, fill=PAPER),
        element("rect", width=16, height=HEIGHT, fill=BAR),
        text(70, 84, language.t("feed.card", board=language.t(f"feed.board.{model.board}")), anchor="start", size=26),
        text(70, 158, name, anchor="start", size=min(60, round(1900 / max(len(name), 1))), fill=INK),
        text(70, 212, words, anchor="start", size=34, fill=BAR),
        line(70, 244, 1130, 244, RULE, 2),
        *_bars(found, row, language),
        text(1130, 606, language.date(model.created), anchor="end", size=20),
        text(70, 606, "estbench", anchor="start", size=20, fill=INK),
    ]
    return picture(WIDTH, HEIGHT, parts, f"{model.name}: {words}")


def _words(found: Page, row: Row, language: Language) -> str:
    if row.ranked is None:
        return language.t(f"feed.unranked.{row.unranked}")
    places = language.places(row.ranked.rank_low, row.ranked.rank_high)
    return named(language.t, language.t("feed.rank", places=places, total=found.ranked), row.judge)


def _bars(found: Page, row: Row, language: Language) -> list[str]:
    """Skills that have a score; one whose scale is not from 0 to 1 has no bar."""
    parts: list[str] = []
    if row.model.withdrawn is not None:
        return parts
    pairs = [(column, row.cells[column.key]) for column in found.columns]
    shown = [(column, value) for column, value in pairs if value.value is not None][:MOST]
    for place, (column, value) in enumerate(shown):
        parts += _bar(column, value, 292 + 42 * place, language)
    return parts


def _bar(column: Column, value: Value, y: float, language: Language) -> list[str]:
    top = {"proportion": 1.0, "points": 100.0, "corrected": 1.0}.get(column.unit)
    size = 18 if value.judge else 24  # the word that goes with it has to fit before the bar
    parts = [
        text(70, y, named(language.t, _title(column.key, language), value.judge), anchor="start", size=size, fill=INK),
        text(1130, y, language.score(value.value, column.unit), anchor="end", size=24, fill=INK),
    ]
    if top is None or value.value is None:
        return parts
    axis = Scale(0, top, 480, 1030)
    end = axis(min(max(value.value, 0.0), top))
    parts += [
        element("rect", x=480, y=y - 17, width=550, height=16, fill="#eef1f5"),
        element("rect", x=480, y=y - 17, width=round(end - 480, 2), height=16, fill=BAR),
    ]
    if value.low is not None and value.high is not None:
        low, high = (axis(min(max(one, 0.0), top)) for one in (value.low, value.high))
        parts.append(line(low, y - 9, high, y - 9, INK, 3))
    return parts


def _title(skill: str, language: Language) -> str:
    """A skill's name; one that the board does not know, from a task file of others, as it is written there."""
    key = f"skill.{skill}.title"
    return language.t(key) if language.has(key) else skill[:24]
