"""The maintainers' pages and the API of submissions, over real HTTP: sessions, forms, rates, what is shown to whom."""

from __future__ import annotations

import http.cookiejar
import json
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from estbench_leaderboard import decided
from estbench_leaderboard.catalogue import CODES, languages
from estbench_leaderboard.submissions import bundle as bundles
from estbench_leaderboard.submissions import moderation, tokens, web
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.manage import PATHS, Desk, Sessions
from estbench_leaderboard.submissions.web import Intake
from sqlalchemy import update
from submission_fixtures import Board, Live, board, live, rescored

from estbench.database import open_database, schema
from estbench.runs import Run

__all__ = ["board", "live"]  # fixtures


class Browser:
    """A client that keeps cookies and does not follow redirects unless it is told to."""

    def __init__(self, base: str) -> None:
        self.base, self.jar = base, http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        return self._ask(urllib.request.Request(self.base + path, headers=headers))

    def post(self, path: str, fields: dict[str, str] | bytes, **headers: str) -> tuple[int, str]:
        data = fields if isinstance(fields, bytes) else urllib.parse.urlencode(fields).encode()
        return self._ask(urllib.request.Request(self.base + path, data=data, headers=headers, method="POST"))

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with self.opener.open(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def csrf(self, path: str = "/haldus") -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.get(path)[1])
        return found[1] if found else ""


@pytest.fixture
def maintainer(live: Live) -> Browser:
    """A maintainer who is logged in."""
    text = tokens.new_token(live.board.database, "Mari Haldaja", scopes=("moderate",))
    browser = Browser(live.url)
    status, body = browser.post(PATHS["et"]["login"], {"token": text})
    assert status == 200 and "Mari Haldaja" in body
    return browser


def decision(live: Live, identity: str, action: str, csrf: str, **more: str) -> dict[str, str]:
    seen = moderation.find(live.board.database, identity).updated
    return {"id": identity, "action": action, "csrf": csrf, "seen": seen, "reason": "korras", **more}


def test_a_maintainer_publishes_in_the_browser(live: Live, demo_run: Run, maintainer: Browser) -> None:
    identity = rescored(live.board, demo_run)
    status, body = maintainer.get("/haldus")
    assert status == 200 and identity in body and "Avalda" in body and demo_run.id in body
    status, _ = maintainer.post(PATHS["et"]["decide"], decision(live, identity, "publish", maintainer.csrf()))
    assert status == 200 and moderation.find(live.board.database, identity).state == "published"
    assert moderation.decisions(live.board.database)[0]["actor"] == "Mari Haldaja"
    status, body = maintainer.get("/en/manage")
    assert status == 200 and "Bring back" not in body
    assert "mini_copa: " in body  # nobody decides without having seen the scores
    moderation.hide(live.board.database, "Mari Haldaja", moderation.Target(run=demo_run.id), "viga")
    assert "Bring back" in maintainer.get("/en/manage")[1]


def test_a_stale_page_decides_nothing(live: Live, demo_run: Run, maintainer: Browser) -> None:
    identity = rescored(live.board, demo_run)
    fields = decision(live, identity, "publish", maintainer.csrf())
    moderation.reject(live.board.database, identity, "Jüri", "oli enne")
    status, body = maintainer.post(PATHS["et"]["decide"], fields)
    assert status == 409 and "by Jüri" in body and "oli enne" in body


class Asked:
    """As much of a request as its origin is judged by."""

    method = "POST"

    def __init__(self, here: str, origin: str | None, **headers: str) -> None:
        self.base_url = here
        self.headers = headers | ({} if origin is None else {"origin": origin})


@pytest.mark.parametrize(
    ("url", "here", "origin", "taken"),
    [
        ("http://127.0.0.1:8000", "http://localhost:8000/", "http://localhost:8000", True),
        ("http://0.0.0.0:8000", "http://localhost:8000/", "http://localhost:8000", True),
        ("http://0.0.0.0:8000", "http://[::1]:8000/", "http://[::1]:8000", True),
        ("https://Tabel.example.ee:443/", "http://tabel.example.ee/", "https://tabel.example.ee", True),
        ("https://tabel.example.ee", "http://127.0.0.1:8000/", "https://tabel.example.ee", True),  # behind a proxy
        ("https://tabel.example.ee", "https://tabel.example.ee/", None, True),
        ("http://127.0.0.1:8000", "http://localhost:8000/", "http://localhost:9000", False),  # another program
        ("http://0.0.0.0:8000", "http://evil.example:8000/", "http://evil.example:8000", False),  # a name of theirs
        ("", "http://evil.example/", "http://evil.example", False),
        ("https://tabel.example.ee", "https://evil.example/", "https://evil.example", False),
        ("https://tabel.example.ee", "https://tabel.example.ee/", "http://tabel.example.ee", False),
        ("https://tabel.example.ee", "https://tabel.example.ee/", "null", False),
        ("https://tabel.example.ee", "https://tabel.example.ee/", "https://tabel.example.ee:99999", False),
    ],
)
def test_a_site_is_the_same_under_each_of_its_own_names(
    board: Board, url: str, here: str, origin: str | None, taken: bool
) -> None:
    desk = Desk(board.database, Intake(board.folder, url))
    assert desk._from_here(Asked(here, origin)) is taken  # type: ignore[arg-type]
    assert not desk._from_here(Asked(here, origin, **{"sec-fetch-site": "cross-site"}))  # type: ignore[arg-type]


def test_a_maintainer_logs_in_under_another_name_of_this_machine(live: Live) -> None:
    text = tokens.new_token(live.board.database, "Mari Haldaja", scopes=("moderate",))
    local = live.url.replace("127.0.0.1", "localhost")
    status, body = Browser(local).post(PATHS["et"]["login"], {"token": text}, Origin=local)
    assert status == 200 and "Mari Haldaja" in body


@pytest.mark.parametrize("csrf", ["", "0" * 64, None])
def test_a_form_without_its_value_decides_nothing(
    live: Live, demo_run: Run, maintainer: Browser, csrf: str | None
) -> None:
    identity = rescored(live.board, demo_run)
    fields = decision(live, identity, "publish", csrf or "")
    if csrf is None:
        del fields["csrf"]
    status, _ = maintainer.post(PATHS["et"]["decide"], fields)
    assert status == 403 and moderation.find(live.board.database, identity).state == "rescored"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Content-Type": "text/plain"},
    ],
)
def test_a_form_from_elsewhere_decides_nothing(
    live: Live, demo_run: Run, maintainer: Browser, headers: dict[str, str]
) -> None:
    identity = rescored(live.board, demo_run)
    fields = decision(live, identity, "publish", maintainer.csrf())
    status, _ = maintainer.post(PATHS["et"]["decide"], fields, **headers)
    assert status == 403 and moderation.find(live.board.database, identity).state == "rescored"


def test_a_session_ends_with_its_token(live: Live, maintainer: Browser) -> None:
    [row] = [row for row in tokens.listing(live.board.database) if "moderate" in row["scopes"]]
    tokens.revoke(live.board.database, row["id"])
    assert "Mari Haldaja" not in maintainer.get("/haldus")[1]


def test_a_session_cookie_is_out_of_reach_of_scripts_and_other_sites(live: Live, maintainer: Browser) -> None:
    [cookie] = maintainer.jar
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "strict"


def test_a_cookie_that_we_did_not_make_is_nobody(board: Board) -> None:
    text = tokens.new_token(board.database, "Mari", scopes=("moderate",))
    token = tokens.verify(board.database, text)
    now = [1000.0]
    sessions = Sessions(board.database, b"secret", lambda: now[0])
    cookie = sessions.begin(token)
    assert sessions.find(cookie) is not None
    body, _, mac = cookie.rpartition(".")
    for forged in (None, "", "x", f"{body}.", f"{body}.{'0' * 64}", f"{body[:-4]}AAAA.{mac}", f"{body}.ä"):
        assert sessions.find(forged) is None
    assert Sessions(board.database, b"another").find(cookie) is None
    now[0] += 9 * 3600
    assert sessions.find(cookie) is None


def test_a_senders_token_does_not_log_in(live: Live) -> None:
    browser = Browser(live.url)
    status, body = browser.post(PATHS["et"]["login"], {"token": live.board.text})
    assert status == 403 and "pidaja õigust" in body and not list(browser.jar)


def test_guessing_tokens_is_slowed_down(live: Live) -> None:
    browser = Browser(live.url)
    seen = [browser.post(PATHS["et"]["login"], {"token": f"estb_{i:012x}_{'A' * 43}"})[0] for i in range(8)]
    assert seen[:6] == [401] * 6 and seen[6:] == [429, 429]


def test_what_was_sent_is_shown_as_text(live: Live, demo_run: Run, maintainer: Browser) -> None:
    identity = rescored(live.board, demo_run)
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"
    of = schema.submissions.c
    with live.board.database.write() as connection:
        report = {"tasks": {attack: {"state": "claimed", "reason": attack}}, "audits": []}
        new = {"model_name": attack, "reason": attack, "report": report}
        connection.execute(update(schema.submissions).where(of.id == identity).values(new))
    _, body = maintainer.get("/haldus")
    assert "<script>alert" not in body and "<img src=x" not in body and "&lt;script&gt;" in body and "{{7*7}}" in body


def test_every_word_of_these_pages_is_there_in_both_languages() -> None:
    keys = {code: {key for key in languages()[code].texts if key.startswith("manage.")} for code in CODES}
    assert keys["et"] == keys["en"] and len(keys["et"]) > 40
    used = set()
    here = Path(decided.__file__).parent
    for path in [*here.glob("templates/manage_*.html"), here / "submissions" / "manage.py"]:
        used |= set(re.findall(r"\"(manage\.(?!css)[a-z._]+[a-z])\"", path.read_text("utf-8")))
    known = {key.removesuffix(".one").removesuffix(".other") for key in keys["et"]}
    assert used and used <= known


# ---- the API of submissions


def test_a_sender_sees_all_of_their_own_and_others_see_little(live: Live, demo_run: Run) -> None:
    identity = rescored(live.board, demo_run)
    browser, path = Browser(live.url), f"/api/v1/submissions/{identity}"
    own = json.loads(browser.get(path, Authorization=f"Bearer {live.board.text}")[1])
    assert own["report"]["identical"] and own["model_name"] == "demo" and "signature" not in own["report"]
    other = tokens.new_token(live.board.database, "Teine")
    for headers in ({}, {"Authorization": f"Bearer {other}"}):
        status, body = browser.get(path, **headers)
        assert status == 200 and json.loads(body).keys() == {"id", "state", "created", "updated"}
    for odd in ("none", identity[:-1], "%00", "%F0%9F%8D%8E", "a" * 5000):
        status, body = browser.get(f"/api/v1/submissions/{odd}")
        assert status == 404 and identity not in body  # which ids there are is not for everyone


def test_only_its_sender_withdraws_a_submission(live: Live, demo_run: Run) -> None:
    identity = live.board.send(demo_run).id
    browser, path = Browser(live.url), f"/api/v1/submissions/{identity}/withdraw"
    other = tokens.new_token(live.board.database, "Teine")
    assert browser.post(path, b"")[0] == 401
    assert browser.post(path, b"", Authorization=f"Bearer {other}")[0] == 403
    status, body = browser.post(path, b"", Authorization=f"Bearer {live.board.text}")
    assert status == 200 and json.loads(body)["state"] == "withdrawn"
    assert browser.post(path, b"", Authorization=f"Bearer {live.board.text}")[0] == 409


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer estb_x"}, 401),
        ({"Authorization": "TOKEN"}, 400),
        ({"Authorization": "TOKEN", "X-Estbench-Signature": "!!"}, 400),
        ({"Authorization": "TOKEN", "X-Estbench-Signature": "QUJD"}, 400),
        ({"Authorization": "TOKEN", "X-Estbench-Signature": "A" * 86 + "=="}, 400),
    ],
)
def test_a_request_that_is_none_is_one_line_of_json(live: Live, headers: dict[str, str], status: int) -> None:
    sent = {key: value.replace("TOKEN", f"Bearer {live.board.text}") for key, value in headers.items()}
    found, body = Browser(live.url).post("/api/v1/submissions", b"no bundle", **sent)
    assert found == status and list(json.loads(body)) == ["error"] and "\n" not in json.loads(body)["error"]
    assert live.board.stored() == []


def test_a_body_that_says_it_is_too_large_is_not_read(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    signature = "A" * 86 + "=="
    head = (
        f"POST /api/v1/submissions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {live.board.text}\r\n"
        f"X-Estbench-Signature: {signature}\r\nContent-Length: 99999999999\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(head.encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def begun(live: Live, length: int = 1000) -> socket.socket:
    """A connection on which a body has begun to arrive."""
    host, port = live.url.removeprefix("http://").split(":")
    head = (
        f"POST /api/v1/submissions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {live.board.text}\r\n"
        f"X-Estbench-Signature: {'A' * 86}==\r\nContent-Length: {length}\r\n\r\nx"
    )
    raw = socket.create_connection((host, int(port)), timeout=10)
    raw.sendall(head.encode())
    return raw


def wait_for_body(live: Live) -> None:
    until = time.monotonic() + 10
    while not live.board.stored() and time.monotonic() < until:
        time.sleep(0.01)
    assert live.board.stored()


def test_a_token_sends_one_body_at_a_time(live: Live) -> None:
    headers = {"Authorization": f"Bearer {live.board.text}", "X-Estbench-Signature": "A" * 86 + "=="}
    with begun(live):
        wait_for_body(live)
        status, body = Browser(live.url).post("/api/v1/submissions", b"x", **headers)
        assert status == 429 and "one after the other" in body
    until = time.monotonic() + 10
    while status == 429 and time.monotonic() < until:  # the other has ended, and this is noticed
        status, _ = Browser(live.url).post("/api/v1/submissions", b"x", **headers)
    assert status == 400


def test_a_body_that_comes_too_slowly_is_ended(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "GRACE", 0.3)
    with begun(live) as raw:
        wait_for_body(live)
        answer = b""
        while b"too slowly" not in answer and (part := raw.recv(4096)):  # the body may come after the headers
            answer += part
    assert answer.startswith(b"HTTP/1.1 400") and b"too slowly" in answer and live.board.stored() == []


def test_a_token_sends_only_so_often(live: Live) -> None:
    browser = Browser(live.url)
    headers = {"Authorization": f"Bearer {live.board.text}", "X-Estbench-Signature": "A" * 86 + "=="}
    seen = [browser.post("/api/v1/submissions", b"x", **headers)[0] for _ in range(22)]
    assert seen[:20] == [400] * 20 and seen[20:] == [429, 429]


def test_a_key_that_was_given_with_the_token_is_the_only_one(board: Board, demo_run: Run) -> None:
    board.text = tokens.new_token(board.database, "Võtmega", key=bundles.public_key(bundles.new_key()))
    board.token = board.holder(board.text)
    with pytest.raises(Refused, match="another key"):
        board.send(demo_run)


def test_a_board_that_does_not_know_its_url_takes_nothing(home: Path) -> None:
    with pytest.raises(Refused) as caught:
        _ = Intake(home, "").audience
    assert caught.value.status == 503
    with open_database(None):
        pass
