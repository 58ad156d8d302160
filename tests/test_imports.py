"""The import graph: commands that answer at once load nothing heavy, and arrows between the parts point one way."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import estbench

PACKAGE = Path(estbench.__file__).parent
HEAVY = {"torch", "transformers", "lm_eval", "datasets", "trl", "fastapi", "sqlalchemy", "scipy", "pandas"}
LATER = {"estbench_judges", "estbench_leaderboard", "estbench_training"}

DUMP = """
import contextlib, io, json, runpy, sys
sys.argv = ["estbench", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    runpy.run_module("estbench", run_name="__main__")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after the code."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def imported(file: Path) -> Iterator[str]:
    """The full names of all modules that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def at_top(file: Path) -> Iterator[str]:
    """The top-level modules that a file imports when it is imported itself."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    "command",
    ["", "--help", "--version", "eval --help", "tasks", "tasks output=table", "tasks task=estcopa"],
)
def test_instant_commands_load_nothing_heavy(command: str) -> None:
    modules = loaded(DUMP, *command.split())
    assert "estbench" in modules
    assert not modules & HEAVY


def test_the_module_dump_sees_a_heavy_import() -> None:
    """Negative control for the test above."""
    assert "sqlalchemy" in loaded("import sqlalchemy\n" + DUMP, "--help")


def test_estbench_imports_none_of_the_parts_that_build_on_it() -> None:
    guilty = {
        f"{file.relative_to(PACKAGE)}: {name}"
        for file in PACKAGE.rglob("*.py")
        for name in imported(file)
        if name.partition(".")[0] in LATER
    }
    assert not guilty


@pytest.mark.parametrize("part", ["metrics", "stats", "estonian"])
def test_pure_parts_know_no_engine_and_no_database(part: str) -> None:
    path = PACKAGE / part
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files, f"{part} is not there"
    inner = ("engines", "database", "runner", "responses")
    forbidden = ("torch", "sqlalchemy", *(f"estbench.{name}" for name in inner))
    guilty = {f"{file.name}: {name}" for file in files for name in imported(file) if name.startswith(forbidden)}
    assert not guilty


def test_heavy_libraries_are_imported_inside_functions() -> None:
    """Two parts are all about a library and name it at the top; only functions import them."""
    about = {"database": {"sqlalchemy"}, "lm_tasks.py": {"lm_eval", "datasets"}}
    guilty = set()
    for file in PACKAGE.rglob("*.py"):
        allowed = about.get(file.relative_to(PACKAGE).parts[0], set())
        guilty |= {f"{file.relative_to(PACKAGE)}: {name}" for name in set(at_top(file)) & HEAVY - allowed}
    assert not guilty
