"""Pulling from the Hub, with a stand-in at the one seam (`estbench.data.fetch`), and the Hub's faults."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estbench import data, hub
from estbench import lock as lock_module
from estbench.copies import read_manifest, rows_hash
from estbench.data import DatasetRef, load, pull
from estbench.data_checks import verify
from estbench.errors import DataError
from estbench.hub import Fetched, hub_error

REF = DatasetRef("owner/name", "et")
FIRST, SECOND = "1" * 40, "2" * 40
ROWS = {"test": [{"id": 1, "text": "Õun"}, {"id": 2, "text": "Ööbik"}], "dev": [{"id": 9, "text": "Ämber"}]}


class StandIn:
    """A Hub with one data set: commit -> splits."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, list[dict[str, Any]]]] = {FIRST: ROWS}
        self.newest = FIRST
        self.asked: list[str | None] = []

    def __call__(self, path: str, config: str | None, revision: str | None) -> Fetched:
        self.asked.append(revision)
        commit = revision or self.newest
        return Fetched(commit, self.commits[commit])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project in a checkout whose lock knows the data set's name only."""
    folder = tmp_path / "checkout"
    (folder / "tasks").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "tasks" / "data.lock").write_text('{"owner/name:et": null}')
    return folder


@pytest.fixture
def remote(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ESTBENCH_DATA", raising=False)
    monkeypatch.setattr(lock_module, "project_file", lambda name: checkout / name)
    monkeypatch.setattr(data, "fetch", stand_in)
    return stand_in


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_load_pulls_once_and_reads_the_copy_from_then_on(remote: StandIn, tmp_path: Path) -> None:
    first = load(REF, ["test"])
    assert (first.splits["test"], first.commit, first.matches_lock) == (ROWS["test"], FIRST, True)
    assert first.origin == str(tmp_path / "home" / "data")
    assert load(REF, ["test", "dev"]) == data.Dataset(
        REF, ROWS, {**first.hashes, "dev": rows_hash(ROWS["dev"])}, first.origin, FIRST, True
    )
    assert remote.asked == [None]


def test_the_first_pull_fills_the_null_of_the_lock(remote: StandIn, checkout: Path) -> None:
    pull(REF)
    assert json.loads((checkout / "tasks" / "data.lock").read_text()) == {
        "owner/name:et": {
            "commit": FIRST,
            "fields": {"dev": ["id", "text"], "test": ["id", "text"]},
            "rows": {"dev": 1, "test": 2},
            "hash": {split: rows_hash(rows) for split, rows in ROWS.items()},
        }
    }


def test_a_copy_made_by_pull_passes_sha256sum_and_verify(remote: StandIn, tmp_path: Path) -> None:
    pull(REF)
    assert [found.level for found in verify([REF])] == ["ok", "ok"]
    place = tmp_path / "home" / "data"
    assert sorted(read_manifest(place)) == ["owner__name/et/dev.jsonl", "owner__name/et/test.jsonl"]
    assert sorted(path.name for path in place.iterdir()) == [".pull", "MANIFEST.sha256", "owner__name"]


def test_a_later_pull_asks_for_the_locked_commit(remote: StandIn) -> None:
    pull(REF)
    remote.commits[SECOND], remote.newest = {"test": ROWS["dev"]}, SECOND
    assert pull(REF).commit == FIRST
    assert remote.asked == [None, FIRST]


CHANGES: dict[str, tuple[dict[str, list[dict[str, Any]]], str]] = {
    "rows": ({**ROWS, "test": ROWS["test"][:1]}, "split test: 1 rows instead of 2"),
    "field gone": ({**ROWS, "dev": [{"id": 9}]}, "split dev: field text is gone"),
    "field new": ({**ROWS, "dev": [{"id": 9, "text": "Ämber", "url": ""}]}, "split dev: field url is new"),
    "content": ({**ROWS, "dev": [{"id": 9, "text": "ämber"}]}, "split dev: rows have other content"),
    "type": ({**ROWS, "dev": [{"id": "9", "text": "Ämber"}]}, "split dev: rows have other content"),
    "split gone": ({"test": ROWS["test"]}, "split dev is gone"),
    "split new": ({**ROWS, "train": ROWS["dev"]}, "split train is new"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_is_refused_says_what_changed_and_leaves_everything(
    change: str, remote: StandIn, tmp_path: Path
) -> None:
    pull(REF)
    before = tree(tmp_path)
    remote.commits[FIRST], part = CHANGES[change]
    with pytest.raises(DataError) as caught:
        pull(REF)
    message = str(caught.value)
    assert (
        part in message
        and "owner/name:et" in message
        and FIRST in message
        and "update=true" in message
        and "\n" not in message
    )
    assert tree(tmp_path) == before


def test_update_takes_the_newest_data_and_drops_splits_that_are_gone(remote: StandIn, checkout: Path) -> None:
    pull(REF)
    remote.commits[SECOND], remote.newest = {"test": ROWS["dev"]}, SECOND
    pull(REF, update=True)
    found = load(REF, ["test"])
    assert (found.commit, found.splits["test"], found.matches_lock) == (SECOND, ROWS["dev"], True)
    assert json.loads((checkout / "tasks" / "data.lock").read_text())["owner/name:et"]["rows"] == {"test": 1}
    asked = len(remote.asked)
    with pytest.raises(DataError, match="no split dev"):
        load(REF, ["dev"])
    assert len(remote.asked) == asked  # known from the lock, the Hub is not asked


def test_outside_a_checkout_the_lock_of_home_is_written_and_read(
    remote: StandIn, checkout: Path, tmp_path: Path
) -> None:
    (checkout / "pyproject.toml").unlink()
    pull(REF)
    assert json.loads((checkout / "tasks" / "data.lock").read_text()) == {"owner/name:et": None}
    assert json.loads((tmp_path / "home" / "data.lock").read_text())["owner/name:et"]["commit"] == FIRST
    assert load(REF, ["test"]).matches_lock is True
    assert pull(REF).commit == FIRST and remote.asked[-1] == FIRST


def test_an_installed_lock_is_not_overruled(remote: StandIn, checkout: Path) -> None:
    pull(REF)
    (checkout / "pyproject.toml").unlink()
    remote.commits[SECOND], remote.newest = {"test": ROWS["dev"]}, SECOND
    before = tree(checkout.parent)
    with pytest.raises(DataError, match="pins other data"):
        pull(REF, update=True)
    assert tree(checkout.parent) == before


@pytest.mark.parametrize("splits", [{"test": []}, {"../up": ROWS["test"]}, {}])
def test_an_answer_of_the_hub_that_can_not_be_kept_writes_nothing(splits: Any, remote: StandIn, tmp_path: Path) -> None:
    remote.commits[FIRST] = splits
    before = tree(tmp_path)
    with pytest.raises(DataError):
        pull(REF)
    assert tree(tmp_path) == before


def test_a_full_disk_leaves_the_old_copy_whole(
    remote: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(REF)
    before = tree(tmp_path)
    remote.commits[SECOND], remote.newest = {"test": ROWS["dev"]}, SECOND
    monkeypatch.setattr("estbench.copies.os.fsync", _no_space)
    with pytest.raises(DataError, match="No space left"):
        pull(REF, update=True)
    assert tree(tmp_path) == before


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


def _pull(name: str) -> None:
    vars(data)["fetch"] = StandIn()  # a process of its own
    pull(DatasetRef(f"owner/{name}", "et"))


def test_pulls_at_once_lose_no_line_of_manifest_or_lock(remote: StandIn, checkout: Path, tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_pull, args=(f"name{i}",)) for i in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert all(process.exitcode == 0 for process in processes)
    assert len(read_manifest(tmp_path / "home" / "data")) == 12
    assert len(lock_module.read_lock()) == 6


# --- the Hub itself: faults of its libraries ------------------------------------------------------------------------


def fault(message: str, *kinds: str, status: int | None = None) -> Exception:
    """An exception whose class and ancestors have these names: the libraries' own need a request to be made."""
    kind: type[Exception] = Exception
    for name in reversed(kinds):
        kind = type(name, (kind,), {})
    error = kind(message)
    if status is not None:
        error.response = types.SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


FAULTS: list[tuple[Exception, str, str]] = [
    (fault("Access to it is restricted.", "GatedRepoError", "RepositoryNotFoundError"), "is gated", "HF_TOKEN"),
    (
        fault("'owner/name' is a gated dataset", "DatasetNotFoundError"),
        "is gated",
        "https://huggingface.co/datasets/owner/name",
    ),
    (fault("answer 403", "HfHubHTTPError", status=403), "is gated", "HF_TOKEN"),
    (fault("404 Client Error.", "RepositoryNotFoundError"), "is not on the Hub", "renamed"),
    (fault("It doesn't exist", "DatasetNotFoundError"), "is not on the Hub", "data=DIR"),
    (fault("404", "RevisionNotFoundError", "HfHubHTTPError"), "does not have this revision", "update=true"),
    (fault("slow", "ReadTimeout", "TimeoutException"), "did not answer in time", "try again"),
    (fault("no route", "ConnectError", "NetworkError"), "can't be reached", "estbench data pull"),
    (ConnectionError("offline"), "can't be reached", "data=DIR"),
    (fault("answer 503", "HfHubHTTPError", status=503), "HTTP 503", "later"),
    (
        ValueError("BuilderConfig 'et' not found.\nAvailable: ['fi']"),
        "BuilderConfig 'et' not found. Available",
        "data=DIR",
    ),
]


@pytest.mark.parametrize(
    ("error", "part", "cure"), FAULTS, ids=lambda value: type(value).__name__ if isinstance(value, Exception) else ""
)
def test_each_fault_of_the_hub_is_one_line_with_dataset_revision_and_cure(
    error: Exception, part: str, cure: str
) -> None:
    message = str(hub_error("owner/name:et (revision main)", error))
    assert (
        message.startswith("owner/name:et (revision main)")
        and part in message
        and cure in message
        and "\n" not in message
    )


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Stand-ins for `datasets` and `huggingface_hub`; returns the list of calls made."""

    def install(load_dataset: Callable[..., Any]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        class HfApi:
            def __init__(self, token: Any) -> None:
                calls.append({"token": token})

            def dataset_info(self, path: str, revision: str | None, timeout: float) -> Any:
                calls.append({"info": path, "revision": revision})
                commit = SECOND if revision == hub.CONVERTED else FIRST
                return types.SimpleNamespace(sha=commit, id="owner/name")

        def record(path: str, config: str | None, revision: str, token: Any, cache_dir: str) -> Any:
            calls.append({"load": path, "config": config, "revision": revision, "token": token})
            return load_dataset(revision)

        monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=record))
        monkeypatch.setattr(hub, "_hush", lambda: None)
        for name in (*hub.OFFLINE, "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        return calls

    return install


def test_fetch_loads_at_the_resolved_commit_with_no_stored_token(libraries: Any) -> None:
    day = datetime.datetime(2023, 6, 1)
    calls = libraries(lambda revision: {"test": [{"ds": day, "at": day.replace(hour=7), "n": [1, {"d": day.date()}]}]})
    found = hub.fetch("owner/name", "et", None)
    expected = {"test": [{"ds": "2023-06-01", "at": "2023-06-01T07:00:00", "n": [1, {"d": "2023-06-01"}]}]}
    assert found == Fetched(FIRST, expected, "owner/name")
    assert calls[-1] == {"load": "hf://datasets/owner/name", "config": "et", "revision": FIRST, "token": False}


def test_fetch_takes_the_token_from_the_environment(libraries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = libraries(lambda revision: {"test": [{"a": 1}]})
    monkeypatch.setenv("HF_TOKEN", "from-environment")
    hub.fetch("owner/name", "et", None)
    assert [call["token"] for call in calls if "token" in call] == ["from-environment"] * 2


def test_a_dataset_published_as_a_script_is_taken_from_its_parquet_form(libraries: Any) -> None:
    def load_dataset(revision: str) -> Any:
        if revision == FIRST:
            raise RuntimeError("Dataset scripts are no longer supported, but found name.py")
        return {"test": [{"a": 1}]}

    libraries(load_dataset)
    assert hub.fetch("owner/name", "et", None) == Fetched(SECOND, {"test": [{"a": 1}]}, "owner/name")


def test_values_that_json_can_not_hold_are_refused(libraries: Any) -> None:
    for value in (b"bytes", float("nan"), object()):
        libraries(lambda revision, value=value: {"test": [{"a": value}]})
        with pytest.raises(DataError, match="JSON can't hold"):
            hub.fetch("owner/name", "et", None)


def test_a_switched_off_hub_is_not_asked(libraries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = libraries(lambda revision: {})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="switched off"):
        hub.fetch("owner/name", "et", None)
    assert calls == []


def test_the_real_libraries_have_what_fetch_calls() -> None:
    import inspect

    datasets = pytest.importorskip("datasets")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    assert {"path", "name", "revision", "token"} <= set(inspect.signature(datasets.load_dataset).parameters)
    assert {"revision", "timeout"} <= set(inspect.signature(huggingface_hub.HfApi.dataset_info).parameters)
    for name in (
        "GatedRepoError",
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
    ):
        assert issubclass(getattr(huggingface_hub.errors, name), Exception)
    assert "scripts are no longer supported" in inspect.getsource(datasets.load)
