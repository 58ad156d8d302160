"""Two to six models on the same documents: where they differ for real, where they can't be told apart, and the answers.

?m=SLUG,SLUG           the models; the first is compared with each of the others (the API calls it `models`)
&task=TASK             whose flipped documents are shown, and with=SLUG: of which of the others
&side=a or b, &page=2  those that the first, or the other, does better
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from estbench.compare import Problem
from estbench_leaderboard import comparing, documents, flipped, judging, profile
from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts import forest
from estbench_leaderboard.comparing import LEAST, MOST, Line, Pair, Pooled
from estbench_leaderboard.errors import BadRequest, Gone, NotFound, Withheld
from estbench_leaderboard.flipped import Flips
from estbench_leaderboard.pages import tasks
from estbench_leaderboard.pages.runs import page_number
from estbench_leaderboard.shown import fit, readable
from estbench_leaderboard.shown import line as line_of
from estbench_leaderboard.site import Content, Request
from estbench_leaderboard.snapshot import Model, Task

HEADER = (
    *("first", "other", "kind", "name", "metric", "unit", "value_first", "value_other", "difference", "low", "high"),
    *("p", "p_adjusted", "detectable", "verdict", "n", "better", "worse", "only_first", "only_other", "method"),
    "judge",
)
LONGEST = 1000  # characters of the models' names


def page(request: Request) -> Content:
    """The comparison, or a form to choose models."""
    models = _models(request)
    if len(models) < LEAST:
        return _picker(request, models)
    pairs = comparing.of(request.site.database, request.snapshot, models)
    chosen, line = _line(request, pairs)
    flips = None if line is None else _flips(request, line)
    t, state = request.t, _state(request, models, chosen, flips)
    names = [name_of(model) for model in models]
    return Content(
        template="compare.html",
        values={
            "models": models,
            "pairs": pairs,
            "words": [words(request, pair) for pair in pairs],
            "figures": [_figure(request, pair) for pair in pairs],
            "flips": flips,
            "flipped_pair": chosen,
            "choices": [line for line in chosen.lines if _published(request, line.task)],
            "link": _linker(request, models, state),
            "more": _groups(request, models) if len(models) < MOST else [],
            "left_out": [_left_out(request, pair) for pair in pairs],
            "name": name_of,
            "rows": [_table(request, pair) for pair in pairs],
            "signed": signed,
            "p_value": p_value,
        },
        json=lambda: as_data(request, models, pairs, flips),
        table=lambda: (HEADER, [row for pair in pairs for row in _rows(pair)]),
        title=t("compare.title", names=t("compare.and").join([", ".join(names[:-1]), names[-1]])),
        description=t("compare.description"),
        canonical=f"?{urlencode(state, safe=',')}",
    )


def name_of(model: Model, most: int = 80) -> str:
    """A model's name for a sentence: no sign in it turns the words after it round, and none fills the page."""
    return line_of(model.name, most)


def _models(request: Request) -> list[Model]:
    """The models that the URL names, each once."""
    given = request.parameters.get("m") or request.parameters.get("models") or ""
    if len(given) > LONGEST:
        raise BadRequest("m", given)
    found: dict[str, Model] = {}
    for word in dict.fromkeys(part.strip() for part in given.split(",") if part.strip()):
        model = profile.find(request.snapshot, word)
        if model is None:
            raise NotFound("model", word)
        if model.withdrawn is not None:
            raise Gone(model.name, model.withdrawn)
        found.setdefault(model.fingerprint, model)
    if len(found) > MOST:
        raise BadRequest("m", given)
    return list(found.values())


def _picker(request: Request, models: Sequence[Model]) -> Content:
    t = request.t
    return Content(
        template="compare.html",
        values={"models": models, "pairs": (), "groups": _groups(request, ()), "name": name_of},
        json={"models": [model.slug for model in models], "pairs": [], "flips": None},
        table=(HEADER, []),
        title=t("compare.choose.title"),
        description=t("compare.description"),
        canonical=f"?m={models[0].slug}" if models else "",
    )


def _groups(request: Request, without: Sequence[Model]) -> list[tuple[str, list[Model]]]:
    """Models to choose from, by board: those that have documents to compare."""
    taken = {model.fingerprint for model in without}
    groups = []
    for name, board in request.snapshot.boards.items():
        models = [
            model
            for model in board.models.values()
            if model.withdrawn is None and not model.reference and model.fingerprint not in taken
        ]
        if models:
            groups.append((name, sorted(models, key=lambda model: (model.name.casefold(), model.slug))))
    return groups


# ---- flipped documents


def _published(request: Request, task: Task) -> bool:
    return tasks.shows_items(request.snapshot, task)


def _line(request: Request, pairs: Sequence[Pair]) -> tuple[Pair, Line | None]:
    """Which pair's documents of which task are shown: those asked for, or those of the surest difference."""
    other, name = (request.parameters.get(key, "").strip() for key in ("with", "task"))
    pair = next((pair for pair in pairs if pair.other.model.slug == other), None) if other else pairs[0]
    if pair is None:
        raise BadRequest("with", other)
    if name:
        line = pair.line(name)
        if line is None:
            raise NotFound("task", name)
        if not _may_show(request, line):
            raise Withheld(name)
        return pair, line
    candidates = [line for line in pair.lines if _published(request, line.task) and _differs(line)]
    for line in sorted(candidates, key=lambda line: (bool(line.problems), line.row.p, line.task.name)):
        if _may_show(request, line):
            return pair, line
    return pair, None


def _differs(line: Line) -> bool:
    return line.difference.better + line.difference.worse > 0


def _may_show(request: Request, line: Line) -> bool:
    """Whether documents of both runs may be seen."""
    allowed = documents.allowed(request.site.database, request.snapshot, line.task.name, line.runs)
    return _published(request, line.task) and len(allowed) == len(line.runs)


def _flips(request: Request, line: Line) -> Flips:
    side = request.parameters.get("side", "").strip()
    if side not in flipped.SIDES:
        raise BadRequest("side", side)
    number = page_number(request.parameters, flipped.pages(line.difference.n))
    found = flipped.of(request.site.database, line, side, number)
    if found is None:
        raise BadRequest("page", str(number))
    return found


def _state(request: Request, models: Sequence[Model], pair: Pair, flips: Flips | None) -> dict[str, str]:
    """The parameters that matter, those that were asked for."""
    state = {"m": ",".join(model.slug for model in models)}
    if request.parameters.get("with", "").strip():
        state["with"] = pair.other.model.slug
    if flips is not None and request.parameters.get("task", "").strip():
        state["task"] = flips.line.task.name
    if flips is not None and flips.side:
        state["side"] = flips.side
    if flips is not None and flips.page > 1:
        state["page"] = str(flips.page)
    return state


def _linker(request: Request, models: Sequence[Model], state: Mapping[str, str]) -> Any:
    """link(task="…"): this page with something changed; link(without=model), link(first=model)."""
    path = request.url("compare")

    def link(*, without: Model | None = None, first: Model | None = None, **changed: str) -> str:
        kept = [model for model in models if model is not without and model is not first]
        slugs = ",".join(model.slug for model in ([first, *kept] if first else kept))
        if without or first:
            return f"{path}?{urlencode({'m': slugs}, safe=',')}"
        wanted = {"page": "", **changed}
        values = {**state, **wanted}
        return f"{path}?{urlencode({key: value for key, value in values.items() if value}, safe=',')}"

    return link


# ---- in words


def words(request: Request, pair: Pair) -> dict[str, Any]:
    """What the comparison finds: first what can't be told apart."""
    t, language = request.t, request.language
    found: dict[str, list[Task]] = defaultdict(list)
    for line in pair.lines:
        found[line.verdict].append(line.task)
    names = {"first": name_of(pair.first.model), "other": name_of(pair.other.model)}
    compared = len(pair.lines) - len(found["incomparable"])
    unsure = len(found["open"]) + len(found["equal"])
    key = "none" if not compared else "sure" if not unsure else "open" if unsure < compared else "all"
    lists = [(t("compare.words.apart"), found["open"] + found["equal"])]
    lists += [(t("compare.words.better", name=names[side]), found[of]) for of, side in SIDES]
    made: dict[str, Any] = {
        "open": t(f"compare.words.{key}", n=unsure, total=compared),
        "lists": [(text, those) for text, those in lists if those],
        "total": None,
        "problems": _problems(request, pair),
    }
    if pair.total is not None:
        low, high = pair.total.difference.interval()
        made["total"] = t(
            f"compare.words.total.{pair.total.verdict}",
            **names,
            difference=signed(language, pair.total.difference.value, "points"),
            interval=f"{signed(language, low, 'points')} … {signed(language, high, 'points')}",
        )
    return made


SIDES = (("a", "first"), ("b", "other"))


def _problems(request: Request, pair: Pair) -> list[tuple[str, list[Task]]]:
    """Why tasks are not compared, by kind; and that the engines differ."""
    kinds: dict[str, list[Task]] = defaultdict(list)
    for line in pair.lines:
        for problem in line.problems:
            kinds[problem.kind].append(line.task)
    found = [(request.t(f"compare.problem.{kind}"), those) for kind, those in kinds.items()]
    return [*found, (request.t("compare.problem.engine"), [])] if pair.engines else found


def _left_out(request: Request, pair: Pair) -> list[tuple[str, list[str]]]:
    """Tasks that are not compared, by reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for task, reason in sorted(pair.left_out.items()):
        known = pair.first.tasks.get(task) or pair.other.tasks[task]
        reasons[reason].append(request.language.pick(known.title))
    names = {"first": name_of(pair.first.model), "other": name_of(pair.other.model)}
    return [(request.t(f"compare.left_out.{reason}", **names), titles) for reason, titles in reasons.items()]


def signed(language: Language, value: float | None, unit: str) -> str:
    """A difference with its sign, in points or bits."""
    if value is None:
        return "–"
    text = language.score(value, unit)
    zero = not any(sign in text for sign in "123456789")
    return text.lstrip("−") if zero else f"+{text}" if value > 0 else text


def p_value(language: Language, value: float) -> str:
    """A p-value in three places."""
    return f"<{language.decimal(0.001, 3)}" if value < 0.001 else language.decimal(value, 3)


Entry = tuple[str, Pooled | Line | None]


def _table(request: Request, pair: Pair) -> list[Entry]:
    """Titles and what stands behind them, as figure and table have them: all tasks, then each skill with its tasks."""
    t = request.t

    def with_word(title: str, one: Pooled | Line | None) -> Entry:
        return judging.named(t, title, one.judge if one is not None else None), one

    rows: list[Entry] = [] if pair.total is None else [with_word(t("compare.total"), pair.total)]
    pooled = {one.name: one for one in pair.skills}
    before = ""
    for line in pair.lines:
        skill = tasks.skill_of(line.task) if line.task.estonian else tasks.OTHERS
        if skill != before:
            before, title = skill, t("compare.english" if skill == tasks.OTHERS else f"skill.{skill}.title")
            rows.append(with_word(title, pooled.get(line.task.skill) if line.task.estonian else None))
        rows.append(with_word(line_of(request.language.pick(line.task.title)), line))
    return rows


def _figure(request: Request, pair: Pair) -> tuple[str, str] | None:
    """The forest plot in points, for a wide page and for a phone; without what is measured in bits or can't be
    compared."""
    rows: list[forest.Line] = []
    for title, one in _table(request, pair):
        if one is None:
            rows.append(forest.Line(title))
            continue
        found = one.difference
        scale = 1.0 if isinstance(one, Pooled) else comparing.POINTS.get(one.comparison.unit)
        if scale is not None and found.value is not None and one.verdict != "incomparable":
            low, high = (None if end is None else scale * end for end in found.interval())
            rows.append(forest.Line(title, scale * found.value, low, high, one.verdict, isinstance(one, Pooled)))
    drawn = [  # no heading above nothing
        row
        for row, after in itertools.pairwise([*rows, forest.Line("")])
        if row.value is not None or after.value is not None
    ]
    if not drawn:
        return None
    names = name_of(pair.first.model), name_of(pair.other.model)
    title = request.t("compare.figure.title", first=names[0], other=names[1])
    wide, narrow = (
        forest.draw(
            drawn,
            request.language,
            names=names,
            title=title,
            description=words(request, pair)["open"],
            layout=layout,
        )
        for layout in (forest.WIDE, forest.NARROW)
    )
    return wide, narrow


# ---- as data


def as_data(request: Request, models: Sequence[Model], pairs: Sequence[Pair], flips: Flips | None) -> dict[str, Any]:
    """The page as plain data; differences in each metric's unit, pooled ones in points."""
    return {
        "version": request.snapshot.version,
        "models": [{"slug": model.slug, "name": name_of(model), "badge": model.badge} for model in models],
        "pairs": [
            {
                "first": pair.first.model.slug,
                "other": pair.other.model.slug,
                "sentence": words(request, pair)["open"],
                "results": [dict(zip(HEADER[2:], row[2:], strict=True)) for row in _rows(pair)],
                "problems": [_problem(problem) for line in pair.lines for problem in line.problems],
                "engines": [_problem(problem) for problem in pair.engines],
                "left_out": dict(pair.left_out),
            }
            for pair in pairs
        ],
        "flips": None if flips is None else _flips_data(flips),
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {"kind": problem.kind, "task": problem.task, "text": fit(problem.text)}


def _flips_data(flips: Flips) -> dict[str, Any]:
    return {
        "task": flips.line.task.name,
        "judge": flips.line.judge,
        "runs": flips.line.runs,
        "side": flips.side,
        "counts": {"all": flips.counts[""], "first": flips.counts["a"], "other": flips.counts["b"]},
        "page": flips.page,
        "pages": flips.pages,
        "documents": [
            {
                "doc": row.doc,
                "number": row.number,
                "values": row.values,
                "prompt": readable(row.prompt),
                "target": readable(row.documents[0].target),
                "answers": [readable(flipped.said(one)) for one in row.documents],
            }
            for row in flips.rows
        ],
    }


def _rows(pair: Pair) -> list[list[Any]]:
    """The CSV: all tasks together, skills, tasks."""
    ends = [pair.first.model.slug, pair.other.model.slug]
    rows = [
        [*ends, "total" if one.name == "total" else "skill", one.name, None, "points", None, None, *_numbers(one)]
        for one in (*([pair.total] if pair.total else []), *pair.skills)
    ]
    for line in pair.lines:
        one = line.comparison
        head = [*ends, "task", line.task.name, one.metric, one.unit, one.value_a, one.value_b]
        found, row = one.difference, line.row
        sure = [row.p, row.p_adjusted if not line.problems else None, row.detectable, line.verdict]
        counts = [found.n, found.better, found.worse, one.only_a, one.only_b, found.method, line.judge]
        rows.append([*head, found.value, *found.interval(), *sure, *counts])
    return rows


def _numbers(one: Pooled) -> list[Any]:
    found = one.difference
    sure = [one.p, one.p_adjusted, one.detectable, one.verdict]
    counts = [found.n, found.better, found.worse, None, None, found.method]
    return [found.value, *found.interval(), *sure, *counts, one.judge]
