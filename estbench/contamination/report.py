"""What was found, task by task: documents by kind, share, coverage, examples, and a run's scores with and without them.

A task with `publish_items: false` gets ids and places only, never its texts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from estbench import report
from estbench.contamination.corpus import sources
from estbench.contamination.index import CHARACTER_WINDOW, CHARACTERS, EXACT, WORD_WINDOW, WORDS, Cover
from estbench.contamination.items import Item, Material, TaskItems, collect
from estbench.contamination.scan import Found, Place, scan
from estbench.errors import ConfigError, DataError
from estbench.registry import Task
from estbench.runs import Run, Sample, Score
from estbench.scoring import score_task

KINDS = {EXACT: "exact", WORD_WINDOW: "words", CHARACTER_WINDOW: "characters"}
NAMES = (*KINDS.values(), "gold", "near")
EXAMPLES = 5  # of a task, with their text
SHOWN = 160  # characters of an example
SAID_EVERY = 10.0  # seconds between lines on the progress
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that the corpus holds (a part of)."""

    doc_id: int
    doc_hash: str
    kinds: list[str]
    coverage: float  # of its texts' and answers' letters, by stretches that were found
    containment: float | None  # of its 3-grams, where it is a near-duplicate
    places: list[Place]
    text: int | None  # the text that is covered most


def look(
    corpus: str,
    cards: Sequence[Task],
    *,
    run: Run | None = None,
    data_dir: Path | None = None,
    field: str = "text",
    near: bool = False,
    processes: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Row:
    """The whole of it: {corpus, files, documents, bytes, seconds, unread, near, run, tasks}.

    Raises ConfigError for a run or field that does not fit, DataError for a corpus or data that can't be read.
    """
    files = sources(corpus)  # a wrong path is found before tasks are rendered
    tests = collect(cards, data_dir)
    if run:
        check_run(run, tests)
    found = scan(files, tests, name=field, with_near=near, processes=processes, progress=_Told(say))
    tally = found.tally
    return {
        "corpus": corpus,
        "files": len(files),
        "documents": tally.documents,
        "bytes": tally.bytes,
        "seconds": round(found.seconds, 1),
        "broken": found.broken,
        "unread": {"damaged": tally.damaged, "not_utf8": tally.not_utf8, "lacking": tally.lacking},
        "near": near,
        "run": run.id if run else None,
        "tasks": by_task(tests, found, run),
    }


class _Told:
    """A line now and then while a large corpus is read."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.begun, self.last = say, time.monotonic(), time.monotonic()

    def __call__(self, done: int) -> None:
        if (now := time.monotonic()) - self.last >= SAID_EVERY:
            self.last = now
            self.say(f"{done / 1e6:,.0f} MB read, {done / 1e6 / (now - self.begun):.0f} MB/s")


def warnings(found: Row) -> list[str]:
    """What of the corpus could not be read, a line a kind."""
    unread = found["unread"]
    lines = {
        f"{unread['damaged']:,} lines are no JSON object, or too long, and were passed over.": unread["damaged"],
        f"{unread['not_utf8']:,} lines are not UTF-8 and were passed over.": unread["not_utf8"],
        f"{unread['lacking']:,} rows have no text in the field and were passed over.": unread["lacking"],
    }
    return [*found["broken"], *(line for line, count in lines.items() if count)]


def as_text(found: Row) -> str:
    """The report for a terminal."""
    speed = found["bytes"] / 1e6 / max(found["seconds"], 0.1)
    parts = [
        f"{found['corpus']}: {found['files']:,} files, {found['bytes'] / 1e6:,.1f} MB read in {found['seconds']} s "
        f"({speed:.0f} MB/s)",
        "",
        report.listing([_shown(row) for row in found["tasks"]], COLUMNS | ({"near": ">near"} if found["near"] else {})),
    ]
    for row in found["tasks"]:
        if row["hits"]:
            parts += ["", f"{row['task']}:", *(_example(hit) for hit in row["hits"][:EXAMPLES])]
            if row["hit"] > EXAMPLES:
                parts.append(f"  and {row['hit'] - EXAMPLES:,} more (output=json lists all)")
    if found["run"]:
        parts += ["", f"Scores of {found['run']}:", report.listing(_score_rows(found["tasks"]), SCORE_COLUMNS)]
    return "\n".join(parts)


COLUMNS = {
    "task": "task",
    "items": ">documents",
    "checked": ">checked",
    "hit": ">found",
    "share": ">share",
    "covered": ">covered",
    "exact": ">exact",
    "words": f">{WORDS} words",
    "characters": f">{CHARACTERS} letters",
    "gold": ">gold",
}
SCORE_COLUMNS = {"task": "task", "metric": "metric", "part": "documents", "n": ">n", "value": ">score", "ci": "95 %"}


def _shown(row: Row) -> Row:
    covered = "" if row["coverage"] is None else report.number(row["coverage"], "proportion")
    kinds: Row = row["kinds"]
    return row | kinds | {"share": report.number(row["share"], "proportion"), "covered": covered}


def _example(hit: Row) -> str:
    where = ", ".join(
        f"{place['file']}:{place['line']}" + (f" ({place['id']})" if place["id"] else "") for place in hit["places"]
    )
    text = f"\n      „{hit['text']}“" if "text" in hit else ""
    return f"  document {hit['doc_id']}: {', '.join(hit['kinds'])}, {hit['coverage']:.0%} covered, in {where}{text}"


def _score_rows(tasks: Sequence[Row]) -> list[Row]:
    rows = []
    for task in tasks:
        for part, scores in task["scores"].items():
            score = scores[0]
            low, high = (report.number(score[end], score["unit"]) for end in ("ci_low", "ci_high"))
            value = report.number(score["value"], score["unit"])
            interval = f"{low} … {high}" if score["ci_low"] is not None else score["reason"] or score["method"]
            rows.append(
                {"task": task["task"], "metric": score["metric"], "part": part, "n": score["n"], "value": value}
                | {"ci": interval}
            )
    return rows


def by_task(tests: Material, found: Found, run: Run | None = None) -> list[Row]:
    """A row a task: {task, items, checked, hit, share, kinds, coverage, hits, scores}."""
    cover = found.index.covered(found.hashes)
    rows = []
    for number, task in enumerate(tests.tasks):
        units = found.units[number] if found.near is not None else [[] for _ in task.items]
        hits = [
            hit
            for item, own in zip(task.items, units, strict=True)
            if (hit := _hit(item, own, tests, found, cover)) is not None
        ]
        checked = sum(bool(item.texts or item.golds) for item in task.items)
        counts = Counter(kind for hit in hits for kind in hit.kinds)
        rows.append(
            {
                "task": task.card.name,
                "items": len(task.items),
                "checked": checked,
                "hit": len(hits),
                "share": len(hits) / checked if checked else None,
                "kinds": {name: counts[name] for name in NAMES if name != "near" or found.near is not None},
                "coverage": float(np.mean([hit.coverage for hit in hits])) if hits else None,
                "hits": _listed(hits, task, tests, cover),
                "scores": _scores(task, {hit.doc_id for hit in hits}, run) if run else None,
            }
        )
    return rows


def _hit(item: Item, units: list[int], tests: Material, found: Found, cover: Cover) -> Hit | None:
    kinds = {KINDS[kind] for number in item.texts for kind in cover.kinds.get(number, ())}
    if any(number in cover.kinds for number in item.golds):
        kinds.add("gold")
    near = [found.near[unit] for unit in units if found.near and unit in found.near]
    if near:
        kinds.add("near")
    if not kinds:
        return None
    numbers = (*item.texts, *item.golds)
    total = sum(len(tests.texts[number]) for number in numbers)
    lengths = {number: int(cover.of(number).sum()) for number in numbers if number in cover.kinds}
    places = [found.places[number] for number in numbers if number in cover.kinds] + [place for place, _ in near]
    return Hit(
        item.doc_id,
        item.doc_hash,
        [name for name in NAMES if name in kinds],
        sum(lengths.values()) / total,
        max((share for _, share in near), default=None),
        list(dict.fromkeys(places))[:3],
        max(lengths, key=lengths.__getitem__, default=None),
    )


def _listed(hits: list[Hit], task: TaskItems, tests: Material, cover: Cover) -> list[Row]:
    """Every hit, most covered first; the first few with the stretch that was found."""
    ordered = sorted(hits, key=lambda hit: (-hit.coverage, -(hit.containment or 0), hit.doc_id))
    rows = []
    for place, hit in enumerate(ordered):
        row = asdict(hit)
        number = row.pop("text")
        if place < EXAMPLES and number is not None and task.card.metadata.get("publish_items"):
            first = int(np.argmax(cover.of(number)))
            row["text"] = tests.texts[number][first : first + SHOWN]
        rows.append(row)
    return rows


def check_run(run: Run, tests: Material) -> None:
    """ConfigError or DataError where a run's scores can't be divided: it lacks a task, or was made on other rows."""
    for task in tests.tasks:
        name = task.card.name
        if name not in run.tasks:
            raise ConfigError(f"Run {run.id} has no task {name} but {', '.join(run.tasks)}: name its tasks.")
        hashes = {item.doc_id: item.doc_hash for item in task.items}
        if any(hashes.get(sample.doc_id) != sample.doc_hash for sample in run.samples(name)):
            raise DataError(f"Run {run.id} was made on other rows of {name} than are here: name its data with data=.")


def _scores(task: TaskItems, dirty: set[int], run: Run) -> dict[str, list[Row]]:
    samples = list(run.samples(task.card.name))
    parts = {
        "all": samples,
        "clean": [sample for sample in samples if sample.doc_id not in dirty],
        "dirty": [sample for sample in samples if sample.doc_id in dirty],
    }
    return {name: [asdict(score) for score in _scored(task, part)] for name, part in parts.items()}


def _scored(task: TaskItems, samples: list[Sample]) -> list[Score]:
    assert task.lm is not None
    card = task.card
    return score_task(
        card.name,
        samples,
        primary=card.primary,
        chance=card.chance,
        n_planned=len(samples),
        listed=task.lm.metrics,
        higher_is_better=task.lm.task.higher_is_better(),
        aggregations=task.lm.task.aggregation(),
    )
