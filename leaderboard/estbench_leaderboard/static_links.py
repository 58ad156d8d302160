"""Links of exported pages: what the application answers, and its links made relative to the file that holds them.

status, headers, body = await ask(app, "/mudel/demo-3d4a16cb", "")
relative(html, target, "https://tabel.ee", find)     # find(path, query) -> Target | None
"""

from __future__ import annotations

import hashlib
import html
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from estbench_leaderboard.responses import CSP

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

# Attributes of our own templates: texts in them are escaped, so that a quoted address ends where its quote ends.
LINK = re.compile(r'(\s)(href|src|action|content)="([^"]*)"')

FIXED = ("/atom.xml", "/en/atom.xml", "/andmed/estbench.sqlite", "/robots.txt", "/sitemap.xml")  # written at the end


@dataclass
class Target:
    """An address of the board and where its file is."""

    path: str  # as in links, percent-encoded
    query: str  # without "?"
    place: str  # below the folder: of a page its own folder ("" for the first one), of a file the file
    file: bool = False  # no page: it is one file, and has no index.html
    extra: str = ""  # asked in addition
    forms: set[str] = field(default_factory=set)  # json, csv: those that the page has

    @property
    def address(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def document(self) -> str:
        """The file that a browser opens."""
        return self.place if self.file else f"{self.place}/index.html".lstrip("/")

    def data(self, form: str) -> str:
        """The file with the same as JSON or CSV: beside the page's folder, of the first pages in it."""
        first = self.path.endswith("/") and not self.query
        return f"{self.place}/index.{form}".lstrip("/") if first else f"{self.place}.{form}"


Find = Callable[[str, str], Target | None]


def short(text: str) -> str:
    """A few letters that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


async def ask(app: ASGIApp, path: str, query: str) -> tuple[int, dict[str, str], bytes]:
    """What the application answers to a GET."""
    start: dict[str, Any] = {}
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(part: Message) -> None:
        if part["type"] == "http.response.start":
            start.update(part)
        else:
            parts.append(part.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return start["status"], {k.decode(): v.decode("latin-1") for k, v in start["headers"]}, b"".join(parts)


def guarded(page: str) -> str:
    """A page with the board's policy in it, for servers that send no headers: no script and style but its own."""
    policy = "; ".join(rule for rule in CSP.split("; ") if not rule.startswith("frame-ancestors"))  # not for files
    return page.replace("<head>", f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">', 1)


def relative(page: str, target: Target, base_url: str, find: Find) -> str:
    """A page with its links to other files as seen from its own; a link to nothing is taken away. Addresses that begin
    with the board's own (canonical, Open Graph) stay whole and lead to the files as well."""
    here = posixpath.dirname(target.document)

    def changed(found: re.Match[str]) -> str:
        space, name, value = found.groups()
        link = html.unescape(value)
        whole = bool(base_url) and (link == base_url or link.startswith((f"{base_url}/", f"{base_url}?")))
        if not whole and (name == "content" or not link.startswith(("/", "?"))):
            return found[0]
        place = _place(link.removeprefix(base_url) if whole else link, target, find)
        if place is None:
            return ""
        file, rest = place
        if whole:
            new = f"{base_url}/{quote(file.removesuffix('index.html'), safe='/~')}{rest}"
        else:
            new = quote(posixpath.relpath(file, here or "."), safe="/~") + rest
        return f'{space}{name}="{html.escape(new, quote=True)}"'

    return LINK.sub(changed, page)


def _place(link: str, target: Target, find: Find) -> tuple[str, str] | None:
    """The file that a link leads to, and what comes after the path."""
    parts = urlsplit(link)
    path = parts.path or target.path  # "?…" is a state of this very page
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    if path.startswith("/static/"):
        return path.strip("/"), f"?{parts.query}" if parts.query else ""
    if path in FIXED:
        return path.strip("/"), ""
    found = find(path, parts.query)
    exact = found is not None and found.query == parts.query  # the nearest page may lack the place that is meant
    return None if found is None else (found.document, fragment if exact else "")
