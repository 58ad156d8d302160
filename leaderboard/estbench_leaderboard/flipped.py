"""Documents on which two models differ, side by side: where one is right and the other wrong; of graded metrics those
with the largest gaps first.

    found = flipped.of(database, line, side="b", page=1)     # those that the second model does better
    found.rows[0].prompt, found.rows[0].target, found.rows[0].answers

Whether anyone may see them is for the caller to ask of `documents.allowed`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from estbench.database import queries
from estbench.database.engine import Database
from estbench_leaderboard import answers, documents
from estbench_leaderboard.comparing import Line
from estbench_leaderboard.documents import Document, Floats
from estbench_leaderboard.shown import Piece, Shown, shown

ROWS = 10  # of a page
SIDES = ("", "a", "b")  # all, those that the first does better, those that the other does better
PROMPT = 500  # characters of its end: what is asked comes last
ANSWER = 1200


@dataclass(frozen=True, slots=True)
class Flip:
    """A document and both answers."""

    doc: str
    number: int  # in the order of the data, from 1 on
    values: tuple[float | None, float | None]  # of this document by itself
    documents: tuple[Document, Document]
    prompt: str

    @property
    def question(self) -> Shown:
        """The end of the prompt."""
        cut = len(self.prompt) > PROMPT
        end = shown(self.prompt[-PROMPT:], PROMPT)
        return Shown((Piece("… "), *end.pieces), end.length, False) if cut else end

    @property
    def target(self) -> Shown:
        """The right answer."""
        one = self.documents[0]
        return shown("" if one.target is None else answers.preview(one.target, one.responses), ANSWER)

    @property
    def answers(self) -> tuple[Shown, Shown]:
        """What the models answered, as it came."""
        first, other = (shown(said(one), ANSWER) for one in self.documents)
        return first, other


@dataclass(frozen=True)
class Flips:
    """A page of them."""

    line: Line
    side: str
    page: int
    counts: dict[str, int]  # side -> documents
    binary: bool  # right or wrong, and nothing between
    alone: bool  # whether documents have scores by themselves: Matthews' correlation of one is always 0
    rows: tuple[Flip, ...]

    @property
    def pages(self) -> int:
        return pages(self.counts[self.side])


def pages(count: int) -> int:
    """Pages that so many documents take."""
    return max(1, math.ceil(count / ROWS))


def said(one: Document) -> str:
    """An answer as text: what the engine returned, or the option."""
    texts = [text for _, text in answers.texts(one.responses)]
    return texts[0] if texts else answers.preview(one.answer, one.responses)


def of(database: Database, line: Line, side: str, page: int) -> Flips | None:
    """A page of documents on which the models differ; None: there is no such page."""
    task, metric = line.task.name, line.comparison.metric
    items = queries.items_of_runs(database, line.runs, task, metric)
    places = line.comparison.places_a, line.comparison.places_b
    columns: list[Floats] = []
    kept = []
    for run, at in zip(line.runs, places, strict=True):
        stored = items[run].values[at] if len(at) else items[run].values[:0]
        columns.append(documents.alone(metric, stored if stored.ndim == 2 else stored.tolist()))
        kept.append(stored)
    docs = [items[line.runs[0]].docs[at] for at in places[0]]
    differs = np.array([one != other for one, other in zip(*(part.tolist() for part in kept), strict=True)], bool)
    gaps = np.nan_to_num(columns[0] - columns[1]) * (1 if line.comparison.higher_is_better else -1)
    found = {"": differs, "a": differs & (gaps > 0), "b": differs & (gaps < 0)}
    counts = {name: int(those.sum()) for name, those in found.items()}
    if page > pages(counts[side]):
        return None
    order = [int(at) for at in np.argsort(-np.abs(gaps), kind="stable") if found[side][at]]
    chosen = order[(page - 1) * ROWS : page * ROWS]
    binary = all(part.ndim == 1 and part.dtype != object and bool(np.isin(part, (0, 1)).all()) for part in kept)
    rows = _read(database, line, [docs[at] for at in chosen], [(columns[0][at], columns[1][at]) for at in chosen])
    return Flips(line, side, page, counts, binary, bool(gaps.any()), tuple(rows))


def _read(database: Database, line: Line, docs: Sequence[str], values: Sequence[tuple[float, float]]) -> list[Flip]:
    """The texts of these documents."""
    task = line.task.name
    first, other = (documents.read(database, run, task, docs) for run in line.runs)
    texts = documents.prompts(database, [one.prompt for one in first.values()])
    rows = []
    for doc, pair in zip(docs, values, strict=True):
        if doc in first and doc in other:
            known = tuple(float(value) if math.isfinite(value) else None for value in pair)
            one = first[doc]
            both = (one, other[doc])
            rows.append(Flip(doc, one.position + 1, (known[0], known[1]), both, texts.get(one.prompt, "")))
    return rows
