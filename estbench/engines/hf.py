"""transformers on CPU or GPU: a checkpoint loaded, checked and asked.

How log-likelihoods are computed is in `hf_scoring`, how answers are generated in `hf_generation`. Numbers depend, in
the last bits, on what is computed together; so packs never depend on what is already cached.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any

from estbench.checkpoint import Checkpoint
from estbench.engines import memory
from estbench.engines.base import Answer, InProcess, Pack, Packing, PackTooLarge, Request
from estbench.engines.hf_generation import Generator
from estbench.engines.hf_scoring import Scorer
from estbench.engines.memory import text_config
from estbench.engines.options import HFOptions
from estbench.errors import ConfigError, EngineError, MissingPartError, ModelError
from estbench.tokens import Tokens

# What can change the bits of an answer.
CODE = (
    "hf.py",
    "hf_scoring.py",
    "hf_trie.py",
    "scoring_test.py",
    "hf_generation.py",
    "trie.py",
    "batches.py",
    "thinking.py",
    "memory.py",
)
SHARD_SHARE = 0.85  # of each GPU may hold weights; the rest is for what is computed


class HFEngine(InProcess):
    """A transformers causal language model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokens: Tokens,
        options: HFOptions | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.checkpoint, self.tokens, self.options, self.say = checkpoint, tokens, options or HFOptions(), say
        self.device, self.dtype = place(self.options, checkpoint.config)
        self.model: Any = None
        self.scorer: Any = None
        self.generator: Any = None
        self.taken: dict[str, Any] = {}  # the paths that were taken, kept when the model is gone

    @property
    def max_length(self) -> int:
        return self.checkpoint.max_length or 2048

    @cached_property
    def attention(self) -> str:
        """The implementation of attention, known before the weights are loaded: it is part of the fingerprint."""
        if self.options.attention != "auto":
            return self.options.attention
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        try:
            kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(self.checkpoint.path))]
        except Exception:  # a model that transformers does not know: `load` says so
            return "sdpa"
        return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"

    @cached_property
    def packing(self) -> Packing:  # type: ignore[override]  # the base has a constant
        """By the memory of the GPUs; fixed on other devices, whose memory is the machine's."""
        return packing_of(self.checkpoint, self.device, self.dtype, self.options.gpus)

    def fingerprint(self) -> dict[str, str]:
        import torch
        import transformers

        code = b"".join(Path(__file__).with_name(name).read_bytes() for name in CODE)
        other = {
            "scoring": self.options.scoring,
            "gpus": self.options.gpus,
            "thinking_tokens": self.options.thinking_tokens,
        }
        changed = {name: str(value) for name, value in other.items() if value != getattr(HFOptions, name)}
        return {
            "engine": "hf",
            "code": hashlib.sha256(code).hexdigest()[:16],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "dtype": self.dtype,
            "device": _device_name(self.device),
            "attention": self.attention,
            "packs": "/".join(map(str, astuple(self.packing))),
            **changed,
        }

    def load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        shards: dict[str, Any] = {}
        if self.options.gpus > 1:  # nothing is offloaded to the CPU: only what is listed is used
            every = range(self.options.gpus)
            room = {i: int(torch.cuda.get_device_properties(i).total_memory * SHARD_SHARE) for i in every}
            shards = {"device_map": "balanced", "max_memory": room}
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.checkpoint.path,
                output_loading_info=True,
                dtype=getattr(torch, self.dtype),
                attn_implementation=self.attention,
                use_safetensors=True,
                **shards,
            )
            loaded = loaded if shards else (loaded[0].to(self.device), loaded[1])
        except Exception as error:  # a configuration that transformers does not know, shapes that do not fit, ...
            if memory.is_out_of_memory(error) or "offload" in str(error):
                raise self._too_large() from None
            raise ModelError(f"transformers can't load {self.checkpoint.path}: {str(error).splitlines()[0]}") from None
        model, report = loaded
        if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
            raise ModelError(
                f"{self.checkpoint.path} lacks {len(missing)} of the tensors that its config.json promises "
                f"({missing[0]}, …): copy the checkpoint again."
            )
        self.use(model)

    def use(self, model: Any) -> None:
        """Take a model that is on its device already."""
        from transformers import GenerationConfig

        self.model = model.eval()
        named = self.model.generation_config.eos_token_id
        named = named if isinstance(named, list) else [named]
        self.ends = sorted({int(i) for i in [*named, self.tokens.tokenizer.eos_token_id] if i is not None})
        pad = self.tokens.tokenizer.pad_token_id
        if pad is None or pad >= self.model.get_input_embeddings().weight.shape[0]:  # a [PAD] added without resizing
            pad = self.ends[0] if self.ends else 0
        self.pad = int(pad)
        # sampling habits saved with a model (temperature, penalties) must not leak into a score
        ends = self.ends or None
        self.model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=self.pad)  # type: ignore[no-untyped-call]
        self.scorer, self.generator = Scorer(self), Generator(self)

    def _too_large(self) -> EngineError:
        where = f"{self.options.gpus} GPUs" if self.options.gpus > 1 else self.device
        size = self.checkpoint.parameters * memory.BYTES.get(self.dtype, 4) / 1e9
        smaller = "engine.dtype=bfloat16, " if self.dtype == "float32" else ""
        return EngineError(
            f"{self.checkpoint.name} ({size:.1f} GB in {self.dtype}) does not fit on {where}: try {smaller}"
            "engine.gpus=2 or more, or a larger GPU."
        )

    def compute(self, pack: Pack) -> Sequence[Answer]:
        try:
            answers: Sequence[Answer] = self.scorer.score(pack) if pack.scores else self.generator.generate(pack)
            return answers
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
        _free_memory()  # behind the handler, since the error's traceback holds the tensors that are to be freed
        raise PackTooLarge(pack, self.device)

    def score(self, requests: Sequence[Request]) -> Sequence[Answer]:
        return self.compute(Pack("", (), tuple(requests)))

    def generate(self, requests: Sequence[Request]) -> Sequence[Answer]:
        return self.compute(Pack("", (), tuple(requests)))

    def nan(self) -> EngineError:
        """What to raise where probabilities are NaN."""
        cure = "its weights are damaged." if self.dtype == "float32" else "try engine.dtype=float32."
        return EngineError(f"{self.checkpoint.name} gives NaN probabilities in {self.dtype}: {cure}")

    def notes(self) -> dict[str, Any]:
        """Which paths were taken, and how many tokens each of them forwarded, padding included."""
        if self.model is not None and self.scorer.path:
            self.taken |= {"scoring": self.scorer.path, "tokens_forwarded": self.scorer.forwarded}
        if self.model is not None and self.generator.path:
            self.taken |= {"generation": self.generator.path, "generation_tokens_forwarded": self.generator.forwarded}
        return self.taken

    def close(self) -> None:
        self.notes()
        self.model = self.scorer = self.generator = None
        _free_memory()


def place(options: HFOptions, config: Mapping[str, Any]) -> tuple[str, str]:
    """The device and dtype that options mean here; ConfigError where the machine has no such device, or too few."""
    import torch

    device, gpus = options.device, options.gpus
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"engine.device={device}: there is no GPU here that torch can use.")
    if device not in ("auto", "cpu") and not device.startswith(("cuda", "mps", "xpu")):
        raise ConfigError(f"engine.device={device} is not one of auto, cpu, cuda, cuda:0, mps, xpu.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("engine.device=mps: torch finds no Apple GPU here.")
    if device.startswith("xpu") and not torch.xpu.is_available():
        raise ConfigError(f"engine.device={device}: torch finds no Intel GPU here.")
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.partition(":")[2]
    if device.startswith("cuda:") and not (index.isdigit() and int(index) < have):
        raise ConfigError(f"engine.device={device}: this machine has {have}, counted from cuda:0.")
    if gpus > 1:
        _check_shards(device, gpus, have)
    device = ("cuda:0" if have else "cpu") if device == "auto" else "cuda:0" if device == "cuda" else device
    saved = text_config(config).get("dtype") or config.get("dtype") or config.get("torch_dtype") or "float32"
    return device, options.dtype if options.dtype != "auto" else "float32" if device == "cpu" else str(saved)


def packing_of(checkpoint: Checkpoint, device: str, dtype: str, gpus: int) -> Packing:
    """The packs for a model on a device."""
    import torch

    if not device.startswith("cuda"):
        return memory.CPU
    total = torch.cuda.get_device_properties(device).total_memory * gpus
    weights = checkpoint.parameters * memory.BYTES.get(dtype, 4)
    return memory.packing_on(total, weights, checkpoint.config, dtype)


def _check_shards(device: str, gpus: int, have: int) -> None:
    if device not in ("auto", "cuda"):
        raise ConfigError(f"engine.gpus={gpus} takes the first {gpus} GPUs: leave engine.device={device} out.")
    if have < gpus:
        raise ConfigError(f"engine.gpus={gpus}: torch finds {have or 'no'} GPU{'s' * (have != 1)} here.")
    if importlib.util.find_spec("accelerate") is None:
        raise MissingPartError(f"engine.gpus={gpus} needs accelerate, which is not installed: pip install accelerate.")


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return torch.xpu.get_device_name(device) if device.startswith("xpu") else device
