"""What LEP refuses, in one line and with nothing under the model's name; and what an interrupted run goes on with."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_world import model, save, words
from estbench_training.lep.layers import Layers
from lep_world import EMBEDDINGS, SPECIAL, LepWorld, larger, weights
from torch import Tensor

from estbench.errors import ConfigError, DataError, EstbenchError, ModelError, StoreError

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = LepWorld(tmp_path_factory.mktemp("faults"))
    world.donor("donor", world.new)
    return world.folder


@pytest.fixture
def world(kept: Path, tmp_path: Path) -> LepWorld:
    """A copy of it, to be broken."""
    made = LepWorld.__new__(LepWorld)
    made.folder, made.tied, made.dtype, made.said = tmp_path / "world", False, torch.bfloat16, []
    made.old, made.new = words(SPECIAL), larger()
    shutil.copytree(kept, made.folder)
    return made


def refused(world: LepWorld, kind: type[EstbenchError], message: str, **keys: Any) -> None:
    """The run ends with one line, and leaves neither a model nor a part of one."""
    with pytest.raises(kind, match=message) as caught:
        world.run("./donor", **keys)
    assert "\n" not in str(caught.value)
    assert not list(world.folder.glob("out/lep-*/*model*")) and not list(world.folder.glob("out/lep-*/.*part"))


def broken(value: float, name: str, row: int) -> Callable[[dict[str, Tensor]], None]:
    def change(found: dict[str, Tensor]) -> None:
        found[name][row, 3] = value

    return change


@pytest.mark.parametrize("role", ["source", "target", "donor"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_nan_in_embeddings_is_named(world: LepWorld, role: str, value: float) -> None:
    world.change(role, broken(value, "lm_head.weight", 57))
    refused(world, ModelError, rf"{role}.*lm_head\.weight holds a NaN or an infinity in row 57: take a checkpoint")


@pytest.mark.parametrize(("role", "layers"), [("target", "keep"), ("source", "delta"), ("donor", "delta")])
def test_a_nan_in_a_layer_is_named(world: LepWorld, role: str, layers: str) -> None:
    world.change(role, broken(torch.nan, "model.layers.1.mlp.up_proj.weight", 9))
    refused(world, ModelError, rf"{role}.*layers\.1\.mlp\.up_proj\.weight holds a NaN .* row 9:", layers=layers)


def test_a_sum_that_the_type_can_not_hold_is_no_nan_of_the_users(world: LepWorld) -> None:
    world.change("donor", broken(1e38, "model.layers.1.mlp.up_proj.weight", 9))
    name = r"model\.layers\.\d\.\S+: row \d+ becomes larger than torch\.bfloat16 can hold: take a smaller scale"
    refused(world, ModelError, name, layers="delta", scale=1000)


def widen(world: LepWorld, role: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    wide = LlamaForCausalLM(LlamaConfig(vocab_size=len(world.new), tie_word_embeddings=False, **shape))
    save(world.folder / role, world.new, wide.to(torch.bfloat16))


def test_a_target_of_another_width_is_refused_before_a_donor_is_trained(world: LepWorld) -> None:
    world.recipe("not-trained-yet")
    widen(world, "target")
    with pytest.raises(ConfigError, match="hidden_size is 16 in the source and 32 in the target: "):
        world.recipe("not-trained-yet")


def test_models_of_another_width_are_no_siblings(world: LepWorld) -> None:
    widen(world, "donor")
    refused(world, ModelError, "has 32 columns in the donor and 16 in the target: these are no siblings")


@pytest.mark.parametrize("role", ["source", "donor"])
def test_models_of_another_kind_are_no_siblings(world: LepWorld, role: str) -> None:
    """Though all names and shapes are the same."""
    path = world.folder / role / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"model_type": "mistral"}), "utf-8")
    refused(world, ModelError, f"The {role} is a mistral and the target a llama: these are no siblings")


def test_a_quantised_model_is_refused(world: LepWorld) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    world.change("target", lambda found: found.update({name: found[name].to(torch.float8_e4m3fn)}))
    refused(world, ModelError, rf"{name} is F8_E4M3: take the model that is not quantised", layers="keep")


RENAMED = SPECIAL[2]


def renamed(world: LepWorld, role: str) -> None:
    """As siblings do that make a reserved token a sign of their own."""
    for file in (world.folder / role).glob("*.json"):
        file.write_text(file.read_text("utf-8").replace(RENAMED, "<|sign|>"), "utf-8")


def test_a_special_token_that_the_target_renamed_is_told_with_a_cure_that_works(world: LepWorld) -> None:
    renamed(world, "target")
    refused(world, ModelError, r"'<\|sign\|>' in .*target. Give it that name in copies of source and donor \(tokenizer")
    for role in ("source", "donor"):
        renamed(world, role)
    made = world.made("./donor", variant="swap")[EMBEDDINGS[0]]
    old, new = (tokenizer.convert_tokens_to_ids(RENAMED) for tokenizer in (world.old, world.new))
    assert torch.equal(made[new], world.read("target")[EMBEDDINGS[0]][old])


def test_source_and_target_have_to_share_their_tokenizer(world: LepWorld) -> None:
    other = words(SPECIAL[::-1])
    save(world.folder / "source", other, model(other, tied=False).to(torch.bfloat16))
    refused(world, ModelError, r"Source and target have other tokenizers: token 3 is '<\|end\|>' in .*source and")


def test_a_target_may_have_added_tokens(world: LepWorld) -> None:
    """Their rows are its; a donor without them is refused, by their names, and so is one without rows for them."""

    def more(found: dict[str, Tensor]) -> None:
        for key in EMBEDDINGS:
            found[key] = torch.cat([found[key], torch.full((2, 16), len(found[key]) / 1000).bfloat16()])

    for name, tokenizer in (("target", world.old), ("donor", world.new)):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>", "<|call|>"]})
        tokenizer.save_pretrained(world.folder / name)
        refused(world, ModelError, rf"{name}: .* has \d+ rows, and the tokenizer {len(tokenizer)} tokens: add")
        world.change(name, more)
        if name == "target":
            refused(world, ModelError, r"donor lacks special tokens of the target: .*<\|tool\|>.*\. Make the donor")
    made = world.made("./donor")
    assert torch.equal(made[EMBEDDINGS[0]][-2:], torch.full((2, 16), 0.34).bfloat16())


def test_a_donor_without_a_special_token_of_the_target_is_refused(world: LepWorld) -> None:
    tokenizer = json.loads((world.folder / "donor" / "tokenizer.json").read_text("utf-8"))
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<|end|>":
            token["content"] = "<|stop|>"
    tokenizer["model"]["vocab"]["<|stop|>"] = tokenizer["model"]["vocab"].pop("<|end|>")
    (world.folder / "donor" / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    refused(world, ModelError, r"lacks special tokens of the target: <\|end\|>\. Make the donor")


def test_a_tied_head_and_one_of_its_own_do_not_go_together(world: LepWorld) -> None:
    save(world.folder / "donor", world.new, model(world.new, tied=True).to(torch.bfloat16))
    refused(world, ModelError, "its own in the source, its own in the target, tied in the donor: all three")


def test_a_missing_shard_is_named(world: LepWorld) -> None:
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(world.folder / "donor", dtype="auto")
    (world.folder / "donor" / "model.safetensors").unlink()
    made.save_pretrained(world.folder / "donor", max_shard_size="20KB")
    sharded = world.run("./donor")
    first, *_ = sorted((world.folder / "donor").glob("model-*.safetensors"))
    shutil.rmtree(sharded.parent)
    first.unlink()
    refused(world, ModelError, f"donor lacks {first.name}")


def test_the_layout_of_shards_makes_no_difference(world: LepWorld) -> None:
    from transformers import AutoModelForCausalLM

    before = world.made("./donor")
    for name in ("source", "target", "donor"):
        made = AutoModelForCausalLM.from_pretrained(world.folder / name, dtype="auto")
        (world.folder / name / "model.safetensors").unlink()
        made.save_pretrained(world.folder / name, max_shard_size="15KB")
    after = world.made("./donor")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_pickled_and_truncated_weights_are_refused(world: LepWorld) -> None:
    file = world.folder / "target" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    refused(world, ModelError, "model.safetensors is truncated")
    file.unlink()
    (world.folder / "target" / "pytorch_model.bin").write_bytes(content)
    refused(world, ModelError, "pickled weights")


def test_a_donor_of_another_model_can_not_give_its_layers(world: LepWorld) -> None:
    world.change("donor", lambda found: found.pop("model.norm.weight"))
    refused(world, ModelError, r"model\.norm\.weight is in the target and not in the donor", layers="delta")
    refused(world, ModelError, r"model\.norm\.weight is in the target and not in the donor")
    world.run("./donor", layers="keep")


def test_an_overlap_that_does_not_determine_p_is_refused_without_a_ridge(world: LepWorld, monkeypatch: Any) -> None:
    from estbench_training.lep import embeddings

    found = embeddings.shared
    monkeypatch.setattr(embeddings, "shared", lambda roles: found(roles)[:9])
    refused(
        world,
        DataError,
        r"variant: overlap, model\.embed_tokens\.weight: 9 rows do not determine P in 16 dimensions",
        variant="overlap",
        ridge=0,
    )
    world.run("./donor", variant="overlap")  # with one it is I where the rows say nothing


def test_a_full_disk_is_one_line_and_leaves_nothing(world: LepWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        refused(world, StoreError, "No space left on device.*make room")
    world.run("./donor")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(world: LepWorld, monkeypatch: Any) -> None:
    from estbench_training.weights import writing

    whole = world.run("./donor") / "model"
    expected = weights(whole)
    shutil.rmtree(whole.parents[1])
    monkeypatch.setattr(writing, "SYNC_BYTES", 1)  # every tensor is noted
    rows, asked = Layers.rows, list[str]()

    def killed(self: Layers, name: str, *span: int) -> Tensor:
        asked.append(name)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return rows(self, name, *span)

    monkeypatch.setattr(Layers, "rows", killed)
    with pytest.raises(KeyboardInterrupt):
        world.run("./donor")
    assert not list(world.folder.glob("out/lep-*/model"))
    found = world.made("./donor")
    assert len(asked) == 5 + len(expected) - 2 - 4  # those that were done are not made again
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
