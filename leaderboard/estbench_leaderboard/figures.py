"""Figures of the pages as files to download: /joonis/NAME.svg, /en/joonis/NAME.svg, with the page's own parameters.

    figures.svg(request, "pareto")      # of the board under `?board=base&size=small`
    figures.svg(request, "curve")       # of `?model=SLUG`
    figures.svg(request, "forest")      # of `?m=SLUG,SLUG`: the first with the second

A figure is the one that its page draws, so that the two never differ.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from estbench_leaderboard.errors import BadRequest, NotFound
from estbench_leaderboard.routes import PAGES
from estbench_leaderboard.site import Request


@dataclass(frozen=True, slots=True)
class Figure:
    """Where a figure is: a page, and its name among the values of the page's template."""

    page: str
    value: str
    part: str = ""  # of the page's path, which is given as `?model=`


FIGURES = {
    "pareto": Figure("board", "plot"),
    "curve": Figure("model", "figure", "slug"),
    "forest": Figure("compare", "figures"),
}


def svg(request: Request, name: str) -> str:
    """A figure that stands alone. NotFound: no page has it, or there is nothing to draw."""
    known = FIGURES.get(name)
    if known is None:
        raise NotFound("page", name)
    given = dict(request.parameters)
    parts = {known.part: given.pop("model", "")} if known.part else {}
    if "" in parts.values():
        raise BadRequest("model", "")
    content = PAGES[known.page].function(dataclasses.replace(request, parameters=given), **parts)
    found = content.values.get(known.value)
    while isinstance(found, list | tuple):  # one for each of several models, and beside it what it is called
        found = next(iter(found), "")
    if not found:
        raise NotFound("page", name)
    return str(found)
