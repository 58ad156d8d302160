"""Log-likelihoods with transformers: each distinct token once, logits at the scored positions only.

The usual way is the token trie (`hf_trie`). Models that can't take it, or whose numbers differ in a test at the start
(`scoring_test`), take the plain way: padded batches of whole requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from estbench.engines import scoring_test
from estbench.engines.base import Ids, Pack, Request, Scored
from estbench.engines.hf_trie import TrieWay
from estbench.errors import EngineError

if TYPE_CHECKING:
    from estbench.engines.hf import HFEngine

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[Any]  # of integers

LOGITS = 1 << 24  # logits that are turned into float32 log-probs at a time: 64 MiB


class Scorer:
    """Scores packs on a loaded engine."""

    def __init__(self, engine: HFEngine) -> None:
        self.engine = engine
        self.keeps_logits = "logits_to_keep" in inspect.signature(engine.model.forward).parameters
        self.padded, self.trie = PaddedWay(self), TrieWay(self)
        self.path = "padded" if engine.options.scoring == "padded" else ""  # known once the first pack has come
        self.forwarded = 0  # tokens, padding included

    def score(self, pack: Pack) -> list[Scored]:
        """Log-likelihoods of a pack's continuations."""
        if not self.path:
            self._choose()
        logprobs, best = self.tokens(pack, self.path)
        lengths = [len(request.continuation) for request in pack.requests if request.continuation is not None]
        starts = np.cumsum([0, *lengths[:-1]])
        sums, greedy = np.add.reduceat(logprobs, starts), np.logical_and.reduceat(best, starts)
        if np.isnan(sums).any():
            raise self.engine.nan()
        return [Scored(*pair) for pair in zip(sums.tolist(), greedy.tolist(), strict=True)]

    def tokens(self, pack: Pack, path: str) -> tuple[Floats, Bools]:
        """Log-prob of each continuation's tokens, request by request, and whether it is the likeliest one there."""
        import torch

        with torch.inference_mode():
            return self.trie.tokens(pack) if path == "trie" else self.padded.tokens(pack.requests)

    def _choose(self) -> None:
        """Take the trie if its numbers are those of the plain way."""
        import torch

        with torch.inference_mode():
            trouble = scoring_test.trouble(self)
        self.forwarded = 0
        if trouble and self.engine.options.scoring == "trie":
            raise EngineError(f"engine.scoring=trie is not possible with {self.engine.checkpoint.name}: {trouble}.")
        if trouble:
            self.engine.say(
                f"{self.engine.checkpoint.name} is scored without the token trie, each request as a whole, which is "
                f"slower: {trouble}."
            )
        self.path = "padded" if trouble else "trie"

    def logits(self, keep: Indices, **inputs: Any) -> Any:
        """Logits [rows, len(keep), vocabulary] at positions of each row."""
        import torch

        self.forwarded += inputs["input_ids"].numel()
        at = torch.from_numpy(keep.astype(np.int64)).to(self.engine.device)
        if self.keeps_logits:
            return self.engine.model(logits_to_keep=at, **inputs).logits
        return self.engine.model(**inputs).logits[:, at]

    def pick(self, logits: Any, rows: Indices, targets: Indices) -> tuple[Floats, Bools]:
        """Log-probs of tokens `targets` in `rows` of logits [n, vocabulary], and whether they are the likeliest."""
        import torch

        at = torch.from_numpy(rows.astype(np.int64)).to(logits.device)
        ids = torch.from_numpy(targets.astype(np.int64)).to(logits.device)
        totals, best = [], []
        for part in logits.split(max(1, LOGITS // logits.shape[1])):
            totals.append(part.float().logsumexp(-1))
            best.append(part.argmax(-1))
        logprobs = logits[at, ids].double() - torch.cat(totals)[at].double()
        return logprobs.cpu().numpy(), (torch.cat(best)[at] == ids).cpu().numpy()


class PaddedWay:
    """Whole requests, right-padded: nothing is shared but what equal token ids share."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def tokens(self, requests: Sequence[Request]) -> tuple[Floats, Bools]:
        """Log-prob of each continuation's tokens, request by request, and whether it is the likeliest one there."""
        rows: dict[bytes, list[int]] = {}  # letters A to D behind one prompt need one forward pass
        for i, request in enumerate(requests):
            rows.setdefault(request.ids.tobytes(), []).append(i)
        found: list[tuple[Floats, Bools]] = [(np.zeros(0), np.zeros(0, bool))] * len(requests)
        for batch in self._batches([[requests[i] for i in row] for row in rows.values()], list(rows.values())):
            members = [(r, i) for r, row in enumerate(batch) for i in row]
            keep = np.unique(np.concatenate([_positions(requests[i]) for _, i in members]))
            logits = self._forward([requests[row[0]].ids for row in batch], keep)
            for r, i in members:
                at = r * len(keep) + np.searchsorted(keep, _positions(requests[i]))
                found[i] = self.scorer.pick(logits, at, _targets(requests[i]))
        return np.concatenate([one for one, _ in found]), np.concatenate([two for _, two in found])

    def _batches(self, rows: list[list[Request]], indices: list[list[int]]) -> list[list[list[int]]]:
        """Rows of like length together, as much as the engine's packs allow in tokens and in logits."""
        packing = self.scorer.engine.packing
        equal = bool(scoring_test.by_length(self.scorer.trie.config))
        batches: list[list[list[int]]] = []
        width, first = 0, 0
        for k in sorted(range(len(rows)), key=lambda k: -rows[k][0].tokens):
            start = min(len(request.prompt) for request in rows[k])
            count = len(batches[-1]) + 1 if batches else 1
            positions = width - min(first, start) + 1
            mixed = equal and rows[k][0].tokens != width
            if not batches or mixed or count * width > packing.tokens or count * positions > packing.nodes:
                batches.append([])
                width, first = rows[k][0].tokens, start
            first = min(first, start)
            batches[-1].append(indices[k])
        return batches

    def _forward(self, rows: list[Ids], keep: Indices) -> Any:
        import torch

        engine, width = self.scorer.engine, max(map(len, rows))
        padded = np.stack([np.pad(ids, (0, width - len(ids)), constant_values=engine.pad) for ids in rows])
        ids = torch.from_numpy(padded.astype(np.int64)).to(engine.device)
        return self.scorer.logits(keep, input_ids=ids, use_cache=False).flatten(0, 1)


def _positions(request: Request) -> npt.NDArray[np.int64]:
    return np.arange(len(request.prompt) - 1, request.tokens)


def _targets(request: Request) -> Ids:
    assert request.continuation is not None
    return request.continuation
