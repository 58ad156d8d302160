"""From a run folder to rows, and back out again.

    index_run(database, Run(folder))        # again: replaces its rows
    rebuild(database, folders)              # the database becomes exactly these folders
    remove_run(database, run_id)

A folder is read and packed before the writer's lock is taken. What judges said of a document stands beside its first
response, as `votes`. Not in the database, and so only in folders: token ids, requests, response keys, calls of judges.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from estbench.database import packing, schema
from estbench.database.engine import Database
from estbench.errors import StoreError, did_you_mean
from estbench.judged import FOLDER, stem_of
from estbench.runs import Run, Sample, Score, read_lines

EARLIEST = 2000  # year of a run; also, earlier ones would not sort as text
LEAST = 20  # prompts of which it is seen what they have beside their words
AT_ONCE = 500  # hashes in one IN (...)
VOTE = ("judge", "first", "vote", "score", "reason", "met", "missing")  # what is kept of a judge's vote
CARD = ("n_docs", "n_planned", "plan_hash", "skill", "form", "language", "chance", "shots")  # columns of run_tasks


@dataclass
class _Rows:
    """A run as rows of each table."""

    run: dict[str, Any]
    model: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    lists: dict[str, bytes] = field(default_factory=dict)
    prompts: dict[str, dict[str, bytes]] = field(
        default_factory=dict
    )  # packed, by the hash of the list that names them

    def share(self, values: Sequence[Any]) -> str:
        """Keep a list by its content; its hash."""
        key, data = packing.pack_list(values)
        self.lists[key] = data
        return key


def index_run(database: Database, run: Run) -> None:
    """Put a run into the database, in one transaction; its earlier rows are replaced.

    Raises:
        StoreError: the folder is not whole, or the database can't be written.
    """
    rows = _read(run)
    with database.write() as connection:
        loose = _delete(connection, run.id)
        _insert(connection, rows)
        _collect(connection, *loose)


def remove_run(database: Database, run_id: str) -> None:
    """Take a run out of the database, with all that no other run needs. The folder stays."""
    with database.write() as connection:
        known = list(connection.scalars(select(schema.runs.c.id)))
        if run_id not in known:
            raise StoreError(f"There is no run {run_id!r} in {database.label}.{did_you_mean(run_id, known)}")
        _collect(connection, *_delete(connection, run_id))


def rebuild(database: Database, folders: Iterable[Path]) -> dict[Path, str]:
    """Make the database exactly what these run folders say, in one transaction.

    Returns:
        The folders that were left out, with the reason: unfinished, torn, or a second copy of a run.
    """
    left_out: dict[Path, str] = {}
    seen: dict[str, Path] = {}
    with database.write() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(delete(table))
        for folder in folders:
            try:
                rows = _read(Run(folder))
            except StoreError as error:
                left_out[folder] = str(error)
                continue
            if first := seen.get(rows.run["id"]):
                left_out[folder] = f"{folder} is the same run as {first}."
                continue
            seen[rows.run["id"]] = folder
            _insert(connection, rows)
    return left_out


def _read(run: Run) -> _Rows:
    """The rows of a folder; StoreError if something is missing in it."""
    try:
        manifest, scores = run.manifest, run.scores()
        rows = _Rows(_run_row(manifest), _model_row(manifest))
        rows.tables["scores"] = [_score_row(run.id, position, score) for position, score in enumerate(scores)]
        for position, (task, card) in enumerate(manifest["tasks"].items()):
            _read_task(run, rows, position, task, card)
    except KeyError as error:
        raise StoreError(f"{run.path} is not whole: {error} is missing. Run the same `estbench eval` again.") from None
    except (OSError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(f"{run.path} can't be read as a run folder: {error}.") from None
    if strange := {score.task for score in scores} - {*manifest["tasks"], *(manifest.get("skipped") or {})}:
        raise StoreError(f"{run.path}/scores.json has tasks that the manifest lacks: {', '.join(sorted(strange))}.")
    return rows


def _run_row(manifest: dict[str, Any]) -> dict[str, Any]:
    created = datetime.fromisoformat(manifest["created"])
    created = created.replace(tzinfo=UTC) if created.tzinfo is None else created.astimezone(UTC)
    if created.year < EARLIEST:
        raise ValueError(f"it was created in {created.year}")
    identity = manifest["identity"]
    return {
        "id": str(manifest["run"]),
        "model": manifest["model"]["fingerprint"],
        "created": created.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "name": manifest["name"] or manifest["model"]["name"],
        "seconds": manifest.get("seconds"),
        "partial": manifest["partial"],
        "slice": manifest.get("slice"),
        "suites": manifest.get("suites") or [],
        "engine": manifest["engine"],
        "manifest": manifest,
        **{f"{key}_identity": identity.get(key) for key in ("response", "plan", "result")},
    }


def _model_row(manifest: dict[str, Any]) -> dict[str, Any]:
    card = manifest["model"]
    known = {name: card.get(name) for name in ("path", "revision", "parameters", "bytes")}
    return {"fingerprint": card["fingerprint"], "name": card["name"], "card": card, **known}


def _score_row(run_id: str, position: int, score: Score) -> dict[str, Any]:
    row = {"run_id": run_id, "position": position, **dataclasses.asdict(score)}
    # SQLite has no NaN and would store NULL: the same on PostgreSQL.
    return {name: None if value != value else value for name, value in row.items()}


def _read_task(run: Run, rows: _Rows, position: int, task: str, card: dict[str, Any]) -> None:
    samples = sorted(run.samples(task), key=lambda sample: sample.doc_id) if _has_samples(run, task) else []
    known = {name: card.get(name) for name in CARD}
    row = {"run_id": run.id, "task": task, "position": position, "n": len(samples), **known}
    row |= {"primary_metric": card.get("primary"), "publish_items": bool(card.get("publish_items")), "card": card}
    row |= dict.fromkeys((*schema.SHARED, "tokens", "words"))
    if samples:
        row |= _share(run, rows, task, samples)
        rows.tables["items"] += [{"run_id": run.id, "task": task, **item} for item in _items(samples)]
        rows.tables["responses"] += [{"run_id": run.id, "task": task, **block} for block in _blocks(run, task, samples)]
    rows.tables["run_tasks"].append(row)


def _has_samples(run: Run, task: str) -> bool:
    """False for results imported from elsewhere, which have scores only, for items that an export left out, and for
    golds that are withheld: an answer and whether it is right would give them away."""
    card = run.manifest["tasks"][task]
    here = (run.path / "samples").is_dir() and task not in run.manifest.get("items_left_out", ())
    return here and card.get("access") != "withheld"


def _share(run: Run, rows: _Rows, task: str, samples: list[Sample]) -> dict[str, Any]:
    """Keep what other runs of this plan share; the columns that point to it, and how long its prompts are."""
    clusters = [sample.cluster for sample in samples]
    columns: dict[str, Any] = {
        "docs": rows.share([sample.doc_hash for sample in samples]),
        "doc_ids": rows.share([sample.doc_id for sample in samples]),
        "clusters": rows.share(clusters) if any(cluster is not None for cluster in clusters) else None,
        "prompts": rows.share([sample.prompt_hash for sample in samples]),
        "targets": rows.share([sample.target for sample in samples]),
    }
    hashes = {sample.doc_id: sample.prompt_hash for sample in samples}
    texts: dict[str, bytes] = {}
    asked_of: dict[int, str] = {}
    lengths: list[tuple[int, int]] = []  # words and tokens of a prompt
    for doc in run.plan(task):  # one at a time: its token ids are most of it
        if doc.doc_id in hashes:
            texts[hashes[doc.doc_id]] = packing.pack_text(doc.prompt)
            asked_of[doc.doc_id] = doc.asked
            if ids := next((request["prompt_ids"] for request in doc.requests if request.get("prompt_ids")), None):
                lengths.append((len(doc.prompt.split()), len(ids)))
    rows.prompts[str(columns["prompts"])] = texts
    asked = [asked_of[sample.doc_id] for sample in samples]
    words = sum(length for length, _ in lengths)
    return columns | {
        "asked": rows.share(asked) if any(asked) else None,
        "tokens": _tokens_of_words(lengths) if words else None,
        "words": words or None,
    }


def _tokens_of_words(lengths: Sequence[tuple[int, int]]) -> int:
    """Tokens of the words of prompts, without what each prompt has beside them (a chat template, a start token): the
    intercept of the line through words and tokens. All tokens where prompts are too few or too alike to tell."""
    words, tokens = np.array(lengths, float).T
    total, spread = float(tokens.sum()), float(words.std())
    if len(lengths) < LEAST or spread < 1:
        return round(total)
    slope = float(((words - words.mean()) * tokens).sum()) / (len(words) * spread**2)
    beside = float(tokens.mean() - slope * words.mean())
    return round(total - len(lengths) * min(max(beside, 0.0), float(tokens.min())))


def _items(samples: list[Sample]) -> Iterable[dict[str, Any]]:
    """A row for each metric: its values in the docs' order, and which docs have one."""
    for metric in sorted({name for sample in samples for name in sample.values}):
        values = [sample.values.get(metric) for sample in samples]
        present = [value is not None for value in values]
        kept = [value for value in values if value is not None]
        packed = packing.pack_values(kept)
        yield {"metric": metric, "n": len(kept), "present": packing.pack_mask(present), **dataclasses.asdict(packed)}


def _blocks(run: Run, task: str, samples: list[Sample]) -> Iterable[dict[str, Any]]:
    """Answers and responses, `schema.BLOCK` docs a row."""
    answers: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for response in run.responses(task):
        kept = {name: value for name, value in response.items() if name not in ("doc_id", "key")}
        answers[response["doc_id"]].append(kept)
    votes = _votes(run, task)
    for doc_id, parts in answers.items():
        parts.sort(key=lambda part: part["index"])
        if doc_id in votes:
            parts[0]["votes"] = votes[doc_id]
    for block, start in enumerate(range(0, len(samples), schema.BLOCK)):
        records = [
            [sample.answer, sample.key, sample.parse_failure, sample.error, answers[sample.doc_id]]
            for sample in samples[start : start + schema.BLOCK]
        ]
        yield {"block": block, "data": packing.pack_records(records)}


def _votes(run: Run, task: str) -> dict[int, list[dict[str, Any]]]:
    """doc_id -> what judges said of it in the layers that count, as the manifest names them: a row a vote, or one that
    says why no judge was asked (`without_call`)."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for layer in (run.manifest["tasks"][task].get("judge") or {}).get("layers") or ():
        about = {"rubric": (layer.get("rubric") or {}).get("name"), "mode": layer.get("mode")}
        wanted = f"{stem_of(task, str(about['rubric']), str(about['mode']))}.jsonl.gz"
        for path in (run.path / FOLDER).glob("*.jsonl.gz"):  # a name in a manifest opens no other file
            for row in read_lines(path) if path.name == wanted else ():
                if row["without_call"]:
                    found[row["doc_id"]].append(about | {"without_call": row["without_call"]})
                kept = ({key: vote[key] for key in VOTE if vote.get(key) is not None} for vote in row["votes"])
                found[row["doc_id"]] += [about | vote for vote in kept]
    return found


def _insert(connection: Connection, rows: _Rows) -> None:
    fresh = set(rows.lists) - _existing(connection, schema.lists, rows.lists)
    _insert_new(connection, schema.lists, [{"hash": key, "data": rows.lists[key]} for key in sorted(fresh)])
    # A list of prompts that is there has its prompts there.
    texts = {key: text for name, prompts in rows.prompts.items() if name in fresh for key, text in prompts.items()}
    missing = set(texts) - _existing(connection, schema.prompts, texts)
    packed = [{"hash": key, "text": texts[key]} for key in sorted(missing)]
    _insert_new(connection, schema.prompts, packed)
    _insert_new(connection, schema.models, [rows.model])
    connection.execute(insert(schema.runs), rows.run)
    for name in ("run_tasks", "scores", "items", "responses"):
        if rows.tables[name]:
            connection.execute(insert(schema.metadata.tables[name]), rows.tables[name])
    _refresh_model(connection, rows.model["fingerprint"])


def _insert_new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    if rows:
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def _existing(connection: Connection, table: Table, hashes: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for some in _batched(hashes):
        found |= set(connection.scalars(select(table.c.hash).where(table.c.hash.in_(some))))
    return found


def _batched(hashes: Iterable[str]) -> Iterator[list[str]]:
    """Parts of AT_ONCE, in order."""
    ordered = sorted(hashes)
    for start in range(0, len(ordered), AT_ONCE):
        yield ordered[start : start + AT_ONCE]


def _refresh_model(connection: Connection, fingerprint: str) -> None:
    """A model is called what its newest run calls it, in whatever order runs came; without runs it goes."""
    runs, models = schema.runs.c, schema.models.c
    of_model = select(runs.manifest).where(runs.model == fingerprint)
    manifest = connection.scalar(of_model.order_by(runs.created.desc(), runs.id.desc()).limit(1))
    if manifest is None:
        connection.execute(delete(schema.models).where(models.fingerprint == fingerprint))
    else:
        connection.execute(update(schema.models).where(models.fingerprint == fingerprint).values(_model_row(manifest)))


def _delete(connection: Connection, run_id: str) -> tuple[set[str], set[str]]:
    """Delete a run; the lists that it used, and those of them that name prompts: they may now be loose."""
    tasks = schema.run_tasks.c
    used = connection.execute(select(*(tasks[name] for name in schema.SHARED)).where(tasks.run_id == run_id)).all()
    model = connection.scalar(select(schema.runs.c.model).where(schema.runs.c.id == run_id))
    connection.execute(delete(schema.runs).where(schema.runs.c.id == run_id))
    if model is not None:
        _refresh_model(connection, model)
    return {key for row in used for key in row if key}, {row.prompts for row in used if row.prompts}


def _collect(connection: Connection, loose: set[str], of_prompts: set[str]) -> None:
    """Delete those of these lists that no run uses any more, and the prompts that no list names any more."""
    tasks, lists, prompts = schema.run_tasks.c, schema.lists.c, schema.prompts.c
    for name in schema.SHARED:
        loose = loose - set(connection.scalars(select(tasks[name]).where(tasks[name].in_(list(loose)))))
    gone = _names(connection, lists.hash.in_(list(loose & of_prompts))) if loose & of_prompts else set()
    if gone:
        gone -= _names(connection, lists.hash.in_(select(tasks.prompts)))
    connection.execute(delete(schema.lists).where(lists.hash.in_(list(loose))))
    for some in _batched(gone):
        connection.execute(delete(schema.prompts).where(prompts.hash.in_(some)))


def _names(connection: Connection, condition: ColumnElement[bool]) -> set[str]:
    """What the lists of that condition hold."""
    found = connection.scalars(select(schema.lists.c.data).where(condition))
    return {name for data in found for name in packing.unpack_list(data)}
