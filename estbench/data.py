"""Where test data comes from: an offline copy, or the Hugging Face Hub by way of one.

    ref = DatasetRef("cambridgeltl/xcopa", "et")
    found = load(ref, ["test"], data=Path("copies"))   # found.splits["test"] is a list of rows
    row_hash(found.splits["test"][0])

A copy is a folder `<owner>__<name>/<config>/<split>.jsonl`, with a `MANIFEST.sha256` beside the data sets, as
`sha256sum` writes it. Looked up in this order: `data=DIR`, `$ESTBENCH_DATA`, `home()/data`, the Hub. What the Hub gives
is first written to `home()/data`, so that both ways are read by the same code and give the same row hashes. Which data
is meant stands in `tasks/data.lock` (see `estbench.lock`): the first pull writes it, later ones must match it.
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.errors import DataError
from estbench.home import home
from estbench.hub import Fetched, Row, fetch
from estbench.identity import canonical, digest
from estbench.lock import Entry, differences, lock_to_write, read_lock, write_entry
from estbench.runs import atomic

if TYPE_CHECKING:
    from estbench.registry import Task

MANIFEST = "MANIFEST.sha256"
RENEW = "copy the file again, or fetch it with `estbench data pull`."


@dataclass(frozen=True)
class DatasetRef:
    """A data set by its Hub id and config; `revision` only where a task names one."""

    path: str
    config: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        for part in [*self.path.split("/"), self.config or "default"]:
            _checked_name(part, f"data set {self.path}:{self.config or 'default'}")
        if self.path.count("/") > 1:
            raise DataError(f"{self.path!r} is no Hub id: write owner/name.")

    def __str__(self) -> str:
        return f"{self.path}:{self.config or 'default'}"

    @property
    def folder(self) -> str:
        """Its folder inside an offline copy."""
        return f"{self.path.replace('/', '__')}/{self.config or 'default'}"


@dataclass(frozen=True)
class Dataset:
    """Rows that were read, and what is known about them."""

    ref: DatasetRef
    splits: dict[str, list[Row]]
    hashes: dict[str, str]  # split -> hash of its rows in order
    origin: str  # the folder of the copy
    commit: str | None  # the Hub's commit, known only when the rows are the locked ones
    matches_lock: bool | None  # None: the lock has no entry yet

    @property
    def hash(self) -> str:
        """One hash over all splits that were read."""
        return digest(self.hashes)


@dataclass(frozen=True)
class Finding:
    """A line of `estbench data verify`. level: ok, note (can't be checked) or error."""

    dataset: str
    place: str
    split: str
    level: str
    message: str


@dataclass(frozen=True)
class Listed:
    """A line of `estbench data list`."""

    path: str
    config: str
    place: str | None  # the first copy found, None: only on the Hub
    rows: dict[str, int]
    commit: str | None
    locked: bool


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


def references(tasks: Iterable[Task]) -> list[DatasetRef]:
    """The data sets of these tasks, each once, in order."""
    refs = []
    for task in tasks:
        if task.dataset is not None:
            revision = (task.config.get("dataset_kwargs") or {}).get("revision")
            refs.append(DatasetRef(*task.dataset, revision))
    return list(dict.fromkeys(refs))


def load(ref: DatasetRef, splits: Sequence[str], *, data: Path | None = None) -> Dataset:
    """The rows of these splits from the first copy that has them all; pulled from the Hub if there is none.

    Raises DataError (one line with the cure) for missing, damaged, gated or changed data.
    """
    place = _first_place(ref, splits, data)
    if place is None:
        _check_splits(ref, splits)
        pull(ref)
        _check_splits(ref, splits)
        place = home() / "data"
    return _read_copy(ref, splits, place)


def _check_splits(ref: DatasetRef, splits: Sequence[str]) -> None:
    entry = read_lock().get(str(ref))
    if entry is not None and (lacking := [split for split in splits if split not in entry["rows"]]):
        have = ", ".join(entry["rows"])
        raise DataError(f"{ref} has no split {', '.join(lacking)} on the Hub, but {have}: correct the task file.")


def missing(ref: DatasetRef, splits: Sequence[str], data: Path | None = None) -> str | None:
    """Why no copy of these splits is here, or None if there is one. Looks at names only."""
    if _first_place(ref, splits, data) is not None:
        return None
    where = ", ".join(str(place) for place in places(data))
    return f"{ref} ({', '.join(splits)}) has no copy in {where}"


def places(data: Path | None = None) -> list[Path]:
    """The folders that offline copies are looked up in, in order. DataError if a named one is no folder."""
    named = [("data=", data)] if data is not None else []
    if from_environment := os.environ.get("ESTBENCH_DATA"):
        named.append(("$ESTBENCH_DATA ", Path(from_environment)))
    found = []
    for label, place in named:
        place = place.expanduser()
        if not place.is_dir():
            raise DataError(f"{label}{place} is no folder: name one that holds <owner>__<name>/<config>/<split>.jsonl.")
        found.append(place)
    return list(dict.fromkeys([*found, home() / "data"]))


def _first_place(ref: DatasetRef, splits: Sequence[str], data: Path | None) -> Path | None:
    files = [f"{ref.folder}/{_checked_name(split, str(ref))}.jsonl" for split in splits]
    return next((place for place in places(data) if all((place / file).is_file() for file in files)), None)


def _read_copy(ref: DatasetRef, splits: Sequence[str], place: Path) -> Dataset:
    manifest = read_manifest(place)
    rows = {}
    for split in splits:
        path = place / ref.folder / f"{split}.jsonl"
        check_sum(path, manifest.get(f"{ref.folder}/{split}.jsonl"))
        rows[split] = read_rows(path)
    hashes = {split: rows_hash(rows[split]) for split in splits}
    entry = read_lock().get(str(ref))
    matches = None if entry is None else all(entry["hash"].get(split) == hashes[split] for split in splits)
    commit = entry["commit"] if entry is not None and matches else None
    if ref.revision and commit and re.fullmatch("[0-9a-f]{40}", ref.revision) and ref.revision != commit:
        raise DataError(f"{ref}: the task asks for revision {ref.revision}, the copy in {place} is commit {commit}.")
    return Dataset(ref, rows, hashes, str(place), commit, matches)


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file, all with the same fields. A byte order mark, CRLF and empty lines are let pass."""
    rows: list[Row] = []
    try:
        with open(path, "rb") as lines:  # binary: only \n ends a line, U+2028 inside a text does not
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n\t ")
                if text:
                    rows.append(_parsed(text, rows[0] if rows else None, f"{path}, line {number}"))
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number} is not UTF-8: {RENEW}") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None
    if not rows:
        raise DataError(f"{path} is empty: {RENEW}")
    return rows


def _parsed(text: str, first: Row | None, where: str) -> Row:
    try:
        row = json.loads(text, object_pairs_hook=_without_repeats)
        canonical(row)  # refuses NaN, numbers beyond float64 and broken surrogates
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is cut off or no JSON ({error.msg}): {RENEW}") from None
    except ValueError as error:
        raise DataError(f"{where} can't be used ({error}): {RENEW}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} holds no JSON object: {RENEW}")
    if first is not None and row.keys() != first.keys():
        odd = ", ".join(sorted(row.keys() ^ first.keys()))
        raise DataError(f"{where} has other fields than the first row ({odd}): {RENEW}")
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
    if expected is None:
        return
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None
    if found != expected:
        raise DataError(f"{path} does not have the checksum that {MANIFEST} gives: {RENEW}")


def _checked_name(name: str, what: str) -> str:
    """A name that becomes a folder or file: nothing that leads out of the copy."""
    if not re.fullmatch(r"[\w+=,@()\[\] -][\w.+=,@()\[\] -]*", name) or ".." in name:
        raise DataError(f"{name!r} in {what} is not a name of a data set, config or split.")
    return name


def _entry(fetched: Fetched) -> Entry:
    splits = fetched.splits
    return {
        "commit": fetched.commit,
        "fields": {split: sorted(rows[0]) for split, rows in splits.items()},
        "rows": {split: len(rows) for split, rows in splits.items()},
        "hash": {split: rows_hash(rows) for split, rows in splits.items()},
    }


def pull(ref: DatasetRef, *, update: bool = False, into: Path | None = None) -> Dataset:
    """Fetch all splits from the Hub into an offline copy (`home()/data` by default) and write or check the lock.

    update: accept data that differs from the lock, and write the lock anew. Nothing is written if anything fails.
    """
    place = into or home() / "data"
    locked = read_lock().get(str(ref))
    pinned = None if update or locked is None else str(locked["commit"])
    fetched = fetch(ref.path, ref.config, ref.revision or pinned)
    if not fetched.splits:
        raise DataError(f"{ref} has no splits on the Hub (commit {fetched.commit}); nothing was written.")
    for split, rows in fetched.splits.items():
        _checked_name(split, str(ref))
        if not rows:
            raise DataError(f"{ref}: split {split} on the Hub (commit {fetched.commit}) is empty; nothing was written.")
    entry = _entry(fetched)
    if locked is not None and not update and (changes := differences(locked, entry)):
        raise DataError(
            f"{ref} at the Hub's commit {fetched.commit} is not the data of the lock (commit {locked['commit']}): "
            f"{'; '.join(changes)}. Nothing was written; `estbench data pull … update=true` takes the new data."
        )
    lock = lock_to_write(str(ref), entry)
    try:
        with _alone(place):
            _write_copy(ref, fetched, place)
            if entry != locked:
                write_entry(lock, str(ref), entry)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{ref} can't be written to {place}: {reason}. Give room and rights there, or set ESTBENCH_HOME."
        ) from None
    return Dataset(ref, fetched.splits, entry["hash"], str(place), fetched.commit, True)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One pull at a time writes manifest and lock."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".pull", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_copy(ref: DatasetRef, fetched: Fetched, place: Path) -> None:
    """The folder of a config appears whole; the manifest is written last."""
    target = place / ref.folder
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=".pull-"))
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        sums = {}
        for split, rows in fetched.splits.items():
            content = "".join(f"{canonical_json(row)}\n" for row in rows).encode()
            sums[f"{ref.folder}/{split}.jsonl"] = hashlib.sha256(content).hexdigest()
            with open(new / f"{split}.jsonl", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        others = {file: value for file, value in read_manifest(place).items() if not file.startswith(f"{ref.folder}/")}
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


def listing(refs: Iterable[DatasetRef], data: Path | None = None) -> list[Listed]:
    """Where each data set is found, and what the lock says about it. Counts lines, checks nothing."""
    lock = read_lock()
    rows = []
    for ref in refs:
        place = next((place for place in places(data) if any((place / ref.folder).glob("*.jsonl"))), None)
        files = sorted((place / ref.folder).glob("*.jsonl")) if place else []
        counts = {file.stem: sum(1 for line in file.read_bytes().split(b"\n") if line.strip()) for file in files}
        entry = lock.get(str(ref))
        where = str(place) if place else None
        commit = entry["commit"] if entry else None
        rows.append(Listed(ref.path, ref.config or "default", where, counts, commit, entry is not None))
    return rows


def verify(refs: Iterable[DatasetRef], data: Path | None = None) -> list[Finding]:
    """Every copy of these data sets, read whole and compared with its manifest and with the lock."""
    lock = read_lock()
    findings = []
    for ref in refs:
        copies = [place for place in places(data) if (place / ref.folder).is_dir()]
        if not copies:
            findings.append(Finding(str(ref), "", "", "note", "no copy here"))
        for place in copies:
            findings += _verify_copy(ref, place, lock.get(str(ref)))
    return findings


def _verify_copy(ref: DatasetRef, place: Path, locked: Entry | None) -> list[Finding]:
    findings = []

    def say(split: str, level: str, message: str) -> None:
        findings.append(Finding(str(ref), str(place), split, level, message))

    try:
        manifest = read_manifest(place)
    except DataError as error:
        say("", "error", str(error))
        return findings
    present = {path.stem for path in (place / ref.folder).glob("*.jsonl")}
    listed = {Path(file).stem for file in manifest if file.startswith(f"{ref.folder}/") and file.endswith(".jsonl")}
    for split in sorted(present | listed):
        path = place / ref.folder / f"{split}.jsonl"
        try:
            check_sum(path, manifest.get(f"{ref.folder}/{split}.jsonl"))
            found = _entry(Fetched("", {split: read_rows(path)}))
        except DataError as error:
            say(split, "error", str(error))
            continue
        if locked is not None and (changes := differences(locked, found, [split])):
            say(split, "error", f"not the data of the lock (commit {locked['commit']}): {'; '.join(changes)}")
        else:
            unlisted = [name for name, known in ((MANIFEST, split in listed), ("data.lock", locked)) if not known]
            message = f"{found['rows'][split]} rows" + (f", not in {' and '.join(unlisted)}" if unlisted else "")
            say(split, "note" if unlisted else "ok", message)
    return findings
