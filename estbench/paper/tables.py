"""Models × tasks: which score each has, what a reader has to know of it, and whether it can be told from the best.

    found = table(runs, ["mini_copa"], reference="estllm")
    found.columns[0].cells[1].bold, .p_adjusted, .notes

In each task every model is compared with the best one, document by document, two-sided at 5 %. Which one is the best is
found in the same data, so that all pairs of models were looked at: p-values are Holm's for all pairs, and of equal
models one is called worse in at most 5 % of the columns. Models that were asked otherwise, or by another engine, are
neither tested nor bold, and a note says why; where models fall into several camps, the largest is tested.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from estbench import references, report, stats
from estbench.compare import compare_task, problems
from estbench.errors import ConfigError, StoreError, did_you_mean
from estbench.evidence import Evidence
from estbench.paper.latex import Source, source
from estbench.references import Reference
from estbench.registry import Registry
from estbench.runs import Score
from estbench.scoring import BOUNDS
from estbench.stats import Difference
from estbench.stats.ranks import TaskValues

ALPHA = 0.05
JUDGED = {
    "uncalibrated": "by uncalibrated judges: nobody's votes stand behind it",
    "calibrated": "by judges that were calibrated by people's votes",
}
MANY = 0.1  # share of answers in which none was found, or of documents without a pair, that is worth a note


@dataclass(frozen=True, slots=True)
class Cell:
    """A model in a task; numbers are in the score's unit."""

    score: Score | None  # None: the run has no such score
    notes: tuple[str, ...] = ()
    alike: bool = False  # can be compared with the best
    bold: bool = False  # can't be told from the best
    difference: float | None = None  # best less this one, above 0 where the best is better
    p: float | None = None  # two-sided
    p_adjusted: float | None = None
    test: str = ""

    @property
    def n(self) -> int:
        return self.score.n if self.score else 0

    @property
    def value(self) -> float | None:
        return self.score.value if self.score else None


@dataclass(frozen=True, slots=True)
class Column:
    """A task; its facts are those of the models that are tested."""

    task: str
    skill: str
    metric: str
    unit: str
    higher_is_better: bool
    n: int
    shots: int | None
    form: str
    chance: float | None
    cells: tuple[Cell, ...]  # in the order of the runs
    best: int | None = None  # place of the best model of those that are tested


@dataclass(frozen=True, slots=True)
class Published:
    """A model's figures of others, by task."""

    source: str
    model: str
    figures: dict[str, Reference]


@dataclass(frozen=True, slots=True)
class Mean:
    """Means of chance-corrected scores, in points, over the tasks that every model has."""

    tasks: tuple[str, ...]
    values: tuple[float, ...]
    notes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """All that the writers write."""

    runs: tuple[Evidence, ...]
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    mean: Mean | None
    published: tuple[Published, ...]
    cited: dict[str, Source]  # task -> what its card cites
    sources: tuple[Source, ...]  # of published figures


def table(runs: Sequence[Evidence], tasks: Sequence[str] = (), *, reference: str | None = None) -> Table:
    """The table of some runs; without `tasks`, of all that they have. reference: sources of published figures, with
    commas. ConfigError: no run, one given twice, a task that no run has, a source that is unknown or has no figure."""
    if not runs:
        raise ConfigError("Name at least one run: estbench report runs=RUN,RUN.")
    twice = [name for name, count in Counter(run.id for run in runs).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice: name each run once.")
    names = _tasks(runs, tasks)
    counts = Counter(run.name for run in runs)
    labels = tuple(run.id if counts[run.name] > 1 else run.name for run in runs)
    columns = tuple(_column(runs, task) for task in names)
    wanted = [word.strip() for word in (reference or "").split(",") if word.strip()]
    published = tuple(row for word in dict.fromkeys(wanted) for row in _published(word, names))
    cards = Registry().tasks
    said = {task: str(cards[task].metadata.get("citation") or "").strip() for task in names if task in cards}
    cited = {task: source(text) for task, text in said.items() if text}
    sources = tuple(_source(word) for word in dict.fromkeys(row.source for row in published))
    return Table(tuple(runs), labels, columns, _mean(columns), published, cited, sources)


def _tasks(runs: Sequence[Evidence], tasks: Sequence[str]) -> list[str]:
    own = list(dict.fromkeys(task for run in runs for task in run.tasks))
    known = [*own, *(task for run in runs for task in run.manifest.get("skipped") or {})]
    for task in tasks:
        if task not in known:
            hint = did_you_mean(task, known) or " Evaluate it, or leave it out of tasks=."
            raise ConfigError(f"No run has the task {task!r}.{hint}")
    return list(dict.fromkeys(tasks)) or own


# --- a column ---------------------------------------------------------------------------------------------------------


def _column(runs: Sequence[Evidence], task: str) -> Column:
    having = [at for at, run in enumerate(runs) if task in run.tasks]
    scored = [at for at in having if _score(runs[at], task, str(runs[at].tasks[task]["primary"]))[0]]
    camps = _camps(runs, task, scored)
    alike = max(camps, key=lambda camp: (len(camp), _apart(runs[camp[0]], runs[camp[0]], task) is None), default=[])
    first = next(iter([*alike, *having]), None)
    card = {} if first is None else runs[first].tasks[task]
    metric = str(card.get("primary") or "")
    scores = [_score(run, task, metric) for run in runs]
    known = {at: score for at in alike if (score := scores[at][0])}
    whole = max(known.values(), key=lambda score: score.n, default=None)
    best = max(known, key=lambda at: _turned(known[at]), default=None)
    tests = {at: _test(runs[best], runs[at], task, metric) for at in alike if best is not None and at != best}
    cells = _cells(runs, task, scores, whole, tests, alike)
    if best is not None:
        cells[best] = replace(cells[best], bold=any(cell.p is not None for cell in cells))
    for at in scored:
        if first is not None and at not in alike:
            why = f"not compared with the others: {_apart(runs[first], runs[at], task)}"
            cells[at] = replace(cells[at], notes=(*cells[at].notes, why))
    return Column(
        task=task,
        skill=str(card.get("skill") or ""),
        metric=metric,
        unit=whole.unit if whole else "proportion",
        higher_is_better=whole.higher_is_better if whole else True,
        n=whole.n if whole else 0,
        shots=card.get("shots"),
        form=str(card.get("form") or ""),
        chance=whole.chance if whole else None,
        cells=tuple(cells),
        best=best,
    )


def _cells(
    runs: Sequence[Evidence],
    task: str,
    scores: Sequence[tuple[Score | None, str]],
    whole: Score | None,
    tests: dict[int, Difference | str],
    alike: Sequence[int],
) -> list[Cell]:
    tested = _tested(tests)
    cells = []
    for at, (run, (score, reason)) in enumerate(zip(runs, scores, strict=True)):
        notes = _notes(score, run.tasks[task], whole) if score else [reason]
        test = tests.get(at)
        if isinstance(test, str):
            notes.append(f"not tested against the best: {test}")
        elif score and test and test.n < (1 - MANY) * score.n:
            notes.append(f"compared with the best on {test.n:,} of its {score.n:,} documents")
        cells.append(Cell(score, tuple(notes), at in alike, **tested.get(at, {})))
    return cells


def _score(run: Evidence, task: str, metric: str) -> tuple[Score | None, str]:
    """The score if it has a value, and else why it has none."""
    if task not in run.tasks:
        return None, str((run.manifest.get("skipped") or {}).get(task) or "not run")
    score = run.score(task, metric)
    if score is None:
        return None, f"{metric} is not among its scores"
    if score.value is None or not math.isfinite(score.value):
        return None, str(score.reason or run.tasks[task].get("reason") or score.method or "the score is not a number")
    return score, ""


def _turned(score: Score) -> float:
    assert score.value is not None
    return score.value if score.higher_is_better else -score.value


def _camps(runs: Sequence[Evidence], task: str, places: Sequence[int]) -> list[list[int]]:
    """Runs that can be compared with each other, by their first."""
    camps: list[list[int]] = []
    for at in places:
        home = next((camp for camp in camps if _apart(runs[camp[0]], runs[at], task) is None), None)
        if home is None:
            camps.append([at])
        else:
            home.append(at)
    return camps


def _apart(a: Evidence, b: Evidence, task: str) -> str | None:
    """Why b can't be compared with a."""
    one, other = a.tasks[task], b.tasks[task]
    if one["primary"] != other["primary"]:
        return f"its primary metric is {other['primary']}"
    reasons = []
    try:
        found = problems(a, b, [task])
    except StoreError as error:
        reasons, found = [str(error).rstrip(".")], problems(a, b, [])
    reasons += [problem.text for problem in found]
    if not reasons:
        return None
    said = {problem.kind for problem in found}
    for key, kind in (("form", "form"), ("shots", "prompts")):  # where no document could show it
        if kind not in said and one.get(key) != other.get(key):
            words = ["unknown" if card.get(key) is None else card[key] for card in (one, other)]
            reasons.append(f"{key} {words[0]} against {words[1]}")
    return "; ".join(reasons)


def _test(best: Evidence, other: Evidence, task: str, metric: str) -> Difference | str:
    """The paired difference, or why there is none."""
    try:
        found = compare_task(best, other, task, metric).difference
    except (ConfigError, StoreError) as error:
        return str(error).rstrip(".")
    return found if found.law or found.identical else found.method


def _tested(tests: dict[int, Difference | str]) -> dict[int, dict[str, Any]]:
    """What the tests say of each model; p-values by Holm for all pairs, those without the best taken as equal."""
    found = {at: test for at, test in tests.items() if isinstance(test, Difference)}
    if not found:
        return {}
    count = len(found)
    p_values = [test.p_value() for test in found.values()]
    others = count * (count - 1) / 2  # pairs without the best; as one question of so much weight
    adjusted = stats.holm([*p_values, 1.0], [*[1.0] * count, others])
    rows = {}
    for (at, test), p, better in zip(found.items(), p_values, adjusted, strict=False):
        worse = better <= ALPHA and test.value is not None and test.value > 0
        about = {"difference": test.value, "test": _test_name(test)}
        rows[at] = {"bold": not worse, "p": p, "p_adjusted": better, **about}
    return rows


def _test_name(test: Difference) -> str:
    """How "no difference" was tested, in words of the paragraph on methods."""
    clustered = ", clustered" if "clusters" in test.method else ""
    if test.identical:
        return "the same responses"
    if test.method.startswith("McNemar"):
        return "McNemar's mid-p test"
    if test.at_zero:
        return f"sign flips{clustered}"
    name = re.sub(r", [\d,]+ clusters.*", "", test.method)
    return {"Tango": "Tango's score test", "t": "t test"}.get(name, name) + clustered


def _notes(score: Score, card: dict[str, Any], whole: Score | None) -> list[str]:
    """What a reader has to know of a score."""
    notes = []
    if card.get("sample"):
        notes.append("the task's own sample, not the benchmark")
    if score.n_planned < (card.get("n_docs") or 0):
        notes.append(f"partial: {score.n_planned:,} of {card['n_docs']:,} documents")
    if score.errors and not report.judge_of([score]):
        notes.append(f"{score.errors:,} of {score.n_planned:,} documents without a response")
    if whole and score.n != whole.n and not notes:
        notes.append(f"n = {score.n:,}")
    if card.get("truncated"):
        notes.append(f"{card['truncated']:,} prompts cut")
    if judge := report.judge_of([score]):
        notes.append(JUDGED[judge])
        notes += [score.method.partition("; ")[2]] if score.errors else []  # what is missing, and its bounds
    if score.n and score.parse_failures >= MANY * score.n:
        notes.append(f"no answer found in {score.parse_failures:,} of {score.n:,}")
    if report.at_chance(score):
        notes.append("at chance: the interval reaches what guessing gives")
    if score.ci_low is None or score.ci_high is None:
        notes.append(score.method or "no interval")
    return notes


# --- beside the columns -----------------------------------------------------------------------------------------------


def _mean(columns: Sequence[Column]) -> Mean | None:
    """The mean over the tasks that all models have, where they have a best possible score; None below two tasks."""
    whole = [column for column in columns if all(cell.score for cell in column.cells)]
    shared = [(column, ends) for column in whole if (ends := _ends(column))]
    if len(shared) < 2:
        return None
    values, notes = [], []
    for at in range(len(columns[0].cells)):
        parts = [(float(column.cells[at].value or 0) - low) / (high - low) for column, (low, high) in shared]
        values.append(100 * sum(parts) / len(parts))
        doubtful = any(not column.cells[at].alike or column.cells[at].n != column.n for column, _ in shared)
        doubts = ["some of its scores can't be compared, or are of fewer documents"] * doubtful
        judge = report.judge_of(column.cells[at].score for column, _ in shared)
        notes.append((*doubts, *([f"some of its scores are {JUDGED[judge]}"] if judge else [])))
    return Mean(tuple(column.task for column, _ in shared), tuple(values), tuple(notes))


def _ends(column: Column) -> tuple[float, float] | None:
    """The scores that count as 0 and as 1."""
    most = BOUNDS[column.unit][1]
    limit = most if math.isfinite(most) else None
    options: dict[str, Any] = {"maximum": limit, "higher_is_better": column.higher_is_better}
    try:
        return TaskValues(column.task, np.zeros((0, 0)), chance=column.chance, **options).ends()
    except ValueError:
        return None


def _published(name: str, tasks: Sequence[str]) -> list[Published]:
    """A source's models with their figures on these tasks' benchmarks."""
    if name not in references.sources():
        hint = did_you_mean(name, references.sources()) or f" There are {', '.join(references.sources())}."
        raise ConfigError(f"reference={name} is no source of published figures.{hint}")
    models: dict[str, dict[str, Reference]] = {}
    for task in tasks:
        for row in references.of(task):
            if row.source == name:
                models.setdefault(row.model, {})[task] = row
    if not models:
        raise ConfigError(f"reference={name} has no figure on these tasks: leave it out, or name other tasks.")
    return [Published(name, model, figures) for model, figures in models.items()]


def _source(name: str) -> Source:
    about = references.sources()[name]
    return Source(f"published-{name}", about["title"], note=f"{about['source']}; looked up {about['checked']}")
