"""Make the README's pictures of the board anew, from the demo models of this home (make demo).

python scripts/screenshots.py [CHROMIUM]
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from estbench_leaderboard.app import create
from estbench_leaderboard.site import Site
from playwright.sync_api import sync_playwright

from estbench.database import open_database

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = (  # file, path, width, height, theme, what the picture begins with
    ("board.png", "/?board=base", 1440, 1060, "light", None),
    ("board-model.png", "/en/model/demo", 1200, 760, "light", "#curve"),
    ("board-compare.png", "/en/compare?m=demo,demo-3000", 1200, 760, "light", "figure"),
)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The board of this home on a free port."""
    with open_database(create=False) as database, socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create(Site(database)), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def main() -> None:
    chromium = sys.argv[1] if len(sys.argv) > 1 else "/usr/bin/chromium"
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for file, path, width, height, theme, first in PICTURES:
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=theme, reduced_motion="reduce")
            page.goto(url + path)
            page.wait_for_function("document.fonts.status === 'loaded'")
            if first:
                page.locator(first).first.evaluate("one => one.scrollIntoView()")
            page.screenshot(path=DOCS / file)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
