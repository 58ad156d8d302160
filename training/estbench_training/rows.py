"""Rows of conversations and of pairs, read and checked: what is wrong is named by file and line.

    for row in read_rows(path): row.messages, row.source, row.where      # what SFT learns from
    for pair in read_pairs(path): pair["prompt"], pair["chosen"]          # what DPO learns from
    for raw in read_raw(path): raw["text"]                                # rows as they are

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}], "source": "…", "id": "…"}
    {"prompt": [messages], "chosen": [message], "rejected": [message], "source": "…"}

A path is a JSONL file (.gz and .zst, too), a Parquet file, or the folder of a stage that made rows.jsonl, whose
SHA-256 has to be that of its manifest.json. Further keys are let pass. A conversation is an optional system message,
then user and assistant in turn.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from estbench import identity
from estbench.errors import DataError

ROWS, MANIFEST = "rows.jsonl", "manifest.json"  # what a stage that makes rows leaves
ROLES = ("system", "user", "assistant")
BATCH = 256  # rows of Parquet that are read at once


@dataclass(frozen=True)
class Row:
    """A conversation to learn from. where: its file and line, for complaints."""

    messages: tuple[dict[str, str], ...]
    source: str
    id: str
    where: str


def rows_file(path: Path) -> Path:
    """The file of a path that may be a stage's folder; DataError if it is not the file that the stage made."""
    if path.is_dir():
        manifest_of(path)
        return path / ROWS
    return path


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a stage that made rows; DataError where it is none, or where rows.jsonl is not the file that it
    tells the SHA-256 of. A file that was read before and has not been touched since is not read again."""
    manifest, file = folder / MANIFEST, folder / ROWS
    try:
        row = json.loads(manifest.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{manifest} can't be read ({reason}): run its stage again, or name a file of rows.") from None
    expected = row.get("sha256") if isinstance(row, dict) else None
    if not isinstance(expected, str):
        raise DataError(f"{manifest} lacks the sha256 of {ROWS}: run its stage again.")
    with read_errors(file):
        found, _ = identity.FileHashes().of([file])[file]
    if found != expected:
        raise DataError(f"{file} changed since it was made (sha256): copy it again, or run its stage again.")
    return dict(row)


def read_raw(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file as they are."""
    for _, row in numbered(rows_file(path)):
        yield row


def read_rows(path: Path) -> Iterator[Row]:
    """The conversations of a file, in order; DataError, with file and line, for a row that is none."""
    file = rows_file(path)
    for number, row in numbered(file):
        where = f"{file}:{number}"
        yield Row(tuple(messages_of(row, "messages", where)), _text(row, "source", file.stem), _text(row, "id"), where)


def read_pairs(path: Path) -> Iterator[dict[str, Any]]:
    """The pairs of a file, in order, with `where` beside their keys; DataError, with file and line, for a row that is
    none: prompt ends with the user, chosen and rejected are what the assistant says then, and not the same."""
    file = rows_file(path)
    for number, row in numbered(file):
        where = f"{file}:{number}"
        made = {
            name: messages_of(row, name, where, alone=name != "prompt") for name in ("prompt", "chosen", "rejected")
        }
        for name in ("chosen", "rejected"):
            check_conversation([*made["prompt"], *made[name]], where)
            if made[name][0]["role"] != "assistant":
                raise DataError(f"{where}: {name} has to begin with the assistant, behind the prompt's last words.")
        yield {**row, **made, "source": _text(row, "source", file.stem), "id": _text(row, "id"), "where": where}


def messages_of(row: Mapping[str, Any], name: str, where: str, *, alone: bool = False) -> list[dict[str, str]]:
    """The messages in a field, with role and content only. alone: it is a part of a conversation."""
    found = row.get(name)
    if found is None:
        raise DataError(f"{where} lacks {name!r}; it has {keys_of(row)}.")
    if not isinstance(found, list) or not found:
        raise DataError(f"{where}: {name!r} has to be a list of messages.")
    made = [_message(message, f"{where}, {name}[{place}]") for place, message in enumerate(found)]
    if not alone:
        check_conversation(made, where)
    return made


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
        raise DataError(f"{where} has to be a message: {{role, content}}, and the content a text.")
    role, content = message.get("role"), message["content"]
    if role not in ROLES:
        raise DataError(f"{where}: the role {role!r} is not one of {', '.join(ROLES)}.")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where} holds half of a character (a lone surrogate): write it again as UTF-8.") from None
    return {"role": str(role), "content": content}


def check_conversation(messages: Sequence[Mapping[str, str]], where: str) -> None:
    """DataError unless it is an optional system message, then user and assistant in turn."""
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    for place, message in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if message["role"] != expected:
            raise DataError(
                f"{where}: message {place + 1 + len(messages) - len(turns)} is the {message['role']}'s, where the "
                f"{expected}'s was due (an optional system message, then user and assistant in turn)."
            )
    if not turns:
        raise DataError(f"{where} has no message of the user.")


def keys_of(row: Mapping[str, Any]) -> str:
    """A row's keys, for a complaint: as Python writes them, since they may hold what moves a terminal's cursor."""
    return ", ".join(map(repr, row)) or "nothing"


def _text(row: Mapping[str, Any], name: str, default: str = "") -> str:
    value = row.get(name)
    return default if value is None else str(value)


def numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row from 1, row) of a file."""
    with read_errors(path):
        yield from _of_parquet(path) if path.suffix.lower() == ".parquet" else _of_jsonl(path)


def _of_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with lines_of(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number} is no JSON ({error}).") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number} is no JSON object.")
            yield number, row


def _of_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no whole Parquet file ({' '.join(str(error).split())}): make it anew.") from None


def lines_of(path: Path) -> IO[str]:
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    if ending == ".zst":
        import pyarrow

        return io.TextIOWrapper(pyarrow.input_stream(str(path), compression="zstd"), encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}): convert it.") from None
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} can't be read to its end ({reason}): make it anew.") from None


def batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Rows in lists of `size`; the last one may be shorter."""
    held: list[Any] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
