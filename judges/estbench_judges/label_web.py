"""What the voting page needs of the web: its words, templates, headers, which requests are taken, and the server.

Pages(token).page("label_start.html", "et", …)     a page, in Estonian or English
Guard(app, hosts=Hosts("127.0.0.1"))               ASGI: only this machine's names; headers on every answer
await form_of(request); came_from_here(request)    the fields of a form; whether a page of ours sent it
run(app, "127.0.0.1", 8123, lines)                 until SIGINT or SIGTERM
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ipaddress
import signal
import socket
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import PlainTextResponse, Response

from estbench import report
from estbench.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HERE = Path(__file__).parent
STATIC = HERE / "static"
CODES = ("et", "en")
LARGEST = 1 << 17  # bytes of a form
GRACE = 5  # seconds that running requests have when the server is stopped
CSP = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src data:",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-robots-tag", b"noindex"),
]


# ---- words and pages


@functools.cache
def texts(code: str) -> dict[str, str]:
    """Every text of a language: "vote.save" -> "Salvesta ja edasi"."""
    tree = yaml.safe_load((HERE / "locale" / f"label.{code}.yaml").read_text("utf-8"))
    return {key: unicodedata.normalize("NFC", text) for key, text in _flat(tree)}


def _flat(tree: dict[str, Any], start: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        found += _flat(value, f"{start}{key}.") if isinstance(value, dict) else [(f"{start}{key}", str(value))]
    return found


def words_of(code: str) -> Callable[..., str]:
    """The function of a language that gives a key's text; `n=` chooses KEY.one where n is 1, else KEY.other."""
    known = texts(code)

    def t(key: str, **values: Any) -> str:
        if "n" in values and f"{key}.other" in known:
            key += ".one" if values["n"] == 1 else ".other"
        return known[key].format(**values) if values else known[key]

    return t


class Pages:
    """Templates, escaped always; a name that is missing is an error."""

    def __init__(self, token: str) -> None:
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.globals.update(token=token, asset=_asset)

    def page(self, template: str, code: str, status: int = 200, /, **values: Any) -> Response:
        """A page. there: gives the same page's address in a language."""
        other = "en" if code == "et" else "et"
        known = {"code": code, "t": words_of(code), "other": other, "other_t": words_of(other)}
        body = self.templates.get_template(template).render(known | values)
        # Half a surrogate pair, which an answer may hold, has no bytes.
        return Response(body.encode("utf-8", "replace"), status, {"content-language": code}, "text/html")


@functools.cache
def _asset(name: str) -> str:
    """The address of a static file, which changes with its content."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]}"


# ---- what is let in


class Hosts:
    """The names under which the page may be asked for: a stranger's site can't give its own name to this machine."""

    def __init__(self, host: str) -> None:
        self.names = {"localhost", "127.0.0.1", "::1", host.casefold()}
        self.anywhere = host in ("0.0.0.0", "::", "")
        if self.anywhere:
            self.names |= {socket.gethostname().casefold()}

    def take(self, host: str) -> bool:
        """Whether a Host header names this machine. Where all addresses are listened at, any number does."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").casefold()
        except ValueError:
            return False
        return name in self.names or (self.anywhere and _is_number(name))


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware: see the module."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(part: Message) -> None:
            if part["type"] == "http.response.start":
                part = {**part, "headers": [*part["headers"], *HEADERS]}
            await send(part)

        named = [value for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1 or not self.hosts.take(named[0].decode("latin-1")):
            answer = PlainTextResponse("This page is not for that name.\n", 421)
            await answer(scope, receive, sending)
            return
        await self.app(scope, receive, sending)


def came_from_here(request: Request) -> bool:
    """Whether a page of this server sent the form, as browsers tell."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.casefold() == request.headers["host"].casefold()


async def form_of(request: Request) -> dict[str, str] | None:
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
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        return None
    return dict(fields)


# ---- the server


def run(app: ASGIApp, host: str, port: int, lines: Sequence[str]) -> None:
    """Serve until SIGINT or SIGTERM; `lines` and the address are said when it listens."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE
    )
    with _door(host, port) as door:
        name, number = door.getsockname()[:2]
        for line in (
            *lines,
            f"The page is at http://{f'[{name}]' if ':' in name else name}:{number}/",
            "Ctrl+C stops it.",
        ):
            report.say(line)
        # uvicorn raises the signal that stopped it again at its end: stopping is no failure.
        before = {which: signal.signal(which, lambda *_: None) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            asyncio.run(uvicorn.Server(config).serve(sockets=[door]))
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)


def _door(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. ConfigError if it is taken, or not of this machine."""
    if not 0 <= port <= 65_535:
        raise ConfigError(f"port={port} is none: 0 to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"host={host} is no address of this machine: {error}.") from None
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(64)
    except OSError as error:
        door.close()
        cure = "end what listens there, or choose another port="
        raise ConfigError(f"{host}:{port} can't be used ({error.strerror}): {cure}.") from None
    return door
