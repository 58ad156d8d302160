"""Short answers: exact match, token F1, gold in all its shapes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.errors import TaskError
from estbench.metrics.qa import exact_match, gold_answers, token_f1
from estbench.metrics.tasks import exact_results, qa_results

WORDS = st.lists(st.sampled_from(["tartu", "tallinn", "eesti", "ja", "maja", "öö"]), min_size=1, max_size=5).map(
    " ".join
)


@pytest.mark.parametrize(
    "answers",
    [
        ["Tartu", "Tartu linn"],
        {"text": ["Tartu", "Tartu linn"], "answer_start": [1, 1]},
        [{"text": "Tartu", "answer_start": 1}, {"text": "Tartu linn", "answer_start": 1}],
        ["Tartu", "Tartu", "", "Tartu linn"],
    ],
)
def test_every_shape_of_gold_is_read(answers: object) -> None:
    assert gold_answers(answers) == ["Tartu", "Tartu linn"]


@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}, [""]])
def test_a_row_without_gold_is_an_error_not_a_score(answers: object) -> None:
    with pytest.raises(TaskError, match="no gold answer"):
        gold_answers(answers)


def test_every_gold_answer_counts() -> None:
    golds = ["Tartu linnas", "Tallinnas", "Emajõe ääres"]
    assert [exact_match(gold, golds) for gold in golds] == [1, 1, 1]
    assert token_f1("Emajõe", golds) == pytest.approx(2 / 3)
    assert exact_match("Emajõe", golds) == 0


def test_no_article_is_removed() -> None:
    """SQuAD's normaliser makes these equal: it takes "a" for an English article."""
    assert exact_match("2018 a", ["2018"]) == 0
    assert exact_match("the", [""]) == 0


def test_decimal_comma_and_thousands() -> None:
    assert exact_match("1\u202f234,5 km", ["1234.5 km"]) == 1
    assert exact_match("35", ["3,5"]) == 0


def test_f1_counts_repeated_words_once_each() -> None:
    assert token_f1("tartu tartu", ["tartu"]) == pytest.approx(2 / 3)


def test_an_empty_answer_is_a_parse_failure_and_wrong() -> None:
    doc = {"answers": ["Tartu"]}
    assert qa_results(doc, [" \n"]) == {"em": 0, "f1": 0.0, "parse_failure": 1}
    assert qa_results(doc, ["<think>Tartu"]) == {"em": 0, "f1": 0.0, "parse_failure": 1}
    assert qa_results(doc, ["Vastus: tartu."]) == {"em": 1, "f1": 1.0, "parse_failure": 0}


def test_exact_takes_all_parallel_forms() -> None:
    doc = {"answers": ["majja", "majasse"]}
    assert [exact_results(doc, [form])["exact_match"] for form in ("majja", "Majasse.", "maja")] == [1, 1, 0]
    assert exact_results({"target": "šokolaad"}, ["sokolaad"])["exact_match"] == 0


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_f1_is_the_formula_and_at_least_em(answer: str, golds: list[str]) -> None:
    def oracle(gold: str) -> float:
        shared = sum((Counter(answer.split()) & Counter(gold.split())).values())
        if not shared:
            return 0.0
        precision, recall = shared / len(answer.split()), shared / len(gold.split())
        return 2 * precision * recall / (precision + recall)

    value = token_f1(answer, golds)
    assert value == pytest.approx(max(map(oracle, golds)))
    assert value >= exact_match(answer, golds)
