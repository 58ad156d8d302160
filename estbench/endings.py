"""How generated answers ended: cut off, refused or empty ones are answers, are scored as they are, and are counted.

count(responses)      {"n": 40, "truncated": 3, "refused": 1, ...} for a task's part of the manifest; {} if none is text
in_words(counts)      a line for people, by task; empty if all ended well
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from estbench.engines.base import Generated, Response

WORDS = {"truncated": "Cut off at the token limit", "refused": "Refused", "empty": "Empty"}


def count(responses: Iterable[Response]) -> dict[str, int]:
    """Counts of generated answers: n, truncated, refused, empty, tokens, thinking_tokens."""
    found: Counter[str] = Counter()
    for response in responses:
        if isinstance(response, Generated):
            found["n"] += 1
            found["truncated"] += response.finish == "length"
            found["refused"] += response.finish == "refusal"
            found["empty"] += response.finish == "stop" and not response.text.strip()
            found["tokens"] += response.tokens
            found["thinking_tokens"] += response.thinking_tokens
    return dict(found)


def together(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The counts of slices as those of the whole."""
    found: Counter[str] = Counter()
    for part in parts:
        found.update(part)
    return dict(found)


def in_words(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Task -> counts as a line: what was cut off, refused or empty, of how many."""
    parts = []
    for key, words in WORDS.items():
        hit = [f"{row[key]:,} of {row['n']:,} in {task}" for task, row in counts.items() if row.get(key)]
        if hit:
            parts.append(f"{words}: {', '.join(hit)}.")
    return " ".join(parts)
