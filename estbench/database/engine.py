"""Opening a database: the URL, the file system it lies on, its revision, its locks, and its errors in plain words.

    with open_database("sqlite:///runs.db") as database:
        with database.read() as connection: ...      # one snapshot
        with database.write() as connection: ...     # the only writer until the end of the block; all or nothing

One writer at a time on both engines (SQLite's lock, an advisory lock on PostgreSQL): others wait up to WAIT seconds.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, unquote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from estbench.database import schema
from estbench.errors import StoreError
from estbench.home import home

if TYPE_CHECKING:
    from alembic.config import Config

WAIT = 60  # seconds a writer waits for another
WRITER = 0x657374  # the advisory lock's number: "est"
COUNT_UP = update(schema.changes).values(count=schema.changes.c.count + 1)
MIGRATIONS = Path(__file__).parent / "migrations"

# WAL needs memory that is shared between all who have the file open: not so across the nodes of these.
NETWORK = {
    *("nfs", "nfs4", "lustre", "cifs", "smb3", "smbfs", "beegfs", "gpfs", "ceph", "9p", "afs", "glusterfs"),
    *("orangefs", "pvfs2", "panfs", "wekafs", "virtiofs", "ocfs2", "gfs2", "ncpfs", "coda", "davfs"),
}
LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ntfs-3g"}


class Database:
    """An open database at the newest revision."""

    def __init__(self, engine: Engine, label: str) -> None:
        self.engine = engine
        self.label = label  # for messages: never holds a password

    def __repr__(self) -> str:
        return f"Database({self.label!r})"

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database; StoreError if it can't be read."""
        with self._plain_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, foreign_keys: bool = True, counted: bool = True) -> Iterator[Connection]:
        """A transaction of the only writer, committed at the end of the block or not at all; StoreError if it can't be.

        Migrations switch `foreign_keys` off, since SQLite rebuilds a table by dropping it; they are checked at the end.
        What changes nothing that anyone reads is not `counted` as a new version.
        """
        with self._plain_errors(), self.engine.connect() as connection:
            connection.execution_options(estbench_write=True)
            sqlite = connection.dialect.name == "sqlite"
            if sqlite and not foreign_keys:
                _pragma(connection, "foreign_keys=OFF")
            try:
                with connection.begin():
                    if not sqlite:
                        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT}s'")
                        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER})")
                    yield connection
                    if counted:
                        connection.execute(COUNT_UP)
                    if sqlite and not foreign_keys and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise RuntimeError("a migration left rows that point nowhere")
            finally:
                if sqlite and not foreign_keys:
                    _pragma(connection, "foreign_keys=ON")

    def version(self) -> int:
        """A number that grows with everything that is written; StoreError if the database can't be read."""
        with self.read() as connection:
            return int(connection.scalar(select(schema.changes.c.count)) or 0)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise  # a mistake of ours, not of the user
        except DBAPIError as error:
            raise StoreError(_in_plain_words(error, self.engine.url, self.label)) from None


def open_database(url: str | None = None, *, create: bool = True) -> Database:
    """Open a database and bring it to the newest revision.

    Args:
        url: `sqlite:///FILE`, `postgresql://...`, or a file name ending in .db or .sqlite; None is home()/estbench.db.
        create: for those who write: makes what is missing, and fails at once where nothing can be written. With False
            the database must exist.

    Raises:
        StoreError: not a database, a newer one, not reachable, not writable, or the driver is missing.
    """
    parsed = _parse(url)
    label = _label(parsed)
    path = sqlite_file(parsed)
    if path is not None:
        _check_file(path, label, create=create, default=url is None)
    options = {"timeout": WAIT} if parsed.drivername == "sqlite" else {}
    try:
        engine = create_engine(parsed, pool_pre_ping=parsed.drivername != "sqlite", connect_args=options)
    except ModuleNotFoundError as error:
        raise StoreError(f"{label} needs the package {error.name}: pip install 'psycopg[binary]'.") from None
    if parsed.drivername == "sqlite":
        _prepare_sqlite(engine)
    database = Database(engine, label)
    try:
        _bring_up_to_date(database, create=create)
        if create and path is not None:
            _set_journal(database, path)
        if create:
            # A file that can't be written is found out now, not after hours of work.
            with database.write(counted=False):
                pass
    except BaseException:
        database.close()
        raise
    return database


def _parse(url: str | None) -> URL:
    if url is None:
        return URL.create("sqlite", database=str(home() / "estbench.db"))
    if "://" not in url and url.endswith((".db", ".sqlite", ".sqlite3")):
        return URL.create("sqlite", database=url)
    usage = "give sqlite:///FILE or postgresql://USER@HOST/NAME"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text may hold a password, so that it is not repeated here.
        raise StoreError(f"database= is no database URL: {usage}.") from None
    kind, _, driver = parsed.drivername.partition("+")
    if kind == "sqlite" and driver in ("", "pysqlite"):
        return parsed.set(drivername="sqlite")
    if kind in ("postgresql", "postgres") and driver in ("", "psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise StoreError(f"database={parsed.drivername}:// is not supported: {usage}.")


def _label(url: URL) -> str:
    """The URL for messages, without passwords (which may stand in the query as well)."""
    if url.drivername == "sqlite":
        return url.database or "the database in memory"
    query = {name: "***" if "password" in name.lower() else value for name, value in url.query.items()}
    return url.set(drivername="postgresql", query=query).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """The file behind a SQLite URL; None in memory and on PostgreSQL."""
    in_memory = not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"
    if url.drivername != "sqlite" or in_memory or not url.database:
        return None
    if url.database.startswith("file:") and url.query.get("uri"):
        return Path(unquote(url.database.removeprefix("file:")))
    return Path(url.database)


def _check_file(path: Path, label: str, *, create: bool, default: bool) -> None:
    """StoreError if the file can't be a database of ours; makes the default folder."""
    if path.is_dir():
        raise StoreError(f"{label} is a folder: database= wants a file, such as {label.rstrip('/')}/estbench.db.")
    if not create:
        if not path.exists():
            raise StoreError(f"There is no database {label} yet: `estbench eval` and `estbench runs import` make it.")
        return
    try:
        if default:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.parent.is_dir():
            raise StoreError(f"The folder of the database {label} does not exist: make it, or name another database=.")
    except OSError as error:
        cure = "set ESTBENCH_HOME or database= to a place that can be written"
        raise StoreError(f"{path.parent} can't be made ({error.strerror}): {cure}.") from None
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            cure = "make it writable, or name another database="
            raise StoreError(f"The database {label} can't be written, {place} is read-only: {cure}.")


def _prepare_sqlite(engine: Engine) -> None:
    """Transactions are ours to begin (a writer takes the lock first), foreign keys are on."""

    @event.listens_for(engine, "connect")
    def connected(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None  # the driver would begin late: a reader that turns writer can't wait for its lock
        raw.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("estbench_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _pragma(connection: Connection, text: str) -> list[tuple[object, ...]]:
    """A pragma outside any transaction."""
    raw = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    return raw.execute(f"PRAGMA {text}").fetchall()


def _set_journal(database: Database, path: Path) -> None:
    """WAL on a local disk (readers do not wait for writers), a rollback journal on a network file system."""
    mode = "delete" if network_file_system(path, mounts()) else "wal"
    deadline = time.monotonic() + WAIT
    with database.engine.connect() as connection:
        while True:
            try:
                if any(_pragma(connection, text) == [(mode,)] for text in ("journal_mode", f"journal_mode={mode}")):
                    return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):  # this change does not wait by itself
                    raise StoreError(f"The database {database.label} can't be used: {error}.") from None
            if time.monotonic() > deadline:
                if mode == "wal":
                    return  # slower, but as safe
                held = "while other programs have it open: end them first"
                raise StoreError(f"The database {database.label} can't change to journal mode {mode} {held}.")
            time.sleep(0.05)


def mounts() -> str:
    """The mount table; empty where the system has none to read."""
    try:
        return Path("/proc/self/mounts").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def network_file_system(path: Path, mount_table: str) -> str | None:
    """The type of the network file system that the path lies on, or None if it is local.

    Args:
        mount_table: the text of /proc/self/mounts. Of the mounts above the path the deepest counts, the last of equals.
    """
    place = path.resolve()
    found, depth = "", -1
    for line in mount_table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        if len(mount.parts) >= depth and place.is_relative_to(mount):
            found, depth = fields[2], len(mount.parts)
    remote = found in NETWORK or (found.startswith("fuse.") and found not in LOCAL_FUSE)
    return found if remote else None


def _bring_up_to_date(database: Database, *, create: bool) -> None:
    """Apply the revisions that are missing. Two processes may do so at once: the second finds nothing left to do."""
    with database.read() as connection:
        before = _revision(connection)
    if before == schema.HEAD:
        return
    if before is None and not create:
        cure = "`estbench eval` and `estbench runs import` make them"
        raise StoreError(f"The database {database.label} has no estbench tables: {cure}.")
    if before is not None and before not in known_revisions():
        newer = f"was written by a newer estbench (revision {before}, this one knows {schema.HEAD})"
        raise StoreError(f"The database {database.label} {newer}: update estbench, or name another database=.")
    with database.write(foreign_keys=False, counted=False) as connection:
        now = _revision(connection)
        ours = {*schema.metadata.tables, *schema.board.tables}
        if now is None and (strangers := set(inspect(connection).get_table_names()) & ours):
            tables = ", ".join(sorted(strangers))
            raise StoreError(f"{database.label} has tables of another program ({tables}): name another database=.")
        if now != schema.HEAD:
            migrate(connection)


def known_revisions() -> list[str]:
    """All revisions, the newest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()]


def migrate(connection: Connection, revision: str = "head") -> None:
    """Apply revisions up to this one, in the connection's transaction."""
    from alembic import command

    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: Connection) -> str | None:
    """The revision that the database is at; None if it is not one of ours (yet)."""
    if not inspect(connection).has_table(schema.VERSION_TABLE):
        return None
    row = connection.exec_driver_sql(f"SELECT version_num FROM {schema.VERSION_TABLE}").first()
    return None if row is None else str(row[0])


def _in_plain_words(error: DBAPIError, url: URL, label: str) -> str:
    """A driver's error as one line that says what to do, without the password of the URL."""
    first = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
    on_read_only = "change that, or read a copy that nobody writes to as sqlite:///file:PATH?immutable=1&uri=true"
    cures = {
        "disk is full": "the disk is full: make room and run the same command again",
        "readonly database": f"it or its folder is read-only: {on_read_only}",
        "unable to open": f"its folder must exist and be writable: {on_read_only}",
        "not a database": "it is no SQLite database: name another file in database=",
        "malformed": "it is damaged: move it away and rebuild it from the run folders",
        "disk I/O error": "the disk failed or is full: make room or check it, then run the same command again",
        "locked": f"another program has held it for {WAIT} s: wait for it to end, and run the same command again",
        "lock timeout": f"another program has held it for {WAIT} s: wait for it to end, and run the same command again",
    }
    for words, cure in cures.items():
        if words in first:
            return f"The database {label} can't be used, {cure}."
    secrets = [str(value) for name, value in url.query.items() if "password" in name.lower()] + [url.password or ""]
    for secret in filter(None, secrets):
        first = first.replace(secret, "***").replace(quote(secret), "***")
    return f"The database {label} can't be used: {first}"
