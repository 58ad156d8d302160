"""The seeds' claims, tested in the small world: trains, evaluates, compares, and writes docs/story.md with its figures.

    python -m estbench_training.story                       # all of it: `make story`
    python -m estbench_training.story seeds=estllm          # one seed; what is known of the others stays
    python -m estbench_training.story repeats=2             # and again with two other random seeds: all takes thrice
    python -m estbench_training.story page=true             # only the page, from docs/story/results.json

It works in ESTBENCH_HOME if that is set, else in build/story/home. An interrupted run goes on with the same command.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from estbench import __version__, checkpoint, config, report
from estbench.config import option
from estbench.home import project_file
from estbench.identity import digest
from estbench_training import recipe as recipes
from estbench_training.story import measures, page
from estbench_training.story import results as stored
from estbench_training.story.claims import Found
from estbench_training.story.results import Evaluated, Made, Results, SeedResults
from estbench_training.story.seeds import FIRST, SEEDS, Model, Seed, chosen
from estbench_training.story.work import Work

RECIPES = "training/recipes"
LIBRARIES = ("torch", "transformers", "trl", "tokenizers", "numpy")


@dataclass(frozen=True)
class StorySettings:
    """What the story can be told."""

    seeds: str | None = option("only these seeds, with commas; default is all", None)
    docs: str = option("folder where story.md goes, and story/ with figures and results", "docs")
    build: str = option("folder for the home (unless ESTBENCH_HOME is set) and the board", "build/story")
    repeats: int = option("train again with so many other random seeds, and test the claims again", 0, least=0)
    page: bool = option("only the page, from the results that are there", False)


def main(words: Sequence[str], seeds: Sequence[Seed] = SEEDS) -> int:
    """Run the story; returns 0."""
    settings = config.read(list(words), StorySettings)
    docs, build = Path(settings.docs), Path(settings.build)
    kept = docs / "story" / "results.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not settings.page:
        os.environ.setdefault("ESTBENCH_HOME", str((build / "home").absolute()))
        before = dict(stored.read(kept).seeds) if kept.exists() else {}
        names = [name for name in (settings.seeds or "").split(",") if name]
        work = Work(build / "work", report.say)
        for seed in chosen(names, seeds):
            before[seed.name] = run(seed, work, before.get(seed.name), repeats=settings.repeats)
        stored.write(Results(before, {"estbench": __version__} | {name: version(name) for name in LIBRARIES}), kept)
        work.board(build / "board")
    _write(stored.read(kept), seeds, docs)
    return 0


def run(seed: Seed, work: Work, before: SeedResults | None = None, *, repeats: int = 0) -> SeedResults:
    """Train, evaluate and test a seed, and claims again with other random seeds; before: what is known of them."""
    path = Path(seed.recipe) if seed.recipe.endswith(".yaml") else project_file(f"{RECIPES}/{seed.recipe}.yaml")
    recipe = recipes.load(path)
    key = digest([recipe.text, repr(seed)])
    made = work.train(path, FIRST)
    places, runs, found = _tested(work, seed, recipe.name, made)
    watched = {stage: work.curve(recipe.name, one) for stage, one in made.items() if one.kind == "cpt"}
    writers = {model: places[model] for model in seed.writers}
    again = dict(before.again) if before and before.key == key else {}
    for number in range(FIRST + 1, FIRST + 1 + repeats):
        stages = work.train(path, number)
        *_, again[str(number)] = _tested(work, seed, recipe.name, stages, f"-seed{number}")
    return SeedResults(
        key,
        made,
        runs,
        found,
        curves={stage: points for stage, points in watched.items() if points},
        writing={task: measures.write(writers, task) for task in seed.written},
        fertility=work.fertility(writers, measures.files(work.folder)) if writers else {},
        sweep=work.sweep(seed.sweep, places) if seed.sweep else (),
        again=again,
    )


def _tested(
    work: Work, seed: Seed, recipe: str, made: Mapping[str, Made], ending: str = ""
) -> tuple[dict[str, Path], dict[str, Evaluated], dict[str, Found]]:
    """Where the models are, their runs, and what is found on each claim."""
    places = {model.name: _place(work, recipe, made, model) for model in seed.models}
    runs = {
        model.name: work.evaluate(
            str(places[model.name]),
            f"{recipe}-{model.name}{ending if model.stage in made else ''}",
            seed.tasks_of(model),
        )
        for model in seed.models
    }
    found = {
        claim.name: measures.fewer(places[claim.candidate], places[claim.baseline], claim.tasks)
        if claim.test == "fewer"
        else work.test(claim, runs[claim.candidate], runs[claim.baseline])
        for claim in seed.claims
    }
    return places, runs, found


def _place(work: Work, recipe: str, made: Mapping[str, Made], model: Model) -> Path:
    """The folder of a model."""
    if model.stage in made:
        return work.folder_of(recipe, made[model.stage]) / "model"
    return checkpoint.find(model.stage, say=work.say).path


def _write(results: Results, seeds: Sequence[Seed], docs: Path) -> None:
    """The page and its figures; a figure that is no longer there goes."""
    made = page.pages(results, seeds)
    for name, text in made.items():
        report.write(docs / name, text)
    for old in (docs / "story").glob("*.svg"):
        if f"story/{old.name}" not in made:
            old.unlink()
