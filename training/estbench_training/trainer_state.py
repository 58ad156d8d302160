"""What a training on transformers' Trainer leaves on the way, and what it needs to be exported.

mark_whole(folder / "checkpoint-200")          # in the callback that comes after a checkpoint was written
last_whole(folder, clean=True)                 # the newest that a kill has not torn
in_dtype(state, torch.bfloat16)                # weights for the export, tied ones still tied
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estbench.runs import write_json

WHOLE = "whole.json"


def mark_whole(folder: Path) -> None:
    """Write down, last, what a checkpoint's files are, so that one that was torn by a kill is known."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}
    write_json(folder / WHOLE, sizes)


def last_whole(folder: Path, *, clean: bool) -> Path | None:
    """The newest checkpoint that is whole; clean: others that are not are removed."""
    kept = []
    for path in folder.glob("checkpoint-*"):
        try:
            sizes = json.loads((path / WHOLE).read_text("utf-8"))
            whole = all((path / name).stat().st_size == size for name, size in sizes.items())
        except (OSError, ValueError):
            whole = False
        if whole:
            kept.append(path)
        elif clean:
            shutil.rmtree(path, ignore_errors=True)
    return max(kept, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WHOLE)


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
