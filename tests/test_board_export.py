"""What leaves the board as files: the public part of the database, and the static site."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import shutil
import sqlite3
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from board_world import SMALL, World, fill
from database_fixtures import ENGINES, fresh_url
from estbench_leaderboard import downloads, public, static_links, static_site
from estbench_leaderboard.app import create
from estbench_leaderboard.serve import open_board
from estbench_leaderboard.site import Site
from estbench_leaderboard.snapshot import Snapshot
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from estbench import cli
from estbench.database import Database, open_database, packing, schema

CONTACT, TOKEN, ACTOR = "salajane@example.ee", "token-salajane", "toimetaja-salajane"
PLACE = "/home/salajane/mudelid"
HIDDEN = ("hidden", "received", "unpublished", "rejected", "taken_back", "embargoed", "withdrawn")


@pytest.fixture(scope="module", params=ENGINES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A board with a secret in every place that may hold one."""
    for url in fresh_url(request.param, tmp_path_factory.mktemp("world")):
        with open_database(url) as database:
            found = fill(database, **SMALL, outside=lambda kind, text: f"{text} ({kind})")
            add_secrets(database)
            yield found


def add_secrets(database: Database) -> None:
    runs, models = schema.runs.c, schema.models.c
    with database.write() as connection:
        connection.execute(update(schema.submitters).values(contact=CONTACT))
        connection.execute(update(schema.tokens).values(hash=TOKEN))
        connection.execute(update(schema.submissions).values(report={"for": ACTOR}, worker=ACTOR))
        connection.execute(update(schema.decisions).where(~schema.decisions.c.public).values(actor=ACTOR))
        connection.execute(update(schema.models).values(path=PLACE))
        for row in connection.execute(select(runs.id, runs.manifest)).all():
            manifest = {**row.manifest, "command": f"estbench eval model={PLACE}/x", "settings": {"model": PLACE}}
            manifest["model"] = {**manifest.get("model", {}), "path": f"{PLACE}/x", "url": "https://salajane.example"}
            connection.execute(update(schema.runs).where(runs.id == row.id).values(manifest=manifest))
        for row in connection.execute(select(models.fingerprint, models.card)).all():
            card = {**row.card, "path": f"{PLACE}/x", "url": "https://salajane.example"}
            connection.execute(update(schema.models).where(models.fingerprint == row.fingerprint).values(card=card))


@pytest.fixture(scope="module")
def copy(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    return downloads.make(world.database, world.snapshot(), folder / "estbench.sqlite")


def everything_in(path: Path) -> str:
    """Every text of a SQLite file: its raw bytes, and what is packed in it."""
    found = [path.read_bytes().decode("utf-8", "replace")]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    if isinstance(value, bytes):
                        with contextlib.suppress(zlib.error):
                            found.append(zlib.decompress(value).decode("utf-8", "replace"))
    return "\n".join(found)


def whole_copy(world: World, path: Path) -> Path:
    """All of the database in a SQLite file: the negative control of what is looked for."""
    with open_database(f"sqlite:///{path}") as target, world.database.read() as source, target.write() as sink:
        for table in (*schema.metadata.sorted_tables, *schema.board.sorted_tables):
            rows = [dict(row._mapping) for row in source.execute(select(table))]
            if rows and table is not schema.changes:
                sink.execute(insert(table), rows)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return path


def secrets_of(world: World) -> dict[str, str]:
    """What may not be in the copy, each with what it is."""
    snapshot = world.snapshot()
    found = {
        "contact": CONTACT,
        "token": TOKEN,
        "actor and report": ACTOR,
        "place": PLACE,
        "address": "salajane.example",
    }
    found |= {f"run of {case}": world.runs[world.cases[case]][-1] for case in HIDDEN}
    for task in closed_tasks(snapshot):
        found |= {f"prompt of {task}": f"({task})\nVastus"}
    return found


def closed_tasks(snapshot: Snapshot) -> list[str]:
    tasks = [task for board in snapshot.boards.values() for task in board.tasks.values()]
    return [t.name for t in tasks if not public.shows_items(snapshot, t.name, t.publish_items, t.card) and t.docs]


# ---- the public part of the database


def test_nothing_secret_is_in_the_copy(world: World, copy: Path, tmp_path: Path) -> None:
    text, control = everything_in(copy), everything_in(whole_copy(world, tmp_path / "all.sqlite"))
    secrets = secrets_of(world)
    assert len(secrets) > len(HIDDEN) + 5
    for what, secret in secrets.items():
        assert secret in control, f"the test does not see the {what}"
        assert secret not in text, what


def test_documents_of_closed_tasks_are_not_in_the_copy_and_open_ones_are(world: World, copy: Path) -> None:
    closed = closed_tasks(world.snapshot())
    with open_board(str(copy), immutable=True) as database, database.read() as connection:
        for table in (schema.items, schema.responses):
            there = set(connection.scalars(select(table.c.task).distinct()))
            assert there and not there & set(closed)
        rows = connection.execute(select(schema.run_tasks)).all()
        kept = {row.task for row in rows if row.targets or row.prompts}
        assert kept and not kept & set(closed)
        targets = {row.targets for row in rows} - {None}
        lists = set(connection.scalars(select(schema.lists.c.hash)))
        pointed = {getattr(row, name) for row in rows for name in schema.SHARED} - {None}
        assert targets <= lists and lists == pointed
        wanted = set()
        for row in rows:
            if row.prompts:
                packed = connection.scalar(select(schema.lists.c.data).where(schema.lists.c.hash == row.prompts))
                wanted |= set(packing.unpack_list(packed))
        assert set(connection.scalars(select(schema.prompts.c.hash))) == wanted


def test_scores_of_the_copy_are_those_of_the_board(world: World, copy: Path) -> None:
    before = world.snapshot()
    with open_board(str(copy), immutable=True) as database:
        after = Site(database, immutable=True).snapshots.current()
    assert after.version == before.version
    compared = 0
    for name, board in before.boards.items():
        there = {slug: m for slug, m in board.models.items() if m.withdrawn is None}
        assert after.boards[name].models.keys() == there.keys()
        for slug, model in there.items():
            other = after.boards[name].models[slug]
            assert (other.badge, other.submitter, other.facts) == (model.badge, model.submitter, model.facts)
            for task, cell in model.cells.items():
                assert (other.cells[task].score, other.cells[task].flags) == (cell.score, cell.flags)
                compared += cell.score is not None
    assert compared > 100


def test_the_copy_is_whole_by_itself(copy: Path) -> None:
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    with contextlib.closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_no_token_of_the_copy_opens_anything(copy: Path) -> None:
    with open_board(str(copy), immutable=True) as database, database.read() as connection:
        rows = connection.execute(select(schema.tokens)).all()
        assert [(row.id, row.hash, row.scopes, row.public_key) for row in rows] == [("withheld", "", [], None)]
        assert rows[0].revoked is not None


def test_a_board_is_served_from_the_copy(copy: Path, world: World) -> None:
    with (
        open_board(str(copy), immutable=True) as database,
        TestClient(create(Site(database, immutable=True))) as client,
    ):
        for path in ("/", "/en/?view=tasks", "/index.csv", "/api/v1/scores", "/atom.xml", "/healthz"):
            assert client.get(path).status_code == 200, path
        run = world.runs[world.cases["best"]][-1]
        task = next(t for t in world.tasks["chat"] if t not in closed_tasks(world.snapshot()))
        rows = client.get(f"/api/v1/runs/{run}/samples?task={task}").json()["rows"]
        one = client.get(f"/api/v1/runs/{run}/samples/{rows[0]['doc']}?task={task}").json()
        assert one["prompt"] and one["responses"]


@pytest.fixture
def fresh(tmp_path: Path, home: Path) -> Iterator[World]:
    """A board that a test may change, and a home to keep copies in."""
    with open_database(f"sqlite:///{tmp_path / 'fresh.db'}") as database:
        yield fill(database, **SMALL)


def test_the_copy_is_made_once_a_version_and_offered_in_parts(fresh: World, home: Path) -> None:
    site = Site(fresh.database)
    with TestClient(create(site)) as client:
        first = client.get(downloads.PATH)
        assert first.status_code == 200 and first.content[:15] == b"SQLite format 3"
        assert "estbench.sqlite" in first.headers["content-disposition"]
        files = {path: path.stat().st_mtime_ns for path in (home / "board").glob("*.sqlite")}
        part = client.get(downloads.PATH, headers={"range": "bytes=0-15"})
        assert part.status_code == 206 and part.content == first.content[:16]
        assert client.get(downloads.PATH, headers={"if-none-match": first.headers["etag"]}).status_code == 304
        assert {path: path.stat().st_mtime_ns for path in (home / "board").glob("*.sqlite")} == files
        with fresh.database.write() as connection:
            hide = {"created": "2026-12-01T00:00:00Z", "actor": "a", "action": "hide", "reason": "r", "public": False}
            connection.execute(insert(schema.decisions).values(model=fresh.cases["best"], **hide))
        site.snapshots.refresh()
        later = client.get(downloads.PATH, headers={"if-none-match": first.headers["etag"]})
        assert later.status_code == 200
        assert fresh.runs[fresh.cases["best"]][-1].encode() in first.content
        assert fresh.runs[fresh.cases["best"]][-1].encode() not in later.content
        assert len(list((home / "board").glob("*.sqlite"))) == 1, "the copy with the hidden run is still there"


def test_a_copy_that_takes_long_is_a_503_and_no_request_waits_for_ever(
    fresh: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    make = downloads.make

    def slow(*args: Any) -> Path:
        release.wait(30)
        return make(*args)

    monkeypatch.setattr(downloads, "make", slow)
    monkeypatch.setattr(downloads, "WAIT", 0.05)
    with TestClient(create(Site(fresh.database))) as client:
        waiting = client.get(downloads.PATH)
        assert waiting.status_code == 503 and waiting.headers["retry-after"]
        assert client.get("/api/v1/boards").status_code == 200
        release.set()
        monkeypatch.setattr(downloads, "WAIT", 30)
        assert client.get(downloads.PATH).status_code == 200


def test_a_full_disk_is_a_503_and_leaves_nothing(fresh: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Path:
        raise OSError(28, "No space left on device")

    make = downloads.make
    monkeypatch.setattr(downloads, "make", full)
    with TestClient(create(Site(fresh.database))) as client:
        assert client.get(downloads.PATH).status_code == 503
        monkeypatch.setattr(downloads, "make", make)
        assert client.get(downloads.PATH).status_code == 200


# ---- the static site


class Links(HTMLParser):
    """What a page links to, the ids that it has, and its forms."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.controls = 0  # of forms: what asks a server
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.controls += tag in ("input", "select", "textarea") or ("type", "submit") in attrs
        for name, value in attrs:
            if name in ("href", "src", "action") and value is not None:
                self.links.append(value)
            if name == "id" and value:
                self.ids.add(value)


def broken(folder: Path, root: str = "http://site.example/below/it/") -> list[str]:
    """Links of all pages that lead to no file of the folder, or out of it by their host's root."""
    pages = {path: Links(path.read_text("utf-8")) for path in folder.rglob("*.html")}
    found = []
    for page, parsed in pages.items():
        here = root + page.relative_to(folder).as_posix()
        for link in parsed.links:
            whole, fragment = urldefrag(urljoin(here, link))
            if urlsplit(whole).scheme not in ("http", "https") or urlsplit(link).netloc:
                continue
            if not whole.startswith(root):
                found.append(f"{page.relative_to(folder)}: {link} leads out of the folder")
                continue
            file = folder / unquote(urlsplit(whole).path.removeprefix(urlsplit(root).path))
            if not file.is_file():
                found.append(f"{page.relative_to(folder)}: {link} is not there")
            elif fragment and file in pages and unquote(fragment) not in pages[file].ids:
                found.append(f"{page.relative_to(folder)}: {link} has no such place")
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    """A board written to a folder, of which nobody knows the address; with half of the presets, all are made alike."""
    folder = tmp_path_factory.mktemp("site")
    with open_database(f"sqlite:///{folder / 'board.db'}") as database:
        world = fill(database, **{**SMALL, "tasks": 2, "docs": 8, "base": 2, "checkpoints": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_site, "PRESETS", dict.fromkeys(("general", "writing", "translation"), ()))
        assert cli.main(["export", "site", str(folder / "out"), f"database={folder / 'board.db'}", "samples=2"]) == 0
    return folder / "out", world


def test_every_link_of_the_folder_leads_somewhere_in_it(site: tuple[Path, World]) -> None:
    folder, _ = site
    assert len(list(folder.rglob("*.html"))) > 100
    assert broken(folder) == []


def test_the_checker_of_links_sees_a_broken_one(tmp_path: Path) -> None:
    """Negative control of the test above."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b.html").write_text('<p id="here">')
    lines = ("b.html", "../b.html#here", "../b.html#gone", "/b.html", "../c.html", "https://other.example/x", "#")
    (tmp_path / "a" / "index.html").write_text("".join(f'<a href="{line}">' for line in lines))
    assert [line.split(": ")[1].split(" ")[0] for line in broken(tmp_path)] == [
        "b.html",
        "../b.html#gone",
        "/b.html",
        "../c.html",
    ]


def test_the_folder_works_below_a_host_on_any_file_server(site: tuple[Path, World], tmp_path: Path) -> None:
    folder, _ = site
    (tmp_path / "below").symlink_to(folder)
    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, seen = f"http://127.0.0.1:{server.server_port}/below/", set()
        waiting = [f"{url}index.html"]
        while waiting and len(seen) < 150:
            page = waiting.pop()
            if page in seen:
                continue
            seen.add(page)
            with urllib.request.urlopen(page) as answer:
                assert answer.status == 200
                if "html" in answer.headers["content-type"]:
                    links = Links(answer.read().decode()).links
                    waiting += [urldefrag(urljoin(page, link))[0] for link in links if not urlsplit(link).netloc]
        server.shutdown()
    assert len(seen) == 150


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_both_languages_all_forms_and_all_states_are_there(site: tuple[Path, World]) -> None:
    folder, world = site
    model = world.snapshot().model(world.cases["best"])
    assert model is not None
    for place in (
        *("index.html", "index.json", "index.csv", "en/index.html", "en/index.json", "atom.xml", "en/atom.xml"),
        *("seis/chat-general-skills/index.html", "en/state/base-translation-tasks-all/index.html", "robots.txt"),
        *("seis/chat-writing-tasks.csv", f"mudel/{model.slug}/index.html", f"en/model/{model.slug}.json"),
        *(f"badge/{model.slug}.svg", f"en/badge/{model.slug}.svg", "andmed/estbench.sqlite", "static/board.css"),
    ):
        assert (folder / place).is_file(), place
    state = json.loads((folder / "seis/chat-writing-tasks.json").read_text())
    assert (state["query"]["preset"], state["query"]["view"]) == ("writing", "tasks")
    rows = json.loads((folder / "seis/chat-general-skills-all.json").read_text())["rows"]
    assert {row["model"] for row in rows} == set(world.snapshot().boards["chat"].models)
    assert 'lang="et"' in (folder / "index.html").read_text() and 'lang="en"' in (folder / "en/index.html").read_text()


def test_what_needs_a_server_is_left_out(site: tuple[Path, World]) -> None:
    folder, _ = site
    for path in folder.rglob("*.html"):
        page = Links(path.read_text("utf-8"))
        assert page.controls == 0, path
        assert not any(link.startswith("/") for link in page.links)
    assert not (folder / "api").exists() and not (folder / "vordlus").exists()


def test_answers_are_there_up_to_the_number_that_was_asked_for(site: tuple[Path, World]) -> None:
    folder, world = site
    by_task: dict[str, int] = {}
    for page in (folder / "vastus").rglob("index.html"):
        task = page.parent.relative_to(folder / "vastus").parts[2:]
        by_task["/".join(task)] = by_task.get("/".join(task), 0) + 1
    assert by_task and set(by_task.values()) <= {1, 2}
    assert not set(by_task) & set(closed_tasks(world.snapshot()))


def test_nothing_hidden_is_in_the_folder(site: tuple[Path, World]) -> None:
    folder, world = site
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for case in HIDDEN[:-1]:  # the last was withdrawn: it leaves a tombstone
        run = world.runs[world.cases[case]][-1].encode()
        assert not any(run in text for text in texts), case
    shown = world.runs[world.cases["best"]][-1].encode()
    assert any(shown in text for text in texts)


WORDS = ("samples=0", "data=false")


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small board in a file, of which one state is written."""
    path = tmp_path_factory.mktemp("little") / "little.db"
    with open_database(f"sqlite:///{path}") as database:
        fill(database, models=13, tasks=2, docs=4, base=2, checkpoints=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_site, "PRESETS", {"general": ()})
        patch.setattr(static_site, "VIEWS", ("skills",))
        yield path


@pytest.fixture(scope="module")
def written(little: Path) -> Path:
    """That board in a folder that was empty, and so nobody's."""
    (folder := little.with_name("written")).mkdir()
    assert cli.main(["export", "site", str(folder), f"database={little}", *WORDS]) == 0
    return folder


def test_a_folder_of_others_stays_and_ones_own_is_replaced(
    little: Path, written: Path, tmp_path: Path, capsys: Any
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    words = [f"database={little}", *WORDS]
    assert cli.main(["export", "site", str(foreign), *words]) == 2
    assert "did not write" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    assert cli.main(["export", "site", str(little), *words]) == 2

    own = Path(shutil.copytree(written, tmp_path / "own"))
    (own / "old.html").write_text("from the last time")
    assert cli.main(["export", "site", str(own), *words]) == 0
    assert not (own / "old.html").exists() and (own / "index.html").is_file()
    assert not (own / "andmed").exists() and not (own / "vastus").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_an_export_that_fails_leaves_what_was_there(
    little: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shutil.copytree(written, tmp_path / "own")
    words = ["export", "site", str(tmp_path / "own"), f"database={little}", *WORDS]
    before = {path: path.read_bytes() for path in (tmp_path / "own").rglob("*") if path.is_file()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(static_site.shutil, "copytree", full)
    assert cli.main(words) == 2
    assert "No space left" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "own").rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_with_an_address_whole_links_lead_to_the_files(little: Path, tmp_path: Path) -> None:
    base = "https://tabel.example.ee/eesti"
    words = [f"database={little}", f"url={base}", *WORDS]
    assert cli.main(["export", "site", str(tmp_path / "own"), *words]) == 0
    found = set()
    for page in (tmp_path / "own").rglob("*.html"):
        found |= set(re.findall(rf'"({base}[^"]*)"', page.read_text()))
    found |= set(re.findall(r"<loc>(.*?)</loc>", (tmp_path / "own" / "sitemap.xml").read_text()))
    assert len(found) > 20
    for link in found:
        place = tmp_path / "own" / unquote(urlsplit(link).path.removeprefix("/eesti").strip("/"))
        assert (place / "index.html").is_file() or place.is_file(), link


def test_links_keep_what_is_no_link() -> None:
    target = static_links.Target("/mudel/x", "", "mudel/x")
    known = {"/": static_links.Target("/", "", ""), "/mudel/x": target}
    html = '<p data-href="/x">href=&#34;/x&#34;</p><a href="/">a</a> <a href="#b">b</a> <a href="/gone" class="c">c</a>'
    assert static_links.relative(html, target, "", lambda path, query: known.get(path)) == (
        '<p data-href="/x">href=&#34;/x&#34;</p><a href="../../index.html">a</a> <a href="#b">b</a> <a class="c">c</a>'
    )
