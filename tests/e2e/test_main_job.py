"""The main job as a user sees it: the demo models, apart by what they know, evaluated by the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_home
from database_fixtures import fresh_url

from estbench.runs import Run

pytestmark = pytest.mark.slow

Scores = dict[str, dict[str, Any]]


def estbench(*words: str, home: Path, **env: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "estbench", *words]
    done = subprocess.run(command, env=os.environ | {"ESTBENCH_HOME": str(home)} | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def primary(result: dict[str, Any]) -> Scores:
    return {score["task"]: score for score in result["scores"] if score["primary"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, demo_results: Path) -> Path:
    return copy_home(demo_results, tmp_path_factory.mktemp("main-job") / "home")


@pytest.fixture(scope="module")
def demo(home: Path) -> dict[str, Any]:
    return estbench("eval", "model=demo", "tasks=mini", home=home)[0]


@pytest.fixture(scope="module")
def base(home: Path) -> dict[str, Any]:
    return estbench("eval", "model=demo-base", "tasks=mini", home=home)[0]


def test_every_mini_task_has_at_least_300_documents_and_an_interval(demo: dict[str, Any]) -> None:
    scores = primary(demo)
    assert len(scores) == 7
    for score in scores.values():
        assert score["n"] == score["n_planned"] >= 300 and score["errors"] == 0
        assert score["ci_low"] < score["value"] < score["ci_high"] and score["chance"] is not None


def test_demo_beats_base_on_all_but_one_task(demo: dict[str, Any], base: dict[str, Any]) -> None:
    ours, theirs = primary(demo), primary(base)
    beaten = [task for task in ours if ours[task]["ci_low"] > theirs[task]["ci_high"]]
    assert len(beaten) >= len(ours) - 1


def test_demo_beats_the_best_trivial_baseline_on_at_least_four_tasks(demo: dict[str, Any]) -> None:
    assert sum(score["ci_low"] > score["chance"] for score in primary(demo).values()) >= 4


def test_the_base_model_is_at_chance(base: dict[str, Any]) -> None:
    assert sum(score["ci_low"] > score["chance"] for score in primary(base).values()) == 0


def test_scores_leave_room_above_and_below(demo: dict[str, Any]) -> None:
    scale = {"proportion": 1, "points": 100}
    inside = [s for s in primary(demo).values() if 0.5 <= s["value"] / scale[s["unit"]] <= 0.96]
    assert len(inside) >= 6


def test_a_second_eval_forwards_nothing_and_says_so(demo: dict[str, Any], home: Path) -> None:
    again, err = estbench("eval", "model=demo", "tasks=mini", home=home)
    assert "no token is forwarded" in err
    assert again["scores"] == demo["scores"] and again["run"] == demo["run"]


def test_the_run_is_found_again(demo: dict[str, Any], base: dict[str, Any], home: Path) -> None:
    rows, _ = estbench("runs", "output=json", home=home)
    assert {row["id"] for row in rows} == {demo["run"], base["run"]}  # type: ignore[call-overload, index]
    assert len(list(Run(demo["folder"]).samples("mini_gec"))) == 320


def test_real_tasks_run_end_to_end_on_the_offline_copy(home: Path, mirror: Path) -> None:
    words = [
        "eval",
        "model=demo",
        "tasks=estcopa,belebele_et",
        "limit=4",
        "truncate=true",
        f"data={mirror}",
    ]
    result, _ = estbench(*words, home=home)
    assert {task: score["n"] for task, score in primary(result).items()} == {
        "estcopa": 4,
        "belebele_et": 4,
    }
    assert result["partial"] and all(score["ci_low"] is not None for score in primary(result).values())


def test_chat_form_runs_end_to_end_on_the_offline_copy(
    home: Path, mirror: Path, demo_model: Path, tmp_path: Path
) -> None:
    chat = Path(shutil.copytree(demo_model, tmp_path / "chat"))
    (chat / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    words = ["eval", f"model={chat}", "limit=3", "truncate=true", "missing=skip", f"data={mirror}"]
    result, err = estbench(*words, home=home, HF_HUB_OFFLINE="1")
    scores = primary(result)
    assert "tasks=core, since chat has a chat template" in err
    assert scores["estcopa_chat"]["n"] == 3 and scores["estqa_chat"]["value"] is None and scores["estqa_chat"]["reason"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_loses_nothing(small_disk: Path, demo_model: Path) -> None:
    home = small_disk / "home"
    home.mkdir()
    (home / "models").symlink_to(demo_model.parent)
    command = [sys.executable, "-m", "estbench", "eval", "model=demo", "tasks=mini"]
    env = os.environ | {"ESTBENCH_HOME": str(home)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "No space left" in done.stderr.splitlines()[-1] or "full" in done.stderr.splitlines()[-1]
    assert not list(home.glob("runs/*/manifest.json"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "are stored already" in again.stderr


def test_two_evals_at_once_into_one_postgresql_database(tmp_path: Path, home: Path, demo_model: Path) -> None:
    from estbench.database import open_database, queries

    for url in fresh_url("postgresql", tmp_path):
        words = [sys.executable, "-m", "estbench", "eval", "tasks=mini_copa", f"database={url}"]
        env = os.environ | {"ESTBENCH_HOME": str(home)}
        started = [
            subprocess.Popen([*words, f"model={model}"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for model in ("demo", "demo-base")
        ]
        results = [process.communicate() for process in started]
        assert [process.returncode for process in started] == [0, 0], results
        with open_database(url, create=False) as database:
            assert {row.id for row in queries.runs(database)} == {json.loads(out)["run"] for out, _ in results}
