"""Files and folders that are there whole or not at all, also after a power cut.

write_synced(path, text)
write_json_synced(path, row)
with appearing(place) as folder:     # gets its name at the end
    …
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from estbench.errors import StoreError


@contextlib.contextmanager
def appearing(place: Path) -> Iterator[Path]:
    """A folder to write into that gets its name at the end; StoreError where there is no room."""
    temporary = place.with_name(f".{place.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        appear(temporary, place)
    except OSError as error:
        raise StoreError(
            f"{place} can't be written ({error.strerror or error}): make room; the same command goes on from there."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_synced(path: Path, text: str) -> None:
    """Write a file through to the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json_synced(path: Path, row: object) -> None:
    """Write a JSON document through to the disk, as transformers lays its files out."""
    write_synced(path, json.dumps(row, indent=2, ensure_ascii=False) + "\n")


def appear(temporary: Path, place: Path) -> None:
    """Give a folder its name when all of it is on the disk; what was there is replaced."""
    for path in (*temporary.rglob("*"), temporary):
        _sync(path)
    if place.exists():
        shutil.rmtree(place)
    os.rename(temporary, place)
    _sync(place.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
