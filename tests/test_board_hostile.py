"""Every text from outside is an attack: no page, feed, picture or file lets one in, whoever wrote it.

The made-up world is filled with texts that would run, leave their attribute, break XML, turn lines around, count in a
spreadsheet or be evaluated by a template, in every place that people or models write to.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from board_addresses import client, data, files, pages
from board_world import SMALL, World, fill
from estbench_leaderboard.catalogue import CODES
from lxml import etree, html

from estbench.database import open_database

RUNS_AT_ONCE = (
    "<script>kuri(1)</script>",
    "</script><script>kuri(1)</script>",
    "</title><img src=x onerror=kuri(1)>",
    '"><svg onload=kuri(1)>',
    "' onmouseover='kuri(1)",
    '" autofocus onfocus="kuri(1)',
    "</textarea></td></table></style><iframe src=javascript:kuri(1)>",
    "<a href='javascript:kuri(1)'>vajuta</a>",
    "javascript:kuri(1)//http://",
    "data:text/html,<script>kuri(1)</script>",
    "]]></desc><script>kuri(1)</script><!--",
    "<!DOCTYPE x [<!ENTITY k SYSTEM 'file:///etc/passwd'>]>&k;",
    "&lt;script&gt;kuri(1)&lt;/script&gt; &#x3C;b&#x3E;",
    "<base href=//kuri.example/><meta http-equiv=refresh content=0;url=//kuri.example>",
    "<form action=//kuri.example><button>saada</button></form>",
)
ODD = (
    "{{1337*1337}} ${1337*1337} {%raw%} <%= 1337*1337 %> %(x)s {0} {name}",
    '=HYPERLINK("http://kuri.example";"vajuta")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1337*1337",
    "\t=1337*1337",
    "tagurpidi \u202egpj.exe\u202c \u2066 \u200f",
    "null \x00 kell \x07 \x1b[31m \x9b \ufffe \uffff",
    "%0d%0aSet-Cookie: kuri=1\r\nX-Kuri: 1",
    "../../../../etc/passwd",
    "väga" * 300,
    "\u0301" * 200,
    "'; DROP TABLE runs; --",
)
ALL = RUNS_AT_ONCE + ODD
HALF = "pool paari \ud800 ja \udfff"  # only where a model writes: nothing else can be stored
PLAIN = {"run_id", "task"}


def attack(kind: str, text: str, shift: int = 0) -> str:
    """Another attack for each text, so that every kind of text has every attack in turn."""
    place = int(hashlib.sha256(f"{kind} {text} {shift}".encode("utf-8", "replace")).hexdigest(), 16)
    if kind in ("answer", "prompt", "target") and place % 5 == 0:
        return HALF
    return ALL[place % len(ALL)] if place % 3 else f"{text} {ALL[place % len(ALL)]}"


@pytest.fixture(scope="module", params=range(3))
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """A world full of attacks, and the language in which it is looked at: both languages show the same texts."""
    with open_database(f"sqlite:///{tmp_path_factory.mktemp('hostile') / 'world.db'}") as database:
        world = fill(database, **SMALL, outside=lambda kind, text: attack(kind, text, request.param))
        yield world, CODES[request.param % len(CODES)]


def answers(world: World, urls: list[str]) -> Iterator[tuple[str, Any]]:
    """The addresses with their answers, each checked for its headers."""
    with client(world.database) as browser:
        for url in urls:
            answer = browser.get(url)
            assert answer.status_code in (200, 403, 404, 410), f"{url}: {answer.status_code} {answer.text[:300]}"
            check_headers(url, answer)
            yield url, answer


def check_headers(url: str, answer: Any) -> None:
    policy = answer.headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == "'self'" and rules["style-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'" and rules["base-uri"] == "'none'" and rules["form-action"] == "'self'"
    assert "unsafe" not in policy and "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff", url
    assert answer.headers["x-frame-options"] == "DENY", url
    assert "x-kuri" not in answer.headers and "set-cookie" not in answer.headers, url


def check_html(url: str, text: str) -> None:
    """No element, attribute or address that a text from outside brought in."""
    for raw in RUNS_AT_ONCE:
        assert raw.startswith(("javascript:", "data:")) or raw not in text or "&lt;script" in raw, f"{url}: {raw}"
    assert str(1337 * 1337) not in text, f"{url}: a template evaluated what it was given"
    for element in html.document_fromstring(text).iter():
        if not isinstance(element.tag, str):
            continue
        where = f"{url}: {html.tostring(element, encoding='unicode')[:200]}"
        assert element.tag not in ("iframe", "object", "embed", "base", "style", "foreignobject", "frame"), where
        if element.tag == "script":
            assert not (element.text or "").strip() and element.get("src", "").startswith("/static/"), where
        if element.tag == "meta":
            assert element.get("http-equiv") is None, where
        check_attributes(element, where)


def check_attributes(element: Any, where: str) -> None:
    for name, value in element.attrib.items():
        plain = etree.QName(name).localname.lower() if name.startswith("{") else name.lower().split(":")[-1]
        assert not plain.startswith("on") and plain not in ("style", "srcdoc"), where
        if plain in ("href", "src", "action", "formaction", "data", "poster", "srcset", "background", "cite"):
            address = urlsplit(re.sub(r"[\x00-\x20]", "", value).replace("\\", "/").lower())
            assert address.scheme in ("", "http", "https", "mailto") and address.netloc != "kuri.example", where


def check_xml(url: str, body: bytes) -> None:
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    for element in etree.fromstring(body, parser).iter():
        if isinstance(element.tag, str):
            assert etree.QName(element).localname.lower() not in ("script", "foreignobject", "iframe"), url
            check_attributes(element, url)
    text = body.decode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", text), f"{url}: not XML"


def check_csv(url: str, text: str) -> None:
    for row in csv.reader(io.StringIO(text.removeprefix("\ufeff"))):
        for cell in row:
            formula = cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))
            assert not formula or re.fullmatch(r"-?[0-9.e-]+", cell), f"{url}: {cell!r}"


def test_pages_show_texts_as_texts(hostile: tuple[World, str]) -> None:
    world, code = hostile
    seen = set()
    for url, answer in answers(world, [address.url for address in pages(world, code)]):
        assert answer.headers["content-type"] == "text/html; charset=utf-8", url
        check_html(url, answer.text)
        seen |= {raw for raw in ALL if raw[:12].replace("<", "&lt;") in answer.text}
    assert len(seen) > 10  # they are on the pages at all


def test_data_is_data(hostile: tuple[World, str]) -> None:
    world, code = hostile
    for url, answer in answers(world, [one for address in pages(world, code) for one in data(address.url)]):
        kind = answer.headers["content-type"]
        if ".csv" in url and answer.status_code == 200:
            assert kind == "text/csv; charset=utf-8", url
            check_csv(url, answer.text)
        else:
            assert kind == "application/json", url
            json.loads(answer.text)


def test_feeds_and_pictures_are_sound(hostile: tuple[World, str]) -> None:
    for url, answer in answers(hostile[0], files(hostile[0])):
        kind = answer.headers["content-type"].split(";")[0]
        if answer.status_code != 200 or kind == "application/json":
            json.loads(answer.text)
        elif kind != "text/plain":
            assert kind in ("image/svg+xml", "application/atom+xml", "application/xml"), url
            check_xml(url, answer.content)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (check_html, "<p><script>kuri(1)</script>"),
        (check_html, "<p>1787569"),
        (check_html, "<p onclick=x>"),
        (check_html, "<a href=' java\tscript:x'>"),
        (check_html, "<a href=//kuri.example>"),
        (check_html, "<svg><a xlink:href='javascript:x'/></svg>"),
        (check_html, "<p style='color:red'>"),
        (check_html, "<meta http-equiv=refresh>"),
        (check_xml, "<svg onload='x'/>"),
        (check_xml, "<svg><script/></svg>"),
        (check_csv, "a,=1+1\n"),
        (check_csv, 'a,"@x"\n'),
    ],
)
def test_the_checks_can_fail(check: Any, text: str) -> None:
    with pytest.raises(AssertionError):
        check("here", text.encode() if check is check_xml else text)


def test_headers_are_on_answers_of_every_kind(board_world: World) -> None:
    with client(board_world.database) as browser:
        for url in ("/", "/olematu", "/mudel/olematu", "/?page=x", "/static/board.css", "/static/olematu", "/healthz"):
            check_headers(url, browser.get(url))
        check_headers("/", browser.head("/"))
        check_headers("/", browser.post("/", content="x"))
        again = browser.get("/", headers={"if-none-match": browser.get("/").headers["etag"]})
        assert again.status_code == 304
        check_headers("/", again)


def test_static_files_are_only_those_of_the_folder(board_world: World) -> None:
    with client(board_world.database) as browser:
        for path in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "..\\app.py", "fonts", ""):
            assert browser.get(f"/static/{path}").status_code == 404, path


def test_nothing_withheld_is_shown(board_world: World, tmp_path: Path) -> None:
    """Documents of a task that does not publish them are on no page and in no file, in any form."""
    secret = "SALAJANE"
    kinds = ("prompt", "target", "answer")
    closed = {"exam_et_chat", "flores_en_et_chat", "estgec_l2_chat"}

    def outside(kind: str, text: str) -> str:
        return f"{secret} {text}" if kind in kinds else text

    with open_database(f"sqlite:///{tmp_path / 'world.db'}") as database:
        world = fill(database, **SMALL, outside=outside)
        snapshot = world.snapshot()
        names = [task.name for task in snapshot.boards["chat"].tasks.values() if not task.publish_items]
        assert set(names) == closed
        with client(database) as browser:
            model = snapshot.model(world.cases["best"], "chat")
            assert model is not None
            for name in names:
                run = model.cells[name].run
                paths = [f"/ulesanne/{name}", f"/en/task/{name}", f"/api/v1/tasks/{name}"]
                paths += [f"/api/v1/runs/{run}/samples?task={name}", f"/vastus/{run}/{_doc(world, run, name)}/{name}"]
                for path in [*paths, *data(paths[0]), *data(paths[-1])]:
                    answer = browser.get(path)
                    assert answer.status_code in (200, 403, 404), path
                    assert secret not in answer.text, path
            open_run, task = model.cells["estcopa_chat"].run, "estcopa_chat"
            shown = browser.get(f"/vastus/{open_run}/{_doc(world, open_run, task)}/{task}")
            assert shown.status_code == 200 and secret in shown.text  # the check can fail


def _doc(world: World, run: str | None, task: str) -> str:
    from estbench.database import queries
    from estbench.registry import Registry

    assert run is not None
    return queries.items(world.database, run, task, Registry().task(task).primary).docs[0]
