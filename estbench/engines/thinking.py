"""What a reasoning model writes before its answer: kept apart from it, never scored.

    markers = markers_of(chat_template, vocabulary)   # None: this model has no such thing
    thinking, answer = split(text, markers, opened=opens(prompt, markers))

A span that is not closed is all thinking, and the answer is empty: the model was cut off before it answered.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Markers:
    """What stands around a model's thinking."""

    open: str
    close: str


THINK = Markers("<think>", "</think>")  # Qwen 3, DeepSeek R1, SmolLM 3 and most others
KNOWN = (
    THINK,
    Markers("[THINK]", "[/THINK]"),  # Magistral
    Markers("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss: what follows is the answer
)


def markers_of(chat_template: str | None, vocabulary: Container[str] = ()) -> Markers | None:
    """The markers that a tokenizer's template or vocabulary has; None where it has none, and nothing is looked for."""
    for markers in KNOWN:
        if markers.close in (chat_template or "") or markers.close in vocabulary:
            return markers
    return None


def opens(prompt: str, markers: Markers = THINK) -> bool:
    """Whether a prompt ends inside thinking, because the template has opened it already."""
    return prompt.rstrip().endswith(markers.open)


def split(text: str, markers: Markers = THINK, *, opened: bool = False) -> tuple[str, str]:
    """Generated text as (thinking, answer); ("", text) where it has no thinking. `opened`: see `opens`."""
    head, closed, tail = text.partition(markers.close)
    inside = opened or head.lstrip().startswith(markers.open)
    if not closed and not inside:
        return "", text
    return head.lstrip().removeprefix(markers.open).strip(), tail.lstrip()
