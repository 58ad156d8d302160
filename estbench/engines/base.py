"""The seam between estbench and whatever computes: packs of requests in, answers out.

An engine is a transport. Policy (order, packs, what is stored, what a failure means, progress) is written once, above
it, in `answering`. An engine in this process derives from `InProcess` and computes pack after pack; one behind a
network has many packs under way and gives them back in the order in which they are done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from estbench.errors import EngineError

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is generated. Temperature 0 is greedy."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0  # of no effect when greedy
    schema: str | None = None  # JSON schema that the answer has to fit; an engine that can't see to that writes freely
    top: int = 0  # so many likeliest first tokens are wanted with their log-probabilities, where the engine gives them

    def record(self) -> dict[str, Any]:
        """What is asked, as keys and plans hold it; what is seldom asked is only there where it is."""
        return {key: value for key, value in asdict(self).items() if key not in ("schema", "top") or value}


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model: the log-likelihood of `continuation`, or an answer generated under `decoding`."""

    prompt: Ids  # token ids, with the BOS where the model has one
    continuation: Ids | None = None
    decoding: Decoding | None = None
    messages: str | None = None  # JSON of chat messages, for an endpoint that takes no token ids; no prompt then

    def content(self) -> bytes:
        """Everything that is asked, as bytes: what a response key is made of."""
        asked = b"" if self.decoding is None else json.dumps(self.decoding.record(), sort_keys=True).encode()
        scored = b"" if self.continuation is None else self.continuation.astype("<i4").tobytes()
        head = np.array([len(self.prompt), len(scored), len(asked)], "<i8").tobytes()
        said = b"" if self.messages is None else b"messages" + self.messages.encode()
        return head + self.prompt.astype("<i4").tobytes() + scored + asked + said

    @property
    def tokens(self) -> int:
        """Tokens to forward, at most."""
        if self.continuation is not None:
            return len(self.prompt) + len(self.continuation) - 1
        written = len(self.messages) // 4 if self.messages else 0  # roughly; the endpoint alone knows
        return len(self.prompt) + written + (self.decoding.max_new_tokens if self.decoding else 0)

    @property
    def ids(self) -> Ids:
        """The token ids to forward: all but the last of the continuation, which nothing follows."""
        return self.prompt if self.continuation is None else np.concatenate([self.prompt, self.continuation[:-1]])

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
    tokens: int  # generated, the end token and thinking included
    finish: str  # "stop": end token or stop string; "length": cut off; "refusal": the endpoint's filter stepped in
    thinking: str = ""  # what a reasoning model wrote before its answer; never scored
    thinking_tokens: int = 0
    top: dict[str, float] | None = None  # likeliest first tokens -> log-probability (nats), where they were asked for


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, and why. It is missing data: never stored, never a score; the same command asks again."""

    reason: str


Response = Scored | Generated
Answer = Response | Failed


def to_record(response: Response) -> dict[str, Any]:
    """The response as the store keeps it."""
    if isinstance(response, Scored):
        return {"logprob": response.logprob, "greedy": response.greedy}
    record: dict[str, Any] = {"text": response.text, "tokens": response.tokens, "finish": response.finish}
    if response.thinking or response.thinking_tokens:
        record |= {"thinking": response.thinking, "thinking_tokens": response.thinking_tokens}
    if response.top is not None:
        record["top"] = response.top
    return record


def from_record(record: dict[str, Any]) -> Response:
    """The inverse of `to_record`."""
    return Scored(**record) if "logprob" in record else Generated(**record)


@dataclass(frozen=True, slots=True)
class Packing:
    """How large the packs are that an engine likes."""

    nodes: int = 2048  # distinct tokens that a pack of log-likelihoods adds to its stem
    rows: int = 64  # answers that are generated together
    tokens: int = 4096  # tokens of these, padding included


@dataclass(frozen=True, slots=True)
class Pack:
    """Requests of one task that are computed together: all to be scored, or all to be answered under one `Decoding`.

    stem: lengths at which the prefix that all requests share is cut. An engine that keeps the state after a prefix
    forwards these segments one by one and keeps them for the next pack; so numbers don't depend on where a run began.
    """

    task: str
    keys: tuple[str, ...]
    requests: tuple[Request, ...]
    stem: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Names the pack: a hash of its keys."""
        return hashlib.sha256("".join(self.keys).encode()).hexdigest()[:32]

    @property
    def scores(self) -> bool:
        """Whether log-likelihoods are asked, and not texts."""
        return self.requests[0].continuation is not None

    @property
    def tokens(self) -> int:
        return sum(request.tokens for request in self.requests)

    def halves(self) -> tuple[Pack, Pack]:
        """Two packs, for a machine on which the whole does not fit."""
        half = len(self.requests) // 2
        return (
            Pack(self.task, self.keys[:half], self.requests[:half], self.stem),
            Pack(self.task, self.keys[half:], self.requests[half:], self.stem),
        )


class PackTooLarge(EngineError):
    """A pack does not fit into memory. Whoever drives the engine halves it, and notes that in the store."""

    def __init__(self, pack: Pack, where: str) -> None:
        super().__init__(f"A pack of {len(pack.requests)} requests of {pack.task} does not fit on {where}.")
        self.pack = pack


class Engine(Protocol):
    """What computes. `fingerprint` is known before the weights are loaded; `load` comes before the first pack."""

    @property
    def max_length(self) -> int: ...

    @property
    def packing(self) -> Packing: ...

    @property
    def max_age(self) -> float | None:
        """Seconds for which stored answers count; None: weights are known by their content, so for ever."""

    def fingerprint(self) -> dict[str, str]:
        """What of the engine can change an answer: its name, versions, dtype, device."""

    def load(self) -> None: ...

    def answer(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        """Each pack with its answers, in any order. PackTooLarge ends the iterator; it is called again then."""

    def notes(self) -> dict[str, Any]:
        """What the manifest says of how it went: tokens forwarded, paths taken. Changes no answer."""

    def close(self) -> None: ...


class InProcess:
    """An engine that computes in this process, pack after pack."""

    packing = Packing()
    max_age: float | None = None

    def answer(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        for pack in packs:
            yield pack, self.compute(pack)

    def compute(self, pack: Pack) -> Sequence[Answer]:
        """The answers of one pack."""
        return self.score(pack.requests) if pack.scores else self.generate(pack.requests)

    def score(self, requests: Sequence[Request]) -> Sequence[Answer]:
        raise NotImplementedError

    def generate(self, requests: Sequence[Request]) -> Sequence[Answer]:
        raise NotImplementedError

    def notes(self) -> dict[str, Any]:
        return {}
