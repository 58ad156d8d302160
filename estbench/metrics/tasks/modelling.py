"""Results of modelling text (bits per byte) and of repeating it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from estbench.errors import TaskError
from estbench.estonian.normalise import sentence_text
from estbench.metrics import modelling
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = ["bits_per_byte_aggregation", "bits_per_byte_results", "character_error_rate_aggregation", "copy_results"]

COPY_LABELS = ("tekst", "sama tekst", "kordus", "vastus")
bits_per_byte_aggregation, character_error_rate_aggregation = (aggregation(metric) for metric in modelling.METRICS)


def bits_per_byte_results(doc: Doc, results: Sequence[float]) -> Results:
    """{bits_per_byte: [nats, bytes]} of a FLORES row's Estonian sentence; `results` is its log-likelihood in nats."""
    size = len(doc["sentence_est_Latn"].strip().encode())
    if not size:
        raise TaskError("A row has no text: drop the row.")
    return {"bits_per_byte": [-float(results[0]), size]}


def copy_results(doc: Doc, results: Sequence[str]) -> Results:
    """{exact_match, character_error_rate, parse_failure} of a repeated `text`: every sign counts, but for Unicode
    composition and spaces. The error rate of one document is at most 1: an output that runs on is not worse."""
    text = " ".join(unicodedata.normalize("NFC", doc["text"]).split())
    given = " ".join(unicodedata.normalize("NFC", sentence_text(results[0], text, COPY_LABELS)).split())
    edits = min(modelling.edit_distance(given[: 2 * len(text)], text), len(text))
    return {
        "exact_match": int(given == text),
        "character_error_rate": [edits, len(text)],
        "parse_failure": int(not given),
    }
