"""axe-core finds nothing on any page: in both languages, light and dark, on a desktop and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from board_addresses import pages
from board_browser import chromium, serving, visit
from board_world import World
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.routes import PAGES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium", "playwright", "axe_playwright_python")]
CASES = ("best", "sft", "claimed", "withdrawn", "remote", "failed")
STATUSES = (403, 404, 410)


@pytest.fixture(scope="module")
def site(board_world: World) -> Iterator[str]:
    with serving(board_world.database) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def violations(page: Page) -> list[str]:
    """What axe finds on the page as it is."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 375])
def test_every_page_is_accessible(
    site: str, browser: Browser, board_world: World, code: str, scheme: str, width: int
) -> None:
    addresses = pages(board_world, code, CASES)
    if (scheme, width) != ("light", 1440):  # one of each kind
        addresses = list({address.page: address for address in reversed(addresses)}.values())
    assert {address.page for address in addresses} == set(PAGES)
    wrong = {}
    with visit(browser, site, width=width, color_scheme=scheme, expected=STATUSES) as page:
        for url in [*(address.url for address in addresses), "/en/no-such-page" if code == "en" else "/olematu"]:
            page.goto(site + url)
            if found := violations(page):
                wrong[url] = found[:5]
    assert wrong == {}


def test_a_search_without_results_and_an_open_comparison_are_accessible(site: str, browser: Browser) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/?q=sellist+ei+ole")
        assert violations(page) == []
        page.goto(f"{site}/?view=tasks&all=yes&sort=name")
        for details in page.locator("details").all():
            details.evaluate("details => { details.open = true; }")
        page.locator("form.pick input[type=checkbox]").first.check()
        assert violations(page) == []


def test_axe_can_find_something(site: str, browser: Browser) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/")
        page.evaluate("() => document.querySelectorAll('label').forEach((label) => label.remove())")
        assert any(line.startswith(("label", "select-name")) for line in violations(page))
