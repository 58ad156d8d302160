"""Rows as they are read into items: the values that are kept, and the text by which twins and tests are found.

An item of a conversation is {"messages": […]}, of an instruction {"instruction", "input", "output"}, of a pair the
texts by language. A row that can't be an item is a fault, named by its place; one that is not worth learning from is
left out for a reason.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from estbench.errors import DataError, did_you_mean
from estbench.estonian.language import UNKNOWN, code_of, identify
from estbench_training.instructions import pairs
from estbench_training.instructions.reading import Row
from estbench_training.instructions.settings import SourceSettings
from estbench_training.prepare import near
from estbench_training.prepare.decontaminate import Finder
from estbench_training.prepare.filters import Cleaned, sample
from estbench_training.prepare.settings import OWN, DuplicateSettings
from estbench_training.rows import messages_of

NO_INPUT = re.compile(r"<?no ?input>?|<?pole sisendit>?|<?sisend puudub>?", re.IGNORECASE)  # written for an empty one
SPELLED = str.maketrans("0123456789", "ᚁᚂᚃᚄᚅᚆᚇᚈᚉᚊ")  # letters: signatures pass over digits, and 2 + 3 is not 4 + 7
CURE = "correct it, or leave such rows out with damaged: skip."


@dataclass(frozen=True, slots=True)
class Item:
    """What is kept of a row. text: all of it; answers: what would be learnt."""

    values: Mapping[str, Any]
    text: str
    answers: str


@dataclass(frozen=True, slots=True)
class Job:
    """What a process has to know to clean a source's batches."""

    source: SourceSettings
    duplicates: DuplicateSettings
    tests: Path | None  # the folder of the index of tests
    with_near: bool = False


class Cleaner:
    """Reads and cleans batches."""

    def __init__(self, job: Job) -> None:
        self.job, self.source = job, job.source
        # the demo world keeps out what its tests ask for, and its sentences resemble each other
        self.made = job.source.demo is not None
        self.finder = Finder(job.tests, job.with_near) if job.tests is not None and not self.made else None
        self.languages = _languages(job.source)

    def __call__(self, batch: Sequence[Row]) -> Cleaned:
        dropped: Counter[str] = Counter()
        kept: list[tuple[str, Item]] = []
        for where, row in batch:
            item = self._item(row, where)
            if isinstance(item, str):
                dropped[item] += 1
            else:
                kept.append((where, item))
        finds = self.finder.find([item.text for _, item in kept]) if self.finder else {}
        contaminated = [
            {
                "place": kept[number][0],
                "sha256": hashlib.sha256(kept[number][1].text.encode()).hexdigest(),
                "finds": found,
            }
            for number, found in finds.items()
        ]
        if finds:
            dropped["contaminated"] += len(finds)
        items = [item for number, (_, item) in enumerate(kept) if number not in finds]
        permutations = self.job.duplicates.permutations if self.job.duplicates.near else 0
        signatures = near.signatures([item.text.translate(SPELLED) for item in items], permutations)
        if self.made:
            signatures[:] = near.NONE
        texts = [json.dumps(item.values, ensure_ascii=False) for item in items]
        return Cleaned(texts, _records(texts), signatures, len(batch), dropped, contaminated)

    def _item(self, row: Mapping[str, Any], where: str) -> Item | str:
        """The item of a row, or why there is none."""
        try:
            item = _read(self.source, row, where)
        except DataError as error:
            if self.source.damaged == "skip":
                return "damaged"
            raise DataError(f"{str(error).rstrip('.')}: {CURE}") from None
        if isinstance(item, str):
            return item
        if self.source.translation is not None:
            return pairs.reason(self.source.translation, item.values) or item
        return self._reason(item) or item

    def _reason(self, item: Item) -> str | None:
        filters = self.source.filters
        if not item.answers.strip():
            return "no_answer"
        if len(item.text) < filters.min_characters:
            return "too_short"
        if filters.max_characters is not None and len(item.text) > filters.max_characters:
            return "too_long"
        if not self.languages:
            return None
        found = identify(sample(item.answers))
        if found == UNKNOWN:
            return None if filters.unknown == "keep" else "unknown_language"
        return None if found in self.languages else "other_language"


def _languages(source: SourceSettings) -> frozenset[str]:
    names = [str(source.language) if name == OWN else name for name in source.filters.languages or ()]
    return frozenset(code for name in names if (code := code_of(name)) is not None)


def _read(source: SourceSettings, row: Mapping[str, Any], where: str) -> Item | str:
    if source.form == "alpaca":
        return _alpaca(source, row, where)
    if source.translation is not None:
        return _pair(source, row, where)
    return _conversation(source, row, where)


def _conversation(source: SourceSettings, row: Mapping[str, Any], where: str) -> Item:
    name = source.column("messages")
    messages = messages_of({name: value_of(row, name, where)}, name, where)
    messages = [{"role": one["role"], "content": unicodedata.normalize("NFC", one["content"])} for one in messages]
    answers = "\n".join(one["content"] for one in messages if one["role"] == "assistant")
    values: dict[str, Any] = {"messages": messages}
    if source.demo is not None:
        values["number"] = row["number"]  # none is another's twin
    return Item(values, "\n".join(one["content"] for one in messages), answers)


def _alpaca(source: SourceSettings, row: Mapping[str, Any], where: str) -> Item | str:
    values: dict[str, Any] = {}
    for name in ("instruction", "input", "output"):
        column = source.column(name)
        if name == "input" and (not column or value_of(row, column, where) is None):
            values[name] = ""
        else:
            values[name] = text_of(row, column, where)
    if NO_INPUT.fullmatch(values["input"]):
        values["input"] = ""
    if not values["instruction"]:
        return "no_instruction"
    if values["output"] in (values["instruction"], values["input"]):
        return "copy" if values["output"] else "no_answer"
    return Item(values, "\n".join(value for value in values.values() if value), values["output"])


def _pair(source: SourceSettings, row: Mapping[str, Any], where: str) -> Item:
    values = {name: " ".join(text_of(row, source.column(name), where).split()) for name in source.asked}
    return Item(values, "\n".join(values.values()), "")


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field's text, NFC, without white space at its ends; DataError if it is none."""
    value = value_of(row, name, where)
    if not isinstance(value, str):
        raise DataError(f"{where} has no text in {name!r}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {name!r} holds half of a character (a lone surrogate).") from None
    return unicodedata.normalize("NFC", value).strip()


def value_of(row: Mapping[str, Any], name: str, where: str) -> Any:
    """What stands in a field; a.b is b inside a, unless a field is called a.b. DataError where there is none."""
    if name in row:
        return row[name]
    first, _, rest = name.partition(".")
    if rest and isinstance(row.get(first), Mapping):
        return value_of(row[first], rest, where)
    names = [str(key) for key in row]
    raise DataError(f"{where} lacks {name!r}; it has {', '.join(names)[:200] or 'nothing'}.{did_you_mean(name, names)}")


def _records(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Of each item 128 bits of hash, and its bytes; uint64 (items, 3)."""
    found = np.empty((len(texts), 3), np.uint64)
    encoded = [text.encode() for text in texts]
    hashes = b"".join(hashlib.blake2b(one, digest_size=16).digest() for one in encoded)
    found[:, :2] = np.frombuffer(hashes, "<u8").reshape(-1, 2)
    found[:, 2] = [len(one) for one in encoded]
    return found
