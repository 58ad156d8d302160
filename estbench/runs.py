"""A run is a folder that explains itself: one model on one plan.

    RUN/manifest.json             who, what, when: identity keys, versions, the command (written last)
    RUN/scores.json               a list of Score
    RUN/plan/TASK.jsonl.gz        a line a document: rendered prompt, token ids, target, cluster
    RUN/responses/TASK.jsonl.gz   a line a request: its key and what the engine answered
    RUN/samples/TASK.jsonl.gz     a line a document: Sample

The database is an index of such folders and can be rebuilt from them at will.
"""

from __future__ import annotations

import dataclasses
import glob
import gzip
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estbench.errors import ConfigError, StoreError
from estbench.home import home

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Score:
    """A metric over a task, with the evidence for it."""

    task: str
    metric: str
    value: float | None  # None: missing, see reason
    ci_low: float | None  # 95 % interval
    ci_high: float | None
    n: int  # documents that the value is made of
    n_planned: int  # documents that the plan has
    chance: float | None  # what guessing gives, in the same unit
    parse_failures: int  # answers in which no answer could be found; they count as wrong
    errors: int  # documents without a response; missing data, not part of n
    unit: str  # "proportion" (0 to 1), "points" (0 to 100) or "bits"
    higher_is_better: bool
    primary: bool
    method: str = ""  # how the interval was made
    signature: str | None = None  # sacreBLEU's, or what else fixes the metric
    reason: str | None = None  # why the value is missing


@dataclass(frozen=True, slots=True)
class Sample:
    """One document of a task with its answer and its scores."""

    task: str
    doc_id: int  # position in the split
    doc_hash: str  # hash of the data row; "-2" and so on is appended to repeated rows
    prompt_hash: str
    cluster: str | None  # documents that share a passage share this
    target: Any
    answer: Any  # the chosen option's index, or the text after the task's filters
    values: dict[str, Any]  # metric -> number, or a list (sufficient statistics of a corpus metric)
    key: str  # identity: responses + data row + scorer
    parse_failure: bool = False
    error: str | None = None  # why there is no response; values is empty then


@dataclass(frozen=True, slots=True)
class PlannedDoc:
    """A rendered document, as `plan/TASK.jsonl.gz` holds it."""

    doc_id: int
    doc_hash: str
    prompt: str
    prompt_hash: str
    target: Any
    cluster: str | None
    asked: str = ""  # hash of what is asked, before the model's template and tokenizer
    choices: list[str] = field(default_factory=list)  # the texts whose log-likelihood is asked
    requests: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """A run folder, read."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self.manifest: dict[str, Any] = json.loads((self.path / "manifest.json").read_text("utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"{path} is no run folder: it has no manifest.json (an unfinished run has none yet)."
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}/manifest.json can't be read: {error}.") from None
        needed = {"schema", "run", "tasks", "identity", "model", "slice"}
        if not isinstance(self.manifest, dict) or not needed <= self.manifest.keys():
            raise StoreError(f"{path}/manifest.json is no run's manifest: it lacks {', '.join(sorted(needed))}.")
        if self.manifest["schema"] > SCHEMA:
            newer = f"schema {self.manifest['schema']}, this one reads {SCHEMA}"
            raise StoreError(f"{path} was written by a newer estbench ({newer}): update estbench.")

    @property
    def id(self) -> str:
        return str(self.manifest["run"])

    @property
    def tasks(self) -> list[str]:
        """Task names in the plan's order."""
        return list(self.manifest["tasks"])

    @property
    def unanswered(self) -> int:
        """Documents without a response: missing data, which the same command asks for again."""
        return int((self.manifest.get("unanswered") or {}).get("documents", 0))

    def scores(self) -> list[Score]:
        rows = json.loads((self.path / "scores.json").read_text("utf-8"))
        return [Score(**row) for row in rows]

    def samples(self, task: str) -> Iterator[Sample]:
        for row in read_lines(self.path / "samples" / f"{file_name(task)}.jsonl.gz"):
            yield Sample(**row)

    def plan(self, task: str) -> Iterator[PlannedDoc]:
        for row in read_lines(self.path / "plan" / f"{file_name(task)}.jsonl.gz"):
            yield PlannedDoc(**row)

    def responses(self, task: str) -> Iterator[dict[str, Any]]:
        """`{doc_id, index, key, ...}`: the engine's answers, request by request."""
        yield from read_lines(self.path / "responses" / f"{file_name(task)}.jsonl.gz")


def find_run(name: str) -> Path:
    """The folder of a run, by path, id, or the first letters of its id; ConfigError if that is none or several."""
    if (Path(name) / "manifest.json").exists():
        return Path(name)
    if "/" in name or not name.strip("."):
        raise ConfigError(f"{name!r} is no run folder: it has no manifest.json. `estbench runs` lists the runs.")
    found = sorted(path.parent for path in (home() / "runs").glob(f"{glob.escape(name)}*/manifest.json"))
    if len(found) > 1 and (home() / "runs" / name) not in found:
        raise ConfigError(f"{name!r} means more than one run: {', '.join(path.name for path in found[:5])}.")
    if not found:
        raise ConfigError(f"There is no run {name!r}: `estbench runs` lists them.")
    return home() / "runs" / name if (home() / "runs" / name) in found else found[0]


def superseded(run: Run) -> list[Run]:
    """The runs in the home that this one completes: the same evaluation with more documents unanswered."""
    same = ("response", "plan", "series")
    found = []
    for manifest in sorted((home() / "runs").glob(f"{glob.escape(run.id.rpartition('-')[0])}-*/manifest.json")):
        try:
            other = Run(manifest.parent)
        except StoreError:
            continue
        alike = all(other.manifest["identity"].get(key) == run.manifest["identity"].get(key) for key in same)
        if alike and other.manifest["slice"] == run.manifest["slice"] and other.unanswered > run.unanswered:
            found.append(other)
    return found


def file_name(task: str) -> str:
    """A task's name as a file name (`lm_eval/NAME` has a slash)."""
    return task.replace("/", "~")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a gzipped JSON-lines file."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise StoreError(
            f"{path} can't be read: {error}. Run the same `estbench eval` again to write it anew."
        ) from None


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write records (dataclasses or dicts) as gzipped JSON lines, atomically and with equal bytes for equal rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic(path) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=3) as packed,
    ):
        for row in rows:
            record = (
                {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
                if dataclasses.is_dataclass(row)
                else row
            )
            packed.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")


class atomic:
    """`with atomic(path) as temporary`: the file appears under its name whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        self.temporary = Path(name)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        with open(self.temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(self.temporary, 0o666 & ~umask)
        os.replace(self.temporary, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too: without it a power cut can take the file back
        finally:
            os.close(folder)
