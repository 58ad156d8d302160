"""Paired differences of two models, a line each: the difference, its interval, and where zero is.

svg = draw(lines, language, names=("mudel A", "mudel B"), title="…", description="…")

Right of zero the first model is better. A filled mark is told from zero, a hollow one is not; a diamond stands for
several tasks. Colour says nothing that shape and place don't.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts import svg
from estbench_leaderboard.charts.svg import ACCENT, INK, PAPER, QUIET, SECOND, Scale, element, line, text

TOP, BOTTOM = 44, 44
LEAST = 2.0  # points to both sides of zero
MARGIN = 1.08


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand: names beside the intervals, or above them."""

    width: int
    left: int  # of the axis
    right: int
    numbers: int  # where they end
    step: float  # height of a line
    heading: float  # and of one without a value
    name: float  # below the top of its line
    mark: float
    letters: int  # of a name, and of what stands above a side
    side: int


WIDE = Layout(760, 268, 648, 748, 25, 25, 17, 12.5, 36, 21)
NARROW = Layout(360, 14, 346, 346, 44, 30, 18, 32, 40, 13)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the figure, in points. Without a value it is a heading."""

    label: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = "open"  # a or b: told from zero
    pooled: bool = False


def draw(
    lines: Sequence[Line],
    language: Language,
    *,
    names: tuple[str, str],
    title: str,
    description: str,
    layout: Layout = WIDE,
) -> str:
    """The figure; `names`: of the first model, which is better on the right side, and of the other."""
    reach = _reach(lines)
    x = Scale(-reach, reach, layout.left, layout.right)
    heights = [layout.heading if one.value is None else layout.step for one in lines]
    foot = TOP + sum(heights)
    parts = [*_axis(x, foot, language, layout), *_sides(x, names, language, layout)]
    for place, one in enumerate(lines):
        parts += _line(one, x, TOP + sum(heights[:place]), language, layout)
    return svg.figure(layout.width, round(foot) + BOTTOM, parts, title=title, description=description)


def _reach(lines: Sequence[Line]) -> float:
    """How far the axis goes from zero: as far as any interval, rounded up."""
    ends = [abs(end) for one in lines for end in (one.value, one.low, one.high) if end is not None]
    far = max([LEAST, *ends]) * MARGIN
    step = 10.0 ** math.floor(math.log10(far)) / 2
    return math.ceil(far / step) * step


def _axis(x: Scale, foot: float, language: Language, layout: Layout) -> Iterator[str]:
    for value in svg.ticks(x.low, x.high, 6):
        yield line(x(value), TOP, x(value), foot)
        sign = "+" if value > 0 else ""
        places = 0 if float(value).is_integer() else 1
        yield text(x(value), foot + 18, sign + language.decimal(value, places), size=12)
    yield line(x(0), TOP - 4, x(0), foot, INK, 1.2)
    yield text((layout.left + layout.right) / 2, foot + 36, language.t("compare.figure.axis"), size=12)


def _sides(x: Scale, names: tuple[str, str], language: Language, layout: Layout) -> Iterator[str]:
    right, left = (language.t("compare.figure.better", name=_clipped(name, layout.side)) for name in names)
    yield text(x(0) + 10, TOP - 14, f"{right} →", anchor="start", fill=ACCENT)
    yield text(x(0) - 10, TOP - 14, f"← {left}", anchor="end", fill=SECOND)


def _clipped(words: str, most: int) -> str:
    """A name that is too long for its place, cut."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def _line(one: Line, x: Scale, top: float, language: Language, layout: Layout) -> Iterator[str]:
    bold = "600" if one.pooled or one.value is None else None
    inner = 4 if bold or layout is NARROW else 16
    look: dict[str, str | float | None] = {"font_size": 13.5, "fill": INK, "font_weight": bold}
    if layout is NARROW:  # the axis runs behind the names
        look |= {"paint_order": "stroke", "stroke": PAPER, "stroke_width": 5}
    yield element("text", svg.escaped(_clipped(one.label, layout.letters)), x=inner, y=top + layout.name, **look)
    if one.value is None:
        return
    colour, y = {"a": ACCENT, "b": SECOND}.get(one.verdict, QUIET), top + layout.mark
    if one.low is not None and one.high is not None:
        yield line(x(one.low), y, x(one.high), y, colour, 3 if one.pooled else 2)
        yield from (line(x(end), y - 4, x(end), y + 4, colour, 1.5) for end in (one.low, one.high))
    yield _mark(x(one.value), y, one.pooled, colour, PAPER if one.verdict == "open" else colour)
    sign = "+" if one.value > 0 else ""
    number = svg.escaped(sign + language.decimal(one.value))
    yield element("text", number, x=layout.numbers, y=top + layout.name, text_anchor="end", **look)


def _mark(x: float, y: float, pooled: bool, colour: str, fill: str) -> str:
    if not pooled:
        return element("circle", cx=x, cy=y, r=4.5, fill=fill, stroke=colour, stroke_width=1.8)
    corners = [(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)]
    d = "M" + "L".join(f"{a:g} {b:g}" for a, b in corners) + "Z"
    return element("path", d=d, fill=fill, stroke=colour, stroke_width=1.8)
