"""Whatever address is asked for, the board answers: never a 5xx, never a traceback, nothing of it comes back as markup.

The API is asked what its own description allows and forbids (schemathesis), all other pages what nobody would ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_from_bytes, unquote

import pytest
import schemathesis
from board_addresses import client
from board_world import World
from estbench_leaderboard.app import create
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.routes import FORMS, PAGES
from estbench_leaderboard.site import Site
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from test_board_hostile import ALL, check_headers, check_html

BOUNDED = settings(deadline=None, suppress_health_check=list(HealthCheck))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SPECIAL = ("api/v1/models", "api/v1/tasks", "api/v1/runs", "badge", "kaart", "joonis", "static", "en/figure", "en/card")
KEYS = (
    *("board", "view", "preset", "tasks", "q", "size", "open", "commercial", "licence", "since", "all", "sort"),
    *(
        "order",
        "rows",
        "page",
        "models",
        "task",
        "x",
        "doc",
        "limit",
        "offset",
        "lang",
        "run",
        "kind",
        "skill",
        "weights",
    ),
)


@pytest.fixture(scope="module")
def app(board_world: World) -> Any:
    return create(Site(board_world.database))


@pytest.fixture(scope="module")
def api(app: Any) -> Any:
    """The API as it describes itself."""
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)


@pytest.fixture(scope="module")
def browser(board_world: World) -> Iterator[Any]:
    with client(board_world.database) as found:
        yield found


def ask(api: Any, examples: int) -> None:
    """Every operation with parameters that its description allows, and with some that it does not."""
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 8
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @given(operation.as_strategy(generation_mode=mode))
            @settings(BOUNDED, max_examples=examples)
            def check_case(case: Any) -> None:
                case.validate_response(case.call(), checks=CHECKS)

            with suppress(Unsatisfiable):  # of an operation without parameters none is wrong
                check_case()


def test_the_api_does_what_it_says(api: Any) -> None:
    ask(api, 5)


@pytest.mark.slow
def test_the_api_does_what_it_says_for_long(api: Any) -> None:
    ask(api, 60)


# ---- pages

TEXTS = st.one_of(st.sampled_from(ALL), st.text(max_size=200), st.sampled_from(("", ".", "..", "/", "%", "a" * 5000)))


@st.composite
def addresses(draw: st.DrawFn) -> str:
    """A page, or something like one, with parameters of all pages."""
    if draw(st.integers(0, 4)):
        page = draw(st.sampled_from(list(PAGES.values())))
        path = page.path(draw(st.sampled_from(CODES)), draw(st.sampled_from((*FORMS, "html"))))
        for part in ("slug", "task:path", "run", "doc"):
            path = path.replace(f"{{{part}}}", quote(draw(TEXTS), safe="/" if part == "task:path" else ""))
    else:
        path = f"/{draw(st.sampled_from(SPECIAL))}/{quote(draw(TEXTS))}{draw(st.sampled_from(('', '.svg', '.json')))}"
    pairs = draw(st.lists(st.tuples(st.sampled_from(KEYS), TEXTS), max_size=4))
    return path + ("?" + "&".join(f"{key}={quote(value)}" for key, value in pairs) if pairs else "")


def check(browser: Any, url: str) -> None:
    answer = browser.get(url, follow_redirects=False)
    assert answer.status_code < 500, f"{url}: {answer.status_code} {answer.text[:500]}"
    assert "Traceback" not in answer.text and "site-packages" not in answer.text
    check_headers(url, answer)
    if "text/html" in answer.headers.get("content-type", ""):
        check_html(url, answer.text)


@given(addresses())
@settings(BOUNDED, max_examples=150)
def test_any_address_has_an_answer(browser: Any, url: str) -> None:
    check(browser, url)


@pytest.mark.slow
@given(addresses())
@settings(BOUNDED, max_examples=2500)
def test_any_address_has_an_answer_for_long(browser: Any, url: str) -> None:
    check(browser, url)


def raw(app: Any, path: bytes, query: bytes, method: str = "GET", headers: Any = ()) -> tuple[int, bytes]:
    """What a server hands on of a request that no client would send."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),  # as uvicorn does it
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(part: Any) -> None:
        sent.append(part)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(part.get("body", b"") for part in sent[1:])


@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from(("GET", "HEAD", "POST", "PUT", "OPTIONS", "X")))
@settings(BOUNDED, max_examples=150)
def test_any_bytes_have_an_answer(app: Any, path: bytes, query: bytes, method: str) -> None:
    status, body = raw(app, b"/" + quote_from_bytes(path).encode(), query, method)
    assert status < 500 and b"Traceback" not in body


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (b"/mudel/%ff%fe", b""),
        (b"/mudel/%ed%a0%80", b""),  # half a surrogate pair
        (b"/mudel/%00", b"q=%00"),
        (b"/" + b"a" * 60_000, b""),
        (b"/", b"q=" + b"%f0%9f" * 3000),
        (b"/", b"&".join(b"q=1" for _ in range(5000))),
        (b"/", b"tasks=" + b"a," * 20_000),
        (b"//kuri.example/", b""),
        (b"/en", b"//kuri.example"),
        (b"/%2e%2e/%2e%2e/etc/passwd", b""),
        (b"/vordlus", b"models=" + b",".join(b"m%d" % n for n in range(3000))),
        (b"/api/v1/scores", b"limit=99999999999999999999&offset=-1"),
        (b"/api/v1/runs/%F0%28%8C%28/samples", b"task=%F0%28"),
        (b"/?", b"page=%D9%A3"),
    ],
)
def test_what_no_browser_sends_has_an_answer(app: Any, path: bytes, query: bytes) -> None:
    status, body = raw(app, path, query)
    assert 200 <= status < 500 and b"Traceback" not in body


@pytest.mark.parametrize("header", ["accept-encoding", "if-none-match", "accept-language", "cookie", "host", "range"])
@given(value=st.binary(max_size=40))
@settings(BOUNDED, max_examples=30)
def test_any_header_has_an_answer(app: Any, header: str, value: bytes) -> None:
    assert raw(app, b"/", b"", headers=[(header.encode(), value)])[0] < 500
