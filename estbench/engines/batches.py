"""Which answers are generated together: prompts of like length under one `Decoding`, so that little is padding.

What all prompts of a task share (its few-shot examples, a system message) is their stem, which an engine may forward
once and keep for the packs that follow. A function of the plan alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from estbench.engines.base import Decoding, Pack, Packing, Request
from estbench.engines.trie import common

STEM_LEAST = 16  # tokens; a shorter one (a BOS, a role's header) is cheaper to forward again


def generation_packs(task: str, asked: Mapping[str, Request], packing: Packing) -> list[Pack]:
    """Key -> request, as packs of at most `packing.rows` requests and `packing.tokens` tokens, long ones first."""
    groups: dict[Decoding | None, list[tuple[str, Request]]] = {}
    for key, request in asked.items():
        groups.setdefault(request.decoding, []).append((key, request))
    return [pack for group in groups.values() for pack in _packs(task, group, packing)]


def _packs(task: str, group: list[tuple[str, Request]], packing: Packing) -> Iterable[Pack]:
    stem = _stem([request for _, request in group])
    packs: list[list[tuple[str, Request]]] = []
    for key, request in sorted(group, key=lambda item: (-item[1].tokens, item[0])):
        rows = len(packs[-1]) + 1 if packs else 1
        if not packs or rows > packing.rows or rows * packs[-1][0][1].tokens > packing.tokens:
            packs.append([])
        packs[-1].append((key, request))
    for part in packs:
        yield Pack(task, tuple(key for key, _ in part), tuple(request for _, request in part), stem)


def _stem(requests: list[Request]) -> tuple[int, ...]:
    """The prefix of all prompts; each keeps at least its last token for itself, from which the answer follows."""
    first = requests[0].prompt
    length = min(len(request.prompt) for request in requests) - 1
    for request in requests[1:]:
        length = min(length, common(first, request.prompt))
    return (length,) if len(requests) > 1 and length >= STEM_LEAST else ()
