"""A checkpoint curve shows score against tokens seen, with intervals, and the noise that is no learning."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from board_pages import World, add, client, fingerprint
from database_fixtures import FakeDoc
from estbench_leaderboard import curve
from estbench_leaderboard.catalogue import languages
from estbench_leaderboard.charts.curve import amount, draw
from estbench_leaderboard.errors import BadRequest
from estbench_leaderboard.snapshot import Snapshot, take

from estbench.database import open_database
from estbench.stats.noise import step_noise

BILLION = 1_000_000_000
RIGHT = (20, 24, 23, 27, 30, 29)  # of 40


def choices(right: int, n: int = 40) -> list[FakeDoc]:
    return [
        FakeDoc(values={"acc": int(place < right)}, row=f"rida {place}", prompt=f"viip {place}") for place in range(n)
    ]


def series(world: World, tokens: Sequence[float], *, name: str = "samm", final: bool = True) -> None:
    """Checkpoints, and a final model of the last one's weights that stands on the board of base models."""
    for place, (seen, right) in enumerate(zip(tokens, RIGHT, strict=True)):
        training: dict[str, Any] = {"series": "sari", "tokens": seen, "step": place, "final": False}
        docs = {"copa": choices(right), "lugu": choices(right - 5)}
        add(
            world, f"{name}-{place}", fingerprint(f"{place}"), docs, day=place + 1, form="completion", training=training
        )
    if final:
        training = {"series": "sari", "tokens": tokens[-1], "final": True}
        docs = {"copa": choices(31), "lugu": choices(26)}
        add(world, "valmis", fingerprint("f"), docs, day=20, form="completion", training=training)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_database(f"sqlite:///{tmp_path / 'world.db'}") as database:
        yield World(database, tmp_path / "runs", {})


def found(snapshot: Snapshot, word: str = "samm-0", **asked: str) -> curve.Curve:
    model = snapshot.model(word)
    assert model is not None
    made = curve.of(snapshot, model, **asked)
    assert made is not None
    return made


def test_the_points_are_all_checkpoints_and_the_final_model_in_order(world: World) -> None:
    series(world, [BILLION * (place + 1) for place in range(6)])
    snapshot = take(world.database)
    made = found(snapshot, key="copa")
    assert [point.model.name for point in made.points] == [f"samm-{place}" for place in range(6)] + ["valmis"]
    assert [point.final for point in made.points] == [False] * 6 + [True]
    assert [point.value for point in made.points[:6]] == [right / 40 for right in RIGHT]
    assert (made.points[0].low, made.points[0].high) == pytest.approx((0.4, 0.6))
    assert found(snapshot, "valmis", key="copa").points == made.points


def test_the_band_is_the_noise_from_step_to_step(world: World) -> None:
    series(world, [BILLION * (place + 1) for place in range(6)])
    made = found(take(world.database), key="copa")
    noise = step_noise([right / 40 for right in RIGHT])  # the final model is the last step again, and no step more
    assert made.noise == noise and made.band == pytest.approx(1.96 * noise.noise)
    assert made.noise is not None and made.noise.snr is not None and made.noise.snr > 1


def test_by_default_it_is_the_mean_corrected_for_chance(world: World) -> None:
    series(world, [BILLION * (place + 1) for place in range(6)])
    made = found(take(world.database))
    assert (made.key, made.unit, made.chance, set(made.tasks)) == ("mean", "corrected", 0.0, {"copa", "lugu"})
    first = made.points[0]
    assert first.value == pytest.approx(((20 / 40 - 0.5) / 0.5 + (15 / 40 - 0.5) / 0.5) / 2)
    assert first.low is not None and first.value is not None
    assert first.value - first.low == pytest.approx(0.1 * 2 / 2**0.5)  # two independent halves
    assert made.choices == ("mean", "reasoning", "copa", "lugu")


def test_uneven_steps_have_no_noise_and_a_logarithmic_axis(world: World) -> None:
    series(world, [1e6 * 10**place for place in range(6)])
    made = found(take(world.database), key="copa")
    assert (made.noise, made.unknown, made.logarithmic) == (None, "uneven", True)
    assert not found(take(world.database), key="copa", scale="linear").logarithmic


def test_another_version_of_a_task_is_no_point_of_the_curve(world: World) -> None:
    series(world, [BILLION * (place + 1) for place in range(6)])
    training = {"series": "sari", "tokens": 7 * BILLION, "final": True}
    add(world, "teine", fingerprint("e"), {"copa": choices(40, 41)}, day=25, form="completion", training=training)
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE run_tasks SET shots = 5 WHERE run_id = 'jooks-eeee-25'")
    last = found(take(world.database), key="copa").points[-1]
    assert (last.model.name, last.value, last.reason) == ("teine", None, "not_run")


def test_a_wrong_choice_is_refused_and_a_model_without_series_has_no_curve(world: World) -> None:
    series(world, [BILLION * (place + 1) for place in range(6)])
    add(world, "üksik", fingerprint("d"), {"copa": choices(9)}, day=26, form="completion", training={"series": 5})
    snapshot = take(world.database)
    model, alone = snapshot.model("samm-0"), snapshot.model("üksik")
    assert model is not None and alone is not None
    for wrong in ({"key": "olematu"}, {"scale": "kuubis"}):
        with pytest.raises(BadRequest):
            curve.of(snapshot, model, **wrong)
    assert curve.of(snapshot, alone) is None


def test_the_figure_is_xml_with_its_words_and_a_point_each(world: World) -> None:
    series(world, [BILLION * (place + 1) for place in range(6)], name="<b>&")
    made = found(take(world.database), "<b>&-0", key="copa")
    for code in ("et", "en"):
        svg = draw(made, languages()[code], title="<b>&", description="0 < 1 & 2", named=("x < y", "<y>"))
        tree = ElementTree.fromstring(svg)
        names = [element.tag.rpartition("}")[2] for element in tree.iter()]
        assert names.count("circle") == 6 and names.count("desc") == 1 and "b" not in names
        assert tree.findtext("{http://www.w3.org/2000/svg}desc") == "0 < 1 & 2"
        assert "style=" not in svg


def test_the_page_has_the_figure_and_the_same_numbers_as_a_table_and_as_data(world: World) -> None:
    series(world, [BILLION * (place + 1) for place in range(6)])
    with client(world.database) as web:
        page, data = web.get("/mudel/valmis?task=copa").text, web.get("/mudel/valmis.json?task=copa").json()["curve"]
        assert [point["tokens"] for point in data["points"]] == [BILLION * n for n in (1, 2, 3, 4, 5, 6, 6)]
        assert data["noise"]["noise"] > 0 and len(data["trend"]) == 6
        for point in data["points"]:
            assert languages()["et"].score(point["value"], "proportion") in page
        assert web.get("/mudel/valmis?task=olematu").status_code == 400
        assert web.get("/mudel/valmis?task=copa&x=log").status_code == 200


def test_a_straight_line_is_its_own_trend() -> None:
    assert curve.smoothed([1, 2, 3, 4, 5]) == pytest.approx([1, 2, 3, 4, 5])
    assert curve.smoothed([1, 2]) == [1, 2]


@pytest.mark.parametrize(
    ("value", "text"), [(1.5e9, "1,5\xa0mld"), (3.25e9, "3,25\xa0mld"), (3e7, "30\xa0mln"), (1000, "1000")]
)
def test_amounts_are_short(value: float, text: str) -> None:
    assert amount(value, languages()["et"]) == text
