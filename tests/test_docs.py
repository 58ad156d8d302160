"""The README is true: every command is in it, and every command line in it is one that estbench understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from estbench import cli, config, verbs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
VERBS = {
    "runs": ("list", "show", "import", "export", "rebuild"),
    "data": ("list", "pull", "verify"),
    "tasks": ("list", "check"),
    "env": ("list", "install", "remove"),
    "gate": ("run", "calibrate", "noise"),
    "baseline": ("list", "set"),
    "export": ("site",),
    "judge": ("run", "plan", "calibrate", "table", "label", "attack"),
    "train": ("run", "recipes"),
    "board": (
        *("submissions", "token", "rescore", "moderate", "audit", "hide", "show", "mark", "unmark", "correct"),
        *("withdraw", "describe"),
    ),
}
IMPLIED = {"run"}  # verbs that nobody types


def command_lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line[line.index("estbench ") :] for line in lines if re.match(r"(\w+=\S+ )*estbench ", line)]


def test_the_readme_has_command_lines() -> None:
    assert len(command_lines()) >= 4


@pytest.mark.parametrize("line", [*command_lines(), *(e for c in cli.COMMANDS.values() for e in c.examples)])
def test_command_lines_of_readme_and_help_are_understood(line: str) -> None:
    program, name, *words = shlex.split(line)
    assert program == "estbench" and name in cli.COMMANDS
    words = [word for word in words if not word.startswith("@")]
    if name in VERBS:
        _, _, words = verbs.verb_of(words, VERBS[name])
    if name == "compare":
        words = [word for word in words if "=" in word]  # beside the two runs
    settings = config.read(words, cli.COMMANDS[name].settings)
    assert settings is not None


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_and_its_verbs_are_in_the_readme(name: str) -> None:
    assert f"`estbench {name} " in README
    for verb in {*VERBS.get(name, ())} - IMPLIED:
        assert re.search(rf"`estbench {name} [^`]*\b{verb}\b", README)


def test_every_module_is_on_the_map() -> None:
    for path in (ROOT / "estbench").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        if not path.name.startswith("_"):
            assert name in README, f"{name} is not on the map of the house"


def test_every_key_of_the_settings_has_help() -> None:
    for command in cli.COMMANDS.values():
        for key in config.keys(command.settings):
            assert f"  {key}=" in cli._help(next(n for n, c in cli.COMMANDS.items() if c is command))


def test_each_exit_code_of_the_errors_is_in_the_readme() -> None:
    from estbench import errors

    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.EstbenchError)
    }
    assert all(re.search(rf"\b{code} ", README[README.index("Exit codes") :]) for code in codes)
