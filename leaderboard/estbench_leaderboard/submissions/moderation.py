"""What maintainers decide, and what the pages ask about submissions. Each decision is a line of an append-only log.

    publish(database, submission, "Mari", expected=seen.updated)      # Refused(409) if somebody was faster
    hide(database, "Mari", Target(model=fingerprint), "its licence forbids it")
    attempts(database)["TartuNLP"]

A submission changes its state only if it is still as the maintainer saw it; who comes second is told who came first.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from estbench.database import Database, remove_run, schema
from estbench.errors import ConfigError, StoreError, did_you_mean
from estbench_leaderboard import decided
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.receive import MADE_BY, Submission, bundle_path, submission_of
from estbench_leaderboard.submissions.tokens import stamp

OF = schema.submissions.c
OPPOSITE = {"hide": "show", "mark": "unmark"}
WITHDRAWN = ("withdraw", "publish", "show")  # the last of these about a target says whether it is withdrawn
LONGEST = 2000  # characters of a reason
FACTS: dict[str, type | tuple[str, ...]] = {
    "licence": str,
    "organisation": str,
    "url": str,
    "commercial": bool,
    "open_weights": bool,
    "ours": bool,
    "price_in": float,
    "price_out": float,
    "kind": ("chat", "base", "reference"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a decision is about: a run, a model (fingerprint), a task, or a task of a model."""

    run: str | None = None
    model: str | None = None
    task: str | None = None

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name in Target.__slots__ if (value := getattr(self, name)))


# ---- submissions


def find(database: Database, identity: str) -> Submission:
    """The submission of an id; Refused(404) if there is none."""
    with database.read() as connection:
        return submission_of(_row(connection, identity))


def listing(database: Database, *, state: str | None = None) -> list[dict[str, Any]]:
    """Submissions with their submitters, the oldest that nobody has decided on first, for maintainers' eyes."""
    query = select(schema.submissions, schema.submitters.c.name.label("submitter_name")).join(schema.submitters)
    if state is not None:
        query = query.where(OF.state == state)
    with database.read() as connection:
        rows = [dict(row._mapping) for row in connection.execute(query.order_by(OF.created))]
    order = {"rescored": 0, "received": 1, "published": 2, "rejected": 3, "withdrawn": 4}
    return sorted(rows, key=lambda row: order[row["state"]])


def publish(
    database: Database, identity: str, actor: str, reason: str = "", *, expected: str | None = None
) -> Submission:
    """Show a submission that was rescored. expected: `updated` as the maintainer saw it."""
    with database.write() as connection:
        row = _moved(connection, identity, ("rescored",), "published", expected)
        shown = not _embargoed(row)
        why = reason or f"{row.badge}, seen by a maintainer"
        targets = [Target(run=row.run)]
        if _last(connection, Target(model=row.model), WITHDRAWN) == "withdraw":
            targets.append(Target(model=row.model))  # the operators' tombstone ends, too
        for target in targets:
            _decide(connection, actor, "publish", target, why, submission=identity, public=shown)
        return submission_of(_row(connection, identity))


def reject(database: Database, identity: str, actor: str, reason: str, *, expected: str | None = None) -> Submission:
    """Do not take a submission, and say why; its rows leave the index."""
    if not reason.strip():
        raise ConfigError("reason= is missing: the sender reads it.")
    with database.write() as connection:
        row = _moved(connection, identity, ("received", "rescored"), "rejected", expected, reason)
        _decide(connection, actor, "reject", Target(run=row.run), reason, submission=identity, public=False)
    unindex(database, identity, row.run)
    return find(database, identity)


def withdraw(database: Database, identity: str, actor: str, reason: str, folder: Path | None = None) -> Submission:
    """Take a submission back. What was published leaves a tombstone in the public log; its answers are deleted.

    The decision is about the run alone: fingerprints are claimed, and weights are not a sender's to withdraw.
    """
    states = ("received", "rescored", "published")
    with database.write() as connection:
        before = _row(connection, identity)
        row = _moved(connection, identity, states, "withdrawn", None, reason or None)
        details = {"run": row.run, "model_name": row.model_name}
        shown = before.state == "published" and not _embargoed(row)
        why = reason or "by its sender"
        _decide(connection, actor, "withdraw", Target(run=row.run), why, identity, details, public=shown)
    unindex(database, identity, row.run, folder)
    if folder is not None:
        bundle_path(folder, row.bundle).unlink(missing_ok=True)
    return find(database, identity)


def _row(connection: Connection, identity: str) -> Any:
    known = re.fullmatch(r"[0-9a-f]{16}", identity)
    row = connection.execute(select(schema.submissions).where(OF.id == identity)).first() if known else None
    if row is None:  # without names that are near: ids are not for everyone
        raise Refused(404, f"There is no submission {identity[:40]!r}.")
    return row


def _moved(
    connection: Connection,
    identity: str,
    states: Sequence[str],
    state: str,
    expected: str | None,
    reason: str | None = None,
) -> Any:
    """Change a state if it is still one of these (and the row as it was seen); the row as it was before."""
    row = _row(connection, identity)
    if row.state not in states:
        raise Refused(409, f"Submission {identity} is {row.state} already{_by_whom(connection, identity)}.")
    if expected is not None and row.updated != expected:
        raise Refused(409, f"Submission {identity} has changed since you saw it: look at it again.")
    new = {"state": state, "updated": stamp(), "reason": reason, "worker": None, "lease": None}
    connection.execute(update(schema.submissions).where(OF.id == identity).values(new))
    return row


def _by_whom(connection: Connection, identity: str) -> str:
    of = schema.decisions.c
    last = select(of.actor, of.created, of.reason).where(of.submission == identity).order_by(of.id.desc()).limit(1)
    row = connection.execute(last).first()
    return f", by {row.actor} on {row.created[:16].replace('T', ' ')} ({row.reason})" if row else ""


def _embargoed(row: Any) -> bool:
    return row.embargo is not None and row.embargo > stamp()


def unindex(database: Database, identity: str, run: str, folder: Path | None = None) -> None:
    """Take away the rows, and the run folder, that this submission made; a run of that id from elsewhere stays."""
    with database.read() as connection:
        of = schema.runs.c
        maker = connection.scalar(select(of.manifest[MADE_BY].as_string()).where(of.id == run))
    if maker == identity:
        with contextlib.suppress(StoreError):  # somebody else took it away just now
            remove_run(database, run)
    if folder is not None and _maker_of(folder / "runs" / run) == identity:
        shutil.rmtree(folder / "runs" / run, ignore_errors=True)


def _maker_of(run: Path) -> str | None:
    """The submission that a run folder was made of."""
    try:
        found = json.loads((run / "manifest.json").read_text("utf-8")).get(MADE_BY)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


# ---- runs, models and tasks


def hide(database: Database, actor: str, target: Target, reason: str, *, public: bool = True) -> None:
    """Take a run, model or task off the board; `show` brings it back."""
    _switch(database, actor, "hide", target, reason, public)


def show(database: Database, actor: str, target: Target, reason: str, *, public: bool = True) -> None:
    """Bring back what was hidden or withdrawn."""
    _switch(database, actor, "show", target, reason, public)


def mark(database: Database, actor: str, target: Target, reason: str) -> None:
    """Mark a model's scores in a task as contaminated (a task alone: everyone's)."""
    _switch(database, actor, "mark", target, reason, True)


def unmark(database: Database, actor: str, target: Target, reason: str) -> None:
    """Take such a mark back."""
    _switch(database, actor, "unmark", target, reason, True)


def retire(database: Database, actor: str, target: Target, reason: str) -> None:
    """Withdraw a model or run of the operators' own, which leaves a tombstone."""
    with database.write() as connection:
        _decide(connection, actor, "withdraw", _known(connection, target), reason, public=True)


def correct(
    database: Database, actor: str, reason: str, target: Target, details: Mapping[str, Any] | None = None
) -> None:
    """An entry of the public log of corrections: what was wrong, and since when it is right."""
    with database.write() as connection:
        known = _known(connection, target)
        _decide(connection, actor, "correct", known, reason, details=dict(details) if details else None, public=True)


def _switch(database: Database, actor: str, action: str, target: Target, reason: str, public: bool) -> None:
    """One of two opposite decisions; StoreError if it holds already."""
    off = {new: old for old, new in OPPOSITE.items()}
    pair = (action, OPPOSITE.get(action) or off[action])
    with database.write() as connection:
        known = _known(connection, target)
        now = _last(connection, known, pair)
        withdrawn = action == "show" and _last(connection, known, WITHDRAWN) == "withdraw"
        if not withdrawn and ((now == action) or (now is None and action in off)):
            words = {"hide": "hidden already", "show": "not hidden", "mark": "marked already", "unmark": "not marked"}
            raise StoreError(f"{target} is {words[action]}.")
        _decide(connection, actor, action, known, reason, public=public)


def _last(connection: Connection, target: Target, actions: Sequence[str]) -> str | None:
    """Which of these decisions about exactly this target holds."""
    of = schema.decisions.c
    same = (of.run.is_not_distinct_from(target.run), of.model.is_not_distinct_from(target.model))
    query = select(of.action).where(*same, of.task.is_not_distinct_from(target.task), of.action.in_(actions))
    return connection.scalar(query.order_by(of.id.desc()).limit(1))


def _known(connection: Connection, target: Target) -> Target:
    """The target with the model's fingerprint in place of its name; StoreError for what the board does not have."""
    runs, tasks = schema.runs.c, schema.run_tasks.c
    if target.run is not None and connection.scalar(select(runs.id).where(runs.id == target.run)) is None:
        raise StoreError(
            f"There is no run {target.run!r}.{did_you_mean(target.run, connection.scalars(select(runs.id)))}"
        )
    if target.task is not None:
        names = set(connection.scalars(select(tasks.task).distinct()))
        if target.task not in names:
            raise StoreError(f"No run has a task {target.task!r}.{did_you_mean(target.task, names)}")
    model = None if target.model is None else fingerprint_of(connection, target.model)
    return Target(target.run, model, target.task)


def fingerprint_of(connection: Connection, word: str) -> str:
    """The fingerprint that a model's name, or the start of a fingerprint, means."""
    rows = connection.execute(select(schema.models.c.fingerprint, schema.models.c.name)).all()
    found = [row.fingerprint for row in rows if word in (row.name, row.fingerprint)]
    found = found or [row.fingerprint for row in rows if len(word) >= 8 and row.fingerprint.startswith(word)]
    if len(found) != 1:
        names = {name for row in rows for name in (row.name, row.fingerprint)}
        several = f"{len(found)} models are called {word!r}: give a fingerprint, {', '.join(found[:3])}."
        raise StoreError(several if found else f"There is no model {word!r}.{did_you_mean(word, names)}")
    return str(found[0])


def _decide(
    connection: Connection,
    actor: str,
    action: str,
    target: Target,
    reason: str,
    submission: str | None = None,
    details: Mapping[str, Any] | None = None,
    *,
    public: bool,
) -> None:
    if not reason.strip() or len(reason) > LONGEST or not reason.isprintable():
        raise ConfigError(f"reason= is one line of 1 to {LONGEST:,} characters.")
    row = {"created": stamp(), "actor": actor, "action": action, "reason": reason.strip(), "public": public}
    row |= {"run": target.run, "model": target.model, "task": target.task}
    row |= {"submission": submission, "details": dict(details) if details else None}
    connection.execute(insert(schema.decisions).values(row))


def audited(
    database: Database, identity: str, actor: str, audit: dict[str, Any], reason: str, *, seen: str
) -> Submission:
    """Note an audit in the submission's report and the log: the badge is `audited` if it held, else `rescored`.

    seen: the digest of the bundle that was audited.
    """
    with database.write() as connection:
        row = _row(connection, identity)
        if row.state not in ("rescored", "published") or row.bundle != seen:
            raise Refused(
                409, f"Submission {identity} is {row.state}: it can't be audited{_by_whom(connection, identity)}."
            )
        report = {**(row.report or {}), "audits": [*(row.report or {}).get("audits", []), audit]}
        badge = "audited" if audit["passed"] else "rescored"
        new = {"badge": badge, "report": report, "updated": stamp()}
        connection.execute(update(schema.submissions).where(OF.id == identity).values(new))
        details = {key: audit[key] for key in ("seed", "docs", "passed")}
        passed = bool(audit["passed"]) and row.state == "published" and not _embargoed(row)
        _decide(connection, actor, "audit", Target(run=row.run), reason, identity, details, public=passed)
        return submission_of(_row(connection, identity))


# ---- facts


def describe(database: Database, model: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add facts to what is known of a model (None takes one away); all of them as they are now."""
    new = {name: _fact(name, value) for name, value in facts.items()}
    with database.write() as connection:
        fingerprint = fingerprint_of(connection, model)
        of = schema.facts.c
        before = connection.scalar(select(of.facts).where(of.model == fingerprint))
        merged = {name: value for name, value in {**(before or {}), **new}.items() if value is not None}
        row = {"facts": merged, "updated": stamp()}
        if before is None:
            connection.execute(insert(schema.facts).values(row | {"model": fingerprint}))
        else:
            connection.execute(update(schema.facts).where(of.model == fingerprint).values(row))
    return merged


def _fact(name: str, value: Any) -> Any:
    """A fact of the right kind; ConfigError otherwise."""
    if name not in FACTS:
        raise ConfigError(f"There is no fact {name!r}.{did_you_mean(name, FACTS)} Known: {', '.join(FACTS)}.")
    kind = FACTS[name]
    if value is None:
        return None
    if isinstance(kind, tuple):
        fits = value in kind
    elif kind is float:
        fits = type(value) in (int, float) and 0 <= value < 1e6
    elif kind is str:
        fits = isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()
    else:
        fits = isinstance(value, bool)
    if name == "url" and fits:
        fits = value.startswith(("https://", "http://"))
    if not fits:
        words = (
            "|".join(kind) if isinstance(kind, tuple) else {str: "text", float: "a price", bool: "true or false"}[kind]
        )
        raise ConfigError(f"{name} has to be {words}, not {str(value)[:60]!r}.")
    return value


# ---- what pages ask


def attempts(database: Database) -> dict[str, int]:
    """Submitter -> how many submissions came from them, whatever became of these."""
    query = select(schema.submitters.c.name, func.count()).join(schema.submissions)
    with database.read() as connection:
        rows = connection.execute(query.group_by(schema.submitters.c.name)).all()
    return {row[0]: row[1] for row in rows}


def public_submissions(database: Database, now: str | None = None) -> list[dict[str, Any]]:
    """Submissions that everyone may see, newest first: published ones whose embargo is over, and tombstones of such."""
    named = select(schema.submissions, schema.submitters.c.name.label("submitter_name")).join(schema.submitters)
    of = schema.decisions.c
    gone = select(of.submission).where(of.action == "withdraw", of.public.is_(True))
    shown = (OF.state == "published") | ((OF.state == "withdrawn") & OF.id.in_(gone))
    over = OF.embargo.is_(None) | (OF.embargo <= (now or stamp()))
    hidden = decided.read(database).active
    with database.read() as connection:
        rows = connection.execute(named.where(shown & over).order_by(OF.created.desc())).all()
    return [
        public_fields(row)
        for row in rows
        if not {("hide", (row.run, None, None)), ("hide", (None, row.model, None))} & hidden.keys()
    ]


def public_fields(row: Any) -> dict[str, Any]:
    """What everyone may know of a submission that is shown."""
    names = ("id", "run", "model", "model_name", "state", "badge", "created", "updated")
    report = row.report or {}
    return {
        **{name: getattr(row, name) for name in names},
        "submitter": row.submitter_name,
        "tasks": report.get("tasks", {}),
        "as_submitted": report.get("as_submitted", []),
    }


def decisions(database: Database, public: bool = True) -> list[dict[str, Any]]:
    """The log, newest first. public: only what everyone may read."""
    query = select(schema.decisions).order_by(schema.decisions.c.id.desc())
    if public:
        query = query.where(schema.decisions.c.public.is_(True))
    with database.read() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]
