"""Figures of comparisons and of tasks: well-formed, inside their frame, and readable without colour."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from estbench_leaderboard.catalogue import languages
from estbench_leaderboard.charts import distribution, forest
from estbench_leaderboard.charts.distribution import Dot
from estbench_leaderboard.charts.forest import NARROW, WIDE, Layout, Line

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '"><script>alert(1)</script>\x00&'
LINES = [
    Line("Kokku", 1.5, -0.2, 3.2, "open", pooled=True),
    Line("Lugemine"),
    Line(HOSTILE * 3, 4.0, 1.0, 7.0, "a"),
    Line("Väga pika nimega ülesanne, mis ei mahu kuidagi ära", -12.25, -20.0, -4.5, "b"),
    Line("Ilma vahemikuta", 0.0),
]


def forest_of(lines: list[Line], layout: Layout = WIDE, code: str = "et") -> ElementTree.Element:
    words = {"title": f"Pilt {HOSTILE}", "description": "kirjeldus"}
    drawn = forest.draw(lines, languages()[code], names=(HOSTILE * 4, "beeta"), layout=layout, **words)
    return ElementTree.fromstring(drawn)


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_a_forest_plot_is_well_formed_whatever_names_hold(layout: Layout) -> None:
    root = forest_of(LINES, layout)
    assert root.find(f"{SVG}script") is None and root.find(f".//{SVG}script") is None
    assert not any("style" in element.attrib for element in root.iter())
    assert root.findtext(f"{SVG}title") == "Pilt " + HOSTILE.replace("\x00", "\ufffd")
    assert root.get("role") == "img"


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_every_interval_lies_inside_the_axis_and_zero_in_its_middle(layout: Layout) -> None:
    root = forest_of(LINES, layout)
    ends = [float(line.get(key, "nan")) for line in root.iter(f"{SVG}line") for key in ("x1", "x2")]
    assert min(ends) >= layout.left and max(ends) <= layout.right
    middle = (layout.left + layout.right) / 2
    a, b = (float(mark.get("cx", "nan")) for mark in list(root.iter(f"{SVG}circle"))[:2])
    assert b < middle < a
    height = float(root.get("viewBox", "").split()[3])
    assert all(float(text.get("y", "nan")) < height for text in root.iter(f"{SVG}text"))


def test_what_is_not_told_from_zero_is_hollow_and_a_pooled_line_is_a_diamond() -> None:
    root = forest_of(LINES)
    fills = [(mark.get("fill"), mark.get("stroke")) for mark in root.iter(f"{SVG}circle")]
    assert [fill == stroke for fill, stroke in fills] == [True, True, False]
    diamond = root.find(f"{SVG}path")
    assert diamond is not None and diamond.get("fill") != diamond.get("stroke")
    sure = forest_of([Line("Kokku", 3.0, 1.0, 5.0, "a", pooled=True)]).find(f"{SVG}path")
    assert sure is not None and sure.get("fill") == sure.get("stroke")


def test_numbers_are_written_as_the_language_writes_them() -> None:
    estonian, english = (
        {text.text for text in forest_of(LINES, code=code).iter(f"{SVG}text")} for code in ("et", "en")
    )
    assert {"−12,2", "+4,0"} <= estonian and {"−12.2", "+4.0"} <= english


def spread(dots: list[Dot], unit: str = "proportion", chance: float | None = 0.25) -> ElementTree.Element:
    words = {"title": HOSTILE, "description": HOSTILE}
    return ElementTree.fromstring(distribution.models(dots, languages()["et"], unit=unit, chance=chance, **words))


@pytest.mark.parametrize("count", [1, 2, 40, 400])
def test_each_model_is_one_dot_inside_the_figure_however_many_there_are(count: int) -> None:
    dots = [Dot(0.5 + 0.3 * math.sin(place) ** 3, place % 5 > 0) for place in range(count)]
    root = spread(dots)
    found = list(root.iter(f"{SVG}circle"))
    assert len(found) == count
    assert sum(dot.get("stroke") is not None for dot in found) == sum(not dot.ranked for dot in dots)
    for dot in found:
        assert distribution.LEFT <= float(dot.get("cx", "nan")) <= distribution.RIGHT
        assert float(dot.get("cy", "nan")) - float(dot.get("r", "nan")) > 0


def test_the_level_of_guessing_is_drawn_where_it_is_near() -> None:
    dashed = [line for line in spread([Dot(0.3), Dot(0.6)]).iter(f"{SVG}line") if line.get("stroke-dasharray")]
    assert len(dashed) == 1
    bits = spread([Dot(0.9), Dot(1.1)], "bits", 8.0)
    assert not [line for line in bits.iter(f"{SVG}line") if line.get("stroke-dasharray")]


def test_documents_are_counted_by_tenths_of_the_models() -> None:
    shares = [0.0, 0.05, 0.1, 0.55, 0.999, 1.0, math.nan]
    counts = distribution.solved(shares)
    assert counts == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    drawn = distribution.documents(shares, languages()["et"], title="t", description="d")
    assert len(list(ElementTree.fromstring(drawn).iter(f"{SVG}rect"))) == sum(count > 0 for count in counts)
