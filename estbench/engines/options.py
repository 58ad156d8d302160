"""What `engine.KEY=VALUE` may be, engine by engine. Light: `--help` and the check of a command line read this."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estbench import config
from estbench.config import option
from estbench.errors import ConfigError, did_you_mean

APIS = ("chat", "completions")
OWN_KEYS = {"model", "messages", "prompt", "echo", "logprobs", "max_tokens", "max_completion_tokens", "n", "stream"}
SECRET = re.compile(r"api.?key|token$|secret|password|authorization|credential", re.I)  # not to be kept
WAYS = ("auto", "walk", "echo")
OF_THE_START = (  # options of a vLLM server that is started here
    "command",
    "dtype",
    "tensor_parallel_size",
    "data_parallel_size",
    "max_model_len",
    "gpu_memory_utilization",
    "block_size",
    "lora",
    "reasoning_parser",
    "args",
)
SCORING = ("auto", "trie", "padded")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class HFOptions:
    """engine=hf: transformers in this process."""

    device: str = option("auto, cpu, cuda, cuda:1, mps, xpu; auto is the first GPU if there is one", "auto")
    dtype: str = option("auto is float32 on a CPU and the checkpoint's own on a GPU", "auto", choices=DTYPES)
    attention: str = option("transformers' attention; auto is sdpa, or eager where a model has no sdpa", "auto")
    scoring: str = option("trie computes each token once; auto takes padded where that fails", "auto", choices=SCORING)
    gpus: int = option("GPUs that share one model, for one that does not fit on one", 1, least=1)
    thinking_tokens: int = option("tokens to think with, on top of the task's for the answer", 0, least=0)


@dataclass(frozen=True)
class VllmOptions:
    """engine=vllm: a vLLM server, started or found running."""

    url: str | None = option("a server that runs already, such as http://127.0.0.1:8000/v1", None)
    command: str | None = option("a site's own way to start one, such as 'singularity exec X.sif vllm serve'", None)
    dtype: str = option("auto is float32 on a CPU and the checkpoint's own on a GPU", "auto", choices=DTYPES)
    tensor_parallel_size: int = option("GPUs that share one copy of the model", 1, least=1)
    data_parallel_size: int = option("copies of the model", 1, least=1)
    max_model_len: int | None = option("the longest context in tokens; default is the model's own", None, least=1)
    gpu_memory_utilization: float | None = option("share of a GPU's memory; default is vLLM's", None)
    block_size: int | None = option("tokens of a cache block; default is 32 on a CPU, else vLLM's", None, least=1)
    lora: str | None = option("a LoRA adapter to evaluate: its folder", None)
    reasoning_parser: str | None = option("vLLM's parser that tells thinking from the answer", None)
    args: str = option("more words for the server, as on a command line", "")
    model: str | None = option("url: the server's name of the model, where it serves several", None)
    scoring: str = option("log-likelihoods: a walk down the trie or echo; auto is the cheaper", "auto", choices=WAYS)
    thinking_tokens: int = option("tokens to think with, on top of the task's for the answer", 0, least=0)
    concurrency: int = option("HTTP requests under way, at most; on a CPU 16 at most", 128, least=1)
    timeout: float = option("seconds for one HTTP request", 1800.0)

    def __post_init__(self) -> None:
        set_here = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        if self.url and (own := [name for name in OF_THE_START if name in set_here]):
            raise ConfigError(f"{own[0]}= is for a server that estbench starts; the one at url= runs as it is.")
        if self.model and not self.url:
            raise ConfigError("model= is for url=: the server that estbench starts has one model only.")
        if not 0 < self.timeout < float("inf"):
            raise ConfigError(f"timeout={self.timeout} has to be a number of seconds above 0.")
        if self.gpu_memory_utilization is not None and not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization={self.gpu_memory_utilization} is a share, above 0 and up to 1.")


@dataclass(frozen=True)
class OpenAIOptions:
    """engine=openai: any OpenAI-compatible endpoint."""

    url: str = option("the endpoint's base, such as https://host/v1")
    model: str | None = option("the endpoint's id of the model; default is model=", None)
    api: str = option("chat sends messages; completions token ids, by engine.tokenizer", "chat", choices=APIS)
    tokenizer: str | None = option("completions: a folder with the model's tokenizer", None)
    max_length: int | None = option("the context in tokens, where the server does not say", None, least=1)
    key_variable: str = option("environment variable that holds the key", "OPENAI_API_KEY")
    revision: str | None = option("your word for which weights are served; part of the identity", None)
    max_age: str = option("answers count as stored for so long: 12h, 30d", "30d")
    thinking_tokens: int = option("tokens to think with, on top of the task's for the answer", 0, least=0)
    extra: str | None = option("JSON object to add to each request; recorded, changes scores", None)
    concurrency: int = option("requests under way, at most", 64, least=1)
    timeout: float = option("seconds for one request", 600.0)
    prices: str | None = option("YAML with prices per million tokens, by model", None)
    input_price: float | None = option("price of a million tokens read", None)
    output_price: float | None = option("price of a million tokens written", None)
    max_cost: float | None = option("stop before this run costs more, in the currency of the prices", None)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,60}", self.key_variable):  # not shown: it could be a key
            raise ConfigError(
                "key_variable= is no name of an environment variable; the key itself is never given here."
            )
        self.seconds  # noqa: B018  a wrong age is refused here
        self.body  # noqa: B018
        for name in ("timeout", "input_price", "output_price", "max_cost"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name}={value} has to be a number from 0 up.")
        if self.timeout == 0:
            raise ConfigError("timeout=0 leaves no time: give seconds.")

    @property
    def seconds(self) -> float:
        """`max_age` in seconds."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", self.max_age)
        if not found:
            raise ConfigError(f"max_age={self.max_age} is no age: 45m, 12h or 30d.")
        return float(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]

    @property
    def body(self) -> dict[str, Any]:
        """`extra` as an object."""
        try:
            found = json.loads(self.extra or "{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ConfigError('extra= is no JSON object, such as {"reasoning_effort": "low"}.')
        if own := sorted(found.keys() & OWN_KEYS):
            raise ConfigError(f"extra= can't set {', '.join(own)}: estbench does that itself.")
        if any(SECRET.search(str(key)) for key in found):
            raise ConfigError("extra= is recorded and published: a key belongs into the environment (key_variable=).")
        return found


Options = HFOptions | VllmOptions | OpenAIOptions
KINDS: dict[str, type[Options]] = {"hf": HFOptions, "vllm": VllmOptions, "openai": OpenAIOptions}


def read_options(engine: str, given: Mapping[str, str]) -> Options:
    """The options of an engine, typed; ConfigError for one it does not have."""
    kind = KINDS[engine]
    known = [f.name for f in dataclasses.fields(kind)]
    for key in given:
        if key not in known:
            listed = f" It has {', '.join(known)}." if known else ""
            raise ConfigError(f"engine={engine} has no option {key!r}.{did_you_mean(key, known)}{listed}")
    try:
        return config.build(dict(given), kind)
    except ConfigError as error:
        raise ConfigError(f"engine.{error}") from None
