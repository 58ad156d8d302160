"""Calibration: equal models fail as seldom as promised, falls are found, and what can't be simulated is said."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from estbench import evidence
from estbench.errors import ConfigError
from estbench.evidence import Evidence, Items
from estbench.gate import calibration, chart, nights
from estbench.gate.calibration import TOGETHER, Calibration, calibrate
from estbench.gate.nights import Night
from estbench.gate.policy import Policy, Pool, Reference, Rule
from estbench.gate.verdict import judge, overall
from estbench.metrics.translation import chrf
from estbench.settings import GateSettings
from estbench.stats import proportion_interval

Columns = dict[str, tuple[str, Sequence[Any]]]  # task -> metric and values
HOSTILE = "a<b>&\"'</title><script>\x00\x1b[31m 🙂 ]]>"


def run_of(
    name: str, columns: Columns, clusters: int = 1, form: str = "completion", path: str | None = None
) -> Evidence:
    """A run without a folder. clusters: documents in each. path: of the data of all tasks; default is one each."""
    tasks = {
        task: {"primary": metric, "data": {"path": path or task}, "form": form, "plan_hash": "p", "scorer": "s"}
        for task, (metric, _) in columns.items()
    }
    manifest = {"name": name, "run": f"{name}-1", "model": {}, "engine": {}, "identity": {}, "tasks": tasks}
    found = Evidence(manifest, [], None, {})
    for task, (metric, values) in columns.items():
        n = len(values)
        names = [f"c{at // clusters}" if clusters > 1 else None for at in range(n)]
        found._read[task] = Items(
            docs=[f"d{at}" for at in range(n)],
            clusters=names,
            keys=[f"{name}{at}" for at in range(n)],
            parse_failure=[False] * n,
            empty=[False] * n,
            length=[-1] * n,
            values={metric: list(values)},
            asked=["a"] * n,
        )
    return found


def right_or_wrong(seed: int, n: int = 300, share: float = 0.1, clusters: int = 1) -> list[int]:
    """Answers that differ from those of another seed in about `share` of the documents; whole clusters flip."""
    base = np.random.default_rng(99).random(n) < 0.7
    flips = np.repeat(np.random.default_rng(seed).random(-(-n // clusters)) < share / 2, clusters)[:n]
    return [int(value) for value in base ^ flips]


def translations(seed: int, n: int = 300) -> list[list[int]]:
    """chrF++ statistics of outputs that match their references by half."""
    base, rng = np.random.default_rng(98), np.random.default_rng(seed)
    ngrams = base.integers(20, 60, (n, 8))
    quality = 0.5 + 0.2 * base.standard_normal((n, 1)) + 0.05 * rng.standard_normal((n, 1))
    rows = np.zeros((n, 24), int)
    rows[:, 0::3] = rows[:, 1::3] = ngrams
    rows[:, 2::3] = ngrams * np.clip(quality, 0, 1)
    return [[int(count) for count in row] for row in rows]


def sides(n: int = 300, tasks: int = 4, clusters: int = 1) -> list[Evidence]:
    """Two runs of 0/1 tasks."""
    return [
        run_of(name, {f"t{task}": ("acc", right_or_wrong(10 * task + seed, n, clusters=clusters))
                      for task in range(tasks)}, clusters)
        for name, seed in (("one", 1), ("two", 2))
    ]  # fmt: skip


def quiet(_: str) -> None:
    """No progress."""


def alarms(policy: Policy, runs: Sequence[Evidence], count: int) -> int:
    """Nights of equal models that fail."""
    pair = nights.read(policy, runs[0], runs[1])
    every = (Night(pair, np.random.default_rng((3, night))) for night in range(count))
    return sum(overall(*judge(policy, night.rows(), policy.alpha)) == "regression" for night in every)


WITHOUT_MARGINS = Policy(margin=0, margin_bits=0, pool=Pool(0))


@pytest.mark.parametrize("clusters", [1, 4])
def test_equal_models_fail_as_seldom_as_promised(clusters: int) -> None:
    found = alarms(WITHOUT_MARGINS, sides(tasks=3, clusters=clusters), 500)
    low = proportion_interval([1] * found + [0] * (500 - found)).low
    assert low is not None and low <= 0.05
    assert found > 0  # and the gate is not blind either


def test_a_policy_that_is_too_eager_is_shown_to_cry_wolf() -> None:
    """Negative control: what is counted as a false alarm is one."""
    eager = Policy(alpha=0.5, margin=0, pool=Pool(0))
    assert alarms(eager, sides(), 200) > 0.25 * 200
    found = calibrate(eager, sides(tasks=2), 100, say=quiet)
    assert found.outcomes["regression"].low > 0.05


def test_ignoring_clusters_would_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the nights do have the documents' dependence in them."""
    runs = sides(clusters=10)
    plain = nights.Part.difference

    def alone(self: nights.Part, one: Any, other: Any, units: NDArray[np.intp]) -> Any:
        return plain(self, one, other, np.arange(len(units)))

    monkeypatch.setattr(nights.Part, "difference", alone)
    assert alarms(WITHOUT_MARGINS, runs, 200) > 0.15 * 200


@pytest.fixture(scope="module")
def mixed() -> Calibration:
    """Three kinds of metrics, one of them in clusters of their own."""
    runs = []
    for name, seed in (("one", 1), ("two", 2)):
        rng = np.random.default_rng(seed)
        means = np.clip(np.random.default_rng(97).random(300) + 0.1 * rng.standard_normal(300), 0, 1)
        bits = [[float(nats), 100.0] for nats in 40 + 40 * np.random.default_rng(96).random(300) + rng.random(300)]
        columns: Columns = {"right": ("acc", right_or_wrong(seed)), "f1": ("f1", means.tolist())}
        columns |= {"chrf": ("chrf++", translations(seed)), "bits": ("bits_per_byte", bits)}
        runs.append(run_of(name, columns))
    return calibrate(Policy(), runs, 120, say=quiet)


def test_power_grows_with_the_fall_and_reaches_all(mixed: Calibration) -> None:
    curves = {curve.task: curve for curve in mixed.curves}
    assert list(curves) == ["right", "f1", "chrf", "bits", TOGETHER]
    for curve in mixed.curves:
        falls, shares = zip(*curve.shares, strict=True)
        assert falls == (0, 1, 2, 3, 5, 8, 12)
        assert shares[0] <= 0.15 and shares[-1] >= 0.95
        assert all(more >= less - 0.1 for less, more in pairwise(shares))
        assert curve.detectable is not None and 0 < curve.detectable < 12
    assert curves[TOGETHER].detectable < curves["right"].detectable  # type: ignore[operator]
    assert curves["bits"].unit == "bits" and curves["bits"].margin_as_fall == 2


def test_the_fall_is_the_one_that_is_asked_for() -> None:
    rng = np.random.default_rng(5)
    columns: Columns = {"right": ("acc", right_or_wrong(1, 4000)), "errors": ("parse_failure", right_or_wrong(2, 4000)),
                        "chrf": ("chrf++", translations(1, 4000)), "f1": ("f1", rng.random(4000).tolist())}  # fmt: skip
    run = run_of("one", columns)
    pair = nights.read(Policy(), run, run, np.random.default_rng(0))
    for part in pair.parts:
        values = part.sides[0]
        for fall in (2.0, 5.0):
            lower = part.fallen(values, fall, rng.random(4000), rng.integers(0, len(part.worst), 4000))
            assert lower is not None
            score = chrf if part.task == "chrf" else lambda rows: 100 * rows.mean() * len(rows)
            before, after = (float(score(rows.sum(axis=0) if part.combine else rows)) for rows in (values, lower))
            lost = (before - after) / (1 if part.combine else 4000)
            assert (lost if part.higher_is_better else -lost) == pytest.approx(fall, abs=0.9)
    assert [part.higher_is_better for part in pair.parts] == [True, False, True, True]


def test_a_task_that_can_not_fall_so_far_says_nothing_of_it() -> None:
    weak = [run_of(name, {"weak": ("acc", [int(at % 25 == seed) for at in range(300)])})
            for seed, name in enumerate(("one", "two"))]  # fmt: skip
    found = calibrate(Policy(), weak, 100, say=quiet)
    (curve,) = found.curves
    assert curve.at(1) is not None and curve.at(8) is None
    assert "–" in calibration.as_text(found)


def test_one_run_gets_a_sibling_that_differs_in_a_tenth_and_is_as_good() -> None:
    rng = np.random.default_rng(6)
    columns: Columns = {"right": ("acc", right_or_wrong(1)), "f1": ("f1", rng.random(300).tolist()),
                        "chrf": ("chrf++", translations(1)), "perfect": ("acc", [1] * 300)}  # fmt: skip
    run = run_of("one", columns)
    pair = nights.read(Policy(), run, run, np.random.default_rng(0))
    for part in pair.parts[:3]:
        assert part.differing == pytest.approx(0.1, abs=0.01)
        assert part.sides[0].sum(axis=0) == pytest.approx(part.sides[1].sum(axis=0))
    assert pair.parts[3].differing == 0  # what is all right has no equal that differs
    said: list[str] = []
    run = run_of("one", {"right": columns["right"]})
    found = calibrate(Policy(), [run], 100, say=said.append)
    assert found.sibling and "sibling of one is made up" in said[0]
    assert "made-up sibling" in calibration.as_text(found)
    again = run_of("one", {"right": columns["right"]})
    assert calibrate(Policy(), [run, again], 100, say=quiet).outcomes == found.outcomes  # the very same responses


def test_nights_have_the_documents_and_the_units_of_the_task() -> None:
    run, other = sides(n=60, tasks=1, clusters=6)
    policy = Policy(minimum_n=20)
    pair = nights.read(policy, run, other)
    (part,) = pair.parts
    night = Night(pair, np.random.default_rng(1))
    one, two, units = night._results[0]
    assert len(one) == len(two) == len(units) == 60
    assert np.unique(units, return_counts=True)[1].tolist() == [6] * 10
    both = {(a, b) for a, b in zip(part.sides[0], part.sides[1], strict=True)}
    assert {(a, b) for a, b in zip(one, two, strict=True)} <= both | {(b, a) for a, b in both}


def test_tasks_on_the_same_documents_are_drawn_and_swapped_together() -> None:
    values = {name: right_or_wrong(seed) for name, seed in (("one", 1), ("two", 2))}
    runs = [run_of(name, {"there": ("acc", values[name]), "back": ("acc", values[name])}, path="shared")
            for name in values]  # fmt: skip
    night = Night(nights.read(Policy(), *runs), np.random.default_rng(1))
    (a, _, units), (b, _, others) = night._results
    assert (a == b).all() and (units == others).all()
    pool, tasks = judge(Policy(), night.rows(), 0.05)
    assert pool is not None and pool.difference is not None and tasks[0].difference is not None
    alone = 100 * (tasks[0].difference.error or 0)
    assert pool.difference.error == pytest.approx(alone, rel=0.05)  # nothing was averaged out


def test_pairs_take_turns_and_a_seed_gives_the_same_numbers() -> None:
    runs = [run_of(f"r{seed}", {"t": ("acc", right_or_wrong(seed))}) for seed in range(3)]
    first, second = (calibrate(Policy(), runs, 120, seed=4, say=quiet) for _ in range(2))
    assert first == second
    assert sum(rate.count for rate in first.outcomes.values()) == 120
    assert calibrate(Policy(), runs, 120, seed=5, say=quiet) != first


def test_each_look_of_a_sequential_gate_is_paid_for() -> None:
    found = calibrate(WITHOUT_MARGINS, sides(tasks=2), 240, say=quiet)
    assert found.sequential is not None and found.sequential.nights == 60
    assert found.sequential.low <= 0.05 and found.seen is not None and found.seen <= 1
    assert calibrate(Policy(looks=(1.0,)), sides(tasks=1), 100, say=quiet).sequential is None


def test_a_reference_leaves_half_of_alpha_for_each() -> None:
    found = calibrate(Policy(reference=Reference("base.json")), sides(tasks=1), 100, say=quiet)
    assert found.alpha == 0.025


def test_what_is_not_simulated_is_named() -> None:
    runs = sides(tasks=2)
    for run in runs:
        run.manifest["tasks"]["small"] = run.manifest["tasks"]["t0"]
        run._read["small"] = run_of("x", {"small": ("acc", right_or_wrong(1, 40))})._read["small"]
    policy = Policy(rules={"t1": Rule(blocking=False)}, tasks=("t0", "t1", "small", "absent"))
    found = calibrate(policy, runs, 100, say=quiet)
    assert [curve.task for curve in found.curves] == ["t0"]  # t1 is advisory
    assert set(found.left_out) == {"small", "absent"}
    assert "small is not simulated: n = 40, the policy asks for 100" in calibration.as_text(found)
    with pytest.raises(ConfigError, match="neither run has a task of the policy"):
        calibrate(Policy(tasks=("absent",)), runs, 100, say=quiet)


def test_runs_that_were_asked_otherwise_are_refused() -> None:
    one = run_of("one", {"t": ("acc", right_or_wrong(1))})
    two = run_of("two", {"t": ("acc", right_or_wrong(2))}, form="chat")
    with pytest.raises(ConfigError, match="not comparable in form"):
        calibrate(Policy(), [one, two], 100, say=quiet)
    assert calibrate(Policy(allow=("form",)), [one, two], 100, say=quiet).nights == 100


@pytest.mark.parametrize("values", [[1] * 300, [0] * 300])
def test_all_right_and_all_wrong_are_no_traceback(values: list[int]) -> None:
    found = calibrate(Policy(), [run_of("one", {"t": ("acc", values)})], 100, say=quiet)
    assert found.outcomes["regression"].count == 0
    (curve,) = found.curves
    assert (curve.at(12) is None) == (values[0] == 0)


def test_one_cluster_is_undecided() -> None:
    runs = sides(n=200, tasks=1, clusters=200)
    with pytest.raises(ConfigError, match="no interval: one cluster"):
        calibrate(Policy(), runs, 100, say=quiet)


def test_the_chart_is_well_formed_whatever_the_names(mixed: Calibration) -> None:
    runs = [run_of(name, {HOSTILE: ("acc", right_or_wrong(seed)), "b" * 80: ("acc", right_or_wrong(seed + 2))})
            for name, seed in (("one", 1), ("two", 2))]  # fmt: skip
    svg = calibration.as_svg(calibrate(Policy(name=HOSTILE), runs, 100, say=quiet))
    root = ElementTree.fromstring(svg)
    names = {"s": "http://www.w3.org/2000/svg"}
    assert root.get("role") == "img" and root.find("s:title", names) is not None
    description = root.find("s:desc", names)
    assert description is not None and "80 %" in str(description.text) and "b" * 80 in str(description.text)
    assert not root.findall(".//s:script", names) and "\x00" not in svg and "href" not in svg
    texts = [element.text or "" for element in root.findall(".//s:text", names)]
    assert all(len(text) <= 120 for text in texts if "policy" not in text)
    every = ElementTree.fromstring(calibration.as_svg(mixed))
    assert len(every.findall(".//s:polyline", names)) == len(mixed.curves)
    shown = [element.text for element in every.findall(".//s:text", names)]
    assert all(curve.task in shown for curve in mixed.curves)  # each line is named in words


def test_curves_stay_in_their_panels() -> None:
    points = [(0.0, 0.0), (40.0, 1.0)]
    root = ElementTree.fromstring(chart.panels("t", "d", [chart.Panel("a", "", points, 500)], across="x", reach=0.8))
    line = root.find(".//{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
    assert all(0 < x < chart.ACROSS and 0 < y < chart.DOWN for x, y in places)
    ElementTree.fromstring(chart.panels("t", "d", [chart.Panel("a", "", [])], across="x", reach=0.8))


def test_table_and_data_say_the_same(mixed: Calibration) -> None:
    text, data = calibration.as_text(mixed), json.loads(json.dumps(calibration.as_json(mixed), allow_nan=False))
    assert "made of one-1, two-1" in text and "kept" in text
    assert data["outcomes"]["regression"]["share"] == mixed.outcomes["regression"].share
    assert {curve["task"]: curve["detectable"] for curve in data["curves"]}["right"] == mixed.curves[0].detectable
    rows = [line for line in text.splitlines() if line.startswith("right ")]
    assert len(rows) == 1 and rows[0].endswith(f"{mixed.curves[0].detectable:.1f}")


def test_the_command_looks_at_its_file_first_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in sides(tasks=2):
        evidence.save(run, tmp_path / f"{run.name}.json")
    (tmp_path / "gate.yaml").write_text("margin: 3\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    missing = GateSettings(policy="gate.yaml", runs="one.json", svg="nowhere/x.svg")
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("the file's place comes first"))
    with pytest.raises(ConfigError, match=r"nowhere/x\.svg can't be written"):
        calibration.command(missing)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    settings = GateSettings(policy="gate.yaml", runs="one.json,two.json", simulations=100, svg="x.svg", output="json")
    assert calibration.command(settings) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == ["one-1", "two-1"]
    assert ElementTree.parse(tmp_path / "x.svg").getroot().get("role") == "img"
    with pytest.raises(ConfigError, match="runs= is missing"):
        calibration.command(GateSettings(policy="gate.yaml"))
