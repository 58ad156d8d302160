"""Two runs on the same documents: what differs, how sure that is, and whether they can be compared at all.

    for problem in problems(a, b, ["estcopa"]): ...     # other prompts, data, engine or scorer: named
    row = compare_task(a, b, "estcopa")                 # .difference, .value_a, .value_b, .only_a, .only_b
    found = compare(a, b)                               # all tasks of both, with adjusted p-values, as one object

Documents are paired by the hash of their data row; those that one run lacks are counted. Documents without a response
are missing in both, never wrong in one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from estbench import judged, stats
from estbench.errors import ConfigError, did_you_mean
from estbench.evidence import Evidence, Items
from estbench.metrics.judgments import is_judged
from estbench.runs import Score
from estbench.scoring import BOUNDS, metric_of
from estbench.stats import Difference
from estbench.stats.paired import REPLICATES

LEAST = 0.01  # of a share of documents that is worth a word


@dataclass(frozen=True, slots=True)
class Problem:
    """Why two runs are not comparable. kind: "prompts", "data", "engine", "scorer", "judges", or "form"."""

    kind: str
    task: str | None  # None: all of them
    text: str

    def __str__(self) -> str:
        return f"{self.task}: {self.text}" if self.task else self.text


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """A metric of a task in two runs, on the documents that both have."""

    task: str
    metric: str
    unit: str
    higher_is_better: bool
    value_a: float | None  # on the shared documents
    value_b: float | None
    difference: Difference  # turned: above 0, a is better
    places_a: list[int] = field(default_factory=list)  # of the shared documents in a's items
    places_b: list[int] = field(default_factory=list)
    only_a: int = 0
    only_b: int = 0

    @property
    def scale(self) -> float:
        """From the score's unit to what people read: points, or bits."""
        return 100.0 if self.unit == "proportion" else 1.0


def compare_task(
    a: Evidence, b: Evidence, task: str, metric: str | None = None, *, replicates: int = REPLICATES
) -> TaskComparison:
    """The paired difference of two runs in a task. ConfigError where a run lacks task or metric."""
    for run in (a, b):
        if task not in run.tasks:
            raise ConfigError(f"{run.id} has no task {task!r}.{did_you_mean(task, run.tasks)}")
    name = metric or str(a.tasks[task]["primary"])
    items = a.items(task), b.items(task)
    columns = [_values(run, one, task, name) for run, one in zip((a, b), items, strict=True)]
    return compare_items(a, task, name, items, columns, replicates)


def compare_items(
    a: Evidence,
    task: str,
    name: str,
    items: tuple[Items, Items],
    columns: Sequence[Sequence[Any]],
    replicates: int = REPLICATES,
) -> TaskComparison:
    """`compare_task` once the documents and their values are read."""
    places_a, places_b = shared(items[0].docs, items[1].docs, columns)
    one, other = ([column[at] for at in places] for column, places in zip(columns, (places_a, places_b), strict=True))
    path = str((a.tasks[task].get("data") or {}).get("path"))
    docs = [(path, items[0].docs[at]) for at in places_a]
    clusters = [None if (c := items[0].clusters[at]) is None else (path, c) for at in places_a]
    score, known = a.score(task, name), metric_of(name, [*one, *other])
    higher = score.higher_is_better if score else known.higher_is_better if known else True
    unit = score.unit if score else known.unit if known else "proportion"
    same = bool(docs) and all(
        items[0].keys[at] == items[1].keys[there] for at, there in zip(places_a, places_b, strict=True)
    )
    value_a, value_b, difference = _difference(name, one, other, clusters, docs, higher, unit, replicates)
    only = len(items[0].docs) - len(docs), len(items[1].docs) - len(docs)
    if same:
        difference = stats.identical(len(docs))
    return TaskComparison(task, name, unit, higher, value_a, value_b, difference, places_a, places_b, *only)


def _values(run: Evidence, items: Items, task: str, metric: str) -> list[Any]:
    if metric not in items.values:
        if not items.docs:
            return []
        known = [name for name in items.values if "/" not in name]
        raise ConfigError(
            f"{run.id} has no {metric!r} document by document for {task}: it has {', '.join(known)}."
            f"{did_you_mean(metric, known)}"
        )
    return items.values[metric]


def shared(
    docs_a: Sequence[str], docs_b: Sequence[str], columns: Sequence[Sequence[Any]]
) -> tuple[list[int], list[int]]:
    """Places of the documents that both have, with a value in both, in the order of the first."""
    place = {doc: at for at, doc in enumerate(docs_b) if columns[1][at] is not None}
    both = [at for at, doc in enumerate(docs_a) if doc in place and columns[0][at] is not None]
    return both, [place[docs_a[at]] for at in both]


def _difference(
    name: str,
    one: list[Any],
    other: list[Any],
    clusters: Sequence[Any],
    docs: Sequence[Any],
    higher: bool,
    unit: str,
    replicates: int,
) -> tuple[float | None, float | None, Difference]:
    metric = metric_of(name, [*one, *other])
    if metric and metric.kind == "corpus" and one:
        assert metric.combine is not None
        rows, others = (metric.prepare(part) if metric.prepare else np.asarray(part, float) for part in (one, other))
        options: dict[str, Any] = {"units": docs, "higher_is_better": higher, "replicates": replicates}
        found = stats.corpus_difference(rows, others, metric.combine, clusters, **options)
        value_a, value_b = (float(metric.combine(part.sum(axis=0))) for part in (rows, others))
        return _finite(value_a), _finite(value_b), found
    if not all(isinstance(value, (bool, int, float)) for value in (*one, *other)):
        return None, None, Difference(None, len(one), (), 0, 0, "no pairing: only the task's own code makes this score")
    low, high = BOUNDS[unit] if metric else (-math.inf, math.inf)
    span = high - low if math.isfinite(high - low) else None
    found = stats.difference(one, other, clusters, units=docs, span=span, higher_is_better=higher)
    return (_finite(float(np.mean(one))), _finite(float(np.mean(other))), found) if one else (None, None, found)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Row:
    """A task of `estbench compare`, in points (or bits)."""

    comparison: TaskComparison
    p: float
    p_adjusted: float  # Benjamini-Hochberg over the tasks
    detectable: float | None  # the smallest difference found four times in five, two-sided at 5 %

    @property
    def verdict(self) -> str:
        """ "a", "b": which is better by the adjusted p-value; "equal": identical; "open": can't be told apart."""
        found = self.comparison.difference
        if found.identical:
            return "equal"
        if self.p_adjusted > 0.05 or found.value is None or found.value == 0:
            return "open"
        return "a" if found.value > 0 else "b"


@dataclass(frozen=True)
class Comparison:
    """Two runs, task by task."""

    a: Evidence
    b: Evidence
    rows: list[Row]
    problems: list[Problem]
    left_out: dict[str, str]  # task -> why it is not compared


def compare(a: Evidence, b: Evidence, tasks: Sequence[str] | None = None, metric: str | None = None) -> Comparison:
    """All tasks of both runs, or those named; ConfigError if there is none in common."""
    both = [task for task in a.tasks if task in b.tasks]
    for task in tasks or ():
        if task not in both:
            raise ConfigError(f"{task} is not in both runs.{did_you_mean(task, both)}")
    chosen = list(tasks or both)
    if not chosen:
        raise ConfigError(f"{a.id} and {b.id} have no task in common.")
    left_out, found = {}, []
    for task in chosen:
        if a.tasks[task].get("primary") != b.tasks[task].get("primary") and metric is None:
            left_out[task] = "the two runs have other primary metrics"
            continue
        if waiting := [run.name for run in (a, b) if awaits(run, task, metric)]:
            left_out[task] = f"awaiting judge: {' and '.join(waiting)}"
            continue
        found.append(compare_task(a, b, task, metric))
    p_values = [row.difference.p_value() for row in found]
    adjusted = stats.benjamini_hochberg(p_values)
    rows = [
        Row(row, p, better, row.difference.detectable(0.025))
        for row, p, better in zip(found, p_values, adjusted, strict=True)
    ]
    return Comparison(a, b, rows, problems(a, b, [row.task for row in found], metric=metric), left_out)


def awaits(run: Evidence, task: str, metric: str | None = None) -> bool:
    """Whether what a task is compared by comes from judges, and none has judged this run yet."""
    name = metric or str(run.tasks[task].get("primary"))
    return is_judged(name) and name not in run.items(task).values


def labels(a: Evidence, b: Evidence) -> tuple[str, str]:
    """What to call two runs so that they can be told apart."""
    return (a.name, b.name) if a.name != b.name else (f"{a.name} ({a.id})", f"{b.name} ({b.id})")


def problems(
    a: Evidence, b: Evidence, tasks: Iterable[str], *, least_overlap: float = LEAST, metric: str | None = None
) -> list[Problem]:
    """What keeps two runs from being compared. least_overlap: share of a's documents that b has to have. metric: the
    one that is compared, if it is not what tasks are ranked by."""
    found = _engines(a, b)
    for task in tasks:
        one, other = a.tasks.get(task), b.tasks.get(task)
        if one is not None and other is not None:
            found += [replace(problem, task=task) for problem in _task_problems(a, b, task, one, other, least_overlap)]
            found += _judges(a, b, task, metric)
    return found


def judged_by(score: Score | None) -> str | None:
    """What a judged score may be compared with: its signature (rubric, anchor, panel, language) without the word on
    calibration; None for a score of no judge."""
    state = judged.state(score) if score is not None else None
    return str(score.signature).removesuffix(f"|{state}") if score is not None and state is not None else None


def _judges(a: Evidence, b: Evidence, task: str, metric: str | None) -> list[Problem]:
    """Other judges, another rubric or anchor: numbers of two yardsticks."""
    one, other = (judged_by(run.score(task, metric or str(run.tasks[task].get("primary")))) for run in (a, b))
    known = one is not None and other is not None
    return [Problem("judges", task, f"judged by {one} and by {other}")] if known and one != other else []


def _engines(a: Evidence, b: Evidence) -> list[Problem]:
    """Engine and dtype: numbers of two engines differ by more than nothing."""
    found = []
    for key, label in (("engine", "engine"), ("dtype", "dtype")):
        one, other = a.manifest["engine"].get(key), b.manifest["engine"].get(key)
        if one != other:
            found.append(Problem("engine", None, f"{a.name} was answered with {label} {one}, {b.name} with {other}"))
    return found


def _task_problems(
    a: Evidence, b: Evidence, task: str, one: dict[str, Any], other: dict[str, Any], least_overlap: float
) -> list[Problem]:
    found = []
    if one.get("form") != other.get("form"):
        found.append(Problem("form", task, f"form {one.get('form')} against {other.get('form')}"))
    docs, theirs = a.items(task).docs, set(b.items(task).docs)
    both = [doc for doc in docs if doc in theirs]
    if docs and len(both) < max(1.0, least_overlap * len(docs)):
        text = f"{len(both):,} of {len(docs):,} documents are in the other run, which has {len(theirs):,}"
        found.append(Problem("data", task, text))
    if one.get("plan_hash") != other.get("plan_hash") and both:
        asked, theirs_asked = a.asked(task), b.asked(task)
        changed = sum(asked.get(doc) != theirs_asked.get(doc) for doc in both)
        if changed:
            shots = (
                f" (shots {one.get('shots')} and {other.get('shots')})"
                if one.get("shots") != other.get("shots")
                else ""
            )
            found.append(
                Problem("prompts", task, f"{changed:,} of {len(both):,} documents were asked otherwise{shots}")
            )
    if one.get("scorer") != other.get("scorer"):
        found.append(Problem("scorer", task, "scored by other code: the same `estbench eval` again scores anew"))
    return found
