"""Which answers are generated together: prompts of like length under one `Decoding`."""

from __future__ import annotations

from collections.abc import Mapping

from estbench.engines.base import Decoding, Pack, Packing, Request


def generation_packs(task: str, asked: Mapping[str, Request], packing: Packing) -> list[Pack]:
    """Key -> request, as packs of at most `packing.rows` requests and `packing.tokens` tokens, long ones first."""
    order = sorted(asked.items(), key=lambda item: (-item[1].tokens, item[0]))
    packs: list[list[tuple[str, Request]]] = []
    widest = 0
    decoding: Decoding | None = None
    for key, request in order:
        widest = max(widest, request.tokens)
        rows = len(packs[-1]) + 1 if packs else 1
        if not packs or rows > packing.rows or rows * widest > packing.tokens or request.decoding != decoding:
            packs.append([])
            widest, decoding = request.tokens, request.decoding
        packs[-1].append((key, request))
    return [Pack(task, tuple(key for key, _ in part), tuple(request for _, request in part)) for part in packs]
