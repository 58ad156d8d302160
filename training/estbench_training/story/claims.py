"""What a paper claims, put so that a command can answer, and the verdict on it.

    claim = Claim("cpt-et", "Continued pretraining raises Estonian.", "cpt", "base", ("mini_pairs_et",), "better")
    found = of_compare(json of `estbench compare`)         # or of_gate(json of `estbench gate`)
    verdict(claim, found).word                             # "shown", "not shown" or "undecided"

Nothing here looks at numbers of its own: what is better, kept or fallen is what those commands say, and a verdict
repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from estbench.errors import ConfigError
from estbench.gate.reports import p_value, signed

Test = Literal["better", "kept", "fallen", "fewer"]
Word = Literal["shown", "not shown", "undecided"]
TESTS: tuple[Test, ...] = ("better", "kept", "fallen", "fewer")


@dataclass(frozen=True)
class Claim:
    """A claim about two models on some tasks.

    test: `better`, the candidate is better on each task (compare, two-sided, p adjusted over the tasks); `kept`, the
    gate passes with the margin; `fallen`, the gate finds a regression, as a control has to; `fewer`, the candidate's
    tokenizer needs fewer tokens for the tasks' reference answers (paired by answer; no model answers).
    """

    name: str
    says: str  # one sentence
    candidate: str  # a model's name in its seed
    baseline: str
    tasks: tuple[str, ...]
    test: Test
    margin: float = 2.0  # points, of a gate
    control: bool = False  # what should happen where the cure is left out

    def __post_init__(self) -> None:
        if self.test not in TESTS or not self.tasks or self.margin <= 0:
            raise ConfigError(f"The claim {self.name} needs tasks, one of {', '.join(TESTS)}, and a margin above 0.")


@dataclass(frozen=True)
class Row:
    """What a command says of one task, in points (tokens where they are counted); `status` is its word."""

    task: str
    status: str  # of compare: a, b, open, equal; of the gate: pass, regression, undecided, not evaluated
    n: int
    candidate: float | None
    baseline: float | None
    difference: float | None
    low: float | None  # 95 %, two-sided
    high: float | None
    p: float | None  # adjusted: compare two-sided, gate one-sided
    detectable: float | None  # found four times in five
    unit: str = "points"


@dataclass(frozen=True)
class Found:
    """What a command says of a claim: the whole status and exit code of a gate, and every task."""

    rows: tuple[Row, ...]
    status: str | None = None  # of the gate
    reason: str | None = None  # why nothing could be compared
    note: str | None = None  # what a reader has to know beside the verdict


@dataclass(frozen=True)
class Verdict:
    """A claim, what was found, and what that means."""

    claim: Claim
    found: Found
    word: Word
    reason: str  # a part of a sentence; "" where there is nothing to add


def of_compare(answer: Mapping[str, Any], tasks: Sequence[str]) -> Found:
    """The rows of `estbench compare CANDIDATE BASELINE output=json`."""
    known = {row["task"]: row for row in answer["tasks"]}
    if lacking := [task for task in tasks if task not in known]:
        return Found((), reason=str(answer["left_out"].get(lacking[0], f"{lacking[0]} is in neither run")))
    if problems := [one for one in answer["problems"] if one["task"] in (None, *tasks)]:
        return Found((), reason=f"the runs differ in {problems[0]['kind']}: {problems[0]['text']}")
    return Found(tuple(_compared(known[task]) for task in tasks))


def _compared(row: Mapping[str, Any]) -> Row:
    scale = 100.0 if row["unit"] == "proportion" else 1.0
    values = {key: None if row[key] is None else scale * row[key] for key in ("a", "b", "difference", "low", "high")}
    seen = None if row["detectable"] is None else scale * row["detectable"]
    return Row(
        task=row["task"],
        status=row["verdict"],
        n=row["n"],
        candidate=values["a"],
        baseline=values["b"],
        difference=values["difference"],
        low=values["low"],
        high=values["high"],
        p=row["p_adjusted"],
        detectable=seen,
        unit="bits" if row["unit"] == "bits" else "points",
    )


def of_gate(answer: Mapping[str, Any], tasks: Sequence[str]) -> Found:
    """The rows of `estbench gate candidate=… baseline=… output=json`, with its status."""
    known = {row["task"]: row for row in answer["comparisons"][0]["tasks"]}
    rows = [known[task] for task in tasks]
    keys = ("task", "status", "n", "candidate", "baseline", "difference", "low", "high", "detectable", "unit")
    return Found(tuple(Row(p=row["p_adjusted"], **{key: row[key] for key in keys}) for row in rows), answer["status"])


def verdict(claim: Claim, found: Found) -> Verdict:
    """Shown, not shown, or undecided; and why, where it is not shown."""
    if found.reason or not found.rows:
        return Verdict(claim, found, "undecided", found.reason or "nothing was compared")
    word, reason = _gated(claim, found) if claim.test in ("kept", "fallen") else _better(found)
    return Verdict(claim, found, word, "; ".join(filter(None, (reason, found.note))))


def _better(found: Found) -> tuple[Word, str]:
    worse = [row for row in found.rows if row.status == "b"]
    same = [row for row in found.rows if row.status == "equal"]
    open_ = [row for row in found.rows if row.status == "open"]
    if worse:
        return "not shown", f"it is the other way round in {_listed(worse)}: {sentence(worse[0])}"
    if same:
        return "not shown", f"both are the same in {_listed(same)}"
    if open_:
        seen = [row.detectable for row in open_ if row.detectable is not None]
        least = f"; {max(seen):.1f} {open_[0].unit} would be found four times in five" if seen else ""
        return "undecided", f"no difference was found in {_listed(open_)}{least}"
    return "shown", ""


def _gated(claim: Claim, found: Found) -> tuple[Word, str]:
    fallen = [row for row in found.rows if row.status == "regression"]
    wanted, other = ("pass", "regression") if claim.test == "kept" else ("regression", "pass")
    if found.status == wanted:
        return "shown", ""
    if found.status == other:
        about = f"{_listed(fallen)} fell: {sentence(fallen[0])}" if fallen else "nothing fell beyond the margin"
        return "not shown", about
    return "undecided", "too few documents to tell" if found.status == "undecided" else f"the gate says {found.status}"


def sentence(row: Row) -> str:
    """+12.5 points (95 % 8.8 … 16.2), p < 1e-06, n = 600."""
    between = "" if row.low is None else f" (95 % {signed(row.low)} … {signed(row.high)})"
    sure = "" if row.p is None else f", p {p_value(row.p)}"
    return f"{signed(row.difference)} {row.unit}{between}{sure}, n = {row.n:,}"


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(f"`{row.task}`" for row in rows)
