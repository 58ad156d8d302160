"""Scores that others published, as they gave them: beside ours in grey, never ranked with ours.

    of("belebele_et")     [Reference(model="meta-llama/Llama-3.1-8B", value=0.67, source="estllm", ...), ...]

Other prompts, other shots, often another part of the data: they say where a number should lie, and nothing is paired
with them. Figures and their sources stand in `tasks/references.csv` and `tasks/references.yaml`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from typing import Any

from estbench.home import project_file
from estbench.registry import read_yaml

VARIANTS = ("_fresh", "_chat", "_mcf", "_cf")  # endings of names; a name may have two, the first of these last


@dataclass(frozen=True)
class Reference:
    """One published score, in its source's own unit (see `sources`)."""

    source: str
    model: str
    task: str
    metric: str  # theirs, which may be another than ours
    value: float
    plus_minus: float | None  # half of their interval, where they give one
    note: str


@cache
def sources() -> dict[str, dict[str, Any]]:
    """Where figures come from: title, source, when it was looked up, unit ("proportion" or "points"), form."""
    return read_yaml(project_file("tasks") / "references.yaml")


@cache
def _all() -> tuple[Reference, ...]:
    with open(project_file("tasks") / "references.csv", encoding="utf-8", newline="") as file:
        return tuple(
            Reference(
                row["source"],
                row["model"],
                row["task"],
                row["metric"],
                float(row["value"]),
                float(row["plus_minus"]) if row["plus_minus"] else None,
                row["note"],
            )
            for row in csv.DictReader(file)
        )


def of(task: str) -> list[Reference]:
    """What was published on a task's benchmark, in whatever form; empty if nothing is known."""
    for ending in VARIANTS:
        task = task.removesuffix(ending)
    return [row for row in _all() if row.task == task]
