"""Results of translations."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.estonian.normalise import sentence_text
from estbench.metrics import translation
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = [
    "bleu_aggregation",
    "chrf_aggregation",
    "flores_en_et_results",
    "flores_et_en_results",
    "translation_results",
]

TRANSLATION_LABELS = (
    "tõlge",
    "tõlge eesti keelde",
    "tõlge inglise keelde",
    "eesti keeles",
    "inglise keeles",
    "translation",
    "estonian",
    "english",
)
chrf_aggregation, bleu_aggregation = (aggregation(metric) for metric in translation.METRICS)


def _translation(source: str, reference: str, results: Sequence[str]) -> Results:
    output = sentence_text(results[0], source, TRANSLATION_LABELS)
    return {
        "chrf++": translation.chrf_statistics(output, reference),
        "bleu": translation.bleu_statistics(output, reference),
        "parse_failure": int(not output),
    }


def translation_results(doc: Doc, results: Sequence[str]) -> Results:
    """{chrf++, bleu, parse_failure} of a translation of `source` (may be absent) against `target`."""
    return _translation(str(doc.get("source", "")), str(doc["target"]), results)


def flores_en_et_results(doc: Doc, results: Sequence[str]) -> Results:
    """As translation_results, for a FLORES row, English to Estonian."""
    return _translation(doc["sentence_eng_Latn"], doc["sentence_est_Latn"], results)


def flores_et_en_results(doc: Doc, results: Sequence[str]) -> Results:
    """As translation_results, for a FLORES row, Estonian to English."""
    return _translation(doc["sentence_est_Latn"], doc["sentence_eng_Latn"], results)
