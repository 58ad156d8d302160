"""Log-probabilities of the reference model: computed once, kept on disk, so that only one model is in memory.

    key = key_of(fingerprint, pairs, precision="fp32", device="cpu", attention="sdpa")
    kept = load(place(key), key, len(pairs))       # (chosen, rejected), each (pairs,) in nats; None: not there, or torn
    store(place(key), key, chosen, rejected)

The reference of DPO is the model that training starts from. What it gives a pair depends on its weights, on the token
ids (in which template, tokenizer and cuts have gone) and on how it computes; all of that is in the key. beta, loss,
rate and seed are not: a sweep over them computes the reference once.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from estbench import identity
from estbench.errors import DataError, EngineError, StoreError
from estbench.home import home
from estbench.runs import atomic
from estbench_training.kinds import Say
from estbench_training.rows import batches

if TYPE_CHECKING:
    from datasets import Dataset

    from estbench_training.templates import Chat

Floats = npt.NDArray[np.float32]
SCHEMA = 1
BATCH = 256  # pairs that are tokenised together


@dataclass(frozen=True)
class EncodedPair:
    """A pair as token ids: the prompt, and two answers that end with their end token."""

    id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    source: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of both sides, each with the prompt."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def length(self) -> int:
        """Tokens of the longer side, prompt included."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def encode(
    chat: Chat, rows: Iterable[Mapping[str, Any]], max_length: int, too_long: str, bad_rows: str = "error"
) -> tuple[list[EncodedPair], Counter[str]]:
    """Pairs as token ids, and how many were left out or cut, and why.

    An answer is learnt with its end token, as the template marks it; what the template writes behind it is left out.
    DataError, with the row's name, for an answer of which nothing is learnt, for text that would become a control
    token, and for a pair that is too long unless it may be dropped or cut.
    """
    made: list[EncodedPair] = []
    counts = Counter[str]()
    for batch in batches(rows, BATCH):
        sides = [[*row["prompt"], *row[side]] for row in batch for side in ("chosen", "rejected")]
        found = chat.encode(sides, "last")
        for place, row in enumerate(batch):
            name = repr(str(row["id"])) if row.get("id") else str(row["where"])
            if bad := _bad(chat, row):
                if bad_rows == "error":
                    raise DataError(f"Pair {name}: {bad}: correct the row, or say bad_rows: drop.")
                counts[bad] += 1
                continue
            pair = _pair(name, found[2 * place], found[2 * place + 1], str(row.get("source") or ""))
            if pair.chosen == pair.rejected:
                counts["both sides equal"] += 1
                continue
            if pair.length > max_length:
                counts["too long"] += 1
                if too_long == "error":
                    raise DataError(
                        f"Pair {name} has {pair.length:,} tokens, max_length is {max_length:,}: say too_long: drop or "
                        "truncate, or a larger max_length."
                    )
                if too_long == "drop":
                    continue
                pair = _cut(pair, max_length)
                if not pair.chosen or not pair.rejected or pair.chosen == pair.rejected:
                    counts["nothing left when cut"] += 1
                    continue
            made.append(pair)
    return made, counts


def _bad(chat: Chat, row: Mapping[str, Any]) -> str:
    """What is wrong with the text of a pair; empty for nothing."""
    if chat.control_tokens([*row["prompt"], *row["chosen"], *row["rejected"]]):
        return "a control token in its text"
    return "" if row["chosen"][-1]["content"].strip() else "its chosen answer is empty"


def _pair(name: str, chosen: Any, rejected: Any, source: str) -> EncodedPair:
    """A pair of two encoded conversations, each cut behind the last token that is learnt."""
    prompts, answers = [], []
    for side in (chosen, rejected):
        learnt = [place for place, label in enumerate(side.labels) if label >= 0]
        if not learnt:
            raise DataError(f"Pair {name} has an answer of which nothing is learnt: correct or drop the row.")
        prompts.append(tuple(side.ids[: learnt[0]]))
        answers.append(tuple(side.ids[learnt[0] : learnt[-1] + 1]))
    if prompts[0] != prompts[1]:
        raise DataError(f"Pair {name}: the template renders its prompt in two ways, by what is answered.")
    return EncodedPair(name, prompts[0], answers[0], answers[1], source)


def _cut(pair: EncodedPair, most: int) -> EncodedPair:
    room = max(0, most - len(pair.prompt))
    return dataclasses.replace(pair, chosen=pair.chosen[:room], rejected=pair.rejected[:room])


def key_of(
    fingerprint: Mapping[str, str],
    template: str,
    pairs: Sequence[EncodedPair],
    *,
    max_length: int,
    precision: str,
    device: str,
    attention: str,
) -> str:
    """The key of a reference's log-probabilities: SHA-256 over everything that they depend on.

    Args:
        fingerprint: of the model's weights, tokenizer and configuration (`Checkpoint.fingerprint`).
        template: the chat template's text.
        pairs: in order.
        max_length: where pairs were cut, in tokens.
        precision: as the stage has it; device: cpu or cuda; attention: the implementation.
    """
    import torch
    import transformers
    import trl

    data = identity.digest([[list(one.prompt), list(one.chosen), list(one.rejected)] for one in pairs])
    computed = [precision, device, attention, torch.__version__, transformers.__version__, trl.__version__]
    return identity.digest([SCHEMA, dict(fingerprint), template, data, max_length, computed])


def place(key: str) -> Path:
    """Where the log-probabilities of a key are kept."""
    return home() / "reference" / f"{key}.safetensors"


def load(path: Path, key: str, count: int) -> tuple[Floats, Floats] | None:
    """(chosen, rejected), each (count,) in nats. None where there is no such file, or one that is torn or another's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            meta = file.metadata() or {}
            chosen, rejected = file.get_tensor("chosen"), file.get_tensor("rejected")
    except (OSError, SafetensorError, KeyError):
        return None
    whole = meta.get("key") == key and meta.get("checksum") == checksum(chosen, rejected)
    return (chosen, rejected) if whole and chosen.shape == rejected.shape == (count,) else None


def store(path: Path, key: str, chosen: Floats, rejected: Floats) -> None:
    """Keep (chosen, rejected), whole or not at all. EngineError for what is no number: that is no reference.
    StoreError: the disk is full, or can't be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if not (np.isfinite(chosen).all() and np.isfinite(rejected).all()):
        raise EngineError("The reference model gives log-probabilities that are no numbers: try precision: fp32.")
    tensors = {"chosen": np.ascontiguousarray(chosen), "rejected": np.ascontiguousarray(rejected)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"key": key, "checksum": checksum(chosen, rejected)})
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} can't be written ({error}): free some space, or set ESTBENCH_HOME.") from None


def checksum(*arrays: Floats) -> str:
    """CRC-32 over the arrays' bytes, as eight hex digits."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array, "<f4").tobytes(), found)
    return f"{found:08x}"


def trainer(key: str, say: Say) -> type[Any]:
    """TRL's DPOTrainer over token ids of ours, its reference from the cache.

    Two of its steps are replaced (TRL 1.16): `_prepare_dataset`, which would tokenise, and `_precompute_ref_logps`,
    whose cache is a datasets file keyed by a hash of the module. What a pair's log-probability is stays TRL's
    (`compute_ref_log_probs`), so that reference and policy are computed by the same code under the same autocast.
    """
    import torch
    from accelerate.utils import broadcast_object_list
    from trl.trainer.dpo_trainer import DPOTrainer

    class CachedReference(DPOTrainer):
        """DPO whose reference log-probabilities are kept on disk."""

        def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
            return dataset

        def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
            kept = [load(place(key), key, len(dataset)) if self.accelerator.is_main_process else None]
            broadcast_object_list(kept, from_process=0)
            if kept[0] is not None:
                say(f"The reference log-probabilities of {len(dataset):,} pairs are stored already.")
                chosen, rejected = kept[0]
            else:
                say(f"Computing the reference log-probabilities of {len(dataset):,} pairs (once).")
                chosen, rejected = self._reference(dataset, batch_size)
                if self.accelerator.is_main_process:
                    store(place(key), key, chosen, rejected)
                self.accelerator.wait_for_everyone()
            return dataset.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)

        def _reference(self, dataset: Dataset, batch_size: int) -> tuple[Floats, Floats]:
            """(chosen, rejected) of the model as it is now, gathered from all processes, in the order of the data."""
            batches = torch.utils.data.DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator)
            found: list[list[Any]] = [[], []]
            compute: Any = self.compute_ref_log_probs
            for batch in self.accelerator.prepare(batches):
                both = compute(self.ref_model or self.model, batch)
                for side, values in zip(found, self.accelerator.gather_for_metrics(both), strict=True):
                    side.append(values.float().cpu())
            chosen, rejected = (torch.cat(side).numpy() for side in found)
            return chosen, rejected

    return CachedReference
