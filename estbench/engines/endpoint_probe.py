"""What an endpoint can do, and what it shows of itself: a few calls before any work.

    abilities, seen = probe(transport, options, "gpt-5-mini", tokens)

The first call sends all parameters; one that the endpoint refuses by name is left out from then on, and that is said.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from estbench.engines import endpoint_echo
from estbench.engines.endpoint_identity import Observation
from estbench.engines.options import OpenAIOptions
from estbench.engines.replies import BadReply, as_object, choices
from estbench.engines.transport import Call, Transport, Unanswered
from estbench.errors import EngineError, ModelError, did_you_mean

if TYPE_CHECKING:
    from estbench.tokens import Tokens

Say = Callable[[str], None]
PROMPTS = (
    "Nimeta üks puu, mis kasvab Eesti metsas.",
    "What is the opposite of hot? Answer with one word.",
    "Milline arv tuleb järgmisena: 2, 4, 6, 8?",
    "Üks kass ja kaks koera on kokku kolm",
)
PLACES = 8  # tokens that each of them is answered with
TOP = 5  # likeliest tokens that are shown in each place
NEVER = "\u241e\u241e"  # a stop string that no answer has
REPLACED = {"max_tokens": "max_completion_tokens"}  # the newer name of the same
OPTIONAL = ("temperature", "seed", "stop", "top_logprobs", "logprobs")  # what can be left out, most harmless last
SCORED = "Õues sajab vihma ja müts läks märjaks. The dog sees the house, and the cat sleeps. 1, 2, 3, 4."


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the endpoint takes and gives."""

    limit: str = "max_tokens"  # what it calls the most tokens of an answer
    unsent: tuple[str, ...] = ()  # parameters that it does not take
    ids: bool = False  # takes prompts as token ids
    scores: bool = False  # its log-likelihoods by echo are right
    why_not: str = ""  # why not
    named: bool = False  # names tokens by their ids
    thinks: bool = False  # it wrote thinking before an answer
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What one probing reply shows."""

    served: str | None
    fingerprint: str | None
    thinks: bool
    written: list[tuple[str, dict[str, float]]]


def probe(
    transport: Transport, options: OpenAIOptions, model: str, tokens: Tokens | None, say: Say
) -> tuple[Abilities, Observation]:
    """Ask the endpoint. ModelError for a model that it does not have, EngineError where it can't be asked."""
    listed, length = _models(transport, model)
    body = _body(options, model, PROMPTS[0], tokens)
    asked, first = _settle(transport, options, body, listed, say)
    sights = [first]
    for prompt in PROMPTS[1:] if first.written else ():
        one = dict(asked) | _question(options, prompt, tokens if isinstance(asked.get("prompt"), list) else None)
        answer = transport.ask(Call(_path(options), check=_sight, body=one))
        sights += [] if isinstance(answer, Unanswered) else [answer]
    abilities = Abilities(
        limit=next(key for key in ("max_tokens", "max_completion_tokens") if key in asked),
        unsent=tuple(sorted(body.keys() - asked.keys() - {"max_tokens", "logprobs", "top_logprobs"})),
        ids=isinstance(asked.get("prompt"), list),
        thinks=any(one.thinks for one in sights),
        max_length=length,
    )
    if options.api == "completions" and tokens is not None:
        ids = tokens.encode([SCORED])[0].tolist()
        why, named = endpoint_echo.examine(transport, model, ids) if abilities.ids else ("it takes no token ids", False)
        abilities = dataclasses.replace(abilities, scores=not why, why_not=why, named=named)
    prints = {one.fingerprint for one in sights}
    fingerprint = prints.pop() if len(prints) == 1 else None  # one that changes from call to call says nothing
    whole = len(sights) == len(PROMPTS) and all(one.written for one in sights)
    seen = Observation(
        url=transport.url,
        model=model,
        api=options.api,
        revision=options.revision,
        served=first.served,
        system_fingerprint=fingerprint,
        started=_start(transport) if fingerprint is None else None,
        values=tuple(one.written for one in sights) if whole else (),
    )
    return abilities, seen


def _path(options: OpenAIOptions) -> str:
    return "chat/completions" if options.api == "chat" else "completions"


def _question(options: OpenAIOptions, prompt: str, tokens: Tokens | None) -> dict[str, Any]:
    if options.api == "chat":
        return {"messages": [{"role": "user", "content": prompt}]}
    return {"prompt": prompt if tokens is None else tokens.encode([prompt])[0].tolist()}


def _body(options: OpenAIOptions, model: str, prompt: str, tokens: Tokens | None) -> dict[str, Any]:
    """A request with everything that estbench would like to send."""
    shown = {"logprobs": True, "top_logprobs": TOP} if options.api == "chat" else {"logprobs": TOP}
    fixed = {"model": model, "max_tokens": PLACES, "temperature": 0, "seed": 0, "stop": [NEVER]}
    return {**fixed, **shown, **options.body, **_question(options, prompt, tokens)}


def _settle(
    transport: Transport, options: OpenAIOptions, body: Mapping[str, Any], listed: list[str], say: Say
) -> tuple[dict[str, Any], Sight]:
    """The body without what the endpoint refuses, and its answer to that."""
    asked = dict(body)
    for _ in range(len(body) + 1):
        answer = transport.ask(Call(_path(options), check=_sight, body=asked))
        if not isinstance(answer, Unanswered):
            return asked, answer
        _check_model(transport, answer, str(body["model"]), listed)
        refused = _refused(answer, asked)
        if isinstance(asked.get("prompt"), list) and (refused is None or "prompt" in answer.said):
            say(f"{transport.url} takes no token ids: prompts are sent as text, which it tokenises itself.")
            asked["prompt"] = PROMPTS[0]
            continue
        limit = REPLACED["max_tokens"]
        if "output limit" in answer.said and asked.get(limit, 1 << 10) < 1 << 10:  # it thought, and came to no end
            asked[limit] = 1 << 10
            continue
        if refused is None:
            raise EngineError(f"{transport.url} can't be asked: {answer.reason}")
        value = asked.pop(refused)
        if refused in REPLACED and REPLACED[refused] not in body:
            asked[REPLACED[refused]] = max(16, value)  # it also counts thinking
        elif refused == "temperature":
            say(f"{body['model']} takes no temperature: it samples as it likes, and scores vary from run to run.")
        elif refused in ("seed", "stop"):
            say(f"{body['model']} takes no {refused}" + (": answers are cut here." if refused == "stop" else "."))
        elif refused == "top_logprobs":
            asked.pop("logprobs", None)
    raise EngineError(f"{transport.url} refuses every way of asking that estbench knows.")


def _check_model(transport: Transport, answer: Unanswered, model: str, listed: list[str]) -> None:
    """ModelError where the refusal is about the model."""
    if answer.status not in (400, 404) or model in listed:
        return
    if answer.status == 404 and not listed and "model" not in answer.said.lower():
        raise ModelError(f"{transport.url} has no such API ({answer.reason}): engine.url= usually ends in /v1.")
    if answer.status == 404 or "model" in answer.said.lower():
        near = did_you_mean(model, listed)
        known = f" It has {', '.join(listed[:5])}{', …' if len(listed) > 5 else ''}." if listed and not near else ""
        raise ModelError(f"{transport.url} has no model {model!r} ({answer.reason}).{near}{known}")


def _refused(answer: Unanswered, asked: Mapping[str, Any]) -> str | None:
    """The parameter that a refusal is about."""
    if answer.status not in (400, 422):
        return None
    names = [name for name in (*REPLACED, *OPTIONAL) if name in asked]
    quoted = [name for name in names if re.search(rf"['\"`]{name}['\"`]", answer.said)]
    plain = [name for name in names if re.search(rf"\b{name}\b", answer.said)]
    return next(iter([*quoted, *plain]), None)


def _models(transport: Transport, model: str) -> tuple[list[str], int | None]:
    """The models that the endpoint lists, and the context in tokens if it tells; nothing where it lists none."""
    answer = transport.ask(Call("models", check=as_object))
    if isinstance(answer, Unanswered):
        if answer.status in (0, *range(500, 600)):
            raise EngineError(f"{transport.url} can't be asked: {answer.reason}")
        return [], None
    rows = [row for row in answer.get("data") or () if isinstance(row, dict)] if _has_list(answer) else []
    own = next((row for row in rows if row.get("id") == model), {})
    length = own.get("max_model_len")
    return [str(row.get("id")) for row in rows], length if isinstance(length, int) and length > 0 else None


def _has_list(answer: Mapping[str, Any]) -> bool:
    return isinstance(answer.get("data"), list)


def _start(transport: Transport) -> float | None:
    """When the server began, by its metrics (vLLM and others that use Prometheus' client)."""
    try:
        text = transport.ask(Call("/metrics", check=str, text=True))
    except EngineError:  # they are locked: nothing is known then
        return None
    found = None if isinstance(text, Unanswered) else re.search(r"^process_start_time_seconds ([\d.e+]+)$", text, re.M)
    return float(found[1]) if found else None


def _sight(reply: Any) -> Sight:
    [choice] = choices(reply)
    usage = reply.get("usage") or {}
    details = usage.get("completion_tokens_details") or {}
    message = choice.get("message") or {}
    text = str(message.get("content") or choice.get("text") or "")
    thinks = bool(message.get("reasoning_content") or message.get("reasoning") or details.get("reasoning_tokens"))
    served, fingerprint = reply.get("model"), reply.get("system_fingerprint")
    return Sight(
        served if isinstance(served, str) else None,
        fingerprint if isinstance(fingerprint, str) and fingerprint else None,
        thinks or "<think>" in text or "</think>" in text,
        _written(choice.get("logprobs")),
    )


def _written(logprobs: Any) -> list[tuple[str, dict[str, float]]]:
    try:
        return endpoint_echo.written(logprobs)[:PLACES]
    except BadReply:  # then it offers none that could be compared
        return []
