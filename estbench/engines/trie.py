"""Which log-likelihoods are computed together: requests as a token trie, cut into packs.

Requests in the order of their token ids lie next to those they share a prefix with. What all requests of a pack share
is its stem, which an engine forwards once and keeps for the packs that follow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from estbench.engines.base import Ids, Pack, Packing, Request


def scoring_packs(task: str, asked: Mapping[str, Request], packing: Packing) -> list[Pack]:
    """Key -> request, as packs of at most `packing.nodes` distinct tokens beyond the stem (one document at least)."""
    order = sorted(asked.items(), key=lambda item: (item[1].ids.tolist(), item[0]))
    if not order:
        return []
    stem = _stem([request for _, request in order])
    packs: list[list[tuple[str, Request]]] = []
    nodes, before = 0, np.zeros(0, np.int32)
    for key, request in order:
        ids = request.ids
        new = len(ids) - common(before, ids)
        if not packs or nodes + new > packing.nodes:
            packs.append([])
            nodes, new = 0, len(ids) - (stem[-1] if stem else 0)
        packs[-1].append((key, request))
        nodes += new
        before = ids
    return [Pack(task, tuple(key for key, _ in part), tuple(request for _, request in part), stem) for part in packs]


def common(a: Ids, b: Ids) -> int:
    """Length of the longest common prefix."""
    most = min(len(a), len(b))
    differ = np.flatnonzero(a[:most] != b[:most])
    return int(differ[0]) if len(differ) else most


def _stem(ordered: list[Request]) -> tuple[int, ...]:
    """The prefix of all requests; each keeps at least the last token of its prompt for itself."""
    shared = common(ordered[0].ids, ordered[-1].ids)
    length = min(shared, min(len(request.prompt) for request in ordered) - 1)
    return (length,) if length > 0 else ()
