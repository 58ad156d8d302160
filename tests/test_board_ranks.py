"""In which order models stand on the board: what a rank is made of, and what comes first by every key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from board_places import known, page, places, plain, shown
from board_world import World
from estbench_leaderboard import board, site
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.query import Query
from estbench_leaderboard.snapshot import Snapshot, take

__all__ = ["shown"]  # a fixture

# ---- ranks


def test_nobody_climbs_by_hiding_others(shown: Snapshot) -> None:
    everyone = places(page(shown))
    for values in ({"size": "small"}, {"open": "yes"}, {"q": "labor3"}, {"since": "2026-06-03"}, {"commercial": "no"}):
        some = places(page(shown, **values))
        assert 0 < len(some) < len(everyone)
        assert some.items() <= everyone.items()


def test_every_skill_counts_the_same(shown: Snapshot) -> None:
    chat = shown.boards["chat"]
    weights = chat.weights(chat.tasks)
    by_skill: dict[str, float] = {}
    for name, weight in weights.items():
        by_skill[chat.tasks[name].skill] = by_skill.get(chat.tasks[name].skill, 0.0) + weight
    assert set(by_skill.values()) == {1.0}


def test_weights_change_the_score_as_they_say(shown: Snapshot, board_world: World) -> None:
    one, other = board_world.tasks["chat"][:2]
    best = known(shown, board_world, "best").slug
    alone = [places(page(shown, tasks=task))[best][3] for task in (one, other)]
    both = places(page(shown, tasks=f"{one}:3,{other}:1"))[best][3]
    assert both == pytest.approx(0.75 * alone[0] + 0.25 * alone[1])
    assert places(page(shown, tasks=f"{one}:6,{other}:2"))[best][3] == pytest.approx(both)


def test_a_task_without_weight_is_shown_and_does_not_count(shown: Snapshot, board_world: World) -> None:
    one, other = board_world.tasks["chat"][:2]
    found = page(shown, tasks=f"{one},{other}:0", view="tasks")
    assert {column.key: column.weight for column in found.columns if column.weight} == {one: 1.0}
    assert other in {column.key for column in found.columns}
    assert places(found) == places(page(shown, tasks=one))


def test_translation_counts_as_estonian(shown: Snapshot) -> None:
    assert "flores_en_et_chat" in shown.boards["chat"].defaults
    assert set(page(shown, preset="translation").weights) == {"flores_en_et_chat"}


def test_the_best_is_first_and_cannot_be_told_from_itself(shown: Snapshot, board_world: World) -> None:
    found = page(shown)
    assert found.every[0].model.fingerprint == board_world.cases["best"]
    assert found.every[0].ranked is not None and found.every[0].ranked.klass == 1
    for column in found.columns:
        levels = [row.cells[column.key].level for row in found.every]
        assert 0 in levels and {level for level in levels if level is not None} <= {0, 1, 2, 3}


def test_distance_is_counted_in_intervals(shown: Snapshot) -> None:
    found = page(shown, view="tasks")
    for column in found.columns:
        sign = 1 if column.higher_is_better else -1
        for row in found.every:
            value = row.cells[column.key]
            if value.distance is None or value.value is None or value.low is None or value.high is None:
                continue
            apart = np.hypot((value.high - value.low) / 2, column.best_half)
            assert value.distance == pytest.approx(abs((column.best or 0.0) - value.value) / apart)
            if row.ranked:
                assert sign * ((column.best or 0.0) - value.value) >= 0  # nobody ranked is better than the best


# ---- order


@pytest.mark.parametrize("key", ["rank", "name", "size", "date", "tokens", "grammar", "knowledge"])
def test_what_has_no_value_comes_last_either_way_round(key: str, shown: Snapshot) -> None:
    def value(row: board.Row) -> Any:
        simple = {
            "rank": row.ranked and row.ranked.klass,
            "name": row.model.name,
            "size": row.model.parameters,
            "date": row.model.created,
            "tokens": row.model.tokens_per_word,
        }
        return simple[key] if key in simple else row.cells[key].value

    forth, back = (list(page(shown, sort=key, order=order).every) for order in ("", "reverse"))
    some = sum(value(row) is not None for row in forth)
    for rows in (forth, back):
        assert all(value(row) is not None for row in rows[:some])
        assert all(value(row) is None for row in rows[some:])
    assert forth[:some] == back[:some][::-1] and forth[some:] == back[some:]


def test_the_best_comes_first_whatever_better_means(shown: Snapshot) -> None:
    found = page(shown, board="checkpoints", view="tasks", sort="bits_per_byte_et")
    values = [row.cells["bits_per_byte_et"].value for row in found.every]
    assert values == sorted(values)
    found = page(shown, sort="reading")
    values = [row.cells["reading"].value for row in found.every if row.cells["reading"].value is not None]
    assert values == sorted(values, reverse=True)


def test_pages_together_are_the_whole_list(shown: Snapshot) -> None:
    whole = page(shown).every
    pages = page(shown, rows="50").pages
    paged = [row for number in range(1, pages + 1) for row in page(shown, rows="50", page=str(number)).rows]
    assert [row.model.slug for row in paged] == [row.model.slug for row in whole]
    with pytest.raises(BadRequest):
        page(shown, rows="50", page=str(pages + 1))


def test_unranked_rows_are_there_when_asked_for(shown: Snapshot) -> None:
    usual = board.page(shown, Query.read({"rows": "200"}))
    assert all(row.ranked or row.unranked == "reference" for row in usual.every)
    assert {row.unranked for row in page(shown).every} >= {
        "claimed",
        "rescored",
        "withdrawn",
        "reference",
        "incomplete",
    }


def test_the_same_database_gives_the_same_board(board_world: World) -> None:
    one, other = (take(board_world.database) for _ in range(2))
    assert site.as_json(plain(one)) == site.as_json(plain(other)) and places(page(one)) == places(page(other))
