"""`estbench contamination`: what of a task is looked for, a run's clean and dirty scores, one line for a slip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_words import Words, write
from worlds import TEXT, World

from estbench import cli, registry, runner
from estbench.config import EvalSettings
from estbench.contamination.items import collect
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.plan import Scope, render


@pytest.fixture
def words() -> Words:
    return Words(1)


@pytest.fixture
def world(tmp_path: Path, home: Path, words: Words, monkeypatch: pytest.MonkeyPatch) -> World:
    """The task `words` with long texts; the first six of its documents are in `corpus.jsonl`."""
    made = World(tmp_path / "world")
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    monkeypatch.setenv("ESTBENCH_DATA", str(made.data))
    rows = [
        {
            "question": words.text(15),
            "first": "x",
            "second": words.text(10),
            "label": 0,
            "url": f"https://näide.ee/{words.text(9)}",
        }
        for _ in range(20)
    ]
    made.fill("words", rows)
    train = [dict(row) for row in rows[:4]]
    made.fill("words", rows, train)
    write(
        tmp_path / "corpus.jsonl",
        [row["question"] for row in rows[:4]] + [row["second"] for row in rows[3:6]] + [rows[9]["url"]],
    )
    return made


def evaluated(world: World) -> str:
    """The id of a run that has the documents in the corpus right, and the others wrong."""
    card = registry.Registry().task("words")
    answers = {
        row["question"]: row["second"]
        for row in map(json.loads, world.file("words").read_text("utf-8").splitlines()[:6])
    }
    engine = MockEngine(
        lambda prompt: next((a for q, a in answers.items() if prompt.rstrip().endswith(f"{q}\nVastus:")), "?")
    )
    tokens: Any = MockTokens()
    plan = render(card, tokens, engine.max_length, Scope(data=world.data))
    return runner.evaluate(
        runner.Job(EvalSettings(model="mock", tasks="words"), mock_checkpoint(), tokens, engine, [plan], [], {})
    ).id


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["contamination", *arguments])
        return code, *capsys.readouterr()

    return call


def test_a_task_is_looked_for_by_what_its_prompt_shows_and_its_golds(world: World, run: Cli, tmp_path: Path) -> None:
    code, out, err = run(f"corpus={tmp_path}/corpus.jsonl", "tasks=words")
    row = json.loads(out)["tasks"][0]
    assert code == 0 and not err
    assert {hit["doc_id"] for hit in row["hits"]} == {0, 1, 2, 3, 4, 5}  # not 9: nobody sees its link
    assert row["kinds"] == {"exact": 0, "words": 4, "characters": 4, "gold": 3}
    assert row["checked"] == 20 and row["share"] == 0.3


def test_tokens_are_one_text_and_rewritten_fields_are_looked_for_as_shown(world: World, words: Words) -> None:
    tokens, sentence = words.some(12), words.some(9)
    blank = " ".join([*sentence[:4], "_", *sentence[4:]])
    rows = [{"question": "Mis?", "tokens": tokens, "blank": blank, "second": words.text(9), "note": words.text(20)}]
    world.fill("words", rows * 2, rows)
    world.edit("words", doc_to_text="Sõnad: {{tokens | join(' ')}}", num_fewshot=0)
    tests = collect([registry.Registry().task("words")], world.data)
    assert tests.texts == [" ".join(tokens), rows[0]["second"]]  # neither what is too short nor what is not shown
    world.edit("words", doc_to_text="{{blank.replace('_', 'tema')}}")
    tests = collect([registry.Registry().task("words")], world.data)
    assert " ".join([*sentence[:4], "tema", *sentence[4:]]) in tests.texts
    metadata = world.read("words")["metadata"] | {"skill": "instructions"}  # their target says what is checked
    world.edit("words", metadata=metadata)
    assert rows[0]["second"] not in collect([registry.Registry().task("words")], world.data).texts


def test_a_run_is_scored_on_clean_and_dirty_documents(world: World, run: Cli, tmp_path: Path) -> None:
    name = evaluated(world)
    code, out, _ = run(f"corpus={tmp_path}/corpus.jsonl", f"run={name}")
    scores = {part: rows[0] for part, rows in json.loads(out)["tasks"][0]["scores"].items()}
    assert code == 0
    assert {part: (row["value"], row["n"]) for part, row in scores.items()} == {
        "all": (0.3, 20),
        "clean": (0.0, 14),
        "dirty": (1.0, 6),
    }
    assert scores["clean"]["ci_high"] < scores["dirty"]["ci_low"]
    code, out, _ = run(f"corpus={tmp_path}/corpus.jsonl", f"run={name}", "output=table", "near=true")
    assert code == 0 and "dirty" in out and "near" in out and "corpus.jsonl:1" in out


def test_a_run_of_other_tasks_or_other_rows_is_refused(world: World, run: Cli, tmp_path: Path) -> None:
    name = evaluated(world)
    code, out, err = run(f"corpus={tmp_path}/corpus.jsonl", f"run={name}", "tasks=letters")
    assert code == 2 and not out and "words" in err and err.count("\n") == 1
    rows = [json.loads(line) for line in world.file("words").read_text("utf-8").splitlines()]
    world.fill("words", [rows[0] | {"question": "Midagi muud?"}, *rows[1:]])
    code, _, err = run(f"corpus={tmp_path}/corpus.jsonl", f"run={name}")
    assert code == 2 and "other rows" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus=none.jsonl", "tasks=words"], "none.jsonl"),
        (["corpus={}/corpus.jsonl"], "tasks="),
        (["corpus={}/corpus.jsonl", "tasks=wrds"], "words"),
        (["corpus={}/corpus.jsonl", "tasks=words", "field=body"], "id, text"),
        (["corpus={}/corpus.jsonl", "tasks=words", "run=zzz"], "no run"),
    ],
)
def test_a_slip_is_answered_in_one_line(
    arguments: list[str], message: str, world: World, run: Cli, tmp_path: Path
) -> None:
    code, out, err = run(*(argument.format(tmp_path) for argument in arguments))
    assert code == 2 and not out and message in err and err.count("\n") == 1


def test_what_was_passed_over_is_said(world: World, run: Cli, tmp_path: Path) -> None:
    with open(tmp_path / "corpus.jsonl", "a", encoding="utf-8") as file:
        file.write("half a li\n")
    code, out, err = run(f"corpus={tmp_path}/corpus.jsonl", "tasks=words")
    assert code == 0 and "1 lines are no JSON" in err and json.loads(out)["unread"]["damaged"] == 1
    assert TEXT["metadata"]["publish_items"] and "text" in json.loads(out)["tasks"][0]["hits"][0]
