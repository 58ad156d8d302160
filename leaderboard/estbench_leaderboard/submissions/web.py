"""Submissions over HTTP: sending one, asking how far it is, taking it back; and the maintainers' pages.

    app.include_router(routes(database, Intake(folder=home() / "board", url="https://tabel.ee")))

POST /api/v1/submissions                  the bundle as the body; Authorization: Bearer TOKEN, X-Estbench-Signature
GET  /api/v1/submissions/{id}             its state; all of it with the sender's token
POST /api/v1/submissions/{id}/withdraw    by its sender
GET  /api/v1/token                        what a token is and what this board takes: asked before anything large is sent

A body is written to disk as it comes, and no more of it than a bundle may have. What is refused is one line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from estbench.database import Database, schema
from estbench.errors import ConfigError
from estbench_leaderboard.api_models import Failure
from estbench_leaderboard.submissions import moderation, tokens
from estbench_leaderboard.submissions.bundle import LIMITS, Limits
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.limits import Rate
from estbench_leaderboard.submissions.receive import Spool, Submission, accept, audience_of

SECONDS = 900  # that a body may take to arrive
GRACE, SLOWEST = 30, 8 << 10  # after so many seconds, a body has to come at so many bytes a second on average
AT_ONCE = 4  # bodies that arrive at the same time
SIGNATURE = "x-estbench-signature"
ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "model": Failure}
    for status, text in {
        400: "not as it has to be",
        401: "no valid token",
        403: "not allowed",
        404: "unknown",
        409: "there already, or decided already",
        413: "too large",
        429: "too often",
        503: "not now",
        507: "no room",
    }.items()
}


@dataclass(frozen=True)
class Intake:
    """Where submissions go, and under which URL this board is known: that is what bundles are signed for.

    url: "" takes no submissions. secret: of maintainers' sessions; one that lasts keeps them over a restart.
    """

    folder: Path
    url: str
    limits: Limits = LIMITS
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    addresses: Rate = field(default_factory=lambda: Rate(per_hour=240, burst=60), repr=False)
    sendings: Rate = field(default_factory=lambda: Rate(per_hour=20 / 24, burst=20), repr=False)
    logins: Rate = field(default_factory=lambda: Rate(per_hour=30, burst=6), repr=False)

    @property
    def audience(self) -> str:
        """Refused(503) where the board does not know its own URL."""
        if not self.url:
            raise Refused(503, "This board takes no submissions.")
        return audience_of(self.url)


Endpoint = Callable[..., Awaitable[Response]]


def plain(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose refusals become one line of JSON."""

    @wraps(endpoint)
    async def answered(*given: Any, **named: Any) -> Response:
        try:
            return await endpoint(*given, **named)
        except Refused as error:
            headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
            return as_json({"error": str(error)}, error.status, headers)
        except ConfigError as error:
            return as_json({"error": str(error)}, 400)

    return answered


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """JSON that nobody keeps."""
    return JSONResponse(value, status, {"cache-control": "no-store", **(headers or {})})


def address(request: Request) -> str:
    """Who asks; behind a proxy, uvicorn puts the address there that the proxy tells."""
    return request.client.host if request.client else "?"


def routes(database: Database, settings: Intake) -> APIRouter:
    """All routes of submissions, the maintainers' pages among them."""
    from estbench_leaderboard.submissions.manage import pages

    router = APIRouter()
    _add_reading(router, database, settings)
    _add_sending(router, database, settings)
    router.include_router(pages(database, settings))
    return router


def _add_sending(router: APIRouter, database: Database, settings: Intake) -> None:
    arriving = asyncio.Semaphore(AT_ONCE)
    sending: set[str] = set()  # tokens whose body is on its way

    @router.post("/api/v1/submissions", status_code=201, responses=ANSWERS, tags=["submissions"])
    @plain
    async def submit(request: Request) -> Response:
        """Send a bundle, as `estbench push` makes it: the body is the file."""
        token = await _token(database, settings, request, "submit")
        audience, signature = settings.audience, _signature(request)
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > settings.limits.packed:
            raise Refused(413, f"A bundle has at most {settings.limits.packed:,} bytes here.")
        if token.id in sending:
            raise Refused(429, "A bundle of this token is arriving just now: send one after the other.")
        settings.sendings.take(token.id)
        if arriving.locked():
            raise Refused(503, "Many submissions are arriving just now: try again in a few minutes.")
        sending.add(token.id)
        try:
            async with arriving:
                submission = await _arrived(database, settings, request, token, signature, audience)
        finally:
            sending.discard(token.id)
        return as_json(own_fields(submission, settings), 201, {"location": f"/api/v1/submissions/{submission.id}"})

    @router.post("/api/v1/submissions/{identity}/withdraw", responses=ANSWERS, tags=["submissions"])
    @plain
    async def withdraw(request: Request, identity: str, reason: str = "by its sender") -> Response:
        """Take a submission of one's own back. What was published leaves a tombstone."""
        token = await _token(database, settings, request, "submit")
        found = await run_in_threadpool(moderation.find, database, identity)
        if found.submitter != token.submitter:
            raise Refused(403, "Only its sender can withdraw a submission.")
        done = await run_in_threadpool(moderation.withdraw, database, identity, token.name, reason, settings.folder)
        return as_json(own_fields(done, settings))


def _add_reading(router: APIRouter, database: Database, settings: Intake) -> None:
    @router.get("/api/v1/token", responses=ANSWERS, tags=["submissions"])
    @plain
    async def whoami(request: Request) -> Response:
        """What the token is, and what this board takes."""
        token = await _token(database, settings, request, None)
        limits = {"packed": settings.limits.packed, "whole": settings.limits.whole}
        own = {"id": token.id, "name": token.name, "scopes": token.scopes, "key": token.key}
        return as_json({"audience": settings.audience, "token": own, "limits": limits})

    @router.get("/api/v1/submissions/{identity}", responses=ANSWERS, tags=["submissions"])
    @plain
    async def state(request: Request, identity: str) -> Response:
        """How far a submission is. Its sender's token shows all; without it, only what the board shows anyway."""
        settings.addresses.take(address(request))
        found = await run_in_threadpool(moderation.find, database, identity)
        if request.headers.get("authorization"):
            token = await _token(database, settings, request, None)
            if token.submitter == found.submitter or "moderate" in token.scopes:
                return as_json(own_fields(found, settings))
        return as_json(await run_in_threadpool(_public, database, identity))


async def _token(database: Database, settings: Intake, request: Request, scope: str | None) -> tokens.Token:
    settings.addresses.take(address(request))
    return await run_in_threadpool(tokens.verify, database, request.headers.get("authorization"), scope)


def _signature(request: Request) -> bytes:
    try:
        found = base64.b64decode(request.headers.get(SIGNATURE, ""), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != 64:
        raise Refused(400, "X-Estbench-Signature has to be an Ed25519 signature in base64: `estbench push` makes it.")
    return found


async def _arrived(
    database: Database, settings: Intake, request: Request, token: tokens.Token, signature: bytes, audience: str
) -> Submission:
    """Take the body in, and make a submission of it."""
    spool = await run_in_threadpool(Spool, settings.folder, settings.limits)
    with spool:
        try:
            begun = asyncio.get_running_loop().time()
            async with asyncio.timeout(GRACE) as limit:
                async for part in request.stream():
                    await run_in_threadpool(spool.write, part)
                    limit.reschedule(begun + min(SECONDS, max(GRACE, spool.size / SLOWEST)))
        except TimeoutError:
            raise Refused(400, f"The bundle came too slowly, or took longer than {SECONDS} seconds.") from None
        except ClientDisconnect:
            raise Refused(400, "The connection ended before the bundle was here.") from None
        return await run_in_threadpool(accept, database, spool, token, signature, audience=audience)


def own_fields(found: Submission, settings: Intake) -> dict[str, Any]:
    """All that a sender may know of a submission."""
    names = ("id", "run", "model", "model_name", "state", "badge", "reason", "created", "updated", "embargo")
    report = {key: value for key, value in (found.report or {}).items() if key not in ("signature", "tries")}
    row = {name: getattr(found, name) for name in names}
    return {**row, "report": report, "url": f"{settings.audience}/api/v1/submissions/{found.id}"}


def _public(database: Database, identity: str) -> dict[str, Any]:
    """What everyone may know; before it is shown, only how far it is."""
    shown = {row["id"]: row for row in moderation.public_submissions(database)}
    if identity in shown:
        return shown[identity]
    of = schema.submissions.c
    with database.read() as connection:
        row = connection.execute(select(of.id, of.state, of.created, of.updated).where(of.id == identity)).one()
    return dict(row._mapping)
