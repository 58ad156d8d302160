"""Pages that were made are kept: made once for all who ask at the same time, and never more than fit."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from board_world import World
from estbench_leaderboard import responses
from estbench_leaderboard.site import Site
from starlette.responses import Response


def scope(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}


class Below:
    """An application whose pages take a while, and that counts how often it makes them."""

    def __init__(self, state: str) -> None:
        self.state, self.made = state, Counter[str]()
        self.slow = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.made[path] += 1
        await asyncio.sleep(0.02)
        if path == "/broken":
            raise RuntimeError("broken")
        headers = {"x-estbench-version": self.state} if path.startswith("/page") else {}
        await Response("x" * 1000, 200 if path != "/missing" else 404, headers)(scope, receive, send)
        if path == "/download":
            await self.slow.wait()  # a reader that takes its time


async def ask(pages: responses.Pages, path: str) -> int:
    sent: list[Any] = []

    async def send(part: Any) -> None:
        sent.append(part)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await pages(scope(path), receive, send)
    return int(sent[0]["status"])


@pytest.fixture
def below(board_world: World) -> Below:
    return Below(board_world.snapshot().state)


@pytest.fixture
def pages(board_world: World, below: Below) -> responses.Pages:
    site = Site(board_world.database)
    site.snapshots.current()
    return responses.Pages(below, site)


def test_a_page_is_made_once_for_all_who_ask_at_the_same_time(pages: responses.Pages, below: Below) -> None:
    async def many() -> list[int]:
        return await asyncio.gather(*(ask(pages, path) for path in ["/page", "/page2"] * 20))

    assert asyncio.run(many()) == [200] * 40
    assert below.made == {"/page": 1, "/page2": 1} and pages.making == {}
    assert asyncio.run(ask(pages, "/page")) == 200 and below.made["/page"] == 1


@pytest.mark.parametrize(("path", "status"), [("/broken", 500), ("/missing", 404)])
def test_what_can_not_be_kept_is_answered_to_each(pages: responses.Pages, below: Below, path: str, status: int) -> None:
    async def many() -> list[int]:
        return await asyncio.gather(*(ask(pages, path) for _ in range(10)))

    assert asyncio.run(many()) == [status] * 10
    assert pages.making == {} and pages.size == 0 and not pages.pages


def test_nobody_waits_for_a_slow_reader_of_something_else(pages: responses.Pages, below: Below) -> None:
    async def two() -> None:
        first = asyncio.create_task(ask(pages, "/download"))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(ask(pages, "/download"))
        await asyncio.sleep(0.05)
        assert below.made["/download"] == 2  # the second has begun
        below.slow.set()
        await asyncio.gather(first, second)

    asyncio.run(two())


def test_what_is_kept_has_a_limit_and_is_counted_right(
    pages: responses.Pages, below: Below, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        asyncio.run(ask(pages, f"/page{number}"))
    assert pages.size == sum(map(responses._size, pages.pages.values()))
    key, kept = next(iter(pages.pages.items()))
    pages._keep(key, kept)  # made twice after all
    assert pages.size == sum(map(responses._size, pages.pages.values()))
    monkeypatch.setattr(responses, "KEPT", pages.size)
    asyncio.run(ask(pages, "/page-new"))
    assert pages.size <= responses.KEPT and len(pages.pages) == 5
    assert asyncio.run(ask(pages, "/page-new")) == 200 and below.made["/page-new"] == 1
