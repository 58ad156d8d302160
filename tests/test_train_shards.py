"""Token shards: what is written is read, whole or not at all, and damage is named by file and place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estbench_training import shards
from estbench_training.shards import Shards, Writer, load_tokenizer, tokenizer_hash

from estbench.errors import DataError, ModelError, StoreError

TOKENIZER = {"hash": "a" * 64, "name": "t", "vocab_size": 100, "bos": None, "eos": 2}


def documents(count: int, seed: int = 0) -> list[np.ndarray[Any, np.dtype[np.uint32]]]:
    dice = np.random.default_rng(seed)
    return [dice.integers(0, 1 << 32, dice.integers(1, 40), np.uint32) for _ in range(count)]


def write(folder: Path, docs: Sequence[Any], *, batch: int = 7, part_tokens: int = 200) -> None:
    with Writer(folder, TOKENIZER, part_tokens) as writer:
        docs = docs[writer.documents :]
        for start in range(0, len(docs), batch):
            some = docs[start : start + batch]
            writer.add(np.concatenate(some), np.array([len(one) for one in some]))
        writer.finish({"source": "s"})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def docs() -> list[Any]:
    return documents(60)


@pytest.fixture
def made(tmp_path: Path, docs: list[Any]) -> Path:
    write(tmp_path / "s", docs)
    return tmp_path / "s"


def test_tokens_are_read_as_a_circle_across_parts(made: Path, docs: list[Any]) -> None:
    found, stream = Shards.open(made), np.concatenate(docs)
    assert len(found.manifest["parts"]) > 3
    assert (found.documents, found.tokens) == (60, len(stream))
    assert found.lengths().tolist() == [len(doc) for doc in docs]
    begins = np.cumsum([0, *map(len, docs)])[:-1]
    for start, count in [(0, len(stream)), (5, 190), (190, 30), (len(stream) - 3, 10), (-1, 2), (7, 3 * len(stream))]:
        places = (start + np.arange(count)) % len(stream)
        assert np.array_equal(found.read(start, count), stream[places])
        assert np.array_equal(found.boundaries(start, count), np.flatnonzero(np.isin(places, begins)))


def test_no_document_is_divided_between_parts_and_parts_are_bounded(made: Path, docs: list[Any]) -> None:
    parts = Shards.open(made).manifest["parts"]
    longest = max(map(len, docs))
    assert all(200 <= part["tokens"] < 200 + longest for part in parts[:-1])
    assert [part["bin"]["bytes"] for part in parts] == [4 * part["tokens"] for part in parts]


def test_the_files_do_not_depend_on_how_documents_are_handed_over(tmp_path: Path, docs: list[Any]) -> None:
    for batch in (1, 7, 60):
        write(tmp_path / str(batch), docs, batch=batch)
    assert files(tmp_path / "1") == files(tmp_path / "7") == files(tmp_path / "60")


def test_an_interrupted_writer_goes_on_from_its_finished_parts(tmp_path: Path, made: Path, docs: list[Any]) -> None:
    with Writer(tmp_path / "t", TOKENIZER, 200) as writer:
        for doc in docs[:31]:
            writer.add(doc, np.array([len(doc)]))
    left = files(tmp_path / "t")
    assert "manifest.json" not in left and not any(name.startswith(".") for name in left)
    with pytest.raises(DataError, match=r"holds no finished shards, it has no manifest\.json"):
        Shards.open(tmp_path / "t")
    with Writer(tmp_path / "t", TOKENIZER, 200) as writer:
        assert 0 < writer.documents < 31
    write(tmp_path / "t", docs)
    assert files(tmp_path / "t") == files(made)


def test_another_tokenizer_does_not_go_on_from_what_is_left(tmp_path: Path, docs: list[Any]) -> None:
    with Writer(tmp_path, TOKENIZER, 100) as writer:
        writer.add(np.concatenate(docs), np.array([len(doc) for doc in docs]))
    assert Writer(tmp_path, TOKENIZER, 100).documents > 0
    assert Writer(tmp_path, TOKENIZER | {"hash": "b" * 64}, 100).documents == 0


def test_damage_is_named_with_file_and_place(tmp_path: Path, docs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHUNK", 256)
    write(tmp_path, docs, part_tokens=1 << 20)
    Shards.open(tmp_path, verify=True)
    for name, place in (("00000.bin", 300), ("00000.idx", 260)):
        good = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        Shards.open(tmp_path)  # only a reading of all finds it
        with pytest.raises(DataError, match=rf"{name} is damaged between byte 256 and (512|488) \(checksum\)"):
            Shards.open(tmp_path, verify=True)
        (tmp_path / name).write_bytes(good)
    Shards.open(tmp_path, verify=True)


def test_a_file_that_is_short_or_missing_is_named(made: Path) -> None:
    part = made / "00001.bin"
    whole = part.read_bytes()
    part.write_bytes(whole[:-4])
    with pytest.raises(DataError, match=r"00001.bin has [\d,]+ bytes, not "):
        Shards.open(made)
    part.unlink()
    with pytest.raises(DataError, match=r"00001.bin is missing"):
        Shards.open(made)
    part.write_bytes(whole)
    (made / "manifest.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"manifest.json can't be read"):
        Shards.open(made)
    with pytest.raises(DataError, match="there is no such folder"):
        Shards.open(made / "x")


def test_shards_of_another_tokenizer_are_refused(made: Path) -> None:
    Shards.open(made, "a" * 64)
    with pytest.raises(DataError, match=r"made with another tokenizer \(t, aaaaaaaaaaaa\) than the model's"):
        Shards.open(made, "b" * 64)


def test_no_document_is_no_shards(tmp_path: Path) -> None:
    with Writer(tmp_path / "s", TOKENIZER) as writer, pytest.raises(DataError, match="s has no document left to write"):
        writer.finish({})
    assert not (tmp_path / "s" / "manifest.json").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, made: Path, docs: list[Any]) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / ".00002.bin.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"No space left on device\): make room, .* goes on from 2 finished parts"):
        write(folder, docs)
    assert sorted(files(folder)) == ["00000.bin", "00000.idx", "00001.bin", "00001.idx", "progress.json"]
    write(folder, docs)
    assert files(folder) == files(made)


def test_the_hash_of_a_tokenizer_is_of_what_makes_token_ids(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    found = tokenizer_hash(tiny_model)
    assert found == tokenizer_hash(tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.model_max_length = 7
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_hash(tmp_path) == found
    tokenizer.add_tokens(["õ-täht"])
    assert tokenizer_hash(tokenizer) != found
    row = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    row["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(row), "utf-8")
    assert tokenizer_hash(tmp_path) != found


def test_a_missing_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    with pytest.raises(ModelError, match=r"The tokenizer in \S+ can't be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
