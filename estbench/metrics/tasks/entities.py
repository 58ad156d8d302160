"""Results of named entity recognition, and the gold answer as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from estbench.metrics import entities
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = ["entity_f1_aggregation", "estner_results", "estner_target"]

(entity_f1_aggregation,) = (aggregation(metric) for metric in entities.METRICS)


def estner_target(doc: Doc) -> str:
    """The gold answer of an EstNER row as JSON on one line."""
    return json.dumps(entities.gold_mentions(doc["tokens"], doc["ner_tags"]), ensure_ascii=False)


def estner_results(doc: Doc, results: Sequence[str]) -> Results:
    """{entity_f1: [tp, fp, fn], parse_failure} of an answer in JSON; without JSON nothing was found."""
    given = entities.read_entities(results[0])
    gold = entities.gold_entities(doc["tokens"], doc["ner_tags"])
    counts = entities.entity_statistics(Counter() if given is None else given, gold)
    return {"entity_f1": counts, "parse_failure": int(given is None)}
