"""engine=openai: a model behind any OpenAI-compatible endpoint, by its chat API or by /v1/completions.

Many requests are under way at a time (`transport`); each answer is stored as soon as it is there. What the endpoint can
do was found by `endpoint_probe`. An answer is recorded as what it is: refused, empty, cut off, thought about. With
`engine.max_cost=` no request is sent that could exceed it, those under way counted at their most.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import identity
from estbench.checkpoint import TOKENIZER_FILES
from estbench.engines import endpoint_echo, prices, structured, thinking
from estbench.engines.base import Answer, Failed, Generated, Pack, Packing, Request, Scored
from estbench.engines.endpoint_echo import echo_body, echoed
from estbench.engines.endpoint_probe import Abilities
from estbench.engines.prices import Ledger, Usage, usage_of
from estbench.engines.replies import BadReply, as_object, as_text, choices, expect
from estbench.engines.transport import Call, Transport, Unanswered
from estbench.errors import EngineError
from estbench.remote import RemoteModel
from estbench.tokens import Tokens

FORMAT = "1"  # how answers are taken from replies; another number makes stored ones count no more
MOST_STOPS = 4  # stop strings that the API takes; all are cut here again
FILTERED = re.compile(r"content[ _-]?(filter|policy|management policy)|usage polic|flagged", re.I)


@dataclass(frozen=True, slots=True)
class Reply:
    """A checked reply."""

    answer: Answer
    usage: Usage | None
    fingerprint: str | None


class OpenAIEngine:
    """One model behind one endpoint."""

    packing = Packing(nodes=1, rows=1, tokens=1)  # a request a pack: an answer that was paid for is kept at once

    def __init__(self, model: RemoteModel, tokens: Tokens, say: Callable[[str], None] = lambda _: None) -> None:
        self.model, self.tokens, self.options, self.say = model, tokens, model.options, say
        self.prices = prices.of(model.options, model.name)
        self.ledger = Ledger()
        self.fingerprints: Counter[str] = Counter()  # system fingerprints of replies
        self.transport: Transport | None = None
        chat = model.options.api == "chat"
        self.markers = thinking.THINK if chat else thinking.markers_of(tokens.chat_template)
        self._largest = (0, 0)  # tokens of the largest request: what a repeat may have cost
        self._repeats: Counter[str] = Counter()  # of transports before this one
        self._under_way = 0
        self._reserved = 0.0  # what the requests under way cost at most
        self._stopped = False

    @property
    def able(self) -> Abilities:
        """What the endpoint can do."""
        return self.model.abilities or Abilities()

    @property
    def max_length(self) -> int:
        told = self.model.max_length
        if told is None:
            return 1 << 30  # the endpoint says no by itself
        return told - 2 if self.options.api == "completions" else told  # echo has the last token, and writes one more

    @property
    def max_age(self) -> float | None:
        return self.options.seconds

    @property
    def sent_as(self) -> str:
        """What prompts are sent as."""
        return "messages" if self.options.api == "chat" else "token ids" if self.able.ids else "text"

    def fingerprint(self) -> dict[str, str]:
        return {
            "engine": "openai",
            "format": FORMAT,
            "api": self.options.api,
            "prompts": self.sent_as,
            "unsent": ", ".join(self.able.unsent),
            "thinking_tokens": str(self.options.thinking_tokens),
            "extra": identity.canonical(self.options.body).decode(),
        } | self._tokenizer()

    def _tokenizer(self) -> dict[str, str]:
        """Hash of the tokenizer's files and template, where prompts are made with one here."""
        if not self.options.tokenizer:
            return {}
        folder = Path(self.options.tokenizer).expanduser()
        files = [file for name in TOKENIZER_FILES if (file := folder / name).exists()]
        found = identity.FileHashes().of(files)
        return {"tokenizer": identity.digest([[file.name, found[file][0]] for file in files])}

    def load(self) -> None:
        if self.transport is not None:  # what it repeated may have been billed
            self._repeats.update(self.transport.repeats)
        self.transport = Transport(
            self.options.url,
            key_variable=self.options.key_variable,
            most=self.options.concurrency,
            timeout=self.options.timeout,
        )

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def answer(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        """Each pack with its answer, as they come. EngineError once the next request could exceed `max_cost`."""
        assert self.transport is not None
        self._stopped = False
        self._say_estimate(packs)
        done = 0
        for call, given in self.transport.run(self._calls(packs)):
            pack: Pack = call.tag
            self._under_way -= 1
            self._reserved -= self._most(pack.requests[0])
            done += 1
            yield pack, [self._taken(pack.requests[0], given)]
        if self._stopped:
            assert self.prices is not None and self.options.max_cost is not None
            raise EngineError(
                f"engine.max_cost= is {self.prices.amount(self.options.max_cost)}, {self.prices.amount(self.spent)} is "
                f"spent, and the next request could exceed it. {done:,} of {len(packs):,} answers came and are stored: "
                "with a higher limit the same command asks the rest."
            )

    @property
    def spent(self) -> float:
        """What the answers so far have cost."""
        return self.prices.cost(self.ledger) if self.prices else 0.0

    @property
    def _billed(self) -> float:
        """What may have been billed: repeated requests at their most, too."""
        if self.prices is None or self.transport is None:
            return 0.0
        all_of_them = self._repeats + Counter(self.transport.repeats)
        repeats = sum(all_of_them[kind] for kind in ("timeout", "reply", "error"))
        return self.spent + repeats * self.prices.most(*self._largest)

    def _calls(self, packs: Sequence[Pack]) -> Iterator[Call[Reply] | None]:
        for pack in packs:
            [request] = pack.requests
            most = self._most(request)
            while self.options.max_cost is not None and self._billed + self._reserved + most > self.options.max_cost:
                if not self._under_way:
                    self._stopped = True
                    return
                yield None  # what is under way may turn out cheaper
            self._under_way += 1
            self._reserved += most
            self._largest = max(self._largest, prices.bounds(request, self.options))
            yield self._call(pack)

    def _most(self, request: Request) -> float:
        limited = self.prices if self.options.max_cost is not None else None
        return limited.most(*prices.bounds(request, self.options)) if limited else 0.0

    def _say_estimate(self, packs: Sequence[Pack]) -> None:
        if self.prices is None:
            return
        read, written = prices.estimate([pack.requests[0] for pack in packs], self.options)
        most = self.prices.amount(self.prices.most(read, written))
        self.say(f"{len(packs):,} requests, about {read:,} tokens in and at most {written:,} out: up to {most}.")

    def _call(self, pack: Pack) -> Call[Reply]:
        [request] = pack.requests
        if request.continuation is not None:
            ids = [*request.prompt.tolist(), *request.continuation.tolist()]
            start = len(request.prompt)
            body = {**echo_body(self.model.name, ids, self.able.named), **self.options.body}
            return Call("completions", check=lambda reply: self._scored(reply, ids, start), body=body, tag=pack)
        path = "chat/completions" if request.messages is not None else "completions"
        return Call(path, check=lambda reply: self._generated(reply, request), body=self._body(request), tag=pack)

    def _body(self, request: Request) -> dict[str, Any]:
        decoding = request.decoding
        assert decoding is not None
        body: dict[str, Any] = {
            "model": self.model.name,
            "temperature": decoding.temperature,
            self.able.limit: decoding.max_new_tokens + self.options.thinking_tokens,
        }
        if decoding.temperature > 0:
            body |= {"top_p": decoding.top_p}
        body |= {"seed": decoding.seed}
        if decoding.top:  # the first token's; nothing on APIs of completions, where scores are asked for
            body |= {"logprobs": True, "top_logprobs": decoding.top} if request.messages is not None else {}
        if decoding.schema is not None:
            body |= self._held_to(json.loads(decoding.schema))
        if decoding.stop and not self._may_think:  # a stop string in its thinking would end that
            body["stop"] = list(decoding.stop[:MOST_STOPS])
        body = {key: value for key, value in body.items() if key not in self.able.unsent} | self.options.body
        if request.messages is not None:
            return body | {"messages": json.loads(request.messages)}
        return body | {"prompt": request.prompt.tolist() if self.able.ids else self._as_text(request)}

    def _held_to(self, schema: Any) -> dict[str, Any]:
        """What holds an answer to a schema: the API's `response_format`, or vLLM's own way where it is vLLM."""
        seen = self.model.seen
        if seen is not None and (seen.system_fingerprint or "").startswith("vllm-"):
            return {"structured_outputs": structured.outputs(schema)}
        named = {"name": "answer", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": named}}

    @property
    def _may_think(self) -> bool:
        return self.able.thinks or self.options.thinking_tokens > 0

    def _as_text(self, request: Request) -> str:
        """The prompt as text, without the BOS that the server puts in front itself."""
        return self.tokens.decode(request.prompt[len(self.tokens.prefix) :])

    def _scored(self, reply: Any, ids: Sequence[int], start: int) -> Reply:
        places = echoed(reply, ids)[start:]
        self._check_model(reply)
        greedy = all(place.logprob >= place.best for place in places)
        return Reply(Scored(sum(place.logprob for place in places), greedy), usage_of(reply), _fingerprint(reply))

    def _generated(self, reply: Any, request: Request) -> Reply:
        [choice] = choices(reply)
        self._check_model(reply)
        usage = usage_of(reply)
        reason = as_text(choice.get("finish_reason"), "finish_reason")
        if reason == "error":
            raise BadReply("an answer that ended in an error")
        text, thought, refused = _texts(choice, usage is not None and usage.completion <= 1)
        finish = "length" if reason in ("length", "max_tokens") else "stop"
        if not thought and self.markers is not None:
            thought, text = thinking.split(text, self.markers, opened=self._opened(request))
        assert request.decoding is not None
        places = [text.find(stop) for stop in request.decoding.stop if stop in text]
        if places:
            text, finish = text[: min(places)], "stop"
        finish = "refusal" if refused or reason == "content_filter" else finish
        written = usage.completion if usage else 0
        counted = _thinking_tokens(usage, thought, text)
        top = _top(choice.get("logprobs")) if request.decoding.top else None
        return Reply(Generated(text, written, finish, thought, counted, top), usage, _fingerprint(reply))

    def _opened(self, request: Request) -> bool:
        """Whether the template has opened the thinking already."""
        assert self.markers is not None
        return bool(len(request.prompt)) and thinking.opens(self.tokens.decode(request.prompt[-8:]), self.markers)

    def _check_model(self, reply: Mapping[str, Any]) -> None:
        """The reply is of the model that the probe saw, whatever name the endpoint has for it."""
        seen = self.model.seen
        if seen is not None and seen.served is not None:
            expect(reply.get("model"), seen.served, "the model of the reply")

    def _taken(self, request: Request, given: Reply | Unanswered) -> Answer:
        """The answer, counted."""
        if isinstance(given, Unanswered):
            if not 400 <= given.status < 500:
                self.ledger.add_most(*prices.bounds(request, self.options))
            if request.decoding and request.decoding.top and given.status in (400, 422) and "logprobs" in given.said:
                return Generated("", 0, "stop")  # it gives no log-probabilities, or fewer: who asked goes on without
            if given.status in (400, 403, 422) and FILTERED.search(given.said) and request.decoding:
                return Generated("", 0, "refusal")  # the prompt did not pass the endpoint's filter
            return Failed(given.reason)
        if given.usage is None:
            self.ledger.add_most(*prices.bounds(request, self.options))
        else:
            self.ledger.add(given.usage)
        self._watch(given.fingerprint)
        return given.answer

    def _watch(self, fingerprint: str | None) -> None:
        """Say once that the endpoint changed while it was asked."""
        seen = self.model.seen
        if fingerprint is None or seen is None:
            return
        self.fingerprints[fingerprint] += 1
        if seen.system_fingerprint not in (None, fingerprint) and self.fingerprints[fingerprint] == 1:
            self.say(
                f"{self.model.name} answers with system fingerprint {fingerprint}, and {seen.system_fingerprint} when "
                "this run began: the endpoint has changed in mid-run. The manifest counts the answers of each."
            )

    def notes(self) -> dict[str, Any]:
        known = self.model.known
        found: dict[str, Any] = {"weights": "unverified", "observed": known.observed if known else None}
        if not self.ledger.calls:
            return found
        found |= {
            "limit": self.able.limit,
            "ledger": self.ledger.record(),
            "system_fingerprints": dict(self.fingerprints),
        }
        if self.transport is not None:
            found |= {"attempts": self.transport.attempts, "repeats": dict(self.transport.repeats)}
        if self.prices is not None:
            found["cost"] = {"spent": round(self.spent, 6), "currency": self.prices.currency}
            found["cost"]["with_repeats_at_most"] = round(self._billed, 6)
        return found


def _fingerprint(reply: Mapping[str, Any]) -> str | None:
    found = reply.get("system_fingerprint")
    return found if isinstance(found, str) and found else None


def _texts(choice: Mapping[str, Any], empty: bool) -> tuple[str, str, bool]:
    """(answer, thinking, whether it refused) of a choice from either API. BadReply where there is no text.

    empty: the endpoint says that it wrote an end token at most.
    """
    if "message" not in choice:
        return as_text(choice.get("text"), "the text"), "", False
    message = as_object(choice["message"], "message")
    content = message.get("content")
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    refusal = message.get("refusal")
    if refusal:
        return as_text(content or refusal, "content"), as_text(thought, "reasoning"), True
    if content is None and (thought or empty or choice.get("finish_reason") in ("length", "content_filter")):
        content = ""  # it was stopped before it began its answer, or has none
    return as_text(content, "content"), as_text(thought, "reasoning"), False


def _top(logprobs: Any) -> dict[str, float] | None:
    """The likeliest first tokens of a chat reply; None where the endpoint gives none."""
    written = endpoint_echo.written(logprobs) if logprobs else []
    return dict(written[0][1]) if written else None


def _thinking_tokens(usage: Usage | None, thought: str, text: str) -> int:
    """As the endpoint counts them; where it does not, the thinking's share of what was written."""
    if usage is None or usage.reasoning is not None:
        return (usage.reasoning or 0) if usage else 0
    return round(usage.completion * len(thought) / (len(thought) + len(text))) if thought else 0
