"""What a merged model has beside its weights: configuration, tokenizer, chat template, and merge.json.

The architecture is that of the model that the others went into, and how one talks with it that of the chat model: its
template, its special tokens, the ends of its answers and its sampling defaults.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from estbench.checkpoint import TEMPLATES, TOKENIZER_FILES, read_json
from estbench.errors import ModelError
from estbench_training.appearing import write_json_synced
from estbench_training.kinds import Say
from estbench_training.merge.alike import Model
from estbench_training.merge.tokens import OWN, Tokens, difference, text_of
from estbench_training.vocab.resize import ID_KEYS
from estbench_training.weights import TensorInfo

GENERATION = "generation_config.json"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Talk:
    """Who says how one talks with the merged model. appended: tokens that `start` lacks -> their numbers in it."""

    start: Model
    talker: Model
    own: Tokens
    other: Tokens
    appended: Mapping[str, int]

    @property
    def same(self) -> bool:
        """Whether both number the same tokens the same way."""
        return difference(self.own, self.other) is None

    @cached_property
    def known(self) -> Mapping[str, int]:
        """The merged model's tokens and their numbers."""
        return {**self.own.numbers, **self.appended}

    @cached_property
    def numbers(self) -> Mapping[int, int]:
        """A token's number in the talker -> its number in the merged model."""
        return {number: self.known[token] for token, number in self.other.numbers.items() if token in self.known}


def configurations(talk: Talk, tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, Any]]:
    """config.json and generation_config.json; ModelError where a token that they name is none."""
    found = {"config.json": _config(talk, tensors)}
    source = talk.talker if (talk.talker.checkpoint.path / GENERATION).exists() else talk.start
    path = source.checkpoint.path / GENERATION
    if path.exists():
        row = read_json(path)
        if talk.talker is not talk.start:  # one that lacks this file ends its answers as its config.json says
            row |= _numbered(talk, row if source is talk.talker else _ids(talk))
        found[GENERATION] = row
    return found


def say_lacking(talk: Talk, say: Say) -> None:
    """A line where the chat template names added tokens that the merged model doesn't have."""
    folder = talk.talker.checkpoint.path
    texts = [_text(folder / name) for name in TEMPLATES if (folder / name).exists()]
    if (path := folder / "tokenizer_config.json").exists():
        texts.append(json.dumps(read_json(path).get("chat_template"), ensure_ascii=False))
    lacking = [token for token in talk.other.added if token not in talk.known]
    if named := [token for token in lacking if any(token in text for text in texts)]:
        say(
            f"The chat template of {talk.talker.name} names {', '.join(map(repr, named))}, which {talk.start.name} "
            "lacks: they will be read as plain text."
        )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read: {error}.") from None


def write(folder: Path, talk: Talk, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Configurations and tokenizer, into the folder that holds the weights."""
    for name, row in rows.items():
        write_json_synced(folder / name, row)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    if talk.same:
        _copy(talk.talker, folder, TOKENIZER_FILES)
    else:
        _copy(talk.start, folder, [name for name in TOKENIZER_FILES if name not in TEMPLATES])
        _give_talk(folder, talk)


def _config(talk: Talk, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    sizes = dict.fromkeys(TORCH, 0)
    for info in tensors.values():
        if info.dtype in sizes:
            sizes[info.dtype] += info.elements
    dtype = TORCH[max(sizes, key=lambda name: sizes[name])]
    numbered = {} if talk.talker is talk.start else _numbered(talk, _ids(talk))
    news = {"torch_dtype": dtype, "vocab_size": tensors[talk.start.embeddings.input].rows, "dtype": dtype, **numbered}
    old = talk.start.checkpoint.config
    config = old | {name: value for name, value in news.items() if name in old} | numbered | {"dtype": dtype}
    config.pop("torch_dtype", None)
    if isinstance(nested := old.get("text_config"), dict):
        config["text_config"] = nested | {name: value for name, value in news.items() if name in nested}
    return config


def _ids(talk: Talk) -> dict[str, Any]:
    """bos, eos and pad in the talker's config.json."""
    theirs = talk.talker.checkpoint.config
    return {name: theirs[name] for name in IDS if name in theirs}


def _numbered(talk: Talk, row: Mapping[str, Any]) -> dict[str, Any]:
    """The token numbers among the keys of a configuration of the talker's, as the merged model has them."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if not name.endswith(ID_KEYS) or value is None or value == []:
            continue
        found[name] = _ours(talk, value)
        if found[name] is None and name.endswith("_token_id"):  # without words that are suppressed it can do
            raise ModelError(f"{talk.talker.name}: {name} {value} is no token that {talk.start.name} has, too.")
    return found


def _ours(talk: Talk, value: Any) -> Any:
    """A token number of the talker's, or lists of them, in the merged model; None where it has no such token. Of a list
    what it has stays, of lists in a list (bad_words_ids) those that it has all of. −1 says that there is no token."""
    if isinstance(value, list):
        found = [(one, _ours(talk, one)) for one in value]
        whole = [ours for one, ours in found if not isinstance(one, list) or (ours and len(ours) == len(one))]
        return [ours for ours in whole if ours is not None] or None
    return talk.numbers.get(value) if isinstance(value, int) and value >= 0 else value


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
        write_json_synced(folder / "tokenizer.json", row)
        _check(folder / "tokenizer.json", talk)
        if (path := folder / "added_tokens.json").exists():
            write_json_synced(path, {**read_json(path), **talk.appended})
    path, theirs = folder / "tokenizer_config.json", talk.talker.checkpoint.path / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    given = read_json(theirs) if theirs.exists() else {}
    for name in OWN:
        if text_of(given.get(name)) in talk.known:
            config[name] = given[name]
    config.pop("chat_template", None)
    if "chat_template" in given:
        config["chat_template"] = given["chat_template"]
    if isinstance(config.get("added_tokens_decoder"), dict):
        for token, number in talk.appended.items():
            entry = {name: value for name, value in talk.other.added[token].items() if name != "id"}
            config["added_tokens_decoder"][str(number)] = entry
    (folder / "special_tokens_map.json").unlink(missing_ok=True)  # tokenizer_config.json says the same, and is right
    write_json_synced(path, config)


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
