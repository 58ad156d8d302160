"""Nights that never were: equal models on the documents of real runs, and models that fell by a known amount.

    pair = read(policy, a, b)                          the blocking tasks of two runs, document by document
    night = Night(pair, np.random.default_rng(7))
    judge(policy, night.rows(), alpha)                 two equal models
    night.fallen(0, 3.0)                               the row of the first task whose candidate has lost 3 points

Equal models: every unit (a document, or a passage with its documents) has the two runs' results swapped with
probability ½, so that neither is better and the two disagree as much as the real ones. New documents: units are drawn
with replacement. Units that several tasks share (both directions of a translation set) are drawn and swapped together.

A fall: of 0/1 metrics and means, documents of the candidate get the worst possible value at random; of corpus metrics,
they get the statistics of documents that are among the worst tenth. So many that the expected fall is the one that is
asked for: a part of the documents breaks, which is harder to see than a little everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estbench import stats
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.gate import sources
from estbench.gate.looks import LEAST
from estbench.gate.policy import Policy, Rule
from estbench.gate.verdict import Row, TaskVerdict, decide, obstacles
from estbench.scoring import BOUNDS, metric_of
from estbench.stats import Difference
from estbench.stats.paired import leave_one_out, widened

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
DISCORDANT = 0.1  # of the documents of a made-up sibling
WORST = 0.1  # of documents, whose statistics a fallen one gets
STEPS = 200  # of the shares of fallen documents among which the right one is looked for


@dataclass(frozen=True)
class Part:
    """A task of a pair: n documents in units."""

    task: str
    rule: Rule
    margin: float  # points, or bits
    unit: str  # "points" or "bits"
    scale: float  # from the score's unit to this one
    sides: Floats  # (2, n) values or (2, n, k) statistics: candidate, baseline
    worst: Floats  # (m,) values or (m, k) statistics: what a fallen document gets
    combine: Callable[[Any], Floats] | None  # of a corpus metric
    span: float | None  # from the worst value to the best
    higher_is_better: bool
    noise: float  # standard deviation that the gate adds, in the score's unit
    same: bool  # the very same responses
    units: Places  # those that it has, among the pair's
    order: Places  # its documents, unit by unit
    starts: Places  # of every unit of the pair, in `order`
    sizes: Places  # of every unit of the pair

    @property
    def differing(self) -> float:
        """The share of documents whose results differ."""
        unequal = self.sides[0] != self.sides[1]
        return float((unequal.any(axis=1) if unequal.ndim > 1 else unequal).mean())

    def drawn(self, draw: Places, swaps: Places) -> tuple[Floats, Floats, Places]:
        """Candidate, baseline and unit of each document of a night. draw: of each unit of the pair, which one stands
        in its place."""
        source = draw[self.units]
        sizes = self.sizes[source]
        before = np.cumsum(sizes) - sizes
        docs = self.order[np.arange(sizes.sum()) + np.repeat(self.starts[source] - before, sizes)]
        units = np.repeat(self.units, sizes)
        side = swaps[units]
        return self.sides[side, docs], self.sides[1 - side, docs], units

    def difference(self, one: Floats, other: Floats, units: Places) -> Difference:
        """As the gate sees it, but for corpus metrics, whose interval is the jackknife's."""
        names: Sequence[Hashable] = units.tolist()
        if self.combine:
            options: dict[str, Any] = {"higher_is_better": self.higher_is_better, "replicates": 0}
            return stats.corpus_difference(one, other, self.combine, names, **options)
        return stats.difference(one, other, names, span=self.span, higher_is_better=self.higher_is_better)

    def in_score(self, fall: float) -> float:
        """A fall in points, or in hundredths of a bit, in the score's unit."""
        return fall / (self.scale if self.unit == "points" else 100.0)

    def fallen(self, one: Floats, fall: float, luck: Floats, picks: Places) -> Floats | None:
        """The candidate after a fall, expected over `luck` (uniform); None: it can't fall so far. Who falls by 2 points
        falls by 3, too. picks: places in `worst`."""
        share = (self._share_of_statistics if self.combine else self._share_of_values)(one, self.in_score(fall))
        if share is None:
            return None
        hit = luck < share
        return np.where(hit[:, None] if self.combine else hit, self.worst[picks], one)

    def _share_of_values(self, one: Floats, wanted: float) -> float | None:
        loss = float(np.abs(one - self.worst[0]).mean()) if len(one) else 0.0
        return wanted / loss if loss >= wanted else None

    def _share_of_statistics(self, one: Floats, wanted: float) -> float | None:
        """The share of replaced documents at which the score of the expected sums has fallen so far."""
        assert self.combine is not None
        shares = np.linspace(0, 1, STEPS + 1)
        sums, lowest = one.sum(axis=0), len(one) * self.worst.mean(axis=0)
        scores = np.asarray(self.combine((1 - shares[:, None]) * sums + shares[:, None] * lowest), float)
        falls = (scores[0] - scores) * (1 if self.higher_is_better else -1)
        beyond = np.flatnonzero(falls >= wanted)
        if not len(beyond) or not beyond[0]:
            return None
        at = beyond[0]
        return float(np.interp(wanted, falls[at - 1 : at + 1], shares[at - 1 : at + 1]))


@dataclass(frozen=True)
class Pair:
    """Two runs as simulations see them."""

    candidate: Evidence
    baseline: Evidence
    parts: tuple[Part, ...]
    settled: tuple[Row, ...]  # blocking tasks with too few documents: undecided each night
    strata: tuple[Places, ...]  # units that the same tasks have
    left_out: Mapping[str, str]  # task -> why it is not simulated

    @property
    def same(self) -> bool:
        """Whether the two gave the same responses throughout: nothing can be learnt from them."""
        return all(part.same for part in self.parts)


def read(policy: Policy, a: Evidence, b: Evidence, sibling: np.random.Generator | None = None) -> Pair:
    """The blocking tasks of two runs. sibling: makes up a run beside a (b is a then), which differs in a tenth of the
    documents and is as good. ConfigError where the two are not comparable, or nothing is left.

    Floors and limits of the format are no tests of a difference, and are left aside.
    """
    rules = {task: dataclasses.replace(rule, floor=None, maximum_parse_failures=None)
             for task, rule in policy.rules.items()}  # fmt: skip
    plain = dataclasses.replace(policy, maximum_parse_failures=None, rules=rules)
    rows = [row for row in decide(plain, a, b, replicates=0).tasks if row.blocking]
    fatal, _ = obstacles(plain, a, b)
    if rows and fatal:
        raise sources.refusal(b, a, fatal)
    left_out = {row.task: reason for row in rows if (reason := _unfit(policy, row))}
    settled = [Row(row.task, True, policy.rule(row.task), status="undecided") for row in rows
               if row.task in left_out and row.status != "not evaluated"]  # fmt: skip
    fit = [row for row in rows if row.task not in left_out]
    if not fit:
        why = "; ".join(f"{task}: {reason}" for task, reason in list(left_out.items())[:3]) or "the policy has none"
        more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        raise ConfigError(f"No blocking task of {a.id} can be simulated: {why}{more}.")
    table: dict[Hashable, int] = {}
    codes = [np.array([table.setdefault(name, len(table)) for name in _units(a, row)], np.intp) for row in fit]
    parts = tuple(_part(policy, a, b, row, of, len(table), sibling) for row, of in zip(fit, codes, strict=True))
    return Pair(a, b, parts, tuple(settled), _strata(codes, len(table)), left_out)


def _unfit(policy: Policy, row: TaskVerdict) -> str | None:
    """Why a task is not simulated."""
    found = row.comparison
    least = policy.rule(row.task).minimum_n or policy.minimum_n
    if row.status == "not evaluated" or found is None:
        return "; ".join(row.reasons)
    if found.difference.n < least:
        return f"n = {found.difference.n:,}, the policy asks for {least:,}: undecided every night"
    if found.difference.value is None or found.difference.error is None:
        return f"{found.difference.method}: undecided every night"
    return None


def _units(a: Evidence, row: TaskVerdict) -> list[Hashable]:
    """What is drawn, of each shared document: its cluster in the data set, or itself."""
    assert row.comparison is not None
    items, path = a.items(row.task), str((a.tasks[row.task].get("data") or {}).get("path"))
    names = [(items.clusters[at], items.docs[at]) for at in row.comparison.places_a]
    return [(path, "document", doc) if cluster is None else (path, "cluster", cluster) for cluster, doc in names]


def _part(
    policy: Policy,
    a: Evidence,
    b: Evidence,
    row: TaskVerdict,
    codes: Places,
    count: int,
    sibling: np.random.Generator | None,
) -> Part:
    found, rule = row.comparison, policy.rule(row.task)
    assert found is not None
    columns = [run.items(row.task).values[found.metric] for run in (a, b)]
    one, other = ([column[at] for at in places] for column, places in
                  zip(columns, (found.places_a, found.places_b), strict=True))  # fmt: skip
    metric = metric_of(found.metric, [*one, *other])
    prepare = metric.prepare if metric and metric.prepare else lambda values: np.asarray(values, float)
    sides = np.stack([prepare(one), prepare(other)])
    if sibling:
        sides[1] = _sibling(sides[0], sibling)
    low, high = BOUNDS[found.unit] if metric else (-np.inf, np.inf)
    combine = metric.combine if metric and metric.kind == "corpus" else None
    higher = found.higher_is_better
    return Part(
        row.task,
        rule,
        row.margin,
        row.unit,
        row.scale,
        sides,
        worst=_worst_statistics(sides, combine, higher) if combine else _worst_value(sides, low, high, higher),
        combine=combine,
        span=high - low if np.isfinite(high - low) else None,
        higher_is_better=higher,
        noise=np.sqrt(2) * (rule.noise or 0.0) / found.scale,
        same=found.difference.identical and not sibling,
        units=np.unique(codes),
        order=np.argsort(codes, kind="stable"),
        starts=np.searchsorted(np.sort(codes), np.arange(count)),
        sizes=np.bincount(codes, minlength=count),
    )


def _sibling(values: Floats, rng: np.random.Generator) -> Floats:
    """Results that differ in a tenth of the documents and have the same score: as many right answers turn wrong as
    wrong ones right; of other metrics, those documents exchange their values."""
    made, n = values.copy(), len(values)
    if values.ndim == 1 and np.isin(values, (0.0, 1.0)).all():
        right, wrong = (np.flatnonzero(values == kind) for kind in (1.0, 0.0))
        flips = min(max(1, round(DISCORDANT * n / 2)), len(right), len(wrong))
        for kind in (right, wrong):
            chosen = rng.choice(kind, flips, replace=False)
            made[chosen] = 1 - made[chosen]
        return made
    chosen = rng.choice(n, min(n, max(2, round(DISCORDANT * n))), replace=False)
    made[chosen] = values[np.roll(chosen, 1)]
    return made


def _worst_value(sides: Floats, low: float, high: float, higher: bool) -> Floats:
    """The end of the metric's range, or what is worst here where it has none."""
    if np.isin(sides, (0.0, 1.0)).all():
        low, high = 0.0, 1.0
    end = low if higher else high
    return np.array([end if np.isfinite(end) else sides.min() if higher else sides.max()])


def _worst_statistics(sides: Floats, combine: Callable[[Any], Floats], higher: bool) -> Floats:
    """Those of the tenth of both runs' documents without which the score would be best."""
    rows = np.concatenate(list(sides))
    gains = leave_one_out(rows, combine) * (1 if higher else -1)
    return np.asarray(rows[np.argsort(gains, kind="stable")[: max(1, round(WORST * len(rows)))]])


def _strata(codes: Sequence[Places], count: int) -> tuple[Places, ...]:
    """Units by the tasks that have them, so that each task keeps its number of units when they are drawn."""
    members = np.zeros((count, len(codes)), bool)
    for task, of in enumerate(codes):
        members[of, task] = True
    kinds, kind = np.unique(members, axis=0, return_inverse=True)
    return tuple(np.flatnonzero(kind.reshape(-1) == place) for place in range(len(kinds)))


class Night:
    """One night: equal models on drawn documents, and what becomes of the candidate when it falls."""

    def __init__(self, pair: Pair, rng: np.random.Generator) -> None:
        count = sum(map(len, pair.strata))
        draw = np.empty(count, np.intp)
        for members in pair.strata:
            draw[members] = rng.choice(members, len(members))
        swaps = rng.integers(0, 2, count)
        self.pair = pair
        self._results = [part.drawn(draw, swaps) for part in pair.parts]
        self._luck = [rng.random(len(units)) for _, _, units in self._results]
        self._picks = [rng.integers(0, len(part.worst), len(luck)) for part, luck in
                       zip(pair.parts, self._luck, strict=True)]  # fmt: skip
        self._turns = [rng.permutation(len(luck)) for luck in self._luck]

    def rows(self, share: float = 1.0) -> list[Row]:
        """What `judge` takes, where the models are equal. share: of the documents, as a look has them."""
        rows = list(self.pair.settled)
        for place, part in enumerate(self.pair.parts):
            one, other, units = self._results[place]
            if share < 1:
                seen = self._turns[place] < share * len(units)
                one, other, units = one[seen], other[seen], units[seen]
            row = _row(part, stats.identical(len(units)) if part.same else part.difference(one, other, units))
            if share < 1 and len(units) < LEAST:
                row.status = "undecided"
            rows.append(row)
        return rows

    def fallen(self, place: int, fall: float) -> Row | None:
        """The row of a part that fell; None: it can't fall so far."""
        part, (one, other, units) = self.pair.parts[place], self._results[place]
        lower = part.fallen(one, fall, self._luck[place], self._picks[place])
        return None if lower is None else _row(part, part.difference(lower, other, units))


def _row(part: Part, found: Difference) -> Row:
    unclear = found.value is None or found.error is None
    return Row(
        part.task,
        True,
        part.rule,
        status="undecided" if unclear else None,
        difference=widened(found, part.noise),
        margin=part.margin,
        unit=part.unit,
        scale=part.scale,
    )
