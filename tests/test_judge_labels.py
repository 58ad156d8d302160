"""The label file: what is written is read back, what is torn is mended, what is odd is named with its line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from estbench_judges import labels
from estbench_judges.labels import Label
from hypothesis import given
from hypothesis import strategies as st

from estbench.errors import ConfigError, DataError, StoreError

PAIR = Label(
    task="estinstruct_chat",
    doc="d" * 64,
    mode="pairwise",
    answer="a" * 32,
    anchor="b" * 32,
    name="org/mudel-8B",
    rater="Õie",
    content=1.0,
    language=0.5,
    first="anchor",
    seconds=12.25,
    at="2026-11-21T09:30:00+00:00",
    note="Teine on täpsem.\n„Nii“ ka.",
)
SAME = replace(PAIR, mode="equivalence", anchor=None, language=None, first=None, content=0.0, note="")
UNSURE = replace(PAIR, content=None, language=None, doc="e" * 64)


def quiet(_: str) -> None:
    """For reads that have nothing to say."""


def row(**changes: Any) -> dict[str, Any]:
    """A vote as the file holds it, with some fields changed."""
    return asdict(PAIR) | changes


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "labels.jsonl"
    for label in (PAIR, SAME, UNSURE):
        labels.append(path, label)
    assert labels.read(path) == [PAIR, SAME, UNSURE]
    text = path.read_text("utf-8")
    assert text.count("\n") == 3 and "Õie" in text and '"note"' not in text.splitlines()[1]


@given(st.text(max_size=200).map(str.strip), st.text(min_size=1, max_size=30).filter(lambda name: bool(name.strip())))
def test_any_text_is_kept_as_it_is(tmp_path_factory: pytest.TempPathFactory, note: str, rater: str) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    label = replace(PAIR, note=note, rater=rater)
    labels.append(path, label)
    labels.append(path, SAME)
    assert labels.read(path) == [label, SAME]


def test_a_vote_that_was_changed_counts_as_it_was_last_and_that_is_said(tmp_path: Path) -> None:
    path, said = tmp_path / "labels.jsonl", list[str]()
    later, other = replace(PAIR, content=0.0), replace(PAIR, rater="Uku")
    for label in (PAIR, other, later):
        labels.append(path, label)
    assert labels.read(path, said.append) == [other, later]
    assert said == [f"{path}: 1 vote was given again by the same rater; the later one counts."]
    said.clear()
    labels.read(lines(path, row(), row(rater="Uku"), row(doc="e" * 64)), said.append)
    assert said == []  # two raters, two documents: nobody voted twice


@pytest.mark.parametrize("cut", [1, 2, 30, -2, -1])
def test_a_torn_last_line_is_left_out_and_the_next_vote_is_whole(tmp_path: Path, cut: int) -> None:
    path, said = tmp_path / "labels.jsonl", list[str]()
    labels.append(path, PAIR)
    torn = labels.as_line(UNSURE).rstrip(b"\n")[:cut]
    with open(path, "ab") as file:
        file.write(torn)
    assert labels.read(path, said.append) == [PAIR]
    assert said == [f"{path}: line 2 was not written to its end; that vote is left out."]
    labels.append(path, SAME)
    assert labels.read(path) == [PAIR, SAME]


def test_zeros_that_a_crash_left_are_torn_too(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(labels.as_line(PAIR) + b"\0" * 100)
    assert labels.read(path, quiet) == [PAIR]
    labels.append(path, SAME)
    assert labels.read(path) == [PAIR, SAME]


def test_a_whole_last_line_without_its_newline_is_a_vote(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(labels.as_line(PAIR).rstrip(b"\n"))
    assert labels.read(path) == [PAIR]
    labels.append(path, SAME)
    assert labels.read(path) == [PAIR, SAME]


def test_a_line_torn_in_the_middle_of_the_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(labels.as_line(PAIR)[:40] + b"\n" + labels.as_line(SAME))
    with pytest.raises(DataError, match=r"labels.jsonl, line 1: it is not JSON"):
        labels.read(path)


@pytest.mark.parametrize("end", [b"see on minu essee", b'[1, 2, {"a": 3}]', b'{"task": "x"}'])
def test_another_file_is_neither_read_nor_written_to(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "essee.txt"
    path.write_bytes(end)
    with pytest.raises(DataError, match="line 1"):
        labels.read(path)
    with pytest.raises(DataError, match="does not end with a vote"):
        labels.append(path, PAIR)
    assert path.read_bytes() == end


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"content": 0.7}, "content is none of 0, 0.5, 1"),
        ({"content": True}, "content is none of"),
        ({"content": "1"}, "content is none of"),
        ({"language": -1}, "language is none of"),
        ({"content": None}, "content is null where language is not"),
        ({"mode": "pointwise"}, "mode is neither"),
        ({"mode": "equivalence"}, "no anchor, first or language"),
        ({"anchor": None}, "anchor is not the hash"),
        ({"answer": "A" * 32}, "answer is not the hash"),
        ({"answer": 5}, "answer is not the hash"),
        ({"first": "a"}, "first is neither model nor anchor"),
        ({"seconds": -1}, "seconds is not a number"),
        ({"seconds": True}, "seconds is not a number"),
        ({"seconds": "12"}, "seconds is not a number"),
        ({"at": "2026-11-21T09:30:00"}, "at is not an ISO time with its zone"),
        ({"at": "yesterday"}, "at is not an ISO time"),
        ({"at": 1_795_000_000}, "at is not an ISO time"),
        ({"rater": " "}, "rater is not a text"),
        ({"doc": None}, "doc is not a text"),
        ({"note": 3}, "note is not a text"),
        ({"note": "x" * 5000}, "note is not a text of at most 4000"),
        ({"juge": "gpt"}, "'juge' is no field"),
    ],
)
def test_what_is_odd_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    path = lines(tmp_path / "labels.jsonl", row(doc="e" * 64), row(**changes))
    with pytest.raises(DataError, match=f"labels.jsonl, line 2: .*{why}"):
        labels.read(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b"vote", "not JSON"),
        (b"[]", "not an object"),
        (b"[" * 100_000, "not JSON|nested"),
        (json.dumps(row()).replace("12.25", "NaN").encode(), "NaN is no number"),
        (json.dumps(row()).replace("12.25", "Infinity").encode(), "Infinity is no number"),
        (json.dumps(row()).replace("12.25", "1e999").encode(), "seconds is not a number"),
        (json.dumps(row())[:-1].encode() + b', "content": 0}', "a field is there twice"),
        (json.dumps({key: value for key, value in row().items() if key != "rater"}).encode(), "'rater' is missing"),
    ],
)
def test_what_is_no_vote_is_named_with_its_line(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(DataError, match=f"line 1: .*({why})"):
        labels.read(path)


def test_what_editors_do_to_files_is_let_pass(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + labels.as_line(PAIR).replace(b"\n", b"\r\n") + b"\r\n" + labels.as_line(SAME))
    assert labels.read(path) == [PAIR, SAME]


def test_what_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    for label in (replace(PAIR, content=0.3), replace(PAIR, rater="\ud800"), replace(PAIR, seconds=float("nan"))):
        with pytest.raises(DataError, match="can't be kept"):
            labels.append(path, label)
    assert not path.exists()


def test_a_file_that_is_not_there_or_not_writable_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="estbench judge label"):
        labels.read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="can't be read"):
        labels.read(tmp_path)
    with pytest.raises(StoreError, match="the vote is not kept"):
        labels.append(tmp_path, PAIR)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path; from estbench_judges import labels\n"
        "path, rater = Path(sys.argv[1]), sys.argv[2]\n"
        "one = labels.read(path)[0]\n"
        "for number in range(40): labels.append(path, replace(one, rater=rater, doc=str(number)))\n"
    )
    labels.append(path, PAIR)
    running = [subprocess.Popen([sys.executable, "-c", code, path, rater], env={**os.environ}) for rater in ("A", "B")]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(labels.read(path)) == 81


def test_votes_of_people_are_by_pair_and_rater() -> None:
    uku = replace(PAIR, rater="Uku", content=0.0, language=None)
    found = labels.human([uku, PAIR, SAME, UNSURE], "content")
    assert found == {PAIR.key: {"Uku": 0.0, "Õie": 1.0}, SAME.key: {"Õie": 0.0}}
    assert list(found[PAIR.key]) == ["Uku", "Õie"]
    assert labels.human([uku, PAIR, SAME, UNSURE], "language") == {PAIR.key: {"Õie": 0.5}}
    with pytest.raises(ConfigError, match="content or language"):
        labels.human([PAIR], "style")  # type: ignore[arg-type]


def test_the_table_for_spreadsheets_holds_no_formula() -> None:
    table = labels.as_csv([PAIR, SAME, replace(UNSURE, note="=HYPERLINK(1)", rater="-x")])
    found = list(csv.DictReader(table.splitlines(keepends=True)))
    assert found[0]["note"] == PAIR.note and found[0]["content"] == "1.0" and found[1]["anchor"] == ""
    assert found[2]["note"] == "'=HYPERLINK(1)" and found[2]["rater"] == "'-x" and found[2]["content"] == ""
