"""Log-likelihoods on a token trie with transformers: each distinct token is forwarded once.

The keys and values of a pack's stem are kept from pack to pack. The rest of the pack is one sequence, or several that
are forwarded side by side: a token sees the stem and its own ancestors (a mask), at its own depth (position ids).
Memory grows with the square of what is forwarded at once, and so does attention: a small cost model says into how many
parts a pack is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from estbench.engines.base import Ids, Pack, Request
from estbench.engines.trie import Tree, split

if TYPE_CHECKING:
    from estbench.engines.hf_scoring import Bools, Floats, Scorer

SPARE = 1.04  # parts of a pack may forward so much more than the pack does: what they share, and padding
WIDEST = 64  # no part is cut smaller than this
KINDS = {"full_attention", "sliding_attention"}  # of layers, for which there is a mask


class TrieWay:
    """The stem's keys and values, and the pack's trie behind them."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.engine = scorer, scorer.engine
        self.costs = Costs.of(self.engine.model, self.engine.device)
        self.config = self.engine.model.config.get_text_config(decoder=True)
        self.kinds = set(getattr(self.config, "layer_types", None) or ())
        self.segments: list[bytes] = []  # the stem whose keys and values are kept, as it is cut
        self.cache: Any = None

    @property
    def window(self) -> int | None:
        """How many tokens a sliding layer sees, each token itself included."""
        window: int | None = getattr(self.config, "sliding_window", None)
        return window if not self.kinds or "sliding_attention" in self.kinds else None

    def tokens(self, pack: Pack, rows: Sequence[Sequence[int]] | None = None) -> tuple[Floats, Bools]:
        """Log-prob of each continuation's tokens, request by request, and whether it is the likeliest one there.

        rows: requests (by index) that are forwarded as one sequence, side by side; None: as it is cheapest.
        """
        requests, start = pack.requests, max(pack.stem, default=0)
        self._advance(requests[0].prompt, pack.stem)
        passes = [rows] if rows else self.costs.passes(requests, start)
        bounds = np.cumsum([0, *(request.tokens - len(request.prompt) + 1 for request in requests)])
        logprobs, best = np.empty(bounds[-1]), np.empty(bounds[-1], bool)
        for together in passes:
            at = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for row in together for i in row])
            logprobs[at], best[at] = self._forward([[requests[i] for i in row] for row in together], start)
        return logprobs, best

    def _advance(self, prompt: Ids, cuts: Sequence[int]) -> None:
        """Keep the keys and values of a stem: what it has in common with the one before, the rest segment by segment.

        What is kept changes at the end alone, so that a pack that breaks off leaves it whole.
        """
        from transformers import DynamicCache

        edges = [0, *cuts]
        segments = [prompt[a:b].tobytes() for a, b in zip(edges, cuts, strict=False)]
        same = 0
        while same < min(len(segments), len(self.segments)) and segments[same] == self.segments[same]:
            same += 1
        if same == len(segments):
            return  # what is kept beyond may be needed again
        cache: Any = _branch(self.cache, edges[same]) if same else DynamicCache()
        for a, b in zip(edges[same:], cuts[same:], strict=False):
            chain = _Row(prompt[a:b], np.arange(a, b), np.arange(b - a), np.full(b - a, b - a))
            self.scorer.logits(np.array([b - a - 1]), past_key_values=cache, use_cache=True, **self._inputs([chain], a))
        self.cache, self.segments = cache, segments

    def _forward(self, rows: Sequence[Sequence[Request]], start: int) -> tuple[Floats, Bools]:
        """Rows of requests side by side, each as its trie; scored tokens stand at the end of the row."""
        trees = [Tree.build(row, start) for row in rows]
        scored = [np.unique(tree.nodes, return_inverse=True) for tree in trees]
        width, keep = max(len(tree.tokens) for tree in trees), max(len(used) for used, _ in scored)
        width = max(width, *(len(t.tokens) - len(u) + keep for t, (u, _) in zip(trees, scored, strict=True)))
        laid = [_Row.of(tree, used, width, self.engine.pad) for tree, (used, _) in zip(trees, scored, strict=True)]
        past = _branch(self.cache, start, len(rows)) if start else None
        inputs = self._inputs(laid, start) | {"past_key_values": past, "use_cache": start > 0}
        logits = self.scorer.logits(np.arange(width - keep, width), **inputs)
        at = [r * keep + keep - len(used) + inverse for r, (used, inverse) in enumerate(scored)]
        targets = np.concatenate([tree.targets for tree in trees])
        return self.scorer.pick(logits.flatten(0, 1), np.concatenate(at), targets)

    def _inputs(self, rows: Sequence[_Row], start: int) -> dict[str, Any]:
        """What the model is given for rows of one width behind `start` tokens of the stem."""
        import torch

        ids, depths, at, ends = (
            torch.from_numpy(np.stack([getattr(row, name) for row in rows]).astype(np.int64)).to(self.engine.device)
            for name in ("tokens", "depths", "at", "ends")
        )
        inputs = {"input_ids": ids, "position_ids": depths}
        if len(rows) == 1 and start == 0 and rows[0].is_chain:
            return inputs  # plain causal attention, which needs no mask in memory
        seen = (at[:, None, :] <= at[:, :, None]) & (at[:, :, None] < ends[:, None, :])  # token x itself and ancestors
        seen = torch.cat([seen.new_ones(*seen.shape[:2], start), seen], -1)
        masks = {"full_attention": seen}
        if window := self.window:
            positions = torch.cat([torch.arange(start, device=ids.device).expand(len(rows), start), depths], -1)
            masks["sliding_attention"] = seen & (depths[:, :, None] - positions[:, None, :] < window)
        found = {kind: self._additive(mask) for kind, mask in masks.items()}
        if not window:
            return inputs | {"attention_mask": found["full_attention"]}
        return inputs | {"attention_mask": found if self.kinds else found["sliding_attention"]}

    def _additive(self, seen: Any) -> Any:
        """A mask of 0 and the least number there is, which every implementation of attention adds to its scores."""
        import torch

        dtype = self.engine.model.dtype
        zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return zeros.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a batch: its tokens in the order in which they are forwarded."""

    tokens: npt.NDArray[Any]  # [width]
    depths: npt.NDArray[Any]  # [width] positions
    at: npt.NDArray[Any]  # [width] nodes of the trie; higher numbers are padding
    ends: npt.NDArray[Any]  # [width] one past the last node of the subtree

    @classmethod
    def of(cls, tree: Tree, scored: npt.NDArray[Any], width: int, pad: int) -> Self:
        """What is not scored, padding that sees nothing but the stem and itself, what is scored."""
        n = len(tree.tokens)
        padding = np.arange(n, width)
        at = np.concatenate([np.setdiff1d(np.arange(n), scored, assume_unique=True), padding, scored])
        tokens = np.concatenate([tree.tokens, np.full(width - n, pad)])
        depths = np.concatenate([tree.depths, np.zeros_like(padding)])
        return cls(tokens[at], depths[at], at, np.concatenate([tree.ends, padding + 1])[at])

    @property
    def is_chain(self) -> bool:
        """Whether each token follows the one before it."""
        n = len(self.at)
        return bool((self.ends == n).all() and (self.at == np.arange(n)).all())


def _branch(cache: Any, length: int, rows: int = 1) -> Any:
    """A cache that goes on from the first `length` tokens of another, which stays as it is; nothing is copied yet."""
    branch = copy.copy(cache)
    branch.layers = []
    for layer in cache.layers:
        twin = copy.copy(layer)
        twin.keys = layer.keys[:, :, :length].expand(rows, -1, -1, -1)
        twin.values = layer.values[:, :, :length].expand(rows, -1, -1, -1)
        branch.layers.append(twin)
    return branch


@dataclass(frozen=True, slots=True)
class Costs:
    """What forwarding costs, in multiplications and additions; a few of their ratios are measured."""

    token: float  # a token, without attention
    pair: float  # a token that looks at another
    copied: float  # a token of the stem whose keys and values are put in front of a row
    call: float  # a call, whatever it computes
    batched: bool  # whether rows are forwarded side by side (GPU) or one after the other (CPU)

    @classmethod
    def of(cls, model: Any, device: str) -> Self:
        """By the shape of a model. Mixtures of experts count as if all worked, which favours large parts."""
        config = model.config.get_text_config(decoder=True)
        heads, layers = getattr(config, "num_attention_heads", None) or 1, config.num_hidden_layers
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
        on_gpu = device.startswith(("cuda", "xpu", "mps"))
        return cls(
            token=2.0 * weights,
            pair=(12.0 if on_gpu else 4.0) * layers * heads * size,  # with a mask, a GPU's kernels are slower
            copied=32.0 * layers * heads * size,
            call=layers * (1e10 if on_gpu else 2e7),
            batched=on_gpu,
        )

    def passes(self, requests: Sequence[Request], start: int) -> list[list[list[int]]]:
        """The cheapest way to forward a pack: passes, of which each has rows, of which each has requests."""
        whole = [list(range(len(requests)))]
        nodes = len(Tree.build(requests, start).tokens)
        best, cheapest = whole, self._cost([nodes], start)
        width = nodes // 2
        while width >= WIDEST:
            parts = split(requests, start, width)
            sizes = [len(Tree.build([requests[i] for i in part], start).tokens) for part in parts]
            forwarded = len(sizes) * max(sizes) if self.batched else sum(sizes)
            cost = self._cost(sizes, start)
            if cost < cheapest and forwarded <= SPARE * nodes:
                best, cheapest = parts, cost
            width //= 2
        return [best] if self.batched else [[part] for part in best]

    def _cost(self, sizes: Sequence[int], start: int) -> float:
        widths = [max(sizes)] * len(sizes) if self.batched else sizes
        work = sum(width * (self.token + self.pair * (start + width)) for width in widths)
        return work + len(sizes) * start * self.copied + (1 if self.batched else len(sizes)) * self.call
