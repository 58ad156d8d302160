"""Opening: revisions, locks, file systems, and errors in plain words. On SQLite and PostgreSQL where it matters."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from database_fixtures import (
    ENGINES,
    REVISIONS,
    choice_docs,
    dump,
    fresh_url,
    insert_rows,
    make_run,
    python,
    start_together,
)
from sqlalchemy.exc import IntegrityError

from estbench.database import engine as opening
from estbench.database import index_run, open_database, queries, rebuild, schema
from estbench.errors import StoreError


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from fresh_url(request.param, tmp_path)


def refusal(url: str | None, **options: Any) -> str:
    """The one line with which opening is refused; exit code 2."""
    with pytest.raises(StoreError, match=r"^[^\n]+$") as caught:
        open_database(url, **options).close()
    assert caught.value.exit_code == 2
    return str(caught.value)


def populated(url: str, tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    with open_database(url) as database:
        index_run(database, make_run(tmp_path / "runs", run="a", tasks={"copa": choice_docs(3)}))
        return dump(database)


# ---- revisions


def test_a_fresh_database_has_the_tables_of_the_schema(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with open_database(url) as database, database.read() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, [schema.metadata, schema.board]) == []
        there = sa.MetaData()
        there.reflect(connection)
        # Alembic does not compare names of keys.
        for table in (*schema.metadata.sorted_tables, *schema.board.sorted_tables):
            made = there.tables[table.name]
            assert {key.name for key in made.foreign_key_constraints} == {
                key.name for key in table.foreign_key_constraints
            }
            assert made.primary_key.name == table.primary_key.name


def test_the_schema_names_the_newest_revision_and_every_revision_has_rows_to_upgrade() -> None:
    known = opening.known_revisions()
    assert known[0] == schema.HEAD
    assert set(REVISIONS) == set(known), "add rows of the new revision to tests/database_revisions.json"


@pytest.mark.parametrize("revision", sorted(REVISIONS))
def test_a_populated_database_of_each_revision_is_upgraded(
    url: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(opening, "_bring_up_to_date", lambda *_, **__: None)
        with open_database(url) as database, database.write(foreign_keys=False, counted=False) as connection:
            opening.migrate(connection, revision)
            insert_rows(connection, REVISIONS[revision])
    with open_database(url, create=False) as database:
        assert queries.runs(database)[0].id == "demo-1"
        rows = dump(database)
        for table in REVISIONS[revision]:
            assert len(rows[table]) == len(REVISIONS[revision][table]) > 0
        items = queries.items(database, "demo-1", "mini_copa", "acc")
        assert (len(items.docs), items.values.dtype) == (6, "uint8")
        assert items.clusters is not None
        stored = queries.sample(database, "demo-1", "mini_copa", items.docs[0])
        assert queries.prompt(database, stored.sample.prompt_hash).startswith("Küsimus 0")


def test_every_write_and_nothing_else_changes_the_version(url: str) -> None:
    with open_database(url) as database:
        before = database.version()
        with database.read() as connection:
            connection.execute(sa.select(schema.models))
        assert database.version() == before
        with pytest.raises(ZeroDivisionError), database.write():
            1 / 0  # noqa: B018
        assert database.version() == before
        with database.write():
            pass
        assert database.version() == before + 1


LATER = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{before}"

def upgrade():
    with op.batch_alter_table("runs", recreate="auto") as runs:
        runs.add_column(sa.Column("note", sa.Text, nullable=False, server_default="none"))
        runs.alter_column("seconds", type_=sa.Float(precision=53), existing_type=sa.Double())
    {more}
"""


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations with one more revision, which rebuilds a table that others point to."""
    folder = tmp_path / "100% migrations"  # a name that a configuration file would choke on
    shutil.copytree(opening.MIGRATIONS, folder)
    (folder / "versions" / "r9999.py").write_text(LATER.format(before=schema.HEAD, more="pass"))
    monkeypatch.setattr(opening, "MIGRATIONS", folder)
    monkeypatch.setattr(schema, "HEAD", "9999")
    return folder


NEWEST = schema.HEAD


def at_newest_revision(url: str) -> dict[str, list[dict[str, Any]]]:
    """Make a populated database of the revision before `later`; its rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "_bring_up_to_date", lambda *_, **__: None)
        with open_database(url) as database:
            with database.write(counted=False) as connection:
                opening.migrate(connection, NEWEST)
                insert_rows(connection, REVISIONS[NEWEST])
            return dump(database)


@pytest.mark.usefixtures("later")
def test_a_later_revision_that_rebuilds_a_table_keeps_the_rows_that_point_to_it(url: str) -> None:
    before = at_newest_revision(url)
    with open_database(url) as database:
        assert dump(database) == before  # the children of runs among them
        with database.read() as connection:
            assert list(connection.scalars(sa.text("SELECT note FROM runs"))) == ["none"]
        orphan = sa.insert(schema.responses).values(run_id="no such", task="x", block=0, data=b"")
        with pytest.raises(IntegrityError), database.write() as connection:  # foreign keys are on again
            connection.execute(orphan)


def test_a_revision_that_fails_leaves_the_database_as_it_was(url: str, later: Path) -> None:
    before = at_newest_revision(url)
    (later / "versions" / "r9999.py").write_text(LATER.format(before=NEWEST, more="op.execute('nonsense')"))
    assert "nonsense" in refusal(url)
    database = opening.Database(sa.create_engine(url), "plain")
    assert dump(database) == before
    with database.read() as connection:
        assert opening._revision(connection) == NEWEST
        assert "note" not in {column["name"] for column in sa.inspect(connection).get_columns("runs")}
    database.close()


def test_a_newer_database_is_refused_and_nothing_is_written(url: str, tmp_path: Path) -> None:
    before = populated(url, tmp_path)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = 'ffff'")
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    database = opening.Database(engine, "plain")
    file = sa.make_url(url).database
    content = Path(str(file)).read_bytes() if engine.dialect.name == "sqlite" else b""
    for create in (True, False):
        line = refusal(url, create=create)
        assert "newer estbench (revision ffff" in line
        assert "update estbench" in line
    assert dump(database) == before
    assert not content or Path(str(file)).read_bytes() == content
    database.close()


def test_a_database_of_another_program_is_refused(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (id INTEGER)")
    assert "another program (runs)" in refusal(url)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["runs"]
    engine.dispose()


# ---- several at once

INDEX = """
import sys
from pathlib import Path
from estbench.database import index_run, open_database
from estbench.runs import Run
print("ready", flush=True); sys.stdin.readline()
with open_database(sys.argv[1]) as database:
    for folder in sys.argv[2:]:
        index_run(database, Run(folder))
"""


def test_two_evals_at_once_into_a_fresh_database_lose_nothing(url: str, tmp_path: Path) -> None:
    def folders(model: str) -> list[Path]:
        docs = {"copa": choice_docs(6, seed=len(model))}
        return [make_run(tmp_path / "runs", run=f"{model}-{i}", tasks=docs, model=model).path for i in range(6)]

    mine, yours = folders("demo"), folders("demo-base")
    both = make_run(tmp_path / "runs", run="both", tasks={"copa": choice_docs(4)}).path
    start_together(python(INDEX, url, both, *mine, both), python(INDEX, url, both, *yours, both))
    with open_database(url, create=False) as database:
        at_once = dump(database)
        assert {row["id"] for row in at_once["runs"]} == {path.name for path in [both, *mine, *yours]}
        rebuild(database, [both, *mine, *yours])
        assert dump(database) == at_once


def test_a_writer_that_waits_too_long_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_database(url) as holder, holder.write():
        monkeypatch.setattr(opening, "WAIT", 0.2)
        assert "another program has held it" in refusal(url)
        with open_database(url, create=False) as reader:  # readers do not wait for writers
            assert queries.runs(reader) == []


def test_a_writer_waits_for_another(url: str) -> None:
    order: list[str] = []
    with open_database(url) as one, open_database(url) as two:

        def second() -> None:
            with two.write():
                order.append("second")

        with one.write():
            waiting = threading.Thread(target=second)
            waiting.start()
            waiting.join(0.3)
            order.append("first")
        waiting.join(20)
    assert order == ["first", "second"]


def test_a_write_that_fails_leaves_no_trace(url: str, tmp_path: Path) -> None:
    before = populated(url, tmp_path)
    with open_database(url) as database:

        def interrupted() -> None:
            with database.write() as connection:
                connection.execute(sa.delete(schema.runs))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert dump(database) == before


# ---- file systems

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local xfs rw 0 0
mgs@tcp:/scratch /scratch lustre rw 0 0
me@host:/ /mnt/my\\040disk fuse.sshfs rw 0 0
overlay /var/overlay fuse.fuse-overlayfs rw 0 0
something /mnt/unknown fuse.newfs rw 0 0
/dev/sdc /stacked ext4 rw 0 0
//server/share /stacked cifs rw 0 0
tmpfs /homework tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/x.db", None),
        ("/home/mari/x.db", "nfs4"),
        ("/home/local/x.db", None),
        ("/homework/x.db", None),
        ("/scratch/x.db", "lustre"),
        ("/mnt/my disk/x.db", "fuse.sshfs"),
        ("/var/overlay/x.db", None),
        ("/mnt/unknown/x.db", "fuse.newfs"),
        ("/stacked/x.db", "cifs"),
    ],
)
def test_network_file_systems_are_told_from_local_ones(path: str, kind: str | None) -> None:
    assert opening.network_file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "beegfs", "gpfs", "ceph", "9p", "smb3", "fuse.glusterfs"])
def test_a_network_file_system_at_the_root_is_seen(kind: str) -> None:
    assert opening.network_file_system(Path("/x.db"), f"x / {kind} rw 0 0\n") == kind


def test_a_link_is_followed_to_the_file_system_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    table = f"/dev/vda / ext4 rw 0 0\nserver:/ {tmp_path.resolve()}/far nfs rw 0 0\n"
    assert opening.network_file_system(tmp_path / "near" / "x.db", table) == "nfs"
    assert opening.network_file_system(tmp_path / "x.db", "") is None  # a system without a mount table


def journal_mode(path: Path) -> str:
    connection = sqlite3.connect(path)
    mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    connection.close()
    return mode


def test_no_wal_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.db"
    monkeypatch.setattr(opening, "mounts", lambda: "/dev/vda / ext4 rw 0 0\n")
    open_database(f"sqlite:///{path}").close()
    assert journal_mode(path) == "wal"
    monkeypatch.setattr(opening, "mounts", lambda: "server:/ / nfs4 rw 0 0\n")
    with open_database(f"sqlite:///{path}") as database:  # it was carried there
        index_run(database, make_run(tmp_path, run="a", tasks={"copa": choice_docs(2)}))
        assert not list(tmp_path.glob("x.db-*"))
    assert journal_mode(path) == "delete"


# ---- errors in plain words


def test_the_default_lies_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "new" / "home"))
    assert "no database" in refusal(None, create=False)
    assert not (tmp_path / "new").exists()
    open_database().close()
    assert (tmp_path / "new" / "home" / "estbench.db").exists()
    with open_database(None, create=False) as database:
        assert queries.runs(database) == []


def test_a_file_name_is_a_sqlite_database(tmp_path: Path) -> None:
    open_database(str(tmp_path / "runs.db")).close()
    assert (tmp_path / "runs.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "runs",
        "mysql://user:Salajane1@host/x",
        "postgresql+asyncpg://host/x",
        "://",
        "sqlite:/x",
        "postgresql://u:Salajane1@host:port/x",
    ],
)
def test_a_wrong_url_is_refused_with_the_right_form(url: str) -> None:
    line = refusal(url)
    assert "sqlite:///FILE" in line
    assert "Salajane1" not in line


def test_a_folder_or_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(f"sqlite:///{tmp_path}")
    assert "does not exist" in refusal(f"sqlite:///{tmp_path}/no/such.db")
    assert not (tmp_path / "no").exists()


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("not a database, " * 100)
    before = path.read_bytes()
    assert "no SQLite database" in refusal(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    populated(f"sqlite:///{path}", tmp_path)
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"\xff" * 20_000)
    with (
        pytest.raises(StoreError, match=r"^[^\n]*damaged: move it away and rebuild it[^\n]*$"),
        open_database(f"sqlite:///{path}") as database,
    ):
        dump(database)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    before = populated(url, tmp_path)
    with open_database(url) as database:

        @sa.event.listens_for(database.engine, "checkout")
        def small(raw: Any, *_: Any) -> None:
            raw.execute("PRAGMA max_page_count=1")  # SQLite takes what the file has now: it can't grow

        with pytest.raises(StoreError, match="the disk is full: make room"):
            index_run(database, make_run(tmp_path, run="b", tasks={"copa": choice_docs(400)}))
        assert dump(database) == before


AS_NOBODY = """
import os, sys
from estbench.database import open_database, queries
from estbench.errors import StoreError
if os.getuid() == 0:  # whom no permission stops
    os.setgid(65534)
    os.setuid(65534)
for path in sys.argv[1:]:
    for create in (True, False):
        try:
            with open_database(f"sqlite:///{path}", create=create) as database:
                print(len(queries.runs(database)), "runs")
        except StoreError as error:
            print(error)
"""


def test_a_read_only_file_or_folder_is_refused_to_writers() -> None:
    with tempfile.TemporaryDirectory() as made:  # pytest's own folder is closed to other users
        os.chmod(made, 0o755)
        paths = [Path(made) / name / "x.db" for name in ("file", "folder")]
        for path, mode_of_file, mode_of_folder in zip(paths, (0o444, 0o666), (0o777, 0o555), strict=True):
            path.parent.mkdir()
            populated(f"sqlite:///{path}", Path(made))
            path.chmod(mode_of_file)
            path.parent.chmod(mode_of_folder)
        environment = os.environ | {"PYTHONPATH": str(Path(opening.__file__).parents[2])}
        out, error = python(AS_NOBODY, *paths, cwd="/", env=environment).communicate(timeout=60)
        paths[1].parent.chmod(0o755)
    if "Permission" in error or "No module" in error:
        pytest.skip("another user can't read this Python")
    assert not error
    to_file, from_file, to_folder, from_folder = out.splitlines()
    assert f"can't be written, {paths[0]} is read-only" in to_file
    assert f"can't be written, {paths[1].parent} is read-only" in to_folder
    assert from_file == "1 runs"
    assert "immutable=1" in from_folder


def test_a_copy_on_a_read_only_disk_is_read_as_immutable(tmp_path: Path) -> None:
    path = tmp_path / "with space.db"
    populated(f"sqlite:///{path}", tmp_path)
    with open_database(f"sqlite:///file:{path}?immutable=1&uri=true", create=False) as database:
        assert len(queries.runs(database)) == 1


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    url = "postgresql://mari:Sala%40jane1@127.0.0.1:1/board?password=Salajane2&connect_timeout=2"
    line = refusal(url)
    assert "127.0.0.1" in line
    for secret in ("Sala@jane1", "Sala%40jane1", "Salajane2"):
        assert secret not in line


def test_a_missing_driver_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    line = refusal("postgresql://mari:Salajane1@host/board")
    assert "pip install 'psycopg[binary]'" in line
    assert "Salajane1" not in line


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    for url in fresh_url("postgresql", tmp_path):
        secret = sa.make_url(url).set(password="Salajane1").render_as_string(hide_password=False)
        with open_database(secret) as database:
            assert "***" in repr(database)
            assert "Salajane1" not in repr(database)
            with pytest.raises(StoreError) as caught:
                queries.find_run(database, "x")
            assert "Salajane1" not in str(caught.value)


def test_opening_a_ready_database_does_not_import_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    open_database(url).close()
    code = """
        import sys
        from estbench.database import open_database
        for url in sys.argv[1:]:
            open_database(url).close()
            print("alembic" in sys.modules)
    """
    again_then_fresh = python(textwrap.dedent(code), url, f"sqlite:///{tmp_path}/fresh.db")
    assert again_then_fresh.communicate(timeout=60)[0] == "False\nTrue\n"
