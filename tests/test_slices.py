"""Slices: which one a SLURM array job is, what becomes of incomplete ones, and the recipes that people send."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from failing import Moody, evaluate
from worlds import World

from estbench import config, merging, registry
from estbench.cli import main
from estbench.config import EvalSettings
from estbench.errors import ConfigError
from estbench.home import home as home_folder

RECIPES = Path(config.__file__).parent / "slurm"
NAMES = ("slices.sbatch", "checkpoints.sbatch", "ray.sbatch", "lumi.sh")


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def array(at: int, least: int, most: int, count: int, step: int | None = 1) -> dict[str, str]:
    found = {"ID": at, "MIN": least, "MAX": most, "COUNT": count} | ({} if step is None else {"STEP": step})
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in found.items()}


@pytest.mark.parametrize(
    ("environment", "slice_"),
    [
        (array(1, 1, 8, 8), "1/8"),
        (array(0, 0, 3, 4), "1/4"),
        (array(3, 0, 3, 4, None), "4/4"),
        (array(30, 10, 40, 4, 10), "3/4"),
        (array(7, 5, 9, 3, 2), "2/3"),
    ],
)
def test_an_array_of_any_numbering_gives_the_slice(environment: dict[str, str], slice_: str) -> None:
    assert config.array_slice(environment) == slice_


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, "sbatch --array"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "how large"),
        (array(3, 3, 3, 1), "one job"),
        (array(3, 1, 7, 3), "one range"),
        (array(1, 1, 6, 2, 4), "one range"),
    ],
)
def test_an_array_that_does_not_say_the_slice_is_refused_with_the_cure(environment: dict[str, str], part: str) -> None:
    with pytest.raises(ConfigError, match=part) as refused:
        config.array_slice(environment)
    assert "slice=i/n" in str(refused.value)


def test_auto_is_recorded_as_a_slice_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in array(2, 1, 4, 4).items():
        monkeypatch.setenv(name, value)
    assert EvalSettings(model="mock", slice="auto").slice == "2/4"


def test_outside_of_an_array_auto_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(ConfigError, match="slice=auto needs a SLURM array job"):
        EvalSettings(model="mock", slice="auto")


def test_slices_with_failures_merge_with_errors_counted_and_a_second_try_completes_them(world: World) -> None:
    whole = evaluate(world, Moody())
    shutil.rmtree(home_folder() / "responses")
    shutil.rmtree(home_folder() / "runs")
    silent: Any = lambda _: None  # noqa: E731
    parts = [evaluate(world, Moody(fails=2), slice="1/2"), evaluate(world, Moody(), slice="2/2")]
    *_, merged = merging.take_in([run.path for run in parts], silent)
    assert merged.unanswered == 2 and merged.id != whole.id
    assert sum(score.errors for score in merged.scores() if score.primary) == 2
    assert all(score.n + score.errors == score.n_planned for score in merged.scores() if score.primary)

    again = Moody()
    complete = evaluate(world, again, slice="1/2")
    assert again.forwarded == 2 and complete.id != parts[0].id and not complete.unanswered
    for order in ([complete.path, parts[1].path], [parts[1].path, complete.path]):
        *_, merged = merging.take_in(order, silent)  # two versions of slice 1/2 are here
        assert merged.id == whole.id and not merged.unanswered and "unanswered" not in merged.manifest


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_whole_shell_and_say_where_they_were_not_tried(name: str) -> None:
    subprocess.run(["bash", "-n", RECIPES / name], check=True)
    assert "ot run on LUMI" in (RECIPES / name).read_text("utf-8")
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", RECIPES / name], check=True)


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a compute node: `srun` and `scontrol` that only do what is needed here."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "srun").write_text('#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n', "utf-8")
    (bin_ / "scontrol").write_text("#!/bin/bash\necho localhost\n", "utf-8")
    (bin_ / "estbench").write_text(f'#!/bin/bash\nexec "{sys.executable}" -m estbench "$@"\n', "utf-8")
    for file in bin_.iterdir():
        file.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    return {**kept, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "ESTBENCH_DATA": str(tmp_path / "none")}


def send(recipe: str, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", RECIPES / recipe, *more], env=environment, capture_output=True, text=True)


def test_a_recipe_without_its_settings_says_what_is_missing(cluster: dict[str, str]) -> None:
    done = send("slices.sbatch", cluster)
    assert done.returncode and "MODEL: a folder with a checkpoint" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_array_of_slices_runs_for_real_and_makes_one_run(
    cluster: dict[str, str], tiny_model: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = {"MODEL": str(tiny_model), "TASKS": "mini_copa", "SLICES": "2", "OUT": str(out)}
    for number in (1, 2):
        done = send(
            "slices.sbatch", {**cluster, **given, **array(number, 1, 2, 2)}, "limit=8", "shots=0", "output=table"
        )
        assert done.returncode == 0, done.stderr
        assert f"Slice {number}/2" in done.stdout
    folders = sorted(out.glob("slice-*/runs/*"))
    assert len(folders) == 2
    command = ["estbench", "runs", "import", *map(str, folders)]
    done = subprocess.run(command, env={**cluster, "ESTBENCH_HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode == 0 and "2 slices make the run" in done.stderr, done.stderr
    capsys.readouterr()
    assert main(["eval", f"model={tiny_model}", "tasks=mini_copa", "limit=8", "shots=0"]) == 0
    whole = json.loads(capsys.readouterr().out)["run"]
    assert done.stdout.split()[-1] == whole, "the merged run is the very run of one process"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_checkpoints_are_shared_out_over_the_jobs(cluster: dict[str, str], tiny_model: Path, tmp_path: Path) -> None:
    for number in (900, 1000, 1100):
        shutil.copytree(tiny_model, tmp_path / "run" / f"step-{number}")
    given = {"CHECKPOINTS": f"{tmp_path}/run/step-*", "TASKS": "mini_copa", "JOBS": "2", "OUT": str(tmp_path / "out")}
    done = send("checkpoints.sbatch", {**cluster, **given, **array(0, 0, 1, 2)}, "limit=4", "shots=0")
    assert done.returncode == 0, done.stderr
    assert "run/step-900" in done.stdout and "run/step-1100" in done.stdout and "step-1000" not in done.stdout
    done = send("checkpoints.sbatch", {**cluster, **given, "JOBS": "9", **array(8, 0, 8, 9)}, "limit=4", "shots=0")
    assert done.returncode == 0 and "nothing is left for job 8" in done.stdout
