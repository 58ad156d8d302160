"""Answers with transformers: left-padded batches, each row stopped for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench.engines.base import Generated, Request
from estbench.tokens import Tokens

if TYPE_CHECKING:
    from estbench.engines.hf import HFEngine


class Generator:
    """Generates answers on a loaded engine."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine

    def _refuse_nan(self, _: Any, scores: Any) -> Any:
        """A logits processor: NaN would be decoded as some token, and scored."""
        if scores.isnan().any():
            raise self.engine.nan()
        return scores

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """Answers to prompts that share one `Decoding`."""
        import torch
        from transformers import StoppingCriteriaList

        decoding = requests[0].decoding
        assert decoding is not None and all(r.decoding == decoding for r in requests)
        width = max(len(r.prompt) for r in requests)
        inputs = np.full((len(requests), width), self.engine.pad, np.int64)
        mask = np.zeros_like(inputs)
        for i, r in enumerate(requests):
            inputs[i, width - len(r.prompt) :], mask[i, width - len(r.prompt) :] = r.prompt, 1
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
            torch.manual_seed(decoding.seed)
        with torch.inference_mode():
            output = self.engine.model.generate(
                input_ids=torch.from_numpy(inputs).to(self.engine.device),
                attention_mask=torch.from_numpy(mask).to(self.engine.device),
                max_new_tokens=decoding.max_new_tokens,
                logits_processor=[self._refuse_nan],
                stopping_criteria=StoppingCriteriaList([StopStrings(self.engine.tokens, decoding.stop, width)]),
                **sampling,
            )
        return [self._cut(row[width:], decoding.stop) for row in output.tolist()]

    def _cut(self, ids: list[int], stops: tuple[str, ...]) -> Generated:
        """The answer up to its end token or first stop string."""
        end = next((i for i, token in enumerate(ids) if token in self.engine.ends), None)
        kept = ids if end is None else ids[:end]
        while end is None and kept and kept[-1] == self.engine.pad:  # what follows a stop string
            kept = kept[:-1]
        text = str(self.engine.tokens.tokenizer.decode(kept, skip_special_tokens=True))
        at = min((found for stop in stops if (found := text.find(stop)) >= 0), default=None)
        finish = "length" if end is None and at is None else "stop"
        return Generated(text if at is None else text[:at], len(kept) + (end is not None), finish)


class StopStrings:
    """Stops each row of a batch for itself once one of the strings occurs in what it generated."""

    def __init__(self, tokens: Tokens, stops: tuple[str, ...], prompt: int) -> None:
        self.tokens, self.stops, self.prompt = tokens, stops, prompt
        # a token has at least one byte; the margin covers a string that starts inside a token
        self.tail = max((len(stop.encode()) for stop in stops), default=0) + 4
        self.done: list[bool] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        rows = input_ids[:, max(self.prompt, input_ids.shape[1] - self.tail) :].tolist()
        self.done = self.done or [False] * len(rows)
        for i, row in enumerate(rows):
            if self.stops and not self.done[i]:
                text = self.tokens.tokenizer.decode(row, skip_special_tokens=True)
                self.done[i] = any(stop in text for stop in self.stops)
        return torch.tensor(self.done, device=input_ids.device)
