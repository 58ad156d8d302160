"""What sft, pairs and dpo read is what its stage made, holds no test where it comes from a file, and is named on the
card with its licence."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from card_world import context
from chat_world import model, save, words
from estbench_training import card, provenance, recipe, rows, stages
from estbench_training.card import CardFacts
from estbench_training.prepare import decontaminate
from estbench_training.shards import Shards, Writer, tokenizer_hash
from estbench_training.sieve import REASON
from made_up_words import Words
from prepare_world import made_up_tests

from estbench.cards import Decontaminated
from estbench.errors import DataError

Row = dict[str, Any]
WORDS = Words(23)
SECRET = WORDS.text(12)  # a test's
LOOKED = {"tool": "estbench contamination", "tasks": ["a", "b"], "documents": 10, "removed": 1}
FAST: Row = {
    "template": "chatml",
    "max_length": 128,
    "batch": 2,
    "steps": 1,
    "precision": "fp32",
    "logging": {"tensorboard": False},
}


def talk(question: str, answer: str = "Pime aeg.", source: str = "alpaca-et") -> Row:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": source}


def pair(question: str, source: str = "helpsteer3") -> Row:
    said = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "Jah."), ("rejected", "Ei."))}
    return {"prompt": [{"role": "user", "content": question}], **said, "source": source}


def write(path: Path, given: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given), "utf-8")
    return path


def made_rows(folder: Path, given: Sequence[Row], **manifest: Any) -> Path:
    """What a stage of rows leaves."""
    digest = hashlib.sha256(write(folder / rows.ROWS, given).read_bytes()).hexdigest()
    row = {"sha256": digest, "decontaminated": None, "sources": {}, **manifest}
    (folder / rows.MANIFEST).write_text(json.dumps({key: value for key, value in row.items() if value != "gone"}))
    return folder


def made_shards(folder: Path, base: Path, **facts: Any) -> Path:
    """What a prepare stage leaves, with a source `et`."""
    about = {"hash": tokenizer_hash(base), "name": "base", "vocab_size": 400, "bos": 0, "eos": 1}
    with Writer(folder / "shards" / "et", about) as writer:
        documents = [[0, *range(40, 60 + n), 1] for n in range(20)]
        writer.add(np.concatenate(documents).astype(np.uint32), np.array([len(one) for one in documents]))
        writer.finish(
            {"source": "et", "licence": "cc0-1.0", "url": "https://et.example", "decontaminated": None, **facts}
        )
    return folder


class Made:
    """A folder with a base, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        tokenizer = words()
        save(folder / "base", tokenizer, model(tokenizer))

    def run(self, *given: Mapping[str, Any]) -> list[Path]:
        row = {"name": "demo", "base": "./base", "licence": "apache-2.0", "seed": 7, "stages": list(given)}
        steps = stages.run(recipe.from_row(row, self.folder), self.folder / "out", self.said.append)
        return [step.folder for step in steps]


@pytest.fixture
def made(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    from estbench_training.cpt import plots

    monkeypatch.setattr(plots, "curves", lambda *_: None)
    return Made(tmp_path)


def report_of(folder: Path) -> Row:
    found: Row = json.loads((folder / "data.json").read_text())
    return found


# --- the file that the stage made -------------------------------------------------------------------------------------


def test_rows_that_changed_since_their_stage_made_them_are_refused(tmp_path: Path, home: Path) -> None:
    folder = made_rows(tmp_path / "rows-stage", [talk("Mis on öö?"), talk("Miks?")])
    assert len(list(rows.read_rows(folder))) == 2
    text = (folder / rows.ROWS).read_text()
    (folder / rows.ROWS).write_text(text.replace("Miks", "Kuid"))  # as long as before
    with pytest.raises(DataError, match=r"rows\.jsonl changed since it was made") as caught:
        list(rows.read_rows(folder))
    assert "\n" not in str(caught.value)
    (folder / rows.ROWS).write_text(text)
    assert len(list(rows.read_rows(folder))) == 2


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        ({"sha256": "gone"}, "lacks the sha256"),
        ({"sources": "gone"}, "names no sources"),
        ({"sources": {"a": {}}}, "lacks the licence"),
        ({"sources": {"a": {"licence": 7}}}, "is no text"),
        ({"decontaminated": "gone"}, "doesn't say whether tests were kept out"),
        ({"decontaminated": {"tool": "x"}}, "doesn't say how tests were kept out"),
    ],
)
def test_a_manifest_that_lacks_something_is_one_line(tmp_path: Path, home: Path, manifest: Row, complaint: str) -> None:
    folder = made_rows(tmp_path / "stage", [talk("Mis?")], **manifest)
    with pytest.raises(DataError, match=complaint) as caught:
        provenance.of_folder(folder)
    assert "manifest.json" in str(caught.value) and "\n" not in str(caught.value)


def test_shards_to_replay_that_are_damaged_are_refused_with_their_place(made: Made) -> None:
    corpus = made_shards(made.folder / "corpus", made.folder / "base")
    Shards.open(corpus / "shards" / "et").check()
    file = corpus / "shards" / "et" / "00000.bin"
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    write(made.folder / "rows.jsonl", [talk("Mis on öö?")] * 4)
    stage = {"name": "sft", "kind": "sft", "data": "./rows.jsonl", **FAST, "decontaminate": "none"}
    with pytest.raises(DataError, match=r"00000\.bin is damaged between byte 0 and"):
        made.run({**stage, "replay": {"data": "./corpus/", "share": 0.3}})
    (corpus / "shards" / "et" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="is no manifest of shards"):
        made.run({**stage, "replay": {"data": "./corpus/", "share": 0.31}})


# --- tests are kept out of files --------------------------------------------------------------------------------------


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, whose text is SECRET."""
    monkeypatch.setattr(decontaminate, "collect", lambda *_: made_up_tests([SECRET]))


DIRTY = f"Ütle: {SECRET}. Jah?"


def test_rows_of_a_file_that_hold_a_test_are_not_learnt(made: Made, secret: None) -> None:
    write(made.folder / "rows.jsonl", [talk(WORDS.text(6)), talk("Mis?", DIRTY), talk(WORDS.text(6))])
    write(made.folder / "old.jsonl", [talk(WORDS.text(8)) for _ in range(4)] + [talk(DIRTY), talk(DIRTY)])
    stage = {"name": "sft", "kind": "sft", "data": "./rows.jsonl", **FAST, "max_length": 256}
    replay = {"data": "./old.jsonl", "share": 0.5}
    [folder] = made.run({**stage, "replay": replay})
    report = report_of(folder)
    assert report["conversations"] == 2 and report["left_out"] == {REASON: 3}
    assert report["provenance"]["decontaminated"] == {
        "tool": "estbench contamination",
        "tasks": ["t0"],
        "documents": 9,
        "removed": 3,
    }
    assert report["files"]["by_task"] == {"t0": 3} and any(REASON in line for line in made.said)
    found = json.loads((folder / "model" / "train_card.json").read_text())
    assert found["decontaminated"]["removed"] == 3
    assert not list(folder.glob(".tests*"))


def test_where_nobody_is_to_look_that_is_said_and_the_card_has_none(made: Made, secret: None) -> None:
    write(made.folder / "rows.jsonl", [talk("Mis?", DIRTY), talk("Miks?")])
    [folder] = made.run(
        {"name": "sft", "kind": "sft", "data": "./rows.jsonl", **FAST, "max_length": 256, "decontaminate": "none"}
    )
    assert report_of(folder)["conversations"] == 2
    assert sum("decontaminate: none" in line for line in made.said) == 1
    assert json.loads((folder / "model" / "train_card.json").read_text())["decontaminated"] is None


def test_a_stages_rows_are_not_looked_at_again(made: Made, secret: None) -> None:
    made_rows(made.folder / "stage", [talk(DIRTY), talk("Miks?")], decontaminated=LOOKED)
    [folder] = made.run({"name": "sft", "kind": "sft", "data": "./stage/", **FAST, "max_length": 256})
    report = report_of(folder)
    assert report["conversations"] == 2 and report["provenance"]["decontaminated"] == LOOKED


def test_pairs_of_files_that_hold_a_test_are_left_out_by_dpo_and_by_pairs(made: Made, secret: None) -> None:
    write(made.folder / "pairs.jsonl", [pair("Mis?"), pair(DIRTY), pair("Miks?")])
    stage = {"name": "dpo", "kind": "dpo", "data": "./pairs.jsonl", **FAST}
    existing = {"path": "./pairs.jsonl", "licence": "cc-by-4.0", "url": "https://pairs.example"}
    [dpo, pairs] = made.run(stage, {"name": "pairs", "kind": "pairs", "existing": {"helpsteer3": existing}})
    report = report_of(dpo)
    assert report["pairs"] == 2 and report["left_out"] == {REASON: 1}
    manifest = json.loads((pairs / "manifest.json").read_text())
    assert manifest["pairs"] == 2 and manifest["existing"]["helpsteer3"]["left_out"] == {REASON: 1}
    assert manifest["sources"] == {"helpsteer3": {"licence": "cc-by-4.0", "url": "https://pairs.example"}}
    assert manifest["decontaminated"]["removed"] == 1 and manifest["files"]["documents"] == 3
    assert len(list(rows.read_pairs(pairs))) == 2  # its checksum is that of the manifest


# --- what the card names ----------------------------------------------------------------------------------------------


def test_licences_and_decontamination_survive_from_cpt_to_sft_to_dpo(made: Made, tmp_path: Path) -> None:
    cpt = context(tmp_path, shutil.copytree(made.folder / "base", tmp_path / "older"), "cpt")
    card.write(cpt, made.folder / "base", CardFacts("base", "cpt", tokens=10))
    one = {"alpaca-et": {"licence": "cc-by-4.0", "url": "https://alpaca.example"}}
    made_rows(made.folder / "instructions", [talk(WORDS.text(4)) for _ in range(8)], sources=one, decontaminated=LOOKED)
    made_shards(made.folder / "corpus", made.folder / "base", decontaminated={**LOOKED, "tasks": ["b", "c"]})
    two = {"helpsteer3": {"licence": "cc-by-sa-4.0", "url": None}}
    made_rows(made.folder / "pairs", [pair("Mis?"), pair("Miks?")], sources=two, decontaminated=LOOKED)
    sft = {"name": "sft", "kind": "sft", "data": "./instructions/", "replay": {"data": "./corpus/", "share": 0.2}}
    folders = made.run({**FAST, **sft}, {**FAST, "name": "dpo", "kind": "dpo", "data": "./pairs/"})
    first, second = (json.loads((folder / "model" / "train_card.json").read_text()) for folder in folders)
    assert [row["stage"] for row in second["lineage"]] == ["base", "cpt", "sft", "dpo"]
    assert {row["name"]: row["licence"] for row in first["data"]} == {"alpaca-et": "cc-by-4.0", "et": "cc0-1.0"}
    assert first["decontaminated"] == {**LOOKED, "tasks": ["b"], "documents": 20, "removed": 2}
    assert [(row["name"], row["licence"], row["share"]) for row in second["data"]] == [
        ("helpsteer3", "cc-by-sa-4.0", 1.0),
    ]
    assert second["decontaminated"] == LOOKED
    readme = (folders[0] / "model" / "README.md").read_text()
    assert "https://alpaca.example" in readme and "https://et.example" in readme


def test_what_one_part_was_not_held_against_is_not_claimed_of_the_whole() -> None:
    both = Decontaminated("tool", ("a", "b"), 5, 1)
    assert provenance.together([both, None]) is None and provenance.together([]) is None
    assert provenance.together([both, Decontaminated("tool", ("b",), 2, 0)]) == Decontaminated("tool", ("b",), 7, 1)
