"""A source as a stream of numbered batches of rows, in an order that depends on the source alone.

A row has a place (file:line, for complaints) and named values. Nothing is held but the batch at hand; only a file that
is one JSON list is read whole.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from estbench.errors import DataError, did_you_mean
from estbench_training.instructions.settings import SourceSettings
from estbench_training.rows import lines_of, numbered, read_errors

ROWS = 256  # of a batch
ENDINGS = (".jsonl", ".json", ".parquet", ".tsv")
PACKED = (".gz", ".zst")
Row = tuple[str, Mapping[str, Any]]  # (where, values)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a source reads: its files by what the recipe calls them, the commit of a data set on the Hub, the seed."""

    name: str
    files: Mapping[str, Path]
    commit: str | None
    seed: int


def opened(
    name: str, source: SourceSettings, path: Callable[[str], Path], seed: int, commit: str | None = None
) -> Origin:
    """The files of a source; DataError, one line, where there are none. commit: of a data set on the Hub."""
    given = [source.path] if source.path is not None else list((source.aligned or {}).values())
    files: dict[str, Path] = {}
    for text in given:
        found = _files(path(text)) if source.path is not None else [path(text)]
        for file in found:
            if not file.is_file():
                raise DataError(f"source {name}: there is no file {file}.")
            if source.path is not None and _ending(file) not in ENDINGS:
                raise DataError(f"source {name}: {file} is none of {', '.join(ENDINGS)} (.gz, .zst).")
            files[text if len(found) == 1 else f"{text} {file.name}"] = file
    return Origin(name, files, commit, seed)


def commit_of(source: SourceSettings) -> str | None:
    """The commit that a Hub source's revision means now; None for other sources."""
    from estbench_training.prepare import settings as prepare
    from estbench_training.prepare import sources

    if source.hub is None:
        return None
    same = prepare.SourceSettings(hub=source.hub, revision=source.revision, language="und", licence="unknown")
    return sources.commit_of(same)


def task_key(name: str, split: str | None) -> str:
    """A hash of a task's file and of the files that hold the rows it gives and those it tests, for the stage's key.

    They are fetched where they are not here, as a model is; DataError if they can't be.
    """
    from estbench import data, identity
    from estbench.registry import Registry

    card = Registry().task(name)
    splits = list(dict.fromkeys([*card.splits, *([split] if split else [])]))
    files: list[Path] = []
    for ref in data.references([card]):
        if data.missing(ref, splits):
            data.load(ref, splits)
        place = next(place for place in data.places() if set(splits) <= set(data.present_splits(ref, place)))
        files += [place / ref.folder / file for part in splits for file in ref.files(part)]
    hashes = identity.FileHashes().of([card.path, *files])
    return identity.digest([hashes[file][0] for file in (card.path, *files)])


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _ending(file) in ENDINGS)
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    return found or [path]


def _ending(path: Path) -> str:
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def batches(source: SourceSettings, origin: Origin, start: int) -> Iterator[list[Row]]:
    """The rows of a source, ROWS at once, from batch number `start` on. DataError names a row that can't be read."""
    rows = islice(_rows(source, origin), source.read)
    rows = islice(rows, start * ROWS, None)
    while some := list(islice(rows, ROWS)):
        yield some


def _rows(source: SourceSettings, origin: Origin) -> Iterator[Row]:
    if source.demo is not None:
        yield from _of_demo(source, origin)
    elif source.task is not None:
        yield from _of_task(source.task, source.split)
    elif source.hub is not None:
        yield from _of_hub(source, origin)
    elif source.aligned is not None:
        yield from _of_aligned(list(source.aligned), list(origin.files.values()))
    else:
        for file in origin.files.values():
            with read_errors(file):
                yield from _of_file(source, file)


def _of_file(source: SourceSettings, file: Path) -> Iterator[Row]:
    ending = _ending(file)
    if ending == ".tsv":
        yield from _of_tsv(file, {name: source.column(name) for name in source.asked})
    elif ending == ".json":
        yield from _of_list(file)
    else:
        for number, row in numbered(file):
            yield f"{file}:{number}", row


def _of_list(file: Path) -> Iterator[Row]:
    try:
        with lines_of(file) as stream:
            rows = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON ({error}); lines of JSON are to be called .jsonl.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file} is no list of JSON objects; lines of JSON are to be called .jsonl.")
    for number, row in enumerate(rows, 1):
        yield f"{file}, row {number}", row


def _of_tsv(file: Path, fields: Mapping[str, str]) -> Iterator[Row]:
    """Columns by number, or by what the first line calls them."""
    with lines_of(file) as lines:
        numbered = enumerate((line.rstrip("\r\n").split("\t") for line in lines), 1)
        if all(column.isdigit() for column in fields.values()):
            columns = {column: int(column) - 1 for column in fields.values()}
        else:
            head = next(numbered, (1, [""]))[1]
            columns = {column: _column(column, head, file) for column in fields.values()}
        for number, cells in numbered:
            yield f"{file}:{number}", {name: cells[at] for name, at in columns.items() if 0 <= at < len(cells)}


def _column(name: str, head: Sequence[str], file: Path) -> int:
    if name not in head:
        raise DataError(
            f"{file}:1 names no column {name!r} but {', '.join(head)[:200]}.{did_you_mean(name, head)} Name columns "
            "by number with fields where the first line is no head: {et: 1, en: 2}."
        )
    return head.index(name)


def _of_aligned(languages: Sequence[str], files: Sequence[Path]) -> Iterator[Row]:
    """A line of one file with the same line of the other."""
    one, other = files
    with read_errors(one), read_errors(other), lines_of(one) as left, lines_of(other) as right:
        for number, pair in enumerate(zip_longest(left, right), 1):
            if None in pair:
                short, long = (one, other) if pair[0] is None else (other, one)
                raise DataError(f"{short} has {number - 1:,} lines and {long} has more: the two are not aligned.")
            yield f"{one}:{number}", dict(zip(languages, (line.rstrip("\r\n") for line in pair), strict=True))


def _of_hub(source: SourceSettings, origin: Origin) -> Iterator[Row]:
    import datasets

    from estbench.hub import hf_token, without_token

    where = f"{source.hub}@{(origin.commit or '')[:12]}"
    try:
        stream = datasets.load_dataset(
            f"hf://datasets/{source.hub}",  # the name alone could mean a folder here
            source.config,
            split=source.split or "train",
            revision=origin.commit,
            streaming=True,
            token=hf_token() or False,
        )
        for number, row in enumerate(stream, 1):
            yield f"{where}, row {number}", row
    except Exception as error:  # the libraries raise what they like
        reason = without_token(" ".join(str(error).split()))[:200].rstrip(".")
        raise DataError(
            f"The data set {source.hub} can't be read from the Hub ({type(error).__name__}: {reason}): if it is gated, "
            "accept its terms there and set HF_TOKEN; without a network, name its files with path."
        ) from None


def _of_task(name: str, split: str | None) -> Iterator[Row]:
    """A task's prompts on another split than it is tested on, with the answers that it takes for right."""
    from estbench_training.scorers import TaskScorer

    task = TaskScorer(name, split)
    for number, (prompt, rendered) in enumerate(zip(task.prompts(), task.rendered, strict=True)):
        target = rendered.target
        answer = str(next(iter(target), "") if isinstance(target, list | tuple) else target).strip()
        messages = [*map(dict, prompt.messages), {"role": "assistant", "content": answer}]
        yield f"{name}/{task.split}, document {number}", {"messages": messages}


def _of_demo(source: SourceSettings, origin: Origin) -> Iterator[Row]:
    """Chat prompts and answers of the demo world, of combinations that its tests don't ask for; tasks take turns."""
    from estbench.demo import stream
    from estbench_training.instructions.turns import Turns

    assert source.demo is not None and source.rows is not None
    shares = source.demo if isinstance(source.demo, Mapping) else dict.fromkeys(source.demo, 1.0)
    seed = f"instructions {origin.seed} {origin.name}"
    streams = {task: stream.instructions(task, seed, chat=True) for task in shares}
    turns = Turns(shares, source.rows)
    for number in range(source.rows):
        prompt, answer = next(streams[turns.next()])
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        yield f"demo, row {number + 1}", {"messages": messages, "number": number}
