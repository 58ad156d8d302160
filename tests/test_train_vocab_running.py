"""The vocab stage as it runs: interrupted, on a full disk, in little memory, and with what is refused."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import training_world
import vocab_world as world
from estbench_training import appearing
from estbench_training import recipe as recipes
from estbench_training.vocab import corpus, files, resize, stage
from estbench_training.weights import rows, writing
from safetensors.torch import load_file, save_file
from vocab_world import DATA
from vocab_world import run as make

from estbench.errors import ConfigError, ModelError, StoreError

INPUT, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return world.bases(tmp_path_factory.mktemp("bases"))


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


def test_an_id_that_is_no_token_is_found_before_anything_is_learnt(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases["llama3"], base)
    generation = json.loads((base / "generation_config.json").read_text("utf-8"))
    (base / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": [501, 510]}), "utf-8")
    monkeypatch.setattr(corpus, "read", lambda *_: pytest.fail("texts were read"))
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id is 510, and the tokenizer has"):
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


def test_settings_can_be_read_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, estbench_training.vocab as v, estbench_training.vocab.command; v.VOCAB.settings; "
        "assert not {'torch', 'tokenizers', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
