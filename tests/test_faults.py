"""A server that breaks in every way that servers break: right scores, or the missing part named; never a silent zero.

First the transport, with a validator of log-likelihoods, and a control that takes what it gets and is wrong. Then
`engine=openai`, by both of its APIs, and `engine=vllm`, with a server that has told what it can do before it breaks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from stub_endpoint import Endpoint, TinyModel, Words
from stub_faults import Fault

from estbench import engines
from estbench.config import EvalSettings
from estbench.engines import transport
from estbench.engines.base import Answer, Decoding, Failed, Generated, Pack, Request, Scored
from estbench.engines.replies import as_logprobs, as_object, choices, expect
from estbench.engines.transport import Call, Transport, Unanswered
from estbench.errors import EngineError
from estbench.tokens import Tokens

# What goes wrong, and how the reason names it where it goes wrong each time.
BROKEN = {
    "stall": "no answer within",
    "drip": "no answer within",
    "drop": "connection broke",
    "half": "connection broke",
    "garbage": "no JSON but <html>",
    "cut": "no JSON",
    "list": "not an object",
    "error200": "the worker died",
    "empty": "0 entries where 1",
    "extra": "2 entries where 1",
    "500": "HTTP 500",
    "503": "HTTP 503",
    "429": "HTTP 429",
}
NUMBERS = {
    "nan": "NaN in the JSON",
    "none": "missing, not a finite number",
    "positive": "above 0",
    "short": "entries",
    "long": "entries",
}
SPOILT = {**BROKEN, **NUMBERS, "model": "another-model"}
N = 12  # questions
ANYWHERE = ("stall", "half", "garbage", "empty", "extra", "500", "429", "drop")  # in replies of all kinds


@pytest.fixture(scope="module")
def brain(tiny_model: Path) -> TinyModel:
    return TinyModel(tiny_model)


@pytest.fixture(scope="module")
def running(brain: TinyModel) -> Iterator[Endpoint]:
    with Endpoint(brain, latency=0.002) as endpoint:
        yield endpoint


@pytest.fixture
def server(running: Endpoint) -> Iterator[Endpoint]:
    """The server, as new and without faults."""
    running.reset()
    yield running
    running.faults = []


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`hurry(timeout)`: from then on transports have short pauses and few attempts, so that a fault is over soon."""
    monkeypatch.setattr(transport, "TRIES", {**transport.TRIES, "limit": 8})
    begin = Transport.__init__

    def set_timeout(timeout: float = 20.0) -> None:
        def quick(self: Transport, url: str, **given: Any) -> None:
            begin(self, url, **{**given, "backoff": 0.005, "timeout": timeout})

        monkeypatch.setattr(Transport, "__init__", quick)

    return set_timeout


def prompts(brain: TinyModel) -> list[list[int]]:
    """Token ids that all differ in their last places."""
    return [brain.encode(f"Õues sajab vihma {i} korda") for i in range(N)]


def truths(brain: TinyModel) -> list[float]:
    """The log-likelihood of all but the first three tokens of each prompt."""
    rows = [(ids, brain.logprobs(ids)) for ids in prompts(brain)]
    return [sum(float(row[i - 1][ids[i]]) for i in range(3, len(ids))) for ids, row in rows]


def asked(brain: TinyModel, check: Callable[..., float]) -> Iterator[Call[float]]:
    for number, ids in enumerate(prompts(brain)):
        body = {"model": "stub", "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}
        yield Call("completions", partial(check, length=len(ids)), body, number)


def careful(reply: Any, length: int) -> float:
    """The log-likelihood, from a reply that is as it should be."""
    [choice] = choices(reply)
    expect(reply.get("model"), "stub", "the model")
    values = as_object(choice.get("logprobs"), "logprobs").get("token_logprobs")
    if isinstance(values, list) and values[:1] == [None]:  # nothing is before the first token
        values = [0.0, *values[1:]]
    return sum(as_logprobs(values, "token_logprobs", length)[3:])


def credulous(reply: Any, length: int) -> float:
    """The same without the checks: what is not there counts as nothing."""
    return float(sum(value or 0.0 for value in reply["choices"][0]["logprobs"]["token_logprobs"][3:]))


def ask(server: Endpoint, calls: Iterator[Call[float]]) -> list[float | Unanswered]:
    """The answers in the order of the questions; each question has one."""
    found: dict[int, float | Unanswered] = {}
    with Transport(server.url) as way:
        for call, answer in way.run(calls):
            assert call.tag not in found, "a call that is repeated must not come twice"
            found[call.tag] = answer
    assert sorted(found) == list(range(len(found)))
    return [found[number] for number in range(len(found))]


def wrong(found: list[float | Unanswered], right: list[float]) -> int:
    """How many answers are there and not right."""
    return sum(
        not isinstance(one, Unanswered) and not math.isclose(one, true, abs_tol=1e-5)
        for one, true in zip(found, right, strict=True)
    )


@pytest.mark.parametrize("kind", SPOILT)
def test_a_fault_in_every_third_call_changes_no_score(
    kind: str, server: Endpoint, brain: TinyModel, hurry: Callable[..., None]
) -> None:
    server.faults = [Fault(kind, every=3)]
    hurry(1.5 if kind in ("stall", "drip") else 20.0)
    found = ask(server, asked(brain, careful))
    assert len(found) == N and len(server.posts) > N, "nothing was repeated: the fault did not show"
    assert wrong(found, truths(brain)) == 0
    missing = [one for one in found if isinstance(one, Unanswered)]
    assert len(missing) <= N // 4
    assert all(SPOILT[kind] in one.reason and "attempts" in one.reason for one in missing)


@pytest.mark.parametrize("kind", SPOILT)
def test_a_fault_in_every_call_is_missing_data_by_name(
    kind: str, server: Endpoint, brain: TinyModel, hurry: Callable[..., None]
) -> None:
    server.faults = [Fault(kind)]
    hurry(0.2 if kind in ("stall", "drip") else 20.0)
    found = ask(server, islice(asked(brain, careful), 3))
    assert len(found) == 3
    assert all(isinstance(one, Unanswered) and SPOILT[kind] in one.reason for one in found), found[0]


@pytest.mark.parametrize("kind", ["nan", "none", "positive", "short"])
def test_without_the_checks_the_scores_are_wrong(
    kind: str, server: Endpoint, brain: TinyModel, hurry: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: these faults do change scores where nothing is checked."""
    hurry()
    assert wrong(ask(server, asked(brain, credulous)), truths(brain)) == 0  # but not without a fault
    server.reset()
    server.faults = [Fault(kind, every=3)]
    monkeypatch.setattr(transport, "parse", json.loads)
    assert wrong(ask(server, asked(brain, credulous)), truths(brain)) == N // 3


def test_choices_in_another_order_are_put_right(server: Endpoint, brain: TinyModel) -> None:
    ids = prompts(brain)[:4]
    body = {"model": "stub", "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}

    def ends(found: list[dict[str, Any]]) -> list[float]:
        return [one["logprobs"]["token_logprobs"][-1] for one in found]

    right = [float(brain.logprobs(one)[-2][one[-1]]) for one in ids]
    server.faults = [Fault("reversed")]
    with Transport(server.url) as way:
        assert way.ask(Call("completions", lambda reply: ends(choices(reply, 4)), body)) == pytest.approx(right)
        naive = way.ask(Call("completions", lambda reply: ends(reply["choices"]), body))
    assert naive == pytest.approx(right[::-1])  # the control


def test_an_index_that_comes_twice_is_refused() -> None:
    def answer(reply: dict[str, Any]) -> dict[str, Any]:
        return reply | {"choices": [one | {"index": 0} for one in reply["choices"]]}

    body = {"model": "stub", "prompt": ["a", "b"], "max_tokens": 1}
    with Endpoint(Words(lambda _: "x"), reply=answer) as server, Transport(server.url, backoff=0.001) as way:
        given = way.ask(Call("completions", lambda reply: choices(reply, 2), body))
    assert isinstance(given, Unanswered) and "indexes [0, 0]" in given.reason


# The engines


def packs(tokens: Tokens, api: str) -> list[Pack]:
    """A pack a question: log-likelihoods of ids, texts after ids, or texts after messages."""
    found = []
    for number in range(N):
        [ids] = tokens.encode([f"Õues sajab vihma {number} korda"])
        decoding = Decoding(max_new_tokens=4, stop=("\n",))
        if api == "scores":
            request = Request(ids[:3], continuation=ids[3:])
        elif api == "texts":
            request = Request(ids, decoding=decoding)
        else:
            said = json.dumps([{"role": "user", "content": f"Mis on {number}?"}])
            request = Request(ids[:0], decoding=decoding, messages=said)
        found.append(Pack(api, (f"key{number}",), (request,)))
    return found


class Asked:
    """An engine that was told of the server while it was well; then a question at a time, with faults."""

    def __init__(self, server: Endpoint, folder: Path, name: str, api: str) -> None:
        self.server, self.tokens, self.api = server, Tokens(folder), api
        options = {"url": server.url}
        if name == "openai":
            options["model"] = "stub"
            options |= {"api": "chat"} if api == "chat" else {"api": "completions", "tokenizer": str(folder)}
        model = "stub" if name == "openai" else str(folder)
        self.settings = EvalSettings(model=model, tasks="x", engine=name, engine_options=options)
        self.model = engines.find_model(self.settings)

    def answers(self, *faults: Fault) -> dict[str, Answer]:
        """What the engine answers, by key; each question once."""
        self.server.reset()
        engine = engines.make(self.settings, self.model, self.tokens, lambda _: None)
        engine.load()
        found: dict[str, Answer] = {}
        try:
            self.server.faults = list(faults)
            for pack, given in engine.answer(packs(self.tokens, self.api)):
                assert pack.keys[0] not in found
                [found[pack.keys[0]]] = given
        finally:
            self.server.faults = []
            engine.close()
        assert len(found) == N
        return found


def same(one: Answer, other: Answer) -> bool:
    if isinstance(one, Scored) and isinstance(other, Scored):
        return math.isclose(one.logprob, other.logprob, abs_tol=1e-5) and one.greedy == other.greedy
    return isinstance(one, Generated) and one == other


WAYS = [("openai", "scores"), ("openai", "texts"), ("openai", "chat"), ("vllm", "scores"), ("vllm", "texts")]


@pytest.mark.parametrize(("name", "api"), WAYS)
def test_an_engine_gives_right_answers_or_names_what_is_missing(
    name: str, api: str, server: Endpoint, tiny_model: Path, home: Path, hurry: Callable[..., None]
) -> None:
    asked = Asked(server, tiny_model, name, api)
    right = asked.answers()
    sent = len(server.posts)
    assert all(isinstance(one, Scored if api == "scores" else Generated) for one in right.values())
    named = ("model",) if name == "openai" else ()
    for kind in (*ANYWHERE, *named, *(NUMBERS if api == "scores" else ())):
        hurry(1.5 if kind in ("stall", "drip") else 20.0)
        found = asked.answers(Fault(kind, every=3))
        assert len(server.posts) > sent, f"{kind} did not show"
        missing = [one for one in found.values() if isinstance(one, Failed)]
        assert len(missing) <= N // 4, (kind, missing[0].reason)
        assert all(one.reason for one in missing)
        assert all(same(found[key], right[key]) or isinstance(found[key], Failed) for key in right), kind


def test_a_server_that_gives_no_number_is_missing_data_and_a_wrong_key_ends_the_run(
    server: Endpoint, tiny_model: Path, home: Path, hurry: Callable[..., None]
) -> None:
    hurry()
    asked = Asked(server, tiny_model, "openai", "scores")
    found = asked.answers(Fault("nan"))
    assert all(isinstance(one, Failed) and "NaN in the JSON" in one.reason for one in found.values())
    with pytest.raises(EngineError, match="HTTP 401") as caught:
        asked.answers(Fault("401"))
    assert "OPENAI_API_KEY" in str(caught.value) and "\n" not in str(caught.value)
