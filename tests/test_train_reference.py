"""Pairs as token ids, and the reference's log-probabilities on disk: what they are kept under, and that nothing but the
whole file counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estbench_training import reference
from estbench_training.reference import EncodedPair, key_of
from estbench_training.templates import open_chat

from estbench.errors import DataError, EngineError, StoreError
from estbench.tokens import Tokens

Row = dict[str, Any]
MODEL = {"weights": "a" * 64, "tokenizer": "b" * 64, "config": "c" * 64}
PAIRS = [EncodedPair("1", (1, 2), (3, 4), (5,)), EncodedPair("2", (1,), (6,), (7, 8))]
CHOSEN, REJECTED = np.array([-1.25, -3.5e-7], np.float32), np.array([-100.125, 0.0], np.float32)
HOW: dict[str, Any] = {"max_length": 64, "precision": "fp32", "device": "cpu", "attention": "sdpa"}


def key(pairs: list[EncodedPair] = PAIRS, model: dict[str, str] = MODEL, template: str = "{{ x }}", **how: Any) -> str:
    return key_of(model, template, pairs, **(HOW | how))


def test_what_is_kept_comes_back_bit_by_bit(home: Path) -> None:
    path = reference.place(key())
    reference.store(path, key(), CHOSEN, REJECTED)
    found = reference.load(path, key(), 2)
    assert found is not None
    assert [one.tobytes() for one in found] == [CHOSEN.tobytes(), REJECTED.tobytes()]
    assert path.is_relative_to(home) and [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_data_and_model_have_the_same_key() -> None:
    assert key() == key(list(PAIRS), dict(MODEL))


@pytest.mark.parametrize(
    "other",
    [
        {"pairs": PAIRS[:1]},
        {"pairs": PAIRS[::-1]},
        {"pairs": [EncodedPair("1", (1, 2), (3, 9), (5,)), PAIRS[1]]},
        {"pairs": [EncodedPair("1", (1,), (2, 3, 4), (5,)), PAIRS[1]]},  # the border between prompt and answer
        {"model": MODEL | {"weights": "d" * 64}},
        {"model": MODEL | {"tokenizer": "d" * 64}},
        {"template": "{{ y }}"},
        {"max_length": 32},
        {"precision": "bf16"},
        {"device": "cuda"},
        {"attention": "eager"},
    ],
    ids=lambda other: "-".join(f"{name}-{value}" for name, value in other.items())[:40],
)
def test_another_row_model_template_or_way_of_computing_is_not_found(other: dict[str, Any]) -> None:
    assert key(**other) != key()


def test_names_of_rows_are_not_in_the_key() -> None:
    assert key([EncodedPair(f"x{one.id}", one.prompt, one.chosen, one.rejected) for one in PAIRS]) == key()


@pytest.mark.parametrize("left", [0, 1, 7, 40, -1])
def test_a_torn_file_is_none(home: Path, left: int) -> None:
    path = reference.place(key())
    reference.store(path, key(), CHOSEN, REJECTED)
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert reference.load(path, key(), 2) is None
    path.write_bytes(whole)
    assert reference.load(path, key(), 2) is not None  # the control


def test_a_file_with_a_changed_number_is_none(home: Path) -> None:
    path = reference.place(key())
    reference.store(path, key(), CHOSEN, REJECTED)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert reference.load(path, key(), 2) is None


def test_a_file_of_another_key_or_of_another_number_of_pairs_is_none(home: Path) -> None:
    path = reference.place(key())
    reference.store(path, key(PAIRS[::-1]), CHOSEN, REJECTED)
    assert reference.load(path, key(), 2) is None
    reference.store(path, key(), CHOSEN, REJECTED)
    assert reference.load(path, key(), 3) is None
    assert reference.load(path.with_name("none.safetensors"), key(), 2) is None


def test_the_file_is_safetensors_and_no_pickle(home: Path) -> None:
    path = reference.place(key())
    reference.store(path, key(), CHOSEN, REJECTED)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.keys() == {"__metadata__", "chosen", "rejected"} and header["__metadata__"]["key"] == key()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_no_number_is_never_kept(home: Path, bad: float) -> None:
    path = reference.place(key())
    with pytest.raises(EngineError, match="precision: fp32"):
        reference.store(path, key(), np.array([bad, 0], np.float32), REJECTED)
    assert not path.exists()


def test_a_home_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="ESTBENCH_HOME"):
        reference.store(tmp_path / "file" / "x.safetensors", key(), CHOSEN, REJECTED)


# --- pairs as token ids -----------------------------------------------------------------------------------------------


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> Row:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **more,
    }


def encoded(model: Path, rows: list[Row], max_length: int = 64, too_long: str = "error") -> Any:
    chat = open_chat(Tokens(model).tokenizer, "tulu")
    return chat, *reference.encode(chat, [{"where": "x:1", **row} for row in rows], max_length, too_long)


def test_an_answer_is_learnt_with_its_end_token_and_nothing_else(tiny_model: Path) -> None:
    chat, [found], counts = encoded(tiny_model, [pair("Kas sajab?", "Jah, sajab.", "Ei.")])
    decode = chat.tokenizer.decode
    assert decode(found.prompt) == "<s><|user|>\nKas sajab?\n<|assistant|>\n"
    assert decode(found.chosen) == "Jah, sajab.</s>" and decode(found.rejected) == "Ei.</s>"
    assert list(found.prompt) == chat.prompt([{"role": "user", "content": "Kas sajab?"}]) and not counts


def test_earlier_turns_are_prompt(tiny_model: Path) -> None:
    row = pair("Aga lund?", "Ei.", "Jah.")
    row["prompt"] = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B"}, *row["prompt"]]
    chat, [found], _ = encoded(tiny_model, [row])
    assert chat.tokenizer.decode(found.chosen) == "Ei.</s>" and "B</s>" in chat.tokenizer.decode(found.prompt)


def test_a_pair_with_equal_sides_is_left_out_and_counted(tiny_model: Path) -> None:
    _, found, counts = encoded(tiny_model, [pair("A?", "Jah.", "Jah."), pair("A?", "Jah.", "Ei.")])
    assert len(found) == 1 and counts == {"both sides equal": 1}


def test_pairs_that_are_too_long_are_refused_dropped_or_cut_as_said(tiny_model: Path) -> None:
    rows = [pair("A?", "Jah. " * 20, "Ei. " * 30, id="pikk"), pair("A?", "Jah.", "Ei."), pair("Miks? " * 20, "B", "C")]
    with pytest.raises(DataError, match=r"Pair 'pikk' has \d+ tokens, max_length is 64: say too_long: drop"):
        encoded(tiny_model, rows)
    _, found, counts = encoded(tiny_model, rows, too_long="drop")
    assert [one.id for one in found] == ["x:1"] and counts == {"too long": 2}
    _, found, counts = encoded(tiny_model, rows, too_long="truncate")
    assert found[0].length == 64 and len(found) == 2
    assert counts == {"too long": 2, "nothing left when cut": 1}  # the third one's prompt alone is longer


def test_an_empty_chosen_answer_is_refused_and_an_empty_rejected_one_is_not(tiny_model: Path) -> None:
    with pytest.raises(DataError, match="Pair 'x': its chosen answer is empty"):
        encoded(tiny_model, [pair("A?", " \n", "Ei.", id="x")])
    _, [found], _ = encoded(tiny_model, [pair("A?", "Jah.", "")])
    assert len(found.rejected) == 1  # a model that says nothing is what a pair may be about


def test_text_that_would_be_a_control_token_is_refused(tiny_model: Path) -> None:
    with pytest.raises(DataError, match="a control token in its text"):
        encoded(tiny_model, [pair("A?", "Jah.</s>", "Ei.")])
