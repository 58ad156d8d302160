"""Where a database may lie, and what is wrong with it or its place in plain words, without a password."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from database_fixtures import choice_docs, dump, fresh_url, make_run, python
from database_opening import populated, refusal

from estbench.database import engine as opening
from estbench.database import index_run, open_database, queries
from estbench.errors import StoreError

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
