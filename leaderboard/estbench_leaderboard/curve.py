"""A training run's checkpoints as a curve: score against tokens seen, with intervals and the noise from step to step.

    found = curve.of(snapshot, model, "estcopa", scale="")    # None: its training card names no series
    found.points[0].tokens, found.points[0].value
    found.noise.noise, found.band                             # what a score moves from one checkpoint to the next

The points are all models whose training cards name the same series, the final one among them, whichever board they are
on. By default the score is the mean that ranks the board of checkpoints: corrected for chance, every skill the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from estbench.stats.noise import LEAST, StepNoise, step_noise
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.judging import judge_of
from estbench_leaderboard.skills import SKILLS
from estbench_leaderboard.snapshot import Board, Cell, Model, Snapshot, Task

MEAN = "mean"
SCALES = ("", "linear", "log")
WIDE = 50  # times the first step: from there on the axis is logarithmic if nobody chooses
EVEN = 2.0  # the longest step over the shortest, up to which steps count as even
INSIDE = 1.96  # noises to each side of the trend: 95 of 100 checkpoints


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint."""

    model: Model
    at: float  # tokens seen, or steps
    value: float | None
    low: float | None
    high: float | None
    final: bool
    reason: str | None  # why there is no value


@dataclass(frozen=True)
class Curve:
    """A series, ready to be drawn."""

    series: str
    key: str  # mean, a skill or a task
    unit: str
    chance: float | None
    higher_is_better: bool
    axis: str  # tokens or steps
    logarithmic: bool
    tasks: tuple[str, ...]  # that the score is made of
    points: tuple[Point, ...]
    trend: tuple[tuple[float, float], ...]  # of the points with a value: where, and the mean of three neighbours
    noise: StepNoise | None
    unknown: str | None  # why there is no noise: few, uneven
    choices: tuple[str, ...]  # what can be drawn: the mean, skills, tasks
    judge: str | None  # whether judges gave it: uncalibrated, calibrated

    @property
    def band(self) -> float | None:
        """How far to each side of the trend 95 of 100 checkpoints of this noise lie."""
        return None if self.noise is None else INSIDE * self.noise.noise

    @property
    def known(self) -> list[Point]:
        return [point for point in self.points if point.value is not None]


def of(snapshot: Snapshot, model: Model, key: str = "", scale: str = "") -> Curve | None:
    """The curve of a model's series; BadRequest for a task or scale that there is none of."""
    if scale not in SCALES:
        raise BadRequest("x", scale)
    training = model.training or {}
    series = training.get("series")
    if not isinstance(series, str) or not series:
        return None
    axis = next((key for key in ("tokens", "step") if _number(model, key) is not None), None)
    if axis is None:
        return None
    members = [
        (member, board) for member, board in _members(snapshot, series, model) if _number(member, axis) is not None
    ]
    if len(members) < 2:
        return None
    home = snapshot.boards[members[0][1].name]
    cells = [{name: _cell(home, board, member, name) for name in home.tasks} for member, board in members]
    measured = [name for name in home.tasks if sum(_has(row[name]) for row in cells) >= 2]
    skills = [skill for skill in SKILLS if any(home.tasks[name].skill == skill for name in measured)]
    choices = (*([MEAN] if _chosen(home, MEAN, measured, cells) else []), *skills, *measured)
    if not choices:
        return None
    key = key or choices[0]
    if key not in choices:
        raise BadRequest("task", key)
    chosen = _chosen(home, key, measured, cells)
    measure = _measure([home.tasks[name] for name in chosen], home, key)
    points = sorted(
        (
            _point(member, _at(member, axis), [row[name] for name in chosen], measure)
            for (member, _), row in zip(members, cells, strict=True)
        ),
        key=lambda point: (point.at, point.final, point.model.created),
    )
    judge = judge_of(cell for row in cells for name in chosen if (cell := row[name]) is not None)
    return _curve(series, key, axis, scale, chosen, points, measure, choices, judge)


def _members(snapshot: Snapshot, series: str, model: Model) -> list[tuple[Model, Board]]:
    """The models of a series, those of the board of checkpoints first, each once. What others sent under the same name
    of a series is no part of it."""
    found: dict[str, tuple[Model, Board]] = {}
    for name in ("checkpoints", "base", "chat"):
        for other in snapshot.boards[name].models.values():
            own = other.submitter == model.submitter or other.badge in ("operator", "audited")
            same = (other.training or {}).get("series") == series
            if own and same and other.withdrawn is None and other.fingerprint not in found:
                found[other.fingerprint] = other, snapshot.boards[name]
    return list(found.values())


def _number(model: Model, key: str) -> float | None:
    value = (model.training or {}).get(key)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if usable and value is not None else None


def _at(model: Model, axis: str) -> float:
    return _number(model, axis) or 0.0


def _cell(home: Board, board: Board, model: Model, name: str) -> Cell | None:
    """A model's score in a task of the board of the series, if its own board measures the same version of it."""
    other, own = board.tasks.get(name), home.tasks[name]
    same = other is not None and (other.version, other.judges) == (own.version, own.judges)
    return model.cells.get(name) if same else None


def _has(cell: Cell | None) -> bool:
    return cell is not None and cell.reason is None and cell.score is not None and cell.score.value is not None


def _chosen(home: Board, key: str, measured: Sequence[str], cells: Sequence[dict[str, Cell | None]]) -> list[str]:
    """The tasks that a score is the mean of: those that all checkpoints have, or if that is less than half, those that
    at least half of them have. Where units differ, only tasks with a best possible score."""
    if key in measured:
        return [key]
    tasks = [home.tasks[name] for name in measured if key in (MEAN, home.tasks[name].skill)]
    tasks = [task for task in tasks if key != MEAN or task.name in home.defaults]
    if key == MEAN or len({(task.unit, task.higher_is_better) for task in tasks}) > 1:
        tasks = [task for task in tasks if task.maximum is not None]
    counts = {task.name: sum(_has(row[task.name]) for row in cells) for task in tasks}
    whole = [name for name, count in counts.items() if count == len(cells)]
    if 2 * len(whole) >= len(tasks):
        return whole
    return [name for name, count in counts.items() if 2 * count >= len(cells)]


# unit, chance, higher is better, and of each task (share, shift, scale)
Measure = tuple[str, float | None, bool, list[tuple[float, float, float]]]


def _measure(tasks: Sequence[Task], home: Board, key: str) -> Measure:
    """How tasks make one score: as they are if they have one unit and there is no mean over skills, else corrected."""
    units = {(task.unit, task.higher_is_better) for task in tasks}
    if len(units) == 1 and key != MEAN:
        unit, higher = next(iter(units))
        chances = [task.chance for task in tasks if task.chance is not None]
        chance = sum(chances) / len(chances) if len(chances) == len(tasks) else None
        return unit, chance, higher, [(1 / len(tasks), 0.0, 1.0) for _ in tasks]
    weights = home.weights([task.name for task in tasks])
    total = sum(weights.values()) or 1.0
    return "corrected", 0.0, True, [(weights[task.name] / total, *_correction(task)) for task in tasks]


def _correction(task: Task) -> tuple[float, float]:
    """What to take away from a score, and what to multiply by, for 0 to be guessing and 1 perfect."""
    end = task.maximum or 1.0
    worst, best = (0.0, end) if task.higher_is_better else (end, 0.0)
    floor = worst if task.chance is None else task.chance
    return floor, 1 / (best - floor) if best != floor else 0.0


def _point(model: Model, at: float, cells: Sequence[Cell | None], measure: Measure) -> Point:
    final = (model.training or {}).get("final") is not False
    missing = next((cell.reason if cell else "not_run" for cell in cells if not _has(cell)), None)
    if missing is not None or not cells:
        return Point(model, at, None, None, None, final, missing or "not_run")
    value = below = above = 0.0
    exact = True
    for cell, (share, shift, scale) in zip(cells, measure[3], strict=True):
        assert cell is not None and cell.score is not None and cell.score.value is not None
        score = cell.score
        own = (cell.score.value - shift) * scale
        value += share * own
        if score.ci_low is None or score.ci_high is None:
            exact = False
            continue
        low, high = sorted(((score.ci_low - shift) * scale, (score.ci_high - shift) * scale))
        below += (share * (own - low)) ** 2
        above += (share * (high - own)) ** 2
    low_end, high_end = (value - math.sqrt(below), value + math.sqrt(above)) if exact else (None, None)
    return Point(model, at, value, low_end, high_end, final, None)


def _curve(
    series: str,
    key: str,
    axis: str,
    scale: str,
    chosen: Sequence[str],
    points: Sequence[Point],
    measure: Measure,
    choices: tuple[str, ...],
    judge: str | None,
) -> Curve:
    steps: dict[float, float] = {}  # a final model that is the last checkpoint again is no step
    for point in points:
        if point.value is not None:
            steps.setdefault(point.at, point.value)
    places, values = list(steps), list(steps.values())
    noise, unknown = _noise(places, values)
    above_zero = [place for place in places if place > 0]
    wide = len(above_zero) > 2 and max(above_zero) > WIDE * min(above_zero) and unknown == "uneven"
    return Curve(
        series=series,
        key=key,
        unit=measure[0],
        chance=measure[1],
        higher_is_better=measure[2],
        axis=axis,
        logarithmic=bool(above_zero) and (scale == "log" or (not scale and wide)),
        tasks=tuple(chosen),
        points=tuple(points),
        trend=tuple(zip(places, smoothed(values), strict=True)),
        noise=noise,
        unknown=unknown,
        choices=choices,
        judge=judge,
    )


def _noise(places: Sequence[float], values: Sequence[float]) -> tuple[StepNoise | None, str | None]:
    if len(values) < LEAST:
        return None, "few"
    steps = [after - before for before, after in itertools.pairwise(places)]
    if min(steps) <= 0 or max(steps) > EVEN * min(steps):
        return None, "uneven"
    return step_noise(values), None


def smoothed(values: Sequence[float]) -> list[float]:
    """Means of three neighbours; at the ends the straight line through the last three."""
    n = len(values)
    if n < 3:
        return list(values)
    inner = [sum(values[at - 1 : at + 2]) / 3 for at in range(1, n - 1)]
    first = (5 * values[0] + 2 * values[1] - values[2]) / 6
    last = (5 * values[-1] + 2 * values[-2] - values[-3]) / 6
    return [first, *inner, last]


def as_data(found: Curve, url: Callable[[Model], str]) -> dict[str, Any]:
    """The curve as plain data."""
    return {
        "series": found.series,
        "score": found.key,
        "tasks": list(found.tasks),
        "unit": found.unit,
        "judge": found.judge,
        "chance": found.chance,
        "higher_is_better": found.higher_is_better,
        "axis": found.axis,
        "noise": found.noise,
        "noise_unknown": found.unknown,
        "band": found.band,
        "points": [
            {
                "model": point.model.slug,
                "name": point.model.name,
                "url": url(point.model),
                found.axis: point.at,
                "value": point.value,
                "ci_low": point.low,
                "ci_high": point.high,
                "final": point.final,
                "reason": point.reason,
            }
            for point in found.points
        ],
        "trend": [list(pair) for pair in found.trend],
    }
