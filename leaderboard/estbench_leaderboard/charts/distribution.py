"""How scores are spread: of models over a task, and of documents over the share of models that are right.

svg = models([Dot(0.71, True), …], language, unit="proportion", chance=0.25, title="…", description="…")
svg = documents(means, language, title="…", description="…")
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts import svg
from estbench_leaderboard.charts.svg import ACCENT, INK, PAPER, QUIET, SECOND, Scale, element, line, text

WIDTH, LEFT, RIGHT = 720, 30, 700
TOP, FOOT, HEIGHT = 40, 200, 250
BINS, SHARES = 56, 10
DOT = 5.5  # radius, where there is room
BAR_LEFT = 56


@dataclass(frozen=True, slots=True)
class Dot:
    """A model's score; hollow if it has no rank."""

    value: float
    ranked: bool = True


def models(
    dots: Sequence[Dot], language: Language, *, unit: str, chance: float | None, title: str, description: str
) -> str:
    """A dot a model, piled up where scores are alike, with the level of guessing."""
    scale = 100.0 if unit == "proportion" else 1.0
    values = [dot.value * scale for dot in dots]
    low, high = _ends(values, None if chance is None else chance * scale, unit)
    x = Scale(low, high, LEFT, RIGHT)
    parts = [line(LEFT, FOOT, RIGHT, FOOT, QUIET)]
    for value in svg.ticks(low, high, 8):
        places = next((places for places in range(3) if round(value, places) == value), 3)
        parts += [line(x(value), FOOT, x(value), FOOT + 5, QUIET)]
        parts += [text(x(value), FOOT + 20, language.decimal(value, places), size=12)]
    parts.append(text((LEFT + RIGHT) / 2, FOOT + 42, language.t("task.spread.axis"), fill=INK))
    if chance is not None and low <= chance * scale <= high:
        parts += _chance(x(chance * scale), language.t("task.spread.chance"))
    parts += _piles(dots, values, x)
    return svg.figure(WIDTH, HEIGHT, parts, title=title, description=description)


def _ends(values: Sequence[float], chance: float | None, unit: str) -> tuple[float, float]:
    """The axis: all scores, and guessing unless it is far away (8 bits a byte)."""
    ends = [*values, *([chance] if chance is not None and unit != "bits" else [])]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    spare = 0.04 * (high - low) or 0.5
    return low - spare, high + spare


def _chance(at: float, words: str) -> Iterator[str]:
    yield line(at, TOP - 12, at, FOOT, SECOND, 1.5, "3 4")
    anchor, shift = ("start", 6) if at < (LEFT + RIGHT) / 2 else ("end", -6)
    yield text(at + shift, TOP - 4, words, anchor=anchor, size=12, fill=SECOND)


def _piles(dots: Sequence[Dot], values: Sequence[float], x: Scale) -> Iterator[str]:
    width = (RIGHT - LEFT) / BINS
    places = [min(BINS - 1, int((x(value) - LEFT) / width)) for value in values]
    tallest = max(Counter(places).values(), default=1)
    radius = min(DOT, (FOOT - TOP) / (2.1 * tallest))
    heights: Counter[int] = Counter()
    for dot, place in sorted(zip(dots, places, strict=True), key=lambda pair: (pair[1], not pair[0].ranked)):
        y = round(FOOT - radius - 1 - heights[place] * 2.1 * radius, 2)
        heights[place] += 1
        at = round(LEFT + (place + 0.5) * width, 2)
        look = {"fill": ACCENT} if dot.ranked else {"fill": PAPER, "stroke": QUIET, "stroke_width": "1.4"}
        yield element("circle", cx=at, cy=y, r=round(radius - (0 if dot.ranked else 0.7), 2), **look)


def documents(shares: Sequence[float], language: Language, *, title: str, description: str) -> str:
    """How many documents few or many models solve; shares from 0 to 1, those that are not known are left out."""
    counts = solved(shares)
    x = Scale(0, SHARES, BAR_LEFT, RIGHT)
    y = Scale(0, max(*counts, 1), FOOT, TOP)
    parts = []
    for value in svg.ticks(0, max(*counts, 1), 4):
        parts += [line(BAR_LEFT, y(value), RIGHT, y(value))]
        parts += [text(BAR_LEFT - 8, y(value) + 4, language.count(round(value)), anchor="end", size=12)]
    for place, count in enumerate(counts):
        if count:
            top = y(count)
            box = {"x": x(place) + 3, "y": top, "width": round(x(1) - x(0) - 6, 2), "height": round(FOOT - top, 2)}
            parts += [element("rect", **box, fill=ACCENT)]
    for place in range(SHARES + 1):
        parts += [text(x(place), FOOT + 20, f"{language.count(place * 100 // SHARES)}%", size=12)]
    parts += [line(BAR_LEFT, FOOT, RIGHT, FOOT, QUIET)]
    parts += [text((BAR_LEFT + RIGHT) / 2, FOOT + 42, language.t("task.spread.shares"), fill=INK)]
    parts += [text(BAR_LEFT - 48, TOP - 16, language.t("task.spread.documents"), anchor="start", fill=INK, size=12)]
    return svg.figure(WIDTH, HEIGHT, parts, title=title, description=description)


def solved(shares: Sequence[float]) -> list[int]:
    """Documents in each tenth of the share of models that are right."""
    counts = [0] * SHARES
    for share in shares:
        if math.isfinite(share):
            counts[max(0, min(SHARES - 1, int(share * SHARES)))] += 1
    return counts
