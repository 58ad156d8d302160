"""Grammatical error correction: MaxMatch (M²) with the conventions of the Estonian scorer.

    counts(source_tokens, output_tokens, annotators(edits))   [[correct, proposed, gold], …], a row an annotator
    select([counts(...), ...])                                (n, 3): the annotator chosen for each sentence
    f_score(np.sum(rows, axis=0))                             F0.5

MaxMatch (Dahlmeier & Ng 2012, "Better Evaluation for Grammatical Error Correction"): of all ways to see the output as
edits of the source, take the one that agrees with the gold edits in most places; among those the one with the fewest
edits. Written from the paper and from recorded results of the Estonian scorer (Est-L2; u = 15 unchanged words in an
edit), not from anybody's code.

All shortest edit scripts of insertions and deletions form a lattice. An edit is a path between two of its vertices a, b
with at most u unchanged words; since every such path has the same number of them, N(b) - N(a) with
N(i, j) = (i + j - distance(i, j)) / 2, the best edits are found in one pass in topological order, without listing the
edits: each vertex carries, for 0..u unchanged words so far, where the best open edit began.

Known difference: on the development set's four recorded outputs 10 of 6,768 sentences differ from the reference scorer
by one correct or proposed edit (tests/test_metrics_gec.py names the cases).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Vertex = tuple[int, int]
MAX_UNCHANGED = 15
BETA = 0.5
MATCH = 1 << 32  # a gold edit outweighs any number of edits


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace source tokens [start, end) by one of the `corrections` (token tuples; () deletes)."""

    start: int
    end: int
    kind: str
    corrections: tuple[tuple[str, ...], ...]


def annotators(edits: Iterable[Any]) -> list[list[Edit]]:
    """Each annotator's edits, then the pseudo-annotators: for every word-order edit (R:WO) that contains other edits,
    one without the contained edits and one without the word-order edit.

    `edits`: {annotator, start, end, type, corrections} or [annotator, start, end, type, corrections]; "noop" and no
    edit at all mean that nothing is to be corrected. Several corrections, or "a||b" in one, are alternatives.
    """
    by_annotator: dict[int, list[Edit]] = {}
    for entry in edits:
        row = [entry[name] for name in ("annotator", "start", "end", "type", "corrections")] if isinstance(entry, Mapping) else list(entry)
        annotator, start, end, kind, corrections = row
        own = by_annotator.setdefault(int(annotator), [])
        if kind != "noop":
            texts = [text for correction in corrections for text in str(correction).split("||")] or [""]
            options = [() if text.strip() == "-NONE-" else tuple(text.split()) for text in texts]
            own.append(Edit(int(start), int(end), str(kind), tuple(dict.fromkeys(options))))
    real = [by_annotator[annotator] for annotator in sorted(by_annotator)] or [[]]
    return real + [pseudo for own in real for pseudo in _pseudo_annotators(own)]


def _pseudo_annotators(edits: list[Edit]) -> Iterable[list[Edit]]:
    for whole in edits:
        if whole.kind == "R:WO":
            inner = [edit for edit in edits if edit.kind != "R:WO" and whole.start <= edit.start and edit.end <= whole.end]
            if inner:
                yield [edit for edit in edits if edit not in inner]
                yield [edit for edit in edits if edit is not whole]


def counts(source: Sequence[str], output: Sequence[str], gold: Sequence[Sequence[Edit]], unchanged: int = MAX_UNCHANGED) -> list[list[int]]:
    """[correct, proposed, gold] of one sentence for each annotator. Edits have at most `unchanged` unchanged words."""
    if list(source) == list(output):
        return [[0, 0, len(edits)] for edits in gold]
    lattice = _Lattice(source, output)
    rows = []
    for edits in gold:
        proposed = lattice.best_edits(edits, unchanged)
        rows.append([_correct(proposed, edits), len(proposed), len(edits)])
    return rows


def _correct(proposed: Iterable[tuple[int, int, tuple[str, ...]]], gold: Sequence[Edit]) -> int:
    """How many proposed edits are gold edits: each gold edit once, in the order in which the annotator wrote them (as
    the Estonian scorer counts: what is written out of order is passed over)."""
    correct = after = 0
    for start, end, correction in proposed:
        for place in range(after, len(gold)):
            edit = gold[place]
            if (edit.start, edit.end) == (start, end) and correction in edit.corrections:
                correct, after = correct + 1, place + 1
                break
    return correct


class _Lattice:
    """All shortest edit scripts between two token lists; vertex (i, j): i source and j output tokens are consumed."""

    def __init__(self, source: Sequence[str], output: Sequence[str]) -> None:
        self.source, self.output = list(source), list(output)
        self.distance = _distances(self.source, self.output)
        n, m = len(self.source), len(self.output)
        rest = _distances(self.source[::-1], self.output[::-1])
        whole = self.distance[n][m]
        self.vertices = {
            (i, j) for i in range(n + 1) for j in range(m + 1) if self.distance[i][j] + rest[n - i][m - j] == whole
        }

    def best_edits(self, gold: Sequence[Edit], unchanged: int) -> list[tuple[int, int, tuple[str, ...]]]:
        """The edits (start, end, correction) in which most gold edits occur, as few as possible."""
        ends_here = self._gold_paths(gold, unchanged)
        begin = (0, 0)
        best: dict[Vertex, int] = {begin: 0}
        came: dict[Vertex, tuple[Vertex, bool]] = {}  # where the step to this vertex began, and whether it is an edit
        nowhere = (-MATCH * MATCH, begin)
        open_edits: dict[Vertex, list[tuple[int, Vertex]]] = {begin: [(0, begin)] + [nowhere] * unchanged}
        for vertex in sorted(self.vertices)[1:]:
            i, j = vertex
            before = [
                open_edits[step] for step in ((i - 1, j), (i, j - 1)) if step in open_edits and self._one_more(step, vertex)
            ]
            kept = (i - 1, j - 1)
            same = i and j and kept in best and self.source[i - 1] == self.output[j - 1] and self._equal(kept, vertex)
            if same:
                before.append([nowhere, *open_edits[kept][:-1]])
            opened = before[0] if len(before) == 1 else [max(choice) for choice in zip(*before, strict=True)]
            score, start = max(opened)
            score, came[vertex] = score - 1, (start, True)
            if same and best[kept] >= score:
                score, came[vertex] = best[kept], (kept, False)
            for start in ends_here.get(vertex, ()):
                if best[start] + MATCH - 1 > score:
                    score, came[vertex] = best[start] + MATCH - 1, (start, True)
            best[vertex] = score
            open_edits[vertex] = [max(opened[0], (score, vertex)), *opened[1:]]
        return self._walk(came)

    def _walk(self, came: dict[Vertex, tuple[Vertex, bool]]) -> list[tuple[int, int, tuple[str, ...]]]:
        vertex = (len(self.source), len(self.output))
        edits = []
        while vertex != (0, 0):
            start, edited = came[vertex]
            if edited:
                edits.append((start[0], vertex[0], tuple(self.output[start[1] : vertex[1]])))
            vertex = start
        return edits[::-1]

    def _one_more(self, step: Vertex, vertex: Vertex) -> bool:
        return self.distance[step[0]][step[1]] + 1 == self.distance[vertex[0]][vertex[1]]

    def _equal(self, step: Vertex, vertex: Vertex) -> bool:
        return self.distance[step[0]][step[1]] == self.distance[vertex[0]][vertex[1]]

    def _gold_paths(self, gold: Sequence[Edit], unchanged: int) -> dict[Vertex, list[Vertex]]:
        """For each vertex the vertices from which a gold edit leads to it inside the lattice."""
        found: dict[Vertex, list[Vertex]] = {}
        for edit in gold:
            for correction in edit.corrections:
                size = len(correction)
                for j in range(len(self.output) - size + 1):
                    a, b = (edit.start, j), (edit.end, j + size)
                    if a in self.vertices and b in self.vertices and tuple(self.output[j : j + size]) == correction:
                        changes = self.distance[b[0]][b[1]] - self.distance[a[0]][a[1]]
                        direct = _distances(self.source[edit.start : edit.end], correction)[-1][-1]
                        if 0 < changes == direct and (edit.end - edit.start + size - changes) // 2 <= unchanged:
                            found.setdefault(b, []).append(a)
        return found


def _distances(source: Sequence[str], output: Sequence[str]) -> list[list[int]]:
    """The number of insertions and deletions between all prefixes (substitution = one of each)."""
    rows = [list(range(len(output) + 1))]
    for i, word in enumerate(source, start=1):
        above, row = rows[-1], [i]
        for j, other in enumerate(output):
            row.append(above[j] if word == other else 1 + min(row[-1], above[j + 1]))
        rows.append(row)
    return rows


def select(values: Sequence[Sequence[float]]) -> Floats:
    """The chosen annotator's [correct, proposed, gold] of each sentence, (n, 3), from flat lists of all annotators'.

    In order of the sentences the annotator is taken with whom the F0.5 of all sentences so far is highest; ties: more
    correct edits, then the lower proposed + 0.25 gold, then the first. So the order of the sentences has a say.
    """
    chosen = np.zeros((len(values), 3))
    total = np.zeros(3)
    for place, flat in enumerate(values):
        rows = np.asarray(flat, float).reshape(-1, 3)
        reached = rows + total
        scores = f_score(reached)
        first = max(range(len(rows)), key=lambda k: (scores[k], reached[k, 0], -(reached[k, 1] + BETA**2 * reached[k, 2])))
        chosen[place] = rows[first]
        total += rows[first]
    return chosen


def precision(statistics: ArrayLike) -> Floats:
    """Summed [correct, proposed, gold] (..., 3) to precision; 1 where nothing is proposed."""
    summed = np.asarray(statistics, float)
    return np.divide(summed[..., 0], summed[..., 1], out=np.ones_like(summed[..., 0]), where=summed[..., 1] > 0)


def recall(statistics: ArrayLike) -> Floats:
    """Summed [correct, proposed, gold] (..., 3) to recall; 1 where there is nothing to correct."""
    summed = np.asarray(statistics, float)
    return np.divide(summed[..., 0], summed[..., 2], out=np.ones_like(summed[..., 0]), where=summed[..., 2] > 0)


def f_score(statistics: ArrayLike) -> Floats:
    """Summed [correct, proposed, gold] (..., 3) to F0.5 = (1 + β²)PR / (β²P + R), 0 to 1."""
    p, r = precision(statistics), recall(statistics)
    below = BETA**2 * p + r
    return np.divide((1 + BETA**2) * p * r, below, out=np.zeros_like(below), where=below > 0)
