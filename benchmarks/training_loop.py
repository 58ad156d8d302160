"""Tokens a second of continued pretraining: our loop, the Trainer of transformers, and TRL's SFTTrainer; on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/training_loop.py [steps]

All train the same random Llama (4 layers of width 256, 8,192 tokens of vocabulary) in fp32 with packed documents that
don't see each other: sequences of 256, micro batches of 4, two of them a step, fused AdamW, cosine, clipping, a line of
log a step, nothing saved. The Trainer gets our own rows, made before the clock runs; TRL packs the documents itself
(bfd_split), before the clock runs, too. Ours reads its rows from shards and runs its guard while the clock runs.

CPU seconds of the training alone, each side in a process of its own, in turn; medians of RUNS. tokens: positions that
the model read. Then how fast rows are made, alone, as a multiple of what the loop needs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = 3
SIDES = ("estbench", "transformers", "trl")
SEQUENCE, MICRO, ACCUMULATION = 256, 4, 2
RATE, WARMUP = 1e-3, 2
VOCABULARY, EOS = 8192, 1


def make(folder: Path, steps: int) -> None:
    """A model, shards of documents of 20 to 400 tokens, and a recipe."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import numpy as np
    import training_world as world
    from estbench_training.shards import Writer, load_tokenizer, tokenizer_hash

    base = world.make_model(
        folder / "base", vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024, initializer_range=0.02,
    )  # fmt: skip
    dice = np.random.default_rng(0)
    lengths = dice.integers(20, 400, 20 + steps * MICRO * ACCUMULATION * SEQUENCE // 200)
    ids = dice.integers(3, VOCABULARY, lengths.sum()).astype(np.uint32)
    ids[np.cumsum(lengths) - 1] = EOS
    tokenizer = {"hash": tokenizer_hash(load_tokenizer(base)), "name": "made up", "vocab_size": VOCABULARY}
    with Writer(folder / "shards" / "text", tokenizer) as writer:
        writer.add(ids, lengths)
        writer.finish({"source": "text", "licence": "cc0-1.0"})
    world.make_recipe(
        folder, base, sequence=SEQUENCE, batch_tokens=SEQUENCE * MICRO * ACCUMULATION, micro_batch=MICRO, rate=RATE,
        warmup=WARMUP, steps=steps, mixture={"weights": {}}, save={"every": 10 * steps},
    )  # fmt: skip


def ours(folder: Path) -> dict[str, float]:
    """The stage's own loop, with its data and its log."""
    import training_world as world
    from estbench_training.cpt import loop
    from estbench_training.cpt.logs import Log

    run, batches = world.build(folder / "recipe.yaml", folder / "ours")
    run.save = lambda: None  # type: ignore[method-assign]
    steps = run.settings.total_steps
    with Log(folder / "ours", steps=steps, tensorboard=False, say=lambda line: None) as log:
        begun = time.process_time()
        loop.train(run, batches, log)
        seconds = time.process_time() - begun
    begun = time.process_time()
    for step in range(steps):
        batches.step(step)
    return {"tokens": run.settings.total_tokens, "seconds": seconds, "loader": time.process_time() - begun}


def arguments(folder: Path, steps: int) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": str(folder / "theirs"), "max_steps": steps, "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": ACCUMULATION, "learning_rate": RATE, "lr_scheduler_type": "cosine",
        "warmup_steps": WARMUP, "weight_decay": 0.1, "adam_beta2": 0.95, "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused", "logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False,
        "save_strategy": "no", "disable_tqdm": True, "train_sampling_strategy": "sequential",
    }  # fmt: skip


def trainer_of_transformers(folder: Path) -> dict[str, float]:
    """The Trainer on our rows."""
    import torch
    import training_world as world
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    settings, context = world.context(folder / "recipe.yaml", folder / "theirs")
    from estbench_training.cpt import stage

    batches = stage.open_batches(settings, context)
    rows = [
        {name: micro[name][row] for name in micro} | {"shift_labels": micro["labels"][row]}
        for step in range(settings.total_steps)
        for micro in batches.batch(step)
        for row in range(MICRO)
    ]
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model.config.use_cache = False
    told = TrainingArguments(**arguments(folder, settings.total_steps), remove_unused_columns=False)
    return timed(Trainer(model=model, args=told, train_dataset=rows), settings.total_tokens)


def trainer_of_trl(folder: Path) -> dict[str, float]:
    """SFTTrainer on the documents, which it packs."""
    import training_world as world
    from datasets import Dataset
    from estbench_training.shards import Shards, load_tokenizer
    from trl import SFTConfig, SFTTrainer

    settings, _ = world.context(folder / "recipe.yaml", folder / "theirs")
    shards = Shards.open(folder / "shards" / "text")
    documents, at = [], 0
    for length in shards.lengths().tolist():
        documents.append({"input_ids": shards.read(at, length).astype("int64")})
        at += length
    told = SFTConfig(
        **arguments(folder, settings.total_steps), packing=True, packing_strategy="bfd_split", max_length=SEQUENCE,
        dataset_kwargs={"skip_prepare_dataset": False}, model_init_kwargs={"dtype": "float32"},
        activation_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=str(folder / "base"),
        args=told,
        train_dataset=Dataset.from_list(documents),
        processing_class=load_tokenizer(folder / "base"),
    )
    read = [0]
    trainer.model.model.embed_tokens.register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    found = timed(trainer, 0)
    return found | {"tokens": sum(read)}


def timed(trainer: Any, tokens: int) -> dict[str, float]:
    """CPU seconds of training."""
    begun = time.process_time()
    trainer.train()
    return {"tokens": tokens, "seconds": time.process_time() - begun}


def child(side: str, folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    sides = {"estbench": ours, "transformers": trainer_of_transformers, "trl": trainer_of_trl}
    print("\n" + json.dumps(sides[side](folder)))


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), steps)
        for _ in range(RUNS):
            for side in SIDES:
                words = [sys.executable, __file__, "child", side, place]
                done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
                if done.returncode:
                    sys.exit(f"{side}: {done.stderr[-2000:]}")
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
    speed = {side: statistics.median(row["tokens"] / row["seconds"] for row in rows) for side, rows in found.items()}
    for side in SIDES:
        each = ", ".join(f"{row['tokens'] / row['seconds']:,.0f}" for row in found[side])
        ratio = speed["estbench"] / speed[side]
        print(f"{side:14} {speed[side]:8,.0f} tokens/s   ours / theirs {ratio:.2f}   ({each})")
    loader = statistics.median(row["seconds"] / row["loader"] for row in found["estbench"])
    print(f"Rows alone are made {loader:,.0f} times as fast as the loop reads them.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
