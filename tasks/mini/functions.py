"""What the mini tasks' YAML files call: their rows, made by the demo world, and our metrics."""

from __future__ import annotations

from typing import Any

from estbench.demo.english import follow_results as follow_en_results
from estbench.demo.follow import follow_results
from estbench.metrics.tasks import (
    bleu_aggregation,
    chrf_aggregation,
    exact_results,
    gec_aggregation,
    gec_precision_aggregation,
    gec_recall_aggregation,
    gec_results,
    qa_results,
    translation_results,
)

__all__ = [
    "bleu_aggregation",
    "chrf_aggregation",
    "copa_chat_results",
    "demo",
    "english",
    "exact_results",
    "follow_chat_results",
    "follow_en_chat_results",
    "follow_en_results",
    "follow_results",
    "gec_aggregation",
    "gec_precision_aggregation",
    "gec_recall_aggregation",
    "gec_results",
    "language",
    "qa_results",
    "translation_exact_results",
    "translation_results",
]


def demo(task: str, *, fresh: bool = False, **_: object) -> dict[str, Any]:
    """The rows of a mini task, as lm-eval's `custom_dataset` wants them: split -> datasets.Dataset."""
    from datasets import Dataset

    from estbench.demo import rows

    return {split: Dataset.from_list(docs) for split, docs in rows(task, fresh=fresh).items()}


def english(task: str, *, fresh: bool = False, **_: object) -> dict[str, Any]:
    """The rows of a mini task in English: split -> datasets.Dataset."""
    from datasets import Dataset

    from estbench.demo.english import rows

    return {split: Dataset.from_list(docs) for split, docs in rows(task, fresh=fresh).items()}


def language(task: str, *, fresh: bool = False, **_: object) -> dict[str, Any]:
    """The rows of a task of minimal pairs: split -> datasets.Dataset."""
    from datasets import Dataset

    from estbench.demo.language import rows

    return {split: Dataset.from_list(docs) for split, docs in rows(task, fresh=fresh).items()}


def translation_exact_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """chrF++ and BLEU, and whether it is the reference, which in this world is the one right answer."""
    return {**translation_results(doc, results), "exact_match": int(results[0].strip() == doc["target"])}


def copa_chat_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Whether the answer is the right one of the two endings, and whether it is one of them."""
    endings = [doc["choice1"].strip(), doc["choice2"].strip()]
    answer = results[0].strip()
    return {"acc": int(answer == endings[doc["label"]]), "parse_failure": int(answer not in endings)}


def follow_chat_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Whether the answer follows its rules, and whether there is one."""
    return {**follow_results(doc, results), "parse_failure": int(not results[0].strip())}


def follow_en_chat_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """As follow_chat_results, in English."""
    return {**follow_en_results(doc, results), "parse_failure": int(not results[0].strip())}
