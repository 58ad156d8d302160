"""Decontamination: what holds a part of a test goes, every time it comes, and the manifest says what was looked for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from estbench_training.prepare import decontaminate
from estbench_training.prepare.decontaminate import Finder
from estbench_training.prepare.settings import DecontaminateSettings
from estbench_training.shards import Shards
from made_up_words import Words
from prepare_world import made_up_tests, make_tokenizer, prepare, source, texts_of, write

from estbench.contamination import text
from estbench.demo import rows
from estbench.errors import DataError
from estbench.registry import Registry

WORDS = Words(11)
TESTS = [[WORDS.text(12, 40) for _ in range(10)] for _ in range(2)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def finder(folder: Path, tests: decontaminate.Tests) -> Finder:
    tests.save(folder)
    return Finder(folder, tests.with_near)


def around(part: str) -> str:
    return f"{WORDS.text(20)} {part} {WORDS.text(20)}"


def test_each_document_that_holds_a_part_is_found_every_time(tmp_path: Path) -> None:
    tests = made_up_tests(*TESTS)
    clean = [WORDS.text(10, 80) for _ in range(50)]
    eight = " ".join(TESTS[0][3].split()[2:10]).upper()
    dirty = {7: around(eight), 20: TESTS[1][4], 21: TESTS[1][4], 33: around(TESTS[0][0]), 40: around(eight)}
    found = finder(tmp_path, tests).find([dirty.get(number, one) for number, one in enumerate(clean)])
    assert {number: tests.tasks_of(finds) for number, finds in found.items()} == {
        7: ["t0"],
        20: ["t1"],
        21: ["t1"],
        33: ["t0"],
        40: ["t0"],
    }
    seven = " ".join(word for word in eight.split()[:7])[:45]
    assert finder(tmp_path, tests).find([around(seven)]) == {}


def test_a_text_of_two_tasks_names_both(tmp_path: Path) -> None:
    tests = made_up_tests(TESTS[0], TESTS[0][:1])
    (finds,) = finder(tmp_path, tests).find([TESTS[0][0]]).values()
    assert tests.tasks_of(finds) == ["t0", "t1"]


@pytest.mark.parametrize("place", [0, text.BLOCK - 40, 2 * text.BLOCK])
def test_a_part_is_found_anywhere_in_a_long_document(tmp_path: Path, place: int) -> None:
    filler = "ta " * text.BLOCK
    tests = made_up_tests(TESTS[0])
    long = filler[:place] + f" {TESTS[0][5]} " + filler[place:]
    assert set(finder(tmp_path, tests).find(["õ", long, filler])) == {1}


def test_near_duplicates_are_found_where_asked(tmp_path: Path) -> None:
    words = ["".join(WORDS.dice.choices("abdeghijklmnoprstuvõäöü", k=4)) for _ in range(84)]
    blocks = [words[start : start + 7] for start in range(0, 84, 7)]
    close = " ".join(word for block in blocks[::-1] for word in block)  # neither 8 words nor 50 letters are in a row
    for name, near, expected in (("a", False, set()), ("b", True, {0, 2})):
        tests = made_up_tests([" ".join(words)], near=near)
        found = finder(tmp_path / name, tests).find([close, WORDS.text(80), close])
        assert set(found) == expected
        assert all(tests.tasks_of(finds) == ["t0"] for finds in found.values())


def test_tests_documents_go_and_the_manifest_reports_it(tmp_path: Path, tokenizer: Path) -> None:
    shown = [row["context"] for row in rows("mini_qa")["test"][:2]]
    clean = [WORDS.text(30) for _ in range(5)]
    write(tmp_path / "a.jsonl", [clean[0], around(shown[0]), *clean[1:], shown[1]])
    said: list[str] = []
    shards = prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, said, decontaminate={"tasks": "mini_qa,mini_copa"})
    assert texts_of(shards / "et", tokenizer) == clean
    manifest = Shards.open(shards / "et").manifest
    report = manifest["decontaminated"]
    assert manifest["dropped"] == {"contaminated": 2}
    assert (report["tool"], report["documents"], report["removed"]) == ("estbench contamination", 7, 2)
    assert report["tasks"] == ["mini_qa", "mini_copa"] and set(report["items"]) == {"mini_qa", "mini_copa"}
    assert report["missing"] == [] and report["by_task"] == {"mini_qa": 2}
    content = (shards / "et" / report["list"]["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == report["list"]["sha256"]
    removed = [json.loads(line) for line in content.splitlines()]
    assert [(row["place"], row["id"], row["tasks"]) for row in removed] == [
        ("a.jsonl:2", "d1", ["mini_qa"]),
        ("a.jsonl:7", "d6", ["mini_qa"]),
    ]
    assert removed[1]["sha256"] == hashlib.sha256(shown[1].encode()).hexdigest()
    assert any("7 documents read, 5 left after filters (contaminated 2)" in line for line in said)


def test_left_out_it_has_to_be_written(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", [around("õ")])
    said: list[str] = []
    shards = prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, said, decontaminate="none")
    assert Shards.open(shards / "et").manifest["decontaminated"] is None
    assert not (shards / "et/contaminated.jsonl").exists()
    assert any("Tests' documents stay in the training data" in line for line in said)


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESTBENCH_DATA", raising=False)


@pytest.mark.usefixtures("without_data")
def test_every_test_is_looked_for_unless_said_and_missing_data_stops(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", [around("õ")])
    with pytest.raises(DataError, match=r"needs the data of \d+ tasks that is not here \(.* and \d+ more\)") as caught:
        prepare(tmp_path, tokenizer, {"et": source("a.jsonl")})
    assert "\n" not in str(caught.value) and "`estbench data pull`" in str(caught.value)
    assert "missing: skip" in str(caught.value) and not (tmp_path / "stage").exists()
    with pytest.raises(DataError, match="the data of none of the tasks is here"):
        decontaminate.collect(DecontaminateSettings("belebele_et,estcopa", missing="skip"), None)


@pytest.mark.usefixtures("without_data")
def test_what_is_missing_may_be_left_out_and_is_named(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = Registry().tasks
    few = {name: every[name] for name in ("belebele_et", "mini_follow", "estcopa")}
    monkeypatch.setattr(Registry, "tasks", few)
    write(tmp_path / "a.jsonl", [around("õ")])
    said: list[str] = []
    shards = prepare(tmp_path, tokenizer, {"et": source("a.jsonl")}, said, decontaminate={"missing": "skip"})
    report = Shards.open(shards / "et").manifest["decontaminated"]
    assert (report["tasks"], report["missing"]) == (["mini_follow"], ["belebele_et", "estcopa"])
    assert any(line.startswith("Not looked for, their data is not here: belebele_et, estcopa.") for line in said)
