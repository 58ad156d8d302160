"""Keys: a file's hash follows its content, whatever is done to its times."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench import identity
from estbench.engines.base import Decoding, Request


def hash_of(path: Path, store: Path) -> str:
    return identity.FileHashes(store).of([path])[path][0]


def age(path: Path, seconds: float = 60) -> None:
    """Make a file look old (its ctime can't be changed, so the clock that `_one` reads is moved instead)."""
    past = time.time() - seconds
    os.utime(path, (past, past))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock says that everything was written a minute ago."""
    now = time.time
    monkeypatch.setattr(identity.time, "time", lambda: now() + 60)


@pytest.mark.usefixtures("later")
def test_a_hash_is_remembered_between_processes(tmp_path: Path) -> None:
    file, store = tmp_path / "weights", tmp_path / "cache.jsonl"
    file.write_bytes(b"a" * 1000)
    first = hash_of(file, store)
    assert store.read_text().count("\n") == 1
    assert hash_of(file, store) == first and store.read_text().count("\n") == 1


def test_a_file_younger_than_two_seconds_is_not_trusted(tmp_path: Path) -> None:
    file, store = tmp_path / "weights", tmp_path / "cache.jsonl"
    file.write_bytes(b"a")
    hash_of(file, store)
    assert not store.exists()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("how", ["write", "cp -p", "rename over", "rsync --inplace"])
def test_overwriting_in_place_is_seen_even_when_size_and_mtime_stay(tmp_path: Path, how: str) -> None:
    file, other, store = tmp_path / "weights", tmp_path / "other", tmp_path / "cache.jsonl"
    file.write_bytes(b"a" * 1000)
    other.write_bytes(b"b" * 1000)
    age(file), age(other)
    times = os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns
    os.utime(other, ns=times)
    before = hash_of(file, store)
    time.sleep(0.02)  # the kernel's clock ticks
    if how == "write":
        file.write_bytes(b"b" * 1000)
    elif how == "cp -p":
        shutil.copy2(other, file)
    elif how == "rename over":
        other.rename(file)
    else:
        with open(file, "r+b") as inside:
            inside.write(b"b" * 1000)
    os.utime(file, ns=times)
    assert os.stat(file).st_mtime_ns == times[1] and os.stat(file).st_size == 1000
    assert hash_of(file, store) != before


@pytest.mark.usefixtures("later")
def test_a_torn_cache_is_only_slower(tmp_path: Path) -> None:
    file, store = tmp_path / "weights", tmp_path / "cache.jsonl"
    file.write_bytes(b"a")
    whole = hash_of(file, store)
    text = store.read_text()
    for cut in range(len(text)):
        store.write_text(text[:cut])
        assert hash_of(file, store) == whole


def test_a_cache_that_cannot_be_written_is_only_slower(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a")
    assert hash_of(file, tmp_path / "weights" / "no folder") == hash_of(file, tmp_path / "cache")


def request(prompt: list[int], continuation: list[int] | None = None, decoding: Decoding | None = None) -> Request:
    scored = None if continuation is None else np.array(continuation, np.int32)
    return Request(np.array(prompt, np.int32), scored, decoding)


FINGERPRINT = "ab" * 32
ids = st.lists(st.integers(0, 300_000), max_size=6)


@given(ids, ids, ids, ids)
def test_equal_requests_and_only_those_have_equal_keys(a: list[int], b: list[int], c: list[int], d: list[int]) -> None:
    left, right = (identity.response_key(FINGERPRINT, request(p, q).content()) for p, q in ((a, b), (c, d)))
    assert (left == right) == ((a, b) == (c, d))


def test_every_part_of_a_request_is_in_its_key() -> None:
    requests = [
        request([1, 2], [3]),
        request([1], [2, 3]),
        request([1, 2, 3]),
        request([1, 2, 3], decoding=Decoding(8)),
        request([1, 2, 3], decoding=Decoding(9)),
        request([1, 2, 3], decoding=Decoding(8, ("\n",))),
        request([1, 2, 3], decoding=Decoding(8, ("\n", ""))),
        request([1, 2, 3], decoding=Decoding(8, temperature=0.7)),
        request([1, 2, 3], decoding=Decoding(8, temperature=0.7, seed=1)),
        request([1, 2, 3], decoding=Decoding(8, temperature=0.7, top_p=0.9)),
    ]
    keys = {identity.response_key(FINGERPRINT, r.content()) for r in requests}
    keys |= {identity.response_key("cd" * 32, r.content()) for r in requests}
    assert len(keys) == 2 * len(requests)


def test_the_source_hash_follows_imports_inside_estbench() -> None:
    assert identity.estbench_imports("from estbench.metrics import qa\nimport estbench.stats, os") == {
        "estbench.metrics",
        "estbench.metrics.qa",
        "estbench.stats",
    }


def test_the_source_hash_does_not_depend_on_where_the_code_lies(tmp_path: Path) -> None:
    import importlib.util

    def function_in(folder: Path) -> object:
        folder.mkdir()
        (folder / "functions.py").write_text(
            "from estbench.metrics import qa\ndef score(doc, results): return {'em': 1}\n"
        )
        spec = importlib.util.spec_from_file_location("functions", folder / "functions.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.score

    here, there = function_in(tmp_path / "here"), function_in(tmp_path / "there")
    assert identity.source_hash([here]) == identity.source_hash([there])  # type: ignore[list-item]
    (tmp_path / "there" / "functions.py").write_text("def score(doc, results): return {'em': 0}\n")
    identity._source.cache_clear()
    assert identity.source_hash([here]) != identity.source_hash([there])  # type: ignore[list-item]
