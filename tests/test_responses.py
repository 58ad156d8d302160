"""The response store: nothing is lost, nothing is half there."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from estbench.engines.base import Generated, Response, Scored
from estbench.errors import StoreError
from estbench.responses import SYNC_EVERY, ResponseStore

PACKS: list[dict[str, Response]] = [
    {"a": Scored(-1.25, True), "b": Scored(-0.1 - 0.2, False)},
    {"c": Generated("õäöüšž\n\u2028 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), 7, "stop")},
    {"d": Scored(-3.0000000000000004, False)},
]
ALL = {key: response for pack in PACKS for key, response in pack.items()}


def fill(root: Path, packs: list[dict[str, Response]] = PACKS) -> Path:
    with ResponseStore("f00d", root) as store:
        for pack in packs:
            store.append(pack)
    (file,) = (root / "f00d").glob("*.jsonl")
    return file


def load(root: Path, fingerprint: str = "f00d") -> dict[str, Response]:
    return ResponseStore(fingerprint, root).load(ALL)


def test_what_is_stored_comes_back_bit_for_bit(tmp_path: Path) -> None:
    fill(tmp_path)
    assert load(tmp_path) == ALL


def test_only_the_store_of_this_fingerprint_is_read(tmp_path: Path) -> None:
    fill(tmp_path).rename(tmp_path / "f00d" / "x.jsonl")
    assert load(tmp_path, "beef") == {}
    (tmp_path / "beef").mkdir()
    (tmp_path / "beef" / "unreadable.jsonl").mkdir()  # reading it would fail
    assert load(tmp_path) == ALL


def test_a_torn_last_record_is_dropped_whole_wherever_it_is_torn(tmp_path: Path) -> None:
    file = fill(tmp_path)
    content = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for cut in range(len(content)):
        file.write_bytes(content[:cut])
        store = ResponseStore("f00d", tmp_path)
        whole = sum(end <= cut for end in ends)
        assert store.load(ALL) == {key: r for pack in PACKS[:whole] for key, r in pack.items()}
        assert store.damaged == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_byte_loses_its_own_record_only(tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / uuid4().hex
    file = fill(root)
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.sampled_from([byte for byte in range(256) if byte not in (content[at], 10)]))
    if bytes(file.read_bytes())[at] == 10:
        return  # a newline lost glues two records together: both are computed again
    file.write_bytes(bytes(content))
    found = ResponseStore("f00d", root).load(ALL)
    hit = sum(end <= at for end in [i for i, byte in enumerate(file.read_bytes()) if byte == 10])
    assert found == {key: r for n, pack in enumerate(PACKS) if n != hit for key, r in pack.items()}


def test_two_processes_never_write_to_one_file(tmp_path: Path) -> None:
    with ResponseStore("f00d", tmp_path) as one, ResponseStore("f00d", tmp_path) as two:
        one.append(PACKS[0])
        two.append(PACKS[1])
        one.append(PACKS[2])
    assert len(list((tmp_path / "f00d").glob("*.jsonl"))) == 2
    assert load(tmp_path) == ALL


def test_a_pack_is_with_the_system_when_append_returns(tmp_path: Path) -> None:
    store = ResponseStore("f00d", tmp_path)
    store.append(PACKS[0])
    assert load(tmp_path) == PACKS[0]  # read before anything is closed
    store.close()


def test_packs_are_forced_to_disk_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), synced.set())[0])
    store = ResponseStore("f00d", tmp_path)
    store.append(PACKS[0])
    assert synced.wait(60) and SYNC_EVERY <= 1  # the first at once, the next after a pause: nothing else is written
    synced.clear()
    store.append(PACKS[1])
    assert synced.wait(60)
    store.close()


class FullDisk:
    """A file that takes a few bytes and is full then."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = content[: self.room]
        self.room -= len(taken)
        return int(self.file.write(taken))


def test_a_disk_that_fills_up_keeps_what_was_stored(tmp_path: Path) -> None:
    store = ResponseStore("f00d", tmp_path)
    store.append(PACKS[0])
    store._file = FullDisk(store._file, room=25)  # type: ignore[assignment]
    with pytest.raises(StoreError, match=r"No space left.*free some space and run the same command again"):
        store.append(PACKS[1])
    store.close()
    assert load(tmp_path) == PACKS[0]


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="ESTBENCH_HOME"):
        ResponseStore("f00d", tmp_path / "file").check_writable()


def test_nothing_is_written_without_a_response(tmp_path: Path) -> None:
    with ResponseStore("f00d", tmp_path) as store:
        assert store.load(ALL) == {}
    assert list(tmp_path.iterdir()) == []
