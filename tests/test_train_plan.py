"""The plan: known figures are reproduced, memory is what is counted, and nothing is invented or fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from estbench_training import memory, plan
from estbench_training.cpt import flops
from estbench_training.cpt.flops import Shape, hfu, mfu, params, per_token, shape
from estbench_training.machines import CONFIGS, GIB, MACHINES
from estbench_training.recipe import Recipe, from_row
from estbench_training.work import adapted, multiplied, work_of

from estbench.errors import ConfigError, ModelError

LLAMA_8B = CONFIGS["meta-llama/Llama-3.1-8B"]
CPT = {
    "name": "cpt", "kind": "cpt", "data": "corpus", "rate": 2e-5, "tokens": "35e9", "sequence": 8192,
    "batch_tokens": 2_097_152,
}  # fmt: skip


def recipe(*stages: dict[str, Any], base: str = "meta-llama/Llama-3.1-8B", **head: Any) -> Recipe:
    corpus = {"name": "corpus", "kind": "prepare", "sources": {"et": {"demo": "et", "documents": 10}}}
    return from_row({"name": "test", "base": base, "stages": [corpus, *stages], **head}, Path("/nowhere"))


def planned(*stages: dict[str, Any], machine: str = "h200", gpus: int = 8, **more: Any) -> plan.StagePlan:
    return plan.of(recipe(*stages, **more), machine=machine, gpus=gpus).stages[-1]


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_flops_of_a_token_are_those_of_the_formula_for_llama_8b() -> None:
    # 39 % of an H100 at 6,667 tokens/s and 8k: torchtitan's own figure (arXiv 2410.06511)
    found = [round(per_token(LLAMA_8B, length) / 1e9, 1) for length in (2048, 4096, 8192)]
    assert found == [48.3, 51.5, 57.9]  # 48.25 before rounding
    assert mfu(6667, LLAMA_8B, 8192, 989.5e12) == pytest.approx(0.39, abs=0.002)
    assert hfu(6667, LLAMA_8B, 8192, 989.5e12, "full") == pytest.approx(0.52, abs=0.003)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("meta-llama/Llama-2-7b-hf", 6_738_415_616),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
        ("swiss-ai/Apertus-8B-2509", 8_053_338_176),
    ],
)
def test_parameters_of_the_bases_are_those_of_their_cards(name: str, count: int) -> None:
    assert params(CONFIGS[name]) == count


SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "head_dim": 24, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "apertus", "qwen2", "qwen3", "gemma3_text", "gemma", "gemma2", "mistral"])
def test_parameters_are_those_that_transformers_makes(kind: str, tied: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **SMALL, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = shape(config)
    assert params(config) == sum(weight.numel() for weight in model.parameters())
    assert params(json.loads(config.to_json_string(use_diff=False))) == params(config)
    assert found.head_dim == 24 or kind in ("qwen2",)


def test_arithmetic_is_that_which_torch_counts() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SMALL, attn_implementation="eager")
    model, ids = LlamaForCausalLM(config), torch.arange(32)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    # torch counts no gradient for the token ids' embeddings, nor do we; rotary positions and norms count in neither
    assert per_token(config, 32) * 32 == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_frozen_weights_have_no_gradients_to_compute() -> None:
    size = shape(LLAMA_8B)
    attention = 12 * 32 * 4096 * 4096
    assert per_token(size, 4096, trained=0) - attention == pytest.approx(4 / 6 * (per_token(size, 4096) - attention))


def test_a_model_of_another_build_is_not_guessed() -> None:
    with pytest.raises(ModelError, match="model of type 'mixtral'"):
        shape({"model_type": "mixtral"})
    with pytest.raises(ModelError, match="lacks 'num_attention_heads'"):
        shape({"model_type": "llama"})


# --- memory -----------------------------------------------------------------------------------------------------------


def test_weights_moments_and_logits_of_8b_take_what_is_known() -> None:
    size = shape(LLAMA_8B)
    need = memory.of(size, 8192, precision="bf16", checkpointing="full")
    assert (need.weights + need.gradients + need.optimizer) / GIB == pytest.approx(120, abs=0.5)
    pure = memory.of(size, 8192, precision="bf16_pure", checkpointing="full")
    assert (pure.weights + pure.gradients + pure.optimizer) / GIB == pytest.approx(60, abs=0.3)
    assert 4 * 8192 * size.vocab / GIB == pytest.approx(3.9, abs=0.05)  # one copy of the logits in fp32
    assert memory.logit_bytes(size, 8192) / (4 * 8192 * size.vocab) == 2.5  # bf16, fp32 and the gradient
    assert memory.chunk_bytes(size, 8192) < 0.4 * memory.logit_bytes(size, 8192)


def test_the_pieces_are_those_of_the_loss() -> None:
    from estbench_training.cpt.losses import LOGITS

    assert LOGITS["cuda"] == memory.PIECE


@pytest.mark.parametrize("kind", ["llama", "apertus"])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_activations_are_those_that_torch_keeps_for_the_backward_pass(kind: str, precision: str) -> None:
    kept = [kept_bytes(kind, layers, precision) for layers in (1, 3)]
    config = {**SMALL, "num_hidden_layers": 1, "model_type": kind, "tie_word_embeddings": False}
    formula = memory.layer_bytes(shape(config), 2 if precision == "bfloat16" else 4)
    assert formula == pytest.approx((kept[1] - kept[0]) / 2 / 64, rel=0.1 if precision == "float32" else 0.01)


def kept_bytes(kind: str, layers: int, precision: str) -> int:
    """Bytes that the decoder saves for its backward pass over 64 tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **SMALL | {"num_hidden_layers": layers})
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0}
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=getattr(torch, precision))
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    seen: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.zeros(1, 64, dtype=torch.long), use_cache=False)
    return sum(storage.nbytes() for storage in seen.values())


def test_sharding_divides_what_is_kept_and_checkpointing_what_is_saved() -> None:
    size = shape(LLAMA_8B)
    one, eight = (memory.of(size, 8192, shard=shard) for shard in (1, 8))
    assert one.weights == 8 * eight.weights and one.optimizer == 8 * eight.optimizer
    assert one.activations == eight.activations and one.gathered == eight.gathered
    by = {kind: memory.of(size, 8192, checkpointing=kind).activations for kind in ("none", "selective", "full")}
    assert by["full"] < 0.1 * by["none"] and 0.5 * by["none"] < by["selective"] < 0.6 * by["none"]


def test_hybrid_shards_within_a_node_and_none_not_at_all() -> None:
    size = shape(LLAMA_8B)
    weights = {}
    for shard in ("full", "hybrid", "none"):
        settings = recipe(CPT | {"parallel": {"shard": shard}}).stages[1].settings
        work = work_of(settings)
        assert work is not None
        weights[shard] = work.memory(size, MACHINES["lumi"], 64).weights
    assert weights["none"] == 8 * weights["hybrid"] == 64 * weights["full"]


# --- hours ------------------------------------------------------------------------------------------------------------


def test_35b_tokens_of_8b_take_the_hours_that_follow_from_published_throughput() -> None:
    stage = planned(CPT | {"activation_checkpointing": "full"}, machine="h100")
    assert stage.tokens is not None and stage.tokens - 35e9 < 2_097_152 and stage.steps == 16_690
    assert stage.hours is not None and stage.hours[0] == pytest.approx(1460, abs=10)  # 6,667 tokens/s: 1,458 h
    lumi = planned(CPT, machine="lumi", gpus=256)
    assert lumi.hours == pytest.approx((8_400, 11_760), rel=0.01)


def test_a_device_is_known_by_the_first_word_of_its_name() -> None:  # cpt.setup finds its peak so
    names = {"lumi": "AMD Instinct MI250X", "leonardo": "NVIDIA A100-SXM-64GB", "h100": "NVIDIA H100 80GB HBM3"}
    for name in {**names, "h200": "NVIDIA H200"}.items():
        assert [key for key, machine in MACHINES.items() if machine.device.split()[0] in name[1]] == [name[0]]


def test_every_number_of_a_machine_is_sensible_and_its_utilisation_is_named_an_assumption() -> None:
    assert set(MACHINES) == {"laptop", "lumi", "leonardo", "h100", "h200"}
    for machine in MACHINES.values():
        low, high = machine.mfu
        assert 0 < low < high <= 0.6 and machine.assumption and machine.memory >= 8 * GIB
        text = plan.of(recipe(CPT), machine=machine.name).as_text()
        assert f"Assumed: {100 * low:.0f} to {100 * high:.0f} % of" in text and machine.assumption in text


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_does_not_fit_and_what_to_change() -> None:
    stage = planned(CPT, gpus=1)
    assert stage.fits is False and "recompute activations" in stage.note and "devices" in stage.note
    stage = planned(CPT, gpus=8)
    assert stage.fits and stage.note == ""
    stage = planned(CPT, machine="lumi", gpus=8)
    assert stage.fits is False and stage.note.endswith("recompute activations (activation_checkpointing)")
    assert planned(CPT | {"activation_checkpointing": "full"}, machine="lumi", gpus=8).fits


def test_a_cure_names_only_what_is_not_done_yet() -> None:
    base = "meta-llama/Llama-3.1-70B"
    full = CPT | {"activation_checkpointing": "full"}
    hybrid = planned(full | {"parallel": {"shard": "hybrid"}}, machine="lumi", gpus=64, base=base).note
    assert hybrid.endswith("GiB: shard: full")
    few = planned(full | {"parallel": {"shard": "full"}}, machine="lumi", gpus=8, base=base).note
    assert few.endswith("GiB: 32 devices")
    neither = planned(CPT | {"parallel": {"shard": "hybrid"}}, machine="lumi", gpus=8, base=base).note
    assert neither.endswith("GiB: recompute activations, shard: full and 32 devices")


def test_a_plan_says_where_an_evaluation_has_no_room_beside_training() -> None:
    base, large = "meta-llama/Llama-3.1-70B", CPT | {"activation_checkpointing": "full", "parallel": {"shard": "full"}}
    looks = {"evaluate": {"every": 500}}
    stage = planned(large | looks, machine="lumi", gpus=256, base=base)
    assert stage.fits and stage.memory is not None and stage.evaluating is not None
    between = stage.memory.weights + stage.memory.optimizer
    assert stage.evaluating == pytest.approx(between + 2 * 70_553_706_496)
    assert "an evaluation here takes 134 GiB of the first device, which has 64: say where: none" in stage.note
    for where in ("none", "gpu:7"):
        other = planned(large | {"evaluate": {"where": where}}, machine="lumi", gpus=256, base=base)
        assert other.evaluating is None and other.note == ""
    small = planned(CPT | looks, machine="h200", gpus=8)
    assert small.evaluating is not None and small.note == ""
    exact = planned(CPT | {"evaluate": {"engine_options": {"dtype": "float32"}}}, machine="h200", gpus=8)
    assert exact.evaluating == pytest.approx(small.evaluating + 2 * 8_030_261_248)


def test_a_plan_says_what_a_node_needs_to_read_the_model() -> None:
    sft = {"name": "sft", "kind": "sft", "data": "./rows.jsonl", "shard": "full", "steps": 10, "batch": 256}
    sft |= {"max_length": 512, "activation_checkpointing": True}
    stage = planned(CPT, sft, machine="lumi", gpus=64, base="meta-llama/Llama-3.1-70B")
    assert stage.fits and stage.host_memory == 8 * 4 * 70_553_706_496  # fp32, in each process
    assert "each process reads the whole model: 2,103 GiB of a node's own memory, which has 480" in stage.note
    assert planned(CPT, sft, machine="lumi", gpus=64).host_memory == 8 * 4 * 8_030_261_248
    assert planned(CPT, sft, machine="lumi", gpus=2).host_memory == 2 * 4 * 8_030_261_248
    sharded = planned(CPT, machine="lumi", gpus=64)  # each process reads its part; one gathers bf16 to write it
    assert sharded.host_memory == 2 * 8_030_261_248 and "own memory" not in sharded.note
    copies = planned(CPT | {"parallel": {"shard": "none"}}, machine="lumi", gpus=64)
    assert copies.host_memory == 8 * 4 * 8_030_261_248


def test_a_plan_says_where_devices_do_not_divide_a_step() -> None:
    stage = planned(CPT, gpus=24)
    assert "the 256 sequences of a step can't be dealt out to 24 devices" in stage.note


def test_what_is_not_known_is_not_invented() -> None:
    sft = {"name": "sft", "kind": "sft", "data": "./rows.jsonl"}
    stage = planned(CPT, sft)
    assert stage.model == "cpt" and stage.memory is not None
    assert stage.tokens is stage.flops is stage.hours is stage.steps is None
    assert "unknown until its rows are built" in stage.note
    assert plan.of(recipe(CPT, sft)).stages[0].hours is None  # prepare
    known = planned(CPT, sft | {"steps": 100, "batch": 128, "max_length": 4096})
    assert known.tokens == 100 * 128 * 4096 and "at most" in known.note
    dpo = {"name": "dpo", "kind": "dpo", "data": "./pairs.jsonl", "steps": 10, "batch": 32, "max_length": 1024}
    pairs = planned(CPT, dpo)
    assert pairs.tokens == 10 * 2 * 32 * 1024 and pairs.flops is not None
    assert pairs.flops == pytest.approx(pairs.tokens * per_token(LLAMA_8B, 1024) * 4 / 3)


def test_rows_that_are_known_before_they_are_built_say_how_many_steps_there_are_at_most() -> None:
    rows = {"name": "rows", "kind": "instructions", "sources": {"x": {"demo": ["mini_qa"], "rows": 50}}, "rows": 1000}
    sft = {"name": "sft", "kind": "sft", "data": "rows", "epochs": 3, "batch": 128, "max_length": 512}
    stage = planned(CPT, rows, sft)
    assert stage.steps == 24 and stage.tokens == 24 * 128 * 512 and "at most" in stage.note  # 3000 / 128
    replayed = sft | {"replay": {"data": "corpus", "share": 0.1}}
    assert planned(CPT, rows, replayed).steps == 24
    assert planned(CPT, rows, sft | {"data": ["rows", "./more.jsonl"]}).steps is None
    del rows["rows"]
    assert planned(CPT, rows, sft).steps is None


def test_a_base_that_is_not_here_leaves_its_size_open_and_one_that_is_here_is_read(tmp_path: Path) -> None:
    stage = planned(CPT, base="somebody/some-model")
    assert stage.parameters is None and stage.hours is None and stage.tokens is not None
    assert "somebody/some-model isn't here" in stage.note
    config = {**LLAMA_8B, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert planned(CPT, base=str(tmp_path)).parameters == params(config)


def test_a_lora_needs_gradients_and_moments_for_its_adapters_only() -> None:
    whole, lora = planned(CPT), planned(CPT | {"freeze": "lora", "lora": {"rank": 32}})
    assert whole.memory and lora.memory and whole.flops and lora.flops
    assert lora.memory.optimizer < 0.02 * whole.memory.optimizer and lora.memory.weights == whole.memory.weights
    assert 0.74 < lora.flops / whole.flops < 0.75
    size = shape(LLAMA_8B)
    assert adapted(size, 16) * multiplied(size) == 41_943_040  # peft's trainable parameters for 8B, r=16, all linear
    beside = planned(CPT | {"freeze": "lora", "lora": {"rank": 32, "whole": ["embed_tokens", "lm_head"]}})
    assert beside.memory and beside.flops and beside.flops > lora.flops
    assert beside.memory.optimizer - lora.memory.optimizer == pytest.approx(8 * 2 * size.embeddings / 8)
    embeddings = planned(CPT | {"freeze": "embeddings"})
    assert embeddings.memory and embeddings.memory.optimizer == pytest.approx(8 * 2 * size.embeddings / 8)


def test_a_stage_that_gives_another_vocabulary_changes_the_rows_of_all_behind_it() -> None:
    vocab = {"name": "vocab", "kind": "vocab", "mode": "extend", "data": {"et": {"demo": "et", "documents": 10}}}
    size = shape(LLAMA_8B)
    for more, rows in (({"size": 160_256}, 160_256), ({"size": 160_001, "pad_to": 128}, 160_128)):
        found = planned({**vocab, **more}, CPT).parameters
        assert found == size.parameters + 2 * (rows - size.vocab) * size.hidden


def test_only_the_stages_asked_for_and_what_they_need_are_planned() -> None:
    other = {"name": "other", "kind": "prepare", "sources": {"x": {"demo": "en", "documents": 1}}}
    both = recipe(CPT, CPT | {"name": "second"}, other)
    assert [stage.stage for stage in plan.of(both, only=["second"]).stages] == ["corpus", "cpt", "second"]


def test_an_unknown_machine_is_one_line_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no machine 'lumo'\. Did you mean 'lumi'"):
        plan.of(recipe(CPT), machine="lumo")


def test_a_plan_is_json_on_a_pipe_and_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan.of(recipe(CPT), machine="lumi", gpus=64)
    plan.show(found, None)
    row = json.loads(capsys.readouterr().out)
    assert row["gpus"] == 64 and row["machine"]["name"] == "lumi"
    cpt = row["stages"][1]
    assert cpt["tokens"] == 16_690 * 2_097_152 and cpt["memory"]["total"] > cpt["memory"]["weights"]
    assert cpt["wall_hours"] == pytest.approx([hours / 64 for hours in cpt["gpu_hours"]])
    plan.show(found, "table")
    text = capsys.readouterr().out
    assert "35,001,466,880" in text and "8,030,261,248" in text and "MI250X GCD" in text
    assert max(map(len, text.splitlines())) < 160


def test_planning_loads_no_model_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from estbench_training import plan, recipe\n"
        f"row = {recipe_row()!r}\n"
        "plan.show(plan.of(recipe.from_row(row, Path('/nowhere'))), 'table')\n"
        "loaded = {'torch', 'transformers', 'trl', 'datasets', 'peft', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def recipe_row() -> dict[str, Any]:
    corpus = {"name": "corpus", "kind": "prepare", "sources": {"et": {"demo": "et", "documents": 10}}}
    return {"name": "test", "base": "meta-llama/Llama-3.1-8B", "stages": [corpus, CPT]}


def test_recomputing_costs_a_forward_pass() -> None:
    assert [flops.recomputed(kind) for kind in ("none", "selective", "full")] == pytest.approx([1, 7 / 6, 4 / 3])
    assert isinstance(shape(LLAMA_8B), Shape)
