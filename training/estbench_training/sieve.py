"""Rows of files from outside: those that hold a part of a test are kept out of what is learnt.

    sieve = Sieve(settings.decontaminate, context)
    for row in sieve.keep(read_rows(path), lambda row: …):     # those that hold nothing
    sieve.result                                              # what the card says of it

Stages that make rows have looked already; a file from outside has nobody looked at. What is looked for, and what counts
as found, is that of a prepare stage (docs/contamination.md).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from estbench.cards import Decontaminated
from estbench_training.kinds import Context
from estbench_training.prepare.settings import DecontaminateSettings
from estbench_training.rows import batches

if TYPE_CHECKING:
    from estbench_training.prepare.decontaminate import Finder, Tests
    from estbench_training.recipe import Recipe

Choice = DecontaminateSettings | Literal["none"]
AT_ONCE = 1000  # rows that are looked at together
REASON = "a part of a test is in it"
T = TypeVar("T")


class Sieve:
    """Looks in rows for what tests hold; counts what it has looked at and kept out. The tests' texts are read when the
    first file is."""

    def __init__(self, settings: Choice, context: Context) -> None:
        self._settings, self._context = settings, context
        self._tests: Tests | None = None
        self._finder: Finder | None = None
        self._looked = 0
        self._said = False
        self.by_task = Counter[str]()
        self.removed = 0

    @property
    def result(self) -> Decontaminated | None:
        """How tests were kept out; None where nothing was looked for."""
        if self._tests is None:
            return None
        from estbench_training.prepare.decontaminate import TOOL

        return Decontaminated(TOOL, tuple(self._tests.tasks), self._looked, self.removed)

    def keep(self, rows: Iterable[T], text: Callable[[T], str]) -> Iterator[T]:
        """The rows that hold no part of a test. DataError: the data of a test is not here."""
        if self._settings == "none":
            if not self._said:
                self._context.say("Tests' texts stay in what is read, where it holds any (decontaminate: none).")
            self._said = True
            yield from rows
            return
        tests, finder = self._opened(self._settings)
        for batch in batches(rows, AT_ONCE):
            finds = finder.find([text(row) for row in batch])
            self._looked += len(batch)
            self.removed += len(finds)
            for found in finds.values():
                self.by_task.update(tests.tasks_of(found))
            yield from (row for number, row in enumerate(batch) if number not in finds)

    def _opened(self, settings: DecontaminateSettings) -> tuple[Tests, Finder]:
        from estbench_training.prepare import decontaminate

        if self._tests is None or self._finder is None:
            self._tests = decontaminate.collect(settings, settings.folder(self._context.recipe))
            if self._tests.missing:
                self._context.say(f"Not looked for, their data is not here: {', '.join(self._tests.missing)}.")
            folder = self._context.folder / f".tests-{os.environ.get('RANK', '0')}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                self._tests.save(folder)
                self._finder = decontaminate.Finder(folder, self._tests.with_near)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return self._tests, self._finder

    def row(self) -> dict[str, object]:
        """What a manifest says of it: how many rows were looked at and left out, and whose tests they held."""
        return {"documents": self._looked, "removed": self.removed, "by_task": dict(sorted(self.by_task.items()))}


def tests_of(settings: Choice, recipe: Recipe) -> dict[str, str]:
    """{"tests": hash of what would be looked for}, for the key of a stage that reads files; empty where nothing is."""
    if settings == "none":
        return {}
    from estbench_training.prepare import decontaminate

    return {"tests": decontaminate.tests_key(settings, settings.folder(recipe))}


def text_of(messages: Sequence[Mapping[str, str]]) -> str:
    """All that is said in messages."""
    return "\n".join(message["content"] for message in messages)
