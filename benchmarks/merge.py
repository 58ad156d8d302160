"""How fast a chat vector is merged: against copying the bytes, against the arithmetic alone, and against mergekit.

    OMP_NUM_THREADS=1 python benchmarks/merge.py [gib=2] [folder=DIR] [runs=3] [threads=N] [mergekit=PYTHON]

Makes three random sharded bf16 Llamas of so many GiB (a base, a chat model and one that is added to, whose weights
differ as after training), and measures in turn, `runs` times each, of which the median counts:

- roof A, copying the bytes: the three models are read and one is written, by as many threads, with the same calls on
  pieces of the same size, flushed to the disk at the end;
- roof B, the arithmetic: a multiply-add in fp32 over as many weights that are in the cache, one thread a core,
  conversion from and to bf16 included;
- estbench, the weights alone: from the models' headers to the flushed files, as roof A is measured;
- estbench, the whole command: with checks, the fingerprint of what was made, card and record; once with the hashes of
  the inputs known, as they are after a training or an earlier merge, and once with the inputs hashed beside, too;
- mergekit, where the Python of an environment is given that has it: its task_arithmetic with the weights 1 and −1 on
  the model that is added to; and what its imports take alone.

Wall-clock and, beside them, CPU seconds, which other processes on the machine change little. Then, weight by weight,
how many of each result differ from the exact sum (fp64), rounded to bf16. Prints JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from estbench_training.merge import command, stream
from estbench_training.merge.alike import opened
from estbench_training.merge.combine import Merger, Parties, outputs
from estbench_training.merge.settings import MergeSettings
from estbench_training.weights import TensorInfo, Weights, Writer
from torch import Tensor

from estbench import config
from estbench.checkpoint import Checkpoint

WIDTH, INNER, WORDS = 2048, 5632, 32_000
SHARD = 1.1e9
MERGEKIT = """
merge_method: task_arithmetic
base_model: {into}
models:
  - model: {chat}
    parameters: {{weight: 1.0}}
  - model: {base}
    parameters: {{weight: -1.0}}
parameters: {{normalize: false}}
dtype: bfloat16
"""


def layout(gib: float) -> dict[str, TensorInfo]:
    """A Llama's tensors, as many layers as make about so many GiB."""
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (WIDTH,)}
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (WORDS, WIDTH))
    layers = max(1, round((gib * 2**30 - 4 * WORDS * WIDTH) / 2 / (4 * WIDTH**2 + 3 * WIDTH * INNER)))
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (INNER, WIDTH) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (WIDTH, INNER)
    return {name: TensorInfo("BF16", shape) for name, shape in shapes.items()}


def make(folder: Path, tensors: dict[str, TensorInfo], change: float) -> Path:
    """A model: the same random weights, and where change is above 0 what a training has changed in them."""
    with Writer(folder, tensors, key="random", shard_bytes=SHARD, hashed=False) as writer:
        for number, (name, info) in enumerate(tensors.items()):
            dice = torch.Generator().manual_seed(number)
            weights = torch.randn(info.shape, generator=dice) * 0.02
            if change:
                other = torch.Generator().manual_seed(number + round(change * 1e9))
                weights += torch.randn(info.shape, generator=other) * change
            writer.write(name, 0, weights.bfloat16())
            writer.finished(name)
    (folder / ".journal").unlink()
    layers = sum(name.endswith("input_layernorm.weight") for name in tensors)
    row = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": WORDS,
        "max_position_embeddings": 512, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(row))
    tokenizer = {"type": "WordLevel", "vocab": {f"w{at}": at for at in range(WORDS)}, "unk_token": "w0"}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], **parts, "model": tokenizer})
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def copying(models: dict[str, Path], place: Path, threads: int) -> None:
    """Roof A: read three models and write one."""
    each = [Weights.open(Checkpoint(folder, folder.name)) for folder in models.values()]
    tensors = dict(each[0].tensors)
    pieces = [(name, at) for name, info in tensors.items() for at in stream.cut(info)]
    memory = threading.local()
    with (
        Writer(place, tensors, key="copy", shard_bytes=SHARD, hashed=False) as writer,
        ThreadPoolExecutor(threads) as pool,
    ):

        def one(piece: tuple[str, tuple[int, int]]) -> None:
            name, (start, stop) = piece
            if not hasattr(memory, "rows"):
                memory.rows = [torch.empty(stream.SLICE, dtype=torch.bfloat16) for _ in each]
            read = [model.read_flat(name, start, stop, out) for model, out in zip(each, memory.rows, strict=True)]
            writer.write_flat(name, start, read[-1])

        list(pool.map(one, pieces))
        for name in tensors:
            writer.finished(name)
    for weights in each:
        weights.close()


def arithmetic(elements: int, threads: int) -> None:
    """Roof B: into + λ (chat − base) in fp32 over pieces in the cache, from and to bf16."""

    def some(count: int) -> None:
        torch.set_num_threads(1)
        size = stream.SLICE
        stored = [torch.randn(size).bfloat16() for _ in range(3)]
        wide = [torch.empty(size) for _ in range(3)]
        out = torch.empty(size, dtype=torch.bfloat16)
        for _ in range(0, count, size):
            for one, two in zip(wide, stored, strict=True):
                one.copy_(two)
            wide[2].sub_(wide[1])
            out.copy_(wide[0].add_(wide[2], alpha=0.9))

    cores = min(threads, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(some, [elements // cores] * cores))


def merging(models: dict[str, Path], place: Path, threads: int, home: Path) -> None:
    """estbench merge, in this process."""
    os.environ["ESTBENCH_HOME"] = str(home)
    words = ["method=chat_vector", f"base={models['base']}", f"instruct={models['chat']}", f"into={models['into']}"]
    with contextlib.redirect_stdout(io.StringIO()):
        command.run(config.read([*words, f"output={place}", f"threads={threads}"], command.MergeCommandSettings))


def weights_alone(models: dict[str, Path], place: Path, threads: int) -> None:
    """The weights of the merge, without all that belongs to a checkpoint."""
    settings = MergeSettings("chat_vector", base="base", instruct="chat", into="into")
    with opened([Checkpoint(models[name], name) for name in ("into", "base", "chat")]) as (into, base, chat):
        tensors = outputs(settings, into, None)
        with (
            Writer(place, tensors, key="merge", shard_bytes=SHARD, hashed=False) as writer,
            stream.Pool(threads) as pool,
        ):
            Merger(settings, Parties(into, base, (chat,)), None, writer, pool).run()


def mergekit(models: dict[str, Path], place: Path, python: str, recipe: Path) -> None:
    """mergekit's command."""
    recipe.write_text(MERGEKIT.format(**models))
    _mergekit(python, str(recipe), str(place), "--no-copy-tokenizer", "--quiet")


def _mergekit(python: str, *words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
    subprocess.run(
        [str(Path(python).parent / "mergekit-yaml"), *words], check=True, capture_output=True, env=environment
    )


def wrong(models: dict[str, Path], place: Path) -> float:
    """Share of the weights that are not the exact sum, rounded once."""
    found = {name: Weights.open(Checkpoint(folder, name)) for name, folder in {**models, "made": place}.items()}
    differ = total = 0
    for name, info in found["made"].tensors.items():
        for start, stop in stream.cut(info):
            into, chat, base, made = (
                found[one].read_flat(name, start, stop) for one in ("into", "chat", "base", "made")
            )
            differ += int((_rounded(into.double() + (chat.double() - base.double())) != made).sum())
            total += len(made)
    return differ / total


def _rounded(exact: Tensor) -> Tensor:
    """fp64 to the nearest bf16, ties to even: torch goes by fp32, which rounds twice."""
    once = exact.float()
    off = exact - once.double()
    bits = once.view(torch.int32)
    halfway = (bits & 0xFFFF) == 0x8000  # only there does what the first rounding lost decide
    away = ((off > 0) == (exact > 0)) & (off != 0)
    bits = torch.where(halfway & (off != 0), torch.where(away, bits + 1, bits - 1), bits)
    return bits.view(torch.float32).bfloat16()


def timed(work: Callable[[], object], *left: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call and its processes, after earlier writes are on the disk; what it makes is
    removed."""
    os.sync()
    begun, used = time.perf_counter(), _cpu()
    work()
    seconds = time.perf_counter() - begun, _cpu() - used
    for place in left:
        shutil.rmtree(place, ignore_errors=True)
    return seconds


def _cpu() -> float:
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in found)


def main() -> None:
    """Measure, and print."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    runs, threads = int(given.get("runs", 3)), int(given.get("threads", stream.default_threads()))
    tensors = layout(float(given.get("gib", 2)))
    size, elements = sum(info.bytes for info in tensors.values()), sum(info.elements for info in tensors.values())
    if "folder" in given:
        Path(given["folder"]).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.get("folder")) as name:
        folder = Path(name)
        changes = {"base": 0.0, "chat": 1e-3, "into": 2e-3}
        models = {role: make(folder / role, tensors, change) for role, change in changes.items()}
        time.sleep(2.5)  # files that are younger are hashed again each time
        out, home, recipe = folder / "out", folder / "home", folder / "recipe.yaml"
        known = folder / "known"
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "roof A, copying": lambda: timed(lambda: copying(models, out, threads), out),
            "roof B, arithmetic": lambda: timed(lambda: arithmetic(elements, threads)),
            "estbench, weights alone": lambda: timed(lambda: weights_alone(models, out, threads), out),
            "estbench, whole command": lambda: timed(lambda: merging(models, out, threads, known), out),
            "estbench, inputs hashed beside": lambda: timed(lambda: merging(models, out, threads, home), out, home),
        }
        makers: dict[str, Callable[[], None]] = {"estbench": lambda: merging(models, out, threads, known)}
        if python := given.get("mergekit"):
            ways["mergekit"] = lambda: timed(lambda: mergekit(models, out, python, recipe), out)
            ways["mergekit, imports alone"] = lambda: timed(lambda: _mergekit(python, "--help"))
            makers["mergekit"] = lambda: mergekit(models, out, python, recipe)
        shares = {}
        for maker, make_it in makers.items():
            make_it()
            shares[maker] = wrong(models, out)
            shutil.rmtree(out)
        measured: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(runs):
            for way, work in ways.items():
                measured[way].append(work())
        print(json.dumps(_report(measured, size, threads, shares), indent=1))


def _report(
    measured: dict[str, list[tuple[float, float]]], size: int, threads: int, shares: dict[str, float]
) -> dict[str, Any]:
    seconds = {way: statistics.median(wall for wall, _ in values) for way, values in measured.items()}
    ours = [way for way in seconds if way.startswith("estbench")]
    roof = max(seconds["roof A, copying"], seconds["roof B, arithmetic"])
    row: dict[str, Any] = {
        "bytes_of_a_model": size,
        "threads": threads,
        "seconds": {way: [round(wall, 2) for wall, _ in values] for way, values in measured.items()},
        "cpu_seconds": {way: [round(cpu, 2) for _, cpu in values] for way, values in measured.items()},
        "gigabytes_a_second": {way: round(4 * size / value / 1e9, 2) for way, value in seconds.items()},
        "share_of_the_slower_roof": {way: round(roof / seconds[way], 3) for way in ours},
        "share_of_weights_that_are_not_the_exact_sum": shares,
        "torch": torch.__version__,
    }
    if "mergekit" in seconds:
        merging_alone = seconds["mergekit"] - seconds["mergekit, imports alone"]
        row["times_as_fast_as_mergekit"] = {way: round(seconds["mergekit"] / seconds[way], 2) for way in ours}
        row["and_as_it_without_imports"] = {way: round(merging_alone / seconds[way], 2) for way in ours}
    return row


if __name__ == "__main__":
    main()
