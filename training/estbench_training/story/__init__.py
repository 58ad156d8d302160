"""The seeds' claims, tested in the small world: trains, evaluates, compares, and writes docs/story.md with its figures.

    python -m estbench_training.story                       # all of it: `make story`
    python -m estbench_training.story seeds=estllm          # one seed; what is known of the others stays
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
from estbench_training import recipe as recipes
from estbench_training.story import measures, page
from estbench_training.story import results as stored
from estbench_training.story.claims import Claim, Found
from estbench_training.story.results import Evaluated, Made, Results, SeedResults
from estbench_training.story.seeds import SEEDS, Model, Seed, chosen
from estbench_training.story.work import Work

RECIPES = "training/recipes"
LIBRARIES = ("torch", "transformers", "trl", "tokenizers", "numpy")


@dataclass(frozen=True)
class StorySettings:
    """What the story can be told."""

    seeds: str | None = option("only these seeds, with commas; default is all", None)
    docs: str = option("folder where story.md goes, and story/ with figures and results", "docs")
    build: str = option("folder for the home (unless ESTBENCH_HOME is set) and the board", "build/story")
    page: bool = option("only the page, from the results that are there", False)


def main(words: Sequence[str], seeds: Sequence[Seed] = SEEDS) -> int:
    """Run the story; returns 0."""
    settings = config.read(list(words), StorySettings)
    docs, build = Path(settings.docs), Path(settings.build)
    kept = docs / "story" / "results.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not settings.page:
        os.environ.setdefault("ESTBENCH_HOME", str((build / "home").absolute()))
        before = stored.read(kept).seeds if kept.exists() else {}
        names = [name for name in (settings.seeds or "").split(",") if name]
        work = Work(build / "work", report.say)
        found = dict(before) | {seed.name: run(seed, work) for seed in chosen(names, seeds)}
        stored.write(Results(found, {"estbench": __version__} | {name: version(name) for name in LIBRARIES}), kept)
        work.board(build / "board")
    _write(stored.read(kept), seeds, docs)
    return 0


def run(seed: Seed, work: Work) -> SeedResults:
    """Train, evaluate and test a seed."""
    recipe = Path(seed.recipe) if seed.recipe.endswith(".yaml") else project_file(f"{RECIPES}/{seed.recipe}.yaml")
    made = work.train(recipe)
    name = recipes.load(recipe).name
    places = {model.name: _place(work, name, made, model) for model in seed.models}
    runs = {
        model.name: work.evaluate(str(places[model.name]), f"{name}-{model.name}", seed.tasks_of(model))
        for model in seed.models
    }
    found = {claim.name: _tested(work, claim, runs, places) for claim in seed.claims}
    watched = {stage: work.curve(name, one) for stage, one in made.items() if one.kind == "cpt"}
    writers = {model: places[model] for model in seed.writers}
    return SeedResults(
        made,
        runs,
        found,
        curves={stage: points for stage, points in watched.items() if points},
        writing={task: measures.write(writers, task) for task in seed.written},
        fertility=work.fertility(writers, measures.files(work.folder)) if writers else {},
        sweep=work.sweep(seed.sweep, places) if seed.sweep else (),
    )


def _place(work: Work, recipe: str, made: Mapping[str, Made], model: Model) -> Path:
    """The folder of a model."""
    if model.stage in made:
        return work.folder_of(recipe, made[model.stage]) / "model"
    return checkpoint.find(model.stage, say=work.say).path


def _tested(work: Work, claim: Claim, runs: Mapping[str, Evaluated], places: Mapping[str, Path]) -> Found:
    if claim.test == "fewer":
        return measures.fewer(places[claim.candidate], places[claim.baseline], claim.tasks)
    return work.test(claim, runs[claim.candidate], runs[claim.baseline])


def _write(results: Results, seeds: Sequence[Seed], docs: Path) -> None:
    """The page and its figures; a figure that is no longer there goes."""
    made = page.pages(results, seeds)
    for name, text in made.items():
        report.write(docs / name, text)
    for old in (docs / "story").glob("*.svg"):
        if f"story/{old.name}" not in made:
            old.unlink()
