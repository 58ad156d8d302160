"""Locks between the processes of the tests (`pytest -n 2`): what one of them makes, the others wait for."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One process of this user at a time, the others wait."""
    with open(Path(tempfile.gettempdir()) / f"estbench-tests-{os.getuid()}-{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
