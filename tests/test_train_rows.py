"""Rows are read as they are written, and a row that is none is named by file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from estbench_training.rows import read_pairs, read_raw, read_rows

from estbench.errors import DataError

ROW = {
    "messages": [{"role": "user", "content": "Mis on öö?"}, {"role": "assistant", "content": "Pime aeg."}],
    "source": "alpaca-et",
    "id": 7,
    "score": 0.5,
}
PAIR = {
    "prompt": [{"role": "system", "content": "Ole lühike."}, {"role": "user", "content": "Mis on öö?"}],
    "chosen": [{"role": "assistant", "content": "Pime aeg."}],
    "rejected": [{"role": "assistant", "content": "Ei tea."}],
}


def write(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def said(role: str, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", "stage"])
def test_every_form_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / f"rows{ending}"
    if ending == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist([ROW, ROW]), path)
    elif ending == ".jsonl.zst":
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write((json.dumps(ROW) + "\n").encode() * 2)
    elif ending == "stage":
        path = tmp_path / "sft-rows-0123456789ab"
        path.mkdir()
        digest = hashlib.sha256(write(path / "rows.jsonl", ROW, ROW).read_bytes()).hexdigest()
        (path / "manifest.json").write_text(json.dumps({"sha256": digest}), "utf-8")
    else:
        write(path, ROW, ROW)
    first, second = read_rows(path)
    assert list(first.messages) == ROW["messages"] and (first.source, first.id) == ("alpaca-et", "7")
    assert second.where.endswith(":2") and [raw["score"] for raw in read_raw(path)] == [0.5, 0.5]


def test_a_byte_order_mark_and_empty_lines_are_let_pass_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\ufeff" + json.dumps(ROW) + "\n\n" + json.dumps({"messages": ROW["messages"]}) + "\n", "utf-8")
    first, second = read_rows(path)
    assert first.where == f"{path}:1" and second.where == f"{path}:3" and second.source == "rows"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{no json", "rows.jsonl:2 is no JSON"),
        ("[1]", "rows.jsonl:2 is no JSON object"),
        ({"text": "x"}, "rows.jsonl:2 lacks 'messages'; it has 'text'"),
        ({"messages": []}, "rows.jsonl:2: 'messages' has to be a list of messages"),
        ({"messages": "Tere"}, "has to be a list of messages"),
        ({"messages": [{"from": "human", "value": "x"}]}, r"messages\[0\] has to be a message"),
        ({"messages": [said("user", None)]}, "the content a text"),
        ({"messages": [said("user", ["x"])]}, "the content a text"),
        ({"messages": [said("tool")]}, "the role 'tool' is not one of system, user, assistant"),
        ({"messages": [said("assistant")]}, "message 1 is the assistant's, where the user's was due"),
        ({"messages": [said("user"), said("user")]}, "message 2 is the user's, where the assistant's was due"),
        ({"messages": [said("system"), said("assistant")]}, "message 2 is the assistant's"),
        ({"messages": [said("user"), said("system")]}, "message 2 is the system's"),
        ({"messages": [said("system")]}, "has no message of the user"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "half of a character"),
    ],
)
def test_a_row_that_is_no_conversation_is_named_by_its_line(row: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=complaint):
        list(read_rows(write(tmp_path / "rows.jsonl", ROW, row)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"chosen": None}, "pairs.jsonl:1 lacks 'chosen'"),
        ({"rejected": [said("user")]}, "message 3 is the user's, where the assistant's was due"),
        ({"prompt": [said("user"), said("assistant")]}, "message 3 is the assistant's, where the user's was due"),
        ({"chosen": []}, "has to be a list of messages"),
    ],
)
def test_a_pair_that_is_none_is_named_by_its_line(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    row = {key: value for key, value in {**PAIR, **change}.items() if value is not None}
    with pytest.raises(DataError, match=complaint):
        list(read_pairs(write(tmp_path / "pairs.jsonl", row)))


def test_pairs_keep_what_else_they_have(tmp_path: Path) -> None:
    [pair] = read_pairs(write(tmp_path / "pairs.jsonl", {**PAIR, "chosen_score": 0.9}))
    assert pair["chosen"] == PAIR["chosen"] and pair["chosen_score"] == 0.9 and pair["where"].endswith(":1")


def test_files_that_are_missing_cut_off_or_not_utf8_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        list(read_rows(tmp_path / "none.jsonl"))
    cut = write(tmp_path / "cut.jsonl.gz", *[ROW] * 50)
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DataError, match="can't be read to its end"):
        list(read_rows(cut))
    (tmp_path / "latin.jsonl").write_bytes('{"messages": "öö"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_rows(tmp_path / "latin.jsonl"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="no whole Parquet file"):
        list(read_rows(tmp_path / "bad.parquet"))
