"""What a merged model has beside its weights: configuration, tokenizer, chat template, and merge.json.

The architecture is that of the model that the others went into, and how one talks with it that of the chat model: its
template, its special tokens, the ends of its answers and its sampling defaults.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench.checkpoint import TOKENIZER_FILES, read_json
from estbench.errors import ModelError
from estbench_training.appearing import write_synced
from estbench_training.merge.alike import Model
from estbench_training.merge.tokens import Vocabulary, difference, text_of
from estbench_training.weights import TensorInfo

GENERATION = "generation_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Talk:
    """Who says how one talks with the merged model. appended: tokens that `start` lacks -> their numbers in it."""

    start: Model
    talker: Model
    own: Vocabulary
    other: Vocabulary
    appended: Mapping[str, int]

    @property
    def same(self) -> bool:
        """Whether both number the same tokens the same way."""
        return difference(self.own, self.other) is None

    def number(self, theirs: int) -> int | None:
        """The merged model's number of a token of the talker's."""
        token = next((token for token, number in self.other.numbers.items() if number == theirs), None)
        return None if token is None else {**self.own.numbers, **self.appended}.get(token)


def configurations(talk: Talk, tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, Any]]:
    """config.json and generation_config.json; ModelError where a token that they name is none."""
    found = {"config.json": _config(talk, tensors)}
    source = talk.talker if (talk.talker.checkpoint.path / GENERATION).exists() else talk.start
    path = source.checkpoint.path / GENERATION
    if path.exists():
        row = read_json(path)
        found[GENERATION] = row if source is talk.start else row | _numbered(talk, row)
    return found


def write(folder: Path, talk: Talk, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Configurations and tokenizer, into the folder that holds the weights."""
    for name, row in rows.items():
        _write(folder / name, row)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    if talk.same:
        _copy(talk.talker, folder, TOKENIZER_FILES)
    else:
        _copy(talk.start, folder, [name for name in TOKENIZER_FILES if name not in TEMPLATES])
        _give_talk(folder, talk)


def _config(talk: Talk, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    config = dict(talk.start.checkpoint.config)
    sizes: dict[str, int] = {}
    for info in tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.elements
    dtype = TORCH.get(max(sizes, key=lambda name: sizes[name]))
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    rows = tensors[talk.start.embeddings.input].rows
    theirs = talk.talker.checkpoint.config
    numbered = (
        {} if talk.talker is talk.start else _numbered(talk, {name: theirs[name] for name in IDS if name in theirs})
    )
    config |= numbered
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "vocab_size" in part:
            part["vocab_size"] = rows
    if isinstance(nested := config.get("text_config"), dict):
        config["text_config"] = nested | {name: value for name, value in numbered.items() if name in nested}
    return config


def _numbered(talk: Talk, row: Mapping[str, Any]) -> dict[str, Any]:
    """The token numbers among the keys of a configuration of the talker's, as the merged model has them."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name not in IDS or value is None:
            continue
        numbers = [talk.number(one) for one in (value if isinstance(value, list) else [value])]
        known = [number for number in numbers if number is not None]
        if not known:
            raise ModelError(f"{talk.talker.name}: {name} {value} is no token that {talk.start.name} has, too.")
        found[name] = known if isinstance(value, list) else known[0]
    return found


def _copy(model: Model, folder: Path, names: Any) -> None:
    for name in names:
        if (model.checkpoint.path / name).exists():
            shutil.copyfile(model.checkpoint.path / name, folder / name)


def _give_talk(folder: Path, talk: Talk) -> None:
    """Added tokens, special tokens and template of the chat model for a tokenizer that has other tokens."""
    _copy(talk.talker, folder, TEMPLATES)
    if talk.appended:
        row = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        entries = [{**talk.other.added[token], "id": number} for token, number in talk.appended.items()]
        row["added_tokens"] = [*(row.get("added_tokens") or ()), *entries]
        _write(folder / "tokenizer.json", row)
        _check(folder / "tokenizer.json", talk)
    path, theirs = folder / "tokenizer_config.json", talk.talker.checkpoint.path / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    given = read_json(theirs) if theirs.exists() else {}
    known = {**talk.own.numbers, **talk.appended}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if text_of(given.get(name)) in known:
            config[name] = given[name]
    if "chat_template" in given:
        config["chat_template"] = given["chat_template"]
    if isinstance(config.get("added_tokens_decoder"), dict):
        for token, number in talk.appended.items():
            entry = {name: value for name, value in talk.other.added[token].items() if name != "id"}
            config["added_tokens_decoder"][str(number)] = entry
    (folder / "special_tokens_map.json").unlink(missing_ok=True)  # tokenizer_config.json says the same, and is right
    _write(path, config)


def _check(path: Path, talk: Talk) -> None:
    """The library numbers the added tokens as we did."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(path))
    for token, number in talk.appended.items():
        if made.token_to_id(token) != number:
            raise ModelError(
                f"{talk.start.name} can't take the token {token!r} of {talk.talker.name} as number {number}: "
                "its tokenizer numbers added tokens otherwise. Give it the token first (an sft stage with add_tokens)."
            )


def _write(path: Path, row: Mapping[str, Any]) -> None:
    write_synced(path, json.dumps(row, indent=2, ensure_ascii=False) + "\n")
