"""Summaries (ROUGE, length), bits per byte, and copies (character error rate)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.errors import TaskError
from estbench.metrics import aggregate, get
from estbench.metrics.modelling import bits_per_byte, edit_distance
from estbench.metrics.summary import length_ratio, rouge_l, rouge_n, words
from estbench.metrics.tasks import (
    bits_per_byte_aggregation,
    bits_per_byte_results,
    character_error_rate_aggregation,
    copy_results,
    errnews_results,
    length_ratio_aggregation,
)

TEXT = st.text(alphabet="aõšž b", max_size=12)
WORDS = st.lists(st.sampled_from(["õun", "jää", "šokk", "ja"]), max_size=8)


# --- ROUGE ----------------------------------------------------------------------------------------------------------


def test_words_are_lower_cased_and_keep_their_diacritics() -> None:
    assert words("„ÕUN–Pirn,“ ütles Žanna: 3,5 %!") == ["õun", "pirn", "ütles", "žanna", "3", "5"]
    assert words("o\u0303un") == ["õun"]


def test_rouge_of_a_worked_example() -> None:
    """Lin 2004: police killed the gunman / police kill the gunman, the gunman kill police."""
    reference = ["police", "killed", "the", "gunman"]
    first, second = ["police", "kill", "the", "gunman"], ["the", "gunman", "kill", "police"]
    assert rouge_n(first, reference, 1) == rouge_n(second, reference, 1) == 3 / 4
    assert rouge_n(first, reference, 2) == rouge_n(second, reference, 2) == 1 / 3
    assert (rouge_l(first, reference), rouge_l(second, reference)) == (3 / 4, 1 / 2)


def test_rouge_counts_repeated_words_once_each() -> None:
    assert rouge_n(["the"] * 7, ["the", "cat", "the", "mat"], 1) == pytest.approx(2 * 2 / 11)


def test_the_inflected_form_of_a_word_is_another_word() -> None:
    """Negative control: an English stemmer would conflate some of these."""
    assert rouge_n(["majadest"], ["majades"], 1) == 0
    assert rouge_n(["sona"], ["sõna"], 1) == 0


@given(WORDS, WORDS)
def test_rouge_lies_between_0_and_1_and_is_symmetric(one: list[str], other: list[str]) -> None:
    for score in (lambda a, b: rouge_n(a, b, 1), lambda a, b: rouge_n(a, b, 2), rouge_l):
        assert 0 <= score(one, other) <= 1
        assert score(one, other) == pytest.approx(score(other, one))
    assert rouge_l(one, one) == (1 if one else 0)
    assert rouge_l(one, other) <= rouge_n(one, other, 1) + 1e-12


@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_the_longest(one: list[str], other: list[str]) -> None:
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, word in enumerate(one):
        for j, gold in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if word == gold else max(table[i, j + 1], table[i + 1, j])
    longest = int(table[-1, -1])
    assert rouge_l(one, other) == pytest.approx(2 * longest / (len(one) + len(other)) if longest else 0)


def test_the_signature_says_what_fixes_the_score() -> None:
    metric = get("rouge2")
    assert metric and metric.signature
    assert metric.signature() == "rouge2|nrefs:1|f1|case:lower|words:unicode|stem:no"


# --- errnews --------------------------------------------------------------------------------------------------------

DOC = {"transcript": "Täna avati Tartus uus sild. See maksis kuus miljonit.", "summary": "Tartu sai uue silla. "}


def test_a_summary_equal_to_the_reference_is_perfect() -> None:
    values = errnews_results(DOC, ["**Kokkuvõte:** „Tartu sai uue silla.“"])
    assert aggregate("chrf++", [values["chrf++"]]) == pytest.approx(100)
    assert (values["rouge1"], values["rouge2"], values["rougeL"]) == (1, 1, 1)
    assert values["length_ratio"] == [4, 4] and values["parse_failure"] == 0


def test_an_empty_summary_is_zero_and_counted() -> None:
    values = errnews_results(DOC, ["<think>Mõtlen."])
    assert values["parse_failure"] == 1 and values["rouge1"] == values["rougeL"] == 0
    assert aggregate("chrf++", [values["chrf++"]]) == 0 and values["length_ratio"] == [0, 4]


def test_a_copy_shows_in_the_length_ratio() -> None:
    copy, good = errnews_results(DOC, [DOC["transcript"]]), errnews_results(DOC, [DOC["summary"]])
    assert length_ratio_aggregation([copy["length_ratio"], good["length_ratio"]]) == pytest.approx(13 / 8)
    assert length_ratio(np.zeros(2)) == 0


# --- bits per byte --------------------------------------------------------------------------------------------------


def test_uniform_bytes_are_eight_bits() -> None:
    doc = {"sentence_est_Latn": "Õues on öö. "}
    size = len("Õues on öö.".encode())
    assert size == 14  # õ and ö are two bytes each
    values = bits_per_byte_results(doc, [-size * math.log(256)])
    assert values == {"bits_per_byte": [pytest.approx(size * math.log(256)), size]}
    assert bits_per_byte_aggregation([values["bits_per_byte"]]) == pytest.approx(8)


def test_long_documents_count_for_more() -> None:
    rows = [[math.log(2) * 10, 10], [math.log(2) * 3 * 90, 90]]
    assert bits_per_byte_aggregation(rows) == pytest.approx((10 + 270) / 100)
    assert bits_per_byte(np.array(rows)).tolist() == pytest.approx([1, 3])
    metric = get("bits_per_byte")
    assert metric and metric.unit == "bits" and not metric.higher_is_better


def test_a_row_without_text_is_an_error() -> None:
    with pytest.raises(TaskError, match="no text"):
        bits_per_byte_results({"sentence_est_Latn": " "}, [-1.0])


# --- copies ---------------------------------------------------------------------------------------------------------


@given(TEXT, TEXT)
def test_edit_distance_is_levenshteins(output: str, reference: str) -> None:
    table = np.zeros((len(output) + 1, len(reference) + 1), int)
    table[:, 0], table[0] = range(len(output) + 1), range(len(reference) + 1)
    for i, sign in enumerate(output, 1):
        for j, gold in enumerate(reference, 1):
            step = table[i - 1, j - 1] + (sign != gold)
            table[i, j] = min(step, table[i - 1, j] + 1, table[i, j - 1] + 1)
    assert edit_distance(output, reference) == table[-1, -1] == edit_distance(reference, output)


@pytest.mark.parametrize(
    ("output", "exact", "edits"),
    [
        ("Õues on öö.", 1, 0),
        (" Õues  on öö.\n", 1, 0),
        ("Tekst: Õues on öö.", 1, 0),
        ("„Õues on öö.“", 1, 0),
        ("O\u0303ues on öö.", 1, 0),
        ("Oues on oo.", 0, 3),
        ("õues on öö.", 0, 1),
        ("Õues on öö", 0, 1),
        ("", 0, 11),
        ("Õues on öö. " * 50, 0, 11),  # not worse than nothing
    ],
)
def test_every_sign_of_a_copy_counts(output: str, exact: int, edits: int) -> None:
    values: dict[str, Any] = copy_results({"text": "Õues on öö."}, [output])
    assert values == {
        "exact_match": exact,
        "character_error_rate": [edits, 11],
        "parse_failure": int(not output.strip()),
    }


def test_the_error_rate_is_of_sums() -> None:
    assert character_error_rate_aggregation([[1, 10], [5, 90]]) == pytest.approx(0.06)
