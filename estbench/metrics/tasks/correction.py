"""Results of grammatical error correction."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.estonian.normalise import sentence_text
from estbench.estonian.tokeniser import project_tokens
from estbench.metrics import gec
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = ["gec_aggregation", "gec_precision_aggregation", "gec_recall_aggregation", "gec_results"]

GEC_LABELS = (
    "parandatud lause",
    "parandatud tekst",
    "parandus",
    "õige lause",
    "vastus",
    "corrected sentence",
    "corrected text",
)
gec_aggregation, gec_precision_aggregation, gec_recall_aggregation = (aggregation(metric) for metric in gec.METRICS)


def gec_results(doc: Doc, results: Sequence[str]) -> Results:
    """{f0.5, gec_precision, gec_recall, parse_failure} of a corrected sentence: `source_tokens` and `edits` are gold.

    All three values are the same list, [correct, proposed, gold] of each annotator. An output that is empty or far too
    long (a loop: more than 2 × source + 20 tokens) is scored as the unchanged source and is a parse failure.
    """
    source = list(doc["source_tokens"])
    tokens = project_tokens(sentence_text(results[0], " ".join(source), GEC_LABELS), source)
    failed = not tokens or len(tokens) > 2 * len(source) + 20
    rows = gec.counts(source, source if failed else tokens, gec.annotators(doc["edits"]))
    flat = [count for row in rows for count in row]
    return {"f0.5": flat, "gec_precision": flat, "gec_recall": flat, "parse_failure": int(failed)}
