"""What one big GPU gives on engine=hf: documents/s on the token trie and the naive way, tokens/s, share of its peak.

    python benchmarks/gpu.py --out gpu.json                  # Llama shapes of 1B and 8B, under 10 minutes on an H200
    OMP_NUM_THREADS=1 python benchmarks/gpu.py --tiny        # the same on a CPU in seconds: shows only that it runs

Weights are random (made on the GPU, nothing is fetched), token ids too: the work is that of a real model, the answers
mean nothing. Requests are shaped like a 5-shot cloze task: documents of four choices behind shots that all share, or
shots drawn for each. "Naive" forwards each request as a whole, padded, with logits at the scored positions only, which
is more than lm-eval's `hf` spares. Generation is greedy, behind shots that all share. Each measurement stops after
`--seconds`; a few requests are computed before the clock starts. What fails is reported, and the rest goes on.

Share of the peak: 2 × parameters × tokens forwarded / seconds / peak, so without attention and the output layer's
spared positions: what the weights' arithmetic reaches. Peaks are the makers' figures for dense bf16; `--peak` (TFLOP/s)
sets another.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from estbench.checkpoint import Checkpoint
from estbench.engines.base import Answer, Decoding, Generated, Pack, PackTooLarge, Request, Scored
from estbench.engines.batches import generation_packs
from estbench.engines.hf import HFEngine
from estbench.engines.options import HFOptions
from estbench.engines.trie import scoring_packs
from estbench.tokens import Tokens

# TFLOP/s, dense bf16, from the makers' data sheets; the first name that occurs in the device's counts
PEAKS = {
    "GH200": 989.5,
    "H200": 989.5,  # NVIDIA H200 (SXM): 1,979 with sparsity
    "H100 PCIe": 756.5,
    "H100 NVL": 835.5,
    "H100": 989.5,
    "A100": 312.0,
    "A40": 149.7,
    "L40S": 362.0,
    "RTX 4090": 165.2,
    "MI300X": 1307.4,
    "MI250X": 191.5,  # AMD Instinct MI250X: 383 for its two dies, and a die is a device
}
SHAPES: dict[str, dict[str, int]] = {  # Llama 3.2 1B, Llama 3.1 8B
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LIMIT = 570  # seconds for everything: what has not begun by then is left out


def config_of(name: str) -> dict[str, Any]:
    """config.json of a model."""
    tiny = name == "tiny"
    return {
        **(TINY if tiny else SHAPES[name]),
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 320 if tiny else 128_256,
        "num_key_value_heads": 1 if tiny else 8,
        "max_position_embeddings": 2048 if tiny else 8192,
        "tie_word_embeddings": name != "8b",
        "initializer_range": 0.3 if tiny else 0.02,
        "dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def tokenizer_in(folder: Path) -> None:
    """A tokenizer of bytes: nothing is encoded, and what a random model writes only has to be decoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=bytewise, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


class Bench:
    """A model of random weights, and the measurements on it."""

    def __init__(self, name: str, folder: Path, device: str, seconds: float, peak: float | None) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        self.config, self.seconds, self.peak = config_of(name), seconds, peak
        self.tiny = name == "tiny"
        (folder / "config.json").write_text(json.dumps(self.config), "utf-8")
        tokenizer_in(folder)
        self.checkpoint = Checkpoint(folder, name)
        torch.manual_seed(0)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        with torch.device(device):
            config = LlamaConfig.from_pretrained(folder)
            self.model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.checkpoint.tensors = {"all": {"shape": [self.parameters]}}  # no files: nothing else asks for weights
        self.device, self.tokens = device, Tokens(folder)
        self.said: list[str] = []

    def engine(self, **options: Any) -> HFEngine:
        """A fresh engine on the model."""
        made = HFEngine(self.checkpoint, self.tokens, HFOptions(device=self.device, **options), self.said.append)
        made.use(self.model)
        return made

    def ids(self, dice: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
        return dice.integers(3, self.config["vocab_size"], n).astype(np.int32)

    def cloze(self, docs: int, shared: bool) -> dict[str, Request]:
        """Documents of four choices behind five shots: "document/choice" -> request."""
        dice = np.random.default_rng(1)
        shots, question, choice = (60, 12, 4) if self.tiny else (600, 40, 8)
        asked: dict[str, Request] = {}
        head = self.ids(dice, shots)
        for doc in range(docs):
            if not shared:
                head = self.ids(dice, shots)
            prompt = np.concatenate([head, self.ids(dice, int(dice.integers(question // 2, 2 * question)))])
            for i in range(4):
                asked[f"{doc:06d}/{i}"] = Request(prompt, self.ids(dice, int(dice.integers(2, 2 * choice))))
        return asked

    def prompts(self, n: int) -> dict[str, Request]:
        """Questions behind shots that all share, to be answered in 64 tokens."""
        dice = np.random.default_rng(2)
        shots, question, answer = (60, 12, 8) if self.tiny else (600, 40, 64)
        head, decoding = self.ids(dice, shots), Decoding(answer)
        return {
            f"{i:06d}": Request(
                np.concatenate([head, self.ids(dice, int(dice.integers(question // 2, 2 * question)))]), None, decoding
            )
            for i in range(n)
        }

    def timed(self, engine: HFEngine, packs: list[Pack]) -> tuple[dict[str, Answer], dict[str, Any]]:
        """Answers and figures of as many packs as the time allows; a small one comes before the clock starts."""
        import torch

        cuda = self.device.startswith("cuda")
        engine.compute(next(pieces(packs[0], 4)))
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begun, forwarded = time.perf_counter(), engine.scorer.forwarded + engine.generator.forwarded
        answers: dict[str, Answer] = {}
        waiting, halved = packs[::-1], 0
        while waiting and (not answers or time.perf_counter() - begun < self.seconds):
            pack = waiting.pop()
            try:
                answers |= dict(zip(pack.keys, engine.compute(pack), strict=True))
            except PackTooLarge:
                if len(pack.requests) == 1:
                    raise
                waiting += pack.halves()[::-1]
                halved += 1
        if cuda:
            torch.cuda.synchronize()
        spent = time.perf_counter() - begun
        rate = (engine.scorer.forwarded + engine.generator.forwarded - forwarded) / spent
        figures: dict[str, Any] = {
            "requests": len(answers),
            "seconds": round(spent, 2),
            "requests_per_s": round(len(answers) / spent, 2),
            "forwarded_tokens_per_s": round(rate),
            "packs_halved": halved,
        }
        if self.peak:
            figures["share_of_peak"] = round(2 * self.parameters * rate / (self.peak * 1e12), 4)
        if cuda:
            figures["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        return answers, figures

    def scoring(self, docs: int, shared: bool) -> dict[str, Any]:
        """Trie against naive, on the same requests: how fast, and how far apart."""
        asked = self.cloze(docs, shared)
        found: dict[str, Any] = {}
        given: dict[str, dict[str, Answer]] = {}
        for way in ("trie", "padded"):
            engine = self.engine(scoring="auto" if way == "trie" else way)
            packs = scoring_packs("cloze", asked, engine.packing)
            if way == "padded":  # a pack of the trie's size would be minutes of work
                packs = [part for pack in packs for part in pieces(pack, 64)]
            given[way], figures = self.timed(engine, packs)
            figures["docs_per_s"] = round(figures["requests_per_s"] / 4, 2)
            found["naive" if way == "padded" else way] = figures | {"path": engine.scorer.path}
        both = sorted(given["trie"].keys() & given["padded"].keys())
        pairs = [(a, b) for key in both for a, b in [(given["trie"][key], given["padded"][key])]]
        gaps = [abs(a.logprob - b.logprob) for a, b in pairs if isinstance(a, Scored) and isinstance(b, Scored)]
        return found | {
            "ratio": round(found["trie"]["docs_per_s"] / max(found["naive"]["docs_per_s"], 1e-9), 2),
            "compared": len(gaps),
            "largest_gap_nats": float(f"{max(gaps, default=0.0):.2g}"),
            "decisions_that_differ": sum(
                decided(given["trie"], doc) != decided(given["padded"], doc) for doc in whole(both)
            ),
            "documents_compared": len(whole(both)),
        }

    def generation(self, n: int) -> dict[str, Any]:
        """Greedy answers with and without the shared stem: new tokens/s."""
        found: dict[str, Any] = {}
        for way in ("stems", "naive"):
            engine = self.engine()
            packs = generation_packs("answers", self.prompts(n), engine.packing)
            if way == "naive":
                packs = [Pack(pack.task, pack.keys, pack.requests) for pack in packs]
            answers, figures = self.timed(engine, packs)
            new = sum(answer.tokens for answer in answers.values() if isinstance(answer, Generated))
            figures |= {
                "path": engine.generator.path if way == "stems" else "padded",
                "rows": max(len(pack.requests) for pack in packs),
            }
            found[way] = figures | {"new_tokens_per_s": round(new / figures["seconds"]) if figures["seconds"] else None}
        return found


def pieces(pack: Pack, most: int) -> Iterator[Pack]:
    """The pack in parts of at most `most` requests."""
    for at in range(0, len(pack.requests), most):
        yield Pack(pack.task, pack.keys[at : at + most], pack.requests[at : at + most], pack.stem)


def whole(keys: list[str]) -> list[str]:
    """Documents of which all four choices are among the keys."""
    count: dict[str, int] = {}
    for key in keys:
        doc = key.partition("/")[0]
        count[doc] = count.get(doc, 0) + 1
    return [doc for doc, n in count.items() if n == 4]


def decided(answers: dict[str, Answer], doc: str) -> int:
    """The choice with the largest log-likelihood."""
    scores = [one.logprob for i in range(4) if isinstance(one := answers[f"{doc}/{i}"], Scored)]
    return int(np.argmax(scores))


def peak_of(device: str) -> tuple[float | None, str]:
    """TFLOP/s of a device, and its name."""
    import torch

    if device == "cpu":
        return None, "cpu"
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None), name


@contextmanager
def guarded(results: dict[str, Any], what: str, out: Path | None) -> Iterator[None]:
    """Note what fails and go on; write what there is after each measurement."""
    print(f"{what} …", file=sys.stderr, flush=True)
    try:
        yield
    except Exception as error:  # whatever it is, the other measurements count
        traceback.print_exc()
        results.setdefault("errors", {})[what] = f"{type(error).__name__}: {error}"[:500]
    if out:
        out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements, as far as time allows."""
    import torch
    import transformers

    begun = time.monotonic()
    device = "cpu" if arguments.tiny or not torch.cuda.is_available() else "cuda:0"
    known, name = peak_of(device)
    results: dict[str, Any] = {
        "device": name,
        "peak_bf16_tflops": arguments.peak or known,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "models": {},
    }
    for model in ["tiny"] if arguments.tiny else arguments.models.split(","):
        measure(model, device, arguments, results, begun + LIMIT - 2 * arguments.seconds)
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    results["seconds"] = round(time.monotonic() - begun, 1)
    return results


def measure(model: str, device: str, arguments: argparse.Namespace, results: dict[str, Any], until: float) -> None:
    """All measurements on one model, into `results`; none begins after `until`."""
    here: dict[str, Any] = {}
    results["models"][model] = here
    docs = arguments.docs or (12 if model == "tiny" else 8000)
    bench: Bench | None = None
    with tempfile.TemporaryDirectory() as folder:
        with guarded(results, f"{model}: weights", arguments.out):
            bench = Bench(model, Path(folder), device, arguments.seconds, results["peak_bf16_tflops"])
            here |= {"parameters": bench.parameters, "packing": asdict(bench.engine().packing), "said": bench.said}
        if bench is None:
            return
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "shared_shots": partial(bench.scoring, docs, True),
            "sampled_shots": partial(bench.scoring, max(8, docs // 4), False),
            "generation": partial(bench.generation, docs),
        }
        for part, figures in work.items():
            with guarded(results, f"{model}: {part}", arguments.out):
                if time.monotonic() > until:
                    raise TimeoutError("no time was left")
                here[part] = figures()


def table(results: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{results['device']}, peak {results['peak_bf16_tflops'] or '?'} TFLOP/s (dense bf16)"]
    form = "{:<6}{:<15}{:<8}{:>10}{:>12}{:>16}{:>10}{:>10}"
    lines.append(form.format("model", "work", "way", "docs/s", "new tok/s", "forwarded tok/s", "of peak", "memory"))
    for model, parts in results["models"].items():
        for part in ("shared_shots", "sampled_shots", "generation"):
            for way, row in parts.get(part, {}).items():
                if not isinstance(row, dict):
                    continue
                share, memory = row.get("share_of_peak"), row.get("peak_memory_gb")
                docs = row.get("docs_per_s", row["requests_per_s"])
                lines.append(
                    form.format(
                        model,
                        part,
                        way,
                        f"{docs:,.1f}",
                        f"{row['new_tokens_per_s']:,}" if row.get("new_tokens_per_s") else "",
                        f"{row['forwarded_tokens_per_s']:,}",
                        f"{share:.1%}" if share is not None else "",
                        f"{memory:.1f} GB" if memory is not None else "",
                    )
                )
            if "ratio" in parts.get(part, {}):
                found = parts[part]
                lines.append(
                    f"      {part}: trie / naive = {found['ratio']}×, largest gap {found['largest_gap_nats']} nats, "
                    f"{found['decisions_that_differ']} of {found['documents_compared']} decisions differ"
                )
    lines += [f"FAILED {what}: {why}" for what, why in results.get("errors", {}).items()]
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU: shows only that it runs")
    parser.add_argument("--out", type=Path, help="where the results go, as JSON")
    parser.add_argument("--models", default="1b,8b", help="1b, 8b, or both")
    parser.add_argument("--seconds", type=float, default=25, help="for one measurement, at most")
    parser.add_argument("--docs", type=int, help="documents, at most")
    parser.add_argument("--peak", type=float, help="the device's TFLOP/s in dense bf16")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.models.split(",")) - SHAPES.keys():
        parser.error(f"there is no model {', '.join(sorted(unknown))}: {', '.join(SHAPES)}")
    results = run(arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(table(results))
    return 1 if results.get("errors") else 0


if __name__ == "__main__":
    sys.exit(main())
