"""Translation instructions: directions in the ratio that was asked for, natural wordings, clean pairs, no test text."""

from __future__ import annotations

import gzip
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from estbench_training.instructions import pairs as filters
from estbench_training.instructions import phrasing
from estbench_training.instructions.phrasing import Template
from estbench_training.instructions.rendering import Translation
from estbench_training.instructions.settings import TranslationSettings
from instructions_world import NONE, direction, make, manifest, pairs, parallel, write

from estbench.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
FLORES = ROOT / "tasks/samples/facebook__flores/est_Latn-eng_Latn/devtest.jsonl"


def messages(directions: dict[str, float], count: int, **keys: Any) -> list[tuple[str, str, str]]:
    """(direction, what is asked, what is answered) of so many rows in order, of pairs that are sentences."""
    made = Translation(TranslationSettings(directions, **keys), {}, count, "seed")
    found = []
    for number in range(count):
        user, assistant = made({"et": f"Tere, {number}.", "en": f"Hello, {number}."})
        wanted = "en-et" if assistant["content"].startswith("Tere") else "et-en"
        found.append((wanted, user["content"], assistant["content"]))
    return found


# --- directions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [
        {"en-et": 1, "et-en": 1},
        {"en-et": 3, "et-en": 1},
        {"en-et": 1},
        {"et-en": 1},
        {"en-et": 0.7, "et-en": 0.05},
        {"en-et": 2, "et-en": 5},
    ],
)
def test_directions_keep_their_ratio_at_every_prefix(weights: dict[str, float]) -> None:
    total = sum(weights.values())
    counts: Counter[str] = Counter()
    for number, (wanted, _, _) in enumerate(messages(weights, 400), 1):
        counts[wanted] += 1
        assert all(abs(counts[name] - weight / total * number) <= 1 for name, weight in weights.items())
    assert set(counts) == set(weights)  # one that is left out is not made


def test_languages_of_instructions_and_separate_inputs_keep_their_shares() -> None:
    asked = {"instruction_language": {"et": 0.2, "en": 0.8}, "separate_input": 0.75}
    made = Translation(TranslationSettings({"en-et": 1}, **asked), {}, 1000, "seed")  # type: ignore[arg-type]
    for number in range(1, 1001):
        made({"et": "Tere.", "en": "Hello."})
        if number % 50 == 0:
            report = made.report()
            assert abs(report["separate_input"] - 0.75 * number) <= 2
            assert abs(report["instruction_language"]["et"] - 0.2 * number) <= 2


def test_the_rows_of_a_stage_keep_the_ratio_whatever_is_drawn(tmp_path: Path) -> None:
    texts = pairs(60)
    source = parallel(write(tmp_path / "a.jsonl", texts), {"en-et": 3, "et-en": 1}, limit=41, epochs=2)
    rows = make(tmp_path, {"mt": source}, **NONE)
    found = [direction(row, texts) for row in rows]
    for number in range(1, len(found) + 1):
        assert abs(found[:number].count("et-en") - number / 4) <= 1
    assert len(rows) == 82 and manifest(tmp_path)["sources"]["mt"]["directions"] == dict(Counter(found))


# --- wordings ---------------------------------------------------------------------------------------------------------

WORDINGS = [
    (language, template)
    for language in phrasing.TRANSLATION
    for template in (*phrasing.translation(language).separate, *phrasing.translation(language).inline)
]


@pytest.mark.parametrize("language", phrasing.TRANSLATION)
def test_there_are_many_wordings_for_each_direction(language: str) -> None:
    phrases = phrasing.translation(language)
    texts = [template.text for template in phrases.separate + phrases.inline]
    assert len(set(texts)) == len(texts) and len(phrases.separate) >= 25 and len(phrases.inline) >= 15
    for some in (phrases.separate, phrases.inline):  # each kind has statements, questions and polite ones
        assert any("?" in one.text for one in some) and any("alun" in one.text or "lease" in one.text for one in some)


@pytest.mark.parametrize(("language", "template"), WORDINGS, ids=lambda value: getattr(value, "text", value))
def test_each_wording_holds_its_text_once_and_names_the_target(language: str, template: Template) -> None:
    slots = [name for _, name, _, _ in string.Formatter().parse(template.text) if name]
    assert slots.count("text") == 1
    assert sum(name.lower().startswith("target") for name in slots) == 1
    assert sum(name.lower().startswith("source") for name in slots) <= 1
    assert not re.search(r"  | $|^ | [?.,:!]", template.text.replace("{text}", "x"), re.MULTILINE)


ESTONIAN = {  # what may stand behind a language's name: into is the illative, out of the elative
    "target": r"\{[Tt]arget\} (keelde|keeles|keel)\b",
    "source": r"\{[Ss]ource\} (keelest|keeles|keel)\b",
    "target_stem": r"\{target_stem\}keel(ne|set)\b",
    "source_stem": r"\{source_stem\}keel(ne|se|sest)\b",
}
BARE = "{source} → {target}: {text}"
AGREES = {"keelne": "tekst|lause|tõlge|vaste", "keelset": "tõlget", "keelsest": "tekstist", "keelse": "teksti"}


@pytest.mark.parametrize("template", [one for language, one in WORDINGS if language == "et"], ids=lambda one: one.text)
def test_estonian_wordings_have_the_right_cases(template: Template) -> None:
    if template.text == BARE:
        return
    for _, name, _, _ in string.Formatter().parse(template.text):
        if name and name != "text":
            assert re.search(ESTONIAN[name.lower()], template.text), name
    for ending, nouns in AGREES.items():  # an adjective has its noun's case
        for found in re.finditer(rf"\}}{ending} (\w+)", template.text):
            assert re.fullmatch(nouns, found.group(1))
    if "keelest" in template.text:  # from … into …: both are said, in this order
        assert re.search(r"keelest (ladusasse )?\{target\} keelde", template.text)
    if re.search(r"\b[Tt]õlgi|[Pp]ane\b|tõlki", template.text) and "{Source} keeles on" not in template.text:
        assert re.search(r"keelde|keelne|keelset|Palun tõlgi see", template.text)


@pytest.mark.parametrize("language", phrasing.TRANSLATION)
@pytest.mark.parametrize("wanted", ["en-et", "et-en", "fi-et"])
def test_filled_wordings_never_name_the_directions_ends_the_wrong_way_round(language: str, wanted: str) -> None:
    phrases = phrasing.translation(language)
    source, target = wanted.split("-")
    one, other = phrases.names[source][0], phrases.names[target][0]
    for template in phrases.separate + phrases.inline:
        said = phrases.fill(template, source, target, "TEXT")
        assert said.count("TEXT") == 1 and "{" not in said
        if language == "et":
            assert f"{one} keelde" not in said.lower() and f"{other} keelest" not in said.lower()
            assert re.search(rf"{other} keel|{phrases.names[target][1]}keel|→ {other}", said, re.IGNORECASE)
        else:
            assert not re.search(rf"\b(to|into) (fluent )?{one}|\bfrom {other}", said)
            assert other in said


def test_all_wordings_are_used_and_about_as_often_as_each_other() -> None:
    for language in phrasing.TRANSLATION:
        phrases = phrasing.translation(language)
        made = Translation(TranslationSettings({"en-et": 1}, {language: 1}, 0.5), {}, 400, "seed")
        for _ in range(400):
            made({"et": "Tere hommikust.", "en": "Good morning."})
        known = made.report()["templates"][language]
        assert known["used"] == known["known"] == len(phrases.separate + phrases.inline)


def test_wordings_fit_their_text() -> None:
    for text, is_one in [
        ("Tere hommikust.", True),
        ("Tere! Kuidas läheb?", False),
        ("Eesti rahva muuseum", False),
        ("Ta ütles: „Ma tulen.“", True),
    ]:
        assert phrasing.is_sentence(text) == is_one
    made = Translation(TranslationSettings({"et-en": 1}, {"et": 1}, 0.5), {}, 300, "seed")
    for _ in range(150):
        asked = made({"et": "Pealkiri „ilma“ punktita", "en": "A headline"})[0]["content"]
        assert "lause" not in asked.lower() and asked.count("„") == 1  # no sentence; no quotes around quotes
        asked = made({"et": "Üks lause. Teine lause on siin.", "en": "One. Two."})[0]["content"]
        assert "lause" not in asked.replace("Üks lause. Teine lause on siin.", "").lower()


def test_another_epoch_asks_in_other_words(tmp_path: Path) -> None:
    source = parallel(write(tmp_path / "a.jsonl", pairs(30)), {"en-et": 1}, epochs=2)
    rows = make(tmp_path, {"mt": source}, **NONE)
    asked: dict[str, set[str]] = {}
    for row in rows:
        asked.setdefault(row["messages"][1]["content"], set()).add(row["messages"][0]["content"])
    assert len(rows) == 60 and len(asked) == 30 and len({row["id"] for row in rows}) == 60
    assert sum(len(words) == 2 for words in asked.values()) >= 25


def test_wordings_of_ones_own_are_used_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    names = json.dumps({code: ["x"] for code in phrasing.NAMED})
    path.write_text(f"names: {names}\nseparate: ['A {{text}}']\ninline: ['B {{text}}']\n")
    source = parallel(
        write(tmp_path / "a.jsonl", pairs(4)),
        {"en-et": 1},
        instruction_language={"en": 1},
        templates={"en": "mine.yaml"},
    )
    assert {row["messages"][0]["content"][0] for row in make(tmp_path, {"mt": source}, **NONE)} <= {"A", "B"}
    for text, fault in [
        ("separate: ['no place']\ninline: ['{text}']", "'no place' needs {text} once"),
        ("separate: ['{text} {text}']\ninline: ['{text}']", "needs {text} once"),
        ("separate: ['{text} {langauge}']\ninline: ['{text}']", "else only Source"),
        ("separate: ['{text']\ninline: ['{text}']", "is no wording"),
        ("separate: ['\"{text}\"']\ninline: ['{text}']", "without quotation marks"),
        ("inline: ['{text}']", "has to hold separate and inline"),
        ("separate: ['{text}']\ninline: ['{text}']", "names has to say"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(fault)):
            make(tmp_path, {"mt": source}, output="other", **NONE)


# --- filters ----------------------------------------------------------------------------------------------------------

GOOD = ("Õues sadas kogu päeva külma vihma.", "Outside, a cold rain fell all day.")


@pytest.mark.parametrize(
    ("et", "en", "why"),
    [
        (*GOOD, None),
        (
            "Ta elab Tallinnas aastast 1991, hinnaga 1 000 000 krooni.",
            "He has lived in Tallinn since 1991, for 1 million.",
            None,
        ),
        ("Hind on 1000,50 eurot kuus.", "The price is 1,000.50 euros a month.", None),
        ("Hind on 25 eurot kuus, mitte rohkem.", "The price is 52 euros a month, no more.", None),
        ("Hind on 25 eurot kuus, mitte rohkem.", "The price is 24 euros a month, no more.", "numbers"),
        ("Kas sa tuled homme koju?", "You will come home tomorrow.", "punctuation"),
        ("Ta tuleb homme õhtul koju", "He will come home tomorrow evening.", "punctuation"),
        ("Ta tuleb homme õhtul koju", "He will come home tomorrow evening", None),
        (
            "Ta tuli. Ta sõi. Ta läks. Ta jäi magama kodus.",
            "He came and ate and left and went to sleep.",
            "punctuation",
        ),
        ("Ei.", "No, not at all.", "too_short"),
        ("Tere päevast!", "Good afternoon to everybody who came here to listen!", "length_ratio"),
        ("", "Good afternoon!", "empty"),
        ("12345 678 90", "12345 678 90", "few_letters"),
        ("Good afternoon, everybody.", "Good afternoon, everybody!", "copy"),
        ("The old man went home with his black dog", "The old man went home with his big dog", "copy"),
        ("London, Pariis ja Rooma", "London, Paris and Rome", None),
        (
            "Vanaema küpsetas pühapäeval õunakooki.",
            "Isoäiti leipoi sunnuntaina omenapiirakkaa meille.",
            "other_language",
        ),
    ],
)
def test_pairs_that_are_no_translations_are_left_out(et: str, en: str, why: str | None) -> None:
    assert filters.reason(TranslationSettings({"en-et": 1}), {"et": et, "en": en}) == why


def test_filters_can_be_turned_off_one_by_one(tmp_path: Path) -> None:
    settings = {"numbers": False, "length_ratio": None, "languages": False, "copies": False, "punctuation": False}
    rows = [
        ("Hind on 25 eurot.", "It costs 24 euros."),
        ("Tere kõigile!", "Good day " * 20),
        ("Kas nii?", "That is so."),
    ]
    texts = [{"et": et, "en": en} for et, en in rows]
    source = parallel(write(tmp_path / "a.jsonl", texts), {"en-et": 1}, pair_filters=settings)
    assert len(make(tmp_path, {"mt": source}, **NONE)) == 3


def test_texts_become_nfc_and_white_space_one_space(tmp_path: Path) -> None:
    texts = [{"et": " O\u0303ues  sajab\u00a0vihma.\n", "en": "It is raining outside."}]
    rows = make(tmp_path, {"mt": parallel(write(tmp_path / "a.jsonl", texts), {"en-et": 1})}, **NONE)
    assert rows[0]["messages"][1]["content"] == "Õues sajab vihma."


# --- tests' sentences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["both", "et", "en"])
def test_no_sentence_of_flores_is_learnt(tmp_path: Path, side: str) -> None:
    planted = [json.loads(line) for line in FLORES.read_text("utf-8").splitlines()]
    texts = pairs(20)
    for at, row in enumerate(planted):
        et = row["sentence_est_Latn"] if side != "en" else f"Midagi muud on siin kirjas, rida {at}."
        en = row["sentence_eng_Latn"] if side != "et" else f"Something else is written here, line {at}."
        texts.append({"et": et, "en": en})
    source = parallel(write(tmp_path / "a.jsonl", texts), {"en-et": 1, "et-en": 1}, pair_filters={"min_characters": 1})
    near: dict[str, Any] = {"duplicates": {"near": False}}
    wanted = {"tasks": "flores_en_et,flores_et_en", "data": "samples"}
    rows = make(tmp_path, {"mt": source}, decontaminate=wanted, **near)
    learnt = {text for row in rows for text in (row["messages"][1]["content"], row["messages"][0]["content"])}
    for row in planted:
        for name, code in (("sentence_est_Latn", "et"), ("sentence_eng_Latn", "en")):
            assert side not in ("both", code) or not any(row[name].strip() in text for text in learnt)
    about = manifest(tmp_path)
    removed = about["decontaminated"]["removed"]
    assert removed == about["sources"]["mt"]["dropped"]["contaminated"] and removed == len(planted)
    assert about["decontaminated"]["by_task"]["flores_en_et"] == removed
    listed = (tmp_path / "stage/contaminated.jsonl").read_text("utf-8").splitlines()
    assert len(listed) == removed and json.loads(listed[0])["place"] == "a.jsonl:21"
    # with the check off they would be there
    assert len(make(tmp_path, {"mt": source}, output="off", decontaminate="none", **near)) == len(texts)


def test_sentences_of_other_tests_are_kept_out_by_a_file(tmp_path: Path) -> None:
    texts = pairs(20)
    (tmp_path / "wmt.en").write_text(f"Short.\n{texts[3]['en']}\n\n{texts[7]['en'].upper()}\n", "utf-8")
    source = parallel(write(tmp_path / "a.jsonl", texts), {"en-et": 1})
    wanted = {"tasks": "flores_en_et", "data": "samples", "texts": ["wmt.en"]}
    rows = make(tmp_path, {"mt": source}, decontaminate=wanted, duplicates={"near": False})
    answers = {row["messages"][1]["content"] for row in rows}
    assert answers.isdisjoint({texts[3]["et"], texts[7]["et"]})
    assert manifest(tmp_path)["decontaminated"]["by_task"]["wmt.en"] >= 2


# --- files ------------------------------------------------------------------------------------------------------------


def test_all_forms_of_parallel_text_give_the_same_rows(tmp_path: Path) -> None:
    texts = pairs(12)
    write(tmp_path / "a.jsonl", texts)
    write(tmp_path / "nested.jsonl", [{"translation": row} for row in texts])
    lines = [f"{row['en']}\t0.9\t{row['et']}\n" for row in texts]
    with gzip.open(tmp_path / "plain.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines)
    (tmp_path / "head.tsv").write_text("english\tscore\teesti\n" + "".join(lines), "utf-8")
    for code in ("et", "en"):
        (tmp_path / f"corpus.{code}").write_text("".join(row[code] + "\n" for row in texts), "utf-8")
    aligned = parallel("", {"en-et": 1})
    del aligned["path"]
    made = [
        make(tmp_path, {"mt": source}, output=str(number), **NONE)
        for number, source in enumerate(
            [
                parallel("a.jsonl", {"en-et": 1}),
                parallel("nested.jsonl", {"en-et": 1}, fields={"et": "translation.et", "en": "translation.en"}),
                parallel("plain.tsv.gz", {"en-et": 1}, fields={"et": 3, "en": 1}),
                parallel("head.tsv", {"en-et": 1}, fields={"et": "eesti", "en": "english"}),
                {**aligned, "aligned": {"et": "corpus.et", "en": "corpus.en"}},
            ]
        )
    ]
    assert len(made[0]) == 12 and all(rows == made[0] for rows in made)


def test_neither_the_order_of_lines_nor_of_files_matters(tmp_path: Path) -> None:
    texts = pairs(40)
    write(tmp_path / "a.jsonl", texts)
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts/1.jsonl", texts[:9:-1])
    write(tmp_path / "parts/2.jsonl", texts[:10])
    keys = {"limit": 25, "epochs": 1.5}
    one = make(tmp_path, {"mt": parallel("a.jsonl", {"en-et": 1, "et-en": 1}, **keys)}, output="1", **NONE)
    other = make(tmp_path, {"mt": parallel("parts", {"en-et": 1, "et-en": 1}, **keys)}, output="2", **NONE)
    assert one == other and len(one) == 37
    third = make(tmp_path, {"mt": parallel("a.jsonl", {"en-et": 1, "et-en": 1}, **keys)}, output="3", seed=1, **NONE)
    assert third != one


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"directions": {"en-ee": 1}}, "directions: there is no 'en-ee'. Did you mean"),
        ({"directions": {"en-et": 1, "et-en": 0}}, "leave out a direction that is not to be made"),
        ({"directions": {"en-et": 1, "fi-et": 1}}, "a source has two languages, not en, et, fi"),
        ({"directions": {}}, "directions is empty"),
        ({"directions": {"en-et": 1}, "instruction_language": {"ee": 1}}, "instruction_language: there is no 'ee'."),
        ({"directions": {"en-et": 1}, "separate_input": 85}, "separate_input: 85 is no share"),
        ({"directions": {"en-et": 1}, "filters": {"length_ratio": 0.3}}, "has to be 1 or more"),
        ({"directions": {"en-et": 1}, "filters": {"lenght_ratio": 3}}, "Did you mean 'length_ratio'?"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    source = {"path": "a.jsonl", "licence": "cc0-1.0", "translation": change}
    with pytest.raises(ConfigError, match=re.escape(fault)):
        make(tmp_path, {"mt": source})


def test_files_that_can_not_be_right_are_named(tmp_path: Path) -> None:
    (tmp_path / "c.et").write_text("Üks.\nKaks.\nKolm.\n", "utf-8")
    (tmp_path / "c.en").write_text("One.\nTwo.\n", "utf-8")
    aligned = parallel("", {"en-et": 1})
    del aligned["path"]
    (tmp_path / "short.tsv").write_text("Üks.\tOne.\nKaks.\n", "utf-8")
    write(tmp_path / "a.jsonl", [{"et": "Tere!", "en": "Hello!"}, {"et": "Tere!", "eng": "Hello!"}])
    for source, fault in [
        ({**aligned, "aligned": {"et": "c.et", "en": "c.en"}}, r"c\.en has 2 lines and .*c\.et has more"),
        ({**aligned, "aligned": {"et": "c.et", "en": "no.en"}}, "there is no file .*no.en"),
        (parallel("short.tsv", {"en-et": 1}, fields={"et": "1", "en": "2"}), "short.tsv:2 lacks '2'"),
        (parallel("short.tsv", {"en-et": 1}), "short.tsv:1 names no column '(et|en)'"),
        (
            parallel("a.jsonl", {"en-et": 1}),
            r"a\.jsonl:2 lacks 'en'; it has et, eng. Did you mean 'eng'\?.*damaged: skip",
        ),
    ]:
        with pytest.raises(DataError, match=fault) as error:
            make(tmp_path, {"mt": source}, output="faults", **NONE)
        assert "\n" not in str(error.value) and not (tmp_path / "faults/rows.jsonl").exists()
    for path in (tmp_path / "faults").iterdir():
        assert path.name == "work"
    rows = make(tmp_path, {"mt": parallel("a.jsonl", {"en-et": 1}, damaged="skip")}, **NONE)
    assert len(rows) == 1 and manifest(tmp_path)["sources"]["mt"]["dropped"] == {"damaged": 1}
