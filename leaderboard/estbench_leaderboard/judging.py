"""What judges gave, as pages show it: the word that goes with it, what stands beside each number, and single votes.

    judge_of(model.cells.values())             # "uncalibrated": wherever a number is shown, this goes with it
    named(request.t, title, judge)             # "Juhiste täitmine (kalibreerimata hindaja)"
    beside(request, [Place(run, task, title)]) # consistency, bias, equal style, bounds, judges of each judged number
    votes(responses)                           # what judges said of one document, from the database's blocks

Cards and votes may be from elsewhere: what is not as judges write it is left out, and all of it is only text.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from estbench import judged, report
from estbench.database import queries, schema
from estbench.runs import Score
from estbench_leaderboard.shown import LIMIT, Shown, as_text, line, readable, shown

if TYPE_CHECKING:
    from estbench_leaderboard.site import Request
    from estbench_leaderboard.snapshot import Cell

BESIDE = ("equal_style", "without_kin", "corrected", "position_consistency", "first_position_bias")
FAULTS = ("position", "length", "collapse", "family", "failures")
STATES = (judged.UNCALIBRATED, judged.CALIBRATED)
VOTES = "votes"  # where the database's blocks have them: a key of a document's first response
MOST = 20  # judges of a panel, and reasons of a kind, that a page shows


def judge_of(cells: Iterable[Cell]) -> str | None:
    """Whether what is made of these scores comes from judges: uncalibrated if any of it is, calibrated, or None."""
    return report.judge_of(cell.score for cell in cells)


def weakest(states: Iterable[str | None]) -> str | None:
    """The same of what is known already."""
    found = set(states)
    return next((state for state in STATES if state in found), None)


def named(t: Callable[..., str], title: str, state: str | None) -> str:
    """A title with the word that belongs to the numbers below it."""
    return title if state is None else f"{title} ({t(f'flag.{state}.short')})"


# ---- beside a number


@dataclass(frozen=True, slots=True)
class Place:
    """A task of a run, and what a page calls it."""

    run: str
    task: str
    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Judge:
    """One judge of a panel."""

    name: str
    family: str
    kin: bool  # of the model's own family
    value: float | None  # its number alone
    ci_low: float | None
    ci_high: float | None
    cases: int
    valid: int
    faults: tuple[str, ...]  # in words
    missing: tuple[tuple[str, int], ...]  # why verdicts are missing, and how many


@dataclass(frozen=True, slots=True)
class Number:
    """A judged number with what stands beside it."""

    run: str
    task: str
    title: str
    url: str
    metric: str
    judge: str  # uncalibrated or calibrated
    score: Score
    beside: Mapping[str, Score]
    rubric: str  # name, version and hash
    mode: str
    language: str
    anchor: str
    bounds: tuple[float, float] | None  # whatever the missing verdicts would have been
    without_call: tuple[tuple[str, int], ...]  # answers that no judge was asked about
    judges: tuple[Judge, ...]


def beside(request: Request, places: Sequence[Place], *, primary: bool = False) -> list[Number]:
    """The judged numbers of these tasks, in their order. primary: those only that tasks are ranked by."""
    runs, tasks = ([*dict.fromkeys(getattr(one, key) for one in places)] for key in ("run", "task"))
    columns = schema.run_tasks.c
    chosen = columns.run_id.in_(runs) & columns.task.in_(tasks)
    with request.site.database.read() as connection:
        asked = select(columns.run_id, columns.task, columns.card).where(chosen)
        cards = {(row.run_id, row.task): row.card for row in connection.execute(asked)} if places else {}
    scores: dict[tuple[str, str], dict[str, Score]] = defaultdict(dict)
    for row in queries.scores(request.site.database, runs=runs, tasks=tasks) if places else ():
        scores[row.run, row.score.task][row.score.metric] = row.score
    found = []
    for place in places:
        own = scores[place.run, place.task]
        for layer in _list(_part(cards.get((place.run, place.task)), "judge"), "layers"):
            score = own.get(str(layer.get("metric")))
            state = judged.state(score) if score is not None else None
            if score is not None and state is not None and (score.primary or not primary):
                found.append(_number(request, place, layer, score, state, own))
    return found


def _number(
    request: Request, place: Place, layer: Mapping[str, Any], score: Score, state: str, own: Mapping[str, Score]
) -> Number:
    known = {name: own.get(f"{score.metric}/{name}") for name in BESIDE}
    rubric, anchor = _part(layer, "rubric"), _part(layer, "anchor")
    ends = [_finite(one) for one in layer["bounds"]] if isinstance(layer.get("bounds"), list) else []
    low, high = ends if len(ends) == 2 else (None, None)
    return Number(
        run=place.run,
        task=place.task,
        title=place.title if score.primary else f"{place.title}: {line(score.metric)}",
        url=place.url,
        metric=score.metric,
        judge=state,
        score=score,
        beside={name: one for name, one in known.items() if one is not None and one.signature == score.signature},
        rubric=_words(rubric, "name", "version", "hash"),
        mode=_words(layer, "mode"),
        language=_words(layer, "language"),
        anchor=_words(anchor, "name", "hash"),
        bounds=None if low is None or high is None else (low, high),
        without_call=_counts(layer, "without_call"),
        judges=tuple(_judge(request, one) for one in _list(layer, "judges")[:MOST]),
    )


def _judge(request: Request, card: Mapping[str, Any]) -> Judge:
    return Judge(
        name=_words(card, "name"),
        family=_words(card, "family"),
        kin=card.get("kin") is True,
        value=_finite(card.get("value")),
        ci_low=_finite(card.get("ci_low")),
        ci_high=_finite(card.get("ci_high")),
        cases=int(_finite(card.get("cases")) or 0),
        valid=int(_finite(card.get("valid")) or 0),
        faults=tuple(_fault(request, one) for one in _list(card, "faults")[:MOST]),
        missing=_counts(card, "missing"),
    )


def _fault(request: Request, fault: Mapping[str, Any]) -> str:
    """A fault in the page's language; one that this version does not know, as its own words say it."""
    name, size = fault.get("name"), _finite(fault.get("size"))
    if name not in FAULTS or size is None:
        return line(as_text(fault.get("words") or ""), 200)
    key = f"{name}_{'up' if size >= 0 else 'down'}" if name in ("position", "length", "family") else name
    words = request.t(f"judge.fault.{key}", size=request.language.score(abs(size), "proportion"))
    return f"{words} ({request.t('judge.doubt')})" if fault.get("severity") == "doubt" else words


def _part(record: Any, key: str) -> Mapping[str, Any]:
    found = record.get(key) if isinstance(record, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _list(record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = record.get(key)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _words(record: Mapping[str, Any], *keys: str) -> str:
    return line(" ".join(as_text(record[key]) for key in keys if record.get(key) is not None), 120)


def _counts(record: Mapping[str, Any], key: str) -> tuple[tuple[str, int], ...]:
    found = ((line(str(why)), count) for why, count in _part(record, key).items())
    return tuple((why, count) for why, count in found if type(count) is int)[:MOST]


def _finite(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


# ---- votes on a document


def split(responses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The responses of a document as the engine gave them, without votes."""
    return [{key: value for key, value in one.items() if key != VOTES} for one in responses]


def votes(responses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What judges said of a document, as `estbench.database.index` keeps it: judge, rubric, mode, first, vote, score,
    reason, met, missing; or without_call, why no judge was asked."""
    found = [one for response in responses for one in response.get(VOTES) or () if isinstance(one, Mapping)]
    return [dict(one) for one in found]


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote for the page."""

    judge: str
    rubric: str
    order: str  # "model" or "anchor": who stood first; "" where nobody did
    vote: str
    score: float | None  # what it is worth for the model, 0 to 1
    reason: Shown | None  # whatever a model wrote
    missing: str  # why there is no verdict
    without_call: str


def seen(vote: Mapping[str, Any], limit: int = LIMIT) -> Vote:
    """A vote as the page shows it: a reason may hold anything."""
    order = vote.get("first")
    met = vote.get("met")
    label = as_text(readable(met if vote.get("vote") is None and met is not None else vote.get("vote") or ""))
    return Vote(
        judge=_words(vote, "judge"),
        rubric=_words(vote, "rubric", "mode"),
        order=order if order in ("model", "anchor") else "",
        vote=line(label),
        score=_finite(vote.get("score")),
        reason=shown(as_text(vote["reason"]), limit) if vote.get("reason") else None,
        missing=line(as_text(vote.get("missing") or ""), 200),
        without_call=_words(vote, "without_call"),
    )
