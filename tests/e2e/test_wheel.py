"""A wheel in an empty environment, from somebody else's folder with names like ours; both ends of the ranges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EVAL = ["eval", "model=demo", "tasks=mini", "limit=20", "output=json"]
pytestmark = [pytest.mark.slow, pytest.mark.needs("uv")]


def uv(*arguments: str | Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uv", *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def wheel(tmp_path: Path, online: dict[str, str]) -> Path:
    uv("build", "--wheel", "--out-dir", tmp_path / "dist", env=online)
    return next((tmp_path / "dist").glob("*.whl"))


def installed(folder: Path, wheel: Path, *pins: str, env: dict[str, str]) -> Path:
    """The bin folder of a new environment with the wheel and pins."""
    uv("venv", "--python", sys.executable, folder, env=env)
    files = [word for name in pins for word in ("--requirement", ROOT / "requirements" / name)]
    uv("pip", "install", "--python", folder / "bin" / "python", *files, env=env)
    uv("pip", "install", "--python", folder / "bin" / "python", f"{wheel}[hf]", env=env)
    return folder / "bin"


def offline(env: dict[str, str]) -> dict[str, str]:
    """The environment with the network closed again."""
    return {**env, **{key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}}


def output(command: list[str | Path], **how: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_wheel_works_in_a_folder_with_its_own_tasks_training_and_judges(
    tmp_path: Path, wheel: Path, online: dict[str, str], demo_model: Path
) -> None:
    bin_folder = installed(tmp_path / "venv", wheel, "torch.txt", "demo.txt", env=online)
    folder = tmp_path / "somebody"
    for name in ("training", "tasks", "judges", "leaderboard"):
        (folder / name).mkdir(parents=True)
        for file in ("__init__.py", "functions.py"):
            (folder / name / file).write_text("raise SystemExit('the wrong module was imported')\n")
    (folder / "tasks" / "mini_copa.yaml").write_text("task: [this is not ours\n")

    how = {"cwd": folder, "env": offline(online)}
    listed = json.loads(output([bin_folder / "estbench", "tasks", "output=json"], **how))
    assert "mini_copa" in {row["task"] for row in listed["tasks"]}
    assert json.loads(output([bin_folder / "python", "-m", "estbench", "tasks", "output=json"], **how)) == listed

    run = json.loads(output([bin_folder / "estbench", *EVAL], **how))
    assert run["partial"]
    assert {row["task"] for row in run["scores"]} == set(listed["suites"]["mini"]["tasks"])
    assert all(row["n"] == 20 for row in run["scores"] if row["primary"])


def test_the_low_ends_of_the_ranges_give_the_scores_of_the_pins(
    tmp_path: Path, wheel: Path, online: dict[str, str], demo_model: Path
) -> None:
    bin_folder = installed(tmp_path / "venv", wheel, "torch.txt", "lowest.txt", env=online)
    here = [sys.executable, "-m", "estbench"]
    scores = []
    for home, command in (("lowest", [bin_folder / "estbench"]), ("pins", here)):
        path = tmp_path / home
        path.mkdir()
        (path / "models").symlink_to(demo_model.parent)
        env = {**offline(online), "ESTBENCH_HOME": str(path)}
        rows = json.loads(output([*command, *EVAL], cwd=tmp_path, env=env))["scores"]
        scores.append({(row["task"], row["metric"]): row["value"] for row in rows})
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)
