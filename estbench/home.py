"""Where estbench keeps things: `$ESTBENCH_HOME`, or `~/.estbench`.

responses/   what models answered, by fingerprint      runs/    run folders
models/      demo models                               data/    offline copies of data sets
estbench.db  the index of runs                         fingerprints.jsonl
training/    stages of recipes, unless output_dir= is given    reference/  log-probabilities of DPO's reference
"""

from __future__ import annotations

import os
from pathlib import Path

from estbench.errors import StoreError


def home() -> Path:
    """The folder that holds everything estbench writes (not created here)."""
    return Path(os.environ.get("ESTBENCH_HOME") or "~/.estbench").expanduser().absolute()


def check_home() -> None:
    """StoreError if the home can't be written (a missing one is fine: it is made later)."""
    path = home()
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        what = "is no folder" if path.exists() and not path.is_dir() else "can't be written"
        raise StoreError(f"{path} {what}: set ESTBENCH_HOME to a folder that can be written.")


def project_file(name: str) -> Path:
    """A file or folder that travels with the package: beside it in a checkout, inside it in a wheel."""
    package = Path(__file__).parent
    inside = package / "_files" / name
    return inside if inside.exists() else package.parent / name
