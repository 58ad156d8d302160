"""A line chart as SVG: axes, lines with their names at their ends, a line to reach.

    text = lines("What the gate sees", "Of 250 nights …", [Line("estcopa", [(0, 0.01), (5, 0.93)])], across="fall")

Values are shares, 0 to 1. Lines differ in colour and in how they are dashed, and each has its name beside it. Nothing
is loaded from elsewhere; names may come from anywhere. A dark scheme is followed where the viewer asks for one.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

from estbench.interchange.junit import ILLEGAL

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 820, 64, 230, 52, 56
HEIGHT = 420  # at least: many lines need more for their names
APART = 15  # between two names
LONGEST = 28  # characters of a name
COLOURS = (
    "#2f7fc1",
    "#c8641b",
    "#2f8f57",
    "#b4519e",
    "#8f7d1e",
    "#7a6fd0",
    "#d0495c",
    "#2b8c94",
)  # 3:1 on both grounds
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
STYLE = """
svg { --ground: #ffffff; --ink: #1f2328; --faint: #d8dee4; font: 13px system-ui, sans-serif }
@media (prefers-color-scheme: dark) { svg { --ground: #0d1117; --ink: #e6edf3; --faint: #30363d } }
.ground { fill: var(--ground) } text { fill: var(--ink) } .title { font-size: 15px; font-weight: 600 }
.grid { stroke: var(--faint) } .axis, .mark { stroke: var(--ink) } .mark { stroke-dasharray: 4 4 }
.line { fill: none; stroke-width: 2 } .lead { fill: none; stroke-width: 1; opacity: 0.6 } .strong { stroke-width: 4 }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A name and its points, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]
    strong: bool = False  # drawn thicker


def lines(
    title: str, description: str, given: Sequence[Line], *, across: str, up: str, reach: float | None = None
) -> str:
    """The SVG document. across, up: what the axes show; reach: a share that is marked. Lines without a point are left
    out."""
    drawn = [line for line in given if line.points]
    height = max(HEIGHT, TOP + BOTTOM + APART * len(drawn))
    most = max((x for line in drawn for x, _ in line.points), default=1.0) or 1.0
    size = {"viewBox": f"0 0 {WIDTH} {height}", "width": str(WIDTH), "height": str(height)}
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size,
                                       "aria-labelledby": "title description"})  # fmt: skip
    _add(root, "title", {"id": "title"}, title)
    _add(root, "desc", {"id": "description"}, description)
    _add(root, "style", {}, STYLE)
    _add(root, "rect", {"class": "ground", "width": str(WIDTH), "height": str(height)})
    _add(root, "text", {"class": "title", "x": str(LEFT), "y": "24"}, title)
    plot = _Plot(most, height)
    _axes(root, plot, across, up)
    if reach is not None:
        y = f"{plot.y(reach):.1f}"
        _add(root, "line", {"class": "mark", "x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": y, "y2": y})
    ends = sorted(range(len(drawn)), key=lambda at: plot.y(drawn[at].points[-1][1]))
    places = _spread([plot.y(drawn[at].points[-1][1]) for at in ends], TOP, height - BOTTOM)
    for at, place in zip(ends, places, strict=True):
        _line(root, plot, drawn[at], at, place)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


@dataclass(frozen=True, slots=True)
class _Plot:
    """From values to places."""

    most: float
    height: int

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.most

    def y(self, share: float) -> float:
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * share


def _axes(root: ElementTree.Element, plot: _Plot, across: str, up: str) -> None:
    left, right, bottom = LEFT, WIDTH - RIGHT, plot.height - BOTTOM
    for per_cent in range(0, 101, 20):
        y = plot.y(per_cent / 100)
        kind = "grid" if per_cent else "axis"
        _add(root, "line", {"class": kind, "x1": str(left), "x2": str(right), "y1": f"{y:.1f}", "y2": f"{y:.1f}"})
        _add(root, "text", {"x": str(left - 8), "y": f"{y + 4:.1f}", "text-anchor": "end"}, f"{per_cent} %")
    _add(root, "line", {"class": "axis", "x1": str(left), "x2": str(left), "y1": str(TOP), "y2": str(bottom)})
    step = _step(plot.most)
    for count in range(math.floor(plot.most / step + 1e-9) + 1):
        x = f"{plot.x(count * step):.1f}"
        _add(root, "line", {"class": "axis", "x1": x, "x2": x, "y1": str(bottom), "y2": str(bottom + 5)})
        _add(root, "text", {"x": x, "y": str(bottom + 20), "text-anchor": "middle"}, f"{count * step:g}")
    _add(root, "text", {"x": str((left + right) / 2), "y": str(bottom + 42), "text-anchor": "middle"}, across)
    _add(root, "text", {"x": str(left), "y": str(TOP - 10)}, up)


def _step(most: float) -> float:
    """Between two numbers of an axis: 1, 2 or 5 times a power of ten, six numbers or fewer."""
    power = 10.0 ** math.floor(math.log10(most / 6))
    return next(step for factor in (1, 2, 5, 10) if (step := factor * power) >= most / 6 * (1 - 1e-9))


def _line(root: ElementTree.Element, plot: _Plot, line: Line, number: int, place: float) -> None:
    colour, dashes = COLOURS[number % len(COLOURS)], DASHES[(number // len(COLOURS) + number) % len(DASHES)]
    group = _add(root, "g", {"stroke": colour})
    _add(group, "title", {}, line.name)
    points = [(plot.x(x), plot.y(y)) for x, y in line.points]
    kind = "line strong" if line.strong else "line"
    _add(group, "polyline", {"class": kind, "points": _points(points), "stroke-dasharray": dashes})
    begin = WIDTH - RIGHT + 22
    _add(group, "polyline", {"class": "lead", "points": _points([points[-1], (WIDTH - RIGHT + 6, points[-1][1]),
                                                                (begin - 4, place)])})  # fmt: skip
    name = line.name if len(line.name) <= LONGEST else f"{line.name[: LONGEST - 1]}…"
    weight = {"font-weight": "600"} if line.strong else {}
    _add(group, "text", {"x": str(begin), "y": f"{place + 4:.1f}", "stroke": "none", **weight}, name)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _spread(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places from top to bottom, each near the one that is wanted, and none on another."""
    places: list[float] = []
    for place in wanted:
        places.append(max([place, low, *(before + APART for before in places[-1:])]))
    limit = high
    for at in range(len(places) - 1, -1, -1):
        places[at] = min(places[at], limit)
        limit = places[at] - APART
    return places


def _add(parent: ElementTree.Element, tag: str, attributes: dict[str, str], text: str = "") -> ElementTree.Element:
    """A child; what XML can't hold is left out, the rest is escaped."""
    legal = {key: ILLEGAL.sub("", value) for key, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, legal)
    element.text = ILLEGAL.sub("", text) or None
    return element
