"""Results of summaries."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.estonian.normalise import sentence_text
from estbench.metrics import summary, translation
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = ["errnews_results", "length_ratio_aggregation"]

SUMMARY_LABELS = ("kokkuvõte", "lühikokkuvõte", "uudise kokkuvõte", "uudisloo kokkuvõte", "vastus", "summary")
length_ratio_aggregation = aggregation(summary.METRICS[-1])


def errnews_results(doc: Doc, results: Sequence[str]) -> Results:
    """{chrf++, rouge1, rouge2, rougeL, length_ratio, parse_failure} of the summary of an ERRnews row. An empty output
    counts as 0 and as a parse failure."""
    output = sentence_text(results[0], "", SUMMARY_LABELS)
    reference = " ".join(doc["summary"].split())
    given, wanted = summary.words(output), summary.words(reference)
    return {
        "chrf++": translation.chrf_statistics(output, reference),
        "rouge1": summary.rouge_n(given, wanted, 1),
        "rouge2": summary.rouge_n(given, wanted, 2),
        "rougeL": summary.rouge_l(given, wanted),
        "length_ratio": [len(given), len(wanted)],
        "parse_failure": int(not output),
    }
