"""The gate over a training: series in which nothing changes rarely stop it, one that loses a language does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from estbench_training.watching import (
    GateSettings,
    Look,
    Reading,
    comparable,
    in_words,
    judge,
    languages_of,
    measure,
)
from gate_world import synthetic
from numpy.typing import NDArray

from estbench import stats
from estbench.errors import ConfigError
from estbench.stats import Difference
from estbench.stats.paired import widened

Floats = NDArray[np.float64]
DOCS = 500
WOBBLE = 0.015  # of a whole checkpoint, about half a point: what `noise: 0.5` is for


def answers(dice: np.random.Generator, points: int, *, fall: float = 0.0, since: int = 0, kept: float = 0.8) -> Floats:
    """0/1 answers to the same documents, (points + 1, documents): those of the start, then of each point.

    A document's difficulty stays; around it the answer moves from point to point (an autoregression with `kept`), and
    every checkpoint as a whole a little. About 7 % of answers differ between neighbours and 11 % between far points.
    """
    difficulty, own = dice.normal(0, 1, DOCS), dice.normal(0, 1, DOCS)
    rows = []
    for point in range(points + 1):
        own = kept * own + np.sqrt(1 - kept**2) * dice.normal(0, 1, DOCS) if point else own
        lost = 2.5 * fall if point > since else 0.0  # about 0.4 of the documents a unit of difficulty
        rows.append(difficulty + 0.26 * own + dice.normal(0, WOBBLE) - lost > -0.25)
    return np.array(rows, float)


def difference(point: Floats, start: Floats, noise: float) -> Difference:
    """What `measure` makes of a task of 0/1 values; where the score has hardly fallen, at once that it has not."""
    better, worse = np.count_nonzero(point > start), np.count_nonzero(point < start)
    if worse - better < 1.6 * np.sqrt(better + worse):  # p above 0.05: no test takes that
        return stats.identical(len(point))
    return widened(stats.pooled([(stats.difference(point, start), 1.0)], [100.0]), np.sqrt(2) * noise)


def looks(settings: GateSettings, series: Mapping[str, Floats]) -> Iterator[Look]:
    """What the gate says from point to point."""
    planned = len(next(iter(series.values()))) - 1
    before = None
    for place in range(planned):
        rows = {language: difference(row[place + 1], row[0], settings.noise) for language, row in series.items()}
        before = judge(settings, rows, place, planned, before)
        yield before


def outcome(settings: GateSettings, series: Mapping[str, Floats]) -> tuple[int | None, bool]:
    """The place at which it stops, and whether somebody would who believes every p-value below 0.05."""
    stopped, naive = None, False
    for look in looks(settings, series):
        naive |= any(reading.p <= 0.05 for reading in look.readings.values())
        if look.confirmed and stopped is None:
            stopped = look.place
    return stopped, naive


@pytest.mark.parametrize(
    "kept", [0.8, pytest.param(0.5, marks=pytest.mark.slow), pytest.param(0.95, marks=pytest.mark.slow)]
)
def test_of_a_thousand_flat_series_at_most_five_per_cent_stop(kept: float) -> None:
    """Negative control: without spending of alpha and without confirmation many do."""
    dice = np.random.default_rng(7)
    found = [
        outcome(GateSettings(), {language: answers(dice, 10, kept=kept) for language in ("et", "en")})
        for _ in range(1000)
    ]
    assert np.mean([stopped is not None for stopped, _ in found]) <= 0.05
    assert np.mean([naive for _, naive in found]) > 0.2


def test_a_loss_of_five_points_of_english_is_found_within_a_few_points() -> None:
    dice, since = np.random.default_rng(8), 3
    settings, delays, lost = GateSettings(mode="stop"), [], []
    for _ in range(200):
        series = {"et": answers(dice, 12), "en": answers(dice, 12, fall=0.052, since=since)}
        stopped, _ = outcome(settings, series)
        delays.append(99 if stopped is None else stopped - since)
        lost.append(100 * (series["en"][since + 1 :].mean() - series["en"][0].mean()))
    assert np.mean(lost) == pytest.approx(-5, abs=0.3)
    assert (
        np.mean([delay <= 2 for delay in delays]) > 0.6
    )  # the point that finds it and the one that confirms it are 0, 1
    assert np.mean([delay <= 5 for delay in delays]) > 0.8


# --- the levels -------------------------------------------------------------------------------------------------------


def fallen(points: float, error: float = 1.0) -> Difference:
    """A difference of so many points with that standard error."""
    from estbench.stats.paired import StudentT

    law = StudentT(points, error, 1e9)
    return Difference(points, 500, (), 0, 0, "made up", error, law=law)


def readings(settings: GateSettings, planned: int, measured: Mapping[str, Difference]) -> list[Look]:
    made: list[Look] = []
    for place in range(planned):
        made.append(judge(settings, measured, place, planned, made[-1] if made else None))
    return made


@pytest.mark.parametrize("spending", ["linear", "pocock", "obrien-fleming"])
@pytest.mark.parametrize("planned", [1, 2, 7, 40])
def test_the_levels_of_all_evaluations_and_languages_sum_to_alpha_at_most(spending: Any, planned: int) -> None:
    made = readings(GateSettings(spending=spending), planned, {"et": fallen(0), "en": fallen(0)})
    total = sum(reading.level for look in made for reading in look.readings.values())
    assert total <= 0.05 + 1e-12
    if spending != "obrien-fleming":  # there half of alpha is worth less than half of what alpha is early on
        assert total == pytest.approx(0.05)


def test_a_language_that_fell_leaves_its_share_to_the_other() -> None:
    """Holm's procedure: −2.4 standard errors are p = 0.008, too much for half of alpha at one of four, not for all."""
    settings = GateSettings(margin=0)
    alone = judge(settings, {"et": fallen(-2.4), "en": fallen(0)}, 0, 4)
    together = judge(settings, {"et": fallen(-2.4), "en": fallen(-9)}, 0, 4)
    assert alone.found == () and together.found == ("et", "en")


def test_a_fall_within_the_margin_is_not_found_however_sure() -> None:
    assert judge(GateSettings(margin=2), {"en": fallen(-1.9, 0.1)}, 0, 4).found == ()
    assert judge(GateSettings(margin=2), {"en": fallen(-2.1, 0.1)}, 0, 4).found == ("en",)


def test_noise_of_the_settings_makes_a_fall_less_certain() -> None:
    runs = [synthetic(name, {"t": column}) for name, column in zip("ab", columns(15, 40), strict=True)]
    sure, less = measure(*runs, ["t"]), measure(*runs, ["t"], noise=3.0)
    assert sure is not None and less is not None and sure.error is not None and less.error is not None
    assert less.value == sure.value and less.error**2 == pytest.approx(sure.error**2 + 2 * 9)
    assert less.p_below() > sure.p_below()


# --- confirmation -----------------------------------------------------------------------------------------------------


def walk(*falls: float | None, margin: float = 1.0) -> list[Look]:
    """Looks at English with so many points of difference and a standard error of 1; None: it is not measured."""
    made: list[Look] = []
    for place, points in enumerate(falls):
        measured = {} if points is None else {"en": fallen(points)}
        made.append(judge(GateSettings(margin=margin), measured, place, len(falls), made[-1] if made else None))
    return made


def test_a_finding_counts_once_the_next_evaluation_shows_it_too() -> None:
    made = walk(0, -5, -5, -5)
    assert [look.found for look in made] == [(), ("en",), ("en",), ("en",)]
    assert [look.confirmed for look in made] == [(), (), ("en",), ("en",)]


def test_a_dip_of_one_evaluation_is_dropped() -> None:
    made = walk(0, -5, 0, 0, -5, 0)
    assert not any(look.confirmed for look in made)
    assert [look.dropped for look in made] == [(), (), ("en",), (), (), ("en",)]


def test_confirmation_asks_for_alpha_and_the_margin_again() -> None:
    assert walk(-5, -1.9)[1].confirmed == ("en",)  # p = 0.029
    assert walk(-5, -1.5)[1].confirmed == ()  # p = 0.067
    assert walk(-5, -1.9, margin=2)[1].confirmed == ()


def test_the_words_say_language_points_and_what_comes_next() -> None:
    made = walk(-5, -5, 0)
    assert in_words(made[0]).startswith("English -5.0 points (p = 2.9e-07, level 0.017, n = 500): to be confirmed")
    assert in_words(made[1]).endswith(": confirmed")
    assert "not confirmed, and dropped" in in_words(made[2])
    assert in_words(walk(0)[0]) == ""


def test_a_look_is_the_same_after_it_was_stored() -> None:
    made = walk(-5, -5)[1]
    assert Look.from_row(made.to_row()) == made
    assert isinstance(made.readings["en"], Reading)


# --- what is measured -------------------------------------------------------------------------------------------------


def columns(right: int, other: int, n: int = 200) -> tuple[Floats, Floats]:
    """0/1 values of which `right` and `other` of a hundred are 1."""
    return tuple((np.arange(n) % 100 < share).astype(float) for share in (right, other))  # type: ignore[return-value]


def test_a_language_is_the_mean_of_its_tasks_in_points() -> None:
    one, other = columns(50, 60)
    a, b = synthetic("a", {"x": one, "y": one}), synthetic("b", {"x": other, "y": one})
    found = measure(a, b, ["x", "y"])
    assert found is not None and found.value == pytest.approx(-5.0) and found.n == 400


@pytest.mark.parametrize("lost", [3, 60])
def test_a_task_without_its_responses_says_nothing(lost: int) -> None:
    """Documents that have no response may be those that the checkpoint would fail."""
    one, other = columns(50, 60)
    a, b = synthetic("a", {"x": one}), synthetic("b", {"x": other})
    items = a.items("x")
    a._read["x"] = type(items)(
        **{**{name: getattr(items, name) for name in items.__dataclass_fields__}, "errors": lost}
    )
    assert (measure(a, b, ["x"]) is None) == (lost == 60)
    assert measure(b, b, ["no such task"]) is None


def test_other_engines_are_not_compared() -> None:
    one, _ = columns(50, 50)
    a, b = synthetic("a", {"x": one}), synthetic("b", {"x": one})
    assert comparable(a, b, {"en": ("x",)}) is None
    b.manifest["engine"] = {"engine": "vllm"}
    assert "was answered with engine hf, b with vllm" in str(comparable(a, b, {"en": ("x",)}))


@pytest.fixture
def task() -> Callable[..., Any]:
    return lambda name, language, unit="proportion": SimpleNamespace(
        name=name, unit=unit, metadata={"language": language}
    )


def test_et_and_en_are_watched_by_the_languages_of_the_tasks(task: Callable[..., Any]) -> None:
    tasks = [task("a", "et"), task("b", "en"), task("c", "et"), task("d", "et-en"), task("e", "et", "bits")]
    assert languages_of(GateSettings(), tasks) == {"et": ("a", "c"), "en": ("b",)}
    with pytest.raises(ConfigError, match="none of the tasks is in en"):
        languages_of(GateSettings(), tasks[2:])
    with pytest.raises(ConfigError, match="e is measured in bits"):
        languages_of(GateSettings(languages={"et": ("e",)}), tasks)
    assert languages_of(GateSettings(languages={"fi": ("a",)}), tasks) == {"fi": ("a",)}
