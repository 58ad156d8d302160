"""What a URL of the board asks for. The URL holds the whole state, so that a link shows what its sender saw.

    query = Query.read({"board": "base", "size": "small"})
    query.url()                     # "?board=base&size=small": canonical, defaults left out
    query.but(sort="name").url()    # a link to the same with one thing changed
    query.sentence(t)               # the same for people

Unknown keys are ignored (links collect them on their way); a wrong value of a known one is an error for its reader.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from unicodedata import normalize
from urllib.parse import urlencode

from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.skills import PRESETS

SIZES = {
    "small": (0.0, 4e9),
    "medium": (4e9, 15e9),
    "large": (15e9, 80e9),
    "huge": (80e9, float("inf")),
    "unknown": None,
}
BOARDS = ("chat", "base", "checkpoints")
VIEWS = ("skills", "tasks")
OPEN = ("yes", "no")
SORTS = ("rank", "name", "size", "date", "tokens")
ROWS = (50, 100, 200)
MOST = 60  # characters of a search
MOST_TASKS = 60


@dataclass(frozen=True, slots=True)
class Query:
    """The state of the board; each field is a key of the URL."""

    board: str = ""  # "": chat, or base where no chat model is there
    view: str = ""  # "": skills
    preset: str = "general"
    tasks: tuple[tuple[str, float], ...] = ()  # chosen tasks and their weights; (): those of the preset
    q: str = ""
    size: str = ""
    open: str = ""  # open weights
    commercial: str = ""  # a licence that allows commercial use
    licence: str = ""
    since: str = ""  # YYYY-MM-DD
    all: str = ""  # "yes": also rows that are not ranked
    sort: str = "rank"  # or name, size, date, tokens, a skill or a task
    order: str = ""  # "": best or first first; "reverse"
    rows: int = 50
    page: int = 1

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Query:
        """Of the URL's parameters; BadRequest names the wrong one."""
        known = {field.name for field in fields(cls)}
        given = {
            key: normalize("NFC", value.strip()) for key, value in values.items() if key in known and value.strip()
        }
        found: dict[str, Any] = dict(given)
        if "tasks" in given:
            found["tasks"] = _tasks(given["tasks"])
        for key in ("rows", "page"):
            if key in given:
                found[key] = _integer(key, given[key])
        query = cls(**found)
        query._check()
        return query

    def _check(self) -> None:
        allowed: dict[str, tuple[Any, ...]] = {
            "board": ("", *BOARDS),
            "view": ("", *VIEWS),
            "preset": tuple(PRESETS),
            "size": ("", *SIZES),
            "open": ("", *OPEN),
            "commercial": ("", *OPEN),
            "all": ("", "yes"),
            "order": ("", "reverse"),
            "rows": ROWS,
        }
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise BadRequest(key, str(getattr(self, key)))
        if self.since and not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", self.since):
            raise BadRequest("since", self.since)
        if len(self.q) > MOST or not self.q.isprintable():
            raise BadRequest("q", self.q)
        if len(self.licence) > MOST or not self.licence.isprintable():
            raise BadRequest("licence", self.licence)
        if not re.fullmatch(r"[A-Za-z0-9_./+-]{1,80}", self.sort):
            raise BadRequest("sort", self.sort)

    def but(self, **changed: Any) -> Query:
        """The same with something changed; a change of what is shown goes back to the first page."""
        if "page" not in changed:
            changed["page"] = 1
        return dataclasses.replace(self, **changed)

    def parameters(self) -> list[tuple[str, str]]:
        """Keys and values that are not the defaults, in a fixed order."""
        found = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                found.append((field.name, tasks_text(value) if field.name == "tasks" else str(value)))
        return found

    def url(self, path: str = "") -> str:
        """The canonical link."""
        parameters = self.parameters()
        return path + ("?" + urlencode(parameters, safe=":,") if parameters else "") if path or parameters else "?"

    def filters(self) -> list[str]:
        """The keys of the filters that are set."""
        return [key for key in ("q", "size", "open", "commercial", "licence", "since") if getattr(self, key)]

    def sentence(self, t: Callable[..., str]) -> str:
        """What is shown, in words: the board, the preset, and each filter."""
        parts = [t(f"query.board.{self.board or 'chat'}")]
        parts += [
            t(f"query.filter.{key}.{getattr(self, key)}")
            for key in ("size", "open", "commercial")
            if getattr(self, key)
        ]
        parts += [
            t(f"query.filter.{key}", value=getattr(self, key))
            for key in ("licence", "since", "q")
            if getattr(self, key)
        ]
        if self.tasks:
            parts.append(t("query.tasks", n=len(self.tasks)))
        return ", ".join(parts) + "."


def _tasks(text: str) -> tuple[tuple[str, float], ...]:
    """ "a,b:2" -> (("a", 1.0), ("b", 2.0))"""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        if not re.fullmatch(r"[A-Za-z0-9_./+-]{1,80}", name):
            raise BadRequest("tasks", part)
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?|", weight):
            raise BadRequest("tasks", part)
        found[name] = float(weight or 1)
    if len(found) > MOST_TASKS or not any(found.values()):
        raise BadRequest("tasks", text)
    return tuple(found.items())


def tasks_text(tasks: tuple[tuple[str, float], ...]) -> str:
    """Tasks and weights as the URL has them."""
    return ",".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in tasks)


def _integer(key: str, text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise BadRequest(key, text)
    return int(text)
