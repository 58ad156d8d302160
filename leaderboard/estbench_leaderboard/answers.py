"""The documents of a run and what a model answered: the only pages that read samples, and then only those they show.

    listed(database, run, task, score, order, page)      # a page of the documents of a task of a run
    others(request, task, doc, but=run)                  # what other models answered to the same document

Whether anyone may see them is for the caller to ask of `public.shows_items`.
"""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from estbench.database import packing, queries, schema
from estbench.database.engine import Database
from estbench.errors import StoreError
from estbench.runs import Score
from estbench.scoring import metric_of
from estbench_leaderboard import documents
from estbench_leaderboard.shown import as_text, line
from estbench_leaderboard.site import Request
from estbench_leaderboard.snapshot import Model

ORDERS = ("failures", "worst", "position")
ROWS = 50  # documents of a page
OTHERS = 6  # models beside the one that is looked at
TRIED = 12  # models that are asked for a document before one gives up
MATES = 20  # documents of the same cluster


@dataclass(frozen=True, slots=True)
class Document:
    """A document in the list of a run."""

    position: int  # in the order of the data
    doc: str  # its hash
    doc_id: int
    cluster: str | None
    value: float | None  # of the primary metric, for this document alone; None: it has none
    parse_failure: bool
    error: bool
    answer: str  # the start of it


@dataclass(frozen=True, slots=True)
class Documents:
    """A page of the documents of a task of a run."""

    task: str
    metric: str
    unit: str
    order: str
    page: int
    total: int
    rows: tuple[Document, ...]

    @property
    def pages(self) -> int:
        return max(1, math.ceil(self.total / ROWS))


@dataclass(frozen=True, slots=True)
class Other:
    """The answer of another model."""

    model: Model
    run: str
    sample: queries.StoredSample


def single(metric: str, stored: Any) -> float | None:
    """The score of one document by itself, from what is kept of it; None: only the whole corpus has one."""
    if isinstance(stored, bool | int | float):
        return float(stored) if math.isfinite(stored) else None
    return _singles(metric, [stored])[0]


def _singles(metric: str, kept: Sequence[Any]) -> list[float | None]:
    known = metric_of(metric, kept)
    if known is None or known.combine is None or not len(kept):
        return [None] * len(kept)
    with np.errstate(all="ignore"):
        try:
            rows = known.prepare(kept) if known.prepare else np.asarray(kept, float)
            found = [float(known.combine(row)) for row in rows]
        except (ValueError, TypeError, IndexError):
            return [None] * len(kept)
    return [value if math.isfinite(value) else None for value in found]


def listed(database: Database, run: str, task: str, score: Score, order: str, page: int) -> Documents:
    """A page of documents: `failures` those without an answer first, `worst` by their own score, or by `position`.

    A run that came without samples has none.
    """
    shared = _lists(database, run, task)
    docs, values = shared["docs"], _values(database, run, task, score.metric, shared["docs"])
    places = list(range(len(docs)))
    with_value = [value is not None for value in values]
    if order == "worst":
        sign = 1 if score.higher_is_better else -1
        numbers = [single(score.metric, value) if value is not None else None for value in values]
        places.sort(key=lambda at: (numbers[at] is None, sign * (numbers[at] or 0.0), at))
    elif order == "failures":
        first = dict.fromkeys(_failed(database, run, task, score, page * ROWS, with_value))
        places = [*first, *(at for at in places if at not in first)]
    chosen = places[(page - 1) * ROWS : page * ROWS]
    records = _records(database, run, task, chosen)
    rows = []
    for at in chosen:
        answer, _, parse_failure, error, responses = records[at]
        rows.append(
            Document(
                position=at,
                doc=docs[at],
                doc_id=shared["doc_ids"][at],
                cluster=shared["clusters"][at] if shared["clusters"] else None,
                value=single(score.metric, values[at]) if values[at] is not None else None,
                parse_failure=bool(parse_failure),
                error=error is not None,
                answer=line(preview(answer, responses)),
            )
        )
    return Documents(task, score.metric, score.unit, order, page, len(docs), tuple(rows))


def preview(answer: Any, responses: Sequence[Any]) -> str:
    """What a list shows of an answer: its text, or the number of the option that was chosen."""
    if isinstance(answer, int) and not isinstance(answer, bool) and len(responses) > 1:
        return f"#{answer + 1}"
    return "" if answer is None else as_text(answer).strip()


def neighbours(database: Database, run: str, task: str, doc: str) -> dict[str, Any] | None:
    """Where a document stands in its task: its position, the one before and after, those of its cluster; None: it is
    not there."""
    shared = _lists(database, run, task)
    docs: tuple[str, ...] = shared["docs"]
    if doc not in docs:
        return None
    at = docs.index(doc)
    clusters = shared["clusters"]
    mates: list[str] = []
    if clusters and clusters[at] is not None:
        mates = [docs[place] for place, cluster in enumerate(clusters) if cluster == clusters[at] and place != at]
    return {
        "position": at,
        "total": len(docs),
        "previous": docs[at - 1] if at else None,
        "next": docs[at + 1] if at + 1 < len(docs) else None,
        "mates": [(docs.index(mate), mate) for mate in mates[:MATES]],
    }


def others(request: Request, task: str, doc: str, but: str) -> list[Other]:
    """Answers of other models to the same document, the best ranked first."""
    here = request.snapshot.task(task)
    if here is None:
        return []
    board, database = request.snapshot.boards[here.board], request.site.database
    ranking = board.ranking({task: 1.0})
    order = {row.model: place for place, row in enumerate(ranking.rows)} if ranking else {}
    models = sorted(board.models.values(), key=lambda model: (order.get(model.slug, len(order)), model.name))
    asked = {
        run: model
        for model in models
        if (run := model.cells[task].run) is not None and run != but and model.withdrawn is None
    }
    found: list[Other] = []
    for run in documents.allowed(database, request.snapshot, task, list(asked)[:TRIED]):
        if len(found) == OTHERS:
            break
        with contextlib.suppress(StoreError):  # it was not asked this document
            found.append(Other(asked[run], run, queries.sample(database, run, task, doc)))
    return found


def _lists(database: Database, run: str, task: str) -> dict[str, Any]:
    """The documents of a task of a run: their hashes, ids and clusters; empty where it has no samples."""
    tasks, names = schema.run_tasks.c, ("docs", "doc_ids", "clusters")
    with database.read() as connection:
        asked = select(*(tasks[name] for name in names)).where((tasks.run_id == run) & (tasks.task == task))
        row = connection.execute(asked).first()
        keys = {name: None if row is None else getattr(row, name) for name in names}
        of_lists = select(schema.lists).where(schema.lists.c.hash.in_([key for key in keys.values() if key]))
        data = {found.hash: packing.unpack_list(found.data) for found in connection.execute(of_lists)}
    return {name: data[key] if key else None if name == "clusters" else () for name, key in keys.items()}


def _values(database: Database, run: str, task: str, metric: str, docs: Sequence[str]) -> list[Any]:
    """What is kept of each document for a metric; None where it has no value."""
    found = queries.items_of_runs(database, [run], task, metric).get(run)
    if found is None:
        return [None] * len(docs)
    known = dict(zip(found.docs, found.values.tolist(), strict=True))
    return [known.get(doc) for doc in docs]


def _failed(
    database: Database, run: str, task: str, score: Score, wanted: int, with_value: Sequence[bool]
) -> list[int]:
    """The first `wanted` positions without a response or without an answer in it."""
    if not score.parse_failures:
        return [at for at, there in enumerate(with_value) if not there]
    found: list[int] = []
    for block in range(math.ceil(len(with_value) / schema.BLOCK)):
        start = block * schema.BLOCK
        records = _records(database, run, task, range(start, min(start + schema.BLOCK, len(with_value))))
        found += [at for at, record in records.items() if record[2] or record[3] is not None]
        if len(found) >= wanted:
            break
    return found


def _records(database: Database, run: str, task: str, positions: Iterable[int]) -> dict[int, list[Any]]:
    """Position -> [answer, key, parse failure, error, responses]."""
    wanted = sorted(set(positions))
    responses = schema.responses.c
    blocks = sorted({at // schema.BLOCK for at in wanted})
    chosen = (responses.run_id == run) & (responses.task == task) & responses.block.in_(blocks)
    with database.read() as connection:
        packed = {
            row.block: row.data for row in connection.execute(select(responses.block, responses.data).where(chosen))
        }
    lines = {block: zlib.decompress(data).split(b"\n") for block, data in packed.items()}
    return {at: json.loads(lines[at // schema.BLOCK][at % schema.BLOCK]) for at in wanted}


def texts(responses: Sequence[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """The texts that the engine returned, with the number of the request."""
    for number, response in enumerate(responses):
        if isinstance(response.get("text"), str):
            yield number, response["text"]
