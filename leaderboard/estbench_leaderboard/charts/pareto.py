"""Size against score, and the front: models of which none is both smaller and better.

draw(board.page(snapshot, query), language)     # SVG, "" where there are no two models to draw
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from estbench_leaderboard import board
from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts import svg

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 20, 52
NAMED = 12  # names beside points, at most
LETTER = 6.4  # width of a letter in a name, about


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the figure."""

    name: str
    size: int
    score: float
    low: float
    high: float
    front: bool


def draw(page: board.Page, language: Language) -> str:
    """The figure of the rows that the query leaves."""
    points = _points(page)
    if len(points) < 2:
        return ""
    sizes = [point.size for point in points]
    x = svg.Scale(min(sizes) / 1.4, max(sizes) * 1.4, LEFT, WIDTH - RIGHT, logarithmic=True)
    floor, ceiling = min(point.low for point in points), max(point.high for point in points)
    y = svg.Scale(max(floor - 2, min(floor, 0)), min(100, ceiling + 2), HEIGHT - BOTTOM, TOP)
    front = sorted((point for point in points if point.front), key=lambda point: point.size)
    t = language.t
    parts = [*_axes(x, y, language), svg.path([(x(point.size), y(point.score)) for point in front], svg.ACCENT, 1.5)]
    parts += [_mark(point, x, y) for point in points]
    parts += _names(points, x, y)
    description = t("board.plot.description", n=len(points), names=", ".join(point.name for point in front))
    return svg.figure(WIDTH, HEIGHT, parts, title=t("board.plot.title"), description=description)


def _points(page: board.Page) -> list[Point]:
    known = [
        (row.model.name, row.model.parameters, row.ranked)
        for row in page.every
        if row.ranked is not None and row.model.parameters
    ]
    found = []
    for name, size, ranked in known:
        front = not any(other <= size and rank.score > ranked.score for _, other, rank in known)
        ends = (ranked.score if end is None else end for end in (ranked.low, ranked.high))
        low, high = (100 * end for end in ends)
        found.append(Point(name, size, 100 * ranked.score, low, high, front))
    return found


def _axes(x: svg.Scale, y: svg.Scale, language: Language) -> list[str]:
    parts = []
    for tick in svg.ticks(y.low, y.high):
        parts.append(svg.line(LEFT, y(tick), WIDTH - RIGHT, y(tick)))
        parts.append(svg.text(LEFT - 8, y(tick) + 4, language.decimal(tick, 0), anchor="end"))
    exponents = [10.0**power * factor for power in range(3, 14) for factor in (1, 3)]
    for tick in (tick for tick in exponents if x.low <= tick <= x.high):
        parts.append(svg.line(x(tick), HEIGHT - BOTTOM, x(tick), HEIGHT - BOTTOM + 5, svg.QUIET))
        parts.append(svg.text(x(tick), HEIGHT - BOTTOM + 20, language.parameters(int(tick))))
    parts.append(svg.line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, svg.QUIET))
    parts.append(svg.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, language.t("board.plot.x")))
    parts.append(svg.text(LEFT, TOP - 7, language.t("board.plot.y"), anchor="start"))
    return parts


def _mark(point: Point, x: svg.Scale, y: svg.Scale) -> str:
    at, fill = x(point.size), svg.ACCENT if point.front else svg.PAPER
    whisker = svg.line(at, y(point.low), at, y(point.high), svg.ACCENT if point.front else svg.GRID, 1.5)
    stroke = svg.ACCENT if point.front else svg.QUIET
    words = svg.element("title", html.escape(point.name))
    return whisker + svg.element(
        "circle", words, cx=at, cy=y(point.score), r=5, fill=fill, stroke=stroke, stroke_width=1.5
    )


def _names(points: list[Point], x: svg.Scale, y: svg.Scale) -> list[str]:
    """Names of the front and of the best, where they do not lie on another name."""
    taken: list[tuple[float, float, float, float]] = []
    parts: list[str] = []
    for point in sorted(points, key=lambda point: (not point.front, -point.score)):
        name = point.name if len(point.name) <= 28 else f"{point.name[:27]}…"
        width = len(name) * LETTER
        left = x(point.size) + 9 if x(point.size) + 9 + width < WIDTH else x(point.size) - 9 - width
        box = (left, y(point.score) - 9, left + width, y(point.score) + 9)
        if len(parts) >= NAMED or any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        ink = svg.INK if point.front else svg.QUIET
        parts.append(svg.text(left, y(point.score) + 4, name, anchor="start", size=12, fill=ink))
    return parts


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
