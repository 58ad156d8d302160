"""A small tokenizer, recipes with a prepare stage and their shards, for the tests of that stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from estbench_training import recipe as recipes
from estbench_training.kinds import Context
from estbench_training.prepare.decontaminate import Tests, of_material
from estbench_training.shards import Shards

from estbench.contamination.items import Material, Shown
from estbench.contamination.text import plain
from estbench.registry import Task

BOS, EOS = 0, 1
NONE = {"decontaminate": "none", "duplicates": {"exact": False, "near": False}}  # every document stays


def make_tokenizer(folder: Path, *, eos: bool = True) -> Path:
    """Byte-level BPE of 300 tokens that puts a BOS in front; <s> is 0, </s> is 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["Õues sajab vihma ja müts läks märjaks.", "Žürii jõi öösel šokolaadi."], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    names = {"bos_token": "<s>", **({"eos_token": "</s>"} if eos else {})}
    made: Any = PreTrainedTokenizerFast(tokenizer_object=bpe, **names)  # type: ignore[no-untyped-call]
    made.save_pretrained(folder)
    return folder


def prepare(
    folder: Path, tokenizer: Path, sources: Mapping[str, Any], said: list[str] | None = None, **keys: Any
) -> Path:
    """Run a prepare stage; the folder of its shards."""
    stage = {"name": "corpus", "kind": "prepare", "sources": sources, **keys}
    recipe = recipes.from_row({"name": "r", "base": str(tokenizer), "stages": [stage]}, folder)
    output = folder / "stage"
    say = said.append if said is not None else lambda line: None
    context = Context(recipe, recipe.stages[0], output, "k" * 64, 42, say, model=tokenizer)
    recipe.stages[0].kind.run(recipe.stages[0].settings, context)
    return output / "shards"


def source(path: str, **keys: Any) -> dict[str, Any]:
    """A source of files."""
    return {"path": path, "language": "et", "licence": "cc0-1.0", **keys}


def made_up_tests(*tasks: Sequence[str], near: bool = False) -> Tests:
    """Tests whose documents show these texts; the tasks are called t0, t1, …"""
    made = Material()
    for number, texts in enumerate(tasks):
        card = Task(f"t{number}", Path(f"t{number}.yaml"), {"metadata": {}})
        made.add(card, [Shown(f"h{place}", plain([text]), []) for place, text in enumerate(texts)])
    return of_material(made, (), near)


def write(path: Path, texts: Sequence[Any]) -> Path:
    """JSONL."""
    lines = [json.dumps({"id": f"d{number}", "text": text}, ensure_ascii=False) for number, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def read(folder: Path) -> list[list[int]]:
    """The documents of a source's shards."""
    shards = Shards.open(folder, verify=True)
    ends = np.cumsum(shards.lengths())
    return [part.tolist() for part in np.split(shards.read(0, shards.tokens), ends[:-1])]


def texts_of(folder: Path, tokenizer: Path) -> list[str]:
    """The documents of a source's shards as texts."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return [backend.decode(ids[1:-1], skip_special_tokens=False) for ids in read(folder)]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
