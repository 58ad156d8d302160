"""`estbench data verify`: copies against their checksums and the lock; with remote=true what the Hub has now.

for finding in verify(references(cards)):
    print(finding.level, finding.dataset, finding.message)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from estbench import data
from estbench.copies import MANIFEST, read_manifest, write_folder
from estbench.data import DatasetRef
from estbench.errors import DataError, EstbenchError
from estbench.lock import Entry, differences, read_lock

if TYPE_CHECKING:
    from estbench.registry import Task


@dataclass(frozen=True)
class Finding:
    """A line of `estbench data verify`. level: ok, note (can't be checked) or error."""

    dataset: str
    place: str
    split: str
    level: str
    message: str


def verify(refs: Iterable[DatasetRef], folder: Path | None = None) -> list[Finding]:
    """Every copy of these data sets, read whole and compared with its manifest and with the lock."""
    lock = read_lock()
    findings = []
    for ref in refs:
        copies = [place for place in data.places(folder) if (place / ref.folder).is_dir()]
        if not copies:
            findings.append(Finding(str(ref), "", "", "note", "no copy here"))
        for place in copies:
            findings += _verify_copy(ref, place, None if data.is_sample(folder) else lock.get(str(ref)))
    return findings


def _verify_copy(ref: DatasetRef, place: Path, locked: Entry | None) -> list[Finding]:
    findings = []

    def say(split: str, level: str, message: str) -> None:
        findings.append(Finding(str(ref), str(place), split, level, message))

    try:
        listed = set(read_manifest(place))
    except DataError as error:
        say("", "error", str(error))
        return findings
    ours = place in (data.own_place(), *data.places(data.SAMPLES))
    for split in _splits(ref, place, listed):
        files = [f"{ref.folder}/{file}" for file in ref.files(split)]
        if not any(file in listed or (place / file).is_file() for file in files):
            say(split, "note", "not in this copy: `estbench data pull` fetches it")
            continue
        try:
            rows = data.read_split(ref, split, place)
            changes = differences(locked, data.entry_of_copy(ref, {split: rows}, place), [split]) if locked else []
        except DataError as error:
            say(split, "error", str(error))
            continue
        if locked and changes:
            say(split, "error", f"not the data of the lock (commit {locked['commit']}): {'; '.join(changes)}")
            continue
        in_manifest = all(file in listed for file in files)
        unlisted = [name for name, known in ((MANIFEST, in_manifest), ("data.lock", locked)) if not known]
        if ours:
            say(split, "ok", f"{len(rows)} rows, comes with estbench")
        else:
            message = f"{len(rows)} rows" + (f", not in {' and '.join(unlisted)}" if unlisted else "")
            say(split, "note" if unlisted else "ok", message)
    return findings


def _splits(ref: DatasetRef, place: Path, listed: set[str]) -> list[str]:
    """The splits that are there or should be, by the manifest."""
    if ref.repository:
        return [split for split, _ in ref.repository.files]
    files = {file.removeprefix(f"{ref.folder}/") for file in listed if file.startswith(f"{ref.folder}/")}
    return sorted({*data.present_splits(ref, place), *(Path(file).stem for file in files if file.endswith(".jsonl"))})


def verify_remote(cards: Sequence[Task]) -> list[Finding]:
    """What the Hub and GitHub have at the lock's commits (where the lock has none: now), and every task of it rendered.

    Each data set is fetched into a temporary folder, compared with the lock, and each task is checked on the whole of
    it; no model is needed, and nothing stays.
    """
    findings = []
    with tempfile.TemporaryDirectory(prefix="estbench-verify-") as name:
        place = Path(name)
        unusable: set[DatasetRef] = set()
        for ref in data.references(cards):
            if data.is_own(ref):
                continue
            finding = _fetch_remote(ref, place)
            findings.append(finding)
            if finding.level == "error":
                unusable.add(ref)
        for card in cards:
            refs = data.references([card])
            if refs and not unusable & set(refs):
                findings += _check_card(card, refs, place)
    return findings


def _fetch_remote(ref: DatasetRef, place: Path) -> Finding:
    try:
        found = data.ask(ref)
        write_folder(place, ref.folder, found.files, keep=ref.repository is not None)
    except EstbenchError as error:
        return Finding(str(ref), "remote", "", "error", str(error))
    commit = found.entry["commit"]
    rows = ", ".join(f"{split} {len(rows):,}" for split, rows in found.splits.items())
    if read_lock().get(str(ref)) is None:
        return Finding(str(ref), "remote", "", "note", f"{rows} of commit {commit}, not in data.lock")
    return Finding(str(ref), "remote", "", "ok", f"{rows} of commit {commit}")


def _check_card(card: Task, refs: Sequence[DatasetRef], place: Path) -> list[Finding]:
    """One line a task that renders, one for each problem of a task that does not."""
    from estbench.task_checks import check_task

    where = ", ".join(map(str, refs))
    try:
        problems = [str(problem) for problem in check_task(card, place)]
    except EstbenchError as error:
        problems = [str(error)]
    if not problems:
        return [Finding(where, "remote", card.name, "ok", "renders")]
    return [Finding(where, "remote", card.name, "error", problem) for problem in problems]
