"""Offline copies: look-up order, checksums, damaged files, canonical rows, the lock's findings."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench import data
from estbench import lock as lock_module
from estbench.copies import canonical_json, row_hash, rows_hash
from estbench.data import DatasetRef, load, missing
from estbench.data_checks import verify
from estbench.errors import DataError

REF = DatasetRef("owner/name", "et")
ROWS = [{"id": 1, "text": "Õhtul sõideti Võrru."}, {"id": 2, "text": "Žürii jõi šokolaadi."}]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def put(place: Path, split: str, content: bytes, *, manifest: bool = True) -> Path:
    """A split of REF in a copy, listed in its manifest."""
    path = place / REF.folder / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if manifest:
        with open(place / "MANIFEST.sha256", "a") as file:
            file.write(f"{hashlib.sha256(content).hexdigest()}  {REF.folder}/{split}.jsonl\n")
    return path


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own, no network, and a project without a lock."""
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("ESTBENCH_DATA", raising=False)
    monkeypatch.setattr(lock_module, "project_file", lambda name: tmp_path / "checkout" / name)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    place = tmp_path / "copy"
    put(place, "test", lines(ROWS))
    return place


def test_rows_of_a_copy_are_read_as_they_are(copy: Path) -> None:
    found = load(REF, ["test"], data=copy)
    assert found.splits == {"test": ROWS}
    assert found.origin == str(copy)
    assert (found.commit, found.matches_lock) == (None, None)  # nothing was pulled yet


def test_lookup_order_is_data_then_environment_then_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name: tmp_path / name for name in ("argument", "environment")} | {"home": tmp_path / "home" / "data"}
    monkeypatch.setenv("ESTBENCH_DATA", str(named["environment"]))
    for name, place in named.items():
        put(place, "test", lines([{"from": name}]))

    def origin() -> Any:
        return load(REF, ["test"], data=named["argument"]).splits["test"][0]["from"]

    assert origin() == "argument"
    (named["argument"] / REF.folder / "test.jsonl").unlink()
    assert origin() == "environment"
    (named["environment"] / REF.folder / "test.jsonl").unlink()
    assert origin() == "home"


def test_a_copy_that_lacks_one_of_the_splits_is_passed_over(copy: Path, tmp_path: Path) -> None:
    put(tmp_path / "home" / "data", "test", lines(ROWS))
    put(tmp_path / "home" / "data", "dev", lines(ROWS[:1]))
    assert load(REF, ["test", "dev"], data=copy).origin == str(tmp_path / "home" / "data")


def test_offline_without_a_copy_is_one_line_with_dataset_revision_and_cure(copy: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(REF, ["validation"], data=copy)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("owner/name:et", "revision main", "estbench data pull", "data=DIR", "HF_HUB_OFFLINE"):
        assert part in message


def test_missing_says_what_is_not_here_and_none_if_it_is(copy: Path) -> None:
    assert missing(REF, ["test"], copy) is None
    reason = missing(REF, ["test", "dev"], copy)
    assert reason is not None and "owner/name:et (test, dev)" in reason and str(copy) in reason


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_data_place_that_is_no_folder_is_refused(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "file"
    wrong.write_text("")
    if how == "environment":
        monkeypatch.setenv("ESTBENCH_DATA", str(wrong))
    with pytest.raises(DataError, match="is no folder"):
        load(REF, ["test"], data=wrong if how == "argument" else None)


def test_a_wrong_checksum_is_refused_and_a_right_one_is_not(copy: Path) -> None:
    load(REF, ["test"], data=copy)
    path = copy / REF.folder / "test.jsonl"
    path.write_bytes(path.read_bytes().replace(b"jsonl", b"").replace(b"1", b"7"))
    with pytest.raises(DataError, match="checksum"):
        load(REF, ["test"], data=copy)


def test_a_file_that_the_manifest_does_not_list_is_read_without_a_check(tmp_path: Path) -> None:
    put(tmp_path / "copy", "test", lines(ROWS), manifest=False)
    assert load(REF, ["test"], data=tmp_path / "copy").splits["test"] == ROWS


def test_a_manifest_that_is_none_is_refused(copy: Path) -> None:
    (copy / "MANIFEST.sha256").write_text("not a checksum\n")
    with pytest.raises(DataError, match="line 1"):
        load(REF, ["test"], data=copy)


DAMAGED = {
    "truncated": (lines(ROWS)[:-9], "line 2 is cut off"),
    "repeated key": (b'{"id": 1, "id": 2}\n', "twice"),
    "repeated key inside": (b'{"id": {"a": 1, "a": 1}}\n', "twice"),
    "NaN": (b'{"id": NaN}\n', "line 1"),
    "infinity": (b'{"id": 1e999}\n', "line 1"),
    "half a surrogate": (b'{"id": "\\ud800"}\n', "line 1"),
    "empty": (b"", "is empty"),
    "blank": (b"\n\r\n", "is empty"),
    "no object": (b"[1, 2]\n", "no JSON object"),
    "not UTF-8": (b'{"id": "\xe4"}\n', "not UTF-8"),
    "other fields": (b'{"id": 1}\n{"id": 2, "more": 3}\n', "other fields"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line_that_names_the_place(damage: str, tmp_path: Path) -> None:
    content, part = DAMAGED[damage]
    path = put(tmp_path / "copy", "test", content)
    with pytest.raises(DataError) as caught:
        load(REF, ["test"], data=tmp_path / "copy")
    message = str(caught.value)
    assert part in message and str(path) in message and "\n" not in message and "estbench data pull" in message


def test_byte_order_mark_and_crlf_change_no_row(tmp_path: Path) -> None:
    put(tmp_path / "copy", "test", b"\xef\xbb\xbf" + lines(ROWS).replace(b"\n", b"\r\n") + b"\r\n")
    assert load(REF, ["test"], data=tmp_path / "copy").splits["test"] == ROWS


def test_a_line_separator_inside_a_text_ends_no_row(tmp_path: Path) -> None:
    rows = [{"text": "esimene\u2028teine\u0085kolmas"}]
    put(tmp_path / "copy", "test", lines(rows))
    assert load(REF, ["test"], data=tmp_path / "copy").splits["test"] == rows


@pytest.mark.parametrize(
    "path", ["../up", "owner/..", "owner/na me\n", "/etc", "a/b/c", "", "owner/.hidden", "owner/a\0b"]
)
def test_a_dataset_name_can_not_lead_out_of_the_copy(path: str) -> None:
    with pytest.raises(DataError):
        DatasetRef(path, "et")


@pytest.mark.parametrize("name", ["../../secret", "..", "a/b", ".", "a\\..\\b/"])
def test_config_and_split_names_can_not_lead_out_of_the_copy(name: str, copy: Path) -> None:
    with pytest.raises(DataError):
        DatasetRef("owner/name", name)
    with pytest.raises(DataError):
        load(REF, [name], data=copy)


@pytest.mark.parametrize("name", ["est_Latn-eng_Latn", "20220301.en", "default", "v1.1", "kodu töö"])
def test_usual_config_names_are_taken(name: str) -> None:
    assert DatasetRef("owner/na.me", name).folder == f"owner__na.me/{name}"


def test_canonical_json_is_fixed_to_the_byte() -> None:
    row = {"b": [1, 1.0, -0.0, None, True], "a": 'õ \u00a0\u0301/"', "c": {"z": 1, "y": 2}}
    expected = '{"a":"õ \u00a0\u0301/\\"","b":[1,1.0,-0.0,null,true],"c":{"y":2,"z":1}}'
    assert canonical_json(row) == expected
    assert row_hash(row) == hashlib.sha256(expected.encode()).hexdigest()
    assert row_hash({"a": 1}) != row_hash({"a": 1.0})  # a Hub that changes a type is seen
    assert row_hash({"a": "\u00f5"}) != row_hash({"a": "o\u0303"})  # nothing is normalised behind the reader's back


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_does_not_have(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": value})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_a_row_keeps_its_hash_through_a_file_and_any_key_order(row: dict[str, Any]) -> None:
    again = json.loads(canonical_json(row))
    assert row_hash(again) == row_hash(row)
    assert row_hash(dict(reversed(list(row.items())))) == row_hash(row)


def test_the_hash_of_a_split_depends_on_order_and_every_row() -> None:
    assert rows_hash(ROWS) != rows_hash(ROWS[::-1])
    assert rows_hash(ROWS) != rows_hash(ROWS[:1])
    assert rows_hash(ROWS) == rows_hash([dict(reversed(list(row.items()))) for row in ROWS])


def lock(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    entry = {
        "commit": "c" * 40,
        "fields": {"test": sorted(rows[0])},
        "rows": {"test": len(rows)},
        "hash": {"test": rows_hash(rows)},
    }
    path = tmp_path / "checkout" / "tasks" / "data.lock"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({str(REF): entry}))


def test_a_copy_says_whether_it_is_the_locked_data(copy: Path, tmp_path: Path) -> None:
    lock(tmp_path, ROWS)
    same = load(REF, ["test"], data=copy)
    assert (same.matches_lock, same.commit) == (True, "c" * 40)
    put(tmp_path / "subset", "test", lines(ROWS[:1]))
    subset = load(REF, ["test"], data=tmp_path / "subset")
    assert (subset.matches_lock, subset.commit) == (False, None)


def test_a_task_that_names_another_revision_than_the_copys_is_refused(copy: Path, tmp_path: Path) -> None:
    lock(tmp_path, ROWS)
    load(DatasetRef("owner/name", "et", "c" * 40), ["test"], data=copy)
    with pytest.raises(DataError, match="revision"):
        load(DatasetRef("owner/name", "et", "d" * 40), ["test"], data=copy)


def test_a_damaged_lock_is_one_line(copy: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkout" / "tasks" / "data.lock"
    path.parent.mkdir(parents=True)
    for content in ("{", "[]", '{"owner/name:et": {"commit": "x"}}'):
        path.write_text(content)
        with pytest.raises(DataError, match=r"data\.lock can't be read"):
            load(REF, ["test"], data=copy)


def test_verify_tells_good_unlisted_changed_and_damaged_copies_apart(copy: Path, tmp_path: Path) -> None:
    def levels() -> dict[str, tuple[str, str]]:
        return {found.split: (found.level, found.message) for found in verify([REF], copy)}

    assert levels()["test"] == ("note", "2 rows, not in data.lock")
    lock(tmp_path, ROWS)
    assert levels()["test"] == ("ok", "2 rows")
    put(copy, "extra", lines(ROWS), manifest=False)
    put(copy, "gone", lines(ROWS)).unlink()
    put(copy, "torn", lines(ROWS)[:-4])
    found = levels()
    assert "split extra is new" in found["extra"][1]
    assert found["gone"][0] == "error" and "No such file" in found["gone"][1]
    assert found["torn"][0] == "error" and "cut off" in found["torn"][1]
    put(copy, "test", lines([{"id": 1, "more": 2}]))
    assert levels()["test"] == (
        "error",
        f"not the data of the lock (commit {'c' * 40}): "
        "split test: field text is gone, field more is new, 1 rows instead of 2",
    )


def test_verify_says_when_there_is_no_copy() -> None:
    assert [(found.level, found.message) for found in verify([REF])] == [("note", "no copy here")]


def test_listing_says_where_how_many_and_whether_locked(copy: Path, tmp_path: Path) -> None:
    other = DatasetRef("owner/other")
    here, away = data.listing([REF, other], copy)
    assert (here.path, here.config, here.place, here.rows, here.locked) == (
        "owner/name",
        "et",
        str(copy),
        {"test": 2},
        False,
    )
    assert (away.config, away.place, away.rows, away.commit) == ("default", None, {}, None)
    lock(tmp_path, ROWS)
    assert data.listing([REF], copy)[0].commit == "c" * 40


def test_looking_up_and_reading_a_copy_imports_no_datasets(copy: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from estbench.data import *;"
        f"load(DatasetRef('owner/name', 'et'), ['test'], data=Path({str(copy)!r}));"
        "missing(DatasetRef('no/where'), ['test']);"
        "assert not {'datasets', 'huggingface_hub', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
