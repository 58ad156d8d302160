"""Log-likelihoods by `echo` on /v1/completions, and whether they are right.

There are servers that ignore `echo`, and some that score each token with the probabilities of the next place. Both give
numbers. So what `echo` says of a place is compared with what the endpoint would write there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from estbench.engines.replies import BadReply, as_list, as_logprob, as_object, as_text, choices, expect
from estbench.engines.transport import Call, Transport, Unanswered

CLOSE = 0.15  # nats between two ways to the same number: one step of bfloat16 at logits of 16 and more is 0.125
ID = "token_id:"  # how a token is named by its id
LEAST = -100.0  # some servers write -9999 for minus infinity


@dataclass(frozen=True, slots=True)
class Place:
    """A token of an echoed prompt: its log-probability, and that of the likeliest in its place."""

    logprob: float
    best: float


def echo_body(model: str, ids: Sequence[int], named: bool) -> dict[str, Any]:
    """The request that has a prompt scored. One token is written, since not every server can write none.

    named: tokens are named by their ids, as vLLM can: halves of letters look alike as text.
    """
    more = {"return_tokens_as_token_ids": True} if named else {}
    return {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1, **more}


def echoed(reply: Any, ids: Sequence[int]) -> list[Place]:
    """The places of an echoed prompt, the first with nothing before it. BadReply if some lack, or are of another."""
    [choice] = choices(reply)
    logprobs = as_object(choice.get("logprobs"), "logprobs")
    values = as_list(logprobs.get("token_logprobs"), "token_logprobs")
    tops = as_list(logprobs.get("top_logprobs"), "top_logprobs", len(values))
    if len(values) not in (len(ids), len(ids) + 1):
        raise BadReply(f"token_logprobs has {len(values)} entries for {len(ids)} tokens and one that was written")
    names = as_list(logprobs.get("tokens"), "tokens", len(values))[: len(ids)]
    if str(names[0]).startswith(ID):
        expect(names, [f"{ID}{i}" for i in ids], "the echoed prompt")
    places = [Place(0.0, 0.0)]
    for i in range(1, len(ids)):
        value = as_logprob(values[i], f"token_logprobs[{i}]")
        if value < -9000.0:
            raise BadReply(f"token_logprobs[{i}] is {value}, which stands for none")
        best = max((as_logprob(one) for one in as_object(tops[i], f"top_logprobs[{i}]").values()), default=value)
        places.append(Place(value, max(best, value)))
    return places


def examine(transport: Transport, model: str, ids: list[int]) -> tuple[str, bool]:
    """Why the endpoint's log-likelihoods can't be used (empty: they are right), and whether it names tokens by id."""
    reason, named = "", True
    for named in (True, False):
        given = _echo(transport, model, ids, named)
        if not isinstance(given, Unanswered):
            break
        reason = f"echo with logprobs is not what it should be ({given.reason})"
    else:
        return reason, False
    for place in (len(ids) // 4, len(ids) // 2, len(ids) - 1):
        body = {"model": model, "prompt": ids[:place], "max_tokens": 1, "temperature": 0, "logprobs": 1}
        call = Call("completions", check=lambda reply: written(choices(reply)[0].get("logprobs")), body=body)
        next_one = transport.ask(call)
        if isinstance(next_one, Unanswered) or not next_one or not next_one[0][1]:
            return "it gives no log-probabilities of what it writes", named
        if abs(max(next_one[0][1].values()) - given[place].best) > CLOSE:
            return "its echo gives the log-probabilities of another place", named
    return "", named


def _echo(transport: Transport, model: str, ids: list[int], named: bool) -> list[Place] | Unanswered:
    """One echo, asked twice where it is wrong: a server that can't do it is not asked again and again."""
    answer: list[Place] | Unanswered = Unanswered("not asked")
    for _ in range(2):
        reply = transport.ask(Call("completions", check=as_object, body=echo_body(model, ids, named)))
        if isinstance(reply, Unanswered):
            return reply
        try:
            return echoed(reply, ids)
        except BadReply as error:
            answer = Unanswered(str(error))
    return answer


def written(logprobs: Any) -> list[tuple[str, dict[str, float]]]:
    """Each token written with the likeliest in its place, from either API; empty where there are none."""
    if not isinstance(logprobs, dict):
        return []
    if isinstance(content := logprobs.get("content"), list):
        rows = [(as_object(one), as_list(as_object(one).get("top_logprobs"), "top_logprobs")) for one in content]
        pairs = [
            (one.get("token"), [(as_object(top).get("token"), as_object(top).get("logprob")) for top in tops])
            for one, tops in rows
        ]
    else:
        words, tops = logprobs.get("tokens"), logprobs.get("top_logprobs")
        if not words or not tops:
            return []
        pairs = [
            (word, list(as_object(top, "top_logprobs").items()))
            for word, top in zip(words, as_list(tops, "top_logprobs", len(words)), strict=True)
        ]
    return [(as_text(word, "a token"), _top(top)) for word, top in pairs]


def _top(pairs: list[tuple[Any, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in pairs:  # halves of letters look alike: the likeliest stands for all
        if isinstance(value, int | float) and value < LEAST:
            continue
        text = as_text(name, "a token")
        found[text] = max(found.get(text, -1e9), as_logprob(value))
    return found
