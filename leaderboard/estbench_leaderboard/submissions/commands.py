"""What `estbench board VERB` does once its settings are read: maintainers' work at a terminal.

estbench board token new name=TartuNLP          estbench board rescore once=true
estbench board submissions                      estbench board moderate submission=ID action=publish
"""

from __future__ import annotations

import getpass
import json
import signal
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from estbench import report
from estbench.commands import wants_table
from estbench.config import EvalSettings, read_yaml
from estbench.database import Database, open_database
from estbench.errors import ConfigError, StoreError
from estbench.home import home
from estbench_leaderboard.submissions import moderation, tokens
from estbench_leaderboard.submissions.moderation import FACTS, Target
from estbench_leaderboard.submissions.settings import BoardSettings

POLL = 10.0  # seconds between two looks for something to rescore


def submissions(settings: BoardSettings, words: list[str]) -> int:
    """What was sent, and how far it is."""
    _no_words(words, "submissions")
    with _database(settings) as database:
        rows = moderation.listing(database, state=settings.state)
        counts = moderation.attempts(database)
    if not wants_table(settings.output):
        return _json([row | {"attempts": counts[row["submitter_name"]]} for row in rows])
    if not rows:
        print("Nothing was sent yet.")
        return 0
    shown = [
        {
            "id": row["id"],
            "run": row["run"],
            "sender": f"{row['submitter_name']} ({counts[row['submitter_name']]})",
            "state": row["state"],
            "badge": row["badge"],
            "created": row["created"][:16].replace("T", " "),
            "reason": row["reason"] or "",
        }
        for row in rows
    ]
    columns = {"id": "submission", "run": "run", "sender": "sender (sent)", "state": "state", "badge": "badge"}
    print(report.listing(shown, columns | {"created": "sent (UTC)", "reason": "reason"}))
    return 0


def token(settings: BoardSettings, words: list[str]) -> int:
    """Give a sender a token, list tokens, or revoke one: `token [list | new | revoke]`."""
    verb = (words or ["list"])[0]
    if verb not in ("list", "new", "revoke") or len(words) > 1:
        raise ConfigError(f"`estbench board token` takes list, new or revoke, not {' '.join(words)!r}.")
    with _database(settings) as database:
        if verb == "new":
            return _new_token(settings, database)
        if verb == "revoke":
            tokens.revoke(database, _needed(settings.token, "token=", "the token's id"))
            return _done(settings, {"token": settings.token, "revoked": True}, f"{settings.token} holds no more.")
        rows = tokens.listing(database)
    if not wants_table(settings.output):
        return _json(rows)
    for row in rows:
        row["scopes"] = ", ".join(row["scopes"])
        row["holds"] = "revoked" if row["revoked"] else f"until {row['expires'][:10]}" if row["expires"] else "yes"
        row["key"] = "bound" if row["public_key"] else "not yet"
        row["used"] = (row["used"] or "never")[:16].replace("T", " ")
    columns = {
        "id": "token",
        "name": "sender",
        "scopes": "scopes",
        "holds": "holds",
        "key": "key",
        "used": "used (UTC)",
    }
    print(report.listing(rows, columns) if rows else "There is no token yet: estbench board token new name=SENDER")
    return 0


def _new_token(settings: BoardSettings, database: Database) -> int:
    name = _needed(settings.name, "name=", "whom the board names as sender")
    scopes = [scope.strip() for scope in settings.scopes.split(",") if scope.strip()]
    expires = datetime.now(UTC) + timedelta(days=settings.days) if settings.days else None
    text = tokens.new_token(database, name, settings.contact, scopes, settings.key, expires)
    return _done(
        settings, {"token": text, "name": name, "scopes": scopes}, f"{text}\nIt is shown this once: send it safely."
    )


def moderate(settings: BoardSettings, words: list[str]) -> int:
    """Publish a submission, or reject it with a reason."""
    _no_words(words, "moderate")
    identity = _needed(settings.submission, "submission=", "`estbench board submissions` lists them")
    action = _needed(settings.action, "action=", "publish or reject")
    with _database(settings) as database:
        if action == "publish":
            found = moderation.publish(database, identity, _actor(settings), settings.reason or "")
        else:
            found = moderation.reject(database, identity, _actor(settings), _reason(settings))
    return _done(settings, {"submission": found.id, "state": found.state}, f"{found.id} is {found.state}.")


def withdraw(settings: BoardSettings, words: list[str]) -> int:
    """Withdraw a submission, or a run or model of our own: a tombstone stays."""
    _no_words(words, "withdraw")
    with _database(settings) as database:
        if settings.submission:
            folder = folder_of(settings)
            found = moderation.withdraw(database, settings.submission, _actor(settings), _reason(settings), folder)
            return _done(settings, {"submission": found.id, "state": found.state}, f"{found.id} is withdrawn.")
        target = _target(settings, ("run", "model"))
        moderation.retire(database, _actor(settings), target, _reason(settings))
    return _done(settings, {"withdrawn": str(target)}, f"{target} is withdrawn.")


def hide(settings: BoardSettings, words: list[str]) -> int:
    """Take a run, a model or a task off the board."""
    return _switched(settings, words, "hide", moderation.hide, "is hidden")


def show(settings: BoardSettings, words: list[str]) -> int:
    """Bring back what was hidden."""
    return _switched(settings, words, "show", moderation.show, "is shown again")


def _switched(settings: BoardSettings, words: list[str], verb: str, change: Callable[..., None], outcome: str) -> int:
    _no_words(words, verb)
    target = _target(settings, ("run", "model", "task"))
    with _database(settings) as database:
        change(database, _actor(settings), target, _reason(settings), public=not settings.private)
    return _done(settings, {verb: str(target)}, f"{target} {outcome}.")


def mark(settings: BoardSettings, words: list[str]) -> int:
    """Mark a model's scores in a task as contaminated."""
    return _marked(settings, words, "mark", moderation.mark, "is marked as contaminated")


def unmark(settings: BoardSettings, words: list[str]) -> int:
    """Take such a mark back."""
    return _marked(settings, words, "unmark", moderation.unmark, "is marked no more")


def _marked(settings: BoardSettings, words: list[str], verb: str, change: Callable[..., None], outcome: str) -> int:
    _no_words(words, verb)
    task = _needed(settings.task, "task=", "the task that the model has seen")
    target = Target(model=settings.model, task=task)
    with _database(settings) as database:
        change(database, _actor(settings), target, _reason(settings))
    return _done(settings, {verb: str(target)}, f"{target} {outcome}.")


def correct(settings: BoardSettings, words: list[str]) -> int:
    """Add an entry to the public log of corrections."""
    _no_words(words, "correct")
    details = _mapping(settings.details, "details") if settings.details else None
    target = Target(settings.run, settings.model, settings.task)
    with _database(settings) as database:
        moderation.correct(database, _actor(settings), _reason(settings), target, details)
    return _done(settings, {"corrected": str(target)}, "It is in the log of corrections.")


def describe(settings: BoardSettings, words: list[str]) -> int:
    """Say of a model what its files don't: licence, prices, whether it is open; `none` takes a fact away."""
    _no_words(words, "describe")
    model = _needed(settings.model, "model=", "a model's name or fingerprint")
    given = _mapping(settings.facts, "facts") if settings.facts else {}
    keys = {field.name for field in fields(settings)} & FACTS.keys()
    given |= {key: value for key in sorted(keys) if (value := getattr(settings, key)) is not None}
    if not given:
        raise ConfigError(f"Nothing is said of {model}: give facts=FILE, or some of {', '.join(FACTS)}.")
    with _database(settings) as database:
        facts = moderation.describe(database, model, given)
    lines = (f"{key:<14}{value}" for key, value in facts.items())
    return _done(settings, {"model": model, "facts": facts}, "\n".join(lines))


def rescore(settings: BoardSettings, words: list[str]) -> int:
    """Compute the scores of submissions again; goes on until it is stopped, or with once=true until none is left."""
    from estbench_leaderboard.submissions import receive, rescoring

    _no_words(words, "rescore")
    sources, folder = _sources(settings), folder_of(settings)
    done = []
    with _database(settings) as database:
        rescoring.tidy(folder)
        receive.sweep(database, folder)
        while True:
            signal.alarm(int(rescoring.LONGEST))  # a task's code that hangs ends this worker; another one begins anew
            try:
                found = rescoring.rescore_next(database, folder, sources, say=report.say, only=settings.submission)
            except StoreError as error:
                if settings.once:
                    raise
                report.say(f"estbench: {error}")  # a database that comes back is waited for
                found = None
            signal.alarm(0)
            if found is not None:
                done.append({"submission": found.id, "run": found.run, "state": found.state, "reason": found.reason})
            elif settings.once or settings.submission:
                break
            else:
                time.sleep(POLL)
    columns = {"submission": "submission", "run": "run", "state": "state", "reason": "reason"}
    text = report.listing(done, columns) if done else "Nothing waits to be rescored."
    return _done(settings, done, text)


def audit(settings: BoardSettings, words: list[str]) -> int:
    """Ask random documents of a submission again; exit code 1 if the answers are not the model's."""
    from estbench_leaderboard.submissions import audit as auditing

    _no_words(words, "audit")
    identity = _needed(settings.submission, "submission=", "`estbench board submissions` lists them")
    weights = EvalSettings(
        model=settings.model or "",
        engine=settings.engine,
        engine_options=settings.engine_options,
        revision=settings.revision,
        data=settings.data,
        name="audit",
    )
    demands = auditing.Demands(settings.docs, settings.tolerance, settings.equal)
    with _database(settings) as database, report.ProgressBar() as bar:
        found = auditing.audit(
            database,
            folder_of(settings),
            identity,
            weights,
            _sources(settings),
            actor=_actor(settings),
            demands=demands,
            say=report.say,
            progress=bar,
        )
    columns = {"task": "task", "docs": ">asked", "agree": ">agree", "texts": ">same text", "largest": ">largest Δ"}
    rows = [{"task": task, **row, "largest": f"{row['largest']:.1e}"} for task, row in found["tasks"].items()]
    text = report.listing(rows, columns)
    verdict = "audited" if found["passed"] else f"not audited: {'; '.join(found['reasons'])}"
    _done(settings, found, f"{text}\n{identity} is {verdict}.")
    return 0 if found["passed"] else 1


BOARD: dict[str, Callable[[BoardSettings, list[str]], int]] = {
    "submissions": submissions,
    "token": token,
    "rescore": rescore,
    "moderate": moderate,
    "audit": audit,
    "hide": hide,
    "show": show,
    "mark": mark,
    "unmark": unmark,
    "correct": correct,
    "withdraw": withdraw,
    "describe": describe,
}


def folder_of(settings: BoardSettings) -> Path:
    """Where bundles and the runs made of them lie."""
    return Path(settings.folder).expanduser() if settings.folder else home() / "board"


def _database(settings: BoardSettings) -> Database:
    return open_database(settings.database)


def _sources(settings: BoardSettings) -> Any:
    from estbench_leaderboard.submissions.recompute import Sources

    data, golds = (Path(name).expanduser() if name else None for name in (settings.data, settings.golds))
    if golds is not None and not golds.is_dir():
        raise ConfigError(f"golds={settings.golds} is no folder.")
    return Sources(data, golds)


def _actor(settings: BoardSettings) -> str:
    actor = settings.actor or getpass.getuser()
    if not actor.isprintable() or len(actor) > 80:
        raise ConfigError("actor= is a name of 1 to 80 printable characters.")
    return actor


def _reason(settings: BoardSettings) -> str:
    return _needed(settings.reason, "reason=", "one line that says why")


def _needed(value: str | None, key: str, what: str) -> str:
    if not value:
        raise ConfigError(f"{key} is missing: {what}.")
    return value


def _target(settings: BoardSettings, names: tuple[str, ...]) -> Target:
    given = {name: value for name in names if (value := getattr(settings, name))}
    if len(given) != 1:
        raise ConfigError(f"Say what it is about, with one of {', '.join(f'{name}=' for name in names)}.")
    return Target(**given)


def _mapping(name: str, key: str) -> dict[str, Any]:
    value = read_yaml(Path(name).expanduser(), f"{key}={name}")
    if not isinstance(value, dict) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{key}={name} has to hold a mapping.")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}={name} holds what JSON can't: {error}.") from None
    return value


def _no_words(words: list[str], verb: str) -> None:
    if words:
        raise ConfigError(f"{words[0]!r} is one word too many: `estbench board {verb}` takes key=value only.")


def _json(value: Any) -> int:
    print(report.as_json(value))
    return 0


def _done(settings: BoardSettings, value: Any, text: str) -> int:
    print(text if wants_table(settings.output) else report.as_json(value))
    return 0
