"""`estbench compare`: paired on the same documents, corrected for many tasks, and open about what it can't compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_world import evaluated, sibling, variant, with_values
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from worlds import World, rows

from estbench import compare, evidence, registry
from estbench.cli import main
from estbench.runs import Run

Compare = Callable[..., tuple[int, Any, str]]
N = 200


@pytest.fixture(scope="module")
def stored(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        made = World(folder / "world", n=4)
        for task in ("letters", "words"):
            made.fill(task, rows(N), rows(4, start=5000))
        patch.setattr(registry, "project_file", lambda name: made.folder / name)
        return evaluated(Path(shutil.copytree(tiny_model, folder / "model")), made.data).path


@pytest.fixture
def run(stored: Path, home: Path) -> Run:
    return Run(shutil.copytree(stored, home / "runs" / stored.name))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Compare:
    def compare(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main(["compare", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.startswith("{") else out, err

    return compare


def test_p_values_are_mcnemars_and_benjamini_hochbergs(run: Run, call: Compare) -> None:
    good, worse = variant(run, "good", with_values(0.7)), variant(run, "worse", sibling(0.62, 0.1))
    code, found, _ = call(good.id, worse.id)
    assert code == 0
    for row in found["tasks"]:
        better, fallen = row["better"], row["worse"]
        exact = mcnemar([[0, better], [fallen, 0]], exact=True).pvalue
        middle = exact - scipy_stats.binom.pmf(min(better, fallen), better + fallen, 0.5)
        assert row["p"] == pytest.approx(middle)
        assert row["n"] == N and row["difference"] == pytest.approx((better - fallen) / N)
    p_values = [row["p"] for row in found["tasks"]]
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert [row["p_adjusted"] for row in found["tasks"]] == pytest.approx(list(expected))


def test_flips_show_what_each_answered_where_a_is_worse_first(run: Run, call: Compare) -> None:
    good, worse = variant(run, "good", with_values(0.7)), variant(run, "worse", with_values(0.6))
    _, found, _ = call(worse.id, good.id, "flips=4", "tasks=words")
    [row] = found["tasks"]
    assert len(row["flips"]) == 4 and [flip["gap"] for flip in row["flips"]] == [-1] * 4
    assert all(flip["answer_a"]["target"] and flip["answer_b"] for flip in row["flips"])
    _, text, _ = call(worse.id, good.id, "flips=2", "output=table")
    assert "words: documents that differ, those where worse is worse first" in text


def test_a_comparison_that_mixes_engines_says_so(run: Run, call: Compare) -> None:
    other = variant(run, "other", with_values(0.7), lambda m: m | {"engine": m["engine"] | {"engine": "vllm"}})
    code, found, err = call(other.id, run.id)
    assert code == 0 and "Not comparable in engine: other was answered with engine vllm" in err
    assert found["problems"][0]["kind"] == "engine"


def test_the_same_responses_are_equal_and_not_only_open(run: Run, call: Compare) -> None:
    _, found, _ = call(run.id, run.id)
    assert {row["verdict"] for row in found["tasks"]} == {"equal"} and {row["p"] for row in found["tasks"]} == {1.0}


def test_documents_that_one_run_lacks_are_counted_and_left_out(run: Run) -> None:
    part = variant(run, "part", lambda task, samples: samples[:50])
    found = compare.compare_task(evidence.of_run(part), evidence.of_run(run), "letters")
    assert (found.difference.n, found.only_a, found.only_b) == (50, 0, N - 50)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name two runs"),
        (["RUN"], "Name two runs"),
        (["RUN", "nothing"], "no run 'nothing'"),
        (["RUN", "RUN", "tasks=lettres"], "'letters'"),
        (["RUN", "RUN", "metric=accuracy", "tasks=letters"], "acc"),
    ],
)
def test_slips_are_one_line(run: Run, call: Compare, words: list[str], message: str) -> None:
    code, out, err = call(*[word.replace("RUN", run.id) for word in words])
    assert code == 2 and out == "" and message in err and len(err.strip().splitlines()) == 1


def test_runs_without_a_common_task_are_refused(run: Run, call: Compare) -> None:
    one, other = (
        variant(run, task, lambda t, s: s, lambda m, task=task: m | {"tasks": {task: m["tasks"][task]}})  # type: ignore[misc]
        for task in ("letters", "words")
    )
    code, _, err = call(one.id, other.id)
    assert code == 2 and "have no task in common" in err


def test_a_slice_is_no_run_to_compare(run: Run, call: Compare) -> None:
    part = variant(run, "part", lambda t, s: s, lambda m: m | {"slice": "1/2"})
    code, _, err = call(part.id, run.id)
    assert code == 2 and "makes the whole run" in err
