"""How a model from outside gets onto the board: what to run, what becomes public, how long it takes."""

from __future__ import annotations

from estbench_leaderboard import prose
from estbench_leaderboard.site import Content, Request

STEPS = ("run", "look", "send")
SECTIONS = ("public", "time", "badges", "embargo", "reply", "limits")


def page(request: Request) -> Content:
    """Three steps, and what follows from them."""
    content = prose.content(request, "submit", SECTIONS, template="submit.html")
    where = request.site.base_url or "https://…"
    commands = {
        "run": "estbench eval model=MODEL tasks=core",
        "look": f"estbench push run=RUN url={where} dry_run=true",
        "send": f"estbench push run=RUN url={where}",
    }
    return prose.with_values(content, steps=[(step, commands[step]) for step in STEPS])
