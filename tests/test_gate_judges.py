"""Judged tasks in comparisons and gates: what awaits its judge stops nothing, an uncalibrated judge blocks nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, Persona
from judge_world import answered, quality_of, text_of, write_prompts

from estbench.cli import main
from estbench.runs import Run

POLICY = "alpha: 0.05\nmargin: 20\nminimum_n: 20\ntasks: [mini_qa_chat, estinstruct_chat]\n"
Row = dict[str, Any]


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "gate.yaml").write_text(POLICY, "utf-8")
    return str(tmp_path / "gate.yaml")


def both(levels: tuple[float, float]) -> tuple[Run, Run]:
    """Two runs of both tasks on 40 documents: answers of these qualities."""
    settings = {"tasks": "mini_qa_chat,estinstruct_chat", "limit": 40}
    one, other = (
        answered(Path(), lambda prompt, level=level: text_of(level, prompt), name=name, **settings)  # type: ignore[misc]
        for name, level in zip(("uus", "vana"), levels, strict=True)
    )
    return one, other


def gate(one: Run, other: Run, policy: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Row]]:
    capsys.readouterr()
    code = main(["gate", f"candidate={one.id}", f"baseline={other.id}", f"policy={policy}", "output=json"])
    [found] = json.loads(capsys.readouterr().out)["comparisons"]
    return code, {row["task"]: row for row in found["tasks"]}


def test_a_task_that_awaits_its_judge_is_left_out_of_a_comparison_and_stops_no_gate(
    home: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = both((0.4, 0.7))
    code, rows = gate(one, other, policy, capsys)
    assert rows["estinstruct_chat"]["status"] == "undecided" and not rows["estinstruct_chat"]["blocking"]
    assert "awaiting judge" in str(rows["estinstruct_chat"]["reasons"]) and code == 0
    assert main(["compare", one.id, other.id, "output=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in found["tasks"]] == ["mini_qa_chat"]
    assert "awaiting judge" in found["left_out"]["estinstruct_chat"]


def test_an_uncalibrated_judge_blocks_nothing_and_other_judges_are_said(
    home: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = both((0.3, 0.8))
    with JudgeServer(quality_of) as first, JudgeServer(quality_of, Persona(first=0.7), name="teine") as second:
        for run in (one, other):
            assert main(["judge", f"run={run.id}", f"judge=judge@{first.url}", "output=json"]) == 0
        code, rows = gate(one, other, policy, capsys)
        fell = rows["estinstruct_chat"]
        assert code == 0 and not fell["blocking"] and "uncalibrated" in str(fell["reasons"])
        assert isinstance(fell["difference"], float) and fell["difference"] < -10  # it is seen, and blocks nothing
        assert main(["judge", f"run={other.id}", f"judge=teine@{second.url}", "output=json"]) == 0
    code, rows = gate(one, other, policy, capsys)
    assert code == 0  # numbers of two yardsticks, and neither blocks
    assert main(["compare", one.id, other.id, "output=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any(problem["kind"] == "judges" for problem in found["problems"])


def test_a_private_prompt_set_is_compared_like_any_task(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "own.jsonl", 40)
    runs = [answered(prompts, lambda p, x=x: text_of(x, p), name=f"m{x}") for x in (0.8, 0.3)]  # type: ignore[misc]
    with JudgeServer(quality_of) as server:
        for run in runs:
            assert main(["judge", f"run={run.id}", f"judge=judge@{server.url}", "output=json"]) == 0
    capsys.readouterr()
    assert main(["compare", runs[0].id, runs[1].id, "output=json"]) == 0
    rows = {row["task"]: row for row in json.loads(capsys.readouterr().out)["tasks"]}
    assert rows["own_chat"]["verdict"] == "a" and rows["own_chat"]["judge"] == "uncalibrated"
