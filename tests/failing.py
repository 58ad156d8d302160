"""An engine that loses requests, and an evaluation with it: for tests of what missing data becomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worlds import World

from estbench import registry, runner
from estbench.config import EvalSettings
from estbench.engines.base import Answer, Failed, Request
from estbench.engines.mock import MockEngine, MockTokens, mock_checkpoint
from estbench.plan import Scope, render
from estbench.runs import Run

REASON = "HTTP 500 four times."


class Moody(MockEngine):
    """Fails the first `fails` texts that it is asked for."""

    def __init__(self, fails: int = 0) -> None:
        super().__init__(answer=lambda prompt: prompt[-8:-1])
        self.fails = fails

    def generate(self, requests: Sequence[Request]) -> Sequence[Answer]:
        lost, self.fails = min(self.fails, len(requests)), max(0, self.fails - len(requests))
        return [Failed(REASON) for _ in requests[:lost]] + list(super().generate(requests[lost:]))


def evaluate(world: World, engine: MockEngine, **settings: Any) -> Run:
    asked = EvalSettings(model="mock", tasks="both", data=str(world.data), **settings)
    tokens: Any = MockTokens()
    scope = Scope(asked.limit, asked.slice_of, data=world.data)
    plans = [render(card, tokens, engine.max_length, scope) for card in registry.Registry().select("both").tasks]
    return runner.evaluate(runner.Job(asked, mock_checkpoint(), tokens, engine, plans, ["both"], {}))
