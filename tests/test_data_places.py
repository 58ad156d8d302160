"""Data that travels with estbench: samples (only when asked for), own data sets; tasks that join several configs."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from estbench import data, data_checks, lm_tasks, lock, registry
from estbench.cli import main
from estbench.copies import rows_hash
from estbench.data import SAMPLES, DatasetRef, load, missing
from estbench.errors import ConfigError, DataError
from estbench.hub import Fetched
from estbench.metrics import tasks as functions

REF = DatasetRef("owner/name", "et")
REAL, SAMPLE = [{"text": "päris"}], [{"text": "näide"}]
TASK = """\
task: toy
dataset_path: owner/name
dataset_name: et
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
metadata: {title: {et: "Proov", en: "Toy"}, form: completion, primary: acc, chance: 0.5}
"""
JOINED = TASK.replace("task: toy", "task: joined").replace(
    "dataset_name: et\n", "dataset_kwargs: {configs: [ajalugu, keemia]}\n"
)


def put(place: Path, folder: str, rows: list[dict[str, Any]], split: str = "test") -> None:
    path = place / folder / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two tasks and no data, no network, and a Hub that fails the test if it is asked."""
    folder = tmp_path / "checkout"
    (folder / "tasks" / "samples").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "tasks" / "toy.yaml").write_text(TASK)
    (folder / "tasks" / "joined.yaml").write_text(JOINED)
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ESTBENCH_DATA", raising=False)
    for module in (data, lock, registry):
        monkeypatch.setattr(module, "project_file", lambda name: folder / name)

    def never(*asked: Any) -> Fetched:
        raise AssertionError(f"the Hub was asked for {asked}")

    monkeypatch.setattr(data, "fetch", never)
    return folder


@pytest.fixture
def samples(checkout: Path) -> Path:
    put(checkout / "tasks" / "samples", "owner__name/et", SAMPLE)
    return checkout / "tasks" / "samples"


# --- samples ------------------------------------------------------------------------------------------------------


def test_samples_are_read_when_asked_for_and_marked(samples: Path) -> None:
    found = load(REF, ["test"], data=SAMPLES)
    assert (found.splits["test"], found.sample, found.origin) == (SAMPLE, True, str(samples))
    assert lm_tasks.load_rows(registry.Registry().task("toy"), Path("samples")).sample


def test_samples_are_never_taken_for_the_real_data(samples: Path, tmp_path: Path) -> None:
    assert missing(REF, ["test"]) is not None
    put(tmp_path / "home" / "data", "owner__name/et", REAL)
    found = load(REF, ["test"])
    assert (found.splits["test"], found.sample) == (REAL, False)


def test_data_samples_looks_nowhere_else(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path / "home" / "data", tmp_path / "copy", checkout / "tasks" / "own"):
        put(place, "owner__name/et", REAL)
    monkeypatch.setenv("ESTBENCH_DATA", str(tmp_path / "copy"))
    assert "has no sample" in str(missing(REF, ["test"], SAMPLES))
    with pytest.raises(DataError, match=r"owner/name:et \(test\) has no sample.*real data"):
        load(REF, ["test"], data=SAMPLES)


def test_a_sample_is_not_compared_with_the_lock(samples: Path, checkout: Path) -> None:
    entry = {"commit": "1" * 40, "fields": {"test": ["text"]}, "rows": {"test": 1}, "hash": {"test": rows_hash(REAL)}}
    (checkout / "tasks" / "data.lock").write_text(json.dumps({str(REF): entry}))
    found = load(REF, ["test"], data=SAMPLES)
    assert (found.matches_lock, found.commit) == (None, None)
    assert [(f.level, f.message) for f in data_checks.verify([REF], SAMPLES)] == [("ok", "1 rows, comes with estbench")]
    assert load(REF, ["test"], data=samples).matches_lock is False  # the same folder named as a copy is compared


def test_nothing_is_fetched_into_the_samples(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "pull", "tasks=toy", "data=samples"]) == 2
    assert "nothing is fetched into them" in capsys.readouterr().err


def test_the_listing_of_samples(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "tasks=toy", "data=samples", "output=json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["place"] == str(samples)


# --- own data sets ------------------------------------------------------------------------------------------------


def test_own_data_sets_are_found_last_and_need_no_network(checkout: Path, tmp_path: Path) -> None:
    own = checkout / "tasks" / "own"
    put(own, "owner__name/et", REAL)
    found = load(REF, ["test"])
    assert (found.splits["test"], found.origin, found.sample) == (REAL, str(own), False)
    put(tmp_path / "copy", "owner__name/et", SAMPLE)
    assert load(REF, ["test"], data=tmp_path / "copy").splits["test"] == SAMPLE


def test_pull_leaves_own_data_sets_alone(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(checkout / "tasks" / "own", "owner__name/et", REAL)
    assert main(["data", "pull", "tasks=toy"]) == 0
    assert capsys.readouterr().err == "owner/name:et comes with estbench.\n"
    assert [found.level for found in data_checks.verify([REF])] == ["ok"]


# --- several configs ----------------------------------------------------------------------------------------------

HISTORY = [{"küsimus": "Mis aastal?", "text": "1918"}, {"küsimus": "Kes?", "text": "Päts"}]
CHEMISTRY = [{"küsimus": "Mis aine?", "text": "vesi"}]


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    put(tmp_path / "copy", "owner__name/ajalugu", HISTORY)
    put(tmp_path / "copy", "owner__name/keemia", CHEMISTRY)
    return tmp_path / "copy"


def joined() -> registry.Task:
    return registry.Registry().task("joined")


def test_configs_are_read_one_after_the_other_and_named(subjects: Path) -> None:
    found = lm_tasks.load_rows(joined(), subjects)
    rows = [row | {"config": "ajalugu"} for row in HISTORY] + [CHEMISTRY[0] | {"config": "keemia"}]
    assert found.splits == {"test": rows} and found.hashes == {"test": rows_hash(rows)}
    assert (str(found.ref), found.matches_lock) == ("owner/name:ajalugu+keemia", None)
    assert [str(ref) for ref in data.references([joined()])] == ["owner/name:ajalugu", "owner/name:keemia"]


def test_joined_data_matches_the_lock_only_if_each_config_does(subjects: Path, checkout: Path) -> None:
    def entry(rows: list[dict[str, Any]]) -> dict[str, Any]:
        fields = {"test": ["küsimus", "text"]}
        return {"commit": "1" * 40, "fields": fields, "rows": {"test": len(rows)}, "hash": {"test": rows_hash(rows)}}

    locked = {"owner/name:ajalugu": entry(HISTORY), "owner/name:keemia": entry(CHEMISTRY)}
    path = checkout / "tasks" / "data.lock"
    path.write_text(json.dumps(locked))
    assert (found := data.of_task(joined(), data=subjects)).matches_lock is True and found.commit == "1" * 40
    path.write_text(json.dumps(locked | {"owner/name:keemia": entry(HISTORY)}))
    assert data.of_task(joined(), data=subjects).matches_lock is False
    path.write_text(json.dumps(locked | {"owner/name:keemia": None}))
    assert data.of_task(joined(), data=subjects).matches_lock is None


def test_configs_with_different_fields_are_refused(subjects: Path) -> None:
    put(subjects, "owner__name/keemia", [{"question": "Mis aine?", "text": "vesi"}])
    with pytest.raises(DataError, match=r"keemia has other fields in test.*küsimus, question"):
        data.of_task(joined(), data=subjects)


def test_a_config_that_is_not_here_is_missing(subjects: Path) -> None:
    (subjects / "owner__name" / "keemia" / "test.jsonl").unlink()
    with pytest.raises(AssertionError, match=r"the Hub was asked for.*keemia"):
        data.of_task(joined(), data=subjects)


def test_only_the_configs_that_are_not_here_are_fetched(
    subjects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTBENCH_DATA", str(subjects))
    assert data.missing_of_task(joined()) is None
    (subjects / "owner__name" / "keemia" / "test.jsonl").unlink()
    assert "owner/name:keemia (test) has no copy" in str(data.missing_of_task(joined()))
    asked: list[str | None] = []

    def fetch(path: str, config: str | None, _: str | None) -> Fetched:
        asked.append(config)
        return Fetched("1" * 40, {"test": CHEMISTRY}, path)

    monkeypatch.setattr(data, "fetch", fetch)
    with pytest.raises(DataError, match="has no sample"):
        data.pull_missing(joined(), SAMPLES)
    data.pull_missing(joined())
    assert asked == ["keemia"] and data.missing_of_task(joined()) is None


def test_plain_lm_eval_joins_configs_alike(subjects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"ajalugu": HISTORY, "keemia": CHEMISTRY}
    monkeypatch.setattr("estbench.hub.fetch", lambda path, config, _: Fetched("1" * 40, {"test": rows[config]}))
    made = functions.configs_rows(path="owner/name", configs=["ajalugu", "keemia"], version=1)
    assert made["test"].to_list() == data.of_task(joined(), data=subjects).splits["test"]


def test_a_task_without_data_is_a_fault_of_its_file(checkout: Path) -> None:
    (checkout / "tasks" / "toy.yaml").write_text(TASK.replace("dataset_path: owner/name\n", ""))
    with pytest.raises(ConfigError, match="names no data"):
        data.of_task(registry.Registry().task("toy"))


# --- remote=true --------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A Hub with all configs, and a check of tasks that reports what is put into the mapping."""
    problems: dict[str, list[str]] = {}
    rows = {"et": REAL, "ajalugu": HISTORY, "keemia": CHEMISTRY}

    def check_task(card: registry.Task, place: Path) -> list[str]:
        data.of_task(card, data=place)
        return problems.get(card.name, [])

    monkeypatch.setitem(sys.modules, "estbench.task_checks", types.SimpleNamespace(check_task=check_task))
    monkeypatch.setattr(data, "fetch", lambda path, config, _: Fetched("1" * 40, {"test": rows[config]}, path))
    return problems


def verify_remote(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    capsys.readouterr()
    code = main(["data", "verify", "remote=true", "output=json"])
    return code, json.loads(capsys.readouterr().out)


def tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_remote_reads_everything_renders_every_task_and_keeps_nothing(
    remote: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(tmp_path)
    code, lines = verify_remote(capsys)
    shown = [(line["dataset"], line["split"], line["level"]) for line in lines]
    assert shown == [
        ("owner/name:ajalugu", "", "note"),
        ("owner/name:keemia", "", "note"),
        ("owner/name:et", "", "note"),
        ("owner/name:ajalugu, owner/name:keemia", "joined", "ok"),
        ("owner/name:et", "toy", "ok"),
    ]
    assert code == 0 and tree(tmp_path) == before


def test_remote_says_what_differs_and_what_does_not_render(
    remote: dict[str, list[str]], checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"commit": "1" * 40, "fields": {"test": ["text"]}, "rows": {"test": 9}, "hash": {"test": rows_hash(SAMPLE)}}
    (checkout / "tasks" / "data.lock").write_text(json.dumps({str(REF): entry}))
    remote["joined"] = ["document 1: no gold", "a shot is from the test split"]
    code, lines = verify_remote(capsys)
    errors = [(line["dataset"], line["message"]) for line in lines if line["level"] == "error"]
    assert code == 1 and len(errors) == 3
    assert errors[0][0] == "owner/name:et" and "1 rows instead of 9" in errors[0][1]
    assert [message for _, message in errors[1:]] == remote["joined"]
    assert not any(line["split"] == "toy" for line in lines)  # its data can't be had


def test_remote_goes_with_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "remote=true", "data=copies"]) == 2
    assert "leave data= out" in capsys.readouterr().err
