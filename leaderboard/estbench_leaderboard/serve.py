"""`estbench serve`: the board of a database on one address, in one process, until it is stopped.

    estbench serve                                        # http://127.0.0.1:8000
    estbench serve database=estbench.sqlite immutable=true

A database that goes away is a clear 503 on every page until it is back; no restart is needed, not even when another
file stands in its place. Behind a proxy: docs/leaderboard.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from sqlalchemy import event, make_url
from sqlalchemy.exc import DisconnectionError

from estbench import report
from estbench.database.engine import Database, open_database, sqlite_file
from estbench.errors import ConfigError, StoreError
from estbench.home import home
from estbench_leaderboard.app import create
from estbench_leaderboard.site import Site
from estbench_leaderboard.submissions.web import Intake

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from estbench.settings import ServeSettings

GRACE = 10  # seconds that running requests have when the board is stopped
LONGER = b"public, max-age=3600"  # of a database that nobody writes to


def serve(settings: ServeSettings) -> int:
    """Serve the board until SIGINT or SIGTERM."""
    import uvicorn

    base_url = public_address(settings.url)
    with open_board(settings.database, immutable=settings.immutable) as database:
        site = Site(database, immutable=settings.immutable, base_url=base_url, contact=reachable(settings.contact))
        site.snapshots.current()
        with listening(settings.host, settings.port) as door:
            # Bundles are signed for one board: for its public address, or on a desk for the one that it listens at.
            intake = (
                None if settings.immutable else Intake(home() / "board", base_url or _address(door), secret=_secret())
            )
            app: ASGIApp = create(site, intake)
            config = uvicorn.Config(
                Longer(app) if settings.immutable else app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            )
            report.say(f"{database.label}: the board is at {_address(door)}")
            report.say("Ctrl+C stops it.")
            _run(uvicorn.Server(config), door)
    return 0


def open_board(url: str | None, *, immutable: bool) -> Database:
    """The database of a board, which has to be there. A SQLite file is looked at again before each use."""
    text = url or f"sqlite:///{home() / 'estbench.db'}"
    if "://" not in text and text.endswith((".db", ".sqlite", ".sqlite3")):
        text = f"sqlite:///{text}"
    path = sqlite_file(make_url(text)) if text.startswith("sqlite:") else None
    if path is None:
        if immutable:
            raise ConfigError("immutable=true is for a SQLite file that nobody writes to: database=FILE.sqlite.")
        return open_database(text, create=False)
    if not path.exists():
        raise StoreError(f"There is no database {path}: `estbench eval` and `estbench runs import` make it.")
    options = "immutable=1&mode=ro" if immutable else "mode=rw"  # not rwc: a file that is gone is not made anew
    database = open_database(f"sqlite:///file:{quote(str(path.absolute()))}?{options}&uri=true", create=False)
    database.label = str(path)
    if not immutable:
        _watch(database, path)
    return database


def _watch(database: Database, path: Path) -> None:
    """Connections to a file that was moved or replaced would go on reading it for ever: such are thrown away."""

    @event.listens_for(database.engine, "connect")
    def connected(raw: sqlite3.Connection, record: Any) -> None:
        record.info["file"] = _file(path)

    @event.listens_for(database.engine, "checkout")
    def taken(raw: sqlite3.Connection, record: Any, proxy: Any) -> None:
        if record.info.get("file") != _file(path):
            raise DisconnectionError


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _secret() -> bytes:
    """What signs maintainers' sessions; made once, so that they outlast a restart."""
    path = home() / "board" / "session_secret"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(path, "xb", opener=_private) as file:
            file.write(secrets.token_bytes(32))
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be kept ({error.strerror}): set ESTBENCH_HOME to a writable folder.") from None


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def listening(host: str, port: int) -> Any:
    """A socket at the address. ConfigError if it is taken, or not of this machine."""
    if port > 65_535:
        raise ConfigError(f"port={port} is too large: at most 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"host={host} port={port} is no address of this machine: {error}.") from None
    with door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(address)
            door.listen(1024)
        except OSError as error:
            cure = "end what listens there, or choose another port=" if port else "choose another host="
            raise ConfigError(f"{host}:{port} can't be used ({error.strerror}): {cure}.") from None
        yield door


def _address(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def public_address(url: str | None) -> str:
    """The board's public address without a slash at its end; "" if nobody said it."""
    if url is None:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"url={url} is no address of a board: https://tabel.example.ee.")
    return url.rstrip("/")


def reachable(contact: str | None) -> str:
    """A contact as it was given; "" if nobody said one. ConfigError: neither an e-mail address nor one of the web."""
    if contact is None or re.fullmatch(r"[^@\s<>\"']+@[^@\s<>\"']+\.[^@\s<>\"']+|https://[^\s<>\"']+", contact):
        return contact or ""
    raise ConfigError(f"contact={contact} is neither an e-mail address nor an https:// address.")


def _run(server: Any, door: socket.socket) -> None:
    """Until a signal; the requests that run then are answered first."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again at its end: stopping is no failure
        before[number] = signal.signal(number, lambda *_: None)
    try:
        asyncio.run(server.serve(sockets=[door]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Longer:
    """ASGI middleware: pages of a database that nobody writes to may be kept by browsers and proxies for an hour."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(part: Message) -> None:
            if part["type"] == "http.response.start" and part["status"] in (200, 304):
                part = {**part, "headers": [(name, _longer(name, value)) for name, value in part["headers"]]}
            await send(part)

        await self.app(scope, receive, sending)


def _longer(name: bytes, value: bytes) -> bytes:
    return LONGER if name == b"cache-control" and value == b"public, no-cache" else value
