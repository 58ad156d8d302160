"""transformers on CPU or GPU.

Choices are scored in right-padded batches with logits at the scored positions only; answers are generated in
left-padded batches. Numbers depend, in the last bits, on what is in a batch; so the runner's packs never depend on
what is already cached.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from estbench.checkpoint import Checkpoint
from estbench.engines.base import Generated, Request, Scored
from estbench.errors import ConfigError, EngineError, ModelError
from estbench.tokens import Tokens

DTYPES = ("auto", "float32", "bfloat16", "float16")


class HFEngine:
    """A transformers causal language model.

    dtype `auto` is float32 on a CPU and the checkpoint's own on a GPU; device `auto` is the first GPU if there is one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokens: Tokens,
        *,
        dtype: str = "auto",
        device: str = "auto",
        attention: str = "sdpa",
    ) -> None:
        import torch

        if dtype not in DTYPES:
            raise ConfigError(f"engine.dtype={dtype} is not one of {', '.join(DTYPES)}.")
        self.checkpoint, self.tokens, self.attention = checkpoint, tokens, attention
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
            "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "dtype": self.dtype,
            "device": on,
            "attention": self.attention,
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
                attn_implementation=self.attention,
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
        self.keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters
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

    def score(self, requests: Sequence[Request]) -> list[Scored]:
        import torch

        rows: dict[bytes, int] = {}  # letters A to D behind one prompt need one forward pass
        places: list[tuple[int, int, npt.NDArray[np.int64]]] = []  # row, first scored position, target ids
        inputs: list[npt.NDArray[np.int64]] = []
        for request in requests:
            assert request.continuation is not None
            ids = np.concatenate([request.prompt, request.continuation[:-1]]).astype(np.int64)
            row = rows.setdefault(ids.tobytes(), len(inputs))
            if row == len(inputs):
                inputs.append(ids)
            places.append((row, len(request.prompt) - 1, request.continuation.astype(np.int64)))
        width, first = max(map(len, inputs)), min(start for _, start, _ in places)
        padded = np.stack([np.pad(ids, (0, width - len(ids)), constant_values=self.pad) for ids in inputs])
        with torch.inference_mode():
            logits = self._logits(torch.from_numpy(padded).to(self.device), first)
            return [self._scored(logits[row, start - first :], target) for row, start, target in places]

    def _logits(self, ids: Any, first: int) -> Any:
        """Logits from position `first` on; memory for all positions is only spent where the model can't do less."""
        import torch

        if self.keeps_logits:
            keep = torch.arange(first, ids.shape[1], device=self.device)
            return self.model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
        return self.model(input_ids=ids, use_cache=False).logits[:, first:]

    def _scored(self, logits: Any, target: npt.NDArray[np.int64]) -> Scored:
        import torch

        logprobs = logits[: len(target)].float().log_softmax(-1)
        ids = torch.from_numpy(target).to(self.device)
        total = float(logprobs.gather(1, ids[:, None]).sum())
        if np.isnan(total):
            raise self._nan()
        return Scored(total, bool((logprobs.argmax(-1) == ids).all()))

    def _nan(self) -> EngineError:
        cure = "its weights are damaged." if self.dtype == "float32" else "try engine.dtype=float32."
        return EngineError(f"{self.checkpoint.name} gives NaN probabilities in {self.dtype}: {cure}")

    def _refuse_nan(self, _: Any, scores: Any) -> Any:
        """A logits processor: NaN would be decoded as some token, and scored."""
        if scores.isnan().any():
            raise self._nan()
        return scores

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        import torch
        from transformers import StoppingCriteriaList

        decoding = requests[0].decoding
        assert decoding is not None and all(r.decoding == decoding for r in requests)
        width = max(len(r.prompt) for r in requests)
        inputs = np.full((len(requests), width), self.pad, np.int64)
        mask = np.zeros_like(inputs)
        for i, r in enumerate(requests):
            inputs[i, width - len(r.prompt) :], mask[i, width - len(r.prompt) :] = r.prompt, 1
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
            torch.manual_seed(decoding.seed)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=torch.from_numpy(inputs).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
                max_new_tokens=decoding.max_new_tokens,
                logits_processor=[self._refuse_nan],
                stopping_criteria=StoppingCriteriaList([StopStrings(self.tokens, decoding.stop, width)]),
                **sampling,
            )
        return [self._cut(row[width:], decoding.stop) for row in output.tolist()]

    def _cut(self, ids: list[int], stops: tuple[str, ...]) -> Generated:
        """The answer up to its end token or first stop string."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        kept = ids if end is None else ids[:end]
        while end is None and kept and kept[-1] == self.pad:  # what follows a stop string
            kept = kept[:-1]
        text = str(self.tokens.tokenizer.decode(kept, skip_special_tokens=True))
        at = min((found for stop in stops if (found := text.find(stop)) >= 0), default=None)
        finish = "length" if end is None and at is None else "stop"
        return Generated(text if at is None else text[:at], len(kept) + (end is not None), finish)

    def close(self) -> None:
        self.model = None


class StopStrings:
    """Stops each row of a batch for itself once one of the strings occurs in what it generated."""

    def __init__(self, tokens: Tokens, stops: tuple[str, ...], prompt: int) -> None:
        self.tokens, self.stops, self.prompt = tokens, stops, prompt
        # a token has at least one byte; the margin covers a string that starts inside a token
        self.tail = max((len(stop.encode()) for stop in stops), default=0) + 4
        self.done: list[bool] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        rows = input_ids[:, max(self.prompt, input_ids.shape[1] - self.tail) :].tolist()
        self.done = self.done or [False] * len(rows)
        for i, row in enumerate(rows):
            if self.stops and not self.done[i]:
                text = self.tokens.tokenizer.decode(row, skip_special_tokens=True)
                self.done[i] = any(stop in text for stop in self.stops)
        return torch.tensor(self.done, device=input_ids.device)
