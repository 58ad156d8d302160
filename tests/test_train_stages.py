"""The chain of stages: what is done is not done again, what changed is, and what was interrupted goes on."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from estbench_training import kinds, stages
from estbench_training.recipe import Recipe, from_row
from training_kinds import FAIL, OUTSIDE, RAN

from estbench.errors import ConfigError, DataError, EngineError, MissingPartError, ModelError, StoreError


@pytest.fixture(autouse=True)
def made_up_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        kinds,
        "KINDS",
        {
            **kinds.KINDS,
            "words": "training_kinds:WORDS",
            "copy": "training_kinds:COPY",
            "letters": "training_kinds:LETTERS",
            "join": "training_kinds:JOIN",
        },
    )
    RAN.clear()
    FAIL.clear()
    OUTSIDE.clear()


def recipe(tiny: Path, folder: Path, seed: int = 1, **changes: Mapping[str, Any]) -> Recipe:
    rows: list[dict[str, Any]] = [
        {"name": "corpus", "kind": "words", "words": ["a"], "file": "in.txt"},
        {"name": "first", "kind": "copy", "data": "corpus"},
        {"name": "more", "kind": "words", "words": ["b"]},
        {"name": "second", "kind": "copy", "data": "more"},
    ]
    rows = [{**row, **changes.get(row["name"], {})} for row in rows]
    (folder / "in.txt").exists() or (folder / "in.txt").write_text("one", "utf-8")
    return from_row({"name": "r", "base": str(tiny), "seed": seed, "stages": rows}, folder)


def ran(made: Recipe, output: Path, *only: str) -> list[str]:
    RAN.clear()
    stages.run(made, output, lambda line: None, only=only)
    return list(RAN)


def test_the_same_command_runs_nothing_twice(tiny_model: Path, tmp_path: Path) -> None:
    made = recipe(tiny_model, tmp_path)
    assert ran(made, tmp_path / "out") == ["corpus", "first", "more", "second"]
    assert ran(made, tmp_path / "out") == []
    assert all(step.done for step in stages.chain(made, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"more": {"words": ["c"]}}, ["more", "second"]),
        ({"corpus": {"words": ["c"]}}, ["corpus", "first", "second"]),
        ({"second": {"seed": 5}}, ["second"]),
        ({"corpus": {"loud": True}}, []),
        ({"second": {"model": None}}, []),
    ],
)
def test_a_change_runs_that_stage_and_those_that_use_it(
    changes: dict[str, Any], again: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    ran(recipe(tiny_model, tmp_path), tmp_path / "out")
    assert ran(recipe(tiny_model, tmp_path, **changes), tmp_path / "out") == again
    assert ran(recipe(tiny_model, tmp_path), tmp_path / "out") == []  # and both are kept


def test_another_seed_base_or_file_runs_all_that_hangs_on_it(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    ran(recipe(tiny_model, tmp_path), tmp_path / "out")
    assert ran(recipe(tiny_model, tmp_path, seed=2), tmp_path / "out") == ["corpus", "first", "more", "second"]
    (tmp_path / "in.txt").write_text("two", "utf-8")
    assert ran(recipe(tiny_model, tmp_path), tmp_path / "out") == ["corpus", "first", "second"]
    other = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    assert ran(recipe(other, tmp_path), tmp_path / "out") == []  # the same content in another place
    generation = other / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": 7}), "utf-8")
    assert ran(recipe(other, tmp_path), tmp_path / "out") == ["first", "second"]


def test_a_stage_that_is_named_brings_what_it_needs_and_no_more(tiny_model: Path, tmp_path: Path) -> None:
    made = recipe(tiny_model, tmp_path)
    assert ran(made, tmp_path / "out", "first") == ["corpus", "first"]
    assert ran(made, tmp_path / "out", "second") == ["more", "second"]
    with pytest.raises(ConfigError, match="Did you mean 'second'"):
        ran(made, tmp_path / "out", "secnd")


def test_a_stage_that_broke_goes_on_in_its_folder_and_is_not_taken_for_done(tiny_model: Path, tmp_path: Path) -> None:
    made = recipe(tiny_model, tmp_path)
    FAIL.add("more")
    with pytest.raises(EngineError):
        ran(made, tmp_path / "out")
    assert RAN == ["corpus", "first", "more"]
    left = next((tmp_path / "out").glob("more-*"))
    assert (left / "half").exists() and not (left / stages.DONE).exists()
    FAIL.clear()
    assert ran(made, tmp_path / "out") == ["more", "second"]
    assert (left / "words.txt").exists()


def test_a_model_that_was_changed_since_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    made = recipe(tiny_model, tmp_path)
    ran(made, tmp_path / "out", "first")
    model = next((tmp_path / "out").glob("first-*")) / "model"
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}), "utf-8")
    with pytest.raises(ModelError, match="changed since it was made") as found:
        ran(made, tmp_path / "out")
    assert "\n" not in str(found.value)


def test_a_damaged_record_is_no_record(tiny_model: Path, tmp_path: Path) -> None:
    made = recipe(tiny_model, tmp_path)
    ran(made, tmp_path / "out")
    (next((tmp_path / "out").glob("second-*")) / stages.DONE).write_text("{", "utf-8")
    assert ran(made, tmp_path / "out") == ["second"]


def test_two_commands_never_work_in_one_folder(tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with open(output / stages.LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="Another command is at work"):
            ran(recipe(tiny_model, tmp_path), output)
    assert RAN == []


def test_a_file_that_is_not_there_and_a_folder_that_cannot_be_written(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere"):
        ran(recipe(tiny_model, tmp_path, corpus={"file": "nowhere.txt"}), tmp_path / "out")
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(StoreError, match="can't be written"):
        ran(recipe(tiny_model, tmp_path), tmp_path / "file" / "out")
    assert RAN == []


def test_a_full_disk_is_one_line(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match="No space left on device") as found:
        ran(from_row({"name": "r", "stages": [{"name": "w", "kind": "words"}]}, tmp_path), tmp_path / "out")
    assert "\n" not in str(found.value)


def test_ranks_that_wait_see_the_stage_that_rank_0_made(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(tiny_model, tmp_path)
    ran(made, tmp_path / "out")
    monkeypatch.setenv("RANK", "1")
    assert ran(made, tmp_path / "out") == []
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 2:
            raise TimeoutError

    monkeypatch.setattr(stages.time, "sleep", sleep)
    with pytest.raises(TimeoutError):
        ran(recipe(tiny_model, tmp_path, more={"words": ["z"]}), tmp_path / "out")
    assert RAN == []


def test_what_comes_from_outside_and_where_the_recipe_lies(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    ran(recipe(tiny_model, tmp_path / "one"), tmp_path / "out")
    assert ran(recipe(tiny_model, tmp_path / "two"), tmp_path / "out") == []  # the same file in another folder
    OUTSIDE["tests"] = "others"
    assert ran(recipe(tiny_model, tmp_path / "one"), tmp_path / "out") == ["corpus", "first", "more", "second"]


def test_a_stage_that_needs_the_tokenizer_alone_does_not_run_again_for_other_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    rows = [{"name": "l", "kind": "letters"}, {"name": "c", "kind": "copy"}]
    made = from_row({"name": "r", "base": str(base), "stages": rows}, tmp_path)
    assert ran(made, tmp_path / "out") == ["l", "c"]
    weights = {name: tensor + 1 for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert ran(made, tmp_path / "out") == ["c"]


def test_what_a_stage_was_made_of_lies_beside_it_and_its_model(tiny_model: Path, tmp_path: Path) -> None:
    from estbench import identity

    made = dataclasses.replace(recipe(tiny_model, tmp_path), text="name: r\n# as it was\n")
    for step in stages.run(made, tmp_path / "out", lambda line: None):
        folders = [step.folder, *([step.folder / "model"] if step.stage.kind.makes_model else [])]
        for folder in folders:
            row = json.loads((folder / "stage.json").read_text("utf-8"))
            assert identity.digest(row) == step.key and row["seed"] == 1
            assert "# as it was" in (folder / "recipe.yaml").read_text("utf-8")


def test_a_card_that_says_another_licence_than_the_recipe_is_named(tiny_model: Path, tmp_path: Path) -> None:
    made = recipe(tiny_model, tmp_path)
    ran(made, tmp_path / "out")
    said: list[str] = []
    other = dataclasses.replace(made, head=dataclasses.replace(made.head, licence="llama3.1"))
    stages.run(other, tmp_path / "out", said.append)
    assert [line.split(":")[0] for line in said if "still has the licence of then" in line] == ["first", "second"]


def test_a_library_that_is_not_installed_is_named_with_the_cure(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training_kinds

    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'trl'", name="trl")

    monkeypatch.setattr(training_kinds, "WORDS", dataclasses.replace(training_kinds.WORDS, run=missing))
    with pytest.raises(MissingPartError, match=r"needs trl: pip install 'estbench\[train\]'"):
        ran(recipe(tiny_model, tmp_path), tmp_path / "out")


def joined(tiny: Path, folder: Path, *others: str, words: str = "a") -> Recipe:
    (folder / "in.txt").write_text("one", "utf-8")
    rows = [
        {"name": "corpus", "kind": "words", "words": [words], "file": "in.txt"},
        {"name": "first", "kind": "copy", "data": "corpus"},
        {"name": "second", "kind": "copy", "model": str(tiny)},
        {"name": "both", "kind": "join", "others": list(others)},
    ]
    return from_row({"name": "r", "base": str(tiny), "stages": rows}, folder)


def test_a_stage_gets_the_folders_of_all_models_that_it_names(tiny_model: Path, tmp_path: Path) -> None:
    steps = stages.run(joined(tiny_model, tmp_path, "first", str(tiny_model)), tmp_path / "out", lambda line: None)
    folders = {step.stage.name: step.folder for step in steps}
    assert (folders["both"] / "others.txt").read_text("utf-8").splitlines() == [
        f"first={folders['first'] / 'model'}",
        f"{tiny_model}={tiny_model}",
    ]


def test_another_model_makes_the_stage_anew(tiny_model: Path, tmp_path: Path) -> None:
    assert ran(joined(tiny_model, tmp_path, "first"), tmp_path / "out")[-1] == "both"
    assert ran(joined(tiny_model, tmp_path, "first"), tmp_path / "out") == []
    assert ran(joined(tiny_model, tmp_path, "first", words="b"), tmp_path / "out") == ["corpus", "first", "both"]
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    assert ran(joined(tiny_model, tmp_path, "first", str(other)), tmp_path / "out") == ["both"]
    (other / "generation_config.json").write_text('{"eos_token_id": 5}', "utf-8")
    assert ran(joined(tiny_model, tmp_path, "first", str(other)), tmp_path / "out") == ["both"]


def test_models_are_needed_as_other_stages_are(tiny_model: Path, tmp_path: Path) -> None:
    assert stages.closure(joined(tiny_model, tmp_path, "first"), ["both"]) == {"corpus", "first", "second", "both"}
    assert stages.closure(joined(tiny_model, tmp_path), ["both"]) == {"second", "both"}
    with pytest.raises(ConfigError, match=r"'corpus', which makes no model"):
        joined(tiny_model, tmp_path, "corpus")
    with pytest.raises(ConfigError, match=r"'both', which is no stage before it"):
        joined(tiny_model, tmp_path, "both")
    with pytest.raises(ModelError, match=r"no model 'frist'"):
        stages.chain(joined(tiny_model, tmp_path, "frist"), tmp_path / "out")


def test_a_misspelt_stage_is_named_with_the_one_that_is_meant(tmp_path: Path) -> None:
    made = from_row({"name": "r", "base": "demo-base", "stages": [{"name": "donors", "kind": "prepare", "sources": {
        "et": {"demo": "et", "documents": 10}}}]}, tmp_path / "r.yaml")  # fmt: skip
    with pytest.raises(ModelError, match=r"There is no model 'doners'.*Did you mean 'donors'"):
        stages.from_outside(made, "doners", lambda text: None)
