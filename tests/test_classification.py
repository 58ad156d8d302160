"""Classification: MCC and macro-F1 from confusion cells, and the label that an answer names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench import metrics, stats
from estbench.errors import TaskError
from estbench.metrics.classification import cells, macro_f1, mcc, named, outcome

PAIRS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2, None])), min_size=1, max_size=40)


def scores(pairs: list[tuple[int, int | None]], labels: int = 3) -> tuple[float, float]:
    sums = cells([outcome(gold, given, labels) for gold, given in pairs]).sum(axis=0)
    return float(mcc(sums)), float(macro_f1(sums))


def oracle(pairs: list[tuple[int, int | None]]) -> tuple[float, float]:
    """MCC as the correlation of one-hot matrices, macro-F1 from each label's precision and recall."""
    gold = np.array([[gold == label for label in range(4)] for gold, _ in pairs], float)
    answers = np.array([[(3 if given is None else given) == label for label in range(4)] for _, given in pairs], float)
    x, y = gold - gold.mean(axis=0), answers - answers.mean(axis=0)
    spread = (x * x).sum() * (y * y).sum()
    right, given, golds = (gold * answers).sum(axis=0)[:3], answers.sum(axis=0)[:3], gold.sum(axis=0)[:3]
    f1 = [
        2 * (hits / n_given) * (hits / n_gold) / (hits / n_given + hits / n_gold) if hits else 0.0
        for hits, n_given, n_gold in zip(right, given, golds, strict=True)
    ]
    occurring = [score for score, n_given, n_gold in zip(f1, given, golds, strict=True) if n_given + n_gold]
    return float((x * y).sum() / np.sqrt(spread)) if spread > 1e-9 else 0.0, float(np.mean(occurring))


@given(PAIRS)
def test_scores_are_those_of_their_definitions(pairs: list[tuple[int, int | None]]) -> None:
    assert scores(pairs) == pytest.approx(oracle(pairs), abs=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None)
@given(PAIRS)
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int | None]]) -> None:
    """An unanswered document is a label of its own there, whose F1 is left out."""
    sklearn = pytest.importorskip("sklearn.metrics")
    gold, answers = [gold for gold, _ in pairs], [3 if given is None else given for _, given in pairs]
    matthews, macro = scores(pairs)
    assert matthews == pytest.approx(sklearn.matthews_corrcoef(gold, answers), abs=1e-9)
    occurring = sorted({*gold, *answers} - {3})
    expected = sklearn.f1_score(gold, answers, labels=occurring, average="macro", zero_division=0)
    assert macro == pytest.approx(expected, abs=1e-9)


def test_mcc_of_two_labels_is_the_textbook_formula() -> None:
    true_positive, false_negative, false_positive, true_negative = 6, 2, 1, 3
    pairs = [(0, 0)] * 6 + [(0, 1)] * 2 + [(1, 0)] + [(1, 1)] * 3
    expected = (true_positive * true_negative - false_positive * false_negative) / math.sqrt(
        (true_positive + false_positive) * (true_positive + false_negative)
        * (true_negative + false_positive) * (true_negative + false_negative)
    )  # fmt: skip
    assert scores(pairs, 2)[0] == pytest.approx(expected)


def test_macro_f1_by_hand() -> None:
    # label 0: 2 right of 2 given and 3 gold, F1 4/5; label 1: 1 right of 2 given and 1 gold, 2/3; label 2: 0
    assert scores([(0, 0), (0, 0), (0, 1), (1, 1), (2, None)])[1] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)


def test_labels_that_occur_nowhere_do_not_lower_macro_f1() -> None:
    assert scores([(0, 0), (1, 1)])[1] == 1.0
    assert scores([(0, 0), (1, 1), (0, 2)])[1] == pytest.approx((2 / 3 + 1 + 0) / 3)  # label 2 is given: it counts
    assert scores([(0, None)])[1] == 0.0
    pairs: list[tuple[int, int | None]] = [(0, 0), (0, 4), (0, 0), (4, 4), (4, 4), (2, 0)]
    assert scores(pairs, 7)[1] == pytest.approx((2 / 3 + 0 + 4 / 5) / 3)  # 2 is never given; 1, 3, 5, 6 are nowhere


@pytest.mark.slow
def test_labels_that_occur_nowhere_are_left_out_by_scikit_learn_too() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    gold, given = [0, 0, 0, 4, 4, 2], [0, 4, 0, 4, 4, 0]
    assert sklearn.f1_score(gold, given, average="macro", zero_division=0) == pytest.approx((2 / 3 + 0 + 4 / 5) / 3)


@pytest.mark.parametrize("answer", [0, 1, 2, None])
def test_a_constant_answer_has_no_mcc_however_frequent_its_label(answer: int | None) -> None:
    assert scores([(0, answer)] * 90 + [(1, answer)] * 5 + [(2, answer)] * 5)[0] == 0


def test_right_answers_have_one_and_an_unanswered_document_costs() -> None:
    right = [(label, label) for label in (0, 1, 2)] * 4
    assert scores(right) == (1.0, 1.0)  # type: ignore[arg-type]
    matthews, macro = scores([*right, (0, None)])
    assert matthews < 1 and macro < 1


def test_bootstrap_rows_are_scored_at_once() -> None:
    rows = cells([outcome(0, 0, 3), outcome(1, 2, 3), outcome(2, 2, 3), outcome(1, None, 3)])
    stacked = np.stack([rows.sum(axis=0), rows[:2].sum(axis=0)])
    for combine in (mcc, macro_f1):
        assert combine(stacked).tolist() == [float(combine(part)) for part in stacked]


@pytest.mark.parametrize("name", ["mcc", "macro_f1"])
def test_the_registered_metrics_score_stored_outcomes_and_have_an_interval(name: str) -> None:
    values = [outcome(place % 3, place % 3 if place % 4 else (place + 1) % 3, 3) for place in range(60)]
    metric = metrics.get(name)
    assert metric is not None and metric.kind == "corpus" and metric.prepare and metric.combine
    whole = metrics.aggregate(name, values)
    interval = stats.corpus_interval(metric.prepare(values), metric.combine, None)
    assert interval.value == pytest.approx(whole) and interval.low is not None and interval.high is not None
    assert interval.low < whole < interval.high


def test_documents_with_different_labels_are_an_error() -> None:
    with pytest.raises(TaskError, match="different numbers of labels"):
        cells([outcome(0, 0, 3), outcome(0, 0, 7)])


# --- the label that an answer names ---------------------------------------------------------------------------------

SENTIMENT = [r"positiiv\w*", r"neutraal\w*", r"negatiiv\w*"]


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("positiivne", 0),
        ("Neutraalne.", 1),
        ("**NEGATIIVNE**", 2),
        ("Vastus: neutraalne", 1),
        ("Meelestatus on negatiivne.", 2),
        ("Meelestatus: „negatiivne“", 2),
        ("Teksti tonaalsus on selgelt positiivne.", 0),
        ("Tekst väljendab negatiivset suhtumist.", 2),
        ("Liigitaksin selle teksti neutraalseks.", 1),
        ("Tekst on pigem negatiivne kui positiivne.", 2),
        ("Negatiivne. Alguses on küll midagi positiivset.", 2),
        ("Negatiivne\n\nPõhjendus: positiivne oleks, kui …", 2),
        ("Tekst võib olla positiivne, neutraalne või negatiivne. Vastus: negatiivne", 2),
        ("<think>Ehk positiivne?</think>Negatiivne", 2),
        ("positiivselt", 0),
    ],
)
def test_the_first_explicit_label_wins(response: str, label: int) -> None:
    assert named(response, SENTIMENT) == label


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("See ei ole positiivne, vaid negatiivne.", 2),
        ("See ei ole mitte negatiivne vaid positiivne.", 0),
        ("Ei positiivne ega negatiivne, vaid neutraalne.", 1),
        ("Meelestatus ei ole negatiivne. Meelestatus on positiivne.", 0),
        ("Meelestatus on negatiivne, mitte positiivne.", 2),
        ("Positiivne ei ole see tekst kindlasti. Negatiivne.", 2),
        ("See tekst pole eriti positiivne.", None),
        ("See tekst ei ole positiivne.", None),
    ],
)
def test_a_denied_label_is_not_an_answer(response: str, label: int | None) -> None:
    assert named(response, SENTIMENT) == label


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Ei oska öelda.",
        "positiivne, neutraalne või negatiivne",
        "Positiivne või negatiivne",
        "Teksti meelestatus jääb positiivse ja negatiivse vahele.",
        "<think>positiivne",
        "ebapositiivne",
    ],
)
def test_nothing_is_guessed(response: str) -> None:
    assert named(response, SENTIMENT) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Tekst ei ole positiivne. " * 20_000 + "Vastus: neutraalne", 1),
        ("Positiivne või negatiivne? " * 20_000, None),
        ("Vastus" + " " * 100_000 + "negatiivne", 2),
        ("vastus" + "a" * 100_000 + " x", None),
        ("positiivne" + '"' * 100_000, 0),
    ],
)
def test_a_loop_is_read_to_its_end(text: str, label: int | None) -> None:
    assert named(text, SENTIMENT) == label  # in quadratic time these take minutes


def test_a_denial_counts_near_its_label_alone() -> None:
    far = "Ma ei oska muud öelda, sest selles pikas tekstis on juttu väga paljudest asjadest ja inimestest, " + "kuid "
    assert named(f"{far}positiivne", SENTIMENT) == 0
    assert named(f"{far}ei ole eriti positiivne", SENTIMENT) is None
    assert named(f"{'x' * 200}ei positiivne", SENTIMENT) == 0  # the end of a word is no "ei"
