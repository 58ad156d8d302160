"""A model's rank as a small picture for its own page elsewhere: /badge/MODEL.svg, /en/badge/MODEL.svg.

The rank is said with its uncertainty, "2.–5. koht 34 mudeli seas", or that there is none; under the board's own
tasks and weights.

    standing = badges.standing(snapshot, model)      # .ranked, .total, .why
    badges.svg(standing, model, language)
"""

from __future__ import annotations

from dataclasses import dataclass

from estbench.stats.ranks import Ranked
from estbench_leaderboard.board import page
from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts.svg import element, escaped, text
from estbench_leaderboard.judging import named
from estbench_leaderboard.query import Query
from estbench_leaderboard.snapshot import Model, Snapshot

WIDE, NARROW = frozenset("mwMWÕÄÖÜ%@–—"), frozenset("iljtfrI.,:;'!|()[] 1")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a model stands on its board."""

    ranked: Ranked | None
    total: int  # models that have a rank
    why: str | None  # it has none: reference, claimed, rescored, withdrawn, incomplete
    judge: str | None = None  # whether judges gave some of what the rank is made of: uncalibrated, calibrated

    def words(self, language: Language) -> str:
        """ "2.–5. koht 34 mudeli seas", or why there is none."""
        if self.ranked is None:
            return language.t(f"feed.unranked.{self.why}")
        places = language.places(self.ranked.rank_low, self.ranked.rank_high)
        return named(language.t, language.t("feed.rank", places=places, total=self.total), self.judge)


def standing(snapshot: Snapshot, model: Model) -> Standing:
    """The model's place under its board's own tasks and weights."""
    found = page(snapshot, Query(board=model.board, all="yes"))
    row = next(row for row in found.every if row.model is model)
    return Standing(row.ranked, found.ranked, row.unranked, row.judge)


def svg(found: Standing, model: Model, language: Language) -> str:
    """The badge: the board's name, and the rank in words."""
    left, right = language.t("feed.badge"), found.words(language)
    start, width = _width(left), _width(left) + _width(right)
    colour = "#0b5cad" if found.ranked else "#5b6675"
    title = f"{model.name}: {left}, {right}"
    parts = [
        element("rect", width=width, height=20, rx=3, fill="#1c2430"),
        element("path", d=f"M{start} 0H{width - 3}a3 3 0 0 1 3 3V17a3 3 0 0 1-3 3H{start}z", fill=colour),
        text(start / 2, 14, left, size=11, fill="#ffffff"),
        text(start + (width - start) / 2, 14, right, size=11, fill="#ffffff"),
    ]
    return picture(int(width), 20, parts, title)


def picture(width: int, height: int, parts: list[str], title: str) -> str:
    """An SVG file that stands alone, with its title as text."""
    font = "Verdana, DejaVu Sans, Geneva, sans-serif"
    about = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-label": title, "font-family": font}
    content = element("title", escaped(title)) + "".join(parts)
    return element("svg", content, **about, width=width, height=height, viewBox=f"0 0 {width} {height}")


def _width(words: str) -> float:
    """About how wide a text of 11 pixels is, with its margins."""
    return round(14 + sum(9.5 if sign in WIDE else 4.3 if sign in NARROW else 7.0 for sign in words), 1)
