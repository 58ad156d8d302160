"""Runs to compare, made in seconds: a tiny model's run over a small task folder, and copies of it that differ."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from estbench import identity, runner
from estbench.config import EvalSettings
from estbench.evidence import Evidence, Items
from estbench.home import home
from estbench.runs import Run, Sample, Score, file_name, write_json, write_lines
from estbench.scoring import score_task

TASKS = ("letters", "words")


def evaluated(model: Path, data: Path, **settings: Any) -> Run:
    """A run of a model over both tasks."""
    job = runner.prepare(EvalSettings(model=str(model), tasks="letters,words", data=str(data), **settings))
    return runner.evaluate(job)


def variant(
    run: Run,
    name: str,
    change: Callable[[str, list[Sample]], list[Sample]],
    manifest: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Run:
    """A copy of a run under another name, whose samples and manifest are changed; scored as they are then."""
    folder = home() / "runs" / f"{name}-{identity.digest(name)[:12]}"
    shutil.copytree(run.path, folder)
    scores: list[Score] = []
    changed = run.manifest | {"run": folder.name, "name": name}
    changed["identity"] = run.manifest["identity"] | {"result": identity.digest([run.id, name])}
    for task, card in run.manifest["tasks"].items():
        samples = change(task, list(run.samples(task)))
        write_lines(folder / "samples" / f"{file_name(task)}.jsonl.gz", samples)
        scores += score_task(task, samples, primary=card["primary"], chance=card["chance"], n_planned=len(samples))
    write_json(folder / "scores.json", [dataclasses.asdict(score) for score in scores])
    write_json(folder / "manifest.json", manifest(json.loads(json.dumps(changed))))
    return Run(folder)


def with_values(share: float, seed: int = 0, tasks: tuple[str, ...] = TASKS) -> Callable[..., list[Sample]]:
    """Samples of which `share` is right, the same documents first for every share with the same seed."""

    def change(task: str, samples: list[Sample]) -> list[Sample]:
        if task not in tasks:
            return samples
        right = np.random.default_rng(seed).random(len(samples)) < share
        return [
            dataclasses.replace(
                sample,
                values={name: float(good) if name != "margin" else value for name, value in sample.values.items()},
                key=identity.digest([sample.key, share, seed])[:32],
            )
            for sample, good in zip(samples, right, strict=True)
        ]

    return change


def sibling(share: float, discordance: float, seed: int = 1) -> Callable[..., list[Sample]]:
    """Like `with_values(share)` with `discordance` of the documents turned, as many for the better as for the worse."""
    whole = with_values(share)

    def change(task: str, samples: list[Sample]) -> list[Sample]:
        samples = whole(task, samples)
        metric = next(name for name in samples[0].values if name != "margin")
        rng = np.random.default_rng(seed)
        for value in (0.0, 1.0):
            places = [at for at, sample in enumerate(samples) if sample.values[metric] == value]
            for at in rng.choice(places, round(discordance * len(samples) / 2), replace=False):
                sample = samples[at]
                values = {name: 1 - old if name != "margin" else old for name, old in sample.values.items()}
                samples[at] = dataclasses.replace(sample, values=values, key=f"{sample.key[:-1]}+")
        return samples

    return change


LETTERS = ("a", "b", "c", "d")


def synthetic(name: str, values: dict[str, np.ndarray], share: float = 1.0) -> Evidence:
    """A run whose documents have these values: its first documents."""
    card = {"form": "chat", "primary": "acc", "data": {"path": "own"}, "plan_hash": "p", "scorer": "s", "shots": 0}
    manifest: dict[str, Any] = {"name": name, "run": name, "model": {"chat_template": None}, "engine": {"engine": "hf"}}
    evidence = Evidence(manifest | {"identity": {}, "tasks": dict.fromkeys(values, card)}, [], None, {})
    for task, column in values.items():
        n = math.ceil(share * len(column) - 1e-9)
        docs = [f"{task}{place}" for place in range(n)]
        empty = [False] * n
        column_of = {"acc": column[:n].tolist()}
        evidence._read[task] = Items(docs, [None] * n, [f"{name}{d}" for d in docs], empty, empty, [-1] * n, column_of)
    return evidence


def pair(rng: np.random.Generator, fall: float, discordance: float = 0.15, n: int = 600) -> list[dict[str, np.ndarray]]:
    """0/1 values of a candidate and its baseline in each task; the candidate's score is lower by `fall`."""
    sides: list[dict[str, np.ndarray]] = [{}, {}]
    for task in LETTERS:
        kind = rng.choice(4, n, p=[(discordance - fall) / 2, (discordance + fall) / 2, 0.6, 0.4 - discordance])
        sides[0][task] = np.isin(kind, (0, 2)).astype(float)
        sides[1][task] = np.isin(kind, (1, 2)).astype(float)
    return sides
