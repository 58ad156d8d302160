"""The board in Debian's Chromium, served by uvicorn on loopback: for the tests that look at it as people do.

    with serving(world.database) as site, chromium() as browser:
        with visit(browser, site, width=375) as page: page.goto(f"{site}/")

Whatever a visit does, it asks nobody but the board, sets no cookie, and the browser has nothing to complain of.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from estbench.database import Database

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

ROWS = "table.board tbody th a.name"


@contextmanager
def serving(database: Database) -> Iterator[str]:
    """The address of a server that runs until the end of the block."""
    import uvicorn
    from estbench_leaderboard.app import create
    from estbench_leaderboard.site import Site

    door = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create(Site(database)), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([door],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        door.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser, site: str, *, width: int = 1440, expected: tuple[int, ...] = (), **more: Any
) -> Iterator[Page]:
    """A page in a browser of its own; at the end nothing strange may have happened. `expected`: errors that may be."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **more)
    context.set_default_timeout(20_000)
    asked: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    try:
        yield page
        strangers = [url for url in asked if not url.startswith((f"{site}/", "data:", "blob:"))]
        known = [f"status of {status}" for status in expected]
        complaints = [line for line in complaints if not any(word in line for word in known)]
        assert (strangers, complaints, context.cookies()) == ([], [], [])
    finally:
        context.close()


def rows(page: Page) -> list[str]:
    """The models that are shown, in order: the ends of their addresses."""
    links = [row.get_attribute("href") or "" for row in page.locator(ROWS).all()]
    return [link.rpartition("/")[2] for link in links]


def heading(page: Page, key: str) -> Locator:
    """The heading of a column that can be sorted by."""
    return page.locator(f'table.board thead th:has(a[href*="sort={key}"])')


def overflow(page: Page) -> list[str]:
    """What reaches beyond the right edge, if the page can be scrolled sideways."""
    found: list[str] = page.evaluate(
        """() => {
            const wide = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= wide) return [];
            const held = (element) => {
                for (let at = element.parentElement; at && at !== document.body; at = at.parentElement)
                    if (getComputedStyle(at).overflowX !== "visible") return true;
                return false;
            };
            return [`${document.documentElement.scrollWidth} px`, ...[...document.querySelectorAll("body *")]
                .filter((element) => element.getBoundingClientRect().right > wide + 1 && !held(element))
                .slice(0, 5).map((element) => element.outerHTML.slice(0, 120))];
        }"""
    )
    return found
