"""What one big GPU gives for continued pretraining: tokens/s, MFU, HFU and peak memory, option by option.

    python benchmarks/gpu_training.py --out training.json        # Llama shapes of 1B and 8B at 4k and 8k on an H200
    python benchmarks/gpu_training.py --parts options --models 8b --lengths 4096
    OMP_NUM_THREADS=1 python benchmarks/gpu_training.py --tiny   # the same on a CPU in seconds: shows only that it runs

Weights are random and made on the GPU, nothing is fetched; token ids are random, in documents about as long as Estonian
ones. The parts:

    options    A: from one base, each option alone: attention, activation checkpointing, compile, Liger, loss in pieces,
               fp32 weights and moments. Steps are those of the cpt stage: its model, loss, sharding and optimizer
    documents  B: the same tokens as packed documents, as one document a row (contaminated), and padded to full rows
    trainer    C: the same model and rows through transformers' Trainer; the cpt stage has to be as fast
    dpo        D: peak memory of a DPO step with a reference model in memory, with cached log-probabilities, and with
               those and the loss in pieces
    gram       E: fp64 Gram matrix and solution of two embeddings of the model's size, as in embedding propagation
    loader     F: tokens/s of packing alone; it has to be ten times the fastest step

Each measurement takes a few steps before the clock starts and then as many as fit into --seconds. What fails or doesn't
fit is reported, and the rest goes on; after --limit seconds nothing new begins. Peaks are those of
estbench_training/machines.py; --peak (TFLOP/s) sets another. Target: 40 % MFU, that is 7.7k tokens/s for 8B at 4k on an
H100 or H200.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from estbench_training.cpt import flops, freezing, losses, parallel, setup
from estbench_training.cpt.settings import CptSettings, Kernels, Parallel
from estbench_training.machines import CONFIGS, MACHINES
from estbench_training.mixture import Mixture, MixtureSettings
from estbench_training.packing import Batches
from estbench_training.shards import Shards, Writer

from estbench.engines.memory import is_out_of_memory

SHAPES: dict[str, dict[str, Any]] = {
    "1b": {  # meta-llama/Llama-3.2-1B's config.json
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "8b": dict(CONFIGS["meta-llama/Llama-3.1-8B"]),
    "tiny": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 320, "tie_word_embeddings": False,
    },
}  # fmt: skip
PARTS = ("options", "documents", "trainer", "dpo", "gram", "loader")
TARGET = 0.40  # MFU
WARM = 3  # steps before the clock starts
MEDIAN, SPREAD = 400, 1.1  # tokens of a document, log-normal


@dataclass(frozen=True)
class Option:
    """How a step is computed."""

    name: str
    attention: str = "sdpa"
    checkpointing: flops.Checkpointing = "none"
    compile: bool = True
    liger: bool = False
    chunked: bool = True
    precision: str = "bf16_pure"
    micro: int = 1

    def settings(self, sequence: int) -> CptSettings:
        """The stage's settings."""
        return CptSettings(
            data="none",
            rate=1e-5,
            steps=1,
            sequence=sequence,
            batch_tokens=sequence * self.micro,
            micro_batch=self.micro,
            precision=self.precision,  # type: ignore[arg-type]
            activation_checkpointing=self.checkpointing,
            compile=self.compile,
            kernels=Kernels(attention=self.attention, liger=self.liger, chunked_loss=self.chunked),  # type: ignore[arg-type]
            parallel=Parallel("full"),
        )


def options(name: str, tiny: bool) -> list[Option]:
    """The base of a model, and each option that differs from it in one thing."""
    attention = "sdpa" if tiny else "flash_attention_2" if installed("flash_attn") else "flex_attention"
    base = Option("base", attention, "full" if name == "8b" else "none", compile=not tiny)
    varied: dict[str, dict[str, Any]] = {
        "sdpa (mask)": {"attention": "sdpa"},
        "flex": {"attention": "flex_attention"},
        "flash": {"attention": "flash_attention_2"},
        "eager": {"attention": "eager"},
        "no checkpointing": {"checkpointing": "none"},
        "selective": {"checkpointing": "selective"},
        "full checkpointing": {"checkpointing": "full"},
        "no compile": {"compile": False},
        "liger": {"liger": True},
        "whole logits": {"chunked": False},
        "fp32 weights": {"precision": "bf16", "checkpointing": "full"},
        "micro-batch 2": {"micro": 2},
    }
    if not tiny:
        del varied["eager"]
    found = [base, *(replace(base, name=label, **change) for label, change in varied.items())]
    return [option for place, option in enumerate(found) if astuple(option) not in map(astuple, found[:place])]


def astuple(option: Option) -> tuple[Any, ...]:  # without its name
    return tuple(value for key, value in asdict(option).items() if key != "name")


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def why_not(option: Option, device: str) -> str | None:
    """Why an option can't be had here."""
    if option.attention == "flash_attention_2" and not (installed("flash_attn") and device == "cuda"):
        return "flash-attn isn't installed"
    if option.attention == "flex_attention" and device == "cpu":
        return "flex attention has no backward pass on a CPU"
    if option.liger and not (installed("liger_kernel") and device == "cuda"):
        return "liger-kernel isn't installed"
    return None


class Bench:
    """The measurements, on one device."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.tiny, self.seconds, self.folder = arguments.tiny, arguments.seconds, folder
        self.device = "cpu" if arguments.tiny or not torch.cuda.is_available() else "cuda"
        self.name = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
        peak = next((one.peak for one in MACHINES.values() if one.device.split()[0] in self.name), None)
        self.peak = arguments.peak * 1e12 if arguments.peak else peak
        self.ranks = parallel.join(Parallel("full"))

    def model(self, shape: dict[str, Any], option: Option, settings: CptSettings) -> losses.LossModel:
        """The cpt stage's model for an option, of random weights."""
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        given = {key: value for key, value in shape.items() if key != "model_type"}
        config = AutoConfig.for_model(shape["model_type"], **given, max_position_embeddings=16_384, pad_token_id=0)
        dtype = torch.bfloat16 if option.precision == "bf16_pure" else torch.float32
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=option.attention, dtype=dtype)
        if option.liger:
            setup._add_liger(model, torch.device(self.device))
        layers = freezing.layers(model)
        if option.checkpointing != "none":
            for layer in layers[:: 1 if option.checkpointing == "full" else 2]:
                setup._recompute(layer)
        if option.compile:
            for layer in layers:
                layer.compile()
        module = losses.LossModel(model, chunked=option.chunked, liger=option.liger)
        if self.ranks.mesh is not None:
            parallel.shard(module, layers, self.ranks, settings.precision)
        return module.train()

    def rows(
        self, vocabulary: int, sequence: int, count: int, way: str = "packed"
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Micro batches of `count` rows without end; way: packed, contaminated (one document a row) or padded."""
        dice = np.random.default_rng(0)
        while True:
            ids = torch.from_numpy(dice.integers(1, vocabulary, (count, sequence + 1)))
            rows = [self.row(dice, sequence, way) for _ in range(count)]
            positions, learnt = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
            labels = ids[:, 1:].masked_fill(~learnt, losses.IGNORED)
            batch = {"input_ids": ids[:, :-1].contiguous(), "labels": labels, "position_ids": positions}
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def row(self, dice: np.random.Generator, sequence: int, way: str) -> tuple[Any, Any]:
        """(positions, whether a token is learnt) of one row, int64 and bool (sequence,)."""
        if way == "contaminated":
            return np.arange(sequence), np.ones(sequence, bool)
        lengths = np.maximum(2, np.exp(dice.normal(np.log(MEDIAN), SPREAD, sequence)).astype(int))
        if way == "padded":  # the document first, the rest is padding: computed, and not learnt from
            return np.arange(sequence), np.arange(sequence) < lengths[0]
        ends = np.cumsum(lengths)
        begins = np.concatenate([[0], ends[ends < sequence]])
        starts = np.zeros(sequence, np.int64)
        starts[begins] = begins
        learnt = np.ones(sequence, bool)
        learnt[begins[1:] - 1] = False
        return np.arange(sequence) - np.maximum.accumulate(starts), learnt

    # --- measuring

    def timed(self, step: Callable[[], int]) -> tuple[float, int]:
        """(tokens a second, steps) of a step that says how many tokens it took."""
        for _ in range(WARM):
            step()
        self.wait()
        begun, tokens, steps = time.perf_counter(), 0, 0
        while steps < 2 or time.perf_counter() - begun < self.seconds:
            tokens += step()
            steps += 1
            self.wait()
        return tokens / (time.perf_counter() - begun), steps

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> float | None:  # GiB at most since it was last cleared
        return round(torch.cuda.max_memory_allocated() / 2**30, 1) if self.device == "cuda" else None

    def clear(self) -> None:
        gc.collect()
        torch.compiler.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def figures(self, speed: float, shape: dict[str, Any], sequence: int, option: Option) -> dict[str, Any]:
        """tokens/s, MFU, HFU, GiB."""
        found: dict[str, Any] = {"tokens_per_s": round(speed, 1), "peak_gib": self.memory()}
        if self.peak:
            found["mfu"] = round(flops.mfu(speed, shape, sequence, self.peak), 4)
            found["hfu"] = round(flops.hfu(speed, shape, sequence, self.peak, option.checkpointing), 4)
        return found

    def training(self, shape: dict[str, Any], sequence: int, option: Option, way: str = "packed") -> dict[str, Any]:
        """Steps of the cpt stage: forward, backward, clipping, AdamW."""
        settings = option.settings(sequence)
        module = self.model(shape, option, settings)
        weights = freezing.trained(module)
        optimizer = setup.make_optimizer(settings, weights, self.ranks)
        rows = self.rows(shape["vocab_size"], sequence, option.micro, way)
        last, learnt, positions = [0.0], [0], [0]

        def step() -> int:
            batch = next(rows)
            targets = int((batch["labels"] != losses.IGNORED).sum())
            with setup.computing(settings, self.ranks):
                loss = module(**batch)
            (loss / targets).backward()
            torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            last[0] = float(loss.detach()) / targets
            learnt[0] += targets
            positions[0] += option.micro * sequence
            return option.micro * sequence

        speed, steps = self.timed(step)
        found = self.figures(speed, shape, sequence, option) | {"steps": steps, "loss": round(last[0], 4)}
        return found | {"learnt_tokens_per_s": round(speed * learnt[0] / positions[0], 1)}

    def trainer(self, shape: dict[str, Any], sequence: int, option: Option) -> dict[str, Any]:
        """The same through transformers' Trainer: rows, positions and precision as in `training`."""
        from torch.utils.data import IterableDataset
        from transformers import Trainer, TrainerCallback, TrainingArguments

        module = self.model(
            shape, replace(option, checkpointing="none", compile=False, liger=False), option.settings(sequence)
        )
        model, rows = module.model, self.rows(shape["vocab_size"], sequence, 1)
        model.config.use_cache = False
        if option.checkpointing != "none":
            model.gradient_checkpointing_enable()

        class Rows(IterableDataset):  # type: ignore[type-arg]
            def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
                for batch in rows:
                    labels = torch.cat([torch.full((1,), losses.IGNORED), batch["labels"][0, :-1].cpu()])
                    yield {name: batch[name][0].cpu() for name in ("input_ids", "position_ids")} | {"labels": labels}

        times: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(time.perf_counter())

        most = 6 if self.tiny else 20
        arguments = TrainingArguments(
            output_dir=str(self.folder / "trainer"),
            max_steps=WARM + most,
            per_device_train_batch_size=option.micro,
            torch_compile=option.compile,
            learning_rate=1e-5,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=self.device == "cpu",
            optim="adamw_torch_fused" if self.device == "cuda" else "adamw_torch",
        )
        Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Clock()]).train()
        speed = option.micro * sequence * most / (times[-1] - times[WARM - 1])
        return self.figures(speed, shape, sequence, option)

    def dpo(self, shape: dict[str, Any], sequence: int, way: str) -> dict[str, Any]:
        """A DPO step on a pair: its reference in memory, or cached, and then perhaps the loss in pieces."""
        option = Option(way, checkpointing="full", compile=False, chunked="pieces" in way)
        module = self.model(shape, option, option.settings(sequence))
        reference = None if "cached" in way else self.model(shape, option, option.settings(sequence)).eval()
        weights = list(freezing.trained(module).values())
        optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)
        rows = self.rows(shape["vocab_size"], sequence, 1, "contaminated")

        def step() -> int:
            pair = [next(rows), next(rows)]
            known = [torch.zeros((), device=self.device)] * 2
            if reference is not None:
                with torch.no_grad():
                    known = [-reference(**batch) for batch in pair]
            chosen, rejected = (-module(**batch) - base for batch, base in zip(pair, known, strict=True))
            (-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected))).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return 2 * sequence

        speed, _ = self.timed(step)
        return {"tokens_per_s": round(speed, 1), "peak_gib": self.memory()}

    def gram(self, shape: dict[str, Any]) -> dict[str, Any]:
        """P = argmin |A P - B| for embeddings A, B (V, d), from AᵀA in fp64, by Cholesky."""
        vocabulary, width = shape["vocab_size"], shape["hidden_size"]
        torch.manual_seed(0)
        a, b = (torch.randn(vocabulary, width, device=self.device) for _ in range(2))
        self.wait()
        begun = time.perf_counter()
        gram = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        right = torch.zeros_like(gram)
        for piece, other in zip(a.split(8192), b.split(8192), strict=True):
            gram += piece.double().T @ piece.double()
            right += piece.double().T @ other.double()
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
        self.wait()
        seconds = time.perf_counter() - begun
        return {
            "seconds": round(seconds, 6),
            "residual": float((gram @ solved - right).abs().max() / right.abs().max()),
        }

    def loader(self, sequence: int) -> dict[str, Any]:
        """Packing alone, from shards on disk, on one thread."""
        place, dice = self.folder / "shards", np.random.default_rng(0)
        if not place.exists():
            write_shards(place, dice, 200 if self.tiny else 40_000)
        shards = {"et": Shards.open(place)}
        count = 64 if self.tiny else 2048
        mixture = Mixture(MixtureSettings(), {"et": shards["et"].tokens}, sequence, count, 0)
        batches, begun = Batches(mixture, shards, 8, 1), time.perf_counter()
        for step in range(batches.steps):
            batches.step(step)
        return {"tokens_per_s": round(count * sequence / (time.perf_counter() - begun), 1)}


def write_shards(place: Path, dice: np.random.Generator, documents: int) -> None:
    """Shards of random documents."""
    tokenizer = {"hash": "0" * 64, "name": "none", "vocab_size": 128_256, "bos": None, "eos": 1}
    lengths = np.maximum(2, np.exp(dice.normal(np.log(MEDIAN), SPREAD, documents))).astype(np.int64)
    with Writer(place, tokenizer) as writer:
        writer.add(dice.integers(2, 128_256, int(lengths.sum())).astype(np.uint32), lengths)
        writer.finish({"source": "et", "language": "et", "licence": "none"})


# --- all of it --------------------------------------------------------------------------------------------------------


def plan(
    arguments: argparse.Namespace, bench: Bench
) -> Iterator[tuple[str, Callable[[], dict[str, Any]], Option | None]]:
    """(name, measurement, option) in the order of their weight."""
    names = ["tiny"] if arguments.tiny else arguments.models.split(",")
    lengths = [64] if arguments.tiny else [int(length) for length in arguments.lengths.split(",")]
    every = [(name, length) for name in reversed(names) for length in lengths]
    parts = arguments.parts.split(",")
    for name, length in every:
        shape, chosen = SHAPES[name], options(name, arguments.tiny)
        base = chosen[0]
        if "options" in parts:
            for option in chosen:
                yield (
                    f"{name}/{length}/options/{option.name}",
                    lambda a=(shape, length, option): bench.training(*a),
                    option,
                )
        if "documents" in parts:
            for way in ("packed", "contaminated", "padded"):
                yield f"{name}/{length}/documents/{way}", lambda a=(shape, length, base, way): bench.training(*a), base
        if "trainer" in parts:
            ours = replace(base, compile=False)
            yield f"{name}/{length}/trainer/cpt", lambda a=(shape, length, ours): bench.training(*a), ours
            yield f"{name}/{length}/trainer/Trainer", lambda a=(shape, length, ours): bench.trainer(*a), ours
        if "dpo" in parts:
            for way in ("reference", "cached", "cached, pieces"):
                yield f"{name}/{length}/dpo/{way}", lambda a=(shape, length, way): bench.dpo(*a), None
        if "loader" in parts:
            yield f"{name}/{length}/loader/packing", lambda a=(length,): bench.loader(*a), None
    if "gram" in parts:
        for name in names:
            yield f"{name}/gram/solve", lambda a=(SHAPES[name],): bench.gram(*a), None


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements; what can't be had says why."""
    bench, begun = Bench(arguments, folder), time.perf_counter()
    peak = bench.peak and round(bench.peak / 1e12, 1)
    results: dict[str, Any] = {"device": bench.name, "torch": torch.__version__, "peak_bf16_tflops": peak, "rows": {}}
    for name, measure, option in plan(arguments, bench):
        missing = why_not(option, bench.device) if option else None
        if missing is None and time.perf_counter() - begun > arguments.limit:
            missing = "no time was left"
        row: dict[str, Any] = asdict(option) if option else {}
        if missing:
            results["rows"][name] = row | {"skipped": missing}
            continue
        bench.clear()
        try:
            row |= measure()
        except Exception as error:
            lines = str(error).splitlines()
            short = (
                "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {lines[0] if lines else ''}"
            )
            row["failed"] = short[:200]
        results["rows"][name] = row
        print(line(name, row), file=sys.stderr, flush=True)
    return results | {"verdicts": verdicts(results["rows"]), "seconds": round(time.perf_counter() - begun, 1)}


def verdicts(rows: dict[str, Any]) -> dict[str, Any]:
    """What the figures have to show, for those that were measured."""
    found: dict[str, Any] = {}
    speeds = {name: row["tokens_per_s"] for name, row in rows.items() if "tokens_per_s" in row}
    used = {name: row["mfu"] for name, row in rows.items() if row.get("mfu") and "/options/" in name}
    if used:
        best = max(used, key=lambda name: used[name])
        found["best"] = {"row": best, "mfu": used[best], "target": TARGET, "reached": used[best] >= TARGET}
    for name in [name for name in speeds if name.endswith("/trainer/cpt")]:
        other = name.replace("/cpt", "/Trainer")
        if other in speeds:
            found[f"{name} over Trainer"] = round(speeds[name] / speeds[other], 3)
    for name in [name for name in speeds if name.endswith("/loader/packing")]:
        steps = [speed for row, speed in speeds.items() if row.startswith(name.split("loader")[0] + "options")]
        if steps:
            found[f"{name} over the fastest step"] = round(speeds[name] / max(steps), 1)
    return found


def line(name: str, row: dict[str, Any]) -> str:
    """A measurement for people."""
    if why := row.get("skipped") or row.get("failed"):
        return f"{name:<44}{why}"
    cells = [
        f"{row['tokens_per_s']:>12,.0f} tokens/s" if "tokens_per_s" in row else f"{row['seconds']:>12.3f} s       "
    ]
    cells += [f"{key.upper()} {100 * row[key]:5.1f} %" for key in ("mfu", "hfu") if key in row]
    cells += [f"{row['peak_gib']:6.1f} GiB"] if row.get("peak_gib") is not None else []
    return f"{name:<44}" + "  ".join(cells)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU: shows only that it runs")
    parser.add_argument("--out", type=Path, help="where the results go, as JSON")
    parser.add_argument("--models", default="1b,8b", help="1b, 8b, or both")
    parser.add_argument("--lengths", default="4096,8192", help="tokens of a sequence")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=6, help="for one measurement")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which nothing new begins")
    parser.add_argument("--peak", type=float, help="the device's TFLOP/s in dense bf16")
    arguments = parser.parse_args(words)
    for given, known in ((arguments.models, SHAPES), (arguments.parts, PARTS)):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"there is no {', '.join(sorted(unknown))}: {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        results = run(arguments, Path(folder))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(
        "\n".join([f"{results['device']}, torch {results['torch']}"] + [line(*row) for row in results["rows"].items()])
    )
    print(json.dumps(results["verdicts"], indent=1))
    return 1 if any("failed" in row for row in results["rows"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
