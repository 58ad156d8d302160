"""A vocabulary's change at the size of real ones: seconds of each step, and how fast the rows are written.

    OMP_NUM_THREADS=1 python benchmarks/vocab.py [tokens=64000] [megabytes=20] [gigabytes=1]

The corpus is of made-up words with Zipf's frequencies; on it a byte-level BPE of `tokens` is learnt, half as many
tokens are added and others are dropped. The model is a random one in bfloat16 whose embeddings and head are most of its
bytes. Its writing, with a third of the rows computed in float64, takes turns with copying its files. Peak memory is
that of the writing alone, in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from estbench_training.vocab import extend, focus, learn, resize, shrink
from estbench_training.vocab.forms import Vocabulary
from estbench_training.vocab.pieces import pieces_of
from safetensors.torch import save_file

from estbench.checkpoint import Checkpoint

WIDTH = 2048
SYLLABLES = (
    "ka",
    "sõi",
    "mär",
    "tule",
    "või",
    "kõr",
    "šo",
    "öö",
    "žü",
    "lai",
    "mets",
    "as",
    "tik",
    "veh",
    "jõul",
    "tä",
)


def corpus(megabytes: int) -> list[str]:
    """Documents of 400 words."""
    dice = random.Random(1)
    words = list({"".join(dice.choices(SYLLABLES, k=dice.randint(1, 6))) for _ in range(400_000)})
    weights = np.cumsum(1 / np.arange(1, len(words) + 1)).tolist()
    texts, size = [], 0
    while size < megabytes << 20:
        texts.append(" ".join(dice.choices(words, cum_weights=weights, k=400)))
        size += len(texts[-1].encode())
    return texts


def byte_level() -> Vocabulary:
    """A tokenizer of the bytes alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE({name: at for at, name in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return Vocabulary.of(made)


def model(folder: Path, tokens: int, gigabytes: float) -> Checkpoint:
    """Random weights: embeddings and head, and layers up to the size."""
    folder.mkdir()
    shapes = {"model.embed_tokens.weight": (tokens, WIDTH), "lm_head.weight": (tokens, WIDTH)}
    layers = int((gigabytes * 2**30 / 2 - 2 * tokens * WIDTH) / (4 * WIDTH * WIDTH))
    shapes |= {f"model.layers.{layer}.mlp.up_proj.weight": (4 * WIDTH, WIDTH) for layer in range(max(0, layers))}
    save_file({name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}))
    return Checkpoint(folder, "bench")


def timed(name: str, work: Callable[[], Any]) -> Any:
    """What the work gives; its seconds are printed."""
    start = time.perf_counter()
    found = work()
    print(f"{name:58} {time.perf_counter() - start:8.1f} s", flush=True)
    return found


def main(tokens: int, megabytes: int, gigabytes: float) -> None:
    texts = timed(f"make {megabytes} MB of texts", lambda: corpus(megabytes))
    old = timed(f"replace: learn {tokens:,} by BPE", lambda: learn.replace(byte_level(), texts, tokens, "bpe"))
    before = old.vocabulary()
    more = before.size + before.size // 2
    wide = timed(f"extend {before.size:,} to {more:,}", lambda: extend.extend(before, texts, more))
    after = wide.vocabulary()
    timed("shrink to half", lambda: shrink.shrink(after, texts, before.size // 2))
    pieces = timed(f"pieces of {after.size:,} in {before.size:,}", lambda: pieces_of(before, after))
    timed("focus", lambda: focus.focus(before, after, texts, seed=1))
    with tempfile.TemporaryDirectory() as name:
        checkpoint = model(Path(name) / "model", before.size, gigabytes)
        made = resize.Resized(wide, pieces, after.size)
        rounds(Path(name), checkpoint, made)
        np.savez(Path(name) / "pieces.npz", wide.origins, pieces.indptr, pieces.indices, pieces.weights)
        subprocess.run([sys.executable, __file__, "memory", name], check=True)


def rounds(folder: Path, checkpoint: Checkpoint, made: resize.Resized) -> None:
    """Copying and writing in turn, three times."""
    for turn in range(3):
        for name, work in (
            ("copy", lambda at: shutil.copytree(checkpoint.path, at)),
            ("write", lambda at: resize.write(checkpoint, made, at, "bench")),
        ):
            place = folder / f"{name}{turn}"
            start = time.perf_counter()
            work(place)
            os.sync()
            taken = time.perf_counter() - start
            size = checkpoint.bytes + sum(file.stat().st_size for file in place.glob("*.safetensors"))
            print(f"{name:58} {taken:8.1f} s, {size / taken / 1e9:.2f} GB/s read and written", flush=True)
            shutil.rmtree(place)


def memory(folder: Path) -> None:
    """The peak of writing, above what the imports take."""
    from estbench_training.vocab.assemble import Adapted
    from estbench_training.vocab.pieces import Pieces

    with np.load(folder / "pieces.npz") as kept:
        origins, *parts = (kept[name] for name in kept.files)
    checkpoint = Checkpoint(folder / "model", "bench")
    made = resize.Resized(Adapted({}, origins), Pieces(*parts, old_size=int(origins.max()) + 1), len(origins))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = _peak()
    resize.write(checkpoint, made, folder / "made", "bench")
    peak = _peak() - before
    print(f"peak memory of writing {checkpoint.bytes / 2**30:.1f} GiB: {peak:,.0f} MiB above the imports")


def _peak() -> float:
    """The most memory that this process has had, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        memory(Path(sys.argv[2]))
    else:
        given = {"tokens": 64000.0, "megabytes": 20.0, "gigabytes": 1.0}
        given |= {key: float(value) for key, value in (word.split("=") for word in sys.argv[1:])}
        main(int(given["tokens"]), int(given["megabytes"]), given["gigabytes"])
