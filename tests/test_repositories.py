"""Data sets in GitHub repositories: fetched whole or not at all, read from a copy of the repository's own files."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from stand_in_hub import COMMIT, Repo, StandInHub

from estbench import data, hub, lm_tasks, lock, registry, repositories
from estbench.cli import main
from estbench.data import DatasetRef
from estbench.errors import ConfigError, DataError
from estbench.home import home
from estbench.metrics import tasks as functions
from estbench.repositories import READERS, Repository

SPEC: dict[str, Any] = {
    "github": "owner/name",
    "commit": COMMIT,
    "reader": "unimorph",
    "files": {"test": ["a/esimene.tsv", "b/teine.tsv"], "dev": ["kolmas.tsv"]},
}
REAL_READERS = dict(READERS)
FILES = {"a/esimene.tsv": "õun\nööbik\n".encode(), "b/teine.tsv": "žürii\n".encode(), "kolmas.tsv": "ämber\n".encode()}
TASK = f"""\
task: toy
dataset_path: owner/name
custom_dataset: !function functions.repository_rows
test_split: test
fewshot_split: dev
output_type: multiple_choice
doc_to_text: "{{{{word}}}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
metadata: {{title: {{et: "Proov", en: "Toy"}}, form: completion, primary: acc, repository: {json.dumps(SPEC)}}}
"""


def words(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """A reader: a row a line, in the order of the files."""
    return [{"word": line, "file": path} for path, text in texts.items() for line in text.splitlines()]


ROWS = words({path: FILES[path].decode() for path in SPEC["files"]["test"]})


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one task and no lock, a reader, a home of its own."""
    folder = tmp_path / "world" / "checkout"
    (folder / "tasks").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "tasks" / "toy.yaml").write_text(TASK)
    (folder / "tasks" / "functions.py").write_text("from estbench.metrics.tasks import *\n")
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "world" / "home"))
    for name in ("ESTBENCH_DATA", *hub.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    for module in (data, lock, registry):
        monkeypatch.setattr(module, "project_file", lambda name: folder / name)
    monkeypatch.setitem(READERS, "unimorph", "readers_of_this_test:words")
    monkeypatch.setitem(__import__("sys").modules, "readers_of_this_test", types.SimpleNamespace(words=words))
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with StandInHub({"owner/name": Repo(dict(FILES))}) as stand_in:
        monkeypatch.setenv("ESTBENCH_GITHUB", stand_in.url)
        yield stand_in


def copy_of(place: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """An offline copy with a manifest."""
    for path, content in files.items():
        file = place / "owner__name" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    lines = [f"{hashlib.sha256(content).hexdigest()}  owner__name/{path}\n" for path, content in files.items()]
    (place / "MANIFEST.sha256").write_text("".join(lines))
    return place


def card() -> registry.Task:
    return registry.Registry().task("toy")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rows_come_from_the_files_of_a_copy_in_the_order_of_the_task(tmp_path: Path) -> None:
    found = data.of_task(card(), data=copy_of(tmp_path / "copy"))
    assert found.splits["test"] == ROWS and [row["word"] for row in found.splits["dev"]] == ["ämber"]
    assert (found.origin, found.commit, found.matches_lock) == (str(tmp_path / "copy"), None, None)
    assert data.missing(found.ref, ["test"]) is not None


def test_pull_keeps_the_repositorys_files_and_locks_their_sums(server: StandInHub, checkout: Path) -> None:
    assert main(["data", "pull", "tasks=toy"]) == 0
    place = home() / "data"
    assert tree(place / "owner__name") == FILES
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}
    written = json.loads((checkout / "tasks" / "data.lock").read_text())
    assert written == {"github.com/owner/name": {"commit": COMMIT, "files": sums}}
    found = data.of_task(card())
    assert (found.splits["test"], found.commit, found.matches_lock) == (ROWS, COMMIT, True)
    assert main(["data", "verify", "tasks=toy", "output=json"]) == 0
    listed = data.listing([found.ref])[0]
    assert (listed.rows, listed.commit, listed.place) == ({"test": 3, "dev": 1}, COMMIT, str(place))


def test_load_fetches_what_is_not_here(server: StandInHub) -> None:
    assert lm_tasks.load_rows(card(), None).splits["test"] == ROWS


def test_plain_lm_eval_gets_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTBENCH_DATA", str(copy_of(tmp_path / "copy")))
    made = functions.repository_rows(**card().metadata)
    assert {split: rows.to_list() for split, rows in made.items()} == data.of_task(card()).splits


def test_files_that_another_task_pulled_stay_in_copy_and_lock(server: StandInHub, checkout: Path) -> None:
    assert main(["data", "pull", "tasks=toy"]) == 0
    server.repos["owner/name"].files["neljas.tsv"] = b"kell\n"
    other = Repository.of(SPEC | {"files": {"test": ["neljas.tsv"]}}, "other.yaml")
    data.pull(DatasetRef.of_repository(other))
    assert set(lock.read_lock()["github.com/owner/name"]["files"]) == {*FILES, "neljas.tsv"}
    assert data.of_task(card()).matches_lock is True
    assert main(["data", "verify", "tasks=toy"]) == 0


def damaged_manifest_file(place: Path) -> None:
    (place / "owner__name" / "kolmas.tsv").write_bytes("ämbel\n".encode())


def test_a_damaged_copy_is_refused_and_found_by_verify(tmp_path: Path) -> None:
    damaged_manifest_file(place := copy_of(tmp_path / "copy"))
    with pytest.raises(DataError, match=r"kolmas\.tsv does not have the checksum"):
        data.of_task(card(), data=place)
    assert main(["data", "verify", "tasks=toy", f"data={place}"]) == 1


def test_a_copy_with_other_content_is_not_the_locked_data(server: StandInHub, tmp_path: Path) -> None:
    data.pull(data.references([card()])[0])
    other = copy_of(tmp_path / "copy", FILES | {"kolmas.tsv": b"tuul\n"})
    found = data.of_task(card(), data=other)
    assert (found.matches_lock, found.commit) == (False, None)


def drip(server: StandInHub, patch: pytest.MonkeyPatch) -> None:
    server.mode = "drip"
    patch.setattr(repositories, "MOST_SECONDS", 0.3)


FAULTS: dict[str, tuple[Callable[[StandInHub, pytest.MonkeyPatch], Any], str, str]] = {
    "down": (lambda server, _: server.__exit__(), "can't be reached", "carry the copy"),
    "slow": (lambda server, _: setattr(server, "mode", "slow"), "did not answer in time", "try again"),
    "error": (lambda server, _: setattr(server, "mode", "error"), "HTTP 500", "try again later"),
    "gone": (lambda server, _: server.repos.clear(), "HTTP 404", "renamed, removed or private"),
    "file gone": (lambda server, _: server.repos["owner/name"].files.pop("kolmas.tsv"), "kolmas.tsv", "HTTP 404"),
    "cut off": (lambda server, _: setattr(server, "mode", "cut"), "broke off after", "try again"),
    "drips": (drip, "did not answer in time", "try again"),
    "large": (lambda _, patch: patch.setattr(repositories, "MOST_BYTES", 4), "larger than", "data=DIR"),
    "no text": (
        lambda server, _: server.repos["owner/name"].files.update({"kolmas.tsv": b"\xff"}),
        "not UTF-8",
        "fetch it again",
    ),
    "no rows": (
        lambda server, _: server.repos["owner/name"].files.update({"kolmas.tsv": b""}),
        "found no rows",
        "kolmas.tsv",
    ),
    "switched off": (lambda _, patch: patch.setenv("HF_HUB_OFFLINE", "1"), "switched off", "data=DIR"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_the_commit_and_writes_nothing(
    fault: str,
    server: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(repositories, "TIMEOUT", 0.3)
    play, problem, cure = FAULTS[fault]
    play(server, monkeypatch)
    before = tree(tmp_path / "world")
    assert main(["data", "pull", "tasks=toy"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert "owner/name" in shown.err and COMMIT in shown.err and problem in shown.err and cure in shown.err
    assert tree(tmp_path / "world") == before


def test_changed_files_at_the_locked_commit_are_refused(
    server: StandInHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "pull", "tasks=toy"]) == 0
    server.repos["owner/name"].files["kolmas.tsv"] = b"tuul\n"
    before = tree(tmp_path / "world")
    assert main(["data", "pull", "tasks=toy"]) == 2
    assert "file kolmas.tsv has other content" in capsys.readouterr().err
    assert tree(tmp_path / "world") == before


def test_a_task_that_asks_for_another_commit_than_the_lock_needs_update(
    server: StandInHub, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "pull", "tasks=toy"]) == 0
    server.repos["owner/name"].commit = "2" * 40
    (checkout / "tasks" / "toy.yaml").write_text(TASK.replace(COMMIT, "2" * 40))
    assert main(["data", "pull", "tasks=toy"]) == 2
    assert f"asks for commit {'2' * 40}" in capsys.readouterr().err
    with pytest.raises(DataError, match="asks for revision"):
        data.of_task(card())
    assert main(["data", "pull", "tasks=toy", "update=true"]) == 0
    assert data.of_task(card()).commit == "2" * 40


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"github": "../up"}, "no GitHub repository"),
        ({"commit": "main"}, "40 hex digits"),
        ({"reader": "unimorf"}, "Did you mean 'unimorph'"),
        ({"files": {}}, "list of paths"),
        ({"files": {"test": "est.tsv"}}, "list of paths"),
        ({"more": 1}, "github, commit, reader and files"),
    ],
)
def test_a_wrong_card_is_one_line(change: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        Repository.of(SPEC | change, "toy.yaml")
    assert str(caught.value).startswith("toy.yaml")


@pytest.mark.parametrize("path", ["../up.tsv", "a/../../up.tsv", "/etc/passwd", "a//b", "a\\..\\b/", ".git/config"])
def test_paths_can_not_lead_out_of_the_copy(path: str) -> None:
    with pytest.raises(DataError):
        Repository.of(SPEC | {"files": {"test": [path]}}, "toy.yaml")


def test_a_split_without_files_is_a_fault_of_the_task_file(tmp_path: Path) -> None:
    ref = DatasetRef.of_repository(Repository.of(SPEC, "toy.yaml"))
    with pytest.raises(DataError, match="none for train: correct the task file"):
        data.load(ref, ["train"], data=copy_of(tmp_path / "copy"))


def test_every_reader_is_there() -> None:
    for target in REAL_READERS.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_how_data_is_fetched_is_no_part_of_a_scorers_source() -> None:
    from estbench.identity import _source

    _, imported = _source(Path(functions.__file__).with_name("rows.py"))
    assert not imported
    assert os.path.basename(functions.repository_rows.__code__.co_filename) == "rows.py"
