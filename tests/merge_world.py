"""Models to merge, made in milliseconds: a Llama's tensors and tokenizer, random, without a library that makes models.

base = make(folder / "base", seed=1)                     # bf16, a head of its own, 40 words
chat = make(folder / "chat", seed=2, added=["<|end|>"], template="…")
weights(folder / "base")                                 # name -> tensor
@pytest.fixture: own_home, trio                          # pytest imports them by name from here
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from estbench.checkpoint import Checkpoint, find

WIDTH, WORDS, LAYERS = 16, 40, 2
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}</s>{% endfor %}"
SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>")
Trio = tuple[Path, Path, Path]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ESTBENCH_HOME for this test alone, which is there once something is written into it."""
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def trio(tmp_path: Path) -> Trio:
    """base, instruct, into; the weights of `instruct` are in two files."""
    base = make(tmp_path / "base", seed=1)
    return base, make(tmp_path / "chat", seed=2, template=TEMPLATE, shards=2), make(tmp_path / "et", seed=3)


def names(tied: bool = False) -> dict[str, tuple[int, ...]]:
    """The tensors of the model and their shapes."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, WIDTH), "model.norm.weight": (WIDTH,)}
    if not tied:
        found["lm_head.weight"] = (WORDS, WIDTH)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        found |= {f"{at}.{name}layernorm.weight": (WIDTH,) for name in ("input_", "post_attention_")}
        found |= {f"{at}.self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        found |= {f"{at}.mlp.{name}_proj.weight": (24, WIDTH) for name in ("gate", "up")}
        found[f"{at}.mlp.down_proj.weight"] = (WIDTH, 24)
    return found


def make(
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    tied: bool = False,
    words: Sequence[str] | None = None,
    added: Sequence[str] = (),
    template: str | None = None,
    shards: int = 1,
    change: Mapping[str, torch.Tensor] | None = None,
    like: Path | None = None,
    **config: Any,
) -> Path:
    """A model's folder. words: its vocabulary, special tokens first; added: more special tokens behind it. like: a
    model whose weights it has but for `change`; else they are random."""
    folder.mkdir(parents=True)
    vocabulary = [*(words or [*SPECIAL, *(f"w{at}" for at in range(WORDS - len(SPECIAL)))])]
    count = len(vocabulary) + len(added)
    dice = torch.Generator().manual_seed(seed)
    tensors = weights(like) if like else {}
    for name, shape in names(tied).items():
        size = (count, *shape[1:]) if shape[0] == WORDS else shape
        if name not in tensors:
            tensors[name] = (torch.randn(size, generator=dice) * 0.2 + ("norm" in name)).to(dtype)
    save(folder, tensors | dict(change or {}), shards)
    row: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 24,
        "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": count,
        "max_position_embeddings": 64, "tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "dtype": str(dtype).removeprefix("torch."), "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(row | config))
    tokenizer(folder, vocabulary, added, template)
    return folder


def save(folder: Path, tensors: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """Write weights, in so many files."""
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return
    place = {name: f"model-{at % shards}.safetensors" for at, name in enumerate(tensors)}
    for file in set(place.values()):
        save_file({name: one for name, one in tensors.items() if place[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))


def tokenizer(folder: Path, vocabulary: Sequence[str], added: Sequence[str], template: str | None) -> None:
    """A tokenizer of words."""
    entries = [
        {"id": at, "content": token, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for at, token in [
            *((at, token) for at, token in enumerate(vocabulary) if token.startswith("<")),
            *enumerate(added, len(vocabulary)),
        ]
    ]
    model = {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(vocabulary)}, "unk_token": "<pad>"}
    split = {"type": "WhitespaceSplit"}
    row = {"version": "1.0", "added_tokens": entries, "normalizer": None, "pre_tokenizer": split, "model": model}
    row |= dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(json.dumps(row))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
        generation = {"eos_token_id": [2, len(vocabulary)] if added else [2], "temperature": 0.6}
        (folder / "generation_config.json").write_text(json.dumps(generation))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model's folder."""
    found: dict[str, torch.Tensor] = {}
    for file in Checkpoint(folder, folder.name).weight_files:
        found |= load_file(file)
    return found


def opened(folder: Path) -> Checkpoint:
    """A folder as a merge finds it."""
    return find(str(folder))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """What is stored, so that -0 differs from 0."""
    return tensor.contiguous().view(torch.uint8)


def same(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> bool:
    """Whether two models have the same tensors, bit for bit."""
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype
        and one[name].shape == two[name].shape
        and torch.equal(bits(one[name]), bits(two[name]))
        for name in one
    )
