"""The GPU benchmark runs from end to end on a tiny model, and a measurement that fails costs no other its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_dry_run_measures_everything_and_writes_it_down(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--out", str(out), "--peak", "0.1", "--seconds", "5"]) == 0
    results = json.loads(out.read_text("utf-8"))
    found = results["models"]["tiny"]
    for part in ("shared_shots", "sampled_shots"):
        row = found[part]
        assert row["trie"]["path"] == "trie" and row["naive"]["path"] == "padded"
        assert row["trie"]["requests"] and row["compared"] and row["decisions_that_differ"] == 0
        assert row["largest_gap_nats"] < 1e-3 and row["trie"]["share_of_peak"] > 0
    assert found["generation"]["stems"]["new_tokens_per_s"] > 0
    assert found["generation"]["stems"]["path"] == "stems"
    printed = capsys.readouterr().out
    assert "shared_shots: trie / naive" in printed and "FAILED" not in printed


def test_what_fails_is_named_and_the_rest_is_measured(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(gpu.Bench, "scoring", broken)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--out", str(out), "--seconds", "2", "--docs", "4"]) == 1
    results = json.loads(out.read_text("utf-8"))
    assert set(results["errors"]) == {"tiny: shared_shots", "tiny: sampled_shots"}
    assert results["models"]["tiny"]["generation"]["stems"]["requests"] == 4
    assert "FAILED tiny: shared_shots: RuntimeError: CUDA error" in capsys.readouterr().out


def test_the_peak_is_that_of_the_device_by_its_name(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name, peak in (
        ("NVIDIA H200", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("AMD Instinct MI250X", 191.5),
        ("X", None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert gpu.peak_of("cuda:0") == (peak, name)
