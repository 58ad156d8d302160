"""An engine that computes nothing: for tests of everything above the seam, and for measuring what it costs.

    engine = MockEngine(answer=lambda prompt: "Vastus: A")

Log-likelihoods are a hash of the request: arbitrary, but fixed. Texts come from `answer`. A token is four bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from estbench.engines.base import Answer, Generated, Ids, InProcess, Request, Scored


class MockTokens:
    """Texts as their UTF-8 bytes, four to a token; no BOS, no template unless one is given."""

    prefix: tuple[int, ...] = ()
    bos = None
    sends_messages = False

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template

    def chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        text = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        return f"{text}<assistant>" if add_generation_prompt else text

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        padded = (content + b"\0" * (-len(content) % 4) for content in map(str.encode, texts))
        return [np.frombuffer(content, "<i4") for content in padded]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        contexts = dict(zip(dict(pairs), self.encode(list(dict(pairs))), strict=True))
        return [
            (contexts[context], ids)
            for (context, _), ids in zip(pairs, self.encode([b for _, b in pairs]), strict=True)
        ]

    def windows(self, text: str, most: int) -> list[tuple[Ids, Ids]]:
        return [(np.zeros(1, np.int32), self.encode([text])[0])]

    def check_bos(self, ids: Ids) -> None:
        """Nothing to check: there is no BOS."""


class MockEngine(InProcess):
    """Counts what it is asked; `forwarded` is the number of requests that were computed."""

    max_length = 1 << 30

    def __init__(self, answer: Callable[[str], str] = lambda prompt: "") -> None:
        self.reply, self.forwarded, self.loaded = answer, 0, False

    def fingerprint(self) -> dict[str, str]:
        return {"engine": "mock"}

    def load(self) -> None:
        self.loaded = True

    def score(self, requests: Sequence[Request]) -> Sequence[Answer]:
        self.forwarded += len(requests)
        return [Scored(-(zlib.crc32(request.content()) % 10_000) / 100, False) for request in requests]

    def generate(self, requests: Sequence[Request]) -> Sequence[Answer]:
        self.forwarded += len(requests)
        texts = [self.reply(request.prompt.tobytes().rstrip(b"\0").decode()) for request in requests]
        return [Generated(text, len(text), "stop") for text in texts]

    def close(self) -> None:
        self.loaded = False


def mock_checkpoint(name: str = "mock") -> Any:
    """What the runner needs of a checkpoint, without files."""
    from pathlib import Path

    from estbench.checkpoint import Checkpoint

    class MockCheckpoint(Checkpoint):
        config = {"model_type": "mock"}  # noqa: RUF012
        tensors: dict[str, dict[str, Any]] = {}  # noqa: RUF012
        weight_files: list[Path] = []  # noqa: RUF012

        def fingerprint(self, hashes: object = None) -> dict[str, str]:
            return {"weights": name}

    return MockCheckpoint(Path(), name)
