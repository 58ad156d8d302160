"""What every page is made of: the models, tasks, scores and ranks of one version of the database.

    snapshot = take(database)                    # reads scores and items once; pages read no samples after that
    board = snapshot.boards["chat"]              # chat and base models are never ranked together
    board.ranking({"estcopa_chat": 1.0}).rows    # milliseconds, whatever is chosen
    snapshot.model("demo-3d4a16cb").cells["estcopa_chat"].score

Of each task one version counts: the data, scorer and shots of the newest run that the board may rank; of one that is
judged, the rubric, anchor and panel that judged most of its models. What was measured otherwise, or awaits a judge, is
shown with its reason and never ranked. Only runs of the operators and audited submissions are ranked.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select

from estbench.compare import judged_by
from estbench.database import queries, schema
from estbench.database.engine import Database
from estbench.metrics.judgments import is_judged
from estbench.report import at_chance, judge_of
from estbench.runs import Score
from estbench.stats.ranks import Prepared, Ranking
from estbench_leaderboard import decided, ranked
from estbench_leaderboard.shown import line
from estbench_leaderboard.skills import SKILLS

FORMS = {"chat": "chat", "completion": "base"}  # of a task -> the board it is on
BOARDS = ("chat", "base", "checkpoints")
LONGEST = 200  # characters of a name
FAILURES = 0.10  # share of answers without an answer in them, from which on that is flagged
VERDICTS = 0.95  # share of the documents that need a verdict for a judged score to be ranked
DEFAULTS = {"chat": "core", "base": "core_base", "checkpoints": "checkpoint"}  # suites that a board ranks by


@dataclass(frozen=True, eq=False)
class Task:
    """A task as a board ranks it: one version of it."""

    name: str
    board: str
    title: dict[str, str]
    skill: str
    language: str
    metric: str
    unit: str
    higher_is_better: bool
    chance: float | None
    n_docs: int
    shots: int
    licence: str | None
    publish_items: bool
    version: tuple[Any, ...]
    judges: str | None  # by whom and what it is judged: `compare.judged_by`; None: by nobody
    docs: str | None  # the list of docs that a whole run has, and of what they ask
    asked: str | None
    card: Mapping[str, Any] = field(repr=False)

    @property
    def maximum(self) -> float | None:
        """The best possible score; None: there is none."""
        return {"proportion": 1.0, "points": 100.0}.get(self.unit)

    @property
    def estonian(self) -> bool:
        """Whether it is about Estonian, as are translations from and into it."""
        return "et" in self.language.split("-")


@dataclass(frozen=True, slots=True)
class Cell:
    """A model's primary score in a task, or why there is none that counts.

    reason: not_run, failed, skipped, hidden, awaiting_judge, other_version, other_prompt, other_judges, partial or
    scores_only; None: it is ranked.
    flags: at_chance, parse_failures, contaminated, partial, errors; uncalibrated or calibrated, if judges gave it.
    """

    run: str | None
    score: Score | None
    reason: str | None = None
    detail: str | None = None  # what the run says of it
    flags: tuple[str, ...] = ()


NOT_RUN = Cell(None, None, "not_run")


@dataclass(frozen=True, eq=False)
class Model:
    """A model on a board."""

    slug: str  # in URLs; lasting, since it holds the start of the fingerprint
    name: str
    fingerprint: str
    board: str
    parameters: int | None
    bytes: int | None
    created: str  # of its newest run
    runs: tuple[str, ...]  # newest first
    remote: bool  # behind an endpoint: nobody has seen its weights
    facts: Mapping[str, Any]  # what people say of it: licence, commercial, open_weights, organisation, price_in, ...
    training: Mapping[str, Any] | None  # its training card
    tokens_per_word: float | None  # in the prompts of Estonian tasks
    badge: str  # operator, audited, rescored, claimed
    submitter: str | None
    attempts: int | None  # how many runs its submitter has sent
    cells: Mapping[str, Cell]
    reference: bool = False  # figures of others, not measured here
    withdrawn: str | None = None  # a tombstone: why

    @property
    def ranked(self) -> bool:
        """Whether it takes part in ranks: measured here or audited, and with at least one score that counts."""
        trusted = self.badge in ("operator", "audited") and not self.reference and self.withdrawn is None
        return trusted and any(cell.reason is None for cell in self.cells.values())

    @property
    def memory(self) -> int | None:
        """Bytes of memory that the weights need as they were measured, with a fifth more for everything else."""
        return None if self.bytes is None else self.bytes * 6 // 5


@dataclass
class Board:
    """Models of one form, the tasks that they were measured on, and who is ahead."""

    name: str
    tasks: dict[str, Task]
    models: dict[str, Model]  # by slug
    defaults: tuple[str, ...]  # tasks that count if nobody chooses
    prepared: Prepared | None = field(repr=False)

    def weights(self, tasks: Iterable[str] | None = None) -> dict[str, float]:
        """Every skill counts the same, and within it every task."""
        chosen = [self.tasks[name] for name in (self.defaults if tasks is None else tasks)]
        if self.prepared is not None:  # what nobody is ranked by takes no part of a skill's weight
            chosen = [task for task in chosen if task.name in self.prepared.tasks]
        sizes: dict[str, int] = defaultdict(int)
        for task in chosen:
            sizes[task.skill] += 1
        return {task.name: 1 / sizes[task.skill] for task in chosen}

    def ranking(self, weights: Mapping[str, float]) -> Ranking | None:
        """Ranks of the ranked models under these weights; None where nothing of it can be ranked."""
        known = {name: weight for name, weight in weights.items() if self.prepared and name in self.prepared.tasks}
        if self.prepared is None or not any(known.values()):
            return None
        return self.prepared.rank(weights=known)


@dataclass
class Snapshot:
    """The whole board at one version of the database."""

    version: int
    boards: dict[str, Board]
    decisions: list[decided.Decision]  # public ones, newest first
    runs: dict[str, queries.RunRow]  # that may be shown
    hidden: decided.Decided = field(repr=False)
    known: dict[str, dict[str, Any]] = field(repr=False)  # fingerprint -> name, card, facts, by what is shown

    @property
    def state(self) -> str:
        """What a rendered page is kept by: the version, and how many embargoes are to end within it."""
        return f"{self.version}.{len(self.hidden.embargoes)}"

    @functools.cached_property
    def _models(self) -> dict[str, list[Model]]:
        found: dict[str, list[Model]] = defaultdict(list)
        for board in self.boards.values():
            for model in board.models.values():
                for word in dict.fromkeys((model.slug, model.name, model.fingerprint)):
                    found[word].append(model)
        return found

    def model(self, word: str, board: str | None = None) -> Model | None:
        """The model of a slug, name or fingerprint; of several the one that is ranked, then the newest."""
        found = [model for model in self._models.get(word, ()) if board in (None, model.board)]
        # A slug and a fingerprint are one model's own; a name may be given to any.
        own = [model for model in found if word in (model.slug, model.fingerprint)]
        return max(own or found, key=lambda model: (model.ranked, model.created), default=None)

    def everywhere(self, fingerprint: str) -> list[Model]:
        """A model on each board that has it."""
        return self._models.get(fingerprint, [])

    def task(self, name: str) -> Task | None:
        """A task, of whichever board."""
        return next((board.tasks[name] for board in self.boards.values() if name in board.tasks), None)


def slug(name: str, fingerprint: str, digits: int = 8) -> str:
    """A model's name in URLs."""
    plain, printed = (re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") for text in (name, fingerprint))
    return f"{plain[:80] or 'model'}-{printed[:digits]}"


def take(database: Database) -> Snapshot:
    """Read the database as it is now."""
    version = database.version()
    hidden = decided.read(database)
    found = queries.runs(database)
    models = _model_rows(database, found, hidden)
    runs = {
        row.id: replace(row, model=models[row.fingerprint]["name"])
        for row in found
        if hidden.shows(row.id, row.fingerprint) and not row.slice
    }
    rows = _task_rows(database, runs, hidden)
    scores: dict[tuple[str, str], Score] = {
        (row.run, row.score.task): row.score for row in queries.scores(database, runs=list(runs), primary=True)
    }
    boards = {}
    for name in BOARDS:
        of_board = [row for row in rows if _board(row, models[runs[row.run_id].fingerprint]) == name]
        boards[name] = _board_of(database, name, of_board, runs, scores, models, hidden)
    return Snapshot(version, boards, hidden.public, runs, hidden, models)


def _task_rows(database: Database, runs: Mapping[str, Any], hidden: decided.Decided) -> list[Any]:
    """The tasks of all runs that may be shown, newest run first."""
    with database.read() as connection:
        found = connection.execute(select(schema.run_tasks)).all()
    known = [row for row in found if row.run_id in runs and hidden.shows_task(row.task)]
    return sorted(known, key=lambda row: (runs[row.run_id].created, row.run_id, -row.position), reverse=True)


def _model_rows(database: Database, runs: list[queries.RunRow], hidden: decided.Decided) -> dict[str, dict[str, Any]]:
    """What is known of each model: what the newest run that is shown says, one that the board trusts before others."""
    best = {
        row.fingerprint: row.id
        for row in sorted(runs, key=lambda row: (hidden.trusts(row.id), row.created, row.id))
        if hidden.shows(row.id, row.fingerprint)
    }
    of_run = select(schema.runs.c.model, schema.runs.c.manifest["model"].label("card"))
    with database.read() as connection:
        facts = {row.model: row.facts for row in connection.execute(select(schema.facts))}
        rows = connection.execute(select(schema.models)).all()
        cards = connection.execute(of_run.where(schema.runs.c.id.in_(list(best.values())))).all()
    found = {row.fingerprint: {**row._mapping, "facts": facts.get(row.fingerprint, {})} for row in rows}
    for row in cards:
        found[row.model] |= {"card": row.card, "name": row.card["name"]}
        found[row.model] |= {name: row.card.get(name) for name in ("parameters", "bytes")}
    return found


def _board(row: Any, model: Mapping[str, Any]) -> str:
    """The board of a task of a run: by its form, but checkpoints of a training run have their own."""
    if _part(model["card"], "training").get("final") is False:
        return "checkpoints"
    return FORMS.get(row.form or "completion", "base")


def _version(row: Any) -> tuple[Any, ...]:
    return _part(row.card, "data").get("hash"), row.card.get("scorer"), row.shots, row.primary_metric


def _part(card: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """A part of a card, which others wrote: empty where it is no mapping."""
    found = (card or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def _board_of(
    database: Database,
    name: str,
    rows: list[Any],
    runs: Mapping[str, queries.RunRow],
    scores: Mapping[tuple[str, str], Score],
    models: Mapping[str, dict[str, Any]],
    hidden: decided.Decided,
) -> Board:
    tasks: dict[str, Task] = {}
    by_model: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_model[runs[row.run_id].fingerprint].append(row)
    for trusted in (True, False):  # nobody from outside changes what a task is
        alike: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            if row.task not in tasks and hidden.trusts(row.run_id) == trusted and _version(row)[0] is not None:
                alike[row.task].append(row)
        for task, same in alike.items():
            row = next((row for row in same if (row.run_id, task) in scores), None)
            if row is not None:
                judges = _judges(row, same, runs, scores)
                tasks[task] = _task(name, row, scores[row.run_id, task], same, judges)
    made: dict[str, Model] = {}
    for fingerprint, own in by_model.items():
        model = _model(name, models[fingerprint], own, runs, scores, tasks, hidden)
        if (other := made.get(model.slug)) is not None:  # a fingerprint that begins like another's: nobody loses a page
            first, model = (model, other) if model.ranked else (other, model)
            made[first.slug] = first
            model = replace(model, slug=slug(model.name, model.fingerprint, len(model.fingerprint)))
        made[model.slug] = model
    measured = {row.task for row in rows if hidden.trusts(row.run_id)} & set(tasks) or set(tasks)
    counted = [task.name for task in tasks.values() if task.estonian and task.name in measured] or sorted(measured)
    wanted = [task for task in _suite(DEFAULTS[name]) if task in measured]
    prepared = ranked.prepared(database, list(tasks.values()), [model for model in made.values() if model.ranked])
    return Board(name, tasks, made, tuple(wanted or counted), prepared)


def _judges(
    row: Any,
    rows: list[Any],
    runs: Mapping[str, queries.RunRow],
    scores: Mapping[tuple[str, str], Score],
) -> str | None:
    """By whom and what this version of a task is judged: what most of its models were, of equals the newest."""
    models: dict[str, set[str]] = defaultdict(set)
    for other in rows:
        score = scores.get((other.run_id, other.task))
        key = judged_by(score) if score is not None and score.value is not None else None
        if key is not None and _version(other) == _version(row):
            models[key].add(runs[other.run_id].fingerprint)
    return max(models, key=lambda key: len(models[key]), default=None)


def _task(board: str, row: Any, score: Score, rows: list[Any], judges: str | None) -> Task:
    """The version of a task that this row belongs to; its docs are those of the row of it that has the most."""
    whole = max((other for other in rows if _version(other) == _version(row)), key=lambda other: other.n)
    card = row.card
    return Task(
        name=row.task,
        board=board,
        title=card.get("title") or {"et": row.task, "en": row.task},
        skill=row.skill if row.skill in SKILLS else "other",
        language=row.language or "et",
        metric=score.metric,
        unit=score.unit,
        higher_is_better=score.higher_is_better,
        chance=score.chance if score.chance is not None else row.chance,
        n_docs=row.n_docs or whole.n or score.n_planned,
        shots=row.shots or 0,
        licence=card.get("licence"),
        publish_items=bool(row.publish_items),
        version=_version(row),
        judges=judges,
        docs=whole.docs,
        asked=whole.asked,
        card=card,
    )


def _model(
    board: str,
    row: Mapping[str, Any],
    own: list[Any],  # its tasks on this board, newest first
    runs: Mapping[str, queries.RunRow],
    scores: Mapping[tuple[str, str], Score],
    tasks: Mapping[str, Task],
    hidden: decided.Decided,
) -> Model:
    fingerprint = row["fingerprint"]
    counted = [of for of in own if hidden.trusts(of.run_id)] or own  # what others sent of it does not touch it
    badges = {hidden.badge(of.run_id) for of in counted}
    cells: dict[str, Cell] = {}
    for of in counted:  # the newest that counts, else the newest
        if of.task in tasks and (of.task not in cells or cells[of.task].reason is not None):
            cell = _cell(
                of, scores.get((of.run_id, of.task)), tasks[of.task], hidden.contaminated(fingerprint, of.task)
            )
            cells[of.task] = cell if cell.reason is None else cells.get(of.task, cell)
    card = row["card"] or {}
    known = {**_from_card(card), **row["facts"]}
    words = [of for of in counted if of.words and of.language == "et"]
    listed = tuple(dict.fromkeys(of.run_id for of in counted))
    withdrawn = hidden.withdrawn(fingerprint)
    shown = {task: cells.get(task) or _skipped(listed, task, scores) for task in tasks}
    if withdrawn is not None:  # a tombstone: that it was here, and why it went
        listed, shown = (), dict.fromkeys(tasks, Cell(None, None, "hidden"))
    submitter = None if "operator" in badges else hidden.submitter(counted[0].run_id)
    return Model(
        slug=slug(row["name"], fingerprint),
        name=line(row["name"], LONGEST),  # it stands in sentences, which no sign in it may turn round
        fingerprint=fingerprint,
        board=board,
        parameters=row["parameters"],
        bytes=row["bytes"],
        created=runs[counted[0].run_id].created,
        runs=listed,
        remote=runs[counted[0].run_id].observed is not None,
        facts=known,
        training=_part(card, "training") or None,
        tokens_per_word=sum(of.tokens for of in words) / sum(of.words for of in words) if words else None,
        badge="operator" if "operator" in badges else hidden.badge(counted[0].run_id),
        submitter=submitter,
        attempts=None if submitter is None else hidden.attempts.get(submitter),
        cells=shown,
        reference=known.get("kind") == "reference" or not any(_version(of)[0] for of in counted),
        withdrawn=withdrawn,
    )


def _from_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """What the model's own files say of it; people's word goes before it."""
    licence = _part(card, "card").get("licence")
    return {"licence": licence} if isinstance(licence, str) and licence else {}


def _skipped(runs: tuple[str, ...], task: str, scores: Mapping[tuple[str, str], Score]) -> Cell:
    """The cell of a task that no run has: its newest run may say why."""
    found = next(((run, scores[run, task]) for run in runs if (run, task) in scores), None)
    return NOT_RUN if found is None else Cell(found[0], None, "skipped", found[1].reason)


def _cell(row: Any, score: Score | None, task: Task, contaminated: str | None) -> Cell:
    if score is None:
        return Cell(row.run_id, None, "failed")
    flags = tuple(_flags(row, score, task, contaminated))
    reason = None
    if score.value is None:
        reason = "awaiting_judge" if is_judged(score.metric) and not score.signature else "failed"
    elif _version(row) != task.version:
        reason = "other_version"
    elif row.docs is None:
        reason = "scores_only"
    elif judged_by(score) != task.judges:
        reason = "other_judges"
    elif row.docs != task.docs or score.n < (VERDICTS if task.judges else 1) * row.n or _in_part(row):
        reason = "partial"
    elif None not in (row.asked, task.asked) and row.asked != task.asked:
        reason = "other_prompt"
    return Cell(row.run_id, score, reason, score.reason, flags)


def _in_part(row: Any) -> bool:
    """Whether a run asked fewer documents than the task has, or those of its sample."""
    return (row.n_planned or 0) < (row.n_docs or 0) or bool(row.card.get("sample"))


def _flags(row: Any, score: Score, task: Task, contaminated: str | None) -> Iterable[str]:
    if at_chance(score):
        yield "at_chance"
    if score.n and score.parse_failures / score.n >= FAILURES:
        yield "parse_failures"
    if contaminated is not None:
        yield "contaminated"
    if score.n < task.n_docs:
        yield "partial"
    if score.errors:
        yield "errors"
    if judge := judge_of([score]):
        yield judge


@functools.cache
def _suite(name: str) -> tuple[str, ...]:
    from estbench.registry import Registry

    return tuple(Registry().suites[name].tasks)
