"""Results of short answers: extractive and exact."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.estonian.normalise import answer_text
from estbench.metrics import qa
from estbench.metrics.tasks.common import Doc, Results

__all__ = ["exact_results", "qa_results"]


def qa_results(doc: Doc, results: Sequence[str]) -> Results:
    """{em, f1, parse_failure} of a short answer against `answers` (three shapes, see qa.gold_answers)."""
    golds, answer = qa.gold_answers(doc["answers"]), answer_text(results[0])
    return {"em": qa.exact_match(answer, golds), "f1": qa.token_f1(answer, golds), "parse_failure": int(not answer)}


def exact_results(doc: Doc, results: Sequence[str]) -> Results:
    """{exact_match, parse_failure} of an answer that has to be one of `answers` (or `target`), as qa.exact_match."""
    golds = qa.gold_answers(doc["answers"] if "answers" in doc else doc["target"])
    answer = answer_text(results[0])
    return {"exact_match": qa.exact_match(answer, golds), "parse_failure": int(not answer)}
