"""A source as a stream of batches that another process can read: files, a data set on the Hub, the demo world.

Batches are numbered, and where they are cut depends on the source alone: that is how an interrupted run finds its place
again, and why the number of processes changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from estbench.contamination import corpus
from estbench.contamination.corpus import Chunk, Document, Source
from estbench.errors import ConfigError, DataError
from estbench_training.prepare.settings import SourceSettings

ROWS = 256  # of a batch that isn't lines of a file
CHARACTERS = 1 << 20  # after which a batch of paragraphs is closed
MOST = corpus.LONGEST_LINE  # characters of a document
CURE = "correct it, or leave such rows out with damaged: skip."
Rows = list[tuple[Any, Any]]  # (text, id)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a source, in order: lines of JSON, unread, or (text, id)."""

    place: str  # the file, or what stands for it
    line: int  # of the first row, from 1
    content: bytes | Rows
    lines: tuple[int, ...] | None = None  # of each row, where they are not one behind the other


def opened(name: str, source: SourceSettings, path: Callable[[str], Path]) -> list[Source]:
    """The files of a source (none: it has no files). DataError or ConfigError, one line, where they can't be had.

    path: what a path of the recipe means.
    """
    if source.path is None:
        return []
    found = corpus.sources(str(path(source.path)))
    if source.unit is None and any(file.kind == "text" for file in found):
        first = next(file for file in found if file.kind == "text")
        raise ConfigError(
            f"source {name}: {first.path} is plain text: say with unit: what a document is (line, paragraph or file)."
        )
    return found


def batches(source: SourceSettings, files: list[Source], seed: int, commit: str | None, start: int) -> Iterator[Batch]:
    """The batches from number `start` on. DataError, one line, where the source can't be read."""
    if source.hub is not None:
        yield from _of_hub(source, commit, start)
        return
    made = _of_demo(source, seed) if source.demo else _of_files(source, files)
    yield from islice(made, start, None)


def _of_demo(source: SourceSettings, seed: int) -> Iterator[Batch]:
    from estbench.demo import english, stream

    kind, begin = str(source.demo), f"prepare {seed}"
    if kind in ("et", "en"):
        texts = stream.texts(kind, begin)
    else:
        made = english.instructions if kind in english.TASKS else stream.instructions
        texts = (f"{prompt} {answer}" for prompt, answer in made(kind, begin))
    made_texts = islice(texts, source.documents)
    line = 1
    while some := list(islice(made_texts, ROWS)):
        yield Batch(f"demo {source.demo}", line, [(text, None) for text in some])
        line += len(some)


def _of_files(source: SourceSettings, files: list[Source]) -> Iterator[Batch]:
    for file in files:
        broken: list[str] = []
        as_lines = Source(file.path, "parquet" if file.kind == "parquet" else "jsonl")  # whole lines, never cut
        chunks = corpus.chunks([as_lines], source.field, 0, broken)
        if file.kind == "text":
            yield from _of_text(str(file.path), source.unit, chunks)
        else:
            for chunk in chunks:
                yield Batch(str(file.path), chunk.line, chunk.content)
        if broken:
            raise DataError(broken[0])


def _of_text(place: str, unit: str | None, chunks: Iterator[Chunk]) -> Iterator[Batch]:
    """Documents of plain text, about CHARACTERS at once."""
    rows: Rows = []
    lines: list[int] = []
    size = 0
    for line, text in _units(unit, _text_lines(place, chunks)):
        rows.append((text, None))
        lines.append(line)
        size += len(text)
        if size >= CHARACTERS:
            yield Batch(place, lines[0], rows, tuple(lines))
            rows, lines, size = [], [], 0
    if rows:
        yield Batch(place, lines[0], rows, tuple(lines))


def _units(unit: str | None, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """(first line, text) of each document; DataError for one that is longer than a row may be."""
    if unit == "line":
        yield from (row for row in lines if row[1].strip())
        return
    held: list[str] = []
    first, size = 1, 0
    for number, line in lines:
        if unit == "paragraph" and not line.strip():
            if held:
                yield first, "\n".join(held)
            held, size = [], 0
            continue
        if not held:
            first = number
        held.append(line)
        size += len(line) + 1
        if size > MOST:
            raise DataError(f"A document, from line {first:,} on, is longer than {MOST >> 20} MB: divide it.")
    if held:
        yield first, "\n".join(held)


def _text_lines(place: str, chunks: Iterator[Chunk]) -> Iterator[tuple[int, str]]:
    for chunk in chunks:
        assert isinstance(chunk.content, bytes)
        if chunk.size > len(chunk.content) + 2 * corpus.CHUNK:  # TOO_LONG stands for the rest
            raise DataError(f"{place}:{chunk.line} is longer than {MOST >> 20} MB: divide it.")
        content = chunk.content.removeprefix(corpus.BOM if chunk.line == 1 else b"").removesuffix(b"\n")
        for number, line in enumerate(content.split(b"\n"), chunk.line):
            try:
                yield number, line.decode("utf-8").removesuffix("\r")
            except UnicodeDecodeError:
                raise DataError(f"{place}:{number} is not UTF-8: convert the file.") from None


def _of_hub(source: SourceSettings, commit: str | None, start: int) -> Iterator[Batch]:
    import datasets

    from estbench.hub import hf_token

    what = f"hf://datasets/{source.hub}"  # the name alone could mean a folder here
    token = hf_token() or False
    try:
        stream = datasets.load_dataset(
            what, source.config, split=source.split, revision=commit, streaming=True, token=token
        )
        rows = iter(stream.skip(start * ROWS))
        line = start * ROWS + 1
        while some := list(islice(rows, ROWS)):
            for row in some:
                if source.field not in row:
                    raise DataError(f"{source.hub} has no field {source.field!r} but {', '.join(row)}: name one.")
            yield Batch(f"{source.hub}@{commit}", line, [(row[source.field], row.get("id")) for row in some])
            line += len(some)
    except DataError:
        raise
    except Exception as error:  # the libraries raise what they like
        raise _hub_error(str(source.hub), error) from None


def commit_of(source: SourceSettings) -> str | None:
    """The commit that a Hub source's revision means now; None for other sources."""
    if source.hub is None:
        return None
    import huggingface_hub

    from estbench.hub import TIMEOUT, hf_token

    try:
        api = huggingface_hub.HfApi(token=hf_token() or False)
        return str(api.dataset_info(source.hub, revision=source.revision, timeout=TIMEOUT).sha)
    except Exception as error:  # as above
        raise _hub_error(source.hub, error) from None


def _hub_error(name: str, error: Exception) -> DataError:
    from estbench.hub import without_token

    reason = without_token(" ".join(str(error).split()))[:200].rstrip(".")
    return DataError(
        f"The data set {name} can't be read from the Hub ({type(error).__name__}: {reason}): if it is gated, accept "
        "its terms there and set HF_TOKEN; without a network, fetch its files elsewhere and name them with path."
    )


@dataclass(slots=True)
class Read:
    """The documents of a batch, and how many rows could not be read."""

    documents: list[Document]
    damaged: int


def documents(batch: Batch, field: str, damaged: str, most: int | None = None) -> Read:
    """The documents of a batch, at most so many. DataError names the first row that can't be read, unless skipped."""
    chunk = Chunk(0, "jsonl" if isinstance(batch.content, bytes) else "parquet", batch.line, batch.content, 0)
    found, tally = corpus.documents(chunk, field)
    unread = tally.damaged + tally.not_utf8 + tally.lacking
    if unread and damaged == "stop":
        raise _fault(batch, field)
    if batch.lines is not None:
        for document, line in zip(found, batch.lines, strict=True):
            document.line = line
    return Read(found[:most], unread)


def _fault(batch: Batch, field: str) -> DataError:
    """What is wrong with the first row of a batch that can't be read."""
    if not isinstance(batch.content, bytes):
        row = next(i for i, (text, _) in enumerate(batch.content) if not isinstance(text, str))
        return DataError(f"{batch.place}:{batch.line + row} has no text in {field!r}: {CURE}")
    for number, line in enumerate(batch.content.split(b"\n"), batch.line):
        if line == corpus.TOO_LONG:
            return DataError(f"{batch.place}:{number} is longer than {MOST >> 20} MB: {CURE}")
        _, tally = corpus.documents(Chunk(0, "jsonl", number, line, 0), field)
        where = f"{batch.place}:{number}"
        if tally.not_utf8:
            return DataError(f"{where} is not UTF-8: {CURE}")
        if tally.damaged:
            return DataError(f"{where} is no JSON object ({_reason(line)}): {CURE}")
        if tally.lacking:
            if field in tally.fields:
                return DataError(f"{where}: its {field!r} is no text: {CURE}")
            return DataError(
                f"{where} has no text in {field!r} but {', '.join(tally.fields)}: name another field, {CURE}"
            )
    raise AssertionError("a batch with faults has one")


def _reason(line: bytes) -> str:
    try:
        return f"it holds a {type(json.loads(line)).__name__}"
    except (ValueError, RecursionError) as error:
        return str(error)
