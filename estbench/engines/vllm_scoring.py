"""Log-likelihoods from a vLLM server, by the cheaper of two ways: a walk down the token trie, or echo.

walk  one token is asked behind each scored prefix, with the log-probs of the children wanted (`logprob_token_ids`).
      Prefixes come out of the server's prefix cache, whole blocks of it; letters A to D behind one prompt are one ask.
echo  the whole of context and continuation, with the log-probs of the prompt. vLLM leaves its prefix cache out then.

A part is one HTTP request with some prompts; a work is a pack with its parts under way. What is read from a reply is
checked: the right tokens, finite log-probs that sum to at most 1, none above that of the token that was sampled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from estbench.engines.base import Answer, Failed, Pack, Request, Scored
from estbench.engines.replies import BadReply, as_list, as_logprob, as_object, as_text, choices, expect
from estbench.engines.transport import Unanswered
from estbench.engines.trie import Tree

ID = "token_id:"  # how a server names a token by its id
MOST_IDS = 20  # log-probs that a part asks for; more than most servers give (--max-logprobs)
PROMPTS = 16  # prompts of one part
TOKENS = 8192  # tokens of these
LEAST = -9000.0  # vLLM writes -9999 for minus infinity
SLACK = 1e-3  # rounding


@dataclass(eq=False, slots=True)
class Part:
    """One HTTP request: its body, how many prompts are in it, what makes something checked of its reply."""

    body: dict[str, Any]
    prompts: int
    check: Callable[[Any], Any]
    place: Any = None  # the work's own


class Work(Protocol):
    """A pack that is being answered."""

    def parts(self) -> list[Part]: ...

    def take(self, part: Part, given: Any) -> list[Part]:
        """What a part was answered, or Unanswered; gives the parts that follow from it."""

    def answers(self) -> list[Answer]:
        """The answers, once no part is under way."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Predicted seconds of a server. Measured on CPUs with 0.6 M and 24 M parameters; only ratios matter."""

    block: int | None = 32  # tokens of a block of the prefix cache; None: it has none
    prompt: float = 3.5e-3  # for a prompt: HTTP, scheduling, sampling
    token: float = 1e-4  # for a token that is forwarded
    echoed: float = 1e-4  # on top for a token whose log-prob comes back: Python objects and JSON

    def walk(self, tree: Tree) -> float:
        """Of walking a trie."""
        nodes = np.unique(tree.nodes)
        lengths = tree.depths[nodes].astype(np.int64) + 1
        common = [min(len(tree.shared), int(lengths[0]))]  # with the prefix before, in depth-first order
        common += [int(tree.depths[a + 1 : b + 1].min()) for a, b in itertools.pairwise(nodes)]
        cached = np.zeros(len(nodes), np.int64)
        if self.block is not None:
            cached = np.minimum(common, lengths - 1) // self.block * self.block
        return self.prompt * len(nodes) + self.token * float((lengths - cached).sum())

    def echo(self, requests: Sequence[Request]) -> float:
        """Of echoing requests."""
        return self.prompt * len(requests) + (self.token + self.echoed) * sum(r.tokens + 1 for r in requests)


def costs_of(parameters: int, *, block: int | None, cpu: bool, devices: int = 1) -> Costs:
    """The costs for a model of this size: two operations a parameter and token, on cores or data-centre GPUs."""
    speed = 4e10 if cpu else 1.5e14 * devices
    return Costs(block=block, token=(5e-5 if cpu else 2e-6) + 2 * parameters / speed)


def cheaper(packs: Sequence[Pack], costs: Costs) -> str:
    """walk or echo, for the packs of one task; at most 16 of them are looked at."""
    some = packs[:: max(1, len(packs) // 16)]
    walk = sum(costs.walk(tree_of(pack)) for pack in some)
    return "walk" if walk <= sum(costs.echo(pack.requests) for pack in some) else "echo"


def tree_of(pack: Pack) -> Tree:
    """The trie of a pack."""
    return Tree.build(pack.requests, min(max(pack.stem, default=0), *(len(r.prompt) - 1 for r in pack.requests)))


@dataclass(slots=True)
class _Group:
    """Prefixes that are asked in one part, and the children wanted behind each."""

    nodes: list[int] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    wanted: list[list[int]] = field(default_factory=list)
    union: set[int] = field(default_factory=set)

    def takes(self, prompt: list[int], ids: list[int]) -> bool:
        tokens = sum(map(len, self.prompts)) + len(prompt)
        return (
            len(self.prompts) < PROMPTS and tokens <= TOKENS and len(self.union | set(ids)) <= MOST_IDS
        ) or not self.prompts

    def add(self, node: int, prompt: list[int], ids: list[int]) -> None:
        self.nodes.append(node)
        self.prompts.append(prompt)
        self.wanted.append(ids)
        self.union |= set(ids)


class Walk:
    """A pack that is scored by a walk down its trie. All of it may be under way at once: vLLM keeps a block of the
    prefix cache from the moment it is scheduled, so that prompts of one batch share it, too."""

    def __init__(self, pack: Pack, model: str) -> None:
        self.pack, self.model, self.tree = pack, model, tree_of(pack)
        self.found: dict[int, dict[int, float]] = {}  # node -> token -> log-prob
        self.sampled: dict[int, int] = {}  # node -> the likeliest token
        self.failed: dict[int, str] = {}  # node -> why it has no numbers

    def parts(self) -> list[Part]:
        groups = [_Group()]
        for node, prefix, ids in self._asked():
            for low in range(0, len(ids), MOST_IDS):
                if not groups[-1].takes(prefix, ids[low : low + MOST_IDS]):
                    groups.append(_Group())
                groups[-1].add(node, prefix, ids[low : low + MOST_IDS])
        return [self._part(group) for group in groups]

    def _asked(self) -> list[tuple[int, list[int], list[int]]]:
        """(node, tokens up to it, children wanted), depth-first."""
        first: dict[int, list[int]] = {}
        for i, request in enumerate(self.pack.requests):
            assert request.continuation is not None
            for j, node in enumerate(self.tree.nodes[self.tree.bounds[i] : self.tree.bounds[i + 1]].tolist()):
                if node not in first:
                    first[node] = [*request.prompt.tolist(), *request.continuation[:j].tolist()]
        return [(node, first[node], ids.tolist()) for node, ids in self.tree.wanted().items()]

    def _part(self, group: _Group) -> Part:
        body = walk_body(self.model, group.prompts, sorted(group.union))
        return Part(body, len(group.prompts), lambda reply: walked(reply, group.prompts, group.wanted), group)

    def take(self, part: Part, given: Any) -> list[Part]:
        group: _Group = part.place
        if isinstance(given, Unanswered):
            self.failed |= dict.fromkeys(group.nodes, given.reason)
            return []
        for node, (sampled, values) in zip(group.nodes, given, strict=True):
            self.sampled[node] = sampled
            self.found.setdefault(node, {}).update(values)
        return []

    def answers(self) -> list[Answer]:
        given: list[Answer] = []
        for low, high in zip(self.tree.bounds, self.tree.bounds[1:], strict=False):
            nodes, targets = self.tree.nodes[low:high].tolist(), self.tree.targets[low:high].tolist()
            reason = next((self.failed[node] for node in nodes if node in self.failed), None)
            if reason is not None:
                given.append(Failed(reason))
                continue
            total = math.fsum(self.found[node][target] for node, target in zip(nodes, targets, strict=True))
            greedy = all(self.sampled[node] == target for node, target in zip(nodes, targets, strict=True))
            given.append(Scored(total, greedy))
        return given


def walk_body(model: str, prompts: list[list[int]], ids: list[int]) -> dict[str, Any]:
    """The request that asks for the log-probs of `ids` right behind each prompt."""
    return {
        "model": model,
        "prompt": prompts,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": len(ids),
        "logprob_token_ids": ids,
        "return_tokens_as_token_ids": True,
    }


def walked(reply: Any, prompts: list[list[int]], wanted: list[list[int]]) -> list[tuple[int, dict[int, float]]]:
    """For each prompt the likeliest next token, and token -> log-prob of those wanted. BadReply if they can't be."""
    _check_read(reply, prompts)
    rows = []
    for choice, ids in zip(choices(reply, len(prompts)), wanted, strict=True):
        logprobs = as_object(choice.get("logprobs"), "logprobs")
        [top] = as_list(logprobs.get("top_logprobs"), "top_logprobs", 1)
        [name] = as_list(logprobs.get("tokens"), "tokens", 1)
        sampled = _id(name)
        values = {_id(key): value for key, value in as_object(top, "top_logprobs[0]").items()}
        if missing := [i for i in (sampled, *ids) if i not in values]:
            raise BadReply(f"the log-prob of token {missing[0]} is not in top_logprobs")
        kept = {i: _finite(values[i], i) for i in {sampled, *ids}}
        if sum(math.exp(value) for value in kept.values()) > 1 + SLACK:
            raise BadReply("probabilities that sum to more than 1")
        if max(kept.values()) > kept[sampled] + SLACK:
            raise BadReply(f"token {sampled} was sampled, which is not the likeliest")
        rows.append((sampled, {i: kept[i] for i in ids}))
    return rows


class Echo:
    """A pack that is scored by having whole requests echoed."""

    def __init__(self, pack: Pack, model: str) -> None:
        self.pack, self.model = pack, model
        self.given: dict[int, Answer] = {}

    def parts(self) -> list[Part]:
        groups: list[list[int]] = [[]]
        tokens = 0
        for i, request in enumerate(self.pack.requests):
            tokens += request.tokens + 1
            if groups[-1] and (len(groups[-1]) == PROMPTS or tokens > TOKENS // 4):
                groups.append([])
                tokens = request.tokens + 1
            groups[-1].append(i)
        return [self._part(group) for group in groups]

    def _part(self, group: list[int]) -> Part:
        asked = [self.pack.requests[i] for i in group]
        body = echo_body(self.model, [_whole(request) for request in asked])
        return Part(body, len(group), lambda reply: echoed(reply, asked), group)

    def take(self, part: Part, given: Any) -> list[Part]:
        failed = isinstance(given, Unanswered)
        self.given |= {i: Failed(given.reason) if failed else given[k] for k, i in enumerate(part.place)}
        return []

    def answers(self) -> list[Answer]:
        return [self.given[i] for i in range(len(self.pack.requests))]


def echo_body(model: str, prompts: list[list[int]]) -> dict[str, Any]:
    """The request that asks for the log-probs of all tokens of each prompt."""
    return {
        "model": model,
        "prompt": prompts,
        "max_tokens": 0,
        "echo": True,
        "temperature": 0,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }


def echoed(reply: Any, asked: Sequence[Request]) -> list[Scored]:
    """The log-likelihood of each request's continuation. BadReply if it can't be."""
    prompts = [_whole(request) for request in asked]
    _check_read(reply, prompts)
    rows = []
    for choice, ids, request in zip(choices(reply, len(asked)), prompts, asked, strict=True):
        logprobs = as_object(choice.get("logprobs"), "logprobs")
        expect(as_list(logprobs.get("tokens"), "tokens", len(ids)), [f"{ID}{i}" for i in ids], "the echoed prompt")
        values = as_list(logprobs.get("token_logprobs"), "token_logprobs", len(ids))
        tops = as_list(logprobs.get("top_logprobs"), "top_logprobs", len(ids))
        total, greedy = [], True
        for i in range(len(request.prompt), len(ids)):
            total.append(_finite(values[i], ids[i]))
            best = max(_finite(value, 0) for value in as_object(tops[i], f"top_logprobs[{i}]").values())
            greedy = greedy and total[-1] >= best
        rows.append(Scored(math.fsum(total), greedy))
    return rows


def _whole(request: Request) -> list[int]:
    assert request.continuation is not None
    return [*request.prompt.tolist(), *request.continuation.tolist()]


def _check_read(reply: Any, prompts: list[list[int]]) -> None:
    """The server has read what was sent."""
    usage = as_object(as_object(reply).get("usage"), "usage")
    expect(usage.get("prompt_tokens"), sum(map(len, prompts)), "usage.prompt_tokens")


def _finite(value: Any, token: int) -> float:
    found = as_logprob(value, f"the log-prob of token {token}")
    if found < LEAST:
        raise BadReply(f"the log-prob of token {token} is {found}, which stands for none")
    return min(found, 0.0)


def _id(name: Any) -> int:
    text = as_text(name, "a token")
    if not text.startswith(ID) or not text.removeprefix(ID).isdigit():
        raise BadReply(f"the token {text[:40]!r} is not named by its id")
    return int(text.removeprefix(ID))
