"""Results of inflection and of finding a word; each item counts once more under its case."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.metrics.morphology import inflected_form, is_form
from estbench.metrics.qa import gold_answers
from estbench.metrics.tasks.common import Doc, Results

__all__ = ["inflection_results", "unimorph_results", "word_meaning_results"]


def _results(response: str, golds: object, cell: str | None = None) -> Results:
    right = int(is_form(response, gold_answers(golds)))
    results = {"exact_match": right, "parse_failure": int(not inflected_form(response))}
    return results | ({f"exact_match/{cell}": right} if cell else {})


def inflection_results(doc: Doc, results: Sequence[str]) -> Results:
    """{exact_match, parse_failure, exact_match/CELL} of an inflection_et row; CELL is "mitmuse osastav", …"""
    return _results(results[0], doc["inflection"], f"{doc['plurality']} {doc['case']}")


def unimorph_results(doc: Doc, results: Sequence[str]) -> Results:
    """As inflection_results, for a row of morphology.unimorph_rows."""
    return _results(results[0], doc["answers"], f"{doc['number']} {doc['case']}")


def word_meaning_results(doc: Doc, results: Sequence[str]) -> Results:
    """{exact_match, parse_failure} of the word that a definition describes: any of `words`."""
    return _results(results[0], doc["words"])
