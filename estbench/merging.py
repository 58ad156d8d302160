"""Taking run folders in, and making one run of the slices of an evaluation.

Slices never aggregate: a slice has samples and no scores. When all slices of one evaluation are here, their samples
are put together, and the merged run has the very id that an unsliced run has.

Judgments of one run come together, too: a run that was judged elsewhere is taken in over the same run that was not, and
the other way round. Of the same task, rubric and mode the imported judgments count.
"""

from __future__ import annotations

import heapq
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from estbench import endings, identity, judged, manifests
from estbench.errors import StoreError
from estbench.home import home
from estbench.metrics.judgments import is_judged
from estbench.runs import PlannedDoc, Run, Sample, atomic, file_name, write_json, write_lines
from estbench.scoring import score_task


def take_in(paths: Sequence[Path], say: Callable[[str], None]) -> list[Run]:
    """Copy run folders into `home()/runs`; returns them, and the runs that complete sets of slices make."""
    taken = [_copy(Run(path), say) for path in paths]
    merged = []
    for series in dict.fromkeys(run.manifest["identity"]["series"] for run in taken if run.manifest["slice"]):
        slices = _slices(series)
        n = int(slices[0].manifest["slice"].partition("/")[2])
        here = sorted(int(run.manifest["slice"].partition("/")[0]) for run in slices)
        if here == list(range(1, n + 1)):
            merged.append(merge(slices))
            say(f"{n} slices make the run {merged[-1].id}.")
        else:
            numbers = ", ".join(map(str, here))
            say(
                f"{len(here)} of {n} slices of one evaluation are here (number {numbers}), the run is made of all. "
                "They belong together if model, tasks, data, settings and estbench's code are the same."
            )
    return [*taken, *merged]


def _copy(run: Run, say: Callable[[str], None]) -> Run:
    name = run.manifest.get("run")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", name):
        raise StoreError(f"{run.path} has the run id {name!r}, which is no plain name: estbench did not make it.")
    if any(path.is_symlink() for path in run.path.rglob("*")):
        raise StoreError(f"{run.path} holds symbolic links: copy the files themselves.")
    target = home() / "runs" / run.id
    if (target / "scores.json").exists() and _unjudged(target) != _unjudged(run.path):
        raise StoreError(f"{target} is a run of that id with other scores: one of the two was altered.")
    if target.resolve() == run.path.resolve():
        return Run(target)
    ours, theirs = ({layer.stem: layer for layer in judged.layers(folder)} for folder in (target, run.path))
    if replaced := [stem for stem, layer in ours.items() if theirs.get(stem, layer) != layer]:
        say(f"{run.id}: the imported judgments {', '.join(replaced)} take the place of those that were here.")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for part in ("plan", "responses", "samples", *([judged.FOLDER] if theirs else [])):
            shutil.copytree(run.path / part, target / part, dirs_exist_ok=True)
        shutil.copy2(run.path / "scores.json", target)
        with atomic(target / "manifest.json") as temporary:  # last, so that the folder counts only when it is whole
            shutil.copyfile(run.path / "manifest.json", temporary)
    except OSError as error:
        raise StoreError(f"{run.path} can't be copied to {target}: {error.strerror}.") from None
    return judged.merge(Run(target)) if ours.keys() - theirs.keys() else Run(target)


def _unjudged(folder: Path) -> list[dict[str, Any]]:
    """The scores of a run folder that don't come from judges, in one order."""
    try:
        rows = json.loads((folder / "scores.json").read_text("utf-8"))
        kept = [row for row in rows if not is_judged(row["metric"])]
        return sorted(kept, key=lambda row: (row["task"], row["metric"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder / 'scores.json'} can't be read: {error}.") from None


def _slices(series: str) -> list[Run]:
    """The slices of an evaluation that are here; of several versions of one, that with most responses."""
    runs = (Run(path.parent) for path in sorted((home() / "runs").glob("*/manifest.json")))
    found: dict[str, Run] = {}
    for run in runs:
        number = run.manifest["slice"]
        if number and run.manifest["identity"].get("series") == series:
            known = found.get(number)
            found[number] = run if known is None or run.unanswered <= known.unanswered else known
    return sorted(found.values(), key=lambda run: int(run.manifest["slice"].partition("/")[0]))


def _docs(slices: Sequence[Run], task: str) -> Iterator[PlannedDoc]:
    """The documents of all slices, in order and one at a time: with their token ids they are large."""
    return heapq.merge(*(run.plan(task) for run in slices), key=lambda doc: doc.doc_id)


def _responses(slices: Sequence[Run], task: str) -> Iterator[dict[str, Any]]:
    return heapq.merge(*(run.responses(task) for run in slices), key=lambda row: (row["doc_id"], row["index"]))


def merge(slices: Sequence[Run]) -> Run:
    """One run from all slices of an evaluation."""
    first = slices[0].manifest
    tasks: dict[str, Any] = {}
    samples: dict[str, list[Sample]] = {}
    for task, row in first["tasks"].items():
        asked = [(doc.doc_hash, doc.asked) for doc in _docs(slices, task)]
        samples[task] = sorted(
            (sample for run in slices for sample in run.samples(task)), key=lambda sample: sample.doc_id
        )
        truncated = sum(run.manifest["tasks"][task]["truncated"] for run in slices)
        key = identity.plan_key(task, row["form"], bool(truncated), asked)
        ended = endings.together(run.manifest["tasks"][task].get("endings", {}) for run in slices)
        tasks[task] = row | {"plan_hash": key, "n_planned": len(asked), "truncated": truncated, "endings": ended}
    whole = identity.digest({name: row["plan_hash"] for name, row in tasks.items()})
    result = identity.result_key(whole, (sample.key for rows in samples.values() for sample in rows))
    run_id = f"{slices[0].id.rpartition('-')[0]}-{result[:12]}"
    folder = home() / "runs" / run_id
    scores = []
    for task, row in tasks.items():
        file = f"{file_name(task)}.jsonl.gz"
        write_lines(folder / "plan" / file, _docs(slices, task))
        write_lines(folder / "samples" / file, samples[task])
        write_lines(folder / "responses" / file, _responses(slices, task))
        scores += score_task(
            task,
            samples[task],
            primary=row["primary"],
            chance=row["chance"],
            n_planned=row["n_planned"],
            listed=row.get("metrics", ()),
            reason=row.get("reason"),
            higher_is_better=row["higher_is_better"],
        )
    rows = [asdict(score) for score in scores] + first.get("skipped_scores", [])
    write_json(folder / "scores.json", rows)
    settings = {key: value for key, value in first["settings"].items() if key != "slice"}
    manifest = first | {
        "run": run_id,
        "seconds": round(sum(run.manifest["seconds"] for run in slices), 1),
        "partial": any(manifests.is_partial(row) for row in tasks.values()),
        "slice": None,
        "identity": first["identity"] | {"plan": whole, "result": result},
        "tasks": tasks,
        "settings": settings,
        "command": shlex.join(word for word in shlex.split(first["command"]) if not word.startswith("slice=")),
        "merged_from": [run.id for run in slices],
    }
    manifest.pop("unanswered", None)
    if errors := [sample.error for rows in samples.values() for sample in rows if sample.error]:
        manifest["unanswered"] = {"documents": len(errors), "reason": errors[0]}
    write_json(folder / "manifest.json", manifest)
    return judged.merge(Run(folder))  # what judges said of these very answers before
