"""Which questions raters get, in which order, which answer stands first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from estbench_judges.items import Item
from estbench_judges.label_session import Poll, Question
from label_visitor import MODELS, equivalence, pairs

from estbench.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.jsonl"


@pytest.mark.parametrize("count", [1, 9, 50])
def test_each_model_stands_first_in_half_of_its_questions(file: Path, count: int) -> None:
    poll = Poll(pairs(count), file, seed=3)
    for rater in ("Mari", "Jüri"):
        for model in MODELS:
            sides = Counter(poll.first(rater, one) for one in poll.questions if one.name == model)
            assert abs(sides["model"] - sides["anchor"]) <= 1


def test_the_sides_differ_between_raters_and_are_drawn_by_the_seed(file: Path) -> None:
    def sides(seed: int, rater: str) -> list[str | None]:
        poll = Poll(pairs(50), file, seed=seed)
        return [poll.first(rater, one) for one in sorted(poll.questions, key=lambda one: str(one.key))]

    assert sides(1, "Mari") == sides(1, "Mari")
    assert 30 < sum(a != b for a, b in zip(sides(1, "Mari"), sides(1, "Jüri"), strict=True)) < 70
    assert 30 < sum(a != b for a, b in zip(sides(1, "Mari"), sides(2, "Mari"), strict=True)) < 70


def test_questions_are_shuffled_and_the_same_for_all_so_that_raters_overlap(file: Path) -> None:
    given = pairs(50)
    orders = [[one.key for one in Poll(given, file, seed=seed).questions] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2] and orders[0] != [one.key for one in given]
    assert orders[0] == [one.key for one in Poll(given[::-1], file, seed=1).questions]


def test_what_can_not_be_told_apart_is_not_asked(file: Path) -> None:
    question = pairs(1)[0]
    item = question.item
    same = Question(item, "x/y", (f" {item.answers[0]}\n",), "pairwise")
    torn = Question(Item("t", "d", 0, "k", ("Kaks", "korda"), ("Üks",)), "x/y", ("a", "b"), "pairwise")
    short = Question(item, "x/y", ("a", "b"), "pairwise")
    again = Question(item, "x/teine", question.anchor, "pairwise")
    poll = Poll([question, same, torn, short, again, equivalence()], file, seed=1)
    assert poll.questions == [question]
    assert poll.left_out == {"identical": 1, "incomplete": 3, "repeated": 1}
    with pytest.raises(ConfigError, match=r"nothing to vote on \(1 identical\)"):
        Poll([same], file, seed=1)
    with pytest.raises(ConfigError, match="pairwise or equivalence"):
        Poll([Question(item, "x", ("a",), "pointwise")], file, seed=1)


def test_a_question_that_was_voted_on_keeps_its_sides(file: Path) -> None:
    """Also where another seed would draw others: who goes back sees what he saw."""
    poll = Poll(pairs(), file, seed=1)
    question, other = poll.questions[:2]
    poll.record("Mari", question, "a", "b", note="", seconds=1)
    drawn = set()
    for seed in range(2, 12):
        later = Poll(pairs(), file, seed=seed)
        assert later.first("Mari", question) == poll.first("Mari", question)
        assert [later.choice("Mari", question, axis) for axis in ("content", "language")] == ["a", "b"]
        drawn.add(later.first("Mari", other))
    assert drawn == {"model", "anchor"}
