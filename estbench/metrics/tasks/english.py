"""English choice tasks: WinoGrande's two readings of a gap, and MMLU-Redux's checked questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estbench.errors import TaskError
from estbench.metrics import choice
from estbench.metrics.tasks.common import Doc, Results

__all__ = [
    "mmlu_redux_docs",
    "mmlu_redux_letter_results",
    "winogrande_en_contexts",
    "winogrande_en_ending",
    "winogrande_en_gold",
]


def mmlu_redux_docs(dataset: Any) -> Any:
    """`process_docs` of MMLU-Redux: the rows whose question and gold answer were found right (`error_type` "ok").
    Takes and returns a datasets.Dataset."""
    return dataset.select([place for place, kind in enumerate(dataset["error_type"]) if kind == "ok"])


def mmlu_redux_letter_results(doc: Doc, results: Sequence[Any]) -> Results:
    """{acc, rstd, margin or parse_failure} of the letters of an MMLU row (`choices`, `answer` from 0): results are
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


def winogrande_en_gold(doc: Doc) -> int:
    """`doc_to_text`: the place of the right option. An index makes lm-eval take the choices as contexts."""
    return int(doc["answer"]) - 1


def winogrande_en_contexts(doc: Doc) -> list[str]:
    """`doc_to_choice`: the sentence up to its gap, each option in the gap."""
    before = doc["sentence"].partition("_")[0]
    return [before + doc["option1"], before + doc["option2"]]


def winogrande_en_ending(doc: Doc) -> str:
    """`doc_to_target`: what follows the gap; its likelihood is compared (partial scoring, Trinh and Le 2018)."""
    return str(doc["sentence"].partition("_")[2]).strip()
