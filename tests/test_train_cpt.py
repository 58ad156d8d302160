"""Continued pretraining in one process: what a step computes, against oracles, and what a stage leaves."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import training_world as world
from cpt_fixtures import Recipe, no_curves, place, recipe
from estbench_training import stages
from estbench_training.cpt import losses, plots, setup, stage
from estbench_training.evaluation import Decision, Point
from estbench_training.packing import Batches
from torch.nn.functional import cross_entropy
from training_world import SEQUENCE, WORDS

from estbench.errors import ModelError

__all__ = ["no_curves", "place", "recipe"]  # fixtures


def close(a: dict[str, Any], b: dict[str, Any], most: float) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=most) for name in a)


# --- the step ---------------------------------------------------------------------------------------------------------


def test_accumulation_changes_nothing_though_micro_batches_have_unequal_targets(recipe: Recipe, tmp_path: Path) -> None:
    keys = {"optimizer": {"clip": 0}}
    found = []
    for size in (8, 4, 2, 1):
        run, batches = world.build(recipe(micro_batch=size, **keys), tmp_path)
        counts = [int((micro["labels"] != -100).sum()) for micro in batches.batch(0)]
        found.append(world.gradients(run, batches))
        assert len(counts) == 8 // size and sum(counts) == batches.targets(0)
        assert size > 2 or len(set(counts)) > 1
    (whole, gradients), *others = found
    for measured, other in others:
        assert measured.loss == pytest.approx(whole.loss, abs=1e-6)
        assert measured.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
        assert close(gradients, other, 1e-6)


def test_a_mean_of_micro_batches_means_would_be_another_gradient(recipe: Recipe, tmp_path: Path) -> None:
    """Negative control for the test above."""
    run, batches = world.build(recipe(micro_batch=1, optimizer={"clip": 0}), tmp_path)
    _, right = world.gradients(run, batches)
    for micro in batches.batch(0):
        (run.model(**micro) / (micro["labels"] != -100).sum() / 8).backward()
    wrong = {name: weight.grad for name, weight in run.weights.items()}
    assert not close(right, wrong, 1e-4)


def test_the_loss_is_that_of_each_document_by_itself(recipe: Recipe, tmp_path: Path) -> None:
    run, batches = world.build(recipe(micro_batch=1), tmp_path)
    total, targets = 0.0, 0
    for micro in batches.batch(0):
        begins = [*(micro["position_ids"][0] == 0).nonzero().flatten().tolist(), SEQUENCE]
        for begin, end in pairwise(begins):
            ids, labels = micro["input_ids"][:, begin:end], micro["labels"][:, begin:end]
            logits = run.model.model(input_ids=ids, use_cache=False).logits
            total += float(cross_entropy(logits[0], labels[0], reduction="sum").detach())
            targets += int((labels != -100).sum())
    measured, _ = world.gradients(run, batches)
    assert targets == batches.targets(0)
    assert measured.loss == pytest.approx(total / targets, abs=1e-5)


def test_gradients_are_clipped_by_their_norm_over_all_weights(recipe: Recipe, tmp_path: Path) -> None:
    run, batches = world.build(recipe(optimizer={"clip": 0.1}), tmp_path)
    measured, clipped = world.gradients(run, batches)
    assert measured.grad_norm > 0.1
    assert float(torch.stack([part.norm() for part in clipped.values()]).norm()) == pytest.approx(0.1, rel=1e-4)


def test_matrices_decay_and_norms_do_not(recipe: Recipe, tmp_path: Path) -> None:
    run, _ = world.build(recipe(optimizer={"weight_decay": 0.3}), tmp_path)
    decays = {id(weight): group["weight_decay"] for group in run.optimizer.param_groups for weight in group["params"]}
    found = {name: decays[id(weight)] for name, weight in run.weights.items()}
    assert {name for name, decay in found.items() if decay == 0} == {name for name in found if "norm" in name}
    assert set(found.values()) == {0.0, 0.3}


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_recomputing_layers_changes_no_gradient(recipe: Recipe, tmp_path: Path, kind: str) -> None:
    plain, batches = world.build(recipe(), tmp_path)
    saving, _ = world.build(recipe(activation_checkpointing=kind), tmp_path)
    calls: list[int] = []
    for layer in saving.model.model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    _, expected = world.gradients(plain, batches)
    _, found = world.gradients(saving, batches)
    assert world.same(expected, found)
    assert len(calls) == {"full": 4, "selective": 3}[kind] * 4  # two layers and four micro batches; the first is again


def test_mixed_precision_computes_in_bf16_and_keeps_fp32(recipe: Recipe, tmp_path: Path) -> None:
    exact, batches = world.build(recipe(), tmp_path)
    mixed, _ = world.build(recipe(precision="bf16"), tmp_path)
    pure, _ = world.build(recipe(precision="bf16_pure"), tmp_path)
    loss = [world.gradients(run, batches)[0].loss for run in (exact, mixed, pure)]
    assert loss[0] != loss[1] and loss[1] == pytest.approx(loss[0], rel=0.01)
    assert loss[2] == pytest.approx(loss[0], rel=0.02)
    assert {weight.dtype for weight in mixed.weights.values()} == {torch.float32}
    assert {state["exp_avg"].dtype for state in mixed.optimizer.state.values()} == {torch.float32}
    assert {weight.dtype for weight in pure.weights.values()} == {torch.bfloat16}


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_loss_in_pieces_is_the_loss(rows: int, dtype: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 21, 16, generator=dice).to(dtype)
    weight, labels = torch.randn(50, 16, generator=dice).to(dtype), torch.randint(0, 50, (3, 21), generator=dice)
    labels[0, :9] = -100
    found = []
    for kind in ("whole", "pieces"):
        ours, theirs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = losses.summed(ours @ theirs.T, labels) if kind == "whole" else losses.chunked(ours, theirs, labels, rows)
        (loss / 7).backward()
        found.append((loss.detach().double(), ours.grad.double(), theirs.grad.double()))
    for expected, got in zip(*found, strict=True):
        most = (2e-2 if dtype == torch.bfloat16 else 1e-5) * float(expected.abs().max())
        assert torch.allclose(got, expected, rtol=0, atol=most)


def test_what_is_frozen_gets_no_gradient_from_the_loss_in_pieces() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(10, 8)
    losses.chunked(hidden, weight, torch.tensor([1, 2, 3, -100])).backward()
    assert weight.grad is None and hidden.grad is not None and bool((hidden.grad[3] == 0).all())


def test_the_loss_in_pieces_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    piece = losses._piece
    monkeypatch.setattr(losses, "_piece", lambda logits, *rest: seen.append(len(logits)) or piece(logits, *rest))
    monkeypatch.setattr(losses, "LOGITS", {"cpu": 64 * 4 * 1000})
    losses.chunked(torch.randn(200, 4), torch.randn(1000, 4), torch.zeros(200, dtype=torch.long))
    assert seen == [64, 64, 64, 8]


@pytest.fixture(scope="module")
def odd(place: Path) -> Path:
    """A Granite, whose logits are divided by a number."""
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, logits_scaling=3.0, initializer_range=0.1,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    GraniteForCausalLM(config).save_pretrained(place / "odd")
    world.make_tokenizer(place / "odd")
    return place / "odd"


def test_a_model_that_scales_its_logits_is_trained_on_its_own_loss(recipe: Recipe, tmp_path: Path, odd: Path) -> None:
    said: list[str] = []
    run, batches = world.build(recipe("odd"), tmp_path, said.append)
    micro = batches.batch(0)[0]
    logits = run.model.model(**{key: micro[key] for key in ("input_ids", "position_ids")}, use_cache=False).logits
    expected = cross_entropy(logits.flatten(0, 1), micro["labels"].flatten(), reduction="sum")
    assert torch.allclose(run.model(**micro), expected)
    assert not run.model.chunked and any("whole logits" in line for line in said)


def test_pieces_asked_of_a_model_that_scales_its_logits_are_refused(recipe: Recipe, tmp_path: Path, odd: Path) -> None:
    with pytest.raises(ModelError, match="logits are more than its output layer"):
        world.build(recipe("odd", kernels={"chunked_loss": True}), tmp_path)


def test_rows_laid_out_as_one_give_the_same(recipe: Recipe, tmp_path: Path) -> None:
    """As flash attention needs them."""
    run, batches = world.build(recipe(micro_batch=4), tmp_path)
    flat, _ = world.build(recipe(micro_batch=4), tmp_path)
    flat.model.flat = True
    _, expected = world.gradients(run, batches)
    _, found = world.gradients(flat, batches)
    assert close(expected, found, 1e-6)
    micro = {name: tensor for name, tensor in batches.batch(0)[0].items() if name != "labels"}
    assert torch.allclose(run.model(**micro).logits, flat.model(**micro).logits, atol=1e-5)


# --- another trainer, and the same again ------------------------------------------------------------------------------


def trainers_losses(base: Path, batches: Batches, steps: int, folder: Path, rate: float, warmup: int) -> list[float]:
    """The losses of the Trainer of transformers on the same rows in the same order."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    rows = [
        {name: micro[name][row] for name in micro} | {"shift_labels": micro["labels"][row]}
        for step in range(steps)
        for micro in batches.batch(step)
        for row in range(len(micro["labels"]))
    ]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=4,
        learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=warmup, weight_decay=0.1, adam_beta1=0.9,
        adam_beta2=0.95, max_grad_norm=1.0, optim="adamw_torch_fused", logging_steps=1, report_to="none", use_cpu=True,
        bf16=False, save_strategy="no", remove_unused_columns=False, train_sampling_strategy="sequential",
        disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.config.use_cache = False
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_the_loss_curve_is_that_of_the_trainer_of_transformers(recipe: Recipe, place: Path, tmp_path: Path) -> None:
    path = recipe(steps=6)
    _, batches = world.build(path, tmp_path / "batches")
    ours = world.losses(world.train(path, tmp_path / "out"))
    theirs = trainers_losses(place / "base", batches, 6, tmp_path / "trainer", 1e-2, 2)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[-1] < ours[0] - 0.5  # it learns
    other = world.losses(world.train(recipe(steps=6, rate=1.1e-2), tmp_path / "out"))
    assert other != pytest.approx(theirs, abs=1e-3)  # negative control


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(steps=3)
    first, second = (world.train(path, tmp_path / name) for name in ("a", "b"))
    assert world.losses(first) == world.losses(second)
    assert world.same(world.weights(first / "model"), world.weights(second / "model"))
    other = world.train(recipe(steps=3, seed=8), tmp_path / "c")
    assert world.losses(first) != world.losses(other)


def test_every_token_is_accounted_for(recipe: Recipe, tmp_path: Path) -> None:
    folder = world.train(recipe(tokens=1000), tmp_path)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["tokens"] for row in rows] == [256, 512, 768, 1024]  # whole steps, at least what was asked for
    card = json.loads((folder / "model/train_card.json").read_text("utf-8"))
    assert card["tokens"] == 1024 and card["step"] == card["steps_planned"] == 4
    assert {source["name"]: source["tokens"] for source in card["data"]} == {"et": 768, "en": 256}


# --- what is left -----------------------------------------------------------------------------------------------------


def test_a_stage_leaves_a_whole_checkpoint_with_the_tokenizer_of_its_base(
    recipe: Recipe, place: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from estbench.checkpoint import find

    folder = world.train(recipe(steps=2, export={"every": 1}), tmp_path)
    model, base = find(str(folder / "model")), find(str(place / "base"))
    assert model.tokenizer_hash() == base.tokenizer_hash()
    assert model.tensors.keys() == base.tensors.keys()
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.vocab_size == WORDS
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoints", "log.jsonl", "model"),
        *(stages.DONE, stages.STAGE, stages.RECIPE),
    }
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    last = world.weights(folder / "checkpoints/step-000002")
    assert world.same(last, world.weights(folder / "model"))
    assert not world.same(last, world.weights(folder / "checkpoints/step-000001"))
    card = json.loads((folder / "checkpoints/step-000001/train_card.json").read_text("utf-8"))
    assert card["step"] == 1 and not card["final"]


@pytest.mark.parametrize(("asked", "written"), [("base", torch.bfloat16), ("float32", torch.float32)])
def test_a_model_is_written_in_its_base_s_type_unless_asked(
    place: Path, tmp_path: Path, asked: str, written: torch.dtype
) -> None:
    base = world.make_model(tmp_path / "base", dtype="bfloat16")
    path = world.make_recipe(tmp_path, base, data=str(place / "shards"), steps=1, export={"dtype": asked})
    folder = world.train(path, tmp_path / "out")
    assert {tensor.dtype for tensor in world.weights(folder / "model").values()} == {written}
    config = json.loads((folder / "model/config.json").read_text("utf-8"))
    assert config["dtype"] == str(written).removeprefix("torch.")


def test_tied_embeddings_stay_tied(place: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = world.make_model(tmp_path / "base", tied=True)
    path = world.make_recipe(tmp_path, base, data=str(place / "shards"), steps=2)
    made = world.train(path, tmp_path / "out") / "model"
    assert world.weights(made).keys() == world.weights(base).keys()
    model = AutoModelForCausalLM.from_pretrained(made)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(model.lm_head.weight, world.weights(base)["model.embed_tokens.weight"])


# --- what the log says of speed ---------------------------------------------------------------------------------------


def test_utilisation_is_the_model_s_work_over_the_device_s_peak(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training.cpt import flops

    run, _ = world.build(recipe(), tmp_path)
    assert setup.utilisation(run)(1000.0) is None  # a CPU's peak isn't known
    monkeypatch.setattr(setup, "_peak", lambda device: 1e12)
    assert setup.utilisation(run)(1000.0) == pytest.approx(flops.mfu(1000, run.model.config, SEQUENCE, 1e12))
    part, _ = world.build(recipe(freeze="ends", ends={"first": 1, "last": 0}), tmp_path)
    assert 0 < setup.utilisation(part)(1000.0) < setup.utilisation(run)(1000.0)


# --- looks on the way -------------------------------------------------------------------------------------------------


class Looker:
    """Stands in for the evaluations, and ends the training after step 4."""

    calls: ClassVar[list[Any]] = []

    def __init__(self, settings: Any, context: Any, steps: int) -> None:
        self.every = settings.every

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def __call__(self, folder: Path, step: int, tokens: int) -> Decision:
        assert (folder / "train_card.json").exists()
        self.calls.append((folder.name, step, tokens))
        return Decision(step == 4, "English falls" if step == 4 else "", (Point(step, tokens, "x", "r", {"qa": 0.5}),))

    def finish(self) -> Decision:
        self.calls.append("finish")
        return Decision()

    def close(self) -> None:
        self.calls.append("close")


def test_evaluations_see_checkpoints_are_logged_and_may_end_the_training(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "Evaluator", Looker)
    monkeypatch.setattr(Looker, "calls", [])
    said: list[str] = []
    folder = world.train(recipe(evaluate={"every": 2, "where": "none"}, export={"steps": [3]}), tmp_path, said.append)
    assert Looker.calls == [("step-000002", 2, 512), ("step-000004", 4, 1024), "finish", "close"]
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [2, 4]
    assert len(world.losses(folder)) == 4 and "English falls" in said
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000003"]
    card = json.loads((folder / "model/train_card.json").read_text("utf-8"))
    assert card["final"] and card["step"] == 4


def test_curves_are_drawn_on_the_way_and_at_the_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Path, str]] = []
    monkeypatch.setattr(plots, "curves", lambda *given: drawn.append(given))
    monkeypatch.setattr(stage, "DRAWN_EVERY", 0.0)
    folder = world.train(recipe(steps=2), tmp_path)
    assert drawn == [(folder, "tiny-cpt")] * 3


@pytest.mark.slow
@pytest.mark.needs("g++")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
def test_a_compiled_model_trains_the_same(recipe: Recipe, tmp_path: Path) -> None:
    plain = world.losses(world.train(recipe(steps=2), tmp_path / "plain"))
    compiled = recipe(steps=2, compile=True, activation_checkpointing="full")
    assert world.losses(world.train(compiled, tmp_path / "compiled")) == pytest.approx(plain, abs=1e-4)
