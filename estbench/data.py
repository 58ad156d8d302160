"""Where test data comes from: an offline copy, or the Hugging Face Hub or GitHub by way of one.

    ref = DatasetRef("cambridgeltl/xcopa", "et")
    found = load(ref, ["test"], data=Path("copies"))   # found.splits["test"] is a list of rows
    of_task(card, data=Path("samples"))                # all that a task reads, from the samples that come with estbench

A copy is a folder `<owner>__<name>/<config>/<split>.jsonl`, or `<owner>__<name>/` with a GitHub repository's own files,
with a `MANIFEST.sha256` beside the data sets. Looked up in this order: `data=DIR`, `$ESTBENCH_DATA`, `home()/data`,
`tasks/own` (data sets made for estbench), the network. What is fetched is first written to `home()/data`, so that both
ways are read by the same code and give the same row hashes. Which data is meant stands in `tasks/data.lock` (see
`estbench.lock`): the first pull writes it, later ones must match it. `data=samples` reads `tasks/samples` and nothing
else: a few rows of our own in each data set's form, for trying things out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import golds
from estbench.copies import (
    Row,
    alone,
    as_lines,
    check_sum,
    checked_name,
    file_hash,
    read_manifest,
    read_rows,
    write_folder,
)
from estbench.copies import row_hash as row_hash
from estbench.copies import rows_hash as rows_hash
from estbench.errors import ConfigError, DataError
from estbench.home import home, project_file
from estbench.hub import Fetched, fetch
from estbench.identity import digest
from estbench.lock import Entry, differences, lock_to_write, merged, read_lock, write_entry
from estbench.repositories import Repository, fetch_files

if TYPE_CHECKING:
    from estbench.registry import Task

SAMPLES = Path("samples")  # `data=samples`
FEW = 8  # configs that are named one by one


@dataclass(frozen=True)
class DatasetRef:
    """A data set by its Hub id and config, or by its GitHub repository; `revision` only where a task names one."""

    path: str
    config: str | None = None
    revision: str | None = None
    repository: Repository | None = None

    def __post_init__(self) -> None:
        for part in [*self.path.split("/"), self.config or "default"]:
            checked_name(part, f"data set {self.path}:{self.config or 'default'}")
        if self.path.count("/") > 1:
            raise DataError(f"{self.path!r} is no Hub id: write owner/name.")

    @classmethod
    def of_repository(cls, repository: Repository) -> DatasetRef:
        """The data set that a GitHub repository is."""
        return cls(repository.github, None, repository.commit, repository)

    def __str__(self) -> str:
        return f"github.com/{self.path}" if self.repository else f"{self.path}:{self.config or 'default'}"

    @property
    def folder(self) -> str:
        """Its folder inside an offline copy."""
        owner_name = self.path.replace("/", "__")
        return owner_name if self.repository else f"{owner_name}/{self.config or 'default'}"

    def files(self, split: str) -> list[str]:
        """The files of a copy that hold a split, relative to the folder."""
        if self.repository:
            return list(self.repository.of_split(split))
        return [f"{checked_name(split, str(self))}.jsonl"]


@dataclass(frozen=True)
class Dataset:
    """Rows that were read, and what is known about them."""

    ref: DatasetRef
    splits: dict[str, list[Row]]
    hashes: dict[str, str]  # split -> hash of its rows in order, as published: without golds that are withheld
    origin: str  # the folder of the copy
    commit: str | None  # the Hub's or GitHub's commit, known only when the rows are the locked ones
    matches_lock: bool | None  # None: the lock has no entry yet, or the rows are a sample
    sample: bool = False  # our own few rows: for trying only
    withheld: bool = False  # golds are missing (gold=FILE supplies them): the task can't be scored
    gold_hash: str | None = None  # of all golds in order, where a file supplied them

    @property
    def hash(self) -> str:
        """One hash over all splits that were read."""
        return digest(self.hashes)


@dataclass(frozen=True)
class Listed:
    """A line of `estbench data list`."""

    path: str
    config: str  # "GitHub" for the files of a repository
    place: str | None  # the first copy found
    rows: dict[str, int]
    commit: str | None
    locked: bool


def references(tasks: Iterable[Task]) -> list[DatasetRef]:
    """The data sets of these tasks, each once, in order (one for each config of a task that joins several)."""
    return list(dict.fromkeys(ref for task in tasks for ref in _of_card(task)))


def _of_card(task: Task) -> list[DatasetRef]:
    if (spec := task.metadata.get("repository")) is not None:
        return [DatasetRef.of_repository(Repository.of(spec, task.path.name))]
    if task.dataset is None:
        return []
    path, config = task.dataset
    revision = (task.config.get("dataset_kwargs") or {}).get("revision")
    names: list[str | None] = [*task.configs] or [config]
    return [DatasetRef(path, name, revision) for name in names]


def of_task(card: Task, *, data: Path | None = None, gold: Path | None = None) -> Dataset:
    """Everything that a task reads, its configs one after the other, golds from a file where they are withheld.

    Raises DataError (one line with the cure) for missing, damaged, gated or changed data and for a gold file that does
    not fit; ConfigError for a task file that names no data.
    """
    if not (refs := _of_card(card)):
        raise ConfigError(f"{card.path} names no data: set dataset_path.")
    parts = [load(ref, card.splits, data=data) for ref in refs]
    found = _joined_parts(card, parts) if card.configs else parts[0]
    spec = card.metadata.get("gold")
    if spec is None:
        return found
    tested = card.splits[0]
    rows = golds.apply_gold(found.splits[tested], spec, gold)
    withheld = golds.lacks_gold(rows, spec)
    supplied = None if withheld or gold is None else golds.gold_hash(rows, spec)
    return replace(found, splits=found.splits | {tested: rows}, withheld=withheld, gold_hash=supplied)


def _joined_parts(card: Task, parts: Sequence[Dataset]) -> Dataset:
    path = parts[0].ref.path
    splits = joined(path, {config: part.splits for config, part in zip(card.configs, parts, strict=True)})
    commits = {part.commit for part in parts}
    locked = [part.matches_lock for part in parts]
    return Dataset(
        DatasetRef(path, "+".join(card.configs) if len(card.configs) <= FEW else f"{len(card.configs)} configs"),
        splits,
        {split: rows_hash(rows) for split, rows in splits.items()},
        ", ".join(dict.fromkeys(part.origin for part in parts)),
        commits.pop() if len(commits) == 1 else None,
        None if None in locked else all(locked),
        any(part.sample for part in parts),
    )


def joined(path: str, configs: Mapping[str, Mapping[str, list[Row]]]) -> dict[str, list[Row]]:
    """Split -> rows of all configs in order, each with a field `config`. DataError where their fields differ."""
    first = next(iter(configs.values()))
    rows = {
        split: [row | {"config": config} for config, splits in configs.items() for row in splits.get(split, [])]
        for split in first
    }
    for split, members in rows.items():
        if odd := next((row for row in members if row.keys() != members[0].keys()), None):
            names = ", ".join(sorted(odd.keys() ^ members[0].keys()))
            raise DataError(f"{path}: config {odd['config']} has other fields in {split} than the first one ({names}).")
    return rows


def load(ref: DatasetRef, splits: Sequence[str], *, data: Path | None = None) -> Dataset:
    """The rows of these splits from the first copy that has them all; fetched if there is none (never a sample).

    Raises DataError (one line with the cure) for missing, damaged, gated or changed data.
    """
    place = _first_place(ref, splits, data)
    if place is None and is_sample(data):
        raise DataError(f"{missing(ref, splits, data)}.")
    if place is None:
        _check_splits(ref, splits)
        pull(ref)
        _check_splits(ref, splits)
        place = home() / "data"
    found = _read_copy(ref, splits, place)
    return replace(found, sample=True, commit=None, matches_lock=None) if is_sample(data) else found


def _check_splits(ref: DatasetRef, splits: Sequence[str]) -> None:
    entry = read_lock().get(str(ref)) or {}
    if "rows" in entry and (lacking := [split for split in splits if split not in entry["rows"]]):
        have = ", ".join(entry["rows"])
        raise DataError(f"{ref} has no split {', '.join(lacking)} on the Hub, but {have}: correct the task file.")


def missing(ref: DatasetRef, splits: Sequence[str], data: Path | None = None) -> str | None:
    """Why no copy of these splits is here, or None if there is one. Looks at names only."""
    if _first_place(ref, splits, data) is not None:
        return None
    if is_sample(data):
        return f"{ref} ({', '.join(splits)}) has no sample: leave data=samples out to test on the real data"
    where = ", ".join(str(place) for place in places(data))
    return f"{ref} ({', '.join(splits)}) has no copy in {where}"


def missing_of_task(card: Task, data: Path | None = None) -> str | None:
    """Why something that a task reads has no copy here, or None. Looks at names only."""
    reasons = (missing(ref, card.splits, data) for ref in _of_card(card))
    return next((reason for reason in reasons if reason is not None), None)


def pull_missing(card: Task, data: Path | None = None) -> None:
    """Fetch whatever a task reads and has no copy of here. DataError if it can't be had, or samples were asked for."""
    for ref in _of_card(card):
        if (reason := missing(ref, card.splits, data)) is not None:
            if is_sample(data):
                raise DataError(f"{reason}.")
            pull(ref)


def is_sample(data: Path | None) -> bool:
    """Whether `data=` asks for the samples that come with estbench."""
    return data == SAMPLES


def places(data: Path | None = None) -> list[Path]:
    """The folders that offline copies are looked up in, in order. DataError if a named one is no folder."""
    if is_sample(data):
        return [project_file("tasks") / "samples"]
    named = [("data=", data)] if data is not None else []
    if from_environment := os.environ.get("ESTBENCH_DATA"):
        named.append(("$ESTBENCH_DATA ", Path(from_environment)))
    found = []
    for label, place in named:
        place = place.expanduser()
        if not place.is_dir():
            raise DataError(f"{label}{place} is no folder: name one that holds <owner>__<name>/<config>/<split>.jsonl.")
        found.append(place)
    return list(dict.fromkeys([*found, home() / "data", own_place()]))


def own_place() -> Path:
    """The folder of data sets that were made for estbench and travel with it."""
    return project_file("tasks") / "own"


def is_own(ref: DatasetRef) -> bool:
    """Whether a data set was made for estbench: there is nothing to fetch then."""
    return (own_place() / ref.folder).is_dir()


def _first_place(ref: DatasetRef, splits: Sequence[str], data: Path | None) -> Path | None:
    files = [f"{ref.folder}/{file}" for split in splits for file in ref.files(split)]
    return next((place for place in places(data) if all((place / file).is_file() for file in files)), None)


def _read_copy(ref: DatasetRef, splits: Sequence[str], place: Path) -> Dataset:
    rows = {split: read_split(ref, split, place) for split in splits}
    hashes = {split: rows_hash(rows[split]) for split in splits}
    entry = read_lock().get(str(ref))
    matches = None if entry is None else not differences(entry, entry_of_copy(ref, rows, place), splits)
    commit = entry["commit"] if entry is not None and matches else None
    if ref.revision and commit and re.fullmatch("[0-9a-f]{40}", ref.revision) and ref.revision != commit:
        raise DataError(f"{ref}: the task asks for revision {ref.revision}, the copy in {place} is commit {commit}.")
    return Dataset(ref, rows, hashes, str(place), commit, matches)


def read_split(ref: DatasetRef, split: str, place: Path) -> list[Row]:
    """The rows of a split in a copy, its files compared with the manifest. DataError for what can't be used."""
    manifest = read_manifest(place)
    files = ref.files(split)
    for file in files:
        check_sum(place / ref.folder / file, manifest.get(f"{ref.folder}/{file}"))
    if ref.repository is None:
        return read_rows(place / ref.folder / files[0])
    try:
        return ref.repository.rows({file: (place / ref.folder / file).read_bytes() for file in files})
    except OSError as error:
        raise DataError(f"{error.filename} can't be read: {error.strerror}.") from None


def entry_of_copy(ref: DatasetRef, rows: Mapping[str, list[Row]], place: Path) -> Entry:
    """What the lock would say of these splits of a copy (the commit is not known from it)."""
    if ref.repository is None:
        return _entry(Fetched("", dict(rows)))
    files = dict.fromkeys(file for split in rows for file in ref.files(split))
    return {"commit": "", "files": {file: file_hash(place / ref.folder / file) for file in files}}


def _entry(fetched: Fetched) -> Entry:
    splits = fetched.splits
    return {
        "commit": fetched.commit,
        "fields": {split: sorted(rows[0]) for split, rows in splits.items()},
        "rows": {split: len(rows) for split, rows in splits.items()},
        "hash": {split: rows_hash(rows) for split, rows in splits.items()},
    }


@dataclass(frozen=True)
class Answer:
    """What the network gave for a data set, before anything is written."""

    splits: dict[str, list[Row]]
    files: dict[str, bytes]  # as the copy will hold them, by name in the data set's folder
    entry: Entry


def ask(ref: DatasetRef, *, newest: bool = False) -> Answer:
    """Fetch a data set at the lock's commit (newest: at the Hub's newest) and compare it with the lock's.

    Writes nothing. Raises DataError where it can't be had, can't be kept or differs from the lock.
    """
    locked = read_lock().get(str(ref))
    found = _ask_github(ref.repository) if ref.repository else _ask_hub(ref, None if newest else locked)
    if locked is not None and not newest and (changes := differences(locked, found.entry)):
        where = "GitHub's" if ref.repository else "the Hub's"
        raise DataError(
            f"{ref} at {where} commit {found.entry['commit']} is not the data of the lock (commit {locked['commit']}): "
            f"{'; '.join(changes)}. Nothing was written; `estbench data pull … update=true` takes the new data."
        )
    return found


def _ask_github(repository: Repository) -> Answer:
    contents = fetch_files(repository)
    splits = {split: repository.rows({path: contents[path] for path in paths}) for split, paths in repository.files}
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    return Answer(splits, contents, {"commit": repository.commit, "files": sums})


def _ask_hub(ref: DatasetRef, locked: Entry | None) -> Answer:
    fetched = fetch(ref.path, ref.config, ref.revision or (locked["commit"] if locked else None))
    if locked is None and fetched.name and fetched.name.lower() != ref.path.lower():
        raise DataError(
            f"{ref} (commit {fetched.commit}) is called {fetched.name} on the Hub now; nothing was written: put that "
            "name into the task file if it is the same data, or name a copy with data=DIR."
        )
    if not fetched.splits:
        raise DataError(f"{ref} has no splits on the Hub (commit {fetched.commit}); nothing was written.")
    for split, rows in fetched.splits.items():
        checked_name(split, str(ref))
        if not rows:
            raise DataError(
                f"{ref}: split {split} on the Hub (commit {fetched.commit}) is empty; nothing was written: take "
                "another revision, or name a copy with data=DIR."
            )
    files = {f"{split}.jsonl": as_lines(rows) for split, rows in fetched.splits.items()}
    return Answer(fetched.splits, files, _entry(fetched))


def pull(ref: DatasetRef, *, update: bool = False, into: Path | None = None) -> Dataset:
    """Fetch all splits into an offline copy (`home()/data` by default) and write or check the lock.

    update: accept data that differs from the lock, and write the lock anew. Nothing is written if anything fails.
    """
    if is_sample(into):
        raise ConfigError("data=samples means the samples that come with estbench: nothing is fetched into them.")
    place = into or home() / "data"
    found = ask(ref, newest=update)
    locked = read_lock().get(str(ref))
    entry = merged(locked, found.entry)
    lock = lock_to_write(str(ref), entry)
    try:
        with alone(place):
            write_folder(place, ref.folder, found.files, keep=ref.repository is not None)
            if entry != locked:
                write_entry(lock, str(ref), entry)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{ref} can't be written to {place}: {reason}. Give room and rights there, or set ESTBENCH_HOME."
        ) from None
    hashes = {split: rows_hash(rows) for split, rows in found.splits.items()}
    return Dataset(ref, found.splits, hashes, str(place), entry["commit"], True)


def listing(refs: Iterable[DatasetRef], data: Path | None = None) -> list[Listed]:
    """Where each data set is found, and what the lock says about it. Counts rows, checks nothing."""
    lock = read_lock()
    rows = []
    for ref in refs:
        place = next((place for place in places(data) if present_splits(ref, place)), None)
        counts = _counts(ref, place) if place else {}
        entry = lock.get(str(ref))
        where = str(place) if place else None
        commit = entry["commit"] if entry else None
        config = "GitHub" if ref.repository else ref.config or "default"
        rows.append(Listed(ref.path, config, where, counts, commit, entry is not None))
    return rows


def present_splits(ref: DatasetRef, place: Path) -> list[str]:
    """The splits that a copy has, by the names of its files."""
    folder = place / ref.folder
    if ref.repository is None:
        return sorted(path.stem for path in folder.glob("*.jsonl"))
    return [split for split, paths in ref.repository.files if all((folder / path).is_file() for path in paths)]


def _counts(ref: DatasetRef, place: Path) -> dict[str, Any]:
    splits = present_splits(ref, place)
    if ref.repository is None:
        contents = {split: (place / ref.folder / f"{split}.jsonl").read_bytes() for split in splits}
        return {split: sum(1 for line in content.split(b"\n") if line.strip()) for split, content in contents.items()}
    return {split: len(read_split(ref, split, place)) for split in splits}
