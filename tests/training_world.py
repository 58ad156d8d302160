"""A world to train in within seconds: a random Llama in fp32, shards of made-up documents, processes that talk.

base = make_model(folder)                               # 2 layers of width 64, heads of 32, 96 words
make_shards(folder / "shards", base, {"et": 4000, "en": 2000})
recipe = make_recipe(folder, base, steps=6)             # a recipe with the one stage `cpt`
trained = train(recipe, folder / "out")                 # the stage's folder, in this process
processes(TRAIN, 2, recipe_file, output)                # the same in two processes that share the model (gloo)
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from estbench_training import recipe as recipes
from estbench_training import stages
from estbench_training.kinds import Context
from estbench_training.recipe import Recipe
from estbench_training.shards import Writer, load_tokenizer, tokenizer_hash

WORDS = 96
BOS, EOS, PAD = 0, 1, 2
SEQUENCE = 32
STAGE: dict[str, Any] = {
    "name": "cpt",
    "kind": "cpt",
    "data": "./shards",  # et and en
    "mixture": {"weights": {"et": 3, "en": 1}},
    "rate": 1e-2,
    "sequence": SEQUENCE,
    "batch_tokens": 8 * SEQUENCE,
    "micro_batch": 2,
    "warmup": 2,
    "precision": "fp32",
    "save": {"every": 2},
    "logging": {"tensorboard": False},
}
# In a process of its own: a recipe's file, and where to train.
TRAIN = """
import sys
from pathlib import Path
from estbench_training import recipe, stages
stages.run(recipe.load(Path(sys.argv[1])), Path(sys.argv[2]), print)
"""


def make_model(folder: Path, *, tied: bool = False, dtype: str = "float32", seed: int = 0, **changed: Any) -> Path:
    """A random Llama with a tokenizer of words, saved; `changed` are keys of its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(seed)
    config = {
        "vocab_size": WORDS,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "initializer_range": 0.1,
    }
    model = LlamaForCausalLM(LlamaConfig(**config | changed))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """w0 w1 w2 …, a token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<pad>", *(f"w{number}" for number in range(WORDS - 3))]
    vocabulary = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)


def make_shards(
    folder: Path, base: Path, sources: Mapping[str, int], *, longest: int = 20, seed: int = 0
) -> dict[str, Path]:
    """Shards of made-up documents, one folder a source: about as many tokens as are said. It can be learnt."""
    tokenizer = load_tokenizer(base)
    about = {"hash": tokenizer_hash(tokenizer), "name": base.name, "vocab_size": WORDS, "bos": None, "eos": EOS}
    made = {}
    for number, (source, tokens) in enumerate(sources.items()):
        dice = np.random.default_rng([seed, number])
        lengths: list[int] = []
        while sum(lengths) < tokens:
            lengths.append(int(dice.integers(2, longest)))
        ids = 3 + np.cumsum(dice.integers(1, 4, sum(lengths))) % (WORDS - 3)  # the next word is one of three
        ids[np.cumsum(lengths) - 1] = EOS
        with Writer(folder / source, about, part_tokens=max(64, tokens // 3)) as writer:
            writer.add(ids.astype(np.uint32), np.array(lengths))
            writer.finish({"source": source, "licence": "cc0-1.0", "language": source})
        made[source] = folder / source
    return made


def make_recipe(folder: Path, base: Path, name: str = "recipe.yaml", **keys: Any) -> Path:
    """A recipe's file with the one stage `cpt`: STAGE with other keys."""
    stage = {**STAGE, **keys}
    if "steps" not in stage and "tokens" not in stage:
        stage["steps"] = 6
    row = {"name": "tiny", "base": str(base), "seed": 7, "licence": "cc0-1.0", "stages": [stage]}
    path = folder / name
    path.write_text(yaml.safe_dump(row, sort_keys=False), "utf-8")
    return path


def load(path: Path) -> Recipe:
    """The recipe of a file."""
    return recipes.load(path)


def context(path: Path, folder: Path, say: Any = lambda line: None) -> tuple[Any, Context]:
    """The settings of a recipe's stage, and what it would be given to run in a folder."""
    recipe = recipes.load(path)
    (stage,) = recipe.stages
    folder.mkdir(parents=True, exist_ok=True)
    made = Context(recipe, stage, folder, key="0" * 64, seed=7, say=say, model=Path(str(recipe.head.base)))
    return stage.settings, made


def build(path: Path, folder: Path, say: Any = lambda line: None) -> tuple[Any, Any]:
    """A recipe's run at its beginning, in this process, and its batches."""
    import torch
    from estbench_training.cpt import setup, stage
    from estbench_training.cpt.parallel import Ranks

    settings, made = context(path, folder, say)
    ranks = Ranks(0, 1, torch.device("cpu"))
    return setup.build(settings, made, ranks), stage.open_batches(settings, made, ranks)


def gradients(run: Any, batches: Any, step: int = 0) -> tuple[Any, dict[str, Any]]:
    """What a step measured, and its gradients by name; none are left."""
    from estbench_training.cpt import loop

    measured = loop.gradients(run, batches.step(step), loop.Stopping())
    found = {name: weight.grad.clone() for name, weight in run.weights.items() if weight.grad is not None}
    run.optimizer.zero_grad()
    return measured, found


def train(path: Path, output: Path, say: Any = lambda line: None) -> Path:
    """Run a recipe in this process; the folder of its last stage."""
    return stages.run(recipes.load(path), output, say)[-1].folder


def stage_folder(path: Path, output: Path) -> Path:
    """Where the last stage of a recipe is, or will be."""
    return stages.chain(recipes.load(path), output)[-1].folder


def losses(folder: Path) -> list[float]:
    """The loss of each step in a stage's log."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of a model's folder."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two models have the same tensors, bit by bit."""
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_curves(monkeypatch: Any) -> None:
    """Draw no curves, which takes longer than training here."""
    from estbench_training.cpt import plots

    monkeypatch.setattr(plots, "curves", lambda folder, title="": None)


def start(code: str, count: int, *arguments: object, environment: Mapping[str, str] | None = None) -> list[Any]:
    """Processes that run Python code as torchrun would start them; what they print is kept in memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    common |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "LOCAL_WORLD_SIZE": str(count)}
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return [
        subprocess.Popen(
            words,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def finish(started: Sequence[Any], seconds: float = 300) -> list[tuple[int, str]]:
    """(exit code, what was printed) of each process."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def processes(code: str, count: int, *arguments: object, environment: Mapping[str, str] | None = None) -> list[str]:
    """Run Python code in processes that can talk to each other; what each printed. AssertionError if one fails."""
    ended = finish(start(code, count, *arguments, environment=environment))
    for status, text in ended:
        assert status == 0, text
    return [text for _, text in ended]
