"""The seam between estbench and whatever computes: requests as token ids in, responses out.

An engine is a transport. Policy (order, packs, retry, storing, progress) is written once, above it, in `runner`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is generated. Temperature 0 is greedy."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0  # of no effect when greedy


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model: the log-likelihood of `continuation`, or an answer generated under `decoding`."""

    prompt: Ids  # token ids, with the BOS where the model has one
    continuation: Ids | None = None
    decoding: Decoding | None = None

    def content(self) -> bytes:
        """Everything that is asked, as bytes: what a response key is made of."""
        asked = b"" if self.decoding is None else json.dumps(asdict(self.decoding), sort_keys=True).encode()
        scored = b"" if self.continuation is None else self.continuation.astype("<i4").tobytes()
        head = np.array([len(self.prompt), len(scored), len(asked)], "<i8").tobytes()
        return head + self.prompt.astype("<i4").tobytes() + scored + asked

    @property
    def tokens(self) -> int:
        """Tokens to forward, at most."""
        if self.continuation is not None:
            return len(self.prompt) + len(self.continuation) - 1
        return len(self.prompt) + (self.decoding.max_new_tokens if self.decoding else 0)

    @property
    def positions(self) -> int:
        """Positions at which logits are needed at the same time."""
        return 1 if self.continuation is None else len(self.continuation)


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-likelihood (nats) of a continuation, and whether greedy decoding would have given it."""

    logprob: float
    greedy: bool


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated answer, cut before the stop string."""

    text: str
    tokens: int  # generated, the end token included
    finish: str  # "stop": end token or stop string; "length": cut off


Response = Scored | Generated


def to_record(response: Response) -> dict[str, Any]:
    """The response as the store keeps it."""
    if isinstance(response, Scored):
        return {"logprob": response.logprob, "greedy": response.greedy}
    return {"text": response.text, "tokens": response.tokens, "finish": response.finish}


def from_record(record: dict[str, Any]) -> Response:
    """The inverse of `to_record`."""
    return Scored(**record) if "logprob" in record else Generated(**record)


class Engine(Protocol):
    """What computes. `fingerprint` is known before the weights are loaded; `load` comes before the first request."""

    @property
    def max_length(self) -> int: ...

    def fingerprint(self) -> dict[str, str]:
        """What of the engine can change an answer: its name, versions, dtype, device."""

    def load(self) -> None: ...

    def score(self, requests: Sequence[Request]) -> list[Scored]: ...

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """Answers for prompts that share one `Decoding`."""

    def close(self) -> None: ...
