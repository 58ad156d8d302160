"""Who is where on the board of the made-up world, for the tests of its rules.

@pytest.fixture: shown, world                # the snapshot of `board_world`; a world of one test, which may change it
known(shown, board_world, "best")            # the model of a case; `find` where there may be none
places(page(shown, tasks="estcopa"))         # the places of all models on a page of the chat board
change(database, table, where, …), decide(world, "hide", model=…)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_world import SMALL, World, fill
from estbench_leaderboard import board, decided
from estbench_leaderboard.query import Query
from estbench_leaderboard.snapshot import Model, Snapshot
from sqlalchemy import insert, update

from estbench.database import Database, open_database, schema

CHAT = {"board": "chat", "all": "yes", "rows": "200"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of one test, which may change it."""
    with open_database(f"sqlite:///{tmp_path / 'world.db'}") as database:
        yield fill(database, **SMALL, answers=False)


@pytest.fixture(scope="module")
def shown(board_world: World) -> Snapshot:
    return board_world.snapshot()


def find(snapshot: Snapshot, world: World, case: str, name: str = "chat") -> Model | None:
    return snapshot.model(world.cases[case], name)


def known(snapshot: Snapshot, world: World, case: str, name: str = "chat") -> Model:
    found = find(snapshot, world, case, name)
    assert found is not None, case
    return found


def page(snapshot: Snapshot, **values: str) -> board.Page:
    return board.page(snapshot, Query.read(CHAT | values))


def places(found: board.Page) -> dict[str, tuple[int, int, int, float]]:
    """Model -> its place."""
    return {
        row.model.slug: (row.ranked.rank_low, row.ranked.rank_high, row.ranked.klass, row.ranked.score)
        for row in found.every
        if row.ranked
    }


def change(database: Database, table: Any, where: Any, **values: Any) -> None:
    with database.write() as connection:
        assert connection.execute(update(table).where(where).values(**values)).rowcount


def decide(world: World, action: str, **about: Any) -> None:
    told = {"created": decided.now(), "actor": "keegi", "reason": "põhjus", "public": True}
    with world.database.write() as connection:
        connection.execute(insert(schema.decisions).values(action=action, **told, **about))


def plain(snapshot: Snapshot) -> Any:
    boards = [(name, of.tasks, of.models, of.defaults) for name, of in snapshot.boards.items()]
    return [boards, snapshot.decisions, snapshot.runs]
