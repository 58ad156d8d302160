"""Tokens per word, bytes per token, and what a vocabulary saves: what `estbench fertility` and the stage report."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vocab_world as world
from estbench_training.vocab import command, fertility
from estbench_training.vocab.command import FertilitySettings
from estbench_training.vocab.fertility import Cost, Fertility
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from estbench.checkpoint import Checkpoint
from estbench.config import read
from estbench.errors import ConfigError, DataError, ModelError


def words(*names: str) -> Tokenizer:
    """A tokenizer of whole words and single characters."""
    letters = sorted({letter for name in names for letter in name} | set("abcdefghijõ ,."))
    merges, known = [], {letter: number for number, letter in enumerate(letters)}
    for name in names:
        for end in range(2, len(name) + 1):
            if name[:end] not in known:
                merges.append((name[: end - 1], name[end - 1]))
                known[name[:end]] = len(known)
    made = Tokenizer(models.BPE(known, merges))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    return made


def test_the_numbers_of_a_small_text_are_those_counted_by_hand() -> None:
    """ab · c,d · õ: ab and õ are one token; c,d is three of them, with c and d one token each."""
    found = fertility.measure(words("ab"), {"t": "ab c,d õ"})["t"]
    assert found == Fertility(words=3, bytes=9, tokens=7, letters=4, whole=4)
    assert found.tokens_per_word == pytest.approx(7 / 3) and found.bytes_per_token == pytest.approx(9 / 7)
    found = fertility.measure(words("xyz"), {"t": "xyz ab abxyz"})["t"]
    assert (found.letters, found.whole, found.one_token) == (3, 1, pytest.approx(1 / 3))


@pytest.mark.parametrize("make", [world.llama2, world.llama3, world.unigram, world.demo])
@given(text=st.lists(st.sampled_from(["õun", "kool", "x", ",", " ", "\n", "ß", "7", "👍"]), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_words_of_one_token_are_those_whose_letters_one_token_holds(make: Any, text: list[str]) -> None:
    """Counted again, by looking at each token of each run of letters."""
    said = "".join(text) + "lõpp"
    tokenizer = make()
    found = fertility.measure(tokenizer, {"t": said})["t"]
    encoding = tokenizer.encode(said, add_special_tokens=False)
    whole = 0
    for run in fertility.LETTERS.finditer(said):
        whole += sum(1 for begin, end in encoding.offsets if begin < run.end() and end > run.start()) == 1
    assert (found.tokens, found.whole) == (len(encoding.ids), whole)


def test_special_tokens_are_not_counted_and_their_names_are_text() -> None:
    tokenizer = world.llama3()
    assert len(tokenizer.encode("Tere").ids) == len(tokenizer.encode("Tere", add_special_tokens=False).ids) + 1
    assert fertility.measure(tokenizer, {"t": "Tere"})["t"].tokens == len(
        tokenizer.encode("Tere", add_special_tokens=False).ids
    )
    assert fertility.measure(tokenizer, {"t": "<|eot_id|>"})["t"].tokens > 1


def test_our_texts_are_long_enough_to_measure_and_in_nfc() -> None:
    texts = fertility.texts()
    assert list(texts) == ["et", "en", "code"]
    for name, text in texts.items():
        assert len(text.split()) > 400 and text == unicodedata.normalize("NFC", text), name
    assert set("õäöü") <= set(texts["et"].lower()) and set("{};()=") <= set(texts["code"])


def test_a_file_is_measured_beside_ours_and_a_bad_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("üks kaks", "utf-8")
    assert fertility.texts({"mine": tmp_path / "a.txt"})["mine"] == "üks kaks"
    (tmp_path / "b.txt").write_bytes("üks".encode("latin-1"))
    (tmp_path / "c.txt").write_text(" \n")
    for name, complaint in (("b", "not UTF-8"), ("c", "no words"), ("d", "can't be read")):
        with pytest.raises(DataError, match=complaint):
            fertility.texts({"mine": tmp_path / f"{name}.txt"})


def test_two_texts_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mine is given twice"):
        _ = FertilitySettings("demo", texts="mine=a.txt,mine=b.txt").files


def test_what_is_saved_is_tokens_times_what_a_token_costs() -> None:
    before, after = (Fertility(100, 600, tokens, 90, 50) for tokens in (300, 200))
    small, large = Cost(body=1000, head=100), Cost(body=1000, head=300)
    assert fertility.speed_up(before, after, small, small) == pytest.approx(1.5)
    assert fertility.speed_up(before, after, small, large) == pytest.approx(1.5 * 1100 / 1300)
    assert fertility.speed_up(before, before, large, large) == 1


@pytest.mark.parametrize("tied", [True, False])
def test_the_cost_is_body_and_head_whether_tied_or_not(tmp_path: Path, tied: bool) -> None:
    shapes = {"model.embed_tokens.weight": (504, 8), "model.norm.weight": (8,), "model.up.weight": (16, 8)}
    shapes |= {} if tied else {"lm_head.weight": (504, 8)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": tied}))
    checkpoint = Checkpoint(tmp_path, "m")
    assert Cost.of(checkpoint) == Cost(body=8 + 128, head=504 * 8)
    assert Cost.of(checkpoint, 1000) == Cost(body=136, head=8000)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_compares_tokenizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.demo().save(str(tmp_path / "demo.json"))
    world.llama3().save(str(tmp_path / "other.json"))
    (tmp_path / "a.txt").write_text("Koolimaja õu", "utf-8")
    given_ = [f"tokenizers={tmp_path}/demo.json,{tmp_path}/other.json", f"texts=a={tmp_path}/a.txt"]
    assert command.run(read([*given_, "output=json"], FertilitySettings)) == 0
    answer = json.loads(capsys.readouterr().out)
    found = answer["tokenizers"]
    assert answer["known"]["source"].startswith("https://") and answer["known"]["tokens_per_word"]
    assert list(found) == [f"{tmp_path}/demo.json", f"{tmp_path}/other.json"]
    assert list(found[f"{tmp_path}/demo.json"]) == ["et", "en", "code", "a"]
    one = found[f"{tmp_path}/demo.json"]["a"]
    assert one["words"] == 2 and one["tokens_per_word"] == one["tokens"] / 2
    assert command.run(read([*given_, "output=table"], FertilitySettings)) == 0
    table = capsys.readouterr().out.splitlines()
    assert "Tokens/word" in table[0] and table[2].endswith("100 %") and table[9].startswith("a ")
    assert table[10] == "" and fertility.KNOWN_SOURCE in table[-1]


def test_a_demo_model_that_is_not_made_is_not_made_for_its_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench import demo

    monkeypatch.setattr(demo, "is_made", lambda name: False)
    assert fertility.measure(command.open_("demo"), {"t": "õu"}) == fertility.measure(world.demo(), {"t": "õu"})


def test_what_is_no_tokenizer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "x.json").write_text("{}")
    for name, complaint in ((f"{tmp_path}/x.json", "is no tokenizer.json"), ("no/where", "pull model=no/where"),
                            ("no such", "There is no tokenizer")):  # fmt: skip
        with pytest.raises(ModelError, match=complaint):
            command.open_(name)
    wrongs = {
        "tokenizers=,": "a comma too many",
        "tokenizers=demo,": "a comma too many",
        "tokenizers=demo,demo": "twice",
    }
    for given_, wrong in ((["tokenizers= "], "is missing"), ([], "is missing"), *(([k], v) for k, v in wrongs.items())):
        with pytest.raises(ConfigError, match=wrong):
            read(given_, FertilitySettings)
    with pytest.raises(ConfigError, match="texts=et=FILE"):
        _ = read(["tokenizers=demo", "texts=file.txt"], FertilitySettings).files


def test_what_a_tokenizer_cannot_say_is_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control: a tokenizer with all bytes says everything, however the text is composed."""
    small = words("ab")
    small.save(str(tmp_path / "small.json"))
    (tmp_path / "a.txt").write_text("ab 日本 õ %", "utf-8")
    assert fertility.measure(small, {"t": "ab 日本 õ %"})["t"].unsaid == 3
    unknown = Tokenizer(models.WordLevel({"[UNK]": 0, "ab": 1}, unk_token="[UNK]"))
    unknown.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert fertility.measure(unknown, {"t": "ab 日本 õ %"})["t"].unsaid == 4
    for make in (world.llama2, world.llama3, world.demo):
        for text in ("日本 ab 👍🏽", "o\u0303a\u0308 Ä", " \n x"):
            assert fertility.measure(make(), {"t": text})["t"].unsaid == 0
    given_ = [f"tokenizers={tmp_path}/small.json", f"texts=a={tmp_path}/a.txt", "output=table"]
    assert command.run(read(given_, FertilitySettings)) == 0
    assert f"{tmp_path}/small.json can't say 3 characters of a:" in capsys.readouterr().out


def test_a_tokenizer_that_gives_no_tokens_is_one_line() -> None:
    with pytest.raises(ModelError, match="gives no tokens for the text 'b'"):
        fertility.measure(words("ab"), {"a": "ab", "b": "日本"})
    with pytest.raises(ModelError, match="gives no tokens"):
        fertility.measure(Tokenizer(models.BPE()), fertility.texts())


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("üks kaks", "utf-8-sig")
    assert fertility.texts({"mine": tmp_path / "a.txt"})["mine"] == "üks kaks"


def test_a_folder_without_a_tokenizer_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no tokenizer in .*: give a folder that has a tokenizer\.json"):
        command.open_(str(tmp_path))
    with pytest.raises(ModelError, match="pull model=MODEL"):  # a path is nothing to pull
        command.open_(f"{tmp_path}/nowhere")


def test_spaces_behind_commas_make_no_difference() -> None:
    found = FertilitySettings("demo, other.json", texts="a=a.txt, b=b.txt")
    assert found.names == ("demo", "other.json") and list(found.files) == ["a", "b"]
