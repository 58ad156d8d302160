"""A corpus as a stream of chunks that another process can read: JSONL, plain text or Parquet, packed or not.

Plain text (every ending that is not listed here) is one long text: neighbouring chunks of it overlap, and a find is
placed by its line. A line of JSONL and a row of Parquet is a document.
"""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from estbench.errors import ConfigError, DataError

CHUNK = 1 << 20  # bytes that are read at once
ROWS = 256  # of Parquet
LONGEST_LINE = 1 << 28  # bytes of JSONL; no document of a text corpus is that long
TOO_LONG = b"{"  # stands for a longer line: no JSON, so that it is counted with the damaged ones
PACKED = (".gz", ".zst")
TABULAR = (".jsonl", ".ndjson", ".parquet")
BOM = b"\xef\xbb\xbf"
NOT_UTF8 = object()
TEXTUAL = (".txt", ".text", ".md")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the corpus. kind: jsonl, text or parquet."""

    path: Path
    kind: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file, unread as far as can be."""

    source: int
    kind: str
    line: int  # of its first byte or row, from 1
    content: bytes | list[tuple[Any, Any]]  # rows of Parquet are (text, id)
    size: int  # bytes of the file that it stands for, unpacked


@dataclass(slots=True)
class Document:
    """A text and where it stands. Finds in plain text are so many lines further down."""

    text: str
    line: int
    id: str | None
    lines: bool = False


@dataclass(slots=True)
class Tally:
    """What was read and what could not be."""

    documents: int = 0  # lines of JSONL and rows of Parquet
    pieces: int = 0  # of plain text, as it was read
    bytes: int = 0
    damaged: int = 0  # lines that are no JSON object, or longer than LONGEST_LINE
    not_utf8: int = 0  # lines
    lacking: int = 0  # rows whose field is not there or no text
    fields: list[str] = field(default_factory=list)  # of the first row that lacks it

    def add(self, other: Tally) -> None:
        for name in ("documents", "pieces", "bytes", "damaged", "not_utf8", "lacking"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.fields = self.fields or other.fields


def sources(corpus: str) -> list[Source]:
    """The files that `corpus=` means: a file, a folder (all below it that can be read), or a glob."""
    path = Path(corpus).expanduser()
    if path.is_dir():
        known = TABULAR + TEXTUAL
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and _ending(p) in known]
        if not found:
            raise DataError(f"{path} holds no {', '.join(known)} (.gz, .zst): name the files themselves.")
    elif path.is_file():
        found = [path]
    else:
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not found:
            raise DataError(f"{corpus} is no file, folder or pattern that fits a file.")
    return [Source(path, _kind(path)) for path in found]


def _ending(path: Path) -> str:
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _kind(path: Path) -> str:
    ending = _ending(path)
    if ending == ".parquet" and path.suffix.lower() in PACKED:
        raise DataError(f"{path} is packed Parquet, which can't be read in pieces: unpack it.")
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(ending, "text")


def chunks(found: list[Source], name: str, overlap: int, broken: list[str]) -> Iterator[Chunk]:
    """All chunks in order. name: the field with the text. overlap: bytes that chunks of plain text share.

    A file that can't be read to its end adds a line to `broken`, and the next one is read.
    """
    for number, source in enumerate(found):
        try:
            if source.kind == "parquet":
                yield from _rows(number, source.path, name)
            else:
                yield from _lines(number, source, overlap if source.kind == "text" else 0)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            broken.append(f"{source.path} can't be read to its end ({reason}): make it anew.")
        except DataError as error:
            broken.append(str(error))


def _opened(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix.lower() == ".zst":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")  # type: ignore[no-any-return]
    return open(path, "rb")


def _lines(number: int, source: Source, overlap: int) -> Iterator[Chunk]:
    """Whole lines, about CHUNK bytes at once; plain text without line ends is cut at spaces.

    Of a line of JSONL beyond LONGEST_LINE nothing is kept: TOO_LONG takes its place.
    """
    line, before, fresh, skipping = 1, b"", 0, False
    held: list[bytes] = []
    with _opened(source.path) as stream:
        while data := stream.read(CHUNK):
            fresh += len(data)
            if skipping:
                _, line_end, after = data.partition(b"\n")
                if not line_end:
                    continue
                data, skipping = line_end + after, False
            cut = data.rfind(b"\n") + 1
            if not cut and source.kind == "text" and len(held) > 2:
                cut = data.rfind(b" ") + 1 or len(data)
            if not cut:
                held.append(data)
                if sum(map(len, held)) > LONGEST_LINE:
                    held, skipping = [TOO_LONG], True
                continue
            content = b"".join((before, *held, data[:cut]))
            held = [data[cut:]]
            yield Chunk(number, source.kind, line, content, fresh)
            fresh, before = 0, _tail(content, overlap)
            line += content.count(b"\n") - before.count(b"\n")
    rest = b"".join(held)
    if rest:
        yield Chunk(number, source.kind, line, before + rest, fresh)


def _tail(content: bytes, overlap: int) -> bytes:
    """The last bytes, from a whole UTF-8 character on."""
    start = max(0, len(content) - overlap)
    while start < len(content) and content[start] & 0xC0 == 0x80:
        start += 1
    return content[start:]


def _rows(number: int, path: Path, name: str) -> Iterator[Chunk]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if name not in names:
                raise ConfigError(f"{path} has no column {name!r} but {', '.join(names)}: name one with field=.")
            columns = [name, *(["id"] if "id" in names and name != "id" else [])]
            line = 1
            for batch in file.iter_batches(ROWS, columns=columns):
                texts = batch.column(0).to_pylist()
                ids = batch.column(1).to_pylist() if len(columns) > 1 else [None] * len(texts)
                yield Chunk(number, "parquet", line, list(zip(texts, ids, strict=True)), batch.nbytes)
                line += len(texts)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no whole Parquet file ({' '.join(str(error).split())}): make it anew.") from None


def documents(chunk: Chunk, name: str) -> tuple[list[Document], Tally]:
    """The texts of a chunk; what can't be read is counted."""
    tally = Tally(bytes=chunk.size)
    rows: Iterator[tuple[int, dict[str, Any]]]
    if isinstance(chunk.content, list):
        rows = ((chunk.line + i, {name: text, "id": key}) for i, (text, key) in enumerate(chunk.content))
    elif chunk.kind == "text":
        texts = _text(chunk.content, chunk.line, tally)
        tally.pieces = len(texts)
        return texts, tally
    else:
        rows = _parsed(chunk.content, chunk.line, tally)
    found = [document for line, row in rows if (document := _document(row, line, name, tally))]
    tally.documents = len(found)
    return found, tally


def _parsed(content: bytes, first: int, tally: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of the lines that are JSON objects; read at once if they all are, which is several times faster."""
    lines = content.removeprefix(BOM if first == 1 else b"").split(b"\n")
    filled = [i for i, line in enumerate(lines) if line.strip()]
    rows: list[Any]
    try:
        rows = json.loads(b"[%b]" % b",".join([lines[i] for i in filled]))
    except (ValueError, RecursionError):
        rows = []
    if len(rows) != len(filled):
        rows = [_row(lines[i], tally) for i in filled]
    for i, row in zip(filled, rows, strict=True):
        if isinstance(row, dict):
            yield first + i, row
        elif row is not NOT_UTF8:
            tally.damaged += 1


def _row(line: bytes, tally: Tally) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        tally.not_utf8 += 1
        return NOT_UTF8
    except (ValueError, RecursionError):
        return None


def _document(row: dict[str, Any], line: int, name: str, tally: Tally) -> Document | None:
    text = row.get(name)
    if not isinstance(text, str):
        tally.lacking += 1
        tally.fields = tally.fields or list(map(str, row))[:20]
        return None
    key = row.get("id")
    return Document(text, line, None if key is None else str(key)[:200])


def _text(content: bytes, line: int, tally: Tally) -> list[Document]:
    """A chunk of plain text; lines that are no UTF-8 are left empty."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        kept = []
        for raw in content.split(b"\n"):
            try:
                kept.append(raw.decode("utf-8"))
            except UnicodeDecodeError:
                kept.append("")
                tally.not_utf8 += 1
        text = "\n".join(kept)
    return [Document(text, line, None, lines=True)] if text.strip() else []
