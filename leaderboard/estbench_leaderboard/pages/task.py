"""A task: what it measures, who does it how well, how scores and documents are spread, what is asked, its card."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estbench import references, report
from estbench.database.engine import Database
from estbench.stats.ranks import Ranked
from estbench_leaderboard import answers, documents, judging
from estbench_leaderboard.charts import distribution
from estbench_leaderboard.documents import Difficulty, Document
from estbench_leaderboard.errors import NotFound
from estbench_leaderboard.pages import tasks
from estbench_leaderboard.shown import as_text, fit, line, shown
from estbench_leaderboard.site import Content, Request
from estbench_leaderboard.snapshot import Board, Cell, Model, Task

HEADER = (
    *("board", "model", "name", "badge", "rank_low", "rank_high", "class", "value", "ci_low", "ci_high", "n"),
    *("parse_failures", "errors", "reason", "flags", "run", "judge"),
)
HARD = 10  # documents
SHOWN = 50  # models before one asks for the rest
TENTHS = ("acc", "acc_norm", "em", "exact_match")  # metrics that count right documents
ELSEWHERE = ("other_version", "other_prompt", "other_judges")  # measured, but not comparable
PROMPT = 3000  # characters of the prompt and the answer


@dataclass(frozen=True, slots=True)
class Standing:
    """A model in this task alone."""

    model: Model
    cell: Cell
    ranked: Ranked | None
    why: str | None  # a text of the catalogue: why it has no place


@dataclass(frozen=True)
class OnBoard:
    """The task on one of its boards."""

    board: Board
    task: Task
    ranked: tuple[Standing, ...]  # the best first
    others: tuple[Standing, ...]  # with a score, and no place
    unsure: bool
    elsewhere: Mapping[str, int]  # of ELSEWHERE -> models


@dataclass(frozen=True)
class Read:
    """What may be read of the task's documents: of the best model that has them."""

    model: Model
    run: str
    first: Document
    prompt: str
    hard: tuple[tuple[float, Document], ...]  # mean over models, document


def page(request: Request, task: str) -> Content:
    """The page of a task; NotFound if it is on no board."""
    found = [_on(board, board.tasks[task]) for board in request.snapshot.boards.values() if task in board.tasks]
    if not found:
        raise NotFound("task", task)
    database, main = request.site.database, found[0]
    own = main.task
    hard = documents.difficulty(database, own, [row.model for row in main.ranked])
    runs = _allowed(request, found)
    read = _read(database, main, hard, runs) if tasks.shows_items(request.snapshot, own) else None
    t, language = request.t, request.language
    title, about = language.pick(own.title), tasks.about(language, own)
    numbers = _judged(request, found)
    values = {
        "title": line(title),
        "about": about,
        "name": line,
        "shown": SHOWN,
        "task": own,
        "found": found,
        "skill": tasks.skill_of(own),
        "meaning": meaning(request, main),
        "metric": {"name": tasks.metric_name(language, own.metric), "meaning": _metric_meaning(request, own)},
        "allowed": runs,
        "figures": _figures(request, main, hard, title),
        "judged": numbers[:SHOWN],
        "judges": own.judges,
        "read": read,
        "texts": None if read is None else _texts(read),
        "hard": [] if read is None else _hard(read),
        "solved": hard is not None and hard.solved,
        "hard_models": 0 if hard is None else hard.models,
        "why": None if tasks.shows_items(request.snapshot, own) else _why(own),
        "facts": facts(request, own),
        "known": _known(request, own),
        "marked": _marked(request, found),
        "published": _published(own),
        "decisions": [decision for decision in request.snapshot.decisions if decision.task == task],
    }
    return Content(
        template="task.html",
        values=values,
        json=lambda: as_data(request, found, hard, read) | {"judged": numbers},
        table=lambda: (HEADER, [_cells(on, row) for on in found for row in (*on.ranked, *on.others)]),
        title=line(title),
        description=t("task.description", about=about, n=own.n_docs, metric=tasks.metric_name(language, own.metric)),
    )


def _on(board: Board, task: Task) -> OnBoard:
    """Ranks among the models that were measured in it."""
    models = [model for model in board.models.values() if model.withdrawn is None]
    have = [model.slug for model in models if tasks.counts(model, task)]
    known = board.prepared is not None and task.name in board.prepared.tasks and have
    ranking = board.prepared.rank({task.name: 1.0}, have) if board.prepared is not None and known else None
    placed = {row.model: row for row in ranking.rows} if ranking else {}
    rows = [Standing(model, model.cells[task.name], placed.get(model.slug), _unranked(model, task)) for model in models]
    rows = [row for row in rows if row.cell.score is not None and row.cell.score.value is not None]
    sign = -1 if task.higher_is_better else 1
    rows.sort(key=lambda row: (sign * (_value(row) or 0.0), row.model.name))
    ranked = [row for row in rows if row.why is None]
    if placed:
        ranked.sort(key=lambda row: (placed[row.model.slug].klass, -placed[row.model.slug].score))
    others = tuple(row for row in rows if row.why is not None)
    elsewhere = Counter(row.cell.reason for row in others if row.cell.reason in ELSEWHERE)
    return OnBoard(board, task, tuple(ranked), others, bool(ranking and ranking.unsure), elsewhere)


def _value(row: Standing) -> float | None:
    return None if row.cell.score is None else row.cell.score.value


def _unranked(model: Model, task: Task) -> str | None:
    """Why a model has no place: a text of the catalogue."""
    if model.reference:
        return "unranked.reference"
    if model.badge in ("claimed", "rescored"):
        return f"unranked.{model.badge}"
    reason = model.cells[task.name].reason
    return None if reason is None else f"reason.{reason}"


def _judged(request: Request, found: Sequence[OnBoard]) -> list[judging.Number]:
    """What stands beside the numbers that judges gave, model by model."""
    rows = [row for on in found for row in (*on.ranked, *on.others) if judging.judge_of([row.cell])]
    places = [
        judging.Place(row.cell.run, found[0].task.name, line(row.model.name), request.url("run", run=row.cell.run))
        for row in rows
        if row.cell.run is not None
    ]
    return judging.beside(request, places, primary=True)


def _allowed(request: Request, found: Sequence[OnBoard]) -> set[str]:
    """Runs whose documents may be read, of all models that are listed."""
    task = found[0].task
    if not tasks.shows_items(request.snapshot, task):
        return set()
    runs = [row.cell.run for on in found for row in (*on.ranked, *on.others) if row.cell.run is not None]
    return set(documents.allowed(request.site.database, request.snapshot, task.name, list(dict.fromkeys(runs))))


def _read(database: Database, on: OnBoard, hard: Difficulty | None, allowed: set[str]) -> Read | None:
    """The first document and the hardest ones, as the best model answered them."""
    rows = [row for row in (*on.ranked, *on.others) if row.cell.run in allowed]
    if not rows:
        return None
    model, run = rows[0].model, str(rows[0].cell.run)
    worst = [] if hard is None else [(float(hard.means[at]), hard.docs[at]) for at in hard.hardest(HARD)]
    found = documents.read(database, run, on.task.name, [doc for _, doc in worst], first=True)
    first = next((one for one in found.values() if one.position == 0), None)
    if first is None:
        return None
    prompt = documents.prompts(database, [first.prompt]).get(first.prompt, "")
    return Read(model, run, first, prompt, tuple((mean, found[doc]) for mean, doc in worst if doc in found))


def meaning(request: Request, on: OnBoard) -> list[str]:
    """What a score of this task says, in a few sentences."""
    task, language, t = on.task, request.language, request.t
    chance = None if task.chance is None else language.score(task.chance, task.unit)
    if task.metric == "mcc":
        key = "correlation"
    elif task.unit in ("bits", "points"):
        key = task.unit if chance is not None else "unknown"
    else:
        key = "unknown" if chance is None else "share" if task.chance else "nothing"
    words = [t(f"task.meaning.{key}", chance=chance)]
    if on.ranked and task.metric in TENTHS:
        right, guess = (language.decimal(10 * (value or 0.0)) for value in (_value(on.ranked[0]), task.chance))
        words.append(t("task.meaning.tenth", name=line(on.ranked[0].model.name), right=right, guess=guess))
    words.append(t("task.meaning.n", n=task.n_docs))
    scores = [row.cell.score for row in on.ranked if row.cell.score is not None]
    if judge := report.judge_of(scores):
        words.append(t(f"flag.{judge}.meaning"))
    halves = [(s.ci_high - s.ci_low) / 2 for s in scores if s.ci_low is not None and s.ci_high is not None]
    if halves:
        half = language.score(statistics.median(halves), task.unit)
        words.append(t("task.meaning.typical", half=half))
    return words


def _metric_meaning(request: Request, task: Task) -> str:
    key = f"task.metric.{task.metric}.meaning"
    return request.t(key if request.language.has(key) else "task.metric.other.meaning")


def _figures(request: Request, on: OnBoard, hard: Difficulty | None, title: str) -> list[tuple[str, str]]:
    """Figures with their captions."""
    t, language, task = request.t, request.language, on.task
    rows = (*on.ranked, *on.others)
    title = judging.named(t, line(title), judging.judge_of(row.cell for row in rows))
    dots = [distribution.Dot(value, row.why is None) for row in rows if (value := _value(row)) is not None]
    found = []
    if len(dots) > 1:
        values = [dot.value for dot in dots]
        ends = (min(values), statistics.median(values), max(values))
        low, middle, high = (language.score(value, task.unit) for value in ends)
        words = t("task.spread.models", n=len(dots), low=low, middle=middle, high=high)
        if task.chance is not None:
            words += " " + t("task.spread.guessing", chance=language.score(task.chance, task.unit))
        name = t("task.spread.title", title=title)
        drawn = distribution.models(dots, language, unit=task.unit, chance=task.chance, title=name, description=words)
        found.append((drawn, t("task.spread.caption") + " " + words))
    if hard is not None and hard.solved and hard.models > 1:
        known = [float(mean) for mean in hard.means if mean == mean]
        counts = {"all": sum(mean == 1 for mean in known), "none": sum(mean == 0 for mean in known)}
        words = t("task.spread.solved", n=len(known), models=hard.models, **counts)
        name = t("task.spread.solved_title", title=title)
        drawn = distribution.documents(known, language, title=name, description=words)
        found.append((drawn, t("task.spread.solved_caption") + " " + words))
    return found


def _texts(read: Read) -> dict[str, Any]:
    first = read.first
    said = [text for _, text in answers.texts(first.responses)]
    target = "" if first.target is None else answers.preview(first.target, first.responses)
    answer = said[0] if said else answers.preview(first.answer, first.responses)
    parts = {"prompt": read.prompt, "target": target, "answer": answer}
    return {"name": line(read.model.name)} | {key: shown(text, PROMPT) for key, text in parts.items()}


def _hard(read: Read) -> list[dict[str, Any]]:
    """Rows of the hardest documents."""
    return [
        {
            "doc": one.doc,
            "number": one.position + 1,
            "mean": mean,
            "target": line("" if one.target is None else answers.preview(one.target, one.responses)),
            "answer": line(answers.preview(one.answer, one.responses)),
        }
        for mean, one in read.hard
    ]


def _why(task: Task) -> str:
    access = str(task.card.get("access") or "public")
    return access if access in ("withheld", "gated") else "licence"


def facts(request: Request, task: Task) -> list[tuple[str, str]]:
    """The card."""
    t, language, own = request.t, request.language, tasks.metadata(task.name)
    data = task.card.get("data") or {}
    unknown = t("task.card.unknown")
    source = " / ".join(as_text(data[key]) for key in ("path", "config") if data.get(key))
    spoken = f"task.language.{task.language}"
    access = f"task.access.{task.card.get('access') or 'public'}"
    rows = {
        "skill": t(f"skill.{tasks.skill_of(task)}.title"),
        "language": t(spoken) if language.has(spoken) else task.language,
        "metric": f"{tasks.metric_name(language, task.metric)} ({task.metric})",
        "documents": language.count(task.n_docs),
        "cluster": t("task.card.clustered" if task.card.get("cluster") else "task.card.single"),
        "shots": language.count(task.shots) if task.shots else t("task.card.shots_none"),
        "chance": unknown if task.chance is None else language.score(task.chance, task.unit),
        "licence": as_text(task.licence) if task.licence else unknown,
        "access": t(access) if language.has(access) else unknown,
        "data": source or unknown,
        "commit": as_text(data.get("commit") or "")[:40],
        "hash": as_text(data.get("hash") or "")[:16],
        "scorer": as_text(task.card.get("scorer") or "")[:16],
        "version": "" if own["version"] is None else str(own["version"]),
        "citation": own["citation"] or "",
    }
    return [(t(f"task.card.{key}"), str(fit(value))) for key, value in rows.items() if value]


def _known(request: Request, task: Task) -> list[str]:
    """What is known to be wrong with it, and what of leaks."""
    t = request.t
    key = f"task.known.{tasks.base(task.name)}"
    words = [t(key)] if request.language.has(key) else []
    words.append(t("task.known.withheld" if task.card.get("access") == "withheld" else "task.known.public"))
    return [*words, t("task.version.sample")] if task.card.get("sample") else words


def _marked(request: Request, found: Sequence[OnBoard]) -> list[tuple[Model, str]]:
    """Models that are known to have seen the data, and how one knows."""
    models = {row.model.slug: row.model for on in found for row in (*on.ranked, *on.others)}
    hidden, task = request.snapshot.hidden, found[0].task.name
    reasons = [(model, hidden.contaminated(model.fingerprint, task)) for model in models.values()]
    return [(model, fit(reason)) for model, reason in reasons if reason is not None]


def _published(task: Task) -> list[dict[str, Any]]:
    """Scores of others, in no order that looks like a rank."""
    sources = references.sources()
    return [
        {
            "model": row.model,
            "value": row.value,
            "unit": sources[row.source]["unit"],
            "plus_minus": row.plus_minus,
            "metric": row.metric,
            "source": sources[row.source]["title"],
            "where": sources[row.source]["source"],
            "checked": sources[row.source]["checked"],
            "note": row.note,
        }
        for row in sorted(references.of(task.name), key=lambda row: (row.model.casefold(), row.source, row.metric))
    ]


def as_data(request: Request, found: Sequence[OnBoard], hard: Difficulty | None, read: Read | None) -> dict[str, Any]:
    """The page as plain data. Nothing of single documents but their number, unless they may be read."""
    task = found[0].task
    own = tasks.metadata(task.name)
    return {
        "task": task.name,
        "title": fit(task.title),
        "about": tasks.about(request.language, task),
        "skill": tasks.skill_of(task),
        "language": task.language,
        "metric": task.metric,
        "unit": task.unit,
        "higher_is_better": task.higher_is_better,
        "chance": task.chance,
        "documents": task.n_docs,
        "shots": task.shots,
        "licence": fit(task.licence),
        "access": fit(task.card.get("access")),
        "data": fit({key: (task.card.get("data") or {}).get(key) for key in ("path", "config", "commit", "hash")}),
        "scorer": fit(task.card.get("scorer")),
        "version": own["version"],
        "judged_by": fit(task.judges),
        "citation": own["citation"],
        "documents_shown": tasks.shows_items(request.snapshot, task),
        "known": _known(request, task),
        "contaminated": [{"model": model.slug, "reason": reason} for model, reason in _marked(request, found)],
        "boards": [
            {
                "board": on.board.name,
                "models": [dict(zip(HEADER[1:], _cells(on, row)[1:], strict=True)) for row in (*on.ranked, *on.others)],
            }
            for on in found
        ],
        "solved": distribution.solved([float(mean) for mean in hard.means]) if hard and hard.solved else None,
        "published": _published(task),
    } | ({} if read is None else {"example": _example(request, task, read), "hardest": _hardest(request, task, read)})


def _example(request: Request, task: Task, read: Read) -> dict[str, Any]:
    return {
        "model": read.model.slug,
        "doc": read.first.doc,
        "prompt": fit(read.prompt),
        "target": fit(read.first.target),
        "answer": fit(read.first.answer),
        "url": request.url("sample", run=read.run, doc=read.first.doc, task=task.name),
    }


def _hardest(request: Request, task: Task, read: Read) -> list[dict[str, Any]]:
    return [
        {
            "doc": one.doc,
            "position": one.position,
            "mean": mean,
            "url": request.url("sample", run=read.run, doc=one.doc, task=task.name),
        }
        for mean, one in read.hard
    ]


def _cells(on: OnBoard, row: Standing) -> list[Any]:
    model, cell, place, score = row.model, row.cell, row.ranked, row.cell.score
    assert score is not None
    ranks = [place.rank_low, place.rank_high, place.klass] if place else [None] * 3
    numbers = [score.value, score.ci_low, score.ci_high, score.n, score.parse_failures, score.errors]
    why = None if row.why is None else row.why.partition(".")[2]
    head = [on.board.name, model.slug, model.name, model.badge]
    return [*head, *ranks, *numbers, why, " ".join(cell.flags), cell.run, judging.judge_of([cell])]
