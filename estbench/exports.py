"""A run folder for others: what may not be published is left out, unless the export stays private.

    left_out = export(Run(path), Path("demo.tar.gz"), private=False)

A task's prompts, answers, golds, judgments and scores of single documents leave with it only if its card says
`publish_items`: not where the data is gated, withheld, or under a licence that forbids it. Its scores always do. The
manifest of the export names the tasks without items, and no place on this machine.
"""

from __future__ import annotations

import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from estbench import judged
from estbench.errors import StoreError
from estbench.runs import Run, file_name, write_json

PARTS = ("plan", "responses", "samples")
PATHS = ("model", "tasks", "data", "gold", "include", "trust_task_code")  # settings that name places on this machine


def export(run: Run, target: Path, *, private: bool) -> list[str]:
    """Write the run to a new folder, or to one file that ends in .tar.gz; returns the tasks whose items stay here.

    Raises StoreError if the target exists or can't be written; then nothing is there.
    """
    if target.exists():
        raise StoreError(f"{target} exists already: choose another name.")
    left_out = (
        [] if private else [task for task, card in run.manifest["tasks"].items() if not card.get("publish_items")]
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as temporary:
            folder = Path(temporary) / run.id
            kept_back = _files(run, left_out)
            shutil.copytree(run.path, folder, ignore=lambda path, names: _private(Path(path), names, run, kept_back))
            for part in PARTS:
                (folder / part).mkdir(exist_ok=True)
            if not private:
                lacking = dict.fromkeys([*run.manifest.get("items_left_out", ()), *left_out])
                write_json(folder / "manifest.json", without_places(run.manifest) | {"items_left_out": list(lacking)})
            if target.name.endswith(".tar.gz"):
                packed_file = Path(temporary) / target.name
                with tarfile.open(packed_file, "w:gz") as packed:
                    packed.add(folder, arcname=run.id)
                packed_file.replace(target)
            else:
                folder.replace(target)
    except OSError as error:
        raise StoreError(f"{target} can't be written: {error.strerror}.") from None
    return left_out


def _files(run: Run, tasks: Sequence[str]) -> set[str]:
    """Names of the files with the items of these tasks; of judgments those, too, that nobody knows the task of."""
    items = {f"{file_name(task)}.jsonl.gz" for task in tasks}
    if not tasks:
        return items
    open_ = {f"{one.stem}{end}" for one in judged.layers(run.path) if one.task not in tasks for end in judged.ENDINGS}
    return items | {path.name for path in (run.path / judged.FOLDER).glob("*") if path.name not in open_}


def _private(path: Path, names: list[str], run: Run, kept_back: set[str]) -> list[str]:
    """Names of the files that stay here; beside the known parts anything that holds texts of single documents."""
    if path != run.path:
        return [name for name in names if name in kept_back]
    known = (*PARTS, judged.FOLDER, "manifest.json", "scores.json")
    return [name for name in names if kept_back and name not in known]


def without_places(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without where things lay on this machine: of each path its last part."""
    changed = dict(manifest)
    if path := manifest["model"]["path"]:  # a model behind an endpoint has none
        changed["model"] = manifest["model"] | {"path": Path(path).name}
    changed["tasks"] = {
        task: card | {"data": card["data"] | {"origin": Path(card["data"]["origin"]).name}}
        for task, card in manifest["tasks"].items()
    }
    settings = {key: _last(value) if key in PATHS else value for key, value in manifest["settings"].items()}
    words = [word.partition("=") for word in shlex.split(manifest["command"])]
    shown = (f"{key}{equals}{_last(value) if key in PATHS else value}" for key, equals, value in words)
    return changed | {"settings": settings, "command": shlex.join(shown)}


def _last(value: str) -> str:
    """The last part of each path in a setting; a Hub id stays."""
    return ",".join(Path(part).name if Path(part).is_absolute() else part for part in value.split(","))
