"""COMET over a finished run: scores of its translations, in a file of their own beside the run's.

    entry = score_run(run, ["flores_en_et_chat"], find(DEFAULT), say=report.say)

`RUN/comet.json` holds an entry a model: signature, licence, a Score a task, and a value a document, with the key of
the sample that it belongs to. The run's own files are not touched. A value is computed once: another call with the same
signature computes only what is new, also after a kill.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from estbench import stats
from estbench.errors import ConfigError, DataError, StoreError
from estbench.metrics.comet import Comet, Model, Segment
from estbench.registry import Registry, Task
from estbench.run_data import rows_of
from estbench.runs import Run, Sample, Score, write_json

FILE = "comet.json"
SCHEMA = 1
CHUNK = 64  # segments between two writes
SOURCES = {"en": "sentence_eng_Latn", "et": "sentence_est_Latn"}  # FLORES: the column of a language
SKILL = "translation"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Translated:
    """A task of a run: its answered documents with what COMET is shown of each."""

    name: str
    samples: list[Sample]
    segments: list[Segment]
    n_planned: int


def translation_tasks(run: Run, wanted: str | None) -> list[str]:
    """The run's translation tasks, or the one that is wanted; ConfigError if there is none."""
    names = [name for name, row in run.manifest["tasks"].items() if row.get("skill") == SKILL]
    if not names:
        raise ConfigError(f"Run {run.id} has no translation task: COMET scores translations only.")
    if wanted is None:
        return names
    if wanted not in names:
        raise ConfigError(f"{wanted!r} is no translation task of run {run.id}, which has {', '.join(names)}.")
    return [wanted]


def score_run(
    run: Run,
    tasks: Sequence[str],
    model: Model,
    *,
    say: Say,
    data: Path | None = None,
    start: Callable[[Model], AbstractContextManager[Comet]] = Comet,
) -> dict[str, Any]:
    """The entry of this model in `RUN/comet.json`, with scores of these tasks. `data`: where their rows are, if the
    run's own data= is not to be taken. `start` loads the model."""
    translated = [_read(run, task, data) for task in tasks]  # before the model: what can't be scored is said at once
    entries = read(run)
    with start(model) as comet:
        entry = next((entry for entry in entries if entry["signature"] == comet.signature), None)
        if entry is None:
            entry = {
                "signature": comet.signature,
                "model": model.name,
                "revision": model.revision,
                "licence": model.licence,
                "scores": [],
                "values": {},
            }
            entries.append(entry)
        for task in translated:
            _complete(run, entries, entry, task, comet, say)
            others = [score for score in entry["scores"] if score["task"] != task.name]
            entry["scores"] = [*others, asdict(_score(task, entry))]
            _write(run, entries)
    return entry


def read(run: Run) -> list[dict[str, Any]]:
    """The entries of `RUN/comet.json`; none if it is not there."""
    path = run.path / FILE
    try:
        found = json.loads(path.read_text("utf-8"))
        entries = found["entries"] if found["schema"] == SCHEMA else None
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        entries = None
    if not isinstance(entries, list):
        raise StoreError(f"{path} can't be read: move it away, and COMET computes it anew.")
    return entries


def _write(run: Run, entries: list[dict[str, Any]]) -> None:
    try:
        write_json(run.path / FILE, {"schema": SCHEMA, "run": run.id, "entries": entries})
    except OSError as error:
        raise StoreError(f"{run.path / FILE} can't be written: {error.strerror}.") from None


def _complete(
    run: Run, entries: list[dict[str, Any]], entry: dict[str, Any], task: Translated, comet: Comet, say: Say
) -> None:
    """Fill in the task's missing values, {doc_id: {key, value}}, chunk by chunk."""
    before = entry["values"].get(task.name, {})
    known = {row["key"]: row["value"] for row in before.values()}
    values = {str(s.doc_id): {"key": s.key, "value": known[s.key]} for s in task.samples if s.key in known}
    entry["values"][task.name] = values
    missing = [place for place, sample in enumerate(task.samples) if sample.key not in known]
    spoken = time.monotonic()
    for begin in range(0, len(missing), CHUNK):
        chunk = missing[begin : begin + CHUNK]
        for place, value in zip(chunk, comet.scores([task.segments[place] for place in chunk]), strict=True):
            sample = task.samples[place]
            values[str(sample.doc_id)] = {"key": sample.key, "value": round(value, 6)}
        _write(run, entries)
        if time.monotonic() - spoken > 10:
            spoken = time.monotonic()
            say(f"{task.name}: {len(values):,} of {len(task.samples):,} segments")


def _score(task: Translated, entry: dict[str, Any]) -> Score:
    values = [entry["values"][task.name][str(sample.doc_id)]["value"] for sample in task.samples]
    clusters = [sample.cluster for sample in task.samples]
    interval = stats.mean_interval(values, None if all(cluster is None for cluster in clusters) else clusters)
    return Score(
        task=task.name,
        metric="comet",
        value=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        n=interval.n,
        n_planned=task.n_planned,
        chance=None,
        parse_failures=sum(not output.strip() for _, output, _ in task.segments),
        errors=task.n_planned - len(task.samples),
        unit="proportion",
        higher_is_better=True,
        primary=False,
        method=interval.method,
        signature=entry["signature"],
        reason=None if values else "no document has a response",
    )


def _read(run: Run, name: str, data: Path | None) -> Translated:
    """The samples of a task with their sources, which the run folder does not hold: they come from the data."""
    from estbench.estonian.normalise import sentence_text
    from estbench.metrics.tasks.translation import TRANSLATION_LABELS

    card = Registry().task(name)
    samples, segments = [], []
    for sample, row in rows_of(run, name, data):
        source = _source(card, row)
        output = sentence_text(str(sample.answer), source, TRANSLATION_LABELS)  # what chrF++ has scored
        samples.append(sample)
        segments.append((source, output, str(sample.target)))
    return Translated(name, samples, segments, int(run.manifest["tasks"][name]["n_planned"]))


def _source(card: Task, row: dict[str, Any]) -> str:
    """The text that was to be translated: the row's `source`, or FLORES's column of the language."""
    column = SOURCES.get(str(card.metadata.get("language"))[:2], "source")
    found = row.get("source", row.get(column))
    if not isinstance(found, str):
        raise DataError(f"{card.name}: its rows have neither `source` nor `{column}`, which COMET needs.")
    return found.strip()
