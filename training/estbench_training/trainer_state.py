"""What a training on transformers' Trainer leaves on the way, and what it needs to be exported.

mark_whole(folder / "checkpoint-200", key)     # in the callback that comes after a checkpoint was written
last_whole(folder, key, clean=True)            # the newest that a kill has not torn
in_dtype(state, torch.bfloat16)                # weights for the export, tied ones still tied
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estbench.errors import StoreError
from estbench.runs import write_json

WHOLE = "whole.json"


def mark_whole(folder: Path, key: str) -> None:
    """Write down, last, whose a checkpoint is and what its files are, so that one that was torn by a kill is known."""
    write_json(folder / WHOLE, {"key": key, "files": _sizes(folder)})


def last_whole(folder: Path, key: str, *, clean: bool) -> Path | None:
    """The newest checkpoint that is whole; clean: others that are not are removed. StoreError for one that is another
    training's, or a link to elsewhere: the trainer would load what lies there."""
    kept = []
    for path in folder.glob("checkpoint-*"):
        if any(inner.is_symlink() for inner in (folder, path, *_inside(path))):
            raise StoreError(f"{path} is a link to elsewhere: a stage goes on from its own states only. Remove it.")
        facts = _facts(path)
        if facts is not None and facts.get("key") != key:
            raise StoreError(
                f"{path} is the state of another training: a stage goes on from its own states only. Remove it."
            )
        if facts is not None and facts.get("files") == _sizes(path):
            kept.append(path)
        elif clean:
            shutil.rmtree(path, ignore_errors=True)
    return max(kept, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _facts(folder: Path) -> dict[str, Any] | None:
    """What mark_whole wrote; None where it didn't come to that."""
    try:
        facts = json.loads((folder / WHOLE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def _inside(folder: Path) -> list[Path]:
    """All that lies in a folder; one that another process is removing is no error."""
    return [Path(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files)]


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a checkpoint."""
    files = [path for path in _inside(folder) if path.is_file() and path.name != WHOLE]
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(files)}


def in_dtype(state: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Weights in another dtype; tensors that share memory (tied embeddings) go on sharing it."""
    made: dict[int, Any] = {}
    for value in state.values():
        if value.data_ptr() not in made:
            made[value.data_ptr()] = value.to(dtype) if value.is_floating_point() else value
    return {name: made[value.data_ptr()] for name, value in state.items()}


def is_sharded(model: Any) -> bool:
    """Whether parameters are shared out over processes: what calls itself FSDP may be DDP."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
