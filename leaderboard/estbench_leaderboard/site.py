"""What pages share: the database, its newest snapshot, links, and how a page becomes HTML, JSON or CSV.

    site = Site(database)
    content = pages.model(site.request("et"), slug="demo-3d4a16cb")
    site.html(content, language)

A page is a function of a `Request` and the parts of its path that returns a `Content`; `routes.py` lists them all.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

from estbench import judged
from estbench.database.engine import Database
from estbench.errors import StoreError
from estbench_leaderboard.catalogue import Language, languages
from estbench_leaderboard.decided import now
from estbench_leaderboard.snapshot import Snapshot, take

HERE = Path(__file__).parent
CHECK = 0.5  # seconds between looks at the database's version
PAUSE = 60  # seconds until a snapshot that could not be made is tried again

log = logging.getLogger("estbench.leaderboard")


Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # header and rows


@dataclass(frozen=True)
class Content:
    """A page before it takes a form. What is large is given as a function, and made only for the form that shows it."""

    template: str
    values: dict[str, Any]  # for the template
    json: Any  # the same as data; dataclasses are welcome
    table: Table | Callable[[], Table] | None = None  # of the CSV
    title: str = ""
    description: str = ""  # one sentence for search engines and Open Graph
    canonical: str = ""  # the query string of this state, "" or "?…"
    parts: Mapping[str, str] | None = None  # of its lasting path, where it was asked for by another name


@dataclass(frozen=True)
class Request:
    """Who asks, in which language, with which parameters; and the snapshot that answers."""

    site: Site
    snapshot: Snapshot
    language: Language
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def t(self) -> Callable[..., str]:
        return self.language.t

    def url(self, page: str, **parts: str) -> str:
        """The path of a page in this language."""
        return self.site.url(page, self.language.code, **parts)


class Snapshots:
    """The newest snapshot. A newer one is made beside the requests, which get the one before until it is ready."""

    def __init__(self, database: Database, *, immutable: bool = False) -> None:
        self.database, self.immutable = database, immutable
        self._snapshot: Snapshot | None = None
        self._checked = -math.inf
        self._lock = threading.Lock()
        self._making: threading.Thread | None = None
        self._retry = -math.inf  # not before: the last one could not be made

    def current(self) -> Snapshot:
        """The snapshot to answer with; StoreError while the database can't be read."""
        snapshot = self._snapshot
        if snapshot is None:
            with self._lock:
                if self._snapshot is None:
                    self._snapshot = take(self.database)
                    self._checked = time.monotonic()
                return self._snapshot
        if not self.immutable and time.monotonic() - self._checked > CHECK:
            self._look(snapshot)
        return self._snapshot or snapshot

    def settled(self) -> Snapshot | None:
        """The snapshot if it needs no look at the database now."""
        fresh = self.immutable or time.monotonic() - self._checked <= CHECK
        return self._snapshot if fresh else None

    def refresh(self) -> Snapshot:
        """Read the database now, and wait for it."""
        snapshot = take(self.database)  # without the lock: others are answered meanwhile
        with self._lock:
            self._snapshot, self._checked = snapshot, time.monotonic()
        return snapshot

    def _look(self, snapshot: Snapshot) -> None:
        stale = self.database.version() != snapshot.version
        self._checked = time.monotonic()
        until = snapshot.hidden.until
        if (stale or (until is not None and until <= now())) and time.monotonic() >= self._retry:
            with self._lock:
                if self._making is None or not self._making.is_alive():
                    self._making = threading.Thread(target=self._make, daemon=True)
                    self._making.start()

    def _make(self) -> None:
        try:
            self._snapshot = take(self.database)
        except StoreError:
            self._checked = -math.inf  # the next request finds out, and says so
        except Exception:  # a fault of ours or of the data: the pages stay as they were
            self._retry = time.monotonic() + PAUSE
            log.exception("%s as it is now can't be shown; trying again in %s s", self.database.label, PAUSE)


class Site:
    """The board of one database."""

    def __init__(
        self,
        database: Database,
        *,
        immutable: bool = False,
        base_url: str = "",
        static: bool = False,
        contact: str = "",
    ) -> None:
        self.database = database
        self.snapshots = Snapshots(database, immutable=immutable)
        self.base_url = base_url.rstrip("/")  # for feeds, cite boxes and Open Graph; "": relative links only
        self.static = static  # exported as files: no forms, no search
        self.contact = contact  # an e-mail address or a URL; "": nobody said

    def request(self, code: str, parameters: Mapping[str, str] | None = None) -> Request:
        """A request in a language, answered by the newest snapshot."""
        return Request(self, self.snapshots.current(), languages()[code], parameters or {})

    def url(self, page: str, code: str, **parts: str) -> str:
        """The path of a page: `site.url("model", "et", slug="demo-3d4a16cb")`."""
        from estbench_leaderboard.routes import PAGES

        path = PAGES[page].paths[code]
        for name, value in parts.items():
            path = path.replace("{" + name + "}", quote(value, safe="/")).replace(
                "{" + name + ":path}", quote(value, safe="/")
            )
        return path

    @cached_property
    def templates(self) -> Environment:
        """Escaped always, and a name that is missing is an error."""
        made = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        made.globals.update(asset=self.asset, site=self)
        made.filters["score"] = _score
        made.filters["judge"] = judged.state  # of a score: uncalibrated, calibrated, or None
        return made

    def asset(self, name: str) -> str:
        """The URL of a static file; it changes with the content, so that it can be kept for ever."""
        return f"/static/{name}?v={_digest(HERE / 'static' / name)}"

    def html(self, content: Content, request: Request, page: str, parts: Mapping[str, str]) -> str:
        """The page as HTML."""
        return self.templates.get_template(content.template).render(
            content.values,
            content=content,
            request=request,
            page=page,
            parts=parts if content.parts is None else content.parts,
            language=request.language,
            t=request.language.t,
            url=request.url,
            snapshot=request.snapshot,
            other=languages()["en" if request.language.code == "et" else "et"],
        )


@pass_context
def _score(context: Context, value: float | None, unit: str) -> str:
    return str(context["language"].score(value, unit))


_digests: dict[tuple[Path, int], str] = {}


def _digest(path: Path) -> str:
    key = path, path.stat().st_mtime_ns
    if key not in _digests:
        _digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    return _digests[key]


def as_json(value: Any) -> str:
    """JSON of plain data and dataclasses; not-a-number becomes null."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool) or value is None:
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(table: Table) -> str:
    """A header and rows as CSV. Texts that a spreadsheet would take for a formula get an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table[0])
    for row in table[1]:
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
