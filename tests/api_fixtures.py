"""A board to ask by its API: the made-up world behind a client.

@pytest.fixture: client, own_world           # pytest imports them by name from here
everything(client, "/api/v1/models")         # all rows of a list
slug_of(board_world, "best")                 # the slug of a case's model
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_world import SMALL, World, fill
from estbench_leaderboard.app import create
from estbench_leaderboard.site import Site
from starlette.testclient import TestClient

from estbench.database import open_database

NOT_SHOWN = ("hidden", "received", "unpublished", "rejected", "taken_back", "embargoed")


@pytest.fixture(scope="module")
def client(board_world: World) -> Iterator[TestClient]:
    with TestClient(create(Site(board_world.database, base_url="https://tabel.example.ee"))) as client:
        yield client


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    """A world that a test may change."""
    with open_database(f"sqlite:///{tmp_path / 'own.db'}") as database:
        yield fill(database, **SMALL)


def everything(client: TestClient, path: str) -> list[dict[str, Any]]:
    """All rows of a list, by its own links."""
    rows, url = [], path
    for _ in range(500):
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        rows += answer.json()["rows"]
        if "next" not in answer.links:
            return rows
        url = answer.links["next"]["url"]
    raise AssertionError("the links have no end")


def slug_of(world: World, case: str) -> str:
    model = world.snapshot().model(world.cases[case])
    assert model is not None
    return model.slug
