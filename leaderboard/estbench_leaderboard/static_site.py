"""`estbench export site FOLDER`: the board as files that any web server shows, from the same templates.

    estbench export site public url=https://tabel.example.ee

The application itself is asked for every page, in both languages and all forms, and what it answers is written down.
Links become relative, so that the folder works at the root of a host, below it, and from a disk. A state of the board
(board, preset, view, all rows or ranked ones) has a folder of its own; a link to a state or an answer that has none
goes to the nearest that has, or stops being a link. What needs a server is left out: forms, search, comparisons, API.

The folder is written beside its place and moved there when it is whole; one that this command did not make stays.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from estbench import report
from estbench.errors import ConfigError, EstbenchError, StoreError
from estbench_leaderboard import downloads, feeds, public, static_links
from estbench_leaderboard.app import create
from estbench_leaderboard.board import board_of, page
from estbench_leaderboard.catalogue import CODES
from estbench_leaderboard.query import Query
from estbench_leaderboard.routes import FORMS, PAGES
from estbench_leaderboard.serve import open_board, public_address, reachable
from estbench_leaderboard.site import HERE, Site
from estbench_leaderboard.skills import PRESETS
from estbench_leaderboard.static_links import Target

if TYPE_CHECKING:
    from estbench.settings import ExportSettings

MARK = ".estbench-site"  # a file that says who made the folder
STATES = {"et": "/seis", "en": "/en/state"}  # where states of the board are
VIEWS = ("skills", "tasks")
LEFT_OUT = ("compare", "api", "sample", "run", "model", "task")  # pages with parts, or that need a server
ROWS = 200  # of the board on one page
SERVED = ("/badge/", "/kaart/", "/joonis/", "/en/badge/", "/en/kaart/", "/en/joonis/")  # files that pages link to


def export(settings: ExportSettings, folder: Path) -> int:
    """Write the board of a database to a folder."""
    base_url = public_address(settings.url)
    target = folder.expanduser().absolute()
    check(target)
    with open_board(settings.database, immutable=False) as database:
        contact = reachable(settings.contact)
        site = Site(database, immutable=True, base_url=base_url, static=True, contact=contact)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
                written = asyncio.run(Writer(site, Path(temporary) / "site", settings.samples, settings.data).write())
                _put(Path(temporary), target)
        except OSError as error:
            raise StoreError(f"{folder} can't be written: {error.strerror}.") from None
    report.say(f"{written:,} files are in {folder}; open {folder}/index.html")
    return 0


def check(target: Path) -> None:
    """ConfigError for a folder that holds something else."""
    if target.is_dir() and any(target.iterdir()) and not (target / MARK).is_file():
        raise ConfigError(f"{target} holds files that `estbench export site` did not write: name another folder.")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file: name a folder.")


def _put(temporary: Path, target: Path) -> None:
    """Move the finished folder to its place, and the one before it away."""
    if target.exists():
        target.rename(temporary / "before")
    (temporary / "site").rename(target)


@dataclass
class Writer:
    """One export: asks the application, rewrites links, writes files."""

    site: Site
    folder: Path
    samples: int  # pages of answers a task
    data: bool
    pages: dict[str, Target] = field(default_factory=dict)  # address on the server -> file
    given: dict[str, int] = field(default_factory=dict)  # task -> pages of answers
    waiting: list[Target] = field(default_factory=list)
    written: int = 0

    async def write(self) -> int:
        """Write everything; the number of files."""
        self.app = create(self.site)
        self.folder.mkdir()
        for target in itertools.chain(self._single(), self._states(), self._parts()):
            self._add(target)
        while self.waiting:
            await self._page(self.waiting.pop(0))
        await self._files()
        return self.written

    def _add(self, target: Target) -> None:
        self.pages[target.address] = target
        self.waiting.append(target)

    # ---- which pages there are

    def _single(self) -> Iterator[Target]:
        """Pages of which there is one."""
        for code in CODES:
            for name, one in PAGES.items():
                if name not in (*LEFT_OUT, "board"):
                    yield Target(one.paths[code], "", one.paths[code].strip("/"))

    def _states(self) -> Iterator[Target]:
        """The board in each state that is written; the first is the plain address."""
        snapshot = self.site.snapshots.current()
        boards = [name for name, board in snapshot.boards.items() if board.models]
        for code in CODES:
            path = PAGES["board"].paths[code]
            yield Target(path, "", path.strip("/"), extra=f"rows={ROWS}")
            for board, preset, view, all_ in itertools.product(boards, PRESETS, VIEWS, ("", "yes")):
                query = Query(board=board, preset=preset, view=view, all=all_, rows=ROWS)
                parts = [board, preset, view, *(["all"] if all_ else [])]
                for number in range(1, page(snapshot, query).pages + 1):
                    state = query.but(rows=Query().rows, page=number)
                    place = f"{STATES[code].strip('/')}/{'-'.join([*parts, *([str(number)] if number > 1 else [])])}"
                    yield Target(path, state.url().lstrip("?"), place, extra=f"rows={ROWS}")

    def _parts(self) -> Iterator[Target]:
        """A page for each model, task and run."""
        snapshot = self.site.snapshots.current()
        request = self.site.request("et")
        shown: list[tuple[str, dict[str, str]]] = [("model", {"slug": slug}) for slug in feeds.shown_models(request)]
        tasks = dict.fromkeys(name for board in snapshot.boards.values() for name in board.tasks)
        shown += [("task", {"task": name}) for name in tasks]
        shown += [("run", {"run": run}) for run in public.runs(snapshot)]
        for name, parts in shown:
            for code in CODES:
                path = self.site.url(name, code, **parts)
                yield Target(path, "", unquote(path).strip("/"))
        if self.samples:
            yield from self._documents()

    def _documents(self) -> Iterator[Target]:
        """For each task whose documents may be seen the list of them, in the run of the model that is best at it."""
        snapshot = self.site.snapshots.current()
        shown = public.runs(snapshot)
        for board, task in ((of, task) for of in snapshot.boards.values() for task in of.tasks.values()):
            if not public.shows_items(snapshot, task.name, task.publish_items, task.card):
                continue
            ranking = board.ranking({task.name: 1.0})
            best = [board.models[row.model].cells[task.name] for row in (ranking.rows if ranking else ())]
            run = next((cell.run for cell in best if cell.run in shown and cell.reason is None), None)
            for code in CODES if run is not None else ():
                path = self.site.url("run", code, run=run or "")
                yield Target(path, urlencode({"task": task.name}), f"{unquote(path).strip('/')}/{task.name}")

    # ---- what a link becomes

    def find(self, path: str, query: str) -> Target | None:
        """The file of an address; None: it has none."""
        known = self.pages.get(f"{path}?{query}" if query else path)
        if known is not None:
            return known
        if any(path == PAGES["board"].paths[code] for code in CODES):
            return self._nearest(path, query)
        if path.startswith(SERVED):
            return self._file(path, query)
        if self._is_sample(path):
            return self._sample(path)
        stem, _, form = path.rpartition(".")
        if form in FORMS and (whole := self._page_of(stem, query)) is not None and form in whole.forms:
            return Target(path, query, whole.data(form), file=True)
        return self.pages.get(path)

    def _page_of(self, stem: str, query: str) -> Target | None:
        """The page that `/x.json` belongs to."""
        path = stem.removesuffix("index") if stem.endswith("/index") else stem
        found = self.find(path, query)
        return None if found is None or found.file else found

    def _nearest(self, path: str, query: str) -> Target:
        """The state of the board that has the same board, preset, view, rows and page."""
        given: dict[str, str] = dict(parse_qsl(query))
        wanted = {key: value for key, value in given.items() if key in ("board", "preset", "view", "all", "page")}
        state = Query.read(wanted)
        if not wanted:
            return self.pages[path]
        full = state.but(board=state.board or self._first(), view=state.view or VIEWS[0], page=state.page)
        return self.pages.get(f"{path}?{full.url().lstrip('?')}", self.pages[path])

    def _first(self) -> str:
        """The board that is shown without a word."""
        return board_of(self.site.snapshots.current(), Query()).name

    def _file(self, path: str, query: str) -> Target:
        """A badge, card or figure; one with parameters has them in its name."""
        place = unquote(path).strip("/")
        if query:
            stem, _, suffix = place.rpartition(".")
            place = f"{stem}-{static_links.short(query)}.{suffix}"
        target = Target(path, query, place, file=True)
        self._add(target)
        return target

    def _is_sample(self, path: str) -> bool:
        return any(path.startswith(PAGES["sample"].paths[code].partition("{")[0]) for code in CODES)

    def _sample(self, path: str) -> Target | None:
        """The page of an answer while its task may have more of them."""
        code = "en" if path.startswith("/en/") else "et"
        parts = path.removeprefix(PAGES["sample"].paths[code].partition("{")[0]).split("/", 2)
        if len(parts) < 3 or path.endswith(tuple(f".{form}" for form in FORMS)):
            return None
        task = unquote(parts[2])
        if self.given.get(task, 0) >= self.samples:
            return None
        self.given[task] = self.given.get(task, 0) + 1
        names = {"run": unquote(parts[0]), "doc": unquote(parts[1]), "task": task}
        for each in CODES:
            there = self.site.url("sample", each, **names)
            self._add(Target(there, "", unquote(there).strip("/")))
        return self.pages.get(path)

    # ---- writing

    async def _page(self, target: Target) -> None:
        """A page with its forms, or a file."""
        if target.file:
            await self._write(target.place, target)
            return
        for form in FORMS:
            address = f"{target.path}index" if target.path.endswith("/") else target.path
            if await self._write(target.data(form), target, f"{address}.{form}"):
                target.forms.add(form)
        await self._write(f"{target.place}/index.html".lstrip("/"), target)

    async def _write(self, place: str, target: Target, path: str = "") -> bool:
        """Ask for an address and write the answer; False if there is none."""
        query = "&".join(filter(None, (target.query, "" if target.file else target.extra)))
        status, headers, body = await static_links.ask(self.app, path or target.path, query)
        if status != 200:
            if not path and not target.file:
                raise EstbenchError(f"The page {target.path} can't be written: the board answers {status}.")
            return False
        if headers.get("content-type", "").startswith("text/html"):
            page = static_links.relative(body.decode("utf-8"), target, self.site.base_url, self.find)
            body = static_links.guarded(page).encode("utf-8")
        self._put(place, body)
        return True

    def _put(self, place: str, body: bytes) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self.written += 1

    async def _files(self) -> None:
        """Static files, feeds, badges and cards of all models, and the database."""
        shutil.copytree(HERE / "static", self.folder / "static")
        self.written += sum(1 for path in (self.folder / "static").rglob("*") if path.is_file())
        names = ["/robots.txt", *feeds.FEEDS.values(), *(["/sitemap.xml"] if self.site.base_url else [])]
        for slug in feeds.shown_models(self.site.request("et")):
            names += [f"{start}{quote(slug)}.svg" for start in ("/badge/", "/en/badge/", "/kaart/", "/en/kaart/")]
        for path in names:
            if path not in self.pages:
                await self._write(unquote(path).strip("/"), Target(path, "", "", file=True))
        if self.data:
            downloads.make(self.site.database, self.site.snapshots.current(), self.folder / downloads.PATH.strip("/"))
            self.written += 1
        made: dict[str, Any] = {"made_by": "estbench export site", "version": self.site.snapshots.current().version}
        self._put(MARK, json.dumps(made).encode())
