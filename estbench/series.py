"""One command, many models: `model=a,b,c`, `model=runs/step-*`.

All are looked at before the first one works, so that a checkpoint that can't be read stops nothing half-way. Then one
follows the other in this process; each is a run of its own, whole and indexed when the next one begins. What fails at
work leaves the others alone. Plans are rendered once for neighbours with the same tokenizer.
"""

from __future__ import annotations

import dataclasses
import gc
import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import report
from estbench.errors import ConfigError, EstbenchError, UserError
from estbench.runs import Run, Score

if TYPE_CHECKING:
    from estbench.config import EvalSettings
    from estbench.runner import Job

PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Outcome:
    """What became of one model: a run, or the error that kept it from one."""

    model: str
    run: Run | None = None
    error: EstbenchError | None = None

    @property
    def exit_code(self) -> int:
        """4 also where documents have no response."""
        if self.error:
            return self.error.exit_code
        return 4 if self.run and self.run.unanswered else 0


def is_series(model: str) -> bool:
    """Whether `model=` may mean several models. A folder of just that name is one model."""
    return ("," in model or bool(PATTERN.search(model))) and not Path(model).expanduser().is_dir()


def expand(settings: EvalSettings) -> list[EvalSettings]:
    """The settings of each model, in order, patterns filled in; ConfigError if there is nothing to fill them with."""
    if not is_series(settings.model):
        if "," in settings.model:
            raise ConfigError(
                f"model={settings.model} is a folder with a comma in its name, and commas separate models: rename it."
            )
        return [settings]
    if settings.name is not None:
        raise ConfigError("name= names one model, and model= means several: leave name= out.")
    names = [name for part in settings.model.split(",") for name in _names(part.strip(), settings.model)]
    places = {str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name: name for name in
              reversed(names)}  # fmt: skip
    once = set(places.values())
    return [dataclasses.replace(settings, model=name) for name in dict.fromkeys(names) if name in once]


def _names(part: str, whole: str) -> list[str]:
    if not part:
        raise ConfigError(f"model={whole} has nothing between two commas.")
    if not PATTERN.search(part) or Path(part).expanduser().is_dir():
        return [part]
    folders = [path for path in glob.glob(str(Path(part).expanduser())) if Path(path).is_dir()]
    if found := [path for path in folders if (Path(path) / "config.json").exists()]:
        return sorted(found, key=natural)
    seen = f"{len(folders)} folders match, none with a config.json" if folders else "no folder matches"
    raise ConfigError(f"model={part} means no checkpoint: {seen}.")


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts step-900 before step-1000."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part]


def check(each: Sequence[EvalSettings], say: Callable[[str], None]) -> None:
    """Look at every model: ModelError, DataError and so on, naming all that can't be evaluated."""
    from estbench import runner

    wrong: list[tuple[str, UserError]] = []
    for settings in each:
        try:
            runner.check(settings, say)
        except UserError as error:
            wrong.append((settings.model, error))
    if not wrong:
        return
    model, first = wrong[0]
    if len(wrong) == len(each) and len({str(error) for _, error in wrong}) == 1:
        raise first  # the same for all: tasks, data, settings
    others = f" Nor can {', '.join(name for name, _ in wrong[1:])}." if wrong[1:] else ""
    raise type(first)(f"{model} can't be evaluated, and nothing was begun: {first}{others}")


def evaluate(
    each: Sequence[EvalSettings], say: Callable[[str], None], finish: Callable[[Run], Run]
) -> Iterator[Outcome]:
    """Evaluate one model after the other; `finish` indexes each run, and gives it back as it is then."""
    from estbench import runner

    before: Job | None = None
    for number, settings in enumerate(each, 1):
        say(f"[{number} of {len(each)}] {settings.model}")
        try:
            job = runner.prepare(settings, say, before)
            before = job
            with report.ProgressBar() as bar:
                run = runner.evaluate(job, say=say, progress=bar)
            run = finish(run)
        except EstbenchError as error:
            say(f"estbench: {settings.model}: {error}")
            yield Outcome(settings.model, error=error)
        else:
            yield Outcome(settings.model, run)
        gc.collect()  # an engine is a ring of objects: its weights go before the next one loads


def as_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What `output=json` prints: a run each, or the error that kept a model from one."""
    return [
        report.run_json(one.run)
        if one.run
        else {"model": {"name": one.model}, "error": str(one.error), "exit_code": one.exit_code}
        for one in outcomes
    ]


def as_text(outcomes: Sequence[Outcome]) -> str:
    """Models × primary scores with their intervals for a terminal; the longer side goes down."""
    done = [(_label(one), {s.task: s for s in one.run.scores() if s.primary}) for one in outcomes if one.run]
    tasks = list(dict.fromkeys(task for _, scores in done for task in scores))
    about = {task: _about(next(scores[task] for _, scores in done if task in scores)) for task in tasks}
    cells = {(name, task): _cell(scores.get(task)) for name, scores in done for task in tasks}
    models = [name for name, _ in done]
    if len(models) > len(tasks):
        columns = {"model": "model", **{task: f">{task} {about[task]}" for task in tasks}}
        rows = [{"model": model, **{task: cells[model, task] for task in tasks}} for model in models]
    else:
        columns = {"task": "task", "about": "metric", **{model: f">{model}" for model in models}}
        rows = [
            {"task": task, "about": about[task], **{model: cells[model, task] for model in models}} for task in tasks
        ]
    lines = [report.listing(rows, columns)] if rows else []
    lines += [f"{one.model}: no run. {one.error}" for one in outcomes if one.error]
    return "\n".join(lines)


def _label(outcome: Outcome) -> str:
    assert outcome.run
    return str(outcome.run.manifest["name"])


def _about(score: Score) -> str:
    chance = "" if score.chance is None else f", chance {report.number(score.chance, score.unit)}"
    return f"{score.metric} (n {score.n_planned:,}{chance})"


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return "–"
    value = report.number(score.value, score.unit)
    if score.ci_low is not None:
        value += f" ({report.number(score.ci_low, score.unit)}–{report.number(score.ci_high, score.unit)})"
    return value + (f", {score.errors:,} errors" if score.errors else "")
