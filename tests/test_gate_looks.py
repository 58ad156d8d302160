"""Looking more than once: the same verdicts for a third of the documents where a case is clear, and no more alarms."""

from __future__ import annotations

import numpy as np
import pytest
from gate_world import LETTERS, pair, synthetic

from estbench.errors import ConfigError
from estbench.gate import looks
from estbench.gate.looks import Budget
from estbench.gate.policy import Policy, Pool
from estbench.gate.verdict import Verdict, decide

COUNTS = dict.fromkeys(LETTERS, 600)


def in_looks(policy: Policy, both: list[dict[str, np.ndarray]]) -> tuple[list[Verdict], float]:
    """The last verdicts, and the share of documents that they needed."""
    mine, theirs = both
    whole = synthetic("baseline", theirs)
    sides: list[tuple[str, looks.Side]] = [("baseline", lambda _: whole)]
    found = list(looks.sequence(policy, policy.looks, lambda at: synthetic("candidate", mine, at), sides, COUNTS))
    share, verdicts = found[-1]
    return verdicts, share


@pytest.mark.parametrize("fall", [0.14, -0.12], ids=["a clear fall", "a clear gain"])
def test_clear_cases_have_the_same_verdict_for_a_third_of_the_documents(fall: float) -> None:
    rng, policy = np.random.default_rng(1), Policy(margin=2, pool=Pool(margin=1), tasks=LETTERS)
    shares, agreed = [], 0
    for _ in range(40):
        sides = pair(rng, fall)
        verdicts, share = in_looks(policy, sides)
        whole = decide(policy, synthetic("candidate", sides[0]), synthetic("baseline", sides[1]))
        agreed += verdicts[0].status == whole.status == ("regression" if fall > 0 else "pass")
        shares.append(share)
    assert agreed == 40
    assert np.mean(shares) <= 1 / 3


def test_a_case_that_is_not_clear_is_looked_at_to_the_end() -> None:
    rng, policy = np.random.default_rng(2), Policy(margin=2, pool=Pool(margin=1), tasks=LETTERS)
    shares = [in_looks(policy, pair(rng, 0.015))[1] for _ in range(10)]
    assert np.mean(shares) > 0.8


def alarms(policy: Policy, sims: int, nominal: bool = True) -> int:
    rng, count = np.random.default_rng(3), 0
    for _ in range(sims):
        sides = pair(rng, 0.0)
        if nominal:
            count += in_looks(policy, sides)[0][0].status == "regression"
            continue
        whole = synthetic("baseline", sides[1])
        count += any(
            decide(looks.at_look(policy, COUNTS), synthetic("candidate", sides[0], share), whole).status == "regression"
            for share in policy.looks
        )
    return count


@pytest.mark.slow
def test_five_looks_at_equal_models_alarm_no_more_often_than_one() -> None:
    policy = Policy(margin=0, pool=Pool(margin=0), tasks=LETTERS)
    assert alarms(policy, 600) <= 42  # 5 % are 30; 42 is its 99 % bound


@pytest.mark.slow
def test_looks_without_alpha_spending_alarm_too_often() -> None:
    """Negative control: the same five looks, each at the whole of alpha."""
    policy = Policy(margin=0, pool=Pool(margin=0), tasks=LETTERS)
    assert alarms(policy, 300, nominal=False) > 30


def test_a_pool_that_passes_early_does_not_stop_it_while_a_task_is_open() -> None:
    rng = np.random.default_rng(4)
    mine, theirs = pair(rng, -0.25, 0.3)
    mine["d"], theirs["d"] = pair(rng, 0.02)[0]["d"], pair(rng, 0.02)[1]["d"]
    policy = Policy(margin=2, pool=Pool(margin=1), tasks=LETTERS)
    first = looks.sequence(policy, policy.looks, lambda share: synthetic("candidate", mine, share),
                           [("baseline", lambda _: synthetic("baseline", theirs))], COUNTS)  # fmt: skip
    _, verdicts = next(first)
    assert verdicts[0].pool is not None and verdicts[0].pool.status == "pass"
    assert not looks.is_clear(verdicts) and next(first)[0] == 0.2


@pytest.mark.parametrize(
    ("word", "expected"),
    [("5000", Budget(5000)), ("30m", Budget(seconds=1800)), ("1.5h", Budget(seconds=5400)), ("all", Budget())],
)
def test_budgets_are_documents_or_time(word: str, expected: Budget) -> None:
    assert Budget.read(word) == expected


@pytest.mark.parametrize("word", ["", "0", "-5", "5.5", "3 weeks", "m", "1e9"])
def test_what_is_no_budget_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="budget="):
        Budget.read(word)


def test_looks_end_where_the_documents_of_the_budget_do() -> None:
    policy = Policy()
    assert looks.steps(policy, Budget(), 1000) == (0.1, 0.2, 0.4, 0.7, 1.0)
    assert looks.steps(policy, Budget(300), 1000) == (0.1, 0.2, 0.3)
    assert looks.steps(policy, Budget(50), 1000) == (0.05,)
    assert looks.steps(policy, Budget(5000), 1000) == (0.1, 0.2, 0.4, 0.7, 1.0)
