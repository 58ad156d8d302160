"""How the numbers are made, in words."""

from __future__ import annotations

from estbench_leaderboard import prose
from estbench_leaderboard.site import Content, Request

SECTIONS = ("measured", "chance", "interval", "ranks", "compare", "judges", "missing", "versions", "badges", "limits")


def page(request: Request) -> Content:
    """The method, section by section."""
    return prose.content(request, "method", SECTIONS)
