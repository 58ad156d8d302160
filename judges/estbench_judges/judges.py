"""Who judges: a model behind an endpoint or on disk, over the same engines as every other request.

    [judge] = find("qwen3-32b@http://127.0.0.1:8000/v1", options)     # or several, with commas, or a panel.yaml
    judge.open(say)                                  # asks the endpoint what it is; the judge's identity is known then
    judge.response_id                                # names its store of judgments

A panel file:

    judges:
      - {model: qwen3-32b, url: "http://127.0.0.1:8000/v1"}
      - {model: gpt-5-mini, url: "https://api.openai.com/v1", key_variable: OPENAI_API_KEY, prices: prices.yaml}
      - {model: /models/gemma-3-27b-it, engine: vllm, family: gemma}
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estbench import config, engines, identity
from estbench.config import EvalSettings
from estbench.engines.base import Answer, Engine, Pack, Packing, Request
from estbench.engines.options import KINDS, OpenAIOptions, read_options
from estbench.errors import ConfigError, EngineError, EstbenchError, PlanError, StoreError, did_you_mean
from estbench.home import home
from estbench.remote import Model, RemoteModel
from estbench.tokens import Tokens
from estbench_judges.panel import family_of
from estbench_judges.rendering import merged

Say = Callable[[str], None]
OF_A_JUDGE = ("model", "url", "engine", "name", "family", "revision")  # keys of a panel's entry; others are options


@dataclass
class Judge:
    """One judge. What needs a look at the model is there after `open`."""

    settings: EvalSettings
    name: str
    family: str | None
    model: Model | None = None
    tokens: Tokens | None = None
    engine: Engine | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    response_id: str = ""
    has_system: bool = True  # whether its template knows a system message

    def open(self, say: Say) -> None:
        """Find the model and make the engine; nothing is loaded yet. An endpoint is asked what it can do."""
        try:
            self.model = engines.find_model(self.settings, say)
        except EstbenchError as error:
            raise type(error)(f"Judge {self.name}: {str(error).replace('engine.', 'judge.')}") from None
        self.tokens = engines.tokens_of(self.settings, self.model)
        self.engine = engines.make(self.settings, self.model, self.tokens, say)
        if not self.model.has_chat_template:
            raise ConfigError(f"{self.name} has no chat template: a judge is asked in messages.")
        self._look()
        self.fingerprint = {"model": self.model.fingerprint(), "engine": self.engine.fingerprint()}
        self.response_id = identity.digest(self.fingerprint)
        _remember(self)

    def replay(self) -> None:
        """Be the judge that was last asked under these settings: nothing is asked, only the store is read."""
        known = _recall(self)
        self.model = engines.find_model(self.settings, None, fetch=False)
        self.tokens = engines.tokens_of(self.settings, self.model)
        self.engine = Replay(self.name)
        self._look()
        self.fingerprint, self.response_id = known["fingerprint"], known["response_id"]

    def close(self) -> None:
        """End what was begun to know the judge."""
        if self.engine is not None:
            self.engine.close()

    def _look(self) -> None:
        assert self.tokens is not None
        if not self.tokens.sends_messages:
            try:
                self.tokens.chat([{"role": "system", "content": "Ja."}, {"role": "user", "content": "Nii."}])
            except PlanError:
                self.has_system = False

    @property
    def model_name(self) -> str:
        """The model's id, which may tell its family where its name in the panel doesn't."""
        return self.settings.model

    @property
    def scores_labels(self) -> bool:
        """Whether its log-likelihoods of labels can be asked; a chat endpoint's likeliest first tokens otherwise."""
        if isinstance(self.model, RemoteModel):
            return self.model.options.api == "completions" and bool(
                self.model.abilities and self.model.abilities.scores
            )
        return True

    @property
    def max_length(self) -> int:
        return self.engine.max_length if self.engine is not None else 1 << 30  # not opened: nothing is asked yet

    def text(self, messages: Sequence[dict[str, str]]) -> str:
        """The messages as this judge is sent them: its template's text, or JSON of messages."""
        assert self.tokens is not None
        given = list(messages) if self.has_system else merged(messages)
        return self.tokens.chat(given)

    def card(self) -> dict[str, Any]:
        """What a manifest says of the judge."""
        assert self.model is not None
        url = self.model.url if isinstance(self.model, RemoteModel) else None
        return {
            "name": self.name,
            "family": self.family,
            "model": self.model_name.rstrip("/").rsplit("/", 1)[-1],
            "url": url,
            "engine": self.settings.engine,
            "revision": self.model.revision,
            "fingerprint": self.response_id,
            "hashes": self.fingerprint,
        }


class Replay:
    """An engine that has nothing but what is stored."""

    max_length = 1 << 30
    packing = Packing()
    max_age: float | None = None

    def __init__(self, name: str) -> None:
        self.name = name

    def fingerprint(self) -> dict[str, str]:
        raise AssertionError("a replay takes the identity that was noted")

    def load(self) -> None:
        raise EngineError(
            f"Not all judgments of {self.name} that this needs are stored: without replay=true they are asked."
        )

    def answer(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        raise AssertionError("nothing is loaded")

    def notes(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def opened(judges: Sequence[Judge], say: Say, *, replay: bool = False) -> Iterator[None]:
    """The judges, ready to be asked (or, for a replay, to be read from the store), and closed in the end."""
    try:
        for one in judges:
            one.replay() if replay else one.open(say)
        yield
    finally:
        for one in judges:
            one.close()


def find(words: str, options: Mapping[str, str], *, max_cost: float | None = None) -> list[Judge]:
    """The judges that `judge=` or `judges=` names, in order. options: `judge.KEY=VALUE`, for who has the key."""
    rows = [row for word in words.split(",") if word.strip() for row in _rows(word.strip())]
    if not rows:
        raise ConfigError("judge= names nobody: give MODEL@URL, a checkpoint, or a panel.yaml.")
    known = {f.name for kind in KINDS.values() for f in dataclasses.fields(kind)}
    for key in options:
        if key not in known - {"url", "model", "max_cost"}:
            raise ConfigError(f"There is no key 'judge.{key}'.{did_you_mean(key, known)}")
    judges = [_judge(row, options, max_cost) for row in rows]
    for key in options:
        if not any(key in {f.name for f in dataclasses.fields(KINDS[one.settings.engine])} for one in judges):
            raise ConfigError(f"judge.{key}= is for none of these judges: {', '.join(j.name for j in judges)}.")
    names = [judge.name for judge in judges]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"Two judges are called {twice!r}: give them name= in a panel file.")
    return judges


def _rows(word: str) -> list[dict[str, Any]]:
    """The entries that a word of `judges=` means."""
    if word.endswith((".yaml", ".yml")):
        found = config.read_yaml(Path(word).expanduser(), f"judges={word}")
        rows = found.get("judges") if isinstance(found, dict) else None
        if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and r.get("model") for r in rows):
            raise ConfigError(f"judges={word} has to hold `judges:`, a list of {{model: ..., url: ...}}.")
        return rows
    name, at, url = word.partition("@")
    if at and url.startswith(("http://", "https://")):
        return [{"model": name, "url": url}]
    if at and not Path(word).expanduser().exists():
        raise ConfigError(
            f"judge={word}: a judge's URL begins with http:// or https://, as in NAME@http://127.0.0.1:8000/v1."
        )
    if word.startswith(("http://", "https://")):
        return [{"model": _only_model(word), "url": word}]
    return [{"model": word}]


def _only_model(url: str) -> str:
    """The one model that an endpoint lists. ConfigError where it lists several or none."""
    from estbench.engines.replies import as_list, as_object, as_text
    from estbench.engines.transport import Call, Transport, Unanswered

    engines.check_parts("openai")
    with Transport(url, key_variable="OPENAI_API_KEY", timeout=30.0) as transport:
        found = transport.ask(Call("models", check=lambda reply: as_list(as_object(reply).get("data"), "data")))
    if isinstance(found, Unanswered):
        raise ConfigError(f"{url} does not list its models ({found.reason}): write judge=MODEL@{url}.")
    listed = [as_text(as_object(one, "a model").get("id"), "id") for one in found]
    if len(listed) != 1:
        raise ConfigError(f"{url} has {', '.join(listed[:5]) or 'no model'}: write judge=MODEL@{url}.")
    return listed[0]


def _judge(row: dict[str, Any], options: Mapping[str, str], max_cost: float | None) -> Judge:
    engine = str(row.get("engine") or ("openai" if row.get("url") else "hf"))
    if engine not in KINDS:
        raise ConfigError(f"engine {engine!r} of judge {row['model']} is none of {', '.join(KINDS)}.")
    fields = {f.name for f in dataclasses.fields(KINDS[engine])}
    own = {key: str(value) for key, value in row.items() if key not in (*OF_A_JUDGE, "url")}
    given = {key: value for key, value in options.items() if key in fields} | own
    if row.get("url"):
        given["url"] = str(row["url"])
    if engine == "openai" and max_cost is not None:
        given["max_cost"] = str(max_cost)
    try:
        read_options(engine, given)
    except ConfigError as error:
        raise ConfigError(f"Judge {row['model']}: {str(error).replace('engine.', 'judge.')}") from None
    revision = str(row["revision"]) if row.get("revision") else None
    settings = EvalSettings(model=str(row["model"]), engine=engine, engine_options=given, revision=revision)
    name = str(row.get("name") or row["model"]).rstrip("/").rsplit("/", 1)[-1]
    return Judge(settings, name, str(row["family"]) if row.get("family") else family_of(str(row["model"])))


def options_of(judge: Judge) -> OpenAIOptions | None:
    """The endpoint's options; None for a judge on disk."""
    found = read_options(judge.settings.engine, judge.settings.engine_options)
    return found if isinstance(found, OpenAIOptions) else None


def _spec(judge: Judge) -> str:
    """What the settings say of a judge, without what changes no answer."""
    given = judge.settings.engine_options
    silent = ("max_cost", "prices", "input_price", "output_price", "concurrency", "timeout", "key_variable", "max_age")
    kept = {key: value for key, value in given.items() if key not in silent}
    return identity.digest([judge.settings.model, judge.settings.engine, judge.settings.revision, kept])


def _file() -> Path:
    return home() / "judges.jsonl"


def _remember(judge: Judge) -> None:
    """Note who was asked, so that a replay finds the store without asking anybody."""
    row = {"spec": _spec(judge), "name": judge.name, "at": round(time.time())}
    row |= {"response_id": judge.response_id, "fingerprint": judge.fingerprint}
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with open(_file(), "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StoreError(
            f"{_file()} can't be written ({error.strerror}): set ESTBENCH_HOME to another folder."
        ) from None


def _recall(judge: Judge) -> dict[str, Any]:
    found: dict[str, Any] | None = None
    spec = _spec(judge)
    for line in _file().read_text("utf-8").splitlines() if _file().exists() else []:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("spec") == spec and row.get("response_id"):
                found = row
    if found is None:
        raise ConfigError(
            f"{judge.name} was never asked from this home under these settings: there is nothing to replay."
        )
    return found


def request_of(judge: Judge, texts: Sequence[str]) -> list[Request]:
    """Requests of whole prompts, without what is asked of them yet."""
    assert judge.tokens is not None
    messages = judge.tokens.sends_messages
    ids = judge.tokens.encode(texts)
    return [Request(one, messages=text if messages else None) for one, text in zip(ids, texts, strict=True)]
