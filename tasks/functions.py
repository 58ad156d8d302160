"""What the task files of this folder call: lm-eval looks `!function functions.NAME` up beside the YAML."""

from estbench.metrics.tasks import (
    belebele_letter_results,
    bleu_aggregation,
    chrf_aggregation,
    flores_en_et_results,
    flores_et_en_results,
    qa_results,
    xcopa_both_orders,
    xcopa_letter_results,
)

__all__ = [
    "belebele_letter_results",
    "bleu_aggregation",
    "chrf_aggregation",
    "flores_en_et_results",
    "flores_et_en_results",
    "qa_results",
    "xcopa_both_orders",
    "xcopa_letter_results",
]
