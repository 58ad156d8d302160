"""How large packs are: by the device and the model alone, more on a larger device, never beyond its memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from estbench.engines.memory import activation_bytes, kv_bytes, logits_bytes, packing_on

LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
GIB = 1 << 30
WEIGHTS = 16_060_522_496  # Llama 3.1 8B in bfloat16


def test_keys_and_values_are_those_of_the_models_shape() -> None:
    assert kv_bytes(LLAMA_8B, 2) == 2 * 32 * 8 * 128 * 2 == 131_072
    assert kv_bytes({"text_config": LLAMA_8B}, 2) == 131_072
    assert kv_bytes({"n_embd": 768, "n_head": 12, "n_layer": 12}, 4) == 2 * 12 * 768 * 4  # GPT-2 names


@pytest.mark.parametrize("gigabytes", [24, 40, 64, 80, 141])
def test_packs_fit_beside_the_weights(gigabytes: int) -> None:
    packing = packing_on(gigabytes * GIB, WEIGHTS, LLAMA_8B, "bfloat16")
    token = kv_bytes(LLAMA_8B, 2) + activation_bytes(LLAMA_8B, 2)
    room = gigabytes * GIB - WEIGHTS
    assert packing.tokens * token < room / 2 and packing.nodes * (token + logits_bytes(LLAMA_8B, 2)) < room / 2


def test_a_larger_device_takes_larger_packs_and_a_full_one_the_least() -> None:
    sizes = [packing_on(n * GIB, WEIGHTS, LLAMA_8B, "bfloat16") for n in (16, 24, 40, 80, 141)]
    assert all(a.tokens <= b.tokens and a.nodes <= b.nodes and a.rows <= b.rows for a, b in itertools.pairwise(sizes))
    assert sizes[0].tokens < sizes[-1].tokens and sizes[0].rows >= 8


def test_a_driver_that_takes_some_memory_changes_no_pack() -> None:
    whole = packing_on(80 * GIB, WEIGHTS, LLAMA_8B, "bfloat16")
    assert packing_on(80 * GIB - (300 << 20), WEIGHTS, LLAMA_8B, "bfloat16") == whole
