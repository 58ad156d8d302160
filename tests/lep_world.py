"""Three models for LEP in memory and on disk: a source, its instruct sibling, and donors of the source.

world = LepWorld(folder)                        # source/ and target/, with a tokenizer of 340 tokens
donor = world.donor("donor", world.new)         # the source with another vocabulary, mean-initialised, "trained"
folder = world.run(donor, variant="swap")       # the stage; raises what it raises
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chat_world import model, save, words
from estbench_training import recipe, stages
from estbench_training.vocab.pieces import pieces_of
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]
SPECIAL = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
TEXT = ["Õpetaja luges lastele muinasjuttu vanast veskist ja mölder kuulas.", "Külmal talvel põles ahjus tuli."] * 6
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def larger(size: int = 420) -> Any:
    """Another byte-level tokenizer with the same special tokens, under other ids."""
    from tokenizers import Tokenizer as Bare
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Bare(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokens = [SPECIAL[-1], "<pad>", "<s>", "</s>", *SPECIAL[:-1]]  # none where it is in the other
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=size, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=made, eos_token="</s>", bos_token="<s>", pad_token="<pad>")


def weights(folder: Path) -> Weights:
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def noise(like: Tensor, seed: int, size: float = 0.02) -> Tensor:
    made = size * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    return (like.float() + made).to(like.dtype)


class LepWorld:
    """source/ and target/ in a folder. tied: whether their heads are; dtype: of all weights."""

    def __init__(self, folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.bfloat16) -> None:
        self.folder, self.tied, self.dtype = folder, tied, dtype
        self.said: list[str] = []
        self.old, self.new = words(SPECIAL), larger()
        self._save("source", self.old, model(self.old, tied=tied).to(dtype))
        self.instruct("target")

    def _save(self, name: str, tokenizer: Any, made: Any) -> Path:
        return save(self.folder / name, tokenizer, made)

    def instruct(self, name: str, seed: int = 1) -> Path:
        """The source, all of it changed, with a template and an end token of its own."""
        made = model(self.old, tied=self.tied).to(self.dtype)
        made.load_state_dict(
            {key: noise(value, seed + place) for place, (key, value) in enumerate(self.read("source").items())},
            strict=False,
        )
        self.old.chat_template, self.old.eos_token = TEMPLATE, "<|end|>"
        end = self.old.convert_tokens_to_ids("<|end|>")
        made.config.eos_token_id = end
        made.generation_config.eos_token_id = [end, self.old.convert_tokens_to_ids("</s>")]
        made.generation_config.bos_token_id = self.old.bos_token_id
        made.generation_config.pad_token_id = self.old.pad_token_id
        place = self._save(name, self.old, made)
        self.old.chat_template, self.old.eos_token = None, "</s>"
        return place

    def read(self, name: str) -> Weights:
        return weights(self.folder / name)

    def mean(self, name: str, tokenizer: Any) -> dict[str, Tensor]:
        """C(E) of a model's matrices of tokens in another vocabulary, float64."""
        pieces, found = pieces_of(self.old, tokenizer), self.read(name)
        return {
            key: pieces.apply(lambda ids, key=key: found[key][torch.from_numpy(ids)], 0, pieces.size)
            for key in EMBEDDINGS
            if key in found
        }

    def donor(self, name: str, tokenizer: Any = None, *, trained: float = 0.02, layers: float = 0.0) -> Path:
        """The source with another vocabulary (None: its own). trained, layers: how far embeddings, layers moved."""
        own = tokenizer is None
        tokenizer = self.old if own else tokenizer
        made = model(tokenizer, tied=self.tied).to(self.dtype)
        state = self.read("source")
        if not own:
            state |= {key: value.to(self.dtype) for key, value in self.mean("source", tokenizer).items()}
        for place, (key, value) in enumerate(state.items()):
            far = trained if key in EMBEDDINGS else layers
            state[key] = noise(value, 100 + place, far) if far else value
        made.load_state_dict(state, strict=False)
        return self._save(name, tokenizer, made)

    def change(self, name: str, change: Callable[[Weights], None]) -> Path:
        """Other weights in a model's file."""
        file = self.folder / name / "model.safetensors"
        found = load_file(file)
        change(found)
        save_file({key: value.contiguous() for key, value in found.items()}, file, {"format": "pt"})
        return file

    def recipe(self, donor: str | Path, **keys: Any) -> recipe.Recipe:
        row = {"source": "./source", "target": "./target", "donor": str(donor), **keys}
        stage = {"name": "lep", "kind": "lep", **row}
        return recipe.from_row({"name": "toy", "licence": "cc0-1.0", "stages": [stage]}, self.folder)

    def run(self, donor: str | Path, output: str = "out", **keys: Any) -> Path:
        """The stage's folder."""
        return stages.run(self.recipe(donor, **keys), self.folder / output, self.said.append)[-1].folder

    def made(self, donor: str | Path, **keys: Any) -> Weights:
        """The weights that the stage makes."""
        return weights(self.run(donor, **keys) / "model")

    def specials(self, tokenizer: Any) -> list[int]:
        """Ids of the special tokens."""
        return sorted(tokenizer.added_tokens_decoder)


def report(folder: Path) -> dict[str, Any]:
    """lep.json."""
    found: dict[str, Any] = json.loads((folder / "model" / "lep.json").read_text("utf-8"))
    return found


def usual(world: LepWorld, tokenizer: Any) -> Tensor:
    """Ids of the tokens that are not special."""
    return torch.from_numpy(np.setdiff1d(np.arange(len(tokenizer)), world.specials(tokenizer)))
