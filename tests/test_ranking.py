"""Runs side by side: means that are the scores', intervals from the same documents, nothing where nothing is sure."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from gate_world import synthetic
from sacrebleu.metrics import BLEU, CHRF

from estbench.evidence import Evidence
from estbench.metrics.translation import bleu_statistics, chrf_statistics
from estbench.ranking import document_values, rank_runs
from estbench.runs import Score
from estbench.stats.ranks import Table, TaskValues, rank


def score(task: str, values: np.ndarray, **other: Any) -> Score:
    made = Score(
        task,
        "acc",
        float(values.mean()),
        None,
        None,
        len(values),
        len(values),
        0.25,
        0,
        0,
        "proportion",
        True,
        primary=True,
    )
    return dataclasses.replace(made, **other)


def run(name: str, values: dict[str, np.ndarray], **other: Any) -> Evidence:
    found = synthetic(name, values)
    found.scores = [score(task, column, **other) for task, column in values.items()]
    return found


def right(share: float, seed: int, n: int = 400) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def test_runs_are_ranked_as_the_table_of_their_values_is() -> None:
    values = {
        name: {task: right(share, at) for at, task in enumerate("xy")}
        for name, share in zip("abc", (0.5, 0.6, 0.9), strict=True)
    }
    found = rank_runs({name: run(name, columns) for name, columns in values.items()})
    parts = [TaskValues(task, np.stack([values[name][task] for name in "abc"]), chance=0.25) for task in "xy"]
    assert found == rank(Table(["a", "b", "c"], parts))
    assert found is not None
    for row in found.rows:
        mean = np.mean([(values[row.model][task].mean() - 0.25) / 0.75 for task in "xy"])
        assert row.score == pytest.approx(mean)
        assert row.low is not None and row.high is not None and row.low < mean < row.high
    assert [row.klass for row in found.rows] == [1, 2, 3]


def test_what_differs_by_chance_alone_is_not_told_apart() -> None:
    same = right(0.6, 1)
    other = same.copy()
    other[:4] = 1 - other[:4]
    found = rank_runs({"a": run("a", {"x": same}), "b": run("b", {"x": other}), "c": run("c", {"x": right(0.2, 2)})})
    assert found is not None and {row.model: row.klass for row in found.rows} == {"a": 1, "b": 1, "c": 2}


def test_only_documents_count_that_all_runs_have() -> None:
    long, short = right(0.5, 3), right(0.7, 4, n=300)
    first = np.pad(short, (0, 100), constant_values=1.0)
    found = rank_runs({"a": run("a", {"x": short}), "b": run("b", {"x": first}), "c": run("c", {"x": long})})
    assert found is not None
    at = {row.model: row.score for row in found.rows}
    assert at["a"] == at["b"] == pytest.approx((short.mean() - 0.25) / 0.75)
    assert at["c"] == pytest.approx((long[:300].mean() - 0.25) / 0.75)


def test_a_document_without_a_value_counts_for_no_run() -> None:
    one, two = run("a", {"x": right(0.5, 1)}), run("b", {"x": right(0.8, 2)})
    one.items("x").values["acc"][0] = None  # type: ignore[call-overload]
    found = rank_runs({"a": one, "b": two})
    assert found is not None
    assert {row.model: row.score for row in found.rows}["b"] == pytest.approx((right(0.8, 2)[1:].mean() - 0.25) / 0.75)


def test_tasks_that_some_lack_or_that_have_no_best_score_are_left_out() -> None:
    both, alone = {"x": right(0.5, 1), "y": right(0.5, 2)}, {"x": right(0.6, 3)}
    found = rank_runs({"a": run("a", both), "b": run("b", alone)})
    assert found is not None and all(row.leave_one_out is None for row in found.rows)  # one task
    assert rank_runs({"a": run("a", {"x": right(0.5, 1)}), "b": run("b", {"y": right(0.5, 1)})}) is None
    assert rank_runs({name: run(name, both, unit="bits", higher_is_better=False) for name in "ab"}) is None
    assert rank_runs({name: run(name, both, chance=1.0) for name in "ab"}) is None
    assert rank_runs({"a": synthetic("a", both), "b": synthetic("b", both)}) is None  # no scores
    renamed = run("b", both)
    renamed.manifest["tasks"] = {task: {**card, "primary": "f1"} for task, card in renamed.tasks.items()}
    assert rank_runs({"a": run("a", both), "b": renamed}) is None


@pytest.mark.parametrize("metric", ["bleu", "chrf++"])
def test_a_corpus_metric_has_a_value_a_document_whose_mean_is_the_score(metric: str) -> None:
    words = ["kass", "koer", "maja", "tee", "mets", "jõgi", "linn", "küla", "öö", "päev"]
    rng = np.random.default_rng(5)
    texts = [[" ".join(rng.choice(words, 12)) for _ in range(40)] for _ in range(2)]
    texts[0] = [f"{right[:40]} {wrong}" for right, wrong in zip(texts[1], texts[0], strict=True)]
    statistics = bleu_statistics if metric == "bleu" else chrf_statistics
    rows = [statistics(said, reference) for said, reference in zip(*texts, strict=True)]
    oracle = BLEU() if metric == "bleu" else CHRF(word_order=2)
    found = document_values(metric, rows)
    assert found is not None and found.shape == (40,) and found.std() > 0
    assert found.mean() == pytest.approx(oracle.corpus_score(texts[0], [texts[1]]).score)
    assert np.array_equal(found, document_values(metric, np.asarray(rows)))


def test_what_only_the_tasks_own_code_can_score_has_no_values() -> None:
    assert document_values("somebodys", [[1, 2], [3, 4]]) is None
