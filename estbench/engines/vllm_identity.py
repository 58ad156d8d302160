"""What a vLLM server shows of itself: which model it serves, whether its numbers hold, what its cache does.

A server that runs already may serve anything. Its model is taken for the checkpoint on disk only if it says so by the
path, on this machine, and began after the weights were written; otherwise "weights unverified", and what it shows of
itself (`endpoint_identity`) decides whether stored responses count. A server with another tokenizer or vocabulary is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from estbench.checkpoint import Checkpoint
from estbench.engines import vllm_scoring
from estbench.engines.base import Request
from estbench.engines.endpoint_echo import written
from estbench.engines.endpoint_identity import Observation, remember
from estbench.engines.replies import BadReply, as_list, as_object, choices
from estbench.engines.transport import Call, Transport, Unanswered, is_loopback
from estbench.errors import ConfigError, EngineError, did_you_mean
from estbench.tokens import Tokens

T = TypeVar("T")
MAX_AGE = 30 * 86400.0  # seconds for which responses of unverified weights count
CLOSE = 1e-3  # nats between two ways to one number, float32
ROUGH = 0.15  # the same in fewer bits: one step of bfloat16 at logits of 16 and more is 0.125
TEXTS = (
    "Nimeta üks puu, mis kasvab Eesti metsas.",
    "What is the opposite of hot?",
    "Milline arv tuleb järgmisena: 2, 4, 6, 8?",
    "Üks kass ja kaks koera on kokku",
)
PLACES = 8  # tokens that each of them is continued by
TOP = 5  # likeliest tokens in each place


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that runs already."""

    name: str  # what it calls the model
    max_length: int
    verified: bool  # it serves the checkpoint at hand
    fingerprint: dict[str, str]
    observed: str | None = None  # when, where its weights are unverified


def look(transport: Transport, checkpoint: Checkpoint, tokens: Tokens, wanted: str | None) -> Seen:
    """What the server shows. ConfigError if it does not serve this model, EngineError if it says nothing."""
    card = _card(transport, checkpoint, wanted)
    name = str(card["id"])
    _check_tokenizer(transport, checkpoint, tokens, name)
    version = _ask(transport, "/version")
    number = str(version.get("version", "unknown")) if isinstance(version, dict) else "unknown"
    system, values = _habits(transport, name, tokens)
    started = _number(_ask(transport, "/metrics", text=True), "process_start_time_seconds")
    fingerprint = {"vllm": number, "dtype": "of the server", "device": "of the server"}
    verified = is_loopback(transport.url) and not card.get("parent") and _is_ours(card, started, checkpoint)
    observed = None
    if verified and system:  # it stands for dtype and whatever else of the configuration changes numbers
        fingerprint["server"] = system
    else:
        verified = False
        seen = Observation(
            url=transport.url, model=name, api="completions", system_fingerprint=system, started=started, values=values
        )
        known = remember(seen)
        observed = known.observed
        fingerprint |= {"server": known.id, "weights": "unverified"}
    length = card.get("max_model_len")
    most = int(length) if isinstance(length, int) else checkpoint.max_length or 2048
    return Seen(name, most, verified, fingerprint, observed)


def _card(transport: Transport, checkpoint: Checkpoint, wanted: str | None) -> dict[str, Any]:
    """The entry of /v1/models that is the model."""
    reply = transport.ask(Call("models", check=lambda reply: as_list(as_object(reply).get("data"), "data")))
    if isinstance(reply, Unanswered):
        raise EngineError(f"{transport.url} does not list its models ({reply.reason}): is it a vLLM server?")
    cards = [card for card in reply if isinstance(card, dict) and isinstance(card.get("id"), str)]
    names = [card["id"] for card in cards]
    path = str(checkpoint.path.resolve())
    for fits in (
        lambda card: card["id"] == wanted,
        lambda card: wanted is None and str(card.get("root")) == path,
        lambda card: wanted is None and card["id"] in (path, str(checkpoint.path), checkpoint.name),
        lambda card: wanted is None and len(cards) == 1,
    ):
        if found := [card for card in cards if fits(card)]:
            return found[0]
    hint = did_you_mean(wanted or checkpoint.name, names)
    raise ConfigError(
        f"{transport.url} serves {', '.join(names) or 'nothing'}, not {wanted or checkpoint.name}.{hint} "
        "engine.model= names one of them."
    )


def _check_tokenizer(transport: Transport, checkpoint: Checkpoint, tokens: Tokens, name: str) -> None:
    """ConfigError if the server's tokenizer makes other ids of a text than the checkpoint's."""
    for text in TEXTS[::3]:
        body = {"model": name, "prompt": text, "add_special_tokens": False}
        reply = transport.ask(Call("/tokenize", check=as_object, body=body))
        if isinstance(reply, Unanswered):
            return  # not every server has it
        ours = tokens.tokenizer(text, add_special_tokens=False).input_ids
        if reply.get("tokens") != list(ours):
            raise ConfigError(
                f"{transport.url} serves {name} with another tokenizer than that of {checkpoint.path}: it is another "
                "model. Give model= the folder that it serves."
            )


def _habits(
    transport: Transport, name: str, tokens: Tokens
) -> tuple[str | None, tuple[list[tuple[str, dict[str, float]]], ...]]:
    """The system fingerprint of a reply, and what the model writes after fixed texts, with log-probabilities."""
    prompts = [ids.tolist() for ids in tokens.encode(TEXTS)]
    body = {"model": name, "prompt": prompts, "max_tokens": PLACES, "temperature": 0, "logprobs": TOP}
    reply = transport.ask(Call("completions", check=_with_choices, body=body | {"return_tokens_as_token_ids": True}))
    if isinstance(reply, Unanswered):
        raise ConfigError(f"{transport.url} does not take token ids for {name} ({reply.reason}).")
    system = reply.get("system_fingerprint")
    values = tuple(written(choice.get("logprobs")) for choice in choices(reply, len(TEXTS)))
    return (system if isinstance(system, str) else None), values if all(values) else ()


def _with_choices(reply: Any) -> dict[str, Any]:
    choices(reply, len(TEXTS))
    return as_object(reply)


def _is_ours(card: dict[str, Any], started: float | None, checkpoint: Checkpoint) -> bool:
    """Whether the server has loaded this very folder, after it was last written."""
    root = card.get("root")
    if not isinstance(root, str) or started is None or Path(root).resolve() != checkpoint.path.resolve():
        return False
    return all(file.stat().st_mtime < started and file.stat().st_ctime < started for file in checkpoint.files)


def _ask(transport: Transport, path: str, text: bool = False) -> Any:
    """A GET that a server may not have: None then."""
    reply = transport.ask(Call(path, check=lambda reply: reply, text=text))
    return None if isinstance(reply, Unanswered) else reply


def _number(metrics: Any, name: str) -> float | None:
    """The sum of a metric over engines."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", metrics or "", re.M)
    return sum(map(float, found)) if found else None


def cache_counts(transport: Transport) -> tuple[int, int] | None:
    """Prompt tokens that came out of the prefix cache so far, and those looked up; None where nothing is told."""
    metrics = _ask(transport, "/metrics", text=True)
    hits, asked = (_number(metrics, f"vllm:prefix_cache_{name}_total") for name in ("hits", "queries"))
    return None if hits is None or asked is None else (int(hits), int(asked))


def cache_block(transport: Transport) -> int | None:
    """Tokens of a block of the prefix cache; None: it is off."""
    info = re.search(r"^vllm:cache_config_info\{(.*)\}", _ask(transport, "/metrics", text=True) or "", re.M)
    told = dict(re.findall(r'(\w+)="([^"]*)"', info[1])) if info else {}
    if told.get("enable_prefix_caching") == "False":
        return None
    size = told.get("block_size", "")
    return int(size) if size.isdigit() else 16


def examine(transport: Transport, model: str, request: Request, close: float) -> dict[str, str]:
    """Way -> why its log-likelihoods can't be used; empty where both are right.

    Both ways have to give the same numbers: echo, and single tokens with the log-probs of given ids.
    """
    assert request.continuation is not None
    ids = np.concatenate([request.prompt[-16:], np.resize(request.continuation, 4)]).astype(np.int32)
    asked = [Request(ids[:place], ids[place : place + 1]) for place in (len(ids) // 2, len(ids) - 1)]
    prompts, targets = [ids[: len(one.prompt)].tolist() for one in asked], [int(ids[len(one.prompt)]) for one in asked]
    wanted = sorted({*targets, int(ids[0])})
    faults: dict[str, str] = {}
    body = vllm_scoring.walk_body(model, prompts, wanted)
    walk = _tried(transport, body, lambda reply: vllm_scoring.walked(reply, prompts, [wanted] * 2), "walk", faults)
    body = vllm_scoring.echo_body(model, [[*prompt, target] for prompt, target in zip(prompts, targets, strict=True)])
    echo = _tried(transport, body, lambda reply: vllm_scoring.echoed(reply, asked), "echo", faults)
    if walk and echo:
        off = max(abs(values[i] - one.logprob) for (_, values), i, one in zip(walk, targets, echo, strict=True))
        if off > close:
            faults["echo"] = f"echo and a single token differ by {off:.2g} nats"
    return faults


def _tried(
    transport: Transport, body: dict[str, Any], read: Callable[[Any], T], way: str, faults: dict[str, str]
) -> T | None:
    """What `read` makes of the reply; None, with the reason in `faults`, where it can't. A bad one is not repeated."""
    reply = transport.ask(Call("completions", check=as_object, body=body))
    try:
        if not isinstance(reply, Unanswered):
            return read(reply)
        faults[way] = reply.reason
    except (BadReply, LookupError, TypeError, ValueError) as error:
        faults[way] = str(error)
    return None
