"""How much do checkpoints of one training move for no reason, and on which tasks can a gate rest?

    rows = of_series(runs, policy)          runs of one training, in the order of their steps
    rows[0].noise, rows[0].excess           standard deviation around the trend; what documents don't explain of it
    print(as_text(rows), policy_lines(rows))

`noise:` in a policy takes the 90 % upper limit of `excess`, since few checkpoints say little of it; the gate adds it to
the error of its differences (`estbench.stats.noise`).
"""

from __future__ import annotations

import fnmatch
import glob
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from estbench import cards, evidence, report
from estbench.compare import compare_task, problems
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.gate import policy as policies
from estbench.gate import sources
from estbench.gate.policy import Policy
from estbench.home import home
from estbench.runs import Run
from estbench.series import PATTERN, natural
from estbench.stats.noise import LEAST, StepNoise, step_noise

if TYPE_CHECKING:
    from estbench.settings import GateSettings

TOO_NOISY = 1.0  # signal over noise


@dataclass(frozen=True, slots=True)
class TaskNoise:
    """A task of a series, in points (or bits)."""

    task: str
    metric: str
    unit: str  # "points" or "bits"
    scores: tuple[float, ...] = ()  # in the order of training
    noise: float | None = None  # standard deviation of one checkpoint around the trend
    excess: float | None = None  # the part of it that the choice of documents does not explain
    upper: float | None = None  # its 90 % upper limit, for the policy
    snr: float | None = None  # what the trend covers over the noise; None: no noise was seen
    reason: str | None = None  # why nothing can be said

    @property
    def too_noisy(self) -> bool:
        """Whether training does not show above the noise: nothing to gate on."""
        return self.snr is not None and self.snr < TOO_NOISY


def of_series(runs: Sequence[Evidence], policy: Policy) -> list[TaskNoise]:
    """Each of the policy's tasks (without any: of the runs'). runs: in the order of training. ConfigError for fewer
    than 4, and where neighbours can't be compared."""
    if len(runs) < LEAST:
        raise ConfigError(
            f"Noise from step to step needs at least {LEAST} checkpoints of one training, not {len(runs)}."
        )
    called = [run.name for run in runs]
    if twice := next((name for name in called if called.count(name) > 1), None):
        raise ConfigError(f"{twice} is there twice: name each checkpoint's run once, by its id.")
    names = policy.tasks or tuple(runs[0].tasks)
    for before, after in pairwise(runs):
        both = [task for task in names if task in before.tasks and task in after.tasks]
        found = problems(after, before, both, least_overlap=policy.minimum_overlap)
        if fatal := [problem for problem in found if problem.kind not in policy.allow]:
            raise sources.refusal(before, after, fatal)
    return [_of_task(runs, task, policy) for task in names]


def _of_task(runs: Sequence[Evidence], task: str, policy: Policy) -> TaskNoise:
    lacking = next((run.name for run in runs if task not in run.tasks), None)
    if lacking:
        return TaskNoise(task, "", "points", reason=f"{lacking} does not have it")
    metric = policy.rule(task).metric or str(runs[0].tasks[task]["primary"])
    found = [run.score(task, metric) for run in runs]
    values = [score.value for score in found if score is not None and score.value is not None]
    if len(values) < len(runs):
        return TaskNoise(task, metric, "points", reason="a score is missing")
    pairs = [compare_task(after, before, task, metric, replicates=0) for before, after in pairwise(runs)]
    scale, unit = pairs[0].scale, "bits" if pairs[0].unit == "bits" else "points"
    scores = tuple(scale * value for value in values)
    errors = [pair.difference.error for pair in pairs if pair.difference.error is not None]
    if len(errors) < len(pairs):
        reason = next(pair.difference.method for pair in pairs if pair.difference.error is None)
        return TaskNoise(task, metric, unit, scores, reason=reason)
    noise: StepNoise = step_noise(scores, sampling=sum((scale * error) ** 2 for error in errors) / len(errors))
    excess, upper = (math.sqrt(value or 0.0) for value in (noise.excess, noise.upper))
    return TaskNoise(task, metric, unit, scores, noise.noise, excess, upper, noise.snr)


def policy_lines(rows: Sequence[TaskNoise]) -> str:
    """Lines for a policy file; empty where the choice of documents explains everything."""
    rounded = {row.task: round(row.upper, 4 if row.unit == "bits" else 2) for row in rows if row.upper}
    kept = {task: value for task, value in rounded.items() if value}
    return yaml.safe_dump({"noise": kept}, sort_keys=False, allow_unicode=True) if kept else ""


def as_text(rows: Sequence[TaskNoise], names: Sequence[str]) -> str:
    """For a terminal. names: of the checkpoints, in order."""
    columns = {"task": "task", "metric": "metric", "scores": "first → last", "noise": ">noise"}
    columns |= {"excess": ">beyond documents", "snr": ">signal/noise", "note": ""}
    lines = [
        f"{len(names)} checkpoints: {', '.join(names)}",
        "",
        report.listing([_cells(row) for row in rows], columns),
        "",
    ]
    lines += [
        "Noise: standard deviation of a checkpoint around its trend, in points (or bits). Beyond documents: the part",
        "that is there on any documents. Signal/noise of a task that does not follow training at all: about 0.4 with 4",
        "checkpoints, 1.4 with 10, 1.9 with 20.",
    ]
    ready = policy_lines(rows).rstrip()
    head = [
        "For the policy, the 90 % upper limit of what is beyond documents; with fewer than ten checkpoints it is",
        "several times the estimate, and hides real falls:",
    ]
    lines += ["", *head, "", ready] if ready else ["", "For the policy: nothing; documents explain it."]
    return "\n".join(lines)


def _cells(row: TaskNoise) -> dict[str, str]:
    digits = 3 if row.unit == "bits" else 1
    shown = ["–" if value is None else f"{value:.{digits + 1}f}" for value in (row.noise, row.excess)]
    note = row.reason or ("too noisy to gate on" if row.too_noisy else "")
    ends = f"{row.scores[0]:.{digits}f} → {row.scores[-1]:.{digits}f}" if row.scores else ""
    snr = "–" if row.snr is None else f"{row.snr:.1f}"
    return {"task": row.task, "metric": row.metric, "scores": ends, "noise": shown[0], "excess": shown[1], "snr": snr,
            "note": f"{note}{' (bits)' if row.unit == 'bits' else ''}"}  # fmt: skip


def as_json(rows: Sequence[TaskNoise], names: Sequence[str]) -> dict[str, Any]:
    """All of it as data."""
    return {
        "checkpoints": list(names),
        "tasks": [asdict(row) | {"too_noisy": row.too_noisy} for row in rows],
        "policy": policy_lines(rows),
    }


def runs_of(words: str | None) -> list[Evidence]:
    """What `runs=` names, each once: runs and baseline files with commas, and patterns over the ids and names of stored
    runs, or over run folders. ConfigError for what means nothing."""
    found: dict[str, Evidence] = {}
    parts = [part.strip() for part in (words or "").split(",")]
    if not any(parts):
        raise ConfigError("runs= is missing: runs (ids or folders) with commas, or a pattern such as 'step-*'.")
    for part in parts:
        if not part:
            raise ConfigError(f"runs={words} has nothing between two commas.")
        for name in _matching(part) if PATTERN.search(part) and not Path(part).expanduser().exists() else [part]:
            one = evidence.load(name)
            found[one.id] = one
    return list(found.values())


def in_order(runs: Sequence[Evidence]) -> list[Evidence]:
    """In the order of training: by tokens, then steps, of their training cards; by name where a run has none."""
    by_name = sorted(runs, key=lambda run: natural(run.name))
    seen = {run.id: cards.place(run.manifest["model"].get("training")) for run in runs}
    if any(tokens is None for tokens, _ in seen.values()):
        return by_name
    return sorted(by_name, key=lambda run: tuple(value or 0 for value in seen[run.id]))


def _matching(pattern: str) -> list[str]:
    """Run folders behind a pattern, without slices of an evaluation."""
    stored = [path.parent for path in (home() / "runs").glob("*/manifest.json")]
    own = {path for path in stored for name in (path.name, re.sub(r"-[0-9a-f]{12}$", "", path.name))
           if fnmatch.fnmatchcase(name, pattern)}  # fmt: skip
    named = {
        path for path in map(Path, glob.glob(str(Path(pattern).expanduser()))) if (path / "manifest.json").exists()
    }
    whole = [path for path in own | named if not Run(path).manifest["slice"]]
    if not whole:
        raise ConfigError(f"runs={pattern} means no stored run: `estbench runs` lists them.")
    return sorted(map(str, whole), key=natural)


def command(settings: GateSettings) -> int:
    """`estbench gate noise`."""
    from estbench.commands import wants_table

    policy = policies.read(settings.policy)
    runs = in_order(runs_of(settings.runs))
    rows, names = of_series(runs, policy), [run.name for run in runs]
    print(as_text(rows, names) if wants_table(settings.output) else report.as_json(as_json(rows, names)))
    return 0
