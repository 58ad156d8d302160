"""What a reply has to look like before a number is taken from it. Everything else is a BadReply, which is asked again.

A server may send garbage, half an answer, NaN, or answers to another question. A value that was not checked here must
never become a score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn


class BadReply(Exception):
    """A reply that can't be used, and why. The call is repeated; in the end it has failed."""


class NoJSON(BadReply):
    """The body is no JSON at all."""


def parse(content: bytes) -> Any:
    """The JSON of a reply, UTF-8. NaN and Infinity are no JSON, though Python reads them."""
    try:
        return json.loads(content, parse_constant=_refuse)
    except BadReply:
        raise
    except (ValueError, RecursionError):
        raise NoJSON("no JSON") from None


def _refuse(constant: str) -> NoReturn:
    raise BadReply(f"{constant} in the JSON")


def as_object(value: Any, name: str = "the reply") -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise BadReply(f"{name} is {_kind(value)}, not an object")
    return value


def as_list(value: Any, name: str, length: int | None = None) -> list[Any]:
    """A JSON array, of this length."""
    if not isinstance(value, list):
        raise BadReply(f"{name} is {_kind(value)}, not a list")
    if length is not None and len(value) != length:
        raise BadReply(f"{name} has {len(value)} entries where {length} were asked for")
    return value


def as_text(value: Any, name: str) -> str:
    """A JSON string."""
    if not isinstance(value, str):
        raise BadReply(f"{name} is {_kind(value)}, not a text")
    return value


def as_count(value: Any, name: str) -> int:
    """An integer that counts something."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadReply(f"{name} is {_kind(value)}, not a count")
    return value


def as_logprob(value: Any, name: str = "a log-probability") -> float:
    """A finite number that is no larger than 0 (but for rounding)."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise BadReply(f"{name} is {_kind(value)}, not a finite number")
    if value > 1e-3:
        raise BadReply(f"{name} is {value}, which is above 0")
    return float(value)


def as_logprobs(values: Any, name: str, length: int) -> list[float]:
    """A list of log-probabilities, of this length."""
    return [as_logprob(value, f"{name}[{i}]") for i, value in enumerate(as_list(values, name, length))]


def choices(reply: Any, wanted: int = 1) -> list[dict[str, Any]]:
    """The choices of a completion in the order of the prompts, each index once. Servers may send them in any order."""
    if "error" in as_object(reply) and reply["error"]:
        raise BadReply(f"an error with status 200: {str(reply['error'])[:200]}")
    listed = [as_object(one, "a choice") for one in as_list(reply.get("choices"), "choices", wanted)]
    order = [as_count(one.get("index", i), "the index of a choice") for i, one in enumerate(listed)]
    if sorted(order) != list(range(wanted)):
        raise BadReply(f"choices have the indexes {order}")
    return [one for _, one in sorted(zip(order, listed, strict=True), key=lambda pair: pair[0])]


def expect(found: Any, wanted: Any, name: str) -> None:
    """What must be equal to what was asked: the number of tokens, the ids of a prompt, the name of a model."""
    if found != wanted:
        raise BadReply(f"{name} is {_short(found)} where {_short(wanted)} was expected")


def _short(value: Any) -> str:
    text = (
        f"{len(value)} entries: {value}" if isinstance(value, Sequence) and not isinstance(value, str) else repr(value)
    )
    return text if len(text) <= 100 else text[:100] + "…"


def _kind(value: Any) -> str:
    """What a wrong value is, in short."""
    if value is None:
        return "missing"
    return _short(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
