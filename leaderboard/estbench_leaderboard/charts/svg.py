"""Drawing with few means: a scale, escaped texts, elements. Colours come from the page's custom properties and have a
value of their own for a figure that was downloaded; there is no style attribute, which the board's policy forbids.

    axis = Scale(0, 100, 40, 640)
    figure(680, 300, [line(axis(50), 0, axis(50), 280, GRID), text(axis(50), 296, "50")], title="…", description="…")
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

INK = "var(--ink, #1c2430)"
QUIET = "var(--quiet, #5b6675)"
GRID = "var(--line, #d9dee5)"
ACCENT = "var(--accent, #0b5cad)"
SECOND = "var(--second, #b3541e)"
PAPER = "var(--paper, #ffffff)"
FONT = "var(--font, system-ui, sans-serif)"

# What XML can't hold, not even escaped.
NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: str) -> str:
    """A text for SVG and XML, as content or in an attribute."""
    return html.escape(NO_XML.sub("\ufffd", text), quote=True)


@dataclass(frozen=True, slots=True)
class Scale:
    """From a value to a place in the figure, straight or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most so many."""
    if not high > low:
        return [low]
    step: float = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def element(name: str, content: str = "", /, **attributes: str | float | None) -> str:
    """An element; `_` in a name stands for `-`, `class_` for class. Content has to be escaped already."""
    parts = []
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escaped(shown)}"')
    return f"<{name}{''.join(parts)}>{content}</{name}>" if content else f"<{name}{''.join(parts)}/>"


def text(x: float, y: float, words: str, *, anchor: str = "middle", size: float = 13, fill: str = QUIET) -> str:
    """A line of text."""
    return element("text", escaped(words), x=x, y=y, text_anchor=anchor, font_size=size, fill=fill)


def line(
    x1: float, y1: float, x2: float, y2: float, stroke: str = GRID, width: float = 1, dash: str | None = None
) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, stroke_dasharray=dash)


def path(points: Iterable[tuple[float, float]], stroke: str = ACCENT, width: float = 2, fill: str = "none") -> str:
    """A line through points."""
    d = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    return element("path", d=d, stroke=stroke, stroke_width=width, fill=fill, stroke_linejoin="round")


def figure(width: int, height: int, parts: Iterable[str], *, title: str, description: str) -> str:
    """The whole picture, with words for those who can't see it."""
    words = element("title", escaped(title)) + element("desc", escaped(description))
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "role": "img"}
    return element("svg", words + "".join(parts), **attributes, font_family=FONT, class_="figure")
