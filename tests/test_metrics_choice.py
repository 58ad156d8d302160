"""The letter of a generated answer, and margins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.errors import TaskError
from estbench.metrics.choice import chosen, margin
from estbench.metrics.tasks import belebele_letter_results, choice_answer_results, xcopa_letter_results

OPTIONS = ["Ta läks koju.", "Ta jäi tööle.", "Ta sõitis Tartusse.", "Ta magas."]


@pytest.mark.parametrize(
    "response",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "B)",
        "**B**",
        "„B“",
        "2",
        "Vastus: B",
        "vastus: b",
        "**Vastus:** B",
        "Vastus – B",
        "Vastus on B.",
        "Õige vastus on B, sest ta jäi tööle.",
        "Minu vastus on variant B.",
        "Õige vastus on teine.",
        "Õige on teine variant.",
        "Õige variant on B.",
        "Õige vastusevariant: B",
        "B-variant",
        "B variant on õige",
        "Valin B-variandi.",
        "Valin variandi B.",
        "Variant B",
        "Valik 2",
        "Vastus: 2",
        "Vastuseks on B",
        "Answer: B",
        "The correct answer is B.",
        "The answer is (B).",
        r"\boxed{B}",
        r"Vastus: $\boxed{\text{B}}$",
        "B. Ta jäi tööle.",
        "B) Ta jäi tööle.",
        "B\n\nSelgitus: A on vale.",
        "Ta jäi tööle.",
        "Vastus: Ta jäi tööle",
        "<think>Võib-olla A. Vastus: A</think>B",
        "<think>Vastus: A</think>\nVastus: B",
        "Vastus: B. Vastus ei ole A.",
        "Vastus: B\nVastus: A",  # the first explicit one
        "A. Ta läks koju.\nB. Ta jäi tööle.\nC. Ta sõitis Tartusse.\nD. Ta magas.\n\nVastus: B",
        "Variant A on vale, C ei sobi. Õige on B.",
        "A on vale, seega B.",
        "Vastus ei ole A, vaid B.",
        "Mitte A, vaid B.",
    ],
)
def test_estonian_answers_are_understood(response: str) -> None:
    assert chosen(response, OPTIONS) == 1


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Ma ei tea.",
        "A või B",
        "Vastus: A või B",
        "Vastus on A, B ja C.",
        "E",
        "Vastus: E",
        "Vastus: Alati",
        "Vastus: 20",
        "Vastus: 2018",
        "Ta",
        "Ta läks koju. Ta magas.",
        "<think>Vastus: B",
        "vastus on a puhul selge",
        "A. Ta läks koju.\nB. Ta jäi tööle.\nC. Ta sõitis Tartusse.\nD. Ta magas.",
        "B-vitamiin on kasulik",
        "Vastus: B-vitamiin",
    ],
)
def test_no_answer_is_none_and_never_a_guess(response: str) -> None:
    assert chosen(response, OPTIONS) is None


def test_letters_beyond_the_options_are_no_answer() -> None:
    assert chosen("Vastus: C", OPTIONS[:2]) is None
    assert chosen("Vastus: C", OPTIONS) == 2


@given(
    st.integers(0, 3), st.sampled_from(["Vastus: {}", "Õige vastus on {}.", "{}", "({})", "Variant {}", "{}-variant"])
)
def test_every_letter_in_every_phrase(place: int, phrase: str) -> None:
    assert chosen(phrase.format("ABCD"[place]), OPTIONS) == place


@given(st.text(max_size=60))
def test_any_text_gives_an_option_or_none(text: str) -> None:
    assert chosen(text, OPTIONS) in {None, 0, 1, 2, 3}


def test_a_parse_failure_is_wrong() -> None:
    doc = {"options": OPTIONS, "gold": "B"}
    assert choice_answer_results(doc, ["Vastus: B"]) == {"acc": 1, "parse_failure": 0}
    assert choice_answer_results(doc, ["Vastus: A"]) == {"acc": 0, "parse_failure": 0}
    assert choice_answer_results(doc, ["ei tea"]) == {"acc": 0, "parse_failure": 1}
    assert choice_answer_results(doc | {"gold": 1}, ["B"])["acc"] == 1


def test_rows_of_the_hub_need_no_preparation() -> None:
    copa = {"premise": "…", "choice1": "Ta läks.", "choice2": "Ta jäi.", "question": "effect", "label": 1}
    assert xcopa_letter_results(copa, ["B"])["acc"] == 1
    belebele = {f"mc_answer{number}": text for number, text in enumerate(OPTIONS, 1)} | {"correct_answer_num": "3"}
    assert [belebele_letter_results(belebele, [letter])["acc"] for letter in "ABCD"] == [0, 0, 1, 0]
    with pytest.raises(TaskError, match="gold answer"):
        belebele_letter_results(belebele | {"correct_answer_num": "5"}, ["A"])


def test_the_margin_is_positive_exactly_when_gold_wins() -> None:
    assert margin([-3.0, -1.0, -2.0], 1) == 1.0
    assert margin([-3.0, -1.0, -2.0], 0) == -2.0
