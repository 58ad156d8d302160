"""Several runs side by side: the means of their scores, how sure they are, and which runs can't be told apart.

found = rank_runs({"λ 0.5": evidence, "λ 1": other})     # Ranking of stats.ranks; None: nothing can be ranked
values = document_values("chrf", column, clusters)       # one number a document, also of a corpus metric
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench.evidence import Evidence, Items
from estbench.scoring import BOUNDS, metric_of
from estbench.stats.intervals import Clusters
from estbench.stats.ranks import Ranking, Table, TaskValues, linearised, rank


def rank_runs(runs: Mapping[str, Evidence]) -> Ranking | None:
    """The runs by the mean of their scores, corrected for chance, over the tasks that all of them have.

    Each task counts once, by what it is ranked by, on the documents that all of them have. None where no task is left:
    without a best possible score (bits), without scores of single documents, or with no document in common.
    StoreError: a run that can't be read.
    """
    names, first = list(runs), next(iter(runs.values()))
    parts = [part for task in first.tasks if (part := _task(list(runs.values()), task)) is not None]
    return rank(Table(names, parts)) if parts else None


def _task(runs: Sequence[Evidence], task: str) -> TaskValues | None:
    """A task's values of all runs, document by document."""
    if not all(task in run.tasks for run in runs):
        return None
    metrics = {str(run.tasks[task].get("primary")) for run in runs}
    metric = metrics.pop()
    score = runs[0].score(task, metric)
    if metrics or score is None or not math.isfinite(BOUNDS[score.unit][1]):
        return None
    items = [run.items(task) for run in runs]
    if not all(metric in one.values for one in items) or not (docs := _shared(items, metric)):
        return None
    cluster = dict(zip(items[0].docs, items[0].clusters, strict=True))
    clusters = [cluster[doc] for doc in docs]
    rows = []
    for one in items:
        value = dict(zip(one.docs, one.values[metric], strict=True))
        found = document_values(metric, [value[doc] for doc in docs], clusters)
        if found is None:
            return None
        rows.append(found)
    maximum = BOUNDS[score.unit][1]
    part = TaskValues(task, np.stack(rows), clusters, score.chance, maximum, score.higher_is_better)
    try:
        part.ends()
    except ValueError:  # nothing is better than chance: no score can be corrected
        return None
    return part


def _shared(items: Sequence[Items], metric: str) -> list[str]:
    """The documents for which each has a value, in the order of the first."""
    known = [
        {doc for doc, value in zip(one.docs, one.values[metric], strict=True) if value is not None} for one in items
    ]
    return [doc for doc in items[0].docs if all(doc in one for one in known)]


def document_values(
    metric: str, column: Sequence[Any] | NDArray[Any], clusters: Clusters = None
) -> NDArray[np.float64] | None:
    """(n,): one number a document, whose mean is the score; of a corpus metric its values linearised.

    column: n numbers, or n rows of a corpus metric's statistics. None where only the task's own code makes a score of
    what is kept, or where the score is not a number.
    """
    # Plain lists for what looks at each document by itself: rows of arrays are slow.
    listed = column.tolist() if isinstance(column, np.ndarray) else list(column)
    if all(isinstance(value, (bool, int, float)) for value in listed):
        return np.asarray(listed, float)
    known = metric_of(metric, listed)
    if known is None or known.combine is None:
        return None
    rows = known.prepare(listed) if known.prepare else np.asarray(listed, float)
    try:
        return linearised(rows, known.combine, clusters)
    except ValueError:
        return None
