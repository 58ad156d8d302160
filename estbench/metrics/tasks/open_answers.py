"""Results of open instructions: what can be said without a judge."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.estonian import language
from estbench.metrics.tasks.common import Doc, Results

__all__ = ["open_answer_results"]

CODE = "code"  # an answer that is mainly code has no language


def open_answer_results(doc: Doc, results: Sequence[str]) -> Results:
    """{in_language, parse_failure}: whether all answers (one a turn) are in the language that the row asks for, where
    that can be told; an empty answer counts as a parse failure. What judges say comes later."""
    values: Results = {"parse_failure": int(any(not one.strip() for one in results))}
    wanted = str(doc.get("language") or "et")
    if wanted != CODE:
        found = [language.is_language(one, wanted) for one in results]
        if known := [one for one in found if one is not None]:
            values["in_language"] = int(all(known))
    return values
