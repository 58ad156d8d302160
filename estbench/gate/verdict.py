"""The decision. Of each task: pass, regression, undecided, or not evaluated; of all together: an exit code.

With a margin m (points, or bits) and d = candidate − baseline on the same documents, above 0 where the candidate is
better:

    pass         the lower bound of d is above −m
    regression   d is significantly below 0 and its estimate below −m (strict: significantly below −m)
    undecided    neither, or too few documents

First the pool is tested (the weighted mean of the blocking tasks, with its own margin), then each blocking task. All of
these share alpha by Holm's procedure with weights, so that equal models fail with probability alpha at most, over all
tests together. Floors and parse failures are no tests of a difference: they fail where the candidate alone is surely
(99.9 %) beyond the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from estbench.compare import Problem, TaskComparison, awaits, compare_task, problems
from estbench.errors import StoreError
from estbench.evidence import Evidence, Items
from estbench.gate.policy import Policy, Rule
from estbench.runs import Score
from estbench.stats import Difference, holm, pooled
from estbench.stats.distributions import binomial_cdf, normal_quantile, normal_tail
from estbench.stats.families import step_down
from estbench.stats.paired import POWER, REPLICATES, widened

ORDER = ("regression", "not evaluated", "undecided", "pass")  # the worst first
EXIT = {"pass": 0, "regression": 1, "undecided": 3, "not evaluated": 4}
GUARD = 0.001  # how sure a broken floor or format has to be
HALF_WIDTH = 1.96  # of a score's 95 % interval in standard errors
MOST = 1000  # times as many documents: beyond that no number is named


@dataclass(frozen=True)
class TaskVerdict:
    """A task's part of the verdict. Numbers are points, or bits."""

    task: str
    blocking: bool
    status: str  # "pass", "regression", "undecided", "not evaluated"
    reasons: tuple[str, ...] = ()  # in words, what the numbers don't say
    comparison: TaskComparison | None = None
    difference: Difference | None = None  # in the score's unit, widened by noise
    margin: float = 0.0
    p: float | None = None  # one-sided
    p_adjusted: float | None = None  # over the family
    detectable: float | None = None  # the smallest fall that this gate mostly sees
    needed: int | None = None  # documents that would decide
    unit: str = "points"
    scale: float = 1.0  # from the difference's unit to this one

    @property
    def estimate(self) -> float | None:
        found = self.difference
        return None if found is None or found.value is None else self.scale * found.value

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """95 %, two-sided."""
        low, high = self.difference.interval() if self.difference else (None, None)
        return (None if low is None else self.scale * low), (None if high is None else self.scale * high)


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate against one baseline."""

    policy: Policy
    candidate: Evidence
    baseline: Evidence
    pool: TaskVerdict | None  # None: fewer than two tasks
    tasks: tuple[TaskVerdict, ...]
    warnings: tuple[str, ...] = ()
    against: str = "baseline"  # or "reference"

    @property
    def status(self) -> str:
        return overall(self.pool, self.tasks)

    @property
    def exit_code(self) -> int:
        return EXIT[self.status]

    def of(self, status: str, *, blocking: bool = True) -> list[TaskVerdict]:
        return [row for row in self.tasks if row.status == status and row.blocking == blocking]


@dataclass
class Row:
    """A task while it is looked at: its difference, and what is settled without a test."""

    task: str
    blocking: bool
    rule: Rule = Rule()  # noqa: RUF009  frozen
    reasons: list[str] = field(default_factory=list)
    status: str | None = None  # settled before any test
    comparison: TaskComparison | None = None
    difference: Difference | None = None
    margin: float = 0.0
    broken: bool = False  # a floor or the format
    unit: str = "points"
    scale: float = 1.0

    @property
    def tested(self) -> bool:
        return self.status is None and self.difference is not None


Nominal = Callable[[float], float]


def plain(level: float) -> float:
    """All of alpha at one look."""
    return level


def decide(
    policy: Policy,
    candidate: Evidence,
    baseline: Evidence,
    *,
    against: str = "baseline",
    alpha: float | None = None,
    nominal: Nominal = plain,
    replicates: int = REPLICATES,
) -> Verdict:
    """The verdict on runs that `obstacles` finds nothing against.

    alpha: this comparison's share, where there are several. nominal: of a level, what this look may spend.
    """
    tasks_of = _names(policy, candidate, baseline)
    rows = [_look(policy, candidate, baseline, task, nominal, replicates) for task in tasks_of]
    warnings = tuple(str(problem) for problem in obstacles(policy, candidate, baseline)[1])
    pool, tasks = judge(policy, rows, policy.alpha if alpha is None else alpha, nominal)
    return Verdict(policy, candidate, baseline, pool, tasks, warnings, against)


def judge(
    policy: Policy, rows: Sequence[Row], alpha: float, nominal: Nominal = plain
) -> tuple[TaskVerdict | None, tuple[TaskVerdict, ...]]:
    """The tests: of the pool (None: fewer than two tasks to pool), and of each row."""
    blocking = [row for row in rows if row.blocking and row.tested]
    unit, together = _pool(blocking)
    family = [*blocking, *([Row("all blocking tasks", True, difference=together, unit=unit)] if together else [])]
    weights = [row.rule.weight for row in blocking]
    if together:
        family[-1].margin = policy.margin_bits if unit == "bits" else policy.pool.margin
        weights = [(1 - policy.pool.share) * weight / sum(weights) for weight in weights] + [policy.pool.share]
    p_values = [_p(policy, row) for row in family]
    adjusted = holm(p_values, weights) if family else []
    rejected = step_down(p_values, weights, alpha, nominal) if family else []
    tail = nominal(1 - policy.confidence)
    verdicts = [
        _verdict(row, p, better, found, nominal(alpha * weight / sum(weights)), tail, policy.strict)
        for row, p, better, found, weight in zip(family, p_values, adjusted, rejected, weights, strict=True)
    ]
    pool = verdicts.pop() if together else None
    by_task = {verdict.task: verdict for verdict in verdicts}
    return pool, tuple(by_task.get(row.task) or _outside(policy, row, alpha, nominal, tail) for row in rows)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that counts: the first one of the worst status."""
    return min(verdicts, key=lambda one: ORDER.index(one.status))


def overall(pool: TaskVerdict | None, tasks: Sequence[TaskVerdict]) -> str:
    """The worst of what blocks: a regression before what was not evaluated, before an undecided pool."""
    found = [row.status for row in tasks if row.blocking]
    for status in ("regression", "not evaluated"):
        if status in found or (pool and pool.status == status):
            return status
    if pool:
        return pool.status
    return "undecided" if "undecided" in found or not found else "pass"


def _names(policy: Policy, candidate: Evidence, baseline: Evidence) -> list[str]:
    """The policy's tasks, then what else both runs have."""
    named = policy.tasks or tuple(baseline.tasks)
    others = [task for task in candidate.tasks if task in baseline.tasks and task not in named]
    return [*named, *(task for task in others if _can_be_paired(task, candidate, baseline))]


def _can_be_paired(task: str, *runs: Evidence) -> bool:
    """Whether all have a task's primary metric document by document: one that nobody named stops nothing."""
    try:
        return all(str(runs[0].tasks[task]["primary"]) in run.items(task).values for run in runs)
    except StoreError:
        return False


def obstacles(policy: Policy, candidate: Evidence, baseline: Evidence) -> tuple[list[Problem], list[Problem]]:
    """What keeps the two from being compared, and what the policy only warns of."""
    named = policy.tasks or tuple(baseline.tasks)
    warned: list[Problem] = []
    fatal = [
        Problem("data", task, f"{baseline.name} has no such task")
        for task in named
        if policy.rule(task).blocking and task in candidate.tasks and task not in baseline.tasks
    ]
    both = [task for task in _names(policy, candidate, baseline) if task in candidate.tasks and task in baseline.tasks]
    for problem in problems(candidate, baseline, both, least_overlap=policy.minimum_overlap):
        blocks = problem.task is None or (problem.task in named and policy.rule(problem.task).blocking)
        if problem.kind == "judges" and problem.task is not None:  # an uncalibrated judge blocks nothing
            blocks = blocks and bool((candidate.tasks[problem.task].get("judge") or {}).get("calibrated"))
        (fatal if blocks and problem.kind not in policy.allow else warned).append(problem)
    if named and not any(task in run.tasks for task in named for run in (candidate, baseline)):
        fatal.append(Problem("data", None, f"neither run has a task of the policy {policy.name}"))
    if not any(policy.rule(task).blocking for task in named):
        fatal.append(Problem("data", None, "no task is blocking: the policy names none, or the runs have none of them"))
    return fatal, warned


def _look(policy: Policy, candidate: Evidence, baseline: Evidence, task: str, nominal: Nominal, replicates: int) -> Row:
    rule = policy.rule(task)
    named = not policy.tasks or task in policy.tasks
    row = Row(task, rule.blocking and named, rule)
    if task not in candidate.tasks:
        why = (candidate.manifest.get("skipped") or {}).get(task, "the candidate's run does not have it")
        row.status, row.reasons = "not evaluated", [str(why)]
        return row
    if task not in baseline.tasks:
        row.status, row.reasons = "undecided", [f"{baseline.name} does not have it"]
        return row
    known = [judge for run in (candidate, baseline) if isinstance(judge := run.tasks[task].get("judge"), dict)]
    if row.blocking and not all(judge.get("calibrated") for judge in known):
        row.blocking = False
        row.reasons.append("an uncalibrated judge can't block")
    if waiting := [run.name for run in (candidate, baseline) if awaits(run, task, rule.metric)]:
        row.blocking, row.status = False, "undecided"
        row.reasons.append(f"awaiting judge: {' and '.join(waiting)}")
        return row
    items = candidate.items(task)
    asked = len(items.docs) + items.errors
    if items.errors > policy.maximum_missing * asked or not items.docs:
        row.status = "not evaluated"
        row.reasons.append(f"{items.errors:,} of {asked:,} documents have no response")
        return row
    row.comparison = found = compare_task(candidate, baseline, task, rule.metric, replicates=replicates)
    if reason := _unusable(policy, found, items, baseline.items(task)):
        row.status = "not evaluated"
        row.reasons.append(reason)
        return row
    row.scale, row.unit = found.scale, "bits" if found.unit == "bits" else "points"
    row.margin = policy.margin_of(task, found.unit)
    noise = math.sqrt(2) * (rule.noise or 0.0) / found.scale  # of two checkpoints
    row.difference = widened(found.difference, noise)
    least = rule.minimum_n or policy.minimum_n
    _guard(policy, row, candidate, nominal(GUARD), least)
    untested = "regression" if row.broken else "undecided"
    if found.difference.n < least and not found.difference.identical:
        row.status = untested
        row.reasons.append(f"the policy asks for {least:,} documents")
    elif row.difference.value is None or row.difference.error is None:
        row.status = untested
        row.reasons.append(row.difference.method)
    return row


def _unusable(policy: Policy, found: TaskComparison, mine: Items, theirs: Items) -> str | None:
    """Why the candidate's values are no score: not a number, or lacking where the baseline has them (documents that
    only the candidate lost may be those it would fail)."""
    values = theirs.values.get(found.metric, [])
    had = {doc for doc, value in zip(theirs.docs, values, strict=False) if value is not None}
    own = mine.values.get(found.metric) or [None] * len(mine.docs)
    lost = sum(value is None and doc in had for doc, value in zip(mine.docs, own, strict=True))
    asked = len(mine.docs) + mine.errors
    if lost and lost + mine.errors > policy.maximum_missing * asked:
        return f"{lost:,} of {asked:,} documents have no {found.metric}, and the baseline has it"
    if found.difference.n and found.value_a is None and found.value_b is not None:
        return "the candidate's score is not a number"
    return None


def _guard(policy: Policy, row: Row, candidate: Evidence, level: float, least: int) -> None:
    """Floors and parse failures: limits that the candidate alone has to keep. level: how sure a broken one has to be;
    least: documents after which a score without an interval (all alike) is believed."""
    assert row.comparison is not None
    found, rule = row.comparison, row.rule
    score = candidate.score(row.task, found.metric)
    if rule.floor is not None and score is not None and score.value is not None:
        value, floor = found.scale * score.value, rule.floor
        beyond = (floor - value) * (1 if score.higher_is_better else -1)
        if beyond > 0:
            row.broken |= _surely(score, beyond / found.scale, level, least)
            row.reasons.append(f"{value:.1f} is beyond the floor of {floor:g}{'' if row.broken else ', within noise'}")
    most = policy.maximum_parse_failures if rule.maximum_parse_failures is None else rule.maximum_parse_failures
    items = candidate.items(row.task)
    failures = sum(items.parse_failure)
    if most is not None and failures > most * len(items.docs):
        surely = 1 - binomial_cdf(failures - 1, len(items.docs), most) <= level if most else True
        row.broken |= surely
        share, doubt = 100 * failures / len(items.docs), "" if surely else ", within noise"
        row.reasons.append(f"the format: {share:.1f} % of answers can't be read, {100 * most:g} % may{doubt}")


def _surely(score: Score, beyond: float, level: float, least: int) -> bool:
    """Whether a score is `beyond` its floor by more than chance."""
    if score.ci_low is None or score.ci_high is None:
        return score.n >= least
    error = (score.ci_high - score.ci_low) / 2 / HALF_WIDTH
    return error > 0 and normal_tail(beyond / error) <= level


def _pool(rows: Sequence[Row]) -> tuple[str, Difference | None]:
    """The pooled difference in points (in bits where all are measured so), of two tasks and more."""
    bits = [row for row in rows if row.unit == "bits"]
    chosen = bits if len(bits) == len(rows) else [row for row in rows if row not in bits]
    unit = "bits" if chosen is bits else "points"
    if len(chosen) < 2:
        return unit, None
    parts = [(row.difference, row.rule.weight) for row in chosen if row.difference]
    return unit, pooled(parts, [row.scale for row in chosen])


def _p(policy: Policy, row: Row) -> float:
    assert row.difference is not None
    return row.difference.p_below(-row.margin / row.scale if policy.strict else 0.0)


def _detectable(row: Row, level: float, strict: bool) -> float | None:
    """The fall, in points or bits, that is a regression four times in five: significant, and beyond the margin."""
    found = row.difference
    seen = found.detectable(level) if found else None
    if not found or not found.error or seen is None:
        return None
    if strict:
        return row.margin + row.scale * seen
    return max(row.scale * seen, row.margin + row.scale * normal_quantile(1 - POWER) * found.error)


def _verdict(
    row: Row, p: float, adjusted: float, rejected: bool, level: float, tail: float, strict: bool
) -> TaskVerdict:
    """A tested row. level: what its p-value had to be; tail: of the bound that a pass needs."""
    found = row.difference
    assert found is not None and found.value is not None
    limit = -row.margin / row.scale
    low = found.low(tail)
    status, needed = "undecided", None
    if row.broken or (rejected and found.value < limit):
        status = "regression"
    elif low is not None and low > limit:
        status = "pass"
    else:
        beyond = found.value - limit
        distance, wanted = (beyond, tail) if beyond > 0 else (beyond if strict else found.value, level)
        needed = found.documents_for(distance, wanted)
        needed = needed if needed and found.n < needed <= MOST * found.n else None
    return _settled(
        row,
        status,
        p=p,
        p_adjusted=adjusted,
        detectable=_detectable(row, level, strict),
        needed=needed,
    )


def _settled(row: Row, status: str, **tested: Any) -> TaskVerdict:
    return TaskVerdict(
        row.task,
        row.blocking,
        status,
        tuple(row.reasons),
        row.comparison,
        row.difference,
        row.margin,
        unit=row.unit,
        scale=row.scale,
        **tested,
    )


def _outside(policy: Policy, row: Row, alpha: float, nominal: Nominal, tail: float) -> TaskVerdict:
    """A row outside of the family: settled, or advisory (tested alone, at the same alpha)."""
    if row.tested:
        p, level = _p(policy, row), nominal(alpha)
        return _verdict(row, p, p, p <= level, level, tail, policy.strict)
    return _settled(row, row.status or "undecided")
