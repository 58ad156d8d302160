"""Grammatical error correction: MaxMatch (M²) with the conventions of the Estonian scorer.

    counts(source_tokens, output_tokens, annotators(edits))   [[correct, proposed, gold], …], a row an annotator
    select([counts(...), ...])                                (n, 3): the annotator chosen for each sentence
    f_score(np.sum(rows, axis=0))                             F0.5
    recall_by_type([(source, output, annotators(edits)), …])  {"R:SPELL": TypeRecall(445, …), …}

MaxMatch (Dahlmeier & Ng 2012, "Better Evaluation for Grammatical Error Correction"): of all ways to see the output as
edits of the source, take the one that agrees with the gold edits in most places; among those the one with the fewest
edits. Written from the paper and from recorded results of the Estonian scorer (at most u = 15 unchanged words in an
edit), not from anybody's code.

The lattice holds all shortest edit scripts, both with a substitution at the cost of one edit and of two (recorded
results show that the reference has both). An edit is a path between two of its vertices with at most u unchanged words.
The best edits are found in one pass in topological order without listing the edits: each vertex carries, for 0..u
unchanged words so far, where the best open edit began. That is O(V u); a looping output of 500 words takes under 1 s.

Peculiarities of the Estonian scorer, inferred from its recorded results (without them 6 of 6,768 sentences differ):
- a gold insertion counts only at the first place of the lattice where it fits, even if the best path runs elsewhere: of
  two commas around a replaced word the second may be lost;
- insertions before the first source word lie at 0, 1, 2, … as if the words inserted there were source words. So in
  "Mulle vaja" > "Mul on vaja" the "on" of a script "insert Mul, insert on, delete Mulle" lies at 1, is the first place
  of the gold insertion of "on" at 1, and that is lost behind the replaced first word;
- an edit takes in unchanged words behind it where that costs no gold edit; so a gold insertion that did not count there
  is no longer what is proposed.

All recorded counts of 6,768 sentences are met with u = 15; with u = 2, too, but for one edit proposed less in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estbench.estonian import lemmas
from estbench.metrics.base import Metric

Floats = NDArray[np.float64]
Vertex = tuple[int, int]
Proposed = tuple[int, int, tuple[str, ...]]  # start, end, correction
MAX_UNCHANGED = 15
BETA = 0.5
FIELDS = ("annotator", "start", "end", "type", "corrections")
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
        annotator, start, end, kind, corrections = (
            (entry[name] for name in FIELDS) if isinstance(entry, Mapping) else entry
        )
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
            inside = (edit for edit in edits if whole.start <= edit.start and edit.end <= whole.end)
            inner = [edit for edit in inside if edit.kind != "R:WO"]
            if inner:
                yield [edit for edit in edits if edit not in inner]
                yield [edit for edit in edits if edit is not whole]


def counts(
    source: Sequence[str], output: Sequence[str], gold: Sequence[Sequence[Edit]], unchanged: int = MAX_UNCHANGED
) -> list[list[int]]:
    """[correct, proposed, gold] of one sentence for each annotator. Edits have at most `unchanged` unchanged words."""
    if list(source) == list(output):
        return [[0, 0, len(edits)] for edits in gold]
    lattice = _Lattice(source, output)
    rows = []
    for edits in gold:
        proposed = lattice.best_edits(edits, unchanged)
        rows.append([len(_correct(proposed, edits)), len(proposed), len(edits)])
    return rows


def _correct(proposed: Iterable[Proposed], gold: Sequence[Edit]) -> set[int]:
    """The places of the gold edits that are proposed: each once, in the order in which the annotator wrote them (as the
    Estonian scorer counts: what is written out of order is passed over)."""
    found, after, in_front = set(), 0, 0
    for start, end, correction in proposed:
        span = (start, end)
        if end == 0:
            span = (_insertion_place(0, in_front),) * 2
            in_front += len(correction)
        for place in range(after, len(gold)):
            edit = gold[place]
            if (edit.start, edit.end) == span and correction in edit.corrections:
                found.add(place)
                after = place + 1
                break
    return found


def _insertion_place(consumed: int, produced: int) -> int:
    """Where the Estonian scorer sees an insertion: behind the source words consumed; but before the first of them,
    behind as many as there are words of output (a peculiarity; see the module's docstring)."""
    return consumed or produced


class _Lattice:
    """All shortest edit scripts between two token lists; vertex (i, j): i source and j output tokens are consumed."""

    def __init__(self, source: Sequence[str], output: Sequence[str]) -> None:
        self.source, self.output = list(source), list(output)
        steps: dict[Vertex, dict[Vertex, bool]] = {(0, 0): {}}
        for substitution in (1, 2):
            for vertex, before in _shortest_steps(self.source, self.output, substitution):
                steps.setdefault(vertex, {}).update(before)
        self.steps = dict(sorted(steps.items()))  # vertex -> {the vertex before: whether the step changes anything}

    def best_edits(self, gold: Sequence[Edit], unchanged: int) -> list[Proposed]:
        """The edits (start, end, correction) on a path with the most gold edits and, among those, the fewest edits.

        Where nothing is lost an edit takes in unchanged words behind it (as recorded results show).
        """
        gold_before = self._gold_paths(gold, unchanged)
        order = list(self.steps)
        begin = order[0]
        best = {begin: 0}  # MATCH for each gold edit, minus the edits
        came: dict[Vertex, tuple[Vertex, bool]] = {}  # where the last step began, and whether it is an edit
        nowhere = (-MATCH * MATCH, 0)
        open_edits = {begin: [(0, 0)] + [nowhere] * unchanged}  # [k]: k unchanged words; score at its beginning, place
        for place, vertex in enumerate(order[1:], start=1):
            before = self.steps[vertex]
            runs = [open_edits[v] if changed else [nowhere, *open_edits[v][:-1]] for v, changed in before.items()]
            opened = runs[0] if len(runs) == 1 else [max(options) for options in zip(*runs, strict=True)]
            score, start = max(opened)
            score, came[vertex] = score - 1, (order[start], True)
            for previous, changed in before.items():
                if not changed and best[previous] > score:
                    score, came[vertex] = best[previous], (previous, False)
            for previous in gold_before.get(vertex, ()):
                if best[previous] + MATCH - 1 > score:
                    score, came[vertex] = best[previous] + MATCH - 1, (previous, True)
            best[vertex] = score
            open_edits[vertex] = [max(opened[0], (score, place)), *opened[1:]]
        return self._walk(came)

    def _walk(self, came: dict[Vertex, tuple[Vertex, bool]]) -> list[Proposed]:
        edits = []
        vertex = (len(self.source), len(self.output))
        while vertex != (0, 0):
            start, edited = came[vertex]
            if edited:
                edits.append((start[0], vertex[0], tuple(self.output[start[1] : vertex[1]])))
            vertex = start
        return edits[::-1]

    def _gold_paths(self, gold: Sequence[Edit], unchanged: int) -> dict[Vertex, list[Vertex]]:
        """For each vertex the vertices from which a gold edit leads to it inside the lattice.

        Only an insertion could occur twice on a path, so it counts at the first place alone where it fits, be that on
        the best path or not.
        """
        found: dict[Vertex, list[Vertex]] = {}
        for edit in gold:
            fits = sorted(self._fits(edit, unchanged))
            if edit.start == edit.end:
                fits = [(a, b) for a, b in fits if a not in found.get(b, ())][:1]
            for a, b in fits:
                found.setdefault(b, []).append(a)
        return found

    def _fits(self, edit: Edit, unchanged: int) -> set[tuple[Vertex, Vertex]]:
        """All places of a gold edit in the lattice."""
        insertion = edit.start == edit.end
        found = set()
        for correction in edit.corrections:
            size = len(correction)
            for j in range(len(self.output) - size + 1):
                for i in {0, edit.start} if insertion else {edit.start}:
                    a, b = (i, j), (i + edit.end - edit.start, j + size)
                    if insertion and _insertion_place(i, j) != edit.start:
                        continue
                    if a in self.steps and b in self.steps and tuple(self.output[j : j + size]) == correction:
                        fewest = self._unchanged_between(a, b)
                        if fewest is not None and fewest <= unchanged:
                            found.add((a, b))
        return found

    def _unchanged_between(self, a: Vertex, b: Vertex) -> int | None:
        """The fewest unchanged words on a path from a to b that changes something; None without such a path."""
        fewest: dict[tuple[Vertex, bool], int] = {(a, False): 0}
        for i in range(a[0], b[0] + 1):
            for j in range(a[1], b[1] + 1):
                for step, changed in self.steps.get((i, j), {}).items():
                    for already in (False, True):
                        if (step, already) in fewest:
                            key = ((i, j), already or changed)
                            words = fewest[step, already] + (not changed)
                            fewest[key] = min(words, fewest.get(key, words))
        return fewest.get((b, True))


def _shortest_steps(
    source: list[str], output: list[str], substitution: int
) -> Iterable[tuple[Vertex, dict[Vertex, bool]]]:
    """Each vertex of a shortest edit script with the steps that lead to it."""
    ahead = _distances(source, output, substitution)
    behind = _distances(source[::-1], output[::-1], substitution)
    n, m = len(source), len(output)
    for i in range(n + 1):
        for j in range(m + 1):
            here = ahead[i][j]
            if here + behind[n - i][m - j] != ahead[n][m]:
                continue
            before: dict[Vertex, bool] = {}
            if i and ahead[i - 1][j] + 1 == here:
                before[i - 1, j] = True
            if j and ahead[i][j - 1] + 1 == here:
                before[i, j - 1] = True
            if i and j:
                changed = source[i - 1] != output[j - 1]
                if ahead[i - 1][j - 1] + substitution * changed == here:
                    before[i - 1, j - 1] = changed
            yield (i, j), before


def _distances(source: list[str], output: list[str], substitution: int) -> list[list[int]]:
    """The edit distances of all prefixes: insertions and deletions cost 1, a substitution 1 or 2."""
    rows = [list(range(len(output) + 1))]
    for i, word in enumerate(source, start=1):
        above, row = rows[-1], [i]
        for j, other in enumerate(output):
            row.append(above[j] if word == other else min(row[-1] + 1, above[j + 1] + 1, above[j] + substitution))
        rows.append(row)
    return rows


def chosen(values: Sequence[Sequence[float]]) -> list[int]:
    """Which annotator counts for each sentence, from flat lists of all annotators' [correct, proposed, gold].

    In order of the sentences the annotator is taken with whom the F0.5 of all sentences so far is highest; ties: more
    correct edits, then the lower proposed + 0.25 gold, then the first. So the order of the sentences has a say.
    """
    places = []
    total = [0.0, 0.0, 0.0]
    for flat in values:  # plain numbers: this is done for each sentence of each model, and arrays of three are slow
        reached = [
            [total[0] + c, total[1] + p, total[2] + g]
            for c, p, g in zip(*(flat[at::3] for at in range(3)), strict=True)
        ]
        best = 0
        if len(reached) > 1:
            keys = [(_f_score(c, p, g), c, -(p + BETA**2 * g)) for c, p, g in reached]
            best = keys.index(max(keys))
        places.append(best)
        total = reached[best]
    return places


def _f_score(correct: float, proposed: float, gold: float) -> float:
    """`f_score` of one sum, by the same steps."""
    p = correct / proposed if proposed > 0 else 1.0
    r = correct / gold if gold > 0 else 1.0
    below = BETA**2 * p + r
    return (1 + BETA**2) * p * r / below if below > 0 else 0.0


def select(values: Sequence[Sequence[float]]) -> Floats:
    """The chosen annotator's [correct, proposed, gold] of each sentence, (n, 3).

    A bootstrap draws these rows: the choice is made once, on the sentences as they are, and stays as it is in every
    replicate (the signature says so). Chosen anew, a replicate would gain from its own luck.
    """
    rows = [flat[3 * place : 3 * place + 3] for flat, place in zip(values, chosen(values), strict=True)]
    return np.asarray(rows, float).reshape(-1, 3)


class TypeRecall(NamedTuple):
    """How many gold edits of a type there are with the chosen annotators, and how many of them the output has."""

    gold: int
    correct: int


def recall_by_type(
    sentences: Sequence[tuple[Sequence[str], Sequence[str], Sequence[Sequence[Edit]]]], unchanged: int = MAX_UNCHANGED
) -> dict[str, TypeRecall]:
    """Each type's recall over (source tokens, output tokens, annotators' edits), by type name.

    The annotators are those that `select` chooses, and correct edits those that `counts` counts, so that the types sum
    up to the corpus' correct and gold edits.
    """
    choice = chosen([np.ravel(counts(source, output, gold, unchanged)).tolist() for source, output, gold in sentences])
    table: dict[str, list[int]] = {}
    for (source, output, gold), place in zip(sentences, choice, strict=True):
        edits = gold[place]
        same = list(source) == list(output)
        found = set() if same else _correct(_Lattice(source, output).best_edits(edits, unchanged), edits)
        for number, edit in enumerate(edits):
            row = table.setdefault(edit.kind, [0, 0])
            row[0] += 1
            row[1] += number in found
    return {kind: TypeRecall(*table[kind]) for kind in sorted(table)}


def changes(source: Sequence[str], output: Sequence[str]) -> list[Proposed]:
    """What turns the source into the output: (start, end, correction) without unchanged words, as few as can be."""
    return [] if list(source) == list(output) else _Lattice(source, output).best_edits([], 0)


def edits_of_correction(source: Sequence[str], correction: Sequence[str], annotator: int) -> list[dict[str, Any]]:
    """Gold edits {annotator, start, end, type, corrections} from a corrected sentence; noop where nothing differs.

    Types are R, M (the source misses it) and U (it is unnecessary); differing words say no more.
    """
    rows = []
    for start, end, words in changes(source, correction):
        kind = "M" if start == end else "R" if words else "U"
        rows.append(_row(annotator, start, end, kind, [" ".join(words)]))
    return rows or [_row(annotator, -1, -1, "noop", [""])]


def _row(*values: Any) -> dict[str, Any]:
    return dict(zip(FIELDS, values, strict=True))


def precision(statistics: ArrayLike) -> Floats:
    """Summed [correct, proposed, gold] (..., 3) to precision; 1 where nothing is proposed."""
    summed = np.asarray(statistics, float)
    return _share(summed[..., 0], summed[..., 1])


def recall(statistics: ArrayLike) -> Floats:
    """Summed [correct, proposed, gold] (..., 3) to recall; 1 where there is nothing to correct."""
    summed = np.asarray(statistics, float)
    return _share(summed[..., 0], summed[..., 2])


def _share(part: Floats, whole: Floats) -> Floats:
    share: Floats = np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
    return share


def f_score(statistics: ArrayLike) -> Floats:
    """Summed [correct, proposed, gold] (..., 3) to F0.5 = (1 + β²)PR / (β²P + R), 0 to 1."""
    p, r = precision(statistics), recall(statistics)
    below = BETA**2 * p + r
    score: Floats = np.divide((1 + BETA**2) * p * r, below, out=np.zeros_like(below), where=below > 0)
    return score


def edits_per_100(statistics: ArrayLike) -> Floats:
    """Summed [changes, source tokens] (..., 2) to changes per 100 source tokens; 0 without tokens."""
    summed = np.asarray(statistics, float)
    rate: Floats = np.divide(
        100 * summed[..., 0], summed[..., 1], out=np.zeros_like(summed[..., 0]), where=summed[..., 1] > 0
    )
    return rate


def signature(tokens: str = "projected") -> str:
    """What fixes the metric beside the data. `tokens`: how an output is cut into words."""
    return (
        f"maxmatch|beta:{BETA}|unchanged:{MAX_UNCHANGED}|pseudo:R:WO|annotator:cumulative,fixed-in-bootstrap|"
        f"tok:{tokens}|version:3"
    )


def words_signature() -> str:
    """The signature with EstNLTK's words, and with its version: a tokeniser is part of a score."""
    return signature(f"estnltk-words-{version('estnltk')}" if lemmas.installed() else "estnltk-words")


METRICS = (
    *(
        Metric(name, kind="corpus", signature=signature, prepare=select, combine=combine)
        for name, combine in (("f0.5", f_score), ("gec_precision", precision), ("gec_recall", recall))
    ),
    Metric(
        "f0.5_words",
        kind="corpus",
        signature=words_signature,
        prepare=select,
        combine=f_score,
        missing=lemmas.MISSING,
    ),
    Metric(
        "gec_edits_per_100",
        unit="points",
        kind="corpus",
        higher_is_better=False,
        signature=lambda: "contiguous-changes|tok:projected|version:1",
        combine=edits_per_100,
    ),
    Metric("gec_exact"),
    Metric("gec_similarity", kind="mean"),
)
