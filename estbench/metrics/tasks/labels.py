"""Results of classification: the topic of a sentence, the sentiment of a paragraph.

A base model chooses the likeliest label, a chat model writes one; both keep the document's cell of the confusion
matrix, so that MCC and macro-F1 are those of all documents together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from estbench.errors import TaskError
from estbench.metrics import classification
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = [
    "macro_f1_aggregation",
    "mcc_aggregation",
    "sib200_choice_results",
    "sib200_label_results",
    "valence_choice_results",
    "valence_docs",
    "valence_label_results",
]

# the data's labels in the order of the task files' options, and the forms in which an answer names them
TOPICS = {
    "science/technology": r"teadus\w*(?:\s*(?:ja|ning|/|-)\s*(?:tehnika|tehnoloogia)\w*)?|(?:tehnika|tehnoloogia)\w*",
    "travel": r"reisi\w*",
    "politics": r"poliiti\w*",
    "sports": r"spor[dt]\w*",
    "health": r"tervis\w*",
    "entertainment": r"meelelahut\w*",
    "geography": r"geograafi\w*",
}
VALENCES = {"positiivne": r"positiiv\w*", "neutraalne": r"neutraal\w*", "negatiivne": r"negatiiv\w*"}
MIXED = "vastuoluline"

mcc_aggregation, macro_f1_aggregation = (aggregation(metric) for metric in classification.METRICS)


def sib200_choice_results(doc: Doc, results: Sequence[tuple[float, bool]]) -> Results:
    """{acc, mcc, macro_f1} of the likeliest topic; `category` is gold."""
    return _results(doc["category"], _likeliest(results), list(TOPICS))


def sib200_label_results(doc: Doc, results: Sequence[str]) -> Results:
    """{acc, mcc, macro_f1, parse_failure} of a written topic."""
    return _written(doc["category"], results[0], TOPICS)


def valence_choice_results(doc: Doc, results: Sequence[tuple[float, bool]]) -> Results:
    """{acc, mcc, macro_f1} of the likeliest sentiment; `valence` is gold."""
    return _results(doc["valence"], _likeliest(results), list(VALENCES))


def valence_label_results(doc: Doc, results: Sequence[str]) -> Results:
    """{acc, mcc, macro_f1, parse_failure} of a written sentiment."""
    return _written(doc["valence"], results[0], VALENCES)


def valence_docs(dataset: Any) -> Any:
    """`process_docs` of the valence corpus: the rows that are not mixed ("vastuoluline"). Takes and returns a
    datasets.Dataset."""
    return dataset.select([place for place, label in enumerate(dataset["valence"]) if label != MIXED])


def _likeliest(results: Sequence[tuple[float, bool]]) -> int:
    """The first option with the highest log-likelihood, as lm-eval's `acc` takes it."""
    return int(np.argmax([value for value, _ in results]))


def _written(gold: str, response: str, labels: dict[str, str]) -> Results:
    found = classification.named(response, list(labels.values()))
    return _results(gold, found, list(labels)) | {"parse_failure": int(found is None)}


def _results(gold: str, found: int | None, labels: list[str]) -> Results:
    if gold not in labels:
        raise TaskError(f"A row has the label {gold!r}, which is none of {', '.join(labels)}: correct or drop the row.")
    place = labels.index(gold)
    cell = classification.outcome(place, found, len(labels))
    return {"acc": int(found == place), "mcc": cell, "macro_f1": cell}
