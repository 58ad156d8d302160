"""What a donor's adapter has learnt, added to the target's layers: as peft adds it, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from estbench_training.lep.adapter import Adapter
from lep_world import EMBEDDINGS, LepWorld, report, weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from estbench.errors import ConfigError, ModelError

pytestmark = [
    pytest.mark.usefixtures("home"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft calls it
]
PATTERNS: dict[str, Any] = {
    "plain": {},
    "patterns": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 5}, "alpha_pattern": {"k_proj": 3}},
    "rslora": {"use_rslora": True, "target_modules": ["o_proj", "down_proj"]},
    "whole": {"modules_to_save": ["norm"]},
}


def trained(world: LepWorld, name: str, **keys: Any) -> Path:
    """A donor's stage folder: model/ with the adapter merged, adapter/ beside it. Its model's folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = world.folder / f"{name}-plain"
    if not plain.exists():
        shutil.copytree(world.donor(f"{name}-plain", world.new), world.folder / name / "model")
    start = AutoModelForCausalLM.from_pretrained(plain, dtype=world.dtype)
    config = LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | keys)
    model = get_peft_model(start, config, autocast_adapter_dtype=False)
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=dice).to(parameter.dtype))
    model.save_pretrained(world.folder / name / "adapter")
    merged: Any = model.merge_and_unload()
    merged.save_pretrained(world.folder / name / "model")
    return world.folder / name / "model"


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LepWorld:
    return LepWorld(tmp_path_factory.mktemp("adapters"), dtype=request.param)


@pytest.fixture
def wide(tmp_path: Path) -> LepWorld:
    return LepWorld(tmp_path, dtype=torch.float32)


def with_peft(model: Path, adapter: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """A model with an adapter merged by peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    start = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    found: dict[str, Tensor] = PeftModel.from_pretrained(start, str(adapter)).merge_and_unload().state_dict()
    return found


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_donors_adapter_is_added_as_peft_adds_it(world: LepWorld, kind: str) -> None:
    donor = trained(world, kind, **PATTERNS[kind])
    made, target = world.made(donor), world.read("target")
    assert any("auto is adapter" in line for line in world.said)
    expected = with_peft(world.folder / "target", donor.parent / "adapter", torch.float32)
    adapter = Adapter.open(donor.parent / "adapter")
    assert len(adapter.whole) == (5 if kind == "whole" else 0)
    for name in made.keys() - set(EMBEDDINGS) - set(adapter.whole):
        if name in adapter.parts:
            rounding = 4 * torch.finfo(world.dtype).eps * float(expected[name].abs().max())
            assert torch.allclose(made[name].float(), expected[name], rtol=0, atol=rounding)
        assert torch.equal(made[name], target[name]) is (name not in adapter.parts)
    for name in adapter.whole:  # trained whole: what it has changed is added
        assert torch.allclose(made[name] - target[name], world.read(f"{kind}/model")[name] - 1, rtol=0, atol=0.02)
        assert not torch.equal(made[name], target[name])


def test_scale_is_of_what_is_added(wide: LepWorld) -> None:
    donor = trained(wide, "d")
    one, half, none = (wide.made(donor, scale=scale) for scale in (1.0, 0.5, 0.0))
    target = wide.read("target")
    for name in one.keys() - set(EMBEDDINGS):
        assert torch.equal(none[name], target[name])
        assert torch.allclose(one[name] - target[name], 2 * (half[name] - target[name]), rtol=0, atol=1e-6)
    kept = wide.made(donor, layers="keep")
    assert all(torch.equal(kept[name], target[name]) for name in kept.keys() - set(EMBEDDINGS))


def test_the_adapter_is_in_the_provenance_and_in_the_key(wide: LepWorld) -> None:
    donor = trained(wide, "d")
    before = wide.run(donor)
    row = report(before)
    assert row["layers"] == "adapter" and len(row["adapted"]) == 14
    assert row["adapter"].keys() == {"adapter_config.json", "adapter_model.safetensors"}
    config = donor.parent / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"revision": "other"}), "utf-8")
    assert wide.run(donor).name != before.name


def test_delta_carries_what_the_adapter_does(wide: LepWorld) -> None:
    donor = trained(wide, "d")
    with_adapter, with_delta = wide.made(donor), wide.made(donor, layers="delta")
    for name in with_adapter:
        assert torch.allclose(with_adapter[name], with_delta[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.norm.weight", "model.norm.weight differs in donor and source.*layers: delta carries over all"),
        ("model.layers.0.mlp.down_proj.weight", "is not the source's with the donor's adapter added"),
    ],
)
def test_an_adapter_that_is_not_all_that_was_learnt_is_refused(wide: LepWorld, name: str, message: str) -> None:
    donor = trained(wide, "d")
    wide.change("d/model", lambda found: found[name].add_(0.01))
    with pytest.raises(ModelError, match=message):
        wide.run(donor)
    wide.run(donor, layers="delta")


def test_an_adapter_that_is_asked_for_has_to_be_there(wide: LepWorld) -> None:
    wide.donor("bare", wide.new)
    with pytest.raises(ConfigError, match=r"layers: adapter, and beside .*bare is no adapter/"):
        wide.run("./bare", layers="adapter")


def spoilt(wide: LepWorld, how: str) -> Path:
    donor = trained(wide, "d")
    place = donor.parent / "adapter"
    file, config = place / "adapter_model.safetensors", place / "adapter_config.json"
    row, tensors = json.loads(config.read_text("utf-8")), load_file(file)
    first = next(name for name in tensors if name.endswith("lora_A.weight"))
    if how == "pickled":
        file.rename(place / "adapter_model.bin")
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-40])
    elif how == "config":
        config.write_text("{", "utf-8")
    elif how == "list":
        config.write_text(json.dumps([row]), "utf-8")
    elif how == "without alpha":
        del row["lora_alpha"]
        config.write_text(json.dumps(row), "utf-8")
    elif how in ("use_dora", "bias", "peft_type"):
        row[how] = {"use_dora": True, "bias": "all", "peft_type": "IA3"}[how]
        config.write_text(json.dumps(row), "utf-8")
    else:
        if how == "nan":
            tensors[first][0, 0] = torch.nan
        elif how == "without B":
            del tensors[first.replace("lora_A", "lora_B")]
        elif how == "B of another":
            tensors[f"{first.removesuffix('lora_A.weight')}more.lora_B.weight"] = tensors.pop(
                first.replace("lora_A", "lora_B")
            )
        elif how == "shape":
            tensors[first] = tensors[first][:, :-1].contiguous()
        elif how == "rank":
            tensors[first] = tensors[first][:-1].contiguous()
        elif how == "stranger":
            for letter in "AB":
                old = first.replace("lora_A", f"lora_{letter}")
                tensors[old.replace("layers.0", "layers.7").replace("layers.1", "layers.7")] = tensors.pop(old)
        elif how == "magnitude":
            tensors[first.replace("lora_A.weight", "lora_magnitude_vector")] = torch.ones(3)
        save_file(tensors, file, {"format": "pt"})
    return donor


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickled", "has no adapter_model.safetensors"),
        ("truncated", "is truncated"),
        ("config", "adapter_config.json can't be read"),
        ("use_dora", "only plain LoRA adapters"),
        ("bias", "only plain LoRA adapters"),
        ("peft_type", "only plain LoRA adapters"),
        ("nan", "A of .* holds a NaN"),
        ("without B", "A or B, and not both"),
        ("B of another", "A or B, and not both"),
        ("without alpha", "doesn't say lora_alpha"),
        ("list", "adapter_config.json is not a JSON object"),
        ("shape", "the adapter is of another model"),
        ("rank", "which is no LoRA"),
        ("stranger", "layers.7.* is not in the target: the adapter is of another model"),
        ("magnitude", "lora_magnitude_vector is of a kind of adapter that can't be added"),
    ],
)
def test_an_adapter_that_is_none_is_one_line_and_leaves_no_model(wide: LepWorld, how: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        wide.run(spoilt(wide, how))
    assert "\n" not in str(caught.value)
    assert not list(wide.folder.glob("out/lep-*/*model*"))


def test_a_weight_that_is_stored_transposed_gets_the_transpose(tmp_path: Path) -> None:
    a, b = torch.randn(2, 5), torch.randn(3, 2)
    prefix = "base_model.model.transformer.h.0.attn.c_attn"
    save_file({f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}, tmp_path / "adapter_model.safetensors")
    row = {"peft_type": "LORA", "lora_alpha": 4, "r": 2, "fan_in_fan_out": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(row), "utf-8")
    [part] = Adapter.open(tmp_path).parts.values()
    assert part.shape == (5, 3)
    assert torch.allclose(part.rows(1, 4, torch.float64), 2 * (b.double() @ a.double()).T[1:4])


def test_the_stage_that_trains_adapters_leaves_what_is_read_here(tmp_path: Path, monkeypatch: Any) -> None:
    """cpt with freeze: lora and embeddings trained whole, on a model with a larger vocabulary than its sibling's."""
    import training_world

    training_world.without_curves(monkeypatch)
    base = training_world.make_model(tmp_path / "base")
    training_world.make_shards(tmp_path / "shards", base, {"et": 4000, "en": 2000})
    larger = training_world.make_model(tmp_path / "larger", vocab_size=128)  # rows that no token has yet
    state = weights(base)
    for name in EMBEDDINGS:
        state[name] = torch.cat([state[name], weights(larger)[name][96:]])
    save_file(state, larger / "model.safetensors", {"format": "pt"})
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "whole": ["embed_tokens", "lm_head"]}
    path = training_world.make_recipe(tmp_path, larger, freeze="lora", lora=lora, steps=2)
    folder = training_world.train(path, tmp_path / "out")
    made = weights(folder / "model")
    adapter = Adapter.open(folder / "adapter")
    assert set(adapter.whole) == set(EMBEDDINGS) and len(adapter.parts) == 14
    for name, value in state.items():
        if name in adapter.parts:
            part = adapter.parts[name].rows(0, len(value), torch.float64)
            assert (
                torch.allclose(made[name].double(), value.double() + part, rtol=0, atol=1e-6) and part.abs().max() > 0
            )
        else:
            assert torch.equal(made[name], value) is (name not in EMBEDDINGS)
    assert made[EMBEDDINGS[0]].shape == (128, 64)
