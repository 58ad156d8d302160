"""`estbench merge … sweep=0.2,0.4,…`: a merge for each λ, evaluated; a table, sweep.json, sweep.svg, and what is best.

Best is the highest mean of scores that are corrected for chance (0 is guessing, 1 the best possible). How sure a mean
is, and which λ can't be told from the best, comes from the answers to the same documents (`estbench.ranking`). The best
is picked on the tasks that it is measured on, so its scores there are a little too good: look at others before
publishing.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from estbench import evidence, identity, report
from estbench.checkpoint import Checkpoint
from estbench.commands import index, wants_table
from estbench.config import EvalSettings
from estbench.engines.options import read_options
from estbench.errors import ConfigError, DataError, StoreError
from estbench.runs import Run, Score, find_run, write_json
from estbench_training.merge.command import MergeCommandSettings, find_models, make, settings_row
from estbench_training.merge.settings import SCALED, MergeSettings
from estbench_training.merge.work import roles

CURVE, TABLE = "sweep.svg", "sweep.json"
SCHEMA = 1
LARGEST = {"proportion": 1.0, "points": 100.0}  # of a score, by its unit


def run(settings: MergeCommandSettings, own: MergeSettings) -> int:
    """Merge and evaluate what is not done yet, then say what is best of all that the folder has."""
    if own.method not in SCALED:
        raise ConfigError(f"sweep=: {own.method} has no scale; {', '.join(SCALED)} have.")
    scales = settings.sweeps
    merges = {scale: own.with_scale(scale) for scale in scales}  # refuses what is no scale
    _check_tasks(settings)
    models = find_models(own)
    own.check_patterns(models[roles(own)[0]].tensors)
    place, head = settings.place, _head(settings, own, models)
    rows = _left(place, head)
    for scale in scales:
        if scale not in rows:
            make(merges[scale], _folder(place, scale), settings.seed, settings.threads, models)
            rows[scale] = _evaluated(settings, scale)
            write_json(place / TABLE, {**head, "rows": [rows[at] for at in sorted(rows)]})
    found = _told_apart([rows[scale] for scale in sorted(rows)])
    best = max(found, key=lambda row: (row["mean"], -row["scale"]))
    if not _folder(place, best["scale"]).exists():  # an earlier keep=best removed it
        make(own.with_scale(best["scale"]), _folder(place, best["scale"]), settings.seed, settings.threads, models)
    write_json(place / TABLE, {**head, "rows": found, "best": best["scale"]})
    report.write(place / CURVE, draw(found, place.resolve().name))
    if settings.keep == "best":
        _remove([row["scale"] for row in found if row is not best], place)
    _show(found, best, settings)
    return 0


def _check_tasks(settings: MergeCommandSettings) -> None:
    """Refuse tasks that aren't there, and options that no engine has, before anything is merged."""
    from estbench import data
    from estbench.registry import Registry

    read_options(settings.engine, settings.engine_options)
    folder = Path(settings.data).expanduser() if settings.data else None
    for task in Registry().select(str(settings.tasks)).tasks:
        if reason := data.missing_of_task(task, folder):
            raise DataError(f"{task.name}: {reason}; `estbench data pull tasks={task.name}` fetches it.")


def _head(settings: MergeCommandSettings, own: MergeSettings, models: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """What every row of a sweep has in common, and its key."""
    asked = {"tasks": settings.tasks, "limit": settings.limit, "engine": settings.engine, **settings.engine_options}
    hashes = {name: one.fingerprint() for name, one in models.items()}
    row = {"schema": SCHEMA, "merge": settings_row(own, settings.seed), "evaluated": asked}
    return {**row, "key": identity.digest([row, hashes])}


def _left(place: Path, head: Mapping[str, Any]) -> dict[float, dict[str, Any]]:
    """The rows that an interrupted sweep, or one of other scales, has left; ConfigError for a folder of another."""
    if not place.exists():
        place.mkdir(parents=True)
        write_json(place / TABLE, {**head, "rows": []})
        return {}
    try:
        row = json.loads((place / TABLE).read_text("utf-8"))
        same = row["key"] == head["key"] or not row["rows"]  # one of which no merge came about
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise ConfigError(f"{place} is there already, and is not this sweep: give another output=.")
    return {float(one["scale"]): one for one in row["rows"]}


def _folder(place: Path, scale: float) -> Path:
    return place / f"scale-{scale:g}"


def _evaluated(settings: MergeCommandSettings, scale: float) -> dict[str, Any]:
    """A row of the table: a merged model's run and its primary scores."""
    from estbench import runner

    folder = _folder(settings.place, scale)
    asked = EvalSettings(
        model=str(folder),
        tasks=settings.tasks,
        engine=settings.engine,
        engine_options=settings.engine_options,
        limit=settings.limit,
        name=f"{settings.place.resolve().name}-{folder.name}",
        data=settings.data,
    )
    job = runner.prepare(asked, report.say)
    with report.ProgressBar() as bar:
        found = runner.evaluate(job, say=report.say, progress=bar)
    index(found, None)
    scores = [score for score in found.scores() if score.primary]
    names = ("task", "metric", "value", "ci_low", "ci_high", "unit", "n", "chance")
    return {
        "scale": scale,
        "run": found.id,
        "mean": mean(scores),
        "scores": [{name: getattr(score, name) for name in names} for score in scores],
    }


def mean(scores: Sequence[Score]) -> float:
    """The mean of scores corrected for chance, of those that have a best possible value; of others, if there is none,
    their plain mean, with the sign that makes more of it better. A missing score counts as chance."""
    corrected = [value for score in scores if (value := _corrected(score)) is not None]
    signs = [(1 if score.higher_is_better else -1) * (score.value or 0.0) for score in scores]
    return round(float(np.mean(corrected or signs or [math.nan])), 6)


def _corrected(score: Score) -> float | None:
    from estbench.stats.ranks import TaskValues

    most = LARGEST.get(score.unit)
    if most is None:
        return None
    none = np.zeros((0, 0))
    low, best = TaskValues(
        score.task, none, chance=score.chance, maximum=most, higher_is_better=score.higher_is_better
    ).ends()
    return 0.0 if score.value is None else (score.value - low) / (best - low)


def _told_apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the 95 % interval of the mean, and `near`: whether it can't be told from the highest one.

    What is near holds for all λ at once. All are None where a run is no longer there, or has no score of documents.
    """
    from estbench.ranking import rank_runs

    unknown = {"mean_low": None, "mean_high": None, "near": None}
    try:
        ranking = rank_runs({f"{row['scale']:g}": evidence.of_run(Run(find_run(row["run"]))) for row in rows})
    except (ConfigError, StoreError) as error:
        report.say(f"No intervals of the means: {error}")
        ranking = None
    known = {} if ranking is None else {row.model: row for row in ranking.rows}
    found = []
    for row in rows:
        sure = known.get(f"{row['scale']:g}")
        said = unknown if sure is None else {"mean_low": sure.low, "mean_high": sure.high, "near": sure.klass == 1}
        found.append({**row, **said})
    return found


def _remove(scales: Sequence[float], place: Path) -> None:
    """Remove the models of these scales, if they are there."""
    for scale in scales:
        if _folder(place, scale).is_dir():
            shutil.rmtree(_folder(place, scale))
            report.say(f"{_folder(place, scale)}: removed (keep=best).")


def _show(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any], settings: MergeCommandSettings) -> None:
    place = settings.place
    if not wants_table(None):
        print(report.as_json({"best": str(_folder(place, best["scale"])), "rows": rows}))
        return
    tasks = {score["task"]: f">{score['task']}" for score in best["scores"]}
    shown = [
        {"scale": f"{row['scale']:g}", "mean": _mean_with_interval(row)}
        | {score["task"]: _with_interval(score) for score in row["scores"]}
        for row in rows
    ]
    print(report.listing(shown, {"scale": ">λ", "mean": ">mean, corrected", **tasks}))
    if settings.limit:
        print(f"Of {settings.limit:,} documents a task at most (limit=): these are no scores to publish.")
    print(f"\nBest by the mean of scores corrected for chance: λ = {best['scale']:g}, {_folder(place, best['scale'])}")
    if near := [f"{row['scale']:g}" for row in rows if row is not best and row["near"]]:
        print(f"On these documents it can't be told from λ = {', '.join(near)}.")
    elif len(rows) > 1 and best["near"] is not None:
        print("It is better than each other λ on these documents (95 %, all at once).")
    print(f"The curve is in {place / CURVE}.")


def _with_interval(score: Mapping[str, Any]) -> str:
    value, low, high = (report.number(score[name], score["unit"]) for name in ("value", "ci_low", "ci_high"))
    return f"{value} ({low} … {high})"


def _mean_with_interval(row: Mapping[str, Any]) -> str:
    mean = f"{100 * row['mean']:.1f}"
    if row["mean_low"] is None:
        return mean
    return f"{mean} ({100 * row['mean_low']:.1f} … {100 * row['mean_high']:.1f})"


def draw(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The SVG of a sweep: each task's score with its interval over λ."""
    import io

    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from estbench_training.cpt import plots

    tasks = [score["task"] for score in rows[0]["scores"]]
    colours = (plots.ACCENT, plots.SECOND, plots.GOOD, plots.QUIET)
    look: dict[Any, Any] = {"svg.hashsalt": "estbench", "svg.fonttype": "none", "font.family": "sans-serif"}
    look |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": plots.LINE[0]}
    look |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color"), plots.INK[0])
    look |= {"ytick.color": plots.INK[0]}
    look |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), plots.PAPER[0])
    with mpl.rc_context(look):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for place, task in enumerate(tasks):
            points = [(row["scale"], row["scores"][place]) for row in rows if row["scores"][place]["value"] is not None]
            times = 100 if points and points[0][1]["unit"] == "proportion" else 1
            values = [times * score["value"] for _, score in points]
            spread = [
                [
                    times * abs(score["value"] - (score[end] if score[end] is not None else score["value"]))
                    for _, score in points
                ]
                for end in ("ci_low", "ci_high")
            ]
            axes.errorbar(
                [scale for scale, _ in points],
                values,
                yerr=spread,
                marker=plots.MARKS[place % len(plots.MARKS)],
                color=colours[place % len(colours)][0],
                linewidth=1.2,
                capsize=3,
                label=task,
            )
        axes.set_xlabel("λ")
        axes.set_ylabel("score, 95 % interval")
        axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.15))
        figure.suptitle(title)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return plots.for_all(written.getvalue(), title, describe(rows))


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the curve shows, in words."""
    said = []
    for row in rows:
        scores = ", ".join(f"{score['task']} {report.number(score['value'], score['unit'])}" for score in row["scores"])
        said.append(f"λ {row['scale']:g}: {scores}.")
    return " ".join(said)
