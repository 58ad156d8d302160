"""All pages and their paths in both languages. `pages/NAME.py` makes the page NAME: `page(request, **parts)`.

Estonian paths have no prefix, English ones begin with /en. Each page is also there with .json and .csv at its end.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from estbench_leaderboard.site import Content

FORMS = ("json", "csv")


@dataclass(frozen=True)
class Page:
    """A page and where it is."""

    name: str
    paths: dict[str, str]  # language -> path; {parts} are arguments of its function

    @property
    def function(self) -> Callable[..., Content]:
        module = importlib.import_module(f"estbench_leaderboard.pages.{self.name}")
        function: Callable[..., Content] = module.page
        return function

    def path(self, code: str, form: str = "html") -> str:
        """The path in a language and form."""
        path = self.paths[code]
        if form == "html":
            return path
        return f"{path}index.{form}" if path.endswith("/") else f"{path}.{form}"


def _page(name: str, et: str, en: str) -> tuple[str, Page]:
    return name, Page(name, {"et": et, "en": f"/en{en}"})


PAGES: dict[str, Page] = dict(
    (
        _page("board", "/", "/"),
        _page("model", "/mudel/{slug:path}", "/model/{slug:path}"),
        _page("tasks", "/ulesanded", "/tasks"),
        _page("task", "/ulesanne/{task:path}", "/task/{task:path}"),
        _page("compare", "/vordlus", "/compare"),
        _page("runs", "/mootmised", "/runs"),
        _page("run", "/mootmine/{run}", "/run/{run}"),
        _page("sample", "/vastus/{run}/{doc}/{task:path}", "/sample/{run}/{doc}/{task:path}"),
        _page("method", "/meetod", "/method"),
        _page("glossary", "/sonastik", "/glossary"),
        _page("about", "/teave", "/about"),
        _page("corrections", "/parandused", "/corrections"),
        _page("submit", "/esita", "/submit"),
        _page("api", "/api", "/api"),
    )
)
