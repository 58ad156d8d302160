"""Results of grammatical error correction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from estbench.estonian import lemmas
from estbench.estonian.normalise import QUOTE_PAIRS, without_label, without_markup, without_quotes, without_thinking
from estbench.estonian.tokeniser import estnltk_tokens, project_tokens
from estbench.metrics import gec, modelling
from estbench.metrics.tasks.common import Doc, Results, aggregation

__all__ = [
    "estgec_results",
    "gec_aggregation",
    "gec_edits_aggregation",
    "gec_en_results",
    "gec_precision_aggregation",
    "gec_recall_aggregation",
    "gec_recall_by_type",
    "gec_results",
    "gec_words_aggregation",
    "grammar_results",
]

LABELS = (
    *("parandatud lause", "parandatud tekst", "parandatud versioon", "parandatud", "parandus"),
    *("korrigeeritud lause", "korrigeeritud tekst", "korrigeeritud", "õige lause", "korrektne lause", "korrektne"),
    *("corrected sentence", "corrected text", "corrected version", "corrected", "correction", "correct sentence"),
)
WEAK_LABELS = ("lause", "tekst", "õige", "vastus", "väljund", "sentence", "text", "output", "answer")  # on line 1 alone
_BEFORE = re.compile(
    r"\A[\s*_#>]*(?:(?:siin on|see on|siin|lause on|here is|here's|this is|the sentence is)\b[^:.!?]{0,60}:"
    r"|(?:parandatud|õige|korrektne) (?:lause|tekst|versioon) on(?::|(?=\s+[\"„“]))"
    r"|(?:the )?(?:corrected|correct) (?:sentence|text|version) is(?::|(?=\s+[\"“])))[\s*_]*",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"\A[\s*_#>]*(?:(?:see|antud|esitatud|algne) )?(?:lause|tekst) on (?:juba |grammatiliselt |täiesti |keeleliselt )*"
    r"(?:õige|korrektne|veatu)[^:\n]{0,80}\Z"
    r"|\A[\s*_#>]*(?:(?:selles|antud|esitatud|algses) )?(?:lauses|tekstis) "
    r"(?:(?:ei ole|pole) (?:[\w-]+ ){0,3}\w*(?:vigu|viga)|(?:vigu|viga) (?:ei ole|pole))\b[^:\n]{0,80}\Z"
    r"|\A[\s*_#>]*(?:the|this) (?:sentence|text) is (?:already |grammatically |completely )*correct[^:\n]{0,80}\Z",
    re.IGNORECASE,
)
_EXPLAINED = re.compile(
    r"\A[\s*_#>(\[–-]*(?:selgitus|selgitused|märkus|märkused|põhjendus|põhjendused|(?:tehtud )?muudatused"
    r"|(?:tehtud )?parandused|vead|explanations?|notes?|changes(?: made)?|corrections(?: made)?|errors)\b[\s*_]*:",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\A(?:[-*•>]|\d+[.)])\s+(?=\S)")
_FENCE = re.compile(r"```[^\n`]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_ARROW = re.compile(r"\s*(?:→|⇒|->|=>)\s*")
_STRUCK = re.compile(r"~~[^~\n]+~~\s*")
_BOLD = re.compile(r"(\*\*|__)(?=\S)((?:(?!\1).)+)(?<=\S)\1")
_ITALIC = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])")
_METRICS = {metric.name: aggregation(metric) for metric in gec.METRICS if metric.kind == "corpus"}
gec_aggregation = _METRICS["f0.5"]
gec_precision_aggregation = _METRICS["gec_precision"]
gec_recall_aggregation = _METRICS["gec_recall"]
gec_words_aggregation = _METRICS["f0.5_words"]
gec_edits_aggregation = _METRICS["gec_edits_per_100"]


def corrected_text(response: str, source: str) -> str:
    """The corrected sentence that a response holds, on one line; empty: there is none.

    What goes: reasoning, what stands before and after a code fence, an introduction or label, explanations, bold and
    struck text, quotes around the whole, and a mere verdict ("Lause on õige."). What the source itself has stays. Of
    several paragraphs the first one counts (or that under the label); the sentences in it are all kept.
    """
    text = re.sub(r"[^\S\n]+", " ", without_thinking(response))  # patterns are quadratic on runs of spaces
    if "```" not in source:
        fenced = _FENCE.search(text)
        text = fenced[1] if fenced else re.sub(r"```\w*", "", text)
    if "~~" not in source:
        text = _STRUCK.sub("", text)
    if not set("*_") & set(source):
        text = _ITALIC.sub(r"\1", _BOLD.sub(r"\2", text))
    text = " ".join(_answer_lines([line.strip() for line in text.strip().splitlines()], source))
    if not _ARROW.search(source):
        text = _ARROW.split(text)[-1]  # "wrong → right"
    text = without_markup(text) if source[:1] not in ("`", "*", "_") else text
    if source[:1] not in QUOTE_PAIRS:
        text = without_quotes(text)
    return text.strip()


def _answer_lines(lines: list[str], source: str) -> list[str]:
    """The lines of the first paragraph, or of the one under a label, up to an explanation."""
    if without_label(source, LABELS + WEAK_LABELS) == source:
        lines = _under_label(lines)
    if lines and not _BEFORE.match(source):
        lines = [_BEFORE.sub("", lines[0]), *lines[1:]]
    while lines and _leads_in(lines, source):
        lines = lines[1:]
    kept: list[str] = []
    for line in lines:
        if not line.strip("-_*") or (_EXPLAINED.match(line) and not _EXPLAINED.match(source)):
            break
        kept.append(line)
    if kept and not _BULLET.match(source):
        kept[0] = _BULLET.sub("", kept[0])
    return kept


def _leads_in(lines: list[str], source: str) -> bool:
    """Whether the first line is no part of the sentence: empty, "Palun:", or the verdict "Lause on õige."."""
    first = lines[0]
    announces = len(lines) > 1 and (first.startswith("#") or (first.endswith(":") and ":" not in source))
    return not first.strip("*_#> ") or announces or bool(_VERDICT.match(first) and not _VERDICT.match(source))


def _under_label(lines: list[str]) -> list[str]:
    """What follows "Parandatud lause:", wherever that stands, or a weaker label at the very beginning."""
    for place, line in enumerate(lines):
        bare = "" if line.strip("*_# ").casefold() in LABELS else without_label(line, LABELS)
        if bare != line:
            return [bare, *lines[place + 1 :]]
    return [without_label(lines[0], WEAK_LABELS), *lines[1:]] if lines else []


def _scored(
    source: Sequence[str], tokens: Sequence[str], gold: Sequence[Sequence[gec.Edit]]
) -> tuple[list[str], list[int], bool]:
    """(the tokens that are scored, [correct, proposed, gold] of each annotator in a row, whether there was no answer).

    An output that is empty or far too long (a loop: more than 2 × source + 20 tokens) is scored as the source.
    """
    failed = not tokens or len(tokens) > 2 * len(source) + 20
    used = list(source if failed else tokens)
    return used, [count for row in gec.counts(source, used, gold) for count in row], failed


def _results(
    source: list[str], text: str, gold: Sequence[Sequence[gec.Edit]], prepare: Callable[[str], str] = str
) -> tuple[Results, list[str]]:
    used, flat, failed = _scored(source, project_tokens(prepare(text), source), gold)
    values = {
        "f0.5": flat,
        "gec_precision": flat,
        "gec_recall": flat,
        "gec_edits_per_100": [len(gec.changes(source, used)), len(source)],
        "parse_failure": int(failed),
    }
    return values, used


def gec_results(doc: Doc, results: Sequence[str]) -> Results:
    """{f0.5, gec_precision, gec_recall, parse_failure} of a corrected sentence: `source_tokens` and `edits` are gold.

    All three values are the same list, [correct, proposed, gold] of each annotator. An output that is empty or far too
    long (a loop: more than 2 × source + 20 tokens) is scored as the unchanged source and is a parse failure.
    """
    values = _corpus_results(doc, results)[0]
    return {name: value for name, value in values.items() if name != "gec_edits_per_100"}


def _corpus_results(doc: Doc, results: Sequence[str]) -> tuple[Results, list[str]]:
    source = list(doc["source_tokens"])
    text = corrected_text(results[0], " ".join(source))
    return _results(source, text, gec.annotators(doc["edits"]))


def estgec_results(doc: Doc, results: Sequence[str]) -> Results:
    """As gec_results, with gec_edits_per_100 and f0.5_words.

    The score is f0.5: its tokens need nothing that may be missing. f0.5_words is the same with EstNLTK's words where
    the output differs from the source; without EstNLTK it is left out.
    """
    source = list(doc["source_tokens"])
    gold = gec.annotators(doc["edits"])
    text = corrected_text(results[0], " ".join(source))
    values, used = _results(source, text, gold)
    if lemmas.installed():
        tokens = source if values["parse_failure"] else estnltk_tokens(text, source)
        values["f0.5_words"] = values["f0.5"] if tokens == used else _scored(source, tokens, gold)[1]
    return values


def gec_en_results(doc: Doc, results: Sequence[str]) -> Results:
    """As gec_results with gec_edits_per_100, for a JFLEG row: `sentence` and its `corrections`, all tokenised.

    Each correction is an annotator; the edits are where its words differ from the sentence. Penn quotes become ".
    """
    source = _plain_quotes(doc["sentence"]).split()
    edits: list[dict[str, Any]] = []
    for annotator, correction in enumerate(dict.fromkeys(map(_plain_quotes, doc["corrections"]))):
        edits += gec.edits_of_correction(source, correction.split(), annotator)
    text = corrected_text(results[0], " ".join(source))
    return _results(source, text, gec.annotators(edits), _plain_quotes)[0]


def _plain_quotes(text: str) -> str:
    return " ".join(text.replace("``", '"').replace("''", '"').split())


def grammar_results(doc: Doc, results: Sequence[str]) -> Results:
    """{gec_exact, gec_similarity, …} and gec_results' metrics, for a row of an `original` and a `correct` text.

    The edits are where the words differ. gec_exact: all words are those of the correction. gec_similarity: 1 - edit
    distance of characters / length of the longer text, over words joined by spaces.
    """
    source = project_tokens(doc["original"], [])
    correct = project_tokens(doc["correct"], source)
    gold = gec.annotators(gec.edits_of_correction(source, correct, 0))
    values, used = _results(source, corrected_text(results[0], doc["original"].strip()), gold)
    return {
        **values,
        "gec_exact": int(used == correct and not values["parse_failure"]),
        "gec_similarity": _similarity(" ".join(used), " ".join(correct)) if not values["parse_failure"] else 0.0,
    }


def _similarity(text: str, other: str) -> float:
    return 1 - modelling.edit_distance(text, other) / max(len(text), len(other), 1)


def gec_recall_by_type(answers: Iterable[tuple[Doc, str]]) -> dict[str, gec.TypeRecall]:
    """Recall by error type of (document, stored answer), in the order of the documents; tokens as in gec_results."""
    sentences = []
    for doc, answer in answers:
        source = list(doc["source_tokens"])
        sentences.append((source, _corpus_results(doc, [answer])[1], gec.annotators(doc["edits"])))
    return gec.recall_by_type(sentences)
