"""`estbench train`: runs a recipe, shows its plan, writes its cluster job, lists ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from estbench import report
from estbench.errors import ConfigError, did_you_mean
from estbench.home import home, project_file
from estbench_training import recipe as recipes
from estbench_training import stages
from estbench_training.recipe import Recipe
from estbench_training.settings import TrainSettings


def run(settings: TrainSettings) -> int:
    """Run what is not done yet, or show the plan, or write a cluster's job."""
    recipe = open_recipe(settings)
    only = [name for name in (settings.stage or "").split(",") if name]
    for name in only:
        recipe.stage(name)
    if settings.plan:
        from estbench_training import plan

        plan.show(plan.of(recipe, machine=settings.machine, gpus=settings.gpus, only=only), settings.output)
        return 0
    output = output_of(settings, recipe)
    if settings.slurm:
        from estbench_training import slurm

        words = [] if settings.seed is None else [f"seed={settings.seed}"]
        path = recipe_path(settings)
        print(slurm.write(recipe, settings.slurm, output, path, gpus=settings.gpus, only=only, words=words))
        return 0
    steps = stages.run(recipe, output, report.say, only=only)
    rows = [
        {"stage": step.stage.name, "kind": step.stage.kind.name, "folder": str(step.folder), **_model(step)}
        for step in steps
    ]
    if settings.output == "json" or (settings.output is None and not sys.stdout.isatty()):
        print(report.as_json({"recipe": recipe.name, "stages": rows}))
    else:
        print(report.listing(rows, {"stage": "Stage", "kind": "Kind", "model": "Model", "folder": "Folder"}))
    return 0


def _model(step: stages.Step) -> dict[str, str]:
    return {"model": str(step.folder / "model")} if step.stage.kind.makes_model else {"model": ""}


def list_recipes(settings: TrainSettings) -> int:
    """List the recipes that come with estbench."""
    rows = []
    for path in sorted(project_file("training/recipes").glob("*.yaml")):
        found = recipes.load(path)
        names = ", ".join(stage.name for stage in found.stages)
        rows.append({"recipe": path.stem, "base": found.head.base or "", "stages": names, "title": found.head.title})
    if settings.output == "json" or (settings.output is None and not sys.stdout.isatty()):
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        print(report.listing(rows, {"recipe": "Recipe", "base": "Base", "stages": "Stages", "title": "What it makes"}))
    return 0


def recipe_path(settings: TrainSettings) -> Path:
    """The recipe's file: a path, or one of ours by name."""
    name = settings.recipe_name
    path = Path(name).expanduser()
    if path.is_file():
        return path
    ours = {file.stem: file for file in project_file("training/recipes").glob("*.yaml")}
    if name in ours:
        return ours[name]
    raise ConfigError(
        f"There is no recipe {name!r}: a YAML file, or one of {', '.join(sorted(ours))}.{did_you_mean(name, ours)}"
    )


def open_recipe(settings: TrainSettings) -> Recipe:
    """The recipe, with the seed that was asked for."""
    found = recipes.load(recipe_path(settings))
    return found if settings.seed is None else found.with_seed(settings.seed)


def output_of(settings: TrainSettings, recipe: Recipe) -> Path:
    """Where the stages are kept."""
    return (
        Path(settings.output_dir).expanduser().absolute() if settings.output_dir else home() / "training" / recipe.name
    )


VERBS = {"run": run, "recipes": list_recipes}
