"""Guards: no false alarm in ten thousand noisy steps, and every planted fault caught."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from estbench_training.cpt.guards import ENOUGH, MOST_ROLL_BACKS, WINDOW, Guard

from estbench.errors import EngineError


@dataclass(frozen=True)
class Settings:
    spike: float = 6.0
    patience: int = 3
    rollback: bool = True


def run(seed: int, steps: int, noise: float = 0.03) -> tuple[list[float], list[float]]:
    """Losses and gradient norms as in continued pretraining: re-warming lifts the loss, then it falls by a power law;
    the noise is correlated a little, norms are log-normal with a tail."""
    dice = np.random.default_rng(seed)
    step = np.arange(steps)
    trend = 1.6 + 1.2 * (1 + step / 150) ** -0.3 + 0.15 * np.exp(-(((step - 120) / 60) ** 2))
    white = dice.normal(0, noise, steps)
    loss = trend + white + 0.3 * np.concatenate([[0], white[:-1]])
    norm = np.exp(dice.normal(0, 0.18, steps)) * (0.4 + np.exp(-step / 80)) * (1 + 0.3 * (dice.random(steps) < 0.01))
    return loss.tolist(), norm.tolist()


def settled(settings: Settings | None = None, steps: int = 300) -> Guard:
    guard = Guard(settings or Settings())
    for loss, norm in zip(*run(1, steps), strict=True):
        assert guard.check(loss, norm) == "ok"
    return guard


@pytest.mark.parametrize("noise", [0.001, 0.03, 0.15])
def test_no_false_alarm_in_ten_thousand_noisy_steps(noise: float) -> None:
    guard = Guard(Settings())
    bad = [guard.reason for pair in zip(*run(0, 10_000, noise), strict=True) if guard.check(*pair) != "ok"]
    assert bad == []


def test_the_same_noise_does_raise_alarms_where_the_threshold_is_low() -> None:
    guard = Guard(Settings(spike=2.0, patience=10**9))
    verdicts = [guard.check(*pair) for pair in zip(*run(0, 10_000), strict=True)]
    assert verdicts.count("skip") > 20


@pytest.mark.parametrize("at", [ENOUGH, 100, 2000, 9000])
@pytest.mark.parametrize("fault", ["loss", "norm", "nan", "inf"])
def test_a_planted_spike_is_caught_where_it_is_and_nowhere_else(at: int, fault: str) -> None:
    losses, norms = run(3, at + 50)
    if fault == "norm":
        norms[at] *= 12
    else:
        losses[at] = {"loss": losses[at] + 0.6, "nan": math.nan, "inf": math.inf}[fault]
    guard = Guard(Settings())
    verdicts = [guard.check(loss, norm) for loss, norm in zip(losses, norms, strict=True)]
    assert [step for step, verdict in enumerate(verdicts) if verdict != "ok"] == [at]


def test_a_planted_spike_in_every_hundredth_step_is_caught_each_time() -> None:
    losses, norms = run(4, 5000)
    planted = list(range(100, 5000, 100))
    for step in planted:
        losses[step] += 1.0
    guard = Guard(Settings())
    assert [step for step in range(5000) if guard.check(losses[step], norms[step]) == "skip"] == planted


def test_nan_is_bad_from_the_first_step_on_but_a_high_first_loss_is_not() -> None:
    guard = Guard(Settings())
    assert guard.check(math.nan, 1.0) == "skip" and "loss is nan" in guard.reason
    assert guard.check(2.0, math.inf) == "skip" and "grad_norm is inf" in guard.reason
    assert guard.check(11.0, 900.0) == "ok" and guard.reason == ""


def test_patience_bad_steps_in_a_row_roll_back_and_one_good_step_between_them_does_not() -> None:
    guard = settled()
    assert [guard.check(9.0, 1.0) for _ in range(3)] == ["skip", "skip", "roll_back"]
    guard = settled()
    assert [guard.check(loss, 0.4) for loss in (9.0, 9.0, 2.5, 9.0, 9.0)] == ["skip", "skip", "ok", "skip", "skip"]


def test_a_run_that_diverges_ends_with_what_to_do() -> None:
    guard = settled()
    for _ in range(MOST_ROLL_BACKS):
        assert [guard.check(math.nan, 1.0) for _ in range(3)][-1] == "roll_back"
        assert guard.check(2.5, 0.4) == "ok"
    guard.check(math.nan, 1.0)
    guard.check(math.nan, 1.0)
    with pytest.raises(EngineError, match=r"Training diverges: 3 bad steps in a row \(loss is nan\).*Lower rate"):
        guard.check(math.nan, 1.0)


def test_roll_backs_far_apart_are_forgiven() -> None:
    guard, (losses, norms) = settled(), run(5, 3000)
    for time in range(3 * MOST_ROLL_BACKS):
        assert [guard.check(9.0, 1.0) for _ in range(3)][-1] == "roll_back"
        for step in range(300 + time * WINDOW, 300 + (time + 1) * WINDOW):
            guard.check(losses[step], norms[step])


def test_without_rollback_the_run_ends() -> None:
    guard = settled(Settings(rollback=False, patience=1))
    with pytest.raises(EngineError, match=r"guards\.rollback is false"):
        guard.check(9.0, 1.0)


def test_spike_zero_watches_for_nan_only() -> None:
    guard = settled(Settings(spike=0))
    assert guard.check(50.0, 1e6) == "ok" and guard.check(math.nan, 1.0) == "skip"


def test_a_new_level_is_no_fault_where_it_was_announced() -> None:
    guard = settled()
    assert guard.check(4.0, 1.0) == "skip"
    guard.forget()
    assert {guard.check(4.0 + 0.01 * (step % 3), 1.0) for step in range(100)} == {"ok"}


@pytest.mark.parametrize("of", [lambda guard: guard.state(), lambda guard: json.loads(json.dumps(guard.state()))])
def test_a_guard_that_was_stored_goes_on_as_the_one_it_was_stored_from(of: Callable[[Guard], dict[str, Any]]) -> None:
    losses, norms = run(6, 600)
    losses[400:402] = [9.0, 9.0]
    losses[500] = math.nan
    whole, verdicts = Guard(Settings()), []
    resumed: Guard | None = None
    for step in range(600):
        verdicts.append(whole.check(losses[step], norms[step]))
        if step == 400:  # in the middle of a row of bad steps
            resumed = Guard(Settings(), of(whole))
        elif resumed is not None:
            assert resumed.check(losses[step], norms[step]) == verdicts[-1]
    assert resumed is not None and resumed.state() == whole.state() and verdicts.count("skip") == 3
