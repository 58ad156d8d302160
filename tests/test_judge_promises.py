"""What estbench promises of judges, with simulated ones: faults are named, a bad judge of three does no harm, corrected
intervals cover the truth. Each beside what happens without."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from estbench_judges.battles import win_rate
from estbench_judges.corrected import Corrected, ppi
from estbench_judges.faults import diagnose
from estbench_judges.panel import median
from judge_simulations import FAULTS, answers, evidence, made, people, scores

from estbench.stats.resampling import Floats

LABELS, OTHERS = 200, 600


@pytest.mark.parametrize("reference", ["panel", "people"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_named_and_no_other(fault: str, reference: str) -> None:
    found = Counter(
        tuple(one.name for one in diagnose(evidence(made(seed), seed, fault, reference))) for seed in range(40)
    )
    assert all(fault in names for names in found)
    assert found[fault,] >= 37


@pytest.mark.parametrize("reference", ["panel", "people", "none"])
def test_a_judge_without_a_fault_gets_none(reference: str) -> None:
    """Negative control: at most 5 % false alarms."""
    alarms = sum(bool(diagnose(evidence(made(seed), seed, None, reference))) for seed in range(100))
    assert alarms <= 5


def order(values: Floats) -> list[int]:
    return np.argsort(values).tolist()


def rankings(fault: str, seed: int) -> tuple[bool, bool]:
    """Whether the panel's medians, and its means, rank the models right: one bad judge of three; the weakest model is
    the judge's relative and writes four times as much as the others."""
    world = made(seed, abilities=(-0.8, -0.2, 0.3, 0.8), lengths=(2.0, 0.0, 0.0, 0.0))
    rng = np.random.default_rng((seed, 9))
    votes = np.stack([scores(rng, world, which).reshape(-1) for which in (fault, None, None)])
    medians = np.nanmean(median(votes).reshape(world.truth.shape), axis=1)
    means = np.nanmean(np.nanmean(votes, axis=0).reshape(world.truth.shape), axis=1)
    right = order(world.truth.mean(axis=1))
    return order(medians) == right, order(means) == right


@pytest.mark.parametrize("fault", FAULTS)
def test_the_median_of_three_ranks_right_with_one_bad_judge(fault: str) -> None:
    assert sum(rankings(fault, seed)[0] for seed in range(40)) >= 38


def test_the_mean_of_three_ranks_wrong_with_one_bad_judge() -> None:
    """Negative control."""
    assert sum(rankings("length", seed)[1] for seed in range(40)) <= 10


@pytest.fixture(scope="module")
def truth() -> float:
    """What people say of the model of `simulated` on average, over a million documents."""
    rng = np.random.default_rng(0)
    return float(people(rng, answers(rng, np.array(0.6), np.array(1.0), np.array(1.0), (10, 100_000))).mean())


def simulated(fault: str, simulations: int = 1000) -> tuple[Floats, Floats]:
    """Labels (simulations, 200) and the judge's scores (simulations, 800) of a relative that writes twice as much."""
    rng = np.random.default_rng(5)
    shape = (simulations, LABELS + OTHERS)
    world = answers(rng, np.array(0.6), np.array(1.0), np.array(1.0), shape)
    return people(rng, world)[:, :LABELS], scores(rng, world, fault)


@pytest.mark.parametrize("fault", FAULTS)
def test_corrected_intervals_cover_the_truth(fault: str, truth: float) -> None:
    labels, judged = simulated(fault)
    corrected = raw = 0
    for human, own in zip(labels, judged, strict=True):
        found, plain = ppi(human, own[:LABELS], own[LABELS:]), win_rate(own)
        assert isinstance(found, Corrected) and found.low is not None and found.high is not None
        corrected += found.low <= truth <= found.high
        raw += plain.low is not None and plain.high is not None and plain.low <= truth <= plain.high
    assert corrected >= 0.93 * len(labels)
    assert raw < 0.5 * len(labels)  # negative control: the judge's own interval


def test_corrected_intervals_are_narrower_than_people_s_alone() -> None:
    labels, judged = simulated("family", 50)
    widths = [
        (found.high or 0) - (found.low or 0)
        for human, own in zip(labels, judged, strict=True)
        for found in (ppi(human, own[:LABELS], own[LABELS:]), win_rate(human))
        if not hasattr(found, "lacking")
    ]
    assert np.mean(widths[::2]) < 0.95 * np.mean(widths[1::2])
