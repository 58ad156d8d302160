"""The board in a browser: search, filters, order, links, comparison, languages, phone, keyboard, no JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from board_addresses import pages
from board_browser import ROWS, chromium, heading, overflow, rows, serving, visit
from board_world import World
from estbench_leaderboard import board
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.query import Query

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium", "playwright")]
STATUSES = (403, 404, 410)  # of pages about what may not be shown
COUNT = "n => document.querySelectorAll('table.board tbody a.name').length === n"
BEFORE = "cell => getComputedStyle(cell, '::before').content"
PAPER = "() => getComputedStyle(document.documentElement).backgroundColor"
VISIBLE = """() => {
    const style = getComputedStyle(document.activeElement);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
}"""
FOCUSED = """() => {
    const element = document.activeElement, name = element.localName;
    return element.id ? `${name}#${element.id}` : element.matches(".skip") ? `${name}.skip` : name;
}"""


@pytest.fixture(scope="module")
def site(board_world: World) -> Iterator[str]:
    with serving(board_world.database) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def names(world: World, **values: str) -> list[str]:
    """The models that a query leaves, in order, as the board itself says."""
    return [row.model.slug for row in board.page(world.snapshot(), Query.read(values)).rows]


def settled(page: Page, query: str) -> None:
    """Wait until the address holds this, and the page shows it."""
    page.wait_for_url(lambda url: query in url)
    page.wait_for_load_state("networkidle")


def compared(page: Page, chosen: list[str]) -> None:
    """The page of a comparison is about these models."""
    page.wait_for_url(lambda url: "/vordlus?" in url)
    links = [link.get_attribute("href") or "" for link in page.locator("main a").all()]
    assert all(any(link.endswith(f"/{slug}") for link in links) for slug in chosen)


def more_filters(page: Page) -> None:
    page.locator("form.filters summary").click()


def test_search_narrows_the_table_and_stands_in_the_address(site: str, browser: Browser, board_world: World) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/")
        assert rows(page) == names(board_world)
        page.locator("#q").press_sequentially("labor3", delay=20)
        settled(page, "q=labor3")
        found = rows(page)
        assert found == names(board_world, q="labor3") and 0 < len(found) < len(names(board_world))
        page.locator("#q").fill("")
        page.wait_for_function(COUNT, arg=len(names(board_world)))
        page.locator("#q").fill("sellist ei ole")
        settled(page, "ei+ole")
        assert page.locator("#results .empty").is_visible() and rows(page) == []


def test_filters_and_order_are_a_link_that_shows_the_same_elsewhere(
    site: str, browser: Browser, board_world: World
) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/")
        more_filters(page)
        page.locator("#open").select_option("yes")
        settled(page, "open=yes")
        page.locator("#size").select_option("small")
        settled(page, "size=small")
        heading(page, "name").locator("a").click()
        settled(page, "sort=name")
        shown, link = rows(page), page.url
        assert shown == names(board_world, open="yes", size="small", sort="name") and len(shown) > 1
        assert heading(page, "name").get_attribute("aria-sort") == "ascending"
        heading(page, "name").locator("a").click()
        settled(page, "order=reverse")
        assert rows(page) == shown[::-1]
        assert heading(page, "name").get_attribute("aria-sort") == "descending"
    with visit(browser, site) as page:
        page.goto(link)
        assert rows(page) == shown
        assert page.locator("#size").input_value() == "small" and page.locator("#open").input_value() == "yes"


def test_every_column_can_be_sorted_by(site: str, browser: Browser, board_world: World) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/")
        links = page.locator("table.board thead th a")
        assert links.count() > 5
        for place in range(links.count()):
            links.nth(place).click()
            page.wait_for_load_state("networkidle")
            query = {key: values[0] for key, values in parse_qs(urlsplit(page.url).query).items()}
            assert rows(page) == names(board_world, **query)
            assert page.locator("thead th[aria-sort]").count() == 1
            assert links.nth(place).locator("..").get_attribute("aria-sort") in ("ascending", "descending")


def test_a_comparison_begins_on_the_board(site: str, browser: Browser) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/")
        button = page.locator("form.pick button[type=submit]")
        assert button.is_disabled()
        for place in (0, 2):
            page.locator("form.pick input[type=checkbox]").nth(place).check()
        chosen = [rows(page)[place] for place in (0, 2)]
        button.click()
        compared(page, chosen)


def test_the_other_language_keeps_the_state(site: str, browser: Browser) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/?q=labor3&sort=name&view=tasks")
        shown = rows(page)
        page.locator("header a[hreflang=en]").click()
        page.wait_for_url(lambda url: "/en/" in url)
        assert rows(page) == shown and page.locator("html").get_attribute("lang") == "en"
        assert page.locator("#q").input_value() == "labor3"
        page.locator("header a[hreflang=et]").click()
        page.wait_for_url(lambda url: "/en/" not in url)
        assert rows(page) == shown and page.locator("html").get_attribute("lang") == "et"


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("width", [375, 768, 1440])
def test_no_page_is_wider_than_the_screen(
    site: str, browser: Browser, board_world: World, code: str, width: int
) -> None:
    with visit(browser, site, width=width, expected=STATUSES) as page:
        wide = {}
        for address in pages(board_world, code):
            page.goto(site + address.url)
            if found := overflow(page):
                wide[address.url] = found
    assert wide == {}


def test_on_a_phone_a_model_is_a_card_that_names_what_it_shows(site: str, browser: Browser) -> None:
    with visit(browser, site, width=375, has_touch=True, is_mobile=True) as page:
        page.goto(f"{site}/")
        name = page.locator(ROWS).first
        card = page.locator("table.board tbody tr:has(a.name)").first
        box = card.bounding_box()
        assert box is not None and box["width"] <= 375 and box["height"] > 100 and name.is_visible()
        labels = [cell for cell in card.locator("td[data-l]").all() if cell.is_visible()]
        assert len(labels) > 4
        assert all(str(cell.get_attribute("data-l")) in cell.evaluate(BEFORE) for cell in labels)


def test_the_keyboard_is_enough(site: str, browser: Browser) -> None:
    with visit(browser, site) as page:
        page.goto(f"{site}/")
        page.keyboard.press("Tab")
        place = page.locator("a.skip").bounding_box()
        assert page.evaluate(FOCUSED) == "a.skip" and place is not None and place["x"] >= 0 and place["y"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate(FOCUSED) == "main#main"
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            assert page.evaluate(VISIBLE), f"nobody sees that {page.evaluate(FOCUSED)} has the focus"
            seen.append(page.evaluate(FOCUSED))
        assert {"input#q", "summary", "a"} <= set(seen)
        heading(page, "name").locator("a").focus()
        page.keyboard.press("Enter")
        settled(page, "sort=name")
        chosen = rows(page)[:2]
        for place_of_box in range(2):
            page.locator("form.pick input[type=checkbox]").nth(place_of_box).focus()
            page.keyboard.press("Space")
        page.locator("form.pick button[type=submit]").focus()
        page.keyboard.press("Enter")
        compared(page, chosen)


def test_without_javascript_everything_is_there(site: str, browser: Browser, board_world: World) -> None:
    with visit(browser, site, java_script_enabled=False) as page:
        page.goto(f"{site}/")
        assert rows(page) == names(board_world)
        assert page.locator("#theme").is_hidden()  # what needs JavaScript does not show itself
        page.locator("#q").fill("labor3")
        more_filters(page)
        page.locator("#open").select_option("yes")
        page.locator("form.filters button[type=submit]").click()
        page.wait_for_url(lambda url: "q=labor3" in url)
        assert rows(page) == names(board_world, q="labor3", open="yes")
        heading(page, "name").locator("a").click()
        page.wait_for_url(lambda url: "sort=name" in url and "q=labor3" in url)
        assert rows(page) == names(board_world, q="labor3", open="yes", sort="name")
        page.goto(f"{site}/")
        for place in range(2):
            page.locator("form.pick input[type=checkbox]").nth(place).check()
        chosen = rows(page)[:2]
        page.locator("form.pick button[type=submit]").click()
        compared(page, chosen)


def test_the_theme_is_the_readers_choice(site: str, browser: Browser) -> None:
    with visit(browser, site, color_scheme="dark") as page:
        page.goto(f"{site}/")
        dark = page.evaluate(PAPER)
        page.locator("#theme").click()
        light = page.evaluate(PAPER)
        assert light != dark
        page.goto(f"{site}/meetod")
        assert page.evaluate(PAPER) == light
    with visit(browser, site, color_scheme="light") as page:
        page.goto(f"{site}/")
        assert page.evaluate(PAPER) == light


@pytest.mark.parametrize("code", CODES)
def test_every_page_loads_without_a_complaint(site: str, browser: Browser, board_world: World, code: str) -> None:
    with visit(browser, site, expected=STATUSES) as page:
        for address in pages(board_world, code):
            answer = page.goto(site + address.url)
            assert answer is not None and answer.status in (200, *STATUSES), address.url
            assert page.locator("h1").count() == 1 and page.locator("main").count() == 1, address.url


@pytest.mark.parametrize(
    "script",
    [
        "document.cookie = 'a=1'",
        "console.error('x')",
        "fetch('http://127.0.0.2:9/').catch(() => 0)",
        "document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>')",
    ],
)
def test_a_visit_can_fail(site: str, browser: Browser, script: str) -> None:
    def do() -> None:
        with visit(browser, site) as page:
            page.goto(f"{site}/")
            page.evaluate(f"() => {{ {script}; }}")
            page.wait_for_timeout(300)

    with pytest.raises(AssertionError):
        do()
