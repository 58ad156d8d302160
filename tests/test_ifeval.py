"""IFEval: the 25 checkers in Estonian and English, strict and loose, prompts and instructions."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ifeval_answers import ANSWERS

from estbench import metrics
from estbench.errors import TaskError
from estbench.metrics.ifeval import CHECKERS, INSTRUCTIONS, follows, variants, verdicts
from estbench.metrics.tasks import ifeval_en_results, ifeval_et_results, ifeval_inst_strict_aggregation
from estbench.registry import Registry

SAMPLES = Path(__file__).parents[1] / "tasks" / "samples"
LAUSE = "Sügisel lähevad lapsed kooli, aga kured lendavad lõunasse ja õhtud muutuvad pimedaks."
SENTENCE = "The children go to school in autumn, but the cranes fly south and the evenings grow dark."


def doc(*instructions: tuple[str, dict[str, Any]], prompt: str = "Kirjuta midagi.") -> dict[str, Any]:
    return {
        "key": 1,
        "prompt": prompt,
        "instruction_id_list": [name for name, _ in instructions],
        "kwargs": [values for _, values in instructions],
    }


EXISTENCE, FREQUENCY = "keywords:existence", "keywords:frequency"
FORBIDDEN, LETTER = "keywords:forbidden_words", "keywords:letter_frequency"
LANGUAGE, SENTENCES = "language:response_language", "length_constraints:number_sentences"
PARAGRAPHS, WORDS = "length_constraints:number_paragraphs", "length_constraints:number_words"
FIRST, PLACEHOLDERS = "length_constraints:nth_paragraph_first_word", "detectable_content:number_placeholders"
POSTSCRIPT, BULLETS = "detectable_content:postscript", "detectable_format:number_bullet_lists"
OPTIONS, HIGHLIGHTS = "detectable_format:constrained_response", "detectable_format:number_highlighted_sections"
SECTIONS, JSON = "detectable_format:multiple_sections", "detectable_format:json_format"
TITLE, TWO = "detectable_format:title", "combination:two_responses"
REPEAT, END = "combination:repeat_prompt", "startend:end_checker"
QUOTATION, CAPITAL_WORDS = "startend:quotation", "change_case:capital_word_frequency"
CAPITAL, LOWER, NO_COMMA = "change_case:english_capital", "change_case:english_lowercase", "punctuation:no_comma"

AT_LEAST, LESS = {"relation": "at least"}, {"relation": "less than"}
RABA = {"keywords": ["rabades"]}
MANY_Õ = {"letter": "õ", "let_frequency": 2, "let_relation": "at least"}
NO_Ž = {"letter": "ž", "let_frequency": 1, "let_relation": "less than"}
SECOND = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "jõhvikad"}
TWO_CAPITALS = {"capital_frequency": 2, "capital_relation": "at least"}
PS, PPS = {"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}


@pytest.mark.parametrize(
    ("name", "values", "response", "expected"),
    [
        (EXISTENCE, RABA, "Käisime RABADES.", True),
        (EXISTENCE, RABA, "Käisime rabas ja soos.", False),
        (EXISTENCE, {"keywords": ["pomm"]}, "Nad pommitasid linna.", False),
        (EXISTENCE, {"keywords": ["pomm"]}, "See oli ajapommi-aegne pomm-lask.", True),
        (EXISTENCE, {"keywords": ["öö"]}, unicodedata.normalize("NFD", "Pime öö."), True),
        (EXISTENCE, {"keywords": ["Suur Munamägi"]}, "suur\nmunamägi", True),
        (EXISTENCE, {"keywords": ["C++"]}, "Keeled on C++, Java.", True),
        (FREQUENCY, {"keyword": "pommideni", "frequency": 1, **AT_LEAST}, "Pommideni ei jõutud.", True),
        (FREQUENCY, {"keyword": "pommideni", "frequency": 2, **AT_LEAST}, "Pommideni ei jõutud.", False),
        (FREQUENCY, {"keyword": "a.b", "frequency": 1, **LESS}, "axb", True),
        (FREQUENCY, {"keyword": "sild", "frequency": 0, **AT_LEAST}, "Jõgi.", True),
        (FREQUENCY, {"keyword": "sild", "frequency": 0, **LESS}, "Jõgi.", False),
        (FORBIDDEN, {"forbidden_words": ["öö", "ööd"]}, "Ta magas terve hommiku. Töö ootas.", True),
        (FORBIDDEN, {"forbidden_words": ["öö", "ööd"]}, "Head ööd!", False),
        (FORBIDDEN, {"forbidden_words": ["öö"]}, "Öö-äär", False),
        (LETTER, MANY_Õ, "Õues on sõber.", True),
        (LETTER, MANY_Õ, "Oues on sober, öö ja töö.", False),
        (LETTER, NO_Ž, "Dzuudo ja zooloogia.", True),
        (LETTER, NO_Ž, "Žürii.", False),
        (LETTER, {"letter": "!", "let_frequency": 3, "let_relation": "at least"}, "Hei! Hei!!", True),
        (LETTER, {"letter": "š", "let_frequency": 1, "let_relation": "at least"}, "\u0053\u030cokolaad", True),
        (LANGUAGE, {"language": "et"}, LAUSE, True),
        (LANGUAGE, {"language": "et"}, LAUSE.upper(), True),
        (LANGUAGE, {"language": "et"}, SENTENCE, False),
        (LANGUAGE, {"language": "et"}, "Jah.", False),
        (LANGUAGE, {"language": "et"}, "12345", False),
        (SENTENCES, {"num_sentences": 2, **AT_LEAST}, "Sündis 24. veebruaril 1918. a. Vt lk 5.", True),
        (SENTENCES, {"num_sentences": 2, **LESS}, "24. veebruaril sündis nt. A. H. Tamm jne.", True),
        (SENTENCES, {"num_sentences": 2, **LESS}, "„Tere!“ ütles Mari. Jüri vaikis.", False),
        (PARAGRAPHS, {"num_paragraphs": 2}, "Üks.\n***\nKaks.", True),
        (PARAGRAPHS, {"num_paragraphs": 2}, "Üks.\n\nKaks.", False),
        (PARAGRAPHS, {"num_paragraphs": 2}, "Üks. *** *** Kaks.", False),
        (WORDS, {"num_words": 3, **AT_LEAST}, "Lõuna-Eesti 3,5 – „…“ !", False),
        (WORDS, {"num_words": 3, **LESS}, "Lõuna-Eesti 3,5 – „…“ !", True),
        (FIRST, SECOND, "Üks.\n\nJõhvikad, pohlad.", True),
        (FIRST, SECOND, "Üks.\n\n„Jõhvikad“ on head.", True),
        (FIRST, SECOND, "Üks.\n\nJõhvikad: punased.", True),
        (FIRST, SECOND, "Üks.\r\n\r\nJõhvikad.", True),
        (FIRST, SECOND, "Üks.\n\nJõhvikad-pohlad.", False),
        (FIRST, SECOND, "Üks.\n\nJohvikad.", False),
        (FIRST, SECOND, "Üks.\n\nJõhvikad.\n\nKolm.", False),
        (PLACEHOLDERS, {"num_placeholders": 2}, "[nimi] elab [linn]", True),
        (PLACEHOLDERS, {"num_placeholders": 3}, "[nimi] elab [linn]", False),
        (PLACEHOLDERS, {"num_placeholders": 0}, "Mari.", True),
        (POSTSCRIPT, PS, "Mari\nP.S. Too leiba.", True),
        (POSTSCRIPT, PS, "Mari\nPS: too leiba.", True),
        (POSTSCRIPT, PS, "Mari\n*P. S.* Too leiba.", True),
        (POSTSCRIPT, PS, "Mari\nP.P.S. Too leiba.", False),
        (POSTSCRIPT, PS, "Lapsed ja psühholoog, HTTPS", False),
        (POSTSCRIPT, PPS, "P.S. Üks. P.P.S. Kaks.", True),
        (POSTSCRIPT, PPS, "PPS! Kaks.", True),
        (POSTSCRIPT, PPS, "P.S. Üks.", False),
        (POSTSCRIPT, {"postscript_marker": "Lisa:"}, "lisa: too leiba", True),
        (BULLETS, {"num_bullets": 2}, "Osta:\n* leib\n  - piim\n**paks**", True),
        (BULLETS, {"num_bullets": 2}, "* leib", False),
        (OPTIONS, {}, "Minu vastus on võib-olla.", True),
        (OPTIONS, {}, "Jah.", False),
        (OPTIONS, {}, "My answer is yes.", False),
        (HIGHLIGHTS, {"num_highlights": 2}, "*üks* ja **kaks**", True),
        (HIGHLIGHTS, {"num_highlights": 2}, "* üks\n* kaks\n****", False),
        (SECTIONS, {"section_spliter": "OSA", "num_sections": 2}, "OSA 1\na\nOSA 2\nb", True),
        (SECTIONS, {"section_spliter": "OSA", "num_sections": 2}, "Osa 1\na\nOsa 2\nb", False),
        (SECTIONS, {"section_spliter": "Osa.", "num_sections": 1}, "Osad 1", False),
        (JSON, {}, '```json\n{"jõgi": "Võhandu", "km": 162}\n```', True),
        (JSON, {}, "{„jõgi“: 1}", False),
        (JSON, {}, "[" * 100_000, False),
        (TITLE, {}, "<<Jääaeg>>\nLuuletus", True),
        (TITLE, {}, "«Jääaeg» << >>", False),
        (TWO, {}, "Majakas\n******\nTuletorn", True),
        (TWO, {}, "Majakas\n******\nMajakas", False),
        (TWO, {}, "Majakas\n***\nTuletorn", False),
        (REPEAT, {"prompt_to_repeat": "Kirjuta haiku."}, "kirjuta haiku.\nLumi", True),
        (REPEAT, {"prompt_to_repeat": "Kirjuta haiku."}, "„Kirjuta haiku.“\nLumi", False),
        (END, {"end_phrase": "Kas saan veel aidata?"}, "Jah. KAS SAAN VEEL AIDATA?“", True),
        (END, {"end_phrase": "Kas saan veel aidata?"}, "Kas saan veel aidata? Head aega!", False),
        (QUOTATION, {}, "„Tere!“", True),
        (QUOTATION, {}, '"Tere!"\n', True),
        (QUOTATION, {}, "«Tere!»", True),
        (QUOTATION, {}, "„Tere!“ ütles ta.", False),
        (QUOTATION, {}, '"', False),
        (QUOTATION, {}, "'Tere!'", False),
        (CAPITAL_WORDS, TWO_CAPITALS, "EL ja NATO.", True),
        (CAPITAL_WORDS, TWO_CAPITALS, "COVID-19 ja ÕIS-LINN", True),
        (CAPITAL_WORDS, TWO_CAPITALS, "EL-i ja NATO-sse.", False),
        (CAPITAL_WORDS, TWO_CAPITALS, "A ja B, K. P., 3D.", False),
        (CAPITAL, {}, LAUSE.upper(), True),
        (CAPITAL, {}, LAUSE, False),
        (CAPITAL, {}, SENTENCE.upper(), False),
        (LOWER, {}, LAUSE.lower(), True),
        (LOWER, {}, SENTENCE.lower(), False),
        (LOWER, {}, "jah.", False),
        (NO_COMMA, {}, "Tere Mari!", True),
        (NO_COMMA, {}, "See maksab 3,5 eurot.", False),
        ("change_case:capital_letters", {}, "12 JÕGE", True),
        ("change_case:lowercase_letters", {}, "12 Jõge", False),
    ],
)
def test_a_checker_says_what_an_estonian_reader_says(
    name: str, values: dict[str, Any], response: str, expected: bool
) -> None:
    assert follows(name, values, response, language="et") is expected


def test_the_table_above_has_both_verdicts_of_all_25_types() -> None:
    (mark,) = test_a_checker_says_what_an_estonian_reader_says.pytestmark  # type: ignore[attr-defined]
    seen = {(name, expected) for name, _, _, expected in mark.args[1]}
    assert {(name, verdict) for name in INSTRUCTIONS for verdict in (True, False)} <= seen
    assert len(INSTRUCTIONS) == 25


@pytest.mark.parametrize(
    ("name", "values", "response", "expected"),
    [  # where English differs, or lm-eval needs a model that has to be downloaded
        (WORDS, {"num_words": 4, **AT_LEAST}, "well-known, don't", True),
        (POSTSCRIPT, PS, "PS: bread", False),
        (POSTSCRIPT, PS, "P.P.S. bread", True),
        (OPTIONS, {}, "My answer is maybe.", True),
        (SENTENCES, {"num_sentences": 3, **AT_LEAST}, "Dr. Smith came. He left at 5 p.m. today. Why?", True),
        (SENTENCES, {"num_sentences": 4, **AT_LEAST}, "Dr. Smith came. He left at 5 p.m. today. Why?", False),
        (CAPITAL_WORDS, TWO_CAPITALS, "NASA and ESA", True),
        (CAPITAL_WORDS, TWO_CAPITALS, "I saw A and I saw B.", False),  # lm-eval counts single letters
        (CAPITAL, {}, SENTENCE.upper(), True),
        (CAPITAL, {}, LAUSE.upper(), False),
        (LOWER, {}, SENTENCE.lower(), True),
    ],
)
def test_english_keeps_its_own_forms(name: str, values: dict[str, Any], response: str, expected: bool) -> None:
    assert follows(name, values, response, language="en") is expected


def test_the_language_that_the_prompt_names_comes_first() -> None:
    for prompt, language in [("Vastus olgu inglise keeles.", "et"), ("Answer in English.", "et")]:
        assert follows(LOWER, {}, SENTENCE.lower(), prompt=prompt, language=language)
        assert not follows(LOWER, {}, LAUSE.lower(), prompt=prompt, language=language)
    assert follows(LOWER, {}, LAUSE.lower(), prompt="Kirjuta eesti keeles inglise keelest.", language="et")


def test_options_that_the_prompt_offers_are_options() -> None:
    prompt = "Vasta: „Minu vastus on kindlasti jah.“ või „Minu vastus on ei tea.“"
    assert follows(OPTIONS, {}, "Minu vastus on kindlasti jah.", prompt=prompt, language="et")
    assert not follows(OPTIONS, {}, "Minu vastus on kindlasti jah.", language="et")


# --- rows at fault --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("keywords:existense", {}, "unknown instruction 'keywords:existense'. Did you mean 'keywords:existence'"),
        (EXISTENCE, {}, "keywords is missing"),
        (EXISTENCE, {"keywords": []}, "no list"),
        (EXISTENCE, {"keywords": "raba"}, "no list"),
        (FORBIDDEN, {"forbidden_words": ["", "öö"]}, "no text"),
        (FREQUENCY, {"keyword": "raba", "frequency": None, "relation": "at least"}, "frequency is missing"),
        (FREQUENCY, {"keyword": "raba", "frequency": 2, "relation": "at most"}, "'at most' is none of"),
        (WORDS, {"num_words": -3, "relation": "at least"}, "whole number"),
        (WORDS, {"num_words": 2.5, "relation": "at least"}, "whole number"),
        (WORDS, {"num_words": True, "relation": "at least"}, "whole number"),
        (LETTER, {"letter": "õõ", "let_frequency": 1, "let_relation": "at least"}, "no single letter"),
        (LANGUAGE, {"language": "xx"}, "'xx' can't be identified"),
        (FIRST, {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "jah"}, "no paragraph 3"),
        (POSTSCRIPT, {"postscript_marker": " "}, "no text"),
        (END, {"end_phrase": None}, "end_phrase is missing"),
    ],
)
def test_a_row_at_fault_is_an_error_and_never_a_verdict(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        follows(name, values, "Mingi vastus, milles on sõnu.", language="et")


def test_whole_floats_are_numbers() -> None:
    assert follows(PLACEHOLDERS, {"num_placeholders": 2.0}, "[a] [b]")


def test_lists_of_different_length_are_an_error() -> None:
    with pytest.raises(TaskError, match="2 instructions and 1 sets"):
        verdicts({**doc((NO_COMMA, {})), "instruction_id_list": [NO_COMMA, TITLE]}, "Jah.", language="et")


def test_arguments_are_read_in_every_shape_of_the_hub() -> None:
    filled = {"num_placeholders": 1, "keywords": None, "language": None}
    for kwargs in ([filled], [{"num_placeholders": 1}], ['{"num_placeholders": 1}'], '[{"num_placeholders": 1}]'):
        assert verdicts({**doc((PLACEHOLDERS, {})), "kwargs": kwargs}, "[nimi]", language="et").strict == [True]
    assert verdicts({**doc((NO_COMMA, {})), "kwargs": [None]}, "Jah.", language="et").strict == [True]


def test_arguments_that_are_no_json_are_an_error() -> None:
    with pytest.raises(TaskError, match="no JSON"):
        verdicts({**doc((NO_COMMA, {})), "kwargs": ["{'a': 1}"]}, "Jah.", language="et")


# --- strict, loose, prompts, instructions ---------------------------------------------------------------------------


def test_loose_forgives_a_first_line_a_last_line_and_asterisks() -> None:
    asked = doc((QUOTATION, {}), (NO_COMMA, {}))
    for response in (
        'Loomulikult, siin:\n"Tere!"',
        '"Tere!"\nEdu, Mari',
        '**"Tere!"**',
        'Siin, palun:\n*"Tere!"*\nEdu, Mari',
    ):
        found = verdicts(asked, response, language="et")
        assert found.strict[0] is False and found.loose == [True, True]
    assert verdicts(asked, 'Siin:\nPalun:\n"Tere!"', language="et").loose == [False, True]


def test_there_are_eight_variants() -> None:
    assert variants("a*\nb\nc*") == ["a*\nb\nc*", "a\nb\nc", "b\nc*", "b\nc", "a*\nb", "a\nb", "b"]
    assert len(variants("*a\n*b\nc*\n*d")) == 8
    assert variants("Jah.")[0] == "Jah."


def test_an_empty_answer_follows_nothing() -> None:
    asked = doc((NO_COMMA, {}), (FORBIDDEN, {"forbidden_words": ["öö"]}))
    for response in ("", " \n ", "<think>Hm, kas koma?", "<think>Hm</think>\n"):
        found = ifeval_et_results(asked, [response])
        assert found == {
            "ifeval_prompt_strict": 0,
            "ifeval_prompt_loose": 0,
            "ifeval_inst_strict": [0, 2],
            "ifeval_inst_loose": [0, 2],
            "parse_failure": 1,
        }


def test_reasoning_is_taken_off_once() -> None:
    asked = doc((NO_COMMA, {}), (QUOTATION, {}))
    assert verdicts(asked, '<think>üks, kaks</think>\n"Tere!"', language="et").strict == [True, True]
    assert verdicts(asked, 'üks, kaks</think>"Tere!"', language="et").strict == [True, True]
    assert verdicts(asked, "Ütlen: <think> on märgend, jah", language="et").strict == [False, False]


def test_prompts_need_all_instructions_and_instructions_are_counted_over_prompts() -> None:
    both, one = doc((NO_COMMA, {}), (TITLE, {})), doc((NO_COMMA, {}))
    rows = [ifeval_et_results(asked, ["Ilma komata."]) for asked in (both, one, one)]
    assert [row["ifeval_prompt_strict"] for row in rows] == [0, 1, 1]
    assert [row["ifeval_inst_strict"] for row in rows] == [[1, 2], [1, 1], [1, 1]]
    assert ifeval_inst_strict_aggregation([row["ifeval_inst_strict"] for row in rows]) == pytest.approx(3 / 4)
    ratio = metrics.get("ifeval_inst_strict")
    assert ratio and ratio.combine
    assert ratio.combine(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [0.75, 0.0]


def test_the_signature_names_checkers_and_language_method() -> None:
    metric = metrics.get("ifeval_inst_strict")
    assert metric and metric.signature
    assert metric.signature().startswith("ifeval|checkers:1|language:ngrams5-")


# --- relations that hold for all texts ------------------------------------------------------------------------------

TEXTS = st.text(alphabet='aäõöŽš ,.!?*\n-[]<>„“"1P', max_size=60).filter(str.strip)
THRESHOLDS = [
    (FREQUENCY, {"keyword": "a"}, "frequency", "relation"),
    (LETTER, {"letter": "õ"}, "let_frequency", "let_relation"),
    (SENTENCES, {}, "num_sentences", "relation"),
    (WORDS, {}, "num_words", "relation"),
    (CAPITAL_WORDS, {}, "capital_frequency", "capital_relation"),
]


@settings(deadline=None)
@given(TEXTS, st.integers(0, 5), st.sampled_from(THRESHOLDS), st.sampled_from(["et", "en"]))
def test_less_than_is_the_opposite_of_at_least(text: str, number: int, kind: Any, language: str) -> None:
    name, values, threshold, relation = kind
    least, less = (
        follows(name, {**values, threshold: number, relation: word}, text, language=language)
        for word in ("at least", "less than")
    )
    assert least is not less


@settings(deadline=None, max_examples=50)
@given(TEXTS, st.sampled_from([*SAMPLES.glob("*IFEval*/*/*"), *SAMPLES.glob("*ifeval*/*/*")]))
def test_loose_is_never_stricter_than_strict_and_both_are_deterministic(text: str, path: Path) -> None:
    for row in sample(path)[::3]:
        found = verdicts(row, text, language="et")
        assert all(loose or not strict for strict, loose in zip(found.strict, found.loose, strict=True))
        assert found == verdicts(row, text, language="et")


@given(TEXTS)
def test_a_keyword_that_is_there_is_not_absent(text: str) -> None:
    for word in text.split():
        there = follows(EXISTENCE, {"keywords": [word]}, text)
        assert there is not follows(FORBIDDEN, {"forbidden_words": [word]}, text)


@pytest.mark.parametrize("name", sorted(CHECKERS))
@pytest.mark.parametrize("piece", ["[", "<<a", "*", "* \n", "******", "Osa", "P.", ".", "\n\n"])
def test_looping_responses_take_no_time(name: str, piece: str) -> None:
    values: dict[str, Any] = {
        "keywords": ["a"],
        "forbidden_words": ["b"],
        "keyword": "c",
        "letter": "d",
        "language": "et",
        "section_spliter": "Osa",
        "postscript_marker": "P.S.",
        "first_word": "a",
        "nth_paragraph": 1,
        "prompt_to_repeat": "a",
        "end_phrase": "b",
        "let_relation": "at least",
        "capital_relation": "at least",
        "relation": "at least",
        "frequency": 1,
        "let_frequency": 1,
        "capital_frequency": 1,
        **dict.fromkeys(("num_words", "num_sentences", "num_paragraphs", "num_placeholders", "num_sections"), 1),
        **dict.fromkeys(("num_bullets", "num_highlights"), 1),
    }
    assert follows(name, values, piece * (8_000 // len(piece)), language="et") in (True, False)


# --- tasks, samples, chance -----------------------------------------------------------------------------------------


def sample(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def scores(rows: list[dict[str, Any]], language: str, answers: Iterator[str]) -> tuple[float, float]:
    """(instructions, prompts) followed, strict."""
    results = {"et": ifeval_et_results, "en": ifeval_en_results}[language]
    found = [results(row, [answer]) for row, answer in zip(rows, answers, strict=True)]
    counts = np.array([row["ifeval_inst_strict"] for row in found]).sum(axis=0)
    return float(counts[0] / counts[1]), float(np.mean([row["ifeval_prompt_strict"] for row in found]))


CONSTANT = ["Ma ei tea.", "I don't know.", "A", '"ma ei tea sellele küsimusele vastust."']


@pytest.mark.parametrize(
    ("task", "path", "language"),
    [
        ("ifeval_et", "tartuNLP__ifeval_et/default/test.jsonl", "et"),
        ("ifeval_en", "google__IFEval/default/train.jsonl", "en"),
    ],
)
def test_the_sample_has_all_types_and_gives_nothing_away(task: str, path: str, language: str) -> None:
    rows = sample(SAMPLES / path)
    assert len(rows) >= 25 and len({row["key"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows)
    assert {name for row in rows for name in row["instruction_id_list"]} == set(INSTRUCTIONS)
    assert any(len(row["kwargs"]) > 1 for row in rows)
    chance = Registry().task(task).chance
    assert chance is not None
    for constant in CONSTANT:
        assert scores(rows, language, iter([constant] * len(rows)))[0] <= chance + 0.1
    assert scores(rows, language, (row["prompt"] for row in rows))[0] <= chance + 0.1


def test_chance_is_what_repeating_the_request_scores(mirror: Path) -> None:
    rows = sample(mirror / "google__IFEval/default/train.jsonl")
    assert len(rows) == 541 and sum(len(row["kwargs"]) for row in rows) == 834
    copied = scores(rows, "en", (row["prompt"] for row in rows))
    assert copied == pytest.approx((0.36, 0.248), abs=0.005)
    assert {Registry().task(name).chance for name in ("ifeval_en", "ifeval_et")} == {0.36}
    assert scores(rows, "en", iter(["I don't know."] * 541))[0] == pytest.approx(0.23, abs=0.005)


def test_answers_by_hand_score_full() -> None:
    """A model that follows every instruction of the sample gets everything: the rows can be followed."""
    rows = sample(SAMPLES / "tartuNLP__ifeval_et/default/test.jsonl")
    for row, answer in zip(rows, ANSWERS, strict=True):
        found = verdicts(row, answer, language="et")
        assert all(found.strict), (row["prompt"], found.strict)
