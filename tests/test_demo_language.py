"""The minimal pairs of the demo world: always the same, apart from training, one error each."""

from __future__ import annotations

from itertools import islice

import pytest

from estbench.demo import language, stream


@pytest.mark.parametrize("task", language.TASKS)
def test_there_are_600_different_pairs_that_differ_and_are_always_the_same(task: str) -> None:
    docs = language.rows(task)["test"]
    assert len({doc["right"] for doc in docs}) == len(docs) == language.SIZE >= 500
    assert all(doc["right"] != doc["wrong"] and doc["wrong"].endswith(".") for doc in docs)
    docs[0].clear()
    assert language.rows(task)["test"][0]


@pytest.mark.parametrize("task", language.TASKS)
def test_no_sentence_of_a_pair_is_a_training_text(task: str) -> None:
    texts = set(islice(stream.texts(task[-2:], "1"), 20_000))
    assert not texts & {text for doc in language.rows(task)["test"] for text in doc.values()}


def test_an_error_is_one_change() -> None:
    """As many words, and all but one of them, or but two neighbours, as they were."""
    for task in language.TASKS:
        for doc in language.rows(task)["test"]:
            right, wrong = (doc[key].removesuffix(".").split() for key in ("right", "wrong"))
            if sorted(map(str.lower, right)) != sorted(map(str.lower, wrong)):
                assert len(right) == len(wrong)
                assert sum(one != other for one, other in zip(right, wrong, strict=True)) == 1, doc


def test_which_sentence_comes_first_tells_nothing() -> None:
    for task in language.TASKS:
        odd = sum(len(doc["right"]) % 2 for doc in language.rows(task)["test"])
        assert 0.4 < odd / language.SIZE < 0.6
