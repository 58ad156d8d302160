"""What may leave the board of a command line, what a form may ask, and a board whose next state can't be made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from board_world import SMALL, fill
from estbench_leaderboard import public, site
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.view import chosen

from estbench.database import open_database


@pytest.mark.parametrize(
    "text", ["pip install x '&&' curl evil.example", "estbench push run=a", "estbench eval --x", "estbench eval 'a"]
)
def test_only_an_evaluation_is_shown_as_what_repeats_a_run(text: str) -> None:
    assert public.command(text) == ""
    assert public.command("estbench eval model=/home/me/m tasks=mini gold=/g") == "estbench eval model=m tasks=mini"


def test_weights_that_are_all_nothing_are_refused() -> None:
    assert chosen([("w.a", "2"), ("w.b", "0"), ("q", "x")]) == "a:2" and chosen([("q", "x")]) == ""
    with pytest.raises(BadRequest):
        chosen([("w.a", "0"), ("w.b", "0,0")])


def test_a_state_that_can_not_be_made_leaves_the_board_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_database(f"sqlite:///{tmp_path / 'world.db'}") as database:
        fill(database, **SMALL, answers=False)
        snapshots = site.Snapshots(database)
        first = snapshots.current()
        tried: list[float] = []

        def broken(_: object) -> None:
            tried.append(time.monotonic())
            raise KeyError("odd data")

        monkeypatch.setattr(site, "take", broken)
        monkeypatch.setattr(site, "CHECK", 0.0)
        with database.write():
            pass
        for _ in range(5):
            assert snapshots.current() is first
            if snapshots._making is not None:
                snapshots._making.join()
        assert len(tried) == 1  # and not again before the pause is over
