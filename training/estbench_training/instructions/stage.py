"""The stage: clean each source, find duplicates over all of them, draw, and write the rows.

    rows.jsonl            {"messages": […], "source": …, "id": …}, a row a line
    manifest.json         counts in and out by reason, directions, wordings, licences, hashes of what was read
    contaminated.jsonl    which rows were left out since they hold a part of a test
    work/                 what is left of the sources; removed at the end

Every row that is read is either among the items that rows are drawn from, or counted under the reason why it is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from estbench import identity
from estbench.errors import DataError
from estbench.runs import atomic, write_json
from estbench_training.instructions import overlap, reading
from estbench_training.instructions.cleaning import Cleaner, Job
from estbench_training.instructions.drawing import Drawn, alternation, available, chosen
from estbench_training.instructions.reading import Origin
from estbench_training.instructions.rendering import Renderer, renderer
from estbench_training.instructions.settings import InstructionSettings, SourceSettings
from estbench_training.kinds import Context
from estbench_training.prepare import duplicates
from estbench_training.prepare.decontaminate import Tests
from estbench_training.prepare.duplicates import EXACT, NEAR, Corpus, Flags
from estbench_training.prepare.pieces import Piece, Pieces
from estbench_training.prepare.processes import in_order
from estbench_training.rows import ROWS

SCHEMA = 1
MANIFEST, CONTAMINATED = "manifest.json", "contaminated.jsonl"


@dataclass(frozen=True)
class Work:
    """What the steps of a run share."""

    settings: InstructionSettings
    context: Context
    origins: Mapping[str, Origin]
    tests: Tests | None

    @property
    def folder(self) -> Path:
        return self.context.folder / "work"


@dataclass(frozen=True)
class Ready:
    """A source whose rows can be made."""

    name: str
    settings: SourceSettings
    drawn: Drawn
    renderer: Renderer
    rows: int  # that it has, epochs counted
    facts: dict[str, Any]


def run(settings: InstructionSettings, context: Context) -> None:
    """Make the rows, going on from what an interrupted run has cleaned."""
    work = _begun(settings, context)
    names = settings.order()
    pieces = {name: _clean(work, name) for name in names}
    corpus = Corpus.of([piece for name in names for piece in pieces[name]])
    flags = duplicates.find(corpus, settings.duplicates, work.folder)
    ready, begin = [], 0
    for name in names:
        count = sum(piece.documents for piece in pieces[name])
        ready.append(_ready(work, name, pieces[name], flags[begin : begin + count]))
        begin += count
    ready.sort(key=lambda source: source.name)
    order = alternation({source.name: source.rows for source in ready}, _weights(settings), settings.rows)
    digest = _write(work, ready, order)
    write_json(context.folder / MANIFEST, _manifest(work, ready, order, pieces, digest))
    shutil.rmtree(work.folder, ignore_errors=True)


def _begun(settings: InstructionSettings, context: Context) -> Work:
    """All that can be wrong before anything is read, is found here."""
    for source in settings.sources.values():
        renderer(source, _templates(source, context), 1, "")
    commits = _commits(settings, context.folder / "work" / "commits.json")
    origins = {
        name: reading.opened(name, source, context.path, context.seed, commits[name])
        for name, source in settings.sources.items()
    }
    work = Work(settings, context, origins, overlap.tests(settings, context))
    if work.tests is not None:
        work.tests.save(work.folder / "tests")
    return work


def _commits(settings: InstructionSettings, path: Path) -> dict[str, str | None]:
    """The commit of each source on the Hub: that of the interrupted run, if there was one."""
    if not path.exists():
        write_json(path, {name: reading.commit_of(source) for name, source in settings.sources.items()})
    found: dict[str, str | None] = json.loads(path.read_text("utf-8"))
    return found


def _templates(source: SourceSettings, context: Context) -> dict[str, Path]:
    own = source.translation.templates if source.translation else {}
    return {language: context.path(path) for language, path in own.items()}


def _weights(settings: InstructionSettings) -> dict[str, float]:
    return {name: source.weight for name, source in settings.sources.items() if source.weight is not None}


def _clean(work: Work, name: str) -> list[Piece]:
    """The pieces of a source, all of them."""
    settings, source = work.settings, work.settings.sources[name]
    near = settings.decontaminate != "none" and settings.decontaminate.near
    job = Job(source, settings.duplicates, work.folder / "tests" if work.tests is not None else None, near)
    with Pieces(work.folder / name) as pieces:
        if pieces.finished:
            return pieces.all
        batches = reading.batches(source, work.origins[name], pieces.batches)
        with closing(in_order(Cleaner, job, batches, settings.workers)) as results:
            for _, cleaned in results:
                pieces.add(cleaned)
        pieces.finish()
    read, dropped = _counts(pieces.all)
    if not read:
        raise DataError(f"Source {name} is empty: it holds no rows.")
    if read == dropped.total():
        raise DataError(f"Of source {name} nothing is left of {read:,} rows{_reasons(dropped)}.")
    work.context.say(f"{name}: {read:,} rows read, {read - dropped.total():,} left{_reasons(dropped)}")
    return pieces.all


def _counts(pieces: Sequence[Piece]) -> tuple[int, Counter[str]]:
    """(rows read, dropped by reason)."""
    dropped: Counter[str] = Counter()
    for piece in pieces:
        dropped.update(piece.dropped)
    return sum(piece.read for piece in pieces), dropped


def _reasons(dropped: Counter[str]) -> str:
    text = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in dropped.most_common())
    return f" ({text})" if text else ""


def _ready(work: Work, name: str, pieces: Sequence[Piece], flags: Flags) -> Ready:
    source, seed = work.settings.sources[name], work.context.seed
    numbers = chosen(pieces, flags, source.limit, seed, name)
    rows = available(len(numbers), source.epochs)
    if not rows:
        raise DataError(
            f"Of source {name} no row is left: all its rows are another source's, or its epochs are too few."
        )
    read, dropped = _counts(pieces)
    dropped.update({"duplicate": int((flags == EXACT).sum()), "near_duplicate": int((flags == NEAR).sum())})
    facts = {
        "read": read,
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "left": read - dropped.total(),
        "drawn": len(numbers),
    }
    drawn = Drawn(work.folder / f"{name}.drawn", pieces, numbers, seed, name)
    made = renderer(source, _templates(source, work.context), rows, f"{seed} {name}")
    return Ready(name, source, drawn, made, rows, facts)


def _write(work: Work, ready: Sequence[Ready], order: np.ndarray[Any, np.dtype[np.uint16]]) -> str:
    """Write the rows, whole or not at all; their hash."""
    digest = hashlib.sha256()
    with atomic(work.context.folder / ROWS) as temporary, open(temporary, "wb") as file:
        for row in _rows(ready, order):
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            digest.update(line)
            file.write(line)
    work.context.say(f"{len(order):,} rows in {work.context.folder / ROWS}")
    return digest.hexdigest()


def _rows(ready: Sequence[Ready], order: np.ndarray[Any, np.dtype[np.uint16]]) -> Iterator[dict[str, Any]]:
    taken = [0] * len(ready)
    for number in order.tolist():
        source, i = ready[number], taken[number]
        taken[number] += 1
        text = source.drawn[i]
        epoch = i // source.drawn.count
        mark = hashlib.sha256(text.encode()).hexdigest()[:16]
        yield {
            "messages": source.renderer(json.loads(text)),
            "source": source.name,
            "id": f"{source.name}-{mark}" + (f"-{epoch + 1}" if epoch else ""),
        }


def _manifest(
    work: Work,
    ready: Sequence[Ready],
    order: np.ndarray[Any, np.dtype[np.uint16]],
    pieces: Mapping[str, Sequence[Piece]],
    digest: str,
) -> dict[str, Any]:
    counts = np.bincount(order, minlength=len(ready)).tolist()
    sources = {}
    for source, rows in zip(ready, counts, strict=True):
        described = source.settings
        sources[source.name] = {
            "kind": described.kind,
            "language": described.language or _languages(described),
            "licence": described.licence or ("apache-2.0" if described.demo is not None else None),
            "url": described.url,
            "origin": _origin(work, source.name),
            **source.facts,
            "rows": rows,
            "epochs": round(rows / source.drawn.count, 6),
            "weight": described.weight,
            **source.renderer.report(),
        }
    return {
        "schema": SCHEMA,
        "seed": work.context.seed,
        "rows": len(order),
        "sha256": digest,
        "sources": sources,
        "duplicates": asdict(work.settings.duplicates),
        "decontaminated": _decontaminated(work, pieces),
    }


def _languages(source: SourceSettings) -> str | None:
    if source.translation:
        return "-".join(source.translation.languages)
    if source.demo is None:
        return None
    from estbench.demo import english

    return "-".join(sorted({"en" if task in english.TASKS else "et" for task in source.demo}))


def _origin(work: Work, name: str) -> dict[str, Any]:
    source, origin = work.settings.sources[name], work.origins[name]
    if origin.files:
        hashes = identity.FileHashes().of(list(origin.files.values()))
        files = {
            shown: {"sha256": hashes[path][0], "bytes": path.stat().st_size} for shown, path in origin.files.items()
        }
        return {"files": files}
    if source.hub is not None:
        return {"hub": source.hub, "config": source.config, "split": source.split or "train", "commit": origin.commit}
    if source.task is not None:
        return {"task": source.task, "split": source.split}
    return {"demo": source.demo, "rows": source.rows, "seed": work.context.seed, "tests": overlap.CONSTRUCTED}


def _decontaminated(work: Work, pieces: Mapping[str, Sequence[Piece]]) -> dict[str, Any] | None:
    """What was looked for and left out; the list of what was left out is written beside the rows."""
    if work.tests is None:
        return None
    by_task: Counter[str] = Counter()
    removed = 0
    with atomic(work.context.folder / CONTAMINATED) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row in _removed(work, pieces):
            by_task.update(row["tasks"])
            removed += 1
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    looked = sum(piece.documents for some in pieces.values() for piece in some) + removed
    counts = {"documents": looked, "removed": removed, "by_task": dict(sorted(by_task.items()))}
    return {**work.tests.facts(), **counts, "list": CONTAMINATED}


def _removed(work: Work, pieces: Mapping[str, Sequence[Piece]]) -> Iterator[dict[str, Any]]:
    """Where each contaminated row stands, the hash of its text, and the tests that it holds parts of."""
    assert work.tests is not None
    for name, some in pieces.items():
        for piece in some:
            for row in piece.contaminated():
                place, colon, line = row["place"].rpartition(":")
                if os.path.isabs(place):
                    place = os.path.relpath(place, work.context.recipe.folder)
                tasks = work.tests.tasks_of(row["finds"])
                yield {"source": name, "place": f"{place}{colon}{line}", "sha256": row["sha256"], "tasks": tasks}
