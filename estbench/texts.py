"""Rendered documents, packed: while token ids are answered their texts are not needed, and they are most of a plan.

texts = Texts()
texts.add(rendered)           # a part of a task's documents at a time
for part in texts: ...        # the same parts again, in order
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from estbench.engines.base import Decoding

if TYPE_CHECKING:
    from estbench.lm_tasks import Rendered

LEVEL = 1  # zlib: level 6 takes four times as long for a sixth less


class Texts:
    """Parts of a task's rendered documents. What comes back has no `source`, and tuples in a target are lists."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, part: Sequence[Rendered]) -> None:
        text = json.dumps([_plain(doc) for doc in part], ensure_ascii=False)
        self._parts.append(zlib.compress(text.encode("utf-8", "surrogatepass"), LEVEL))

    def __iter__(self) -> Iterator[list[Rendered]]:
        for packed in self._parts:
            yield [_rendered(row) for row in json.loads(zlib.decompress(packed).decode("utf-8", "surrogatepass"))]


def _plain(doc: Rendered) -> list[Any]:
    """Each context once: all choices mostly share one."""
    contexts = list(dict.fromkeys([doc.prompt, *(context for context, _ in doc.pairs)]))
    pairs = [(contexts.index(context), continuation) for context, continuation in doc.pairs]
    return [contexts, pairs, doc.decoding.record() if doc.decoding else None, doc.target, doc.rolling]


def _rendered(row: list[Any]) -> Rendered:
    from estbench.lm_tasks import Rendered

    contexts, pairs, given, target, rolling = row
    decoding = Decoding(**given | {"stop": tuple(given["stop"])}) if given else None
    return Rendered([(contexts[at], text) for at, text in pairs], contexts[0], decoding, None, target, rolling)
