"""Data sets that are published as files of a GitHub repository, at a commit.

A task file names them in its metadata, and a reader makes rows of their texts:

    repository: {github: owner/name, commit: <40 hex digits>, reader: unimorph, files: {test: [est.tsv]}}

An offline copy keeps the repository's own files: `<owner>__<name>/<path>`. Everything else is as with the Hub's data
sets (see `estbench.data`): checksums, the lock, `estbench data`.
"""

from __future__ import annotations

import importlib
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from estbench.copies import Row, checked_name
from estbench.errors import ConfigError, DataError, did_you_mean
from estbench.hub import CARRY, COPY, TIMEOUT, switched_off

READERS = {  # name -> module and function: texts by path, in the order of the task file -> rows
    "estgec_l1": "estbench.metrics.m2:estgec_l1_rows",
    "estgec_l2": "estbench.metrics.m2:estgec_l2_rows",
    "unimorph": "estbench.metrics.morphology:unimorph_rows",
}
MOST_BYTES = 64 * 2**20  # of a file
MOST_SECONDS = 600.0  # for a file
CHUNK = 2**18


@dataclass(frozen=True)
class Repository:
    """A data set in a GitHub repository: which files hold which split, and what reads them."""

    github: str
    commit: str
    reader: str
    files: tuple[tuple[str, tuple[str, ...]], ...]  # (split, paths)

    @classmethod
    def of(cls, spec: Any, where: str) -> Repository:
        """From `metadata.repository` of a task file (`where`). ConfigError for anything that does not fit."""
        if not isinstance(spec, Mapping) or set(spec) != {"github", "commit", "reader", "files"}:
            raise ConfigError(f"{where}: metadata.repository has to have github, commit, reader and files.")
        if not re.fullmatch(r"[\w-]+/[\w.-]+", str(spec["github"])):
            raise ConfigError(f"{where}: {spec['github']!r} is no GitHub repository: write owner/name.")
        if not re.fullmatch("[0-9a-f]{40}", str(spec["commit"])):
            raise ConfigError(f"{where}: {spec['commit']!r} is no commit: write its 40 hex digits.")
        if spec["reader"] not in READERS:
            hint = did_you_mean(str(spec["reader"]), READERS)
            raise ConfigError(f"{where}: there is no reader {spec['reader']!r}.{hint} There are {', '.join(READERS)}.")
        files = spec["files"]
        if not isinstance(files, Mapping) or not files or not all(isinstance(p, list) and p for p in files.values()):
            raise ConfigError(f"{where}: files of metadata.repository has to name a list of paths for each split.")
        for part in [part for paths in files.values() for path in paths for part in str(path).split("/")]:
            checked_name(part, where)
        pairs = tuple((str(split), tuple(map(str, paths))) for split, paths in files.items())
        return cls(str(spec["github"]), str(spec["commit"]), str(spec["reader"]), pairs)

    @property
    def paths(self) -> list[str]:
        """All files, each once."""
        return list(dict.fromkeys(path for _, paths in self.files for path in paths))

    def of_split(self, split: str) -> tuple[str, ...]:
        """The files of a split. DataError if the task file names none."""
        if split not in (files := dict(self.files)):
            raise DataError(f"{self.github} has files for {', '.join(files)}, none for {split}: correct the task file.")
        return files[split]

    def rows(self, contents: Mapping[str, bytes]) -> list[Row]:
        """What the reader makes of the files of a split (path -> content). DataError if it can't."""
        module, _, name = READERS[self.reader].partition(":")
        read: Callable[[Mapping[str, str]], list[Row]] = getattr(importlib.import_module(module), name)
        try:
            rows = read({path: content.decode("utf-8") for path, content in contents.items()})
        except UnicodeDecodeError as error:
            raise DataError(f"A file of {self} is not UTF-8 ({error.reason}): fetch it again.") from None
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{self} can't be read by {self.reader} ({error}): fetch its files again.") from None
        if not rows:
            raise DataError(f"{self}: {self.reader} found no rows in {', '.join(contents)}: fetch the files again.")
        return rows

    def __str__(self) -> str:
        return f"{self.github} (commit {self.commit})"


def fetch_files(repository: Repository) -> dict[str, bytes]:
    """All files of a repository's data set, path -> content. DataError of one line for anything that goes wrong.

    `$ESTBENCH_GITHUB` names another server that has the same files under `/owner/name/commit/path`.
    """
    if switched_off():
        raise DataError(f"{repository} can't be fetched, the network is switched off (HF_HUB_OFFLINE): {CARRY}")
    base = os.environ.get("ESTBENCH_GITHUB") or "https://raw.githubusercontent.com"
    if not base.startswith(("https://", "http://")):
        raise ConfigError(f"ESTBENCH_GITHUB={base} is no address: it starts with https://.")
    found = {}
    for path in repository.paths:
        address = f"{base.rstrip('/')}/{repository.github}/{repository.commit}/{urllib.parse.quote(path)}"
        try:
            found[path] = _content(address)
        except (OSError, HTTPException, ValueError) as error:
            raise DataError(f"{repository}: {_fault(path, error)}") from None
    return found


def _content(address: str) -> bytes:
    """What an address gives. ValueError if it is too large, too slow or cut off."""
    begun = time.monotonic()
    parts: list[bytes] = []
    size = 0
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
        while part := answer.read1(CHUNK):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
            if time.monotonic() - begun > MOST_SECONDS:
                raise TimeoutError
        expected = answer.headers.get("Content-Length")
    if expected is not None and size != int(expected):
        raise ValueError(f"the download broke off after {size:,} of {int(expected):,} bytes")
    return b"".join(parts)


def _fault(path: str, error: Exception) -> str:
    """What went wrong with a file, and the cure."""
    reason = getattr(error, "reason", None)
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (401, 403, 404, 410):
            return f"GitHub does not give {path} (HTTP {error.code}): renamed, removed or private; {COPY}"
        return f"GitHub has a fault at {path} (HTTP {error.code}): try again later, or {COPY}"
    if isinstance(error, TimeoutError) or isinstance(reason, TimeoutError):
        return f"GitHub did not answer in time for {path}: try again, or {COPY}"
    if isinstance(error, OSError):
        return f"GitHub can't be reached for {path}: {CARRY}"
    return f"{path} could not be fetched ({' '.join(str(error).split()) or type(error).__name__}): try again, or {COPY}"


def repository_rows(repository: Any, **_: Any) -> dict[str, Any]:
    """A task file's `custom_dataset`: split -> datasets.Dataset of the rows, so that plain lm-eval reads the same."""
    import datasets

    from estbench import data

    parsed = Repository.of(repository, "the task file")
    found = data.load(data.DatasetRef.of_repository(parsed), [split for split, _ in parsed.files])
    return {split: datasets.Dataset.from_list(rows) for split, rows in found.splits.items()}


def configs_rows(path: str, configs: list[str], **_: Any) -> dict[str, Any]:
    """A task file's `custom_dataset`: all configs of a Hub data set one after the other, with a field `config`."""
    import datasets

    from estbench.data import joined
    from estbench.hub import fetch

    found = joined(path, {config: fetch(path, config, None).splits for config in configs})
    return {split: datasets.Dataset.from_list(rows) for split, rows in found.items()}
