"""Short answers: exact match, token F1, lemma F1, SQuAD's own metrics, gold in all its shapes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench import metrics
from estbench.errors import MissingPartError, TaskError
from estbench.estonian import lemmas
from estbench.metrics.qa import (
    contains,
    exact_match,
    gold_answers,
    lemma_f1,
    squad_exact_match,
    squad_f1,
    token_f1,
)
from estbench.metrics.tasks import estonian_qa_results, exact_results, qa_results, squad_results

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


# --- a gold answer inside a sentence --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Järve suurim sügavus on kuus ehk 6 meetrit.", 1),
        ("Sügavus on **6 meetrit**!", 1),
        ("Sügavus on 16 meetrit.", 0),  # words, not substrings
        ("6 ruutmeetrit", 0),
        ("meetrit 6", 0),
        ("", 0),
    ],
)
def test_contains_finds_a_gold_answer_word_by_word(text: str, found: int) -> None:
    assert contains(text, ["6 meetrit", "kuus meetrit"]) == found


# --- lemma F1 -------------------------------------------------------------------------------------------------------

READINGS = {
    "tartus": {"tartu"},
    "tartu": {"tartu"},
    "eesti": {"eesti"},
    "presidendi": {"president"},
    "kuue": {"kuus", "kuub"},  # "of six", "of a coat"
    "kuued": {"kuub"},
    "kuus": {"kuus", "kuu"},  # "six", "in a month"
    "kuuks": {"kuu"},
}


def readings(word: str) -> frozenset[str]:
    return frozenset({word, *READINGS.get(word, set())})


def test_an_inflected_answer_has_full_lemma_f1_and_no_token_f1() -> None:
    assert (exact_match("Tartus", ["Tartu"]), token_f1("Tartus", ["Tartu"])) == (0, 0.0)
    assert lemma_f1("Tartus.", ["Tartu"], readings) == 1
    assert lemma_f1("Eesti presidendi", ["Eesti president"], readings) == 1
    assert lemma_f1("Eesti", ["Eesti president"], readings) == pytest.approx(2 / 3)


def test_any_reading_of_an_ambiguous_word_counts_but_each_word_once() -> None:
    assert lemma_f1("kuue", ["kuued"], readings) == lemma_f1("kuue", ["kuus"], readings) == 1
    assert lemma_f1("kuued", ["kuus"], readings) == 0
    assert lemma_f1("kuue kuue", ["kuus"], readings) == pytest.approx(2 / 3)


def test_words_are_paired_so_that_most_pairs_come_about() -> None:
    """Whoever takes the first fitting word gives "kuue" to "kuus" and leaves "kuued" alone."""
    assert lemma_f1("kuue kuuks", ["kuus kuued"], readings) == 1


def test_compounds_written_apart_are_right() -> None:
    assert lemma_f1("rahva arv", ["rahvaarv"], readings) == 1
    assert lemma_f1("rahvaarv", ["rahva arv"], readings) == 1
    assert lemma_f1("rahva arvu", ["rahvaarv"], readings) == 0
    assert exact_match("rahva arv", ["rahvaarv"]) == 0


def test_an_empty_answer_has_no_lemma_f1() -> None:
    assert lemma_f1("", ["Tartu"], readings) == 0


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_lemma_f1_is_at_least_token_f1_and_equal_without_lemmas(answer: str, golds: list[str]) -> None:
    joined = {"".join(gold.split()) for gold in golds}
    plain = lemma_f1(answer, golds, lambda word: frozenset({word}))
    assert lemma_f1(answer, golds, readings) >= token_f1(answer, golds)
    assert plain == (1.0 if "".join(answer.split()) in joined else pytest.approx(token_f1(answer, golds)))


@pytest.mark.parametrize("installed", [True, False])
def test_without_the_analyser_lemma_f1_is_missing_and_not_zero(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lemmas, "installed", lambda: installed)
    monkeypatch.setattr(lemmas, "readings", readings)
    values = estonian_qa_results({"answers": {"text": ["Tartu"], "answer_start": [0]}}, ["Vastus: Tartus."])
    expected = {"em": 0, "f1": 0.0, "contains": 0, "parse_failure": 0}
    assert values == (expected | {"lemma_f1": 1.0} if installed else expected)
    metric = metrics.get("lemma_f1")
    assert metric is not None and "estbench[estonian]" in metric.missing


def test_a_chatty_answer_contains_the_gold_one() -> None:
    values = estonian_qa_results({"answers": ["Emajõgi"]}, ["Hea küsimus!\n\nJärvest voolab välja Emajõgi."])
    assert (values["em"], values["f1"], values["contains"]) == (0, 0.0, 1)
    thought = estonian_qa_results({"answers": ["Emajõgi"]}, ["<think>Emajõgi?</think>Ei tea."])
    assert (thought["contains"], thought["parse_failure"]) == (0, 0)


def test_a_lemma_without_the_analyser_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lemmas, "installed", lambda: False)
    lemmas._vabamorf.cache_clear()
    with pytest.raises(MissingPartError, match=r"pip install 'estbench\[estonian\]'"):
        lemmas.readings.__wrapped__("tartus")


@pytest.mark.slow
def test_vabamorf_knows_the_lemmas() -> None:
    pytest.importorskip("estnltk")
    pairs = [
        *[("Tartus", "Tartu"), ("Venemaast", "Venemaa"), ("presidendile", "president"), ("öös", "öö")],
        *[("majja", "maja"), ("majasse", "maja"), ("NATO-sse", "NATO"), ("šokolaadiga", "šokolaad")],
        *[("kuuest", "kuus"), ("Lõuna-Eestis", "Lõuna-Eesti"), ("1 234,5", "1234,5"), ("olid", "olema")],
    ]
    assert [pair for pair in pairs if lemma_f1(pair[0], [pair[1]], lemmas.readings) != 1] == []
    different = [("kolmkümmend", "30"), ("täis", "tais"), ("sõna", "sõnn"), ("Tartus", "Tallinn")]
    assert [pair for pair in different if lemma_f1(pair[0], [pair[1]], lemmas.readings)] == []
    assert lemmas.readings("kuue") >= {"kuus", "kuub"}


# --- SQuAD's own, for English -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "em", "f1"),
    [  # worked out from SQuAD's definition: lower case, punctuation out, articles out, spaces
        ("The Danube.", "Danube", 1, 1.0),
        ("an ice-cream", "icecream", 1, 1.0),  # a hyphen is punctuation, and nothing takes its place
        ("U.S.A.", "usa", 1, 1.0),
        ("2.5 million", "25 million", 1, 1.0),
        ("a", "the", 1, 0.0),  # both are nothing; no token is shared
        ("the river Narva", "Narva river", 0, 1.0),
        ("in the city of Tartu", "Tartu", 0, 0.4),
        ("anthem", "them", 0, 0.0),
        ("Old Thomas", "Old Toomas", 0, 0.5),
        ("very very old", "very old", 0, 0.8),
        ("", "Tartu", 0, 0.0),
        ("“Tartu”", "Tartu", 0, 0.0),  # only ASCII punctuation goes
    ],
)
def test_squad_metrics_are_those_of_the_definition(answer: str, gold: str, em: int, f1: float) -> None:
    assert squad_exact_match(answer, [gold]) == em
    assert squad_f1(answer, [gold]) == pytest.approx(f1)


def test_squad_takes_the_best_gold_answer() -> None:
    doc = {"answers": {"text": ["the Gothic style", "Gothic"], "answer_start": [1, 5]}}
    assert squad_results(doc, ["Answer: Gothic"]) == {"squad_em": 1, "squad_f1": 1.0, "parse_failure": 0}
    assert squad_results(doc, ["Gothic architecture"])["squad_f1"] == pytest.approx(2 / 3)
    assert squad_results(doc, ["  "]) == {"squad_em": 0, "squad_f1": 0.0, "parse_failure": 1}
