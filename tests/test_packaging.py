"""What is declared: the extras, ranges that leave a site its torch and vLLM its caps, pins inside them, the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import estbench
from estbench.home import project_file

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = {"hf", "vllm", "api", "judge", "train", "liger", "leaderboard", "push", "estonian", "ray", "dev"}


def ranges(*extras: str) -> dict[str, Requirement]:
    """The declared ranges of the core and of some extras, by name."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    asked = [Requirement(line) for line in lines]
    if own := {extra for r in asked if r.name == "estbench" for extra in r.extras} - set(extras):
        return ranges(*extras, *own)
    found = {canonicalize_name(r.name): r for r in asked}
    return {name: requirement for name, requirement in found.items() if name != "estbench"}


def pins(file: str) -> dict[str, Version]:
    """The pinned versions of a requirements file, by name."""
    lines = (ROOT / "requirements" / file).read_text("utf-8").splitlines()
    found = [line.partition("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, _, version in found}


def test_the_extras_are_there() -> None:
    assert set(PROJECT["optional-dependencies"]) == EXTRAS


@pytest.mark.parametrize("extras", [[], ["leaderboard"]], ids=["core", "leaderboard"])
def test_core_and_board_ask_for_no_torch(extras: list[str]) -> None:
    assert not {"torch", "transformers", "accelerate"} & set(ranges(*extras))
    assert not ranges()["lm-eval"].extras  # lm-eval[hf] would bring it


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.6.0"),
        ("torch", "2.9.1+rocm6.4"),
        ("torch", "2.13.0+cpu"),
        ("transformers", "5.16.1"),  # the oldest that vLLM takes
        ("transformers", "5.19.0"),  # the newest that vLLM takes
        ("transformers", "5.23.0"),
        ("fastapi", "0.136.3"),  # the newest that vLLM takes
        ("fastapi", "0.165.0"),
        ("numpy", "2.3.5"),  # vLLM's, through numba
    ],
)
def test_ranges_admit_a_sites_torch_and_the_caps_of_vllm(name: str, version: str) -> None:
    assert ranges(*EXTRAS)[name].specifier.contains(version)


@pytest.mark.parametrize(
    ("file", "extras"), [("demo.txt", ["hf", "leaderboard"]), ("dev.txt", ["hf", "dev"]), ("lowest.txt", ["hf"])]
)
def test_pins_cover_what_is_declared_and_lie_in_its_ranges(file: str, extras: list[str]) -> None:
    pinned = {**pins("torch.txt"), **pins(file)}
    for name, requirement in ranges(*extras).items():
        assert requirement.specifier.contains(pinned[name]), f"{file}: {name} {pinned[name]} is not in {requirement}"


def test_lowest_pins_are_the_low_ends_of_the_ranges() -> None:
    pinned = pins("lowest.txt")
    for name, requirement in ranges("hf").items():
        if name != "torch":  # one build for both ends, since CPU wheels of old ones are not on the public index
            low = next(Version(part.version) for part in requirement.specifier if part.operator == ">=")
            assert pinned[name].release[:2] == low.release[:2], f"{name}: {pinned[name]} is tested, {low} is promised"


def test_demo_pins_agree_with_those_of_the_tests() -> None:
    assert pins("demo.txt").items() <= pins("dev.txt").items()


def test_torch_is_pinned_alone_and_without_a_local_version() -> None:
    assert pins("torch.txt") == {"torch": Version("2.13.0")}
    for file in ("demo.txt", "dev.txt", "lowest.txt"):
        assert not [name for name in pins(file) if re.match(r"torch$|triton|nvidia|cuda", name)]


def test_pins_name_no_place_and_no_local_build() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        for line in file.read_text("utf-8").splitlines():
            fits = re.fullmatch(r"#.*|[a-z0-9.-]+==[0-9a-z.]+( \\)?|    --hash=sha256:[0-9a-f]{64}( \\)?", line)
            assert fits, f"{file.name}: {line}"
    assert not (ROOT / "uv.lock").exists()  # it would name this machine's folders


def test_a_checkout_uses_its_own_tasks() -> None:
    assert project_file("tasks") == Path(estbench.__file__).parents[1] / "tasks"


def test_the_wheel_holds_package_tasks_and_command_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    names = set(wheel.namelist())
    tops = {name.partition("/")[0] for name in names}
    packages = {"estbench", "estbench_judges", "estbench_leaderboard", "estbench_training"}
    assert tops == {*packages, f"estbench-{estbench.__version__}.dist-info"}
    files = [*(ROOT / "tasks").rglob("*.yaml"), *(ROOT / "tasks").rglob("*.py"), *(ROOT / "gates").glob("*.yaml")]
    files += [
        path
        for name in ("recipes", "slurm", "templates", "instructions")
        for path in (ROOT / "training" / name).glob("[!.]*")
    ]
    tasks = {f"estbench/_files/{path.relative_to(ROOT)}" for path in files}
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "estbench").rglob("*.py")}
    board = ROOT / "leaderboard"
    parts = [path for path in (board / "estbench_leaderboard").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert tasks | code | {str(path.relative_to(board)) for path in parts} <= names
    assert not [name for name in names if name.endswith(".pyc") or "/." in name]
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "estbench = estbench.cli:main" in wheel.read(entry).decode()
