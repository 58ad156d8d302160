"""Results of multiple choice that is answered by generation, and what lays out the options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from estbench.errors import TaskError
from estbench.metrics import choice
from estbench.metrics.tasks.common import Doc, Results

__all__ = ["belebele_letter_results", "choice_answer_results", "xcopa_both_orders", "xcopa_letter_results"]


def _letter(response: str, options: Sequence[str], gold: int) -> Results:
    if not 0 <= gold < len(options):
        raise TaskError(f"A row's gold answer is option {gold + 1} of {len(options)}: correct or drop the row.")
    found = choice.chosen(response, options)
    return {"acc": int(found == gold), "parse_failure": int(found is None)}


def choice_answer_results(doc: Doc, results: Sequence[str]) -> Results:
    """{acc, parse_failure} of an answer that names one of `options` by letter; `gold` is "A", "B", … or an index."""
    gold = doc["gold"]
    return _letter(results[0], doc["options"], choice.LETTERS.index(gold) if isinstance(gold, str) else int(gold))


def xcopa_letter_results(doc: Doc, results: Sequence[str]) -> Results:
    """As choice_answer_results, for an XCOPA row (`choice1`, `choice2`, `label`)."""
    return _letter(results[0], [doc["choice1"], doc["choice2"]], int(doc["label"]))


def belebele_letter_results(doc: Doc, results: Sequence[str]) -> Results:
    """As choice_answer_results, for a Belebele row (`mc_answer1` to `mc_answer4`, `correct_answer_num` from "1")."""
    options = [doc[f"mc_answer{number}"] for number in range(1, 5)]
    return _letter(results[0], options, int(doc["correct_answer_num"]) - 1)


def xcopa_both_orders(dataset: Any) -> Any:
    """`process_docs`: each row and, behind it, the row with its options swapped, so that a liking for a letter cancels
    out. Takes and returns a datasets.Dataset with the same columns."""

    def both() -> Iterator[dict[str, Any]]:
        for row in dataset:
            yield dict(row)
            yield row | {"choice1": row["choice2"], "choice2": row["choice1"], "label": 1 - row["label"]}

    return type(dataset).from_list(list(both()), features=dataset.features)
