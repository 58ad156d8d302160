"""Every question that commands and pages ask of the database. Each answer is an object that all of them share.

runs(database, model="demo", task="estcopa")           # newest first
scores(database, tasks=["estcopa"], primary=True)      # reads no sample
items(database, run, "estcopa", "acc").values          # doc by doc
pair(database, run_a, run_b, "estcopa", "acc")         # the same docs of two runs
sample(database, run, "estcopa", doc_hash)             # one answer; prompt(database, sample.prompt_hash)
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, Select, select

from estbench.database import packing, schema
from estbench.database.engine import Database
from estbench.errors import StoreError, did_you_mean
from estbench.runs import Sample, Score

RUNS, MODELS, TASKS, SCORES = schema.runs.c, schema.models.c, schema.run_tasks.c, schema.scores.c


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list."""

    id: str
    name: str
    model: str  # its name
    fingerprint: str
    created: str  # UTC, YYYY-MM-DDTHH:MM:SS.ffffffZ
    seconds: float | None
    partial: bool
    slice: str | None
    suites: list[str]
    tasks: list[str]  # in the plan's order
    result: str | None  # result identity
    observed: str | None  # of a model behind an endpoint, whose weights nobody has verified: the date it was last seen


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task of a run: what decides whether two runs can be compared; `card` has title, licence, data and scorer."""

    run: str
    task: str
    n: int
    n_planned: int | None
    plan_hash: str | None
    skill: str | None
    form: str | None
    language: str | None
    chance: float | None
    primary: str | None
    shots: int | None
    publish_items: bool
    card: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A score and whose it is."""

    run: str
    name: str
    model: str
    fingerprint: str
    score: Score


@dataclass(frozen=True, slots=True)
class Items:
    """A metric doc by doc, in order of doc_id: values (n) or statistics (n, k); objects where docs differ in length."""

    docs: tuple[str, ...]
    values: NDArray[Any]
    clusters: tuple[str | None, ...] | None  # None: the task has none
    asked: tuple[str, ...] | None  # hash of what was asked, before template and tokenizer; None: not known

    def take(self, positions: Sequence[int]) -> Items:
        """Only the docs at these positions, in that order."""
        values = self.values[np.asarray(positions, dtype=int)]
        return Items(_part(self.docs, positions), values, _part(self.clusters, positions), _part(self.asked, positions))


@dataclass(frozen=True, slots=True)
class Pair:
    """The docs that two runs share, in the order of the first."""

    docs: tuple[str, ...]
    a: NDArray[Any]
    b: NDArray[Any]
    clusters: tuple[str | None, ...] | None
    only_a: int  # docs that the other lacks
    only_b: int
    asked_otherwise: int | None  # shared docs that were asked in other words; None: not known


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A sample and the engine's answers, request by request."""

    sample: Sample
    responses: list[dict[str, Any]]


def runs(
    database: Database,
    *,
    name: str | None = None,
    model: str | None = None,
    task: str | None = None,
    limit: int | None = None,
) -> list[RunRow]:
    """Runs, newest first. `name` and `model` (its name or fingerprint) may hold `*`; `task` is exact."""
    with database.read() as connection:
        chosen = select(RUNS.id)
        if name is not None:
            chosen = chosen.where(RUNS.name.in_(_matching(connection, RUNS.name, name)))
        if model is not None:
            named = MODELS.name.in_(_matching(connection, MODELS.name, model))
            printed = MODELS.fingerprint.in_(_matching(connection, MODELS.fingerprint, model))
            chosen = chosen.where(RUNS.model.in_(select(MODELS.fingerprint).where(named | printed)))
        if task is not None:
            chosen = chosen.where(RUNS.id.in_(select(TASKS.run_id).where(TASKS.task == task)))
        chosen = chosen.order_by(RUNS.created.desc(), RUNS.id.desc()).limit(limit)
        wanted = chosen.subquery()
        rows = connection.execute(_with_model(RUNS).where(RUNS.id.in_(select(wanted.c.id)))).all()
        of_runs = select(TASKS.run_id, TASKS.task).where(TASKS.run_id.in_(select(wanted.c.id))).order_by(TASKS.position)
        tasks: dict[str, list[str]] = defaultdict(list)
        for run, name_of_task in connection.execute(of_runs):
            tasks[run].append(name_of_task)
    return [_run_row(row, tasks[row.id]) for row in sorted(rows, key=lambda row: (row.created, row.id), reverse=True)]


def find_run(database: Database, word: str) -> str:
    """The id of the run that a person means: its id, the start of one id, or a name or model (the newest run of it)."""
    with database.read() as connection:
        rows = connection.execute(_with_model(RUNS).order_by(RUNS.created.desc(), RUNS.id.desc())).all()
    if any(row.id == word for row in rows):
        return word
    named = [row.id for row in rows if word in (row.name, row.model_name)]
    begun = [row.id for row in rows if row.id.startswith(word)] if word else []
    if named or len(begun) == 1:
        return str((named or begun)[0])
    if begun:
        raise StoreError(f"{word!r} is the start of {len(begun)} runs: {', '.join(sorted(begun)[:5])}. Say more of it.")
    known = {text for row in rows for text in (row.id, row.name, row.model_name)}
    raise _no_run(word, known, database)


def manifest(database: Database, run: str) -> dict[str, Any]:
    """The manifest of a run, whole."""
    with database.read() as connection:
        found = connection.scalar(select(RUNS.manifest).where(RUNS.id == run))
        if found is None:
            raise _no_run(run, connection.scalars(select(RUNS.id)), database)
        return dict(found)


def tasks(database: Database, run: str) -> list[TaskRow]:
    """The tasks of a run, in the plan's order."""
    columns: list[ColumnElement[Any]] = [TASKS.run_id.label("run"), TASKS.primary_metric.label("primary")]
    columns += [TASKS[field.name] for field in fields_of(TaskRow) if field.name not in ("run", "primary")]
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(TASKS.run_id == run).order_by(TASKS.position)).all()
        if not rows and connection.scalar(select(RUNS.id).where(RUNS.id == run)) is None:
            raise _no_run(run, connection.scalars(select(RUNS.id)), database)
    return [TaskRow(**row._mapping) for row in rows]


def scores(
    database: Database,
    *,
    runs: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    primary: bool | None = None,
) -> list[ScoreRow]:
    """Scores of these runs and tasks (None: of all), newest run first, in each run's own order."""
    columns = [SCORES[field.name] for field in fields_of(Score)]
    whose = (RUNS.id.label("run"), RUNS.name.label("of_run"), MODELS.name.label("of_model"), MODELS.fingerprint)
    query = select(*columns, *whose).select_from(schema.scores.join(schema.runs).join(schema.models))
    if runs is not None:
        query = query.where(SCORES.run_id.in_(list(runs)))
    if tasks is not None:
        query = query.where(SCORES.task.in_(list(tasks)))
    if primary is not None:
        query = query.where(SCORES.primary.is_(primary))
    with database.read() as connection:
        rows = connection.execute(query.order_by(RUNS.created.desc(), RUNS.id.desc(), SCORES.position)).all()
    width = len(columns)
    return [ScoreRow(row.run, row.of_run, row.of_model, row.fingerprint, Score(*row[:width])) for row in rows]


def items(database: Database, run: str, task: str, metric: str) -> Items:
    """The values of a metric; docs without one (no response) are left out. StoreError names what there is instead."""
    found = items_of_runs(database, [run], task, metric)
    if not found:
        with database.read() as connection:
            raise _no_item(connection, database, run, task, metric)
    return found[run]


def items_of_runs(database: Database, runs: Sequence[str], task: str, metric: str) -> dict[str, Items]:
    """`items` of many runs at once, by run; those that have none are left out."""
    item, shared = schema.items.c, ("docs", "clusters", "asked")
    query = (
        select(schema.items, *(TASKS[name] for name in shared))
        .select_from(schema.items.join(schema.run_tasks))
        .where(item.run_id.in_(list(runs)), item.task == task, item.metric == metric, TASKS.docs.is_not(None))
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
        named = {key for row in rows for key in (row.docs, row.clusters, row.asked) if key is not None}
        of_lists = select(schema.lists).where(schema.lists.c.hash.in_(named))
        lists = {row.hash: packing.unpack_list(row.data) for row in connection.execute(of_lists)}
    return {row.run_id: _items(row, lists) for row in rows}


def _items(row: Row[Any], lists: Mapping[str, tuple[Any, ...]]) -> Items:
    docs, clusters, asked = (None if key is None else lists[key] for key in (row.docs, row.clusters, row.asked))
    if row.present is not None and docs is not None:
        kept = np.flatnonzero(packing.unpack_mask(row.present, len(docs))).tolist()
        docs, clusters, asked = (_part(column, kept) for column in (docs, clusters, asked))
    return Items(docs or (), packing.unpack_values(row.kind, row.width, row.data), clusters, asked)


def pair(database: Database, run_a: str, run_b: str, task: str, metric: str) -> Pair:
    """Two runs on the docs that both have a value for, aligned by doc hash."""
    a, b = items(database, run_a, task, metric), items(database, run_b, task, metric)
    both_a, both_b = a, b
    if a.docs != b.docs:
        place = {doc: position for position, doc in enumerate(b.docs)}
        both_a = a.take([position for position, doc in enumerate(a.docs) if doc in place])
        both_b = b.take([place[doc] for doc in both_a.docs])
    known = both_a.asked is not None and both_b.asked is not None
    otherwise = sum(one != other for one, other in zip(both_a.asked or (), both_b.asked or (), strict=False))
    return Pair(
        docs=both_a.docs,
        a=both_a.values,
        b=both_b.values,
        clusters=both_a.clusters,
        only_a=len(a.docs) - len(both_a.docs),
        only_b=len(b.docs) - len(both_b.docs),
        asked_otherwise=otherwise if known else None,
    )


def sample(database: Database, run: str, task: str, doc_hash: str) -> StoredSample:
    """One answer with its scores. Of the responses only the block that holds it is unpacked."""
    with database.read() as connection:
        shared = _shared(connection, database, run, task)
        docs = shared["docs"] or ()
        if doc_hash not in docs:
            raise StoreError(f"Run {run} has no sample {doc_hash!r} of {task}.{did_you_mean(doc_hash, docs)}")
        position = docs.index(doc_hash)
        block, place = divmod(position, schema.BLOCK)
        of_block = _is(schema.responses.c, run, task) & (schema.responses.c.block == block)
        packed = connection.scalar(select(schema.responses.c.data).where(of_block))
        assert packed is not None
        of_metrics = connection.execute(select(schema.items).where(_is(schema.items.c, run, task))).all()
    values = {row.metric: _value(row, position, len(docs)) for row in of_metrics}
    answer, key, parse_failure, error, responses = packing.unpack_record(packed, place)
    one: dict[str, Any] = {name: None if column is None else column[position] for name, column in shared.items()}
    return StoredSample(
        Sample(
            task=task,
            doc_id=one["doc_ids"],
            doc_hash=doc_hash,
            prompt_hash=one["prompts"],
            cluster=one["clusters"],
            target=one["targets"],
            answer=answer,
            values={metric: value for metric, value in values.items() if value is not None},
            key=key,
            parse_failure=parse_failure,
            error=error,
        ),
        responses,
    )


def prompt(database: Database, prompt_hash: str) -> str:
    """The text of a prompt."""
    with database.read() as connection:
        packed = connection.scalar(select(schema.prompts.c.text).where(schema.prompts.c.hash == prompt_hash))
    if packed is None:
        raise StoreError(f"There is no prompt {prompt_hash!r} in {database.label}.")
    return packing.unpack_text(packed)


@overload
def _part(column: tuple[Any, ...], positions: Sequence[int]) -> tuple[Any, ...]: ...
@overload
def _part(column: tuple[Any, ...] | None, positions: Sequence[int]) -> tuple[Any, ...] | None: ...
def _part(column: tuple[Any, ...] | None, positions: Sequence[int]) -> tuple[Any, ...] | None:
    return None if column is None else tuple(column[position] for position in positions)


def _with_model(columns: Any) -> Select[Any]:
    """Runs with their model's name, without the manifest."""
    wanted = [column for column in columns if column.name != "manifest"]
    return select(*wanted, MODELS.name.label("model_name")).join(schema.models, MODELS.fingerprint == RUNS.model)


def _run_row(row: Row[Any], tasks: list[str]) -> RunRow:
    same = {name: getattr(row, name) for name in ("id", "name", "created", "seconds", "partial", "slice", "suites")}
    observed = (row.engine or {}).get("observed")
    same |= {"result": row.result_identity, "observed": observed if isinstance(observed, str) else None}
    return RunRow(model=row.model_name, fingerprint=row.model, tasks=tasks, **same)


def _matching(connection: Connection, column: ColumnElement[str], pattern: str) -> list[str]:
    """The values of a column that match, by the same rules on both engines (their LIKE differ in case)."""
    return fnmatch.filter(connection.scalars(select(column).distinct()), pattern) if "*" in pattern else [pattern]


def _is(columns: Any, run: str, task: str) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = (columns.run_id == run) & (columns.task == task)
    return condition


def _shared(connection: Connection, database: Database, run: str, task: str) -> dict[str, tuple[Any, ...] | None]:
    """The lists that a task of a run points to."""
    row = connection.execute(select(*(TASKS[name] for name in schema.SHARED)).where(_is(TASKS, run, task))).first()
    if row is None:
        raise _no_task(connection, database, run, task)
    of_row = select(schema.lists).where(schema.lists.c.hash.in_([key for key in row if key is not None]))
    data = {row.hash: row.data for row in connection.execute(of_row)}
    return {name: None if key is None else packing.unpack_list(data[key]) for name, key in row._mapping.items()}


def _value(row: Row[Any], position: int, n: int) -> Any:
    """The value of one doc, as a plain number or list; None if it has none."""
    if row.present is not None:
        present = packing.unpack_mask(row.present, n)
        if not present[position]:
            return None
        position = int(present[:position].sum())
    value = packing.unpack_values(row.kind, row.width, row.data)[position]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _no_run(run: str, known: Iterable[str], database: Database) -> StoreError:
    hint = f"{did_you_mean(run, known)} `estbench runs list` shows them."
    return StoreError(f"There is no run {run!r} in {database.label}.{hint}")


def _no_task(connection: Connection, database: Database, run: str, task: str) -> StoreError:
    known = list(connection.scalars(select(TASKS.task).where(TASKS.run_id == run).order_by(TASKS.position)))
    if not known:
        return _no_run(run, connection.scalars(select(RUNS.id)), database)
    return StoreError(f"Run {run} has no task {task!r}: it has {', '.join(known)}.")


def _no_item(connection: Connection, database: Database, run: str, task: str, metric: str) -> StoreError:
    if connection.scalar(select(TASKS.n).where(_is(TASKS, run, task))) is None:
        return _no_task(connection, database, run, task)
    of_task = select(schema.items.c.metric).where(_is(schema.items.c, run, task)).order_by(schema.items.c.metric)
    known = list(connection.scalars(of_task))
    has = f"it has {', '.join(known)}" if known else "it was imported without samples, or every doc failed"
    return StoreError(f"Run {run} has no {metric!r} doc by doc for {task}: {has}.")
