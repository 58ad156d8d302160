"""What people see: tables on a terminal, JSON on a pipe, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import judged
from estbench.errors import ConfigError, StoreError
from estbench.runs import Run, Score, atomic

if TYPE_CHECKING:
    from rich.table import Table


def as_json(value: Any) -> str:
    """The one JSON document of a command's stdout."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)


def run_json(run: Run) -> dict[str, Any]:
    """A run as `output=json` prints it."""
    manifest = run.manifest
    model = {key: manifest["model"][key] for key in ("name", "path", "revision", "parameters", "dtype")} | {
        "label": manifest["name"]
    }
    return {
        "run": run.id,
        "model": model,
        "identity": manifest["identity"],
        "partial": manifest["partial"],
        "scores": [asdict(score) | {"judge": judged.state(score)} for score in run.scores()],
        "seconds": manifest["seconds"],
        "folder": str(run.path),
    }


def number(value: float | None, unit: str) -> str:
    """A score as people read it: proportions in per cent, one decimal; bits with three."""
    if value is None:
        return "–"
    return {"proportion": f"{100 * value:.1f}", "points": f"{value:.1f}", "bits": f"{value:.3f}"}[unit]


def judge_of(scores: Iterable[Score | None]) -> str | None:
    """The word that belongs to what is made of these scores wherever it is shown: "uncalibrated" if one of them comes
    from judges without people's votes behind them, "calibrated" if others come from judges, else None."""
    states = {judged.state(score) for score in scores if score is not None and score.value is not None}
    return next((word for word in (judged.UNCALIBRATED, judged.CALIBRATED) if word in states), None)


def metric_name(metric: str, *scores: Score | None) -> str:
    """A metric; with the word that belongs to scores that judges gave."""
    state = judge_of(scores)
    return metric if state is None else f"{metric} ({state})"


def scores_table(scores: Sequence[Score], *, groups: bool = False) -> Table:
    """Task, metric, value, interval, chance, n, failures; the primary metric of each task in bold. Scores of groups
    (`metric/group`) only if asked for."""
    from rich.markup import escape

    table = _table("task", "metric", ">score", "95 % interval", ">chance", ">n", ">no answer", ">errors")
    before = ""
    for score in scores:
        if "/" in score.metric and not groups:
            continue
        low, high = (number(end, score.unit) for end in (score.ci_low, score.ci_high))
        interval = f"{low:>5} … {high}" if score.ci_low is not None else escape(score.reason or score.method)
        value = number(score.value, score.unit)
        table.add_row(
            escape(score.task) if score.task != before else "",
            escape(metric_name(score.metric, score)),
            f"[bold]{value}[/bold]" if score.primary else f"[dim]{value}[/dim]",
            interval if score.primary else f"[dim]{interval}[/dim]",
            ""
            if score.chance is None
            else number(score.chance, score.unit) + (" [yellow]![/yellow]" if at_chance(score) else ""),
            f"{score.n:,}" if score.n == score.n_planned else f"{score.n:,} of {score.n_planned:,}",
            _count(score.parse_failures),
            _count(score.errors),
        )
        before = score.task
    return table


def at_chance(score: Score) -> bool:
    """Whether the interval does not show that the model beats guessing."""
    if score.chance is None or score.ci_low is None or score.ci_high is None:
        return False
    return score.ci_low <= score.chance if score.higher_is_better else score.ci_high >= score.chance


def listing(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as aligned plain text: column key -> heading (a leading > aligns right). No library, so it is instant."""
    headings = [heading.lstrip(">") for heading in columns.values()]
    cells = [["" if row.get(key) is None else str(row[key]) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    right = [heading.startswith(">") for heading in columns.values()]
    lines = [headings, ["─" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if end else cell.ljust(width)
            for cell, width, end in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def show(table: Table) -> None:
    """Print a table to stdout, in colour on a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=140, highlight=False)
    with console.capture() as captured:
        console.print(table)
    print(captured.get(), end="")


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def target(name: str | None) -> Path | None:
    """A file that will be written; ConfigError now if it can't be."""
    if name is None:
        return None
    path = Path(name).expanduser()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{name} can't be written: its folder has to be there, and writable.")
    return path


def write(path: Path, text: str) -> None:
    """Write a file whole, or not at all; StoreError if that fails."""
    try:
        with atomic(path) as temporary:
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}.") from None


class ProgressBar:
    """Progress on stderr with ETA, in tokens; a line a task where stderr is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bar = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.shown: dict[str, Any] = {}

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Tokens of a task that are done, and in all."""
        self.bar.start()  # with the first task: a run that finds everything stored shows no bar
        if task not in self.shown:
            self.shown[task] = self.bar.add_task(task, total=max(total, 1), rate="")
        speed = self.bar.tasks[self.bar.task_ids.index(self.shown[task])].speed
        self.bar.update(
            self.shown[task], completed=done if total else 1, rate=f"{speed:,.0f} tokens/s" if speed else ""
        )


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left", overflow="fold")
    return table


def _count(value: int) -> str:
    return str(value) if value else "[dim]0[/dim]"
