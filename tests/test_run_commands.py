"""`estbench runs show`: scores by case and by error type, from the run and the data it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estbench import cli

MockModel = Callable[[Callable[[str], str]], None]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(["runs", "show", *words]) == 0
    return json.loads(capsys.readouterr().out)


def evaluated(capsys: pytest.CaptureFixture[str], task: str) -> str:
    assert cli.main(["eval", "model=mock", f"tasks={task}", "data=samples"]) == 0
    return str(json.loads(capsys.readouterr().out)["run"])


def test_a_run_shows_scores_by_grammatical_case(
    home: Path, mock_model: MockModel, capsys: pytest.CaptureFixture[str]
) -> None:
    mock_model(lambda prompt: "majas")
    run = evaluated(capsys, "unimorph_et")
    scores = {score["metric"]: score for score in shown(capsys, f"run={run}", "task=unimorph_et")["scores"]}
    cases = {name: score for name, score in scores.items() if name.startswith("exact_match/")}
    assert len(cases) == 27 and sum(score["n"] for score in cases.values()) == scores["exact_match"]["n"]
    assert cases["exact_match/ainsuse seesütlev"]["value"] > 0 == cases["exact_match/ainsuse kaasaütlev"]["value"]
    assert cli.main(["runs", "show", f"run={run}", "output=table"]) == 0
    assert "seesütlev" not in capsys.readouterr().out  # the short table is the whole run's
    assert cli.main(["runs", "show", f"run={run}", "task=unimorph_et", "output=table"]) == 0
    assert "seesütlev" in capsys.readouterr().out


def test_a_run_shows_recall_by_error_type(
    home: Path, mock_model: MockModel, capsys: pytest.CaptureFixture[str]
) -> None:
    mock_model(lambda prompt: "Mulle vaja appi.")
    run = evaluated(capsys, "estgec_l2_chat")
    view = shown(capsys, f"run={run}", "task=estgec_l2_chat")
    types, scores = view["recall_by_type"], {score["metric"]: score for score in view["scores"]}
    assert all(0 <= row["correct"] <= row["gold"] for row in types.values()) and len(types) > 5
    whole = sum(row["correct"] for row in types.values()) / sum(row["gold"] for row in types.values())
    assert whole == pytest.approx(scores["gec_recall"]["value"])  # the same annotators, the same edits
    assert cli.main(["runs", "show", f"run={run}", "task=estgec_l2_chat", "output=table"]) == 0
    assert "error type" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say which run"),
        (["run=nothing"], "There is no run"),
    ],
)
def test_what_can_not_be_shown_is_one_line(
    home: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["runs", "show", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_an_unknown_task_of_a_run_is_refused(
    home: Path, mock_model: MockModel, capsys: pytest.CaptureFixture[str]
) -> None:
    mock_model(lambda prompt: "A")
    run = evaluated(capsys, "estcopa_chat")
    assert cli.main(["runs", "show", f"run={run}", "task=estcopa"]) == 2
    assert "has no task 'estcopa'. Did you mean 'estcopa_chat'?" in capsys.readouterr().err
