"""DPO: what it computes is DPO (against TRL's trainer with a reference in memory), and what it leaves is a model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dpo_world import Row, World, losses, pair, some_pairs, without_curves, world
from estbench_training import dpo, reference, stages
from estbench_training.cpt.logs import read
from estbench_training.templates import open_chat

from estbench.errors import ConfigError, DataError, EngineError, EstbenchError
from estbench.tokens import Tokens

__all__ = ["without_curves", "world"]  # fixtures


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[World]:
    """A world of which tests only look at what one training left, `first`."""
    folder = tmp_path_factory.mktemp("dpo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        yield World(folder, tiny_model)


@pytest.fixture(scope="module")
def first(shared: World) -> Path:
    return shared.train()


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "model.safetensors")
    return found


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "beta", "value"),
    [
        ("sigmoid", None, math.log(2)),
        ("sigmoid_norm", None, math.log(2)),
        ("ipo", None, 1 / (2 * 0.1) ** 2),
        ("sigmoid", 2.0, math.log(2)),
    ],
)
def test_the_first_loss_is_that_of_two_equal_models(shared: World, loss: str, beta: float | None, value: float) -> None:
    folder = shared.train(loss=loss, steps=1, **({} if beta is None else {"beta": beta}))
    assert losses(folder)[0] == pytest.approx(value, abs=1e-6 * max(1, value))


def online(world: World, rows: list[Row], **config: Any) -> list[float]:
    """The losses of TRL's own trainer: it tokenises by itself, and its reference is a second model in memory."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    tokenizer = Tokens(world.model).tokenizer
    chat = open_chat(tokenizer, "tulu")
    model, other = (AutoModelForCausalLM.from_pretrained(world.model) for _ in range(2))
    arguments = {
        "output_dir": str(world.folder / "trl"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "warmup_steps": 1,
        "max_steps": 6,
        "max_length": 128,
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 1,
        "data_seed": 1,
    }
    bare = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    trainer = DPOTrainer(
        model=model,
        ref_model=other,
        args=DPOConfig(**(arguments | config)),
        train_dataset=Dataset.from_list(bare),
        processing_class=chat.tokenizer,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # TRL's own
@pytest.mark.parametrize(("loss", "beta"), [("sigmoid", 0.1), ("sigmoid_norm", 5.0), ("ipo", 0.1)])
def test_the_losses_are_those_of_trl_with_a_reference_in_memory(world: World, loss: str, beta: float) -> None:
    rows = some_pairs()
    expected = online(world, rows, loss_type=[loss], beta=beta)
    found = losses(world.train(rows, loss=loss, steps=6, warmup=1, save={"every": 100}))
    assert len(found) == 6 and found == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert abs(found[-1] - found[0]) > 1e-3  # something was learnt: the comparison says something


def test_margins_rise_and_without_a_rate_they_dont(shared: World) -> None:
    learnt = read(shared.train(rate=3e-3, steps=12, warmup=1) / "log.jsonl")
    still = read(shared.train(rate=1e-12, steps=12, warmup=1) / "log.jsonl")
    assert learnt[-1]["margin"] > 0.1 and learnt[-1]["accuracy"] == 1 and learnt[-1]["loss"] < math.log(2) - 0.05
    assert abs(still[-1]["margin"]) < 1e-5


def test_the_same_seed_gives_the_same_bits_and_another_one_others(shared: World, first: Path) -> None:
    again, other = (shared.train(seed=seed, output="again") for seed in (1, 2))
    bits = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, again, other)]
    assert again != first and bits[0] == bits[1] != bits[2]


def test_how_a_step_is_cut_into_parts_makes_no_difference(shared: World, first: Path) -> None:
    for size in (4, 1):
        assert losses(shared.train(micro_batch=size, output=f"by-{size}")) == pytest.approx(losses(first), abs=1e-5)


def test_a_rate_that_ruins_the_model_ends_with_one_line(shared: World) -> None:
    with pytest.raises(EngineError, match="lower rate"):
        shared.train(rate=1e30, warmup=0, steps=8)


# --- the reference ----------------------------------------------------------------------------------------------------


def computed(world: World) -> int:
    return sum("Computing the reference" in line for line in world.said)


def test_a_sweep_over_beta_loss_and_rate_computes_the_reference_once(world: World) -> None:
    world.train(steps=1)
    world.train(steps=1, beta=0.3)
    world.train(steps=1, loss="sigmoid_norm", rate=1e-4, seed=5)
    assert computed(world) == 1 and sum("are stored already" in line for line in world.said) == 2


def test_a_changed_row_or_template_computes_it_anew(world: World) -> None:
    rows = some_pairs()
    world.train(rows, steps=1)
    world.train([*rows[:-1], pair("Kas?", "Jah!", "Ei!")], steps=1)
    assert computed(world) == 2
    world.train(rows, steps=1, template="demo")
    assert computed(world) == 3
    world.train(rows, steps=1, beta=0.2)
    assert computed(world) == 3  # the control


def test_a_torn_cache_is_made_anew_and_the_losses_are_the_same(world: World, home: Path) -> None:
    before = losses(world.train())
    [file] = (home / "reference").iterdir()
    found = reference.load(file, file.stem, 16)
    file.write_bytes(file.read_bytes()[:200])
    assert losses(world.train(output="again")) == before
    again = reference.load(file, file.stem, 16)
    assert found is not None and again is not None
    assert computed(world) == 2 and [a.tobytes() for a in found] == [b.tobytes() for b in again]


def test_a_reference_that_is_another_models_is_noticed_at_the_first_step(world: World, home: Path) -> None:
    world.train(steps=1)
    [file] = (home / "reference").iterdir()
    found = reference.load(file, file.stem, 16)
    assert found is not None
    reference.store(file, file.stem, found[0] + 3, found[1])  # a whole file that says something else
    with pytest.raises(EngineError, match="not its own reference"):
        world.train(steps=1, output="again")


def test_only_one_model_is_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    train = dpo.Training.train
    monkeypatch.setattr(dpo.Training, "train", lambda self: (kept.append(self.trainer.ref_model), train(self))[1])
    world.train(steps=1)
    assert kept == [None]


def test_evaluations_get_whole_checkpoints_with_cards_and_the_gate_may_end_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training import tuned
    from estbench_training.evaluation import Decision, Point

    from estbench.checkpoint import find

    seen: list[tuple[int, str]] = []

    class Fake:
        def __init__(self, settings: Any, context: Any, steps: int) -> None:
            self.every = settings.every

        def due(self, step: int) -> bool:
            return bool(step % self.every == 0)

        def __call__(self, folder: Path, step: int, tokens: int) -> Decision:
            card = json.loads((folder / "train_card.json").read_text())
            assert find(str(folder)).has_chat_template and card["tokens"] == tokens > 0 and not card["final"]
            seen.append((step, card["name"]))
            return Decision(step == 4, "worse", (Point(step, tokens, card["name"], "run", {"mini": 0.5}),))

        def finish(self) -> Decision:
            return Decision()

        def close(self) -> None:
            pass

    monkeypatch.setattr(tuned, "Evaluator", Fake)
    folder = world.train(evaluate={"every": 2, "tasks": "mini", "where": "here"}, steps=9)
    assert [step for step, _ in seen] == [2, 4] and seen[0][1] == "toy-dpo-step-000002" and "worse" in world.said
    lines = read(folder / "log.jsonl")
    assert [row["step"] for row in lines if row["kind"] == "evaluation"] == [2, 4]
    assert len([row for row in lines if row["kind"] == "step"]) == 4
    assert json.loads((folder / "model" / "train_card.json").read_text())["step"] == 4


# --- which pairs ------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_said_and_written_down(world: World) -> None:
    rows = [*some_pairs(), pair("A?", "B", "B"), pair("Miks? " * 40, "Jah.", "Ei.")]
    folder = world.train(rows, too_long="drop", steps=1)
    data = json.loads((folder / "data.json").read_text())
    assert data["pairs"] == 16 and data["left_out"] == {"both sides equal": 1, "too long": 1}
    assert any("16 pairs (1 both sides equal, 1 too long)" in line for line in world.said)


def test_no_pair_at_all_is_refused_before_anything_is_loaded(world: World) -> None:
    with pytest.raises(DataError, match="no pairs to learn from"):
        world.train([pair("A?", "B", "B")])


# --- what it leaves ---------------------------------------------------------------------------------------------------


def test_it_leaves_a_model_that_stops_and_says_what_it_is(shared: World, first: Path) -> None:
    from estbench.checkpoint import find

    model = first / "model"
    assert find(str(model)).parameters == find(str(shared.model)).parameters
    settings = json.loads((model / "generation_config.json").read_text())
    assert settings["eos_token_id"] in (1, [1]) and settings["pad_token_id"] == 2
    assert "{% generation %}" in (model / "chat_template.jinja").read_text().replace("{%-", "{%")
    card = json.loads((model / "train_card.json").read_text())
    assert (card["name"], card["kind"], card["stage"], card["step"]) == ("toy-dpo", "chat", "dpo", 3)
    assert [one["stage"] for one in card["lineage"]][-1] == "dpo" and card["tokens"] > 0
    assert {path.name for path in first.iterdir()} == {
        *("model", "log.jsonl", "data.json", "done.json", "curves.svg", "stage.json", "recipe.yaml"),
    }


def test_each_step_is_written_down_and_nothing_is_printed(
    shared: World, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.train(output="printed", steps=1)
    assert capsys.readouterr().out == ""
    rows = read(first / "log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[0]["tokens"] < rows[-1]["tokens"]
    assert {"margin", "accuracy", "chosen_reward", "rejected_reward", "grad_norm", "rate"} <= rows[-1].keys()


def test_the_rate_is_that_of_the_other_stages(shared: World) -> None:
    from estbench_training.cpt.schedule import rate_at

    keys: Row = {"schedule": "cosine", "warmup": 2, "min_rate": 1e-4, "steps": 6}
    made = shared.recipe(**keys)
    rows = read(shared.train(**keys) / "log.jsonl")
    settings = made.stages[0].settings
    assert isinstance(settings, dpo.DpoSettings)
    expected = [rate_at(settings, step, 6) for step in range(6)]
    shown = [row["rate"] for row in rows]
    assert shown in (pytest.approx(expected), pytest.approx([*expected[1:], rate_at(settings, 6, 6)]))


def test_lora_is_merged(shared: World) -> None:
    folder = shared.train(lora={"rank": 4, "alpha": 8}, rate=1e-2, warmup=0)
    assert losses(folder)[0] == pytest.approx(math.log(2), abs=1e-6)  # a fresh adapter is the reference
    made, before = weights(folder / "model"), weights(shared.model)
    assert made.keys() == before.keys() and not (folder / "model" / "adapter_config.json").exists()
    changed = {name for name in made if not made[name].equal(before[name])}
    assert changed and all("proj" in name for name in changed)


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
def test_other_precisions_train_and_keep_the_dtype_of_the_start(shared: World, precision: str) -> None:
    import torch

    folder = shared.train(precision=precision, rate=1e-2, warmup=0, optimizer={"betas": [0.9, 0.95]})
    assert losses(folder)[0] == pytest.approx(math.log(2), abs=dpo.NEAR[precision])
    made, before = weights(folder / "model"), weights(shared.model)
    assert {value.dtype for value in made.values()} == {torch.float32}
    assert made.keys() == before.keys() and any(not made[name].equal(before[name]) for name in made)


def test_weights_in_another_dtype_stay_tied() -> None:
    import torch
    from estbench_training.trainer_state import in_dtype

    tied = torch.ones(3)
    made = in_dtype({"a": tied, "b": tied, "c": torch.ones(3), "d": torch.ones(2, dtype=torch.int64)}, torch.bfloat16)
    assert made["a"].data_ptr() == made["b"].data_ptr() != made["c"].data_ptr()
    assert made["a"].dtype == torch.bfloat16 and made["d"].dtype == torch.int64


def test_what_is_done_is_not_done_again(shared: World, first: Path) -> None:
    stamp = (first / "model" / "model.safetensors").stat().st_mtime_ns
    assert shared.train() == first and (first / "model" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_model_that_had_appeared_is_not_trained_again(shared: World, first: Path) -> None:
    (first / stages.DONE).unlink()  # killed between the two
    count = len(shared.said)
    assert shared.train() == first
    assert not any("pairs" in line for line in shared.said[count:])


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": "sigmoid_nrm"}, "Did you mean 'sigmoid_norm'"),
        ({"loss": "simpo"}, "is not one of sigmoid, sigmoid_norm, ipo"),
        ({"beta": 0}, "beta: 0 has to be above 0"),
        ({"batch": 4, "micro_batch": 3}, "micro_batch: 3 doesn't divide"),
        ({"too_long": "cut"}, "error, drop, truncate"),
        ({"save": {"keep": 1}}, "keep: has to be 2"),
        ({"lora": {}, "shard": "full"}, "shard: full is for the whole model"),
        ({"epochs": 0}, "epochs: 0"),
        ({"template": "chatlm"}, "Did you mean 'chatml'"),
        ({"data": []}, "data: is empty"),
    ],
)
def test_slips_in_settings_are_named_before_anything_runs(world: World, keys: Row, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world.recipe(**keys)


def test_a_file_that_isnt_there_is_named(world: World) -> None:
    with pytest.raises(EstbenchError, match="no file"):
        world.train(data="./missing.jsonl")


def test_parameters_that_are_not_sharded_are_not_called_sharded(world: World) -> None:
    with pytest.raises(ConfigError, match="shard: full needs GPUs"):
        world.train(shard="full", steps=1)
