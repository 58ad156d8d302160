"""Packed rows: each document for itself, every target once, the same steps for any division, errors from the thread."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from estbench_training.mixture import Mixture, MixtureSettings, Sample
from estbench_training.packing import IGNORED, Batches, call, example, self_test
from estbench_training.shards import Shards, Writer
from torch.nn.functional import cross_entropy
from training_world import processes
from transformers import LlamaConfig, LlamaForCausalLM

from estbench.errors import ConfigError, DataError, ModelError

WORDS = 64
TOKENIZER = {"hash": "0" * 64, "name": "made up", "vocab_size": WORDS, "bos": None, "eos": 0}
LENGTHS = (9, 1, 30, 14, 2, 8)


def documents(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random words, each document with the end (0) as its last."""
    dice = np.random.default_rng(seed)
    return [[*dice.integers(1, WORDS, length - 1).tolist(), 0] for length in lengths]


def write(folder: Path, texts: Sequence[Sequence[int]], part_tokens: int = 100) -> Shards:
    with Writer(folder, TOKENIZER, part_tokens) as writer:
        writer.add(np.concatenate(texts).astype(np.uint32), np.array([len(text) for text in texts]))
        writer.finish({"source": folder.name})
    return Shards.open(folder)


def world(folder: Path, sequence: int = 16, samples: int = 48, batch: int = 8, micro: int = 2) -> Batches:
    """Two sources with documents of 1 to 40 tokens."""
    dice = np.random.default_rng(1)
    shards = {
        source: write(folder / source, documents(dice.integers(1, 41, count).tolist(), count), 300)
        if not (folder / source).exists()
        else Shards.open(folder / source)
        for source, count in (("et", 40), ("en", 15))
    }
    tokens = {source: one.tokens for source, one in shards.items()}
    return Batches(Mixture(MixtureSettings({"et": 3, "en": 1}), tokens, sequence, samples, 42), shards, batch, micro)


def model(attention: str = "sdpa", dtype: torch.dtype = torch.float64, layers: int = 2) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=attention).to(dtype)


def patched(made: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The model, whose calls are changed on the way."""
    inner = made.forward

    def forward(**given: Any) -> Any:
        return inner(**change(given))

    made.forward = forward
    return made


def ones_mask(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "attention_mask": torch.ones_like(given["input_ids"])}


def with_cache(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "use_cache": True}


def without_positions(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "position_ids"}


FAULTS = [ones_mask, with_cache, without_positions]


def packed(texts: Sequence[Sequence[int]], folder: Path) -> dict[str, torch.Tensor]:
    """All documents in one row: a window of the whole circle."""
    shards = write(folder, texts)
    row = example({"a": shards}, Sample("a", 0, 0, 0), shards.tokens)
    return {name: torch.from_numpy(value)[None] for name, value in dataclasses.asdict(row).items()}


def losses(made: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return cross_entropy(
        call(made, batch).logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="none"
    )


def gradients(made: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(made.parameters())))


def unpacked(made: Any, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Per-token losses of each document alone, by transformers' own loss-free call; 0 where nothing is predicted."""
    found = []
    for text in texts:
        ids = torch.tensor([text])
        own = cross_entropy(made(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none") if len(text) > 1 else None
        found.append(torch.cat([own, torch.zeros(1)]) if own is not None else torch.zeros(1))
    return torch.cat(found)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_has_shifted_labels_and_positions_of_each_document(tmp_path: Path) -> None:
    shards = {"a": write(tmp_path / "a", [[11, 12, 13, 0], [21, 0], [0], [31, 32, 33, 34, 0]])}
    row = example(shards, Sample("a", 0, 0, 0), 12)
    assert row.input_ids.tolist() == [11, 12, 13, 0, 21, 0, 0, 31, 32, 33, 34, 0]
    assert row.labels.tolist() == [12, 13, 0, -100, 0, -100, -100, 32, 33, 34, 0, -100]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 0, 1, 2, 3, 4]
    cut = example(shards, Sample("a", 9, 1, 7), 5)
    assert cut.input_ids.tolist() == [33, 34, 0, 11, 12], "a window goes round, and a cut document begins at 0"
    assert cut.labels.tolist() == [34, 0, -100, 12, 13]
    assert cut.position_ids.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("sequence", [7, 16, 50, 64, 333])
def test_an_epoch_trains_every_target_once_but_for_the_overlap(tmp_path: Path, sequence: int) -> None:
    """Documents longer than the sequence are split, never lost: n tokens are n - 1 targets, wherever windows cut."""
    texts = documents([3, 1, 120, 40, 2, 1, 77, 9])
    shards = {"a": write(tmp_path / "a", texts)}
    total = shards["a"].tokens
    windows = -(-total // sequence)
    made = Mixture(MixtureSettings(), {"a": total}, sequence, windows, 3)
    seen: Counter[tuple[int, int, int]] = Counter()
    twice = set()
    for sample in made.samples(0, windows):
        row = example(shards, sample, sequence)
        for place, (token, label) in enumerate(zip(row.input_ids.tolist(), row.labels.tolist(), strict=True)):
            position = (sample.start + place) % total
            if label != IGNORED:
                seen[position, token, label] += 1
                twice |= {position} if seen[position, token, label] > 1 else set()
    stream = list(itertools.chain(*texts))
    ends = set(np.cumsum([len(text) for text in texts]) - 1)
    expected = {(place, stream[place], stream[place + 1]) for place in range(total) if place not in ends}
    assert set(seen) == expected
    assert len(expected) == sum(len(text) - 1 for text in texts)
    overlap = made.report()["a"].overlap
    first = made.samples(0, windows)
    assert sum(seen.values()) == len(expected) + len(twice)
    assert len(twice) <= overlap < sequence and len(first) * sequence == total + overlap


def test_the_targets_of_a_step_are_known_without_reading_its_tokens(tmp_path: Path) -> None:
    batches = world(tmp_path)
    for step in range(batches.steps):
        rows = batches.batch(step)
        assert batches.targets(step) == sum(int((micro["labels"] != IGNORED).sum()) for micro in rows)


def test_a_source_shorter_than_a_row_is_read_round(tmp_path: Path) -> None:
    shards = {"a": write(tmp_path / "a", [[5, 6, 0], [7, 0]])}
    batches = Batches(Mixture(MixtureSettings(), {"a": 5}, 12, 2, 0), shards, 1, 1)
    for step in range(2):
        (micro,) = batches.batch(step)
        kept = micro["labels"] != IGNORED
        assert batches.targets(step) == int(kept.sum())
        assert int(micro["position_ids"].max()) <= 2


def test_a_step_without_targets_is_refused(tmp_path: Path) -> None:
    shards = {"a": write(tmp_path / "a", [[0]] * 40)}
    batches = Batches(Mixture(MixtureSettings(), {"a": 40}, 8, 4, 0), shards, 2, 1)
    with pytest.raises(DataError, match="Step 1 has nothing to learn"):
        batches.targets(1)


# --- steps ------------------------------------------------------------------------------------------------------------


def rows_of(batches: Batches, step: int, ranks: int) -> dict[str, torch.Tensor]:
    """A step's rows, of all processes in order."""
    micro = [one for rank in range(ranks) for one in batches.batch(step, rank, ranks)]
    return {name: torch.cat([one[name] for one in micro]) for name in micro[0]}


def test_a_step_has_the_same_rows_for_any_processes_and_micro_batches(tmp_path: Path) -> None:
    whole = rows_of(world(tmp_path, micro=8), 3, 1)
    assert whole["input_ids"].shape == (8, 16) and whole["input_ids"].dtype == torch.int64
    for ranks, micro in [(1, 1), (1, 4), (2, 1), (2, 4), (4, 2), (8, 1)]:
        batches = world(tmp_path, micro=micro)
        found = rows_of(batches, 3, ranks)
        assert all(torch.equal(found[name], whole[name]) for name in whole)
        assert len(batches.batch(3, 0, ranks)) == 8 // ranks // micro
        assert batches.step(3, ranks - 1, ranks).targets == int((whole["labels"] != IGNORED).sum())


def test_another_step_has_other_rows(tmp_path: Path) -> None:
    batches = world(tmp_path)
    assert not torch.equal(rows_of(batches, 0, 1)["input_ids"], rows_of(batches, 1, 1)["input_ids"])


def test_rows_that_can_not_be_divided_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 96"):
        world(tmp_path).batch(0, 0, 3)


def test_prefetched_steps_are_those_of_batch_and_resume_anywhere(tmp_path: Path) -> None:
    batches = world(tmp_path)
    whole = list(batches.prefetch(0, batches.steps))
    assert [step.number for step in whole] == list(range(6))
    resumed = list(batches.prefetch(4, 6, rank=1, world=2))
    assert [step.targets for step in resumed] == [step.targets for step in whole[4:]]
    for step in resumed:
        for one, other in zip(step.micro_batches, batches.batch(step.number, 1, 2), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in other)
    assert list(batches.prefetch(6, 6)) == []


def threads() -> int:
    return sum(thread.name.startswith("estbench-batches") for thread in threading.enumerate())


class Broken(Batches):
    """Its step 2 fails."""

    def step(self, step: int, rank: int = 0, world: int = 1) -> Any:
        if step == 2:
            raise DataError("the disk is gone")
        return super().step(step, rank, world)


def test_an_error_in_the_thread_is_raised_at_its_step(tmp_path: Path) -> None:
    made = world(tmp_path)
    steps = Broken(made.mixture, made.shards, 8, 2).prefetch(0, 6)
    assert [next(steps).number, next(steps).number] == [0, 1]
    with pytest.raises(DataError, match="the disk is gone"):
        next(steps)
    assert threads() == 0


def stumble(steps: Any) -> None:
    for step in steps:
        _ = step.number / 0


@pytest.mark.parametrize("end", ["close", "drop", "error in the loop"])
def test_the_thread_ends_with_its_iterator(tmp_path: Path, end: str) -> None:
    steps: Any = world(tmp_path).prefetch(0, 6)
    next(steps)
    assert threads() == 1
    if end == "close":
        steps.close()
    elif end == "drop":
        del steps
    else:
        with pytest.raises(ZeroDivisionError):
            stumble(steps)
        del steps
    gc.collect()
    assert threads() == 0


class Counting(Batches):
    """Notes which steps were made."""

    made: list[int]

    def step(self, step: int, rank: int = 0, world: int = 1) -> Any:
        self.made.append(step)
        return super().step(step, rank, world)


def test_no_more_is_made_ahead_than_was_said(tmp_path: Path) -> None:
    made = world(tmp_path)
    batches = Counting(made.mixture, made.shards, 8, 2)
    batches.made = []
    steps = batches.prefetch(0, 6, ahead=2)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(batches.made) <= 3


# --- documents do not see each other ----------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_losses_and_gradients_are_those_of_documents_alone(tmp_path: Path, attention: str) -> None:
    texts = documents(LENGTHS)
    batch, made = packed(texts, tmp_path / "a"), model(attention)
    alone = unpacked(made, texts)
    ours = losses(made, batch)
    assert (ours - alone).abs().max() < 1e-5
    targets = sum(LENGTHS) - len(LENGTHS)  # a step's loss is the mean over its targets
    for one, other in zip(gradients(made, ours.sum() / targets), gradients(made, alone.sum() / targets), strict=True):
        assert (one - other).abs().max() < 1e-6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_mask_or_a_cache_or_without_positions_they_are_not(
    tmp_path: Path, attention: str, fault: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    texts = documents(LENGTHS)
    made = model(attention)
    alone = unpacked(made, texts).detach()
    batch = packed(texts, tmp_path / "a")
    assert (losses(patched(made, fault), batch) - alone).abs().max() > 1e-2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_document_changes_no_bit_of_this_ones_logits(
    tmp_path: Path, attention: str, dtype: torch.dtype
) -> None:
    texts = documents(LENGTHS)
    other = [documents([LENGTHS[0]], seed=9)[0], *texts[1:]]
    made = model(attention, dtype)
    one, two = (
        call(made, packed(each, tmp_path / name)).logits[0].detach() for name, each in (("a", texts), ("b", other))
    )
    assert torch.equal(one[LENGTHS[0] :], two[LENGTHS[0] :])
    assert not torch.equal(one[: LENGTHS[0]], two[: LENGTHS[0]])
    with_mask = patched(made, ones_mask)
    one, two = (call(with_mask, packed(each, tmp_path / name)).logits[0] for name, each in (("c", texts), ("d", other)))
    assert not torch.equal(one[LENGTHS[0] :], two[LENGTHS[0] :])


# --- the self-test ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_self_test_passes_a_model_that_keeps_documents_apart(attention: str, dtype: torch.dtype) -> None:
    self_test(model(attention, dtype), "cpu", rows=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_self_test_refuses_masks_caches_and_lost_positions(
    fault: Callable[[dict[str, Any]], dict[str, Any]], dtype: torch.dtype
) -> None:
    with pytest.raises(ModelError, match="mixes packed documents, by their losses") as caught:
        self_test(patched(model(dtype=dtype), fault), "cpu")
    assert "no wrapper may add an attention_mask or a cache" in str(caught.value) and "\n" not in str(caught.value)


class Careless(LlamaForCausalLM):  # type: ignore[misc]
    """Uses positions for its embeddings, but not for its masks."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, **more: Any) -> Any:
        count = input_ids.shape[1]
        mask = torch.ones(count, count, dtype=torch.bool).tril()[None, None].expand(len(input_ids), -1, -1, -1)
        return super().forward(input_ids=input_ids, position_ids=position_ids, attention_mask=mask, **more)


def test_the_self_test_refuses_a_class_that_makes_no_masks_from_positions() -> None:
    made = Careless(model().config).to(torch.float64)
    with pytest.raises(ModelError, match=r"Careless \(llama, attention"):
        self_test(made, "cpu")


def test_the_self_test_finds_one_layer_of_eight_that_mixes() -> None:
    made = model(dtype=torch.float32, layers=8)
    self_test(made, "cpu")
    layer = made.model.layers[5]
    inner = layer.forward

    def forward(hidden: Any, **given: Any) -> Any:
        return inner(hidden, **{**given, "attention_mask": None})

    layer.forward = forward
    with pytest.raises(ModelError, match="mixes packed documents"):
        self_test(made, "cpu")


def test_the_self_test_says_when_one_row_would_do() -> None:
    """As flash attention's packed path, which transformers takes for a single row only."""
    made = patched(model(), lambda given: ones_mask(given) if len(given["input_ids"]) > 1 else given)
    with pytest.raises(ModelError, match="not in 3: set micro_batch: 1"):
        self_test(made, "cpu", rows=3)
    self_test(made, "cpu", rows=1)


def test_the_self_test_compares_the_gradients_of_trainings_own_loss() -> None:
    made = model()

    def own(inner: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return losses(inner, batch).sum()

    def masked(inner: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found = inner(**ones_mask({name: batch[name] for name in ("input_ids", "position_ids")})).logits
        return cross_entropy(found.flatten(0, 1), batch["labels"].flatten(), reduction="sum")

    self_test(made, "cpu", loss=own)
    with pytest.raises(ModelError, match="by their gradients"):
        self_test(made, "cpu", loss=masked)


def test_the_self_test_refuses_a_model_that_proves_nothing() -> None:
    made = model()
    for parameter in made.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(ModelError, match="does not depend on the context"):
        self_test(made, "cpu")


def test_the_self_test_refuses_a_model_without_positions() -> None:
    made = model()
    inner = made.forward
    made.forward = lambda input_ids, use_cache: inner(input_ids=input_ids, use_cache=use_cache)
    with pytest.raises(ModelError, match="can't be called on packed rows"):
        self_test(made, "cpu")


def test_the_self_test_leaves_the_model_and_the_dice_as_they_were() -> None:
    made = model()
    made.train()
    made.model.layers[0].eval()
    made.model.embed_tokens.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    modes = [module.training for module in made.modules()]
    dice = torch.get_rng_state()
    self_test(made, "cpu")
    assert torch.equal(dice, torch.get_rng_state())
    assert modes == [module.training for module in made.modules()]
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_dropout_does_not_disturb_the_self_test() -> None:
    made = model()
    made.config.attention_dropout = 0.3
    for layer in made.model.layers:
        layer.self_attn.attention_dropout = 0.3
    made.train()
    self_test(made, "cpu")


# Two processes that share the weights of the model: one that keeps documents apart, one that gets a mask.
SHARDED = """
import torch
from test_train_packing import model, ones_mask, patched
from torch import distributed
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from estbench.errors import ModelError
from estbench_training.packing import self_test

distributed.init_process_group("gloo")
for name, change in (("good", dict), ("bad", ones_mask)):
    made = model(dtype=torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in made.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(patched(made, change), mp_policy=policy)
    try:
        self_test(made, "cpu", rows=2)
        print(name, "passed")
    except ModelError:
        print(name, "refused")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_the_self_test_decides_alike_on_all_processes_of_a_sharded_model() -> None:
    for text in processes(SHARDED, 2):
        assert "good passed" in text and "bad refused" in text
