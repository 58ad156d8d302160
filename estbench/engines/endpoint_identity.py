"""Is this the same model as last time? What can be known of weights that nobody here has seen.

    seen = Observation(url, model, api, revision, served, system_fingerprint, started, values)
    known = remember(seen)     # Known(id, since, observed, changed)

`home()/endpoints.jsonl` keeps what was observed. An endpoint has the id of an earlier observation only while nothing
that it shows has changed: URL, model id, the user's `engine.revision=`, system fingerprint, the server's start, and
what it writes after fixed prompts, with log-probabilities. These are compared with a tolerance, since servers are not
stable to the bit, and always with the first observation of an id, so that no change is too slow to be seen.

Who states a revision vouches for the weights: then a server may start anew. Where nothing is known, each id is new.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from estbench import identity
from estbench.errors import StoreError
from estbench.home import home

TOLERANCE = 0.15  # nats: one step of bfloat16 at logits of 16 and more is 0.125
LIKELY = -4.0  # only log-probabilities above are compared: what is rarer wavers more
ALONE = "unknown"

Written = Sequence[tuple[str, Mapping[str, float]]]  # token written -> log-probabilities of the likeliest in its place


@dataclass(frozen=True)
class Observation:
    """What an endpoint shows of itself. None and (): it does not show that."""

    url: str
    model: str
    api: str
    revision: str | None = None
    served: str | None = None  # the model that replies name, where an alias was asked
    system_fingerprint: str | None = None
    started: float | None = None  # Unix time at which the server process began
    values: tuple[list[tuple[str, dict[str, float]]], ...] = ()  # what it wrote after each fixed prompt

    @property
    def anonymous(self) -> bool:
        """Whether nothing would show that other weights are served."""
        named = self.served if self.served != self.model else None
        return not (self.revision or named or self.system_fingerprint or self.started is not None or self.values)


@dataclass(frozen=True)
class Known:
    """The id of an endpoint's model, and how it came to be."""

    id: str
    since: str  # date of the first observation under this id
    observed: str  # date of this one
    changed: str | None = None  # what is not as it was when it was last seen


def remember(seen: Observation, store: Path | None = None) -> Known:
    """The id under which answers of this endpoint are kept; notes the observation."""
    path = store or home() / "endpoints.jsonl"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with _locked(path) as file:
        earlier = [row for row in _rows(file) if _same_place(row, seen)]
        anchors: dict[str, dict[str, Any]] = {}  # id -> its first observation
        for row in earlier:
            anchors.setdefault(str(row["id"]), row)
        same = None if seen.anonymous else next((row for row in anchors.values() if not difference(row, seen)), None)
        changed = difference(earlier[-1], seen) if earlier and not same and not seen.anonymous else None
        if same:
            known = Known(str(same["id"]), str(same["seen"])[:10], now[:10])
        else:
            known = Known(_new_id(seen, len(anchors)), now[:10], now[:10], changed)
        line = json.dumps({**asdict(seen), "id": known.id, "seen": now}, ensure_ascii=False)
        file.write(f"\n{line}\n")  # a line of its own, even behind a torn one
    return known


def difference(row: Mapping[str, Any], seen: Observation) -> str | None:
    """What an endpoint shows that differs from an earlier observation; None if nothing does."""
    if row.get("served") != seen.served:
        return f"it answered as {row.get('served')} and answers as {seen.served}"
    if row.get("system_fingerprint") != seen.system_fingerprint:
        return f"its system fingerprint was {row.get('system_fingerprint')} and is {seen.system_fingerprint}"
    if not seen.revision and not _same_start(row.get("started"), seen.started):
        return "its server was started anew"
    far = distance(row.get("values") or (), seen.values)
    if far > TOLERANCE:
        far_text = f"by up to {far:.2f}" if math.isfinite(far) else "beyond comparison"
        return f"its log-probabilities after fixed prompts differ {far_text}"
    return None


def distance(a: Sequence[Written], b: Sequence[Written]) -> float:
    """The largest difference between log-probabilities in the same place; infinite if they can't be compared."""
    if len(a) != len(b):
        return math.inf
    return max((_apart(one, other) for one, other in zip(a, b, strict=True)), default=0.0)


def _apart(a: Written, b: Written) -> float:
    """Of one prompt: in every place up to the first that differs."""
    if not a or not b:
        return 0.0 if not a and not b else math.inf
    far = 0.0
    for (token, here), (other, there) in zip(a, b, strict=False):
        far = max(far, _gap(here, there), _gap(there, here))
        if token != other:
            break
    return far


def _gap(here: Mapping[str, float], there: Mapping[str, float]) -> float:
    """Of one place. A token that only `here` lists is elsewhere at most as likely as the least that is listed there."""
    least = min(there.values(), default=-math.inf)
    found = [
        abs(value - there[token]) if token in there else max(0.0, value - least)
        for token, value in here.items()
        if max(value, there.get(token, value)) > LIKELY
    ]
    return max(found, default=0.0)


def _same_start(a: Any, b: float | None) -> bool:
    """Starts agree to a second; metrics print them in their own precision."""
    return a == b if a is None or b is None else abs(float(a) - b) < 1.0


def _same_place(row: Mapping[str, Any], seen: Observation) -> bool:
    return all(row.get(key) == getattr(seen, key) for key in ("url", "model", "api", "revision"))


def _new_id(seen: Observation, before: int) -> str:
    """An id that another machine would give, too, where revision or fingerprint say what is served."""
    if seen.anonymous:
        return identity.digest([ALONE, uuid.uuid4().hex])
    shown = asdict(seen)
    if seen.revision:  # the user vouches for the weights: the rest is a check
        shown |= {"started": None, "values": before}
    else:
        shown["values"] = [
            [[token, {name: round(value, 2) for name, value in top.items()}] for token, top in row]
            for row in seen.values
        ]
    return identity.digest(shown)


def _rows(file: IO[str]) -> list[dict[str, Any]]:
    """The observations; a torn line is no observation."""
    rows = []
    for line in file:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "id" in row and "seen" in row:
                rows.append(row)
    return rows


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """The file, for one process at a time, so that jobs which start together agree on an id."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as file:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"{path} can't be written ({error.strerror}): set ESTBENCH_HOME to a folder that can be written."
        ) from None
