"""The registry of metrics, and what lm-eval needs of the task functions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from estbench import metrics
from estbench.metrics import tasks


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_is_complete(name: str) -> None:
    metric = metrics.get(name)
    assert metric
    assert metric.name == name
    assert metric.unit in {"proportion", "points", "bits"}
    assert (metric.kind == "corpus") == (metric.combine is not None)
    if metric.signature:
        assert "|" in metric.signature()


def test_a_name_that_only_lm_eval_knows_is_none() -> None:
    assert metrics.get("perplexity") is None


def test_lower_parse_failure_is_better() -> None:
    metric = metrics.get("parse_failure")
    assert metric
    assert not metric.higher_is_better


def test_importing_metrics_loads_nothing_heavy() -> None:
    code = (
        "import sys, estbench.metrics.tasks, estbench.stats; "
        "print(sorted({'sacrebleu', 'scipy', 'torch', 'datasets', 'lm_eval', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_aggregate_is_the_mean_or_the_corpus_score() -> None:
    assert metrics.aggregate("acc", [1, 0, 1, 1]) == 0.75
    assert metrics.aggregate("f1", [0.5, 0.25]) == 0.375
    assert np.isnan(metrics.aggregate("acc", []))
    assert np.isnan(tasks.chrf_aggregation([]))


def test_both_orders_have_swapped_twins() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {"premise": "x", "question": "cause", "choice1": "a", "choice2": "b", "label": 0, "idx": 3},
        {"premise": "y", "question": "effect", "choice1": "c", "choice2": "d", "label": 1, "idx": 4},
    ]
    both = tasks.xcopa_both_orders(datasets.Dataset.from_list(rows))
    assert both.to_list() == [
        rows[0],
        rows[0] | {"choice1": "b", "choice2": "a", "label": 1},
        rows[1],
        rows[1] | {"choice1": "d", "choice2": "c", "label": 0},
    ]
    always_a = [tasks.xcopa_letter_results(row, ["A"])["acc"] for row in both]
    assert np.mean(always_a) == 0.5


def test_lm_eval_gets_the_same_values_and_scores() -> None:
    """The functions as lm-eval calls them: values from process_results, then aggregation over the list of values."""
    lm_task = pytest.importorskip("lm_eval.api.task")
    config = {
        "task": "own",
        "custom_dataset": lambda **_: __import__("datasets").DatasetDict(
            {"test": __import__("datasets").Dataset.from_list([{"source": "x", "target": "Maja on valge."}] * 2)}
        ),
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{source}}",
        "doc_to_target": "{{target}}",
        "process_results": tasks.translation_results,
        "metric_list": [
            {"metric": "chrf++", "aggregation": tasks.chrf_aggregation, "higher_is_better": True},
            {"metric": "bleu", "aggregation": tasks.bleu_aggregation, "higher_is_better": True},
            {"metric": "parse_failure", "aggregation": "mean", "higher_is_better": False},
        ],
    }
    task = lm_task.ConfigurableTask(config=config)
    docs = list(task.test_docs())
    values = [task.process_results(docs[0], ["Maja on valge."]), task.process_results(docs[1], [""])]
    scores = {
        name: task.aggregation()[name]([row[name] for row in values]) for name in ("chrf++", "bleu", "parse_failure")
    }
    assert scores["parse_failure"] == 0.5
    assert scores["chrf++"] == tasks.chrf_aggregation([row["chrf++"] for row in values])
    assert 0 < scores["bleu"] < 100
