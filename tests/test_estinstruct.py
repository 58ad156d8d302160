"""EstInstruct: what its 320 rows have to be, so that nobody finds out from a score that a row is odd."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from estbench_judges import items, rubrics
from estbench_judges.rendering import Case
from estbench_judges.screens import screen
from judge_server import Prompt

from estbench.estonian.language import UNKNOWN, identify
from estbench.registry import Registry
from estbench.task_checks import check_task

FOLDER = ROOT / "tasks" / "own" / "estbench__estinstruct"
FIELDS = {
    *("id", "category", "difficulty", "prompt", "follow_up", "checklist", "follow_up_checklist", "reference"),
    *("answer", "follow_up_answer", "language", "canary"),
}
SECOND = ("follow_up", "follow_up_checklist", "follow_up_answer")
CATEGORIES, EACH, TWO_TURNS = 10, 32, 7
READ = 300  # signs that mostly tell a language
GRAM, ALIKE = 8, 0.5  # signs of a piece; share of pieces that no two prompts may have in common
TASKS = ("estinstruct_chat", "estinstruct_language_chat")


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "default" / "test.jsonl").read_text("utf-8").splitlines()]


ROWS = read()
pytestmark = pytest.mark.filterwarnings("error")


def answers(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(text for text in (row["answer"], row["follow_up_answer"]) if text is not None)


def criteria(row: dict[str, Any]) -> list[str]:
    return [*row["checklist"], *(row["follow_up_checklist"] or [])]


def language_of(text: str, wanted: str) -> str:
    """Of its beginning, or of all of it where that is not the one that is wanted (it may be code)."""
    return wanted if identify(text[:READ]) == wanted else identify(text)


def odd(found: dict[str, Any]) -> dict[str, Any]:
    """What is wrong, by id: an assertion shows it."""
    return {name: value for name, value in found.items() if value}


def test_there_are_320_rows_in_ten_categories_with_seven_conversations_each() -> None:
    assert Counter(row["category"] for row in ROWS) == dict.fromkeys({row["category"] for row in ROWS}, EACH)
    assert len({row["category"] for row in ROWS}) == CATEGORIES and len(ROWS) == CATEGORIES * EACH
    two = Counter(row["category"] for row in ROWS if row["follow_up"])
    assert two == dict.fromkeys({row["category"] for row in ROWS}, TWO_TURNS)


def test_difficulties_are_balanced() -> None:
    whole = Counter(row["difficulty"] for row in ROWS)
    assert set(whole) == {"kerge", "keskmine", "raske"}
    assert all(abs(n - len(ROWS) / 3) <= 0.03 * len(ROWS) for n in whole.values()), whole
    by_category = Counter((row["category"], row["difficulty"]) for row in ROWS)
    assert len(by_category) == 3 * CATEGORIES and min(by_category.values()) >= 8, by_category


def test_every_row_has_the_fields_and_no_other() -> None:
    assert not odd({row["id"]: set(row) ^ FIELDS for row in ROWS})
    wrong = {
        row["id"]: [name for name in ("id", "category", "prompt", "answer", "language") if not str(row[name]).strip()]
        for row in ROWS
    }
    assert not odd(wrong)


def test_texts_are_nfc_and_trimmed_without_odd_signs() -> None:
    def wrong(text: str) -> bool:
        control = any(
            unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cs", "Cn") and sign not in "\n\t" for sign in text
        )
        return control or not unicodedata.is_normalized("NFC", text) or text != text.strip()

    def texts(row: dict[str, Any]) -> list[str]:
        whole = [value for value in row.values() if isinstance(value, str)]
        return whole + [text for value in row.values() if isinstance(value, list) for text in value]

    assert not odd({row["id"]: [text for text in texts(row) if wrong(text)] for row in ROWS})


def test_ids_and_prompts_come_once() -> None:
    for name in ("id", "prompt"):
        assert not [value for value, n in Counter(row[name] for row in ROWS).items() if n > 1]
    assert all(row["id"].startswith(f"{row['category']}-") for row in ROWS)
    plain = Counter(re.sub(r"\W+", " ", row["prompt"].casefold()).strip() for row in ROWS)
    assert max(plain.values()) == 1
    follow_ups = Counter(row["follow_up"] for row in ROWS if row["follow_up"])
    assert max(follow_ups.values()) == 1


def pieces(text: str) -> set[str]:
    plain = " ".join(re.findall(r"\w+", text.casefold()))
    return {plain[i : i + GRAM] for i in range(max(1, len(plain) - GRAM + 1))}


def alike(texts: dict[str, str]) -> list[tuple[str, str, float]]:
    """Pairs with more than `ALIKE` of the shorter one's pieces in common."""
    found = {name: pieces(text) for name, text in texts.items()}
    shares = (
        (a, b, len(found[a] & found[b]) / min(len(found[a]), len(found[b])))
        for a, b in itertools.combinations(found, 2)
    )
    return [row for row in shares if row[2] > ALIKE]


def test_no_two_prompts_and_no_two_answers_are_nearly_the_same() -> None:
    prompts = {row["id"]: f"{row['prompt']} {row['follow_up'] or ''}" for row in ROWS}
    assert not alike(prompts)
    assert not alike({row["id"]: " ".join(answers(row)) for row in ROWS})
    first = ROWS[0]["prompt"]  # negative control: a word more and one less
    changed = f"Palun {first.partition(' ')[2]}"
    assert [row[:2] for row in alike({"a": first, "b": changed, **{r["id"]: r["prompt"] for r in ROWS[1:]}})] == [
        ("a", "b")
    ]


def test_the_canary_is_in_every_row_and_nowhere_else_among_the_tasks() -> None:
    canary = Registry().task(TASKS[0]).metadata["canary"]
    assert re.fullmatch(r"estbench-canary [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", canary)
    assert {row["canary"] for row in ROWS} == {canary}
    assert not [row["id"] for row in ROWS if canary in json.dumps({**row, "canary": ""})]
    copies = ROOT / "tasks" / "samples" / FOLDER.name  # rows of this very set, for trying
    files = [path for path in (ROOT / "tasks").rglob("*") if path.is_file() and _holds(path, canary.split()[1])]
    elsewhere = [path for path in files if not path.is_relative_to(FOLDER) and not path.is_relative_to(copies)]
    assert [path.name for path in elsewhere] == [f"{TASKS[0]}.yaml"]


def _holds(path: Path, word: str) -> bool:
    return word.encode() in path.read_bytes()


def test_fields_of_the_second_turn_go_together() -> None:
    assert not [row["id"] for row in ROWS if len({bool(row[name]) for name in SECOND}) > 1]
    assert all(row[name] is None for row in ROWS for name in SECOND if not row["follow_up"])


def test_criteria_are_questions_that_yes_answers() -> None:
    def wrong(row: dict[str, Any]) -> list[str]:
        found = [one for one in criteria(row) if not one.startswith(("Kas ", "Ega ")) or not one.endswith("?")]
        return found + [
            one
            for one, n in Counter(criteria(row)).items()
            if n > 1 or (one.count("?") > 1 and '"' not in one and "„" not in one)
        ]

    assert not odd({row["id"]: wrong(row) for row in ROWS})
    assert all(3 <= len(row["checklist"]) <= 8 for row in ROWS)
    assert all(2 <= len(row["follow_up_checklist"]) <= 8 for row in ROWS if row["follow_up"])


def test_answers_are_in_the_language_that_the_row_says() -> None:
    """Of code nothing is known; a text too short to tell is not another language."""
    assert {row["language"] for row in ROWS} <= {"et", "en", "ru", "fi", "code"}
    assert sum(row["language"] == "et" for row in ROWS) >= 0.9 * len(ROWS)
    spoken = [row for row in ROWS if row["language"] != "code"]
    found = {row["id"]: [language_of(text, row["language"]) for text in answers(row)] for row in spoken}
    assert not odd({row["id"]: set(found[row["id"]]) - {row["language"], UNKNOWN} for row in spoken})
    told = sum(found[row["id"]].count(row["language"]) for row in spoken)
    assert told >= 0.95 * sum(map(len, found.values()))
    asked = Counter(identify(row["prompt"][:READ]) for row in ROWS)
    assert asked["et"] >= 0.97 * len(ROWS), asked


def test_references_are_said_where_there_is_something_to_be_right_about() -> None:
    with_one = [row for row in ROWS if row["reference"]]
    assert len(with_one) >= len(ROWS) / 4 and all(row["reference"] is None for row in ROWS if not row["reference"])
    assert not [row["id"] for row in with_one if row["reference"] == row["answer"]]


def test_no_screen_stops_an_anchor_s_answer() -> None:
    stopped = {row["id"]: screen(answers(row), row["language"]) for row in ROWS}
    assert not odd(stopped)


def test_every_row_makes_a_judge_s_prompt_in_every_mode_that_fits_it() -> None:
    loaded = [rubrics.load(name) for name in rubrics.names()]
    made: Counter[str] = Counter()
    for item in items.unanswered(TASKS[0]):
        assert item.anchors and item.checklists and len(item.anchors) == len(item.turns)
        answered = items.Item(**{name: getattr(item, name) for name in item.__slots__} | {"answers": item.anchors})
        for rubric, mode in ((one, mode) for one in loaded for mode in one.modes):
            lacks_reference = (rubric.needs == "reference" or mode == "equivalence") and not item.reference
            if lacks_reference or (rubric.needs == "two_turns" and len(item.turns) < 2):
                continue
            case = Case(answered, rubric, mode, other=item.anchors if mode == "pairwise" else ())
            system, user = (one["content"] for one in case.messages())
            prompt = Prompt.of(user)
            assert prompt.parts["TASK"] == (list(item.turns) if len(item.turns) > 1 else item.turns[0])
            said = prompt.answer("ANSWER_A" if mode == "pairwise" else "ANSWER")
            assert said == "\n\n".join(item.anchors)
            assert not any(item.anchors[0] in text for _, text in prompt.outside) and "{" not in system
            made[mode] += 1
    assert made["pairwise"] >= 3 * len(ROWS) and made["checklist"] == len(ROWS) and made["equivalence"] >= 100


@pytest.mark.parametrize("name", TASKS)
def test_its_tasks_are_part_of_core_and_have_no_problems(name: str) -> None:
    assert name in {task.name for task in Registry().select("core").tasks}
    assert check_task(Registry().task(name)) == []
