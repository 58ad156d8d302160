"""Continued pretraining where something is wrong: damaged shards, ruined weights, returns, an end in an evaluation."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_world as world
from estbench_training.cpt import losses, setup, stage
from estbench_training.evaluation import Decision, Interrupted
from training_world import WORDS

from estbench.errors import ConfigError, DataError, EngineError

Recipe = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and shards; recipes are written into it."""
    folder = tmp_path_factory.mktemp("faults")
    world.make_shards(folder / "shards", world.make_model(folder / "base"), {"et": 4000, "en": 2000})
    return folder


@pytest.fixture
def recipe(place: Path, request: pytest.FixtureRequest) -> Recipe:
    """Writes a recipe with other keys than usual."""

    def write(base: str = "base", **keys: Any) -> Path:
        return world.make_recipe(place, place / base, f"{request.node.name[:40]}.yaml", **keys)

    return write


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    world.without_curves(monkeypatch)


def test_a_byte_that_changed_in_a_shard_is_named_with_its_file_before_anything_is_trained(
    place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "shards", tmp_path / "shards")
    path = world.make_recipe(tmp_path, place / "base", data=str(tmp_path / "shards"), steps=2)
    file = tmp_path / "shards/et/00000.bin"
    content = bytearray(file.read_bytes())
    content[8] ^= 1
    file.write_bytes(content)
    os.utime(file, (1, 1))
    with pytest.raises(DataError, match=r"00000\.bin") as found:
        world.train(path, tmp_path / "out")
    assert "\n" not in str(found.value) and not list((tmp_path / "out").glob("*/log.jsonl"))


def test_an_adapter_on_the_output_layer_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an adapter there learns nothing"):
        world.build(recipe(freeze="lora", lora={"modules": ["q_proj", "lm_head"]}), tmp_path)


def test_logits_that_are_capped_ever_so_little_are_taken_whole() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip

    class Capped(LlamaForCausalLM):
        def forward(self, *arguments: Any, **named: Any) -> Any:
            output = super().forward(*arguments, **named)
            output.logits = 1000 * torch.tanh(output.logits / 1000)
            return output

    ids, positions = torch.randint(0, WORDS, (1, 16)), torch.arange(16).unsqueeze(0)
    found = {}
    for kind in (LlamaForCausalLM, Capped):
        torch.manual_seed(0)
        module = losses.LossModel(kind(config).eval(), chunked=True)
        found[kind] = losses.plain_head(module, ids, positions, 2e-2)
    assert found == {LlamaForCausalLM: True, Capped: False}


# --- ruined weights ---------------------------------------------------------------------------------------------------


def ruined(monkeypatch: pytest.MonkeyPatch, after: set[int], times: int) -> None:
    """Make the weights NaN behind these updates, so many times in all."""
    left = [times]
    step = torch.optim.AdamW.step
    taken = [0]

    def update(self: Any, *arguments: Any, **named: Any) -> Any:
        step(self, *arguments, **named)
        taken[0] += 1
        if taken[0] in after and left[0]:
            left[0] -= 1
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(torch.optim.AdamW, "step", update)


def test_weights_that_a_step_ruined_are_not_saved_and_the_run_comes_back(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined(monkeypatch, {4}, 1)
    said: list[str] = []
    path = recipe(steps=8, save={"every": 2}, guards={"patience": 1})
    folder = world.train(path, tmp_path, said.append)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["to"] for row in rows if row["kind"] == "roll_back"] == [2]
    assert any("step 4 is not saved" in line for line in said)
    assert all(bool(tensor.isfinite().all()) for tensor in world.weights(folder / "model").values())


def test_weights_that_the_last_step_ruined_are_not_exported(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined(monkeypatch, {4}, 1)
    with pytest.raises(EngineError, match="weights that are no numbers"):
        world.train(recipe(steps=4), tmp_path)
    assert not list(tmp_path.glob("*/model"))


def test_a_state_that_goes_wrong_again_is_dropped_for_the_one_before(recipe: Recipe, tmp_path: Path) -> None:
    run, _ = world.build(recipe(save={"every": 1, "keep": 2}), tmp_path)
    for step in (1, 2):
        run.step = step
        run.save()
    run.guard._roll_backs = 1
    assert run.roll_back() == 2
    run.guard._roll_backs = 2
    assert run.roll_back() == 1 and run.undone == 1
    run.guard._roll_backs = 3
    with pytest.raises(EngineError, match="Training diverges"):
        run.roll_back()


# --- evaluations ------------------------------------------------------------------------------------------------------


class Ended:
    """Stands in for evaluations: the first is ended by a SIGTERM."""

    left = 1
    forgotten: list[int] = []  # noqa: RUF012

    def __init__(self, settings: Any, context: Any, steps: int) -> None:
        self.every = settings.every

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def __call__(self, folder: Path, step: int, tokens: int) -> Decision:
        if Ended.left:
            Ended.left -= 1
            raise Interrupted("SIGTERM")
        return Decision()

    def forget(self, after: int) -> None:
        Ended.forgotten.append(after)

    def finish(self) -> Decision:
        return Decision()

    def close(self) -> None:
        pass


def test_an_end_in_an_evaluation_is_for_requeue_and_loses_no_step(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "Evaluator", Ended)
    monkeypatch.setattr(Ended, "left", 1)
    path = recipe(steps=6, save={"every": 100}, evaluate={"every": 3, "where": "none"})
    with pytest.raises(SystemExit) as ended:
        world.train(path, tmp_path)
    assert ended.value.code == 75
    folder = world.stage_folder(path, tmp_path)
    assert [state.name for state in (folder / "resume").glob("step-*")] == ["step-000003"]
    world.train(path, tmp_path)
    assert len(world.losses(folder)) == 6 and (folder / "model").is_dir()


def test_what_a_roll_back_undid_is_forgotten(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "Evaluator", Ended)
    monkeypatch.setattr(Ended, "left", 0)
    monkeypatch.setattr(Ended, "forgotten", [])
    ruined(monkeypatch, {4}, 1)
    keys = {"steps": 8, "save": {"every": 2}, "guards": {"patience": 1}, "export": {"every": 1}}
    folder = world.train(recipe(**keys, evaluate={"every": 100, "where": "none"}), tmp_path)
    assert Ended.forgotten == [2]
    kept = sorted(place.name for place in (folder / "checkpoints").iterdir())
    assert kept == [f"step-{step:06d}" for step in (1, 2, 5, 6, 7, 8)]


def test_flash_attention_is_never_chosen_for_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench_training.cpt.settings import Kernels

    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert setup.attention(Kernels(), "bf16") == "flash_attention_2"
    assert setup.attention(Kernels(), "fp32") == "sdpa"


def test_a_mixture_of_sources_that_no_stage_makes_is_refused_before_anything_runs() -> None:
    from estbench_training.recipe import from_row

    corpus = {"name": "corpus", "kind": "prepare", "sources": {"et": {"demo": "et", "documents": 9}}}
    train = {"name": "cpt", "kind": "cpt", "data": "corpus", "rate": 1e-3, "steps": 1, "sequence": 8}
    train |= {"batch_tokens": 8, "mixture": {"weights": {"et": 1, "ee": 1}}}
    with pytest.raises(ConfigError, match="'ee'") as found:
        from_row({"name": "r", "base": "demo-base", "stages": [corpus, train]}, Path())
    assert "stage cpt" in str(found.value) and "\n" not in str(found.value)
