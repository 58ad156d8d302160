"""The server asks as an eval asks, without any model's tokenizer or template; and keeps withheld golds to itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from estbench_leaderboard.submissions.recompute import Lacking, Sources, known_task, plan_of, recompute
from estbench_leaderboard.submissions.rescoring import rescore_next
from submission_fixtures import Board, board

from estbench import runner
from estbench.config import EvalSettings
from estbench.database import queries
from estbench.plan import Scope, render
from estbench.registry import Registry
from estbench.runs import Run
from estbench.tokens import Tokens

__all__ = ["board"]  # a fixture
SAMPLES = Path("samples")
CHAT = "estqa_chat,exam_et_chat"
WITHHELD = "winogrande_et"


def test_the_server_makes_the_plan_that_an_eval_makes_for_every_task(tiny_model: Path) -> None:
    """Both forms, shots, options, whole texts: the hash of a plan is that of a model with tokenizer and template."""
    tokens, sources, registry = Tokens(tiny_model), Sources(data=SAMPLES), Registry()
    forms = set()
    for card in registry.tasks.values():
        try:
            known_task(card.name, sources)
        except Lacking:
            if not card.withheld:
                continue
        own = plan_of(card, {"settings": {"limit": 3}}, sources)
        theirs = render(card, tokens, 1 << 30, Scope(limit=3, data=SAMPLES))
        assert own.hash == theirs.hash, card.name
        forms.add((card.form, card.config.get("output_type", "generate_until")))
    assert len(forms) >= 4 and {form for form, _ in forms} == {"chat", "completion"}


@pytest.fixture
def evaluated(home: Path, tiny_model: Path) -> Callable[..., Run]:
    """A run of the tiny model on sample data."""

    def run(tasks: str, **more: Any) -> Run:
        settings = EvalSettings(model=str(tiny_model), tasks=tasks, data="samples", limit=4, truncate=True, **more)
        return runner.evaluate(runner.prepare(settings))

    return run


def test_a_chat_run_is_rescored_without_its_template(board: Board, evaluated: Callable[..., Run]) -> None:
    run = evaluated(CHAT)
    board.send(run)
    done = rescore_next(board.database, board.folder, Sources(data=SAMPLES))
    assert done is not None and done.state == "rescored", done
    assert (done.report or {})["identical"]
    [stored] = [row for row in queries.tasks(board.database, run.id) if row.task == "estqa_chat"]
    assert stored.form == "chat"


def test_other_data_than_the_boards_is_rejected_and_the_setting_named(
    board: Board, evaluated: Callable[..., Run], tmp_path: Path
) -> None:
    run = evaluated("estqa_chat", shots=0)
    plan = Registry().task("estqa_chat")
    board.send(evaluated("estqa_chat", shots=(plan.shots + 1) % 3))
    done = rescore_next(board.database, board.folder, Sources(data=SAMPLES))
    assert done is not None and done.state == "rejected" and "shots=" in (done.reason or ""), (run.id, done.reason)


@pytest.fixture
def golds(tmp_path: Path) -> Path:
    """A maintainers' folder with golds for the withheld task's sample rows."""
    from estbench.lm_tasks import load_rows

    card = Registry().task(WITHHELD)
    rows = [row for split in load_rows(card, SAMPLES).splits.values() for row in split]
    folder = tmp_path / "golds"
    folder.mkdir()
    text = "".join(json.dumps({"qID": row["qID"], "answer": "12"[i % 2]}) + "\n" for i, row in enumerate(rows))
    (folder / f"{WITHHELD}.jsonl").write_text(text, "utf-8")
    return folder


def test_withheld_golds_score_and_do_not_leak(
    board: Board, evaluated: Callable[..., Run], golds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated(WITHHELD)
    assert all(score.value is None for score in run.scores())  # the sender has no golds
    sent = board.send(run)
    waiting = rescore_next(board.database, board.folder, Sources(data=SAMPLES))
    assert waiting is not None and waiting.state == "received" and "golds are withheld" in (waiting.reason or "")

    from sqlalchemy import update

    from estbench.database import schema

    with board.database.write() as connection:
        connection.execute(update(schema.submissions).values(lease=None))
    done = rescore_next(board.database, board.folder, Sources(data=SAMPLES, golds=golds))
    assert done is not None and done.state == "rescored"
    [score] = [row.score for row in queries.scores(board.database, primary=True)]
    assert score.task == WITHHELD and score.value is not None
    stored = Run(board.folder / "runs" / run.id)
    assert all(sample.target is None for sample in stored.samples(WITHHELD))
    assert all(doc.target is None for doc in stored.plan(WITHHELD))
    with board.database.read() as connection:  # an answer and whether it is right would tell the gold
        for table in (schema.items, schema.responses, schema.prompts):
            assert connection.execute(table.select()).all() == []
    assert moderation_text(board, sent.id).count('"answer"') == 0


def moderation_text(board: Board, identity: str) -> str:
    from estbench_leaderboard.submissions import moderation

    return json.dumps([moderation.find(board.database, identity).report, moderation.public_submissions(board.database)])


def test_what_the_server_lacks_is_said_task_by_task(
    board: Board, evaluated: Callable[..., Run], tmp_path: Path
) -> None:
    from estbench_leaderboard.submissions.bundle import open_bundle

    bundle = open_bundle(board.pack(evaluated("estqa_chat")).path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Lacking, match="no data for it"):
        recompute(bundle, "estqa_chat", Sources(data=tmp_path / "empty"))
