"""Results of multiple choice, and what lays out the options.

Each data set has functions named after what is scored:

    X_letter_results    the options' letters: their log-likelihoods, or a generated answer that names one
    X_text_results      the options' texts: their log-likelihoods

Rows are read as they stand on the Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estbench.errors import TaskError
from estbench.metrics import choice
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = [
    "belebele_letter_results",
    "belebele_text_results",
    "choice_answer_results",
    "consistency_aggregation",
    "exam_letter_results",
    "exam_text_results",
    "global_piqa_both_orders",
    "global_piqa_letter_results",
    "global_piqa_text_results",
    "include_letter_results",
    "include_text_results",
    "mmlu_redux_docs",
    "mmlu_redux_letter_results",
    "rstd_aggregation",
    "trivia_letter_results",
    "trivia_text_results",
    "winogrande_both_orders",
    "winogrande_gap_results",
    "winogrande_letter_results",
    "xcopa_both_orders",
    "xcopa_connective_choices",
    "xcopa_connective_results",
    "xcopa_letter_results",
    "xcopa_text_results",
]

Scored = Sequence[tuple[float, bool]]  # log-likelihood and whether greedy decoding gives it, an option each
rstd_aggregation, consistency_aggregation = aggregation(choice.RSTD), aggregation(choice.CONSISTENCY)


@dataclass(frozen=True, slots=True)
class Question:
    """A row as a question. `part` is what its score is also reported by: cause or effect, an exam's subject."""

    text: str
    options: list[str]
    gold: int
    part: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gold < len(self.options):
            raise TaskError(
                f"A row's gold answer is option {self.gold + 1} of {len(self.options)}: correct or drop the row."
            )


# --- rows of the Hub --------------------------------------------------------------------------------------------------


def _xcopa(doc: Doc) -> Question:
    options = [doc["choice1"].strip(), doc["choice2"].strip()]
    return Question(doc["premise"], options, int(doc["label"]), doc["question"])


def _xcopa_connective(doc: Doc) -> Question:
    return Question(doc["premise"], xcopa_connective_choices(doc), int(doc["label"]), doc["question"])


def _belebele(doc: Doc) -> Question:
    options = [doc[f"mc_answer{number}"].strip() for number in range(1, 5)]
    return Question(doc["question"], options, int(doc["correct_answer_num"]) - 1)


def _exam(doc: Doc) -> Question:
    return Question(doc["küsimus"], [option.strip() for option in doc["vastusevariandid"]], int(doc["vastus"]))


def _exam_by_subject(doc: Doc) -> Question:
    question = _exam(doc)
    return Question(question.text, question.options, question.gold, doc["config"])


def _winogrande(doc: Doc) -> Question:
    return Question(doc["sentence"], [doc["option1"], doc["option2"]], int(doc["answer"]) - 1)


def _global_piqa(doc: Doc) -> Question:
    return Question(doc["prompt"], [doc["solution0"].strip(), doc["solution1"].strip()], int(doc["label"]))


def _include(doc: Doc) -> Question:
    return Question(doc["question"], [doc[f"option_{letter}"].strip() for letter in "abcd"], int(doc["answer"]))


def _mmlu_redux(doc: Doc) -> Question:
    return Question(doc["question"], [option.strip() for option in doc["choices"]], int(doc["answer"]))


# --- results ----------------------------------------------------------------------------------------------------------


def _texts(question_of: Callable[[Doc], Question], *, part_by: str = "acc") -> Callable[[Doc, Scored], Results]:
    """A results function: {acc, acc_norm, acc_bytes, margin}, and `part_by` once more under the question's part."""

    def text_results(doc: Doc, results: Scored) -> Results:
        """{acc, acc_norm, acc_bytes, margin} of the options' texts."""
        question = question_of(doc)
        if not all(question.options):
            raise TaskError(f"A row has an empty option ({question.text[:40]!r} …): correct or drop the row.")
        values: Results = dict(choice.scores([value for value, _ in results], question.options, question.gold))
        return values | ({f"{part_by}/{question.part}": values[part_by]} if question.part else {})

    return text_results


def _letters(
    question_of: Callable[[Doc], Question], *, both_orders: bool = False, spread: bool = True
) -> Callable[[Doc, Scored | Sequence[str]], Results]:
    """A results function of letters. `both_orders`: the documents ask each question twice, which gives a consistency.
    `spread`: RStd, which says something where all questions have the same letters."""

    def letter_results(doc: Doc, results: Scored | Sequence[str]) -> Results:
        """{acc, margin or parse_failure, rstd, consistency} of the options' letters, scored or generated."""
        question = question_of(doc)
        first = results[0]
        if isinstance(first, str):
            answer = choice.chosen(first, question.options)
            values: Results = {"parse_failure": int(answer is None)}
        else:
            likelihoods = [float(scored[0]) for scored in results]
            answer = choice.likeliest(likelihoods)
            values = {"margin": choice.margin(likelihoods, question.gold)}
        if both_orders:
            values["consistency"] = choice.order_answer(question.text, question.options, answer)
        values["acc"] = int(answer == question.gold)
        if spread:
            values["rstd"] = choice.letter_counts(answer, question.gold, len(question.options))
        return values | ({f"acc/{question.part}": values["acc"]} if question.part else {})

    return letter_results


xcopa_text_results = _texts(_xcopa)
xcopa_connective_results = _texts(_xcopa_connective)
xcopa_letter_results = _letters(_xcopa, both_orders=True)
belebele_text_results = _texts(_belebele)
belebele_letter_results = _letters(_belebele)
trivia_text_results = _texts(_exam)
trivia_letter_results = _letters(_exam)
winogrande_letter_results = _letters(_winogrande, both_orders=True)
global_piqa_text_results = _texts(_global_piqa)
global_piqa_letter_results = _letters(_global_piqa, both_orders=True)
include_text_results = _texts(_include)
include_letter_results = _letters(_include)
mmlu_redux_letter_results = _letters(_mmlu_redux)
_winogrande_texts = _texts(_winogrande)
_exam_texts = _texts(_exam_by_subject, part_by="acc_norm")
_exam_letters = _letters(_exam_by_subject, spread=False)


def exam_text_results(doc: Doc, results: Scored) -> Results:
    """As other texts, with the score by subject and what guessing gives (the number of options differs by question)."""
    return _exam_texts(doc, results) | {"guessing": 1 / len(doc["vastusevariandid"])}


def exam_letter_results(doc: Doc, results: Scored | Sequence[str]) -> Results:
    """As other letters, with the score by subject and what guessing gives."""
    return _exam_letters(doc, results) | {"guessing": 1 / len(doc["vastusevariandid"])}


def winogrande_gap_results(doc: Doc, results: Scored) -> Results:
    """{acc, margin} of the sentence's rest behind each option. It is the same text: there is no length to norm by."""
    values = _winogrande_texts(doc, results)
    return {metric: values[metric] for metric in ("acc", "margin")}


def choice_answer_results(doc: Doc, results: Sequence[str]) -> Results:
    """{acc, parse_failure} of an answer that names one of `options` by letter; `gold` is "A", "B", … or an index."""
    gold = doc["gold"]
    place = choice.LETTERS.index(gold) if isinstance(gold, str) else int(gold)
    question = Question("", list(doc["options"]), place)
    answer = choice.chosen(results[0], question.options)
    return {"acc": int(answer == place), "parse_failure": int(answer is None)}


# --- which rows are asked, and what lays out the options --------------------------------------------------------------


def mmlu_redux_docs(dataset: Any) -> Any:
    """`process_docs`: the rows whose question and gold answer were found right (`error_type` "ok"). Takes and returns a
    datasets.Dataset."""
    return dataset.select([place for place, kind in enumerate(dataset["error_type"]) if kind == "ok"])


def xcopa_connective_choices(doc: Doc) -> list[str]:
    """Both choices as the rest of a sentence: a small letter first, but abbreviations (TV, EKG) stay as they are. No
    choice of the Estonian data begins with a name."""
    choices = (doc["choice1"].strip(), doc["choice2"].strip())
    return [text if text[1:2].isupper() else text[:1].lower() + text[1:] for text in choices]


def _both_orders(first: str, second: str, gold: str, swapped: Mapping[Any, Any]) -> Callable[[Any], Any]:
    """A `process_docs` for rows with two options: `swapped` is what their gold becomes when they change places."""

    def both_orders(dataset: Any) -> Any:
        """Each row and, behind it, the row with its options swapped, so that a liking for a letter cancels out. Takes
        and returns a datasets.Dataset with the same columns."""

        def rows() -> Iterator[dict[str, Any]]:
            for row in dataset:
                yield dict(row)
                yield row | {first: row[second], second: row[first], gold: swapped[row[gold]]}

        return type(dataset).from_list(list(rows()), features=dataset.features)

    return both_orders


xcopa_both_orders = _both_orders("choice1", "choice2", "label", {0: 1, 1: 0})
global_piqa_both_orders = _both_orders("solution0", "solution1", "label", {0: 1, 1: 0})
winogrande_both_orders = _both_orders("option1", "option2", "answer", {"1": "2", "2": "1", None: None})
