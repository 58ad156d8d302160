"""The stage: clean each source, find duplicates over all of them, tokenise what is left.

    shards/SOURCE/        the shards, with their manifest and contaminated.jsonl (what decontamination took out)
    work/                 the cleaned texts and what duplicates are found by; removed at the end

Every document that is read is either in the shards or counted under the reason why it is not.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from estbench.contamination.corpus import Source
from estbench.errors import DataError
from estbench.runs import atomic, write_json
from estbench_training.kinds import Context
from estbench_training.prepare import decontaminate, duplicates, encode, sources
from estbench_training.prepare.duplicates import EXACT, KEPT, NEAR, Corpus, Flags
from estbench_training.prepare.filters import Cleaner, Job
from estbench_training.prepare.pieces import Piece, Pieces
from estbench_training.prepare.processes import in_order
from estbench_training.prepare.settings import PrepareSettings
from estbench_training.shards import MANIFEST, Writer, load_tokenizer

SHARDS, CONTAMINATED = "shards", "contaminated.jsonl"


@dataclass(frozen=True)
class Work:
    """What the steps of a run share."""

    settings: PrepareSettings
    context: Context
    files: Mapping[str, list[Source]]
    tokenizer: encode.Frame
    described: Mapping[str, Any]  # as manifests have it
    tests: decontaminate.Tests | None

    @property
    def folder(self) -> Path:
        return self.context.folder / "work"

    def shards(self, name: str) -> Path:
        """The folder of a source's shards."""
        return self.context.folder / SHARDS / name


def run(settings: PrepareSettings, context: Context) -> None:
    """Make the shards of all sources, going on from what an interrupted run left."""
    names = settings.order()
    if not all((context.folder / SHARDS / name / MANIFEST).exists() for name in names):
        work = _begun(settings, context)
        commits = _commits(work)
        pieces = {name: _clean(work, name, commits[name]) for name in names}
        corpus = Corpus.of([piece for name in names for piece in pieces[name]])
        flags = duplicates.find(corpus, settings.duplicates, work.folder)
        begin = 0
        for name in names:
            count = sum(piece.documents for piece in pieces[name])
            _tokenise(work, name, pieces[name], flags[begin : begin + count], commits[name])
            begin += count
    shutil.rmtree(context.folder / "work", ignore_errors=True)


def _begun(settings: PrepareSettings, context: Context) -> Work:
    """All that can be wrong before anything is read, is found here."""
    files = {name: sources.opened(name, source, context.path) for name, source in settings.sources.items()}
    folder, shown = _tokenizer(settings, context)
    tokenizer = load_tokenizer(folder)
    frame = encode.frame_of(tokenizer, shown)
    described = encode.describe(tokenizer, frame, shown)
    work = Work(settings, context, files, frame, described, _tests(settings, context))
    if work.tests is not None:
        work.tests.save(work.folder / "tests")
    return work


def _tokenizer(settings: PrepareSettings, context: Context) -> tuple[Path, str]:
    """(folder, what the recipe calls it)."""
    if settings.tokenizer is None:
        return context.start, str(context.recipe.model_before(context.stage))
    return settings.tokenizer_folder(context.recipe), settings.tokenizer


def _tests(settings: PrepareSettings, context: Context) -> decontaminate.Tests | None:
    wanted = settings.decontaminate
    if wanted == "none":
        context.say("Tests' documents stay in the training data where it holds any (decontaminate: none).")
        return None
    found = decontaminate.collect(wanted, wanted.folder(context.recipe))
    if found.missing:
        context.say(
            f"Not looked for, their data is not here: {', '.join(found.missing)}. The manifest and the card say so."
        )
    return found


def _commits(work: Work) -> dict[str, str | None]:
    """The commit of each source on the Hub: that of the interrupted run, if there was one."""
    path = work.folder / "commits.json"
    if not path.exists():
        write_json(path, {name: sources.commit_of(source) for name, source in work.settings.sources.items()})
    found: dict[str, str | None] = json.loads(path.read_text("utf-8"))
    return found


def _clean(work: Work, name: str, commit: str | None) -> list[Piece]:
    """The pieces of a source, all of them."""
    settings, source = work.settings, work.settings.sources[name]
    near = settings.decontaminate != "none" and settings.decontaminate.near
    tests = work.folder / "tests" if work.tests is not None else None
    job = Job(source, settings.filters_of(name), settings.duplicates, tests, near)
    with Pieces(work.folder / name) as pieces:
        if pieces.finished:
            return pieces.all
        limit = source.limit
        stream = sources.batches(source, work.files[name], work.context.seed, commit, pieces.batches)
        with closing(in_order(Cleaner, job, stream, settings.workers)) as results:
            for batch, cleaned in results:
                if limit is not None and pieces.read + cleaned.read > limit:
                    cleaned = Cleaner(job)(batch, limit - pieces.read)
                pieces.add(cleaned)
                if limit is not None and pieces.read >= limit:
                    break
        pieces.finish()
    read, dropped = _counts(pieces.all)
    if not read:
        raise DataError(f"Source {name} is empty: {_shown(work, name)} holds no documents.")
    left = read - dropped.total()
    work.context.say(f"{name}: {read:,} documents read, {left:,} left after filters{_reasons(dropped)}")
    if not left:
        raise DataError(f"Of source {name} nothing is left of {read:,} documents{_reasons(dropped)}.")
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


def _shown(work: Work, name: str) -> str:
    source = work.settings.sources[name]
    return str(source.path or source.hub or f"demo {source.demo}")


def _tokenise(work: Work, name: str, pieces: Sequence[Piece], flags: Flags, commit: str | None) -> None:
    """Write a source's shards and what is said of them."""
    folder = work.shards(name)
    if (folder / MANIFEST).exists():
        return
    with Writer(folder, work.described, work.settings.part_tokens) as writer:
        texts = encode.kept(pieces, flags, writer.documents)
        for _, (tokens, lengths) in in_order(encode.Encoder, work.tokenizer, texts, work.settings.workers):
            writer.add(tokens, lengths)
        facts = _facts(work, name, pieces, flags, commit)
        if facts["read"] != writer.documents + sum(facts["dropped"].values()):
            raise AssertionError(f"{name}: {facts['read']:,} read, {writer.documents:,} written: {facts['dropped']}")
        writer.finish(facts)
        work.context.say(f"{name}: {writer.documents:,} documents, {writer.tokens:,} tokens in {folder}")


def _facts(work: Work, name: str, pieces: Sequence[Piece], flags: Flags, commit: str | None) -> dict[str, Any]:
    """What the manifest says of a source."""
    source, settings = work.settings.sources[name], work.settings
    read, dropped = _counts(pieces)
    dropped.update({"duplicate": int((flags == EXACT).sum()), "near_duplicate": int((flags == NEAR).sum())})
    sizes = 0
    begin = 0
    for piece in pieces:
        sizes += int(piece.records()[flags[begin : begin + piece.documents] == KEPT, 2].sum())
        begin += piece.documents
    return {
        "source": name,
        "language": source.tongue,
        "licence": source.terms,
        "url": source.url,
        "origin": _origin(work, name, commit),
        "read": read,
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "bytes": sizes,
        "filters": asdict(settings.filters_of(name)),
        "duplicates": asdict(settings.duplicates),
        "decontaminated": _decontaminated(work, name, pieces),
        "versions": {library: version(library) for library in ("tokenizers", "transformers")},
    }


def _origin(work: Work, name: str, commit: str | None) -> dict[str, Any]:
    source = work.settings.sources[name]
    if source.path is not None:
        files = work.files[name]
        return {"path": source.path, "files": len(files), "bytes": sum(file.path.stat().st_size for file in files)}
    if source.hub is not None:
        return {"hub": source.hub, "config": source.config, "split": source.split, "commit": commit}
    return {"demo": source.demo, "documents": source.documents, "seed": work.context.seed}


def _decontaminated(work: Work, name: str, pieces: Sequence[Piece]) -> dict[str, Any] | None:
    """What was looked for and taken out; the list of what was taken out is written beside the shards."""
    if work.tests is None:
        return None
    by_task: Counter[str] = Counter()
    path = work.shards(name) / CONTAMINATED
    removed = 0
    digest = hashlib.sha256()
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for row in _removed(work, pieces):
            by_task.update(row["tasks"])
            removed += 1
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            digest.update(line)
            file.write(line)
    looked = sum(piece.documents for piece in pieces) + removed
    counts = {"documents": looked, "removed": removed, "by_task": dict(sorted(by_task.items()))}
    return {**work.tests.facts(), **counts, "list": {"file": CONTAMINATED, "sha256": digest.hexdigest()}}


def _removed(work: Work, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
    """Where each contaminated document stands, the hash of its text, and the tasks that it holds parts of."""
    assert work.tests is not None
    for piece in pieces:
        for row in piece.contaminated():
            place, _, line = row["place"].rpartition(":")
            if os.path.isabs(place):
                place = os.path.relpath(place, work.context.recipe.folder)
            tasks = work.tests.tasks_of(row["finds"])
            yield {"place": f"{place}:{line}", "id": row["id"], "sha256": row["sha256"], "tasks": tasks}
