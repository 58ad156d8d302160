"""Runs with scores to order, for the tests of a paper's table.

@pytest.fixture: make                        # pytest imports it by name from here
run = make("name", a=right(100))             # task `a` of N documents, of which 100 are right
bold(table), notes(table, "name")            # what is bold in the column of a task, and what is said of a cell
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from estbench import evidence, identity, paper
from estbench.evidence import Evidence
from estbench.runs import Run, Sample, write_json, write_lines
from estbench.scoring import score_task

N = 200
CARD: dict[str, Any] = {
    "title": {"et": "Ülesanne", "en": "Task"}, "skill": "reasoning", "form": "completion", "chance": 0.5,
    "primary": "acc", "access": "public", "sample": False, "reason": None, "scorer": "s", "shots": 5, "truncated": 0,
    "data": {"path": "own/set", "config": "et", "commit": None, "origin": "a copy", "matches_lock": None, "hash": "h"},
}  # fmt: skip
Make = Callable[..., Evidence]
Values = Sequence[Any]


def right(count: int, n: int = N, start: int = 0) -> list[float]:
    """0/1 of n documents, of which `count` are right, from `start` on."""
    return [float((at - start) % n < count) for at in range(n)]


@pytest.fixture
def make(home: Path) -> Make:
    """`make(name, task=values, ...)`: a run folder with these values document by document, scored and read."""

    def run(name: str, cards: dict[str, dict[str, Any]] | None = None, changes: dict[str, Any] | None = None,
            **values: Values) -> Evidence:  # fmt: skip
        folder = home / "runs" / f"{identity.digest([name, cards, changes, values])[:12]}"
        scores, manifest_tasks = [], {}
        for task, column in values.items():
            card = CARD | {"n_docs": len(column), "plan_hash": f"plan of {task}"} | (cards or {}).get(task, {})
            samples = [
                Sample(task, at, f"{task}-{at}", "p", None, 0, 0, {} if value is None else {card["primary"]: value},
                       f"{name}-{task}-{at}", error="no answer" if value is None else None)
                for at, value in enumerate(column)
            ]  # fmt: skip
            options = {"primary": card["primary"], "chance": card["chance"], "reason": card["reason"]}
            scores += score_task(task, samples, n_planned=len(samples), **options)
            manifest_tasks[task] = card | {"n_planned": len(samples)}
            write_lines(folder / "samples" / f"{task}.jsonl.gz", samples)
            write_lines(folder / "plan" / f"{task}.jsonl.gz", [planned(task, at) for at in range(len(samples))])
            write_lines(folder / "responses" / f"{task}.jsonl.gz", [])
        manifest: dict[str, Any] = {
            "schema": 1, "run": folder.name, "name": name, "slice": None, "partial": False, "tasks": manifest_tasks,
            "identity": {"result": folder.name}, "model": {"name": name}, "skipped": {}, "settings": {},
            "engine": {"engine": "hf", "dtype": "float32", "torch": "2.9"}, "versions": {"estbench": "0.1.0"},
        }  # fmt: skip
        write_json(folder / "scores.json", [asdict(score) for score in scores])
        write_json(folder / "manifest.json", manifest | (changes or {}))
        return evidence.of_run(Run(folder))

    return run


def planned(task: str, at: int) -> dict[str, Any]:
    decoding = {"max_new_tokens": 24, "stop": ["\n"], "temperature": 0.0, "top_p": 1.0, "seed": 0}
    requests: list[dict[str, Any]] = [
        {"key": "k", "prompt_ids": [1]} | ({"decoding": decoding} if task == "gen" else {})
    ]
    return {"doc_id": at, "doc_hash": f"{task}-{at}", "prompt": "", "prompt_hash": "p", "target": 0, "cluster": None,
            "asked": f"{task} {at}", "requests": requests}  # fmt: skip


def bold(found: paper.Table, task: str = "a") -> list[str]:
    column = next(column for column in found.columns if column.task == task)
    return [label for label, cell in zip(found.labels, column.cells, strict=True) if cell.bold]


def notes(found: paper.Table, label: str, task: str = "a") -> str:
    column = next(column for column in found.columns if column.task == task)
    return " | ".join(column.cells[found.labels.index(label)].notes)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
