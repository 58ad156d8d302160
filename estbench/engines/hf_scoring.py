"""Log-likelihoods with transformers: right-padded batches, logits at the scored positions only."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from estbench.engines.base import Pack, Scored

if TYPE_CHECKING:
    from estbench.engines.hf import HFEngine


class Scorer:
    """Scores packs on a loaded engine."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self.keeps_logits = "logits_to_keep" in inspect.signature(engine.model.forward).parameters

    def score(self, pack: Pack) -> list[Scored]:
        """Log-likelihoods of a pack's continuations."""
        import torch

        rows: dict[bytes, int] = {}  # letters A to D behind one prompt need one forward pass
        places: list[tuple[int, int, npt.NDArray[np.int64]]] = []  # row, first scored position, target ids
        inputs: list[npt.NDArray[np.int64]] = []
        for request in pack.requests:
            assert request.continuation is not None
            ids = np.concatenate([request.prompt, request.continuation[:-1]]).astype(np.int64)
            row = rows.setdefault(ids.tobytes(), len(inputs))
            if row == len(inputs):
                inputs.append(ids)
            places.append((row, len(request.prompt) - 1, request.continuation.astype(np.int64)))
        width, first = max(map(len, inputs)), min(start for _, start, _ in places)
        padded = np.stack([np.pad(ids, (0, width - len(ids)), constant_values=self.engine.pad) for ids in inputs])
        with torch.inference_mode():
            logits = self._logits(torch.from_numpy(padded).to(self.engine.device), first)
            return [self._scored(logits[row, start - first :], target) for row, start, target in places]

    def _logits(self, ids: Any, first: int) -> Any:
        """Logits from position `first` on; memory for all positions is only spent where the model can't do less."""
        import torch

        if self.keeps_logits:
            keep = torch.arange(first, ids.shape[1], device=self.engine.device)
            return self.engine.model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
        return self.engine.model(input_ids=ids, use_cache=False).logits[:, first:]

    def _scored(self, logits: Any, target: npt.NDArray[np.int64]) -> Scored:
        import torch

        logprobs = logits[: len(target)].float().log_softmax(-1)
        ids = torch.from_numpy(target).to(self.engine.device)
        total = float(logprobs.gather(1, ids[:, None]).sum())
        if np.isnan(total):
            raise self.engine.nan()
        return Scored(total, bool((logprobs.argmax(-1) == ids).all()))
