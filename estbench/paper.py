"""The table of a paper: models × tasks with intervals, and in bold all that can't be told from the best.

    found = table([evidence.load("demo-3f"), evidence.load("demo-base-9c")], ["mini_copa"], reference="estllm")
    print(as_latex(found))        or as_markdown, as_csv; as_json is data

In each task every model is compared with the best one, document by document, two-sided at 5 %. Which one is the best is
found in the same data, so that all pairs of models were looked at: p-values are Holm's for all pairs, and of equal
models one is called worse in at most 5 % of the columns. Models that were asked otherwise, or by another engine, are
neither tested nor bold, and a footnote says why; where models fall into several camps, the largest is tested. Published
figures stand below, in grey, and are never compared with ours.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from estbench import paper_latex, paper_methods, references, report, stats
from estbench.compare import compare_task, problems
from estbench.errors import ConfigError, StoreError, did_you_mean
from estbench.evidence import Evidence
from estbench.paper_latex import Line, Page, Shown, Source, plain
from estbench.references import Reference
from estbench.registry import Registry
from estbench.runs import Score
from estbench.scoring import BOUNDS
from estbench.stats import Difference
from estbench.stats.ranks import TaskValues

ALPHA = 0.05
MANY = 0.1  # share of answers in which none was found that is worth a footnote
DASH = "–"
CSV_COLUMNS = {
    "kind": "run, or published: a figure of others",
    "model": "the row's label",
    "run": "the run's id; empty where published",
    "task": "",
    "metric": "the task's primary metric, or what the others published",
    "unit": "proportion (0 to 1), points (0 to 100) or bits; of value, bounds, chance and difference",
    "higher_is_better": "",
    "value": "empty: missing, see notes",
    "ci_low": "95 % interval",
    "ci_high": "",
    "method": "how the interval was made",
    "n": "documents that the value is made of",
    "n_planned": "documents that were asked",
    "chance": "what guessing gives",
    "parse_failures": "answers in which none was found; wrong",
    "errors": "documents without a response; missing",
    "shots": "",
    "form": "completion or chat",
    "bold": "can't be told from the best of the task",
    "difference": "best model less this one on the documents of both, above 0 where the best is better",
    "p": "two-sided",
    "p_adjusted": "Holm, all pairs of models of the task",
    "test": "",
    "notes": "what the table's footnotes say",
}
MARKUP = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])")


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
    cited = {task: paper_latex.source(text) for task, text in said.items() if text}
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
    alike = max(_camps(runs, task, scored), key=len, default=[])
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
        if isinstance(untested := tests.get(at), str):
            notes.append(f"not tested against the best: {untested}")
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
    one, other = a.tasks[task]["primary"], b.tasks[task]["primary"]
    if one != other:
        return f"its primary metric is {other}"
    try:
        return "; ".join(problem.text for problem in problems(a, b, [task])) or None
    except StoreError as error:
        return str(error).rstrip(".")


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
        about = {"difference": test.value, "test": paper_methods.test_name(test)}
        rows[at] = {"bold": not worse, "p": p, "p_adjusted": better, **about}
    return rows


def _notes(score: Score, card: dict[str, Any], whole: Score | None) -> list[str]:
    """What a reader has to know of a score."""
    notes = []
    if card.get("sample"):
        notes.append("the task's own sample, not the benchmark")
    if score.n_planned < (card.get("n_docs") or 0):
        notes.append(f"partial: {score.n_planned:,} of {card['n_docs']:,} documents")
    if score.errors:
        notes.append(f"{score.errors:,} of {score.n_planned:,} documents without a response")
    if whole and score.n != whole.n and not notes:
        notes.append(f"n = {score.n:,}")
    if card.get("truncated"):
        notes.append(f"{card['truncated']:,} prompts cut")
    if score.n and score.parse_failures >= MANY * score.n:
        notes.append(f"no answer found in {score.parse_failures:,} of {score.n:,}")
    if report._at_chance(score):
        notes.append("at chance: the interval reaches what guessing gives")
    if score.ci_low is None or score.ci_high is None:
        notes.append(score.method or "no interval")
    return notes


# --- beside the columns -----------------------------------------------------------------------------------------------


def _mean(columns: Sequence[Column]) -> Mean | None:
    """The mean over the tasks that all models have, where they have a best possible score; None below two tasks."""
    shared = {column: ends for column in columns if (ends := _ends(column)) and all(cell.score for cell in column.cells)}
    if len(shared) < 2:
        return None
    values, notes = [], []
    for at in range(len(columns[0].cells)):
        parts = [(float(column.cells[at].value or 0) - low) / (high - low) for column, (low, high) in shared.items()]
        values.append(100 * sum(parts) / len(parts))
        doubtful = any(not column.cells[at].alike or column.cells[at].n != column.n for column in shared)
        notes.append(("some of its scores can't be compared, or are of fewer documents",) if doubtful else ())
    return Mean(tuple(column.task for column in shared), tuple(values), tuple(notes))


def _ends(column: Column) -> tuple[float, float] | None:
    """The scores that count as 0 and as 1."""
    most = BOUNDS[column.unit][1]
    limit = most if math.isfinite(most) else None
    options: dict[str, Any] = {"maximum": limit, "higher_is_better": column.higher_is_better}
    try:
        return TaskValues(column.task, np.zeros((0, 0)), chance=column.chance, **options).ends()
    except ValueError:
        return None


def _published(source: str, tasks: Sequence[str]) -> list[Published]:
    """A source's models with their figures on these tasks' benchmarks."""
    if source not in references.sources():
        hint = did_you_mean(source, references.sources()) or f" There are {', '.join(references.sources())}."
        raise ConfigError(f"reference={source} is no source of published figures.{hint}")
    models: dict[str, dict[str, Reference]] = {}
    for task in tasks:
        for row in references.of(task):
            if row.source == source:
                models.setdefault(row.model, {})[task] = row
    if not models:
        raise ConfigError(f"reference={source} has no figure on these tasks: leave it out, or name other tasks.")
    return [Published(source, model, figures) for model, figures in models.items()]


def _source(name: str) -> Source:
    about = references.sources()[name]
    return Source(f"published-{name}", about["title"], note=f"{about['source']}; looked up {about['checked']}")


# --- the page ---------------------------------------------------------------------------------------------------------


def page(found: Table) -> Page:
    """The table as lines of text, with its footnotes in the order in which they are met."""
    letters: dict[str, str] = {}

    def marks(notes: Sequence[str]) -> tuple[str, ...]:
        return tuple(letters.setdefault(note, _letter(len(letters))) for note in notes)

    lines = [*_head(found, marks)]
    for at, label in enumerate(found.labels):
        cells = [_shown(column.cells[at], marks) for column in found.columns]
        if found.mean:
            cells.append(Shown(_number(found.mean.values[at], "points"), marks=marks(found.mean.notes[at])))
        lines.append(Line("run", label, tuple(cells), marks(_about(found.runs[at]))))
    before = None
    for row in found.published:
        if row.source != before:
            lines.append(Line("source", f"published: {references.sources()[row.source]['title']}"))
        before = row.source
        figures = [_figure(row.figures.get(column.task), column, marks) for column in found.columns]
        lines.append(Line("published", row.model, (*figures, *[Shown("")] * bool(found.mean))))
    return Page(
        caption=_caption(found),
        groups=(*(column.skill for column in found.columns), *[""] * bool(found.mean)),
        lines=tuple(lines),
        footnotes={letter: note for note, letter in letters.items()},
        methods=paper_methods.paragraph(found),
        cited=tuple((task, source.key) for task, source in found.cited.items()),
        sources=tuple(dict.fromkeys([*found.cited.values(), *found.sources])),
    )


def _head(found: Table, marks: Callable[[Sequence[str]], tuple[str, ...]]) -> Iterator[Line]:
    mean = []
    if found.mean:
        over = f"chance-corrected, over {len(found.mean.tasks)} of {len(found.columns)} tasks; see the methods"
        mean = [Shown("mean", marks=marks([over]))]
    yield Line("head", "model", (*(Shown(column.task) for column in found.columns), *mean))
    facts: dict[str, Callable[[Column], str]] = {
        "metric": lambda column: column.metric + " ↓" * (not column.higher_is_better) + ", bits" * (column.unit == "bits"),
        "n": lambda column: f"{column.n:,}",
        "shots": lambda column: DASH if column.shots is None else str(column.shots),
        "form": lambda column: column.form or DASH,
        "chance": lambda column: _number(column.chance, column.unit),
    }
    for name, fact in facts.items():
        cells = [Shown(fact(column)) for column in found.columns]
        yield Line("fact", name, (*cells, *[Shown("0.0" if name == "chance" else "")] * bool(found.mean)))


def _letter(at: int) -> str:
    """a … z, aa, ab …"""
    return (_letter(at // 26 - 1) if at >= 26 else "") + chr(ord("a") + at % 26)


def _about(run: Evidence) -> list[str]:
    engine = run.manifest["engine"]
    if "unverified" not in (engine.get("weights"), run.manifest["model"].get("weights")):
        return []
    return ["weights unverified" + (f", observed {engine['observed']}" if engine.get("observed") else "")]


def _number(value: float | None, unit: str) -> str:
    return report.number(value, unit).replace("-", "−")


def _shown(cell: Cell, marks: Callable[[Sequence[str]], tuple[str, ...]]) -> Shown:
    if cell.score is None:
        return Shown(DASH, marks=marks(cell.notes))
    return Shown(_number(cell.value, cell.score.unit), _spread(cell.score), marks(cell.notes), cell.bold)


def _spread(score: Score) -> str:
    """±5.5 where both sides are alike as shown, else 47.3–58.2."""
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return ""
    sides = [_number(side, score.unit) for side in (score.value - score.ci_low, score.ci_high - score.value)]
    if sides[0] == sides[1]:
        return f"±{sides[0]}"
    low, high = _number(score.ci_low, score.unit), _number(score.ci_high, score.unit)
    return f"{low}{' to ' if '−' in low else '–'}{high}"


def _figure(figure: Reference | None, column: Column, marks: Callable[[Sequence[str]], tuple[str, ...]]) -> Shown:
    if figure is None:
        return Shown("")
    unit = references.sources()[figure.source]["unit"]
    notes = [f"published metric: {figure.metric}"] * (figure.metric != column.metric) + [figure.note] * bool(figure.note)
    spread = "" if figure.plus_minus is None else f"±{_number(figure.plus_minus, unit)}"
    return Shown(_number(figure.value, unit), spread, marks(notes))


def _caption(found: Table) -> str:
    units = {column.unit for column in found.columns}
    bold = any(cell.bold for column in found.columns for cell in column.cells)
    parts = ["Scores in points" + (" (bits where marked)" if "bits" in units else "") + " with 95 % intervals"]
    parts += ["lower is better where marked ↓"] * any(not column.higher_is_better for column in found.columns)
    parts += ["bold: can't be told from the best of the column"] * bold
    parts += ["grey: published by others, with other prompts and data samples, not paired"] * bool(found.published)
    return "; ".join(parts) + "."


# --- what is written --------------------------------------------------------------------------------------------------


def as_latex(found: Table) -> str:
    r"""A fragment for \input: table, methods, and behind \endinput the sources as BibTeX."""
    return paper_latex.latex(page(found))


def as_markdown(found: Table) -> str:
    """A table with its footnotes, the methods, and the sources as BibTeX; no HTML."""
    whole = page(found)
    lines = [_markdown(whole.caption), ""]
    width = len(whole.groups)
    for line in whole.lines:
        style = "*" if line.kind in ("source", "published") else ""
        label = f"{style}{_markdown(line.label)}{style}" + _brackets(line.marks)
        cells = line.cells or (Shown(""),) * width
        lines.append("| " + " | ".join([label, *(_markdown_cell(cell, style) for cell in cells)]) + " |")
        if line.kind == "head":
            lines.append("|---|" + "---:|" * width)
    lines += ["", *(f"- \\[{letter}] {_markdown(note)}" for letter, note in whole.footnotes.items())]
    lines += ["", f"**Methods.** {_markdown(whole.methods)}", ""]
    if whole.sources:
        lines += ["```bibtex", *map(paper_latex.bibtex, whole.sources), "```"]
    return "\n".join(lines)


def _markdown_cell(cell: Shown, style: str) -> str:
    value = f"**{_markdown(cell.value)}**" if cell.bold else _markdown(cell.value)
    text = " ".join(part for part in (value, cell.spread) if part)
    return (f"{style}{text}{style}" if text else "") + _brackets(cell.marks)


def _brackets(marks: Sequence[str]) -> str:
    return f" \\[{','.join(marks)}]" if marks else ""


def _markdown(text: str) -> str:
    """Text without any markup in it: no emphasis, cell, link, code, formula or HTML; nobody is called by name."""
    return MARKUP.sub(lambda sign: f"\\{sign[0]}", plain(text)).replace("@", "&#64;")


def as_csv(found: Table) -> str:
    """A row a model and task, numbers unrounded (`CSV_COLUMNS` says what they are). Text that a spreadsheet could take
    for a formula begins with an apostrophe."""
    text = io.StringIO()
    rows = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    rows.writeheader()
    for row in [*_records(found), *_figures(found)]:
        rows.writerow({key: _plain_cell(row.get(key)) for key in CSV_COLUMNS})
    return text.getvalue().rstrip("\n")


def _plain_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    text = plain("; ".join(value) if isinstance(value, list) else value) if isinstance(value, list | str) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text


def _records(found: Table) -> Iterator[dict[str, Any]]:
    """A row a model and task."""
    for column in found.columns:
        facts = {"task": column.task, "metric": column.metric, "shots": column.shots, "form": column.form}
        for run, label, cell in zip(found.runs, found.labels, column.cells, strict=True):
            card = run.tasks.get(column.task, {})
            own = {key: card.get(key) for key in ("shots", "form")}
            score = {} if cell.score is None else asdict(cell.score)
            tests = {key: getattr(cell, key) for key in ("bold", "difference", "p", "p_adjusted", "test")}
            kept = {key: score.get(key) for key in CSV_COLUMNS if key not in (*facts, *tests)}
            about = {"kind": "run", "model": label, "run": run.id, "notes": list(cell.notes)}
            yield {**kept, **facts, **own, **tests, **about}


def _figures(found: Table) -> Iterator[dict[str, Any]]:
    """A row a published figure, in its source's unit."""
    for row in found.published:
        unit = references.sources()[row.source]["unit"]
        for task, figure in row.figures.items():
            notes = [f"source: {row.source}", *[figure.note] * bool(figure.note)]
            half = figure.plus_minus
            ends = {} if half is None else {"ci_low": figure.value - half, "ci_high": figure.value + half}
            about = {"kind": "published", "model": row.model, "task": task, "unit": unit, "notes": notes}
            yield {**about, "metric": figure.metric, "value": figure.value, **ends}


def as_json(found: Table) -> dict[str, Any]:
    """The same as data: runs, tasks, a row a model and task, the mean, published figures, methods and sources."""
    whole = page(found)
    runs = [
        {"model": label, "run": run.id, "notes": _about(run), "identity": run.manifest["identity"]}
        | {key: run.manifest["engine"].get(key) for key in ("engine", "dtype")}
        for run, label in zip(found.runs, found.labels, strict=True)
    ]
    tasks = []
    for column in found.columns:
        row = {key: value for key, value in _plain_fields(column).items() if key not in ("cells", "best")}
        best = None if column.best is None else found.labels[column.best]
        source = found.cited.get(column.task)
        tasks.append(row | {"best": best, "source": source.key if source else None})
    mean = asdict(found.mean) | {"models": list(found.labels)} if found.mean else None
    return {
        "runs": runs,
        "tasks": tasks,
        "scores": list(_records(found)),
        "mean": mean,
        "published": list(_figures(found)),
        "caption": whole.caption,
        "methods": whole.methods,
        "bibtex": [paper_latex.bibtex(source) for source in whole.sources],
    }
