"""Which log-likelihoods are computed together: requests as a token trie, cut into packs, and the trie of one pack.

    packs = scoring_packs(task, asked, packing)       # the whole plan of a task, each distinct token in one place
    tree = Tree.build(pack.requests, start)           # the distinct tokens beyond the first `start`, as arrays
    for node, ids in tree.wanted().items():           # the log-probs of `ids` right behind tree.prefix(node)
        ...

Requests in the order of their token ids lie next to those they share a prefix with. Where more hangs on a prefix than a
pack holds, the prefix becomes a segment of the packs' stem: an engine forwards it once and keeps its state for the
packs that follow. Smaller branches (a document with its choices, a passage with its questions) stay whole. Packs and
stems are a function of the plan alone, and a stem is always forwarded segment by segment: so the numbers are the same
bits, wherever a run begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from estbench.engines.base import Ids, Pack, Packing, Request

BLOCK = 64  # tokens that are compared at a time; sorting whole requests would hold a second copy of the plan
GAIN = 64  # a prefix is worth a segment of its own if it is longer than 1/64 of a pack


@dataclass(frozen=True, slots=True)
class Tree:
    """The token trie of requests, beyond the `start` tokens that they all share.

    A node is a distinct prefix; nodes are numbered depth-first, so that a parent comes before its children and a
    subtree is one range. All arrays are int32; n is the number of nodes, m that of all continuations' tokens.
    """

    shared: Ids  # [start] the tokens that all requests begin with
    tokens: Ids  # [n] the last token of the prefix
    depths: Ids  # [n] its position: start, start + 1, ...
    parents: Ids  # [n] the node of the prefix without it; -1: what is shared
    ends: Ids  # [n] one past the last node of the subtree: k is an ancestor of j or j itself if k <= j < ends[k]
    nodes: Ids  # [m] the node behind which a continuation's token is predicted, request by request
    targets: Ids  # [m] that token
    bounds: Ids  # [requests + 1] request r has nodes[bounds[r] : bounds[r + 1]] and the targets there

    @classmethod
    def build(cls, requests: Sequence[Request], start: int = 0) -> Tree:
        """The trie of requests that share `start` tokens, of which none is to be scored (ValueError if one is)."""
        if start > min(len(request.prompt) for request in requests) - 1:
            raise ValueError("The last token of each prompt must lie beyond what is shared.")
        whole = [request.ids for request in requests]
        order = token_order(requests)
        shared = [start, *(common(whole[a], whole[b]) for a, b in itertools.pairwise(order))]
        sizes = np.array([len(whole[i]) for i in order], np.int32) - np.array(shared, np.int32)
        total = int(sizes.sum())
        depths, parents = np.empty(total, np.int32), np.arange(-1, total - 1, dtype=np.int32)
        ends = np.full(total, total, np.int32)
        path = np.empty(max(map(len, whole)) - start, np.int32)  # the nodes of the request at hand
        found: list[Ids] = [path] * len(requests)
        length = n = 0
        for i, depth, size in zip(order, shared, sizes.tolist(), strict=True):
            ends[path[depth - start : length]] = n  # the branches of the request before that end here
            length = depth - start + size
            if size:
                parents[n] = path[depth - start - 1] if depth > start else -1
                depths[n : n + size] = np.arange(depth, depth + size)
                path[depth - start : length] = np.arange(n, n + size)
            found[i] = path[len(requests[i].prompt) - 1 - start : length].copy()
            n += size
        return cls(
            shared=whole[0][:start],
            tokens=np.concatenate([whole[i][depth:] for i, depth in zip(order, shared, strict=True)]),
            depths=depths,
            parents=parents,
            ends=ends,
            nodes=np.concatenate(found),
            targets=np.concatenate([_continuation(request) for request in requests]).astype(np.int32),
            bounds=np.cumsum([0, *map(len, found)]).astype(np.int32),
        )

    def prefix(self, node: int) -> Ids:
        """All tokens up to a node, those that are shared included."""
        path = []
        while node >= 0:
            path.append(self.tokens[node])
            node = int(self.parents[node])
        return np.concatenate([self.shared, np.array(path[::-1], np.int32)])

    def wanted(self) -> dict[int, Ids]:
        """Node -> the distinct tokens whose log-probs are asked right behind it, ascending."""
        pairs = np.unique(np.stack([self.nodes, self.targets]), axis=1)
        nodes, at = np.unique(pairs[0], return_index=True)
        return dict(zip(nodes.tolist(), np.split(pairs[1], at[1:]), strict=True))


def scoring_packs(task: str, asked: Mapping[str, Request], packing: Packing) -> list[Pack]:
    """Key -> request, as packs of at most `packing.nodes` distinct tokens beyond the stem (one request at least)."""
    if not asked:
        return []
    by_key = sorted(asked)
    order = token_order([asked[key] for key in by_key])
    keys = [by_key[i] for i in order]
    requests = [asked[key] for key in keys]
    return [
        Pack(task, tuple(keys[low:high]), tuple(requests[low:high]), stem)
        for low, high, stem in _Outline(requests).cut(packing)
    ]


def split(requests: Sequence[Request], start: int, most: int) -> list[list[int]]:
    """Indices of requests that share `start` tokens, in parts of about `most` distinct tokens, in the trie's order.

    A part ends where its last requests have least in common, so that little is forwarded with both neighbours.
    """
    order = token_order(requests)
    outline = _Outline([requests[i] for i in order])
    parts: list[list[int]] = []
    begin, low = 0, 1
    for i in range(1, len(order)):
        if outline.size(begin, i + 1, start) <= most:
            continue
        while low < i and outline.size(begin, low, start) < most // 2:
            low += 1
        cut = low + int(outline.shared[low : i + 1].argmin())
        parts.append(order[begin:cut])
        begin, low = cut, cut + 1
    return [*parts, order[begin:]]


def common(a: Ids, b: Ids) -> int:
    """Length of the longest common prefix."""
    most = min(len(a), len(b))
    differ = a[:most] != b[:most]
    first = int(differ.argmax()) if most else 0
    return first if most and differ[first] else most


def token_order(requests: Sequence[Request]) -> list[int]:
    """Indices by the token ids to forward, a prefix before what it begins; equal ones stay in their order."""
    order: list[int] = []
    stack = [(list(range(len(requests))), 0)]
    while stack:
        group, depth = stack.pop()
        if len(group) == 1 or depth < 0:
            order += group
            continue
        blocks: dict[bytes, list[int]] = {}
        for i in group:
            blocks.setdefault(_block(requests[i], depth), []).append(i)
        full = 4 * BLOCK
        stack += [(blocks[b], depth + BLOCK if len(b) == full else -1) for b in sorted(blocks, reverse=True)]
    return order


def _block(request: Request, depth: int) -> bytes:
    """The ids to forward from `depth` on, at most BLOCK of them, as bytes that sort as the ids do."""
    prompt, end = len(request.prompt), request.tokens
    if depth + BLOCK <= prompt:
        ids = request.prompt[depth : depth + BLOCK]
    elif depth >= prompt:
        ids = _continuation(request)[depth - prompt : min(depth + BLOCK, end) - prompt]
    else:
        ids = np.concatenate([request.prompt[depth:], _continuation(request)[: min(depth + BLOCK, end) - prompt]])
    return ids.astype(">i4").tobytes()


def _continuation(request: Request) -> Ids:
    if request.continuation is None:
        raise ValueError("Only log-likelihoods have a trie.")
    return request.continuation


class _Outline:
    """Sorted requests as lengths: enough to know how their trie branches."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.lengths: npt.NDArray[np.int64] = np.array([request.tokens for request in requests], np.int64)
        self.prompts: npt.NDArray[np.int64] = np.array([len(request.prompt) for request in requests], np.int64)
        self.shared: npt.NDArray[np.int64] = np.zeros(len(requests), np.int64)  # with the request before
        before = requests[0].ids
        for i, request in enumerate(requests[1:], 1):
            ids = request.ids
            self.shared[i] = common(before, ids)
            before = ids
        self.new = np.concatenate([[0], np.cumsum(self.lengths - self.shared)])  # distinct tokens before a request

    def size(self, low: int, high: int, start: int) -> int:
        """Distinct tokens of the requests low..high-1 beyond the first `start`."""
        return int(self.lengths[low] - start + self.new[high] - self.new[low + 1])

    def branching(self, low: int, high: int) -> int:
        """How many tokens the requests low..high-1 share."""
        return int(self.shared[low + 1 : high].min()) if high - low > 1 else int(self.lengths[low])

    def cut(self, packing: Packing) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """First request, one past the last, and the stem of each pack."""
        least = max(1, packing.nodes // GAIN)
        begin, nodes = 0, 0
        stem: tuple[int, ...] = ()
        stack: list[tuple[int, int, tuple[int, ...]]] = [(0, len(self.lengths), ())]
        while stack:
            low, high, own = stack.pop()
            start = own[-1] if own else 0
            size = self.size(low, high, start)
            if size > packing.nodes:
                depth = self.branching(low, high)
                end = min(depth, int(self.prompts[low:high].min()) - 1)  # what is scored stays in the pack
                if end - start >= least:
                    stack.append((low, high, (*own, *range(start + packing.tokens, end, packing.tokens), end)))
                    continue
                at = [low, *(low + 1 + np.flatnonzero(self.shared[low + 1 : high] == depth)).tolist(), high]
                if len(at) > 2:
                    stack += [(a, b, own) for a, b in zip(at[-2::-1], at[:0:-1], strict=True)]
                    continue
            new = int(self.new[high] - self.new[low])
            if low > begin and (own is not stem or (new and nodes + new > packing.nodes)):  # equal cuts, other tokens
                yield begin, low, stem
                begin = low
            stem, nodes = (own, size) if low == begin else (stem, nodes + new)
        yield begin, len(self.lengths), stem
