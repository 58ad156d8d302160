"""A stage of a recipe, and checkpoints of it with their cards, for tests that train nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from estbench_training import card
from estbench_training.card import CardFacts
from estbench_training.kinds import Context, Kind, StageSettings
from estbench_training.recipe import Common, Head, Recipe, Stage
from worlds import World

from estbench import registry
from estbench.cards import Source


def context(
    folder: Path, model: Path | None, stage: str = "cpt", said: list[str] | None = None, **head: Any
) -> Context:
    """A stage of a recipe called `mudel`."""
    kind = Kind(stage, StageSettings, lambda settings, context: None, makes_model=True)
    part = Stage(Common(stage, stage), kind, StageSettings())
    recipe = Recipe(Head("mudel", **({"base": "owner/base", "licence": "apache-2.0"} | head)), (part,), folder, "")
    say = said.append if said is not None else lambda line: None
    return Context(recipe, part, folder, "ab" * 32, 42, say, {}, model)


def checkpoint(context: Context, step: int, *, steps: int = 4, tokens: int = 1000, changed: float = 0.02) -> Path:
    """The start's weights with noise, after a step of `tokens` tokens each, with a card."""
    import torch
    from safetensors.torch import load_file, save_file

    place = context.folder / "checkpoints" / f"step-{step:06d}"
    shutil.copytree(context.start, place)
    dice = torch.Generator().manual_seed(step)
    weights = {
        name: tensor + changed * step * torch.randn(tensor.shape, generator=dice)
        for name, tensor in load_file(place / "model.safetensors").items()
    }
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    data = (Source("eesti", "cc0-1.0", step * tokens, 1.0),)
    facts = CardFacts("base", "cpt", False, step * tokens, step, steps, data)
    card.write(context, place, facts)
    return place


def bare(context: Context, step: int) -> Path:
    """A folder that stands for a checkpoint."""
    place = context.folder / "checkpoints" / f"step-{step:06d}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def small_tasks(folder: Path, patch: pytest.MonkeyPatch) -> World:
    """The tasks `letters` and `words` in place of ours, and their data."""
    made = World(folder)
    patch.setattr(registry, "project_file", lambda name: made.folder / name)
    patch.setenv("ESTBENCH_DATA", str(made.data))
    return made
