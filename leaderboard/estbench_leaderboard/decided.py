"""What maintainers decided, as the pages need it: who is shown, who is marked, and the public log.

    now = decided.read(database)
    now.shows(run, fingerprint); now.badge(run); now.contaminated(fingerprint, "estcopa")

`decisions` is append-only: of two about the same thing the later holds. A run without a submission is the operators'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from estbench.database import schema
from estbench.database.engine import Database

ENDS = {"show": ("hide", "withdraw"), "unmark": ("mark",), "publish": ("withdraw",)}


@dataclass(frozen=True, slots=True)
class Decision:
    """A line of the log."""

    id: int
    created: str
    actor: str
    action: str
    run: str | None
    model: str | None
    task: str | None
    submission: str | None
    reason: str
    details: Any


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of a submission that was published and taken back."""

    name: str
    model: str  # fingerprint
    run: str
    created: str  # when it was taken back
    reason: str


Target = tuple[str | None, str | None, str | None]  # run, model, task


@dataclass(frozen=True)
class Decided:
    """The state that all decisions and submissions add up to."""

    active: Mapping[tuple[str, Target], Decision]  # (hide | mark | withdraw, target) -> the decision that holds
    submissions: Mapping[str, Any]  # run -> its submission (the newest)
    submitters: Mapping[str, str]  # id -> name
    public: list[Decision] = field(repr=False)  # newest first
    attempts: Mapping[str, int]  # submitter's name -> how many runs they sent, whatever became of these
    embargoes: tuple[str, ...] = ()  # of what is published, those that are not over
    tombstones: tuple[Tombstone, ...] = ()
    strays: frozenset[str] = frozenset()  # runs of submissions that nobody knows: not shown

    @property
    def until(self) -> str | None:
        """When the next embargo ends, and all of this is read again."""
        return min(self.embargoes, default=None)

    def shows(self, run: str, model: str) -> bool:
        """Whether a run may be seen at all: published, its embargo over, hidden or taken back by nobody."""
        found = self.submissions.get(run)
        if run in self.strays or any(("hide", of) in self.active for of in ((run, None, None), (None, model, None))):
            return False
        taken_back = self.active.get(("withdraw", (run, None, None)))
        if taken_back and taken_back.submission in (None, found and found.id):  # not by a sender of the same id
            return False
        return found is None or (found.state == "published" and not _later(found.embargo))

    def shows_task(self, task: str) -> bool:
        """Whether a task is on the board."""
        return ("hide", (None, None, task)) not in self.active

    def badge(self, run: str) -> str:
        """`operator`, or how far a submission was checked: claimed, rescored, audited."""
        found = self.submissions.get(run)
        return "operator" if found is None else str(found.badge)

    def trusts(self, run: str) -> bool:
        """Whether a run may be ranked: measured by the operators, or by them again."""
        return self.badge(run) in ("operator", "audited")

    def submitter(self, run: str) -> str | None:
        """Who sent a run; None: the operators measured it."""
        found = self.submissions.get(run)
        return None if found is None else self.submitters.get(found.submitter)

    def contaminated(self, model: str, task: str) -> str | None:
        """Why a model's score in a task is marked as contaminated; None: it is not."""
        for target in ((None, model, task), (None, None, task)):
            if found := self.active.get(("mark", target)):
                return found.reason
        return None

    def withdrawn(self, model: str) -> str | None:
        """Why a model was withdrawn; None: it was not."""
        found = self.active.get(("withdraw", (None, model, None)))
        return None if found is None else found.reason


def read(database: Database) -> Decided:
    """All decisions and submissions as they stand now."""
    with database.read() as connection:
        rows = connection.execute(select(schema.decisions).order_by(schema.decisions.c.id)).all()
        sent = connection.execute(select(schema.submissions).order_by(schema.submissions.c.created)).all()
        # A run is a submission's if that made it: an id alone may be anybody's.
        origin = schema.runs.c.manifest["submission"].as_string()
        of_runs = select(schema.runs.c.id, origin).where(origin.is_not(None))
        made: dict[str, str | None] = {row[0]: row[1] for row in connection.execute(of_runs)}
        names: dict[str, str] = {
            row.id: row.name for row in connection.execute(select(schema.submitters.c.id, schema.submitters.c.name))
        }
    active: dict[tuple[str, Target], Decision] = {}
    public = []
    for row in rows:
        values = {name: getattr(row, name) for name in Decision.__slots__}
        decision = Decision(**values)
        target = (row.run, row.model, row.task)
        for ended in ENDS.get(row.action, ()):
            active.pop((ended, target), None)
        if row.action in ("hide", "mark", "withdraw"):
            active[row.action, target] = decision
        if row.public:
            public.append(decision)
    embargoes = tuple(row.embargo for row in sent if row.state == "published" and _later(row.embargo))
    attempts = Counter(names.get(row.submitter, "") for row in sent)
    found = {row.run: row for row in sent if made.get(row.run) == row.id}
    strays = frozenset(made) - set(found)
    shown = {decision.id for decision in public}
    buried = tuple(_tombstones([one for one in active.values() if one.id in shown], {row.id: row for row in sent}))
    return Decided(active, found, names, public[::-1], attempts, embargoes, buried, strays)


def _tombstones(decisions: Iterable[Decision], sent: Mapping[str, Any]) -> Iterator[Tombstone]:
    """Of submissions that everyone could see."""
    for decision in decisions:
        row = sent.get(decision.submission or "")
        if decision.action == "withdraw" and row is not None:
            yield Tombstone(row.model_name, row.model, row.run, decision.created, decision.reason)


def now() -> str:
    """This moment as the database writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _later(moment: str | None) -> bool:
    return moment is not None and moment > now()
