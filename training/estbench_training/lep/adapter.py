"""A LoRA adapter, as peft saves it, added to weights slice by slice.

    adapter = Adapter.open(folder)
    adapter.parts["model.layers.0.self_attn.q_proj.weight"].rows(0, 4096, torch.float32)    # of scaling · B A
    adapter.whole                                       # tensors that were trained whole beside it

W + α/r · B A (Hu et al. 2021, arXiv 2106.09685), α/√r with use_rslora (arXiv 2312.03732); rank_pattern and
alpha_pattern as peft has them. Kinds of adapters that change a weight in another way (DoRA, biases) are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from estbench import identity
from estbench.checkpoint import read_header, read_json
from estbench.errors import ModelError
from estbench_training.lep.places import CONFIG

WEIGHTS = "adapter_model.safetensors"
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
OF_TOKENS = (".lora_embedding_A", ".lora_embedding_B")  # what they have learnt is in the donor's embeddings


@dataclass(frozen=True)
class Part:
    """What is added to one weight: scaling · B A, (out, in); turned: the weight is stored as (in, out)."""

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    scaling: float
    turned: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that it is added to."""
        out, inner = self.b.shape[0], self.a.shape[1]
        return (inner, out) if self.turned else (out, inner)

    def rows(self, start: int, stop: int, kind: torch.dtype) -> Tensor:
        """Rows of the weight's shape, computed in `kind`."""
        left, right = (self.a.T, self.b.T) if self.turned else (self.b, self.a)
        return self.scaling * (left[start:stop].to(kind) @ right.to(kind))


@dataclass(frozen=True)
class Adapter:
    """An adapter's parts by the name of the weight, and the names of tensors that were trained whole."""

    folder: Path
    parts: Mapping[str, Part]
    whole: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """ModelError for an adapter that is torn, pickled, or of a kind that can't be added."""
        config = _config(folder)
        file = folder / WEIGHTS
        if not file.is_file():
            raise ModelError(f"{folder} has no {WEIGHTS}: save the adapter again with safetensors.")
        names = list(read_header(file))
        if strange := [name for name in names if _strange(name)]:
            raise ModelError(f"{file}: {strange[0]} is of a kind of adapter that can't be added here: merge it first.")
        modules, others = ([name.removeprefix(PREFIX).removesuffix(end) for name in names if name.endswith(end)]
                           for end in (A, B))  # fmt: skip
        if alone := sorted({*modules} ^ {*others}):
            raise ModelError(f"{file} has of {alone[0]} A or B, and not both: save the adapter again.")
        whole = [name.removeprefix(PREFIX) for name in names if ".lora_" not in name]
        parts = {f"{module}.weight": _part(file, module, config) for module in modules}
        return cls(folder, parts, tuple(whole))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of its files, by name."""
        found = identity.FileHashes().of([self.folder / CONFIG, self.folder / WEIGHTS])
        return {file.name: hashed for file, (hashed, _) in found.items()}


def _config(folder: Path) -> dict[str, Any]:
    found = read_json(folder / CONFIG)
    if found.get("peft_type") != "LORA" or found.get("use_dora") or found.get("bias", "none") != "none":
        raise ModelError(f"{folder / CONFIG}: only plain LoRA adapters without biases can be added: merge it first.")
    if not isinstance(found.get("lora_alpha"), int | float):
        raise ModelError(f"{folder / CONFIG} doesn't say lora_alpha: save the adapter again.")
    return found


def _strange(name: str) -> bool:
    usual = (A, B, *OF_TOKENS)
    return not name.startswith(PREFIX) or (".lora_" in name and not name.endswith(usual))


def _part(file: Path, module: str, config: Mapping[str, Any]) -> Part:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        a, b = (opened.get_tensor(f"{PREFIX}{module}{end}") for end in (A, B))
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise ModelError(f"{file}: A and B of {module} are {list(a.shape)} and {list(b.shape)}, which is no LoRA.")
    for name, tensor in (("A", a), ("B", b)):
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{file}: {name} of {module} holds a NaN or an infinity.")
    rank = a.shape[0]
    return Part(a, b, _scaling(module, rank, config), bool(config.get("fan_in_fan_out")))


def _scaling(module: str, rank: int, config: Mapping[str, Any]) -> float:
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
