"""A folder to pretrain in, and recipes in it, for the tests of continued pretraining.

@pytest.fixture: no_curves, place, recipe    # pytest imports them by name from here
recipe(steps=3)                              # the file of a recipe of the one stage `cpt`, with other keys than usual
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import training_world as world

Recipe = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and shards; recipes are written into it."""
    folder = tmp_path_factory.mktemp("cpt")
    world.make_shards(folder / "shards", world.make_model(folder / "base"), {"et": 4000, "en": 2000})
    return folder


@pytest.fixture
def recipe(place: Path, request: pytest.FixtureRequest) -> Recipe:
    """Writes a recipe with other keys than usual."""

    def write(base: str = "base", **keys: Any) -> Path:
        return world.make_recipe(place, place / base, f"{request.node.name[:40]}.yaml".replace("/", "_"), **keys)

    return write


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    world.without_curves(monkeypatch)
