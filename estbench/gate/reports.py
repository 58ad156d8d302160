"""What people and machines read of a verdict: lines for the one on call, Markdown for a job's summary, JSON, JUnit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from estbench import report
from estbench.compare import TaskComparison, labels
from estbench.gate.diagnosis import Diagnosis, diagnose
from estbench.gate.verdict import EXIT, TaskVerdict, Verdict, worst

SMALLEST = 1e-6
HEADS = {"pass": "PASS", "regression": "REGRESSION", "undecided": "UNDECIDED", "not evaluated": "NOT EVALUATED"}
MARKUP = re.compile(r"[\\`*\[\]<>|#@&:]")


def as_text(verdicts: Sequence[Verdict]) -> str:
    """For a terminal: what is wrong first, then every task."""
    return "\n\n".join("\n".join([*_head(one), "", *one_table(one)]) for one in [worst(verdicts), *_others(verdicts)])


def _others(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [one for one in verdicts if one is not worst(verdicts)]


def _head(one: Verdict) -> list[str]:
    """The first lines: which task, how much, how sure, and what broke."""
    mine, theirs = labels(one.candidate, one.baseline)
    against = f"{mine} against {one.against} {theirs}"
    fallen = [row for row in ([one.pool] if one.pool else []) + list(one.tasks) if row.status == "regression"]
    blocking = [row for row in fallen if row.blocking]
    undecided = one.of("undecided")
    lines = [f"{HEADS[one.status]}: {against}{_summary(one, blocking, undecided)}"]
    for row in sorted(blocking, key=lambda row: (row is not one.pool, row.estimate or 0.0)):
        lines.append(f"  {row.task}: {sentence(row)}")
        if found := _diagnosis(one, row):
            lines.append(f"    {found.sentence}")
    lines += [f"  {row.task}: not evaluated: {'; '.join(row.reasons)}" for row in one.of("not evaluated")]
    lines += [f"  {row.task}: {sentence(row)}: undecided, and surely fallen" for row in undecided if _fell(row)]
    if one.status == "undecided":
        lines.append(f"  {_undecided(one)}")
    lines += [f"  advisory: {row.task}: {sentence(row)}" for row in fallen if not row.blocking]
    return [*lines, *(f"  warning: {text}" for text in one.warnings)]


def _summary(one: Verdict, fallen: Sequence[TaskVerdict], undecided: Sequence[TaskVerdict]) -> str:
    if one.status == "pass" and undecided:
        return f" ({len(undecided)} task{'s' * (len(undecided) != 1)} undecided)"
    if one.status == "regression":
        return f" in {len(fallen)} of {sum(row.blocking for row in one.tasks) + bool(one.pool)} tests"
    return ""


def _undecided(one: Verdict) -> str:
    row = one.pool or next((row for row in one.tasks if row.blocking and row.status == "undecided"), None)
    if row is None:
        return "nothing was tested: no blocking task has enough documents"
    parts = [sentence(row)]
    if row.needed and row.difference:
        parts.append(f"about {row.needed / row.difference.n:.1f} times as many documents would decide ({row.needed:,})")
    return f"{row.task}: {'; '.join(parts)}"


def _fell(row: TaskVerdict) -> bool:
    """Whether a task that may not decide (too few documents) is surely below its margin all the same."""
    high = row.interval[1]
    return high is not None and high < -row.margin


def sentence(row: TaskVerdict) -> str:
    """−12.5 points (95 % −16.2 … −8.8), p = 2e-09, n = 320; and what else is to be said."""
    parts = []
    if row.estimate is not None and row.difference is not None:
        low, high = row.interval
        between = f" (95 % {signed(low)} … {signed(high)})" if low is not None else ""
        sure = f", p {p_value(row.p_adjusted)}" if row.p_adjusted is not None else ""
        parts.append(f"{signed(row.estimate)} {row.unit}{between}{sure}, n = {row.difference.n:,}")
    return "; ".join([*parts, *row.reasons]) or row.status


def p_value(p: float) -> str:
    """= 0.012, or < 1e-06: smaller ones rest on tails that nobody has seen."""
    return f"= {p:.2g}" if p >= SMALLEST else f"< {SMALLEST:g}"


def signed(value: float | None) -> str:
    """+1.2, −0.4, or a dash; three decimals below 0.1."""
    if value is None:
        return "–"
    digits = 1 if abs(value) >= 0.1 or value == 0 else 3
    return f"{value:+.{digits}f}".replace("-", "−")


def _diagnosis(one: Verdict, row: TaskVerdict) -> Diagnosis | None:
    if row.comparison is None or row.estimate is None or row.estimate >= 0:
        return None
    return diagnose(one.candidate, one.baseline, row.comparison)


def one_table(one: Verdict) -> list[str]:
    """Every test in a line each."""
    rows = [_cells(row) for row in ([one.pool] if one.pool else []) + list(one.tasks)]
    columns = {
        "task": "task",
        "status": "verdict",
        "candidate": ">candidate",
        "baseline": ">baseline",
        "difference": ">difference",
        "interval": "95 % interval",
        "p": ">p adjusted",
        "margin": ">margin",
        "sees": ">sees a fall of",
        "n": ">n",
        "reasons": "",
    }
    return report.listing(rows, columns).splitlines()


def _cells(row: TaskVerdict) -> dict[str, Any]:
    found, low_high = row.comparison, row.interval
    values = [None, None] if found is None else [found.value_a, found.value_b]
    shown = ["" if value is None or found is None else report.number(value, found.unit) for value in values]
    return {
        "task": row.task,
        "status": row.status + ("" if row.blocking else " (advisory)"),
        "candidate": shown[0],
        "baseline": shown[1],
        "difference": "" if row.estimate is None else signed(row.estimate),
        "interval": "" if low_high[0] is None else f"{signed(low_high[0])} … {signed(low_high[1])}",
        "p": None if row.p_adjusted is None else p_value(row.p_adjusted).removeprefix("= "),
        "margin": f"{row.margin:g}" if row.difference is not None else "",
        "sees": None
        if row.detectable is None
        else f"{row.detectable:.1f}"
        if row.unit == "points"
        else f"{row.detectable:.3f}",
        "n": None if row.difference is None else _n(row),
        "reasons": "; ".join(row.reasons),
    }


def _n(row: TaskVerdict) -> str:
    assert row.difference is not None
    n, found = row.difference.n, row.comparison
    most = n + max(found.only_a, found.only_b) if found else n
    return f"{n:,}" + (f" of {most:,}" if most > n else "")


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """For a pull request or a job's summary."""
    parts = []
    for one in [worst(verdicts), *_others(verdicts)]:
        head, *rest = _head(one)
        parts += [f"### {_escape(head)}", ""]
        parts += [f"- {_escape(line.strip())}" for line in rest] + [""] * bool(rest)
        parts += ["| task | verdict | candidate | baseline | difference | 95 % | p | margin | sees | n |"]
        parts += ["|---|---|---:|---:|---:|---|---:|---:|---:|---:|"]
        keys = ("task", "status", "candidate", "baseline", "difference", "interval", "p", "margin", "sees", "n")
        for row in ([one.pool] if one.pool else []) + list(one.tasks):
            cells = _cells(row)
            parts.append("| " + " | ".join(_escape(str(cells[key] or "")) for key in keys) + " |")
        parts += ["", _footnote(one), ""]
    return "\n".join(parts)


def _footnote(one: Verdict) -> str:
    policy = one.policy
    return (
        f"Policy {_escape(policy.name)}: alpha {policy.alpha:.3g} over all tests of a run (Holm), a pass needs "
        f"{100 * policy.confidence:g} % confidence. Differences in points; *sees* is the fall found four times in five."
    )


def _escape(text: str) -> str:
    """Text from outside in Markdown: no markup, no table cell, no HTML, no mention."""
    return " ".join(MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", text).split())


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdict as data: the one that counts, then each comparison."""
    chief = worst(verdicts)
    return {
        "status": chief.status,
        "exit_code": EXIT[chief.status],
        "policy": chief.policy.name,
        "alpha": chief.policy.alpha,
        "candidate": {"name": chief.candidate.name, "run": chief.candidate.id},
        "comparisons": [_comparison(one) for one in verdicts],
    }


def _comparison(one: Verdict) -> dict[str, Any]:
    return {
        "against": one.against,
        "baseline": {"name": one.baseline.name, "run": one.baseline.id},
        "status": one.status,
        "pool": _task(one, one.pool) if one.pool else None,
        "tasks": [_task(one, row) for row in one.tasks],
        "warnings": list(one.warnings),
    }


def _points(found: TaskComparison, value: float | None) -> float | None:
    return None if value is None else found.scale * value


def _task(one: Verdict, row: TaskVerdict) -> dict[str, Any]:
    found, difference = row.comparison, row.difference
    broken = _diagnosis(one, row) if row.status == "regression" else None
    return {
        "task": row.task,
        "metric": found.metric if found else None,
        "unit": row.unit,
        "blocking": row.blocking,
        "status": row.status,
        "candidate": _points(found, found.value_a) if found else None,
        "baseline": _points(found, found.value_b) if found else None,
        "difference": row.estimate,
        "low": row.interval[0],
        "high": row.interval[1],
        "p": row.p,
        "p_adjusted": row.p_adjusted,
        "margin": row.margin,
        "detectable": row.detectable,
        "needed": row.needed,
        "n": difference.n if difference else 0,
        "only_candidate": found.only_a if found else None,
        "only_baseline": found.only_b if found else None,
        "better": difference.better if difference else None,
        "worse": difference.worse if difference else None,
        "method": difference.method if difference else None,
        "reasons": list(row.reasons),
        "diagnosis": None if broken is None else {"kind": broken.kind, "sentence": broken.sentence},
    }


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """A case for each blocking test: a regression fails, what was not evaluated is an error, undecided is skipped."""
    from estbench.interchange.junit import Case, Note, junit

    kinds = {"regression": "failure", "not evaluated": "error"}
    cases = []
    for one in verdicts:
        for row in ([one.pool] if one.pool else []) + [row for row in one.tasks if row.blocking]:
            text = sentence(row)
            options: dict[str, Any] = {}
            if row.status in kinds:
                found = _diagnosis(one, row)
                body = f"{one.candidate.id} against {one.baseline.id}"
                options[kinds[row.status]] = Note(row.status, text, f"{body}\n{found.sentence}" if found else body)
            elif row.status == "undecided":
                options["skipped"] = f"undecided: {text}"
            cases.append(Case(row.task, f"estbench.gate.{one.against}", 0.0, output=text, **options))
    chief = worst(verdicts)
    properties = {
        "status": chief.status,
        "policy": chief.policy.name,
        "alpha": f"{chief.policy.alpha:.6g}",
        "candidate": chief.candidate.id,
        "baseline": chief.baseline.id,
    }
    return junit("estbench gate", cases, properties=properties, timestamp=datetime.now(UTC).isoformat())
