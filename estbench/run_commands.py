"""What `estbench runs …` does: past runs listed, shown, taken in and handed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import report
from estbench.commands import index, wants_table
from estbench.errors import ConfigError, did_you_mean
from estbench.home import check_home, home

if TYPE_CHECKING:
    from estbench.settings import RunsSettings


def runs_list(settings: RunsSettings, paths: list[Path]) -> int:
    """The newest runs in the database."""
    from estbench.database import open_database, queries

    if paths:
        raise ConfigError(f"{paths[0]} is one word too many: `estbench runs --help` shows what `runs list` takes.")
    if home().exists():
        check_home()
    rows = []
    if settings.database or (home() / "estbench.db").exists():  # listing makes no database
        with open_database(settings.database, create=False) as database:
            found = queries.runs(database, model=settings.model, task=settings.task, limit=settings.most)
            rows = [asdict(row) for row in found]
    if not wants_table(settings.output):
        print(report.as_json(rows))
        return 0
    if not rows:
        print("No runs yet. The first: estbench eval model=demo tasks=mini")
        return 0
    for row in rows:
        count = len(row["tasks"])
        row["about"] = f"{count} task{'s' * (count != 1)}{', partial' if row['partial'] else ''}"
        row["about"] += f", weights unverified ({row['observed']})" if row["observed"] else ""
        row["created"] = row["created"][:16].replace("T", " ")
    columns = {"id": "run", "name": "name", "created": "created (UTC)", "about": "what", "seconds": ">seconds"}
    print(report.listing(rows, columns))
    return 0


def runs_show(settings: RunsSettings, paths: list[Path]) -> int:
    """The scores of a run; with `task=` also those of its groups, and recall by error type."""
    from estbench.metrics.tasks.correction import gec_recall_by_type
    from estbench.run_data import rows_of
    from estbench.runs import Run, find_run

    if not settings.run:
        raise ConfigError("Say which run: estbench runs show run=ID [task=NAME].")
    run = Run(find_run(settings.run))
    if settings.task is not None and settings.task not in run.tasks:
        raise ConfigError(f"{run.id} has no task {settings.task!r}.{did_you_mean(settings.task, run.tasks)}")
    scores = [score for score in run.scores() if settings.task in (None, score.task)]
    types: dict[str, dict[str, Any]] = {}
    if settings.task and "f0.5" in run.manifest["tasks"][settings.task]["metrics"]:
        data = Path(settings.data).expanduser() if settings.data else None
        pairs = ((row, str(sample.answer)) for sample, row in rows_of(run, settings.task, data))
        types = {kind: count._asdict() for kind, count in gec_recall_by_type(pairs).items()}
    if not wants_table(settings.output):
        print(report.as_json({"run": run.id, "scores": [asdict(score) for score in scores], "recall_by_type": types}))
        return 0
    report.show(report.scores_table(scores, groups=settings.task is not None))
    if types:
        rows = [
            {"type": kind, **row, "recall": f"{100 * row['correct'] / row['gold']:.1f}"} for kind, row in types.items()
        ]
        print(
            report.listing(rows, {"type": "error type", "gold": ">gold", "correct": ">corrected", "recall": ">recall"})
        )
    return 0


def runs_import(settings: RunsSettings, paths: list[Path]) -> int:
    """Copy run folders in, index them, and merge slices that are complete; lm-eval's result files become runs."""
    from estbench import merging
    from estbench.interchange import lm_eval_results

    if not paths:
        raise ConfigError("Name what to import: estbench runs import FOLDER ..., or lm-eval's results_*.json.")
    files = [path for path in paths if path.is_file()]
    for run in [lm_eval_results.take_in(file, report.say) for file in files]:
        index(run, settings.database)
        print(run.id)
    folders = [path for path in paths if path not in files]
    for run in merging.take_in(folders, report.say) if folders else ():
        index(run, settings.database)
        print(run.id)
    return 0


def runs_export(settings: RunsSettings, paths: list[Path]) -> int:
    """Copy a run out, or pack it into one file, without what may not be published."""
    from estbench import exports
    from estbench.runs import Run, find_run

    if paths or not settings.run or not settings.to:
        raise ConfigError("Say which run and where to: estbench runs export run=ID to=FOLDER (or to=FILE.tar.gz).")
    source, target = find_run(settings.run), Path(settings.to).expanduser()
    if settings.form == "eee":
        from estbench.interchange import every_eval_ever

        for file in every_eval_ever.export(Run(source), target, private=settings.private):
            report.say(f"{source.name} -> {file}")
        return 0
    left_out = exports.export(Run(source), target, private=settings.private)
    report.say(f"{source.name} -> {target}")
    if left_out:
        report.say(f"Without the items of {', '.join(left_out)}, which may not be published; private=true takes all.")
    return 0


def runs_rebuild(settings: RunsSettings, paths: list[Path]) -> int:
    """Make the index anew from the run folders."""
    from estbench.database import open_database, rebuild

    places = home() / "runs", home() / "board" / "runs"  # of the second: what was sent to this board
    folders = paths or sorted(path.parent for place in places for path in place.glob("*/manifest.json"))
    with open_database(settings.database) as database:
        left_out = rebuild(database, folders)
    for folder, reason in left_out.items():
        report.say(f"{folder} was left out: {reason}")
    report.say(f"{len(folders) - len(left_out)} runs indexed.")
    return 0


RUNS: dict[str, Callable[[RunsSettings, list[Path]], int]] = {
    "list": runs_list,
    "show": runs_show,
    "import": runs_import,
    "export": runs_export,
    "rebuild": runs_rebuild,
}
