"""What judges said of a run, put into its samples, scores and manifest.

    merge(run)                       # after judging, and whenever an eval writes the folder again
    state(score)                     # None, "uncalibrated" or "calibrated": shown wherever the score is

`RUN/judgments/TASK.RUBRIC.MODE.json` is a layer: its scores with their evidence, a value a document with the key of the
sample that was judged, and what the manifest says of the judges; `….jsonl.gz` beside it holds every call. A layer
counts only for the very answers that were judged. A sample's key names the judgments behind a plus sign, so that the
result's identity does, too; the run keeps its id, which names the answers.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import identity
from estbench.errors import StoreError
from estbench.metrics.judgments import is_judged
from estbench.runs import Run, Sample, Score, file_name, write_json, write_lines

FOLDER = "judgments"
ENDINGS = (".json", ".jsonl.gz")  # of a layer's files: what counts, and every call
SCHEMA = 1
PLAIN = re.compile(r"[A-Za-z0-9_]{1,60}")  # of a rubric and a mode, which name files
SIGNATURE = "judge:"  # how the signature of a judged score begins
CALIBRATED, UNCALIBRATED = "calibrated", "uncalibrated"


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """A run for one judging process at a time: two would ask, and pay, the same twice."""
    path = folder / FOLDER / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder.name} is being judged by another process; this one waits for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


@dataclass(frozen=True)
class Layer:
    """One task's judgments under one rubric and mode."""

    task: str
    rubric: str
    mode: str
    keys: dict[str, str]  # doc_id -> key of the sample that was judged
    marks: dict[str, str]  # doc_id -> hash of its judgments
    values: dict[str, dict[str, float]]  # metric -> doc_id -> value
    scores: list[dict[str, Any]]  # of `Score`
    card: dict[str, Any]  # what the manifest says

    @property
    def stem(self) -> str:
        return stem_of(self.task, self.rubric, self.mode)

    def fits(self, samples: Sequence[Sample]) -> bool:
        """Whether these answers, and no others, were judged."""
        return all(self.keys.get(str(one.doc_id)) == _base(one.key) for one in samples if one.error is None)


def stem_of(task: str, rubric: str, mode: str) -> str:
    """Name of a layer's files, without their endings."""
    return f"{file_name(task)}.{rubric}.{mode}"


def state(score: Score | dict[str, Any]) -> str | None:
    """Whether a score comes from judges, and if so whether people's votes stand behind it."""
    signature = score["signature"] if isinstance(score, dict) else score.signature
    if not signature or not signature.startswith(SIGNATURE):
        return None
    return CALIBRATED if signature.endswith(f"|{CALIBRATED}") else UNCALIBRATED


def awaiting(run: Run) -> list[str]:
    """The tasks of a run whose primary score waits for judges."""
    waiting = [score for score in run.scores() if score.primary and score.value is None and is_judged(score.metric)]
    return [score.task for score in waiting if score.n]


def layers(folder: Path) -> list[Layer]:
    """The layers of a run folder, by name. StoreError for a file that can't be read."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            row = json.loads(path.read_text("utf-8"))
            if row.pop("schema") != SCHEMA:
                raise ValueError("it is of another version")
            found.append(_checked(Layer(**row), path))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{path} can't be read: {error}. Judge the run again to write it anew.") from None
    return found


def _checked(layer: Layer, path: Path) -> Layer:
    """The layer, if its parts are what they should be: a folder may come from elsewhere."""
    if not all(PLAIN.fullmatch(word) for word in (layer.rubric, layer.mode)) or layer.stem != path.stem:
        raise ValueError("it is not what its name says")
    if not all(is_judged(metric) for metric in (*layer.values, *(row["metric"] for row in layer.scores))):
        raise ValueError("it has a metric that is none of judges")
    if not all(0 <= value <= 1 for column in layer.values.values() for value in column.values()):
        raise ValueError("a value lies outside 0 to 1")
    maps = (layer.keys, layer.marks, layer.values, layer.card)
    if not all(isinstance(one, dict) for one in (*maps, *layer.values.values())):
        raise ValueError("it is no layer")
    if {Score(**row).task for row in layer.scores} - {layer.task} or not isinstance(layer.card["calibrated"], bool):
        raise ValueError("its scores are not its own")
    return layer


def write(folder: Path, layer: Layer) -> None:
    """Keep a layer; `merge` makes it count."""
    write_json(folder / FOLDER / f"{layer.stem}.json", {"schema": SCHEMA, **dataclasses.asdict(layer)})


def merge(run: Run) -> Run:
    """Put the layers of a run into its samples, scores and manifest; each file atomically, the manifest last."""
    found = layers(run.path)
    if not found or run.manifest["slice"]:
        return run
    manifest = dict(run.manifest, tasks=dict(run.manifest["tasks"]))
    scores, left_out = run.scores(), manifest.get("items_left_out", ())  # of an export: their samples are not here
    for task in [task for task in manifest["tasks"] if task not in left_out]:
        samples = list(run.samples(task))
        fitting = [layer for layer in found if layer.task == task and layer.fits(samples)]
        if fitting:
            write_lines(run.path / "samples" / f"{file_name(task)}.jsonl.gz", [_judged(s, fitting) for s in samples])
            scores = _scores(scores, task, fitting)
            manifest["tasks"][task] = {**manifest["tasks"][task], "judge": _card(fitting)}
    write_json(run.path / "scores.json", [dataclasses.asdict(score) for score in scores])
    keys = (key for task in manifest["tasks"] for key in _keys(run, task, scores, task in left_out))
    result = identity.result_key(manifest["identity"]["plan"], keys)
    manifest["identity"] = {**manifest["identity"], "result": result}
    write_json(run.path / "manifest.json", manifest)
    return Run(run.path)


def _keys(run: Run, task: str, scores: Sequence[Score], left_out: bool) -> Iterator[str]:
    """What the result's identity has of a task: its samples' keys; where those were left out, what is known instead."""
    if left_out:
        yield identity.digest([dataclasses.asdict(score) for score in scores if score.task == task])
    else:
        yield from (sample.key for sample in run.samples(task))
        if given := [dataclasses.asdict(score) for score in scores if score.task == task and state(score)]:
            yield identity.digest(given)  # a calibration changes scores, and no sample


def _base(key: str) -> str:
    """A sample's key without what judges said."""
    return key.partition("+")[0]


def _judged(sample: Sample, fitting: Sequence[Layer]) -> Sample:
    doc, values = str(sample.doc_id), {name: value for name, value in sample.values.items() if not is_judged(name)}
    marks = [layer.marks[doc] for layer in fitting if doc in layer.marks]
    for layer in fitting:
        values |= {metric: column[doc] for metric, column in layer.values.items() if doc in column}
    key = _base(sample.key) + (f"+{identity.digest(marks)[:16]}" if marks else "")
    return dataclasses.replace(sample, values=values, key=key)


def _scores(scores: Sequence[Score], task: str, fitting: Sequence[Layer]) -> list[Score]:
    """All scores, those of one task with the layers' in place of what was awaited."""
    own = [Score(**row) for layer in fitting for row in layer.scores]
    given = {score.metric for score in own}
    kept = [s for s in scores if s.task != task or not (is_judged(s.metric) and (s.metric in given or s.signature))]
    at = next((i for i, score in enumerate(kept) if score.task == task), len(kept))
    whole = sorted([*own, *(s for s in kept if s.task == task)], key=lambda s: (not s.primary, "/" in s.metric))
    return [*kept[:at], *whole, *(score for score in kept[at:] if score.task != task)]


def _card(fitting: Sequence[Layer]) -> dict[str, Any]:
    """The manifest's part: calibrated only if each layer that the task is ranked by is."""
    ranked = [layer.card for layer in fitting if any(row["primary"] for row in layer.scores)]
    cards = ranked or [layer.card for layer in fitting]
    return {"calibrated": all(card["calibrated"] for card in cards), "layers": [layer.card for layer in fitting]}
