"""What a tokenizer's tokens stand for: the bytes of each, read from the tokenizer's own description.

    vocabulary = Vocabulary.of(tokenizer)        # a transformers fast tokenizer, a tokenizers.Tokenizer, or a folder
    vocabulary.content[42], vocabulary.kinds[42] # b" kool", ORDINARY

Three forms are told apart by the parts of tokenizer.json, never by a name. byte-level: a ByteLevel splitter or
decoder; each character stands for a byte (GPT-2's table, Radford et al. 2019). spaced: SentencePiece's way (Kudo &
Richardson 2018), where a mark (▁) stands for a space and, with byte_fallback, <0xE4> for a byte. plain: a token is its
text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from estbench.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Form = Literal["byte-level", "spaced", "plain"]
HOLE, ORDINARY, SPECIAL, BYTE = 0, 1, 2, 3  # kinds
MODELS = ("BPE", "Unigram", "WordLevel")
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_ABOUT_SPACES = ("Prepend", "Replace", "Strip")  # normalisers that a token's own text must not pass through


@lru_cache
def byte_characters() -> tuple[str, ...]:
    """The character of each byte 0 … 255 in byte-level vocabularies: printable Latin-1 as it is, others from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


@lru_cache
def character_bytes() -> Mapping[str, int]:
    """The byte of each character, the other way round."""
    return {character: byte for byte, character in enumerate(byte_characters())}


def backend(tokenizer: Any) -> Tokenizer:
    """The tokenizer of the tokenizers library: of a transformers fast tokenizer, of a checkpoint's folder, or itself.
    ModelError where there is none."""
    from tokenizers import Tokenizer

    if isinstance(tokenizer, str | Path):
        from estbench_training.shards import load_tokenizer

        tokenizer = load_tokenizer(Path(tokenizer))
    found = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(found, Tokenizer):
        raise ModelError(f"A {type(tokenizer).__name__} is no fast tokenizer: save it with a tokenizer.json.")
    return found


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every typed part of a tokenizer.json's normaliser, splitter or decoder, nested ones too."""
    if isinstance(node, dict):
        if "type" in node:
            yield node
        for value in node.values():
            yield from parts(value)
    elif isinstance(node, list):
        for value in node:
            yield from parts(value)


def form_of(row: Mapping[str, Any]) -> tuple[Form, str]:
    """(form, the character that stands for a space) of a tokenizer.json."""
    if any(part["type"] == "ByteLevel" for name in ("pre_tokenizer", "decoder") for part in parts(row.get(name))):
        return "byte-level", byte_characters()[0x20]
    for part in parts([row.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]):
        if part["type"] == "Metaspace":
            return "spaced", str(part["replacement"])
        if part["type"] == "Replace" and _is_space(part.get("pattern")) and len(part["content"]) == 1:
            return "spaced", str(part["content"])
        if part["type"] == "Replace" and part.get("content") == " " and _is_mark(part.get("pattern")):
            return "spaced", str(part["pattern"]["String"])
    return "plain", " "


def _is_space(pattern: Any) -> bool:
    return isinstance(pattern, dict) and pattern.get("String") == " "


def _is_mark(pattern: Any) -> bool:
    return isinstance(pattern, dict) and len(pattern.get("String", "")) == 1


def has_byte_tokens(row: Mapping[str, Any]) -> bool:
    """Whether <0xE4> means a byte."""
    return bool(row["model"].get("byte_fallback")) or any(
        part["type"] == "ByteFallback" for part in parts(row.get("decoder"))
    )


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens by id. content: bytes of each (of a special token its string's); b"" where no token is."""

    row: Mapping[str, Any]  # tokenizer.json
    form: Form
    space: str
    names: tuple[str | None, ...]  # as tokenizer.json has them
    content: tuple[bytes, ...]
    kinds: NDArray[np.int8]  # (size,), of HOLE, ORDINARY, SPECIAL, BYTE

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Of a tokenizer, as `backend` takes it; a Vocabulary is itself. ModelError for models other than BPE, Unigram
        and WordLevel."""
        return tokenizer if isinstance(tokenizer, cls) else cls.of_row(json.loads(backend(tokenizer).to_str()))

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Vocabulary:
        """Of a tokenizer.json."""
        if row["model"]["type"] not in MODELS:
            raise ModelError(f"A {row['model']['type']} tokenizer has no bytes to go by: {', '.join(MODELS)} have.")
        form, space = form_of(row)
        by_name = model_vocabulary(row)
        added = {token["content"]: token for token in row["added_tokens"]}
        size = 1 + max([*by_name.values(), *(token["id"] for token in added.values())], default=-1)
        names: list[str | None] = [None] * size
        content = [b""] * size
        kinds = np.zeros(size, np.int8)
        with_bytes = has_byte_tokens(row)
        for name, place in by_name.items():
            names[place] = name
            content[place], kinds[place] = meaning(name, form, space, with_bytes)
        for name, token in added.items():
            names[token["id"]], content[token["id"]], kinds[token["id"]] = name, name.encode(), SPECIAL
        return cls(row, form, space, tuple(names), tuple(content), kinds)

    @property
    def size(self) -> int:
        """The highest id and one."""
        return len(self.names)

    @cached_property
    def specials(self) -> Mapping[str, int]:
        """The added tokens, which are matched by their string: string -> id."""
        return {token["content"]: int(token["id"]) for token in self.row["added_tokens"]}

    @cached_property
    def texts(self) -> frozenset[str]:
        """Of the added tokens those that are text (special: false): runs of spaces, for instance."""
        return frozenset(token["content"] for token in self.row["added_tokens"] if not token["special"])

    @cached_property
    def ids(self) -> Mapping[tuple[int, bytes], int]:
        """(kind, bytes) -> the lowest id that has them; special tokens that are text count as ORDINARY, too."""
        found: dict[tuple[int, bytes], int] = {}
        for place, kind in enumerate(self.kinds.tolist()):
            if kind != HOLE:
                found.setdefault((kind, self.content[place]), place)
        for text in self.texts:
            found.setdefault((ORDINARY, text.encode()), self.specials[text])
        return found

    @cached_property
    def unknown(self) -> int | None:
        """The id of the token for what can't be said otherwise."""
        model = self.row["model"]
        if model["type"] == "Unigram":
            return None if model.get("unk_id") is None else int(model["unk_id"])
        name = model.get("unk_token")
        return model_vocabulary(self.row).get(name) if name is not None else None

    @cached_property
    def named(self) -> frozenset[int]:
        """The ids that something means by name: added tokens, the unknown one, those that are put around texts."""
        names = {**model_vocabulary(self.row), **self.specials}
        around = {names[name] for name in around_texts(self.row.get("post_processor")) if name in names}
        return frozenset({*self.specials.values(), *around, *([] if self.unknown is None else [self.unknown])})

    def bytes_of(self, name: str) -> bytes:
        """What a token of the model stands for, be it in the vocabulary or not."""
        return meaning(name, self.form, self.space, has_byte_tokens(self.row))[0]

    @property
    def algorithm(self) -> str:
        """The type of its model: BPE, Unigram or WordLevel."""
        return str(self.row["model"]["type"])

    def reader(self) -> Tokenizer:
        """The tokenizer for whole texts; the names of special tokens in them are text."""
        from tokenizers import Tokenizer

        found = Tokenizer.from_str(json.dumps(self.row))
        found.encode_special_tokens = True
        found.no_truncation()
        found.no_padding()
        return found

    def encoder(self) -> Tokenizer:
        """The tokenizer for the text of a token alone: no special tokens, nothing put in front, spaces as they are."""
        from tokenizers import Tokenizer

        row = dict(self.row) | {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        row["normalizer"] = _without_spaces(row.get("normalizer"))
        row["pre_tokenizer"] = _without_prefix(row.get("pre_tokenizer"))
        return Tokenizer.from_str(json.dumps(row))

    def spelled(self, text: str) -> str:
        """A text as the encoder takes it."""
        return text.replace(" ", self.space) if self.form == "spaced" else text


def model_vocabulary(row: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id of a tokenizer.json's model, of any type."""
    found = row["model"]["vocab"]
    return dict(found) if isinstance(found, dict) else {name: place for place, (name, *_) in enumerate(found)}


def around_texts(processor: Any) -> Iterator[str]:
    """The tokens that a tokenizer.json's post-processor puts around texts."""
    for part in parts(processor):
        if part["type"] == "TemplateProcessing":
            for token in part["special_tokens"].values():
                yield from token["tokens"]
        for end in ("sep", "cls"):
            if isinstance(part.get(end), list):
                yield part[end][0]


def meaning(name: str, form: Form, space: str, with_bytes: bool) -> tuple[bytes, int]:
    """(bytes, kind) of a token of the model. A byte-level token of one byte is BYTE where it is no text alone."""
    if form == "byte-level":
        table = character_bytes()
        if all(character in table for character in name):
            made = bytes(table[character] for character in name)
            return made, BYTE if len(made) == 1 and made[0] >= 0x80 else ORDINARY
        return name.encode(), ORDINARY  # a token that no text gives
    if with_bytes and (found := BYTE_TOKEN.fullmatch(name)):
        return bytes([int(found[1], 16)]), BYTE
    return (name.replace(space, " ") if form == "spaced" else name).encode("utf-8", "surrogatepass"), ORDINARY


def _without_spaces(node: Any) -> Any:
    """A normaliser without what it does to spaces."""
    if node is None or node["type"] in _ABOUT_SPACES:
        return None
    if node["type"] == "Sequence":
        kept = [made for part in node["normalizers"] if (made := _without_spaces(part)) is not None]
        return {"type": "Sequence", "normalizers": kept} if kept else None
    return node


def _without_prefix(node: Any) -> Any:
    """A splitter that puts no space in front."""
    if node is None:
        return None
    if node["type"] == "Sequence":
        return {**node, "pretokenizers": [_without_prefix(part) for part in node["pretokenizers"]]}
    if node["type"] == "Metaspace":
        return {**{key: value for key, value in node.items() if key != "add_prefix_space"}, "prepend_scheme": "never"}
    if node["type"] == "ByteLevel":
        return {**node, "add_prefix_space": False}
    return node


def is_text(content: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def runs(content: bytes) -> Sequence[str | int]:
    """Bytes as runs of whole characters and single bytes that belong to none."""
    found: list[str | int] = []
    for character in content.decode("utf-8", "surrogateescape"):
        if "\udc80" <= character <= "\udcff":
            found.append(ord(character) - 0xDC00)
        elif found and isinstance(found[-1], str):
            found[-1] += character
        else:
            found.append(character)
    return found
