"""Machines whose hours a plan shows, and the models whose shapes are known without fetching anything.

A peak is the maker's figure for dense bf16; what is reached of it is an assumption, and a plan prints it as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estbench.errors import ConfigError, did_you_mean

GIB = 1 << 30


@dataclass(frozen=True)
class Machine:
    """A kind of device, and how many of them a node has."""

    name: str
    device: str  # what is counted: a GPU, or a die where that is one
    peak: float  # FLOP/s of a device
    memory: int  # bytes of a device
    per_node: int
    host: int  # bytes of a node's own memory, of all its devices' processes together
    mfu: tuple[float, float]  # assumed model FLOPs utilisation, from … to
    assumption: str  # where that comes from

    def hours(self, flops: float) -> tuple[float, float]:
        """Device-hours at the upper and at the lower end of the assumed utilisation."""
        low, high = self.mfu
        return flops / (self.peak * high) / 3600, flops / (self.peak * low) / 3600


_TORCHTITAN = (
    "torchtitan, Llama-3.1-8B in bf16 on 8 H100: 5,762 tokens/s without, 6,667 with compile (arXiv 2410.06511)"
)

MACHINES: Mapping[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine(
            "laptop",
            "CPU of 2 cores",
            peak=2 * 96e9,  # AVX2 in fp32: 2 FMA units of 8 numbers, 32 FLOP a cycle, at 3 GHz
            memory=16 * GIB,  # a usual laptop
            per_node=1,
            host=16 * GIB,
            mfu=(0.15, 0.60),
            assumption="small models reach anything from a sixth to half of it",
        ),
        Machine(
            "lumi",
            "MI250X GCD",
            # AMD Instinct MI250X data sheet: 383 TFLOP/s of bf16 and 128 GB for its two dies (GCDs)
            peak=191.5e12,
            memory=64 * GIB,
            per_node=8,  # 4 modules: docs.lumi-supercomputer.eu/hardware/lumig
            host=480 * GIB,  # of 512 what a job may ask for: docs.lumi-supercomputer.eu, Slurm partitions
            mfu=(0.25, 0.35),
            assumption="no published measurement of an 8B model is known; to be measured first",
        ),
        Machine(
            "leonardo",
            "A100 64 GB",
            # Leonardo's A100 is a custom one with 64 GB, 4 a node (leonardo-supercomputer.cineca.eu/hpc-system); its
            # peak in bf16 isn't on that page, so that of the A100 data sheet is taken
            peak=312e12,
            memory=64 * GIB,
            per_node=4,
            host=512 * 10**9,  # as above
            mfu=(0.30, 0.45),
            assumption="to be measured first",
        ),
        Machine(
            "h100",
            "H100 SXM",
            peak=989.5e12,  # NVIDIA H100 data sheet: 1,979 with sparsity
            memory=80 * 10**9,
            per_node=8,
            host=2 * 10**12,  # NVIDIA DGX H100 data sheet; others have less
            mfu=(0.34, 0.39),
            assumption=_TORCHTITAN,
        ),
        Machine(
            "h200",
            "H200 SXM",
            peak=989.5e12,  # NVIDIA H200 data sheet: 1,979 with sparsity
            memory=141 * 10**9,
            per_node=8,
            host=2 * 10**12,  # NVIDIA DGX H200 data sheet; others have less
            mfu=(0.34, 0.39),
            assumption=f"an H100's: {_TORCHTITAN}",
        ),
    )
}


def machine_of(name: str) -> Machine:
    """The machine by its name; ConfigError for one that isn't there."""
    if name not in MACHINES:
        raise ConfigError(
            f"There is no machine {name!r}.{did_you_mean(name, MACHINES)} Known: {', '.join(sorted(MACHINES))}."
        )
    return MACHINES[name]


def _config(kind: str, layers: int, hidden: int, heads: int, kv: int, intermediate: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
    }


# The sizes in config.json of each repository on the Hub.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": _config("llama", 32, 4096, 32, 32, 11008, 32_000),
    "meta-llama/Llama-3.1-8B": _config("llama", 32, 4096, 32, 8, 14336, 128_256),
    "meta-llama/Llama-3.1-70B": _config("llama", 80, 8192, 64, 8, 28672, 128_256),
    "swiss-ai/Apertus-8B-2509": _config("apertus", 32, 4096, 32, 8, 21504, 131_072),
}
