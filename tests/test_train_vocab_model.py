"""The vocab stage: rows of a new vocabulary, what stands beside them, and what a run leaves."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_world
import vocab_world as world
import yaml
from estbench_training import appearing, stages
from estbench_training import recipe as recipes
from estbench_training.prepare.settings import SourceSettings
from estbench_training.shards import load_tokenizer
from estbench_training.vocab import files, focus, resize, stage
from estbench_training.vocab.forms import Vocabulary
from estbench_training.vocab.pieces import pieces_of
from estbench_training.vocab.settings import VocabSettings
from estbench_training.weights import rows, writing
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from estbench.errors import ConfigError, ModelError, StoreError

Runs = Callable[[int], tuple[Path, list[str]]]
DATA = {"et": {"demo": "et", "documents": 150}, "en": {"demo": "en", "documents": 100}}
INPUT, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MAKERS = {"llama2": world.llama2, "llama3": world.llama3, "demo": world.demo, "unigram": world.unigram}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "llama2": world.make_model(folder / "llama2", world.llama2(), dtype="bfloat16"),
        "llama3": world.make_model(folder / "llama3", world.llama3(), dtype="bfloat16", rows=512),
        "demo": world.make_model(folder / "demo", world.demo(), tied=True),
        "unigram": world.make_model(folder / "unigram", world.unigram(), dtype="float16"),
    }


def make(folder: Path, base: Path, said: Any = lambda line: None, **keys: Any) -> Path:
    """Run the one stage of a recipe; its folder."""
    stage = {"name": "vocab", "kind": "vocab", "data": DATA, **keys}
    path = folder / "recipe.yaml"
    row = {"name": "tiny", "base": str(base), "licence": "cc0-1.0", "stages": [stage]}
    path.write_text(yaml.safe_dump(row, sort_keys=False), "utf-8")
    return training_world.train(path, folder / "out", said)


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


# --- running ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_and_makes_the_same(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path, bases["llama2"], mode="replace", size=640)
    first = {path.name: path.read_bytes() for path in (whole / "model").glob("*.safetensors")}
    shutil.rmtree(whole)
    copied: list[str] = []
    copy = resize._copy

    def stopping(old: Any, new: Any, name: str) -> None:
        if len(copied) == 5:
            raise KeyboardInterrupt
        copied.append(name)
        copy(old, new, name)

    monkeypatch.setattr(resize, "_copy", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, bases["llama2"], mode="replace", size=640)
    assert not (whole / "model").exists()
    monkeypatch.setattr(resize, "_copy", copy)
    again = make(tmp_path, bases["llama2"], mode="replace", size=640)
    assert {path.name: path.read_bytes() for path in (again / "model").glob("*.safetensors")} == first


def test_texts_that_give_fewer_tokens_than_asked_for_are_said(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    said: list[str] = []
    made = make(tmp_path, bases["llama2"], said.append, mode="replace", size=20_000, min_count=40)
    tokens = json.loads((made / "report.json").read_text("utf-8"))["tokens"]["new"]
    assert tokens < 20_000 and f"The texts give {tokens:,} tokens, not the 20,000 that size asks for." in said


def test_rows_of_another_vocabulary_are_not_gone_on_from(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should learning ever give another vocabulary than the run that was interrupted had."""
    keys: dict[str, Any] = {"mode": "replace", "size": 500}
    whole = make(tmp_path, bases["llama2"], **keys)
    expected = load_file(whole / "model" / "model.safetensors")
    shutil.rmtree(whole)
    adapt, write = stage.adapt, files.write
    monkeypatch.setattr(writing, "SYNC_BYTES", 1)
    with monkeypatch.context() as other:
        fewer = lambda work: replace(work, corpus=replace(work.corpus, texts=work.texts[:100]))  # noqa: E731
        other.setattr(stage, "adapt", lambda work: adapt(fewer(work)))
        other.setattr(files, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, bases["llama2"], **keys)
    assert files.write is write and list(whole.glob(".model.part/model.safetensors"))
    made = load_file(make(tmp_path, bases["llama2"], **keys) / "model" / "model.safetensors")
    assert made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made)


def test_a_full_disk_leaves_no_model(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left"):
        make(tmp_path, bases["llama2"], mode="replace", size=640)
    assert not list((tmp_path / "out").glob("*/*model*"))


@pytest.mark.parametrize("last", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_disk_that_is_full_after_the_weights_leaves_no_model(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    write = appearing.write_synced

    def full(path: Path, text: str) -> None:
        if path.name == last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, text)

    monkeypatch.setattr(appearing, "write_synced", full)
    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(StoreError, match="No space left"):
        make(tmp_path, bases["llama2"], mode="shrink")
    assert not list((tmp_path / "out").glob("*/*model*")) and not list((tmp_path / "out").glob("*/.*part"))


def test_memory_is_a_slice_and_gives_the_same(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(tmp_path, bases["llama3"], mode="extend", size=600)
    before = training_world.weights(first / "model")
    shutil.rmtree(first)
    monkeypatch.setattr(resize, "COPIED", 100)
    monkeypatch.setattr(resize, "COMPUTED", 640)
    monkeypatch.setattr(rows, "AT_ONCE", 100)
    monkeypatch.setattr(rows, "APART", 300)
    second = make(tmp_path, bases["llama3"], mode="extend", size=600)
    assert training_world.same(before, training_world.weights(second / "model"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mode": "extend"}, "size is missing"),
    ({"mode": "extend", "size": 700, "algorithm": "unigram"}, "say mode: replace"),
    ({"mode": "replace", "size": 0}, "size has to be 1 or more"),
    ({"mode": "replace", "size": 700, "letters": True}, "mode: extend or optimise"),
    ({"mode": "replace", "size": 700, "shares": {"et": 1}}, "shares has to name each source"),
    ({"mode": "replace", "size": 700, "shares": {"et": 1, "en": 0}}, "above 0"),
    ({"mode": "grow", "size": 700}, "not one of extend, replace, shrink, optimise"),
    ({"mode": "replace", "size": 700, "data": {}}, "data is empty"),
    ({"mode": "replace", "size": 700, "data": {"Et": {"demo": "et", "documents": 3}}}, "a-z"),
    ({"mode": "shrink", "report": {"data.et": "a.txt"}}, "what the sources are called"),
]


@pytest.mark.parametrize(("keys", "complaint"), REFUSED, ids=[complaint for _, complaint in REFUSED])
def test_settings_that_mean_nothing_are_refused_before_anything_runs(keys: dict[str, Any], complaint: str) -> None:
    stage = {"name": "vocab", "kind": "vocab", "data": DATA, **keys}
    with pytest.raises(ConfigError, match=complaint):
        recipes.from_row({"name": "tiny", "base": "demo", "stages": [stage]}, Path())


def test_what_the_model_lacks_is_one_line(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases["llama2"], base)
    os.rename(base / "tokenizer.json", base / "tokenizer.model")
    with pytest.raises(ModelError, match=r"no tokenizer\.json: where sentencepiece is installed"):
        make(tmp_path, base, mode="shrink")
    os.rename(base / "tokenizer.model", base / "tokenizer.json")
    tokenizer = world.llama2()
    tokenizer.add_tokens(["üks", "kaks"])
    tokenizer.save(str(base / "tokenizer.json"))
    with pytest.raises(ModelError, match="600 rows, and the tokenizer 602 tokens"):
        make(tmp_path, base, mode="shrink")


@pytest.mark.parametrize("name", [INPUT, HEAD, "model.layers.0.mlp.up_proj.weight"])
def test_a_nan_in_the_old_model_is_named(tmp_path: Path, bases: Mapping[str, Path], name: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases["llama2"], base)
    tensors = load_file(base / "model.safetensors")
    tensors[name][5, 3] = math.nan
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"base/model\.safetensors: {name} holds a NaN or an infinity in row 5:"):
        make(tmp_path, base, mode="shrink")
    assert not list(tmp_path.glob("out/*/*model*")) and not list(tmp_path.glob("out/*/.*part"))


def test_embeddings_that_are_quantised_are_refused(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases["llama2"], base)
    tensors = load_file(base / "model.safetensors")
    for kind in (torch.float8_e4m3fn, torch.int8):
        tensors[INPUT] = tensors[INPUT].to(kind)
        save_file(tensors, base / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=f"{INPUT} is (F8_E4M3|I8): take the model that is not quantised"):
            make(tmp_path, base, mode="shrink")


def test_a_tokenizer_that_transformers_would_change_is_refused(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_is_new", lambda *_: False)
    with pytest.raises(ModelError, match=r"tokenizers of llama by a class of its own.* keep .*\(BPE\)"):
        make(tmp_path, bases["llama2"], mode="shrink")


def test_an_empty_source_is_named(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    from estbench.errors import DataError

    (tmp_path / "nothing.jsonl").write_text('{"text": " "}\n', "utf-8")
    source = {"path": "nothing.jsonl", "language": "et", "licence": "cc0-1.0"}
    with pytest.raises(DataError, match=r"Source mine is empty: nothing\.jsonl"):
        make(tmp_path, bases["llama2"], mode="shrink", data={"mine": source})


def test_texts_come_from_files_too_and_no_more_than_asked_for(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    lines = [json.dumps({"text": f"Koolimaja number {number} o\u0303ues."}) for number in range(200)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), "utf-8")
    (tmp_path / "more.txt").write_text("Koolimaja õues on lumi.", "utf-8")
    data = {"mine": {"path": "mine.jsonl", "language": "et", "licence": "cc0-1.0", "limit": 100}, "en": DATA["en"]}
    keys: dict[str, Any] = {"mode": "extend", "size": 610, "characters": 4000, "shares": {"mine": 3, "en": 1}}
    made = make(tmp_path, bases["llama3"], data=data, report={"more": "more.txt"}, **keys)
    report = json.loads((made / "report.json").read_text("utf-8"))
    assert report["data"]["mine"]["characters"] <= 3000 and report["data"]["en"]["characters"] == 1000
    assert list(report["texts"]) == ["et", "en", "code", "more", "data.mine", "data.en"]
    assert report["texts"]["more"]["new"]["tokens"] < report["texts"]["more"]["old"]["tokens"]
    names = Vocabulary.of(made / "model").content
    assert any(b"koolimaja"[1:6] in name for name in names) and not any("\u0303".encode() in one for one in names)


def test_the_key_depends_on_what_the_texts_are(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "üks"}\n', "utf-8")
    stage = {"name": "v", "kind": "vocab", "mode": "shrink"}
    stage["data"] = {"mine": {"path": "mine.jsonl", "language": "et", "licence": "cc0-1.0"}}  # type: ignore[assignment]
    recipe = recipes.from_row({"name": "tiny", "base": str(bases["demo"]), "stages": [stage]}, tmp_path)
    (before,) = stages.chain(recipe, tmp_path)
    (tmp_path / "mine.jsonl").write_text('{"text": "kaks"}\n', "utf-8")
    (after,) = stages.chain(recipe, tmp_path)
    assert before.key != after.key


def test_settings_can_be_read_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, estbench_training.vocab as v, estbench_training.vocab.command; v.VOCAB.settings; "
        "assert not {'torch', 'tokenizers', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- formulas ---------------------------------------------------------------------------------------------------------


@given(st.floats(1e-7, 1e30), st.sampled_from(["bfloat16", "float16"]))
@settings(max_examples=200, deadline=None)
def test_values_are_rounded_once_to_the_nearest(value: float, name: str) -> None:
    dtype = getattr(torch, name)
    made = resize.rounded(torch.tensor([value], dtype=torch.float64), dtype)
    assert resize.rounded(torch.tensor([-value], dtype=torch.float64), dtype).item() == -made.item()
    near = made.view(torch.int16).item()
    if not math.isfinite(made.item()):
        assert value > 65519 and name == "float16"
        return
    around = torch.tensor([max(near - 1, 0), near, near + 1], dtype=torch.int16).view(dtype).double()
    distances = [abs(Fraction(value) - Fraction(one)) for one in around.tolist() if math.isfinite(one)]
    assert abs(Fraction(value) - Fraction(made.item())) == min(distances)


def test_torch_alone_would_round_twice() -> None:
    """Control: between two bfloat16, so near the middle that float32 is exactly there."""
    value = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert resize.rounded(value, torch.bfloat16).item() == 1 + 2**-7 != value.bfloat16().item()


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_sparsemax_is_the_nearest_point_of_the_simplex(scores: list[float]) -> None:
    z = torch.tensor([scores], dtype=torch.float64)
    p = focus.sparsemax(z)
    assert p.sum().item() == pytest.approx(1) and (p >= 0).all()
    left = (z - p)[p > 0]  # the conditions of Karush, Kuhn and Tucker
    assert left.max().item() == pytest.approx(left.min().item(), abs=1e-12)
    assert (z[p == 0] <= left.max() + 1e-12).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(focus, "HIGHEST", 1)
        ((places, shares),) = focus.sparsest(z)
    assert sorted(shares.tolist()) == pytest.approx(sorted(p[p > 0].tolist())) and len(places) == (p > 0).sum()


def test_auxiliary_embeddings_are_those_of_a_whole_svd() -> None:
    dice = np.random.default_rng(2)
    text = dice.integers(0, 12, 900)
    made = focus.auxiliary(text, 12, seed=1)
    counts = np.zeros((12, 12))
    for apart in range(1, focus.WINDOW + 1):
        np.add.at(counts, (text[:-apart], text[apart:]), 1 / apart)
        np.add.at(counts, (text[apart:], text[:-apart]), 1 / apart)
    smoothed = counts.sum(0) ** focus.SMOOTHED
    expected = counts.sum(1)[:, None] * smoothed / smoothed.sum()
    left, sizes, _ = np.linalg.svd(np.log(np.maximum(counts / expected, 1)))
    reference = left * np.sqrt(sizes)
    assert np.allclose((made @ made.T).numpy(), reference @ reference.T, atol=1e-6)


def test_focus_finds_the_token_that_stands_where_the_new_one_does() -> None:
    """kass and koer stand in the same sentences, and auto doesn't."""
    sentences = [f"{who} {what} {where}" for who in ("xkoer", "xkass") for what in ("magab", "sööb", "hüppab")
                 for where in ("toas", "aias", "voodis")]  # fmt: skip
    sentences += [f"auto {what} {where}" for what in ("sõidab", "seisab") for where in ("tänaval", "garaažis")] * 4
    from estbench_training.vocab.extend import extend

    old = Vocabulary.of(world.llama3())
    wider = extend(old, [text for text in sentences if "xkass" not in text] * 9, 540).vocabulary()
    new = extend(wider, sentences * 9, 560).vocabulary()
    token, koer, auto = (new.names.index(name) for name in ("xkass", "xkoer", "auto"))
    made = focus.focus(wider, new, sentences * 9, seed=0)
    some = slice(made.indptr[token], made.indptr[token + 1])
    shares = dict(zip(made.indices[some].tolist(), made.weights[some].tolist(), strict=True))
    assert max(shares, key=lambda one: shares[one]) == koer and auto not in shares
    again = focus.focus(wider, new, sentences * 9, seed=0)
    assert np.array_equal(again.weights, made.weights)


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


def test_what_a_source_may_give_goes_by_its_share() -> None:
    data = {name: SourceSettings(demo="et", documents=1) for name in ("a", "b")}
    assert VocabSettings("shrink", data, characters=100).most_of("a") == 50
    assert VocabSettings("shrink", data, characters=100, shares={"a": 3, "b": 1}).most_of("a") == 75


def test_what_the_tokenizer_is_given_as_does_not_matter(bases: Mapping[str, Path]) -> None:
    whole = pieces_of(world.llama3(), world.llama2())
    for given_ in (bases["llama3"], load_tokenizer(bases["llama3"])):
        made = pieces_of(given_, bases["llama2"])
        assert np.array_equal(made.indices, whole.indices) and np.array_equal(made.weights, whole.weights)
