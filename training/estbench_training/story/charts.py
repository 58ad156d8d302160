"""Which figures a seed has, from what was found: each with its title, a sentence, and its SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from estbench_training.story import figures
from estbench_training.story.figures import Mark, Panel, Series
from estbench_training.story.results import Point, SeedResults, Writing
from estbench_training.story.seeds import Seed

LANGUAGES = {"mini_pairs_et": "Estonian", "mini_pairs_en": "English"}


@dataclass(frozen=True)
class Chart:
    """A figure. says: a sentence below it."""

    name: str
    title: str
    says: str
    svg: str


def of(seed: Seed, found: SeedResults) -> list[Chart]:
    """The figures of a seed: those that there is something for."""
    made = [_curves(seed, found)] if found.curves else []
    made += [_sweep(seed, found)] if found.sweep else []
    made += [_words(found), _pace(found)] if found.fertility else []
    return [*made, _ways(seed, found) if seed.ways else _tasks(seed, found)]


def _curves(seed: Seed, found: SeedResults) -> Chart:
    title = "Estonian and English while Estonian is read"
    series = []
    for style, (stage, points) in enumerate(found.curves.items()):
        for colour, (task, language) in enumerate(LANGUAGES.items()):
            start = found.runs[seed.begins.get(stage, "base")].score(task)
            begun = [Point(0, start)] if start else []
            series.append(Series(f"{language}, {stage}", _marks([*begun, *points], task), colour, style))
    stages = ", ".join(f"`{stage}`" for stage in found.curves)
    svg = figures.lines(title, series, across="training steps", up="right answers, %")
    return Chart(
        "curves",
        title,
        f"Right minimal pairs with 95 % intervals; step 0 is the model that a stage starts from: {stages}. "
        "Of the first documents, as all that is looked at on the way.",
        svg,
    )


def _sweep(seed: Seed, found: SeedResults) -> Chart:
    title = "The chat vector, longer and longer"
    tasks = list(dict.fromkeys(point.score.task for point in found.sweep))
    series = [Series(task, _marks(found.sweep, task), place, place) for place, task in enumerate(tasks)]
    says = (
        "Scores of the merged model over λ, with 95 % intervals; λ = 0 is the model without the vector. The curve is "
        "of the documents that settings were found on; `merged` in the tables has the recipe's λ."
    )
    return Chart("sweep", title, says, figures.lines(title, series, across="λ", up="points"))


def _words(found: SeedResults) -> Chart:
    title = "Tokens per word"
    panels = tuple(
        Panel(text, tuple((name, Mark(0, value)) for name, value in of.items()), "tokens per word", True)
        for text, of in found.fertility.items()
    )
    says = "By `estbench fertility`: estbench's own texts, and texts of the small world, which no corpus has."
    return Chart("fertility", title, says, figures.dots(title, panels))


def _pace(found: SeedResults) -> Chart:
    title = "Writing the same answers"
    panels = [
        panel
        for task, of in found.writing.items()
        for panel in (
            Panel(task, _row(of, lambda one: 1000 * one.tokens / one.characters), "tokens for 1,000 characters", True),
            Panel(task, _row(of, lambda one: one.pace), "CPU seconds for 1,000 characters", True),
        )
    ]
    facts = [
        f"`{name}` writes those of `{task}` with {one.tokens:,} tokens in *{one.cpu_seconds:.2f} s*"
        for task, of in found.writing.items()
        for name, one in of.items()
    ]
    says = f"The same reference answers, written token by token on one core; times are measured. {'; '.join(facts)}."
    return Chart("pace", title, says, figures.dots(title, panels))


def _row(of: Mapping[str, Writing], value: Callable[[Writing], float]) -> tuple[tuple[str, Mark], ...]:
    return tuple((name, Mark(0, value(one))) for name, one in of.items())


def _ways(seed: Seed, found: SeedResults) -> Chart:
    title = "What each way costs, and how near it comes"
    scored, tokens, seconds, facts = [], [], [], []
    for way in seed.ways:
        score = found.runs[way.model].score(seed.aim)
        stages = [found.made[stage] for stage in way.stages]
        read, took = sum(made.tokens or 0 for made in stages), sum(made.cpu_seconds for made in stages)
        arithmetic = sum(made.flops or 0.0 for made in stages)
        if score and score.value is not None:
            scored.append((way.model, Mark(0, score.value, score.low, score.high)))
        tokens.append((way.model, Mark(0, read)))
        seconds.append((way.model, Mark(0, took)))
        trained = f"{read:,} tokens, {arithmetic:.1e} FLOPs of training" if read else "no training"
        facts.append(f"`{way.model}` {trained}, *{took:,.1f} CPU seconds*")
    panels = [
        Panel(seed.aim, tuple(scored), "points"),
        Panel("training", tuple(tokens), "tokens", True),
        Panel("all of it, measured", tuple(seconds), "CPU seconds", True),
    ]
    says = f"Beyond what all ways share: {'; '.join(facts)}."
    return Chart("ways", title, says, figures.dots(title, panels))


def _tasks(seed: Seed, found: SeedResults) -> Chart:
    tasks = seed.chat_tasks[:3] or seed.tasks
    panels = tuple(Panel(task, _rows(seed, found, task), "points") for task in tasks)
    title = f"{seed.title.partition(':')[0]}: models and tasks"
    return Chart("tasks", title, "Scores with 95 % intervals.", figures.dots(title, panels))


def _rows(seed: Seed, found: SeedResults, task: str) -> tuple[tuple[str, Mark], ...]:
    scores = [(model.name, found.runs[model.name].score(task)) for model in seed.models]
    return tuple(
        (name, Mark(0, score.value, score.low, score.high))
        for name, score in scores
        if score and score.value is not None
    )


def _marks(points: Sequence[Point], task: str) -> tuple[Mark, ...]:
    return tuple(
        Mark(point.at, point.score.value, point.score.low, point.score.high)
        for point in points
        if point.score.task == task and point.score.value is not None
    )
