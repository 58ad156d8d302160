"""Submissions when things break: full disks, killed processes, two at once. Nothing is half-stored, nothing is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from database_fixtures import ENGINES, fresh_url, python, start_together
from estbench_leaderboard.submissions import moderation, rebuilt, rescoring
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.receive import Spool, bundle_path, sweep
from sqlalchemy import select, text, update
from submission_fixtures import Board, board

from estbench.database import open_database, queries, schema
from estbench.errors import StoreError
from estbench.runs import Run

__all__ = ["board"]  # a fixture
OF = schema.submissions.c


@pytest.fixture(params=ENGINES)
def either(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Board]:
    """A board on each kind of database."""
    (tmp_path / "packed").mkdir()
    for url in fresh_url(request.param, tmp_path):
        with open_database(url) as database:
            made = Board(database, home / "board", tmp_path / "packed")
            made.url_of_database = url  # type: ignore[attr-defined]
            yield made


def rows(board: Board) -> list[Any]:
    with board.database.read() as connection:
        return list(connection.execute(select(schema.submissions)).all())


# ---- a full disk


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["mkstemp", "write", "fsync", "replace", "folder"])
def test_a_full_disk_stores_nothing_wherever_it_is_noticed(
    board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    packed = board.pack(demo_run)
    with monkeypatch.context() as patch:
        if where == "mkstemp":
            patch.setattr("tempfile.mkstemp", full)
        elif where == "write":
            write = Spool.write

            def once_opened(self: Spool, part: bytes) -> None:
                self._file.close()
                self._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
                write(self, part)

            patch.setattr(Spool, "write", once_opened)
        elif where == "folder":  # the file has its name already
            fsync, calls = os.fsync, []
            patch.setattr(
                "os.fsync", lambda handle: calls.append(handle) or (full() if len(calls) > 1 else fsync(handle))
            )
        else:
            patch.setattr(f"os.{where}", full)
        with pytest.raises(Refused, match="disk is full, and nothing was stored") as caught:
            board.take(packed)
    assert caught.value.status == 507
    assert board.stored() == [] and rows(board) == []
    assert board.take(packed).state == "received"  # there is room again


def test_a_database_on_a_full_disk_stores_nothing(board: Board, demo_run: Run) -> None:
    """SQLite's own error for a file that can't grow."""
    packed = board.pack(demo_run)
    token = board.holder(board.text)
    with board.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        connection.exec_driver_sql("PRAGMA freelist_count")
    filler = "x" * 20_000_000
    with pytest.raises(StoreError, match="disk is full"), board.database.write() as connection:
        connection.execute(schema.facts.insert().values(model="x", facts={"x": filler}, updated=""))
    from estbench_leaderboard.submissions import receive

    large = receive._row

    def larger(*given: Any) -> dict[str, Any]:
        return large(*given) | {"report": {"signature": filler}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receive, "_row", larger)
        with pytest.raises(StoreError, match="disk is full"):
            receive.receive(
                board.database, board.folder, token, [packed.path.read_bytes()], packed.signature, audience=board.url
            )
    assert board.stored() == [] and rows(board) == []


def test_a_commit_that_fails_leaves_no_file(board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = board.pack(demo_run)
    board.holder(board.text)
    with monkeypatch.context() as patch:
        patch.setattr("estbench.database.engine.COUNT_UP", text("UPDATE nothing SET x = 1"))  # the last thing before
        with pytest.raises(StoreError):
            board.take(packed)
    assert board.stored() == [] and rows(board) == []
    assert board.take(packed).state == "received"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_file_system_that_is_really_full_stores_nothing(board: Board, demo_run: Run, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        packed = board.pack(demo_run)
        (small / "filler").write_bytes(bytes(64 * 1024 - packed.size // 2))
        board.folder = small
        with pytest.raises(Refused) as caught:
            board.take(packed)
        assert caught.value.status == 507
        assert [name for name in board.stored() if name != "filler"] == [] and rows(board) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_full_disk_while_rescoring_is_no_fault_of_the_sender(
    board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = board.send(demo_run)
    for _ in range(rescoring.TRIES + 2):
        with monkeypatch.context() as patch:
            patch.setattr(rebuilt, "write_lines", full)
            with pytest.raises(StoreError, match="is tried again later"):
                board.rescore(lease=0.001)
        time.sleep(0.002)
    assert queries.runs(board.database) == []
    done = board.rescore()
    assert done is not None and (done.id, done.state) == (sent.id, "rescored")


# ---- killed


RECEIVE = """
import os, signal, sys
from pathlib import Path
from estbench.database import open_database
from estbench_leaderboard.submissions import receive, tokens
database = open_database(None)
keep = receive.Spool.keep
def killed(self, target):
    if sys.argv[4] == "after":
        keep(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
receive.Spool.keep = killed
token = tokens.verify(database, sys.argv[1])
receive.receive(database, Path(sys.argv[2]), token, [Path(sys.argv[3]).read_bytes()],
                bytes.fromhex(sys.argv[5]), audience=sys.argv[6])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_a_bundle_is_stored_leaves_nothing_that_counts(board: Board, demo_run: Run, when: str) -> None:
    packed = board.pack(demo_run)
    process = python(
        RECEIVE, board.text, board.folder, packed.path, when, packed.signature.hex(), board.url, env={**os.environ}
    )
    _, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, error
    assert rows(board) == [] and len(board.stored()) == 1
    assert sweep(board.database, board.folder) == []  # somebody might be writing it
    assert len(sweep(board.database, board.folder, age=0)) == 1 and board.stored() == []
    assert board.take(packed).state == "received"
    assert sweep(board.database, board.folder, age=0) == [] and len(board.stored()) == 1


RESCORE = """
import os, signal, sys
from pathlib import Path
from estbench.database import open_database
from estbench_leaderboard.submissions import rescoring
from estbench_leaderboard.submissions.recompute import Sources
def killed(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(rescoring, sys.argv[2], killed)
rescoring.rescore_next(open_database(None), Path(sys.argv[1]), Sources(), lease=float(sys.argv[3]))
"""


@pytest.mark.parametrize("place", ["open_bundle", "rebuild", "index_run", "_finish"])
def test_a_killed_worker_is_followed_by_another_that_finishes(board: Board, demo_run: Run, place: str) -> None:
    sent = board.send(demo_run)
    process = python(RESCORE, board.folder, place, 3, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, error = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, error
    [row] = rows(board)
    assert (row.state, row.badge) == ("received", "claimed") and row.worker and row.lease
    with board.database.write() as connection:  # a lease that holds, however long the death of that process took
        connection.execute(update(schema.submissions).values(lease="2999"))
    assert board.rescore() is None  # the dead worker is still believed to live
    with board.database.write() as connection:
        connection.execute(update(schema.submissions).values(lease="2000"))
    done = board.rescore()
    assert done is not None and (done.id, done.state, done.badge) == (sent.id, "rescored", "rescored")
    assert (done.report or {})["identical"] and (done.report or {})["tries"] == 2
    assert [run.id for run in queries.runs(board.database)] == [demo_run.id]
    made = Run(board.folder / "runs" / demo_run.id)
    assert made.scores() == demo_run.scores()


def test_a_lease_runs_out_by_itself(board: Board, demo_run: Run) -> None:
    board.send(demo_run)
    assert rescoring.claim(board.database, "dead", lease=2) is not None
    assert rescoring.claim(board.database, "other", lease=2) is None
    time.sleep(2.1)
    assert rescoring.claim(board.database, "other", lease=2) is not None


def test_a_worker_at_work_renews_its_lease(board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    board.send(demo_run)
    seen: list[object] = []
    real = rescoring.open_bundle

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(2.5)
        seen.append(rescoring.claim(board.database, "thief", lease=2))
        return real(*given, **named)

    monkeypatch.setattr(rescoring, "open_bundle", slow)
    done = board.rescore(lease=2)
    assert seen == [None] and done is not None and done.state == "rescored"


def test_work_that_was_taken_over_is_dropped(board: Board, demo_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = board.send(demo_run).id
    real = rescoring.open_bundle

    def rejected_meanwhile(*given: Any, **named: Any) -> Any:
        moderation.reject(board.database, identity, "Mari", "vale mudel")
        return real(*given, **named)

    monkeypatch.setattr(rescoring, "open_bundle", rejected_meanwhile)
    done = board.rescore()
    assert done is not None and done.state == "rejected"
    assert moderation.find(board.database, identity).state == "rejected"
    assert moderation.public_submissions(board.database) == []


def test_a_submission_that_kills_every_worker_is_rejected(board: Board, demo_run: Run) -> None:
    board.send(demo_run)
    for _ in range(rescoring.TRIES):
        assert rescoring.claim(board.database, "dies", lease=0.01) is not None
        time.sleep(0.02)
    done = board.rescore()
    assert done is not None and done.state == "rejected" and "every try ended early" in (done.reason or "")


def test_a_bundle_that_was_changed_on_the_servers_disk_is_noticed(board: Board, demo_run: Run) -> None:
    sent = board.send(demo_run)
    other = board.pack(demo_run)  # a good bundle, and not the one that was received
    bundle_path(board.folder, sent.bundle).write_bytes(other.path.read_bytes())
    done = board.rescore()
    assert done is not None and done.state == "rejected" and "another one than was received" in (done.reason or "")


def test_a_bundle_that_is_gone_is_said(board: Board, demo_run: Run) -> None:
    sent = board.send(demo_run)
    bundle_path(board.folder, sent.bundle).unlink()
    done = board.rescore()
    assert done is not None and done.state == "rejected" and "send it again" in (done.reason or "")


# ---- two at once


CLAIM = """
import sys, time
from estbench.database import open_database
from estbench_leaderboard.submissions.rescoring import claim
with open_database(sys.argv[1]) as database:
    print("ready", flush=True)
    sys.stdin.readline()
    while (found := claim(database, sys.argv[2], lease=600)) is not None:
        print(found.id)
        time.sleep(0.02)
"""


def test_two_workers_never_take_the_same(either: Board, demo_run: Run) -> None:
    first = either.send(demo_run)
    with either.database.write() as connection:
        row = dict(connection.execute(select(schema.submissions)).one()._mapping)
        for i in range(40):
            new = row | {"id": f"{i:016x}", "bundle": f"{i:064x}", "run": f"other-{i}"}
            connection.execute(schema.submissions.insert().values(new))
    url = either.url_of_database  # type: ignore[attr-defined]
    taken = [set(out.split()) for out in start_together(python(CLAIM, url, "a"), python(CLAIM, url, "b"))]
    assert not taken[0] & taken[1] and len(taken[0] | taken[1]) == 41 and first.id in taken[0] | taken[1]
    assert all(taken)  # both were at work: otherwise this shows nothing


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """What each gives or raises, all begun together."""
    results: list[Any] = [None] * len(functions)
    start = threading.Barrier(len(functions))

    def run(place: int, function: Callable[[], Any]) -> None:
        start.wait()
        try:
            results[place] = function()
        except Refused as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(i, function)) for i, function in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_of_two_maintainers_at_once_one_decides(either: Board, demo_run: Run) -> None:
    identity = either.send(demo_run).id
    either.rescore()
    seen = moderation.find(either.database, identity).updated
    database = either.database
    results = at_once(
        lambda: moderation.publish(database, identity, "Mari", expected=seen),
        lambda: moderation.reject(database, identity, "Jüri", "vale", expected=seen),
        lambda: moderation.publish(database, identity, "Kadri", expected=seen),
    )
    lost = [one for one in results if isinstance(one, Refused)]
    assert len(lost) == 2 and all(one.status == 409 and " by " in str(one) for one in lost)
    assert len(moderation.decisions(database, public=False)) == 1


def test_of_one_bundle_that_arrives_twice_at_once_one_is_taken(either: Board, demo_run: Run) -> None:
    packed = either.pack(demo_run)
    results = at_once(*[lambda: either.take(packed)] * 3)
    lost = [one for one in results if isinstance(one, Refused)]
    assert len(lost) == 2 and all(one.status == 409 for one in lost) and len(rows(either)) == 1
    assert len(either.stored()) == 1  # and the file of the one that was taken is there
    assert bundle_path(either.folder, packed.digest).is_file()


def test_the_whole_way_is_the_same_on_both_databases(either: Board, demo_run: Run) -> None:
    identity = either.send(demo_run).id
    done = either.rescore()
    assert done is not None and done.state == "rescored"
    moderation.publish(either.database, identity, "Mari")
    moderation.describe(either.database, "demo", {"licence": "MIT"})
    moderation.withdraw(either.database, identity, "Saatja", "vana", either.folder)
    assert [row["action"] for row in moderation.decisions(either.database)] == ["withdraw", "publish"]
    assert [row["state"] for row in moderation.public_submissions(either.database)] == ["withdrawn"]


def test_a_database_that_is_gone_is_a_clear_error_and_nothing_is_stored(board: Board, demo_run: Run) -> None:
    packed = board.pack(demo_run)
    token = board.holder(board.text)
    from estbench_leaderboard.submissions.receive import receive

    board.database.close()
    path = Path(board.database.label)
    path.rename(path.with_suffix(".away"))
    path.mkdir()  # what can't be opened as a file
    try:
        with pytest.raises(StoreError):
            receive(
                board.database, board.folder, token, [packed.path.read_bytes()], packed.signature, audience=board.url
            )
        assert board.stored() == []
    finally:
        path.rmdir()
        path.with_suffix(".away").rename(path)
    assert board.take(packed).state == "received"
