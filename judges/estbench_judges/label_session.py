"""What is asked of raters, in which order, and what they have answered so far; knows nothing of the web.

    poll = Poll(questions, Path("labels.jsonl"), seed=1)
    question = poll.current("Mari")                       # None: she is through
    poll.record("Mari", question, "a", "equal", note="", seconds=12.5)

All raters get the questions in the same shuffled order, so that those who stop halfway have voted on the same pairs
and their agreement can be measured. Which answer stands first is drawn for each rater and question, half and half for
each model. Everything that a rater did is in the label file: whoever comes back goes on where he stopped.
"""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from estbench import identity
from estbench.errors import ConfigError
from estbench_judges import labels
from estbench_judges.items import Item, answer_hash
from estbench_judges.labels import Axis, Key, Label


@dataclass(frozen=True)
class Question:
    """One thing to vote on."""

    item: Item
    name: str  # the model's; nobody who votes sees it
    anchor: tuple[str, ...]  # pairwise: the other answers, one a turn; equivalence: right answers, or () for the item's
    mode: str  # "pairwise" or "equivalence"

    @property
    def key(self) -> Key:
        """What is voted on: the same for two models that answered the same."""
        anchor = answer_hash(self.anchor) if self.mode == "pairwise" else None
        return self.item.task, self.item.doc, answer_hash(self.item.answers), anchor

    @property
    def references(self) -> tuple[str, ...]:
        """The right answers of a question on equivalence."""
        return self.anchor or ((self.item.reference,) if self.item.reference else ())

    @property
    def asks_language(self) -> bool:
        """Whether there is Estonian to vote on."""
        return self.mode == "pairwise" and self.item.language == "et"


@dataclass(frozen=True)
class Progress:
    """How far a rater is."""

    voted: int
    skipped: int  # could not tell
    total: int

    @property
    def done(self) -> int:
        return self.voted + self.skipped


class Poll:
    """Questions and the file of the votes on them."""

    def __init__(self, questions: Sequence[Question], file: Path, *, seed: int) -> None:
        """ConfigError: nothing to ask. DataError: the file is no label file."""
        self.file, self.seed = file, seed
        self.left_out: Counter[str] = Counter()  # "incomplete", "identical", "repeated" -> questions
        self.questions = self._ordered(questions)
        self.places = {question.key: place for place, question in enumerate(self.questions)}
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, ...] | None, list[Label]] = (None, [])
        self._sides: dict[str, dict[Key, str]] = {}
        self.kept()

    def _ordered(self, questions: Sequence[Question]) -> list[Question]:
        """What can be asked, shuffled; counts the rest."""
        found: dict[Key, Question] = {}
        for question in questions:
            if question.mode not in labels.MODES:
                raise ConfigError(f"{question.mode!r} is no way to vote: pairwise or equivalence.")
            if why := _unasked(question):
                self.left_out[why] += 1
            elif question.key in found:
                self.left_out["repeated"] += 1
            else:
                found[question.key] = question
        if not found:
            why = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise ConfigError(f"There is nothing to vote on{f' ({why})' if why else ''}: choose other runs or tasks.")
        return [found[key] for key in sorted(found, key=lambda key: self._drawn("order", key))]

    def _drawn(self, *what: Any) -> bytes:
        """A number that is random, and the same each time."""
        return hashlib.sha256(identity.canonical([self.seed, *what])).digest()

    def kept(self) -> list[Label]:
        """What the file holds now; others may write to it, too."""
        try:
            seen = os.stat(self.file)
        except FileNotFoundError:
            return []
        state = seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns
        if self._read[0] != state:
            self._read = state, labels.read(self.file, say=lambda _: None)
        return self._read[1]

    def votes(self, rater: str) -> dict[Key, Label]:
        """A rater's votes on these questions."""
        return {label.key: label for label in self.kept() if label.rater == rater and label.key in self.places}

    def rater(self, name: str) -> str:
        """A name as it is kept: who wrote it in other case before is the same person. ConfigError: it is no name."""
        name = " ".join(unicodedata.normalize("NFC", name).split())
        if not name or len(name) > labels.LONGEST_NAME or not name.isprintable():
            raise ConfigError(f"A rater has a name of 1 to {labels.LONGEST_NAME} characters: rater=NAME.")
        known = {label.rater.casefold(): label.rater for label in self.kept()}
        return known.get(name.casefold(), name)

    def first(self, rater: str, question: Question) -> str | None:
        """Which answer stands first: "model" or "anchor"; None: there is one only."""
        if question.mode != "pairwise":
            return None
        before = self.votes(rater).get(question.key)
        if before is not None and before.first is not None:
            return before.first
        if rater not in self._sides:
            self._sides[rater] = self._half_and_half(rater)
        return self._sides[rater][question.key]

    def _half_and_half(self, rater: str) -> dict[Key, str]:
        """A side for each question: of each model's questions one half (or one more) has the model first."""
        keys: dict[str, list[Key]] = {}
        for question in self.questions:
            keys.setdefault(question.name, []).append(question.key)
        sides: dict[Key, str] = {}
        for name, own in keys.items():
            begin = self._drawn("begin", rater, name)[0] % 2
            shuffled = sorted(own, key=lambda key: self._drawn("side", rater, key))
            sides |= {key: labels.SIDES[(place + begin) % 2] for place, key in enumerate(shuffled)}
        return sides

    def current(self, rater: str) -> Question | None:
        """The first question without a vote."""
        done = self.votes(rater)
        return next((question for question in self.questions if question.key not in done), None)

    def before(self, rater: str, question: Question | None) -> Question | None:
        """The question that the rater answered before this one (None: before the end)."""
        done = self.votes(rater)
        place = len(self.questions) if question is None else self.places[question.key]
        return next((one for one in reversed(self.questions[:place]) if one.key in done), None)

    def unsure(self, rater: str) -> Question | None:
        """The first question that the rater could not answer."""
        done = self.votes(rater)
        return next((one for one in self.questions if one.key in done and done[one.key].skipped), None)

    def progress(self, rater: str) -> Progress:
        """How far a rater is."""
        done = self.votes(rater).values()
        skipped = sum(label.skipped for label in done)
        return Progress(len(done) - skipped, skipped, len(self.questions))

    def record(
        self, rater: str, question: Question, content: str | None, language: str | None, *, note: str, seconds: float
    ) -> None:
        """Keep a vote: "a", "equal", "b" (equivalence: "yes", "no"); None: could not tell. What is the same is not
        written again. StoreError: the file can't be written."""
        with self._lock:
            first = self.first(rater, question)
            vote = _score(content, first), _score(language, first), note
            before = self.votes(rater).get(question.key)
            if before is not None and (before.content, before.language, before.note) == vote:
                return
            task, doc, answer, anchor = question.key
            at = datetime.now(UTC).isoformat(timespec="seconds")
            label = Label(
                task=task,
                doc=doc,
                mode=question.mode,
                answer=answer,
                anchor=anchor,
                name=question.name,
                rater=rater,
                content=vote[0],
                language=vote[1],
                first=first,
                seconds=round(seconds, 2),
                at=at,
                note=note,
            )
            labels.append(self.file, label)

    def choice(self, rater: str, question: Question, axis: Axis) -> str:
        """What the rater chose before, in the page's words; "" if nothing."""
        before = self.votes(rater).get(question.key)
        score = None if before is None else getattr(before, axis)
        if score is None:
            return ""
        first = self.first(rater, question)
        return next(word for word in words(question) if _score(word, first) == score)


def words(question: Question) -> tuple[str, ...]:
    """What can be chosen."""
    return ("a", "equal", "b") if question.mode == "pairwise" else ("yes", "no")


def _score(word: str | None, first: str | None) -> float | None:
    """The candidate's score for a choice."""
    if word is None:
        return None
    if word in ("a", "b"):
        return float((word == "a") == (first == "model"))
    return {"equal": 0.5, "yes": 1.0, "no": 0.0}[word]


def _unasked(question: Question) -> str:
    """Why a question can't be asked, or ""."""
    item = question.item
    if not item.answered:
        return "incomplete"
    if question.mode == "equivalence":
        return "" if question.references else "incomplete"
    if len(question.anchor) != len(item.turns):
        return "incomplete"
    return "identical" if _plain(item.answers) == _plain(question.anchor) else ""


def _plain(answers: tuple[str, ...]) -> list[str]:
    """Texts as readers see them: spaces at their ends don't count."""
    return [unicodedata.normalize("NFC", answer).strip() for answer in answers]
