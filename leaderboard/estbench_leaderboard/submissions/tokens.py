"""Who may send runs, and who may decide: tokens, shown once and kept as a hash.

    text = new_token(database, "TartuNLP", scopes=("submit",))      # "estb_1f0c…_…": the only time that it is seen
    token = verify(database, f"Bearer {text}")                      # Token(id, submitter, name, scopes, key)
    revoke(database, token.id)

The secret has 256 random bits, so that a plain SHA-256 keeps it. Which tokens there are can't be found out by timing: a
hash is compared, in constant time, also where no such token exists. A token is bound to one Ed25519 key: the one given
when it was made, or that of the first bundle which arrives under it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, update

from estbench.database import Database, schema
from estbench.errors import ConfigError, StoreError
from estbench_leaderboard.submissions.errors import Refused

SCOPES = ("submit", "moderate")
FORM = re.compile(r"estb_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()  # compared with where there is no such token
SEEN_EVERY = 60  # seconds between two notes of when a token was used
INVALID = "This needs a valid token of this board: Authorization: Bearer estb_…"


@dataclass(frozen=True, slots=True)
class Token:
    """A token that holds: whose it is, and what it may."""

    id: str
    submitter: str
    name: str  # of the submitter, as the board shows it
    scopes: tuple[str, ...]
    key: str | None  # Ed25519, base64; None: not bound yet


def stamp(moment: datetime | None = None) -> str:
    """A moment as the database writes it; it sorts as text."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_token(
    database: Database,
    name: str,
    contact: str | None = None,
    scopes: Sequence[str] = ("submit",),
    key: str | None = None,
    expires: datetime | None = None,
) -> str:
    """Make a token for a submitter, who is made, too, if there is none of that name. The text is not kept anywhere."""
    name = name.strip()
    if not 0 < len(name) <= 80 or not name.isprintable():
        raise ConfigError("name= is what the board shows: 1 to 80 printable characters.")
    if unknown := set(scopes) - set(SCOPES):
        raise ConfigError(f"There is no scope {min(unknown)!r}: {', '.join(SCOPES)}.")
    if key is not None and not _is_key(key):
        raise ConfigError("key= is an Ed25519 public key, 32 bytes in base64.")
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = {"id": identity, "hash": _hash(secret), "public_key": key, "scopes": list(scopes), "created": stamp()}
    row["expires"] = stamp(expires) if expires else None
    with database.write() as connection:
        submitter = connection.scalar(select(schema.submitters.c.id).where(schema.submitters.c.name == name))
        if submitter is None:
            submitter = secrets.token_hex(6)
            of = {"id": submitter, "name": name, "contact": contact, "created": stamp()}
            connection.execute(insert(schema.submitters).values(of))
        elif contact:
            whose = schema.submitters.c.id == submitter
            connection.execute(update(schema.submitters).where(whose).values(contact=contact))
        connection.execute(insert(schema.tokens).values(row | {"submitter": submitter}))
    return f"estb_{identity}_{secret}"


def verify(database: Database, header: str | None, scope: str | None = None) -> Token:
    """The token of an Authorization header; Refused(401) for one that does not hold, 403 without the scope."""
    found = FORM.fullmatch((header or "").removeprefix("Bearer ").strip())
    identity, secret = found.groups() if found else ("", "")
    known = select(schema.tokens, schema.submitters.c.name).join(schema.submitters)
    with database.read() as connection:
        row = connection.execute(known.where(schema.tokens.c.id == identity)).first()
    right = hmac.compare_digest(_hash(secret), row.hash if row else NOBODY)
    now = stamp()
    if not right or row is None or row.revoked or (row.expires and row.expires <= now):
        raise Refused(401, INVALID)
    if scope is not None and scope not in row.scopes:
        raise Refused(403, f"This token may not do that: it has no scope {scope!r}.")
    if row.used is None or row.used < stamp(datetime.now(UTC) - timedelta(seconds=SEEN_EVERY)):
        with database.write(counted=False) as connection:
            connection.execute(update(schema.tokens).where(schema.tokens.c.id == row.id).values(used=now))
    return Token(row.id, row.submitter, row.name, tuple(row.scopes), row.public_key)


def holds(database: Database, identity: str, scope: str) -> Token | None:
    """The token of an id if it still holds and may do that: for who has shown its secret before."""
    known = select(schema.tokens, schema.submitters.c.name).join(schema.submitters)
    with database.read() as connection:
        row = connection.execute(known.where(schema.tokens.c.id == identity)).first()
    if row is None or row.revoked or (row.expires and row.expires <= stamp()) or scope not in row.scopes:
        return None
    return Token(row.id, row.submitter, row.name, tuple(row.scopes), row.public_key)


def revoke(database: Database, identity: str) -> None:
    """End a token for good; StoreError if there is none of that id."""
    with database.write() as connection:
        open_ones = (schema.tokens.c.id == identity) & schema.tokens.c.revoked.is_(None)
        done = connection.execute(update(schema.tokens).where(open_ones).values(revoked=stamp()))
        if not done.rowcount:
            raise StoreError(f"There is no token {identity!r} that holds: `estbench board token list` shows them.")


def listing(database: Database) -> list[dict[str, Any]]:
    """All tokens without their hashes, the newest first."""
    columns = [column for column in schema.tokens.c if column.name not in ("hash", "submitter")]
    query = select(*columns, schema.submitters.c.name, schema.submitters.c.contact).join(schema.submitters)
    with database.read() as connection:
        return [dict(row._mapping) for row in connection.execute(query.order_by(schema.tokens.c.created.desc()))]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False
