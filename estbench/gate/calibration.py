"""How often does *this* policy cry wolf on *these* tasks, and what does it see?

    found = calibrate(policy, [run, other], say=report.say)
    found.outcomes["regression"]     the share of nights with equal models that fail, with its interval
    found.curves                     of each task, and of all together: falls, and the share of nights that fail

Each night is made of two real runs (`estbench.gate.nights`: swapped at random, on drawn documents) and goes through the
gate's own `judge`. What is not in it: floors and limits of the format (no tests of a difference), noise of training
steps (the policy's `noise` is added to intervals, not to scores), and the bootstrap of corpus metrics, for which the
jackknife stands in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench import report
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.gate import chart
from estbench.gate import policy as policies
from estbench.gate.looks import is_clear, level_of
from estbench.gate.nights import Night, Pair, Part, read
from estbench.gate.policy import Policy
from estbench.gate.sources import Say
from estbench.gate.verdict import Nominal, TaskVerdict, Verdict, judge, overall
from estbench.stats import proportion_interval

if TYPE_CHECKING:
    from estbench.settings import GateSettings

FALLS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)  # points, or hundredths of a bit
PART = 4  # of the nights, one in so many is looked at for falls and look by look
FOUND = 0.8
TOGETHER = "all of them together"
STATUSES = ("pass", "undecided", "regression")


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of nights with its 95 % interval (Wilson)."""

    nights: int
    count: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, nights: int) -> Rate:
        found = proportion_interval([1] * count + [0] * (nights - count))
        return cls(nights, count, float(found.value or 0.0), float(found.low or 0.0), float(found.high or 0.0))


@dataclass(frozen=True, slots=True)
class Curve:
    """What the gate sees of a task that falls, or of all that fall together."""

    task: str
    unit: str  # "points" or "bits"
    margin: float  # in that unit; of the pool where all fall
    differing: float | None  # share of documents on which the two runs differ; None where all fall
    shares: tuple[tuple[float, float], ...]  # (fall in points or hundredths of a bit, share of nights), growing falls

    @property
    def detectable(self) -> float | None:
        """The fall that is found in 80 % of nights, between the points of the curve; None: it is beyond the last."""
        for (fall, share), (further, more) in pairwise(((0.0, 0.0), *self.shares)):
            if share < FOUND <= more:
                return fall + (further - fall) * (FOUND - share) / (more - share)
        return None

    def at(self, fall: float) -> float | None:
        """The share of nights at a fall of the grid; None: a task can't fall so far."""
        return dict(self.shares).get(fall)

    @property
    def margin_as_fall(self) -> float:
        return _as_fall(self.margin, self.unit)


@dataclass(frozen=True)
class Calibration:
    """What a policy does on the tasks of these runs."""

    policy: str
    alpha: float  # what it promises: false alarms, of a comparison with one baseline
    runs: tuple[str, ...]
    sibling: bool  # the second model was made up
    nights: int
    nights_of_falls: int
    outcomes: Mapping[str, Rate]  # status -> share of nights of equal models
    sequential: Rate | None  # false alarms of `budget=`; None: the policy has a single look
    seen: float | None  # share of documents at which that one stops, on average, where the models are equal
    curves: tuple[Curve, ...]  # of each task, then of all together
    left_out: Mapping[str, str]  # task -> why

    @property
    def kept(self) -> bool:
        """Whether the nights are compatible with the promise."""
        return self.outcomes["regression"].low <= self.alpha


@dataclass
class _Tally:
    """Counts, while nights go by."""

    statuses: Counter[str] = field(default_factory=Counter)
    sequential: Counter[str] = field(default_factory=Counter)
    seen: list[float] = field(default_factory=list)
    found: Counter[tuple[str, float]] = field(default_factory=Counter)  # (task, fall) -> nights that fail
    tried: Counter[tuple[str, float]] = field(default_factory=Counter)
    too_far: set[tuple[str, float]] = field(default_factory=set)
    parts: dict[str, list[Part]] = field(default_factory=dict)  # task -> of each pair
    left_out: dict[str, str] = field(default_factory=dict)


def calibrate(
    policy: Policy, runs: Sequence[Evidence], simulations: int = 1000, seed: int = 0, *, say: Say = report.say
) -> Calibration:
    """Simulated nights of equal models, and of models that fell. ConfigError where the runs can't be compared, or have
    none of the policy's tasks. The same seed gives the same numbers.

    Where a policy has a pinned reference, each of its two comparisons has half of alpha; one of them is looked at.
    """
    if not runs:
        raise ConfigError("runs= is missing: the run that the nights are made of, or several.")
    alpha = policy.alpha / (2 if policy.reference else 1)
    nominals = [lru_cache(maxsize=None)(level_of(policy.looks, look)) for look in range(len(policy.looks))]
    pairs = [pair for pair in combinations(runs, 2) if not read(policy, *pair).same]
    sibling = not pairs
    if sibling:
        say(
            f"There is one model only: a sibling of {runs[0].name} is made up that differs in a tenth of the documents."
        )
        pairs = [(runs[0], runs[0])]
    tally, done = _Tally(), 0
    for number, (a, b) in enumerate(pairs):
        pair = read(policy, a, b, np.random.default_rng((seed, 0)) if sibling else None)
        tally.left_out |= pair.left_out
        for part in pair.parts:
            tally.parts.setdefault(part.task, []).append(part)
        for night in range(number, simulations, len(pairs)):
            rng = np.random.default_rng((seed, 1, night))
            _simulate(tally, policy, pair, alpha, rng, None if done % PART else nominals)
            done += 1
            if done % max(1, simulations // 10) == 0:
                say(f"{done:,} of {simulations:,} nights")
    return _summed(tally, policy, alpha, runs[:1] if sibling else runs, sibling, simulations)


def _simulate(
    tally: _Tally,
    policy: Policy,
    pair: Pair,
    alpha: float,
    rng: np.random.Generator,
    nominals: Sequence[Nominal] | None,
) -> None:
    """A night. nominals: of each look, on nights that are looked at for falls, too."""
    night = Night(pair, rng)
    rows = night.rows()
    equal = judge(policy, rows, alpha)
    tally.statuses[overall(*equal)] += 1
    if nominals is None:
        return
    if len(nominals) > 1:
        status, share = _look_by_look(policy, night, alpha, nominals)
        tally.sequential[status] += 1
        tally.seen.append(share)
    falls = _falls(policy, pair)
    lower = {(place, fall): night.fallen(place, fall) for place in range(len(pair.parts))
             for fall in {fall for _, fall, places in falls if place in places and fall}}  # fmt: skip
    for name, fall, places in falls:
        changed = {pair.parts[place].task: lower[place, fall] for place in places if fall}
        tally.tried[name, fall] += 1
        if None in changed.values():
            tally.too_far.add((name, fall))
        else:
            found = judge(policy, [changed.get(row.task) or row for row in rows], alpha) if fall else equal
            tally.found[name, fall] += _alarm(name, *found)


def _alarm(name: str, pool: TaskVerdict | None, tasks: Sequence[TaskVerdict]) -> bool:
    """Whether a fall was seen: the task that fell fails, or the pool."""
    seen = [row for row in tasks if name in (row.task, TOGETHER)] + ([pool] if pool else [])
    return any(row.status == "regression" for row in seen)


def _look_by_look(policy: Policy, night: Night, alpha: float, nominals: Sequence[Nominal]) -> tuple[str, float]:
    """How a sequential gate ends, and at which share of documents."""
    for share, nominal in zip(policy.looks, nominals, strict=True):
        pool, tasks = judge(policy, night.rows(share), alpha, nominal)
        verdict = Verdict(policy, night.pair.candidate, night.pair.baseline, pool, tasks)
        if is_clear([verdict]):
            break
    return verdict.status, share


def _falls(policy: Policy, pair: Pair) -> list[tuple[str, float, list[int]]]:
    """(name, fall, places of the parts that fall): of each task the grid and its own margin, then all together."""
    found = [(part.task, fall, [place]) for place, part in enumerate(pair.parts)
             for fall in _grid(_as_fall(part.margin, part.unit))]  # fmt: skip
    if len(pair.parts) > 1:
        margin = _as_fall(*_of_pool(policy, pair.parts))
        found += [(TOGETHER, fall, list(range(len(pair.parts)))) for fall in _grid(margin)]
    return found


def _of_pool(policy: Policy, parts: Sequence[Part]) -> tuple[float, str]:
    """The pool's margin and unit, as `judge` has them."""
    bits = all(part.unit == "bits" for part in parts)
    return (policy.margin_bits, "bits") if bits else (policy.pool.margin, "points")


def _grid(margin: float) -> list[float]:
    return sorted({0.0, *FALLS, margin})


def _as_fall(margin: float, unit: str) -> float:
    """A margin on the axis of falls: points, or hundredths of a bit."""
    return round(100 * margin, 9) if unit == "bits" else margin


def _summed(
    tally: _Tally, policy: Policy, alpha: float, runs: Sequence[Evidence], sibling: bool, nights: int
) -> Calibration:
    about: dict[str, tuple[float, str, float | None]] = {
        task: (parts[0].margin, parts[0].unit, float(np.mean([part.differing for part in parts])))
        for task, parts in tally.parts.items()
    }
    if len(about) > 1:
        about[TOGETHER] = (*_of_pool(policy, [parts[0] for parts in tally.parts.values()]), None)
    curves = []
    for name, (margin, unit, differing) in about.items():
        falls = sorted(fall for task, fall in tally.tried if task == name and (task, fall) not in tally.too_far)
        shares = tuple((fall, tally.found[name, fall] / tally.tried[name, fall]) for fall in falls)
        curves.append(Curve(name, unit, margin, differing, shares))
    looked = len(tally.seen)
    return Calibration(
        policy=policy.name,
        alpha=alpha,
        runs=tuple(run.id for run in runs),
        sibling=sibling,
        nights=nights,
        nights_of_falls=len(range(0, nights, PART)),
        outcomes={status: Rate.of(tally.statuses[status], nights) for status in STATUSES},
        sequential=Rate.of(tally.sequential["regression"], looked) if looked else None,
        seen=float(np.mean(tally.seen)) if looked else None,
        curves=tuple(curves),
        left_out=tally.left_out,
    )


def as_text(found: Calibration) -> str:
    """For a terminal."""
    from_what = f"{', '.join(found.runs)}{' and a made-up sibling' if found.sibling else ''}"
    head = f"Policy {found.policy}, {found.nights:,} nights of equal models made of {from_what}"
    rows = [_cells(status, rate) for status, rate in found.outcomes.items()]
    if found.sequential:
        rows.append(_cells("regression, look by look", found.sequential))
    columns = {"verdict": "verdict", "share": ">nights", "interval": "95 % interval", "of": ">of"}
    rate = found.outcomes["regression"]
    lines = [head, "", report.listing(rows, columns), ""]
    lines += [
        f"False alarms in {_per_cent(rate.share)} of nights. At most {_per_cent(found.alpha)} are promised: "
        f"{'kept' if found.kept else 'NOT kept'}."
    ]
    if found.seen is not None:
        lines += [f"Look by look, equal models are decided after {100 * found.seen:.0f} % of documents on average."]
    lines += [
        "",
        f"Share of {found.nights_of_falls:,} nights that fail when a task has fallen by so many points (tasks of bits: "
        "hundredths of a bit):",
        "",
        _table(found.curves),
    ]
    return "\n".join([*lines, *(f"{task} is not simulated: {why}" for task, why in found.left_out.items())])


def _table(curves: Sequence[Curve]) -> str:
    columns = {"task": "task", "differing": ">differ", "margin": ">margin", "at": ">at it"}
    columns |= {f"{fall:g}": f">{fall:g}" for fall in (0.0, *FALLS)} | {"found": ">80 % at"}
    rows = []
    for curve in curves:
        row = {"task": curve.task, "margin": f"{curve.margin:g}{' bits' if curve.unit == 'bits' else ''}"}
        for key, fall in [("at", curve.margin_as_fall), *((f"{fall:g}", fall) for fall in (0.0, *FALLS))]:
            share = curve.at(fall)
            row[key] = "–" if share is None else f"{100 * share:.0f} %"
        row["differing"] = "" if curve.differing is None else f"{100 * curve.differing:.0f} %"
        row["found"] = "–" if curve.detectable is None else f"{curve.detectable:.1f}"
        rows.append(row)
    return report.listing(rows, columns)


def _cells(verdict: str, rate: Rate) -> dict[str, str]:
    interval = f"{100 * rate.low:.1f} … {100 * rate.high:.1f} %"
    return {"verdict": verdict, "share": _per_cent(rate.share), "interval": interval, "of": f"{rate.nights:,}"}


def _per_cent(share: float) -> str:
    return f"{100 * share:.{1 if share >= 0.001 or share == 0 else 3}f} %"


def as_json(found: Calibration) -> dict[str, Any]:
    """All of it as data; falls in points, or in hundredths of a bit."""
    curves = [asdict(curve) | {"detectable": curve.detectable} for curve in found.curves]
    return asdict(found) | {"kept": found.kept, "curves": curves}


def as_svg(found: Calibration) -> str:
    """The curves as a chart."""
    title = f"What the gate sees: policy {found.policy}"
    notes = ["80 %: not reached" if curve.detectable is None else f"80 % at {curve.detectable:.1f}"
             for curve in found.curves]  # fmt: skip
    seen = "; ".join(f"{curve.task}: {note}" for curve, note in zip(found.curves, notes, strict=True))
    about = (
        f"Share of {found.nights_of_falls:,} simulated nights that fail, by how far a task has fallen. Of equal models "
        f"{_per_cent(found.outcomes['regression'].share)} fail. {seen}."
    )
    given = [chart.Panel(curve.task, note, curve.shares, curve.margin_as_fall) for curve, note in
             zip(found.curves, notes, strict=True)]  # fmt: skip
    across = (
        "Across: the fall, in points (tasks of bits: hundredths of a bit). Dashed: 80 % of nights. Dotted: the margin."
    )
    return chart.panels(title, about, given, across=across, reach=FOUND)


def command(settings: GateSettings) -> int:
    """`estbench gate calibrate`."""
    from estbench.commands import wants_table
    from estbench.gate.noise import runs_of

    policy, target = policies.read(settings.policy), report.target(settings.svg)
    found = calibrate(policy, runs_of(settings.runs), settings.simulations)
    if target:
        report.write(target, as_svg(found))
    print(as_text(found) if wants_table(settings.output) else report.as_json(as_json(found)))
    return 0
