"""Noise between checkpoints: what was planted is found, training is not taken for noise, and a policy can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estbench import evidence
from estbench.errors import ConfigError
from estbench.evidence import Evidence, Items
from estbench.gate import noise, policy
from estbench.gate.policy import Policy, Rule
from estbench.home import home
from estbench.runs import Sample, Score, write_json, write_lines
from estbench.settings import GateSettings

N, FLIPS = 1000, 0.04


def checkpoint(name: str, columns: dict[str, list[Any]], metric: str = "acc", form: str = "completion") -> Evidence:
    """A run without a folder: its tasks' answers and scores."""
    tasks = {task: {"primary": metric, "data": {"path": task}, "form": form, "plan_hash": "p", "scorer": "s"}
             for task in columns}  # fmt: skip
    manifest = {"name": name, "run": f"{name}-1", "model": {}, "engine": {}, "identity": {}, "tasks": tasks}
    scores = []
    found = Evidence(manifest, scores, None, {})
    for task, values in columns.items():
        n, bits = len(values), metric == "bits_per_byte"
        value = float(np.sum(values, axis=0)[0] / np.sum(values, axis=0)[1] / np.log(2)) if bits else np.mean(values)
        scores.append(Score(task, metric, float(value), None, None, n, n, None, 0, 0, "bits" if bits else "proportion",
                            not bits, True))  # fmt: skip
        found._read[task] = Items(
            docs=[f"d{at}" for at in range(n)],
            clusters=[None] * n,
            keys=[f"{name}{at}" for at in range(n)],
            parse_failure=[False] * n,
            empty=[False] * n,
            length=[-1] * n,
            values={metric: list(values)},
            asked=["a"] * n,
        )
    return found


def answers(ability: float, own: np.random.Generator) -> list[int]:
    """Right where the ability is enough for a document, but for some that flip by chance."""
    right = np.linspace(0, 1, N, endpoint=False) < ability
    return [int(value) for value in right ^ (own.random(N) < FLIPS)]


def training(count: int, jump: float, slope: float, seed: int = 0) -> list[Evidence]:
    """Checkpoints whose ability grows by `slope` a step, and jumps by a standard deviation of `jump` around that."""
    rng = np.random.default_rng(seed)
    jumps = jump * rng.standard_normal(count)
    return [checkpoint(f"step-{100 * (at + 1)}", {"t": answers(0.4 + slope * at + jumps[at], rng)})
            for at in range(count)]  # fmt: skip


def test_planted_noise_is_found_and_documents_are_not_counted() -> None:
    jumps = [noise.of_series(training(16, 0.02, 0.005, seed), Policy())[0].excess or 0.0 for seed in range(24)]
    planted = 100 * 0.02 * (1 - 2 * FLIPS)  # points: answers that flip dampen the jump
    assert np.sqrt(np.mean(np.square(jumps))) == pytest.approx(planted, rel=0.2)
    still = [noise.of_series(training(16, 0.0, 0.005, seed), Policy())[0] for seed in range(12)]
    assert np.median([row.excess or 0.0 for row in still]) < 0.4
    assert all(row.noise is not None and row.noise > 0.3 for row in still)  # documents that flip


def test_training_is_not_taken_for_noise() -> None:
    flat, steep = (noise.of_series(training(12, 0.01, slope), Policy())[0] for slope in (0.0, 0.03))
    assert flat.noise is not None and steep.noise is not None and flat.snr is not None and steep.snr is not None
    assert steep.noise == pytest.approx(flat.noise, rel=0.5)
    assert steep.scores[-1] - steep.scores[0] > 20 > steep.noise  # points
    assert steep.snr > 8 > flat.snr
    assert not steep.too_noisy


def test_a_task_that_does_not_follow_training_is_flagged() -> None:
    rng = np.random.default_rng(1)
    jumps = [0.4, 0.6, 0.4, 0.6, 0.4, 0.6]
    series = [checkpoint(f"step-{at}", {"wild": answers(jump, rng), "tame": answers(0.2 + 0.1 * at, rng)})
              for at, jump in enumerate(jumps)]  # fmt: skip
    wild, tame = noise.of_series(series, Policy())
    assert wild.too_noisy and not tame.too_noisy
    text = noise.as_text([wild, tame], [run.name for run in series])
    (line,) = (line for line in text.splitlines() if line.startswith("wild "))
    assert line.endswith("too noisy to gate on")


def test_the_policy_reads_what_is_printed(tmp_path: Path) -> None:
    rows = noise.of_series(training(16, 0.03, 0.0), Policy())
    rows += [
        noise.TaskNoise("odd: name #1", "acc", "points", (), 1.0, 0.4, 0.5, 1.0),
        noise.TaskNoise("still", "acc", "points"),
    ]
    rows.append(noise.TaskNoise("bits", "bits_per_byte", "bits", (), 0.002, 0.001, 0.00123, 1.0))
    (tmp_path / "gate.yaml").write_text(f"alpha: 0.01\n{noise.policy_lines(rows)}", "utf-8")
    read = policy.read(str(tmp_path / "gate.yaml"))
    assert rows[0].upper is not None and read.rule("t").noise == pytest.approx(rows[0].upper, abs=0.005)
    assert read.rule("odd: name #1").noise == 0.5 and read.rule("bits").noise == pytest.approx(0.0012)
    assert read.rule("still").noise is None
    assert noise.policy_lines(rows[2:3]) == ""


def test_bits_are_bits() -> None:
    rng = np.random.default_rng(2)
    easy = rng.random(N)
    levels = [1 - 0.02 * at + 0.01 * rng.standard_normal() for at in range(12)]
    series = [checkpoint(f"step-{at}", {"text": [[70 * level * (0.5 + part), 100.0] for part in easy]}, "bits_per_byte")
              for at, level in enumerate(levels)]  # fmt: skip
    (row,) = noise.of_series(series, Policy())
    assert row.unit == "bits" and row.excess == pytest.approx(0.01, rel=0.6)
    assert "0.0" in noise.policy_lines([row]) and "(bits)" in noise.as_text([row], ["a"])


def test_tasks_of_which_nothing_can_be_said_have_a_reason() -> None:
    series = training(4, 0.01, 0.01)
    for run in series[1:]:
        run.manifest["tasks"]["late"], run._read["late"] = run.manifest["tasks"]["t"], run._read["t"]
    alone = [checkpoint(f"step-{at}", {"one": [1]}) for at in range(4)]
    rules = {"t": Rule(metric="f1")}
    rows = noise.of_series(series, Policy(tasks=("late", "t"), rules=rules))
    assert [row.reason for row in rows] == ["step-100 does not have it", "a score is missing"]
    assert noise.of_series(alone, Policy())[0].reason == "no interval: one document"
    assert json.dumps(noise.as_json(rows, ["a"]), allow_nan=False)
    assert "a score is missing" in noise.as_text(rows, ["a"])


def test_the_same_responses_throughout_are_no_noise() -> None:
    values = answers(0.5, np.random.default_rng(0))
    series = [checkpoint(f"step-{at}", {"t": values}) for at in range(4)]
    for run in series:
        run._read["t"] = series[0]._read["t"]
    (row,) = noise.of_series(series, Policy())
    assert (row.noise, row.excess, row.snr, row.too_noisy) == (0.0, 0.0, None, False)


def test_what_is_no_series_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4 checkpoints of one training, not 3"):
        noise.of_series(training(3, 0.0, 0.0), Policy())
    series = training(4, 0.0, 0.0)
    with pytest.raises(ConfigError, match="step-100 is there twice"):
        noise.of_series([*series, series[0]], Policy())
    other = checkpoint("step-500", {"t": [1] * N}, form="chat")
    with pytest.raises(ConfigError, match="not comparable in form"):
        noise.of_series([*series, other], Policy())
    assert noise.of_series([*series, other], Policy(allow=("form",)))[0].noise is not None


def store(name: str, part: str | None = None) -> None:
    """A run folder in the home with one task."""
    folder = home() / "runs" / name
    task = {"primary": "acc", "data": {"path": "t"}, "form": "completion", "plan_hash": "p", "scorer": "s"}
    manifest = {"schema": 1, "run": name, "name": name.rpartition("-")[0], "slice": part, "identity": {}, "model": {},
                "engine": {}, "tasks": {"t": task}}  # fmt: skip
    values = answers(0.5 + int(name.split("-")[1]) / 10_000, np.random.default_rng(0))
    rows = [
        Sample("t", at, f"d{at}", "", None, None, "", {"acc": value}, f"{name}{at}") for at, value in enumerate(values)
    ]
    write_lines(folder / "samples" / "t.jsonl.gz", rows)
    write_lines(folder / "responses" / "t.jsonl.gz", [])
    score = Score("t", "acc", float(np.mean(values)), None, None, N, N, None, 0, 0, "proportion", True, True)
    write_json(folder / "scores.json", [{key: getattr(score, key) for key in Score.__dataclass_fields__}])
    write_json(folder / "manifest.json", manifest)


@pytest.fixture
def stored(home: Path) -> list[str]:
    """Six checkpoints, one of them a slice, and another model."""
    names = [f"step-{step}-{step:012x}" for step in (1000, 200, 400, 600, 800)]
    for name in names:
        store(name)
    store("step-1200-00000000abcd", part="1/2")
    store("other-1-0123456789ab")
    return names


def test_patterns_and_names_find_runs_once(stored: list[str]) -> None:
    assert [run.name for run in noise.runs_of("step-*")] == [f"step-{step}" for step in (200, 400, 600, 800, 1000)]
    assert [run.name for run in noise.runs_of("step-?00")] == ["step-200", "step-400", "step-600", "step-800"]
    assert next(iter(noise.runs_of(f"other-1, step-*, {stored[1]}"))).name == "other-1"
    assert len(noise.runs_of(f"step-*,{stored[1]}")) == 5
    assert [run.name for run in noise.runs_of(str(home() / "runs" / "step-[68]00-*"))] == ["step-600", "step-800"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (None, "runs= is missing"),
        ("", "runs= is missing"),
        ("step-200,,step-400", "nothing between two commas"),
        ("nobody-*", "means no stored run"),
        ("nobody", "no run 'nobody'"),
        ("step-12*", "means no stored run"),  # a slice is no run
    ],
)
def test_runs_that_are_not_there_are_named(stored: list[str], words: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        noise.runs_of(words)


def test_the_command_puts_checkpoints_in_order(
    stored: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "gate.yaml").write_text("margin: 2\n", "utf-8")
    words = ",".join(stored)
    assert noise.command(GateSettings(policy=str(tmp_path / "gate.yaml"), runs=words, output="json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoints"] == [f"step-{step}" for step in (200, 400, 600, 800, 1000)]
    assert len(found["tasks"][0]["scores"]) == 5
    assert noise.command(GateSettings(policy=str(tmp_path / "gate.yaml"), runs=words, output="table")) == 0
    assert "5 checkpoints: step-200, step-400" in capsys.readouterr().out


def test_baseline_files_are_checkpoints_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in training(4, 0.01, 0.0):
        evidence.save(run, tmp_path / f"{run.name}.json")
    monkeypatch.chdir(tmp_path)
    runs = noise.runs_of("step-100.json,step-200.json,step-300.json,step-400.json")
    assert noise.of_series(runs, Policy())[0].noise is not None
