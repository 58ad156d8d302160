"""Estonian text: comparison form, answers read out of responses, projected tokens."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.estonian.normalise import answer_text, normalise, sentence_text, without_thinking
from estbench.estonian.tokeniser import project_tokens

ESTONIAN = st.text(alphabet="abcdõäöüšžÕÄÖÜŠŽ 0123456789.,-–„“\"'’%!? \u00a0", max_size=40)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tartu", "  TARTU. "),
        ("„Kevade“", '"Kevade"'),
        ("Lõuna–Eesti", "lõuna-eesti"),
        ("3,5 km", "3.5 km"),
        ("1\u00a0234,5", "1234.5"),
        ("1 234 567", "1234567"),
        ("1939–1945", "1939-1945"),
        ("−5 kraadi", "-5 kraadi"),
        (unicodedata.normalize("NFD", "öö"), "öö"),
        ("ŠOKOLAAD ja ŽELEE", "šokolaad ja želee"),
        ("19. sajand", "19 sajand"),
        ("maja\u00ad", "maja"),
        ("Ultimate'i", "Ultimate’i"),
    ],
)
def test_what_only_looks_different_is_equal(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("täis", "tais"),
        ("sõna", "sona"),
        ("šokk", "sokk"),
        ("õ", "ö"),
        ("3,5", "35"),
        ("5", "-5"),
        ("2018 a", "2018"),
        ("maja", "majja"),
        ("2018 100", "2018100"),
    ],
)
def test_what_differs_stays_different(one: str, other: str) -> None:
    """Negative control: stripping diacritics, points in numbers or an article "a" would make one of these equal."""
    assert normalise(one) != normalise(other)


@given(ESTONIAN)
def test_normalising_twice_changes_nothing(text: str) -> None:
    text = text.translate(str.maketrans("0123456789", "abcdefghij"))  # "0, 000" would become 0 000 and then 0000
    assert normalise(normalise(text)) == normalise(text)


@given(ESTONIAN)
def test_no_letter_is_lost(text: str) -> None:
    letters = [sign for sign in unicodedata.normalize("NFC", text).casefold() if sign.isalnum()]
    assert [sign for sign in normalise(text) if sign.isalnum()] == letters


def test_punctuation_that_is_all_there_is_stays() -> None:
    assert normalise("?") == "?"
    assert normalise("  ") == ""


@pytest.mark.parametrize(
    ("response", "left"),
    [
        ("<think>A või B? Vastus: A</think>\n\nB", "B"),
        ("mõtlen … Vastus: A</think>B", "B"),  # opened by the template
        ("<think>mõtlen ja mõtlen", ""),
        ("<think></think>B <think>jääb</think>", "B <think>jääb</think>"),
        ("Silt <think> tähendab mõtlemist</think>.", "Silt <think> tähendab mõtlemist</think>."),
        ("B", "B"),
    ],
)
def test_reasoning_is_removed_once_and_correctly(response: str, left: str) -> None:
    assert without_thinking(response) == left


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Tartu", "Tartu"),
        ("Vastus: Tartu", "Tartu"),
        ("**Vastus:** Tartu", "Tartu"),
        ("**Vastus: Tartu**", "Tartu"),
        ("Vastus:\n\nTartu\n\nSelgitus: nii on.", "Tartu"),
        ("Õige vastus on Tartu.", "Tartu."),
        ("„Tartu“", "Tartu"),
        ("```\nTartu\n```", "Tartu"),
        ("<think>Tallinn?</think>Tartu", "Tartu"),
        ("Answer: Tartu", "Tartu"),
        ("Vastuseta", "Vastuseta"),
        ("", ""),
        ("**", ""),
    ],
)
def test_a_short_answer_is_read_out_of_the_response(response: str, answer: str) -> None:
    assert answer_text(response) == answer


@pytest.mark.parametrize(
    ("response", "source", "sentence"),
    [
        ("Tõlge: See on maja.", "This is a house.", "See on maja."),
        ("Siin on tõlge:\n\n„See on maja.“", "This is a house.", "See on maja."),
        ("„See on maja,“ ütles ta.", "x", "„See on maja,“ ütles ta."),
        ("„See on maja.“", "“This is a house.”", "„See on maja.“"),
        ("Tõlge: hea.", "Tõlge : halb .", "Tõlge: hea."),
        ("Esimene lause.\nTeine lause.", "One. Two.", "Esimene lause. Teine lause."),
        ("", "One.", ""),
    ],
)
def test_a_sentence_is_read_out_of_the_response(response: str, source: str, sentence: str) -> None:
    assert sentence_text(response, source, ("tõlge",)) == sentence


def glued(tokens: list[str]) -> str:
    """Running text: no space before a closing sign."""
    text = ""
    for token in tokens:
        text += token if token in {".", ",", "?", "!", ":"} or not text else f" {token}"
    return text


@given(
    st.lists(
        st.sampled_from(["Ta", "läks", "koju", ",", ".", "10.", "6-7", "NATO-sse", "3,5", "!", "...", "nt"]), min_size=1
    )
)
def test_the_source_itself_gives_its_own_tokens(tokens: list[str]) -> None:
    assert project_tokens(" ".join(tokens), tokens) == tokens


def test_running_text_is_cut_like_the_source() -> None:
    source = ["Ta", "ütles", "6-7", ",", "et", "10", "."]
    assert project_tokens("Ta ütles 6-7, et 10.", source) == source
    assert project_tokens("Ta ütles 6-7, et 10 .", source) == source


@pytest.mark.parametrize(
    ("text", "source", "tokens"),
    [
        ("Mul on abi vaja.", "Mulle vaja appi .", "Mul on abi vaja ."),
        ("Ta elab koolimajas.", "Ta elab kooli majas .", "Ta elab koolimajas ."),  # a correction: stays together
        ("Ta ütles: „Tule!“", "Ta ütles tule", 'Ta ütles : " Tule ! "'),
        ("Sõitsin Lõuna-Eestisse 24. veebruaril.", "Sõitsin lõunasse", "Sõitsin Lõuna-Eestisse 24. veebruaril ."),
        ("See maksab 3,5 eurot.", "Maksab", "See maksab 3,5 eurot ."),
        ("", "Ta läks", ""),
    ],
)
def test_changed_text_is_cut_by_common_rules(text: str, source: str, tokens: str) -> None:
    assert project_tokens(text, source.split()) == tokens.split()


@given(ESTONIAN, st.lists(st.sampled_from(["Ta", "on", ",", ".", "10."]), max_size=6))
def test_tokens_hold_all_signs_of_the_text(text: str, source: list[str]) -> None:
    plain = text.translate(str.maketrans({"„": '"', "“": '"', "’": "'"}))
    assert "".join(project_tokens(text, source)) == "".join(plain.split())
