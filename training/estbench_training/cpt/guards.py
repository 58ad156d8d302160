"""What to do with a step whose loss or gradient norm is not like those before it.

    guard = Guard(settings.guards, checkpoint.get("guard"))
    verdict = guard.check(loss, grad_norm)       # after backward, before the optimizer's step

"ok": take the step. "skip": leave the weights as they are and go on with the next batch. "roll_back": load the last
checkpoint, go on with the batches AFTER this one (the same ones would do the same again), and keep this guard: it
counts the roll-backs. All ranks ask with the same (reduced) numbers, so all have the same answer.

A step is bad if a number is NaN or infinite, or if it lies more than `spike` robust standard deviations above what was
usual. Usual is the median of the last good steps; the deviation is the median of the distances from one step to the
next, a MAD that a falling loss does not widen (for normal noise σ = MAD/0.6745, and a difference has √2 σ). Gradient
norms are compared as logarithms, since they are skewed. Where the training itself changes (another phase of the
mixture, another rate), call `forget()`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import median
from typing import Any, Literal, Protocol

from estbench.errors import EngineError

Verdict = Literal["ok", "skip", "roll_back"]

WINDOW = 128  # good steps that the deviation is taken from
RECENT = 15  # good steps that the usual value is taken from
ENOUGH = 20  # good steps before anything but NaN is bad
MOST_ROLL_BACKS = 3  # without a WINDOW of good steps between them
LEAST = {"loss": 0.02, "grad_norm": 0.2}  # deviations (nats; log of the norm) below which noise is not believed


class GuardSettings(Protocol):
    """What a guard needs of a stage's settings."""

    @property
    def spike(self) -> float:
        """Robust standard deviations from which on a step is bad; 0 watches for NaN only."""

    @property
    def patience(self) -> int:
        """Bad steps in a row before the last checkpoint is loaded."""

    @property
    def rollback(self) -> bool:
        """Whether it may be loaded; otherwise the run ends with an error."""


class Guard:
    """Judges each step by those before it. `reason` says what was wrong with the last bad one."""

    def __init__(self, settings: GuardSettings, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.settings = settings
        self.reason = ""
        self._losses = _history(state.get("losses", ()))
        self._norms = _history(state.get("norms", ()))
        self._bad = int(state.get("bad", 0))
        self._good = int(state.get("good", 0))
        self._roll_backs = int(state.get("roll_backs", 0))

    def state(self) -> dict[str, Any]:
        """All that it knows, as JSON; `Guard(settings, state)` goes on as this one would."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "bad": self._bad,
            "good": self._good,
            "roll_backs": self._roll_backs,
        }

    def check(self, loss: float, grad_norm: float) -> Verdict:
        """The verdict on a step by its mean loss a token (nats) and its gradient norm before clipping.

        EngineError if it would be rolled back once too often, or if `rollback` is off.
        """
        log_norm = math.log(max(grad_norm, 1e-30)) if math.isfinite(grad_norm) else grad_norm
        self.reason = self._fault("loss", loss, self._losses) or self._fault("grad_norm", log_norm, self._norms)
        if not self.reason:
            self._losses.append(loss)
            self._norms.append(log_norm)
            self._bad = 0
            self._good += 1
            if self._good >= WINDOW:
                self._roll_backs = 0
            return "ok"
        self._bad += 1
        return self._give_up() if self._bad >= self.settings.patience else "skip"

    @property
    def repeated(self) -> bool:
        """Whether training was rolled back before, and has not gone well since."""
        return self._roll_backs > 1

    def forget(self) -> None:
        """What was usual no longer is: only NaN is bad until there are enough new steps."""
        self._losses.clear()
        self._norms.clear()

    def _give_up(self) -> Verdict:
        if not self.settings.rollback:
            raise EngineError(
                f"{self._bad} bad steps in a row ({self.reason}), and guards.rollback is false: lower the rate or look "
                "at the data of these steps; the last checkpoint is intact."
            )
        if self._roll_backs >= MOST_ROLL_BACKS:
            raise EngineError(
                f"Training diverges: {self._bad} bad steps in a row ({self.reason}) after {self._roll_backs} returns "
                "to a checkpoint. Lower rate, lengthen warmup or look at the data; the last checkpoint is intact."
            )
        self._roll_backs += 1
        self._bad = self._good = 0
        return "roll_back"

    def _fault(self, name: str, value: float, history: deque[float]) -> str:
        """What is wrong with a value, or nothing."""
        if not math.isfinite(value):
            return f"{name} is {value}"
        if self.settings.spike <= 0 or len(history) < ENOUGH:
            return ""
        usual = median(list(history)[-RECENT:])
        limit = usual + self.settings.spike * max(LEAST[name], _deviation(history))
        if value <= limit:
            return ""
        shown = [value, limit] if name == "loss" else [math.exp(value), math.exp(limit)]
        return f"{name} {shown[0]:.4g} is above {shown[1]:.4g}"


def _deviation(history: deque[float]) -> float:
    """Robust standard deviation of the noise, blind to a slow trend."""
    return median(abs(b - a) for a, b in pairwise(history)) / (0.6745 * math.sqrt(2))


def _history(values: Iterable[float]) -> deque[float]:
    return deque((float(value) for value in values), maxlen=WINDOW)
