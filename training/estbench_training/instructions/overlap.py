"""Tests' texts are kept out of what is learnt: those of estbench's tasks, and sentences of others from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from estbench.contamination.items import Shown
from estbench.contamination.text import plain
from estbench.errors import DataError
from estbench.registry import Task
from estbench_training.instructions.settings import InstructionSettings, OverlapSettings
from estbench_training.kinds import Context
from estbench_training.prepare import decontaminate
from estbench_training.prepare.decontaminate import Tests
from estbench_training.rows import lines_of, read_errors

CONSTRUCTED = "demo rows ask for nothing that the demo world's tests ask for (estbench.demo.facts.held_out)"


def tests(settings: InstructionSettings, context: Context) -> Tests | None:
    """The tests' texts; None where nothing is looked for. DataError: the data of a test is not here."""
    wanted = settings.looked_for
    if wanted is None:
        if any(source.demo is None for source in settings.sources.values()):
            context.say("Tests' texts stay in the rows where they hold any (decontaminate: none).")
        return None
    found = decontaminate.collect(wanted, wanted.folder(context.recipe))
    if found.missing:
        context.say(f"Not looked for, their data is not here: {', '.join(found.missing)}. The manifest says so.")
    return _with_texts(found, wanted, context)


def _with_texts(found: Tests, wanted: OverlapSettings, context: Context) -> Tests:
    """The tests, and with them a "task" for each file of sentences."""
    for name in wanted.texts:
        shown = [Shown(f"{name}:{number}", [text], []) for number, text in _sentences(context.path(name))]
        if not shown:
            raise DataError(f"decontaminate, texts: {name} holds no sentences.")
        found.material.add(Task(name, context.path(name), {"metadata": {}}), shown)
    return decontaminate.of_material(found.material, found.missing, wanted.near) if wanted.texts else found


def _sentences(path: Path) -> Iterator[tuple[int, str]]:
    with read_errors(path), lines_of(path) as file:
        lines = file.read().splitlines()
    for number, text in enumerate(plain(lines), 1):
        if text:
            yield number, text
