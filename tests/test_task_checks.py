"""`estbench tasks check` finds what makes a task wrong, and finds nothing in our own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from worlds import TEXT, World, rows

from estbench import cli, registry
from estbench.registry import Registry
from estbench.task_checks import check_task

TASKS = Registry().tasks


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def messages(world: World, task: str = "words") -> list[str]:
    return [str(problem) for problem in check_task(Registry().task(task), world.data)]


@pytest.mark.parametrize("name", TASKS)
def test_no_task_of_ours_has_a_problem(name: str) -> None:
    assert [str(problem) for problem in check_task(TASKS[name], Path("samples"))] == []


def test_sound_tasks_have_no_problem(world: World) -> None:
    assert messages(world, "words") == [] and messages(world, "letters") == []


def metadata(**changes: Any) -> dict[str, Any]:
    return {"metadata": {key: value for key, value in (TEXT["metadata"] | changes).items() if value != "absent"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doc_to_text": "Küsimus: {{question}}\nVastus\uff1a"}, "full-width sign '：'"),
        ({"doc_to_text": "K\u0075\u0308simus: {{question}}\nVastus:"}, "not NFC"),
        ({"doc_to_target": ""}, "no gold answer"),
        ({"generation_kwargs": {"until": [" "], "max_gen_toks": 6}}, "stop ' ' occurs inside a gold answer"),
        ({"generation_kwargs": {"until": ["\n"], "max_gen_toks": 1}}, "does not fit into 1 tokens"),
        ({"fewshot_split": "test"}, "shots come from the tested split"),
        ({"doc_to_text": "{{nosuch}}"}, "does not render|nosuch"),
        (metadata(licence="absent"), "metadata.licence is missing"),
        (metadata(licens="CC0"), "metadata.licens is unknown"),
        (metadata(skill="magic"), "skill 'magic' is none of"),
        (metadata(primary="bleu"), "primary 'bleu' is not in metric_list"),
        (metadata(access="gated"), "publish_items has to be false"),
        (metadata(title={"et": "Sõnad"}), "title needs et and en"),
        (metadata(form="chat"), "a chat task is generated and has no shots"),
    ],
)
def test_each_kind_of_mistake_is_found(world: World, change: dict[str, Any], words: str) -> None:
    world.edit("words", **change)
    found = messages(world)
    assert found and any(re.search(words, message) for message in found), found


def test_a_list_of_templates_is_found(world: World) -> None:
    world.edit("letters", doc_to_choice=["{{first}}", "{{second}}"])
    assert any("was not rendered" in message for message in messages(world, "letters"))


def test_a_gold_that_is_no_choice_is_found(world: World) -> None:
    wrong = [row | {"label": 2} for row in rows(6)[1:]]  # the first one lm-eval looks at itself
    world.fill("letters", rows(1) + wrong, rows(4, start=1000))
    found = messages(world, "letters")
    assert any("gold 2 is none of its 2 choices" in message for message in found), found
    assert any("and 2 more documents" in message for message in found)


def test_a_shot_that_is_the_document_is_found(world: World) -> None:
    world.fill("words", rows(6), rows(4))  # the train split repeats four of the test split
    assert any("is one of its own shots" in message for message in messages(world))


def test_the_command_tells_and_exits_1(world: World, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "check", f"data={world.data}"]) == 0
    assert {row["level"] for row in json.loads(capsys.readouterr().out)} == {"ok"}
    world.edit("words", doc_to_target="")
    assert cli.main(["tasks", "check", "tasks=words", f"data={world.data}", "output=table"]) == 1
    assert "no gold answer" in capsys.readouterr().out
    assert cli.main(["tasks", "check", "tasks=words"]) == 0  # no sample of it: said, and no problem
    assert json.loads(capsys.readouterr().out)[0]["level"] == "not checked"
