"""The label file: what people voted, one vote a line of JSON.

    append(path, label)                  # on disk when it returns
    labels = read(path)                  # DataError with file and line for anything odd
    votes = human(labels, "content")     # (task, doc, answer, anchor) -> {rater: score of the candidate}

A pairwise vote compares an answer (`answer`) with another one (`anchor`): 1 says that it is better, 0 that the other
one is, 0.5 that they are equal; content and language are two votes. A vote on equivalence (anchor: null) says whether
an answer means the same as the reference: 1 or 0. `content: null` says that the rater could not tell: it is kept and
counted, and is no score. Answers are named by what they say (`items.answer_hash`), so that labels outlive a run. A
vote that was changed stands in the file twice; the later one counts.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from estbench import report
from estbench.errors import ConfigError, DataError, StoreError

Key = tuple[str, str, str, str | None]  # task, doc, answer, anchor
Axis = Literal["content", "language"]

MODES = ("pairwise", "equivalence")
AXES = ("content", "language")
SIDES = ("model", "anchor")
LONGEST_NAME = 80  # characters of a rater's name
LONGEST_NOTE = 4000  # characters
TAIL = 1 << 17  # bytes at the end of a file in which its last line lies
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of a formula


@dataclass(frozen=True, slots=True)
class Label:
    """One rater's vote on one answer."""

    task: str
    doc: str  # hash of the data row
    mode: str  # "pairwise" or "equivalence"
    answer: str  # answer_hash of the candidate
    anchor: str | None  # answer_hash of the other answer; None: equivalence
    name: str  # the model's
    rater: str
    content: float | None  # score of the candidate: 0, 0.5, 1; equivalence: 0, 1. None: could not tell
    language: float | None  # score of the candidate: 0, 0.5, 1. None: not asked, or could not tell
    first: str | None  # who stood first: "model" or "anchor"
    seconds: float  # from when the question was shown to the vote
    at: str  # ISO time with its zone
    note: str = ""

    @property
    def key(self) -> Key:
        """What was voted on."""
        return self.task, self.doc, self.answer, self.anchor

    @property
    def skipped(self) -> bool:
        """Whether the rater could not tell."""
        return self.content is None


NAMES = tuple(field.name for field in fields(Label))


def read(path: Path, say: Callable[[str], None] = report.say) -> list[Label]:
    """The votes of a file, each rater's last one on each pair, in the file's order.

    say: is told of a torn last line and of votes that were changed. DataError: no such file, or a line that is no vote.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise DataError(f"There is no label file {path}: `estbench judge label` makes one.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): give a label file.") from None
    if lines[-1] and _torn(lines[-1]):
        say(f"{path}: line {len(lines)} was not written to its end; that vote is left out.")
        lines.pop()
    found: dict[tuple[Key, str], Label] = {}
    again = 0
    for number, line in enumerate(lines, 1):
        if not line.strip(b" \t\r\xef\xbb\xbf"):
            continue
        try:
            label = _parsed(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}. Correct the line or take it out.") from None
        again += found.pop((label.key, label.rater), None) is not None
        found[label.key, label.rater] = label
    if again:
        votes = "1 vote was" if again == 1 else f"{again} votes were"
        say(f"{path}: {votes} given again by the same rater; the later one counts.")
    return list(found.values())


def append(path: Path, label: Label) -> None:
    """Add a vote; it is on disk when this returns. A torn last line is taken away first.

    DataError: the file is no label file. StoreError: it can't be written.
    """
    line = as_line(label)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        with open(path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _mend(file, path)
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if fresh:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} can't be written ({error.strerror}): the vote is not kept.") from None


def as_line(label: Label) -> bytes:
    """A vote as a line of the file. DataError: `read` would not take it."""
    row = asdict(label)
    if not label.note:
        del row["note"]
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        _parsed(line)
    except ValueError as error:
        raise DataError(f"This vote can't be kept: {error}.") from None
    return line + b"\n"


def human(labels: Iterable[Label], axis: Axis) -> dict[Key, dict[str, float]]:
    """The votes on each pair: (task, doc, answer, anchor) -> {rater: score of the candidate}, raters by name.

    Who could not tell is left out, and a pair on which nobody could.
    """
    if axis not in AXES:
        raise ConfigError(f"{axis!r} is no axis of votes: content or language.")
    found: dict[Key, dict[str, float]] = {}
    for label in sorted(labels, key=lambda label: label.rater):
        score = getattr(label, axis)
        if score is not None:
            found.setdefault(label.key, {})[label.rater] = score
    return found


def as_csv(labels: Iterable[Label]) -> str:
    """The votes as a table for spreadsheets; what those would take for a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(NAMES)
    for label in labels:
        row = ("" if value is None else value for value in asdict(label).values())
        writer.writerow([f"'{value}" if str(value).startswith(FORMULA) else value for value in row])
    return out.getvalue()


def _torn(line: bytes) -> bool:
    """Whether a line without its newline is the beginning of a vote, or the zeros that a crash leaves."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith(b'{"') or line == b"{" or not line.strip(b"\0")
    return False


def _mend(file: BinaryIO | io.FileIO, path: Path) -> None:
    """Let the next line begin on a line of its own."""
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, end - TAIL))
    last = file.read().rpartition(b"\n")[2] if end > start else b""
    if not last:
        return
    if _torn(last):
        file.truncate(end - len(last))
        return
    try:
        _parsed(last)
    except ValueError as error:
        raise DataError(f"{path} does not end with a vote ({error}): give a label file, or a new one.") from None
    file.write(b"\n")


def _sync_folder(folder: Path) -> None:
    """A new file's name is on disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _parsed(line: bytes) -> Label:
    """The vote of a line. ValueError: what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_refused)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    for name in row:
        if name not in NAMES:
            raise ValueError(f"{name!r} is no field of a vote")
    if missing := [name for name in NAMES if name not in row and name != "note"]:
        raise ValueError(f"{missing[0]!r} is missing")
    _check_words(row)
    _check_scores(row)
    return Label(**row)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a field is there twice")
    return row


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _check_words(row: dict[str, Any]) -> None:
    for name in ("task", "doc", "name", "rater"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{name} is not a text")
    if row["mode"] not in MODES:
        raise ValueError(f"mode is neither pairwise nor equivalence but {row['mode']!r}")
    pairwise = row["mode"] == "pairwise"
    for name in ("answer", "anchor") if pairwise else ("answer",):
        if not isinstance(row[name], str) or not re.fullmatch("[0-9a-f]{32}", row[name]):
            raise ValueError(f"{name} is not the hash of an answer (32 hex digits)")
    if not pairwise and (row["anchor"], row["first"], row["language"]) != (None, None, None):
        raise ValueError("a vote on equivalence has no anchor, first or language: those are null")
    if row["first"] is not None and row["first"] not in SIDES:
        raise ValueError(f"first is neither model nor anchor nor null but {row['first']!r}")
    if not isinstance(row.get("note", ""), str) or len(row.get("note", "")) > LONGEST_NOTE:
        raise ValueError(f"note is not a text of at most {LONGEST_NOTE} characters")
    try:
        zoned = datetime.fromisoformat(row["at"]).tzinfo is not None
    except (TypeError, ValueError):
        zoned = False
    if not zoned:
        raise ValueError("at is not an ISO time with its zone, such as 2026-11-21T09:30:00+00:00")


def _check_scores(row: dict[str, Any]) -> None:
    allowed = (0, 0.5, 1) if row["mode"] == "pairwise" else (0, 1)
    for name in AXES:
        score = row[name]
        if score is None:
            continue
        if isinstance(score, bool) or not isinstance(score, int | float) or score not in allowed:
            raise ValueError(f"{name} is none of {', '.join(map(str, allowed))} or null but {score!r}")
        row[name] = float(score)
    if row["content"] is None and row["language"] is not None:
        raise ValueError("content is null where language is not")
    seconds = row["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValueError("seconds is not a number from 0 on")
    row["seconds"] = float(seconds)
