"""What task files name: `process_results: !function functions.qa_results`, `aggregation: !function functions.…`.

A results function takes a document and the model's answers (the first one counts) and returns values by metric: a
number, or the sufficient statistics of a corpus metric as a list. `parse_failure` is 1 where no answer was found, which
counts as wrong. They work in estbench and in lm-eval alike: values and aggregations are lm-eval's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from estbench.errors import TaskError
from estbench.estonian.normalise import answer_text, sentence_text
from estbench.estonian.tokeniser import project_tokens
from estbench.metrics import aggregate, choice, gec, qa, translation

Doc = Mapping[str, Any]
Results = dict[str, Any]
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
GEC_LABELS = (
    "parandatud lause",
    "parandatud tekst",
    "parandus",
    "õige lause",
    "vastus",
    "corrected sentence",
    "corrected text",
)


def qa_results(doc: Doc, results: Sequence[str]) -> Results:
    """{em, f1, parse_failure} of a short answer against `answers` (three shapes, see qa.gold_answers)."""
    golds, answer = qa.gold_answers(doc["answers"]), answer_text(results[0])
    return {"em": qa.exact_match(answer, golds), "f1": qa.token_f1(answer, golds), "parse_failure": int(not answer)}


def exact_results(doc: Doc, results: Sequence[str]) -> Results:
    """{exact_match, parse_failure} of an answer that has to be one of `answers` (or `target`), as qa.exact_match."""
    golds = qa.gold_answers(doc["answers"] if "answers" in doc else doc["target"])
    answer = answer_text(results[0])
    return {"exact_match": qa.exact_match(answer, golds), "parse_failure": int(not answer)}


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


def gec_results(doc: Doc, results: Sequence[str]) -> Results:
    """{f0.5, gec_precision, gec_recall, parse_failure} of a corrected sentence: `source_tokens` and `edits` are gold.

    All three values are the same list, [correct, proposed, gold] of each annotator. An output that is empty or far too
    long (a loop: more than 2 × source + 20 tokens) is scored as the unchanged source and is a parse failure.
    """
    source = list(doc["source_tokens"])
    tokens = project_tokens(sentence_text(results[0], " ".join(source), GEC_LABELS), source)
    failed = not tokens or len(tokens) > 2 * len(source) + 20
    rows = gec.counts(source, source if failed else tokens, gec.annotators(doc["edits"]))
    flat = [count for row in rows for count in row]
    return {"f0.5": flat, "gec_precision": flat, "gec_recall": flat, "parse_failure": int(failed)}


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


def chrf_aggregation(items: Sequence[Any]) -> float:
    """chrF++ of the documents' statistics, 0 to 100."""
    return aggregate("chrf++", items)


def bleu_aggregation(items: Sequence[Any]) -> float:
    """BLEU of the documents' statistics, 0 to 100."""
    return aggregate("bleu", items)


def gec_aggregation(items: Sequence[Any]) -> float:
    """F0.5 of the documents' counts, 0 to 1."""
    return aggregate("f0.5", items)


def gec_precision_aggregation(items: Sequence[Any]) -> float:
    """Precision with the annotators that F0.5 selects, 0 to 1."""
    return aggregate("gec_precision", items)


def gec_recall_aggregation(items: Sequence[Any]) -> float:
    """Recall with the annotators that F0.5 selects, 0 to 1."""
    return aggregate("gec_recall", items)
