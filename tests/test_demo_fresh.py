"""Fresh documents of the small world's tasks: as many, of the same kind, and none that the first draw has."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from estbench.demo import english, language, stream, tasks
from estbench.lm_tasks import LmTask
from estbench.registry import Registry

WORLDS: dict[str, Any] = {
    **dict.fromkeys([task for task in tasks.TASKS if task != "mini_inflect"], tasks),
    **dict.fromkeys(english.TASKS, english),
    **dict.fromkeys(language.TASKS, language),
}
CARDS = [card for name, card in Registry().tasks.items() if "_fresh" in name]


def texts(task: str, doc: dict[str, Any]) -> str:
    if task in language.TASKS:
        return str(doc["right"])
    return str(WORLDS[task].prompt(task, doc)) + str(doc.get("choice1")) + str(doc.get("choice2"))


@pytest.mark.parametrize("task", WORLDS)
def test_fresh_documents_are_as_many_and_none_of_the_first(task: str) -> None:
    first, fresh = WORLDS[task].rows(task), WORLDS[task].rows(task, fresh=True)
    known, new = ({texts(task, doc) for doc in rows["test"]} for rows in (first, fresh))
    assert len(new) == len(known) == len(fresh["test"]) and not new & known
    assert {split: rows for split, rows in fresh.items() if split != "test"} == {
        split: rows for split, rows in first.items() if split != "test"
    }


@pytest.mark.parametrize("task", WORLDS)
def test_fresh_documents_are_always_the_same_and_nobody_can_spoil_them(task: str) -> None:
    first = WORLDS[task].rows(task, fresh=True)
    kept = str(first)
    first["test"][0].clear()
    assert str(WORLDS[task].rows(task, fresh=True)) == kept


def test_a_task_without_enough_documents_says_so() -> None:
    with pytest.raises(ValueError, match="no fresh documents"):
        tasks.rows("mini_inflect", fresh=True)


def test_fresh_documents_are_no_training_texts() -> None:
    for task in language.TASKS:
        read = set(islice(stream.texts(task[-2:], "1"), 20_000))
        assert not read & {text for doc in language.rows(task, fresh=True)["test"] for text in doc.values()}
    trained = {asked for asked, _ in islice(english.instructions("mini_follow_en", "1"), 20_000)}
    fresh = english.rows("mini_follow_en", fresh=True)["test"]
    assert not trained & {english.prompt("mini_follow_en", doc) for doc in fresh}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_fresh_task_is_the_first_one_with_other_documents(card: Any) -> None:
    other = Registry().task(card.name.replace("_fresh", ""))
    mine, first = LmTask(card), LmTask(other)
    assert {key for key in card.config if card.config[key] != other.config.get(key)} == {
        "task",
        "dataset_kwargs",
        "metadata",
    }
    assert card.metadata | {"title": None} == other.metadata | {"title": None}
    docs = [list(lm.task.test_docs()) for lm in (mine, first)]
    asked = [
        {lm.task.doc_to_text(doc) + str(doc.get("right")) for doc in of}
        for lm, of in zip((mine, first), docs, strict=True)
    ]
    assert len(docs[0]) == len(docs[1]) and not asked[0] & asked[1]


def test_there_is_a_fresh_task_for_what_the_story_measures() -> None:
    suites = Registry().suites
    assert {card.name for card in CARDS} == {*suites["mini_fresh"].tasks, *suites["mini_fresh_chat"].tasks}
