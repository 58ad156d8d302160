"""The table's numbers, unrounded: as CSV, and as data for JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from estbench import references, report
from estbench.paper import latex, pages
from estbench.paper.latex import plain
from estbench.paper.tables import Table

CSV_COLUMNS = {
    "kind": "run, or published: a figure of others",
    "model": "the row's label",
    "run": "the run's id; empty where published",
    "task": "the task's name",
    "metric": "the task's primary metric, or what the others published",
    "unit": "proportion (0 to 1), points (0 to 100) or bits; of value, bounds, chance and difference",
    "higher_is_better": "whether a larger value is better",
    "value": "empty: missing, see notes",
    "ci_low": "lower end of the 95 % interval",
    "ci_high": "its upper end",
    "method": "how the interval was made",
    "n": "documents that the value is made of",
    "n_planned": "documents that were asked",
    "chance": "what guessing gives",
    "parse_failures": "answers in which none was found; wrong",
    "errors": "documents without a response; missing",
    "judge": "uncalibrated or calibrated: the score comes from judges; empty: from none",
    "shots": "examples in the prompt",
    "form": "completion or chat",
    "bold": "can't be told from the best of the task",
    "difference": "best model less this one on the documents of both, above 0 where the best is better",
    "p": "two-sided",
    "p_adjusted": "Holm, all pairs of models of the task",
    "test": "how the difference was tested",
    "notes": "what the table's footnotes say",
}
FACTS = ("task", "skill", "metric", "unit", "higher_is_better", "n", "shots", "form", "chance")  # of a task, in JSON


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
        for run, label, cell in zip(found.runs, found.labels, column.cells, strict=True):
            card = run.tasks.get(column.task, {})
            score = {} if cell.score is None else asdict(cell.score)
            yield {
                **{key: score.get(key) for key in CSV_COLUMNS},
                **{key: getattr(cell, key) for key in ("bold", "difference", "p", "p_adjusted", "test")},
                **{key: card.get(key) for key in ("shots", "form")},
                "kind": "run",
                "model": label,
                "run": run.id,
                "task": column.task,
                "metric": column.metric,
                "judge": report.judge_of([cell.score]),
                "notes": list(cell.notes),
            }


def _figures(found: Table) -> Iterator[dict[str, Any]]:
    """A row a published figure, in its source's unit."""
    for row in found.published:
        unit = references.sources()[row.source]["unit"]
        for task, figure in row.figures.items():
            notes = [f"source: {row.source}", *[figure.note] * bool(figure.note)]
            yield {
                "kind": "published",
                "model": row.model,
                "task": task,
                "metric": figure.metric,
                "unit": unit,
                "value": figure.value,
                "ci_low": None if figure.plus_minus is None else figure.value - figure.plus_minus,
                "ci_high": None if figure.plus_minus is None else figure.value + figure.plus_minus,
                "method": "" if figure.plus_minus is None else "as published",
                "notes": notes,
            }


def as_json(found: Table) -> dict[str, Any]:
    """The same as data: runs, tasks, a row a model and task, the mean, published figures, methods and sources."""
    whole = pages.page(found)
    runs = [
        {"model": label, "run": run.id, "notes": list(pages.about(run)), "identity": run.manifest["identity"]}
        | {key: run.manifest["engine"].get(key) for key in ("engine", "dtype")}
        for run, label in zip(found.runs, found.labels, strict=True)
    ]
    tasks = []
    for column in found.columns:
        best = None if column.best is None else found.labels[column.best]
        source = found.cited.get(column.task)
        facts = {name: getattr(column, name) for name in FACTS}
        tasks.append(facts | {"best": best, "source": source.key if source else None})
    mean = asdict(found.mean) | {"models": list(found.labels)} if found.mean else None
    return {
        "runs": runs,
        "tasks": tasks,
        "scores": list(_records(found)),
        "mean": mean,
        "published": list(_figures(found)),
        "caption": whole.caption,
        "methods": whole.methods,
        "bibtex": [latex.bibtex(source) for source in whole.sources],
    }
