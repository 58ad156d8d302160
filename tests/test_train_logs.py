"""The log of a training run: a line a step, no line twice after a resume, and progress for people."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from estbench_training.cpt import logs
from estbench_training.cpt.logs import Log, Record, duration

from estbench.errors import MissingPartError, StoreError


def record(step: int, **other: Any) -> Record:
    row: dict[str, Any] = {"loss": 3.0 - step / 100, "rate": 1e-5, "grad_norm": 0.5, "tokens_per_second": 1000.0}
    return Record(step=step, tokens=step * 64, **(row | other))


def log_of(folder: Path, **other: Any) -> Log:
    return Log(folder, **({"steps": 20, "tensorboard": False, "say": lambda line: None} | other))


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_every_step_is_a_line_at_once(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        log.write(record(1, mfu=0.4))
        first = json.loads((tmp_path / "log.jsonl").read_text("utf-8"))
        assert first == {
            "kind": "step", "step": 1, "tokens": 64, "loss": 2.99, "rate": 1e-5, "grad_norm": 0.5,
            "tokens_per_second": 1000.0, "mfu": 0.4, "verdict": "ok",
        }  # fmt: skip
        log.write(record(2))
    assert steps_in(tmp_path) == [1, 2]


def test_a_step_in_n_is_written_and_every_bad_one_and_the_last(tmp_path: Path) -> None:
    with log_of(tmp_path, every=5, steps=12) as log:
        for step in range(1, 13):
            log.write(record(step, verdict="skip" if step == 7 else "ok"))
    assert steps_in(tmp_path) == [5, 7, 10, 12]


def test_a_resumed_run_drops_the_lines_that_come_again(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        for step in range(1, 11):
            log.write(record(step))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 11, "tok')  # killed while it wrote
    with log_of(tmp_path, resumed=6) as log:
        log.write(record(7, loss=1.25))
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert logs.read(tmp_path / "log.jsonl")[-1]["loss"] == 1.25
    log_of(tmp_path).close()  # from the beginning
    assert steps_in(tmp_path) == []


def test_what_a_roll_back_undid_does_not_count_but_stays_in_the_file(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        for step in range(1, 9):
            log.write(record(step))
        log.roll_back(8, 4, "loss is nan")
        for step in (5, 6):
            log.write(record(step, loss=1.0))
    kept = logs.read(tmp_path / "log.jsonl")
    assert [row["step"] for row in kept if row["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in kept if row["step"] in (5, 6)] == [1.0, 1.0]
    assert len(steps_in(tmp_path)) == 11


def test_a_resume_into_what_a_roll_back_undid_does_not_bring_it_back(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        for step in range(1, 9):
            log.write(record(step, loss=9.0))
        log.roll_back(8, 4, "loss is nan")
        for step in (5, 6, 7):
            log.write(record(step, loss=1.0))
    log_of(tmp_path, resumed=6).close()
    kept = [row for row in logs.read(tmp_path / "log.jsonl") if row["kind"] == "step"]
    assert [row["step"] for row in kept] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in kept] == [9.0] * 4 + [1.0] * 2


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        log.write(record(1, loss=math.nan, grad_norm=math.inf, verdict="skip", reason="loss is nan"))
    row = json.loads((tmp_path / "log.jsonl").read_text("utf-8"), parse_constant=pytest.fail)
    assert row["loss"] is None and row["grad_norm"] is None and row["reason"] == "loss is nan"


def test_only_the_main_rank_writes(tmp_path: Path) -> None:
    with log_of(tmp_path / "other", main=False) as log:
        log.write(record(1))
        log.evaluation(1, 64, {"et": 0.5})
        log.roll_back(2, 1, "")
    assert not (tmp_path / "other").exists()


def test_progress_is_lines_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    said: list[str] = []
    with log_of(tmp_path, steps=1000, name="cpt", say=said.append) as log:
        for step in range(1, 1001):
            log.write(record(step, loss=2.5, mfu=0.41, verdict="skip" if step == 13 else "ok", reason="loss is nan"))
    assert said[0].startswith("cpt 1/1,000  loss 2.500  rate 1e-05  1,000 tokens/s  MFU 41 %  left ")
    assert said[-1].startswith("cpt 1,000/1,000") and len(said) <= logs.LINES + 2
    assert said[1] == "step 13: loss is nan -> skip"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_with_what_is_left_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with log_of(tmp_path, steps=3, name="cpt", say=said.append) as log:
        for step in range(1, 4):
            log.write(record(step, mfu=0.41, verdict="skip" if step == 2 else "ok", reason="loss is nan"))
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "3/3" in shown and "1,000 tokens/s" in shown and "MFU 41 %" in shown and "left" in shown
    assert "step 2: loss is nan -> skip" in shown and said == []


def test_tensorboard_gets_the_points_and_no_others_after_a_resume(tmp_path: Path) -> None:
    with log_of(tmp_path, tensorboard=True) as log:
        for step in range(1, 6):
            log.write(record(step))
        log.evaluation(5, 320, {"et": 0.5})
    with log_of(tmp_path, tensorboard=True, resumed=3) as log:
        log.write(record(4, loss=1.5))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/rate", "train/grad_norm", "train/tokens_per_second"} <= set(events.Tags()["scalars"])
    points = [(event.step, round(event.value, 4)) for event in events.Scalars("train/loss")]
    assert points == [(1, 2.99), (2, 2.98), (3, 2.97), (4, 1.5)]


def test_tensorboard_is_left_out_where_it_is_missing_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with log_of(tmp_path, tensorboard=None) as log:
        log.write(record(1))
    assert not (tmp_path / "tensorboard").exists()
    with pytest.raises(MissingPartError, match=r"pip install 'estbench\[train\]'"):
        log_of(tmp_path, tensorboard=True)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"log\.jsonl can't be written"):
        log_of(tmp_path / "file")


@pytest.mark.parametrize(
    ("seconds", "words"), [(12, "12 s"), (100, "2 min"), (6000, "1.7 h"), (260_000, "3 d"), (90_000, "25.0 h")]
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words
