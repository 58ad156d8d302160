"""The mini tasks in chat form: the prompts that the chat models learnt, and what their answers are worth."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from estbench import config
from estbench.demo import MODELS, recipes, rows, stream, tasks, tokenizer, train
from estbench.demo.__main__ import SHOWN, main, suite_of
from estbench.lm_tasks import LmTask
from estbench.registry import Registry

SUITE = Registry().suites["mini_chat"]


@functools.cache
def loaded(task: str) -> LmTask:
    return LmTask(Registry().task(f"{task}_chat"))


def results(task: str, doc: dict[str, Any], answer: str) -> dict[str, Any]:
    return dict(loaded(task).task.process_results(doc, [answer]))


def test_the_suite_is_the_mini_suite_in_chat_form() -> None:
    assert SUITE.tasks == [f"{task}_chat" for task in Registry().suites["mini"].tasks] and SUITE.form == "chat"


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_yaml_asks_what_the_chat_models_learnt(task: str) -> None:
    lm, docs = loaded(task), rows(task)["test"]
    assert lm.card.form == "chat" and lm.card.chance == Registry().task(task).chance
    for doc in docs[:20]:
        assert lm.task.doc_to_text(doc) == tasks.prompt(task, doc, chat=True)
        assert str(lm.task.doc_to_target(doc)) == tasks.answer(task, doc)
    kind, prompt = recipes.Recipe({task: 1}, examples=2, chat=True), next(stream.instructions(task, "1", True))[0]
    assert train.pairs(kind)[0][0] == prompt
    words = tokenizer.train()
    (ids, start), *_ = train.examples(kind, words)
    assert words.decode(ids[:start]) == tokenizer.chat_prompt(prompt)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_right_answer_is_right_and_none_can_not_be_read(task: str) -> None:
    doc = rows(task)["test"][0]
    primary = Registry().task(f"{task}_chat").primary
    right, none = results(task, doc, f" {tasks.answer(task, doc)}"), results(task, doc, "")
    assert right["parse_failure"] == 0 and none["parse_failure"] == 1
    if primary in ("acc", "em", "exact_match", "follow"):
        assert (right[primary], none[primary]) == (1, 0)


def test_copa_takes_the_other_ending_as_wrong_and_any_other_text_as_unreadable() -> None:
    for doc in rows("mini_copa")["test"][:10]:
        other = doc[f"choice{2 - doc['label']}"]
        assert results("mini_copa", doc, other) == {"acc": 0, "parse_failure": 0}
        assert results("mini_copa", doc, "A") == {"acc": 0, "parse_failure": 1}


def test_always_the_first_ending_gets_half_of_copa() -> None:
    docs = rows("mini_copa")["test"]
    task = loaded("mini_copa").task
    assert sum(task.process_results(doc, [doc["choice1"]])["acc"] for doc in docs) == len(docs) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, recipe in recipes.RECIPES.items() if recipe.chat])
def test_no_chat_prompt_of_the_tests_is_in_the_training(name: str) -> None:
    prompts = {prompt for prompt, _ in train.pairs(recipes.RECIPES[name])}
    seed = str(recipes.RECIPES[name].seed)
    for task in tasks.TASKS:
        assert next(stream.instructions(task, seed, chat=True))[0] in prompts  # they are there to be found
        assert not prompts & {tasks.prompt(task, doc, chat=True) for doc in rows(task)["test"]}


def test_each_model_is_asked_in_the_form_that_it_learnt() -> None:
    chat = {name for name, recipe in recipes.RECIPES.items() if recipe.chat}
    assert {name for name in MODELS if suite_of(name) == "mini_chat"} == chat
    assert set(MODELS) - set(SHOWN) == {"demo", "demo-en", "demo-english"}


@pytest.mark.slow
def test_the_demo_command_leaves_a_run_of_each_model_and_answers_nothing_twice(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`demo` as it is, the others after a few steps, and a few documents of each task."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / demo_model.name).symlink_to(demo_model)
    monkeypatch.setenv("ESTBENCH_HOME", str(home))
    monkeypatch.setattr(config, "EvalSettings", functools.partial(config.EvalSettings, limit=6))
    for name in set(recipes.RECIPES) - {"demo"}:
        monkeypatch.setitem(recipes.RECIPES, name, dataclasses.replace(recipes.RECIPES[name], examples=400, steps=20))
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SHOWN)
    runs = [json.loads(path.read_text("utf-8")) for path in (home / "runs").glob("*/manifest.json")]
    assert sorted(run["name"] for run in runs) == sorted(SHOWN)
    assert all(run["model"]["training"]["name"] == run["name"] and run["model"]["card"]["licence"] for run in runs)
    assert {stage["name"] for run in runs if run["name"] == "demo-et-chat"
            for stage in run["model"]["training"]["lineage"]} == {"demo-base", "demo-et", "demo-et-chat"}  # fmt: skip
    before = {path: path.stat().st_size for path in (home / "responses").rglob("*") if path.is_file()}
    assert main() == 0
    assert {path: path.stat().st_size for path in (home / "responses").rglob("*") if path.is_file()} == before
