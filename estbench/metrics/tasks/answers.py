"""Results of short answers: extractive and exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estbench.estonian import lemmas
from estbench.estonian.normalise import answer_text, without_thinking
from estbench.metrics import qa
from estbench.metrics.tasks.common import Doc, Results

__all__ = ["estonian_qa_results", "exact_results", "multiwikiqa_docs", "qa_results", "squad_results"]

MULTIWIKIQA_LONGEST = 5000  # characters of a context; a few are whole long articles


def qa_results(doc: Doc, results: Sequence[str]) -> Results:
    """{em, f1, parse_failure} of a short answer against `answers` (three shapes, see qa.gold_answers)."""
    golds, answer = qa.gold_answers(doc["answers"]), answer_text(results[0])
    return {"em": qa.exact_match(answer, golds), "f1": qa.token_f1(answer, golds), "parse_failure": int(not answer)}


def estonian_qa_results(doc: Doc, results: Sequence[str]) -> Results:
    """qa_results, {contains} of the whole response, and {lemma_f1} where EstNLTK is installed (absent otherwise: the
    score is missing, not zero)."""
    golds, answer = qa.gold_answers(doc["answers"]), answer_text(results[0])
    values = qa_results(doc, results) | {"contains": qa.contains(without_thinking(results[0]), golds)}
    return values | ({"lemma_f1": qa.lemma_f1(answer, golds, lemmas.readings)} if lemmas.installed() else {})


def squad_results(doc: Doc, results: Sequence[str]) -> Results:
    """{squad_em, squad_f1, parse_failure} of a short answer in English, as SQuAD scores it."""
    golds, answer = qa.gold_answers(doc["answers"]), answer_text(results[0])
    return {
        "squad_em": qa.squad_exact_match(answer, golds),
        "squad_f1": qa.squad_f1(answer, golds),
        "parse_failure": int(not answer),
    }


def exact_results(doc: Doc, results: Sequence[str]) -> Results:
    """{exact_match, parse_failure} of an answer that has to be one of `answers` (or `target`), as qa.exact_match."""
    golds = qa.gold_answers(doc["answers"] if "answers" in doc else doc["target"])
    answer = answer_text(results[0])
    return {"exact_match": qa.exact_match(answer, golds), "parse_failure": int(not answer)}


def multiwikiqa_docs(dataset: Any) -> Any:
    """`process_docs` of MultiWikiQA: the rows with a context of at most 5,000 characters. Takes and returns a
    datasets.Dataset."""
    kept = [place for place, context in enumerate(dataset["context"]) if len(context) <= MULTIWIKIQA_LONGEST]
    return dataset.select(kept)
