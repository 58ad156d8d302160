"""The learning rate of each step: a pure function of the step, so that a resumed run has the rate it would have had.

    rate_at(settings, step, steps)         # step counts from 0: the rate of the step that is about to be taken

Every schedule rises linearly from 0 in its warm-up; a model that was trained before is re-warmed that way and decayed
again, which with replay reaches the quality of training anew (Ibrahim et al. 2024, arXiv 2403.08763). Steps are
counted as in transformers' `get_scheduler`: the first step of a warm-up has rate 0, the last of a decay is one step
short of `min_rate`.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

from estbench.errors import ConfigError

Schedule = Literal["cosine", "linear", "wsd", "constant"]
DecayShape = Literal["1-sqrt", "linear"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "wsd", "constant")


class ScheduleSettings(Protocol):
    """What a schedule needs of a stage's settings."""

    @property
    def rate(self) -> float:
        """Its highest value."""

    @property
    def min_rate(self) -> float:
        """Its value at the end."""

    @property
    def schedule(self) -> Schedule:
        """cosine, linear, wsd (warm-up, stable, decay) or constant."""

    @property
    def warmup(self) -> float:
        """Share of the steps (< 1), or steps (>= 1)."""

    @property
    def decay(self) -> float:
        """wsd: share of the steps at the end (< 1), or steps (>= 1)."""

    @property
    def decay_shape(self) -> DecayShape:
        """wsd: how it falls; 1-sqrt beats linear (Hägele et al. 2024, arXiv 2405.18392)."""


def check(settings: ScheduleSettings) -> None:
    """ConfigError for a schedule that can't be meant."""
    if not settings.rate > 0:
        raise ConfigError(f"rate: {settings.rate:g} has to be above 0.")
    if not 0 <= settings.min_rate <= settings.rate:
        raise ConfigError(f"min_rate: {settings.min_rate:g} has to lie from 0 to rate, {settings.rate:g}.")
    for name, value in (("warmup", settings.warmup), ("decay", settings.decay)):
        if value < 0 or (value >= 1 and value != int(value)):
            raise ConfigError(f"{name}: {value:g} has to be a share of the steps (below 1) or whole steps.")


def count(share: float, steps: int) -> int:
    """Steps of a share (< 1) of `steps`, or of a number of steps (>= 1)."""
    return math.ceil(share * steps) if share < 1 else int(share)


def rate_at(settings: ScheduleSettings, step: int, steps: int) -> float:
    """The learning rate of step `step` of `steps`, counted from 0."""
    warm = count(settings.warmup, steps)
    if step < warm:
        return settings.rate * step / warm
    high, low = settings.rate, settings.min_rate
    if settings.schedule == "constant":
        return high
    if settings.schedule == "wsd":
        return low + (high - low) * _stable_then_decay(settings, step, steps, warm)
    progress = min(1.0, (step - warm) / max(1, steps - warm))
    left = 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return low + (high - low) * left


def _stable_then_decay(settings: ScheduleSettings, step: int, steps: int, warm: int) -> float:
    """What is left of the way from `min_rate` to `rate`: 1 until the decay begins, 0 at the end."""
    falling = min(count(settings.decay, steps), steps - warm)
    into = step - (steps - falling)
    if into < 0:
        return 1.0
    progress = min(1.0, into / max(1, falling))
    return 1 - (math.sqrt(progress) if settings.decay_shape == "1-sqrt" else progress)
