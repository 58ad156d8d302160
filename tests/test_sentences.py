"""Sentences and words: abbreviations, ordinals, initials, quotation marks, lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.estonian.sentences import sentences, words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Sündis 24. veebruaril 1918. a. Vt lk 5. Tere!", 2 + 1),
        ("Eesti Vabariik kuulutati välja 24. veebruaril 1918. Pidu oli suur.", 2),
        ("Ostsin leiba, piima jne. Siis läksin koju.", 2),
        ("Ostsin nt. Kalevi šokolaadi, s.t. magusat, ja saatsin prof. Tammele.", 1),
        ("Vt lk. 12 ja ptk. 3, nr. 4.", 1),
        ("Kohtusin K. Pätsi ja A. H. Tammsaarega. Tore!", 2),
        ("Karl XII. ajal oli sõda. Peeter I. aga võitis.", 2),
        ("See maksab 3,5 eurot. Kell on 12.30. Hind tõusis 2.5 korda.", 3),
        ("„Tule siia!“ hüüdis ta. „Miks?“ küsis Mari.", 2),
        ("Ta ütles: „Ma tulen.“ Siis ta läks.", 2),
        ("(Ta lahkus kohe.) Keegi ei teadnud sellest.", 2),
        ("Tere... Kas sa tuled? Jah!!! Ei…", 4),
        ("Ja siis… ei midagi.", 1),
        ("Linnas elab 5 km. Siis tuli mets.", 2),
        ("Eesti kuulub EL. Nii on.", 2),
        ("Osta:\n- leib\n- piim\n* juust", 4),
        ("1. Esimene samm.\n2. Teine samm.", 2),
        ("24. veebruar on pidupäev.", 1),
        ("# Pealkiri\nSee lause\njätkub real.", 2),
        ("Pealkiri ilma punktita\n\nSee on lause.", 2),
        ("Sõin **kooki.** Oli hea.", 2),
        ("", 0),
        ("***\n---\n…", 0),
        ("U.S. President Carter met Dr. Smith. They talked, e.g. about tea.", 2),
        ("So do I. You know it.", 2),
    ],
)
def test_sentences_end_where_a_reader_says(text: str, count: int) -> None:
    assert len(sentences(text)) == count, sentences(text)


def test_sentences_keep_their_text() -> None:
    assert sentences(" „Kas tõesti?“ Jah.  \n\n Lõpp ") == ["„Kas tõesti?“", "Jah.", "Lõpp"]
    assert sentences("24. veebruar on pidupäev.") == ["24. veebruar on pidupäev."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lõuna-Eesti on kaunis.", ["Lõuna-Eesti", "on", "kaunis"]),
        ("3,5 km, 12.30 ja 1:2", ["3,5", "km", "12.30", "ja", "1:2"]),
        ("NATO-sse, Bordeaux'sse, don't", ["NATO-sse", "Bordeaux'sse", "don't"]),
        ("ja/või — „jah“ … !", ["ja", "või", "jah"]),
        ("sõna,sõna.Sõna", ["sõna", "sõna", "Sõna"]),
        ("[nimi] ____ *rõhk*", ["nimi", "rõhk"]),
        ("öö-\ntöö", ["öö", "töö"]),
    ],
)
def test_words_are_not_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.lists(st.sampled_from(["Mari läks koju.", "Kas sadas?", "Õu oli märg!", "„Ära mine!“"]), max_size=8))
def test_plain_sentences_are_counted_exactly(parts: list[str]) -> None:
    assert sentences(" ".join(parts)) == parts


@settings(deadline=None)
@given(st.text(max_size=80))
def test_no_text_breaks_it_and_no_word_is_lost(text: str) -> None:
    found = sentences(text)
    assert all(found)
    assert all(sentence == sentence.strip() for sentence in found)
    assert len(words(text)) <= len(text)


def test_a_long_text_is_fast() -> None:
    assert len(sentences("Sadas vihma. " * 20_000)) == 20_000
    assert len(sentences("." * 100_000)) == 0
    assert len(sentences("!?" * 100_000 + "x")) == 1
    assert len(sentences("1.a" * 50_000)) == 1


def test_single_sentences_of_news_stay_whole(mirror: Path) -> None:
    """Most rows of FLORES hold one sentence; splitting at every dot and space makes far more of them."""
    path = mirror / "facebook__flores/est_Latn-eng_Latn/devtest.jsonl"
    rows = [json.loads(line)["sentence_est_Latn"] for line in path.read_text("utf-8").split("\n") if line]
    whole = sum(len(sentences(row)) == 1 for row in rows)
    assert whole / len(rows) > 0.85
    naive = sum(row.strip().count(". ") == 0 for row in rows)
    assert whole > naive
