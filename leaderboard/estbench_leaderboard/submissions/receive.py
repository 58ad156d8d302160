"""A bundle becomes a submission: checked, stored whole, and then counted; or nothing of it stays.

    with Spool(folder) as spool:                       # a hidden file beside the bundles
        for part in body: spool.write(part)            # Refused(413) past the limit
        submission = accept(database, spool, token, signature, audience=URL)

The file reaches its name before the row is committed. A process that dies between the two leaves a file that no row
names, which the next `sweep` removes; there is never a row without its file.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Select, func, insert, select, update

from estbench.database import Database, schema
from estbench_leaderboard.submissions.bundle import LIMITS, Bundle, Limits, open_bundle, verify
from estbench_leaderboard.submissions.content import moment_of
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.tokens import Token, stamp

OLDEST, NEWEST = timedelta(days=1), timedelta(minutes=15)  # of a bundle, by its own word
EMBARGO = timedelta(days=366)
WAITING = 20  # submissions of one submitter that nobody has decided on
ABANDONED = 3600  # seconds after which a file that no row names is swept away
MADE_BY = "submission"  # key of a manifest: the submission that the server made this run of; operators' runs have none
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission as its row has it."""

    id: str
    submitter: str
    run: str
    model: str
    model_name: str
    bundle: str
    state: str
    badge: str
    reason: str | None
    created: str
    updated: str
    embargo: str | None
    report: dict[str, Any] | None


def submission_of(row: Any) -> Submission:
    """From a row of `submissions`."""
    return Submission(**{name: getattr(row, name) for name in Submission.__slots__})


def audience_of(url: str) -> str:
    """A board's URL in the one form that is signed: scheme, host, port and path, without a slash at the end."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise Refused(400, f"{url!r} is no board's URL: https://HOST.")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise Refused(400, f"{url} is not encrypted, and a token must not be readable on the way: use https://.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port and parts.port != {"http": 80, "https": 443}[parts.scheme] else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def bundle_path(folder: Path, digest: str) -> Path:
    """Where the bundle of a submission lies."""
    return folder / "bundles" / f"{digest}.tar.gz"


class Spool:
    """Takes a body in, to a hidden file that is gone at the end unless it was kept."""

    def __init__(self, folder: Path, limits: Limits = LIMITS) -> None:
        self.folder, self.limits, self.size = folder, limits, 0
        with _disk():
            (folder / "bundles").mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".incoming-", dir=folder / "bundles")
        self.path = Path(name)
        self._file: IO[bytes] = os.fdopen(handle, "wb")

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def write(self, part: bytes) -> None:
        """Refused(413) past the limit, 507 on a full disk."""
        self.size += len(part)
        if self.size > self.limits.packed:
            raise Refused(
                413, f"The bundle has more than {self.limits.packed:,} bytes, which this board takes at most."
            )
        with _disk():
            self._file.write(part)

    def finish(self) -> None:
        """Everything is on disk when this returns."""
        with _disk():
            self._file.flush()
            os.fsync(self._file.fileno())

    def keep(self, target: Path) -> None:
        """Give the file its name, and that to the disk."""
        with _disk():
            os.chmod(self.path, 0o640)
            os.replace(self.path, target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class _disk:
    """`with _disk():` a full disk is a Refused(507)."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(507, "The board's disk is full, and nothing was stored: try again later.") from None


def receive(
    database: Database,
    folder: Path,
    token: Token,
    body: Iterable[bytes],
    signature: bytes,
    *,
    audience: str,
    now: datetime | None = None,
    limits: Limits = LIMITS,
) -> Submission:
    """Take in a whole body; see `accept`."""
    with Spool(folder, limits) as spool:
        for part in body:
            spool.write(part)
        return accept(database, spool, token, signature, audience=audience, now=now)


def accept(
    database: Database,
    spool: Spool,
    token: Token,
    signature: bytes,
    *,
    audience: str,
    now: datetime | None = None,
) -> Submission:
    """Make a submission of what was spooled. Refused, in one line, with nothing stored."""
    moment = now or datetime.now(UTC)
    spool.finish()

    def known(header: dict[str, Any]) -> None:
        _check_address(header, token, audience, moment)
        verify(header, signature)

    bundle = open_bundle(spool.path, spool.limits, known)
    _check_created(bundle, moment)
    kept: Path | None = None
    try:
        with database.write() as connection:
            _check_new(connection, bundle, token)
            row = _row(bundle, token, moment, signature)
            connection.execute(insert(schema.submissions).values(row))
            _bind(connection, token, bundle.header["key"])
            kept = bundle_path(spool.folder, bundle.digest)  # from here on the file is ours to take away again
            spool.keep(kept)
    except BaseException:
        if kept is not None:
            kept.unlink(missing_ok=True)
        raise
    return Submission(**{name: row[name] for name in Submission.__slots__})


def _check_address(header: dict[str, Any], token: Token, audience: str, now: datetime) -> None:
    """Whether a bundle is meant for this board and token, now."""
    if header["audience"] != audience:
        raise Refused(
            400, f"The bundle is for {header['audience']}, and this board is {audience}: pack it for this one."
        )
    if header["token"] != token.id:
        raise Refused(403, "The bundle was packed for another token than the one that it comes with.")
    if token.key is not None and header["key"] != token.key:
        raise Refused(403, "The bundle is signed with another key than the one that this token is bound to.")
    try:
        created = datetime.strptime(header["created"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refused(400, "bundle.json does not say when the bundle was packed.") from None
    if not now - OLDEST <= created <= now + NEWEST:
        raise Refused(400, f"The bundle was packed at {header['created']}: pack it again (and check the clock).")
    if header["embargo"] is not None:
        _embargo(header["embargo"], now)


def _embargo(text: str, now: datetime) -> str:
    try:
        day = date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError:
        day = None
    if day is None or day > (now + EMBARGO).date():
        raise Refused(400, "embargo= is a day within a year from now, YYYY-MM-DD.")
    return stamp(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _check_created(bundle: Bundle, now: datetime) -> None:
    """The newest run names its model, so that none may come from the future."""
    if moment_of(bundle.manifest["created"]) > now + NEWEST:
        raise Refused(400, "manifest.json says that the run was made in the future: check the clock.")


def _check_new(connection: Connection, bundle: Bundle, token: Token) -> None:
    """Refused(409) for a bundle that was here, or a run that is somebody else's or under way."""
    of = schema.submissions.c
    if connection.scalar(select(of.id).where(of.bundle == bundle.digest)):
        raise Refused(409, "This bundle was sent before.")
    run = bundle.header["run"]
    others = connection.execute(select(of.id, of.submitter, of.state).where(of.run == run)).all()
    for other in others:
        if other.submitter != token.submitter and other.state != "rejected":
            raise Refused(409, f"The run {run} was sent by somebody else.")
        if other.state not in ("rejected", "withdrawn"):
            raise Refused(409, f"The run {run} was sent before, as submission {other.id}: it is {other.state}.")
    check_maker(connection, run, select(of.id).where(of.submitter == token.submitter))
    waiting = (of.submitter == token.submitter) & of.state.in_(("received", "rescored"))
    if (connection.scalar(select(func.count()).select_from(schema.submissions).where(waiting)) or 0) >= WAITING:
        raise Refused(429, f"{WAITING} of your submissions wait for a decision: withdraw some, or wait.")


def check_maker(connection: Connection, run: str, makers: Select[tuple[str]]) -> None:
    """Refused(409) for a run in the index that none of these submissions made: the operators' own, above all."""
    made = schema.runs.c.manifest[MADE_BY].as_string()
    foreign = select(schema.runs.c.id).where(schema.runs.c.id == run, func.coalesce(made, "").not_in(makers))
    if connection.scalar(foreign):
        raise Refused(409, f"The run {run} is on the board already.")


def _row(bundle: Bundle, token: Token, now: datetime, signature: bytes) -> dict[str, Any]:
    manifest, embargo = bundle.manifest, bundle.header["embargo"]
    return {
        "id": secrets.token_hex(8),
        "submitter": token.submitter,
        "token": token.id,
        "run": bundle.header["run"],
        "model_name": manifest["name"],
        "model": manifest["model"]["fingerprint"],
        "bundle": bundle.digest,
        "size": bundle.size,
        "state": "received",
        "badge": "claimed",
        "reason": None,
        "created": stamp(now),
        "updated": stamp(now),
        "embargo": _embargo(embargo, now) if embargo else None,
        "report": {"signature": signature.hex()},
    }


def _bind(connection: Connection, token: Token, key: str) -> None:
    """The token's key, from its first bundle on; two that arrive together can't bind two."""
    of = schema.tokens.c
    bound = connection.scalar(select(of.public_key).where(of.id == token.id))
    if bound is None:
        connection.execute(update(schema.tokens).where(of.id == token.id).values(public_key=key))
    elif bound != key:
        raise Refused(403, "The bundle is signed with another key than the one that this token is bound to.")


def sweep(database: Database, folder: Path, *, age: float = ABANDONED) -> list[Path]:
    """Remove files that no submission names and that nobody is writing any more; what was removed."""
    with database.read() as connection:
        named = set(connection.scalars(select(schema.submissions.c.bundle)))
    removed = []
    for path in sorted((folder / "bundles").glob("*")):
        known = path.name.removesuffix(".tar.gz") in named
        if not known and path.is_file() and time.time() - path.stat().st_mtime > age:
            path.unlink()
            removed.append(path)
    return removed
