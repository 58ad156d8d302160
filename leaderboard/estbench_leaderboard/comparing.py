"""Models on the same documents, from the database: what `estbench compare` says of two run folders.

    found = comparing.of(database, snapshot, [first, second, third])
    found[0].lines[0].row.verdict, found[0].skills[0].difference, found[0].problems

The statistics are those of `estbench.compare`. One thing is done for speed: the interval of a corpus metric (chrF++,
F0.5, …) comes from the jackknife's standard error and Student's t, and not from ten thousand bootstrap replicates.
p-values are adjusted over everything that the page compares: by Benjamini and Hochberg over tasks and pairs of models,
by Holm over the pooled differences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from estbench import stats
from estbench.compare import Problem, Row, TaskComparison, compare_items, problems
from estbench.database import packing, schema
from estbench.database.engine import Database
from estbench.evidence import Evidence, Items
from estbench.runs import Score
from estbench.stats import Difference
from estbench_leaderboard.documents import BROKEN
from estbench_leaderboard.judging import judge_of, weakest
from estbench_leaderboard.skills import SKILLS
from estbench_leaderboard.snapshot import Cell, Model, Snapshot, Task

LEAST, MOST = 2, 6  # models
ALPHA = 0.05
POINTS = {"proportion": 100.0, "points": 1.0}  # units that are pooled, and what makes points of them


@dataclass(frozen=True)
class Subject:
    """A model with its scores on all boards."""

    model: Model
    cells: Mapping[str, Cell]
    tasks: Mapping[str, Task]


@dataclass(frozen=True, slots=True)
class Line:
    """A task that both models have done."""

    task: Task
    runs: tuple[str, str]
    row: Row
    problems: tuple[Problem, ...] = ()  # why the two scores can't be compared; then there is no verdict
    judge: str | None = None  # whether judges gave them: uncalibrated, calibrated

    @property
    def comparison(self) -> TaskComparison:
        return self.row.comparison

    @property
    def difference(self) -> Difference:
        """Above 0: the first model is better."""
        return self.row.comparison.difference

    @property
    def verdict(self) -> str:
        """a, b, open, equal, or incomparable."""
        return "incomparable" if self.problems else self.row.verdict


@dataclass(frozen=True, slots=True)
class Pooled:
    """The mean difference over several tasks, in points."""

    name: str  # a skill, or "total"
    difference: Difference
    tasks: int
    p: float
    p_adjusted: float  # Holm
    judge: str | None = None  # whether judges gave some of it

    @property
    def verdict(self) -> str:
        """a, b or open."""
        if self.p_adjusted > ALPHA or not self.difference.value:
            return "open"
        return "a" if self.difference.value > 0 else "b"

    @property
    def detectable(self) -> float | None:
        """The smallest difference that would be found four times in five."""
        return self.difference.detectable(ALPHA / 2)


@dataclass(frozen=True)
class Pair:
    """The first model against another."""

    first: Subject
    other: Subject
    lines: tuple[Line, ...]  # by skill
    skills: tuple[Pooled, ...]  # those with several tasks
    total: Pooled | None  # every skill counts the same
    engines: tuple[Problem, ...]  # another engine or number format: a difference of its own, mostly small
    left_out: Mapping[str, str]  # task -> only_first, only_other, no_documents, metrics, broken

    def line(self, task: str) -> Line | None:
        """The line of a task."""
        return next((line for line in self.lines if line.task.name == task), None)


class Stored(Evidence):
    """A run as comparisons see it, with the primary metric of its tasks document by document."""

    def __init__(self, database: Database, manifest: dict[str, Any], scores: list[Score], items: dict[str, Items]):
        super().__init__(manifest, scores, None, {})
        self.database = database
        self._read.update(items)

    def asked(self, task: str) -> dict[str, str]:
        """Document hash -> hash of what was asked; empty where nobody knows."""
        columns = schema.run_tasks.c
        key = select(columns.asked, columns.docs).where(columns.run_id == self.id, columns.task == task)
        with self.database.read() as connection:
            row = connection.execute(key).one()
            found = select(schema.lists).where(schema.lists.c.hash.in_([hash_ for hash_ in row if hash_]))
            lists = {one.hash: packing.unpack_list(one.data) for one in connection.execute(found)}
        return dict(zip(lists[row.docs], lists[row.asked], strict=True)) if row.asked and row.docs else {}

    def knows_asked(self, task: str) -> bool:
        """Whether it is known what was asked."""
        return self.tasks[task]["plan_hash"] is not None


def subject(snapshot: Snapshot, model: Model) -> Subject:
    """A model with all its scores, whichever board they are on."""
    cells: dict[str, Cell] = {}
    tasks: dict[str, Task] = {}
    for own in snapshot.everywhere(model.fingerprint):
        if own.fingerprint == model.fingerprint:  # and not named like it
            for name, cell in own.cells.items():
                if cell.run is not None and cell.score is not None and cell.score.value is not None:
                    cells.setdefault(name, cell)
                    tasks.setdefault(name, snapshot.boards[own.board].tasks[name])
    return Subject(model, cells, tasks)


def of(database: Database, snapshot: Snapshot, models: Sequence[Model]) -> tuple[Pair, ...]:
    """The first model against each of the others, on all tasks that both have done."""
    first, *others = (subject(snapshot, model) for model in models)
    wanted: dict[str, set[str]] = defaultdict(set)
    for other in others:
        for task in first.cells.keys() & other.cells.keys():
            for side in (first, other):
                wanted[str(side.cells[task].run)].add(task)
    stored = stored_runs(database, wanted, (first, *others))
    return _adjusted([_pair(first, other, stored) for other in others])


def stored_runs(database: Database, wanted: Mapping[str, set[str]], sides: Iterable[Subject]) -> dict[str, Stored]:
    """Runs with the tasks that are wanted of them, in three queries."""
    tasks, item, runs = schema.run_tasks.c, schema.items.c, list(wanted)
    columns = (tasks.run_id, tasks.task, tasks.card, tasks.form, tasks.primary_metric)
    lists = (tasks.docs, tasks.clusters, tasks.asked)
    own = (item.run_id == tasks.run_id) & (item.task == tasks.task) & (item.metric == tasks.primary_metric)
    values = (item.kind, item.width, item.present, item.data)
    joined = schema.run_tasks.join(schema.items, own)
    found = select(*columns, *lists, *values).select_from(joined).where(tasks.run_id.in_(runs), tasks.docs.is_not(None))
    with database.read() as connection:
        rows = [row for row in connection.execute(found) if row.task in wanted[row.run_id]]
        keys = {key for row in rows for key in (row.docs, row.clusters) if key is not None}
        of_lists = select(schema.lists).where(schema.lists.c.hash.in_(keys))
        known = {row.hash: packing.unpack_list(row.data) for row in connection.execute(of_lists)}
        of_runs = select(schema.runs.c.id, schema.runs.c.engine).where(schema.runs.c.id.in_(runs))
        engines = {row.id: row.engine for row in connection.execute(of_runs)}
    scores: dict[str, list[Score]] = defaultdict(list)
    names: dict[str, str] = {}
    for side in sides:
        for cell in side.cells.values():
            if cell.score is not None and cell.run is not None:
                scores[cell.run].append(cell.score)
                names[cell.run] = side.model.name
    made: dict[str, Stored] = {}
    for run in runs:
        of_run = [row for row in rows if row.run_id == run]
        engine = engines.get(run)
        manifest = {"run": run, "name": names[run], "engine": engine if isinstance(engine, dict) else {}}
        cards = {row.task: _card(row) for row in of_run}
        items = {row.task: _items(row, known) for row in of_run}
        made[run] = Stored(database, manifest | {"tasks": cards}, scores[run], items)
    return made


def _card(row: Any) -> dict[str, Any]:
    """A task's part of the manifest. Its plan hash is that of what was asked, before the model's template."""
    asked = None if row.asked is None else f"{row.docs} {row.asked}"
    return {**(row.card or {}), "primary": row.primary_metric, "form": row.form, "plan_hash": asked}


def _items(row: Any, lists: Mapping[str, tuple[Any, ...]]) -> Items:
    docs = lists[row.docs]
    clusters = lists[row.clusters] if row.clusters is not None else (None,) * len(docs)
    if row.present is not None:
        kept = packing.unpack_mask(row.present, len(docs)).tolist()
        docs, clusters = (
            tuple(value for value, there in zip(part, kept, strict=True) if there) for part in (docs, clusters)
        )
    packed = packing.unpack_values(row.kind, row.width, row.data)
    values = list(packed) if packed.ndim == 2 else packed.tolist()  # rows as they are: lists of lists take long to make
    # Other weights give other responses, so that no key of one model is a key of another.
    keys = [row.run_id] * len(docs)
    return Items(list(docs), list(clusters), keys, [], [], [], {row.primary_metric: values})


def _pair(first: Subject, other: Subject, stored: Mapping[str, Stored]) -> Pair:
    """The pair with p-values that are not adjusted yet."""
    left_out = {task: "only_first" for task in first.cells if task not in other.cells}
    left_out |= {task: "only_other" for task in other.cells if task not in first.cells}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task in first.cells:
        if task in other.cells:
            runs = str(first.cells[task].run), str(other.cells[task].run)
            if any(task not in stored[run].tasks for run in runs):
                left_out[task] = "no_documents"
            elif len({stored[run].tasks[task]["primary"] for run in runs}) > 1:
                left_out[task] = "metrics"
            else:
                groups[runs].append(task)
    engines: dict[str, Problem] = {}
    lines = []
    for runs, tasks in groups.items():
        a, b = stored[runs[0]], stored[runs[1]]
        known = [problem for problem in problems(a, b, tasks) if _holds(problem, a, b)]
        engines |= {problem.text: problem for problem in known if problem.task is None}
        for task in tasks:
            row = _compared(a, b, task)
            if row is None:
                left_out[task] = "broken"
                continue
            own = tuple(problem for problem in known if problem.task == task)
            judge = judge_of([first.cells[task], other.cells[task]])
            lines.append(Line(first.tasks[task], runs, row, own, judge))
    return Pair(first, other, tuple(sorted(lines, key=_place)), (), None, tuple(engines.values()), left_out)


def _holds(problem: Problem, a: Stored, b: Stored) -> bool:
    """Whether a problem is known, and does not only come from not knowing what was asked."""
    task = problem.task
    return problem.kind != "prompts" or task is None or (a.knows_asked(task) and b.knows_asked(task))


def _compared(a: Stored, b: Stored, task: str) -> Row | None:
    metric = str(a.tasks[task]["primary"])
    items = a.items(task), b.items(task)
    try:
        found = compare_items(a, task, metric, items, [one.values[metric] for one in items], replicates=0)
    except BROKEN:  # values from outside that are none of the metric's
        return None
    p = found.difference.p_value()
    return Row(found, p, p, found.difference.detectable(ALPHA / 2))


def _place(line: Line) -> tuple[bool, int, str]:
    skill = line.task.skill
    return not line.task.estonian, SKILLS.index(skill) if skill in SKILLS else len(SKILLS), line.task.name


def _adjusted(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Everything that the page compares is one family of questions."""
    asked = [line for pair in pairs for line in pair.lines if not line.problems]
    adjusted = dict(zip(map(id, asked), stats.benjamini_hochberg([line.row.p for line in asked]), strict=True))
    pooled = [_pooled(pair) for pair in pairs]
    holm = iter(stats.holm([one.p for found in pooled for one in found]))
    made = []
    for pair, found in zip(pairs, pooled, strict=True):
        lines = tuple(
            line if line.problems else replace(line, row=replace(line.row, p_adjusted=adjusted[id(line)]))
            for line in pair.lines
        )
        sure = [replace(one, p_adjusted=next(holm)) for one in found]
        total = next((one for one in sure if one.name == "total"), None)
        skills = tuple(one for one in sure if one.name != "total")
        made.append(replace(pair, lines=lines, skills=skills, total=total))
    return tuple(made)


def _pooled(pair: Pair) -> list[Pooled]:
    """Skills with several tasks, and all tasks together; Estonian ones only, and none that is counted in bits."""
    parts: dict[str, list[tuple[Difference, float]]] = defaultdict(list)
    judges: dict[str, set[str | None]] = defaultdict(set)
    for line in pair.lines:
        found, scale = line.difference, POINTS.get(line.comparison.unit)
        if scale and line.task.estonian and not line.problems and found.value is not None and found.error is not None:
            parts[line.task.skill].append((found, scale))
            for name in (line.task.skill, "total"):
                judges[name].add(line.judge)
    made = [
        _mean(skill, [(found, 1.0, scale) for found, scale in own], weakest(judges[skill]))
        for skill, own in parts.items()
        if len(own) > 1
    ]
    every = [(found, 1 / len(own), scale) for own in parts.values() for found, scale in own]
    return [*made, _mean("total", every, weakest(judges["total"]))] if len(every) > 1 else made


def _mean(name: str, parts: Sequence[tuple[Difference, float, float]], judge: str | None) -> Pooled:
    found = stats.pooled([(part, weight) for part, weight, _ in parts], [scale for *_, scale in parts])
    return Pooled(name, found, len(parts), found.p_value(), 1.0, judge)
