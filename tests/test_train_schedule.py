"""The learning rate: as transformers' schedulers have it, and a function of the step alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
from estbench_training.cpt.schedule import DecayShape, Schedule, check, count, rate_at

from estbench.errors import ConfigError

STEPS = 200


@dataclass(frozen=True)
class Settings:
    rate: float = 2e-5
    min_rate: float = 2e-6
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    decay: float = 0.2
    decay_shape: DecayShape = "1-sqrt"


def theirs(name: str, warmup: int, **specific: Any) -> list[float]:
    """The rates of one of transformers' schedulers."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=Settings.rate)
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS, scheduler_specific_kwargs=specific
    )
    found = []
    for _ in range(STEPS):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def ours(settings: Settings) -> list[float]:
    return [rate_at(settings, step, STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("warmup", [0, 0.05, 7])
def test_cosine_and_linear_are_those_of_transformers(warmup: float) -> None:
    steps = count(warmup, STEPS)
    cosine = theirs("cosine_with_min_lr", steps, min_lr=2e-6)
    linear = theirs("polynomial", steps, lr_end=2e-6, power=1.0)
    assert ours(Settings(warmup=warmup)) == pytest.approx(cosine, rel=1e-9)
    assert ours(Settings(schedule="linear", warmup=warmup)) == pytest.approx(linear, rel=1e-9)
    assert ours(Settings(warmup=warmup)) != pytest.approx(linear, rel=1e-3)


@pytest.mark.parametrize("shape", ["1-sqrt", "linear"])
def test_wsd_is_that_of_transformers_after_its_warmup_which_begins_at_zero(shape: DecayShape) -> None:
    settings = Settings(schedule="wsd", decay_shape=shape)
    wsd = theirs("warmup_stable_decay", 10, num_decay_steps=40, decay_type=shape, min_lr_ratio=0.1)
    assert ours(settings)[10:] == pytest.approx(wsd[10:], rel=1e-9)
    from_zero = theirs("warmup_stable_decay", 10, num_decay_steps=40, decay_type=shape, min_lr_ratio=0.0)
    assert ours(replace(settings, min_rate=0.0)) == pytest.approx(from_zero, rel=1e-9)


def test_constant_stays_after_its_warmup() -> None:
    found = ours(Settings(schedule="constant"))
    assert found[0] == 0 and found[5] == pytest.approx(1e-5) and set(found[10:]) == {2e-5}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_the_rate_never_rises_after_the_warmup_and_ends_at_its_least(schedule: Schedule) -> None:
    settings = Settings(schedule=schedule)
    found = ours(settings)
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert rate_at(settings, STEPS, STEPS) == pytest.approx(2e-6)
    assert rate_at(settings, STEPS + 50, STEPS) == pytest.approx(2e-6)


def test_a_warmup_longer_than_the_run_is_all_warmup() -> None:
    assert [rate_at(Settings(warmup=400), step, 4) for step in range(4)] == pytest.approx([0, 5e-8, 1e-7, 1.5e-7])


def test_the_rate_needs_no_history() -> None:
    settings = Settings(schedule="wsd")
    forward = ours(settings)
    assert [rate_at(settings, step, STEPS) for step in reversed(range(STEPS))] == forward[::-1]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"rate": 0}, "rate"), ({"min_rate": 3e-5}, "min_rate"), ({"warmup": -1}, "warmup"), ({"warmup": 1.5}, "warmup"),
     ({"decay": 2.5}, "decay")],
)  # fmt: skip
def test_a_schedule_that_cannot_be_meant_is_refused(wrong: dict[str, float], word: str) -> None:
    check(Settings())
    with pytest.raises(ConfigError, match=f"^{word}: "):
        check(replace(Settings(), **wrong))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        yield
