"""Documents of tests are kept out of training data: a document that holds a part of one goes.

    tests = collect(DecontaminateSettings(), data)     # DataError names the tasks whose data is not here
    tests.save(folder)                                 # the index, for all processes
    Finder(folder, with_near=False).find(texts)        # {number of the text: what was found}

What is looked for, and what counts as found, is that of `estbench contamination` (docs/contamination.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from estbench import data, identity
from estbench.contamination import near, text
from estbench.contamination.index import CHARACTERS, WORDS, Index, Matcher
from estbench.contamination.items import Material
from estbench.contamination.items import collect as collect_items
from estbench.contamination.scan import OVERLAP
from estbench.errors import DataError
from estbench.lock import read_lock
from estbench.registry import Registry
from estbench_training.prepare.settings import DecontaminateSettings

TOOL = "estbench contamination"
SHOWN = 3  # missing tasks that are named in an error
Finds = dict[str, list[int]]  # "hashes": of the index; "units": near-duplicates


@dataclass(frozen=True)
class Tests:
    """All that is looked for."""

    material: Material
    index: Index
    units: near.Units
    tasks_of_text: Mapping[int, frozenset[str]]
    tasks_of_unit: Mapping[int, frozenset[str]]
    missing: tuple[str, ...]  # tasks that were left out: their data is not here
    with_near: bool

    @property
    def tasks(self) -> list[str]:
        """The tasks whose documents are looked for."""
        return [task.card.name for task in self.material.tasks]

    def save(self, folder: Path) -> None:
        """What a Finder needs."""
        folder.mkdir(parents=True, exist_ok=True)
        self.index.save(folder)
        if self.with_near:
            near.NearIndex(self.units).save(folder)

    def tasks_of(self, finds: Finds) -> list[str]:
        """The tasks that a document holds a part of."""
        numbers = np.array(finds["hashes"], np.int64)
        texts = [one for one, _ in self.index.texts_of(numbers)] if len(numbers) else []
        owners = [self.tasks_of_text.get(one, frozenset()) for one in texts]
        owners += [self.tasks_of_unit.get(unit, frozenset()) for unit in finds["units"]]
        return sorted(frozenset().union(*owners))

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "tool": TOOL,
            "found": {"words": WORDS, "letters": CHARACTERS, "near": near.CONTAINED if self.with_near else None},
            "tasks": self.tasks,
            "missing": list(self.missing),
            "items": {
                task.card.name: identity.digest([item.doc_hash for item in task.items]) for task in self.material.tasks
            },
        }


def tests_key(settings: DecontaminateSettings, data_dir: Path | None) -> str:
    """A hash of what would be looked for, for the key of a stage: the tasks, their files, the lock of their data, and
    whose data is not here. No data is read: a copy that the lock doesn't know may change without notice."""
    registry = Registry()
    chosen = registry.tasks.values() if settings.tasks == "all" else registry.select(settings.tasks).tasks
    locked = read_lock()
    rows = []
    for card in sorted(chosen, key=lambda card: card.name):
        of_card = {str(ref): locked.get(str(ref)) for ref in data.references([card])}
        missing = data.missing_of_task(card, data_dir) is not None
        rows.append([card.name, identity.digest(card.path.read_text("utf-8")), of_card, missing])
    return identity.digest(rows)


def collect(settings: DecontaminateSettings, data_dir: Path | None) -> Tests:
    """The tests' documents and their index. DataError: data is missing, and must not be. ConfigError: no such task."""
    registry = Registry()
    chosen = list(registry.tasks.values()) if settings.tasks == "all" else registry.select(settings.tasks).tasks
    missing = [card.name for card in chosen if data.missing_of_task(card, data_dir) is not None]
    if missing and settings.missing == "stop":
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise DataError(
            f"Decontamination needs the data of {len(missing)} tasks that is not here ({', '.join(missing[:SHOWN])}"
            f"{more}): fetch it with `estbench data pull`, or write which tests may be left out: decontaminate: "
            "{tasks: …} names those to look for, missing: skip leaves out what is not here."
        )
    cards = [card for card in chosen if card.name not in set(missing)]
    if not cards:
        raise DataError(
            "Decontamination: the data of none of the tasks is here: fetch it with `estbench data pull`, or write "
            "decontaminate: none."
        )
    return of_material(collect_items(cards, data_dir), tuple(missing), settings.near)


def of_material(material: Material, missing: tuple[str, ...], with_near: bool) -> Tests:
    """The index of the tests' documents."""
    of_text: dict[int, set[str]] = {}
    of_unit: dict[int, set[str]] = {}
    items = [item for task in material.tasks for item in task.items]
    units, owned = near.units(items, material.texts) if with_near else ([], [[] for _ in items])
    each = iter(owned)
    for task in material.tasks:
        for item in task.items:
            for number in (*item.texts, *item.golds):
                of_text.setdefault(number, set()).add(task.card.name)
            for unit in next(each):
                of_unit.setdefault(unit, set()).add(task.card.name)
    return Tests(
        material,
        Index(material.texts),
        units,
        {number: frozenset(names) for number, names in of_text.items()},
        {number: frozenset(names) for number, names in of_unit.items()},
        missing,
        with_near,
    )


class Finder:
    """Looks in documents for what a saved index holds."""

    def __init__(self, folder: Path, with_near: bool) -> None:
        self.matcher = Matcher(folder)
        self.near = near.NearMatcher(folder) if with_near else None
        self.overlap = near.OVERLAP if with_near else OVERLAP

    def find(self, texts: Sequence[str]) -> dict[int, Finds]:
        """What each text holds, by its number; texts that hold nothing are not there."""
        found: dict[int, Finds] = {}
        for numbers in _blocks(texts):
            # together first: most blocks hold nothing, and one look at many costs little more than one at a single text
            if len(numbers) == 1 or self._looked([texts[number] for number in numbers]) is not None:
                for number in numbers:
                    if (finds := self._whole(texts[number])) is not None:
                        found[number] = finds
        return found

    def _whole(self, one: str) -> Finds | None:
        """What a text holds; a long one is looked at in pieces that overlap."""
        step = text.BLOCK - self.overlap
        starts = range(0, max(1, len(one) - self.overlap), step) if len(one) > text.BLOCK else (0,)
        parts = [finds for start in starts if (finds := self._looked([one[start : start + text.BLOCK]])) is not None]
        if not parts:
            return None
        return {kind: sorted({number for part in parts for number in part[kind]}) for kind in ("hashes", "units")}

    def _looked(self, texts: Sequence[str]) -> Finds | None:
        """What the texts hold together."""
        block = text.normalise([one.replace(text.END, " ") for one in texts])
        hashes = self.matcher.finds(block)[0].tolist()
        units = [unit for unit, _, _ in self.near.finds(block)] if self.near else []
        self.matcher.seen[:] = False  # the next document is looked at as if it were the first
        if self.near:
            self.near.seen[:] = False
        return {"hashes": hashes, "units": units} if hashes or units else None


def _blocks(texts: Sequence[str]) -> Iterator[list[int]]:
    """Numbers of texts that make a block; one that is longer is alone."""
    block: list[int] = []
    size = 0
    for number, one in enumerate(texts):
        if block and size + len(one) >= text.BLOCK:
            yield block
            block, size = [], 0
        block.append(number)
        size += len(one) + 1
    if block:
        yield block
