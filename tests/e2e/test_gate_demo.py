"""The gate on the demo models, by exit code: equal passes, worse fails, and look by look says the same for less."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_home

pytestmark = pytest.mark.slow


def estbench(*words: str, home: Path) -> tuple[int, Any, str]:
    command = [sys.executable, "-m", "estbench", *words]
    env = os.environ | {"ESTBENCH_HOME": str(home)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout, done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, demo_results: Path) -> Path:
    return copy_home(demo_results, tmp_path_factory.mktemp("gate") / "home")


@pytest.fixture(scope="module")
def demo_run(home: Path) -> str:
    code, found, err = estbench("eval", "model=demo", "tasks=mini", home=home)
    assert code == 0, err
    return str(found["run"])


@pytest.fixture(scope="module")
def noisy(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with Gaussian noise of 20 % of each tensor's spread on its weights."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(demo_model, tmp_path_factory.mktemp("noisy") / "noisy"))
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(folder / "model.safetensors")
    for tensor in tensors.values():
        tensor += 0.2 * tensor.std() * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_demo_against_its_own_rerun_passes(home: Path, demo_run: str, tmp_path: Path) -> None:
    (other := tmp_path / "home").mkdir()
    (other / "models").symlink_to(home / "models")
    code, again, err = estbench("eval", "model=demo", "tasks=mini", home=other)  # everything is computed anew
    assert code == 0 and "no token is forwarded" not in err
    candidate, baseline = other / "runs" / str(again["run"]), home / "runs" / demo_run
    code, found, _ = estbench("gate", f"candidate={candidate}", f"baseline={baseline}", "policy=mini", home=home)
    assert code == 0 and found["status"] == "pass"


def test_noise_on_the_weights_that_costs_ten_points_is_a_regression(home: Path, demo_run: str, noisy: Path) -> None:
    code, found, err = estbench("gate", f"candidate={noisy}", f"baseline={demo_run}", "policy=mini", home=home)
    [comparison] = found["comparisons"]
    assert code == 1, err
    assert min(row["difference"] for row in comparison["tasks"]) <= -10
    assert comparison["pool"]["status"] == "regression"


def test_demo_base_against_demo_is_a_regression(home: Path, demo_run: str) -> None:
    code, found, _ = estbench("gate", "candidate=demo-base", f"baseline={demo_run}", "policy=mini", home=home)
    assert code == 1 and found["status"] == "regression"


def test_look_by_look_clear_cases_end_the_same_for_a_third_of_the_documents(home: Path, demo_run: str) -> None:
    code, found, _ = estbench("gate", "model=demo-base", f"baseline={demo_run}", "policy=mini", "budget=all", home=home)
    assert code == 1 and 3 * found["looks"][-1]["documents"] <= found["documents"] == 2240
    base = estbench("eval", "model=demo-base", "tasks=mini", home=home)[1]["run"]
    code, found, _ = estbench("gate", "model=demo", f"baseline={base}", "policy=mini", "budget=all", home=home)
    assert code == 0 and 3 * found["looks"][-1]["documents"] <= found["documents"]


def test_the_demo_models_compare_and_report(home: Path, demo_run: str) -> None:
    base = estbench("eval", "model=demo-base", "tasks=mini", home=home)[1]["run"]
    code, found, _ = estbench("compare", demo_run, base, "flips=3", home=home)
    assert code == 0 and {row["verdict"] for row in found["tasks"]} == {"a"}
    assert all(len(row["flips"]) == 3 for row in found["tasks"])
    for form in ("latex", "markdown", "csv", "json"):
        code, text, err = estbench("report", f"runs={demo_run},{base}", "tasks=mini", f"output={form}", home=home)
        assert code == 0 and text, err
