"""An answer: the prompt as sent, what came back, what was expected, how it was scored. All of it is shown as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estbench import report
from estbench.database import queries
from estbench.runs import Sample
from estbench_leaderboard import answers, judging
from estbench_leaderboard.answers import Other
from estbench_leaderboard.errors import BadRequest, NotFound, Withheld
from estbench_leaderboard.pages.run import row_of, shows_items, tasks_of
from estbench_leaderboard.pages.runs import of_run
from estbench_leaderboard.shown import LIMIT, MOST, Shown, as_text, line, readable, shown
from estbench_leaderboard.site import Content, Request

KNOWN = ("index", "text", "tokens", "finish", "logprob", "greedy", "thinking", "thinking_tokens")  # of a response


@dataclass(frozen=True, slots=True)
class Option:
    """A choice whose log-likelihood was asked."""

    number: int  # from 1 on
    logprob: float
    share: float  # of the likelihood of all options
    chosen: bool
    gold: bool


@dataclass(frozen=True, slots=True)
class Value:
    """A metric of this document."""

    metric: str
    value: float | None  # of this document by itself
    unit: str
    primary: bool
    stored: str  # what the corpus metric keeps of it; "" where that is the value
    judge: str | None  # whether judges gave it: uncalibrated, calibrated


def page(request: Request, run: str, doc: str, task: str) -> Content:
    """The page of an answer. Withheld: documents of the task are not published."""
    row = row_of(request, run)
    tasks = tasks_of(request, run)
    if task not in tasks:
        raise NotFound("task", task)
    if not shows_items(request, tasks[task]):
        raise Withheld(task)
    whole = request.parameters.get("all", "").strip()
    if whole not in ("", "yes"):
        raise BadRequest("all", whole)
    database = request.site.database
    place = answers.neighbours(database, run, task, doc)
    if place is None:
        raise NotFound("document", doc)
    found = queries.sample(database, run, task, doc)
    prompt = queries.prompt(database, found.sample.prompt_hash)
    others = answers.others(request, task, doc, but=run)
    scored = _values(request, run, task, found.sample)
    limit = MOST if whole else LIMIT
    parts = {
        "prompt": shown(prompt, limit),
        "target": shown(_target(found), limit),
        "answer": shown(answers.preview(found.sample.answer, found.responses), limit),
    }
    title = request.language.pick((tasks[task].card or {}).get("title")) or task
    return Content(
        template="sample.html",
        values=parts
        | {
            "row": row,
            "model": of_run(request, row),
            "task": tasks[task],
            "title": title,
            "sample": found.sample,
            "place": place,
            "texts": [(number, shown(text, limit)) for number, text in answers.texts(found.responses)],
            "thinking": [shown(as_text(part), limit) for part in _parts(found.responses, "thinking")],
            "ends": _ends(found.responses),
            "options": options(found),
            "values": scored,
            "votes": [judging.seen(vote, limit) for vote in judging.votes(found.responses)],
            "extra": [(name, shown(text, limit)) for name, text in extra(found.responses)],
            "others": [_other(other, scored) for other in others],
            "error": "" if found.sample.error is None else readable(found.sample.error),
            "whole": bool(whole),
        },
        json=as_data(request, run, place, found, prompt, scored, others),
        table=_table(found, prompt, scored),
        title=request.t("run.sample.title", title=title, number=place["position"] + 1, model=row.model),
        description=request.t("run.sample.description", title=title, model=row.model),
    )


def _target(found: queries.StoredSample) -> str:
    target = found.sample.target
    return "" if target is None else answers.preview(target, found.responses)


def _parts(responses: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return [response[key] for response in responses if response.get(key)]


def _ends(responses: Sequence[Mapping[str, Any]]) -> list[tuple[str, int | None]]:
    """How generated answers ended, and after how many tokens."""
    return [
        (line(as_text(response["finish"])), response.get("tokens") if isinstance(response.get("tokens"), int) else None)
        for response in responses
        if response.get("finish")
    ]


def options(found: queries.StoredSample) -> list[Option]:
    """The options with their log-probabilities; none where a text was generated."""
    numbers = [response.get("logprob") for response in found.responses]
    known = [float(number) for number in numbers if isinstance(number, int | float) and math.isfinite(number)]
    if len(known) < 2 or len(known) < len(numbers):
        return []
    top = max(known)
    weights = [math.exp(number - top) for number in known]
    sample = found.sample
    return [
        Option(at + 1, number, weights[at] / sum(weights), sample.answer == at, sample.target == at)
        for at, number in enumerate(known)
    ]


def extra(responses: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Whatever else a response holds."""
    return [
        (str(name), as_text(value))
        for response in responses
        for name, value in response.items()
        if name not in (*KNOWN, judging.VOTES) and value is not None
    ]


def _values(request: Request, run: str, task: str, sample: Sample) -> list[Value]:
    """The values of this document, those that are scores first."""
    rows = queries.scores(request.site.database, runs=[run], tasks=[task])
    scores = {row.score.metric: row.score for row in rows}
    made = []
    for metric in sorted(
        sample.values, key=lambda name: (name not in scores, name not in scores or not scores[name].primary, name)
    ):
        stored, score = sample.values[metric], scores.get(metric)
        number = answers.single(metric, stored)
        kept = "" if isinstance(stored, int | float) else as_text(stored)
        unit = score.unit if score is not None else "number"
        primary, judge = score is not None and score.primary, report.judge_of([score])
        made.append(Value(metric, number, unit, primary, readable(kept), judge))
    return made


def _other(other: Other, scored: Sequence[Value]) -> dict[str, Any]:
    """Another model's answer, with the value of the same metric."""
    first = next((value for value in scored if value.primary), None)
    stored = other.sample.sample.values.get(first.metric) if first else None
    value = answers.single(first.metric, stored) if first and stored is not None else None
    unit = first.unit if first else ""
    shared = {"value": value, "unit": unit, "judge": first.judge if first else None}
    return {"name": other.model.name, "run": other.run, "text": _short(other), **shared}


def _short(other: Other) -> Shown:
    """What it answered: the engine's text, or the option."""
    texts = [text for _, text in answers.texts(other.sample.responses)]
    return shown(texts[0] if texts else answers.preview(other.sample.sample.answer, other.sample.responses), LIMIT)


def as_data(
    request: Request,
    run: str,
    place: Mapping[str, Any],
    found: queries.StoredSample,
    prompt: str,
    scored: Sequence[Value],
    others: Sequence[Other],
) -> dict[str, Any]:
    """The page as plain data, texts whole."""
    sample = found.sample
    return {
        "run": run,
        "task": sample.task,
        "doc": sample.doc_hash,
        "doc_id": sample.doc_id,
        "position": place["position"],
        "documents": place["total"],
        "previous": place["previous"],
        "next": place["next"],
        "cluster": readable(sample.cluster),
        "cluster_mates": [mate for _, mate in place["mates"]],
        "prompt": readable(prompt),
        "prompt_hash": sample.prompt_hash,
        "responses": readable(judging.split(found.responses)),
        "answer": readable(sample.answer),
        "target": readable(sample.target),
        "parse_failure": sample.parse_failure,
        "error": readable(sample.error),
        "scores": [{key: getattr(value, key) for key in ("metric", "value", "unit", "judge")} for value in scored],
        "values": readable(sample.values),
        "options": options(found),
        "votes": readable(judging.votes(found.responses)),
        "others": [
            {
                "model": other.model.slug,
                "run": other.run,
                "answer": readable(other.sample.sample.answer),
                "responses": readable(judging.split(other.sample.responses)),
                "values": readable(other.sample.sample.values),
            }
            for other in others
        ],
    }


def _table(
    found: queries.StoredSample, prompt: str, scored: Sequence[Value]
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Part, name and value, a line each."""
    sample = found.sample
    rows: list[list[Any]] = [["prompt", "", readable(prompt)]]
    rows += [["response", number, readable(text)] for number, text in answers.texts(found.responses)]
    rows += [["option", option.number, option.logprob] for option in options(found)]
    rows += [["answer", "", readable(as_text(sample.answer))], ["target", "", readable(as_text(sample.target))]]
    rows += [["score", value.metric, value.value] for value in scored]
    for vote in judging.votes(found.responses):
        said = {key: value for key, value in vote.items() if key != "judge"}
        rows.append(["vote", readable(as_text(vote.get("judge") or "")), readable(as_text(said))])
    return ("part", "name", "value"), rows
