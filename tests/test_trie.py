"""Packs of log-likelihoods: each request once, each distinct token in one place, and nothing but the plan decides."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.engines.base import Ids, Pack, Packing, Request
from estbench.engines.trie import Tree, scoring_packs, split, token_order


def ids(values: Sequence[int]) -> Ids:
    return np.array(values, np.int32)


def asked(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Request]:
    requests = [Request(ids(prompt), ids(continuation)) for prompt, continuation in pairs]
    return {f"{hash(request.content()):x}": request for request in requests}


def forwarded(packs: Sequence[Pack]) -> int:
    """Tokens that an engine forwards: segments that the pack before did not have, and what is beyond the stem."""
    total, kept = 0, []
    for pack in packs:
        cuts, ids = pack.stem, pack.requests[0].prompt
        segments = [ids[a:b].tobytes() for a, b in itertools.pairwise([0, *cuts])]
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(segments, kept, strict=False))))
        total += sum(len(segment) // 4 for segment in segments[same:])
        kept = segments if same < len(segments) else kept
        total += len(Tree.build(pack.requests, max(cuts, default=0)).tokens)
    return total


letters = st.lists(st.integers(0, 2), max_size=9)
pairs = st.lists(st.tuples(letters.map(lambda some: [0, *some]), letters.map(lambda some: [*some, 1])), min_size=1)


@given(pairs, st.integers(1, 30), st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_packs_hold_each_request_once_and_no_more_than_fits(
    some: list[tuple[list[int], list[int]]], nodes: int, tokens: int
) -> None:
    plan = asked(some)
    packs = scoring_packs("task", plan, Packing(nodes=nodes, tokens=tokens))
    assert sorted(key for pack in packs for key in pack.keys) == sorted(plan)
    for pack in packs:
        assert all(plan[key] is request for key, request in zip(pack.keys, pack.requests, strict=True))
        start = max(pack.stem, default=0)
        assert list(pack.stem) == sorted(set(pack.stem))
        assert all(b - a <= tokens for a, b in itertools.pairwise((0, *pack.stem)))
        assert all(start < len(request.prompt) for request in pack.requests)
        assert len({request.prompt[:start].tobytes() for request in pack.requests}) == 1
        tree = Tree.build(pack.requests, start)
        one_path = len({request.ids.tobytes() for request in pack.requests}) == 1
        assert len(tree.tokens) <= nodes or one_path


@given(pairs, st.randoms())
@settings(max_examples=100, deadline=None)
def test_packs_do_not_depend_on_the_order_of_the_plan(
    some: list[tuple[list[int], list[int]]], dice: random.Random
) -> None:
    plan = asked(some)
    mixed = list(plan.items())
    dice.shuffle(mixed)
    assert scoring_packs("task", dict(mixed), Packing(nodes=12)) == scoring_packs("task", plan, Packing(nodes=12))


@given(pairs, st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_a_tree_has_each_prefix_once_and_knows_what_is_asked(
    some: list[tuple[list[int], list[int]]], least: int
) -> None:
    requests = list(asked(some).values())
    heads: list[list[list[int]]] = [
        [r.prompt[:n].tolist() for r in requests if len(r.prompt) > n] for n in range(least + 1)
    ]
    shared = max(n for n, some in enumerate(heads) if some and some == some[:1] * len(requests))
    tree = Tree.build(requests, shared)
    prefixes = [tuple(tree.prefix(node).tolist()) for node in range(len(tree.tokens))]
    assert set(prefixes) == {tuple(r.ids[:n].tolist()) for r in requests for n in range(shared + 1, r.tokens + 1)}
    assert len(set(prefixes)) == len(prefixes) and tree.depths.tolist() == [len(prefix) - 1 for prefix in prefixes]
    for (k, above), (j, below) in itertools.product(enumerate(prefixes), repeat=2):
        assert (k <= j < tree.ends[k]) == (below[: len(above)] == above)
    wanted: dict[tuple[int, ...], set[int]] = {}
    for r, request in enumerate(requests):
        assert request.continuation is not None
        at = slice(int(tree.bounds[r]), int(tree.bounds[r + 1]))
        assert tree.targets[at].tolist() == request.continuation.tolist()
        whole = [*request.prompt.tolist(), *request.continuation.tolist()]
        for i, node in enumerate(tree.nodes[at].tolist(), len(request.prompt)):
            assert prefixes[node] == tuple(whole[:i])
            wanted.setdefault(prefixes[node], set()).add(whole[i])
    assert {prefixes[node]: set(some.tolist()) for node, some in tree.wanted().items()} == wanted


def test_a_tree_refuses_to_share_what_is_scored() -> None:
    request = Request(ids([1, 2, 3]), ids([4]))
    assert len(Tree.build([request], 2).tokens) == 1
    with pytest.raises(ValueError, match="last token of each prompt"):
        Tree.build([request], 3)


@given(pairs, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_parts_of_a_pack_hold_each_request_once(some: list[tuple[list[int], list[int]]], most: int) -> None:
    requests = list(asked(some).values())
    parts = split(requests, 0, most)
    assert [i for part in parts for i in part] == token_order(requests) and all(parts)


def test_the_order_is_that_of_the_ids_whatever_their_size_and_length() -> None:
    dice = random.Random(1)
    long = [dice.choice([1, 255, 256, 70_000]) for _ in range(200)]
    answers = [[dice.choice([1, 256]) for _ in range(dice.randrange(1, 90))] for _ in range(200)]
    plan = [Request(ids(long[:n]), ids(answers[n])) for n in range(1, 200)]
    order = [plan[i].ids.tolist() for i in token_order(plan)]
    assert order == sorted(order) and order != [request.ids.tolist() for request in plan]


def choice_task(docs: int, head: int, question: int, answer: int, seed: int = 1, **other: int) -> dict[str, Request]:
    """Documents with four answers behind `head` tokens: the same for all, or each its own (own=1)."""
    dice = np.random.default_rng(seed)
    shared, found = dice.integers(3, 30_000, head), []
    for doc in range(docs):
        if other.get("passages") and doc % other["passages"] == 0:
            passage = dice.integers(3, 30_000, 180)
        first = dice.integers(3, 30_000, head) if other.get("own") else shared
        parts = [first, passage] if other.get("passages") else [first]
        prompt = np.concatenate([*parts, dice.integers(3, 30_000, question)])
        found += [(prompt.tolist(), dice.integers(3, 30_000, answer).tolist()) for _ in range(4)]
    return asked(found)


@pytest.mark.parametrize("nodes", [256, 2048, 8192])
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(choice_task(200, 110, 9, 7), id="one prefix, as with first_n shots"),
        pytest.param(choice_task(60, 500, 9, 7, own=1), id="sampled shots"),
        pytest.param(choice_task(90, 700, 15, 8, passages=3), id="passages with three questions"),
        pytest.param({**choice_task(50, 300, 9, 7, 1), **choice_task(50, 200, 9, 7, 2)}, id="two subjects"),
        pytest.param({**choice_task(50, 300, 9, 7, 1), **choice_task(50, 300, 9, 7, 2)}, id="two of one length"),
        pytest.param(choice_task(300, 0, 12, 1), id="letters"),
    ],
)
def test_hardly_a_token_is_forwarded_twice(plan: dict[str, Request], nodes: int) -> None:
    packs = scoring_packs("task", plan, Packing(nodes=nodes))
    once = len(Tree.build(list(plan.values())).tokens)
    assert once <= forwarded(packs) <= 1.05 * once


def test_a_document_and_its_choices_stay_together() -> None:
    plan = choice_task(100, 50, 9, 7)
    where = {key: i for i, pack in enumerate(scoring_packs("task", plan, Packing(nodes=200))) for key in pack.keys}
    by_prompt: dict[bytes, set[int]] = {}
    for key, request in plan.items():
        by_prompt.setdefault(request.prompt.tobytes(), set()).add(where[key])
    assert len(by_prompt) == 100 and all(len(packs) == 1 for packs in by_prompt.values())
    assert len(set(where.values())) > 10


def test_a_short_prompt_in_the_plan_does_not_cost_the_others_their_stem() -> None:
    """A normalisation by unconditional probability asks the answers behind the BOS alone."""
    plan = choice_task(200, 300, 9, 7)
    first = next(iter(plan.values())).prompt[0]
    alone = asked([([int(first)], r.continuation.tolist()) for r in plan.values() if r.continuation is not None])
    packs = scoring_packs("task", plan | alone, Packing(nodes=512))
    assert forwarded(packs) <= 1.05 * len(Tree.build([*plan.values(), *alone.values()]).tokens)


def test_packing_thirty_times_as_much_does_not_cost_nine_hundred_times_as_much() -> None:
    import time

    def cost(docs: int) -> float:
        plan = choice_task(docs, 60, 9, 3)
        begun = time.process_time()
        scoring_packs("task", plan, Packing())
        return time.process_time() - begun

    assert cost(3000) < 300 * min(cost(100) for _ in range(5))  # about 40; in quadratic time 900
