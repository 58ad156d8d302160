"""MMLU-Redux: which rows are asked, and the results of their letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estbench.errors import TaskError
from estbench.metrics import choice
from estbench.metrics.tasks.common import Doc, Results

__all__ = ["mmlu_redux_docs", "mmlu_redux_letter_results"]


def mmlu_redux_docs(dataset: Any) -> Any:
    """`process_docs`: the rows whose question and gold answer were found right (`error_type` "ok"). Takes and returns a
    datasets.Dataset."""
    return dataset.select([place for place, kind in enumerate(dataset["error_type"]) if kind == "ok"])


def mmlu_redux_letter_results(doc: Doc, results: Sequence[Any]) -> Results:
    """{acc, rstd, margin or parse_failure} of the letters of a row (`choices`, `answer` from 0): results are
    log-likelihoods with their greedy flags, or one generated answer."""
    options, gold = list(doc["choices"]), int(doc["answer"])
    if not 0 <= gold < len(options):
        raise TaskError(f"A row's gold answer is option {gold + 1} of {len(options)}: correct or drop the row.")
    values: Results
    if isinstance(results[0], str):
        answer = choice.chosen(results[0], options)
        values = {"parse_failure": int(answer is None)}
    else:
        likelihoods = [float(value) for value, _ in results]
        answer, values = choice.likeliest(likelihoods), {"margin": choice.margin(likelihoods, gold)}
    return {"acc": int(answer == gold), "rstd": choice.letter_counts(answer, gold, len(options))} | values
