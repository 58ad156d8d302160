"""What the gate promises: equal models fail as rarely as it says, real falls are found, few documents are no pass.

Nights are simulated documents that go through the gate's own `judge`, as `estbench gate` does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gate_world import pair, synthetic

from estbench import stats
from estbench.gate.policy import Policy, Pool, Rule, read
from estbench.gate.verdict import Row, TaskVerdict, decide, judge, overall

STRICT = Policy(margin=0, pool=Pool(margin=0))
Judged = tuple[TaskVerdict | None, tuple[TaskVerdict, ...]]


def row(
    rng: np.random.Generator,
    task: str,
    n: int,
    discordance: float,
    fall: float = 0.0,
    clusters: int = 0,
    margin: float = 0.0,
    rule: Rule | None = None,
) -> Row:
    """A task of 0/1 documents: `discordance` of them turn, and the candidate's score is lower by `fall`. Documents of
    one cluster turn together half of the time."""
    u = rng.random(n)
    names = np.arange(n) * clusters // n if clusters else None
    if names is not None:
        u = np.where(rng.random(n) < 0.5, rng.random(clusters)[names], u)
    better = (discordance - fall) / 2
    a, b = (u < better) | (u > 0.4 + discordance), ((u >= better) & (u < discordance)) | (u > 0.4 + discordance)
    units = [f"{task}{place}" for place in range(n)]
    of_clusters = None if names is None else [f"{task}{name}" for name in names.tolist()]
    found = stats.difference(a.astype(float), b.astype(float), of_clusters, units=units)
    return Row(task, True, rule or Rule(), difference=found, margin=margin, scale=100)


def continuous(rng: np.random.Generator, task: str, n: int, spread: float, clusters: int, margin: float) -> Row:
    """A task of scores whose paired difference has a standard deviation of `spread` (points / 100)."""
    names = [f"{task}{place * clusters // n}" for place in range(n)]
    d = rng.normal(0, spread, n)
    found = stats.difference(0.5 + d / 2, 0.5 - d / 2, names, units=[f"{task}-{place}" for place in range(n)])
    return Row(task, True, Rule(), difference=found, margin=margin, scale=100)


def nights(count: int, policy: Policy, make: Any, seed: int = 0) -> list[Judged]:
    rng = np.random.default_rng(seed)
    return [judge(policy, make(rng), policy.alpha) for _ in range(count)]


def statuses(found: Sequence[Judged]) -> Counter[str]:
    return Counter(overall(*one) for one in found)


@pytest.mark.parametrize("clusters", [0, 60])
def test_of_1000_pairs_of_equal_models_over_10_tasks_at_most_64_regress(clusters: int) -> None:
    """Family-wise, at alpha 0.05 and margin 0: 50 are expected, 64 is what chance allows."""

    def make(rng: np.random.Generator) -> list[Row]:
        return [row(rng, f"t{t}", 500 + 60 * t, 0.1 + 0.02 * t, clusters=clusters) for t in range(10)]

    assert statuses(nights(1000, STRICT, make))["regression"] <= 64


def test_without_correction_equal_models_would_regress_far_too_often() -> None:
    """Negative control: the same nights, each task at the whole of alpha."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        rows = [row(rng, f"t{t}", 600, 0.2) for t in range(10)]
        alarms += any(one.difference is not None and one.difference.p_below() <= 0.05 for one in rows)
    assert alarms > 90


@pytest.mark.parametrize(("family", "discordance"), [(10, 0.15), (3, 0.20)])
def test_one_task_that_loses_5_points_is_found_nine_times_in_ten(family: int, discordance: float) -> None:
    def make(rng: np.random.Generator) -> list[Row]:
        return [row(rng, f"t{t}", 1000, discordance, fall=0.05 if t == 0 else 0.0) for t in range(family)]

    found = nights(1500, STRICT, make, seed=1)
    assert np.mean([tasks[0].status == "regression" for _, tasks in found]) >= 0.90


@pytest.mark.parametrize("fall", [0.0, 0.05, -0.2])
def test_60_documents_are_undecided(fall: float) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        mine, theirs = pair(rng, fall, 0.25, n=60)
        found = decide(Policy(), synthetic("candidate", mine), synthetic("baseline", theirs))
        assert found.exit_code == 3 and {one.status for one in found.tasks} == {"undecided"}


def test_60_documents_of_a_model_that_fell_hardly_ever_pass_where_a_policy_lets_them_be_tested() -> None:
    policy = Policy(margin=2, pool=Pool(margin=1), minimum_n=1)

    def make(rng: np.random.Generator) -> list[Row]:
        return [row(rng, f"t{t}", 60, 0.1, fall=0.05, margin=2.0) for t in range(3)]

    found = nights(600, policy, make, seed=2)
    assert np.mean([task.status == "pass" for _, tasks in found for task in tasks]) <= 0.02
    assert statuses(found)["pass"] / 600 <= 0.02


# The sizes of `core` (docs/tasks.md and the data sets' cards; where only a part is published openly, that part), the
# clusters that its cards name, and the spread of paired differences that goes with 10 % of other answers.
CORE = (
    ("estcopa_chat", 1000, 500),
    ("belebele_et_chat", 900, 488),
    ("exam_et_chat", 1614, 0),
    ("estqa_chat", 603, 130),
    ("unimorph_et_chat", 1000, 500),
    ("word_meanings_et_chat", 1000, 0),
    ("ifeval_et_chat", 541, 0),
    ("valence_et_chat", 1000, 0),
)
CONTINUOUS = (
    ("flores_en_et_chat", 1012, 281),
    ("flores_et_en_chat", 1012, 281),
    ("estgec_l2_chat", 2029, 156),
    ("errnews_chat", 1000, 1000),
)


def core_night(policy: Policy) -> Any:
    def make(rng: np.random.Generator) -> list[Row]:
        rows = [row(rng, t, n, 0.1, clusters=c, margin=policy.margin_of(t, "proportion")) for t, n, c in CORE]
        return rows + [continuous(rng, t, n, 0.15, c, policy.margin_of(t, "points")) for t, n, c in CONTINUOUS]

    return make


def test_an_equal_sibling_passes_the_shipped_policy_on_nine_nights_in_ten() -> None:
    policy = read("core")
    assert {task for task, _, _ in (*CORE, *CONTINUOUS)} == set(policy.tasks)
    found = statuses(nights(400, policy, core_night(policy), seed=3))
    assert found["pass"] / 400 >= 0.90
    assert found["regression"] / 400 <= 0.06


def test_steps_of_less_than_the_margin_pass_one_by_one_and_fail_against_the_pinned_one() -> None:
    """30 steps of −0.3 points over tasks of 1,000 documents."""
    policy = Policy(margin=2, pool=Pool(margin=1.5))

    def step(fall: float) -> Any:
        return lambda rng: [row(rng, f"t{t}", 1000, 0.1 + fall, fall=fall, margin=2.0) for t in range(6)]

    one_step = statuses(nights(200, policy, step(0.003), seed=4))
    assert one_step["pass"] >= 160 and one_step["regression"] <= 30
    assert statuses(nights(100, policy, step(0.09), seed=5))["regression"] == 100


def test_strict_fails_only_what_is_surely_beyond_the_margin() -> None:
    lax, strict = (Policy(margin=3, pool=Pool(margin=3), strict=value) for value in (False, True))

    def make(rng: np.random.Generator) -> list[Row]:
        return [row(rng, f"t{t}", 1000, 0.15, fall=0.04, margin=3.0) for t in range(3)]

    assert statuses(nights(200, lax, make, seed=6))["regression"] > 180
    assert statuses(nights(200, strict, make, seed=6))["regression"] < 100


def test_an_undecided_task_under_a_passing_pool_is_a_pass_and_a_fallen_one_is_not() -> None:
    policy = Policy(margin=1, pool=Pool(margin=2))

    def make(rng: np.random.Generator) -> list[Row]:
        return [row(rng, f"t{t}", 800, 0.1, margin=1.0) for t in range(8)]

    found = nights(50, policy, make, seed=7)
    assert statuses(found)["pass"] >= 47
    assert any(task.status == "undecided" for _, tasks in found for task in tasks)


def test_an_advisory_task_fails_nothing() -> None:
    rng = np.random.default_rng(80)
    rows = [row(rng, f"t{t}", 1000, 0.1, margin=2.0) for t in range(4)]
    fallen = row(rng, "advisory", 1000, 0.3, fall=0.2, margin=2.0)
    fallen.blocking = False
    pool, tasks = judge(Policy(), [*rows, fallen], 0.05)
    assert tasks[-1].status == "regression" and overall(pool, tasks) == "pass"
    fallen.blocking = True
    assert overall(*judge(Policy(), [*rows, fallen], 0.05)) == "regression"


def test_an_undecided_pool_names_the_documents_that_would_decide() -> None:
    rng = np.random.default_rng(9)
    pool, tasks = judge(Policy(), [row(rng, f"t{t}", 150, 0.2, margin=2.0) for t in range(3)], 0.05)
    assert overall(pool, tasks) == "undecided" and pool is not None
    assert pool.needed is not None and pool.needed > 450


def test_weights_decide_what_the_pool_and_alpha_are_about() -> None:
    rng = np.random.default_rng(10)
    fallen = row(rng, "fallen", 1000, 0.15, fall=0.04, margin=50.0, rule=Rule(weight=10))
    rows = [fallen, *(row(rng, f"t{t}", 1000, 0.1, margin=50.0, rule=Rule(weight=0.1)) for t in range(5))]
    heavy = judge(Policy(pool=Pool(margin=1)), rows, 0.05)[0]
    for one in rows:
        one.rule = Rule()
    light = judge(Policy(pool=Pool(margin=1)), rows, 0.05)[0]
    assert heavy is not None and light is not None
    assert (heavy.estimate or 0) < -3 < (light.estimate or 0)


def test_bits_are_pooled_with_bits_only() -> None:
    rng = np.random.default_rng(11)
    points = [row(rng, f"t{t}", 500, 0.1, margin=2.0) for t in range(2)]
    bits = continuous(rng, "bits", 500, 0.01, 500, 0.005)
    bits.unit, bits.scale = "bits", 1.0
    pool, tasks = judge(Policy(), [*points, bits], 0.05)
    assert pool is not None and pool.unit == "points" and pool.difference is not None
    assert pool.difference.n == 1000 and tasks[2].unit == "bits"


def test_alarms_per_year_are_kept_at_a_thousandth_as_well() -> None:
    """alpha 1/365: in 2,000 nights of equal models 5.5 alarms are expected; 13 is what chance allows."""
    policy = Policy(margin=0, pool=Pool(margin=0), alpha=1 / 365)

    def make(rng: np.random.Generator) -> list[Row]:
        return [row(rng, f"t{t}", 400, 0.15) for t in range(4)]

    assert statuses(nights(2000, policy, make, seed=12))["regression"] <= 13
