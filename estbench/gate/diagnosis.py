"""For the one on call: did the *format* break, or did the *ability* fall?

    found = diagnose(candidate, baseline, comparison)
    found.kind          "format", "ability", "both"
    found.sentence      "the format broke: 41.2 % of answers can't be read (0.0 % before)"

The fall is split in two: what documents lose whose answer can't be read any more (unparsable or empty now, and readable
before), and the rest. More than half of it from the first: format; less than a fifth: ability.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from estbench.compare import TaskComparison, compare_items
from estbench.evidence import Evidence, Items

MOSTLY, HARDLY = 0.5, 0.2  # of the fall
LONGER = 1.5  # times the length that is worth a word


@dataclass(frozen=True, slots=True)
class Side:
    """How the answers of one run look, on the shared documents."""

    parse_failures: float  # shares, 0 to 1
    empty: float
    truncated: float | None  # of all its documents; None: not generated
    length: float | None  # median characters; None: not generated


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What lies behind a fall."""

    kind: str
    sentence: str
    candidate: Side
    baseline: Side
    template_changed: bool
    from_format: float | None  # share of the fall that unreadable answers explain


def diagnose(candidate: Evidence, baseline: Evidence, found: TaskComparison) -> Diagnosis:
    """The diagnosis of a task in which the candidate is worse."""
    now, before = (
        side(run, found.task, run.items(found.task), places)
        for run, places in ((candidate, found.places_a), (baseline, found.places_b))
    )
    templates = [run.manifest["model"].get("chat_template") for run in (candidate, baseline)]
    changed = templates[0] != templates[1]
    share = _from_format(candidate, baseline, found)
    kind = "ability" if share is None or share < HARDLY else "format" if share > MOSTLY else "both"
    return Diagnosis(kind, _sentence(kind, now, before, changed), now, before, changed, share)


def side(run: Evidence, task: str, items: Items, places: list[int]) -> Side:
    """How a run's answers look on the documents at these places."""
    n = max(1, len(places))
    lengths = [items.length[at] for at in places if items.length[at] >= 0]
    endings = run.tasks[task].get("endings") or {}
    return Side(
        sum(items.parse_failure[at] for at in places) / n,
        sum(items.empty[at] for at in places) / n,
        endings["truncated"] / endings["n"] if endings.get("n") else None,
        statistics.median(lengths) if lengths else None,
    )


def _from_format(candidate: Evidence, baseline: Evidence, found: TaskComparison) -> float | None:
    """The share of the fall that is gone once documents that can't be read any more are left out."""
    whole = found.difference.value
    mine, theirs = candidate.items(found.task), baseline.items(found.task)
    readable = [
        not (_unreadable(mine, at) and not _unreadable(theirs, there))
        for at, there in zip(found.places_a, found.places_b, strict=True)
    ]
    lost = readable.count(False)
    if not lost or not whole or whole > 0:
        return None
    if lost == len(readable):
        return 1.0
    columns = [_only(items, found.metric, places, readable) for items, places in
               ((mine, found.places_a), (theirs, found.places_b))]  # fmt: skip
    rest = compare_items(candidate, found.task, found.metric, (mine, theirs), columns, replicates=0)
    left = (rest.difference.value or 0.0) * sum(readable) / len(readable)
    return min(1.0, max(0.0, 1 - left / whole))


def _unreadable(items: Items, place: int) -> bool:
    return items.parse_failure[place] or items.empty[place]


def _only(items: Items, metric: str, places: list[int], readable: list[bool]) -> list[Any]:
    """The metric's column with None for documents that are left out."""
    kept = {at for at, good in zip(places, readable, strict=True) if good}
    return [value if at in kept else None for at, value in enumerate(items.values[metric])]


def _sentence(kind: str, now: Side, before: Side, template_changed: bool) -> str:
    facts = [
        f"{100 * new:.1f} % of answers {what} ({100 * old:.1f} % before)"
        for what, new, old in (
            ("can't be read", now.parse_failures, before.parse_failures),
            ("are empty", now.empty, before.empty),
            ("are cut off", now.truncated or 0.0, before.truncated or 0.0),
        )
        if new > old + 0.01
    ]
    if now.length is not None and before.length:
        ratio = now.length / before.length
        if not 1 / LONGER < ratio < LONGER:
            facts.append(f"the median answer has {now.length:.0f} characters ({before.length:.0f} before)")
    if template_changed:
        facts.append("the chat template is another one")
    head = {"format": "the format broke", "ability": "the ability fell", "both": "format and ability fell"}[kind]
    return f"{head}: {'; '.join(facts)}" if facts else f"{head}, the format of answers did not change"
