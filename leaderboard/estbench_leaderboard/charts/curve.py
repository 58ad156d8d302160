"""The curve of a training run: points with intervals, their trend, and the band of noise around it.

svg = draw(curve, language, title="…", description="…", named=("tokens seen", "score"))
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from estbench_leaderboard.catalogue import NBSP, Language
from estbench_leaderboard.charts import svg
from estbench_leaderboard.charts.svg import ACCENT, INK, PAPER, QUIET, SECOND, Scale, element, line, path, text
from estbench_leaderboard.curve import Curve, Point

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 740, 34, 322
POINT = 4.5
MARGIN = 0.06  # of the range, free above and below
NEAR = 0.6  # of the range: a level of guessing that is farther away is not drawn


def draw(found: Curve, language: Language, *, title: str, description: str, named: tuple[str, str]) -> str:
    """The figure; `named`: what the axes show."""
    x, y = _x(found), _y(found)
    parts = [*_grid(found, language, x, y, named), *_band(found, x, y)]
    if found.chance is not None and y.low <= found.chance <= y.high:
        at = y(found.chance)
        parts.append(line(LEFT, at, RIGHT, at, SECOND, 1.5, "2 4"))
        parts.append(text(RIGHT, at - 5, language.t("model.curve.chance"), anchor="end", size=12, fill=SECOND))
    shown = [point for point in found.known if not (found.logarithmic and point.at <= 0)]
    parts.append(path([(x(at), y(value)) for at, value in found.trend if at > 0 or not found.logarithmic], QUIET, 1.5))
    for point in shown:
        parts += _point(point, x, y)
    return svg.figure(WIDTH, HEIGHT, [part for part in parts if part], title=title, description=description)


def _x(found: Curve) -> Scale:
    places = [point.at for point in found.points if point.at > 0 or not found.logarithmic] or [1.0]
    low, high = min(places), max(places)
    if found.logarithmic:
        return Scale(low, high if high > low else low * 10, LEFT + 14, RIGHT - 14, True)
    low = 0.0 if low < 0.5 * high else low
    return Scale(low, high if high > low else low + 1, LEFT + 14, RIGHT - 14)


def _y(found: Curve) -> Scale:
    band = found.band or 0.0
    ends = [end for point in found.known for end in (point.low, point.value, point.high) if end is not None]
    ends += [value + side * band for _, value in found.trend for side in (-1, 1)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    if found.chance is not None and max(low - found.chance, found.chance - high) <= NEAR * (high - low):
        low, high = min(low, found.chance), max(high, found.chance)
    spare = MARGIN * (high - low) or 0.01
    return Scale(low - spare, high + spare, BOTTOM, TOP)


def _grid(found: Curve, language: Language, x: Scale, y: Scale, named: tuple[str, str]) -> list[str]:
    parts = []
    for value in svg.ticks(y.low, y.high, 6):
        parts.append(line(LEFT, y(value), RIGHT, y(value)))
        parts.append(text(LEFT - 8, y(value) + 4, _score(value, found.unit, y, language), anchor="end", size=12))
    for value in _places(x):
        parts.append(line(x(value), BOTTOM, x(value), BOTTOM + 5, QUIET))
        parts.append(text(x(value), BOTTOM + 20, amount(value, language), size=12))
    parts.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, QUIET))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 44, named[0], fill=INK))
    parts.append(text(LEFT - 44, TOP - 14, named[1], anchor="start", fill=INK))
    return parts


def _score(value: float, unit: str, y: Scale, language: Language) -> str:
    """A tick with as many places as the ticks need."""
    scale = 100 if unit in ("proportion", "corrected") else 1
    step = (y.high - y.low) * scale / 6
    return language.score(value, unit, max(0, min(4, -math.floor(math.log10(step))) if step > 0 else 1))


def _places(x: Scale) -> list[float]:
    if not x.logarithmic:
        return svg.ticks(x.low, x.high, 6)
    powers = range(math.floor(math.log10(x.low)), math.ceil(math.log10(x.high)) + 1)
    factors: Sequence[int] = (1,) if len(powers) > 4 else (1, 2, 5)
    return [factor * 10.0**power for power in powers for factor in factors if x.low <= factor * 10.0**power <= x.high]


def amount(value: float, language: Language) -> str:
    """Tokens or steps in few letters: 1,5 mld."""
    for limit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= limit:
            number = round(value / limit, 2)
            places = next(places for places in range(3) if round(number, places) == number)
            return f"{language.decimal(number, places)}{NBSP}{language.t(f'number.{name}')}"
    return language.count(round(value))


def _band(found: Curve, x: Scale, y: Scale) -> list[str]:
    """The noise around the trend: a surface, and no line that might be taken for a result."""
    if not found.band or len(found.trend) < 2:
        return []
    places = [(at, value) for at, value in found.trend if at > 0 or not found.logarithmic]
    upper = [(x(at), y(value + found.band)) for at, value in places]
    lower = [(x(at), y(value - found.band)) for at, value in reversed(places)]
    d = "M" + "L".join(f"{right:g} {down:g}" for right, down in (*upper, *lower)) + "Z"
    return [element("path", d=d, fill=ACCENT, fill_opacity=0.13, stroke="none")]


def _point(point: Point, x: Scale, y: Scale) -> list[str]:
    assert point.value is not None
    at, middle = x(point.at), y(point.value)
    parts = []
    if point.low is not None and point.high is not None:
        parts += [line(at - 4, y(end), at + 4, y(end), ACCENT, 1.5) for end in (point.low, point.high)]
        parts.append(line(at, y(point.low), at, y(point.high), ACCENT, 1.5))
    if point.final:  # a diamond: colour is not the only sign
        corners = [(at, middle - 7), (at + 7, middle), (at, middle + 7), (at - 7, middle)]
        parts.append(element("path", d="M" + "L".join(f"{a:g} {b:g}" for a, b in corners) + "Z", fill=SECOND))
    else:
        parts.append(element("circle", cx=at, cy=middle, r=POINT, fill=ACCENT, stroke=PAPER, stroke_width=1))
    return parts
