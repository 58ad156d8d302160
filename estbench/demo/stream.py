"""Training data of the demo world, by kind, without end: text, parallel sentences, instructions.

Nothing here uses a combination that the tests ask for (`world.held_out`). Each stream is a function of its seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from estbench.demo import english, tasks
from estbench.demo.facts import fact


def texts(language: str, seed: str) -> Iterator[str]:
    """Plain text of one or two sentences in "et" or "en", as for continued pretraining."""
    r = random.Random(f"text {language} {seed}")
    while True:
        facts = [fact(r, test=False) for _ in range(r.choice((1, 1, 1, 2)))]
        yield " ".join(said.et if language == "et" else said.en for said in facts)


def parallel(seed: str) -> Iterator[tuple[str, str]]:
    """(Estonian, English) twins."""
    r = random.Random(f"parallel {seed}")
    while True:
        said = fact(r, test=False)
        yield said.et, said.en


def instructions(task: str, seed: str, chat: bool = False) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of a task, also of an English one, or of a chat form; the answer follows behind a space."""
    if task in english.TASKS:
        yield from english.instructions(task, seed)
        return
    r = random.Random(f"{task} {seed}")
    while True:
        for doc in tasks.documents(task, r):
            yield tasks.prompt(task, doc, chat), tasks.answer(task, doc)
