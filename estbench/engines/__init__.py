"""Where answers come from. `base` is the seam; each other engine is a module of its name, loaded when it is asked for.

model = engines.find_model(settings, say)
tokens = engines.tokens_of(settings, model)
engine = engines.make(settings, model, tokens, say)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from estbench.engines.options import HFOptions, OpenAIOptions, VllmOptions, read_options
from estbench.errors import ConfigError, MissingPartError

if TYPE_CHECKING:
    from estbench.config import EvalSettings
    from estbench.engines.base import Engine
    from estbench.remote import Model
    from estbench.tokens import Tokens

Say = Callable[[str], None]
MODULES = {"hf": ("torch", "transformers"), "vllm": ("transformers", "openai"), "openai": ("openai",)}
EXTRAS = {"hf": "hf", "vllm": "vllm", "openai": "api"}


def check_parts(engine: str) -> None:
    """MissingPartError where what an engine needs in this process is not installed."""
    for name in MODULES[engine]:
        if importlib.util.find_spec(name) is None:
            raise MissingPartError(
                f"engine={engine} needs {name}, which is not installed: pip install 'estbench[{EXTRAS[engine]}]'."
            )


def find_model(settings: EvalSettings, say: Say | None = None, *, fetch: bool = True) -> Model:
    """What `model=` means to this engine. fetch: what is not here is fetched, and an endpoint asked what it can do."""
    from estbench import checkpoint

    options = read_options(settings.engine, settings.engine_options)
    if isinstance(options, OpenAIOptions):
        from estbench import remote

        check_parts(settings.engine)
        return remote.find(settings, options, say, fetch=fetch)
    return checkpoint.find(settings.model, settings.revision, say, fetch=fetch)


def tokens_of(settings: EvalSettings, model: Model) -> Tokens:
    """What turns prompts into what this engine is sent."""
    from estbench import remote
    from estbench.tokens import Tokens

    return remote.tokens_of(model) if isinstance(model, remote.RemoteModel) else Tokens(model.path)


def make(settings: EvalSettings, model: Model, tokens: Tokens, say: Say) -> Engine:
    """The engine, not loaded yet. `say` hears what a person should know: a path not taken, a server that restarts."""
    from estbench.remote import RemoteModel

    options = read_options(settings.engine, settings.engine_options)
    if isinstance(model, RemoteModel):
        from estbench.engines.openai_api import OpenAIEngine

        return OpenAIEngine(model, tokens, say)
    if isinstance(options, HFOptions):
        from estbench.engines.hf import HFEngine

        return HFEngine(model, tokens, options, say)
    assert isinstance(options, VllmOptions)
    if options.lora and not settings.name:
        raise ConfigError("engine.lora= makes another model of this one: name it with name=.")
    from estbench.engines.vllm import VllmEngine

    return VllmEngine(model, tokens, options, say)
