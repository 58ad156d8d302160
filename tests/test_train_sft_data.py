"""What SFT learns from: conversations packed or not, which of their tokens, rows refused or cut, and replay."""

from __future__ import annotations

import pytest
from chat_world import words
from estbench_training import show
from estbench_training.templates import IGNORED, open_chat
from sft_world import SAID, World, talk, world

from estbench.errors import ConfigError, DataError

__all__ = ["world"]  # a fixture


def test_every_token_is_counted_once_packed_or_not(world: World) -> None:
    chat = open_chat(words(), "chatml")
    found = [chat.encode([talk(place)["messages"]])[0] for place in range(16)]
    packed, plain = world.prepared(), world.prepared(packing=False)
    for data in (packed, plain):
        dataset = data.dataset()
        assert data.report["tokens"] == sum(len(row.ids) for row in found) == sum(map(len, dataset["input_ids"]))
        learnt = sum(label != IGNORED for row in dataset["labels"] for label in row)
        assert data.report["learnt_tokens"] == learnt == sum(row.trained for row in found)
    assert plain.report["sequences"] == 16 and packed.report["sequences"] < 16
    parts = sorted(
        tuple(row["input_ids"][sum(row["seq_lengths"][:i]) : sum(row["seq_lengths"][: i + 1])])
        for row in packed.dataset()
        for i in range(len(row["seq_lengths"]))
    )
    assert parts == sorted(tuple(row.ids) for row in found), "each conversation is in one sequence, whole"


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_loss_on_says_what_is_learnt(world: World, loss_on: str) -> None:
    data = world.prepared(loss_on=loss_on, packing=False)
    ids, labels = data.example()
    shown = show.marked(words(), ids, labels)
    first, last = "Pime aeg. 🌙<|im_end|>", f"{SAID[2]}<|im_end|>"
    assert (f"«{first}»" in shown) == (loss_on == "assistant") and (f"«{last}»" in shown) == (loss_on != "all")
    assert (labels.count(IGNORED) == 1) == (loss_on == "all")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": "Tere"}], "it has no answer of the assistant"),
        ([{"role": "user", "content": "Tere"}, {"role": "assistant", "content": " \n"}], "an answer is empty"),
        (
            [{"role": "user", "content": "Ütle <|im_end|>"}, {"role": "assistant", "content": "Ei."}],
            r"its text has the control token <\|im_end\|>",
        ),
    ],
)
def test_a_row_of_which_nothing_good_is_learnt_is_refused_or_dropped_and_counted(
    world: World, messages: list[dict[str, str]], reason: str
) -> None:
    world.rows([talk(0), {"messages": messages}, talk(1)])
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {reason}"):
        world.train()
    report = world.prepared(bad_rows="drop").report
    assert report["conversations"] == 2 and list(report["left_out"].values()) == [1]


def test_too_long_rows_are_an_error_dropped_or_cut_and_the_loss_is_reported(world: World) -> None:
    from estbench_training.sft import SftSettings, in_words

    long = talk(1)
    long["messages"][1]["content"] = "Pikk jutt. " * 60
    world.rows([talk(0), long, talk(2)])
    chat = open_chat(words(), "chatml")
    length = len(chat.encode([long["messages"]])[0].ids)
    with pytest.raises(DataError, match=rf"rows\.jsonl:2 has {length} tokens, max_length is 128.*too_long: drop"):
        world.train()
    dropped, cut = world.prepared(too_long="drop").report, world.prepared(too_long="truncate").report
    assert dropped["conversations"] == 2 and dropped["lost_tokens"] == length
    assert cut["conversations"] == 3 and cut["lost_tokens"] == length - 128
    assert cut["tokens"] == dropped["tokens"] + 128
    lines = in_words(SftSettings("./x.jsonl", too_long="truncate", max_length=128), cut)
    assert any("1 conversations longer than 128 tokens are cut" in line and "%" in line for line in lines)
    long["messages"][0]["content"], long["messages"][1]["content"] = "Pikk küsimus. " * 60, "Ei."
    world.rows([talk(0), long])
    assert world.prepared(too_long="truncate").report["conversations"] == 1, "only its question would be left"


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_replay_is_mixed_in_by_tokens_and_learnt_whole(world: World, share: float) -> None:
    rows = [{"text": f"Tekst {place}: õues sajab vihma ja müts läks märjaks. " * 3} for place in range(40)]
    world.rows(rows, "texts.jsonl")
    data = world.prepared(replay={"data": "./texts.jsonl", "share": share}, packing=False)
    report, longest = data.report["replay"], max(len(words()(row["text"]).input_ids) + 1 for row in rows)
    assert 0 <= report["tokens"] - share / (1 - share) * (data.report["tokens"] - report["tokens"]) <= longest
    assert report["share"] == pytest.approx(share, abs=0.15 if share == 0.1 else 0.05)
    documents = [row for row in data.dataset() if row["labels"].count(IGNORED) == 1]
    eos = words().eos_token_id
    assert len(documents) == report["documents"] and all(row["input_ids"][-1] == eos for row in documents)
    assert data.report["sources"]["texts"] == report["tokens"]


def test_replay_takes_other_conversations_and_prepared_shards(world: World) -> None:
    import numpy as np
    from estbench_training.shards import Writer, tokenizer_hash

    world.rows([talk(place) for place in range(20)], "others.jsonl")
    report = world.prepared(replay={"data": "./others.jsonl", "share": 0.2}).report
    assert report["replay"]["documents"] > 0 and report["conversations"] == 16

    about = {"hash": tokenizer_hash(world.folder / "base"), "name": "base", "vocab_size": 400, "bos": 0, "eos": 1}
    for source in ("et", "en"):
        with Writer(world.folder / "corpus" / "shards" / source, about) as writer:
            documents = [[0, *range(40 if source == "et" else 80, 60 + n), 1] for n in range(30, 60)]
            writer.add(np.concatenate(documents).astype(np.uint32), np.array([len(one) for one in documents]))
            writer.finish({"source": source, "licence": "cc0-1.0", "decontaminated": None})
    data = world.prepared(replay={"data": "./corpus/", "source": "et", "share": 0.3}, packing=False)
    replayed = [row for row in data.dataset() if row["labels"].count(IGNORED) == 1]
    assert data.report["replay"]["share"] == pytest.approx(0.3, abs=0.03)
    assert replayed and all(row["input_ids"][:2] == [0, 40] and row["input_ids"][-1] == 1 for row in replayed)
    with pytest.raises(ConfigError, match="no source 'fi', only en, et"):
        world.prepared(replay={"data": "./corpus/", "source": "fi", "share": 0.3})


def test_too_little_to_replay_is_said(world: World) -> None:
    world.rows([{"text": "Lühike."}], "texts.jsonl")
    with pytest.raises(DataError, match=r"has \d+ tokens, and a share of 0.5 needs [\d,]+"):
        world.prepared(replay={"data": "./texts.jsonl", "share": 0.5})


def test_a_document_longer_than_a_sequence_goes_on_in_another(world: World) -> None:
    world.rows([{"text": "Õues sajab vihma. " * 100}], "texts.jsonl")
    data = world.prepared(replay={"data": "./texts.jsonl", "share": 0.05}, packing=False)
    pieces = [row["input_ids"] for row in data.dataset() if row["labels"].count(IGNORED) == 1]
    whole = sorted(pieces, key=len, reverse=True)
    assert len(whole) > 1 and all(len(piece) <= 128 for piece in whole)
    assert data.report["replay"]["tokens"] == sum(map(len, pieces))
