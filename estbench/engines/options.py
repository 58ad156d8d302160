"""What `engine.KEY=VALUE` may be, engine by engine. Light: `--help` and the check of a command line read this."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from estbench import config
from estbench.config import option
from estbench.errors import ConfigError, did_you_mean

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class HFOptions:
    """engine=hf: transformers in this process."""

    device: str = option("auto, cpu, cuda, cuda:1, mps, xpu; auto is the first GPU if there is one", "auto")
    dtype: str = option("auto is float32 on a CPU and the checkpoint's own on a GPU", "auto", choices=DTYPES)
    attention: str = option("transformers' attention implementation", "sdpa")


@dataclass(frozen=True)
class VllmOptions:
    """engine=vllm: a vLLM server, started or found running."""


@dataclass(frozen=True)
class OpenAIOptions:
    """engine=openai: any OpenAI-compatible endpoint."""


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
