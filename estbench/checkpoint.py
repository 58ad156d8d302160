"""A model on disk, before anything heavy is loaded: is it whole, what is it, what is its fingerprint.

    checkpoint = find("demo")  # or a folder, or owner/name on the Hub
    checkpoint.fingerprint()   # {"weights": ..., "tokenizer": ..., "config": ...}

Only safetensors are read (their headers are JSON): a checkpoint with pickled weights is refused, and so is one whose
file is shorter than its header promises.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from estbench import cards, identity
from estbench.errors import ModelError, did_you_mean

TEMPLATES = ("chat_template.jinja", "chat_template.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    *TEMPLATES,
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONFIGS = ("config.json", "generation_config.json")
VOLATILE = ("_name_or_path", "transformers_version")  # keys of config.json that say nothing about the model
NUMBERED = re.compile(r"model|(step|checkpoint)[-_]?\d+|scale-[-+.e\d]+")  # folders' names that say little alone
SAFETENSORS_HEADER_MOST = 100_000_000  # bytes; the format's own limit


@dataclass
class Checkpoint:
    """A folder with config.json, safetensors and a tokenizer."""

    path: Path
    name: str
    revision: str | None = None
    stats: dict[Path, identity.Stat] = field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors files that make up the model, in name order."""
        index = self.path / "model.safetensors.index.json"
        if index.exists() and (self.path / "model.safetensors").exists():
            raise ModelError(
                f"{self.path} has both model.safetensors and model.safetensors.index.json: remove the one that is not "
                "the model."
            )
        if index.exists():
            named = read_json(index).get("weight_map")
            if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
                raise ModelError(f"{index} names no files (weight_map): copy the checkpoint again.")
            names = sorted(set(named.values()))
            if any(Path(name).name != name for name in names):
                raise ModelError(f"{index} names files outside the checkpoint.")
            files = [self.path / name for name in names]
        else:
            files = [self.path / "model.safetensors"]
        if missing := [file.name for file in files if not file.exists()]:
            raise ModelError(f"{self.path} lacks {', '.join(missing)}: copy the checkpoint again.{self._pickle_hint()}")
        return files

    @cached_property
    def tensors(self) -> dict[str, dict[str, Any]]:
        """Name -> {dtype, shape} of every tensor, from the headers alone."""
        found: dict[str, dict[str, Any]] = {}
        for file in self.weight_files:
            found |= read_header(file)
        return found

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor["shape"]) for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens, prompt and answer together."""
        nested = self.config.get("text_config") or {}
        value = (
            self.config.get("max_position_embeddings")
            or nested.get("max_position_embeddings")
            or self.config.get("n_positions")
        )
        return int(value) if value else None

    @property
    def has_chat_template(self) -> bool:
        if (self.path / "chat_template.jinja").exists() or (self.path / "chat_template.json").exists():
            return True
        config = self.path / "tokenizer_config.json"
        return config.exists() and bool(read_json(config).get("chat_template"))

    @property
    def files(self) -> list[Path]:
        """Everything that a result depends on."""
        return [
            *self.weight_files,
            *(file for name in (*TOKENIZER_FILES, *CONFIGS) if (file := self.path / name).exists()),
        ]

    def fingerprint(self, hashes: identity.FileHashes | None = None) -> dict[str, str]:
        """Content hashes of weights, tokenizer and configuration; ModelError if a file changed since it was opened."""
        found = (hashes or identity.FileHashes()).of(self.files)
        self.check_unchanged()
        configs = {}
        for name in CONFIGS:
            if (self.path / name).exists():
                configs[name] = {k: v for k, v in read_json(self.path / name).items() if k not in VOLATILE}
        tokenizer = [self.path / name for name in TOKENIZER_FILES if self.path / name in found]
        return {
            "weights": identity.digest([[file.name, found[file][0]] for file in self.weight_files]),
            "tokenizer": identity.digest([[file.name, found[file][0]] for file in tokenizer]),
            "config": identity.digest(configs),
        }

    def tokenizer_hash(self) -> str | None:
        """Hash of everything that makes token ids of prompts, the template included; None where there are no files."""
        files = [file for name in TOKENIZER_FILES if (file := self.path / name).exists()]
        found = identity.FileHashes().of(files)
        hashes = [[file.name, found[file][0]] for file in files]
        return identity.digest([hashes, self.config.get("model_type")]) if files else None

    def check_unchanged(self) -> None:
        """Refuse a checkpoint that was written to since it was opened (while it was hashed or loaded, say)."""
        for file, stat in self.stats.items():
            if not file.exists() or identity.stat_of(file) != stat:
                raise ModelError(f"{file} changed while it was being loaded: wait until it is written, then run again.")

    def _pickle_hint(self) -> str:
        pickles = sorted(file.name for pattern in PICKLES for file in self.path.glob(pattern))
        if not pickles:
            return ""
        return (
            f" It has pickled weights ({pickles[0]}), which can run code and are never loaded: convert them to "
            "safetensors (save_pretrained of the training library writes them)."
        )


def find(
    model: str, revision: str | None = None, say: Callable[[str], None] | None = None, *, fetch: bool = True
) -> Checkpoint:
    """The checkpoint that a user's `model=` means: a demo model, a folder, or `owner/name` on the Hub.

    fetch: a demo model is made, a Hub model downloaded where it is not here; without it that is a ModelError.
    """
    from estbench import demo

    if model in demo.MODELS:
        if say and Path(model).is_dir():
            say(f"{model} is the demo model; the folder of that name is ./{model}.")
        if not fetch and not demo.is_made(model):
            raise ModelError(f"{model} is not made yet: the first eval makes it, in one or two minutes on two cores.")
        return _opened(demo.model_path(model, say), model)
    try:
        path = Path(model).expanduser()
    except RuntimeError:
        raise ModelError(f"{model}: there is no home of that user.") from None
    if path.is_dir():
        name = path.resolve().name
        return _opened(path, f"{path.resolve().parent.name}/{name}" if NUMBERED.fullmatch(name) else name)
    if path.is_file():
        raise ModelError(f"{model} is a file: give the folder that holds config.json and the safetensors.")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith((".", "/", "~")):
        return _from_hub(model, revision, fetch)
    raise ModelError(
        f"There is no model {model!r}: give a folder, owner/name on the Hub, or one of {', '.join(demo.MODELS)}."
        + did_you_mean(model, demo.MODELS)
    )


def _opened(path: Path, name: str, revision: str | None = None) -> Checkpoint:
    checkpoint = Checkpoint(path, name, revision)
    if (path / "config.json").exists() and (path / "adapter_config.json").exists():
        raise ModelError(f"{path} has a LoRA adapter beside the model (adapter_config.json): merge it, or remove it.")
    if not (path / "config.json").exists():
        adapter = (
            " It is a LoRA adapter: merge it into its base model first."
            if (path / "adapter_config.json").exists()
            else ""
        )
        raise ModelError(f"{path} is no checkpoint: it has no config.json.{adapter}{checkpoint._pickle_hint()}")
    if "model_type" not in checkpoint.config:
        raise ModelError(f"{path}/config.json has no model_type: this is not a transformers checkpoint.")
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{path} has no tokenizer: copy tokenizer.json and tokenizer_config.json beside the weights.")
    checkpoint.stats = {file: identity.stat_of(file) for file in checkpoint.files}
    checkpoint.tensors  # noqa: B018  reads every header, so that a truncated file is found here
    return checkpoint


def _from_hub(model: str, revision: str | None, fetch: bool) -> Checkpoint:
    """A snapshot of a Hub model; from the local cache when offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"{model} at {revision}" if revision else model
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", cards.README]
    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=not fetch)
    except GatedRepoError:
        raise ModelError(f"{model} is gated: accept its terms on the Hub and set HF_TOKEN.") from None
    except RevisionNotFoundError:
        raise ModelError(f"{model} has no revision {revision!r}.") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"There is no model {model!r}, neither as a folder nor on the Hub (or it is private: set HF_TOKEN)."
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        reason = f", and the Hub can't be reached ({str(error).splitlines()[0][:120]})" if fetch else ""
        raise ModelError(
            f"{at} is neither a folder here nor in the local Hub cache{reason}: run `estbench pull model={model}` "
            "where there is a network."
        ) from None
    return _opened(Path(folder), model, Path(folder).name)


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> {dtype, shape, data_offsets} of a safetensors file, which has to be exactly as long as it says."""
    size = os.path.getsize(file)
    try:
        with open(file, "rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if size < 8 or length > min(SAFETENSORS_HEADER_MOST, size - 8):
                raise ModelError(f"{file} is no whole safetensors file ({size:,} bytes): copy or save it again.")
            header: dict[str, Any] = json.loads(data.read(length))
    except (ValueError, UnicodeDecodeError):
        raise ModelError(f"{file} is no safetensors file: its header is not JSON.") from None
    except OSError as error:
        raise ModelError(f"{file} can't be read: {error.strerror}.") from None
    try:
        header.pop("__metadata__", None)
        expected = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise ModelError(f"{file} is no safetensors file: its header does not say where tensors are.") from None
    if size != expected:
        what = "truncated" if size < expected else "too long"
        raise ModelError(
            f"{file} is {what}: {size:,} bytes where its header promises {expected:,}. Copy or save it again."
        )
    return header


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; ModelError, one line, if it can't be read."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read: {error}.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object.")
    return value
