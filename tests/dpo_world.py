"""A folder in which DPO is done within seconds: the tiny model, made-up pairs, and a recipe of the one stage `dpo`.

@pytest.fixture: without_curves, world       # pytest imports them by name from here
folder = world.train(steps=1)                # the stage's folder, trained with other keys than KEYS
pair("A?", "B", "C"), some_pairs(16)         # rows to train on
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from estbench_training import recipe, stages
from estbench_training.cpt.logs import read

Row = dict[str, Any]
KEYS: Row = {
    "template": "tulu",
    "batch": 4,
    "micro_batch": 2,
    "steps": 3,
    "rate": 1e-3,
    "max_length": 128,
    "precision": "fp32",
    "decontaminate": "none",
    "logging": {"tensorboard": False},
}


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> Row:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **more,
    }


def some_pairs(count: int = 16, seed: int = 0) -> list[Row]:
    """Pairs of unequal lengths whose chosen answer says yes and whose rejected one says no."""
    dice = random.Random(seed)
    words = ["kas", "õues", "sajab", "vihma", "ja", "müts", "läks", "märjaks", "öösel"]
    said = [" ".join(dice.choices(words, k=dice.randint(1, 5))) for _ in range(count)]
    return [pair(f"{text}?", f"Jah, {text}.", "Ei.", id=str(i)) for i, text in enumerate(said)]


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


class World:
    """A folder with pairs and a recipe of one stage."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.said: list[str] = []

    def recipe(self, rows: list[Row] | None = None, seed: int = 1, **keys: Any) -> recipe.Recipe:
        write(self.folder / "pairs.jsonl", some_pairs() if rows is None else rows)
        stage = {"name": "dpo", "kind": "dpo", "data": "./pairs.jsonl", **KEYS, **keys}
        head = {"name": "toy", "base": str(self.model), "seed": seed}
        return recipe.from_row({**head, "stages": [stage]}, self.folder)

    def train(self, rows: list[Row] | None = None, *, output: str = "out", **keys: Any) -> Path:
        """The stage's folder."""
        [step] = stages.run(self.recipe(rows, **keys), self.folder / output, self.said.append)
        return step.folder


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """No drawing, which takes longer than these trainings; `first` has its curves."""
    from estbench_training.cpt import plots

    monkeypatch.setattr(plots, "curves", lambda *_: None)


@pytest.fixture
def world(tmp_path: Path, tiny_model: Path, home: Path) -> World:
    return World(tmp_path, tiny_model)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read(folder / "log.jsonl")]
