"""A model whose embeddings were exchanged, in what people use it with: transformers, and vLLM behind a server.

A demo model gets more tokens (vocab), learns their embeddings (cpt), and its chat sibling gets them by LEP; then it is
calibrated on its sibling's own answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import share_models, share_vllm
from estbench_training import recipe, stages
from estbench_training.stages import Step

from estbench.cli import main
from estbench.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SOURCES: dict[str, Any] = {"et": {"demo": "et", "documents": 4000}}
TESTS = {"tasks": "mini"}
STAGES: list[dict[str, Any]] = [
    {"name": "vocab", "kind": "vocab", "mode": "extend", "size": 2300, "data": SOURCES, "decontaminate": TESTS},
    {"name": "corpus", "kind": "prepare", "sources": SOURCES, "decontaminate": TESTS},
    {
        "name": "donor",
        "kind": "cpt",
        "model": "vocab",
        "data": "corpus",
        "freeze": "embeddings",
        "mixture": {"weights": {"et": 1}},
        "steps": 150,
        "sequence": 128,
        "batch_tokens": 1024,
        "micro_batch": 8,
        "rate": 1e-3,
        "precision": "fp32",
    },
    {"name": "lep", "kind": "lep", "source": "demo", "target": "demo-chat", "donor": "donor"},
    {
        "name": "instructions",
        "kind": "instructions",
        "sources": {"tasks": {"demo": {"mini_follow": 1}, "rows": 200}},
    },
    {
        "name": "answers",
        "kind": "answers",
        "model": "demo-chat",
        "prompts": {"rows": "instructions"},
        "sample": {"max_tokens": 48},
        "decontaminate": {"tasks": "mini"},
    },
    {
        "name": "calibrated",
        "kind": "sft",
        "model": "lep",
        "data": "answers",
        "template": "demo",
        "max_length": 256,
        "steps": 20,
        "batch": 4,
        "micro_batch": 4,
        "rate": 3e-4,
        "precision": "fp32",
    },
]


@dataclass(frozen=True)
class World:
    """A home with the demo models, and the stages of the recipe by name."""

    folder: Path
    steps: dict[str, Step]

    def model(self, stage: str) -> Path:
        """The model of a stage."""
        return self.steps[stage].folder / "model"

    def answers(self, stage: str, name: str, *more: str) -> list[str]:
        """What the model of a stage answers to the first of mini_follow_chat."""
        words = [f"model={self.model(stage)}", f"name={name}", "tasks=mini_follow_chat", "limit=8", "output=json"]
        assert main(["eval", *words, *more]) == 0
        run = max((self.folder / "home" / "runs").glob("*"), key=lambda path: path.stat().st_mtime)
        return [str(sample.answer) for sample in Run(run).samples("mini_follow_chat")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("lep")
    share_models(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        row = {"name": "lep", "base": "demo", "licence": "apache-2.0", "stages": STAGES}
        (folder / "lep.yaml").write_text(yaml.safe_dump(row), "utf-8")
        done = stages.run(recipe.load(folder / "lep.yaml"), folder / "out", print)
        yield World(folder, {step.stage.name: step for step in done})


def test_the_propagated_and_the_calibrated_model_speak_in_transformers(world: World) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = AutoTokenizer.from_pretrained(world.model("lep"))
    assert len(chat) == 2300
    for stage in ("lep", "calibrated"):
        tokenizer = AutoTokenizer.from_pretrained(world.model(stage))
        model = AutoModelForCausalLM.from_pretrained(world.model(stage))
        assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == len(tokenizer)
        asked = [{"role": "user", "content": "Kes ütles tere?"}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        said = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert len(said) >= 1 and isinstance(tokenizer.decode(said), str)


def test_p_brings_the_new_rows_nearer_to_the_siblings(world: World) -> None:
    """On tokens that it was made of, and on others, too."""
    fit = json.loads((world.model("lep") / "lep.json").read_text("utf-8"))["fit"]
    assert all(one["residual"] < one["before"] and one["held_out"] < one["before"] for one in fit.values())
    assert all(text.strip() for text in world.answers("lep", "lep"))


def test_it_speaks_the_same_behind_vllm(world: World, vllm_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share_vllm(world.folder / "home", vllm_environment)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    served = world.answers("lep", "served", "engine=vllm", "engine.dtype=float32")
    assert served == world.answers("lep", "here", "engine.dtype=float32")
