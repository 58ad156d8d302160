"""What the API's routes answer, from the snapshot where that has it, and from the database where it has not.

Nothing here needs to know of HTTP: arguments are checked, answers are the models of `api_models`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from estbench import judged
from estbench.database import packing, queries, schema
from estbench.errors import StoreError
from estbench.runs import Run, Score, write_json
from estbench_leaderboard import api_models as out
from estbench_leaderboard import judging, public
from estbench_leaderboard.badges import standing
from estbench_leaderboard.errors import NotFound, PageError, Withheld
from estbench_leaderboard.shown import fit
from estbench_leaderboard.site import Request, as_json
from estbench_leaderboard.snapshot import Cell, Model, Snapshot, Task

SCORE = ("value", "ci_low", "ci_high", "n")


class NoExport(PageError):
    """A run that another format has no room for."""

    status = 404

    def __init__(self, run: str) -> None:
        super().__init__("api.no_export", name=run[:120])


def plain(value: Any) -> Any:
    """Data that strict JSON can hold: infinite numbers become null, half surrogate pairs a question mark."""
    return json.loads(as_json(value).encode("utf-8", "replace"))


def models(snapshot: Snapshot, board: str | None, words: str) -> list[out.ModelRow]:
    """Models whose name has all the words, newest first."""
    found = [model for name, of in snapshot.boards.items() if board in (None, name) for model in of.models.values()]
    wanted = words.casefold().split()
    kept = [model for model in found if all(word in model.name.casefold() for word in wanted)]
    kept.sort(key=lambda model: (model.created, model.slug, model.board), reverse=True)
    return [out.ModelRow(**_model(model)) for model in kept]


def _model(model: Model) -> dict[str, Any]:
    same = (
        *("slug", "name", "fingerprint", "board", "badge", "submitter", "ranked", "reference", "withdrawn"),
        *("parameters", "bytes", "tokens_per_word", "remote", "created"),
    )
    return {name: getattr(model, name) for name in same} | {"facts": plain(model.facts), "runs": list(model.runs)}


def model(snapshot: Snapshot, found: Model) -> out.ModelWhole:
    """A model with its scores and its place."""
    place = standing(snapshot, found)
    rank = None
    if (row := place.ranked) is not None:
        ends = {"low": row.rank_low, "high": row.rank_high, "of": place.total, "klass": row.klass}
        rank = out.Rank(**ends, score=row.score, ci_low=row.low, ci_high=row.high, judge=place.judge)
    return out.ModelWhole(
        **_model(found),
        rank=rank,
        unranked=place.why,
        training=plain(found.training),
        scores={} if found.withdrawn is not None else {task: _cell(cell) for task, cell in found.cells.items()},
    )


def _cell(cell: Cell) -> out.Cell:
    numbers = {name: None if cell.score is None else getattr(cell.score, name) for name in SCORE}
    judge = judging.judge_of([cell])
    return out.Cell(run=cell.run, reason=cell.reason, flags=list(cell.flags), judge=judge, **numbers)


def tasks(snapshot: Snapshot, board: str | None) -> list[out.TaskRow]:
    """Tasks, board by board."""
    boards = [of for name, of in snapshot.boards.items() if board in (None, name)]
    return [out.TaskRow(**_task(snapshot, task)) for of in boards for _, task in sorted(of.tasks.items())]


def _task(snapshot: Snapshot, task: Task) -> dict[str, Any]:
    same = (
        *("name", "board", "title", "skill", "language", "metric", "unit", "higher_is_better", "chance", "n_docs"),
        *("shots", "licence"),
    )
    found = {name: getattr(task, name) for name in same}
    shown = public.shows_items(snapshot, task.name, task.publish_items, task.card)
    return found | {"publish_items": shown, "ranks": task.name in snapshot.boards[task.board].defaults}


def task(snapshot: Snapshot, found: Task) -> out.TaskWhole:
    """A task with its card."""
    card = {key: value for key, value in public.card(found.card).items() if key != "judge"}  # of one run's answers
    return out.TaskWhole(**_task(snapshot, found), card=plain(card))


def boards(snapshot: Snapshot) -> list[out.BoardRow]:
    """All boards, also those without a model yet."""
    rows = (
        {"name": name, "models": len(of.models), "tasks": sorted(of.tasks), "defaults": list(of.defaults)}
        for name, of in snapshot.boards.items()
    )
    return [out.BoardRow.model_validate(row) for row in rows]


def _fingerprint(snapshot: Snapshot, word: str) -> str:
    """Of a model by slug, name or fingerprint; itself where no board has such a one."""
    found = snapshot.model(word)
    return word if found is None else found.fingerprint


def runs(snapshot: Snapshot, model: str | None, task: str | None) -> list[out.RunRow]:
    """Runs of a model that have a task, newest first."""
    wanted = None if model is None else _fingerprint(snapshot, model)
    return [
        out.RunRow(**_run(snapshot, row))
        for row in public.runs(snapshot).values()
        if wanted in (None, row.fingerprint) and (task is None or task in row.tasks)
    ]


def _run(snapshot: Snapshot, row: queries.RunRow) -> dict[str, Any]:
    same = ("id", "created", "seconds", "partial", "result", "observed")
    hidden = snapshot.hidden
    return {name: getattr(row, name) for name in same} | {
        "model": row.fingerprint,
        "name": row.model,
        "badge": hidden.badge(row.id),
        "submitter": hidden.submitter(row.id),
        "suites": list(row.suites),
        "tasks": [task for task in row.tasks if hidden.shows_task(task)],
    }


def _shown(request: Request, run: str) -> queries.RunRow:
    found = public.runs(request.snapshot).get(run)
    if found is None:
        raise NotFound("run", run)
    return found


def run(request: Request, name: str) -> out.RunWhole:
    """A run with its tasks and manifest."""
    snapshot, row = request.snapshot, _shown(request, name)
    same = ("task", "n", "n_planned", "plan_hash", "primary", "shots")
    plan = [
        out.RunTask(
            **{key: getattr(of, key) for key in same},
            items=public.shows_items(snapshot, of.task, of.publish_items, of.card),
        )
        for of in (queries.tasks(request.site.database, name) if row.tasks else ())
        if snapshot.hidden.shows_task(of.task)
    ]
    return out.RunWhole(**_run(snapshot, row), plan=plan, manifest=plain(fit(_manifest(request, name))))


def _manifest(request: Request, run: str) -> dict[str, Any]:
    """The manifest without places, and without tasks that are hidden."""
    found = public.manifest(queries.manifest(request.site.database, run))
    shown = request.snapshot.hidden.shows_task
    return found | {"tasks": {task: card for task, card in found["tasks"].items() if shown(task)}}


def scores(
    request: Request,
    model: str | None,
    task: str | None,
    run: str | None,
    primary: bool | None,
    limit: int,
    offset: int,
) -> tuple[list[out.ScoreOut], int]:
    """A part of the scores that fit, and how many fit."""
    snapshot = request.snapshot
    runs = public.runs(snapshot)
    wanted = None if model is None else _fingerprint(snapshot, model)
    chosen = [row.id for row in runs.values() if run in (None, row.id) and wanted in (None, row.fingerprint)]
    tasks = {name for row in runs.values() for name in row.tasks if snapshot.hidden.shows_task(name)}
    if task is not None:
        tasks &= {task}
    column = schema.scores.c
    fits = column.run_id.in_(chosen) & column.task.in_(sorted(tasks))
    if primary is not None:
        fits &= column.primary.is_(primary)
    order = (schema.runs.c.created.desc(), schema.runs.c.id.desc(), column.position)
    query = select(column.run_id, *(column[field.name] for field in fields(Score))).where(fits)
    query = query.join(schema.runs, schema.runs.c.id == column.run_id).order_by(*order).limit(limit).offset(offset)
    with request.site.database.read() as connection:
        total = connection.scalar(select(func.count()).select_from(schema.scores).where(fits)) or 0
        rows = connection.execute(query).all()
    return [_score(runs[row.run_id], row._mapping) for row in rows], int(total)


def _score(run: queries.RunRow, row: Mapping[Any, Any]) -> out.ScoreOut:
    values = {name: value for name, value in row.items() if name != "run_id"}
    judge = judged.state(dict(values))
    return out.ScoreOut(run=run.id, model=run.fingerprint, name=run.model, judge=judge, **plain(values))


def every_eval_ever(request: Request, name: str) -> dict[str, Any]:
    """The aggregate document of a run; made by the same code as that of a run's folder."""
    from estbench.interchange.every_eval_ever import export

    _shown(request, name)
    manifest = _manifest(request, name)
    rows = queries.scores(request.site.database, runs=[name])
    kept = [asdict(row.score) for row in rows if request.snapshot.hidden.shows_task(row.score.task)]
    with tempfile.TemporaryDirectory(prefix="estbench-") as temporary:
        folder = Path(temporary)
        write_json(folder / "run" / "manifest.json", manifest)
        write_json(folder / "run" / "scores.json", [row for row in kept if row["task"] in manifest["tasks"]])
        try:
            written = export(Run(folder / "run"), folder / "eee")
        except StoreError:  # a slice, or without any score
            raise NoExport(name) from None
        return dict(json.loads(written[0].read_text("utf-8")))


def _documents(request: Request, run: str, task: str) -> tuple[queries.TaskRow, tuple[str, ...]]:
    """A task of a run whose documents may be shown, and their hashes."""
    row, snapshot = _shown(request, run), request.snapshot
    if task not in row.tasks or not snapshot.hidden.shows_task(task):
        raise NotFound("task", task)
    found = next(of for of in queries.tasks(request.site.database, run) if of.task == task)
    if not public.shows_items(snapshot, task, found.publish_items, found.card):
        raise Withheld(task)
    of_task = (schema.run_tasks.c.run_id == run) & (schema.run_tasks.c.task == task)
    query = select(schema.lists.c.data).join(schema.run_tasks, schema.run_tasks.c.docs == schema.lists.c.hash)
    with request.site.database.read() as connection:
        packed = connection.scalar(query.where(of_task))
    return found, () if packed is None else packing.unpack_list(packed)


def samples(request: Request, run: str, task: str) -> list[out.SampleRow]:
    """Documents with their value in the primary metric; those without one are left out."""
    found, docs = _documents(request, run, task)
    if not docs or found.primary is None:
        return []
    items = queries.items_of_runs(request.site.database, [run], task, found.primary).get(run)
    if items is None:
        return []
    clusters = items.clusters or (None,) * len(items.docs)
    return [
        out.SampleRow(doc=doc, value=plain(value), cluster=None if cluster is None else str(cluster))
        for doc, value, cluster in zip(items.docs, items.values.tolist(), clusters, strict=True)
    ]


def sample(request: Request, run: str, task: str, doc: str) -> out.SampleWhole:
    """One document."""
    _, docs = _documents(request, run, task)
    if doc not in docs:
        raise NotFound("document", doc)
    found = queries.sample(request.site.database, run, task, doc)
    one = found.sample
    return out.SampleWhole(
        run=run,
        task=task,
        doc=doc,
        doc_id=one.doc_id,
        prompt=_prompt(request, one.prompt_hash),
        target=plain(one.target),
        answer=plain(one.answer),
        values=plain(one.values),
        parse_failure=one.parse_failure,
        error=one.error,
        responses=plain(judging.split(found.responses)),
        votes=plain(judging.votes(found.responses)),
    )


def _prompt(request: Request, name: str | None) -> str | None:
    """The prompt's text; None where the database does not have it."""
    if name is None:
        return None
    with request.site.database.read() as connection:
        packed = connection.scalar(select(schema.prompts.c.text).where(schema.prompts.c.hash == name))
    return None if packed is None else packing.unpack_text(packed)
