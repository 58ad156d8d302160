"""A run folder made by the server from a bundle and its own tasks: what the board indexes and shows.

run = rebuild(bundle, ID, {"mini_copa": recomputed}, {"other": "this board has no task of that name"}, folder, model)

Of what was sent it keeps the run's id, its model, engine, settings and command; everything about tasks, documents and
scores is the server's own. A task that could not be computed again is in it as skipped, with the reason. The manifest
names the submission (`submission`), which tells the run from one that the operators measured under the same id.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from estbench import identity, manifests
from estbench.prompt_sets import ENDING
from estbench.registry import Registry
from estbench.runs import SCHEMA, Run, file_name, write_json, write_lines
from estbench.scoring import score_task
from estbench_leaderboard.submissions.bundle import Bundle
from estbench_leaderboard.submissions.receive import MADE_BY
from estbench_leaderboard.submissions.recompute import Recomputed

KEPT = ("run", "name", "created", "seconds", "engine", "settings", "command", "versions", "host")


def rebuild(
    bundle: Bundle,
    submission: str,
    tasks: Mapping[str, Recomputed],
    lacking: Mapping[str, str],
    folder: Path,
    registry: Registry,
    model: dict[str, Any] | None = None,
) -> Run:
    """Write the folder of the run, whole or not at all. model: what is known of these weights already."""
    claimed = bundle.manifest
    plan = identity.digest({task: found.card["plan_hash"] for task, found in tasks.items()})
    keys = [sample.key for found in tasks.values() for sample in found.samples]
    result = identity.result_key(plan, keys)
    skipped = [_skipped(registry, task, reason) for task, reason in lacking.items() if task in registry.tasks]
    manifest = {
        "schema": SCHEMA,
        MADE_BY: submission,
        **{key: claimed[key] for key in KEPT},
        "settings": _settings(claimed["settings"]),
        "partial": any(manifests.is_partial(found.card) for found in tasks.values()),
        "slice": None,
        "model": model or claimed["model"],
        "identity": {"response": claimed["identity"].get("response"), "plan": plan, "result": result},
        "suites": [name for name in claimed["suites"] if _has(registry, name, tasks)],
        "tasks": {task: found.card for task, found in tasks.items()},
        "skipped": {row["task"]: row["reason"] for row in skipped},
        "skipped_scores": skipped,
    }
    if model:
        manifest["name"] = model["name"]  # weights that are known keep the name that they are known by
    target = folder / bundle.header["run"]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rescoring-", dir=folder) as temporary:
        made = Path(temporary) / "run"
        for task, found in tasks.items():
            file = f"{file_name(task)}.jsonl.gz"
            write_lines(made / "plan" / file, found.docs)
            write_lines(made / "responses" / file, _responses(found))
            write_lines(made / "samples" / file, found.samples)
        write_json(made / "scores.json", [asdict(s) for found in tasks.values() for s in found.scores] + skipped)
        write_json(made / "manifest.json", manifest)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    return Run(target)


def _settings(claimed: Mapping[str, Any]) -> dict[str, Any]:
    """The sender's settings without the sender's files: what is asked anew of this run (by a judge) is found here."""
    words = [word.strip() for word in str(claimed.get("tasks") or "").split(",")]
    tasks = ",".join(word for word in words if word and not word.endswith(ENDING))
    return {key: value for key, value in claimed.items() if key not in ("data", "tasks")} | {"tasks": tasks}


def _responses(found: Recomputed) -> Iterator[dict[str, Any]]:
    for doc, row in zip(found.docs, found.rows, strict=True):
        for index, (key, response) in enumerate(zip(row["keys"], row["responses"], strict=True)):
            yield {"doc_id": doc.doc_id, "index": index, "key": key, **response}


def _skipped(registry: Registry, task: str, reason: str) -> dict[str, Any]:
    card = registry.tasks[task]
    [score] = score_task(task, [], primary=card.primary, chance=card.chance, n_planned=0)
    return asdict(score) | {"reason": f"not computed again: {reason}"}


def _has(registry: Registry, suite: str, tasks: Mapping[str, Any]) -> bool:
    return suite in registry.suites and set(registry.suites[suite].tasks) <= tasks.keys()
