"""Results of translations."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.estonian.language import identify
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
    "eestikeelne tõlge",
    "ingliskeelne tõlge",
    "eesti keeles",
    "inglise keeles",
    "translation",
    "estonian",
    "english",
)
chrf_aggregation, bleu_aggregation = (aggregation(metric) for metric in translation.METRICS[:2])


def _translation(source: str, reference: str, results: Sequence[str], language: str | None = None) -> Results:
    output = sentence_text(results[0], source, TRANSLATION_LABELS)
    shown = {} if language is None else {"off_target": int(identify(output) not in (language, "unknown"))}
    return shown | {
        "chrf++": translation.chrf_statistics(output, reference),
        "bleu": translation.bleu_statistics(output, reference),
        "parse_failure": int(not output),
    }


def translation_results(doc: Doc, results: Sequence[str]) -> Results:
    """{chrf++, bleu, parse_failure} of a translation of `source` (may be absent) against `target`."""
    return _translation(str(doc.get("source", "")), str(doc["target"]), results)


def flores_en_et_results(doc: Doc, results: Sequence[str]) -> Results:
    """{chrf++, bleu, off_target, parse_failure} of a FLORES row, English to Estonian.

    off_target: the output is recognised as another language. One too short to tell is not counted; an empty one is a
    parse failure instead, so that the mean of `parse_failure` is the rate of empty outputs.
    """
    return _translation(doc["sentence_eng_Latn"], doc["sentence_est_Latn"], results, "et")


def flores_et_en_results(doc: Doc, results: Sequence[str]) -> Results:
    """As flores_en_et_results, Estonian to English."""
    return _translation(doc["sentence_est_Latn"], doc["sentence_eng_Latn"], results, "en")
