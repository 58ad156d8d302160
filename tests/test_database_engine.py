"""Opening: revisions, locks, and several at once. On SQLite and PostgreSQL where it matters."""

from __future__ import annotations

import shutil
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
from database_opening import populated, refusal
from sqlalchemy.exc import IntegrityError

from estbench.database import engine as opening
from estbench.database import open_database, queries, rebuild, schema


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from fresh_url(request.param, tmp_path)


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
