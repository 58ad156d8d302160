"""The board's page as its template needs it: heads, cells, links and sentences of a `board.Page`.

    view = View(request, board.page(request.snapshot, query))
    view.heads[0].title, view.groups()[0].rows, view.cell(value, view.heads[0])

Cells are made here and not by the template: a page has thousands of them, which have to be small and quick. They are
marked as safe, so that every text in them is escaped here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup, escape

from estbench.stats.ranks import Ranked
from estbench_leaderboard.board import Column, Page, Row, Value, counted_judge
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.query import Query
from estbench_leaderboard.shown import line
from estbench_leaderboard.site import Request
from estbench_leaderboard.skills import PRESETS, SKILLS
from estbench_leaderboard.snapshot import BOARDS, Board, Model, Task

# Flag -> the sign that stands in a cell; the legend explains them.
NAMED = 4  # tasks that a sentence names
SIGNS = {"at_chance": "≈", "parse_failures": "?", "contaminated": "!", "partial": "½", "errors": "×"}
SIGNS |= {"uncalibrated": "*", "calibrated": "°"}
COUNTED = ("acc", "exact_match", "em", "ifeval", "follow")  # metrics that are shares of right answers
ASCENDING = ("rank", "name", "size", "tokens")  # their usual order


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a column of scores."""

    key: str
    title: str
    group: str  # the skill of a task; "" for a skill itself
    column: Column
    guess: str  # what guessing gives, in few words
    level: str  # the same in a sentence, with the best model's score
    metric: str  # of a task


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together: a class, those without a rank, or all."""

    title: str
    rows: tuple[Row, ...]


class View:
    """One page of the board in one language."""

    def __init__(self, request: Request, found: Page) -> None:
        self.request, self.found = request, found
        self.query, self.language, self.t = found.query, request.language, request.t
        self.here = request.url("board")
        self.by_tasks = self.query.view == "tasks" or bool(self.query.tasks)

    def name(self, text: str, most: int = 80) -> str:
        """A name from outside in one line, without invisible characters."""
        return line(text, most)

    def options(self, start: str, keys: Iterable[str]) -> list[tuple[str, str]]:
        """Values of a choice with their names in the catalogue."""
        return [(key, self.t(start + key)) for key in keys]

    @property
    def licences(self) -> list[tuple[str, str]]:
        """Licences to choose from."""
        return [(licence, line(licence, 40)) for licence in self.found.licences]

    # ---- links

    def link(self, **changed: Any) -> str:
        """The same page with something changed."""
        return self.query.but(**changed).url(self.here)

    def sorting(self, key: str) -> str:
        """A link that sorts by a column, and the other way round where it is sorted by it."""
        again = self.query.sort == key and not self.query.order
        return self.link(sort=key, order="reverse" if again else "")

    def aria(self, key: str) -> str | None:
        """The order of a column for `aria-sort`; None: the rows are not sorted by it."""
        if self.query.sort != key:
            return None
        column = next((head.column for head in self.heads if head.key == key), None)
        rising = key in ASCENDING if column is None else not column.higher_is_better
        return "ascending" if rising != bool(self.query.order) else "descending"

    @property
    def tabs(self) -> list[tuple[str, str, int, bool]]:
        """Boards that have models: name, link, models, whether it is this one."""
        kept = Query(board="", view=self.query.view, q=self.query.q, size=self.query.size, open=self.query.open)
        return [
            (name, kept.but(board=name).url(self.here), self.found.counts[name], name == self.found.board.name)
            for name in BOARDS
            if self.found.counts[name]
        ]

    @property
    def uses(self) -> list[tuple[str, str, bool]]:
        """Presets for which the board has tasks: name, link, whether it is this one."""
        skills = {task.skill for task in self.found.board.tasks.values() if task.estonian}
        return [
            (name, self.link(preset=name, tasks=(), sort="rank", order=""), self._uses(name))
            for name, wanted in PRESETS.items()
            if not wanted or skills & set(wanted)
        ]

    def _uses(self, preset: str) -> bool:
        return preset == self.query.preset and not self.query.tasks

    @property
    def set_filters(self) -> list[tuple[str, str]]:
        """Filters that are set, in words, and the link that takes each away."""
        found = []
        for key in self.query.filters():
            value = getattr(self.query, key)
            one = f"query.filter.{key}.{value}"
            words = self.t(one) if self.language.has(one) else self.t(f"query.filter.{key}", value=value)
            found.append((words, self.link(**{key: ""})))
        if self.query.tasks:
            words = self.t("query.tasks", n=len(self.query.tasks))
            found.append((words, self.link(tasks=(), sort="rank", order="")))
        return found

    @property
    def cleared(self) -> str:
        """The link to the same board, use and view without filters."""
        return Query(board=self.query.board, view=self.query.view, preset=self.query.preset).url(self.here)

    @property
    def pages(self) -> list[tuple[int, str]]:
        """Numbers of pages and their links; 0 stands for those left out."""
        last, now = self.found.pages, self.query.page
        shown = [number for number in range(1, last + 1) if number in (1, last) or abs(number - now) <= 2]
        found = []
        for before, number in zip([0, *shown], shown, strict=False):
            if number - before > 1:
                found.append((0, ""))
            found.append((number, self.link(page=number)))
        return found

    # ---- heads

    @cached_property
    def heads(self) -> list[Head]:
        """Heads of the columns of scores."""
        return [self._head(column) for column in self.found.columns]

    def _head(self, column: Column) -> Head:
        task = column.tasks[0]
        if column.kind == "task":
            title, group, metric = self.language.pick(task.title), task.skill, task.metric
        else:
            title, group, metric = self.skill(column.key), "", ""
        return Head(column.key, title, group, column, self._guess(column), self.level(column), metric)

    @cached_property
    def spans(self) -> list[tuple[str, int]]:
        """Skills above the columns of tasks, and how many columns each has."""
        groups = itertools.groupby(self.heads, key=lambda head: head.group)
        return [(self.skill(skill), len(list(heads))) for skill, heads in groups]

    def skill(self, name: str, part: str = "title") -> str:
        """The title, sentence or example of a skill; of one that a foreign task file made up, its name."""
        key = f"skill.{name}.{part}"
        return self.t(key) if self.language.has(key) else name if part == "title" else ""

    def _guess(self, column: Column) -> str:
        if column.unit == "bits":
            return self.t("board.lower")
        if column.chance is None:
            return ""
        return self.t("board.guess", chance=self.language.score(column.chance, column.unit, 0))

    def level(self, column: Column) -> str:
        """What the best model reaches and what guessing gives, in a sentence."""
        best = column.best
        if best is None:
            return ""
        if column.unit == "bits":
            return self.t("board.level.bits", best=self.language.score(best, "bits", 2))
        if column.unit == "proportion" and all(task.metric.startswith(COUNTED) for task in column.tasks):
            return self._counted(best, column.chance or 0.0)
        numbers = {"best": self.language.score(best, column.unit, 0)}
        if column.unit == "corrected" or column.chance is None:
            return self.t("board.level.corrected", **numbers)
        return self.t("board.level.points", **numbers, chance=self.language.score(column.chance, column.unit, 0))

    def _counted(self, best: float, chance: float) -> str:
        """So many of ten; of a hundred where ten would make a model perfect that is not."""
        if best < 0.95 or best == 1:
            return self.t("board.level.ten", best=str(round(10 * best)), chance=_about(10 * chance))
        return self.t("board.level.hundred", best=str(min(round(100 * best), 99)), chance=str(round(100 * chance)))

    # ---- rows

    def groups(self) -> list[Group]:
        """The rows by class where they are in the order of ranks; those without a rank apart."""
        if self.query.sort != "rank" or self.query.order:
            return [Group("", self.found.rows)]
        sizes: dict[int, int] = {}
        for row in self.found.every:
            if row.ranked:
                sizes[row.ranked.klass] = sizes.get(row.ranked.klass, 0) + 1
        groups = itertools.groupby(self.found.rows, key=lambda row: row.ranked.klass if row.ranked else 0)
        return [Group(self._group(klass, sizes), tuple(rows)) for klass, rows in groups]

    def _group(self, klass: int, sizes: dict[int, int]) -> str:
        if not klass:
            return self.t("board.unranked")
        if len(sizes) == 1 and sizes[klass] == self.found.ranked:
            return self.t("board.same", n=sizes[klass])
        return self.t("board.klass", n=sizes[klass], klass=klass)

    def rank_words(self, ranked: Ranked) -> str:
        """ "2.–5. koht, ei ole neist eristatav"."""
        low, high = ranked.rank_low, ranked.rank_high
        key = "exact" if low == high else "range" if low > 1 else "open" if high >= self.found.ranked else "top"
        return self.t(f"rank.{key}", place=self.language.places(low, high))

    def rank_note(self, ranked: Ranked) -> str:
        """How firm the rank is: what leaving tasks out does, how often it is the best."""
        notes = [self.rank_words(ranked)]
        if ranked.leave_one_out is not None:
            notes.append(self.t("board.leave_one_out", place=self.language.places(*ranked.leave_one_out)))
        if ranked.p_best is not None and 0.005 < ranked.p_best < 0.995:
            notes.append(self.t("board.p_best", share=str(round(100 * ranked.p_best))))
        return "; ".join(notes)

    def total(self, row: Row) -> Markup:
        """The score over all tasks that count, of a row that has a rank."""
        ranked = row.ranked
        assert ranked is not None
        half = None if ranked.low is None or ranked.high is None else (ranked.high - ranked.low) / 2
        number = self.language.score(ranked.score, "corrected")
        sign = self._abbr("½", self.t("board.lacking", n=len(ranked.missing)), "f") if ranked.missing else ""
        sign += self._abbr(SIGNS[row.judge], self.t(f"judge.counts.{row.judge}"), "f") if row.judge else ""
        bar = _bar(ranked.score, ranked.low, ranked.high, 0.0, 100)
        return Markup(f"<b>{number}</b>{sign}{self._half(half, 'corrected')}{bar}")

    def cell(self, value: Value, head: Head) -> Markup:
        """A table cell: the score, half its interval, its bar and signs; or why there is none."""
        start = f'<td role=cell data-l="{escape(head.title)}" class='
        if value.value is None:
            return Markup(f'{start}"v no">{self._missing(value)}</td>')
        column = head.column
        half = None if value.low is None or value.high is None else (value.high - value.low) / 2
        number = self.language.score(value.value, column.unit)
        if value.reason is not None:
            number = self._abbr(number, self._reason(value), "out")
        scale = {"bits": 0, "points": 1}.get(column.unit, 100)
        bar = _bar(value.value, value.low, value.high, column.chance, scale) if scale else ""
        level = "" if value.level is None else f" d{value.level}"
        signs = "".join(self._abbr(SIGNS[flag], self.t(f"flag.{flag}.meaning"), "f") for flag in value.flags)
        half_shown = self._half(half, column.unit)
        return Markup(f'{start}"v{level}">{number}{signs}{half_shown}{bar}</td>')

    def _half(self, half: float | None, unit: str) -> str:
        return "" if half is None else f" <i>±{self.language.score(half, unit)}</i>"

    def _missing(self, value: Value) -> str:
        return self._abbr("–", self._reason(value), "gap")

    def _reason(self, value: Value) -> str:
        """Why a score is missing or does not count, and what the run says of it."""
        words = [self.t(f"reason.{value.reason or 'not_run'}")]
        cells = [cell for cell in value.cells if cell.reason is not None]
        if len(value.cells) > 1 and len(cells) < len(value.cells):
            words.append(self.t("board.some_tasks", n=len(cells), total=len(value.cells)))
        words += [cell.detail for cell in cells[:1] if cell.detail]
        return " ".join(words)

    def _abbr(self, sign: str, meaning: str, kind: str) -> str:
        """A sign with its meaning: shown on hover and focus, and read out."""
        words = escape(meaning)
        return f'<abbr class={kind} title="{words}">{sign}<span class=hidden> {words}</span></abbr>'

    # ---- the buyer's columns

    def use(self, model: Model) -> list[str]:
        """What one may do with a model: its weights, and business."""
        words = []
        if (weights := model.facts.get("open_weights")) is not None or model.remote:
            words.append(self.t(f"board.open.{'yes' if weights is True else 'no'}"))
        if isinstance(business := model.facts.get("commercial"), bool):
            words.append(self.t(f"board.commercial.{'yes' if business else 'no'}"))
        return words

    def price(self, model: Model) -> str:
        """Of a million tokens, in and out; "" where it is not known."""
        prices = [model.facts.get("price_in"), model.facts.get("price_out")]
        known = [float(price) for price in prices if isinstance(price, int | float) and not isinstance(price, bool)]
        if len(known) < 2:
            return ""
        read, written = (self.language.decimal(price, 2) for price in known)
        return self.t("board.price", read=read, written=written)

    def maker(self, model: Model) -> str:
        """Who sent it or made it; "" where its name says so already."""
        maker = self.name(str(model.submitter or model.facts.get("organisation") or ""))
        return "" if model.name.casefold().startswith(maker.casefold()) else maker

    # ---- sentences

    def first(self) -> list[Model]:
        """Models that may be the best, the highest score first; the best alone where it is that surely."""
        ranking = self.found.ranking
        rows = list(ranking.rows) if ranking else []
        if rows and rows[0].rank_high > 1:
            rows = [rows[0], *(row for row in rows[1:] if row.rank_low == 1)]
        return [self.found.board.models[row.model] for row in (rows[:1] if rows and rows[0].rank_high == 1 else rows)]

    @property
    def scope(self) -> str:
        """What counts, where that is not everything: words for the headline and the sentence to quote."""
        query = self.found.query
        if query.tasks:
            names = [self.language.pick(self.found.board.tasks[name].title) for name in self.found.weights]
            return self.t(
                "board.scope.tasks", n=len(names), tasks=", ".join(names[:NAMED]) + ("…" if len(names) > NAMED else "")
            )
        return self.t(f"board.scope.{query.preset}") if query.preset != "general" else ""

    def summary(self) -> str:
        """Who is ahead, in a sentence."""
        words = self._ahead()
        return f"{words} {self.scope}" if self.scope else words

    def _ahead(self) -> str:
        first = self.first()
        if not first:
            return self.t("board.summary.none")
        name = line(first[0].name)
        if len(first) == 1:
            return self.t("board.summary.alone", name=name)
        if len(first) == self.found.ranked:
            return self.t("board.summary.same", n=len(first))
        return self.t("board.summary.some", name=name, n=len(first) - 1)

    def quote(self, today: str) -> str:
        """One sentence to quote, with its uncertainty."""
        ranking = self.found.ranking
        if not ranking or not ranking.rows:
            return self.t("board.cite.none")
        first = ranking.rows[0]
        interval = self.language.interval(first.low, first.high, "corrected")
        words = self.t(
            "board.cite.quote" if interval else "board.cite.unsure",
            date=self.language.date(today),
            name=line(self.found.board.models[first.model].name),
            score=self.language.score(first.score, "corrected"),
            rank=self.rank_words(first),
            total=self.found.ranked,
            what=self.t(f"board.what.{self.found.board.name}"),
            **({"interval": interval} if interval else {}),
        )
        if judge := counted_judge(self.found.board.models[first.model], self.found.weights):
            words += " " + self.t(f"judge.counts.{judge}")
        return f"{words} {self.scope}" if self.scope else words

    # ---- weights to choose

    @property
    def choices(self) -> list[tuple[str, list[tuple[Task, str]]]]:
        """Skills with their tasks and the weight of each as a form has it."""
        tasks = self.found.board.tasks.values()
        found = []
        for skill in dict.fromkeys((*SKILLS, *(task.skill for task in tasks))):
            own = [(task, _weight(self.found.weights.get(task.name, 0.0))) for task in tasks if task.skill == skill]
            if own:
                found.append((skill, own))
        return found


def chosen(parameters: Iterable[tuple[str, str]]) -> str:
    """Tasks and weights of a form that has a field `w.TASK` for each, as the URL writes them: "a,b:2"."""
    weights = [(key[2:], value.strip().replace(",", ".")) for key, value in parameters if key.startswith("w.")]
    some = [(name, weight) for name, weight in sorted(weights) if weight and weight.strip("0.") != ""]
    if weights and not some:
        raise BadRequest("tasks", "0")
    return ",".join(f"{name}:{weight}" for name, weight in some)


def default_weights(board: Board) -> str:
    """The same of the weights that count if nobody chooses."""
    weights = board.weights()
    return ",".join(f"{name}:{_weight(weight)}" for name, weight in sorted(weights.items()))


def _about(value: float) -> str:
    """2.5 -> "2–3"."""
    near = round(value)
    return str(near) if abs(value - near) <= 0.25 else f"{int(value)}–{int(value) + 1}"


def _weight(weight: float) -> str:
    return f"{round(weight, 3):g}"


def _bar(value: float, low: float | None, high: float | None, chance: float | None, scale: int) -> str:
    """The interval as a line on a rail from 0 to 100, the value as a tick, guessing as a short mark."""
    at = _place(value, scale)
    start, end = (at if one is None else _place(one, scale) for one in (low, high))
    guess = "" if chance is None else f'<path d="M{_place(chance, scale)} 0v8"/>'
    frame = '<svg class=b viewBox="0 0 100 8" preserveAspectRatio=none aria-hidden=true>'
    drawn = f"M{start} 4h{end - start}m{at - end}-3v6"  # relative: many cells have the same widths, which packs well
    return f'{frame}{guess}<path d="{drawn}"/></svg>'


def _place(value: float, scale: int) -> int:
    return round(min(max(value * scale, 0), 100))
