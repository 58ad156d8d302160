"""A stand-in for Ray that calls workers one after the other, and kills them when a test says so.

@pytest.fixture: fake                       # pytest imports it by name from here
ray = fake(before)                          # `before(worker, method, arguments)` may raise Killed
engine = cluster(said, workers="2")         # a RayEngine that gets the stand-in
some_packs(12, stems=2)                     # packs for it; answers_of(packs) is what one process answers
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from estbench import engines, ray_session
from estbench.config import EvalSettings
from estbench.distributed import RayEngine
from estbench.engines.base import Pack, Request
from estbench.engines.mock import MockEngine, mock_checkpoint
from estbench.ray_worker import Order, Worker


class Killed(Exception):
    """What a test raises to kill the worker that is about to be called."""


class FakeRay:
    """The part of Ray that is used: actors are called one by one, when somebody waits."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

        class RayActorError(RayError): ...

    def __init__(self, before: Callable[[int, str, Any], None] = lambda *_: None, gpus: int = 0) -> None:
        self.before, self.gpus = before, gpus
        self.actors: list[FakeActor] = []
        self.asked: dict[str, Any] = {}

    def remote(self, kind: Any) -> Any:
        return FakeActorClass(self, kind)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 4.0, **({"GPU": self.gpus} if self.gpus else {})}}] * 2

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def wait(self, references: list[FakeCall], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        if timeout and not any(call.done for call in references):
            able = [call for call in references if call.actor.answers]
            if able:
                min(able, key=lambda call: call.actor.calls).run()
        done = [call for call in references if call.done]
        return done[:num_returns], [call for call in references if call not in done[:num_returns]]

    def get(self, call: FakeCall) -> Any:
        assert call.done
        if call.error:
            raise call.error
        return call.value

    def kill(self, actor: FakeActor) -> None:
        actor.alive = False


class FakeActorClass:
    def __init__(self, ray: FakeRay, kind: Any) -> None:
        self.ray, self.kind = ray, kind

    def options(self, **asked: Any) -> FakeActorClass:
        self.ray.asked = asked
        return self

    def remote(self, order: Order) -> FakeActor:
        actor = FakeActor(self.ray, self.kind(pickle.loads(pickle.dumps(order))), len(self.ray.actors))
        self.ray.actors.append(actor)
        return actor


class FakeActor:
    def __init__(self, ray: FakeRay, worker: Worker, number: int) -> None:
        self.ray, self.worker, self.number = ray, worker, number
        self.alive, self.answers, self.calls = True, True, 0
        self.computed: list[Pack] = []

    def __getattr__(self, name: str) -> Any:
        return FakeMethod(self, name)


class FakeMethod:
    def __init__(self, actor: FakeActor, name: str) -> None:
        self.actor, self.name = actor, name

    def remote(self, *arguments: Any) -> FakeCall:
        return FakeCall(self.actor, self.name, pickle.loads(pickle.dumps(arguments)))


class FakeCall:
    def __init__(self, actor: FakeActor, name: str, arguments: Any) -> None:
        self.actor, self.name, self.arguments = actor, name, arguments
        self.done, self.value, self.error = False, None, None

    def run(self) -> None:
        self.done = True
        actor = self.actor
        try:
            actor.ray.before(actor.number, self.name, self.arguments)
        except Killed:
            actor.alive = False
        if not actor.alive:
            self.error: Any = actor.ray.exceptions.RayActorError("The actor is dead: its worker process has died.")
            return
        actor.calls += 1
        if self.name == "answer":
            actor.computed.append(self.arguments[0])
        self.value = pickle.loads(pickle.dumps(getattr(actor.worker, self.name)(*self.arguments)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, mock_model: Any) -> Callable[..., FakeRay]:
    """`fake(before)`: from then on RayEngine gets this stand-in, and workers have the mock engine."""
    mock_model(lambda prompt: prompt[-8:-1])
    monkeypatch.setattr(engines, "check_parts", lambda *_: None)
    monkeypatch.setattr(ray_session, "leave", lambda: None)

    def start(before: Callable[[int, str, Any], None] = lambda *_: None, gpus: int = 0) -> FakeRay:
        ray = FakeRay(before, gpus)
        monkeypatch.setattr(ray_session, "join", lambda *_, **__: ray)
        return ray

    return start


def cluster(said: list[str] | None = None, engine: str = "hf", **options: str) -> RayEngine:
    settings = EvalSettings(model="mock", engine=engine, cluster="auto", cluster_options=options or {"workers": "2"})
    return RayEngine(settings, mock_checkpoint(), (said if said is not None else []).append)


def some_packs(n: int, stems: int = 1, each: int = 2, task: str = "t") -> list[Pack]:
    """Packs of `each` requests; pack i has stem i * stems // n."""
    made = []
    for i in range(n):
        stem = np.arange(5, dtype=np.int32) + 1000 * (i * stems // n)
        ids = [np.concatenate([stem, np.array([i, j], np.int32)]) for j in range(each)]
        requests = tuple(Request(one, np.array([7, 8], np.int32)) for one in ids)
        made.append(Pack(task, tuple(f"{i:031x}{j}" for j in range(each)), requests, (5,)))
    return made


def answers_of(packs: list[Pack]) -> dict[str, Any]:
    return {pack.id: MockEngine().compute(pack) for pack in packs}
