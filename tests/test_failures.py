"""Requests without a response: missing data with a reason, in no score, asked again by the same command alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from failing import REASON, Moody, evaluate
from worlds import World

from estbench import engines, exports, registry
from estbench.cli import main
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.runs import Run, superseded


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[MockEngine], MockEngine]:
    """`engine(one)`: from then on commands ask this engine."""
    monkeypatch.setattr(engines, "find_model", lambda *_, **__: mock_checkpoint())
    monkeypatch.setattr(engines, "tokens_of", lambda *_: MockTokens())

    def use(one: MockEngine) -> MockEngine:
        monkeypatch.setattr(engines, "make", lambda *_: one)
        return one

    return use


def command(world: World, *more: str) -> int:
    return main(["eval", "model=mock", "tasks=both", f"data={world.data}", *more])


def test_a_failed_request_is_missing_data_and_no_zero(world: World) -> None:
    run = evaluate(world, Moody(fails=3))
    samples = list(run.samples("words"))
    lost = [sample for sample in samples if sample.error]
    assert len(lost) == 3 and {sample.error for sample in lost} == {REASON}
    assert all(sample.values == {} and sample.answer is None for sample in lost)
    [score] = [score for score in run.scores() if score.task == "words"]
    assert (score.n, score.n_planned, score.errors) == (9, 12, 3)
    kept = [sample.values["exact_match"] for sample in samples if not sample.error]
    assert score.value == pytest.approx(sum(kept) / 9)
    assert run.manifest["unanswered"] == {"documents": 3, "reason": REASON} and run.unanswered == 3


def test_the_same_command_asks_these_alone_and_the_run_is_whole(world: World) -> None:
    first = evaluate(world, Moody(fails=3))
    again = Moody()
    second = evaluate(world, again)
    assert again.forwarded == 3
    assert not second.unanswered and "unanswered" not in second.manifest
    assert second.id != first.id, "a result with holes is another result"
    untouched = evaluate(world, Moody(fails=99))
    assert untouched.id == second.id and untouched.path == second.path


def test_a_run_that_never_failed_is_the_same_run(world: World, home: Path, tmp_path: Path) -> None:
    evaluate(world, Moody(fails=3))
    mended = evaluate(world, Moody())
    shutil.rmtree(home / "responses")
    assert evaluate(world, Moody()).id == mended.id


def test_eval_says_how_many_and_why_and_ends_with_4(
    world: World, engine: Callable[[MockEngine], MockEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    engine(Moody(fails=2))
    assert command(world, "output=table") == 4
    said = capsys.readouterr()
    assert "2 documents have no response (HTTP 500 four times)" in said.err
    assert "words" in said.out and "10 of 12" in said.out, "the table is there all the same"
    engine(Moody(fails=0))
    assert command(world, "output=table") == 0
    assert "no response (" not in capsys.readouterr().err


def test_the_complete_run_takes_the_place_of_the_incomplete_one(
    world: World, engine: Callable[[MockEngine], MockEngine], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine(Moody(fails=2))
    command(world)
    old = json.loads(capsys.readouterr().out)["run"]
    engine(Moody())
    other = command(world, "limit=5")  # another evaluation: it replaces nothing
    assert other == 0 and (home / "runs" / old).exists()
    capsys.readouterr()
    assert command(world) == 0
    said = capsys.readouterr()
    new = json.loads(said.out)["run"]
    assert f"{old}, in which 2 documents had no response, is replaced by {new}" in said.err
    assert not (home / "runs" / old).exists() and (home / "runs" / new / "manifest.json").exists()
    main(["runs", "output=json"])
    listed = [row["id"] for row in json.loads(capsys.readouterr().out)]
    assert new in listed and old not in listed and len(listed) == 2


def test_a_run_with_holes_never_replaces_a_whole_one(world: World) -> None:
    holes = evaluate(world, Moody(fails=2))
    whole = evaluate(world, Moody())
    assert [run.id for run in superseded(whole)] == [holes.id] and superseded(holes) == []


def test_such_a_run_is_shown_exported_and_indexed_like_any(
    world: World,
    engine: Callable[[MockEngine], MockEngine],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine(Moody(fails=2))
    command(world)
    run = json.loads(capsys.readouterr().out)["run"]
    assert main(["runs", "show", f"run={run}"]) == 0
    shown = json.loads(capsys.readouterr().out)["scores"]
    assert {score["task"]: score["errors"] for score in shown if score["primary"]} == {"letters": 0, "words": 2}
    exports.export(Run(home / "runs" / run), tmp_path / "copy", private=True)
    copied = Run(tmp_path / "copy")
    assert copied.unanswered == 2 and sum(bool(s.error) for s in copied.samples("words")) == 2
    assert main(["runs", "rebuild"]) == 0
    assert "1 runs indexed" in capsys.readouterr().err


def test_a_model_that_answers_nothing_is_an_error_and_no_run(
    world: World, engine: Callable[[MockEngine], MockEngine], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine(Moody(fails=999))
    assert main(["eval", "model=mock", "tasks=words", f"data={world.data}"]) == 4
    assert "None of the first" in capsys.readouterr().err and not (home / "runs").exists()
