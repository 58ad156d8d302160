"""`estbench eval` of a checkpoint beside its training: a process of its own, on a GPU of its own.

child = Background(settings, gpu=7, log=folder / "evaluation.log")
child.ended                       # looked at now and then
run, reason = child.result()      # waits for it
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from estbench.errors import ConfigError

if TYPE_CHECKING:
    from estbench.config import EvalSettings

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_", "TORCH_NCCL_")
PATIENCE = 20  # seconds to end in when asked to


class Background:
    """An evaluation that goes on in the background, and ends with this process. What it says is added to `log`."""

    def __init__(self, settings: EvalSettings, gpu: int, log: Path) -> None:
        self._log, self._result = log, log.with_suffix(".json")
        with open(self._log, "ab") as words, open(self._result, "wb") as result:
            self._process = subprocess.Popen(
                command(settings), env=environment(gpu), stdin=subprocess.DEVNULL, stdout=result, stderr=words
            )
        self.close = weakref.finalize(self, _end, self._process)  # also when Python ends

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def result(self) -> tuple[str | None, str]:
        """Wait for it: the id of its run; or None, and why there is none."""
        code = self._process.wait()
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(self._result.read_bytes())["run"]), ""
        last = self._log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        return None, f"exit code {code}, {' '.join(last)[:300] or 'nothing said'} ({self._log})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it has not ended."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def command(settings: EvalSettings) -> list[str]:
    """The command that evaluates a checkpoint, as somebody would type it."""
    words = {"model": settings.model, "tasks": settings.tasks, "name": settings.name, "engine": settings.engine,
             "limit": settings.limit, "data": settings.data}  # fmt: skip
    words |= {f"engine.{key}": value for key, value in settings.engine_options.items()}
    given = [f"{key}={value}" for key, value in words.items() if value is not None]
    return [sys.executable, "-m", "estbench", "eval", *given, "output=json"]


def environment(gpu: int) -> dict[str, str]:
    """The environment of a process that sees one GPU of the machine, and nothing of the training's processes.

    On AMD only ROCR_VISIBLE_DEVICES is set: the HIP_ and CUDA_ variables count within what it leaves.
    """
    import torch

    kept = {key: value for key, value in os.environ.items() if not key.startswith(TORCHRUN)}
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        kept.pop(name, None)
    return kept | {"ROCR_VISIBLE_DEVICES" if torch.version.hip else "CUDA_VISIBLE_DEVICES": str(gpu)}


def check_free(gpu: int) -> None:
    """ConfigError where training itself computes on that GPU."""
    import torch

    if not torch.cuda.is_available():
        return
    visible = os.environ.get("ROCR_VISIBLE_DEVICES" if torch.version.hip else "CUDA_VISIBLE_DEVICES")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    used = visible.split(",")[:local] if visible else [str(index) for index in range(local)]
    if str(gpu) in used:
        raise ConfigError(f"where: gpu:{gpu} is a GPU that training uses ({','.join(used)}): name another, or here.")
