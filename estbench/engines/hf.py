"""transformers on CPU or GPU: a checkpoint loaded, checked and asked.

How log-likelihoods are computed is in `hf_scoring`, how answers are generated in `hf_generation`. Numbers depend, in
the last bits, on what is computed together; so packs never depend on what is already cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from estbench.checkpoint import Checkpoint
from estbench.engines.base import Answer, InProcess, Pack, PackTooLarge, Request
from estbench.engines.hf_generation import Generator
from estbench.engines.hf_scoring import Scorer
from estbench.engines.options import HFOptions
from estbench.errors import ConfigError, EngineError, ModelError
from estbench.tokens import Tokens

CODE = ("hf.py", "hf_scoring.py", "hf_generation.py", "trie.py", "batches.py")  # what can change the bits of an answer


class HFEngine(InProcess):
    """A transformers causal language model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokens: Tokens,
        options: HFOptions | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        import torch

        options = options or HFOptions()
        device, dtype = options.device, options.dtype
        self.checkpoint, self.tokens, self.options, self.say = checkpoint, tokens, options, say
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"engine.device={device}: there is no GPU here that torch can use.")
        if device not in ("auto", "cpu") and not device.startswith(("cuda", "mps", "xpu")):
            raise ConfigError(f"engine.device={device} is not one of auto, cpu, cuda, cuda:0, mps, xpu.")
        self.device = ("cuda:0" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        saved = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype") or "float32"
        self.dtype = dtype if dtype != "auto" else "float32" if self.device == "cpu" else str(saved)
        self.model: Any = None

    @property
    def max_length(self) -> int:
        return self.checkpoint.max_length or 2048

    def fingerprint(self) -> dict[str, str]:
        import torch
        import transformers

        on = "cpu" if self.device == "cpu" else torch.cuda.get_device_name(self.device)
        return {
            "engine": "hf",
            "code": hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in CODE)).hexdigest()[
                :16
            ],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "dtype": self.dtype,
            "device": on,
            "attention": self.options.attention,
        }

    def load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.checkpoint.path,
                output_loading_info=True,
                dtype=getattr(torch, self.dtype),
                attn_implementation=self.options.attention,
                use_safetensors=True,
            )
        except torch.cuda.OutOfMemoryError:
            raise EngineError(
                f"{self.checkpoint.name} does not fit on {self.device}: try engine.dtype=bfloat16 or a larger GPU."
            ) from None
        except Exception as error:  # a configuration that transformers does not know, shapes that do not fit, ...
            raise ModelError(f"transformers can't load {self.checkpoint.path}: {str(error).splitlines()[0]}") from None
        model, report = loaded
        if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
            raise ModelError(
                f"{self.checkpoint.path} lacks {len(missing)} of the tensors that its config.json promises "
                f"({missing[0]}, …): copy the checkpoint again."
            )
        self.model = model.to(self.device).eval()
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

    def compute(self, pack: Pack) -> Sequence[Answer]:
        import torch

        try:
            return self.scorer.score(pack) if pack.scores else self.generator.generate(pack.requests)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise PackTooLarge(pack, self.device) from None

    def score(self, requests: Sequence[Request]) -> Sequence[Answer]:
        return self.compute(Pack("", (), tuple(requests)))

    def generate(self, requests: Sequence[Request]) -> Sequence[Answer]:
        return self.compute(Pack("", (), tuple(requests)))

    def nan(self) -> EngineError:
        """What to raise where probabilities are NaN."""
        cure = "its weights are damaged." if self.dtype == "float32" else "try engine.dtype=float32."
        return EngineError(f"{self.checkpoint.name} gives NaN probabilities in {self.dtype}: {cure}")

    def close(self) -> None:
        self.model = None
