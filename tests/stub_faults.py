"""What the server of `stub_endpoint` does wrong when it is told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a completion: each one, every n-th, or only the first ones.

    stall drip garbage half cut list error200 empty extra none nan positive short long drop, or a status such as 500
    model: another model's name; reversed: choices in reverse order, which is allowed
    """

    kind: str
    every: int = 1
    first: int | None = None  # only so many requests are hit

    def hits(self, number: int) -> bool:
        """number: of the request, from 1."""
        return number % self.every == 0 and (self.first is None or number <= self.first * self.every)


def spoil(fault: str, reply: Any) -> Any:
    """A right reply with something wrong in it."""
    if fault == "list":
        return [reply]
    if fault == "error200":
        return {"error": {"message": "the worker died", "code": 500}}
    reply = dict(reply)
    if fault == "empty":
        reply["choices"] = []
    elif fault == "extra":
        reply["choices"] = [*reply["choices"], *reply["choices"]]
    elif fault == "reversed":
        reply["choices"] = reply["choices"][::-1]
    elif fault == "model":
        reply["model"] = "another-model"
    elif fault in ("none", "nan", "positive", "short", "long"):
        reply["choices"] = [spoil_choice(fault, choice) for choice in reply["choices"]]
    return reply


def spoil_choice(fault: str, choice: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities that are not there, no numbers, or too few or too many; where none were asked, the text."""
    logprobs = choice.get("logprobs")
    if not logprobs:
        if "message" in choice:
            return {**choice, "message": {**choice["message"], "content": None if fault == "none" else 7}}
        return {**choice, "text": None if fault == "none" else 7}
    if fault in ("short", "long"):
        resized = {k: v[:-2] if fault == "short" else [*v, v[-1]] for k, v in logprobs.items() if v is not None}
        return {**choice, "logprobs": resized}
    value = {"none": None, "nan": float("nan"), "positive": 5.0}[fault]

    def wrong(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: wrong(one) for key, one in part.items()}
        if isinstance(part, list):
            return [wrong(one) for one in part]
        return value if isinstance(part, float) else part

    return {**choice, "logprobs": wrong(logprobs)}


async def broken(request: web.Request, fault: str, raw: bytes) -> web.StreamResponse:
    """An answer that does not come, not to its end, or byte by byte."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(raw))})
    if fault == "stall":
        await asyncio.sleep(3600)
    if fault in ("half", "drip"):
        await response.prepare(request)
        for byte in raw if fault == "drip" else b"":
            await response.write(bytes([byte]))
            await asyncio.sleep(0.05)
        await response.write(raw[: len(raw) // 2])
    if request.transport is not None:
        request.transport.abort() if fault == "drop" else request.transport.close()
    return response
