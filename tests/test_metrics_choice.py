"""The letter of a generated answer, what log-likelihoods say, and a liking for letters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.errors import TaskError
from estbench.metrics import aggregate, get
from estbench.metrics.choice import LETTERS, ORDINALS, chosen, letter_counts, margin, order_answer, scores
from estbench.metrics.tasks import belebele_letter_results, choice_answer_results, xcopa_letter_results
from estbench.stats import corpus_interval

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
        "b) Ta jäi tööle.",
        "Vastus: b) Ta jäi tööle.",
        "Vastus: b – Ta jäi tööle.",
        "Vastus:\n\nB",
        "Vastus: **B. Ta jäi tööle.**",
        "Õige on variant (B).",
        "Õige on variant (B), mitte (A).",
        "Valin B, sest A on vale.",
        "Variandid A ja C on valed, õige on B.",
        "B sobib kõige paremini.",
        "Vastuseks valin variandi B.",
        "Õige vastus on number 2.",
        "2. variant",
        "2. Ta jäi tööle.",
        "Valik 2, sest ülejäänud ei sobi.",
        "Vastus: 2\nSelgitus: nii on tekstis.",
        "Õige on teine vastus.",
        "Vastus: Ta jäi tööle, sest töö oli pooleli.",
        "Vastus: ta jäi tööle (vt teksti lõppu)",
        "Lõplik vastus: B",
        "Vale vastus on A, õige on B.",
        "Vastus: B. Ei ole teisi sobivaid variante.",
        "Vastus: B. Pole kahtlustki.",
        "Vastus: B\n\nEi ole A, sest tekst räägib muust.",
        "Vastus: B\nEi sobi ükski teine.",
        "Õige vastus on B. Ei A ega C sobi.",
        "Õige vastus: B. Ei, tegelikult A.",  # the first explicit one
        "Teine",
        "teine.",
        "**Teine**",
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
        "A ja B",
        "A ja B on mõlemad õiged",
        "Nii A kui ka B",
        "Vastus: a või b",
        "Vastus: a) või b)",
        "Vastus: 1 või 2",
        "Vastus: esimene või teine",
        "variant A või variant B",
        "(A) ja (B)",
        "Õiged on A ja B.",
        "Vastused: A, C",
        "C on vale, D on vale, A on vale.",
        "Vastus: ei ole B",
        "Kõik variandid on õiged.",
        "E-riik on edukas.",
        "Ei oska öelda, a pole kindel.",
        "Vastus: 2 korda",
        "Vastus: 2. sajand",
        "Vastus: 2,5",
        "Vastus: 2 %",
        "Vastus: 2. Ta magas.",  # number and text contradict each other
        "Õige vastus on teine maailmasõda.",
        "Ebaõige vastus on B.",
        "Vastus A on vale.",
        "Vastus: „B“ ei ole õige.",
        "Vastus (B) pole õige.",
        "Viies",
        "Teine maailmasõda",
        "Ta jäigi tööle",
        "Tööle",
    ],
)
def test_no_answer_is_none_and_never_a_guess(response: str) -> None:
    assert chosen(response, OPTIONS) is None


def test_letters_beyond_the_options_are_no_answer() -> None:
    assert chosen("Vastus: C", OPTIONS[:2]) is None
    assert chosen("Vastus: C", OPTIONS) == 2


PHRASES = [
    *(
        "Vastus: {}",
        "vastus: {}",
        "Vastus on {}.",
        "Õige vastus on {}.",
        "{}",
        "({})",
        "{})",
        "Variant {}",
        "{}-variant",
    ),
    *(
        "**{}**",
        "**Vastus:** {}",
        "Vastus: **{}**",
        "Vastus: ({})",
        "Õige on variant {}.",
        "Valin {}.",
        "Valin variandi {}.",
    ),
    *(
        "Lõplik vastus: {}",
        "<think>Ehk A? Või B.</think>\n\nVastus: {}",
        "{}\n\nSelgitus: nii see on.",
        "\\boxed{{{}}}",
    ),
]


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("many", [2, 4, 5, 15])
def test_every_letter_in_every_phrase(phrase: str, many: int) -> None:
    options = [f"väide nr {number}" for number in range(1, many + 1)]
    found = [chosen(phrase.format(letter), options) for letter in LETTERS[:many]]
    assert found == list(range(many))
    assert many == 15 or chosen(phrase.format(LETTERS[many]), options) in (None, *([0] if "Ehk A" in phrase else []))


@settings(max_examples=40)
@given(st.integers(2, 15), st.data())
def test_a_rendered_answer_is_found_whatever_follows(many: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, many - 1))
    reason = data.draw(
        st.sampled_from(["", ".", " (kindel)", "\nSelgitus: A ja B on valed.", ", sest muu ei sobi.", "\n\nVastus: A"])
    )
    options = [f"väide nr {number}" for number in range(1, many + 1)]
    for answer in (LETTERS[place], ORDINALS[place], str(place + 1), options[place]):
        assert chosen(f"Vastus: {answer}{reason}", options) == place, (answer, reason)


def test_options_that_are_names_with_initials_are_names() -> None:
    authors = ["F. R. Kreutzwald", "Fr. Tuglas", "A. H. Tammsaare", "E. Vilde", "J. Liiv", "B. Kangro"]
    for answer in (
        "A. H. Tammsaare",
        "Vastus: A. H. Tammsaare",
        "C. A. H. Tammsaare",
        "Vastus: C",
        "(C) A. H. Tammsaare",
    ):
        assert chosen(answer, authors) == 2, answer
    assert chosen("D. E. Vilde", authors) == chosen("Õige vastus on E. Vilde.", authors) == 3
    assert chosen("E. Vilde kirjutas selle.", authors) is None  # not E, and not said as an answer either


def test_options_that_are_numbers_or_differ_by_a_comma_are_read_as_they_are() -> None:
    numbers = ["3", "1", "2", "12"]
    assert [chosen(answer, numbers) for answer in ("2", "Vastus: 12", "B", "Vastus: 1")] == [2, 3, 1, 1]
    commas = ["Ma tean, et ta tuleb.", "Ma tean et, ta tuleb.", "Ma tean et ta tuleb."]
    assert [chosen(f"Vastus: {text}", commas) for text in commas] == [0, 1, 2]
    assert chosen("Ma tean et ta tuleb", commas) is None  # without its full stop it is any of them


def test_roman_one_is_a_number_and_the_ninth_letter_a_letter() -> None:
    options = [f"väide nr {number}" for number in range(1, 16)]
    assert chosen("I", options) == chosen("Vastus: I", options) == 8
    assert chosen("I maailmasõda", options) is chosen("Vastus: I maailmasõda", options) is None


def test_inflected_options_are_not_guessed() -> None:
    towns = ["Tallinn", "Tartu", "Tallinn ja Tartu"]
    assert (
        chosen("Tallinnas", towns) is chosen("Vastus: Tallinnas", towns) is chosen("Tallinn või Tartu", towns) is None
    )
    assert chosen("Vastus: Tallinn ja Tartu", towns) == 2 and chosen("Vastus: Tartu", towns) == 1


def test_a_bare_ordinal_is_an_answer_unless_it_is_an_options_text() -> None:
    assert [chosen(answer, OPTIONS) for answer in ("Esimene.", "TEINE", "kolmas", "„Neljas“")] == [0, 1, 2, 3]
    assert chosen("Kolmas", OPTIONS[:2]) is None
    assert chosen("Esimene", ["teine", "esimene"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "vastus on" + " " * 20_000 + "x",
        "vastus on" + "\n" * 20_000 + "x",
        "vastus on" + " *" * 20_000 + "x",
        "vastus on " + "E. Vilde " * 20_000 + "x",
        "\\boxed{" + " " * 20_000,
        "1" * 20_000 + ". x",
    ],
)
def test_runs_of_spaces_and_digits_end_as_no_answer(text: str) -> None:
    assert chosen(text, ["E. Vilde", "J. Liiv"]) is None  # on such runs a pattern in cubic time takes hours


def test_a_long_answer_is_read_to_its_end() -> None:
    text = "A on vale. B ei sobi. Ta arutleb edasi ja edasi. " * 5000
    assert chosen(text + "Vastus: C", OPTIONS) == 2  # in quadratic time this takes minutes, in cubic time days


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
    belebele = {f"mc_answer{number}": text for number, text in enumerate(OPTIONS, 1)}
    belebele |= {"question": "Mida ta tegi?", "correct_answer_num": "3"}
    assert [belebele_letter_results(belebele, [letter])["acc"] for letter in "ABCD"] == [0, 0, 1, 0]
    with pytest.raises(TaskError, match="gold answer"):
        belebele_letter_results(belebele | {"correct_answer_num": "5"}, ["A"])


def test_the_margin_is_positive_exactly_when_gold_wins() -> None:
    assert margin([-3.0, -1.0, -2.0], 1) == 1.0
    assert margin([-3.0, -1.0, -2.0], 0) == -2.0


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-500, -0.01), st.text("aõš b", min_size=1, max_size=9)), min_size=2, max_size=6),
    st.data(),
)
def test_scores_are_the_largest_by_sum_character_and_byte(pairs: list[tuple[float, str]], data: st.DataObject) -> None:
    values, options = [value for value, _ in pairs], [text for _, text in pairs]
    gold = data.draw(st.integers(0, len(pairs) - 1))
    found = scores(values, options, gold)
    assert found["acc"] == (np.argmax(values) == gold)
    assert found["acc_norm"] == (np.argmax(np.array(values) / [len(text) for text in options]) == gold)
    assert found["acc_bytes"] == (np.argmax(np.array(values) / [len(text.encode()) for text in options]) == gold)
    assert found["margin"] == margin(values, gold)


def test_characters_and_bytes_can_disagree() -> None:
    assert scores([-6.0, -6.9], ["õõõ", "abcd"], 0) == {
        "acc": 1,
        "acc_norm": 0,
        "acc_bytes": 1,
        "margin": pytest.approx(0.9),
    }


def test_rstd_is_the_spread_of_the_letters_recalls() -> None:
    def rstd(pairs: list[tuple[int | None, int]], many: int = 4) -> float:
        return aggregate("rstd", [letter_counts(answer, gold, many) for answer, gold in pairs])

    assert rstd([(0, 0), (1, 1), (2, 2), (3, 3)]) == 0.0
    assert rstd([(0, 0), (0, 1), (0, 2), (0, 3)]) == pytest.approx(np.std([1, 0, 0, 0]))
    assert rstd([(0, 0), (None, 0), (1, 1)]) == pytest.approx(np.std([0.5, 1]))  # C and D are never gold
    assert letter_counts(None, 1, 2) == [0, 1, 0, 0] and letter_counts(1, 1, 2) == [0, 1, 0, 1]
    assert get("rstd") is not None and not get("rstd").higher_is_better  # type: ignore[union-attr]


def test_rstd_takes_documents_with_different_numbers_of_options() -> None:
    metric = get("rstd")
    assert metric is not None and metric.prepare is not None
    values = [letter_counts(0, 0, 2), letter_counts(0, 1, 2), letter_counts(3, 3, 4), letter_counts(2, 1, 4)]
    assert metric.prepare(values).tolist() == [
        [1, 0, 0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert aggregate("rstd", values) == pytest.approx(np.std([1, 0, 1]))  # A, B and D
    assert aggregate("rstd", values[:2]) == pytest.approx(np.std([1, 0]))


def test_consistency_is_the_share_of_questions_with_the_same_answer_in_both_orders() -> None:
    def asked(question: str, first: int | None, second: int | None) -> list[list[int]]:
        return [order_answer(question, ["kass", "koer"], first), order_answer(question, ["koer", "kass"], second)]

    same, other, silent = asked("1", 0, 1), asked("2", 0, 0), asked("3", 1, None)
    assert aggregate("consistency", same) == 1.0 and aggregate("consistency", other) == 0.0
    assert aggregate("consistency", asked("4", None, None)) == 0.0  # no answer twice is no answer
    assert aggregate("consistency", [*same, *other, *silent]) == pytest.approx(1 / 3)
    assert aggregate("consistency", [*same, other[0]]) == 1.0  # half a pair says nothing
    assert np.isnan(aggregate("consistency", [same[0], other[0]]))


def test_bias_metrics_get_intervals_and_sums_of_no_pair_do_not_break_them() -> None:
    metric = get("consistency")
    assert metric is not None and metric.prepare is not None and metric.combine is not None
    values = [order_answer(str(number), ["a", "b"], place) for number in range(20) for place in (0, number % 2)]
    values += [order_answer(str(number), ["a", "b"], 0) for number in range(100, 160)]  # half pairs, as a slice has
    clusters = [value[0] for value in values]
    interval = corpus_interval(metric.prepare(values), metric.combine, clusters)
    assert interval.value == 0.5 and interval.low is not None and interval.high is not None
    assert interval.low < 0.5 < interval.high
