"""Tasks answered with text, and bits per byte: what they ask, what their own data covers, their chance levels."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estbench.metrics import aggregate
from estbench.metrics.entities import TYPES, gold_mentions
from estbench.metrics.morphology import CASES, form_key
from estbench.metrics.tasks import errnews_results, flores_en_et_results, flores_et_en_results
from estbench.registry import Registry

TASKS = Registry().tasks
FOLDER = Path(__file__).parents[1] / "tasks"
BOTH_FORMS = ("inflection_et", "unimorph_et", "word_meanings_et", "copytext_et", "errnews", "estner", "flores_en_et")


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / path).read_text("utf-8").splitlines()]


def shots(name: str) -> list[dict[str, Any]]:
    return list(TASKS[name].config["fewshot_config"]["samples"])


@pytest.fixture(scope="module")
def load() -> Callable[[str], Any]:
    lm_tasks = pytest.importorskip("estbench.lm_tasks")
    return lambda name: lm_tasks.LmTask(TASKS[name], data_dir=Path("samples"))


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "asked", "target"),
    [
        ("inflection_et", "Ainsuse nimetav: ilus maja\nMitmuse nimetav:", "ilusad majad"),
        ("unimorph_et", "Ainsuse nimetav: {lemma}\nAinsuse omastav:", "{answers[0]}"),
        ("word_meanings_et", "Seletus: veekogu, mis on igast küljest ümbritsetud maismaaga\nSõna:", "järv"),
        ("copytext_et", "Tekst: {text}\nSama tekst:", "{text}"),
        ("errnews", "Uudislugu: {transcript}\nKokkuvõte:", "{summary}"),
        (
            "estner",
            "Lause: Lydia Koidula sündis Vändras 1843. aastal .\nNimed:",
            '{{"inimene": ["Lydia Koidula"], "asukoht": ["Vändras"], "organisatsioon": [], "muu": []}}',
        ),
        ("flores_en_et", "Inglise keeles: {sentence_eng_Latn}\nEesti keeles:", "{sentence_est_Latn}"),
        ("flores_et_en", "Eesti keeles: {sentence_est_Latn}\nInglise keeles:", "{sentence_eng_Latn}"),
    ],
)
def test_the_completion_prompt_ends_with_the_question(
    name: str, asked: str, target: str, load: Callable[[str], Any]
) -> None:
    task = load(name)
    row, rendered = task.docs[0], task.render(0)
    assert rendered.prompt.startswith(TASKS[name].config["description"])
    assert rendered.prompt.endswith("\n\n" + asked.format(**row)), rendered.prompt[-300:]
    assert rendered.target == target.format(**row)
    assert rendered.prompt.count("\n\n") == TASKS[name].shots + 1


@pytest.mark.parametrize("name", BOTH_FORMS)
def test_the_chat_prompt_asks_for_the_answer_alone(name: str, load: Callable[[str], Any]) -> None:
    task = load(f"{name}_chat")
    prompt = task.render(0).prompt
    assert re.search("ainult|täpselt", prompt) and not prompt.endswith(":")
    assert TASKS[f"{name}_chat"].form == "chat" and "parse_failure" in str(TASKS[f"{name}_chat"].config["metric_list"])


def test_a_definition_is_read_as_a_text_and_as_a_list(load: Callable[[str], Any]) -> None:
    task = load("word_meanings_et").task
    one = task.doc_to_text({"definition": "suur vesi", "words": ["meri"]})
    assert one == task.doc_to_text({"definition": ["suur vesi"], "words": ["meri"]}) == "Seletus: suur vesi\nSõna:"
    two = task.doc_to_text({"definition": ["suur vesi", "soolane veekogu"], "words": ["meri"]})
    assert two == "Seletus: suur vesi; soolane veekogu\nSõna:"


def test_bits_per_byte_are_of_the_whole_sentence(load: Callable[[str], Any]) -> None:
    task = load("bits_per_byte_et")
    rendered = task.render(3)
    assert rendered.rolling and rendered.pairs == [("", task.docs[3]["sentence_est_Latn"])]
    assert TASKS["bits_per_byte_et"].chance == 8 and TASKS["bits_per_byte_et"].unit == "bits"


# --- shots ----------------------------------------------------------------------------------------------------------


def test_shots_of_named_entities_show_every_type() -> None:
    found = [gold_mentions(shot["tokens"], shot["ner_tags"]) for shot in shots("estner")]
    assert {kind for gold in found for kind in TYPES if gold[kind]} == set(TYPES)
    assert any(not any(gold.values()) for gold in found)  # a sentence without names


@pytest.mark.parametrize("name", ["inflection_et", "unimorph_et"])
def test_shots_of_inflection_are_of_different_cells_and_words(name: str) -> None:
    shown = shots(name)
    number = "plurality" if name == "inflection_et" else "number"
    assert len({(shot[number], shot["case"]) for shot in shown}) == len(shown) == TASKS[name].shots
    assert {shot["case"] for shot in shown} <= set(CASES.values())
    words = [shot.get("lemma") or shot["noun_phrase"] for shot in shown]
    assert len(set(words)) == len(words)


def test_shots_of_unimorph_are_not_in_the_table(mirror: Path) -> None:
    path = mirror / "unimorph__est" / "est.tsv"
    if not path.exists():
        pytest.skip("no UniMorph table in the offline copy")
    lemmas = {line.split("\t")[0] for line in path.read_text("utf-8").splitlines()}
    assert not lemmas & {shot["lemma"] for shot in shots("unimorph_et")}


# --- own data -------------------------------------------------------------------------------------------------------


def test_texts_to_copy_cover_what_breaks() -> None:
    rows = rows_of("own/estbench__copytext_et/default/test.jsonl")
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts) >= 100 and [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(text == unicodedata.normalize("NFC", text) == " ".join(text.split()) for text in texts)
    together = "".join(texts)
    assert set("abdefghijklmnoprsšzžtuvõäöüABDEGHIJKLMNOPRSŠTUVÕÄÖÜŽ0123456789„“«»–…%€°×²") <= set(together)
    assert max(map(len, re.findall(r"[\w-]+", together))) >= 30  # compounds
    assert max(map(len, texts)) > 150 and min(map(len, texts)) < 40
    assert not set(texts) & {shot["text"] for shot in shots("copytext_et")}
    sample = rows_of("samples/estbench__copytext_et/default/test.jsonl")
    assert sample == [row for row in rows if row in sample] and {row["kind"] for row in sample} == {
        row["kind"] for row in rows
    }


def test_samples_of_named_entities_have_every_type_and_none() -> None:
    rows = rows_of("samples/tartuNLP__EstNER/estner-reannotated/test.jsonl")
    golds = [gold_mentions(row["tokens"], row["ner_tags"]) for row in rows]
    assert all(sum(bool(gold[kind]) for gold in golds) >= 4 for kind in TYPES)
    assert sum(not any(gold.values()) for gold in golds) >= 3
    assert all(len(row["tokens"]) == len(row[field]) for row in rows for field in ("ner_tags_2", "ner_tags_3"))


def test_samples_of_inflection_have_parallel_forms_and_every_cell() -> None:
    rows = rows_of("samples/TalTechNLP__inflection_et/default/train.jsonl")
    assert len({(row["plurality"], row["case"]) for row in rows}) == 7
    assert sum(len(row["inflection"]) > 1 for row in rows) >= 8
    assert not any(form_key(row["noun_phrase"]) in map(form_key, row["inflection"]) for row in rows)


# --- chance levels --------------------------------------------------------------------------------------------------


def score(values: list[dict[str, Any]], metric: str) -> float:
    return aggregate(metric, [value[metric] for value in values])


def test_the_chance_level_of_summaries_is_the_lead_baseline() -> None:
    rows = rows_of("samples/TalTechNLP__ERRnews/default/test.jsonl")
    lead = [" ".join(re.split(r"(?<=[.!?])\s+", row["transcript"])[:2]) for row in rows]
    values = [errnews_results(row, [text]) for row, text in zip(rows, lead, strict=True)]
    assert score(values, "chrf++") == pytest.approx(TASKS["errnews"].chance, abs=0.5)
    copies = [errnews_results(row, [row["transcript"]]) for row in rows]
    assert score(copies, "chrf++") < score(values, "chrf++") and score(copies, "length_ratio") > 4


@pytest.mark.parametrize(
    ("name", "source", "results"),
    [
        ("flores_en_et", "sentence_eng_Latn", flores_en_et_results),
        ("flores_et_en", "sentence_est_Latn", flores_et_en_results),
    ],
)
def test_copying_the_source_is_no_better_than_chance_in_translation(
    name: str, source: str, results: Callable[..., dict[str, Any]]
) -> None:
    rows = rows_of("samples/facebook__flores/est_Latn-eng_Latn/devtest.jsonl")
    copies = [results(row, [row[source]]) for row in rows]
    assert score(copies, "chrf++") <= (TASKS[name].chance or 0) and score(copies, "off_target") == 1
    assert len({row["URL"] for row in rows}) < len(rows) / 2  # sentences of an article form a cluster
