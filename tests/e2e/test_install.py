"""scripts/install.sh: what `make demo` does before it evaluates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def install(part: str, **settings: str | Path) -> subprocess.CompletedProcess[str]:
    env = {name: str(value) for name, value in settings.items()}
    return subprocess.run(["scripts/install.sh", part], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_the_torch_of_a_sites_container_is_never_replaced(tmp_path: Path, online: dict[str, str]) -> None:
    site = tmp_path / "container"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", site], check=True)
    torch = next(site.glob("lib/python3*/site-packages")) / "torch"
    torch.mkdir()
    (torch / "__init__.py").write_text("__version__ = '2.9.1+rocm6.4'\n")

    venv = tmp_path / "venv"
    settings: dict[str, str | Path] = {
        "VENV": venv,
        "PYTHON": site / "bin" / "python",
        "VENV_FLAGS": "--system-site-packages",
    }
    for _ in range(2):  # a second installation keeps it, too
        done = install("demo", **{**online, **settings})
        assert done.returncode == 0, done.stderr
        assert "torch 2.9.1+rocm6.4 was here before and stays" in done.stdout
    code = "import estbench, torch, transformers; print(torch.__file__)"
    found = subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert found.stdout.strip() == str(torch / "__init__.py")


@pytest.mark.parametrize(
    ("python", "cure"),
    [("/no/such/python", "Python 3.11 or newer"), ("false", "Python 3.11 or newer")],
    ids=["missing", "too old"],
)
def test_a_python_that_will_not_do_gets_one_line(tmp_path: Path, python: str, cure: str) -> None:
    done = install("demo", VENV=tmp_path / "venv", PYTHON=python, PATH="/usr/bin:/bin")
    assert done.returncode == 4
    assert cure in done.stderr
    assert len(done.stderr.splitlines()) == 1
