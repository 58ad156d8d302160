"""Weights in slices: what is written is what safetensors reads, whatever the order, the shards or the interruption."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from estbench_training.weights import (
    Embeddings,
    TensorInfo,
    Weights,
    Writer,
    check_finite,
    computing,
    gather,
    growing,
    names_of,
    rows,
    writing,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from estbench.checkpoint import Checkpoint
from estbench.errors import ModelError, StoreError
from estbench.identity import FileHashes, stat_of

KINDS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


def tensors() -> dict[str, torch.Tensor]:
    dice = torch.Generator().manual_seed(1)
    made = {f"a.{at}.weight": torch.randn(7, 5 + at, generator=dice).to(kind) for at, kind in enumerate(KINDS)}
    return made | {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "three": torch.randn(2, 3, 4, generator=dice),
    }


OPEN = open


def infos(given: Mapping[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(KINDS[tensor.dtype], tuple(tensor.shape)) for name, tensor in given.items()}


def checkpoint(folder: Path, given: Mapping[str, torch.Tensor] | None = None) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    save_file(dict(given or tensors()), folder / "model.safetensors")
    return Checkpoint(folder, "m")


def write(folder: Path, given: Mapping[str, torch.Tensor], shard_bytes: float = 300, key: str = "k") -> None:
    with Writer(folder, infos(given), key=key, shard_bytes=shard_bytes) as writer:
        for name, tensor in reversed(given.items()):
            if not writer.done(name):
                writer.write(name, 0, tensor)
                writer.finished(name)


def interrupted(place: Path, given: Mapping[str, torch.Tensor], count: int) -> None:
    """A run that ends by Ctrl-C when some of its tensors are written."""
    with growing(place, "k") as folder, Writer(folder, infos(given), key="k", shard_bytes=300) as writer:
        for name in list(given)[:count]:
            writer.write(name, 0, given[name])
            writer.finished(name)
        writer._flusher.submit(lambda: None).result()  # what was finished is noted
        raise KeyboardInterrupt


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        found |= load_file(file)
    return found


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a
    )


@pytest.mark.parametrize("shard_bytes", [1, 300, 1e9])
def test_what_is_written_is_what_safetensors_reads(tmp_path: Path, shard_bytes: float) -> None:
    given = tensors()
    with growing(tmp_path / "m", "k") as folder:
        write(folder, given, shard_bytes)
    assert equal(loaded(tmp_path / "m"), given)
    assert not list(tmp_path.rglob(".*"))
    index = tmp_path / "m" / "model.safetensors.index.json"
    assert index.exists() == (shard_bytes < 1e9)
    if index.exists():
        row = json.loads(index.read_text())
        assert row["metadata"]["total_size"] == sum(t.nbytes for t in given.values())
        assert row["metadata"]["total_parameters"] == sum(t.numel() for t in given.values())
        sizes = {
            f: sum(given[n].nbytes for n, g in row["weight_map"].items() if g == f) for f in row["weight_map"].values()
        }
        assert all(size <= shard_bytes or list(row["weight_map"].values()).count(f) == 1 for f, size in sizes.items())


def test_slices_are_read_as_they_are_stored(tmp_path: Path) -> None:
    given = tensors()
    with Weights.open(checkpoint(tmp_path / "m")) as weights:
        assert list(weights.tensors) == sorted(given)
        for name, tensor in given.items():
            info = weights.tensors[name]
            assert (info.torch, info.elements, info.bytes) == (tensor.dtype, tensor.numel(), tensor.nbytes)
            assert torch.equal(weights.read(name), tensor)
            if tensor.dim() and tensor.numel():
                assert torch.equal(weights.read(name, 1, 2), tensor[1:2])
            flat = tensor.flatten()
            low, high = math.floor(len(flat) / 3), len(flat)
            memory = torch.empty(high, dtype=tensor.dtype)
            found = weights.read_flat(name, low, high, out=memory)
            assert torch.equal(found, flat[low:])
            assert high == low or found.data_ptr() == memory.data_ptr()
        with pytest.raises(ValueError, match="elements"):
            weights.read("scalar", 0, 2)


def test_single_rows_are_read_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(50, 2, 3).bfloat16()
    ids = np.array([0, 1, 2, 7, 8, 30, 49])
    for at_once, apart in ((1 << 20, 1 << 20), (1, 1), (12, 24)):
        monkeypatch.setattr(rows, "AT_ONCE", at_once)
        monkeypatch.setattr(rows, "APART", apart)
        with Weights.open(checkpoint(tmp_path / f"m{at_once}", {"table": table})) as weights:
            assert torch.equal(gather(weights, "table", ids), table[torch.from_numpy(ids)])
            assert gather(weights, "table", ids[:0]).shape == (0, 2, 3)


def test_the_first_row_that_is_no_number_is_named_by_its_own_number() -> None:
    values = torch.zeros(4, 3)
    check_finite(values, "w")
    check_finite(torch.ones(3, dtype=torch.int64), "w")
    values[2, 1] = math.inf
    with pytest.raises(ModelError, match="w holds a NaN or an infinity in row 1,002: "):
        check_finite(values, "w", start=1000)
    with pytest.raises(ModelError, match="in row 9: "):
        check_finite(values, "w", np.array([1, 5, 9, 11]))


def test_sixteen_bits_are_computed_with_in_fp32_and_wider_ones_in_fp64() -> None:
    assert computing(torch.bfloat16, torch.float16) == torch.float32
    assert computing(torch.float32) == computing(torch.bfloat16, torch.float64) == torch.float64


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    with Weights.open(checkpoint(tmp_path / "m", {"a": torch.zeros(1000), "b": torch.zeros(1000)})) as weights:
        os.truncate(tmp_path / "m" / "model.safetensors", 5000)
        assert weights.read("a").shape == (1000,)
        with pytest.raises(ModelError, match=r"model\.safetensors became shorter while it was read"):
            weights.read("b")


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    def broken(header: dict[str, Any], size: int = 8) -> Checkpoint:
        text = json.dumps(header).encode()
        (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
        return Checkpoint(tmp_path, "m")

    with pytest.raises(ModelError, match="w has 8 bytes where its shape asks for 12"):
        Weights.open(broken({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}))
    with pytest.raises(ModelError, match="w is of type F4, which can't be computed with"):
        Weights.open(broken({"w": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}}))
    with pytest.raises(ModelError, match="has no tensor"):
        Weights.open(broken({}, 0))


def test_an_index_and_its_shards_have_to_agree(tmp_path: Path) -> None:
    write(tmp_path, tensors(), 300)
    index = tmp_path / "model.safetensors.index.json"
    row = json.loads(index.read_text())
    Weights.open(Checkpoint(tmp_path, "m")).close()
    index.write_text(json.dumps({"weight_map": row["weight_map"] | {"more.weight": row["weight_map"]["three"]}}))
    with pytest.raises(ModelError, match=r"lacks more\.weight, which the index says"):
        Weights.open(Checkpoint(tmp_path, "m"))
    index.write_text(json.dumps(row))
    save_file(tensors(), tmp_path / row["weight_map"]["three"])
    with pytest.raises(ModelError, match=r"both have "):
        Weights.open(Checkpoint(tmp_path, "m"))


def test_an_interrupted_writer_goes_on_where_the_journal_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SYNC_BYTES", 1)
    given = tensors()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "m", given, 3)
    part = tmp_path / ".m.part"
    with open(part / ".journal", "a") as journal:
        journal.write('"a.4.wei')  # torn by a kill
    writer = Writer(part, infos(given), key="k", shard_bytes=300)
    assert [name for name in given if writer.done(name)] == list(given)[:3]
    with growing(tmp_path / "m", "k") as folder:
        write(folder, given)
    assert equal(loaded(tmp_path / "m"), given)


def test_another_keys_leftovers_are_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SYNC_BYTES", 1)
    given = tensors()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "m", given, 3)
    (tmp_path / ".m.part" / "stale.json").write_text("{}")
    with growing(tmp_path / "m", "other") as folder:
        assert not list(folder.iterdir())
        write(folder, given, key="other")
    assert equal(loaded(tmp_path / "m"), given)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(StoreError, match=r"No space left on device\): make room"),
        growing(tmp_path / "m", "k") as folder,
    ):
        write(folder, tensors())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_would_become_full_is_refused_before_the_work(tmp_path: Path) -> None:
    huge = {"w": TensorInfo("F32", (1 << 20, 1 << 30))}
    with (
        pytest.raises(StoreError, match=r"GB free, and the model needs .* GB more"),
        growing(tmp_path / "m", "k") as part,
    ):
        Writer(part, huge, key="k")
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_was_not_written_is_no_checkpoint(tmp_path: Path) -> None:
    given = tensors()
    writer = Writer(tmp_path, infos(given), key="k")
    for name in given.keys() - {"three"}:
        writer.write(name, 0, given[name])
        writer.finished(name)
    with pytest.raises(RuntimeError, match="three was not written"):
        writer.close()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path, {"w": TensorInfo("F32", (4, 3))}, key="k")
    for start, values in [(0, torch.zeros(4, 2)), (3, torch.zeros(2, 3)), (0, torch.zeros(4, 3, dtype=torch.float64))]:
        with pytest.raises(ValueError, match="w "):
            writer.write("w", start, values)


def test_embeddings_are_told_by_their_names() -> None:
    llama = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    assert names_of(llama, {}) == Embeddings("model.embed_tokens.weight", "lm_head.weight")
    assert names_of(llama[:2], {"tie_word_embeddings": True}) == Embeddings("model.embed_tokens.weight", None)
    gemma = ["model.language_model.embed_tokens.weight", "model.language_model.embed_tokens_per_layer.weight"]
    assert names_of(gemma, {"text_config": {"tie_word_embeddings": True}}).names == (gemma[0],)
    with pytest.raises(ModelError, match=r"has no head, though config\.json says that it isn't tied"):
        names_of(llama[:2], {"tie_word_embeddings": False})
    with pytest.raises(ModelError, match="2 of them"):
        names_of([*llama, "encoder.embed_tokens.weight"], {})
    with pytest.raises(ModelError, match="no tensor ends in"):
        names_of(["x"], {})


@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_written_is_hashed_meanwhile_and_known_by_its_last_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    given, place = tensors(), tmp_path / "m"
    if resumed:
        with pytest.raises(KeyboardInterrupt):
            interrupted(place, given, 3)
    with growing(place, "k") as folder:
        write(folder, given)
    files, known = sorted(place.glob("*.safetensors")), FileHashes().known
    assert len(files) > 2
    for file in files:
        assert known[str(file), stat_of(file)] == hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr("builtins.open", refuse_weights)
    FileHashes().of(files)
    os.utime(files[0])  # the control: what was touched is read again
    with pytest.raises(AssertionError, match="read again"):
        FileHashes().of(files)


def refuse_weights(path: Any, *words: Any, **more: Any) -> Any:
    assert not str(path).endswith(".safetensors"), "read again"
    return OPEN(path, *words, **more)


def test_a_file_that_is_cut_while_it_is_hashed_is_an_error(tmp_path: Path) -> None:
    given = tensors()
    writer = Writer(tmp_path, infos(given), key="k")
    os.truncate(tmp_path / "model.safetensors", 100)
    for name in given:
        writer.finished(name)
    with pytest.raises(StoreError, match="can't be written"):
        writer.close()
    writer._release()
