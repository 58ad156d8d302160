"""A model: its skills with their intervals, how it came to be, how to measure it again, what failed, what it cost."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from estbench.stats.ranks import Ranked
from estbench_leaderboard import curve, judging, profile, public
from estbench_leaderboard.board import Value
from estbench_leaderboard.catalogue import Language
from estbench_leaderboard.charts import curve as chart
from estbench_leaderboard.curve import Curve
from estbench_leaderboard.errors import Gone, NotFound
from estbench_leaderboard.profile import Ancestor, OnBoard, Profile
from estbench_leaderboard.shown import as_text, fit, line
from estbench_leaderboard.site import Content, Request
from estbench_leaderboard.snapshot import Model, Task
from estbench_leaderboard.snapshot import slug as name_in_urls

HEADER = (
    *("board", "skill", "task", "metric", "unit", "value", "ci_low", "ci_high", "chance", "n", "n_planned"),
    *("parse_failures", "errors", "weight", "reason", "flags", "run", "judge"),
)


def page(request: Request, slug: str) -> Content:
    """The page of a model by its slug, fingerprint or name."""
    model = profile.find(request.snapshot, slug)
    if model is None:
        for one in request.snapshot.hidden.tombstones:
            if slug in (name_in_urls(one.name, one.model), one.model):
                raise Gone(line(one.name), one.reason)
        raise NotFound("model", slug)
    if model.withdrawn is not None:
        raise Gone(model.name, model.withdrawn)
    found = profile.of(request, model)
    t, key = request.t, request.parameters.get("task", "").strip()
    drawn = curve.of(request.snapshot, model, key, request.parameters.get("x", "").strip())
    address = request.url("model", slug=model.slug)
    sentence = quote(request, found)
    judged = judging.beside(request, _judged(request, found))
    values = {
        "judged": judged,
        "found": found,
        "model": model,
        "address": address,
        "absolute": request.site.base_url + address,
        "quote": sentence,
        "facts": facts(request, model),
        "training": training(request, model),
        "curve": drawn,
        "figure": None if drawn is None else figure(request, drawn),
        "curve_title": None if drawn is None else judging.named(t, choice(request, drawn, drawn.key), drawn.judge),
        "choices": [] if drawn is None else [(name, choice(request, drawn, name)) for name in drawn.choices],
        "amount": chart.amount,
        "badge_path": _badge(request, model),
        "snippets": snippets(request, model),
        "answers": _answers(request, found),
        "counted": _counted(found),
        "skipped": {task: why for run in found.runs for task, why in run.skipped.items()},
        "same_name": [(other, _ranked(request, other)) for other in found.same_name],
    }
    return Content(
        template="model.html",
        values=values,
        json=lambda: as_data(request, found, drawn) | {"judged": judged},
        table=lambda: (HEADER, _rows(found)),
        title=model.name,
        description=sentence,
        canonical=f"?task={drawn.key}" if drawn is not None and key else "",
        parts={"slug": model.slug},
    )


def _judged(request: Request, found: Profile) -> list[judging.Place]:
    """The tasks that judges have scored."""
    return [
        judging.Place(cell.run, row.task.name, *_titled(request, row.task))
        for on in found.boards
        for group in on.groups
        for row in group.tasks
        if row.value.judge and (cell := row.value.cells[0]).run is not None
    ]


def _titled(request: Request, task: Task) -> tuple[str, str]:
    return line(request.language.pick(task.title)), request.url("task", task=task.name)


def _badge(request: Request, model: Model) -> str:
    return f"{'' if request.language.code == 'et' else '/en'}/badge/{model.slug}.svg"


def snippets(request: Request, model: Model) -> dict[str, str]:
    """The badge for a page elsewhere, as Markdown and as HTML."""
    picture = request.site.base_url + _badge(request, model)
    target = request.site.base_url + request.url("model", slug=model.slug)
    words = re.sub(r"[\[\]()<>`\\*_\n]", "", fit(request.t("model.cite.alt", name=model.name)))
    return {
        "markdown": f"[![{words}]({picture})]({target})",
        "html": f'<a href="{target}"><img src="{picture}" alt="{html.escape(words, quote=True)}"></a>',
    }


def _answers(request: Request, found: Profile) -> dict[str, set[str]]:
    """Task -> the runs whose documents may be read."""
    allowed = {
        (run.row.id, task)
        for run in found.runs
        for task, card in profile.part(run.manifest, "tasks").items()
        if isinstance(card, Mapping)
        and public.shows_items(request.snapshot, task, bool(card.get("publish_items")), card)
    }
    names = {task for on in found.boards for task in on.model.cells}
    return {task: {run for run, other in allowed if other == task} for task in names}


def _counted(found: Profile) -> dict[str, int]:
    """Run -> how many scores on the boards come from it."""
    cells = [cell for on in found.boards for cell in on.model.cells.values()]
    return Counter(cell.run for cell in cells if cell.run and cell.score is not None)


def _ranked(request: Request, model: Model) -> Ranked | None:
    board = request.snapshot.boards[model.board]
    ranking = board.ranking(board.weights())
    return next((row for row in ranking.rows if row.model == model.slug), None) if ranking else None


def quote(request: Request, found: Profile) -> str:
    """One sentence to cite, with its uncertainty and the day of the data."""
    t, language = request.t, request.language
    newest = max((row.created for row in request.snapshot.runs.values()), default=None)
    day = language.date(newest)
    on = next((on for on in found.boards if on.ranked is not None), found.boards[0])
    if on.ranked is None:
        why = t(f"model.unranked.{on.unranked}")
        return t("model.quote.unranked", name=found.model.name, board=t(f"model.on.{on.name}"), why=why, date=day)
    ranked = on.ranked
    key = "model.quote.ranked" if ranked.low is not None else "model.quote.unsure"
    words = t(
        key,
        name=found.model.name,
        board=t(f"model.on.{on.name}"),
        places=language.places(ranked.rank_low, ranked.rank_high),
        total=on.total,
        score=language.score(ranked.score, "corrected"),
        interval=language.interval(ranked.low, ranked.high, "corrected"),
        date=day,
    )
    return f"{words} {t(f'judge.counts.{on.judge}')}" if on.judge else words


def facts(request: Request, model: Model) -> list[tuple[str, str]]:
    """What buyers ask for; what nobody knows is said to be unknown."""
    t, language, known = request.t, request.language, model.facts
    unknown = t("model.unknown")
    yes, no, commercial = t("model.yes"), t("model.no"), known.get("commercial")
    open_weights = known.get("open_weights")
    kind = t("model.weights.open") if open_weights is True else t("model.weights.closed")
    weights = t("model.weights.api") if model.remote and open_weights is not True else kind
    rows = [
        ("organisation", as_text(known["organisation"]) if known.get("organisation") else unknown),
        ("licence", as_text(known["licence"]) if known.get("licence") else unknown),
        ("commercial", yes if commercial is True else no if commercial is False else unknown),
        ("weights", weights if open_weights is not None or model.remote else unknown),
        ("parameters", language.parameters(model.parameters) if model.parameters else unknown),
        ("memory", language.bytes(model.memory) if model.memory else unknown),
        ("tokens_per_word", language.decimal(model.tokens_per_word, 2) if model.tokens_per_word else unknown),
        ("price", _price(request, model) or unknown),
    ]
    return [(t(f"model.fact.{key}"), str(fit(value))) for key, value in rows]


def _price(request: Request, model: Model) -> str | None:
    read, written = model.facts.get("price_in"), model.facts.get("price_out")
    if not isinstance(read, int | float) or not isinstance(written, int | float):
        return None
    currency = as_text(model.facts.get("currency") or "")
    decimal = request.language.decimal
    return request.t("model.price", read=decimal(read, 2), written=decimal(written, 2), currency=currency).strip()


def training(request: Request, model: Model) -> list[tuple[str, str]]:
    """What the training card says beside the lineage."""
    card, language, t = model.training or {}, request.language, request.t
    rows = []
    for key in ("kind", "stage", "series", "tokens", "step", "steps_planned", "data", "recipe", "hours", "energy_kwh"):
        value = card.get(key)
        if value is None or value == "" or value == []:
            continue
        if key == "stage" and value == card.get("kind"):
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in ("tokens", "step", "steps_planned") and number:
            shown = chart.amount(value, language)
        elif number:
            shown = language.decimal(value, 0 if float(value).is_integer() else 1)
        else:
            parts = value if isinstance(value, list) else [value]
            text = ", ".join(_named(part, language) for part in parts)
            shown = t(f"model.stage.{text}") if language.has(f"model.stage.{text}") else text
        rows.append((t(f"model.training.{key}"), str(fit(shown))))
    return rows


def _named(part: Any, language: Language) -> str:
    """A data source or a recipe by its name, with its licence and share; anything else as it is."""
    if not isinstance(part, Mapping) or not part.get("name"):
        return as_text(part)
    share = part.get("share")
    known = isinstance(share, int | float) and not isinstance(share, bool)
    details = [as_text(part["licence"])] if part.get("licence") else []
    details += [f"{language.decimal(100 * share, 0)}%"] if known and share is not None else []
    return as_text(part["name"]) + (f" ({', '.join(details)})" if details else "")


def choice(request: Request, drawn: Curve, key: str) -> str:
    """The name of something that a curve can show."""
    if key == curve.MEAN:
        return request.t("model.curve.mean")
    task = request.snapshot.task(key)
    return request.t(f"skill.{key}.title") if task is None else request.language.pick(task.title)


def figure(request: Request, drawn: Curve) -> str:
    """The curve as SVG, with its numbers in words."""
    t, language = request.t, request.language
    name = judging.named(t, choice(request, drawn, drawn.key), drawn.judge)
    known = drawn.known
    words = [t("model.curve.few")]
    if known:
        first, last = known[0], known[-1]
        words = [
            t(
                "model.curve.words",
                n=len(known),
                first=language.score(first.value, drawn.unit),
                last=language.score(last.value, drawn.unit),
                start=chart.amount(first.at, language),
                end=chart.amount(last.at, language),
                axis=t(f"model.curve.of.{drawn.axis}"),
            )
        ]
    if drawn.noise is not None:
        words.append(t("model.curve.noise", noise=language.score(drawn.noise.noise, drawn.unit)))
    unit = judging.named(t, t(f"model.curve.unit.{drawn.unit}"), drawn.judge)
    axes = (t(f"model.curve.axis.{drawn.axis}"), unit)
    title = t("model.curve.title", name=name)
    return chart.draw(drawn, language, title=title, description=" ".join(words), named=axes)


def as_data(request: Request, found: Profile, drawn: Curve | None) -> dict[str, Any]:
    """The page as plain data."""
    model = found.model

    def url(other: Model) -> str:
        return request.url("model", slug=other.slug)

    same = ("slug", "name", "fingerprint", "parameters", "bytes", "memory", "created", "remote", "tokens_per_word")
    return {
        "model": {
            **{key: getattr(model, key) for key in (*same, "badge", "submitter", "attempts", "reference")},
            "facts": fit(dict(model.facts)),
            "training": fit(model.training),
        },
        "sentence": quote(request, found),
        "version": request.snapshot.version,
        "boards": [_board(on) for on in found.boards],
        **{name: [_ancestor(step, url) for step in getattr(found, name)] for name in ("lineage", "parents")},
        "runs": [
            {"run": run.row.id, "created": run.row.created, "command": run.command, "seconds": run.row.seconds}
            | {"documents": run.documents, "tokens_forwarded": run.forwarded, "tokens_generated": run.generated}
            | {"charged": run.spent, "skipped": run.skipped}
            | {key: run.manifest.get(key) for key in ("versions", "engine", "identity", "suites", "partial")}
            for run in found.runs
        ],
        "failures": found.failures,
        "history": [{"run": row.id, "created": row.created, "tasks": row.tasks} for row in found.history],
        "same_name": [
            {"model": other.slug, "fingerprint": other.fingerprint, "created": other.created, "url": url(other)}
            for other in found.same_name
        ],
        "corrections": found.corrections,
        "curve": None if drawn is None else curve.as_data(drawn, url),
    }


def _ancestor(step: Ancestor, url: Callable[[Model], str]) -> dict[str, Any]:
    row = {"stage": step.stage, "name": step.name, "tokens": step.tokens, "fingerprint": step.fingerprint}
    return row | {"url": None if step.model is None else url(step.model)}


def _board(on: OnBoard) -> dict[str, Any]:
    return {
        "board": on.name,
        "rank": on.ranked,
        "judge": on.judge,
        "unranked": on.unranked,
        "models_ranked": on.total,
        "skills": [
            {
                "skill": group.skill,
                "counts": group.line is not None,
                **({} if group.line is None else _value(group.line.value)),
                "tasks": [
                    {"task": line.task.name, "metric": line.task.metric, "unit": line.task.unit}
                    | {"chance": line.task.chance, "weight": line.column.weight}
                    | _value(line.value)
                    | {"run": line.value.cells[0].run, "score": line.value.cells[0].score}
                    for line in group.tasks
                ],
            }
            for group in on.groups
        ],
    }


def _value(value: Value) -> dict[str, Any]:
    return {
        "value": value.value,
        "ci_low": value.low,
        "ci_high": value.high,
        "judge": value.judge,
        "reason": value.reason,
        "flags": value.flags,
    }


def _rows(found: Profile) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for on in found.boards:
        for group in on.groups:
            for row in group.tasks:
                task, cell, score = row.task, row.value.cells[0], row.value.cells[0].score
                counts = [None] * 4 if score is None else [score.n, score.n_planned, score.parse_failures, score.errors]
                own = [row.value.value, row.value.low, row.value.high, task.chance]
                last = [row.column.weight, cell.reason, " ".join(cell.flags), cell.run, row.value.judge]
                rows.append([on.name, group.skill, task.name, task.metric, task.unit, *own, *counts, *last])
    return rows
