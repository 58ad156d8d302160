"""docs/gating.md is true: its commands are understood, every key is in it, its policies can be read."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from estbench import cli, config, verbs
from estbench.gate import policy
from estbench.gate.verdict import EXIT

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "gating.md").read_text("utf-8")
ACTION: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "actions" / "gate" / "action.yml").read_text("utf-8"))
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "gitlab-gate.yml").read_text("utf-8"))[".estbench-gate"]
STATUS = {code: status for status, code in EXIT.items()} | {2: "error"}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCS, re.DOTALL)


def command_lines() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    quoted = re.findall(r"`(estbench [^`]*=[^`]*)`", DOCS)
    return [line for line in [*lines, *quoted] if line.startswith("estbench ")]


VERBS = {"gate": ("run", "calibrate", "noise"), "baseline": ("list", "set"), "runs": ("list", "show")}


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_understood(line: str) -> None:
    _, name, *words = shlex.split(line)
    if name in VERBS:
        _, _, words = verbs.verb_of(words, VERBS[name])
    elif name == "compare":
        words = [word for word in words if "=" in word]
    assert config.read(words, cli.COMMANDS[name].settings) is not None


def test_all_the_commands_of_the_gate_are_shown() -> None:
    whole = "\n".join(command_lines())
    assert all(f"estbench {words}" in whole for words in ("gate candidate=", "gate model=", "gate calibrate ",
               "gate noise ", "baseline set ", "baseline list", "compare "))  # fmt: skip


def rows(heading: str) -> dict[str, list[str]]:
    """The table under a heading of columns: first cell (without its ticks) -> the other cells."""
    lines = DOCS[DOCS.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {first.strip("`"): rest for first, *rest in cells}


def test_every_key_of_a_policy_is_explained_with_its_default() -> None:
    table = rows("key")
    assert table.keys() == set(policy.KEYS)
    for item in dataclasses.fields(policy.Policy):
        if isinstance(item.default, int | float):
            assert yaml.safe_load(table[item.name][-1]) == item.default, item.name
    pool = policy.Pool()
    assert yaml.safe_load(table["pool"][-1].strip("`")) == {"margin": pool.margin, "share": pool.share}
    assert yaml.safe_load(table["looks"][-1]) == list(policy.LOOKS)
    for kind, key in ((policy.Pool, "pool"), (policy.Reference, "reference")):
        assert all(f"`{item.name}`" in table[key][0] for item in dataclasses.fields(kind))
    assert all(f"`{word}`" in table["allow"][0] for word in policy.DIFFERENCES)


def test_every_rule_of_a_task_is_explained() -> None:
    table, plain = rows("rule"), policy.Rule()
    assert table.keys() == set(policy.RULE_KEYS)
    assert yaml.safe_load(table["blocking"][-1]) is plain.blocking and float(table["weight"][-1]) == plain.weight


def test_every_input_and_output_of_the_action_is_explained() -> None:
    table = {name: cells for names, cells in rows("input").items() for name in re.findall(r"[\w-]+", names)}
    assert table.keys() == ACTION["inputs"].keys()
    for name, given in ACTION["inputs"].items():
        assert str(given["default"]) in table[name][0].replace("`", ""), name
    assert all(f"`{name}`" in DOCS for name in ACTION["outputs"])


def test_exit_codes_and_statuses_are_explained() -> None:
    assert {int(code): cells[0] for code, cells in rows("exit code").items()} == STATUS
    told = {cells[1].strip("`"): int(cells[2]) for cells in rows("verdict | the step").values()}
    assert told == {status: code for code, status in STATUS.items()}


def test_the_table_of_margins_adds_up() -> None:
    lines = DOCS[DOCS.index("| documents | they disagree on |") :].split("\n\n")[0].splitlines()[2:]
    for line in lines:
        n, share, error, margin, seen = (float(re.sub("[ %,]", "", cell)) for cell in line.split("|")[1:-1])
        exact = 100 * (share / 100 / n) ** 0.5
        found = exact, (1.645 + 1.282) * exact, (1.645 + 1.282 + 0.842) * exact  # a pass 9 times in 10; 4 times in 5
        assert (error, margin, seen) == pytest.approx(found, abs=0.051)


def policies() -> list[str]:
    """The YAML blocks that are policies."""
    return [block for block in blocks("yaml") if re.search(r"^(tasks|margin):", block, re.MULTILINE)]


@pytest.mark.parametrize("text", policies())
def test_policies_that_are_shown_can_be_read(text: str, tmp_path: Path) -> None:
    from estbench.registry import Registry

    file = tmp_path / "gate.yaml"
    file.write_text(text, "utf-8")
    found = policy.read(str(file))
    assert found.tasks and set(found.tasks) <= set(Registry().tasks)


def test_a_gate_takes_ten_lines() -> None:
    first = DOCS[: DOCS.index("By hand")]
    lines = [line for block in re.findall(r"```\w+\n(.*?)```", first, re.DOTALL) for line in block.splitlines()]
    assert len(lines) <= 10 and len(policies()) >= 3


def test_workflows_that_are_shown_fit_the_action() -> None:
    found = [yaml.safe_load(block) for block in blocks("yaml")]
    steps = [step for one in found if isinstance(one, dict) and "jobs" in one for step in one["jobs"]["gate"]["steps"]]
    steps += [step for one in found if isinstance(one, list) for step in one]
    ours = [step for step in steps if "actions/gate@" in step.get("uses", "")]
    assert len(ours) == 2 and all(step["with"].keys() <= ACTION["inputs"].keys() for step in ours)
    for step in steps:
        assert "${{" not in step.get("run", "")
        if "uses" in step and step not in ours:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
    (job,) = [one["gate"] for one in found if isinstance(one, dict) and "include" in one]
    assert job["extends"] == ".estbench-gate" and job["variables"].keys() <= GITLAB["variables"].keys()
