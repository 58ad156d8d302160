"""What made a result: content hashes of files, and the keys that are built from them.

Three keys (all hex strings of SHA-256):

- *response* key = weights + tokenizer + engine and dtype + token ids + decoding: what may be reused;
- *sample* key = its responses + the data row + the scorer;
- *result* key = all samples + the plan: what a board compares.

A file's hash is cached by (path, device, inode, size, mtime_ns, ctime_ns). ctime can't be set by a program, so that
`cp -p` and rsync are seen too. An entry is only written when the file was at least 2 s old at the time of hashing:
a younger file could change again within the clock's resolution and keep its times.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from estbench.home import home

YOUNGEST = 2.0  # seconds
CHUNK = 1 << 22  # bytes
PACKAGE = Path(__file__).resolve().parent

Stat = tuple[int, int, int, int, int]


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def stat_of(path: Path) -> Stat:
    """What changes when a file does: (device, inode, size, mtime_ns, ctime_ns)."""
    seen = path.stat()
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


class FileHashes:
    """Content hashes of files, remembered between processes in `home()/fingerprints.jsonl`."""

    def __init__(self, store: Path | None = None) -> None:
        self.store = store or home() / "fingerprints.jsonl"
        self.known: dict[tuple[str, Stat], str] = {}
        for line in self.store.read_text("utf-8").splitlines() if self.store.exists() else []:
            try:
                path, stat, value = json.loads(line)
                self.known[path, tuple(stat)] = value
            except (ValueError, TypeError):
                continue  # the torn last line of a killed process

    def of(self, paths: Iterable[Path]) -> dict[Path, tuple[str, Stat]]:
        """Hash and stat of each file. Large files are read in parallel (hashing releases the interpreter lock)."""
        files = list(paths)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            return dict(zip(files, pool.map(self._one, files), strict=True))

    def note(self, path: Path, value: str) -> None:
        """Remember the hash of a file that this process has written, and hashed meanwhile."""
        self._remember(str(path.resolve()), stat_of(path), value)

    def moved(self, before: Path, after: Path) -> None:
        """Know the files of a folder that was renamed by their new names, too."""
        for path in after.iterdir():
            stat = stat_of(path)
            if value := self.known.get((str(before.resolve() / path.name), stat)):
                self._remember(str(path.resolve()), stat, value)

    def _one(self, path: Path) -> tuple[str, Stat]:
        key = str(path.resolve())
        before = stat_of(path)
        if value := self.known.get((key, before)):
            return value, before
        begun = time.time()
        with open(path, "rb") as file:
            hasher = hashlib.sha256()
            while block := file.read(CHUNK):
                hasher.update(block)
        value = hasher.hexdigest()
        if stat_of(path) != before:  # written to while it was read
            return self._one(path)
        if begun - max(before[3], before[4]) / 1e9 >= YOUNGEST:
            self._remember(key, before, value)
        return value, before

    def _remember(self, path: str, stat: Stat, value: str) -> None:
        self.known[path, stat] = value
        try:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            with open(self.store, "a", encoding="utf-8") as file:
                file.write(json.dumps([path, stat, value]) + "\n")
        except OSError:
            return  # a cache that can't be written only costs time


def response_key(fingerprint: str, request: bytes) -> str:
    """Key of a response: the model's and engine's fingerprint, and everything that is asked (see `plan.Request`)."""
    return hashlib.sha256(bytes.fromhex(fingerprint) + request).hexdigest()[:32]


def sample_key(responses: list[str], row: str, scorer: str) -> str:
    """Key of a sample: response keys in order, hash of the data row, hash of the scorer."""
    return digest([responses, row, scorer])[:32]


def plan_key(task: str, form: str, truncated: bool, docs: Iterable[tuple[str, str]]) -> str:
    """Key of a task's plan from (row hash, hash of what is asked) in document order: the same for all models."""
    return digest([task, form, truncated, [list(doc) for doc in docs]])


def result_key(plan: str, samples: Iterable[str]) -> str:
    """Key of a result: the plan and every sample."""
    return digest([plan, list(samples)])


def source_hash(functions: Iterable[Callable[..., Any]]) -> str:
    """Hash of the source of the modules that define these functions, and of the estbench modules that those import."""
    files: dict[Path, str] = {}
    waiting = [Path(function.__code__.co_filename) for function in functions if hasattr(function, "__code__")]
    while waiting:
        path = waiting.pop().resolve()
        if path in files or not path.exists():
            continue
        files[path], imported = _source(path)
        waiting += [found for module in imported if (found := _module_file(module))]
        if not _is_ours(path):  # a task's code may import what lies beside it and below
            waiting += sorted(path.parent.rglob("*.py"))
    others = [path for path in files if not _is_ours(path)]
    root = os.path.commonpath([path.parent for path in others]) if others else ""
    names = {path: os.path.relpath(path, PACKAGE if _is_ours(path) else root) for path in files}
    return digest(sorted([_is_ours(path), names[path], value] for path, value in files.items()))


def _is_ours(path: Path) -> bool:
    """Whether a file is part of the package's code (and not of the task files that come with it)."""
    return path.is_relative_to(PACKAGE) and not path.is_relative_to(PACKAGE / "_files")


@functools.lru_cache(maxsize=1024)
def _source(path: Path) -> tuple[str, frozenset[str]]:
    """Hash of a module's text, and the estbench modules it imports."""
    text = path.read_text("utf-8")
    return hashlib.sha256(text.encode()).hexdigest(), frozenset(estbench_imports(text))


def estbench_imports(source: str) -> set[str]:
    """The estbench modules that a module's text imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name == "estbench" or name.startswith("estbench.")}


@functools.lru_cache(maxsize=1024)
def _module_file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None
