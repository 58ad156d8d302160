"""Who makes the board, for whom, under which licences, and how to reach its makers."""

from __future__ import annotations

from estbench_leaderboard import prose
from estbench_leaderboard.site import Content, Request

SECTIONS = ("purpose", "readers", "independence", "data", "privacy", "accessibility", "take_part")


def page(request: Request) -> Content:
    """About the board, section by section."""
    return prose.content(request, "about", SECTIONS)
