"""A sweep over λ: every merge is evaluated once, the best is said and not just taken."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import merge_world as world
import numpy as np
import pytest
from estbench_training.merge import command, sweep
from gate_world import synthetic
from merge_world import make, weights

from estbench import config, evidence, runner
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.runs import Score


def score(
    task: str, value: float | None, *, chance: float | None = 0.5, unit: str = "proportion", higher: bool = True
) -> Score:
    ends = (None, None) if value is None else (value - 0.05, value + 0.05)
    return Score(task, "acc", value, *ends, 100, 100, chance, 0, 0, unit, higher, primary=True)


def right(score: Score) -> np.ndarray:
    """100 documents, of which the first are right."""
    return (np.arange(100) < 100 * (score.value or 0)).astype(float)


class Measured:
    """Stands in for evaluations: by the λ of the model's folder."""

    def __init__(self) -> None:
        self.scores = {0.25: (0.6, 0.7), 0.5: (0.8, 0.7), 1.0: (0.9, 0.55)}
        self.asked: list[str] = []
        self.stop = False
        self.runs: dict[str, Evidence] = {}

    def prepare(self, settings: config.EvalSettings, say: Any) -> config.EvalSettings:
        return settings

    def evaluate(self, settings: config.EvalSettings, **_: Any) -> Any:
        if self.stop:
            raise KeyboardInterrupt
        assert (Path(settings.model) / "config.json").exists() and settings.limit == 9
        self.asked.append(str(settings.name))
        one, two = self.scores[float(settings.model.rpartition("scale-")[2])]
        scores = [score("mini_pairs_et", one), score("mini_pairs_en", two)]
        found = synthetic(f"run-{settings.name}", {score.task: right(score) for score in scores})
        found.scores = scores
        self.runs[found.id] = found
        return SimpleNamespace(id=found.id, scores=lambda: scores, path=Path("x"))

    def find(self, name: str) -> Evidence:
        if name not in self.runs:
            raise ConfigError(f"There is no run {name!r}.")
        return self.runs[name]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measured:
    found = Measured()
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(runner, "prepare", found.prepare)
    monkeypatch.setattr(runner, "evaluate", found.evaluate)
    monkeypatch.setattr(sweep, "index", lambda run, url: None)
    monkeypatch.setattr(sweep, "find_run", lambda name: name)
    monkeypatch.setattr(sweep, "Run", lambda name: name)
    monkeypatch.setattr(evidence, "of_run", found.find)
    for at, name in enumerate(("base", "chat", "et")):
        make(tmp_path / name, seed=at, template=world.TEMPLATE if name == "chat" else None)
    return found


def run(folder: Path, *words: str, scales: str = "0.5,0.25,1") -> int:
    given = ["method=chat_vector", f"base={folder / 'base'}", f"instruct={folder / 'chat'}", f"into={folder / 'et'}"]
    asked = [f"sweep={scales}", "tasks=mini_checkpoint", "limit=9", f"output={folder / 's'}"]
    return command.run(config.read([*given, *asked, *words], command.MergeCommandSettings))


def test_each_scale_is_merged_and_evaluated_and_the_best_is_said(
    tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert measured.asked == ["s-scale-0.25", "s-scale-0.5", "s-scale-1"]
    said = json.loads(capsys.readouterr().out)
    assert said["best"] == str(tmp_path / "s" / "scale-0.5")  # (0.6 + 0.4) / 2 against (0.8 + 0.1) / 2
    assert [row["mean"] for row in said["rows"]] == [0.3, 0.5, 0.45]
    table = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert table["best"] == 0.5 and table["rows"][0]["scores"][0]["ci_low"] == pytest.approx(0.55)
    text = (tmp_path / "s" / "sweep.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg") and "λ 0.25: mini_pairs_et 60.0, mini_pairs_en 70.0." in text
    assert "mini_pairs_en" in text and sweep.draw(said["rows"], "s") == text


def test_a_sweep_that_was_interrupted_goes_on_and_takes_in_more_scales(tmp_path: Path, measured: Measured) -> None:
    measured.stop = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    measured.stop = False
    before = weights(tmp_path / "s" / "scale-0.25")
    run(tmp_path, scales="0.25,0.5")
    assert measured.asked == ["s-scale-0.25", "s-scale-0.5"]
    run(tmp_path, scales="0.25,0.5,1")
    assert measured.asked[2:] == ["s-scale-1"]
    assert world.same(before, weights(tmp_path / "s" / "scale-0.25"))


def test_only_the_best_stays_if_that_is_asked_for(
    tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "keep=best")
    assert [path.name for path in (tmp_path / "s").glob("scale-*")] == ["scale-0.5"]
    assert capsys.readouterr().err.count("removed (keep=best)") == 2
    run(tmp_path, "keep=best")  # what was measured and removed is not made again
    assert len(measured.asked) == 3
    shutil.rmtree(tmp_path / "s" / "scale-0.5")
    run(tmp_path, "keep=best", scales="1")  # but for the best
    assert len(measured.asked) == 3 and [path.name for path in (tmp_path / "s").glob("scale-*")] == ["scale-0.5"]


def test_the_best_is_that_of_all_scales_of_the_folder_and_not_only_of_the_last_ones(
    tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, scales="0.25,0.5")
    capsys.readouterr()
    run(tmp_path, "keep=best", scales="1")  # worse than 0.5
    said = json.loads(capsys.readouterr().out)
    assert said["best"] == str(tmp_path / "s" / "scale-0.5") and [row["scale"] for row in said["rows"]] == [
        0.25,
        0.5,
        1,
    ]
    table = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert table["best"] == 0.5 and table["rows"] == said["rows"]
    assert "λ 0.25: mini_pairs_et 60.0" in (tmp_path / "s" / "sweep.svg").read_text()
    assert [path.name for path in (tmp_path / "s").glob("scale-*")] == ["scale-0.5"]


@pytest.mark.parametrize(
    ("scales", "words", "said"),
    [
        ("0.2,5000", (), "scale: 5000 has to be"),
        ("0.3", ("engine.foo=1",), "foo"),
        ("0.3", ("scales.*.no.*=1",), "no.*"),
    ],
)
def test_what_a_sweep_can_not_end_with_is_refused_before_it_begins(
    tmp_path: Path, measured: Measured, scales: str, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(tmp_path, *words, scales=scales)
    assert not (tmp_path / "s").exists() and not measured.asked


def test_a_sweep_that_was_refused_leaves_its_folder_to_the_right_words(tmp_path: Path, measured: Measured) -> None:
    with pytest.raises(ConfigError, match="matches no tensor"):
        run(tmp_path, "scales.*.no.*=0.5")
    assert run(tmp_path) == 0
    with pytest.raises(ConfigError, match="is not this sweep"):
        run(tmp_path, "scales.*.mlp.*=0.5")


def test_a_table_on_a_terminal_has_intervals(
    tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "wants_table", lambda output: True)
    run(tmp_path)
    text = capsys.readouterr().out
    assert "mean, corrected" in text and "Of 9 documents a task at most (limit=)" in text
    assert "80.0 (75.0 … 85.0)" in text and "Best by the mean of scores corrected for chance: λ = 0.5" in text
    assert re.search(r"0\.5  50\.0 \(\d\d\.\d … \d\d\.\d\)", text)  # the mean


def test_scales_that_can_not_be_told_from_the_best_are_named(
    tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "wants_table", lambda output: True)
    measured.scores[1.0] = (0.8, 0.68)  # two documents fewer than 0.5
    run(tmp_path)
    assert "On these documents it can't be told from λ = 1.\n" in capsys.readouterr().out
    table = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [row["near"] for row in table["rows"]] == [False, True, True]
    assert all(row["mean_low"] < row["mean"] < row["mean_high"] for row in table["rows"])
    shutil.rmtree(tmp_path / "s")
    measured.scores[1.0] = (0.5, 0.5)
    run(tmp_path)
    assert "It is better than each other λ on these documents (95 %, all at once).\n" in capsys.readouterr().out


def test_a_run_that_is_gone_takes_the_intervals_of_means_with_it(
    tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "wants_table", lambda output: True)
    run(tmp_path)
    del measured.runs["run-s-scale-1"]
    capsys.readouterr()
    assert run(tmp_path) == 0
    shown = capsys.readouterr()
    assert "No intervals of the means: There is no run 'run-s-scale-1'." in shown.err
    assert "λ = 0.5" in shown.out and "told" not in shown.out and "surely" not in shown.out
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["rows"][0]["mean_low"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scale=0.5"], "sweep= gives the scales"),
        (["keep=none"], "is not one of all, best"),
        (["into=nowhere"], "given twice"),
    ],
)
def test_slips_are_refused(tmp_path: Path, measured: Measured, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(tmp_path, *words)


def test_a_sweep_needs_scales_tasks_and_a_folder_of_its_own(tmp_path: Path, measured: Measured) -> None:
    with pytest.raises(ConfigError, match="sweep=x is no number"):
        run(tmp_path, scales="0.5,x")
    with pytest.raises(ConfigError, match="given twice"):
        run(tmp_path, scales="0.5,0.5")
    with pytest.raises(ConfigError, match="belong together"):
        command.run(config.read(["method=average", "output=x", "sweep=1"], command.MergeCommandSettings))
    words = ["method=average", "parts=a,b", "output=x", "sweep=1", "tasks=mini_checkpoint"]
    with pytest.raises(ConfigError, match="average has no scale"):
        command.run(config.read(words, command.MergeCommandSettings))
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").mkdir()
    with pytest.raises(ConfigError, match="is not this sweep"):
        run(tmp_path)


def test_the_mean_is_corrected_for_chance_and_missing_scores_count_as_chance() -> None:
    assert sweep.mean([score("a", 0.75), score("b", None)]) == 0.25
    assert sweep.mean([score("a", 60.0, chance=None, unit="points"), score("b", 1.2, chance=None, unit="bits")]) == 0.6
    assert sweep.mean([score("b", 1.2, chance=None, unit="bits", higher=False)]) == -1.2
