"""What is asked of an engine, in which portions, and what a failure means."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from estbench import answering, identity
from estbench.answering import answer
from estbench.engines.base import Answer, Failed, Generated, Pack, Packing, PackTooLarge, Request, Scored
from estbench.engines.mock import MockEngine
from estbench.errors import EngineError
from estbench.plan import TaskPlan
from estbench.responses import ResponseStore


def plan_of(n: int, task: str = "words", first: int = 0) -> Any:
    """A task of n documents with two choices each behind a prefix that all share."""
    docs = []
    for i in range(first, first + n):
        prompt = np.array([7, 7, 7, 100 + i], np.int32)
        requests = [Request(prompt, np.array([option, 2], np.int32)) for option in (20, 30)]
        keys = [identity.response_key("00", request.content()) for request in requests]
        docs.append(SimpleNamespace(keys=keys, requests=requests))
    plan = TaskPlan.__new__(TaskPlan)
    plan.card, plan.docs = SimpleNamespace(name=task), docs  # type: ignore[assignment]
    return plan


class Counting(MockEngine):
    """Remembers the packs it was given; more than `most` requests at once do not fit."""

    packing = Packing(nodes=9)

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most, self.packs = most, list[tuple[str, ...]]()

    def compute(self, pack: Pack) -> Sequence[Answer]:
        if len(pack.requests) > self.most:
            raise PackTooLarge(pack, "this machine")
        self.packs.append(pack.keys)
        return super().compute(pack)


def all_keys(*plans: Any) -> list[str]:
    return sorted({key for plan in plans for doc in plan.docs for key in doc.keys})


def test_every_request_is_asked_once_and_stored(tmp_path: Path) -> None:
    plan, engine = plan_of(12), Counting()
    with ResponseStore("aa", tmp_path) as store:
        found = answer([plan], engine, store)
    assert sorted(found.responses) == all_keys(plan) and not found.failures
    assert sorted(key for pack in engine.packs for key in pack) == all_keys(plan) and len(engine.packs) > 2
    assert sorted(ResponseStore("aa", tmp_path).load(all_keys(plan))) == all_keys(plan)


def test_what_two_tasks_ask_is_asked_once(tmp_path: Path) -> None:
    one, two, engine = plan_of(6), plan_of(6, "others", first=3), Counting()
    with ResponseStore("aa", tmp_path) as store:
        found = answer([one, two], engine, store)
    assert len(found.responses) == 18 and engine.forwarded == 18


def test_a_pack_that_does_not_fit_is_halved_until_it_does(tmp_path: Path) -> None:
    plan, whole, halved = plan_of(12), Counting(), Counting(most=2)
    with ResponseStore("aa", tmp_path) as store:
        expected = answer([plan], whole, store).responses
    with ResponseStore("bb", tmp_path) as store:
        found = answer([plan], halved, store).responses
    assert found == expected
    assert max(map(len, whole.packs)) > 2 and max(map(len, halved.packs)) <= 2


def test_a_run_that_goes_on_makes_the_packs_that_the_split_left(tmp_path: Path) -> None:
    """Also on a machine on which the whole pack would fit: other packs would give other bits."""
    plan = plan_of(12)

    class Dying(Counting):
        def compute(self, pack: Pack) -> Sequence[Answer]:
            if len(self.packs) == 3:
                raise KeyboardInterrupt
            return super().compute(pack)

    with ResponseStore("calm", tmp_path) as store:
        calm = Counting(most=3)
        answer([plan], calm, store)
    first, second = Dying(most=3), Counting()
    with ResponseStore("killed", tmp_path) as store, pytest.raises(KeyboardInterrupt):
        answer([plan], first, store)
    with ResponseStore("killed", tmp_path) as store:
        answer([plan], second, store)
    assert first.packs == calm.packs[:3] and second.packs[0] == calm.packs[3]
    assert sorted(key for pack in first.packs + second.packs for key in pack) == all_keys(plan)


def test_one_request_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    with ResponseStore("aa", tmp_path) as store, pytest.raises(EngineError, match="single request of 5 tokens"):
        answer([plan_of(4)], Counting(most=0), store)


class Failing(Counting):
    """Has no answer to requests of every third document, or to none at all."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def compute(self, pack: Pack) -> Sequence[Answer]:
        given = super().compute(pack)
        return [
            Failed("HTTP 500 three times") if request.prompt[-1] % self.every == 0 else one
            for request, one in zip(pack.requests, given, strict=True)
        ]


def test_a_failure_is_missing_data_and_is_asked_again(tmp_path: Path) -> None:
    plan, said = plan_of(9), list[str]()
    with ResponseStore("aa", tmp_path) as store:
        found = answer([plan], Failing(every=3), store, say=said.append)
    assert len(found.responses) == 12 and set(found.failures.values()) == {"HTTP 500 three times"}
    assert not found.failures.keys() & found.responses.keys()
    assert said == ["6 of 18 requests have no response (HTTP 500 three times)."]
    with ResponseStore("aa", tmp_path) as store:
        again = Counting()
        complete = answer([plan], again, store)
    assert again.forwarded == 6 and len(complete.responses) == 18 and not complete.failures


def test_an_engine_that_answers_nothing_is_an_error(tmp_path: Path) -> None:
    engine = Failing(every=1)
    with ResponseStore("aa", tmp_path) as store, pytest.raises(EngineError, match=r"None of the first 2\d requests"):
        answer([plan_of(500)], engine, store)
    assert engine.forwarded <= answering.HOPELESS + 8  # it does not go through all of them first
    with ResponseStore("bb", tmp_path) as store, pytest.raises(EngineError, match="None of the first 4 requests"):
        answer([plan_of(2)], Failing(every=1), store)


def test_packs_may_come_back_in_any_order(tmp_path: Path) -> None:
    class Backwards(Counting):
        def answer(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
            yield from super().answer(packs[::-1])

    plan = plan_of(12)
    with ResponseStore("aa", tmp_path) as one, ResponseStore("bb", tmp_path) as two:
        assert answer([plan], Backwards(), one).responses == answer([plan], Counting(), two).responses


def test_answers_of_unknown_weights_count_for_so_long_as_the_engine_says(tmp_path: Path) -> None:
    plan = plan_of(3)

    class Remote(Counting):
        max_age = 3600.0

    with ResponseStore("aa", tmp_path) as store:
        answer([plan], Remote(), store)
    young = Remote()
    with ResponseStore("aa", tmp_path) as store:
        answer([plan], young, store)
    assert young.forwarded == 0
    [file] = (tmp_path / "aa").glob("*.jsonl")
    os.rename(file, file.with_name(f"{int(time.time()) - 3700}-{file.name.partition('-')[2]}"))
    old, local = Remote(), Counting()
    with ResponseStore("aa", tmp_path) as store:
        answer([plan], local, store)
    assert local.forwarded == 0  # weights that are known by their content do not age
    with ResponseStore("aa", tmp_path) as store:
        answer([plan], old, store)
    assert old.forwarded == 6


def test_thinking_is_kept_and_old_records_are_read(tmp_path: Path) -> None:
    thought = Generated("A", 40, "stop", "hmm", 30)
    with ResponseStore("aa", tmp_path) as store:
        store.append({"k1": thought, "k2": Generated("B", 1, "stop"), "k3": Scored(-1.0, True)})
    found = ResponseStore("aa", tmp_path).load({"k1", "k2", "k3"})
    assert found == {"k1": thought, "k2": Generated("B", 1, "stop"), "k3": Scored(-1.0, True)}
