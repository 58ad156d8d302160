"""What of a model is trained: all of it, its embeddings, adapters (LoRA), or its first and last layers.

freeze(model, settings)                 # before it is sharded; sets requires_grad, adds adapters
trained(model)                          # name -> parameter of what is trained, each once
merged = without_adapters(names…)       # for export: W + alpha/rank · B A under the name of W
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from estbench.errors import ConfigError, ModelError
from estbench_training.cpt.settings import CptSettings, Lora

BASE, LORA_A, LORA_B = ".base_layer.", ".lora_A.default.", ".lora_B.default."


def freeze(model: Any, settings: CptSettings, seed: int) -> None:
    """Leave trainable what `settings.freeze` says; ConfigError or ModelError if the model has no such thing."""
    if settings.freeze == "none":
        return
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if settings.freeze == "embeddings":
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            if part is None:
                raise ModelError("This model names no embeddings: freeze: embeddings can't be had.")
            part.weight.requires_grad_(True)
    elif settings.freeze == "ends":
        _train_ends(layers(model), settings.ends.first, settings.ends.last)
    else:
        _add_adapters(model, settings.lora, seed)


def layers(model: Any) -> list[nn.Module]:
    """The model's layers, first to last; ModelError where there are none to be found."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__.removeprefix("FSDP") in names]
    if not found:
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        found = list(max(lists, key=_size, default=()))
    if not found:
        raise ModelError(f"{type(model).__name__} has no list of layers that could be found.")
    return found


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _train_ends(every: list[nn.Module], first: int, last: int) -> None:
    if first + last > len(every):
        raise ConfigError(f"ends: first {first} and last {last} are more than the {len(every)} layers of the model.")
    for layer in [*every[:first], *every[len(every) - last :]]:
        layer.requires_grad_(True)


def _add_adapters(model: Any, lora: Lora, seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)  # A is random, B is 0
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # whole numbers are not needed
        lora_dropout=lora.dropout,
        target_modules=lora.modules if isinstance(lora.modules, str) else list(lora.modules),
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:  # no such modules, or of a kind that can't be adapted
        raise ConfigError(f"lora.modules: {' '.join(str(error).split())[:300]}") from None
    if hasattr(model.get_output_embeddings(), "base_layer"):
        raise ConfigError(
            "lora.modules: the loss is taken from the output layer's own weights, so that an adapter there learns "
            "nothing: leave it out, or train it whole (lora.whole: [lm_head])."
        )
    names = dict(model.named_modules())
    for wanted in lora.whole:
        found = [module for name, module in names.items() if name.rpartition(".")[2] == wanted]
        if not found:
            raise ConfigError(f"lora.whole: the model has no module called {wanted!r}.")
        for module in found:
            module.requires_grad_(True)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of what is trained; tied ones once."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ModelError("Nothing of this model is trained: look at freeze.")
    return found


def without_adapters(model: nn.Module, whole: Callable[[str, Tensor], Tensor | None]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the model as it would be without adapters, theirs added in.

    Args:
        model: with or without adapters (peft's, injected).
        whole: the gathered tensor of a name; None on processes that don't write. Called in the same order by all.
    """
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    state = {**dict(model.named_parameters()), **_buffers(model)}  # tied ones once, under their first name
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        value = whole(name, tensor)
        owner, based, kind = name.partition(BASE)
        if based and (b := f"{owner}{LORA_B}{kind}") in state:
            a, factor = f"{owner}{LORA_A}{kind}", modules[owner].scaling["default"]
            low, high = whole(a, state[a]), whole(b, state[b])
            if value is not None and low is not None and high is not None:
                product = factor * (high.float() @ low.float())
                turned = isinstance(modules[f"{owner}.base_layer"], Conv1D)  # holds its weight transposed
                value = value.float() + (product.T if turned else product)
        if value is not None:
            yield (f"{owner}.{kind}" if based else name), value


def adapters(model: nn.Module, whole: Callable[[str, Tensor], Tensor | None]) -> Iterator[tuple[str, Tensor]]:
    """(name as peft saves it, tensor) of the adapters, and of what is trained whole beside them."""
    for name, tensor in trained(model).items():
        value = whole(name, tensor)
        if value is not None:
            yield f"base_model.model.{name.replace('.default.', '.')}", value


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that belong to a checkpoint."""
    kept = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}
