"""Power curves as SVG: a small chart for each, with its name above it.

    text = panels("What the gate sees", "Of 250 nights …", [Panel("estcopa", "80 % at 4.2", points, 2)], across="fall")

All curves end at 100 %, where nobody could tell one from another; so each has axes of its own, all alike. Values are
shares, 0 to 1. Nothing depends on colour, nothing is loaded from elsewhere, names may come from anywhere, and a dark
scheme is followed where the viewer asks for one.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

from estbench.interchange.junit import ILLEGAL

COLUMNS, ACROSS, DOWN, HEAD, FOOT = 3, 270, 190, 44, 34  # panels side by side; pixels of a panel, above and below
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 42, 26  # of the plot in a panel
LONGEST = 30  # characters of a name
STYLE = """
.gate-chart { font: 12px system-ui, sans-serif }
.gate-chart text { fill: #1f2328 } .gate-chart .title { font-size: 15px } .gate-chart .name { font-weight: 600 }
.ground { fill: #ffffff } .grid { stroke: #d8dee4 } .axis { stroke: #1f2328 } .dot { fill: #0969da }
.curve { fill: none; stroke: #0969da; stroke-width: 2 } .reach { stroke: #1f2328; stroke-dasharray: 5 4 }
.mark { stroke: #1f2328; stroke-dasharray: 1 4 }
@media (prefers-color-scheme: dark) {
  .gate-chart text { fill: #e6edf3 }
  .ground { fill: #0d1117 } .grid { stroke: #30363d } .axis, .reach, .mark { stroke: #e6edf3 }
  .curve { stroke: #58a6ff } .dot { fill: #58a6ff }
}
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """A curve, and what is said of it."""

    name: str
    note: str
    points: Sequence[tuple[float, float]]  # from left to right
    mark: float | None = None  # a place on the axis across


def panels(title: str, description: str, given: Sequence[Panel], *, across: str, reach: float) -> str:
    """The SVG document. across: what the horizontal axes show; reach: a share that is marked in each panel."""
    width, height = COLUMNS * ACROSS, HEAD + FOOT + DOWN * math.ceil(len(given) / COLUMNS)
    about = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height), "class": "gate-chart"}
    about |= {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-labelledby": "gate-title gate-description"}
    root = ElementTree.Element("svg", about)
    _add(root, "title", {"id": "gate-title"}, title)
    _add(root, "desc", {"id": "gate-description"}, description)
    _add(root, "style", {}, STYLE)
    _add(root, "rect", {"class": "ground", "width": str(width), "height": str(height)})
    _add(root, "text", {"class": "title", "x": "12", "y": "26"}, title)
    _add(root, "text", {"x": "12", "y": str(height - 12)}, across)
    most = max((x for panel in given for x, _ in panel.points), default=1.0) or 1.0
    for at, panel in enumerate(given):
        row, column = divmod(at, COLUMNS)
        group = _add(root, "g", {"transform": f"translate({column * ACROSS} {HEAD + row * DOWN})"})
        _panel(group, panel, most, reach)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _x(value: float, most: float) -> float:
    return LEFT + (ACROSS - LEFT - RIGHT) * value / most


def _y(share: float) -> float:
    return DOWN - BOTTOM - (DOWN - TOP - BOTTOM) * share


def _panel(group: ElementTree.Element, panel: Panel, most: float, reach: float) -> None:
    name = panel.name if len(panel.name) <= LONGEST else f"{panel.name[: LONGEST - 1]}…"
    _add(group, "text", {"class": "name", "x": str(LEFT), "y": "16"}, name)
    _add(group, "text", {"x": str(LEFT), "y": "32"}, panel.note)
    bottom = DOWN - BOTTOM
    for share, kind in ((0.0, "axis"), (0.5, "grid"), (1.0, "grid"), (reach, "reach")):
        _line(group, kind, (LEFT, _y(share)), (ACROSS - RIGHT, _y(share)))
        if kind != "reach":
            place = {"x": str(LEFT - 6), "y": f"{_y(share) + 4:.1f}", "text-anchor": "end"}
            _add(group, "text", place, f"{100 * share:.0f} %")
    _line(group, "axis", (LEFT, TOP), (LEFT, bottom))
    step = _step(most)
    for count in range(math.floor(most / step + 1e-9) + 1):
        x = _x(count * step, most)
        _line(group, "axis", (x, bottom), (x, bottom + 4))
        _add(group, "text", {"x": f"{x:.1f}", "y": str(bottom + 18), "text-anchor": "middle"}, f"{count * step:g}")
    if panel.mark is not None and panel.mark <= most:
        _line(group, "mark", (_x(panel.mark, most), TOP), (_x(panel.mark, most), bottom))
    places = [(_x(x, most), _y(y)) for x, y in panel.points]
    _add(group, "polyline", {"class": "curve", "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})
    for x, y in places:
        _add(group, "circle", {"class": "dot", "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "2.5"})


def _step(most: float) -> float:
    """Between two numbers of an axis: 1, 2 or 5 times a power of ten, at most seven numbers."""
    power = 10.0 ** math.floor(math.log10(most / 6))
    return next(step for factor in (1, 2, 5, 10) if (step := factor * power) >= most / 6 * (1 - 1e-9))


def _line(group: ElementTree.Element, kind: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
    places = {"x1": begin[0], "y1": begin[1], "x2": end[0], "y2": end[1]}
    _add(group, "line", {"class": kind, **{key: f"{value:.1f}" for key, value in places.items()}})


def _add(parent: ElementTree.Element, tag: str, attributes: dict[str, str], text: str = "") -> ElementTree.Element:
    """A child; what XML can't hold is left out of its text, the rest is escaped."""
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = ILLEGAL.sub("", text) or None
    return element
