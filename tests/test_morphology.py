"""Inflected forms: what counts as right, how a form is read out of an answer, and the items made from UniMorph."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from estbench.errors import TaskError
from estbench.metrics.morphology import CASES, ITEMS_PER_CELL, inflected_form, is_form, parallel_forms, unimorph_rows
from estbench.metrics.tasks import inflection_results, unimorph_results, word_meaning_results
from estbench.runs import Sample
from estbench.scoring import score_task

SAMPLE = Path(__file__).parents[1] / "tasks" / "samples" / "unimorph__est" / "est.tsv"


MORE = {  # the principal forms of further nouns, as UniMorph has them
    "hobune": "hobune hobuse hobust hobusesse hobused hobuste hobuseid",
    "raamat": "raamat raamatu raamatut raamatusse raamatud raamatute raamatuid",
    "öö": "öö öö ööd öösse ööd ööde öid",
    "uba": "uba oa uba uppaoasse oad ubade ubeubasid",
    "õpilane": "õpilane õpilase õpilast õpilasse õpilased õpilaste õpilasi",
}
PRINCIPAL = ("NOM;SG", "GEN;SG", "PRT;SG", "IN+ALL;SG", "NOM;PL", "GEN;PL", "PRT;PL")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return unimorph_rows({"est.tsv": SAMPLE.read_text("utf-8")})


def answers(rows: list[dict[str, Any]], lemma: str, cell: str) -> list[str]:
    (row,) = [row for row in rows if row["lemma"] == lemma and f"{row['number']} {row['case']}" == cell]
    return list(row["answers"])


# --- what is right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["majja", "majasse", "Majja.", "majasse või majja", "„majja“", "majja / majasse"])
def test_every_parallel_form_is_right(form: str) -> None:
    assert is_form(form, ["majja", "majasse"])


@pytest.mark.parametrize("form", ["maja", "majas", "majja või majas", "majja, maja, majasse", "", "majjja"])
def test_other_forms_and_hedging_are_wrong(form: str) -> None:
    assert not is_form(form, ["majja", "majasse"])


@pytest.mark.parametrize(
    ("gold", "wrong"),
    [
        ("Lõuna-Eestisse", "LõunaEestisse"),
        ("Wall Street'i", "Wall Streeti"),
        ("uut 3D-printerit", "uut 2D-printerit"),
        ("šokki", "shokki"),
        ("Žanna", "Zanna"),
        ("õuele", "ouele"),
        ("1. klassi", "2. klassi"),
        ("sisse ja välja", "sisse"),
    ],
)
def test_hyphens_apostrophes_digits_and_letters_count(gold: str, wrong: str) -> None:
    for form in (gold, gold.upper(), f"Vastus: {gold}", f"**{gold}**.", gold.replace("'", "’").replace("-", "‑")):
        assert is_form(form, [gold]), form
    assert not is_form(wrong, [gold])


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert is_form("o\u0303uele", ["õuele"])


@pytest.mark.parametrize(
    ("response", "form"),
    [
        ("majas", "majas"),
        ("Vastus: majas", "majas"),
        ("**Vastus:** „majas“.", "majas"),
        ("Vastus: õige vorm on 'majas'.", "majas"),
        ("Ainsuse seesütlev: majas", "majas"),
        ("Ainsuse seesütlev on majas.", "majas"),
        ("Sõna „maja“ ainsuse seesütlev on **majas**.", "majas"),
        ("Ainsuse seesütlev kääne sõnast „maja“ on „majas“.", "majas"),
        ("Ainsuse seesütlevas käändes on „majas“, sest tüvi on maja-.", "majas"),
        ("Käänan sõna.\n\nVastus: majas", "majas"),
        ("maja → majas", "majas"),
        ("majas (seesütlev kääne)", "majas"),
        ("majas – kus?", "majas"),
        ("majas on ainsuse seesütlev.", "majas"),
        ("`majas`", "majas"),
        ("<think>Seesütlev on -s: majades?</think>majas", "majas"),
        ("ainsuse sisseütlev on uude 3D-printerisse.", "uude 3D-printerisse"),
        ("ainsuse omastav on 1. klassi.", "1. klassi"),
        ("Mitmuse osastav: „uusi maju“", "uusi maju"),
        ("Sõna „maja“ käänatuna:\n\nMitmuse osastav: **maju**", "maju"),
        ("Sõna: maja\nAinsuse seesütlev: majas", "majas"),
        ("Sõna: haamer\nSelgitus: tööriist", "haamer"),
        ("Siin on vorm:\n\nmajas", "majas"),
        ("majas\nAinsuse omastav on maja, seesütlevas lisandub -s.", "majas"),
        ("majas, sest tüvi on maja", "majas"),
        ("majja, mitte majas", "majja"),
        ("või", "või"),  # butter
        ("Mitmuse olev: olevatena", "olevatena"),  # a case's name as a word
    ],
)
def test_the_form_is_read_out_of_an_answer(response: str, form: str) -> None:
    assert inflected_form(response) == [form]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("osastav " * 50_000, False),
        ("majja või " * 50_000, True),
        ("majja" + " " * 100_000 + "x", False),
        ("x" + "\n" * 100_000 + "majja", False),
        ("x" + "\n-" * 50_000, False),
        ("majja" + "!" * 100_000, True),
        ("majja" + "!" * 100_000 + "x", False),
        ("seesütlev" + "a" * 100_000, False),
    ],
)
def test_a_loop_is_read_to_its_end(text: str, right: bool) -> None:
    assert is_form(text, ["majja"]) == right  # in quadratic time these take minutes


@pytest.mark.parametrize("response", ["", "  \n", "<think>majas", "**"])
def test_no_form_is_a_parse_failure(response: str) -> None:
    doc = {"noun_phrase": "maja", "plurality": "ainsuse", "case": "seesütlev", "inflection": ["majas"]}
    assert inflection_results(doc, [response]) == {
        "exact_match": 0,
        "parse_failure": 1,
        "exact_match/ainsuse seesütlev": 0,
    }


# --- the table by case ----------------------------------------------------------------------------------------------


def test_each_case_has_a_score_of_its_own_items() -> None:
    docs = [
        {"lemma": "maja", "number": "ainsuse", "case": "seesütlev", "answers": ["majas"]},
        {"lemma": "tuba", "number": "ainsuse", "case": "seesütlev", "answers": ["toas"]},
        {"lemma": "tuba", "number": "mitmuse", "case": "omastav", "answers": ["tubade"]},
    ]
    given = ["majas", "tubas", "tubade"]
    samples = []
    for place, (doc, form) in enumerate(zip(docs, given, strict=True)):
        values = unimorph_results(doc, [form])
        failed = bool(values.pop("parse_failure"))
        samples.append(
            Sample("t", place, str(place), "", doc["lemma"], doc["answers"][0], form, values, "", parse_failure=failed)
        )
    scores = {s.metric: s for s in score_task("t", samples, primary="exact_match", chance=0.0, n_planned=3)}
    assert scores["exact_match"].value == pytest.approx(2 / 3)
    by_case = scores["exact_match/ainsuse seesütlev"]
    assert (by_case.value, by_case.n) == (0.5, 2)
    assert scores["exact_match/mitmuse omastav"].value == 1


def test_any_of_the_words_is_right() -> None:
    doc = {"definition": ["arst, kes ravib hambaid"], "words": ["hambaarst", "stomatoloog"]}
    right = [word_meaning_results(doc, [word])["exact_match"] for word in ("Stomatoloog", "Sõna on „hambaarst“.")]
    assert right == [1, 1]
    assert word_meaning_results(doc, ["arst"]) == {"exact_match": 0, "parse_failure": 0}
    assert word_meaning_results({"words": ["šašlõkk"]}, ["Šašlõkk"])["exact_match"] == 1


# --- items from UniMorph --------------------------------------------------------------------------------------------


def test_all_cases_and_numbers_are_asked_alike(rows: list[dict[str, Any]]) -> None:
    cells = Counter((row["number"], row["case"]) for row in rows)
    assert len(cells) == 27 and len(set(cells.values())) == 1
    assert {case for _, case in cells} == set(CASES.values())
    assert ("ainsuse", "nimetav") not in cells  # it is given


@pytest.mark.parametrize(
    ("lemma", "cell", "expected"),
    [
        ("maja", "ainsuse sisseütlev", ["majja", "majasse"]),
        ("tuba", "ainsuse sisseütlev", ["tuppa", "toasse"]),  # "tuppatoasse" in the table
        ("käsi", "mitmuse seesütlev", ["kätes", "käsis"]),  # "käteskäsis"
        ("käsi", "mitmuse kaasaütlev", ["kätega"]),
        ("maja", "mitmuse osastav", ["maju", "majasid"]),
        ("maja", "mitmuse alalütlev", ["majadel", "majul"]),
        ("tuba", "mitmuse seesütlev", ["tubades"]),  # grades differ: nothing is derived
    ],
)
def test_parallel_forms_are_parted_and_complete(
    rows: list[dict[str, Any]], lemma: str, cell: str, expected: list[str]
) -> None:
    assert answers(rows, lemma, cell) == expected


@pytest.mark.parametrize(
    ("lemma", "case", "number", "expected"),
    [
        ("hobune", "IN+ALL", "SG", ["hobusesse", "hobusse"]),
        ("hobune", "IN+ESS", "PL", ["hobustes", "hobuseis"]),
        ("hobune", "COM", "PL", ["hobustega"]),
        ("raamat", "IN+ALL", "PL", ["raamatutesse", "raamatuisse"]),
        ("raamat", "PRT", "SG", ["raamatut"]),
        ("öö", "PRT", "PL", ["öid", "öösid"]),
        ("uba", "PRT", "PL", ["ube", "ubasid"]),
        ("uba", "IN+ALL", "SG", ["uppa", "oasse"]),
        ("õpilane", "IN+ALL", "SG", ["õpilasse", "õpilasesse"]),
    ],
)
def test_parallel_forms_follow_from_the_principal_ones(lemma: str, case: str, number: str, expected: list[str]) -> None:
    forms = {tags: [form] for tags, form in zip(PRINCIPAL, MORE[lemma].split(), strict=True)}
    stem, ending = forms[f"GEN;{number}"][0], {"IN+ESS": "s", "COM": "ga", "IN+ALL": "sse"}.get(case, "")
    forms.setdefault(f"{case};{number}", [stem + ending])
    assert parallel_forms(forms, case, number) == expected


def test_the_choice_depends_on_nothing_but_the_table(rows: list[dict[str, Any]]) -> None:
    lines = SAMPLE.read_text("utf-8").splitlines()
    turned = unimorph_rows({"est.tsv": "\n".join(reversed(lines))})
    assert {str(row) for row in turned} == {str(row) for row in rows}
    assert unimorph_rows({"est.tsv": SAMPLE.read_text("utf-8")}) == rows


def test_verbs_and_accusatives_are_left_out(rows: list[dict[str, Any]]) -> None:
    assert "lugema\t" in SAMPLE.read_text("utf-8") and "ACC" in SAMPLE.read_text("utf-8")
    assert "lugema" not in {row["lemma"] for row in rows}


def test_nouns_whose_forms_contradict_each_other_are_left_out() -> None:
    table = "\n".join(
        f"{lemma}\t{form}\tN;{tags}"
        for lemma, forms in {
            "seerium": ("seerium", "seeriumi", "seeriumi", "seeriumde"),
            "veski": ("veski", "veski", "veskid", "veskide"),
            "maa": ("maa", "maa", "maad", "maade"),
            "aken": ("aken", "akna", "akent", "akende"),
        }.items()
        for form, tags in zip(forms, ("NOM;SG", "GEN;SG", "PRT;SG", "GEN;PL"), strict=True)
    )
    assert {row["lemma"] for row in unimorph_rows({"est.tsv": table})} == {"maa", "aken"}


def test_a_broken_line_is_named() -> None:
    with pytest.raises(TaskError, match=r"Line 2 .* has 2 columns"):
        unimorph_rows({"est.tsv": "maja\tmaja\tN;NOM;SG\nmaja\tN;GEN;SG\n"})


def test_a_form_without_its_genitive_stands_alone() -> None:
    assert parallel_forms({"IN+ALL;SG": ["majja"]}, "IN+ALL", "SG") == ["majja"]


def test_the_real_table_gives_a_balanced_set(mirror: Path) -> None:
    path = mirror / "unimorph__est" / "est.tsv"
    if not path.exists():
        pytest.skip("no UniMorph table in the offline copy")
    real = unimorph_rows({"est.tsv": path.read_text("utf-8")})
    assert set(Counter((row["number"], row["case"]) for row in real).values()) == {ITEMS_PER_CELL}
    assert len(real) == 1998 and len({row["lemma"] for row in real}) > 500
    forms = [form for row in real for form in row["answers"]]
    assert all(re.fullmatch(r"[a-zõäöüšž-]+", form) for form in forms)
    copied = sum(row["lemma"] in row["answers"] for row in real) / len(real)
    assert copied == pytest.approx(0.016, abs=0.001)  # the task's chance
    glued = {"tuppatoasse", "kättekäesse", "jõkkejõesse", "käteskäsis", "ubeubasid", "töidtöösid"}
    assert not glued & set(forms)
