"""The public part of the database as one SQLite file, which `estbench serve database=FILE immutable=true` shows again.

    path = downloads.make(database, snapshot, target)       # from SQLite and PostgreSQL alike
    GET /andmed/estbench.sqlite                             # made once a version, kept in ESTBENCH_HOME/board

Rows are copied into a new file, and what may not leave is never in it: tokens, contacts, submissions and runs that are
not shown, unpublished decisions, places on the machines that made the runs, and of tasks whose documents are not
published everything about single documents. Such tasks keep their scores and take no part in the copy's ranks.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table, insert, select, update

from estbench.database import packing, schema
from estbench.database.engine import Database, open_database
from estbench.errors import StoreError
from estbench.home import home
from estbench_leaderboard import public

if TYPE_CHECKING:
    from starlette.responses import Response

    from estbench_leaderboard.site import Site
    from estbench_leaderboard.snapshot import Snapshot

PATH = "/andmed/estbench.sqlite"
WAIT = 20  # seconds that a request waits for a file that is being made
ABANDONED = 3600  # seconds after which nobody works on a half-made file any more
ROWS = 200  # copied at once
NOBODY = "withheld"  # the id that stands in the place of every token
OF_DOCUMENTS = ("doc_ids", "clusters", "prompts", "targets")  # of run_tasks: what tells of single documents
MARKS = ("mark", "unmark", "withdraw")  # decisions that the board shows even where the log does not


Change = Callable[[dict[str, Any]], dict[str, Any] | None]  # None: the row stays


class _Changed(Exception):
    """The database is at another version than the snapshot."""


def make(database: Database, snapshot: Snapshot, target: Path) -> Path:
    """Write the public part of the database, as the snapshot sees it, to a new file. StoreError if it can't be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as folder:
        path = Path(folder) / "estbench.sqlite"
        with open_database(f"sqlite:///{path}") as copy:
            with _one_state(database) as source, copy.write(foreign_keys=False, counted=False) as sink:
                _Copy(source, sink, snapshot).all()
            with copy.engine.connect() as connection:  # one file, and no journal beside it
                raw: Any = connection.connection.dbapi_connection
                raw.execute("PRAGMA journal_mode=DELETE")
                raw.execute("VACUUM")
        path.replace(target)
    return target


@contextmanager
def _one_state(database: Database) -> Iterator[Connection]:
    """A connection that sees one state of the database from its first question to the last, on both engines."""
    with database.read() as connection:
        if connection.dialect.name != "sqlite":
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


class _Copy:
    """Row by row from one database to the other."""

    def __init__(self, source: Connection, sink: Connection, snapshot: Snapshot) -> None:
        self.source, self.sink, self.snapshot = source, sink, snapshot
        self.runs = public.runs(snapshot)
        self.models = {row.fingerprint for row in self.runs.values()}
        self.open: set[tuple[str, str]] = set()  # tasks of runs whose documents may be shown
        self.lists: set[str] = set()
        self.tasks: set[tuple[str, str]] = set()

    def all(self) -> None:
        """Copy everything that may leave, what is pointed to before what points."""
        if self.source.scalar(select(schema.changes.c.count)) != self.snapshot.version:
            raise _Changed
        self._copy(schema.models, self._model, schema.models.c.fingerprint.in_(self.models))
        self._copy(schema.runs, self._run, schema.runs.c.id.in_(self.runs))
        of_tasks = [row for row in map(self._task, self._rows(schema.run_tasks)) if row is not None]
        self._copy(schema.lists, lambda row: row, schema.lists.c.hash.in_(self.lists))
        self._copy_prompts()
        self._insert(schema.run_tasks, of_tasks)
        self._copy_of_tasks(schema.scores, self.tasks)
        self._copy_of_tasks(schema.items, self.open)
        self._copy_of_tasks(schema.responses, self.open)
        self._copy_board()

    def _rows(self, table: Table, condition: Any = None) -> Iterator[dict[str, Any]]:
        query = select(table).order_by(*table.primary_key)
        if condition is not None:
            query = query.where(condition)
        for row in self.source.execution_options(yield_per=ROWS).execute(query):
            yield dict(row._mapping)

    def _copy_of_tasks(self, table: Table, tasks: set[tuple[str, str]]) -> None:
        self._copy(table, lambda row: row if (row["run_id"], row["task"]) in tasks else None)

    def _copy(self, table: Table, change: Change, condition: Any = None) -> None:
        self._insert(table, (new for row in self._rows(table, condition) if (new := change(row)) is not None))

    def _insert(self, table: Table, rows: Iterable[dict[str, Any]]) -> None:
        part: list[dict[str, Any]] = []
        for row in rows:
            part.append(row)
            if len(part) == ROWS:
                self.sink.execute(insert(table), part)
                part = []
        if part:
            self.sink.execute(insert(table), part)

    def _model(self, row: dict[str, Any]) -> dict[str, Any]:
        shown = self.snapshot.known[row["fingerprint"]]  # not what a run says that nobody may see
        card = public.manifest({"model": shown["card"]})["model"]
        own = {name: shown[name] for name in ("name", "parameters", "bytes")}
        return row | own | {"path": None, "revision": card.get("revision"), "card": card}

    def _run(self, row: dict[str, Any]) -> dict[str, Any]:
        manifest = public.manifest(row["manifest"])
        manifest["tasks"] = {task: card for task, card in manifest["tasks"].items() if self._shows(task)}
        engine = {key: value for key, value in row["engine"].items() if key != "url"}
        return row | {"manifest": manifest | {"engine": engine}, "engine": engine}

    def _shows(self, task: str) -> bool:
        return self.snapshot.hidden.shows_task(task)

    def _task(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """A task of a run; remembers which lists it points to, and whether its documents go along."""
        key = row["run_id"], row["task"]
        if row["run_id"] not in self.runs or not self._shows(row["task"]):
            return None
        self.tasks.add(key)
        if public.shows_items(self.snapshot, row["task"], row["publish_items"], row["card"]):
            self.open.add(key)
        else:
            row |= dict.fromkeys(OF_DOCUMENTS) | {"publish_items": False}
        self.lists |= {row[name] for name in schema.SHARED if row[name] is not None}
        return row | {"card": public.card(row["card"])}

    def _copy_prompts(self) -> None:
        """Texts of prompts that a task with open documents asks."""
        of_lists = select(schema.run_tasks.c.run_id, schema.run_tasks.c.task, schema.run_tasks.c.prompts)
        lists = {row.prompts for row in self.source.execute(of_lists).all() if (row.run_id, row.task) in self.open}
        wanted: set[str] = set()
        for name in lists - {None}:
            packed = self.source.scalar(select(schema.lists.c.data).where(schema.lists.c.hash == name))
            wanted |= {prompt for prompt in packing.unpack_list(packed or b"") if prompt}
        self._copy(schema.prompts, lambda row: row if row["hash"] in wanted else None)

    def _copy_board(self) -> None:
        shown = {row.id for run, row in self.snapshot.hidden.submissions.items() if run in self.runs}
        self.sink.execute(update(schema.changes).values(count=self.snapshot.version))
        self._copy(schema.facts, lambda row: row, schema.facts.c.model.in_(self.models))
        self._copy(schema.decisions, self._decision)
        sent = [row for row in self._rows(schema.submissions) if row["id"] in shown]
        people = {row["submitter"] for row in sent}
        self._copy(schema.submitters, lambda row: row | {"contact": None}, schema.submitters.c.id.in_(people))
        if sent:
            revoked = {"created": "", "revoked": "", "scopes": [], "hash": "", "submitter": min(people)}
            self.sink.execute(insert(schema.tokens).values(id=NOBODY, **revoked))
        nothing = {"token": NOBODY, "worker": None, "lease": None, "report": None}
        self._insert(schema.submissions, (row | nothing for row in sent))

    def _decision(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """A decision of the public log; of the others only what the board shows of them."""
        if row["public"]:
            return row
        shown = row["action"] in MARKS and (row["model"] is None or row["model"] in self.models)
        return row | {"actor": "", "details": None, "submission": None} if shown else None


# ---- the file that is offered


_worker = ThreadPoolExecutor(1, "download")
_making: dict[Path, Future[Path]] = {}
_lock = threading.Lock()


def current(site: Site) -> Future[Path]:
    """The file of the newest version: there already, or being made beside the requests."""
    snapshot = site.snapshots.current()
    whose, state = site.database.label, f"{snapshot.version} {sorted(public.runs(snapshot))}"
    path = home() / "board" / f"public-{_short(whose)}-{_short(state)}.sqlite"
    with _lock:
        running = _making.get(path)
        if running is not None and not (running.done() and (running.exception() or not path.exists())):
            return running
        _making.clear()
        found: Future[Path] = Future()
        if path.exists():
            found.set_result(path)
        else:
            found = _worker.submit(_make, site, snapshot, path)
        _making[path] = found
        return found


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make(site: Site, snapshot: Snapshot, path: Path) -> Path:
    """Make the file and remove those before it, and what a process that was killed left half-made."""
    for half in path.parent.glob(".making-*"):
        if time.time() - half.stat().st_mtime > ABANDONED:
            shutil.rmtree(half, ignore_errors=True)
    try:
        made = make(site.database, snapshot, path)
    except _Changed:
        made = make(site.database, site.snapshots.refresh(), path)
    for old in path.parent.glob(f"{path.stem.rpartition('-')[0]}-*.sqlite"):
        if old != path:
            old.unlink(missing_ok=True)
    return made


async def answer(site: Site, known: str) -> Response:
    """The file, in parts where a client asks for some; 503 while it takes long to make. known: If-None-Match."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import FileResponse, Response

    from estbench_leaderboard.responses import message

    making = await run_in_threadpool(current, site)
    try:
        path = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(making)), WAIT)
    except TimeoutError:
        return message(site, PATH, 503, "feed.making")
    except OSError as error:
        raise StoreError(f"The public copy of the database can't be written: {error.strerror}.") from None
    headers = {"etag": f'"{path.stem}"', "cache-control": "no-cache"}
    if headers["etag"] in known:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type="application/vnd.sqlite3", filename="estbench.sqlite", headers=headers)
