"""Results of following instructions."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.metrics import ifeval
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = ["ifeval_en_results", "ifeval_et_results", "ifeval_inst_loose_aggregation", "ifeval_inst_strict_aggregation"]

_BY_NAME = {metric.name: metric for metric in ifeval.METRICS}
ifeval_inst_strict_aggregation = aggregation(_BY_NAME["ifeval_inst_strict"])
ifeval_inst_loose_aggregation = aggregation(_BY_NAME["ifeval_inst_loose"])


def _results(doc: Doc, response: str, language: str) -> Results:
    found = ifeval.verdicts(doc, response, language=language)
    return {
        "ifeval_prompt_strict": int(all(found.strict)),
        "ifeval_prompt_loose": int(all(found.loose)),
        "ifeval_inst_strict": [sum(found.strict), len(found.strict)],
        "ifeval_inst_loose": [sum(found.loose), len(found.loose)],
        "parse_failure": int(found.empty),
    }


def ifeval_et_results(doc: Doc, results: Sequence[str]) -> Results:
    """{ifeval_prompt_strict, ifeval_prompt_loose, ifeval_inst_strict, ifeval_inst_loose, parse_failure} of a response
    in the Estonian set; the two of instructions are [followed, all]. A parse failure is an empty response."""
    return _results(doc, results[0], "et")


def ifeval_en_results(doc: Doc, results: Sequence[str]) -> Results:
    """As ifeval_et_results, in the English set."""
    return _results(doc, results[0], "en")
