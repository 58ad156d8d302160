"""The GPU benchmark of training runs from end to end on a tiny model, and what fails costs no other its figures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_training_benchmark", ROOT / "benchmarks" / "gpu_training.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_dry_run_measures_everything_and_writes_it_down(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "training.json"
    assert bench.main(["--tiny", "--seconds", "0.1", "--peak", "0.1", "--out", str(out)]) == 0
    results = json.loads(out.read_text("utf-8"))
    rows = results["rows"]
    assert {name.split("/")[-2] for name in rows} == set(bench.PARTS)
    measured = {name: row for name, row in rows.items() if "skipped" not in row}
    skipped = {row["name"] for row in rows.values() if "skipped" in row}
    assert skipped == {"flex", "flash", "liger"}  # which need a GPU
    assert all(row.get("tokens_per_s", 0) > 0 or row["seconds"] > 0 for row in measured.values())
    base = rows["tiny/64/options/base"]
    again = rows["tiny/64/options/full checkpointing"]
    assert base["mfu"] == base["hfu"] and again["hfu"] >= again["mfu"]
    losses = {round(row["loss"], 1) for name, row in measured.items() if "/options/" in name}
    assert max(losses) < 7 and min(losses) > 4  # ln 320 is 5.8
    padded, packed = (rows[f"tiny/64/documents/{way}"] for way in ("padded", "packed"))
    assert padded["learnt_tokens_per_s"] <= padded["tokens_per_s"] > 0 and packed["learnt_tokens_per_s"] > 0
    assert rows["tiny/gram/solve"]["residual"] < 1e-9
    assert "tiny/64/trainer/cpt over Trainer" in results["verdicts"]
    assert results["verdicts"]["best"]["target"] == 0.4
    assert "tokens/s" in capsys.readouterr().out


def test_what_fails_is_named_and_the_rest_is_measured(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise RuntimeError("CUDA out of memory. Tried to allocate 3.91 GiB")

    monkeypatch.setattr(bench.Bench, "dpo", broken)
    out = tmp_path / "training.json"
    assert bench.main(["--tiny", "--parts", "dpo,gram", "--out", str(out)]) == 1
    rows = json.loads(out.read_text("utf-8"))["rows"]
    assert [row["failed"] for name, row in rows.items() if "/dpo/" in name] == ["out of memory"] * 3
    assert rows["tiny/gram/solve"]["seconds"] > 0


def test_when_the_time_is_up_nothing_new_begins(bench: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "training.json"
    assert bench.main(["--tiny", "--parts", "options,gram", "--limit", "0", "--out", str(out)]) == 0
    assert {row["skipped"] for row in json.loads(out.read_text("utf-8"))["rows"].values()} >= {"no time was left"}


def test_rows_are_packed_as_the_stage_packs_them(bench: ModuleType) -> None:
    import numpy as np

    dice = np.random.default_rng(0)
    bench_ = bench.Bench.__new__(bench.Bench)
    positions, learnt = bench_.row(dice, 4096, "packed")
    begins = np.flatnonzero(positions == 0)
    assert len(begins) > 1 and (np.diff(positions)[begins[1:] - 1] < 0).all()
    assert (~learnt).sum() == len(begins) - 1 and not learnt[begins[1:] - 1].any()
    positions, learnt = bench_.row(dice, 4096, "padded")
    assert (positions == np.arange(4096)).all() and 0 < learnt.sum() < 4096


def test_each_option_differs_from_the_base_in_one_thing(bench: ModuleType) -> None:
    for name in ("1b", "8b"):
        base, *others = bench.options(name, tiny=False)
        assert base.name == "base" and len({option.name for option in others}) == len(others) >= 8
        for option in others:
            changed = [a != b for a, b in zip(bench.astuple(base), bench.astuple(option), strict=True)]
            assert sum(changed) == 1 or option.name == "fp32 weights"
            option.settings(4096)


def test_the_verdict_on_the_target_is_that_of_the_best_option(bench: ModuleType) -> None:
    rows = {
        "8b/4096/options/a": {"tokens_per_s": 7000.0, "mfu": 0.36},
        "8b/4096/options/b": {"tokens_per_s": 8000.0, "mfu": 0.42},
        "8b/4096/documents/packed": {"tokens_per_s": 9000.0, "mfu": 0.5},
        "8b/4096/loader/packing": {"tokens_per_s": 240_000.0},
    }
    found = bench.verdicts(rows)
    assert found["best"] == {"row": "8b/4096/options/b", "mfu": 0.42, "target": 0.4, "reached": True}
    assert found["8b/4096/loader/packing over the fastest step"] == 30.0
