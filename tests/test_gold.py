"""Golds that are withheld: supplied by a file, refused if it does not fit, never part of what may be published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estbench import data, golds, lm_tasks, lock, registry
from estbench.copies import rows_hash
from estbench.errors import ConfigError, DataError
from estbench.golds import apply_gold, gold_hash, lacks_gold, without_gold

SPEC = {"key": "qID", "fields": ["answer"]}
ROWS = [{"qID": f"q{number}", "sentence": f"Lause {number} _."} for number in range(3)]
GOLDS = [{"qID": f"q{number}", "answer": str(number % 2 + 1)} for number in range(3)]
TASK = """\
task: toy
dataset_path: owner/name
test_split: test
output_type: generate_until
doc_to_text: "{{sentence}}"
doc_to_target: "{{answer}}"
metadata:
  title: {et: "Proov", en: "Toy"}
  form: completion
  primary: exact_match
  access: withheld
  gold: {key: qID, fields: [answer]}
"""


def gold_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> registry.Task:
    """A task whose golds are withheld, and an offline copy of its rows in $ESTBENCH_DATA."""
    folder = tmp_path / "checkout"
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "toy.yaml").write_text(TASK)
    copy = tmp_path / "copy" / "owner__name" / "default"
    copy.mkdir(parents=True)
    (copy / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ESTBENCH_DATA", str(tmp_path / "copy"))
    for module in (data, lock, registry):
        monkeypatch.setattr(module, "project_file", lambda name: folder / name)
    return registry.Registry().task("toy")


def test_a_gold_file_supplies_what_rows_lack(tmp_path: Path) -> None:
    rows = apply_gold(ROWS, SPEC, gold_file(tmp_path, [{"qID": "q9", "answer": "1"}, *reversed(GOLDS)]))
    assert [row["answer"] for row in rows] == ["1", "2", "1"]
    assert [row["sentence"] for row in rows] == [row["sentence"] for row in ROWS]
    assert not lacks_gold(rows, SPEC)


def test_without_a_file_golds_are_null_and_the_rows_say_so() -> None:
    rows = apply_gold(ROWS, SPEC, None)
    assert [row["answer"] for row in rows] == [None] * 3
    assert lacks_gold(rows, SPEC) and not lacks_gold([*GOLDS], SPEC)


def test_golds_that_rows_have_are_kept(tmp_path: Path) -> None:
    own: list[dict[str, Any]] = [{**ROWS[0], "answer": "2"}, ROWS[1] | {"answer": None}]
    assert [row["answer"] for row in apply_gold(own, SPEC, gold_file(tmp_path, GOLDS))] == ["2", "2"]
    assert apply_gold(own[:1], SPEC, tmp_path / "missing.jsonl") == own[:1]  # a file that is not needed is not read


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "lacks an id": (GOLDS[:1], "lacks the golds of 2 of 3 items, qID 'q1' first"),
    "has an id twice": ([*GOLDS, GOLDS[0]], "qID 'q0' twice"),
    "has other fields": ([{"qID": "q0", "label": 1}], "item 1 has no answer"),
    "has no key": ([{"id": "q0", "answer": "1"}], "item 1 has no qID"),
    "has a null": ([GOLDS[0], {"qID": "q1", "answer": None}], "item 2 has no answer"),
    "has a list as its key": ([{"qID": ["q0"], "answer": "1"}], "neither text nor number"),
    "has ids of another type": ([{"qID": 0, "answer": "1"}], "lacks the golds of 3 of 3"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_gold_file_that_does_not_fit_is_one_line(fault: str, tmp_path: Path) -> None:
    rows, part = BAD[fault]
    with pytest.raises(DataError) as caught:
        apply_gold(ROWS, SPEC, path := gold_file(tmp_path, rows))
    assert part in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{cut", b"\xff", b"[1]\n", b'{"qID": "q0"}\n{"answer": "1"}\n'])
def test_a_damaged_gold_file_is_one_line_that_asks_for_no_pull(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        apply_gold(ROWS, SPEC, tmp_path / "gold.jsonl")
    assert "\n" not in str(caught.value) and "pull" not in str(caught.value)


def test_a_missing_gold_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl can't be read"):
        apply_gold(ROWS, SPEC, tmp_path / "none.jsonl")


def test_rows_without_the_key_are_a_fault_of_the_card(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"correct metadata\.gold"):
        apply_gold([{"id": "q0"}], SPEC, gold_file(tmp_path, GOLDS))
    for spec in ({"key": "qID"}, "qID", {"key": "qID", "fields": "answer"}):
        with pytest.raises(ConfigError, match=r"metadata\.gold"):
            apply_gold(ROWS, spec, None)


def test_what_may_be_hashed_and_shown_has_no_gold(tmp_path: Path) -> None:
    one = apply_gold(ROWS, SPEC, gold_file(tmp_path, GOLDS))
    other = apply_gold(ROWS, SPEC, gold_file(tmp_path, [row | {"answer": "1"} for row in GOLDS]))
    assert [without_gold(row, SPEC) for row in one] == [without_gold(row, SPEC) for row in other] == ROWS
    assert gold_hash(one, SPEC) != gold_hash(other, SPEC)  # but two gold files are told apart
    assert without_gold(one[0], None) is one[0]


def test_a_tasks_rows_and_hashes_with_and_without_golds(card: registry.Task, tmp_path: Path) -> None:
    bare = lm_tasks.load_rows(card, None)
    assert bare.withheld and bare.gold_hash is None
    assert [row["answer"] for row in bare.splits["test"]] == [None] * 3
    full = lm_tasks.load_rows(card, None, gold=gold_file(tmp_path, GOLDS))
    assert not full.withheld and full.gold_hash == gold_hash(full.splits["test"], SPEC)
    assert full.hashes == bare.hashes == {"test": rows_hash(ROWS)}  # the data is the same, with golds and without


def test_a_task_that_withholds_nothing_takes_no_golds(card: registry.Task, tmp_path: Path) -> None:
    path = card.path
    path.write_text(TASK[: TASK.index("  gold:")])
    found = lm_tasks.load_rows(registry.Registry().task("toy"), None, gold=tmp_path / "not read.jsonl")
    assert (found.splits["test"], found.withheld, found.gold_hash) == (ROWS, False, None)
    assert "gold=FILE" in golds.REASON


def test_a_gold_that_is_no_answer_is_found_when_the_file_is_read(tmp_path: Path) -> None:
    spec = SPEC | {"values": ["1", "2"]}
    for wrong in ("3", "A", "", "option1"):
        path = gold_file(tmp_path, [*GOLDS[:2], {"qID": "q2", "answer": wrong}])
        with pytest.raises(DataError, match=r"gold\.jsonl, item 3: the gold .* is none of 1, 2"):
            apply_gold(ROWS, spec, path)
    numbers = [row | {"answer": int(row["answer"])} for row in GOLDS]  # written as numbers: the same golds
    assert apply_gold(ROWS, spec, gold_file(tmp_path, numbers)) == apply_gold(ROWS, spec, gold_file(tmp_path, GOLDS))
