"""`share=0.25`: a quarter of each task's documents, by the order of their hashes; the run says that it is partial."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from worlds import World, rows

from estbench import registry
from estbench.cli import main
from estbench.runs import Run


@pytest.fixture
def words(tmp_path: Path, home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made = World(tmp_path / "world", n=12)
    made.fill("words", rows(30), rows(4, start=1000))
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    model = shutil.copytree(tiny_model, tmp_path / "model")
    return ["eval", f"model={model}", "tasks=letters,words", f"data={made.data}"]


def run_of(capsys: pytest.CaptureFixture[str], *words: str) -> Run:
    assert main(words) == 0
    return Run(json.loads(capsys.readouterr().out)["folder"])


def docs(run: Run, task: str) -> set[str]:
    return {sample.doc_hash for sample in run.samples(task)}


def test_a_share_is_of_each_task_and_makes_the_run_partial(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    part = run_of(capsys, *words, "share=0.25")
    assert (len(docs(part, "letters")), len(docs(part, "words"))) == (3, 8) and part.manifest["partial"]
    assert "share=0.25" in part.manifest["command"]
    assert run_of(capsys, *words, "share=1").manifest["partial"] is False


def test_shares_grow_into_each_other_and_are_of_what_the_limit_leaves(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = (run_of(capsys, *words, f"share={share}") for share in (0.2, 0.6))
    assert docs(small, "words") < docs(large, "words")
    limited = run_of(capsys, *words, "share=0.5", "limit=10")
    assert len(docs(limited, "words")) == 5


@pytest.mark.parametrize("share", ["0", "1.5", "-0.1", "nan", "half"])
def test_what_is_no_share_is_refused(words: list[str], share: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, f"share={share}"]) == 2
    assert f"share={share}" in capsys.readouterr().err
