"""How fast texts become token shards, against the tokenizer's library alone; what each filter costs; peak memory.

    OMP_NUM_THREADS=1 python benchmarks/training_data.py [megabytes] [JSONL corpus with the field "text"] [tokenizer]

Without a corpus it makes one of Estonian-like words, without a tokenizer it learns byte-level BPE of 8,000 on it. The
library's `encode_batch` (and its faster form without offsets) and our whole step (reading the cleaned pieces, encoding,
writing shards with checksums to the disk) take turns, batch by batch and in random order, over the same texts in one
process with one thread; times are CPU seconds, so that other work on the machine slows all of them alike. Filters are
measured apart, each with what comes before it off. Peak memory is that of a process of its own which prepares the
corpus, and a tenth of it, with everything on but the tests.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import contamination as made_up
import numpy as np
from estbench_training.prepare import decontaminate, near, sources
from estbench_training.prepare.encode import Encoder, Frame, frame_of, kept
from estbench_training.prepare.filters import Cleaner, Job
from estbench_training.prepare.pieces import Pieces
from estbench_training.prepare.settings import DuplicateSettings, FilterSettings, SourceSettings
from estbench_training.shards import Writer, load_tokenizer

from estbench.contamination import text
from estbench.contamination.items import Material, Shown
from estbench.registry import Task

ROUNDS = 5
VOCABULARY = 8000
OFF = DuplicateSettings(exact=False, near=False)
# In a process of its own: a recipe's stage, then the most memory that it took.
PREPARE = """
import resource, sys
from pathlib import Path
from estbench_training import recipe
from estbench_training.kinds import Context
folder = Path(sys.argv[1])
sources = {"et": {"path": sys.argv[2], "language": "et", "licence": "cc0-1.0"}}
stage = {"name": "corpus", "kind": "prepare", "sources": sources, "decontaminate": "none", "part_tokens": 1 << 20}
made = recipe.from_row({"name": "r", "base": str(folder), "stages": [stage]}, folder)
context = Context(made, made.stages[0], folder / sys.argv[3], "k", 1, lambda line: None, model=folder)
made.stages[0].kind.run(made.stages[0].settings, context)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def tokenizer_of(folder: Path, corpus: Path) -> Path:
    """BPE of VOCABULARY tokens, learnt on the corpus's first 2,000 documents; saved as transformers reads it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    with open(corpus, encoding="utf-8") as lines:
        bpe.train_from_iterator([json.loads(line)["text"] for line in islice(lines, 2000)], trainer)
    made: Any = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
    made.save_pretrained(folder)
    return folder


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def batches(source: SourceSettings) -> Iterator[sources.Batch]:
    return sources.batches(source, sources.opened("et", source, Path), 1, None, 0)


def tokenising(folder: Path, source: SourceSettings, frame: Frame) -> None:
    """Our step and the library's calls, by turns."""
    with Pieces(folder / "pieces") as pieces:
        cleaner = Cleaner(Job(source, FilterSettings(), OFF, None))
        for batch in batches(source):
            pieces.add(cleaner(batch))
        pieces.finish()
    flags = np.zeros(sum(piece.documents for piece in pieces.all), np.uint8)
    encoder = Encoder(frame)
    times: Counter[str] = Counter()

    def timed(name: str, work: Callable[[], object]) -> None:
        times[name] += seconds(work)

    with tempfile.TemporaryDirectory(dir=folder) as shards, Writer(Path(shards), {}) as writer:
        texts: list[str] = []
        ways: dict[str, Callable[[], object]] = {
            "prepare": lambda: writer.add(*encoder(texts)),
            "encode_batch": lambda: encoder.backend.encode_batch(texts, add_special_tokens=False),
            "encode_batch_fast": lambda: encoder.backend.encode_batch_fast(texts, add_special_tokens=False),
        }
        dice = random.Random(1)
        for _ in range(ROUNDS):
            stream = kept(pieces.all, flags, 0)
            while True:
                begun = time.process_time()
                texts = next(stream, [])
                times["prepare"] += time.process_time() - begun
                if not texts:
                    break
                for name in dice.sample(list(ways), len(ways)):
                    timed(name, ways[name])
        timed("prepare", lambda: writer.finish({}))
        tokens = writer.tokens
    for name in ways:
        print(f"{name:18} {tokens / times[name] / 1e6:6.2f} M tokens/s of CPU")
    for name in ("encode_batch", "encode_batch_fast"):
        print(f"prepare has {times[name] / times['prepare']:.1%} of the throughput of {name}")


def filters(folder: Path, source: SourceSettings) -> None:
    """MB/s of each filter alone, over reading and NFC."""
    words = [made_up.sentences(random.Random(2), 60) for _ in range(2000)]
    material = Material()
    material.add(Task("t", Path("t.yaml"), {"metadata": {}}), [Shown("h", text.plain([one]), []) for one in words])
    decontaminate.of_material(material, (), False).save(folder / "tests")
    plain = FilterSettings()
    jobs = {
        "read, NFC, hash": Job(source, plain, OFF, None),
        "+ language": Job(source, FilterSettings(languages=("et",)), OFF, None),
        "+ tests": Job(source, plain, OFF, folder / "tests"),
        "+ MinHash": Job(source, plain, DuplicateSettings(), None),
    }
    near.signatures(["õ"], 128)  # tables, made once
    for name, job in jobs.items():
        cleaner = Cleaner(job)
        some = list(islice(batches(source), 3))
        share = sum(len(batch.content) for batch in some)
        taken = seconds(lambda cleaner=cleaner, some=some: [cleaner(batch) for batch in some])
        print(f"{name:18} {share / taken / 1e6:6.2f} MB/s of CPU")


def memory(folder: Path, corpus: Path, name: str) -> float:
    """MB at most of a process that prepares the corpus."""
    command = [sys.executable, "-c", PREPARE, str(folder), str(corpus), name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else 10) * 1e6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, tenth = folder / "corpus.jsonl", folder / "tenth.jsonl"
        given = sys.argv[2] if len(sys.argv) > 2 else None
        made_up.make(corpus, size, given)
        lines = corpus.read_bytes().splitlines(keepends=True)
        tenth.write_bytes(b"".join(lines[: len(lines) // 10]))
        model = Path(sys.argv[3]) if len(sys.argv) > 3 else tokenizer_of(folder, corpus)
        frame = frame_of(load_tokenizer(model), str(model))
        source = SourceSettings(path=str(corpus), language="et", licence="cc0-1.0")
        tokenising(folder, source, frame)
        filters(folder, source)
        small, large = memory(model, tenth, "small"), memory(model, corpus, "large")
        print(
            f"peak memory {large:.0f} MB for {corpus.stat().st_size / 1e6:.0f} MB of corpus, {small:.0f} MB for a tenth"
        )


if __name__ == "__main__":
    main()
