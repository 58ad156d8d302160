"""The vocab stage: rows of a new vocabulary, and what stands beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_world
import vocab_world as world
from estbench_training.shards import load_tokenizer
from estbench_training.vocab import files, resize
from estbench_training.vocab.forms import Vocabulary
from estbench_training.vocab.pieces import pieces_of
from vocab_world import run as make

from estbench.errors import ModelError

Runs = Callable[[int], tuple[Path, list[str]]]
INPUT, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return world.bases(tmp_path_factory.mktemp("bases"))


CASES = [
    ("llama2", {"mode": "replace", "size": 640}),
    ("llama3", {"mode": "extend", "size": 600, "init": "weighted", "pad_to": 64}),
    ("llama3", {"mode": "shrink"}),
    ("demo", {"mode": "optimise", "size": 1700, "init": "focus"}),
    ("unigram", {"mode": "replace", "algorithm": "unigram", "size": 560}),
]


EACH = pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{name}-{keys['mode']}" for name, keys in CASES])


@pytest.fixture(scope="module")
def runs(bases: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of each case's stage, and what it said; it is run when it is first asked for."""

    @cache
    def run(case: int) -> tuple[Path, list[str]]:
        said: list[str] = []
        name, keys = CASES[case]
        return make(tmp_path_factory.mktemp("run"), bases[name], said.append, **keys), said

    return run


@EACH
def test_the_model_has_the_old_rows_bit_for_bit_and_all_else_is_untouched(
    bases: Mapping[str, Path], runs: Runs, case: int
) -> None:
    (name, keys), (made, _) = CASES[case], runs(case)
    base = bases[name]
    old, new = training_world.weights(base), training_world.weights(made / "model")
    assert old.keys() == new.keys() and (HEAD in new) == (name != "demo")
    sized = {INPUT, HEAD} & new.keys()
    for tensor in old.keys() - sized:
        assert torch.equal(old[tensor], new[tensor]) and old[tensor].dtype == new[tensor].dtype
    vocabularies = Vocabulary.of(base), Vocabulary.of(made / "model")
    pieces = pieces_of(*vocabularies, weighting="weighted" if keys.get("init") == "weighted" else "mean")
    report = json.loads((made / "report.json").read_text("utf-8"))
    assert report["tokens"] == {"old": vocabularies[0].size, "new": vocabularies[1].size}
    for tensor in sized:
        assert new[tensor].shape[0] == -(-pieces.size // keys.get("pad_to", 1)) * keys.get("pad_to", 1)
        whole = pieces.origins >= 0
        copied = old[tensor][torch.from_numpy(pieces.origins[whole])]
        assert torch.equal(new[tensor][: pieces.size][torch.from_numpy(whole)], copied)
        if keys.get("init") != "focus":
            expected = _expected(old[tensor], pieces)
            differ = new[tensor][: pieces.size] != expected  # the sums' order decides where two values are as near
            assert differ.double().mean() < 1e-3
            assert torch.allclose(new[tensor][: pieces.size].double(), expected.double(), rtol=2**-7)
        padding = new[tensor][pieces.size :]
        mean = old[tensor][: pieces.old_size].double().mean(0)
        assert torch.allclose(padding.double(), mean.expand_as(padding), atol=2e-3)


def _expected(old: torch.Tensor, pieces: Any) -> torch.Tensor:
    """Each row by itself, as the formula says it."""
    made = []
    for token in range(pieces.size):
        some = slice(pieces.indptr[token], pieces.indptr[token + 1])
        weights = torch.from_numpy(pieces.weights[some])
        made.append((weights[:, None] * old[torch.from_numpy(pieces.indices[some]).long()].double()).sum(0))
    return resize.rounded(torch.stack(made), old.dtype)


@EACH
def test_transformers_loads_it_with_its_tokenizer_and_it_generates(
    bases: Mapping[str, Path], runs: Runs, case: int
) -> None:
    from transformers import AutoModelForCausalLM

    (name, _), (made, said) = CASES[case], runs(case)
    folder = made / "model"
    before, after = load_tokenizer(bases[name]), load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.tie_word_embeddings == (name == "demo")
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size >= len(after)
    inputs = after("Õpetaja astus klassi", return_tensors="pt", return_token_type_ids=False)
    answer = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 2
    for key in ("bos_token", "eos_token", "pad_token"):
        assert getattr(after, key) == getattr(before, key)
        if getattr(before, key) is not None:
            number = after.convert_tokens_to_ids(getattr(after, key))
            assert getattr(model.config, f"{key}_id") == number == getattr(model.generation_config, f"{key}_id")
    assert after.chat_template == before.chat_template is not None
    messages = [{"role": "user", "content": "Tere! 2 + 2?"}]
    texts = [one.apply_chat_template(messages, tokenize=False) for one in (before, after)]
    assert texts[0] == texts[1]
    assert after.decode(after(texts[1], add_special_tokens=False).input_ids) == before.decode(
        before(texts[0], add_special_tokens=False).input_ids
    )
    card = json.loads((folder / "train_card.json").read_text("utf-8"))
    assert card["stage"] == "vocab" and card["kind"] == "chat" and [one["name"] for one in card["data"]] == ["et", "en"]
    assert any("tokens became" in line and "Tokens/word" in line for line in said)


def test_extend_keeps_what_the_model_says_of_texts_without_new_tokens(
    tmp_path: Path, bases: Mapping[str, Path]
) -> None:
    """The same logits for the old tokens, bit for bit in float32."""
    from transformers import AutoModelForCausalLM

    folder = make(tmp_path, bases["demo"], mode="extend", size=1900) / "model"
    old, new = (AutoModelForCausalLM.from_pretrained(path) for path in (bases["demo"], folder))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        logits = old(ids).logits, new(ids).logits
    assert logits[1].shape[-1] == 1900 and torch.allclose(logits[0], logits[1][..., :1800], atol=1e-6)


def test_old_files_with_ids_of_the_old_vocabulary_do_not_come_along(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases["llama3"], base)
    for name in ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"):
        (base / name).write_text("{}")
    row = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
    row["added_tokens_decoder"] = {"502": {"content": "<|eot_id|>", "special": True}}
    (base / "tokenizer_config.json").write_text(json.dumps(row))
    generation = json.loads((base / "generation_config.json").read_text("utf-8"))
    generation["eos_token_id"] = [501, 502]
    (base / "generation_config.json").write_text(json.dumps(generation))
    folder = make(tmp_path, base, mode="replace", size=400) / "model"
    assert not {"tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"} & {p.name for p in folder.iterdir()}
    assert json.loads((folder / "generation_config.json").read_text("utf-8"))["eos_token_id"] == [397, 398]
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert config["added_tokens_decoder"] == {"398": {"content": "<|eot_id|>", "special": True}}


def test_ids_in_configurations_go_by_their_string() -> None:
    old, new = Vocabulary.of(world.llama3()), Vocabulary.of(world.llama2())
    config = {"vocab_size": 512, "hidden_size": 501, "eos_token_id": None, "text_config": {"vocab_size": 9}}
    assert resize.renumbered(config, old, new, 600, "config.json") == {
        **config,
        "vocab_size": 600,
        "text_config": {"vocab_size": 600},
    }
    with pytest.raises(
        ModelError, match=r"eos_token_id is 502 \(<\|eot_id\|>\), and the new vocabulary has no such token"
    ):
        resize.renumbered({"eos_token_id": [502]}, old, new, 600, "config.json")
    assert resize.renumbered({"pad_token_id": -1}, old, new, 600, "config.json") == {"pad_token_id": -1}
    with pytest.raises(ModelError, match="pad_token_id is 511, and the tokenizer has no such token"):
        resize.renumbered({"pad_token_id": 511}, old, new, 600, "config.json")
    smaller = Vocabulary.of(world.llama3(400))
    for key in ("bad_words_ids", "image_token_index"):
        assert resize.renumbered({key: [[502]]}, old, smaller, 600, "config.json") == {key: [[402]]}


def test_what_the_tokenizer_is_given_as_does_not_matter(bases: Mapping[str, Path]) -> None:
    whole = pieces_of(world.llama3(), world.llama2())
    for given_ in (bases["llama3"], load_tokenizer(bases["llama3"])):
        made = pieces_of(given_, bases["llama2"])
        assert np.array_equal(made.indices, whole.indices) and np.array_equal(made.weights, whole.weights)


def test_a_class_of_transformers_that_spoils_the_tokenizer_is_not_kept(
    tmp_path: Path, bases: Mapping[str, Path]
) -> None:
    """LlamaTokenizer takes the token for the unknown out, without which Unigram can't be."""
    base = tmp_path / "base"
    shutil.copytree(bases["llama2"], base)
    row = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
    (base / "tokenizer_config.json").write_text(json.dumps(row | {"tokenizer_class": "LlamaTokenizer"}), "utf-8")
    made = make(tmp_path, base, mode="replace", size=600, algorithm="unigram")
    after = load_tokenizer(made / "model")
    assert after.decode(after("Koer õues 日本", add_special_tokens=False).input_ids) == "Koer õues 日本"


def test_a_tokenizer_that_transformers_would_change_is_refused(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_is_new", lambda *_: False)
    with pytest.raises(ModelError, match=r"tokenizers of llama by a class of its own.* keep .*\(BPE\)"):
        make(tmp_path, bases["llama2"], mode="shrink")
