"""Scores of single documents, once a version of the database: what ranks, hardest documents and distributions need.

prepared = ranked.prepared(database, tasks, models)
values = ranked.values(database, task, models)       # (models, docs): a row of NaN where a model lacks the task
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from estbench.database import queries
from estbench.database.engine import Database
from estbench.ranking import document_values
from estbench.stats.ranks import Prepared, Table, TaskValues, prepare

if TYPE_CHECKING:
    from estbench_leaderboard.snapshot import Model, Task

REPLICATES = 1000


def prepared(database: Database, tasks: Sequence[Task], models: Sequence[Model]) -> Prepared | None:
    """Everything that ranks under any choice of tasks and weights need; None where nothing can be ranked."""
    parts = [part for task in tasks if (part := _part(database, task, models)) is not None]
    if not parts:
        return None
    return prepare(Table([model.slug for model in models], parts), replicates=REPLICATES)


def _part(database: Database, task: Task, models: Sequence[Model]) -> TaskValues | None:
    found = values(database, task, models)
    if found is None or task.maximum is None:
        return None
    rows, clusters = found
    part = TaskValues(task.name, rows, clusters, task.chance, task.maximum, task.higher_is_better)
    try:
        part.ends()
    except ValueError:  # nothing is better than chance: no score can be corrected
        return None
    return part


def values(
    database: Database, task: Task, models: Sequence[Model]
) -> tuple[NDArray[np.float64], list[Any] | None] | None:
    """Values of all models doc by doc (those of a corpus metric linearised), and the docs' clusters; None: no model has
    any."""
    runs = {
        cell.run: place
        for place, model in enumerate(models)
        if (cell := model.cells[task.name]).reason is None and cell.run is not None
    }
    items = queries.items_of_runs(database, list(runs), task.name, task.metric)
    whole = {run: found for run, found in items.items() if len(found.docs)}
    if not whole:
        return None
    if task.judges is not None:  # a few verdicts may be missing: models are compared where all of them have one
        whole = _shared(whole)
    docs = max((found.docs for found in whole.values()), key=len)
    first = next(found for found in whole.values() if found.docs == docs)
    table = np.full((len(models), len(docs)), math.nan)
    for run, found in whole.items():
        if found.docs == docs and (row := document_values(task.metric, found.values, found.clusters)) is not None:
            table[runs[run]] = row
    if np.isnan(table).all():
        return None
    return table, None if first.clusters is None else list(first.clusters)


def _shared(whole: dict[str, queries.Items]) -> dict[str, queries.Items]:
    """The documents that all of them have, in the order of the data."""
    docs = set.intersection(*(set(found.docs) for found in whole.values()))
    places = {run: [at for at, doc in enumerate(found.docs) if doc in docs] for run, found in whole.items()}
    return {run: found.take(places[run]) for run, found in whole.items()}
