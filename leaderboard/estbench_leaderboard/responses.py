"""What leaves the server: the cache of rendered pages, compression, ETags, security headers, static files, errors.

Pages     the outermost layer: answers GET and HEAD from the cache, stores what the pages below it make, adds headers
Static    files of static/, for ever under ?v=HASH
message   an error as a page, or as JSON where JSON was asked for
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
import mimetypes
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from estbench.errors import StoreError
from estbench_leaderboard.catalogue import languages

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from estbench_leaderboard.site import Site

log = logging.getLogger("estbench.leaderboard")

CSP = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"permissions-policy", b"interest-cohort=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
KEPT = 64 << 20  # bytes of rendered pages
LONGEST = 4096  # characters of a query that is kept
ASCII = "".join(map(chr, range(33, 127)))
SMALL = 512  # bytes below which nothing is compressed


@dataclass(frozen=True, slots=True)
class Kept:
    """A rendered page: its headers without content-length and encoding, and its body both ways."""

    headers: list[tuple[bytes, bytes]]
    etag: bytes
    body: bytes | None  # None: only compressed
    packed: bytes | None


class Pages:
    """ASGI middleware: see the module."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app, self.site = app, site
        self.pages: OrderedDict[tuple[str, bytes, bytes], Kept] = OrderedDict()
        self.size = 0
        self.making: dict[tuple[str, bytes, bytes], asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not scope["query_string"].isascii():  # no browser sends that, and much below would fail on it
            scope = {**scope, "query_string": quote(scope["query_string"], safe=ASCII).encode()}
        begun = False

        async def sending(part: Message) -> None:
            nonlocal begun
            begun = True
            await send(part)

        try:
            await self._respond(scope, receive, sending)
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"])
            if begun:
                raise
            await message(self.site, scope["path"], 500, "error.broken")(scope, receive, _with_headers(send))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/static/"):
            await self.app(scope, receive, _with_headers(send))
            return
        key = await self._key(scope)
        if key in self.making:  # many may ask for a new page at once: it is made once
            await self.making[key].wait()
        kept = self.pages.get(key) if key else None
        if kept is None:
            ready = asyncio.Event()
            if key:
                self.making.setdefault(key, ready)
            try:
                kept = await self._made(scope, receive, send, key, ready)
            finally:
                ready.set()
                if key and self.making.get(key) is ready:
                    del self.making[key]
        elif key:
            self.pages.move_to_end(key)
        if kept is not None:
            await _answer(scope, send, kept)

    async def _key(self, scope: Scope) -> tuple[str, bytes, bytes] | None:
        """What a page is kept by; None: it is not."""
        query = scope["query_string"]
        if len(query) > LONGEST or scope["path"] == "/healthz":
            return None
        try:
            snapshot = self.site.snapshots.settled()
            if snapshot is None:
                snapshot = await run_in_threadpool(self.site.snapshots.current)
        except StoreError:
            return None  # the page below says so
        return snapshot.state, scope["path"].encode(), query

    async def _made(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        key: tuple[str, bytes, bytes] | None,
        ready: asyncio.Event,
    ) -> Kept | None:
        """Let the page below answer. A good page is kept and returned; everything else is sent on as it comes, and
        nobody waits (`ready`) for who gets it."""
        start: dict[str, Any] = {}
        parts: list[bytes] = []
        passed = False

        async def collect(part: Message) -> None:
            nonlocal passed
            if part["type"] == "http.response.start" and not start:
                start.update(part)
                plain = part["status"] == 200 and any(name == b"x-estbench-version" for name, _ in part["headers"])
                if not plain:
                    passed = True
                    ready.set()
                    await _with_headers(send)(part)
            elif passed:
                await send(part)
            elif part["type"] == "http.response.body":
                parts.append(part.get("body", b""))

        await self.app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, collect)
        if passed or not start:
            return None
        kept = await run_in_threadpool(_kept, start["headers"], b"".join(parts))
        made = dict(start["headers"])[b"x-estbench-version"].decode()
        if key and made == key[0]:
            self._keep(key, kept)
        return kept

    def _keep(self, key: tuple[str, bytes, bytes], kept: Kept) -> None:
        if (before := self.pages.pop(key, None)) is not None:
            self.size -= _size(before)
        self.pages[key] = kept
        self.size += _size(kept)
        while self.size > KEPT and self.pages:
            _, oldest = self.pages.popitem(last=False)
            self.size -= _size(oldest)


def _size(kept: Kept) -> int:
    return len(kept.body or b"") + len(kept.packed or b"") + 1024


def _kept(headers: list[tuple[bytes, bytes]], body: bytes) -> Kept:
    etag = b'"' + hashlib.sha256(body).hexdigest()[:20].encode() + b'"'
    fine = [(name, value) for name, value in headers if name not in (b"content-length",)]
    fine += [*HEADERS, (b"etag", etag), (b"cache-control", b"public, no-cache"), (b"vary", b"accept-encoding")]
    if len(body) < SMALL:
        return Kept(fine, etag, body, None)
    return Kept(fine, etag, None, gzip.compress(body, 6, mtime=0))


async def _answer(scope: Scope, send: Send, kept: Kept) -> None:
    asked = dict(scope["headers"])
    if kept.etag in asked.get(b"if-none-match", b"").replace(b"W/", b"").split(b", "):
        await send({"type": "http.response.start", "status": 304, "headers": kept.headers})
        await send({"type": "http.response.body", "body": b""})
        return
    headers = kept.headers
    if kept.packed is not None and b"gzip" in asked.get(b"accept-encoding", b""):
        body = kept.packed
        headers = [*headers, (b"content-encoding", b"gzip")]
    else:
        body = kept.body if kept.body is not None else gzip.decompress(kept.packed or b"")
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name for name, _ in message["headers"]}
            message = {**message, "headers": [*message["headers"], *(pair for pair in HEADERS if pair[0] not in there)]}
        await send(message)

    return sending


class Static:
    """Files of the folder static/, by their names; nothing else can be reached."""

    def __init__(self) -> None:
        from estbench_leaderboard.site import HERE

        folder = HERE / "static"
        self.files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        path = self.files.get(scope["path"].removeprefix(root).lstrip("/"))
        if path is None or scope["method"] not in ("GET", "HEAD"):
            await Response(status_code=404)(scope, receive, send)
            return
        body = await run_in_threadpool(path.read_bytes)
        kind = "font/woff2" if path.suffix == ".woff2" else mimetypes.guess_type(path.name)[0]
        headers = {"cache-control": "public, max-age=31536000, immutable" if scope["query_string"] else "no-cache"}
        asked = dict(scope["headers"]).get(b"accept-encoding", b"")
        if path.suffix in (".css", ".js", ".svg") and b"gzip" in asked:
            body = await run_in_threadpool(gzip.compress, body)
            headers |= {"content-encoding": "gzip", "vary": "accept-encoding"}
        await Response(body, media_type=kind or "application/octet-stream", headers=headers)(scope, receive, send)


def message(site: Site, path: str, status: int, key: str, **values: str) -> Response:
    """An error: one sentence, as a page or as JSON; it needs no database."""
    code = "en" if path == "/en" or path.startswith(("/en/", "/api/")) else "et"
    language = languages()[code]
    text = language.t(key, **values) if values else language.t(key)
    headers = {"cache-control": "no-store", "content-language": code}
    if status == 503:
        headers["retry-after"] = "30"
    if path.endswith((".json", ".csv", ".xml", ".svg")) or path.startswith("/api/"):
        return Response(json.dumps({"error": text}, ensure_ascii=False), status, headers, "application/json")
    title = language.t("error.title")
    body = site.templates.get_template("error.html").render(
        language=language, t=language.t, text=text, title=title, status=status, home="/" if code == "et" else "/en/"
    )
    return Response(body, status, headers, "text/html")
