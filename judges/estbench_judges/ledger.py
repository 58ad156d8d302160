"""What a judge's calls have used: tokens and money, between two looks at an engine, and over several commands.

now = used(before, judge.engine.notes())      # {"ledger": {...}, "cost": {...}} since `before`
total = together(earlier, now)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("ledger", "cost")  # of an engine's notes
Record = dict[str, dict[str, Any]]


def used(before: Mapping[str, Any], after: Mapping[str, Any]) -> Record:
    """What was used from one look at an engine's notes to the next; empty where it keeps no ledger."""
    return _combined(after, before, -1)


def together(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Record:
    """Both, as one."""
    return _combined(now, earlier, 1)


def spent(record: Mapping[str, Any]) -> float:
    """The money in a record, or in an engine's notes."""
    return float((record.get("cost") or {}).get("spent", 0.0))


def billed(notes: Mapping[str, Any]) -> float:
    """The most that may have been billed, repeated requests included."""
    cost = notes.get("cost") or {}
    return float(cost.get("with_repeats_at_most", cost.get("spent", 0.0)))


def _combined(one: Mapping[str, Any], other: Mapping[str, Any], sign: int) -> Record:
    found: Record = {}
    for part in PARTS:
        a, b = one.get(part) or {}, other.get(part) or {}
        whole = {key: _sum(a.get(key), b.get(key), sign) for key in {**b, **a}}
        if whole and any(isinstance(value, int | float) and value for value in whole.values()):
            found[part] = whole
    return found


def _sum(a: Any, b: Any, sign: int) -> Any:
    if isinstance(a, str) or isinstance(b, str):
        return a or b
    value = (a or 0) + sign * (b or 0)
    return round(value, 9) if isinstance(value, float) else value
