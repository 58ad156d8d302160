"""Size against score, and the front: models that no smaller model beats.

draw(board.page(snapshot, query), language)     # SVG, "" where there are no two models to draw
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from estbench_leaderboard import board
from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts import svg
from estbench_leaderboard.charts.svg import ACCENT, INK, PAPER, QUIET, Scale, element, line, path, text
from estbench_leaderboard.judging import named
from estbench_leaderboard.shown import line as in_line

WIDTH, HEIGHT = 900, 472
LEFT, RIGHT, TOP, BOTTOM = 46, 884, 80, 424
LETTER = 6.3  # width of a letter of a name, about
TALL = 15  # height of a line of names
LONGEST = 34  # letters of a name
SPARE = 0.06  # of the range, free above and below


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the figure; the score is from 0 to 100."""

    name: str
    size: int
    score: float
    low: float
    high: float
    front: bool


Box = tuple[float, float, float, float]  # left, top, right, bottom


def points(page: board.Page) -> list[Point]:
    """The ranked models that the query leaves and whose size is known, the smallest first."""
    rows = [(row.model.parameters, row.ranked, row.model.name) for row in page.every]
    known = [(size, ranked, name) for size, ranked, name in rows if size and ranked]
    found, best = [], float("-inf")
    for size, ranked, name in sorted(known, key=lambda one: (one[0], -one[1].score)):
        low, high = (100 * (ranked.score if end is None else end) for end in (ranked.low, ranked.high))
        found.append(Point(in_line(name, LONGEST), size, 100 * ranked.score, low, high, ranked.score > best))
        best = max(best, ranked.score)
    return found


def draw(page: board.Page, language: Language) -> str:
    """The figure of the rows that the query leaves."""
    found = points(page)
    if len(found) < 2:
        return ""
    x, y = _scales(found)
    front = [point for point in found if point.front]
    parts = [*_axes(x, y, language, page.judge), path(_steps(front, x, y), ACCENT, 1.5)]
    parts += [_mark(point, x, y, language) for point in sorted(found, key=lambda point: point.front)]
    parts += _names(front, x, y)
    t = language.t
    description = t("board.plot.description", n=len(found), names=", ".join(point.name for point in front))
    return svg.figure(WIDTH, HEIGHT, parts, title=t("board.plot.title"), description=description)


def _scales(found: list[Point]) -> tuple[Scale, Scale]:
    sizes = [point.size for point in found]
    low, high = min(point.low for point in found), max(point.high for point in found)
    spare = SPARE * (high - low) or 1.0
    return (
        Scale(min(sizes) / 1.5, max(sizes) * 1.5, LEFT, RIGHT, logarithmic=True),
        Scale(max(low - spare, -100.0), high + spare, BOTTOM, TOP),
    )


def _steps(front: list[Point], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """The best score that a model of at most this size has."""
    steps: list[tuple[float, float]] = []
    for point in front:
        if steps:
            steps.append((x(point.size), steps[-1][1]))
        steps.append((x(point.size), y(point.score)))
    return [*steps, (RIGHT, steps[-1][1])]


def _axes(x: Scale, y: Scale, language: Language, judge: str | None) -> list[str]:
    parts = []
    for tick in svg.ticks(y.low, y.high):
        parts.append(line(LEFT, y(tick), RIGHT, y(tick)))
        parts.append(text(LEFT - 8, y(tick) + 4, language.decimal(tick, 0 if tick == int(tick) else 1), anchor="end"))
    for tick in _sizes(x):
        parts.append(line(x(tick), BOTTOM, x(tick), BOTTOM + 5, QUIET))
        parts.append(text(x(tick), BOTTOM + 20, language.parameters(round(tick))))
    parts.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, QUIET))
    parts.append(text(RIGHT, BOTTOM + 40, language.t("board.plot.x"), anchor="end", fill=INK))
    parts.append(text(LEFT - 30, 18, named(language.t, language.t("board.plot.y"), judge), anchor="start", fill=INK))
    return parts


def _sizes(x: Scale) -> Iterator[float]:
    """1, 3, 10, 30 …; more of them where the sizes are close to each other."""
    factors = (1.0, 3.0) if x.high / x.low > 30 else (1.0, 2.0, 3.0, 5.0, 7.0)
    for power in range(3, 15):
        yield from (tick for factor in factors if x.low <= (tick := factor * 10.0**power) <= x.high)


def _mark(point: Point, x: Scale, y: Scale, language: Language) -> str:
    at, level = x(point.size), y(point.score)
    words = element("title", svg.escaped(f"{point.name}: {language.decimal(point.score)}"))
    if not point.front:
        return element("circle", words, cx=at, cy=level, r=3.5, fill=QUIET, fill_opacity=0.45)
    whisker = line(at, y(point.low), at, y(point.high), ACCENT, 1.5)
    return whisker + element("circle", words, cx=at, cy=level, r=5, fill=ACCENT, stroke=PAPER, stroke_width=1.5)


def _names(front: list[Point], x: Scale, y: Scale) -> list[str]:
    """Names of the front, above it, where nothing else is; a name that finds no room is left out."""
    taken: list[Box] = [(x(p.size) - 6, y(p.score) - 6, x(p.size) + 6, y(p.score) + 6) for p in front]
    parts = []
    for point in reversed(front):
        at, level, width = x(point.size), y(point.score), len(point.name) * LETTER
        for anchor, base in itertools.product(("start", "end"), (level - 11 - lines * TALL for lines in range(6))):
            left = at - 3 if anchor == "start" else at + 3 - width
            name, string = (left, base - 11, left + width, base + 4), (at - 2, base + 4, at + 2, level - 7)
            boxes = [name, string] if level - base > TALL else [name]
            inside = left >= LEFT and name[2] <= WIDTH and name[1] >= 20
            if inside and not any(_overlap(one, other) for one in boxes for other in taken):
                taken += boxes
                parts += [line(at, level - 7, at, base + 4, QUIET, 0.75)] if len(boxes) > 1 else []
                place = at - 3 if anchor == "start" else at + 3
                parts.append(text(place, base, point.name, anchor=anchor, size=12, fill=INK))
                break
    return parts


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
