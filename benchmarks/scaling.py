"""One worker against two on Ray: documents per second, and the efficiency of the second.

    python benchmarks/scaling.py [documents]

A random Llama (about 20 M parameters, 6 layers) scores four-choice cloze documents of about 200 tokens and generates
short answers, with cluster=local and one core a worker. Timed from the first pack to the last answer: start and loading
are the same for any number of workers, and are shown apart. Numbers of a machine with two cores that are not idle say
little; `cores` is the share of a core that this run got while it computed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ["OMP_NUM_THREADS"] = "1"
DOCUMENTS = 160
WORDS = 2000  # tokens of the vocabulary


def make_model(folder: Path) -> Path:
    """A random checkpoint with a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i + 3 for i in range(WORDS - 3)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8}
    config = LlamaConfig(
        vocab_size=WORDS, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, pad_token_id=1, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def packs(documents: int) -> list[Any]:
    """Packs of cloze documents with four choices, and of prompts to be answered."""
    from estbench.engines.base import Decoding, Pack, Packing, Request
    from estbench.engines.batches import generation_packs
    from estbench.engines.trie import scoring_packs

    dice = np.random.default_rng(1)

    def ids(n: int) -> Any:
        return dice.integers(3, WORDS, n).astype(np.int32)

    asked, prompts = {}, {}
    for i in range(documents):
        prompt = ids(int(dice.integers(150, 250)))
        asked |= {f"{i:030x}{j:02x}": Request(prompt, ids(5)) for j in range(4)}
        if i % 4 == 0:
            prompts[f"{i:030x}ff"] = Request(prompt, decoding=Decoding(16))
    packing = Packing(nodes=1024, rows=4)
    made: list[Pack] = [*scoring_packs("cloze", asked, packing), *generation_packs("texts", prompts, packing)]
    return made


def measure(model: Path, workers: int, documents: int) -> dict[str, float]:
    """Seconds of one run on so many workers."""
    import psutil

    from estbench.checkpoint import find
    from estbench.config import EvalSettings
    from estbench.distributed import RayEngine

    options = {"workers": str(workers), "cpus": "1"}
    settings = EvalSettings(model=str(model), cluster="local", cluster_options=options)
    engine = RayEngine(settings, find(str(model)), lambda line: print(line, file=sys.stderr))
    begun = time.perf_counter()
    try:
        engine.load()
        while not all(seat.ready for seat in engine.seats):
            engine._look_after_workers()
        loaded, cpu = time.perf_counter(), _cpu(psutil)
        list(engine.answer(packs(documents)))
        done = time.perf_counter()
        used = _cpu(psutil) - cpu
    finally:
        engine.close()
    return {
        "workers": workers,
        "start_s": round(loaded - begun, 1),
        "compute_s": round(done - loaded, 2),
        "docs_per_s": round(documents / (done - loaded), 2),
        "cpu_s": round(used, 2),
        "cores": round(used / (done - loaded), 2),
    }


def _cpu(psutil: Any) -> float:
    """CPU seconds that the workers below this process have used."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            if child.name().startswith("ray::Worker"):
                total += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> None:
    documents = int(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENTS
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ESTBENCH_HOME"] = f"{folder}/home"
        model = make_model(Path(folder) / "model")
        one, two = (measure(model, workers, documents) for workers in (1, 2))
    efficiency = two["docs_per_s"] / one["docs_per_s"] / 2
    # of the cores that the runs got: what two workers would lose on a machine that is theirs alone
    work = one["cpu_s"] / two["cpu_s"]
    print(json.dumps({"runs": [one, two], "efficiency": round(efficiency, 3), "work_ratio": round(work, 3)}, indent=1))


if __name__ == "__main__":
    main()
