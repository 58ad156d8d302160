"""Each check of a judge at its edges: what it needs, what it must not take for a fault, what it can't tell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from estbench_judges import faults
from estbench_judges.faults import Evidence, diagnose
from judge_simulations import JUDGE, MODELS, evidence, made, verdicts
from statsmodels.regression.linear_model import OLS


def names(found: Evidence) -> list[str]:
    return [fault.name for fault in diagnose(found)]


def test_slopes_are_those_of_statsmodels_with_clustered_errors() -> None:
    rng = np.random.default_rng(0)
    x, z, prompts = rng.normal(size=300), rng.normal(size=300), rng.integers(0, 60, 300)
    y = 0.2 * x + rng.normal(size=60)[prompts] + rng.normal(size=300)
    found = faults._slopes(y, [x, z], prompts.tolist())
    peer = OLS(y, np.column_stack([np.ones(300), x, z])).fit(cov_type="cluster", cov_kwds={"groups": prompts})
    np.testing.assert_allclose([one.value for one in found], peer.params)
    np.testing.assert_allclose([one.error for one in found], peer.bse)


def test_a_much_better_model_is_no_fault() -> None:
    """Negative control: one side wins nearly always, in both orders."""
    won = np.ones(300)
    assert names(Evidence("j", ["m"] * 300, range(300), won, won, words=np.full((300, 2), 100.0))) == []


@pytest.mark.parametrize(("value", "label"), [(1.0, "A"), (0.0, "B"), (0.5, "a tie")])
def test_every_label_can_collapse(value: float, label: str) -> None:
    same = np.full(200, value)
    (fault,) = diagnose(Evidence("j", ["m"] * 200, range(200), same, 1 - same))
    assert (fault.name, fault.size, fault.high) == ("collapse", 1, 1) and label in fault.words and fault.low > 0.9


def test_a_place_that_wins_most_prompts_in_both_orders_is_a_collapse() -> None:
    first, second = np.ones(300), np.where(np.arange(300) < 210, 0.0, 1.0)
    (fault,) = diagnose(Evidence("j", ["m"] * 300, range(300), first, second))
    assert (fault.name, fault.size) == ("collapse", 0.7) and "both orders" in fault.words


def test_the_second_place_can_be_preferred() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.choice([0.0, 1.0], 300, p=p) for p in ([0.65, 0.35], [0.35, 0.65]))
    (fault,) = diagnose(Evidence("j", ["m"] * 300, range(300), first, second))
    assert fault.name == "position" and fault.high < 0 and "second" in fault.words


def test_few_games_prove_nothing() -> None:
    few = faults.LEAST_GAMES // 2 - 1
    assert names(Evidence("j", ["m"] * few, range(few), np.full(few, math.nan), np.full(few, math.nan))) == []
    assert names(Evidence("j", ["m"] * few, range(few), np.ones(few), np.ones(few))) == []
    assert diagnose(Evidence("j", [], [], np.zeros(0), np.zeros(0))) == []


def test_failures_are_counted_per_call_and_two_in_a_hundred_are_no_alarm() -> None:
    first, second = np.tile([1.0, 0.0], 500), np.tile([1.0, 0.0], 500)
    first[:20] = math.nan
    assert names(Evidence("j", ["m"] * 1000, range(1000), first, second)) == []
    first[:150] = math.nan
    (fault,) = diagnose(Evidence("j", ["m"] * 1000, range(1000), first, second))
    assert (fault.name, fault.size) == ("failures", 0.075) and 0.02 < fault.low < 0.075 < fault.high


def test_calls_that_fail_together_are_less_sure() -> None:
    first = np.ones(1000)
    first[:33] = math.nan
    other = np.where(np.arange(1000) % 2 == 0, 1.0, 0.0)
    first[33:] = other[33:]
    alone = Evidence("j", ["m"] * 1000, range(1000), first, other)
    together = replace(alone, second=np.where(np.isnan(first), math.nan, other), prompts=[p // 33 for p in range(1000)])
    assert names(alone) == [] and names(together) == []  # 6.6 % of the latter's calls, of one cluster in thirty


def test_length_without_a_reference_is_in_doubt() -> None:
    (fault,) = diagnose(evidence(made(0), 0, "length", "none"))
    assert (fault.name, fault.severity) == ("length", "doubt") and "may be real" in fault.words
    (sure,) = diagnose(evidence(made(0), 0, "length", "people"))
    assert (sure.name, sure.severity) == ("length", "fault") and 0.2 < sure.low < sure.size < 0.3  # scores end at 1


def test_length_that_is_quality_is_told_by_people() -> None:
    """Longer answers are better, and a judge that sees it has no fault: people say the same."""
    world = made(2)
    better = replace(world, truth=np.clip(world.truth + 0.15 * world.doublings, 0, 1))
    (fault,) = diagnose(evidence(better, 2, None, "none"))
    assert (fault.name, fault.severity) == ("length", "doubt")
    for reference in ("people", "panel"):
        assert names(evidence(better, 2, None, reference)) == []


def test_a_bad_judge_in_the_panel_does_not_make_a_good_one_look_bad() -> None:
    world = made(3)
    bad = evidence(world, 3, "length")
    good = evidence(world, 4, None)
    assert good.others is not None and bad.others is not None
    spoilt = (bad.first + bad.second) / 2
    assert names(replace(good, others=np.stack([spoilt, good.others[1]]))) == []
    # Negative control: against that one judge alone, a preference for short answers seems to be there.
    assert names(replace(good, others=spoilt[None], other_names=("qwen",))) == ["length"]


def test_relatives_are_no_reference() -> None:
    found = evidence(made(4), 4, "family")
    assert names(found) == ["family"]
    assert names(replace(found, other_names=("gemma-3-12b", "gemma-2-9b"))) == []


def test_a_family_alone_is_in_doubt_and_a_relative_as_anchor_turns_the_sign() -> None:
    found = evidence(made(5), 5, "family")
    kin = np.array(found.models) == MODELS[0]
    assert found.words is not None and found.others is not None
    own = Evidence(
        JUDGE,
        [MODELS[0]] * int(kin.sum()),
        range(int(kin.sum())),
        found.first[kin],
        found.second[kin],
        words=found.words[kin],
        others=found.others[:, kin],
        other_names=found.other_names,
    )
    (fault,) = diagnose(own)
    assert (fault.name, fault.severity) == ("family", "doubt")
    # The anchor is a relative too: what is seen is no preference of one relative over another.
    assert names(replace(own, anchor="gemma-2-9b")) == []


def test_relatives_that_write_longer_are_not_taken_for_preferred() -> None:
    world = made(6, lengths=(1.5, 0.0, 0.0, 0.0))
    assert names(evidence(world, 6, "length", "people")) == ["length"]


def test_verdicts_and_evidence_have_to_belong_together() -> None:
    first, second = (games.reshape(-1) for games in verdicts(np.random.default_rng(0), made(0)))
    n = len(first)
    for change in ({"second": second[1:]}, {"words": np.ones((n, 3))}, {"others": np.ones((1, n))}, {"models": ["m"]}):
        with pytest.raises(ValueError, match="row"):
            replace(Evidence("j", ["m"] * n, range(n), first, second), **change)
