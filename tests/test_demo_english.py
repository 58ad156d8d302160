"""The English twins of two mini tasks: always the same, apart from training in both languages, and scored by rule."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from estbench.demo import baselines, english, follow, lexicon, stream, tasks, tokenizer
from estbench.lm_tasks import LmTask
from estbench.registry import Registry

TWINS = {"mini_follow_en": "mini_follow", "mini_qa_en": "mini_qa"}
FILES = [f"{task}{form}" for task in english.TASKS for form in ("", "_chat")]


def task_of(file: str) -> str:
    return file.removesuffix("_chat")


@pytest.mark.parametrize("task", english.TASKS)
def test_there_are_as_many_different_documents_as_in_the_estonian_twin(task: str) -> None:
    ours, twin = english.rows(task), tasks.rows(TWINS[task])
    asked = {split: {english.prompt(task, doc) for doc in docs} for split, docs in ours.items()}
    assert {split: len(found) for split, found in asked.items()} == {split: len(docs) for split, docs in twin.items()}
    assert not asked["test"] & asked["train"]
    ours["test"][0].clear()
    assert english.rows(task)["test"][0]


@pytest.mark.parametrize("task", english.TASKS)
def test_no_document_of_a_test_is_among_the_instructions(task: str) -> None:
    tested = {english.prompt(task, doc) for doc in english.rows(task)["test"]}
    trained = {prompt for prompt, _ in islice(english.instructions(task, "any seed"), 5000)}
    assert len(trained) > 4000 and not trained & tested
    with_tests = random.Random(f"{task} test")  # the control: the same draws, of the tests' combinations
    assert english.prompt(task, english.MAKERS[task](with_tests, True)) in tested


def test_what_one_language_trains_on_is_no_test_of_the_other() -> None:
    noms = {noun.en: noun.nom for noun in lexicon.nouns()}
    assert len(noms) == len(lexicon.nouns())  # an English word is one noun
    tested = {tuple(doc["words"][:2]) for doc in tasks.rows("mini_follow")["test"]}
    r = random.Random(1)
    trained = {tuple(noms[word] for word in english.obey(r, False)["words"][:2]) for _ in range(5000)}
    assert not trained & tested
    assert {tuple(noms[word] for word in english.obey(r, True)["words"][:2]) for _ in range(5000)} & tested
    texts = {text for doc in tasks.rows("mini_translate_et_en")["test"] for text in (doc["target"],)}
    told = " ".join(prompt for prompt, _ in islice(english.instructions("mini_qa_en", "1"), 3000))
    assert not [text for text in texts if text in told]


def test_the_reference_follows_and_the_plain_words_do_not() -> None:
    for doc in english.rows("mini_follow_en")["test"]:
        assert english.follow_results(doc, [f" {doc['target']} "]) == {"follow": 1}
        assert english.follow_results(doc, [""]) == english.follow_results(doc, [doc["target"] + " and"])
        assert english.follow_results(doc, [""]) == {"follow": 0}


@pytest.mark.parametrize(
    ("rules", "response", "right"),
    [
        (["upper"], "ZEBRA APPLE", True),
        (["upper"], "zebra apple", False),
        (["reverse", "commas"], "apple, zebra", True),
        (["sort"], "apple zebra", True),
        (["and"], "zebra and apple", True),
        (["and"], "zebra ja apple", False),
        (["and", "upper"], "ZEBRA AND APPLE", True),
        (["quotes"], "“zebra apple”", True),
        (["quotes"], "zebra apple", False),
        (["count"], "two", True),
        (["count"], "2", True),
        (["count"], "kaks", False),
    ],
)
def test_each_rule_is_checked_in_english(rules: list[str], response: str, right: bool) -> None:
    assert follow.follows(rules, ["zebra", "apple"], response, english.ENGLISH) is right


def test_both_languages_have_all_rules() -> None:
    assert english.WORDING.keys() == follow.WORDING.keys()
    assert {rule for doc in english.rows("mini_follow_en")["test"] for rule in doc["rules"]} == set(english.WORDING)
    words = ["sugar", "tea", "zoo"]  # the English z is the last letter; the Estonian one comes before t
    assert follow.arranged(["sort"], words, english.ENGLISH) == words != follow.arranged(["sort"], words)


def test_answers_stand_in_the_text_and_not_in_the_question() -> None:
    docs = english.rows("mini_qa_en")["test"]
    for doc in docs:
        assert doc["answers"][0].lower() in doc["context"].lower()
        assert doc["answers"][0] not in doc["question"]
    kinds = Counter(doc["kind"] for doc in docs)
    assert set(kinds) == {"alone", "verb", "rival"} and kinds["verb"] + kinds["rival"] > 0.3 * len(docs)


def test_questions_are_english() -> None:
    asked = {prompt.split("\n")[1]: answer for prompt, answer in islice(english.instructions("mini_qa_en", "1"), 8000)}
    starts = {question.removeprefix("Question: ").split()[0] for question in asked}
    assert starts == {"Who", "Whom", "What", "Where", "When", "To", "From", "With", "About", "How", "As"}
    assert all(
        " did " in question or " was " in question or question.startswith("Question: Who ") for question in asked
    )


@pytest.mark.parametrize(
    ("words", "about", "answers"),
    [
        ("the day before yesterday", "time", ["the day before yesterday", "day before yesterday"]),
        ("on Sunday", "time", ["on Sunday"]),
        ("as far as the shop", "goal", ["as far as the shop", "the shop", "shop"]),
        ("about an old dog", "about", ["about an old dog", "an old dog", "old dog"]),
        ("to Anna", "recipient", ["to Anna", "Anna"]),
    ],
)
def test_an_answer_is_right_without_its_small_words(words: str, about: str, answers: list[str]) -> None:
    assert english.without_small_words(words, about) == answers


@pytest.mark.parametrize("file", FILES)
def test_the_yaml_asks_what_training_asks_and_takes_the_right_answer(file: str) -> None:
    task, card = task_of(file), Registry().task(file)
    lm, docs = LmTask(card), english.rows(task)["test"]
    assert (
        card.form == ("chat" if file.endswith("_chat") else "completion")
        and card.config["metadata"]["language"] == "en"
    )
    for doc in docs[:20]:
        assert lm.task.doc_to_text(doc) == english.prompt(task, doc)
        assert str(lm.task.doc_to_target(doc)) == english.answer(task, doc)
        right: dict[str, Any] = dict(lm.task.process_results(doc, [f" {english.answer(task, doc)}"]))
        wrong: dict[str, Any] = dict(lm.task.process_results(doc, [""]))
        assert (right[card.primary], wrong[card.primary]) == (1, 0)
        assert wrong.get("parse_failure", 1) == 1


@pytest.mark.parametrize("task", english.TASKS)
def test_chance_is_the_best_trivial_baseline(task: str) -> None:
    best = max(baselines.baselines(task).values())
    assert Registry().task(task).chance == pytest.approx(best, abs=5e-5)
    assert Registry().task(f"{task}_chat").chance == Registry().task(task).chance


def test_the_english_tokenizer_is_as_short_on_english_and_half_as_good_on_estonian() -> None:
    ours, both = tokenizer.train(english_only=True), tokenizer.train()
    tokens = {}
    for language in ("et", "en"):
        texts = list(islice(stream.texts(language, "fertility"), 500))
        tokens[language] = [sum(len(words.encode(text).ids) - 1 for text in texts) for words in (ours, both)]
        assert all(ours.decode(ours.encode(text).ids[1:]) == text for text in texts[:50])
    assert tokens["en"][0] == pytest.approx(tokens["en"][1], rel=0.05)
    assert tokens["et"][0] > 1.8 * tokens["et"][1]


def test_the_tasks_are_beside_those_that_the_demo_models_are_made_of() -> None:
    """Otherwise they would change the models' tokenizer and data."""
    assert not set(english.TASKS) & set(tasks.TASKS)
    suites = Registry().suites
    assert list(suites["mini_english"].tasks) == list(english.TASKS)
    assert list(suites["mini_english_chat"].tasks) == [f"{task}_chat" for task in english.TASKS]
    assert (Path(english.__file__).parents[2] / "tasks" / "mini" / "mini_qa_en.yaml").is_file()
