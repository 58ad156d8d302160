"""Single documents of a task as pages about several models need them: texts, values of each, and which are hard.

    read(database, run, task, docs)["3f…"].answer          # of the responses only the blocks that hold these
    alone("chrf++", values)                                # what each document is worth by itself
    difficulty(database, task, models)                     # mean over models, document by document

Texts may be shown only of runs that `allowed` names.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from estbench.database import packing, queries, schema
from estbench.database.engine import Database
from estbench.errors import EstbenchError
from estbench.scoring import metric_of
from estbench_leaderboard import public
from estbench_leaderboard.snapshot import Model, Snapshot, Task

Floats = NDArray[np.float64]

MOST = 40  # models that say how hard the documents of a corpus metric are
LISTS = ("docs", "prompts", "targets")
BROKEN = (EstbenchError, ValueError, TypeError, IndexError, KeyError)  # of values that no metric of ours made


@dataclass(frozen=True, slots=True)
class Document:
    """A document and what a model answered."""

    doc: str
    position: int
    prompt: str  # its hash
    target: Any
    answer: Any
    responses: list[dict[str, Any]]
    parse_failure: bool
    error: str | None


@dataclass(frozen=True)
class Difficulty:
    """How well models do on each document of a task."""

    docs: tuple[str, ...]  # in the order of the data
    means: Floats  # NaN where a document by itself has no score
    models: int
    solved: bool  # 0/1 values: the mean is the share of models that are right

    def hardest(self, count: int) -> list[int]:
        """Places of the documents on which the models do worst, the worst first."""
        order = np.argsort(self.means, kind="stable")  # NaN comes last
        return [int(at) for at in order[:count] if math.isfinite(self.means[at])]


def allowed(database: Database, snapshot: Snapshot, task: str, runs: Sequence[str]) -> list[str]:
    """Those of the runs whose documents of a task are here and may be shown, in their order."""
    tasks = schema.run_tasks.c
    asked = select(tasks.run_id, tasks.publish_items, tasks.card).where(tasks.task == task, tasks.run_id.in_(runs))
    with database.read() as connection:
        rows = connection.execute(asked.where(tasks.docs.is_not(None))).all()
    fine = {row.run_id for row in rows if public.shows_items(snapshot, task, row.publish_items, row.card or {})}
    return [run for run in runs if run in fine]


def read(database: Database, run: str, task: str, docs: Iterable[str], *, first: bool = False) -> dict[str, Document]:
    """Documents of a task of a run by their hashes, and the very first; those that it lacks are left out."""
    tasks, responses = schema.run_tasks.c, schema.responses.c
    asked = select(*(tasks[name] for name in LISTS)).where(tasks.run_id == run, tasks.task == task)
    with database.read() as connection:
        row = connection.execute(asked).first()
        if row is None or row.docs is None:
            return {}
        of_lists = select(schema.lists).where(schema.lists.c.hash.in_([row.docs, row.prompts, row.targets]))
        lists = {found.hash: packing.unpack_list(found.data) for found in connection.execute(of_lists)}
        names, prompts, targets = (lists[key] for key in row)
        place = {doc: at for at, doc in enumerate(names)}
        wanted = [place[doc] for doc in docs if doc in place] + ([0] if first and names else [])
        blocks = sorted({at // schema.BLOCK for at in wanted})
        of_blocks = select(responses.block, responses.data).where(
            responses.run_id == run, responses.task == task, responses.block.in_(blocks)
        )
        packed = {found.block: zlib.decompress(found.data).split(b"\n") for found in connection.execute(of_blocks)}
    found: dict[str, Document] = {}
    for at in wanted:
        if at // schema.BLOCK in packed:
            answer, _, parse_failure, error, said = json.loads(packed[at // schema.BLOCK][at % schema.BLOCK])
            whole = (names[at], at, prompts[at], targets[at], answer, said, bool(parse_failure), error)
            found[names[at]] = Document(*whole)
    return found


def prompts(database: Database, hashes: Iterable[str]) -> dict[str, str]:
    """Texts of prompts by their hashes."""
    rows = select(schema.prompts).where(schema.prompts.c.hash.in_(sorted(set(hashes))))
    with database.read() as connection:
        return {row.hash: packing.unpack_text(row.text) for row in connection.execute(rows)}


def alone(metric: str, values: Sequence[Any] | NDArray[Any]) -> Floats:
    """What each document is worth by itself, a corpus metric of it alone; NaN where that is nothing."""
    known = metric_of(metric, values)  # type: ignore[arg-type]  # an array of statistics is as good as a list of them
    try:
        if known is not None and known.kind == "corpus" and known.combine is not None:
            rows = known.prepare(_listed(values)) if known.prepare else np.asarray(values, float)
            with np.errstate(all="ignore"):
                found = np.asarray(known.combine(rows), float)
        else:
            found = np.asarray(values, float)
    except BROKEN:
        return np.full(len(values), math.nan)
    if found.shape != (len(values),):
        return np.full(len(values), math.nan)
    return np.where(np.isfinite(found), found, math.nan)


def _listed(values: Sequence[Any] | NDArray[Any]) -> list[Any]:
    """Plain lists, for what looks at each document by itself: rows of arrays are slow."""
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def difficulty(database: Database, task: Task, models: Sequence[Model]) -> Difficulty | None:
    """How hard each document is for these models; of a corpus metric for at most MOST of them, evenly chosen. None:
    there are no values, or they say nothing about single documents."""
    runs = {
        cell.run: model.slug
        for model in models
        if (cell := model.cells[task.name]).reason is None and cell.run is not None
    }
    chosen = list(runs)
    first = queries.items_of_runs(database, chosen[:1], task.name, task.metric)
    if any(items.values.ndim == 2 or items.values.dtype == object for items in first.values()):
        chosen = chosen[:: math.ceil(len(chosen) / MOST)]
    items = queries.items_of_runs(database, chosen, task.name, task.metric)
    docs = max((found.docs for found in items.values()), key=len, default=())
    rows = [
        np.asarray(found.values, float)
        if found.values.ndim == 1 and found.values.dtype != object
        else alone(task.metric, found.values if found.values.ndim == 2 else found.values.tolist())
        for found in items.values()
        if found.docs == docs
    ]
    if not docs or not rows:
        return None
    table = np.stack(rows)
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    means = np.divide(np.where(known, table, 0).sum(axis=0), counts, out=np.full(len(docs), math.nan), where=counts > 0)
    seen = means[np.isfinite(means)]
    if not len(seen) or (len(seen) > 1 and not np.ptp(table[known])):
        return None  # every document has the same value: Matthews' correlation of one document is always 0
    return Difficulty(docs, means, len(rows), bool(np.isin(table[known], (0.0, 1.0)).all()))
