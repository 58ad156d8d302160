"""`tasks/data.lock`: which data is meant, so that two people who type the same command test on the same rows.

    read_lock()["facebook/belebele:est_Latn"]
    # {"commit": "...", "fields": {"test": [...]}, "rows": {"test": 900}, "hash": {"test": "..."}}
    read_lock()["github.com/unimorph/est"]
    # {"commit": "...", "files": {"est.tsv": "<SHA-256>"}}

An entry is null until somebody pulls the data set for the first time. In a checkout the project's lock is written, to
be committed; elsewhere `home()/data.lock` is, and it is read where the project's lock has no entry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from estbench.errors import DataError
from estbench.home import home, project_file
from estbench.runs import atomic

Entry = dict[str, Any]  # {commit, fields: {split: [...]}, rows: {split: n}, hash: {split: ...}} or {commit, files}
KINDS = ({"commit", "fields", "rows", "hash"}, {"commit", "files"})


def lock_files() -> list[Path]:
    """The project's lock, then the one in `home()`, which is read where the project's has no entry."""
    return [project_file("tasks") / "data.lock", home() / "data.lock"]


def read_lock() -> dict[str, Entry]:
    """`path:config` -> entry, of all data sets that were pulled."""
    merged: dict[str, Entry] = {}
    for path in reversed(lock_files()):
        merged |= {key: entry for key, entry in _lock_of(path).items() if entry is not None}
    return merged


def _lock_of(path: Path) -> dict[str, Entry | None]:
    try:
        entries = json.loads(path.read_text("utf-8"))
        if not all(entry is None or any(kind <= entry.keys() for kind in KINDS) for entry in entries.values()):
            raise ValueError("an entry lacks commit, fields, rows or hash")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} can't be read ({error}): restore it from git, or delete it and pull again.") from None
    return dict(entries)


def lock_to_write(key: str, entry: Entry) -> Path:
    """The project's lock in a checkout that can be written to, else home's. DataError if home's would be overruled."""
    project, own = lock_files()
    in_checkout = (project.parent.parent / "pyproject.toml").exists()
    if in_checkout and os.access(project if project.exists() else project.parent, os.W_OK):
        return project
    if _lock_of(project).get(key) not in (None, entry):
        raise DataError(f"{project} pins other data of {key} and can't be written to: update the installed estbench.")
    return own


def write_entry(path: Path, key: str, entry: Entry) -> None:
    """Put one entry into a lock file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = _lock_of(path) | {key: entry}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(entries, ensure_ascii=False, indent=1, sort_keys=True) + "\n", "utf-8")


def differences(locked: Entry, found: Entry, splits: Iterable[str] | None = None) -> list[str]:
    """What differs between two lock entries, a phrase a split (or a file, in a repository)."""
    if "files" in found or "files" in locked:
        return _file_differences(locked, found)
    found_splits = set(found["hash"])
    phrases = []
    for split in sorted(set(locked["hash"]) | found_splits) if splits is None else splits:
        if split not in found_splits or split not in locked["hash"]:
            phrases.append(f"split {split} is {'gone' if split not in found_splits else 'new'}")
            continue
        before, now = set(locked["fields"][split]), set(found["fields"][split])
        changes = [f"field {name} is gone" for name in sorted(before - now)]
        changes += [f"field {name} is new" for name in sorted(now - before)]
        if locked["rows"][split] != found["rows"][split]:
            changes.append(f"{found['rows'][split]} rows instead of {locked['rows'][split]}")
        if not changes and locked["hash"][split] != found["hash"][split]:
            changes.append("rows have other content")
        if changes:
            phrases.append(f"split {split}: {', '.join(changes)}")
    return phrases


def _file_differences(locked: Entry, found: Entry) -> list[str]:
    """What differs between two entries of repositories. Files that only one of them has were not asked for yet."""
    if found["commit"] and found["commit"] != locked["commit"]:
        return [f"the task file asks for commit {found['commit']}"]
    before, now = locked.get("files", {}), found.get("files", {})
    return [f"file {name} has other content" for name in now if name in before and before[name] != now[name]]


def merged(locked: Entry | None, found: Entry) -> Entry:
    """The entry to write: of a repository at the same commit, files that other tasks asked for stay."""
    if locked is None or "files" not in found or locked["commit"] != found["commit"]:
        return found
    return {**found, "files": locked["files"] | found["files"]}
