"""Several models on one scale by their battles with the anchor: `estbench judge table`."""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estbench_judges import stored, table
from estbench_judges.table import as_text
from judge_server import CLOSE, MUCH, TIE, JudgeServer, Persona
from judge_world import ANCHOR, answered, quality_of, text_of, write_prompts

from estbench.cli import main
from estbench.errors import ConfigError
from estbench.estonian import language
from estbench.runs import Run

N, TASK = 40, "own_chat"
LEVELS = {"tubli": 0.85, "keskmine": 0.55, "nõrk": 0.25}
SPREAD = 0.2  # of levels around these, and of the anchor's around ANCHOR
Answer = Callable[[str], str]


def level_of(name: str, prompt: str) -> float:
    return LEVELS[name] + random.Random(f"{name} {prompt}").uniform(-SPREAD, SPREAD) / 2


def answers(name: str) -> Answer:
    return lambda prompt: text_of(level_of(name, prompt), prompt)


def anchors(prompts: Path) -> Answer:
    """A model that says what the anchor says."""
    rows = [json.loads(line) for line in prompts.read_text("utf-8").splitlines()]
    known = {row["prompt"]: row["answer"] for row in rows}
    return lambda prompt: known[next(text for text in known if text in prompt)]


def half_empty(prompts: Path) -> Answer:
    """The best model where it says something; every other answer is empty."""
    best = answers("tubli")
    return lambda prompt: best(prompt) if int(prompt.partition("number ")[2].partition(":")[0]) % 2 else ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Runs that one panel judged: three models, the anchor itself, one that is empty half of the time, a long one."""
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        patch.setattr(language, "_nearest", functools.cache(language._nearest))  # the same answers again and again
        prompts = write_prompts(folder / "own.jsonl", N)
        made = {name: answered(prompts, answers(name), name=name) for name in LEVELS}
        made["ankur"] = answered(prompts, anchors(prompts), name="ankur")
        made["pooltühi"] = answered(prompts, half_empty(prompts), name="pooltühi")
        made["pikk"] = answered(prompts, lambda prompt: text_of(0.55, prompt, words=120), name="pikk")
        with JudgeServer(quality_of) as a, JudgeServer(quality_of, Persona(first=0.6), name="teine") as b:
            ids = ",".join(run.id for run in made.values())
            assert main(["judge", f"run={ids}", f"judges=judge@{a.url},teine@{b.url}", f"task={TASK}"]) == 0
            shutil.copytree(made["tubli"].path, folder / "other" / made["tubli"].id)
            other = Run(folder / "other" / made["tubli"].id)
            assert main(["judge", f"run={other.path}", f"judges=teine@{b.url}", f"task={TASK}"]) == 0
        yield {name: Run(run.path) for name, run in made.items()} | {"mujal": other}


def restored(run: Run) -> Any:
    [layer] = stored.layers_of(run, [TASK])
    return stored.restore(run, layer)


def made_of(world: dict[str, Run], *names: str, seed: int = 0) -> dict[str, Any]:
    return table.table([restored(world[name]) for name in names], seed)


def by_name(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in made["models"]}


def test_the_better_model_stands_first_and_ranks_are_intervals(world: dict[str, Run]) -> None:
    made = made_of(world, "nõrk", "tubli", "keskmine")
    assert [row["model"] for row in made["models"]] == ["tubli", "keskmine", "nõrk"]
    thetas = [row["theta"]["value"] for row in made["models"]]
    assert thetas == sorted(thetas, reverse=True) and thetas[0] > 0 > thetas[2]
    ranks = [row["rank"] for row in made["models"]]
    assert ranks[0] == [1, 1] and ranks == sorted(ranks) and all(low <= high for low, high in ranks)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranks))
    for row in made["models"]:
        assert row["theta"]["low"] < row["theta"]["value"] < row["theta"]["high"]
        assert row["n"] == row["n_planned"] == N and row["state"] == "uncalibrated"
        assert 0 <= row["position_consistency"] <= 1 and -1 <= row["first_position_bias"] <= 1
    assert made["anchor"] == "set" and made_of(world, "nõrk", "tubli", "keskmine") == made


def test_the_anchor_s_own_answers_come_to_fifty_percent(world: dict[str, Run]) -> None:
    rows = by_name(made_of(world, "tubli", "ankur", "nõrk"))
    anchor = rows["ankur"]
    assert anchor["win_rate"]["value"] == 0.5 and anchor["theta"]["value"] == pytest.approx(0, abs=1e-6)
    assert rows["tubli"]["theta"]["value"] > anchor["theta"]["value"] > rows["nõrk"]["theta"]["value"]
    assert rows["tubli"]["rank"][1] < anchor["rank"][0] and anchor["rank"][1] < rows["nõrk"]["rank"][0]
    assert anchor["n"] == N


def test_answers_that_no_judge_was_asked_about_count_on_the_scale_as_in_the_win_rate(world: dict[str, Run]) -> None:
    """Else a model would rise by leaving out what is hard."""
    rows = by_name(made_of(world, "tubli", "pooltühi", "keskmine"))
    half, middle = rows["pooltühi"], rows["keskmine"]
    assert half["win_rate"]["value"] < 0.55 < middle["win_rate"]["value"] + 0.05
    assert half["theta"]["value"] < rows["tubli"]["theta"]["value"] - 1
    share = 1 / (1 + np.exp(-half["theta"]["value"]))
    assert share == pytest.approx(half["win_rate"]["value"], abs=0.06)


def test_intervals_cover_what_many_prompts_would_say(world: dict[str, Run]) -> None:
    """The judges' rules on levels drawn as the world's are; the second one's close pairs go either way."""
    made = by_name(made_of(world, *LEVELS))
    rng = np.random.default_rng(0)
    for name, level in LEVELS.items():
        ahead = np.round(level + rng.uniform(-SPREAD, SPREAD, 200_000) / 2, 2)
        ahead -= np.round(ANCHOR + rng.uniform(-SPREAD, SPREAD, 200_000), 2)
        sure = np.where(np.abs(ahead) >= MUCH, np.sign(ahead) / 2, np.sign(ahead) / 4)
        honest = 0.5 + np.where(np.abs(ahead) < TIE, 0.0, sure)
        torn = 0.5 + np.where(np.abs(ahead) < CLOSE, 0.0, sure)
        truth = float(((honest + torn) / 2).mean())  # the median of two is their mean
        found = made[name]["win_rate"]
        assert found["low"] <= truth <= found["high"], (name, truth, found)
        assert found["high"] - found["low"] < 0.15


def test_a_model_that_always_writes_longer(world: dict[str, Run]) -> None:
    """Alone its strength can't be told from its length: no number is made up. Beside others there is one."""
    alone = made_of(world, "pikk")
    assert alone["models"][0]["equal_style"] is None and alone["style"] == {}
    assert alone["methods"][-1].startswith("no fit with style") and alone["models"][0]["theta"]["value"] is not None
    assert "–" in as_text(alone)
    beside = by_name(made_of(world, "tubli", "pikk", "nõrk"))
    assert beside["tubli"]["equal_style"] is None or beside["tubli"]["equal_style"]["value"] > 0.6
    assert beside["tubli"]["win_rate"]["value"] > beside["pikk"]["win_rate"]["value"]


def test_runs_of_another_panel_are_refused(world: dict[str, Run]) -> None:
    with pytest.raises(ConfigError, match="not judged alike") as found:
        made_of(world, "keskmine", "mujal")
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_the_command_prints_a_table_and_json(world: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    runs = ",".join(str(world[name].path) for name in LEVELS)
    assert main(["judge", "table", f"run={runs}", f"task={TASK}", "output=json"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["models"]] == list(LEVELS)
    two = f"{world['nõrk'].path},{world['tubli'].path}"
    assert main(["judge", "table", f"run={two}", f"task={TASK}", "output=table"]) == 0
    text = capsys.readouterr().out
    assert [word for line in text.splitlines() for word in line.split()[:1] if word in LEVELS] == ["tubli", "nõrk"]
    assert "uncalibrated" in text and "Against set" in text and "%" in text
    assert main(["judge", "table", f"run={world['keskmine'].path},{world['mujal'].path}"]) == 2
    assert "not judged alike" in capsys.readouterr().err
    assert main(["judge", "table"]) == 2 and "run= is missing" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart(world: dict[str, Run], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(world["tubli"].path, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text("utf-8")) | {"run": "tubli-2"}
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    made = table.table([restored(world["tubli"]), restored(Run(copy))])
    assert {row["model"] for row in made["models"]} == {world["tubli"].id, "tubli-2"}
    assert made["models"][0]["rank"] == [1, 2]
