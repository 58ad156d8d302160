"""The texts that a vocabulary is learnt on: where they come from, how many they are, and what is kept out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import vocab_world as world
from estbench_training import recipe as recipes
from estbench_training import stages
from estbench_training.prepare import decontaminate
from estbench_training.prepare.settings import SourceSettings
from estbench_training.vocab.forms import Vocabulary
from estbench_training.vocab.settings import VocabSettings
from made_up_words import Words
from prepare_world import made_up_tests, write
from vocab_world import DATA
from vocab_world import run as make

from estbench.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return world.bases(tmp_path_factory.mktemp("bases"))


def test_an_empty_source_is_named(tmp_path: Path, bases: Mapping[str, Path]) -> None:
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


def test_what_a_source_may_give_goes_by_its_share() -> None:
    data = {name: SourceSettings(demo="et", documents=1) for name in ("a", "b")}
    assert VocabSettings("shrink", data, characters=100).most_of("a") == 50
    assert VocabSettings("shrink", data, characters=100, shares={"a": 3, "b": 1}).most_of("a") == 75


# --- tests are kept out -----------------------------------------------------------------------------------------------

WORDS = Words(7)
SECRET = WORDS.text(14)
MINE = {"path": "mine.jsonl", "language": "et", "licence": "cc0-1.0", "url": "https://x.ee"}


def mixed(folder: Path) -> list[str]:
    """Thirty texts in mine.jsonl, every tenth of which holds the secret; those that don't are given."""
    clean = [WORDS.text(20, 30) for _ in range(27)]
    dirty = [f"{WORDS.text(9)} {SECRET.upper()} {WORDS.text(9)}" for _ in range(3)]
    write(folder / "mine.jsonl", [text for at in range(3) for text in (dirty[at], *clean[9 * at : 9 * at + 9])])
    return clean


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontaminate, "collect", lambda *_: made_up_tests([SECRET]))


def learnt(folder: Path) -> set[bytes]:
    """Of the secret's words those that are a token."""
    known = {content.strip() for content in Vocabulary.of(folder / "model").content}
    return {word for one in SECRET.upper().split() if len(word := one.encode()) > 6 and word in known}


@pytest.mark.usefixtures("secret")
def test_no_token_is_learnt_from_a_text_that_holds_a_part_of_a_test(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    """Control: with decontaminate: none the test's words become tokens, and the card claims nothing."""
    clean = mixed(tmp_path)
    keys: dict[str, Any] = {"mode": "extend", "size": 1500, "min_count": 3, "data": {"mine": MINE}}
    said: list[str] = []
    kept = make(tmp_path, bases["llama3"], said.append, **keys, decontaminate={})
    left = make(tmp_path, bases["llama3"], **keys)
    assert not learnt(kept) and len(learnt(left)) > 3
    report = json.loads((kept / "report.json").read_text("utf-8"))
    told = {"tool": "estbench contamination", "tasks": ["t0"], "documents": 30, "removed": 3}
    assert report["decontaminated"] == told | {"by_task": {"t0": 3}}
    assert report["data"]["mine"]["characters"] == sum(map(len, clean))
    assert any("mine: 27 documents" in line and "(left out: a part of a test is in it 3)" in line for line in said)
    card = json.loads((kept / "model" / "train_card.json").read_text("utf-8"))
    assert card["decontaminated"] == told
    said = (kept / "model" / "README.md").read_text("utf-8")
    assert "Decontaminated against the test documents" in said and "| how | extend" in said
    assert json.loads((left / "report.json").read_text("utf-8"))["decontaminated"] is None
    assert json.loads((left / "model" / "train_card.json").read_text("utf-8"))["decontaminated"] is None


@pytest.mark.usefixtures("secret")
def test_a_source_of_tests_alone_is_named_with_what_was_left_out(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    write(tmp_path / "mine.jsonl", [SECRET, SECRET])
    with pytest.raises(DataError, match=r"Source mine .*no text \(left out: a part of a test is in it 2\)"):
        make(tmp_path, bases["llama3"], mode="shrink", data={"mine": MINE}, decontaminate={})


@pytest.mark.usefixtures("home")
def test_without_the_tests_data_the_stage_ends_unless_it_is_told(
    tmp_path: Path, bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESTBENCH_DATA", raising=False)
    write(tmp_path / "mine.jsonl", [WORDS.text(20)])
    with pytest.raises(DataError, match="Decontamination needs the data of"):
        make(tmp_path, bases["llama3"], mode="shrink", data={"mine": MINE}, decontaminate={})
    assert not list(tmp_path.glob("out/*/model"))


def test_which_tests_are_looked_for_belongs_to_the_key(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    """The default is all of them, as in a prepare stage."""
    stage = {"name": "v", "kind": "vocab", "mode": "shrink", "data": world.DATA}

    def key(**more: Any) -> str:
        row = {"name": "tiny", "base": str(bases["demo"]), "stages": [stage | more]}
        (planned,) = stages.chain(recipes.from_row(row, tmp_path), tmp_path)
        return planned.key

    tests: tuple[Any, ...] = ("none", {"tasks": "mini_qa"}, {"tasks": "mini_copa"}, {})
    keys = [key(decontaminate=some) for some in tests]
    assert len({*keys}) == 4 and key() == keys[-1]


def test_documents_that_are_read_are_those_that_limit_counts(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    write(tmp_path / "mine.jsonl", ["üks kaks", " ", "kolm neli", "viis kuus"])
    made = make(tmp_path, bases["llama3"], mode="shrink", data={"mine": MINE | {"limit": 2}})
    report = json.loads((made / "report.json").read_text("utf-8"))
    assert report["data"]["mine"]["characters"] == len("üks kaks") + len("kolm neli")


def test_a_text_that_begins_with_a_page_of_spaces_is_measured(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    write(tmp_path / "mine.jsonl", [" " * 100_001 + "koolimaja õues"])
    made = make(tmp_path, bases["demo"], mode="shrink", data={"mine": MINE})
    report = json.loads((made / "report.json").read_text("utf-8"))
    assert report["texts"]["data.mine"]["new"]["words"] == 2


# --- licences ---------------------------------------------------------------------------------------------------------


def test_no_licence_is_made_up(tmp_path: Path, bases: Mapping[str, Path]) -> None:
    """Only the demo world's is known without being said."""
    write(tmp_path / "mine.jsonl", ["üks kaks"])
    data = {"said": MINE | {"licence": "odc-by"}, "demo": world.DATA["et"]}
    made = make(tmp_path, bases["demo"], mode="shrink", data=data)
    card = json.loads((made / "model" / "train_card.json").read_text("utf-8"))
    assert {one["name"]: one["licence"] for one in card["data"]} == {
        "said": "odc-by",
        "demo": "apache-2.0",
    }
    with pytest.raises(ConfigError, match="licence have to be said"):
        make(tmp_path, bases["demo"], mode="shrink", data={"empty": MINE | {"licence": ""}})
