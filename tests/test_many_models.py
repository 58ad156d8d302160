"""Many models in one command: which ones are meant, in what order, what is shared, and what a failure leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from worlds import World

from estbench import engines, registry, runner, series
from estbench.cli import main
from estbench.config import EvalSettings
from estbench.errors import ConfigError, EngineError
from estbench.runs import Run


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world", n=6)
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


@pytest.fixture
def steps(tmp_path: Path, tiny_model: Path) -> Path:
    """A training run: two checkpoints that differ in a configuration's number, a folder that is none, a file."""
    for number in (1000, 900):
        folder = tmp_path / "run" / f"step-{number}"
        shutil.copytree(tiny_model, folder)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1 / number**2}), "utf-8")
    (tmp_path / "run" / "step-1100").mkdir()
    (tmp_path / "run" / "step-note.txt").write_text("a file", "utf-8")
    return tmp_path / "run"


def names(model: str, **settings: Any) -> list[str]:
    return [one.model for one in series.expand(EvalSettings(model=model, **settings))]


def run_all(world: World, model: str, *more: str) -> int:
    return main(["eval", f"model={model}", "tasks=both", f"data={world.data}", "limit=4", *more])


def test_a_pattern_means_the_checkpoints_in_the_order_of_their_numbers(steps: Path) -> None:
    assert names(f"{steps}/step-*") == [f"{steps}/step-900", f"{steps}/step-1000"]


def test_names_and_patterns_mix_and_each_model_comes_once(steps: Path) -> None:
    (steps / "step-last").symlink_to(steps / "step-1000")
    found = names(f"demo,{steps}/step-1000,{steps}/step-*")
    assert found == ["demo", f"{steps}/step-1000", f"{steps}/step-900"]


def test_a_tilde_is_the_home_of_the_user(steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(steps))
    assert names("~/step-9*") == [f"{steps}/step-900"]


def test_one_model_is_left_as_it_is() -> None:
    assert names("owner/name") == ["owner/name"] and not series.is_series("owner/name")


def test_a_folder_with_brackets_in_its_name_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert names(f"{tmp_path}/a[1]") == [f"{tmp_path}/a[1]"]


@pytest.mark.parametrize(
    ("model", "part"),
    [("RUN/nothing-*", "no folder matches"), ("RUN/step-11*", "none with a config.json"), ("demo,,demo-base", "comma")],
)
def test_what_means_no_model_is_refused(steps: Path, model: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        names(model.replace("RUN", str(steps)))


def test_a_name_for_several_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave name= out"):
        names("demo,demo-base", name="mine")


def test_a_folder_with_a_comma_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    with pytest.raises(ConfigError, match="rename it"):
        names(f"{tmp_path}/a,b")


def test_each_model_is_a_run_of_its_own_as_if_it_were_alone(
    world: World, steps: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    render = runner.render
    monkeypatch.setattr(runner, "render", lambda card, *rest: (rendered.append(card.name), render(card, *rest))[1])
    assert run_all(world, f"{steps}/step-*") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"]["name"] for row in rows] == ["run/step-900", "run/step-1000"]
    assert rendered == ["letters", "words"], "the second model has the same tokenizer"
    together = [Run(row["folder"]) for row in rows]
    assert len({run.id for run in together}) == 2
    assert main(["runs", "output=json"]) == 0
    assert {row["id"] for row in json.loads(capsys.readouterr().out)} == {run.id for run in together}
    samples = [[list(run.samples(task)) for task in run.tasks] for run in together]
    shutil.rmtree(home / "runs")
    shutil.rmtree(home / "responses")
    for number, run_id, before in zip((900, 1000), (run.id for run in together), samples, strict=True):
        assert run_all(world, f"{steps}/step-{number}") == 0
        alone = json.loads(capsys.readouterr().out)
        assert alone["run"] == run_id
        assert [list(Run(alone["folder"]).samples(task)) for task in Run(alone["folder"]).tasks] == before


def test_another_tokenizer_is_rendered_anew(
    world: World, steps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    render = runner.render
    monkeypatch.setattr(runner, "render", lambda card, *rest: (rendered.append(card.name), render(card, *rest))[1])
    file = steps / "step-1000" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"note": "another"}), "utf-8")
    assert run_all(world, f"{steps}/step-*") == 0
    assert rendered == ["letters", "words"] * 2


def test_a_checkpoint_that_can_not_be_read_is_found_before_any_work(
    world: World, steps: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = steps / "step-1000" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert run_all(world, f"{steps}/step-*") == 2
    said = capsys.readouterr()
    assert "step-1000 can't be evaluated, and nothing was begun" in said.err and "truncated" in said.err
    assert not said.out and not (home / "runs").exists()


def test_a_slip_that_concerns_all_models_is_said_once(
    world: World, steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", f"model={steps}/step-*", "tasks=leters", f"data={world.data}"]) == 2
    assert capsys.readouterr().err.count("leters") == 1


def test_a_model_that_fails_at_work_leaves_the_others_alone(
    world: World, steps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = engines.make

    def sometimes(settings: EvalSettings, *rest: Any) -> Any:
        engine = make(settings, *rest)
        if settings.model.endswith("step-900"):
            monkeypatch.setattr(type(engine), "load", broken)
        else:
            monkeypatch.setattr(type(engine), "load", load)
        return engine

    def broken(_: Any) -> None:
        raise EngineError("The device is gone.")

    from estbench.engines.hf import HFEngine

    load = HFEngine.load
    monkeypatch.setattr(engines, "make", sometimes)
    assert run_all(world, f"{steps}/step-*") == 4
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"model": {"name": f"{steps}/step-900"}, "error": "The device is gone.", "exit_code": 4}
    assert rows[1]["scores"]
    assert run_all(world, f"{steps}/step-*", "output=table") == 4
    said = capsys.readouterr().out
    assert "step-900: no run. The device is gone." in said and "run/step-1000" in said


def test_the_table_has_models_and_tasks_with_intervals(
    world: World, steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_all(world, f"{steps}/step-*", "output=table") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "metric", "run/step-900", "run/step-1000"]
    assert lines[2].startswith("letters  acc (n 4, chance 50.0)") and lines[2].count("–") == 2
    assert run_all(world, f"{steps}/step-*", "output=table", "tasks=letters") == 2  # given twice: still one line
    capsys.readouterr()
    assert main(["eval", f"model={steps}/step-*", "tasks=letters", f"data={world.data}", "output=table"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["run/step-900", "run/step-1000"]


def test_a_plan_of_many_models_is_a_list(world: World, steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all(world, f"{steps}/step-*", "plan=true") == 0
    plans = json.loads(capsys.readouterr().out)
    assert [plan["model"]["name"] for plan in plans] == ["run/step-900", "run/step-1000"]
    assert run_all(world, f"{steps}/step-*", "plan=true", "output=table") == 0
    assert "run/step-1000" in capsys.readouterr().out
