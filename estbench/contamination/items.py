"""What of a task is looked for: the texts that a document's prompt shows, and its gold answers.

Texts are the strings of the data row that stand in the rendered prompt or options (a list of tokens is one text), so
that ids, links and dates don't count; where a template rewrites its fields, the whole prompt.
Boilerplate is left out: a short string that several rows share, or one that a fifth of all rows have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.contamination.text import plain
from estbench.registry import Task

if TYPE_CHECKING:
    from estbench.lm_tasks import LmTask, Rendered

SHORT = 8  # words; shorter texts are compared whole
LEAST_WORDS, LEAST_LENGTH = 3, 20  # of a short text: less says nothing
SHORT_ROWS = 3  # a short string in more rows than this is boilerplate
LONG_ROWS, LONG_SHARE = 10, 0.2  # a long one in more rows than this and at least this share of them


@dataclass(frozen=True, slots=True)
class Item:
    """A document as numbers of texts in `Material.texts`."""

    doc_id: int
    doc_hash: str
    texts: tuple[int, ...]
    golds: tuple[int, ...]


@dataclass(slots=True)
class TaskItems:
    """A task's documents."""

    card: Task
    items: list[Item]
    lm: LmTask | None = None  # what a run's scores are made with


@dataclass(slots=True)
class Material:
    """All that is looked for. Each normalised text is kept once, however many documents show it."""

    tasks: list[TaskItems] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """The number of a normalised text."""
        found = self._numbers.setdefault(text, len(self.texts))
        if found == len(self.texts):
            self.texts.append(text)
        return found

    def add(self, card: Task, documents: Sequence[Shown], lm: LmTask | None = None) -> None:
        """A task's documents, boilerplate left out."""
        rows = Counter(text for shown in documents for text in {*shown.texts, *shown.golds})
        items = []
        for doc_id, shown in enumerate(documents):
            golds = [text for text in dict.fromkeys(shown.golds) if _worth(text, rows[text], len(documents))]
            texts = [text for text in dict.fromkeys(shown.texts) if _worth(text, rows[text], len(documents))]
            others = tuple(self.number(text) for text in texts if text not in golds)
            items.append(Item(doc_id, shown.hash, others, tuple(self.number(text) for text in golds)))
        self.tasks.append(TaskItems(card, items, lm))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a document shows and what it takes for right, normalised."""

    hash: str
    texts: list[str]
    golds: list[str]


def _worth(text: str, rows: int, documents: int) -> bool:
    """Whether finding the text would mean something."""
    words = text.count(" ") + 1
    if words < SHORT and len(text) < 50:
        return words >= LEAST_WORDS and len(text) >= LEAST_LENGTH and rows <= SHORT_ROWS
    return rows <= LONG_ROWS or rows < LONG_SHARE * documents


def collect(cards: Sequence[Task], data_dir: Path | None) -> Material:
    """The documents of these tasks. Raises what reading their data raises."""
    from estbench.lm_tasks import LmTask

    tests = Material()
    for card in cards:
        lm = LmTask(card, data_dir=data_dir, shots=0)
        tests.add(card, _documents(lm), lm)
    return tests


def _documents(lm: LmTask) -> list[Shown]:
    """All documents of a task; normalised together, since that costs least."""
    rendered = [lm.render(doc_id) for doc_id in range(len(lm.docs))]
    prompts = plain([_prompt(doc) for doc in rendered])
    strings = [list(_strings(row)) for row in lm.docs]
    answers = lm.card.metadata.get("skill") != "instructions"  # they have no gold answer, and say what is checked
    golds = [_golds(doc) if answers else [] for doc in rendered]
    flat = iter(plain([text for row in (*strings, *golds) for text in row]))
    normal_strings = [[next(flat) for _ in row] for row in strings]
    normal_golds = [[next(flat) for _ in row] for row in golds]
    return [Shown(*row) for row in zip(lm.doc_hashes, map(_shown, normal_strings, prompts), normal_golds, strict=True)]


def _shown(strings: Sequence[str], prompt: str) -> list[str]:
    """The strings that a prompt shows; the prompt itself where it shows the long ones in another form."""
    shown = [text for text in strings if f" {text} " in f" {prompt} "]
    rewritten = not any(_worth(text, 1, 1) for text in shown) and any(_worth(text, 1, 1) for text in strings)
    return [prompt] if rewritten else shown


def _prompt(doc: Rendered) -> str:
    return "\n".join([doc.prompt, *(continuation for _, continuation in doc.pairs)])


def _golds(doc: Rendered) -> list[str]:
    """The right answer, or all of them. A letter or a label is too short to be looked for, and is left out later."""
    target = doc.target
    if isinstance(target, int):
        return [doc.pairs[target][1]] if 0 <= target < len(doc.pairs) else []
    return [str(part) for part in target] if isinstance(target, (list, tuple)) else [str(target)]


def _strings(value: Any) -> Iterator[str]:
    """Every string in a row; a list of tokens is joined."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        if value and all(isinstance(part, str) for part in value) and not any(" " in part for part in value):
            yield " ".join(value)
        else:
            for part in value:
                yield from _strings(part)
