"""The maintainers' pages, `/haldus` and `/en/manage`: log in with a token, look at submissions, decide.

A session is a signed cookie (HttpOnly, SameSite=Strict) that names the token; whether that still holds is asked anew
each time, so that revoking it ends the session. Each form carries a value made of the cookie, without which nothing is
done, and comes from this site or is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from estbench.database import Database, queries
from estbench.errors import UserError
from estbench.runs import Score
from estbench_leaderboard import decided
from estbench_leaderboard.submissions import moderation, tokens
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.limits import Rate
from estbench_leaderboard.submissions.moderation import Target
from estbench_leaderboard.submissions.receive import LOOPBACK

if TYPE_CHECKING:
    from estbench_leaderboard.submissions.web import Intake

COOKIE = "estbench_haldus"
HOURS = 8
LARGEST = 1 << 16  # bytes of a form
RECENT = 30  # decisions that are shown
PATHS = {
    "et": {"home": "/haldus", "login": "/haldus/sisene", "logout": "/haldus/valju", "decide": "/haldus/otsusta"},
    "en": {
        "home": "/en/manage",
        "login": "/en/manage/login",
        "logout": "/en/manage/logout",
        "decide": "/en/manage/decide",
    },
}


@dataclass(frozen=True)
class Session:
    """A maintainer who is logged in."""

    token: tokens.Token
    csrf: str


class Sessions:
    """Makes and checks session cookies."""

    def __init__(self, database: Database, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self.database, self.secret, self.clock = database, secret, clock

    def begin(self, token: tokens.Token) -> str:
        """The cookie of a new session."""
        content = {"token": token.id, "nonce": secrets.token_hex(8), "until": int(self.clock()) + HOURS * 3600}
        body = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
        return f"{body}.{self._mac('session', body)}"

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie that we made, if its time is not over and its token holds."""
        body, _, mac = (cookie or "").rpartition(".")
        if not body or not hmac.compare_digest(mac.encode(), self._mac("session", body).encode()):
            return None
        content = json.loads(base64.urlsafe_b64decode(body))
        token = tokens.holds(self.database, content["token"], "moderate")
        if token is None or content["until"] < self.clock():
            return None
        return Session(token, self._mac("form", body))

    def _mac(self, what: str, body: str) -> str:
        return hmac.new(self.secret, f"{what} {body}".encode(), hashlib.sha256).hexdigest()


def pages(database: Database, settings: Intake) -> APIRouter:
    """The routes of both languages."""
    router = APIRouter(include_in_schema=False)
    desk = Desk(database, settings)
    for code, paths in PATHS.items():
        for name, method in (("home", "GET"), ("login", "POST"), ("logout", "POST"), ("decide", "POST")):
            router.add_api_route(paths[name], desk.endpoint(name, code), methods=[method])
    return router


class Desk:
    """What is done at each path; `code` is the language."""

    def __init__(self, database: Database, settings: Intake) -> None:
        self.database, self.settings = database, settings
        self.sessions = Sessions(database, settings.secret)
        self.logins: Rate = settings.logins

    def endpoint(self, name: str, code: str) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            form = await _form(request) if request.method == "POST" else {}
            if form is None or not self._from_here(request):
                return await run_in_threadpool(self._page, request, code, 403, "manage.error.elsewhere")
            done = {"home": self.home, "login": self.login, "logout": self.logout, "decide": self.decide}[name]
            return await run_in_threadpool(done, request, code, form)

        return endpoint

    def home(self, request: Request, code: str, form: dict[str, str]) -> Response:
        """The list, or a form to log in."""
        return self._page(request, code)

    def login(self, request: Request, code: str, form: dict[str, str]) -> Response:
        """Begin a session with a token of scope `moderate`."""
        try:
            self.logins.take(request.client.host if request.client else "?")
            token = tokens.verify(self.database, form.get("token", ""), "moderate")
        except Refused as error:
            key = "manage.error.often" if error.status == 429 else "manage.error.token"
            return self._page(request, code, error.status, key)
        answer = RedirectResponse(PATHS[code]["home"], 303)
        secure = self.settings.url.startswith("https:")
        answer.set_cookie(
            COOKIE, self.sessions.begin(token), max_age=HOURS * 3600, httponly=True, samesite="strict", secure=secure
        )
        return answer

    def logout(self, request: Request, code: str, form: dict[str, str]) -> Response:
        """End the session."""
        answer = RedirectResponse(PATHS[code]["home"], 303)
        if self._session(request, form):
            answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def decide(self, request: Request, code: str, form: dict[str, str]) -> Response:
        """Publish, reject, hide or show; what somebody else decided meanwhile is said."""
        session = self._session(request, form)
        if session is None:
            return self._page(request, code, 403, "manage.error.session")
        identity, actor, reason = form.get("id", ""), session.token.name, form.get("reason", "").strip()
        try:
            seen = moderation.find(self.database, identity)
            if form.get("action") == "publish":
                moderation.publish(self.database, identity, actor, reason, expected=form.get("seen"))
            elif form.get("action") == "reject":
                moderation.reject(self.database, identity, actor, reason, expected=form.get("seen"))
            elif form.get("action") == "hide":
                moderation.hide(self.database, actor, Target(run=seen.run), reason, public=False)
            elif form.get("action") == "show":
                moderation.show(self.database, actor, Target(run=seen.run), reason or "shown again", public=False)
            else:
                raise Refused(400, "There is no such decision.")
        except UserError as error:
            status = error.status if isinstance(error, Refused) else 400
            return self._page(request, code, status, "manage.error.decision", str(error))
        return RedirectResponse(PATHS[code]["home"], 303)

    def _session(self, request: Request, form: dict[str, str]) -> Session | None:
        """The session, if the form was made for it."""
        session = self.sessions.find(request.cookies.get(COOKIE))
        if session is None or not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
            return None
        return session

    def _from_here(self, request: Request) -> bool:
        """Whether a form comes from a page of this site, as browsers tell."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        if request.method == "GET":
            return True
        if site != "same-origin" or origin is None:
            return site == "same-origin"
        found, here = origin_of(origin), origin_of(str(request.base_url))
        if found and here and {found[1], here[1]} <= LOOPBACK:  # whose names are one machine, and nobody else's
            return (found[0], found[2]) == (here[0], here[2])
        return found is not None and found == origin_of(self.settings.url)

    def _page(self, request: Request, code: str, status: int = 200, error: str = "", detail: str = "") -> Response:
        from estbench_leaderboard.site import Content

        session = self.sessions.find(request.cookies.get(COOKIE))
        values: dict[str, Any] = {"paths": PATHS[code], "error": error, "detail": detail, "session": session}
        if session:
            values |= {
                "submissions": (sent := moderation.listing(self.database)),
                "hidden_runs": {run for action, (run, _, _) in decided.read(self.database).active if action == "hide"},
                "scores": _scores(
                    self.database, [row["run"] for row in sent if row["state"] in ("rescored", "published")]
                ),
                "attempts": moderation.attempts(self.database),
                "decisions": moderation.decisions(self.database, public=False)[:RECENT],
            }
        site = request.app.state.site
        asked = site.request(code)
        title = asked.t("manage.title")
        name = "manage_list.html" if session else "manage_login.html"
        body = site.html(Content(name, values, None, title=title), asked, "submit", {})
        headers = {"cache-control": "no-store", "content-language": code, "x-robots-tag": "noindex"}
        return Response(body, status, headers, "text/html")


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of a URL, in lower case and with the port that is meant; None if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def _scores(database: Database, runs: list[str]) -> dict[str, list[Score]]:
    """What submissions would show, for who decides on them: run -> the tasks' primary scores."""
    found: dict[str, list[Score]] = {}
    for row in queries.scores(database, runs=runs, primary=True):
        found.setdefault(row.run, []).append(row.score)
    return found


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of a form; None if it is none, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            return None
    if kind != "application/x-www-form-urlencoded":
        return None
    try:
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return None
