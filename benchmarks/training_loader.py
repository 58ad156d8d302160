"""How many tokens a second the loader alone makes of memory-mapped shards, to compare with what a training step takes.

    OMP_NUM_THREADS=1 python benchmarks/training_loader.py [tokens=500e6] [sequence=4096] [steps=40]

Writes shards of random tokens (documents of 20 to 3,000 tokens, log-uniform) in a temporary folder, two sources 3 : 1,
and takes steps of 262,144 tokens: `Batches.step` in this thread (random windows, labels, positions, tensors, and the
targets of the whole step), as one process of one and as one of eight (whose share is an eighth, while the targets are
still those of all), and through `prefetch` with nothing else to do. Beside it what numpy copies of random windows from
the same files, the ceiling. The file cache is warm. And how long mixtures take to plan: 5 million samples with weights
3 : 1 and with twelve weights that have no common rhythm. Prints JSON; wall-clock seconds and CPU seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from estbench_training.mixture import Mixture, MixtureSettings
from estbench_training.packing import Batches
from estbench_training.shards import Shards, Writer

BATCH_TOKENS = 262_144
VOCABULARY = 128_256
WEIGHTS = {"et": 3.0, "en": 1.0}
TOKENIZER = {"hash": "0" * 64, "name": "random", "vocab_size": VOCABULARY, "bos": None, "eos": 0}


def write(folder: Path, tokens: int, dice: np.random.Generator) -> Shards:
    """A source of about so many random tokens."""
    with Writer(folder, TOKENIZER) as writer:
        while writer.tokens < tokens:
            lengths = np.exp(dice.uniform(np.log(20), np.log(3000), 2000)).astype(np.int64)
            ids = dice.integers(1, VOCABULARY, lengths.sum(), dtype=np.uint32)
            ids[np.cumsum(lengths) - 1] = 0
            writer.add(ids, lengths)
        writer.finish({"source": folder.name})
    return Shards.open(folder)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def rate(tokens: int, work: Callable[[], object]) -> dict[str, int]:
    """Tokens a second, by either clock; the best of three."""
    wall, cpu = (min(seconds) for seconds in zip(*(timed(work) for _ in range(3)), strict=True))
    return {"tokens_per_second": int(tokens / wall), "tokens_per_cpu_second": int(tokens / cpu)}


def loading(folder: Path, tokens: int, sequence: int, steps: int) -> dict[str, dict[str, int]]:
    """Tokens a second of each way; for a process of many, tokens of the whole step."""
    dice = np.random.default_rng(0)
    shards = {source: write(folder / source, int(tokens * weight / 4), dice) for source, weight in WEIGHTS.items()}
    size = BATCH_TOKENS // sequence
    held = {source: one.tokens for source, one in shards.items()}
    batches = Batches(Mixture(MixtureSettings(WEIGHTS), held, sequence, steps * size, 1), shards, size, 1)
    read = steps * size * sequence
    starts = dice.integers(0, shards["et"].tokens, steps * size).tolist()

    def all_steps(rank: int, world: int) -> None:
        for step in range(steps):
            batches.step(step, rank, world)

    def prefetched() -> None:
        for _ in batches.prefetch(0, steps):
            pass

    return {
        "numpy copies of random windows": rate(read, lambda: [shards["et"].read(start, sequence) for start in starts]),
        "one process": rate(read, lambda: all_steps(0, 1)),
        "one of eight processes, tokens of all": rate(read, lambda: all_steps(3, 8)),
        "one process, through prefetch": rate(read, prefetched),
    }


def planning(samples: int = 5_000_000) -> dict[str, float]:
    """CPU seconds until a mixture can be asked."""
    dice = np.random.default_rng(0)
    many = {f"source{number}": float(dice.integers(10**6, 10**9)) for number in range(12)}

    def plan(weights: dict[str, float]) -> float:
        held = dict.fromkeys(weights, 10**10)
        return round(timed(lambda: Mixture(MixtureSettings(weights), held, 4096, samples, 1))[1], 4)

    return {"3 : 1": plan(WEIGHTS), "twelve weights without a rhythm": plan(many)}


def main(tokens: int = 500_000_000, sequence: int = 4096, steps: int = 40) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = loading(Path(folder), tokens, sequence, steps)
    print(json.dumps({"sequence": sequence, "loading": found, "planning_cpu_seconds": planning()}, indent=2))


if __name__ == "__main__":
    main(**{key: int(float(value)) for key, value in (word.split("=") for word in sys.argv[1:])})
