"""Every address of the board of a made-up world, for the tests that go over all pages.

with client(world.database) as browser: browser.get(…)
for address in pages(world, "et"): address.page, address.url          # HTML
data(address.url), files(world)                                       # the same as .json and .csv; feeds, pictures
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from board_world import World
from estbench_leaderboard.app import create
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.routes import FORMS, PAGES
from estbench_leaderboard.site import Site
from estbench_leaderboard.snapshot import Snapshot
from starlette.testclient import TestClient

from estbench.database import Database, queries

CASES = (
    *("best", "sft", "cpt", "claimed", "audited", "reference", "withdrawn", "remote", "partial", "failed"),
    "scores_only",
)


@dataclass(frozen=True)
class Address:
    """A page and where it is."""

    page: str
    url: str


@contextmanager
def client(database: Database, **options: Any) -> Iterator[TestClient]:
    """A client of the whole application. A page that fails is an answer with 500, as for everyone."""
    with TestClient(create(Site(database, **options)), raise_server_exceptions=False) as found:
        yield found


def pages(world: World, code: str, cases: tuple[str, ...] = CASES) -> list[Address]:
    """Pages in a language: one or more of each kind."""
    snapshot = world.snapshot()
    return [
        Address(name, _path(name, code, parts) + (f"?{urlencode(query)}" if query else ""))
        for name in PAGES
        for parts, query in _of(name, world, snapshot, cases)
    ]


def data(url: str) -> list[str]:
    """The same page as data."""
    path, mark, query = url.partition("?")
    start = f"{path}index" if path.endswith("/") else path
    return [f"{start}.{form}{mark}{query}" for form in FORMS]


def files(world: World, cases: tuple[str, ...] = CASES) -> list[str]:
    """Feeds, pictures and the API."""
    snapshot = world.snapshot()
    models = [quote(model.slug) for case in cases for model in snapshot.everywhere(world.cases[case])]
    run, task, doc = next(_samples(world, snapshot))
    prefixes = {"et": ("", "kaart"), "en": ("/en", "card")}
    found = ["/atom.xml", "/en/atom.xml", "/sitemap.xml", "/robots.txt", "/api/v1/openapi.json"]
    for code in CODES:
        start, card = prefixes[code]
        found += [f"{start}/{kind}/{model}.svg" for model in models for kind in ("badge", card)]
    found += [f"/api/v1/{name}" for name in ("models", "tasks", "boards", "board", "scores", "runs")]
    found += [f"/api/v1/models/{model}" for model in models]
    found += [f"/api/v1/tasks/{quote(task)}", f"/api/v1/runs/{quote(run)}", f"/api/v1/runs/{quote(run)}/eee.json"]
    samples = f"/api/v1/runs/{quote(run)}/samples"
    return [*found, f"{samples}?task={quote(task)}", f"{samples}/{doc}?task={quote(task)}"]


def _path(name: str, code: str, parts: dict[str, str]) -> str:
    path = PAGES[name].paths[code]
    for key, value in parts.items():
        shown = quote(value, safe="/" if f"{{{key}:path}}" in path else "")
        path = path.replace(f"{{{key}}}", shown).replace(f"{{{key}:path}}", shown)
    return path


def _of(
    name: str, world: World, snapshot: Snapshot, cases: tuple[str, ...]
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The parts and parameters of the addresses of a page."""
    chat = snapshot.boards["chat"]
    of_cases = [model for case in cases if (model := snapshot.model(world.cases[case], None)) is not None]
    if name == "board":
        yield {}, {}
        yield {}, {"all": "yes", "view": "tasks", "rows": "200"}
        yield {}, {"board": "base"}
        yield {}, {"board": "checkpoints", "q": "olematu"}
    elif name == "model":
        slugs = [model.slug for model in of_cases] + [model.slug for model in list(chat.models.values())[-3:]]
        slugs += [model.slug for model in list(snapshot.boards["checkpoints"].models.values())[:1]]
        yield from (({"slug": slug}, {}) for slug in dict.fromkeys(slugs))
    elif name == "task":
        yield from (({"task": task}, {}) for task in (*chat.tasks, *list(snapshot.boards["base"].tasks)[:2]))
    elif name == "compare":
        ranked = [model.slug for model in chat.models.values() if model.ranked]
        for count in (0, 2, 6):
            yield {}, {"m": ",".join(ranked[:count])} if count else {}
    elif name == "run":
        yield from (({"run": run}, {}) for model in of_cases[:6] for run in model.runs)
    elif name == "sample":
        for run, task, doc in _samples(world, snapshot):
            yield {"run": run, "task": task, "doc": doc}, {}
    else:
        yield {}, {}


def _samples(world: World, snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    """(run, task, doc) of answers that are published."""
    model = snapshot.model(world.cases["best"], "chat")
    assert model is not None
    for task in snapshot.boards["chat"].tasks.values():
        run = model.cells[task.name].run
        if task.publish_items and run:
            for doc in queries.items(world.database, run, task.name, task.metric).docs[:2]:
                yield run, task.name, doc
