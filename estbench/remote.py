"""A model that is not on disk: known by its endpoint, its name there, and what it shows of itself.

    model = find(settings, options, say)      # asks the endpoint what it can do; nothing is written
    model.fingerprint()                       # {"weights": "unverified", "endpoint": id, ...}; notes the observation

It stands where a `Checkpoint` stands. Nobody here has seen its weights: two runs count as of the same model only while
the endpoint shows no change (`engines.endpoint_identity`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from estbench.checkpoint import Checkpoint
from estbench.config import EvalSettings
from estbench.engines import endpoint_identity
from estbench.engines.endpoint_identity import Known, Observation
from estbench.engines.options import OpenAIOptions
from estbench.errors import ConfigError, ModelError, PlanError
from estbench.tokens import Tokens

if TYPE_CHECKING:
    from estbench.engines.base import Ids
    from estbench.engines.endpoint_probe import Abilities
    from estbench.registry import Task

SCORED = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")  # output types that need log-likelihoods
Say = Callable[[str], None]


@dataclass
class RemoteModel:
    """A model behind an endpoint. `abilities` and `seen` are None until the endpoint was asked."""

    name: str
    options: OpenAIOptions
    abilities: Abilities | None = None
    seen: Observation | None = None
    say: Say = field(default=lambda _: None)
    known: Known | None = None  # once `fingerprint` has looked up who this is

    path = None
    parameters = None
    bytes = None

    @property
    def url(self) -> str:
        return self.options.url.rstrip("/")

    @property
    def revision(self) -> str | None:
        return self.options.revision

    @property
    def tokenizer(self) -> Checkpoint | None:
        """The folder with the tokenizer; None where messages are sent."""
        folder = self.options.tokenizer
        return Checkpoint(Path(folder).expanduser(), self.name) if folder else None

    @property
    def has_chat_template(self) -> bool:
        return self.options.api == "chat" or (self.tokenizer is not None and self.tokenizer.has_chat_template)

    @property
    def max_length(self) -> int | None:
        """The context in tokens, as the options, the endpoint or the tokenizer's folder tell."""
        told = self.options.max_length or (self.abilities.max_length if self.abilities else None)
        if told is None and self.tokenizer is not None and (self.tokenizer.path / "config.json").exists():
            return self.tokenizer.max_length
        return told

    def cannot(self, card: Task) -> str | None:
        """Why a task can't be asked of this endpoint, with the cure; None if it can."""
        scored = card.config.get("output_type") in SCORED
        if self.options.api == "chat":
            if scored:
                return "it needs log-likelihoods, and a chat endpoint gives none: take its chat form (…_chat)"
            if card.form == "completion":
                return "it is in completion form, and a chat endpoint takes messages: take its chat form (…_chat)"
        elif scored and self.abilities is not None and not self.abilities.scores:
            return f"it needs log-likelihoods, and those of {self.url} can't be used: {self.abilities.why_not}"
        return None

    def fingerprint(self, hashes: object = None) -> dict[str, Any]:
        """What is known of the weights. Looks up the endpoint in `home()/endpoints.jsonl`, and notes it there."""
        if self.seen is None:
            raise ModelError(f"{self.name} was not asked yet what it is.")
        if self.known is None:
            self.known = endpoint_identity.remember(self.seen)
            self._tell(self.known)
        return {"weights": "unverified", "endpoint": self.known.id, "model": self.name, "revision": self.revision}

    def _tell(self, known: Known) -> None:
        assert self.seen is not None
        if self.seen.anonymous:
            self.say(
                f"{self.url} shows nothing by which {self.name} could be known again: no stored answer counts, and "
                "none will. engine.revision=NAME is your word for which weights it serves."
            )
        elif known.changed:
            cure = " engine.revision=NAME would be your word that the weights are the same." * (not self.revision)
            self.say(f"{self.url} has changed since it was last seen ({known.changed}): no stored answer counts.{cure}")

    def check_unchanged(self) -> None:
        """Nothing to check here: the engine watches what replies show."""

    def card(self) -> dict[str, Any]:
        """What the manifest says of it, besides the fingerprint."""
        known, seen = self.known, self.seen
        return {
            "name": self.name,
            "path": None,
            "revision": self.revision,
            "parameters": None,
            "bytes": None,
            "type": None,
            "url": self.url,
            "weights": "unverified",
            "observed": known.observed if known else None,
            "first_observed": known.since if known else None,
            "shown": {key: value for key, value in dataclasses.asdict(seen).items() if value and key != "values"}
            if seen
            else {},
        }


Model = Checkpoint | RemoteModel


class MessageTokens(Tokens):
    """What stands for a tokenizer where the endpoint has it: prompts are JSON of messages, and have no ids here."""

    sends_messages = True
    chat_template = None
    bos = None
    prefix: list[int] = []  # noqa: RUF012
    start: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        """Nothing to load."""

    def chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise PlanError(
                "The task begins the answer itself (gen_prefix), which a chat endpoint can't go on with: use "
                "engine.api=completions with engine.tokenizer=FOLDER."
            )
        return json.dumps(messages, ensure_ascii=False)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.zeros(0, np.int32) for _ in texts]

    def check_bos(self, ids: Ids) -> None:
        """There is no BOS."""


def name_of(settings: EvalSettings, options: OpenAIOptions) -> str:
    """The endpoint's id of the model: `engine.model=`, or `model=`."""
    if options.model and settings.model and options.model != settings.model:
        raise ConfigError(
            f"model={settings.model} and engine.model={options.model} are two models: leave one out. name= is what to "
            "call it in tables."
        )
    return options.model or settings.model


def find(settings: EvalSettings, options: OpenAIOptions, say: Say | None = None, *, fetch: bool = True) -> RemoteModel:
    """The model that the settings mean. fetch: the endpoint is asked what it can do, which may cost a few tokens."""
    from estbench.engines import prices
    from estbench.engines.endpoint_probe import probe
    from estbench.engines.transport import Transport, check_url, is_loopback

    say = say or (lambda _: None)
    check_url(options.url)
    if settings.revision and not options.revision:
        options = dataclasses.replace(options, revision=settings.revision)
    name = name_of(settings, options)
    prices.of(options, name)  # a price that is missing is found here
    if options.api == "completions" and not options.tokenizer:
        raise ConfigError(
            "engine.api=completions needs engine.tokenizer=FOLDER, the folder with the model's tokenizer: prompts are "
            "sent as token ids."
        )
    model = RemoteModel(name, options, say=say)
    if options.tokenizer and not Path(options.tokenizer).expanduser().is_dir():
        raise ConfigError(f"engine.tokenizer={options.tokenizer} is no folder.")
    if not fetch:
        return model
    if urlsplit(options.url).scheme == "http" and not is_loopback(options.url):
        say(f"{options.url} is not encrypted: the key and all prompts can be read on the way.")
    tokens = tokens_of(model)
    with Transport(options.url, key_variable=options.key_variable, timeout=min(options.timeout, 120.0)) as transport:
        sent = None if isinstance(tokens, MessageTokens) else tokens
        model.abilities, model.seen = probe(transport, options, name, sent, say)
    if model.abilities.thinks and not options.thinking_tokens:
        say(f"{name} thinks before it answers, and the task's limit counts both: engine.thinking_tokens=N gives room.")
    return model


def tokens_of(model: RemoteModel) -> Tokens:
    """What turns prompts into what the endpoint is sent."""
    return Tokens(model.tokenizer.path) if model.tokenizer and model.options.api == "completions" else MessageTokens()
