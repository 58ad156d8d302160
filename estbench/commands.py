"""What each command does once its settings are read. Heavy parts are imported where they are needed."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import report
from estbench.errors import ConfigError, StoreError
from estbench.runs import Run

if TYPE_CHECKING:
    from estbench.config import EvalSettings
    from estbench.settings import (
        CometSettings,
        ContaminationSettings,
        DataSettings,
        EnvSettings,
        ParitySettings,
        ScoreSettings,
        ShowSettings,
        TasksSettings,
    )


NAMED = 5  # documents without a response that are named on stderr


def wants_table(output: str | None) -> bool:
    """A table on a terminal, JSON on a pipe, unless `output=` says which."""
    return sys.stdout.isatty() if output is None else output == "table"


def evaluate(settings: EvalSettings) -> int:
    """Run an evaluation, index it, print its scores; of several models one after the other."""
    from estbench import runner, series
    from estbench.database import open_database

    each = series.expand(settings)
    if settings.judge:
        _judges().settings_of(settings)  # a judge that can't be is found before the work
    if series.is_series(settings.model):
        return _evaluate_series(settings, each)
    job = runner.prepare(settings, report.say)
    open_database(settings.database).close()  # one that can't be used is found before the work
    with report.ProgressBar() as bar:
        run = runner.evaluate(job, say=report.say, progress=bar)
    run = _finish(run, settings)
    if not wants_table(settings.output):
        print(report.as_json(report.run_json(run)))
    else:
        _print_run(run, settings)
    return _warn_unanswered([run])


def _finish(run: Run, settings: EvalSettings) -> Run:
    """Index a run, and have judged what awaits a judge; without one it is said what completes the run."""
    from estbench import judged

    index(run, settings.database)
    if settings.judge:
        return Run(_judges().after_eval(run, settings).path)
    if waiting := judged.awaiting(run):
        report.say(
            f"{', '.join(waiting)}: awaiting judge. `estbench judge run={run.id} judge=MODEL@URL` completes the run, "
            "here or elsewhere."
        )
    return run


def _judges() -> Any:
    """The judges' commands, by name: estbench imports nothing of them."""
    return importlib.import_module("estbench_judges.commands")


def _print_run(run: Run, settings: EvalSettings) -> None:
    model = run.manifest["model"]
    known = model["parameters"] is not None
    size = f"{model['parameters'] / 1e6:,.1f} M parameters · {model['dtype']}" if known else "weights unverified"
    partial = " · partial" if run.manifest["partial"] else ""
    print(f"{run.manifest['name']} · {size}{partial}")
    if settings.slice:
        print(f"Slice {settings.slice}: `estbench runs import` makes scores of all slices together.")
    else:
        report.show(report.scores_table(run.scores()))
    print(f"Run {run.id} is in {run.path}")
    if not settings.slice:
        print(_next(run, settings))


def _evaluate_series(settings: EvalSettings, each: Sequence[EvalSettings]) -> int:
    from estbench import series
    from estbench.database import open_database

    series.check(each, report.say)
    open_database(settings.database).close()
    outcomes = list(series.evaluate(each, report.say, lambda run: _finish(run, settings)))
    if not wants_table(settings.output):
        print(report.as_json(series.as_rows(outcomes)))
    else:
        print(series.as_text(outcomes))
        if settings.slice:
            print(f"Slice {settings.slice}: `estbench runs import` makes scores of all slices together.")
    _warn_unanswered([one.run for one in outcomes if one.run])
    return max(one.exit_code for one in outcomes)


def _warn_unanswered(runs: Sequence[Run]) -> int:
    """Name what has no response; the exit code that this gives."""
    for run in runs:
        if run.unanswered:
            reason = run.manifest["unanswered"]["reason"]
            many = f"{run.unanswered:,} documents have" if run.unanswered > 1 else "1 document has"
            lacking = (f"{task} {one.doc_id}" for task in run.tasks for one in run.samples(task) if one.error)
            first = ", ".join(itertools.islice(lacking, NAMED)) + (", …" if run.unanswered > NAMED else "")
            report.say(
                f"estbench: {run.manifest['name']}: {many} no response ({reason.rstrip('.')}): {first}. Scores are of "
                "the rest; the same command asks for these alone."
            )
    return 4 if any(run.unanswered for run in runs) else 0


def _next(run: Run, settings: EvalSettings) -> str:
    other = "demo-base" if settings.model == "demo" else "demo"
    task = run.tasks[0]
    data = f" data={settings.data}" if settings.data else ""
    words = {"engine": settings.engine} | {f"engine.{key}": part for key, part in settings.engine_options.items()}
    asked = ("engine", "engine.url", "engine.model", "engine.api", "engine.tokenizer")
    remote = [f"{key}={words[key]}" for key in asked if key in words] if settings.engine == "openai" else []
    model = shlex.join([f"model={settings.model}"] * bool(settings.model) + remote)
    lines = ["Next:", f"  estbench show task={task} doc=3 {model}{data}"]
    if settings.model in ("demo", "demo-base"):
        lines.append(f"  estbench eval model={other} tasks={settings.tasks or 'mini'}{data}")
    return "\n".join([*lines, "  estbench runs"])


def index(run: Run, url: str | None) -> None:
    """Index a run. An earlier folder that lacks responses which this one has is removed, with its rows."""
    from estbench.database import index_run, open_database, remove_run
    from estbench.runs import superseded

    try:
        with open_database(url) as database:
            index_run(database, run)
            for old in superseded(run):
                with contextlib.suppress(StoreError):  # it was never indexed here
                    remove_run(database, old.id)
                shutil.rmtree(old.path)
                report.say(f"{old.id}, in which {old.unanswered:,} documents had no response, is replaced by {run.id}.")
    except StoreError as error:
        raise StoreError(
            f"{error} The run itself is whole in {run.path}; `estbench runs rebuild` indexes it later."
        ) from None


def show_plan(settings: EvalSettings) -> int:
    """What an eval would do: documents, tokens, memory, time, and what is missing."""
    from estbench import planning, series

    plans = [planning.outline(one, report.say) for one in series.expand(settings)]
    if not wants_table(settings.output):
        print(report.as_json(plans if series.is_series(settings.model) else plans[0]))
    else:
        heads = [f"{plan['model']['name'] if plan['tasks'] else plan['model']}\n" for plan in plans]
        several = len(plans) > 1
        texts = map(planning.as_text, plans)
        print("\n\n".join(head + text if several else text for head, text in zip(heads, texts, strict=True)))
    return 2 if any(plan["missing"] for plan in plans) and settings.missing == "stop" else 0


def pull(settings: EvalSettings) -> int:
    """Fetch the model and the data sets of an eval, so that it runs with no network afterwards."""
    from estbench import data, engines, runner, series

    remote = settings.engine == "openai"  # nothing to fetch, and nothing to ask
    models = [engines.find_model(one, report.say, fetch=not remote) for one in series.expand(settings)]
    for model in models if not remote else []:
        report.say(f"{model.name}: {model.path}")
    folder = _folder(settings)
    if data.is_sample(folder):
        raise ConfigError("data=samples comes with estbench: there is nothing to fetch; leave data= out.")
    chosen = {card.name: card for model in models for card in runner.choose(settings, model).tasks}
    wanted = {
        ref: None
        for card in chosen.values()
        for ref in data.references([card])
        if data.missing(ref, card.splits, folder)
    }
    _pull(list(wanted), update=False)
    run = "" if remote else ": the same words after `estbench eval` run with no network"
    report.say(f"{'The data' if remote else 'Everything'} is here{run}.")
    return 0


def tasks_list(settings: TasksSettings) -> int:
    """List tasks and suites, or print a card."""
    from estbench.registry import Registry

    registry = Registry.of(settings)
    if settings.task:
        from estbench import planning

        card = planning.card(registry.task(settings.task))
        print(planning.card_text(card) if wants_table(settings.output) else report.as_json(card))
        return 0
    rows: list[dict[str, Any]] = [
        {
            "task": task.name,
            "title": task.title["et"],
            "skill": task.metadata.get("skill"),
            "form": task.form,
            "metric": task.primary,
            "chance": task.chance,
            "unit": task.unit,
            "shots": task.shots,
            "suites": ", ".join(suite.name for suite in registry.suites.values() if task.name in suite.tasks),
        }
        for task in (*registry.tasks.values(), *(task for part in registry.included for task in part.tasks.values()))
    ]
    if not wants_table(settings.output):
        suites = {s.name: {"title": s.title, "form": s.form, "tasks": s.tasks} for s in registry.suites.values()}
        print(report.as_json({"tasks": rows, "suites": suites}))
        return 0
    for row in rows:
        row["chance"] = report.number(row["chance"], row["unit"])
    columns = {
        "task": "task",
        "title": "title",
        "skill": "skill",
        "form": "form",
        "metric": "metric",
        "chance": ">chance",
        "shots": ">shots",
        "suites": "suites",
    }
    print(report.listing(rows, columns))
    return 0


def tasks_check(settings: TasksSettings) -> int:
    """Look for mistakes in task files, on the samples or on real data; exit code 1 if there are some."""
    from estbench import data, task_checks
    from estbench.registry import Registry

    registry = Registry.of(settings)
    cards = registry.select(settings.tasks or settings.task or ",".join(registry.tasks)).tasks
    if settings.include and not (settings.tasks or settings.task):
        cards = [task for folder in registry.included for task in folder.tasks.values()]
    folder = Path(settings.data).expanduser()
    rows = []
    for card in cards:
        reason = data.missing_of_task(card, folder)
        problems = [] if reason else task_checks.check_task(card, folder)
        level = "not checked" if reason else "problem" if problems else "ok"
        rows += [
            {"task": card.name, "level": level, "message": message}
            for message in ([reason or "no problem found"] if not problems else map(str, problems))
        ]
    if wants_table(settings.output):
        print(report.listing(rows, {"level": "", "task": "task", "message": "what was found"}))
    else:
        print(report.as_json(rows))
    return 1 if any(row["level"] == "problem" for row in rows) else 0


def show(settings: ShowSettings) -> int:
    """Print one prompt as the model gets it."""
    from estbench import planning

    view = planning.prompt(settings)
    print(report.as_json(view)) if not wants_table(settings.output) else print(planning.prompt_text(view))
    return 0


def data_list(settings: DataSettings) -> int:
    """Where each data set is found."""
    from estbench import data

    rows = [asdict(row) for row in data.listing(data.references(_cards(settings)), data=_folder(settings))]
    if not wants_table(settings.output):
        print(report.as_json(rows))
        return 0
    for row in rows:
        own = row["place"] == str(data.own_place())
        row["place"] = row["place"] or "not here"
        row["rows"] = ", ".join(f"{split} {n:,}" for split, n in row["rows"].items())
        row["commit"] = "with estbench" if own else (row["commit"] or "not locked yet")[:14]
    columns = {"path": "data set", "config": "config", "place": "found in", "rows": "rows", "commit": "commit"}
    print(report.listing(rows, columns))
    return 0


def data_pull(settings: DataSettings) -> int:
    """Fetch data sets from the Hub, into data= or ESTBENCH_HOME."""
    from estbench import data

    _pull(data.references(_cards(settings)), update=settings.update, into=_folder(settings))
    return 0


def _pull(references: Sequence[Any], *, update: bool, into: Path | None = None) -> None:
    from estbench import data

    for reference in references:
        if data.is_own(reference):
            report.say(f"{reference} comes with estbench.")
            continue
        found = data.pull(reference, update=update, into=into)
        report.say(
            f"{reference}: {sum(map(len, found.splits.values())):,} rows of commit {found.commit} in {found.origin}"
        )


def data_verify(settings: DataSettings) -> int:
    """Check copies, or what the Hub has, against checksums and the lock; exit code 1 if something differs."""
    from estbench import data, data_checks

    if settings.remote and settings.data:
        raise ConfigError("remote=true looks at the Hub and GitHub: leave data= out.")
    cards = _cards(settings)
    found = (
        data_checks.verify_remote(cards)
        if settings.remote
        else data_checks.verify(data.references(cards), _folder(settings))
    )
    rows = [asdict(row) for row in found]
    if wants_table(settings.output):
        columns = {"level": "", "dataset": "data set", "split": "split", "message": "what was found", "place": "in"}
        print(report.listing(rows, columns))
    else:
        print(report.as_json(rows))
    return 1 if any(row["level"] == "error" for row in rows) else 0


def _cards(settings: DataSettings) -> list[Any]:
    from estbench.registry import Registry

    registry = Registry()
    return registry.select(settings.tasks).tasks if settings.tasks else list(registry.tasks.values())


def _folder(
    settings: CometSettings | ContaminationSettings | DataSettings | EvalSettings | ScoreSettings,
) -> Path | None:
    return Path(settings.data).expanduser() if settings.data else None


def score(settings: ScoreSettings) -> int:
    """Score a file of answers."""
    from estbench import outputs

    gold = Path(settings.gold).expanduser() if settings.gold else None
    answers = Path(settings.outputs).expanduser()
    scores = outputs.score(settings.task, answers, gold=gold, data_dir=_folder(settings), say=report.say)
    if not wants_table(settings.output):
        row = {"task": settings.task, "name": settings.name, "outputs": settings.outputs, "gold": settings.gold}
        print(report.as_json(row | {"scores": [asdict(one) for one in scores]}))
        return 0
    print(settings.name or answers.name)
    report.show(report.scores_table(scores))
    return 0


def contamination(settings: ContaminationSettings) -> int:
    """Look for the documents of tasks in a corpus."""
    from estbench.contamination import report as contaminated
    from estbench.registry import Registry
    from estbench.runs import Run, find_run

    run = Run(find_run(settings.run)) if settings.run else None
    if not settings.tasks and run is None:
        raise ConfigError("tasks= is missing: name suites or tasks, or a run with run=.")
    cards = Registry().select(settings.tasks or (run.tasks if run else [])).tasks
    found = contaminated.look(
        settings.corpus,
        cards,
        run=run,
        data_dir=_folder(settings),
        field=settings.field,
        near=settings.near,
        processes=settings.processes,
        say=report.say,
    )
    for line in contaminated.warnings(found):
        report.say(line)
    print(contaminated.as_text(found)) if wants_table(settings.output) else print(report.as_json(found))
    return 1 if found["broken"] else 0


def comet(settings: CometSettings) -> int:
    """COMET scores of a run's translations, written beside the run."""
    from functools import partial

    from estbench import comet_runs, environments
    from estbench.metrics import comet as metric
    from estbench.runs import Run, Score, find_run

    environments.ready("comet")
    run = Run(find_run(settings.run))
    tasks = comet_runs.translation_tasks(run, settings.task)
    model = metric.find(settings.model, settings.accept_licence)
    report.say(f"{model.name} · licence: {model.licence}")
    start = partial(metric.Comet, device=settings.device, batch=settings.batch)
    entry = comet_runs.score_run(run, tasks, model, say=report.say, data=_folder(settings), start=start)
    if not wants_table(settings.output):
        print(report.as_json({key: value for key, value in entry.items() if key != "values"} | {"run": run.id}))
        return 0
    report.show(report.scores_table([Score(**row) for row in entry["scores"] if row["task"] in tasks]))
    print(entry["signature"])
    print(f"The value of each document is in {run.path / comet_runs.FILE}")
    return 0


def parity(settings: ParitySettings) -> int:
    """Two engines side by side; exit code 1 past the tolerance."""
    from estbench import parity as comparison

    with report.ProgressBar() as bar:
        found = comparison.compare(settings, report.say, bar)
    print(comparison.as_text(found) if wants_table(settings.output) else report.as_json(found))
    return 0 if found["verdict"] == "within" else 1


def env_list(settings: EnvSettings, names: list[str]) -> int:
    """Side environments: their state, size and versions."""
    from estbench import environments

    if names:
        raise ConfigError(f"{names[0]} is one word too many: `estbench env --help` shows what `env list` takes.")
    rows = environments.listing()
    if not wants_table(settings.output):
        print(report.as_json(rows))
        return 0
    for row in rows:
        row["size"] = f"{row['bytes'] / 1e6:,.0f} MB" if row["bytes"] else ""
        row["packages"] = ", ".join(f"{name} {version}" for name, version in row["packages"].items())
    columns = {"name": "environment", "state": "state", "size": ">size", "packages": "versions", "purpose": "for"}
    print(report.listing(rows, columns))
    return 0


def env_install(settings: EnvSettings, names: list[str]) -> int:
    """Build a side environment; with `model=` fetch a COMET model, too."""
    from estbench import environments

    name = _one_environment(names, "install")
    if settings.model and name != "comet":
        raise ConfigError("model= belongs to `estbench env install comet`.")
    environments.install(name, report.say, settings.variant)
    if settings.model:
        from estbench.metrics.comet import fetch

        fetch(settings.model, settings.accept_licence, report.say)
    return 0


def env_remove(settings: EnvSettings, names: list[str]) -> int:
    """Delete a side environment."""
    from estbench import environments

    name = _one_environment(names, "remove")
    report.say(f"{name} is removed." if environments.remove(name) else f"{name} was not installed.")
    return 0


def _one_environment(names: list[str], verb: str) -> str:
    from estbench import environments

    if len(names) != 1:
        raise ConfigError(f"Name one environment: estbench env {verb} {'|'.join(environments.ENVIRONMENTS)}.")
    return environments.get(names[0]).name


TASKS: dict[str, Callable[[TasksSettings], int]] = {"list": tasks_list, "check": tasks_check}
DATA: dict[str, Callable[[DataSettings], int]] = {"list": data_list, "pull": data_pull, "verify": data_verify}
ENV: dict[str, Callable[[EnvSettings, list[str]], int]] = {
    "list": env_list,
    "install": env_install,
    "remove": env_remove,
}
