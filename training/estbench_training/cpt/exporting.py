"""A model as it is now, or its average, in Hugging Face's format: safetensors, tokenizer, generation_config, its cards.

    export(run, batches, context.model_folder, final=True)

Tensors are gathered one by one, on all processes; the main one keeps them in its CPU's memory and writes. The folder
appears whole, and a full disk leaves nothing of it. Adapters are added into the weights; at the end they are kept
beside the model, too, in adapter/ as peft has them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from estbench import cards
from estbench.checkpoint import TOKENIZER_FILES
from estbench_training import card, provenance
from estbench_training.appearing import appearing, write_synced
from estbench_training.cpt import freezing, parallel

if TYPE_CHECKING:
    from estbench_training.cpt.setup import Run
    from estbench_training.packing import Batches

FILE_SIZE = "5GB"  # of a safetensors file at most


def export(run: Run, batches: Batches, place: Path, *, final: bool) -> None:
    """Write the model to a folder. All processes have to call it; StoreError on the main one if there is no room."""
    inner, dtype = run.model.model, _dtype(run)
    whole = _gathering(run)
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in freezing.without_adapters(inner, whole)
    }
    joules = run.energy()
    adapter = dict(freezing.adapters(inner, whole)) if final and run.settings.freeze == "lora" else {}
    if run.ranks.main:
        if adapter:
            with appearing(run.context.folder / "adapter") as folder:
                _write_adapter(folder, inner, adapter, run)
        with appearing(place) as folder:
            _write_model(folder, inner, tensors, run.base.path, dtype)
            card.write(run.context, folder, _facts(run, batches, final, joules))
    run.ranks.barrier()


def _dtype(run: Run) -> torch.dtype:
    """In which the weights are written: as asked, or as most of the base's are."""
    asked = run.settings.export.dtype
    if asked != "base":
        return torch.bfloat16 if asked == "bfloat16" else torch.float32
    sizes: dict[str, int] = {}
    for row in run.base.tensors.values():
        begin, end = row["data_offsets"]
        sizes[row["dtype"]] = sizes.get(row["dtype"], 0) + end - begin
    most = max(sizes, key=lambda name: sizes[name])
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(most, torch.float32)


def _gathering(run: Run) -> Callable[[str, Tensor], Tensor | None]:
    """The whole of a weight, or of its average; None on processes that don't write."""
    averages = run.averages.exported
    instead = {id(weight): averages[name] for name, weight in run.weights.items() if name in averages}

    def whole(name: str, tensor: Tensor) -> Tensor | None:
        return parallel.whole(instead.get(id(tensor), tensor), run.ranks.main)

    return whole


def _write_model(folder: Path, model: Any, tensors: Mapping[str, Tensor], base: Path, dtype: torch.dtype) -> None:
    """Weights, configuration, and the base's tokenizer and generation_config, as they are there."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with _disk_errors():
        model.save_pretrained(folder, state_dict=dict(tensors), max_shard_size=FILE_SIZE)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_synced(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def _write_adapter(folder: Path, model: Any, tensors: Mapping[str, Tensor], run: Run) -> None:
    """What `peft.PeftModel.from_pretrained` reads."""
    import copy

    from safetensors.torch import save_file

    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = run.base.name
    config.modules_to_save = list(run.settings.lora.whole) or None
    config.inference_mode = True
    with _disk_errors():
        config.save_pretrained(str(folder))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """safetensors has an error of its own for a full disk."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from None


def _facts(run: Run, batches: Batches, final: bool, joules: float | None) -> card.CardFacts:
    """What the card says of this stage."""
    shares = batches.mixture.report(run.step * batches.size)
    manifests = {name: shards.manifest for name, shards in batches.shards.items()}
    return card.CardFacts(
        kind="chat" if run.base.has_chat_template else "base",
        stage="cpt",
        final=final,
        tokens=run.step * run.settings.batch_tokens,
        step=run.step,
        steps_planned=run.settings.total_steps,
        data=tuple(
            cards.Source(name, manifests[name].get("licence"), share.tokens, round(share.share, 6))
            for name, share in shares.items()
        ),
        decontaminated=provenance.together(
            [
                provenance.kept_out({"decontaminated": None, **shards.manifest}, shards.folder)
                for shards in batches.shards.values()
            ]
        ),
        hours=run.seconds / 3600,
        energy_kwh=None if joules is None else joules / card.JOULES,
        precision=run.settings.precision,
        urls={name: manifest["url"] for name, manifest in manifests.items() if manifest.get("url")},
    )
