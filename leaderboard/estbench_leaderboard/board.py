"""The board's page as one object, which HTML, JSON, CSV and the API all show.

    page = board.page(snapshot, Query.read(request.query_params))
    page.rows[0].cells["reading"].value, page.rows[0].ranked.rank_low

A column is a skill (the mean of its tasks) or a task. Ranks are those among all ranked models under the chosen tasks
and weights; filters only leave rows out, so that nobody climbs by hiding others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from estbench.stats.ranks import Ranked, Ranking
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.judging import STATES, judge_of, weakest
from estbench_leaderboard.query import OPEN, SIZES, Query
from estbench_leaderboard.skills import PRESETS, SKILLS
from estbench_leaderboard.snapshot import BOARDS, Board, Cell, Model, Snapshot, Task


@dataclass(frozen=True, slots=True)
class Column:
    """A skill or a task of the table."""

    key: str
    kind: str  # "skill" or "task"
    tasks: tuple[Task, ...]
    weight: float  # its share of the rank's score; 0: shown, but it does not count
    chance: float | None  # in the column's unit
    unit: str  # proportion, points, bits; "corrected" where a skill's tasks have several: 0 guessing, 1 perfect
    higher_is_better: bool
    best: float | None = None  # the best value among ranked models
    best_half: float = 0.0  # and half the width of its interval


@dataclass(frozen=True, slots=True)
class Value:
    """A model's value in a column."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None  # why there is none, or why it does not count
    flags: tuple[str, ...]
    cells: tuple[Cell, ...]
    distance: float | None = None  # from the best, in halves of the difference's interval: below 1 can't be told apart

    @property
    def judge(self) -> str | None:
        """Whether judges gave it: uncalibrated, calibrated."""
        return None if self.value is None else judge_of(self.cells)

    @property
    def level(self) -> int | None:
        """0: as good as the best; 1 to 3: farther and farther away; None: nothing can be said."""
        if self.distance is None:
            return None
        return 0 if self.distance < 1 else 1 if self.distance < 2 else 2 if self.distance < 4 else 3


@dataclass(frozen=True, slots=True)
class Row:
    """A model of the table."""

    model: Model
    ranked: Ranked | None  # None: not ranked; see `unranked`
    unranked: str | None  # reference, claimed, rescored, withdrawn, incomplete
    cells: dict[str, Value]
    judge: str | None = None  # whether judges gave some of what its score is made of: uncalibrated, calibrated


@dataclass(frozen=True)
class Page:
    """The board under a query."""

    query: Query
    board: Board
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]  # of this page
    every: tuple[Row, ...]  # that the filters leave, ranked or not, in order
    models: int  # on the board at all
    weights: dict[str, float]
    ranking: Ranking | None  # of all ranked models, whatever the filters leave
    licences: tuple[str, ...]
    counts: dict[str, int]  # board -> models
    snapshot: Snapshot = field(repr=False)

    @property
    def pages(self) -> int:
        return max(1, math.ceil(len(self.every) / self.query.rows))

    @property
    def unsure(self) -> tuple[str, ...]:
        """Tasks with too few documents: while they take part, no two models can be told apart."""
        return self.ranking.unsure if self.ranking else ()

    @property
    def judge(self) -> str | None:
        """Whether judges gave some of what rows here are ranked by: uncalibrated, calibrated."""
        return weakest(row.judge for row in self.every)

    @property
    def judged(self) -> tuple[str, ...]:
        """How judges gave what is shown here: uncalibrated, calibrated."""
        found = {value.judge for row in self.every for value in row.cells.values()} | {self.judge}
        return tuple(state for state in STATES if state in found)

    @property
    def ranked(self) -> int:
        """How many models have a rank."""
        return len(self.board.prepared.models) if self.board.prepared else 0


def board_of(snapshot: Snapshot, query: Query) -> Board:
    """The board that is asked for; without a word the first that has models."""
    name = query.board or next((name for name in BOARDS if snapshot.boards[name].models), BOARDS[0])
    return snapshot.boards[name]


def page(snapshot: Snapshot, query: Query) -> Page:
    """Answer a query. BadRequest: it names a task or a column that the board lacks."""
    board = board_of(snapshot, query)
    weights = _weights(board, query)
    ranking = board.ranking(weights)
    ranks = {row.model: row for row in ranking.rows} if ranking else {}
    columns, values = _columns(board, query, weights, ranks)
    models = [model for model in board.models.values() if _kept(model, query) and _found(model, query.q)]
    rows = [_row(model, ranks.get(model.slug), columns, values, weights) for model in models]
    if query.all != "yes" and any(row.ranked for row in rows):
        rows = [row for row in rows if row.ranked or row.unranked == "reference"]
    rows = _sorted(rows, query, columns)
    if query.page > 1 and (query.page - 1) * query.rows >= len(rows):
        raise BadRequest("page", str(query.page))
    start = (query.page - 1) * query.rows
    return Page(
        query=query,
        board=board,
        columns=columns,
        rows=tuple(rows[start : start + query.rows]),
        every=tuple(rows),
        models=len(board.models),
        weights=weights,
        ranking=ranking,
        licences=tuple(
            sorted({str(model.facts["licence"]) for model in board.models.values() if model.facts.get("licence")})
        ),
        counts={name: len(other.models) for name, other in snapshot.boards.items()},
        snapshot=snapshot,
    )


def _weights(board: Board, query: Query) -> dict[str, float]:
    """Task -> weight of those that count."""
    if query.tasks:
        for name, _ in query.tasks:
            if name not in board.tasks:
                raise BadRequest("tasks", name)
        return {name: weight for name, weight in query.tasks if weight > 0}
    skills = PRESETS[query.preset]
    if not skills:
        return board.weights()
    tasks = [task.name for task in board.tasks.values() if task.skill in skills and task.estonian]
    return board.weights(tasks)


Values = dict[str, dict[str, Value]]  # column -> model -> value


def _columns(
    board: Board, query: Query, weights: dict[str, float], ranks: dict[str, Ranked]
) -> tuple[tuple[Column, ...], Values]:
    """The columns, and what each model has there."""
    named = list(weights) or list(board.defaults)
    if not query.tasks and not PRESETS[query.preset]:  # also those that have no place in a mean, such as bits
        named = list(dict.fromkeys((*named, *board.defaults)))
    shown = [board.tasks[name] for name in named]
    total = sum(weights.values()) or 1.0
    if query.view == "tasks" or query.tasks:
        shown += [task for task in board.tasks.values() if task.name not in weights and query.view == "tasks"]
        shown = sorted(dict.fromkeys(shown), key=_place)
        made = [_column(task.name, "task", [task], weights.get(task.name, 0.0) / total) for task in shown]
    else:
        made = []
        for skill in sorted({task.skill for task in shown}, key=_place_of):
            tasks = [task for task in shown if task.skill == skill]
            made.append(_column(skill, "skill", tasks, sum(weights.get(task.name, 0.0) for task in tasks) / total))
    values = {column.key: {slug: _value(model, column) for slug, model in board.models.items()} for column in made}
    return tuple(_with_best(column, [values[column.key][slug] for slug in ranks]) for column in made), values


def _place(task: Task) -> tuple[int, str]:
    return _place_of(task.skill), task.name


def _place_of(skill: str) -> int:
    return SKILLS.index(skill) if skill in SKILLS else len(SKILLS)


def _column(key: str, kind: str, tasks: Sequence[Task], weight: float) -> Column:
    units = {(task.unit, task.higher_is_better) for task in tasks}
    same = len(units) == 1
    chances = [task.chance for task in tasks]
    known = [chance for chance in chances if chance is not None]
    chance = sum(known) / len(known) if same and len(known) == len(chances) else None if same else 0.0
    unit, higher = next(iter(units)) if same else ("corrected", True)
    return Column(key, kind, tuple(tasks), weight, chance, unit, higher)


def _with_best(column: Column, ranked: Iterable[Value]) -> Column:
    found = [value for value in ranked if value.value is not None and value.reason is None]
    if not found:
        return column
    sign = 1 if column.higher_is_better else -1
    best = max(found, key=lambda value: sign * (value.value or 0.0))
    same = (column.key, column.kind, column.tasks, column.weight, column.chance, column.unit, column.higher_is_better)
    return Column(*same, best.value, _half(best))


def _value(model: Model, column: Column) -> Value:
    """The mean over the column's tasks; a task that is missing leaves it empty."""
    if len(column.tasks) == 1:
        return _of_one(model.cells[column.tasks[0].name])
    cells = tuple(model.cells[task.name] for task in column.tasks)
    flags = tuple(dict.fromkeys(flag for cell in cells for flag in cell.flags))
    reason = next((cell.reason for cell in cells if cell.reason is not None), None)
    scores = [cell.score for cell in cells if cell.score is not None and cell.score.value is not None]
    if len(scores) < len(cells):
        return Value(None, None, None, reason or "failed", flags, cells)
    middle, below, above = 0.0, 0.0, 0.0
    exact = True
    for task, score in zip(column.tasks, scores, strict=True):
        shift, scale = _correction(task) if column.unit == "corrected" else (0.0, 1.0)
        value = ((score.value or 0.0) - shift) * scale
        middle += value / len(scores)
        if score.ci_low is None or score.ci_high is None:
            exact = False
            continue
        ends = sorted(((score.ci_low - shift) * scale, (score.ci_high - shift) * scale))
        below += ((value - ends[0]) / len(scores)) ** 2
        above += ((ends[1] - value) / len(scores)) ** 2
    low, high = (middle - math.sqrt(below), middle + math.sqrt(above)) if exact else (None, None)
    return Value(middle, low, high, reason, flags, cells)


def _of_one(cell: Cell) -> Value:
    score = cell.score
    if score is None or score.value is None:
        return Value(None, None, None, cell.reason or "failed", cell.flags, (cell,))
    known = score.ci_low is not None and score.ci_high is not None
    low, high = (score.ci_low, score.ci_high) if known else (None, None)
    return Value(score.value, low, high, cell.reason, cell.flags, (cell,))


def _correction(task: Task) -> tuple[float, float]:
    """What to take away from a score, and what to multiply by, for 0 to be guessing and 1 perfect."""
    worst, best = (0.0, task.maximum or 1.0) if task.higher_is_better else (task.maximum or 1.0, 0.0)
    floor = worst if task.chance is None else task.chance
    return floor, 1 / (best - floor) if best != floor else 0.0


def _half(value: Value) -> float:
    return 0.0 if value.low is None or value.high is None else (value.high - value.low) / 2


def _row(
    model: Model, ranked: Ranked | None, columns: Sequence[Column], values: Values, weights: dict[str, float]
) -> Row:
    cells = {}
    for column in columns:
        value = values[column.key][model.slug]
        if value.value is not None and value.reason is None and column.best is not None:
            apart = math.hypot(_half(value), column.best_half)
            gap = abs(column.best - value.value)
            distance = gap / apart if apart else (0.0 if gap < 1e-12 else math.inf)
            value = Value(value.value, value.low, value.high, None, value.flags, value.cells, distance)
        cells[column.key] = value
    judge = counted_judge(model, weights) if ranked else None
    return Row(model, ranked, None if ranked else _unranked(model), cells, judge)


def counted_judge(model: Model, weights: Iterable[str]) -> str | None:
    """Whether judges gave some of what a model is ranked by: uncalibrated, calibrated."""
    return judge_of(model.cells[name] for name in weights if model.cells[name].reason is None)


def _unranked(model: Model) -> str:
    if model.withdrawn is not None:
        return "withdrawn"
    if model.reference:
        return "reference"
    return model.badge if model.badge in ("claimed", "rescored") else "incomplete"


def _kept(model: Model, query: Query) -> bool:
    facts = model.facts
    if query.size and not _of_size(model.parameters, query.size):
        return False
    for key, name in (("open", "open_weights"), ("commercial", "commercial")):
        wanted = getattr(query, key)
        if wanted and facts.get(name) is not (wanted == OPEN[0]):
            return False
    if query.licence and facts.get("licence") != query.licence:
        return False
    return not (query.since and model.created < query.since)


def _of_size(parameters: int | None, size: str) -> bool:
    bounds = SIZES[size]
    if bounds is None or parameters is None:
        return bounds is None and parameters is None
    return bounds[0] <= parameters < bounds[1]


def _found(model: Model, words: str) -> bool:
    text = f"{model.name} {model.facts.get('organisation') or ''} {model.submitter or ''}".casefold()
    return all(word in text for word in words.casefold().split())


def _sorted(rows: list[Row], query: Query, columns: Sequence[Column]) -> list[Row]:
    """In the order that is asked for; what has no value comes last, whichever way round."""
    key = _key(query, columns)
    known = [(key(row), row) for row in rows]
    some = sorted(
        (pair for pair in known if pair[0] is not None), key=lambda pair: (pair[0], pair[1].model.name.casefold())
    )
    if query.order:
        some.reverse()
    none = sorted((row for value, row in known if value is None), key=lambda row: row.model.name.casefold())
    return [row for _, row in some] + none


def _key(query: Query, columns: Sequence[Column]) -> Callable[[Row], Any]:
    column = next((column for column in columns if column.key == query.sort), None)
    if column is not None:
        sign = -1 if column.higher_is_better else 1
        return lambda row: None if (value := row.cells[column.key].value) is None else sign * value
    simple: dict[str, Callable[[Row], Any]] = {
        "rank": lambda row: None if row.ranked is None else (row.ranked.klass, -row.ranked.score),
        "name": lambda row: row.model.name.casefold(),
        "size": lambda row: row.model.parameters,
        "date": lambda row: _reversed(row.model.created),
        "tokens": lambda row: row.model.tokens_per_word,
    }
    if query.sort not in simple:
        raise BadRequest("sort", query.sort)
    return simple[query.sort]


def _reversed(moment: str) -> tuple[int, ...]:
    """A key that sorts the newest first."""
    return tuple(-ord(sign) for sign in moment)
