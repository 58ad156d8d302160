"""Weights of any size, read and written piece by piece: safetensors without the whole model in memory.

with Weights.open(find("demo-base")) as old, growing(place, key) as folder:
    with Writer(folder, old.tensors, key=key) as new:
        for name in old.tensors:
            if not new.done(name):
                new.write(name, 0, old.read(name))
                new.finished(name)
"""

from estbench_training.weights.embeddings import Embeddings, names_of
from estbench_training.weights.reading import FLOATS, TensorInfo, Weights, computing
from estbench_training.weights.rows import all_finite, check_finite, gather, narrowed, rounded
from estbench_training.weights.writing import SHARD_BYTES, Writer, growing

__all__ = [
    "FLOATS",
    "SHARD_BYTES",
    "Embeddings",
    "TensorInfo",
    "Weights",
    "Writer",
    "all_finite",
    "check_finite",
    "computing",
    "gather",
    "growing",
    "names_of",
    "narrowed",
    "rounded",
]
