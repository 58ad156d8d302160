"""What stands beside the weights: tokenizer, template, configuration, with the ids of the new vocabulary.

files.write(base, old, made, folder, texts)    # and the folder's tokenizer is tried: it has to be the new one
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from estbench.checkpoint import CONFIGS, TEMPLATES, Checkpoint, read_json
from estbench.errors import ModelError
from estbench_training.appearing import write_json_synced, write_synced
from estbench_training.shards import load_tokenizer
from estbench_training.vocab.forms import Vocabulary
from estbench_training.vocab.resize import Resized, renumbered

AS_THEY_ARE = ("special_tokens_map.json", *TEMPLATES)
GENERIC = "PreTrainedTokenizerFast"  # does what tokenizer.json says, and nothing else
TRIED = 2000  # characters of a text that the new tokenizer is tried with


def vocabulary(base: Checkpoint) -> Vocabulary:
    """The vocabulary of a model as transformers loads it. ModelError with the cure where it has no fast tokenizer."""
    json_, slow = base.path / "tokenizer.json", base.path / "tokenizer.model"
    if not json_.exists() and slow.exists():
        raise ModelError(
            f"{base.path} has tokenizer.model and no tokenizer.json: where sentencepiece is installed, load it with "
            "AutoTokenizer and save_pretrained it, which writes one."
        )
    return Vocabulary.of(load_tokenizer(base.path))


def write(base: Checkpoint, old: Vocabulary, made: Resized, folder: Path, texts: Iterable[str]) -> None:
    """All files but the weights. ModelError where the tokenizer, loaded from there, is not the new one."""
    new = made.adapted.vocabulary()
    write_configs(base, old, new, made.rows, folder)
    for name in AS_THEY_ARE:
        if (base.path / name).exists():
            shutil.copyfile(base.path / name, folder / name)
    write_synced(folder / "tokenizer.json", made.adapted.tokenizer().to_str(pretty=True))
    _tokenizer_config(base, old, new, folder, texts)


def check_configs(model: Checkpoint, vocabulary: Vocabulary) -> None:
    """ModelError where its configuration names a token that it doesn't have."""
    for name in CONFIGS:
        if (path := model.path / name).exists():
            renumbered(read_json(path), vocabulary, vocabulary, vocabulary.size, str(path))


def write_configs(model: Checkpoint, old: Vocabulary, new: Vocabulary, rows: int, folder: Path) -> None:
    """config.json and generation_config.json of a model, as `renumbered` makes them for another vocabulary."""
    for name in CONFIGS:
        if (path := model.path / name).exists():
            write_json_synced(folder / name, renumbered(read_json(path), old, new, rows, str(path)))


def _tokenizer_config(base: Checkpoint, old: Vocabulary, new: Vocabulary, folder: Path, texts: Iterable[str]) -> None:
    """tokenizer_config.json with the old class where that loads the new tokenizer, else with the generic one."""
    path = base.path / "tokenizer_config.json"
    row: dict[str, Any] = read_json(path) if path.exists() else {}
    if "added_tokens_decoder" in row:
        tokens = {str(token["content"]): token for token in row["added_tokens_decoder"].values()}
        row["added_tokens_decoder"] = {
            str(place): tokens[name] for name, place in new.specials.items() if name in tokens
        }
    for name in dict.fromkeys([row.get("tokenizer_class", GENERIC), GENERIC]):
        write_json_synced(folder / "tokenizer_config.json", {**row, "tokenizer_class": name})
        if _is_new(new, folder, texts):
            return
    raise ModelError(
        f"transformers loads tokenizers of {base.config.get('model_type')} by a class of its own, which makes another "
        f"one of the new one: keep the algorithm of the old one ({old.algorithm})."
    )


def _is_new(new: Vocabulary, folder: Path, texts: Iterable[str]) -> bool:
    """Whether transformers loads the tokenizer that was written."""
    from tokenizers import Tokenizer

    expected = Tokenizer.from_str(json.dumps(new.row))
    try:
        loaded = load_tokenizer(folder)
    except ModelError:
        return False
    loaded.model_max_length = 1 << 40  # or it remarks on each text that is longer
    tried = ["Tere, maailm!  \n\t õäöüšž 123", *new.specials, *(text[:TRIED] for text in texts)]
    try:
        made = [loaded(text).input_ids for text in tried]
    except Exception:  # of the library, where the class took out what the new model needs
        return False
    return len(loaded) == expected.get_vocab_size() and made == [expected.encode(text).ids for text in tried]
