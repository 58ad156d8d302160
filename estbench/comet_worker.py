"""Runs in the side environment `comet`, not in ours: loads a COMET model and scores what it is sent, line by line.

    python -I comet_worker.py CHECKPOINT DEVICE        CHECKPOINT: …/checkpoints/model.ckpt, DEVICE: cpu, cuda or auto
    -> {"ready": {"comet": "2.2.7", "torch": …, "transformers": …, "precision": "float32", "device": "cpu", …}}
    <- {"rows": [{"src": …, "mt": …, "ref": …}, …], "batch": 16}
    -> {"scores": [0.81, …]}   or   {"error": "one line"}

A checkpoint is a pickle: it is read with weights_only, which refuses everything but tensors and plain values. Nothing
is downloaded. stdout belongs to the replies; whatever libraries print goes to stderr.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any

TOKENIZERS = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")


class Refused(Exception):
    """What the person at the terminal has to know; one line."""


def load(checkpoint: Path) -> Any:
    """The COMET model of a checkpoint, on the CPU."""
    import comet  # type: ignore[import-not-found]
    import pkg_resources  # type: ignore[import-not-found,unused-ignore]  # noqa: F401  comet swallows its absence

    tensors, encoder = look_into(checkpoint)
    if not Path(encoder).is_dir():
        check_cached(encoder)
    model = comet.load_from_checkpoint(str(checkpoint), local_files_only=True)
    if lacking := sorted(name for name, _ in model.named_parameters() if name not in tensors):
        raise Refused(f"{checkpoint} lacks {len(lacking)} of the model's tensors ({lacking[0]}, …): copy it again")
    return model.eval()


def look_into(checkpoint: Path) -> tuple[set[str], str]:
    """The names of a checkpoint's tensors, and its encoder. Refused if it holds anything that could run."""
    import torch
    import yaml

    try:
        yaml.safe_load((checkpoint.parents[1] / "hparams.yaml").read_text("utf-8"))  # comet's loader takes more
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return set(state["state_dict"]), str(state["hyper_parameters"]["pretrained_model"])
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it names {found[1]}, which" if found else "it"
        raise Refused(f"{checkpoint} is not loaded: {what} is no tensor or plain value, and could run code") from None
    except (OSError, RuntimeError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise Refused(f"{checkpoint} is damaged or no COMET checkpoint ({reason}): copy it again") from None


def check_cached(encoder: str) -> None:
    """Refused unless the configuration and tokenizer of an encoder of the Hub are in its cache."""
    from transformers.utils.hub import cached_file

    def here(file: str) -> bool:
        found = cached_file(
            encoder,
            file,
            local_files_only=True,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return found is not None

    if not here("config.json") or not any(map(here, TOKENIZERS)):
        raise Refused(
            f"configuration and tokenizer of its encoder {encoder} are not on this machine: run "
            "`estbench env install comet model=NAME` where there is a network"
        )


def device_of(asked: str) -> str:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise Refused("device=cuda was asked for, and its torch sees no GPU")
    return "cpu" if asked == "cpu" or not torch.cuda.is_available() else "cuda"


def describe(model: Any, device: str) -> dict[str, Any]:
    """What a score depends on."""
    packages = {"comet": "unbabel-comet", "torch": "torch", "transformers": "transformers"}
    versions = {key: importlib.metadata.version(name) for key, name in packages.items()}
    precision = str(next(model.parameters()).dtype).removeprefix("torch.")
    reference = bool(model.requires_references())
    kind = str(model.hparams.get("class_identifier") or type(model).__name__)
    return {**versions, "precision": precision, "device": device, "reference": reference, "class": kind}


def score(model: Any, device: str, request: dict[str, Any]) -> list[float]:
    rows = [{key: str(row[key]) for key in ("src", "mt", "ref")} for row in request["rows"]]
    found = model.predict(
        rows, batch_size=int(request["batch"]), gpus=int(device == "cuda"), num_workers=0, progress_bar=False
    )
    return [float(value) for value in found.scores]


def main() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    warnings.simplefilter("ignore")

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        model, device = load(Path(sys.argv[1])), device_of(sys.argv[2])
        reply({"ready": describe(model, device)})
        for line in sys.stdin:
            reply({"scores": score(model, device, json.loads(line))})
    except Refused as error:
        reply({"error": str(error)})
    except MemoryError:
        reply({"error": "out of memory: take a smaller batch= or another machine"})
    except Exception as error:  # whatever comet, torch and transformers raise
        text = " ".join(str(error).split())
        cure = ": take a smaller batch=" if "out of memory" in text else ""
        reply({"error": f"{type(error).__name__}: {text[:300]}{cure}"})


if __name__ == "__main__":
    main()
