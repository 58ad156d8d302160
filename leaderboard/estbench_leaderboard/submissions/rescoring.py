"""The worker that takes submissions up: `estbench board rescore`, apart from the web process.

    while rescore_next(database, folder, sources): ...      # True: one was taken and brought to its end

A worker takes a submission by a lease that it renews while it works; two never have the same. If it dies, the lease
runs out and another one begins anew: nothing that it did before counts, until the state changes in one transaction. A
submission that ended no worker's try in TRIES is rejected, so that no answer can keep the board busy for ever. What one
submission breaks does not keep the others: the try is logged and counted, and the next one is taken.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, or_, select, update

from estbench import judged, manifests
from estbench.database import Database, index_run, schema
from estbench.errors import EstbenchError, StoreError
from estbench.runs import Score
from estbench_leaderboard.submissions import moderation
from estbench_leaderboard.submissions.bundle import Bundle, open_bundle
from estbench_leaderboard.submissions.content import COMET
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.rebuilt import rebuild
from estbench_leaderboard.submissions.receive import MADE_BY, Submission, bundle_path, check_maker, submission_of
from estbench_leaderboard.submissions.recompute import Lacking, Recomputed, Sources, recompute
from estbench_leaderboard.submissions.tokens import stamp

LEASE = 120.0  # seconds that a worker is believed to live without a sign
LONGEST = 3600.0  # seconds after which a worker no longer renews its lease
LATER = timedelta(hours=6)  # until a submission is tried again for which the server lacks everything
TRIES = 3
JUDGES = "claimed, judged by the sender's judges"
NEUTRAL = "it could not be rescored: every try ended early"
OF = schema.submissions.c
Say = Callable[[str], None]
log = logging.getLogger("estbench.leaderboard")


class Dropped(EstbenchError):
    """A submission was taken over by another worker, or decided on, while this one was at it."""


def silent(_: str) -> None:
    """A listener that hears nothing."""


def worker_name() -> str:
    """Who this is: nobody else has this name."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def claim(database: Database, worker: str, *, only: str | None = None, lease: float = LEASE) -> Submission | None:
    """Take the oldest submission that nobody works on; None if there is none. only: this one or none."""
    now = datetime.now(UTC)
    free = or_(OF.lease.is_(None), OF.lease < stamp(now))
    query = select(schema.submissions).where(OF.state == "received", free)
    if only is not None:
        query = query.where(OF.id == only)
    with database.write(counted=False) as connection:
        row = connection.execute(query.order_by(OF.created, OF.id).limit(1)).first()
        if row is None:
            return None
        report = {**(row.report or {}), "tries": (row.report or {}).get("tries", 0) + 1}
        taken = {"worker": worker, "lease": stamp(now + timedelta(seconds=lease)), "report": report}
        connection.execute(update(schema.submissions).where(OF.id == row.id).values(taken))
        return submission_of(connection.execute(select(schema.submissions).where(OF.id == row.id)).one())


def rescore_next(
    database: Database,
    folder: Path,
    sources: Sources,
    *,
    say: Say = silent,
    only: str | None = None,
    lease: float = LEASE,
) -> Submission | None:
    """Take one submission and bring it to its end: rescored or rejected. None if there is nothing to do.

    What comes back as `received` waits for another try, or is another worker's by now. StoreError: nothing can be
    stored just now, which is no fault of a submission.
    """
    worker = worker_name()
    submission = claim(database, worker, only=only, lease=lease)
    if submission is None:
        return None
    say(f"{submission.id}: {submission.run}")
    try:
        with _kept(database, submission.id, worker, lease):
            values = _outcome(database, folder, sources, submission, worker)
        done = _finish(database, submission.id, worker, values)
    except Dropped as why:
        done = _clear(database, folder, submission)
        say(str(why))
    except (StoreError, OSError) as error:  # a full disk, a database that is away: no fault of the sender
        with suppress(StoreError):
            if (now := _clear(database, folder, submission)).state != "received":
                return now  # its folder went away with it
        _give_back(database, submission.id, worker)
        reason = str(error) if isinstance(error, StoreError) else f"{folder} can't be used: {error.strerror}."
        raise StoreError(f"{submission.id} is tried again later: {reason}") from None
    except Exception as error:  # whatever one submission breaks, the others are not to wait for
        log.exception("submission %s could not be rescored", submission.id)
        say(f"{submission.id}: this try failed ({type(error).__name__})")
        done = _failed(database, folder, submission, worker)
    say(f"{submission.id}: {done.state}{f', {done.reason}' if done.reason else ''}")
    return done


def _failed(database: Database, folder: Path, submission: Submission, worker: str) -> Submission:
    """A try that broke: the next one waits until the lease is over; the last one rejects."""
    report = submission.report or {}
    if report["tries"] < TRIES:
        return moderation.find(database, submission.id)
    try:
        _finish(database, submission.id, worker, _rejected(NEUTRAL, report))
    except Dropped as why:
        log.info(str(why))
    return _clear(database, folder, submission)


def _clear(database: Database, folder: Path, submission: Submission) -> Submission:
    """Take away what was made of a submission that is not wanted any more; how it stands now."""
    now = moderation.find(database, submission.id)
    if now.state in ("rejected", "withdrawn"):
        moderation.unindex(database, now.id, now.run, folder)
    return now


def _outcome(database: Database, folder: Path, sources: Sources, submission: Submission, worker: str) -> dict[str, Any]:
    """The new values of the submission's row."""
    report = {**(submission.report or {}), "versions": manifests.versions(), "finished": stamp()}
    if report["tries"] > TRIES:
        return _rejected(NEUTRAL, report)
    try:
        bundle = open_bundle(bundle_path(folder, submission.bundle))
        if bundle.digest != submission.bundle:
            raise Refused(400, "The stored bundle is another one than was received.")
        tasks, lacking = _recomputed(bundle, sources)
    except Refused as error:
        return _rejected(str(error), report)
    except FileNotFoundError:
        return _rejected("its bundle is missing on the server: send it again", report)
    report["tasks"] = {task: {"state": "rescored", "uncomputed": found.uncomputed} for task, found in tasks.items()}
    report["tasks"] |= {task: {"state": "claimed", "reason": reason} for task, reason in lacking.items()}
    report["as_submitted"] = [_claimed(score) for score in bundle.scores if _stays_claimed(score, lacking)]
    if not tasks:
        reason = "; ".join(f"{task}: {why}" for task, why in lacking.items())
        return {"reason": f"Nothing of it can be computed here. {reason}"[:2000], "report": report | {"tries": 0}}
    known = _known_model(database, submission)
    try:
        _check_free(database, submission, worker)
        run = rebuild(bundle, submission.id, tasks, lacking, folder / "runs", sources.registry, known)
        _check_free(database, submission, worker)
    except Refused as error:  # the operators measured it meanwhile
        moderation.unindex(database, submission.id, submission.run, folder)
        return _rejected(str(error), report)
    index_run(database, run)
    if not any(judged.state(score) for score in bundle.scores):  # whose judgments are part of the result's identity
        report["identical"] = run.manifest["identity"]["result"] == bundle.manifest["identity"].get("result")
    return {"state": "rescored", "badge": "rescored", "reason": None, "report": report}


def _stays_claimed(score: Score, lacking: Collection[str]) -> bool:
    """Whether a score is the sender's word: COMET's, a task that the server lacks, what the sender's judges said."""
    return score.metric.startswith(COMET) or score.task in lacking or judged.state(score) is not None


def _claimed(score: Score) -> dict[str, Any]:
    """A score that stays the sender's word; of one that judges gave, that they were the sender's."""
    row = {"task": score.task, "metric": score.metric.removeprefix(COMET), "value": score.value}
    state = judged.state(score)
    return row if state is None else row | {"judge": state, "by": JUDGES, "signature": score.signature}


def _rejected(reason: str, report: dict[str, Any]) -> dict[str, Any]:
    return {"state": "rejected", "reason": reason, "report": report}


def _recomputed(bundle: Bundle, sources: Sources) -> tuple[dict[str, Recomputed], dict[str, str]]:
    """The tasks that the server computed again, and why it could not the others."""
    tasks, lacking = {}, {}
    for task in bundle.manifest["tasks"]:
        try:
            tasks[task] = recompute(bundle, task, sources)
        except Lacking as why:
            lacking[task] = str(why)
    return tasks, lacking


def _known_model(database: Database, submission: Submission) -> dict[str, Any] | None:
    """What other runs say of these weights: a submission must not rename a model that is not its own."""
    with database.read() as connection:
        card = connection.scalar(select(schema.models.c.card).where(schema.models.c.fingerprint == submission.model))
        runs, own = schema.runs.c, select(OF.id).where(OF.submitter == submission.submitter)
        foreign = func.coalesce(runs.manifest[MADE_BY].as_string(), "").not_in(own)
        of_others = connection.scalar(select(runs.id).where(runs.model == submission.model, foreign).limit(1))
    return dict(card) if card and of_others else None


def _check_free(database: Database, submission: Submission, worker: str) -> None:
    """Dropped if the submission is not this worker's any more; Refused if its run id is a run from elsewhere."""
    with database.read() as connection:
        _check_mine(connection, submission.id, worker)
        check_maker(connection, submission.run, select(OF.id).where(OF.submitter == submission.submitter))


def _finish(database: Database, identity: str, worker: str, values: dict[str, Any]) -> Submission:
    """Write the outcome, if the submission is still this worker's."""
    waits = "state" not in values
    lease = stamp(datetime.now(UTC) + LATER) if waits else None
    with database.write() as connection:
        _check_mine(connection, identity, worker)
        new = {"worker": None, "lease": lease, "updated": stamp(), **values}
        connection.execute(update(schema.submissions).where(OF.id == identity).values(new))
        return submission_of(connection.execute(select(schema.submissions).where(OF.id == identity)).one())


def _give_back(database: Database, identity: str, worker: str) -> None:
    """This try does not count; the next one waits until the lease is over."""
    mine = (OF.id == identity) & (OF.worker == worker)
    with suppress(StoreError), database.write(counted=False) as connection:
        report = connection.scalar(select(OF.report).where(mine))
        if report is not None:
            less = {**report, "tries": report["tries"] - 1}
            connection.execute(update(schema.submissions).where(mine).values(worker=None, report=less))


def _check_mine(connection: Connection, identity: str, worker: str) -> None:
    row = connection.execute(select(OF.worker, OF.state).where(OF.id == identity)).one()
    if (row.worker, row.state) != (worker, "received"):
        raise Dropped(f"Submission {identity} was taken over or decided on meanwhile: this work is dropped.")


@contextmanager
def _kept(database: Database, identity: str, worker: str, lease: float) -> Iterator[None]:
    """Renew the lease while the block runs, for LONGEST at most: then somebody else may try."""
    over = threading.Event()
    until = time.monotonic() + LONGEST

    def renew() -> None:
        while not over.wait(lease / 3) and time.monotonic() < until:
            # A database that is away for a while is no reason to give up.
            with suppress(StoreError), database.write(counted=False) as connection:
                mine = (OF.id == identity) & (OF.worker == worker)
                later = stamp(datetime.now(UTC) + timedelta(seconds=lease))
                connection.execute(update(schema.submissions).where(mine).values(lease=later))

    thread = threading.Thread(target=renew, name="estbench-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tidy(folder: Path, *, age: float = 2 * LONGEST) -> None:
    """Remove what workers that died have left half-made."""
    for path in (folder / "runs").glob(".rescoring-*"):
        if time.time() - path.stat().st_mtime > age:
            shutil.rmtree(path, ignore_errors=True)
