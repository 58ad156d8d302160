"""What an endpoint's answers cost: prices per million tokens, and a ledger of the tokens that were used.

    prices = of(options, "gpt-5-mini")      # Prices, or None where nothing is known
    ledger.add(usage)                       # the `usage` object of a reply
    prices.cost(ledger)

A price table is YAML:

    currency: EUR
    models:
      gpt-5-mini: {input: 0.22, cached: 0.022, output: 1.76}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from estbench import config
from estbench.engines.base import Request
from estbench.engines.options import OpenAIOptions
from estbench.engines.replies import BadReply, as_count, as_object
from estbench.errors import ConfigError, did_you_mean

MILLION = 1_000_000
AROUND = 16  # tokens around a message, at most; and four times that around all of them
BYTES = 3  # of a token of Estonian, roughly


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one reply. `cached` are among `prompt`, `reasoning` among `completion`; None: not told."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int | None = None


@dataclass(slots=True)
class Ledger:
    """Tokens of all calls so far. `unmetered` calls told nothing: they are counted with the most they can be."""

    calls: int = 0
    unmetered: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def add(self, usage: Usage) -> None:
        """Count a reply that told its usage."""
        self.calls += 1
        self.prompt += usage.prompt
        self.cached += usage.cached
        self.completion += usage.completion
        self.reasoning += usage.reasoning or 0

    def add_most(self, prompt: int, completion: int) -> None:
        """Count a call whose usage is not known: it may have been billed."""
        self.calls += 1
        self.unmetered += 1
        self.prompt += prompt
        self.completion += completion

    def record(self) -> dict[str, int]:
        """The ledger for a manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices per million tokens."""

    input: float
    output: float
    cached: float | None = None  # of prompt tokens that the endpoint had in its cache; default is `input`
    currency: str = ""

    def cost(self, ledger: Ledger) -> float:
        """What the ledger's tokens cost."""
        cached = self.input if self.cached is None else self.cached
        fresh = max(0, ledger.prompt - ledger.cached)
        return (fresh * self.input + ledger.cached * cached + ledger.completion * self.output) / MILLION

    def most(self, prompt: int, completion: int) -> float:
        """What a call with so many tokens costs at most."""
        return (prompt * max(self.input, self.cached or 0.0) + completion * self.output) / MILLION

    def amount(self, value: float) -> str:
        """0.1234 -> 0.1234 EUR."""
        return f"{value:,.4g} {self.currency}".rstrip()


def bounds(request: Request, options: OpenAIOptions) -> tuple[int, int]:
    """The most tokens that a request reads and writes. A token is a byte at least."""
    if request.messages is not None:
        read = len(request.messages.encode()) + AROUND * (4 + request.messages.count('"role"'))
    else:
        read = len(request.prompt) + 1 + (0 if request.continuation is None else len(request.continuation))
    return read, request.decoding.max_new_tokens + options.thinking_tokens if request.decoding else 1


def estimate(requests: Sequence[Request], options: OpenAIOptions) -> tuple[int, int]:
    """About how many tokens requests read, and how many they write at most."""
    read = sum(bounds(request, options)[0] // (BYTES if request.messages is not None else 1) for request in requests)
    return read, sum(bounds(request, options)[1] for request in requests)


def usage_of(reply: Mapping[str, Any]) -> Usage | None:
    """The usage that a reply tells; None where it tells none. BadReply where its counts are no counts."""
    told = reply.get("usage")
    if told is None:
        return None
    usage = as_object(told, "usage")
    prompt = as_count(usage.get("prompt_tokens"), "usage.prompt_tokens")
    completion = as_count(usage.get("completion_tokens") or 0, "usage.completion_tokens")
    total = usage.get("total_tokens")
    if total is not None:  # some count thinking in the total only, and bill it
        completion = max(completion, as_count(total, "usage.total_tokens") - prompt)
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens") or 0
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    if cached > prompt:
        raise BadReply(f"usage has {cached} cached tokens of {prompt}")
    return Usage(prompt, completion, cached, reasoning)


def _detail(usage: Mapping[str, Any], name: str, key: str) -> int | None:
    details = usage.get(name)
    if not isinstance(details, dict) or details.get(key) is None:
        return None
    return as_count(details[key], f"usage.{name}.{key}")


def of(options: OpenAIOptions, model: str) -> Prices | None:
    """The prices that the options give for a model; ConfigError where `max_cost` needs some and there are none."""
    if options.prices and (options.input_price is not None or options.output_price is not None):
        raise ConfigError("engine.prices= and engine.input_price= are two answers to one question: leave one out.")
    if (options.input_price is None) != (options.output_price is None):
        raise ConfigError("Give both engine.input_price= and engine.output_price=, per million tokens.")
    found = None
    if options.prices:
        found = _from_table(Path(options.prices).expanduser(), model)
    elif options.input_price is not None and options.output_price is not None:
        found = Prices(options.input_price, options.output_price)
    if options.max_cost is not None and found is None:
        raise ConfigError(
            f"engine.max_cost= needs the price of {model}: give engine.input_price= and engine.output_price= per "
            "million tokens, or a table (engine.prices=FILE.yaml)."
        )
    return found


def _from_table(path: Path, model: str) -> Prices:
    table = config.read_yaml(path, f"engine.prices={path}")
    models = table.get("models") if isinstance(table, dict) else None
    if not isinstance(models, dict):
        raise ConfigError(f"engine.prices={path} has to hold `models:`, each with input and output per million tokens.")
    row = models.get(model)
    if row is None:
        raise ConfigError(f"engine.prices={path} has no price of {model}.{did_you_mean(model, map(str, models))}")
    if not isinstance(row, dict) or row.keys() - {"input", "output", "cached"} or not {"input", "output"} <= row.keys():
        raise ConfigError(f"engine.prices={path}, {model}: give input and output (and cached) per million tokens.")
    if bad := [key for key, value in row.items() if not _is_price(value)]:
        raise ConfigError(f"engine.prices={path}, {model}: {bad[0]} is no price.")
    return Prices(row["input"], row["output"], row.get("cached"), str(table.get("currency") or ""))


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
