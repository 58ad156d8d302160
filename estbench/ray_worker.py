"""What runs on the nodes of a cluster: one engine a worker, asked for whole packs.

A worker never raises: Ray would wrap what it raises, and some of our exceptions don't survive the way. It sends back
a `Reply` that holds the value or the error, and the lines that its engine had to say.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench import errors
from estbench.config import EvalSettings
from estbench.engines.base import Answer, Pack, Packing, PackTooLarge, Request
from estbench.errors import EngineError, EstbenchError, ModelError

if TYPE_CHECKING:
    from estbench.checkpoint import Checkpoint


@dataclass(frozen=True)
class Order:
    """What a worker needs to know to build the driver's engine on its node."""

    settings: EvalSettings  # only what the engine is made of: no database, no gold
    name: str  # the model, for messages
    path: str  # where the driver has it
    hashes: dict[str, str]  # the model's fingerprint on the driver
    environment: dict[str, str]  # set before anything heavy is imported


@dataclass(frozen=True)
class Facts:
    """What a worker says of its engine before any weights are loaded."""

    fingerprint: dict[str, str]
    max_length: int
    packing: Packing
    max_age: float | None
    node: str
    pid: int


@dataclass(frozen=True)
class Reply:
    """A value, or the kind and text of an error; `too_large` names the device that a pack does not fit on."""

    value: Any = None
    error: tuple[str, str] | None = None
    too_large: str | None = None
    said: tuple[str, ...] = ()

    def raised(self) -> EstbenchError:
        """The error as an exception of its kind."""
        assert self.error is not None
        kind = getattr(errors, self.error[0], EngineError)
        found: EstbenchError = kind(self.error[1])
        return found


class Worker:
    """An engine on a node. Ray makes it an actor; without Ray it is a plain class."""

    def __init__(self, order: Order) -> None:
        os.environ.update(order.environment)
        self.order = order
        self.model: Any = None
        self.engine: Any = None
        self.said: list[str] = []

    def open(self) -> Reply:
        """Find the model on this node, build the engine, say what it is. Loads no weights."""
        return self._reply(self._open)

    def load(self) -> Reply:
        """Load the weights; ModelError if the model was written to meanwhile."""
        return self._reply(self._load)

    def answer(self, pack: Pack) -> Reply:
        """The answers of a pack, in its order."""
        return self._reply(lambda: self._answer(pack))

    def notes(self) -> Reply:
        """The engine's notes."""
        return self._reply(lambda: self.engine.notes())

    def close(self) -> Reply:
        """End the engine and what it started (a server, say)."""
        return self._reply(lambda: self.engine.close())

    def _reply(self, work: Callable[[], Any]) -> Reply:
        try:
            value = work()
        except PackTooLarge:
            return Reply(too_large=_here(), said=self._take_said())
        except EstbenchError as error:
            return Reply(error=(type(error).__name__, str(error)), said=self._take_said())
        except Exception as error:  # a bug, a library: one line of it, and where
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return Reply(error=("EngineError", f"A worker on {_here()} failed: {what}"), said=self._take_said())
        return Reply(value=value, said=self._take_said())

    def _take_said(self) -> tuple[str, ...]:
        said, self.said = tuple(self.said), []
        return said

    def _open(self) -> Facts:
        from estbench import engines

        engines.check_parts(self.order.settings.engine)
        self.model = find_here(self.order)
        tokens = engines.tokens_of(self.order.settings, self.model)
        self.engine = engines.make(self.order.settings, self.model, tokens, self.said.append)
        engine = self.engine
        return Facts(
            engine.fingerprint(), engine.max_length, engine.packing, engine.max_age, socket.gethostname(), os.getpid()
        )

    def _load(self) -> None:
        self.engine.load()
        self.model.check_unchanged()

    def _answer(self, pack: Pack) -> list[Answer]:
        [(_, answers)] = self.engine.answer([writable(pack)])
        return list(answers)


def find_here(order: Order) -> Checkpoint:
    """The driver's model on this node; ModelError if it is not here, or is another one."""
    from estbench import checkpoint

    model: Checkpoint | None = None
    if Path(order.path).is_dir():
        model = checkpoint.find(order.path)
    else:
        with contextlib.suppress(ModelError):  # a node with a Hub cache or demo models of its own
            model = checkpoint.find(order.settings.model, order.settings.revision, fetch=False)
    if model is None:
        raise ModelError(
            f"{_here()} has no {order.path}: all nodes need the model at that path (a shared file system), or a Hub "
            "model in their own cache."
        )
    model.name = order.name
    hashes = model.fingerprint()
    if differ := sorted(key for key in order.hashes | hashes if order.hashes.get(key) != hashes.get(key)):
        raise ModelError(
            f"{model.path} on {_here()} is another model than on the driver (other {', '.join(differ)}): copy it "
            "again, or use a shared file system."
        )
    return model


def writable(pack: Pack) -> Pack:
    """The pack with arrays of its own: what Ray hands over is read-only memory."""
    copies: dict[int, Any] = {}  # choices share their prompt

    def copy(ids: Any) -> Any:
        return None if ids is None else copies.setdefault(id(ids), np.array(ids))

    def own(request: Request) -> Request:
        return replace(request, prompt=copy(request.prompt), continuation=copy(request.continuation))

    return replace(pack, requests=tuple(own(request) for request in pack.requests))


def _here() -> str:
    return f"node {socket.gethostname()}"
