"""The voting page as people use it: by keyboard, on a phone, without JavaScript, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from board_browser import chromium, overflow, visit
from estbench_judges import labels
from estbench_judges.items import Item
from estbench_judges.label_page import Question, app
from estbench_judges.labels import Label

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium", "playwright", "axe_playwright_python")]

ANSWERS = (
    "Hapukapsa tegemiseks lõika kapsas peeneks, lisa kilogrammi kohta umbes 20 grammi soola ja muljuda mahl välja.\n\n"
    "1. Pane kapsas purki.\n2. Suru tihedalt kinni.\n3. Hoia nädal toasoojas.",
    "Hapukapsast tehakse kapsast. Kapsas tuleb hapuks lasta minna.\n\n" + "Maitsestada võib köömnetega. " * 30,
)
VISIBLE = """() => {
    const style = getComputedStyle(document.activeElement.matches("input[type=radio]")
        ? document.activeElement.nextElementSibling : document.activeElement);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
}"""
SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_judge_label_browser import questions
from estbench_judges.label_page import serve
sys.exit(serve(questions(), Path(sys.argv[1]), "Mari", port=int(sys.argv[2]), seed=1))
"""


def questions(count: int = 4) -> list[Question]:
    """Pairs that can be told apart, a two-turn one among them, and one question on equivalence at some place."""
    found = []
    for number in range(count):
        turns = (f"Kuidas teha hapukapsast? ({number})", "Aga kui soola ei ole?")[: 1 + number % 2]
        answers, anchor = ANSWERS[: len(turns)], tuple(f"Ankur {number}: {ANSWERS[1]}" for _ in turns)
        item = Item("estinstruct", f"doc{number}", number, "k", turns, answers)
        found.append(Question(item, "salajane/hunt-8B", anchor, "pairwise"))
    item = Item("qa", "qa0", 0, "k", ("Kus on Eesti vanim ülikool?",), ("See asub Emajõe ääres.",))
    return [*found, Question(item, "salajane/hunt-8B", ("Tartus",), "equivalence")]


@contextmanager
def serving(file: Path) -> Iterator[str]:
    """The address of a server in this process."""
    import socket

    import uvicorn

    door = socket.create_server(("127.0.0.1", 0))
    application = app(questions(), file, rater=None, seed=1)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([door],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        door.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.jsonl"


@pytest.fixture
def site(file: Path) -> Iterator[str]:
    with serving(file) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def begin(page: Page, site: str, name: str = "Mari") -> None:
    page.goto(f"{site}/")
    page.locator("#rater").fill(name)
    page.locator("#rater").press("Enter")
    page.wait_for_url("**/vote/*")


def done(page: Page, count: int) -> None:
    """Wait until the page says so many are done."""
    page.wait_for_selector(f"progress[value='{count}']")
    page.wait_for_load_state()


def chosen(page: Page) -> list[str]:
    found: list[str] = page.evaluate("[...document.querySelectorAll(':checked')].map((one) => one.dataset.key)")
    return found


def axe(page: Page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]


def vote_by_keys(page: Page) -> None:
    """Whatever is asked: the first choice everywhere."""
    page.keyboard.press("1")
    page.keyboard.press("q")
    page.keyboard.press("Enter")


def test_all_is_done_by_keyboard(site: str, file: Path, browser: Browser) -> None:
    with visit(browser, site) as page:
        begin(page, site)
        pair = {"1", "2", "3", "q", "w", "e"}
        for count in range(5):
            keys = page.locator("kbd:visible").all_inner_texts()
            assert set(keys) - {"⌫", "Enter", "0"} in (pair, {"1", "2"}) and ("⌫" in keys) == (count > 0)
            if "q" not in keys:
                page.keyboard.press("2")
                assert chosen(page) == ["2"]
            else:
                for pressed in ("1", "e", "3", "w"):  # the last of each counts
                    page.keyboard.press(pressed)
                assert chosen(page) == ["3", "w"]
                assert page.evaluate(VISIBLE)
            page.keyboard.press("Enter")
            done(page, count + 1)
        assert "Kõik on hinnatud" in page.locator("h1").inner_text()
        page.keyboard.press("Backspace")
        page.wait_for_selector("form.vote")
        page.keyboard.press("0")
        page.wait_for_selector("text=Ühele küsimusele ei osanud sa vastata")
    found = labels.read(file, lambda _: None)
    assert len(found) == 5 and sum(label.skipped for label in found) == 1
    assert {label.language for label in found if label.mode == "pairwise" and not label.skipped} == {0.5}
    assert len(file.read_bytes().splitlines()) == 6


def test_half_a_vote_is_not_sent(site: str, file: Path, browser: Browser) -> None:
    with visit(browser, site) as page:
        begin(page, site)
        while "q" not in page.locator("kbd:visible").all_inner_texts():
            page.keyboard.press("0")
            page.wait_for_load_state()
        before, url = page.locator("progress").evaluate("one => one.value"), page.url
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        assert page.url == url and chosen(page) == ["1"]
        assert page.evaluate("document.activeElement.name") == "language"  # the browser shows what is missing
        page.keyboard.press("w")
        page.keyboard.press("Enter")
        done(page, before + 1)


def test_keys_are_letters_in_a_note(site: str, file: Path, browser: Browser) -> None:
    with visit(browser, site) as page:
        begin(page, site)
        vote_by_keys(page)
        done(page, 1)
        page.locator("summary").click()
        note = page.locator("#note")
        note.click()
        page.keyboard.type("12 qwe 30")
        page.keyboard.press("Backspace")
        page.keyboard.press("Enter")
        page.keyboard.type("q")
        assert note.input_value() == "12 qwe 3\nq" and chosen(page) == []
        page.keyboard.press("Escape")
        page.keyboard.press("Control+1")
        assert chosen(page) == []
        vote_by_keys(page)
        done(page, 2)
        page.keyboard.press("Backspace")
        page.wait_for_selector("text=Muudad varem antud hinnangut")
        assert page.locator("#note").input_value() == "12 qwe 3\nq" and "1" in chosen(page)
    assert [label.note for label in labels.read(file)] == ["", "12 qwe 3\nq"]


def test_keys_work_on_a_keyboard_with_other_letters(site: str, browser: Browser) -> None:
    press = "([key, code]) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true}))"
    with visit(browser, site) as page:
        begin(page, site)
        while "q" not in page.locator("kbd:visible").all_inner_texts():
            page.keyboard.press("0")
            page.wait_for_load_state()
        for key, code in (("й", "KeyQ"), ("&", "Digit1")):
            page.evaluate(press, [key, code])
        assert chosen(page) == ["1", "q"]


def test_it_works_without_javascript(site: str, file: Path, browser: Browser) -> None:
    with visit(browser, site, java_script_enabled=False) as page:
        begin(page, site)
        for count in range(5):
            done(page, count)
            assert page.locator("kbd:visible").count() == 0
            for group in page.locator("fieldset").all():
                group.locator("label").first.click()
            page.locator("form.vote button").first.click()
        assert "Kõik on hinnatud" in page.locator("h1").inner_text()
        with page.expect_download() as download:
            page.locator("a[download]").first.click()
        assert Path(download.value.path()).read_bytes() == file.read_bytes()
    assert len(labels.read(file)) == 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 375])
def test_every_page_is_accessible_and_fits(site: str, browser: Browser, scheme: str, width: int) -> None:
    wrong = {}
    with visit(browser, site, width=width, color_scheme=scheme, expected=(404,)) as page:
        page.goto(f"{site}/olematu")
        wrong["error"] = axe(page) + overflow(page)
        page.goto(f"{site}/")
        wrong["start"] = axe(page) + overflow(page)
        begin(page, site)
        for count in range(5):
            page.keyboard.press("2")
            wrong[f"vote {count}"] = axe(page) + overflow(page)
            sides = [one.bounding_box() for one in page.locator(".answer").all()[:2]]
            assert sides[0] and sides[1]
            assert (sides[0]["y"] == sides[1]["y"]) == (width > 1000)  # beside each other, or below
            page.keyboard.press("w")
            page.keyboard.press("Enter")
            done(page, count + 1)
        wrong["done"] = axe(page) + overflow(page)
    assert {name: found for name, found in wrong.items() if found} == {}


def test_two_raters_one_after_the_other(site: str, file: Path, browser: Browser) -> None:
    with visit(browser, site) as page:
        for name in ("Mari", "Jüri"):
            begin(page, site, name)
            for count in range(5):
                vote_by_keys(page)
                done(page, count + 1)
            page.locator("text=Järgmine hindaja").click()
            page.wait_for_selector("#rater")
            assert page.locator("#rater").input_value() == ""
    votes = labels.human(labels.read(file), "content")
    assert len(votes) == 5 and all(set(one) == {"Mari", "Jüri"} for one in votes.values())


@contextmanager
def process(file: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """`serve` in a process of its own, which listens."""
    command = [sys.executable, "-c", SERVER, str(file), str(port), str(Path(__file__).parent)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert running.stderr is not None
        said = ""
        while "Ctrl+C" not in said:
            line = running.stderr.readline()
            assert line, said
            said += line
        yield running
    finally:
        running.kill()
        running.wait(30)
        running.stderr.close()


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def test_kill_9_loses_no_vote_that_was_sent(file: Path, browser: Browser) -> None:
    port = free_port()
    site = f"http://127.0.0.1:{port}"
    with visit(browser, site, expected=(409,)) as page:
        with process(file, port) as running:
            page.goto(site)
            for count in range(2):
                vote_by_keys(page)
                done(page, count + 1)
            page.keyboard.press("1")
            shown = page.locator(".answer .text").all_inner_texts()
            os.kill(running.pid, signal.SIGKILL)
        assert len(labels.read(file)) == 2
        with open(file, "ab") as torn:  # what a crash of the whole machine may leave
            torn.write(b'{"task": "estinstr')
        with process(file, port):
            page.keyboard.press("q")
            page.keyboard.press("Enter")
            page.wait_for_load_state()
            if page.locator("progress").count() == 0:  # the vote that was not sent is asked for again
                assert "Alusta uuesti" in page.locator("[role=alert]").inner_text()
                page.locator("main a.button").click()
            done(page, 2)
            assert page.locator(".answer .text").all_inner_texts() == shown
            for count in range(2, 5):
                vote_by_keys(page)
                done(page, count + 1)
    found = [Label(**{"note": "", **json.loads(line)}) for line in file.read_text("utf-8").splitlines()]
    assert len(found) == 5 == len({label.key for label in found})


def test_ctrl_c_is_an_ordinary_end(file: Path) -> None:
    with process(file, free_port()) as running:
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
    assert not file.exists()
