"""The files of an offline copy: rows as JSON lines, their hashes, the manifest, and how a copy is written.

rows = read_rows(place / "facebook__belebele/est_Latn/test.jsonl")
rows_hash(rows)                                # the same for the Hub's rows and for any copy of them
read_manifest(place)                           # file -> SHA-256, from MANIFEST.sha256 as `sha256sum` writes it
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from estbench.errors import DataError
from estbench.identity import canonical
from estbench.runs import atomic

MANIFEST = "MANIFEST.sha256"
RENEW = "copy the file again, or fetch it with `estbench data pull`."

Row = dict[str, Any]


def canonical_json(row: Row) -> str:
    """The one JSON text of a row: sorted keys, no spaces, text as it is. ValueError for NaN and infinities."""
    return canonical(row).decode()


def row_hash(row: Row) -> str:
    """SHA-256 (hex) of a row's canonical JSON."""
    return hashlib.sha256(canonical(row)).hexdigest()


def rows_hash(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) over the row hashes in order."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(bytes.fromhex(row_hash(row)))
    return hasher.hexdigest()


def checked_name(name: str, what: str) -> str:
    """A name that becomes a folder or file: nothing that leads out of the copy."""
    if not re.fullmatch(r"[\w+=,@()\[\] -][\w.+=,@()\[\] -]*", name) or ".." in name:
        raise DataError(f"{name!r} in {what} is not a name of a data set, config or split.")
    return name


def read_rows(path: Path, cure: str = RENEW) -> list[Row]:
    """The rows of a JSON-lines file, all with the same fields. A byte order mark, CRLF and empty lines are let pass."""
    rows: list[Row] = []
    try:
        with open(path, "rb") as lines:  # binary: only \n ends a line, U+2028 inside a text does not
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n\t ")
                if text:
                    rows.append(_parsed(text, rows[0] if rows else None, f"{path}, line {number}", cure))
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number} is not UTF-8: {cure}") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None
    if not rows:
        raise DataError(f"{path} is empty: {cure}")
    return rows


def _parsed(text: str, first: Row | None, where: str, cure: str) -> Row:
    try:
        row = json.loads(text, object_pairs_hook=_without_repeats)
        canonical(row)  # refuses NaN, numbers beyond float64 and broken surrogates
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is cut off or no JSON ({error.msg}): {cure}") from None
    except ValueError as error:
        raise DataError(f"{where} can't be used ({error}): {cure}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} holds no JSON object: {cure}")
    if first is not None and row.keys() != first.keys():
        odd = ", ".join(sorted(row.keys() ^ first.keys()))
        raise DataError(f"{where} has other fields than the first row ({odd}): {cure}")
    return row


def _without_repeats(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands there twice")
    return row


def read_manifest(place: Path) -> dict[str, str]:
    """File (relative, with /) -> SHA-256, from `place/MANIFEST.sha256`; empty if there is none."""
    path = place / MANIFEST
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}.") from None
    sums = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.rstrip())
        if match is None:
            raise DataError(f"{path}, line {number} is no line of sha256sum: write the file again with `sha256sum`.")
        sums[match[2].removeprefix("./")] = match[1].lower()
    return sums


def check_sum(path: Path, expected: str | None) -> None:
    """DataError if the file's SHA-256 is not the expected one (None: the manifest does not list it)."""
    if expected is not None and file_hash(path) != expected:
        raise DataError(f"{path} does not have the checksum that {MANIFEST} gives: {RENEW}")


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file. DataError if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None


def as_lines(rows: Iterable[Row]) -> bytes:
    """Rows as the content of a JSON-lines file."""
    return "".join(f"{canonical_json(row)}\n" for row in rows).encode()


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """One pull at a time writes manifest and lock."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".pull", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_folder(place: Path, folder: str, files: Mapping[str, bytes], *, keep: bool = False) -> None:
    """Put files (name inside `folder` -> content) into a copy: the folder appears whole, the manifest is written last.

    keep: files that the folder has besides stay there.
    """
    target = place / folder
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=".pull-"))
    try:
        new, old = temporary / "new", temporary / "old"
        if keep and target.exists():
            shutil.copytree(target, new)
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sums = {f"{folder}/{name}": hashlib.sha256(content).hexdigest() for name, content in files.items()}
        others = {name: value for name, value in read_manifest(place).items() if keep or not _within(name, folder)}
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with atomic(place / MANIFEST) as manifest:
        manifest.write_text("".join(f"{value}  {file}\n" for file, value in sorted((others | sums).items())), "utf-8")


def _within(file: str, folder: str) -> bool:
    return file.startswith(f"{folder}/")
