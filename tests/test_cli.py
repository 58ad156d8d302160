"""The command line as a user meets it: exit codes, one line for a slip, one JSON document on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds import World, rows

from estbench import cli, registry
from estbench.tokens import Tokens

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    monkeypatch.setenv("ESTBENCH_DATA", str(made.data))
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "models")


def test_eval_prints_one_json_document_and_everything_else_on_stderr(run: Cli, world: World, model: Path) -> None:
    code, out, err = run("eval", f"model={model}", "tasks=both", "limit=5")
    assert code == 0, err
    result = json.loads(out)
    assert set(result) >= {"run", "model", "identity", "partial", "scores", "seconds"} and result["partial"] is True
    expected = {"task", "metric", "value", "ci_low", "ci_high", "n", "n_planned", "chance", "parse_failures", "errors",
                "unit", "higher_is_better", "primary"}  # fmt: skip
    assert all(expected <= set(score) for score in result["scores"])
    assert all(
        type(score[key]) is int for score in result["scores"] for key in ("n", "n_planned", "parse_failures", "errors")
    )
    assert {score["task"] for score in result["scores"]} == {"letters", "words"}


def test_eval_shows_a_table_when_asked(run: Cli, world: World, model: Path) -> None:
    code, out, _ = run("eval", f"model={model}", "tasks=letters", "output=table")
    assert code == 0
    for word in ("letters", "acc", "95 % interval", "chance", "50.0", "estbench show task=letters doc=3"):
        assert word in out


def test_a_second_eval_forwards_no_token(run: Cli, world: World, model: Path) -> None:
    first = json.loads(run("eval", f"model={model}", "tasks=both")[1])
    code, out, err = run("eval", f"model={model}", "tasks=both")
    again = json.loads(out)
    assert code == 0 and "no token is forwarded" in err
    assert again["scores"] == first["scores"] and again["run"] == first["run"]


def test_a_checkpoint_overwritten_in_place_is_forwarded_again(run: Cli, world: World, model: Path) -> None:
    first = json.loads(run("eval", f"model={model}", "tasks=letters")[1])
    file = model / "model.safetensors"
    times = os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns
    content = bytearray(file.read_bytes())
    content[-3000:-1] = bytes(2999)
    file.write_bytes(bytes(content))
    os.utime(file, ns=times)
    code, out, err = run("eval", f"model={model}", "tasks=letters")
    assert code == 0 and "stored already" not in err
    assert json.loads(out)["identity"]["response"] != first["identity"]["response"]


def test_without_tasks_the_model_decides_and_it_is_said(run: Cli, world: World, model: Path) -> None:
    suites = world.tasks / "suites.yaml"
    suites.write_text(
        "core:\n  title: {et: a, en: a}\n  form: chat\n  tasks: [talk]\n"
        "core_base:\n  title: {et: b, en: b}\n  form: completion\n  tasks: [letters]\n"
    )
    talk = world.read("words")
    world.write(talk | {"task": "talk", "metadata": talk["metadata"] | {"form": "chat"}})
    code, out, err = run("eval", f"model={model}")
    assert code == 0 and "tasks=core, since" in err and "model has a chat template" in err
    assert json.loads(out)["scores"][0]["task"] == "talk"
    (model / "chat_template.jinja").unlink()
    code, out, err = run("eval", f"model={model}")
    assert code == 0 and "tasks=core_base, since" in err and "model has no chat template" in err


def test_a_completion_task_on_a_chat_model_warns(run: Cli, world: World, model: Path) -> None:
    assert "not comparable with the chat form" in run("eval", f"model={model}", "tasks=letters")[2]
    (model / "chat_template.jinja").unlink()
    assert "comparable" not in run("eval", f"model={model}", "tasks=letters")[2]


def pickle(model: Path, world: World) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def truncate(model: Path, world: World) -> None:
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-10])


def no_template(model: Path, world: World) -> None:
    (model / "chat_template.jinja").unlink()
    config = world.read("words")
    world.write(config | {"metadata": config["metadata"] | {"form": "chat"}})


def long_prompt(model: Path, world: World) -> None:
    world.fill("letters", [row | {"question": "õ" * 700} for row in rows(3)])


def unrendered(model: Path, world: World) -> None:
    world.edit("letters", doc_to_choice=["{{first}}", "{{second}}"])


def unknown_field(model: Path, world: World) -> None:
    world.edit("letters", doc_to_text="{{qestion}}")


def broken_yaml(model: Path, world: World) -> None:
    (world.tasks / "letters.yaml").write_text("task: [")


def broken_row(model: Path, world: World) -> None:
    world.file("letters").write_text('{"question": "a"\n')


def no_data(model: Path, world: World) -> None:
    world.file("letters").unlink()


def fewer_weights(model: Path, world: World) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))


def odd_tokenizer(model: Path, world: World) -> None:
    (model / "tokenizer.json").write_text('{"a": 1}')


def deaf_template(model: Path, world: World) -> None:
    (model / "chat_template.jinja").write_text("hello")
    config = world.read("words")
    world.write(config | {"metadata": config["metadata"] | {"form": "chat"}})


def broken_template(model: Path, world: World) -> None:
    deaf_template(model, world)
    (model / "chat_template.jinja").write_text("{% for m in messages %}")


def nothing(model: Path, world: World) -> None:
    """The command line alone is wrong."""


@pytest.mark.parametrize(
    ("words", "spoil", "message"),
    [
        (["eval", "model={model}", "tasks=letters", "limt=3"], nothing, "Did you mean 'limit'"),
        (["eval", "model={model}", "tasks=leters"], nothing, "Did you mean 'letters'"),
        (["eval", "model={model}", "tasks=bot"], nothing, "Did you mean 'both'"),
        (["eval", "model={model}", "tasks=,"], nothing, "names nothing"),
        (["eval", "model={model}", "tasks=letters", "limit=0"], nothing, "limit=0 is too small"),
        (["eval", "model={model}", "tasks=letters", "shots=99"], nothing, "letters has 4 examples to show"),
        (["eval", "model={model}", "tasks=letters"], odd_tokenizer, "tokenizer in"),
        (["eval", "model={model}", "tasks=words"], deaf_template, "drops the prompt"),
        (["eval", "model={model}", "tasks=words"], broken_template, "can't render a prompt"),
        (["show", "task=both"], nothing, "'both' is a suite"),
        (["eval", "model={model}", "tasks=letters", "slice=5/4"], nothing, "slice=5/4"),
        (["eval", "model={model}", "tasks=letters", "engine.dtpe=float32"], nothing, "Did you mean 'dtype'"),
        (["eval", "model={model}", "tasks=letters", "engine.trust_remote_code=true"], nothing, "has no option"),
        (["eval", "model={model}", "tasks=letters", "engine.device=foo"], nothing, "engine.device=foo is not one of"),
        (["eval", "model={model}", "tasks=letters", "engine.dtype=int3"], nothing, "engine.dtype=int3 is not one of"),
        (["eval", "model={model}", "tasks=letters", "data=/nowhere"], nothing, "/nowhere is no folder"),
        (["eval", "model={world}", "tasks=letters"], nothing, "no checkpoint: it has no config.json"),
        (["eval", "model=/nowhere", "tasks=letters"], nothing, "There is no model"),
        (["eval", "model={model}", "tasks=letters"], pickle, "pickled weights"),
        (["eval", "model={model}", "tasks=letters"], truncate, "is truncated"),
        (["eval", "model={model}", "tasks=words"], no_template, "no chat template"),
        (["eval", "model={model}", "tasks=letters"], long_prompt, "the model's context is 512"),
        (["eval", "model={model}", "tasks=letters"], unrendered, "{{first}} was not rendered"),
        (["eval", "model={model}", "tasks=letters"], unknown_field, "qestion"),
        (["eval", "model={model}", "tasks=letters"], broken_yaml, "not valid YAML"),
        (["eval", "model={model}", "tasks=letters"], broken_row, "test.jsonl"),
        (["eval", "model={model}", "tasks=letters"], no_data, "own/letters"),
        (["evla", "model={model}"], nothing, "Did you mean 'eval'"),
        (["show", "task=letters", "doc=99"], nothing, "doc= goes from 0 to 11"),
        (["show", "task=letter"], nothing, "Did you mean 'letters'"),
        (["tasks", "task=wrds"], nothing, "Did you mean 'words'"),
        (["tasks", "everything"], nothing, "not one of list, check"),
        (["tasks", "list", "everything"], nothing, "no key=value"),
        (["runs", "lst"], nothing, "Did you mean 'list'"),
        (["runs", "import"], nothing, "Name what to import"),
        (["runs", "import", "/nowhere"], nothing, "no run folder"),
        (["runs", "export", "run=nothing", "to=/tmp/x"], nothing, "There is no run 'nothing'"),
        (["data", "pul"], nothing, "Did you mean 'pull'"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2_and_nothing_is_written(
    run: Cli, world: World, home: Path, model: Path, words: list[str], spoil: Any, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spoil(model, world)
    code, out, err = run(*[word.format(model=model, world=world.folder) for word in words])
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("estbench: ") and message in last and out == ""
    assert "Traceback" not in err and files(home) == []


def test_the_control_for_bad_input_is_good_input(run: Cli, world: World, home: Path, model: Path) -> None:
    assert run("eval", f"model={model}", "tasks=letters")[0] == 0
    assert "estbench.db" in files(home)


def test_missing_skip_goes_on_without_and_says_why(
    run: Cli, world: World, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    world.file("words").unlink()
    code, out, _ = run("eval", f"model={model}", "tasks=both", "missing=skip")
    scores = {score["task"]: score for score in json.loads(out)["scores"]}
    assert code == 0 and scores["letters"]["value"] is not None
    assert scores["words"]["value"] is None and "own/words" in scores["words"]["reason"]


def test_plan_lists_everything_and_writes_nothing(run: Cli, world: World, home: Path, model: Path) -> None:
    code, out, _ = run("eval", f"model={model}", "tasks=both", "plan=true", "limit=4")
    plan = json.loads(out)
    assert code == 0 and [row["task"] for row in plan["tasks"]] == ["letters", "words"]
    row = plan["tasks"][0]
    assert (row["docs"], row["docs_in_all"], row["requests"]) == (4, 12, 8) and row["tokens"] > 0
    assert row["memory_bytes"] > 0 and row["seconds"] >= 0 and plan["missing"] == [] and files(home) == []
    code, out, _ = run("eval", f"model={model}", "tasks=both", "plan=true", "output=table")
    assert "Nothing is missing" in out


def test_plan_says_what_is_missing_and_ends_with_2(run: Cli, world: World, home: Path, model: Path) -> None:
    world.file("words").unlink()
    code, out, _ = run("eval", f"model={model}", "tasks=both", "plan=true")
    plan = json.loads(out)
    assert code == 2 and [row["part"] for row in plan["missing"]] == ["words"] and files(home) == []
    assert [row["task"] for row in plan["tasks"]] == ["letters"]


def test_show_prints_exactly_what_the_model_gets(run: Cli, world: World, model: Path) -> None:
    code, out, _ = run("show", "task=letters", "doc=3", f"model={model}")
    view = json.loads(out)
    assert code == 0 and view["bos"] == 1 and view["prompt"].endswith("Mis on number 3?\nVastus:")
    assert Tokens(model).decode(view["prompt_ids"]) == "<s>" + view["prompt"]
    assert len(view["continuations"]) == 2 and view["target"] == 1
    run("eval", f"model={model}", "tasks=letters")
    from estbench.runs import Run

    (folder,) = (Path(os.environ["ESTBENCH_HOME"]) / "runs").iterdir()
    planned = next(doc for doc in Run(folder).plan("letters") if doc.doc_id == 3)
    assert planned.requests[0]["prompt_ids"] == view["prompt_ids"]
    code, out, _ = run("show", "task=words", "doc=3", f"model={model}", "output=table")
    assert "stops: '\\n', at most 6 tokens" in out and "BOS: 1" in out


def test_tasks_lists_tasks_and_suites(run: Cli, world: World) -> None:
    code, out, _ = run("tasks")
    listing = json.loads(out)
    assert code == 0 and [row["task"] for row in listing["tasks"]] == ["letters", "words"]
    assert listing["suites"]["both"]["tasks"] == ["letters", "words"]
    assert "Tähed" in run("tasks", "output=table")[1]
    assert json.loads(run("tasks", "task=letters")[1])["chance"] == 0.5


def test_runs_are_listed_exported_and_imported(run: Cli, world: World, home: Path, model: Path, tmp_path: Path) -> None:
    made = json.loads(run("eval", f"model={model}", "tasks=both")[1])["run"]
    assert [row["id"] for row in json.loads(run("runs")[1])] == [made]
    target = tmp_path / "out"
    assert run("runs", "export", f"run={made[:9]}", f"to={target}")[0] == 0
    assert run("runs", "export", f"run={made}", f"to={tmp_path}/out.tar.gz")[0] == 0
    assert run("runs", "export", f"run={made}", f"to={target}")[0] == 2  # never overwrites
    shutil.rmtree(home / "runs"), (home / "estbench.db").unlink()
    assert json.loads(run("runs")[1]) == []
    code, out, _ = run("runs", "import", str(target))
    assert code == 0 and out.strip() == made
    assert [row["id"] for row in json.loads(run("runs")[1])] == [made]


def test_slices_become_one_run_by_import(run: Cli, world: World, model: Path) -> None:
    whole = json.loads(run("eval", f"model={model}", "tasks=both")[1])
    folders = []
    for i in (1, 2):
        code, out, _ = run("eval", f"model={model}", "tasks=both", f"slice={i}/2")
        part = json.loads(out)
        assert code == 0 and part["scores"] == [] and part["partial"]
        folders.append(part["folder"])
    _, out, err = run("runs", "import", *folders)
    assert "2 slices make the run" in err and out.split()[-1] == whole["run"]


def test_the_index_is_rebuilt_from_folders(run: Cli, world: World, home: Path, model: Path) -> None:
    run("eval", f"model={model}", "tasks=both")
    before = run("runs")[1]
    (home / "estbench.db").unlink()
    assert run("runs", "rebuild")[0] == 0 and run("runs")[1] == before


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["-h"]])
def test_help_names_every_command(run: Cli, words: list[str]) -> None:
    code, out, _ = run(*words)
    assert code == 0 and all(f"\n  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_keys_and_examples(run: Cli, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0 and "Keys:" in out and "Examples:\n  estbench" in out


def test_version(run: Cli) -> None:
    assert run("--version")[1].startswith("estbench 0.")


def test_a_home_that_is_a_file_is_named(
    run: Cli, world: World, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "file"))
    code, _, err = run("eval", f"model={model}", "tasks=letters")
    assert code == 2 and "set ESTBENCH_HOME to a folder" in err


def test_a_newer_database_is_refused_before_any_work(run: Cli, world: World, home: Path, model: Path) -> None:
    import sqlite3

    from estbench.database.schema import VERSION_TABLE

    run("eval", f"model={model}", "tasks=letters")
    with contextlib.closing(sqlite3.connect(home / "estbench.db")) as database, database:
        database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    before = files(home / "responses")
    code, _, err = run("eval", f"model={model}", "tasks=both")
    assert code == 2 and "newer" in err and "Traceback" not in err and files(home / "responses") == before


def test_a_checkpoint_that_lacks_layers_is_refused_and_not_filled_with_random_numbers(
    run: Cli, world: World, home: Path, model: Path
) -> None:
    fewer_weights(model, world)
    code, out, err = run("eval", f"model={model}", "tasks=letters")
    assert code == 2 and "lacks" in err and "config.json promises" in err.splitlines()[-1] and out == ""
    assert not (home / "runs").exists()


@pytest.mark.parametrize("task", ["letters", "words"])
def test_damaged_weights_are_an_engine_error_and_never_a_score(run: Cli, world: World, model: Path, task: str) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(model / "model.safetensors")
    name = next(key for key in weights if "norm" in key)
    save_file(weights | {name: weights[name] * float("nan")}, model / "model.safetensors", {"format": "pt"})
    code, out, err = run("eval", f"model={model}", f"tasks={task}")
    assert code == 4 and "NaN" in err and "weights are damaged" in err and out == ""


def test_a_repeated_run_keeps_how_it_first_came_to_be(run: Cli, world: World, home: Path, model: Path) -> None:
    from estbench.runs import Run

    first = json.loads(run("eval", f"model={model}", "tasks=both")[1])
    before = Run(first["folder"]).manifest
    manifest = Path(first["folder"]) / "manifest.json"
    manifest.write_text(json.dumps(before | {"created": "2020-01-01T00:00:00+00:00", "seconds": 99.0}))
    again = json.loads(run("eval", f"model={model}", "tasks=letters,both", "name=Teine")[1])
    after = Run(again["folder"]).manifest
    assert after["run"] == before["run"] and after["created"].startswith("2020") and after["seconds"] == 99.0
    assert after["command"] == before["command"] and after["name"] == "Teine"


def in_process(*words: str, stdout: Any, **env: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "estbench", *words]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=os.environ | env, text=True, check=False)
    return done.returncode, done.stderr


def test_estonian_letters_are_printed_whatever_the_locale(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        assert in_process("tasks", "output=table", stdout=out, **locale) == (0, "")
    assert "Põhjus ja tagajärg" in (tmp_path / "out").read_text("utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        code, err = in_process("tasks", "output=table", stdout=full)
    assert code == 4 and err.startswith("estbench: No space left") and err.count("\n") == 1


def test_the_units_of_the_listing_are_those_of_the_metrics() -> None:
    from estbench import metrics
    from estbench.registry import UNITS, Registry

    assert {name: getattr(metrics.get(name), "unit", "") for name in UNITS} == UNITS
    cards = Registry().tasks.values()
    assert {card.name: card.unit for card in cards} == {
        card.name: getattr(metrics.get(card.primary), "unit", "") for card in cards
    }


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "..", ".hidden", "a/b", "", None])
def test_an_imported_folder_can_not_choose_where_it_is_written(
    run: Cli, world: World, home: Path, model: Path, tmp_path: Path, name: str | None
) -> None:
    made = json.loads(run("eval", f"model={model}", "tasks=letters")[1])
    target = tmp_path / "hostile"
    run("runs", "export", f"run={made['run']}", f"to={target}")
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps(manifest | {"run": name}))
    before = files(tmp_path)
    code, _, err = run("runs", "import", str(target))
    assert code == 2 and "no plain name" in err and files(tmp_path) == before


def test_the_password_of_a_database_is_nowhere_in_a_run_folder(run: Cli, world: World, home: Path, model: Path) -> None:
    result = json.loads(run("eval", f"model={model}", "tasks=letters", f"database={home}/geheim.db")[1])
    assert "geheim" not in (Path(result["folder"]) / "manifest.json").read_text()


def test_an_import_never_overwrites_a_run_with_other_scores(
    run: Cli, world: World, model: Path, tmp_path: Path
) -> None:
    made = json.loads(run("eval", f"model={model}", "tasks=letters")[1])
    target = tmp_path / "copy"
    run("runs", "export", f"run={made['run']}", f"to={target}")
    assert run("runs", "import", str(target))[0] == 0  # the control: an equal copy is welcome
    scores = json.loads((target / "scores.json").read_text())
    (target / "scores.json").write_text(json.dumps([scores[0] | {"value": 1.0}, *scores[1:]]))
    code, _, err = run("runs", "import", str(target))
    assert code == 2 and "altered" in err
    (target / "leak").symlink_to("/etc/hostname")
    assert "symbolic links" in run("runs", "import", str(target))[2]
    (target / "manifest.json").write_text("[]")
    assert "no run's manifest" in run("runs", "import", str(target))[2]
