"""A folder in which SFT is done within seconds: a tiny model, conversations, and a recipe of the one stage `sft`.

@pytest.fixture: world                       # pytest imports it by name from here
folder = world.train(packing=False)          # the stage's folder, trained with other keys than STAGE's
world.prepared(loss_on="last")               # what would be learnt from; `world.said` is what was said
weights(folder), losses(folder), same(folder, other)
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chat_world import model, save, words
from estbench_training import recipe as recipes
from estbench_training import stages
from estbench_training.cpt import plots
from estbench_training.cpt.logs import read
from estbench_training.sft_data import Prepared
from estbench_training.templates import open_chat

TEXTS = ["Mis on öö?", "Kes sõi mütsi?", "Ütle midagi pikka ja ilusat.", "Miks?", "Tõlgi: The dog sees the house."]
SAID = ["Pime aeg. 🌙", "Žürii sõi.", "Õues sajab vihma ja müts läks märjaks.\nJa nii see läkski.", "Sest.", "Koer."]
STAGE: dict[str, Any] = {
    "name": "sft",
    "kind": "sft",
    "data": "./rows.jsonl",
    "template": "chatml",
    "max_length": 128,
    "batch": 4,
    "micro_batch": 2,
    "epochs": 2,
    "rate": 1e-2,
    "warmup": 1,
    "precision": "fp32",
    "decontaminate": "none",
    "save": {"every": 2},
    "logging": {"tensorboard": False},
}


def talk(place: int) -> dict[str, Any]:
    """A conversation with one or two answers."""
    n = len(TEXTS)
    messages = [
        {"role": "user", "content": TEXTS[place % n]},
        {"role": "assistant", "content": SAID[place % n]},
    ]
    if place % 3 == 0:
        messages += [
            {"role": "user", "content": TEXTS[(place + 1) % n]},
            {"role": "assistant", "content": SAID[(place + 2) % n]},
        ]
    return {"messages": messages, "source": "odd" if place % 2 else "even", "id": str(place)}


@dataclass
class World:
    """A folder with a model and rows, and what was said."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def rows(self, rows: Sequence[Mapping[str, Any]], name: str = "rows.jsonl") -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.folder / name).write_text(text, "utf-8")

    def recipe(self, **changed: Any) -> recipes.Recipe:
        stage = {key: value for key, value in {**STAGE, **changed}.items() if value is not None}
        row = {"name": "demo", "base": "./base", "seed": 7, "stages": [stage]}
        return recipes.from_row(row, self.folder)

    def train(self, output: str = "out", **changed: Any) -> Path:
        """The stage's folder, trained."""
        [step] = stages.run(self.recipe(**changed), self.folder / output, self.said.append)
        return step.folder

    def prepared(self, **changed: Any) -> Prepared:
        """What would be learnt from, without training."""
        recipe = self.recipe(**changed)
        [step] = stages.chain(recipe, self.folder / f"data-{len(self.said)}-{time.monotonic_ns()}")
        context = stages.Context(
            recipe, step.stage, step.folder, step.key, 7, self.said.append, model=self.folder / "base"
        )
        settings: Any = step.stage.settings
        chat = open_chat(words(), settings.template)
        return Prepared.make(settings, context, chat)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(plots, "curves", lambda *_: None)  # drawing takes longer than such a training
    tokenizer = words()
    save(tmp_path / "base", tokenizer, model(tokenizer))
    made = World(tmp_path)
    made.rows([talk(place) for place in range(16)])
    return made


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read(folder / "log.jsonl") if row["kind"] == "step"]


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
