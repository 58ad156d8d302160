"""What `estbench compare` and `estbench report` do once their settings are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench import compare as comparing
from estbench import evidence, report
from estbench.commands import wants_table
from estbench.compare import Comparison, Row, TaskComparison
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.gate.reports import p_value, signed
from estbench.scoring import metric_of

if TYPE_CHECKING:
    from estbench.settings import CompareSettings, ReportSettings

WIDE = 400  # characters of an answer that are shown


def compare(settings: CompareSettings, names: Sequence[str]) -> int:
    """Print the paired differences of two runs."""
    if len(names) != 2:
        raise ConfigError(f"Name two runs: estbench compare RUN RUN ({len(names)} given).")
    a, b = (evidence.load(name) for name in names)
    tasks = _spelled(settings.tasks, a.tasks.keys() & b.tasks.keys())
    found = comparing.compare(a, b, tasks or None, settings.metric)
    shown = {row.comparison.task: flips(a, b, row.comparison, settings.flips) for row in found.rows if settings.flips}
    for problem in found.problems:
        report.say(f"Not comparable in {problem.kind}: {problem}.")
    for task, reason in found.left_out.items():
        report.say(f"{task} is left out: {reason}.")
    if not wants_table(settings.output):
        print(report.as_json(as_json(found, shown)))
        return 0
    print(as_text(found))
    for task, rows in shown.items():
        print(_flips_text(task, rows, a, b))
    return 0


def _spelled(tasks: str | None, have: Collection[str]) -> list[str]:
    """Task names. Of a suite those that the runs `have`, and a word about the others; names of tasks stay as they are,
    so that a slip is refused."""
    from estbench.registry import Registry

    suites = Registry().suites
    found: list[str] = []
    for name in [name.strip() for name in (tasks or "").split(",") if name.strip()]:
        if name not in suites:
            found.append(name)
            continue
        here = [task for task in suites[name].tasks if task in have]
        if not here:
            raise ConfigError(f"None of the tasks of {name} is in these runs: they have {', '.join(sorted(have))}.")
        if lacking := [task for task in suites[name].tasks if task not in have]:
            report.say(f"Of {name} the runs lack {', '.join(lacking)}.")
        found += here
    return list(dict.fromkeys(found))


def as_text(found: Comparison) -> str:
    """For a terminal."""
    one, other = map(_short, comparing.labels(found.a, found.b))
    columns = {"task": "task", "metric": "metric", "a": f">{one}", "b": f">{other}"}
    columns |= {"difference": ">difference", "interval": "95 % interval", "p": ">p", "adjusted": ">p (BH)"}
    columns |= {"n": ">n", "flips": ">better/worse", "sees": ">detectable", "verdict": "verdict"}
    names = dict(zip("ab", (f"{name} is better" for name in comparing.labels(found.a, found.b)), strict=True))
    rows = [
        _cells(row)
        | {"verdict": names.get(row.verdict, _open(row)), "metric": report.metric_name(*_judged(found, row.comparison))}
        for row in found.rows
    ]
    head = f"{found.a.name} ({found.a.id}) against {found.b.name} ({found.b.id}), on the same documents"
    foot = (
        "Differences in points (bits where tasks are measured so); p two-sided, BH: false discovery rate over the "
        "tasks; detectable: the difference found four times in five."
    )
    return "\n".join([head, "", report.listing(rows, columns), "", foot])


def _judged(found: Comparison, one: TaskComparison) -> tuple[Any, ...]:
    """A metric and the two scores of it, which say whether judges gave them."""
    return one.metric, *(run.score(one.task, one.metric) for run in (found.a, found.b))


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"…{name[-15:]}"


def _open(row: Row) -> str:
    return "the same responses" if row.verdict == "equal" else "can't be told apart"


def _cells(row: Row) -> dict[str, Any]:
    one, found = row.comparison, row.comparison.difference
    low, high = (None if end is None else one.scale * end for end in found.interval())
    lacking = one.only_a + one.only_b
    digits = 3 if one.unit == "bits" else 1
    return {
        "task": one.task,
        "a": report.number(one.value_a, one.unit),
        "b": report.number(one.value_b, one.unit),
        "difference": signed(None if found.value is None else one.scale * found.value),
        "interval": found.method if low is None else f"{signed(low)} … {signed(high)}",
        "p": p_value(row.p).removeprefix("= "),
        "adjusted": p_value(row.p_adjusted).removeprefix("= "),
        "n": f"{found.n:,}" + (f" ({lacking:,} unpaired)" if lacking else ""),
        "flips": f"{found.better}/{found.worse}",
        "sees": "" if row.detectable is None else f"{one.scale * row.detectable:.{digits}f}",
    }


def as_json(found: Comparison, shown: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The comparison as data; proportions as proportions."""
    return {
        "a": {"name": found.a.name, "run": found.a.id},
        "b": {"name": found.b.name, "run": found.b.id},
        "tasks": [
            _as_data(row)
            | {
                "judge": report.judge_of(_judged(found, row.comparison)[1:]),
                "flips": shown.get(row.comparison.task, []),
            }
            for row in found.rows
        ],
        "problems": [{"kind": one.kind, "task": one.task, "text": one.text} for one in found.problems],
        "left_out": found.left_out,
    }


def _as_data(row: Row) -> dict[str, Any]:
    one, found = row.comparison, row.comparison.difference
    low, high = found.interval()
    return {
        "task": one.task,
        "metric": one.metric,
        "unit": one.unit,
        "a": one.value_a,
        "b": one.value_b,
        "difference": found.value,
        "low": low,
        "high": high,
        "p": row.p,
        "p_adjusted": row.p_adjusted,
        "detectable": row.detectable,
        "verdict": row.verdict,
        "n": found.n,
        "only_a": one.only_a,
        "only_b": one.only_b,
        "better": found.better,
        "worse": found.worse,
        "method": found.method,
    }


def flips(a: Evidence, b: Evidence, one: TaskComparison, most: int) -> list[dict[str, Any]]:
    """Documents on which the two differ, those where a is worse first; with answers where both are run folders."""
    if a.run is None or b.run is None:
        return []
    texts = [_answers(side, one.task) for side in (a, b)]
    items = a.items(one.task), b.items(one.task)
    found = []
    for at, there in zip(one.places_a, one.places_b, strict=True):
        values = items[0].values[one.metric][at], items[1].values[one.metric][there]
        if values[0] == values[1]:
            continue
        alone = [_alone(one.metric, value) for value in values]
        gap = alone[0] - alone[1]
        doc = items[0].docs[at]
        row = {"doc": doc, "a": values[0], "b": values[1], "gap": gap if one.higher_is_better else -gap}
        row |= {f"answer_{side}": texts[place].get(doc) for place, side in enumerate("ab")}
        found.append(row)
    return sorted(found, key=lambda row: (row["gap"], row["doc"]))[:most]


def _alone(metric: str, value: Any) -> float:
    """What a document is worth by itself; a corpus metric of it alone."""
    if isinstance(value, int | float):
        return float(value)
    known = metric_of(metric, [value])
    if known is None or known.combine is None:
        return 0.0
    rows = known.prepare([value]) if known.prepare else np.asarray([value], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num(known.combine(rows.sum(axis=0))))


def _answers(side: Evidence, task: str) -> dict[str, dict[str, Any]]:
    assert side.run is not None
    texts = {row["doc_id"]: row["text"] for row in side.run.responses(task) if "text" in row}
    return {
        sample.doc_hash: {
            "doc_id": sample.doc_id,
            "target": sample.target,
            "answer": texts.get(sample.doc_id, sample.answer),
        }
        for sample in side.run.samples(task)
    }


def _flips_text(task: str, rows: Sequence[dict[str, Any]], a: Evidence, b: Evidence) -> str:
    lines = ["", f"{task}: documents that differ, those where {a.name} is worse first"]
    if not rows:
        return "\n".join([*lines, "  none, or no answers are stored here"])
    for row in rows:
        first = row["answer_a"] or {}
        lines.append(
            f"  document {first.get('doc_id', '?')} ({row['doc'][:12]}), target {_one_line(first.get('target'))}"
        )
        for side, run in (("a", a), ("b", b)):
            answer = (row[f"answer_{side}"] or {}).get("answer")
            value = row[side] if isinstance(row[side], int | float) else "statistics"
            lines.append(f"    {run.name}: {_one_line(answer)} [{value}]")
    return "\n".join(lines)


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = "".join(sign if sign.isprintable() else "↵" if sign == "\n" else "�" for sign in text)
    return text if len(text) <= WIDE else f"{text[:WIDE]}…"


def paper(settings: ReportSettings) -> int:
    """Print the table of a paper."""
    from estbench import paper as table_of

    names = [name.strip() for name in settings.runs.split(",") if name.strip()]
    runs = [evidence.load(name) for name in names]
    have = {task for run in runs for task in (*run.tasks, *(run.manifest.get("skipped") or {}))}
    table = table_of.table(runs, _spelled(settings.tasks, have), reference=settings.reference)
    if settings.output == "json":
        print(report.as_json(table_of.as_json(table)))
    else:
        write = {"latex": table_of.as_latex, "csv": table_of.as_csv}.get(str(settings.output), table_of.as_markdown)
        print(write(table))
    return 0
