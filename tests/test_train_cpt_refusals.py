"""What continued pretraining refuses before it trains, in one line, and what it does with steps that are bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import training_world as world
from cpt_fixtures import Recipe, no_curves, place, recipe
from estbench_training import stages
from estbench_training.cpt import losses, setup, stage
from estbench_training.cpt.parallel import Ranks
from estbench_training.cpt.settings import Kernels

from estbench.errors import ConfigError, DataError, EngineError, MissingPartError, ModelError

__all__ = ["no_curves", "place", "recipe"]  # fixtures

# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_model_that_mixes_documents_is_not_trained(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_mask(self: Any, input_ids: Any, position_ids: Any, labels: Any = None, use_cache: bool = False) -> Any:
        mask = torch.ones_like(input_ids)
        out = self.model(input_ids=input_ids, position_ids=position_ids, attention_mask=mask, use_cache=use_cache)
        return out if labels is None else losses.summed(out.logits, labels)

    monkeypatch.setattr(losses.LossModel, "forward", with_mask)
    path = recipe()
    with pytest.raises(ModelError, match="mixes packed documents"):
        world.train(path, tmp_path)
    left = {file.name for file in world.stage_folder(path, tmp_path).iterdir()}
    assert left == {stages.STAGE, stages.RECIPE}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"steps": 5, "tokens": 5}, "one of tokens and steps"),
        ({"batch_tokens": 100}, "nearest is 96"),
        ({"micro_batch": 3}, "micro_batch: 3 doesn't divide the 8 sequences"),
        ({"steps": 0}, "steps: 0 has to be 1 or more"),
        ({"rate": 0}, "rate"),
        ({"data": []}, "data: is empty"),
        ({"lora": {"rank": 4}}, "lora: is for freeze: lora"),
        ({"ends": {"first": 1}}, "ends: is for freeze: ends"),
        ({"freeze": "lora", "lora": {"rank": 0}}, "rank: 0 has to be 1 or more"),
        ({"optimizer": {"betas": [0.9]}}, "two numbers"),
        ({"average": {"decay": 1.0}}, "decay: 1 has to be above 0 and below 1"),
        ({"guards": {"patience": 0}}, "patience: 0"),
        ({"save": {"keep": 0}}, "keep: 0"),
        ({"parallel": {"replicas": 2}}, "replicas: is for shard: hybrid"),
        ({"kernels": {"chunked_loss": "no"}}, "chunked_loss"),
        ({"precison": "fp32"}, "Did you mean 'precision'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(recipe: Recipe, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        world.load(recipe(**keys))
    assert "\n" not in str(caught.value)


def test_a_sequence_beyond_the_model_s_context_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sequence: 512 is longer than the 256 positions"):
        world.train(recipe(sequence=512, batch_tokens=1024), tmp_path)


def test_sequences_that_processes_cannot_share_are_refused(recipe: Recipe) -> None:
    (made,) = world.load(recipe()).stages
    with pytest.raises(ConfigError, match="to 3 processes in micro batches of 2: take a multiple of 192"):
        setup.check_shares(made.settings, 3)


def test_shards_of_another_tokenizer_are_refused(recipe: Recipe, place: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    world.make_shards(tmp_path / "shards", place / "base", {"et": 100})
    manifest = tmp_path / "shards/et/manifest.json"
    row = json.loads(manifest.read_text("utf-8"))
    row["tokenizer"]["hash"] = "f" * 64
    manifest.write_text(json.dumps(row), "utf-8")
    with pytest.raises(DataError, match="another tokenizer"):
        world.train(recipe(data=str(tmp_path / "shards")), tmp_path / "out")


def test_two_sources_of_one_name_are_refused(recipe: Recipe, place: Path, tmp_path: Path) -> None:
    world.make_shards(tmp_path / "more", place / "base", {"et": 100})
    with pytest.raises(ConfigError, match="two sources are called 'et'"):
        world.train(recipe(data=["./shards", str(tmp_path / "more")]), tmp_path / "out")


def test_a_folder_without_shards_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    settings, made = world.context(recipe(data=str(tmp_path / "nothing")), tmp_path / "out")
    with pytest.raises(DataError, match="holds no prepared shards"):
        stage.open_batches(settings, made, Ranks(0, 1, torch.device("cpu")))


@pytest.mark.parametrize(
    ("kernels", "error", "message"),
    [
        ({"liger": True}, ConfigError, "need a GPU"),
        ({"attention": "flash_attention_2"}, MissingPartError, "flash-attn"),
    ],
)
def test_kernels_that_are_not_here_are_refused(
    recipe: Recipe, tmp_path: Path, kernels: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        world.train(recipe(kernels=kernels), tmp_path)


def test_without_a_gpu_attention_is_sdpa() -> None:
    assert setup.attention(Kernels(), "bf16") == "sdpa" and setup.attention(Kernels("eager"), "bf16") == "eager"


def test_out_of_memory_says_what_to_change(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench_training.cpt import loop

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.91 GiB")

    monkeypatch.setattr(loop, "gradients", full)
    with pytest.raises(EngineError) as caught:
        world.train(recipe(kernels={"chunked_loss": False}), tmp_path)
    for cure in ("lower micro_batch (2)", "activation_checkpointing: full", "chunked_loss: auto", "take more devices"):
        assert cure in str(caught.value)


# --- bad steps --------------------------------------------------------------------------------------------------------


def poisoned(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Make the loss NaN in some steps, counted from 0."""
    from estbench_training.cpt import loop

    gradients = loop.gradients

    def poison(run: Any, step: Any, stopping: Any) -> Any:
        if step.number not in bad:
            return gradients(run, step, stopping)
        with torch.no_grad():
            before = run.model.model.lm_head.weight.clone()
            run.model.model.lm_head.weight[5] = float("nan")
        try:
            return gradients(run, step, stopping)
        finally:
            with torch.no_grad():
                run.model.model.lm_head.weight.copy_(before)

    monkeypatch.setattr(loop, "gradients", poison)


def test_a_step_whose_loss_is_no_number_is_skipped_and_logged(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, {2})
    said: list[str] = []
    folder = world.train(recipe(steps=4, export={"every": 1}), tmp_path, said.append)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["verdict"] for row in rows] == ["ok", "ok", "skip", "ok"]
    assert rows[2]["loss"] is None and rows[3]["loss"] is not None
    assert any("step 3: loss is nan -> skip" in line for line in said)
    before, bad, after = (world.weights(folder / f"checkpoints/step-00000{step}") for step in (2, 3, 4))
    assert world.same(before, bad) and not world.same(bad, after)
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())


def test_bad_steps_in_a_row_bring_back_the_last_state_and_the_data_goes_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, {3, 4})
    keys = {"steps": 6, "save": {"every": 2}, "guards": {"patience": 2}, "export": {"every": 1}}
    folder = world.train(recipe(**keys), tmp_path)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert next(row for row in rows if row["kind"] == "roll_back")["to"] == 2
    assert [row["verdict"] for row in rows if row["kind"] == "step"] == ["ok", "ok", "ok", "skip", "roll_back", "ok"]
    saved, rolled = (world.weights(folder / f"checkpoints/step-00000{step}") for step in (2, 5))
    assert world.same(saved, rolled)


def test_another_phase_of_the_mixture_begins_with_an_open_mind(recipe: Recipe, tmp_path: Path) -> None:
    phases = [{"until": 0.5, "weights": {"et": 1}}, {"until": 1.0, "weights": {"en": 1}}]
    run, _ = world.build(recipe(steps=10, mixture={"phases": phases}), tmp_path)
    assert run.turns == {5}
    plain, _ = world.build(recipe(), tmp_path)
    assert not plain.turns


def test_bad_steps_before_the_first_state_end_the_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, {0, 1, 2})
    with pytest.raises(EngineError, match="before the first state was saved"):
        world.train(recipe(save={"every": 100}), tmp_path)
