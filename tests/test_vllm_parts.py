"""What engine=vllm is made of: the cost of both ways, what a reply must look like, thinking, who a server is."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench.checkpoint import Checkpoint, find
from estbench.engines import vllm_identity, vllm_scoring
from estbench.engines.base import Answer, Decoding, Generated, Pack, Request, Scored
from estbench.engines.replies import BadReply
from estbench.engines.thinking import THINK
from estbench.engines.transport import Unanswered
from estbench.engines.vllm import Schedule
from estbench.engines.vllm_generation import Step, Style, Writing, written
from estbench.engines.vllm_scoring import Costs, Part, Walk, cheaper, costs_of, echoed, walked
from estbench.errors import ConfigError
from estbench.tokens import Tokens

SMALL = st.integers(0, 3)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Checkpoint:
    return find(str(tiny_model))


@pytest.fixture(scope="module")
def tokens(model: Checkpoint) -> Tokens:
    return Tokens(model.path)


def pack(requests: list[Request], task: str = "t") -> Pack:
    return Pack(task, tuple(f"{task}-{i}" for i in range(len(requests))), tuple(requests))


def request(prompt: list[int], continuation: list[int]) -> Request:
    return Request(np.array(prompt, np.int32), np.array(continuation, np.int32))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.lists(SMALL, max_size=6), st.lists(SMALL, min_size=1, max_size=4)), min_size=1, max_size=12)
)
def test_parts_of_a_walk_make_up_every_log_likelihood(pairs: list[tuple[list[int], list[int]]]) -> None:
    """Whatever hangs together: the sum over the nodes asked is the sum over the continuation."""
    requests = [request([9, *prompt], continuation) for prompt, continuation in pairs]
    walk = Walk(pack(requests), "m")

    def value(prefix: list[int], token: int) -> float:
        return -1.0 - hash((tuple(prefix), token)) % 1000 / 1000

    for part in walk.parts():
        group = part.place
        rows = [
            (4, {i: value(prompt, i) for i in ids}) for prompt, ids in zip(group.prompts, group.wanted, strict=True)
        ]
        assert walk.take(part, rows) == []
    for one, answer in zip(requests, walk.answers(), strict=True):
        ids = [*one.prompt.tolist(), *one.continuation.tolist()]  # type: ignore[union-attr]
        expected = math.fsum(value(ids[:i], ids[i]) for i in range(len(one.prompt), len(ids)))
        assert isinstance(answer, Scored) and abs(answer.logprob - expected) < 1e-9


def apart(length: int) -> list[Request]:
    """A question with four answers of five tokens that have nothing in common."""
    return [request(list(range(length)), list(range(1000 + 10 * i, 1005 + 10 * i))) for i in range(4)]


def test_the_cheaper_way_is_chosen_by_predicted_work() -> None:
    costs = costs_of(600_000, block=32, cpu=True)
    long, short = (pack(apart(length)) for length in (460, 20))
    letters = pack([request(list(range(20)), [i]) for i in range(4)])
    assert cheaper([long], costs) == "walk" and cheaper([letters], costs) == "walk"
    assert cheaper([short], costs) == "echo"
    assert cheaper([pack(apart(150))], replace(costs, block=None)) == "echo"  # each prefix computed anew


def test_a_walk_costs_whole_blocks_of_the_cache() -> None:
    costs = Costs(block=32, prompt=0.0, token=1.0)
    two = pack([request(list(range(100)), [1, 2]), request(list(range(100)), [1, 3, 4])])
    # 100 tokens, then 101 and 102 behind 96 that are cached
    assert costs.walk(vllm_scoring.tree_of(two)) == 100 + 5 + 6
    assert replace(costs, block=None).walk(vllm_scoring.tree_of(two)) == 100 + 101 + 102


class Speller:
    """A tokenizer whose tokens are characters, with thinking markers as tokens of their own."""

    special: ClassVar = {1: "</s>", 2: "<think>", 3: "</think>"}
    eos_token_id = 1

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(self.special.get(i, "" if i < 10 else chr(i)) for i in ids if i > 1 or not skip_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        return {"</think>": 3}


def style(thinking_tokens: int = 50) -> Style:
    tokens: Any = type("Spelling", (), {"tokenizer": Speller(), "chat_template": None})()
    return Style(tokens, [1], 1000, thinking_tokens)


def spell(text: str) -> list[int]:
    return [ord(one) for one in text]


def test_a_stop_string_does_not_end_thinking() -> None:
    """The task stops at a line break; the thinking has some. First its thinking, then its answer are asked for."""
    asked = Request(np.array(spell("?"), np.int32), decoding=Decoding(8, stop=("\n",)))
    work = Writing(pack([asked]), "m", style())
    [part] = work.parts()
    assert part.body["stop"] == ["\n"]
    [part] = work.take(part, Step([2, *spell("a\n")], "stop"))
    assert part.body["stop"] == [THINK.close] and part.body["prompt"] == [[ord("?"), 2, *spell("a\n")]]
    assert part.body["max_tokens"] == 8 + 50 - 3
    [part] = work.take(part, Step([*spell("b"), 3], "stop"))
    assert part.body["prompt"] == [[ord("?"), 2, *spell("a\nb"), 3]] and "stop" not in part.body
    assert work.take(part, Step(spell("\n\nyes\nno"), "length")) == []
    assert work.answers() == [Generated("yes", 5 + 8, "stop", "a\nb", 5)]


def test_thinking_that_never_ends_is_no_answer() -> None:
    asked = Request(np.array([*spell("?"), 2], np.int32), decoding=Decoding(4))
    work = Writing(pack([asked]), "m", style(thinking_tokens=6))
    [part] = work.parts()
    assert part.body["max_tokens"] == 10 and part.body["stop"] == [THINK.close]
    assert work.take(part, Step(spell("0123456789"), "length")) == []
    assert work.answers() == [Generated("", 10, "length", "0123456789", 10)]


def test_thinking_and_answer_in_one_go() -> None:
    work = Writing(pack([Request(np.array(spell("?"), np.int32), decoding=Decoding(9))]), "m", style())
    [part] = work.parts()
    assert work.take(part, Step([2, *spell("ab"), 3, *spell("\nyes"), 1], "stop")) == []
    assert work.answers() == [Generated("yes", 9, "stop", "ab", 4)]


def test_an_answer_without_thinking_is_left_alone() -> None:
    work = Writing(pack([Request(np.array(spell("?"), np.int32), decoding=Decoding(9))]), "m", style())
    [part] = work.parts()
    assert work.take(part, Step([*spell(" yes"), 1], "stop")) == []
    assert work.answers() == [Generated(" yes", 5, "stop")]


def walk_reply(**changes: Any) -> dict[str, Any]:
    top = {"token_id:7": -0.5, "token_id:8": -1.5, "token_id:9": -3.0}
    logprobs = {"tokens": ["token_id:7"], "token_logprobs": [-0.5], "top_logprobs": [top | changes.pop("top", {})]}
    return {
        "choices": [{"index": 0, "text": "", "logprobs": logprobs | changes.pop("logprobs", {})}],
        "usage": {"prompt_tokens": 2} | changes,
    }


def test_a_right_reply_is_read() -> None:
    assert walked(walk_reply(), [[1, 2]], [[8, 9]]) == [(7, {8: -1.5, 9: -3.0})]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (walk_reply(top={"token_id:8": float("nan")}), "finite"),
        (walk_reply(top={"token_id:8": -9999.0}), "stands for none"),
        (walk_reply(top={"token_id:8": -0.6, "token_id:9": -0.7}), "sum to more than 1"),
        (walk_reply(top={"token_id:7": -2.0}), "not the likeliest"),
        (walk_reply(logprobs={"tokens": ["seven"]}), "not named by its id"),
        (walk_reply(logprobs={"top_logprobs": [{"token_id:7": -0.5}]}), "not in top_logprobs"),
        (walk_reply(logprobs={"top_logprobs": []}), "0 entries"),
        (walk_reply(prompt_tokens=3), "prompt_tokens"),
    ],
)
def test_a_reply_that_can_not_be_is_refused(reply: dict[str, Any], why: str) -> None:
    with pytest.raises(BadReply, match=why):
        walked(reply, [[1, 2]], [[8, 9]])


def test_an_echo_of_other_tokens_is_refused() -> None:
    logprobs = {
        "tokens": ["token_id:1", "token_id:2"],
        "token_logprobs": [None, -1.0],
        "top_logprobs": [None, {"token_id:2": -1.0}],
    }
    reply = {"choices": [{"index": 0, "logprobs": logprobs}], "usage": {"prompt_tokens": 2}}
    assert echoed(reply, [request([1], [2])]) == [Scored(-1.0, True)]
    with pytest.raises(BadReply, match="echoed prompt"):
        echoed(reply, [request([1], [3])])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"usage": {"prompt_tokens": 4, "completion_tokens": 3}}, "token_ids"),
        ({"finish_reason": "abort"}, "finish_reason"),
        ({"finish_reason": "length"}, "2 tokens were written"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 2}}, "prompt_tokens"),
    ],
)
def test_a_text_that_can_not_be_is_refused(changes: dict[str, Any], why: str) -> None:
    choice = {"index": 0, "token_ids": [5, 1], "finish_reason": changes.get("finish_reason", "stop")}
    usage = changes.get("usage", {"prompt_tokens": 4, "completion_tokens": 2})
    with pytest.raises(BadReply, match=why):
        written({"choices": [choice], "usage": usage}, 4, 8)


class Told:
    """A transport that answers what a test says."""

    def __init__(self, url: str, **replies: Any) -> None:
        self.url, self.replies = url, replies

    def ask(self, call: Any) -> Any:
        name = call.path.strip("/")
        return call.check(self.replies[name]) if name in self.replies else Unanswered("HTTP 404", 404)


@pytest.fixture
def server(model: Checkpoint, tokens: Tokens) -> dict[str, Any]:
    """What a vLLM server that has loaded this very folder says."""
    logprobs = {"tokens": ["token_id:5"], "top_logprobs": [{"token_id:5": -1.0}]}
    choices = [{"index": i, "logprobs": logprobs} for i in range(len(vllm_identity.TEXTS))]
    card = {"id": "m", "root": str(model.path), "max_model_len": 300, "parent": None}
    return {
        "models": {"data": [card]},
        "version": {"version": "0.33.0"},
        "metrics": f"process_start_time_seconds {time.time() + 60}\n",
        "completions": {"choices": choices, "system_fingerprint": "vllm-0.33.0-abc"},
    }


def look(told: Told, model: Checkpoint, tokens: Tokens, wanted: str | None = None) -> vllm_identity.Seen:
    return vllm_identity.look(told, model, tokens, wanted)  # type: ignore[arg-type]


def test_a_server_on_this_machine_that_loaded_this_folder_is_known(
    server: dict[str, Any], model: Checkpoint, tokens: Tokens, home: Path
) -> None:
    seen = look(Told("http://127.0.0.1:1/v1", **server), model, tokens)
    assert seen.verified and seen.max_length == 300 and "weights" not in seen.fingerprint
    assert seen.fingerprint["vllm"] == "0.33.0" and seen.fingerprint["server"] == "vllm-0.33.0-abc"


@pytest.mark.parametrize("change", ["elsewhere", "older", "path", "adapter", "nameless"])
def test_a_server_that_only_looks_like_it_is_not(
    server: dict[str, Any], model: Checkpoint, tokens: Tokens, home: Path, change: str
) -> None:
    [card] = server["models"]["data"]
    if change == "older":  # the weights may have been overwritten since
        server["metrics"] = "process_start_time_seconds 1000.0\n"
    card |= {"path": {"root": "/elsewhere"}, "adapter": {"parent": "base"}}.get(change, {})
    if change == "nameless":
        server["completions"]["system_fingerprint"] = None
    host = "10.0.0.7" if change == "elsewhere" else "127.0.0.1"
    seen = look(Told(f"http://{host}:1/v1", **server), model, tokens)
    assert not seen.verified and seen.fingerprint["weights"] == "unverified"


def test_a_server_with_another_tokenizer_or_model_is_refused(
    server: dict[str, Any], model: Checkpoint, tokens: Tokens, home: Path
) -> None:
    told = Told("http://127.0.0.1:1/v1", **server, tokenize={"tokens": [1, 2, 3]})
    with pytest.raises(ConfigError, match="another tokenizer"):
        look(told, model, tokens)
    server["models"]["data"] = [{"id": "llama", "root": "/a"}, {"id": "qwen", "root": "/b"}]
    with pytest.raises(ConfigError, match=r"serves llama, qwen, not qwem\. Did you mean 'qwen'"):
        look(Told("http://127.0.0.1:1/v1", **server), model, tokens, "qwem")


def test_the_block_of_the_cache_is_read_from_the_metrics() -> None:
    info = 'vllm:cache_config_info{block_size="32",enable_prefix_caching="%s"} 1.0\n'

    def block(text: str) -> int | None:
        return vllm_identity.cache_block(Told("http://h/v1", metrics=text))  # type: ignore[arg-type]

    assert block(info % "True") == 32 and block(info % "False") is None and block("") == 16


def test_what_follows_from_an_answer_goes_first_and_prompts_are_counted() -> None:
    class Chain:
        """A part, then another one that follows from its answer."""

        def __init__(self, pack: Pack) -> None:
            self.steps = 0

        def parts(self) -> list[Part]:
            return [Part({}, 4, lambda reply: reply)]

        def take(self, part: Part, given: Any) -> list[Part]:
            self.steps += 1
            return [Part({"more": True}, 4, lambda reply: reply)] if self.steps == 1 else []

        def answers(self) -> list[Answer]:
            return [Scored(float(-self.steps), True)]

    packs = [pack([request([1], [i])]) for i in range(3)]
    schedule = Schedule(packs, Chain, most=8)
    calls = schedule.calls()
    first, second = next(calls), next(calls)
    assert first is not None and second is not None and next(calls) is None  # 8 prompts are under way
    assert schedule.take(first, None) is None
    follow = next(calls)
    assert follow is not None and follow.body == {"more": True}
    assert schedule.take(follow, None) == (packs[0], [Scored(-2.0, True)])
    third = next(calls)
    assert third is not None and third.tag[0] is packs[2]
