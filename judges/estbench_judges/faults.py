"""What is wrong with a judge, from its verdicts: position, length, collapse, family, failures.

    for fault in diagnose(Evidence("judge", models, prompts, first, second, words=words, others=others, …)):
        print(fault.name, fault.size, fault.words)

Each check has a threshold for what matters and asks for certainty beyond chance; all five together raise an alarm for
at most one in twenty judges without a fault. `severity` is "doubt" where what was seen may be real quality: longer
answers may be better ones, and only people or other judges can tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from estbench.stats import Interval, proportion_interval
from estbench.stats.distributions import t_bound, t_tail
from estbench.stats.intervals import Floats
from estbench_judges.battles import Battles, position_difference, subset, swap_scores
from estbench_judges.panel import kin

Name = Literal["position", "length", "collapse", "family", "failures"]
Severity = Literal["fault", "doubt"]

CHANCE = 0.01  # p-value of an alarm: five questions, so 5 % of judges without a fault
POSITION = 0.05  # P(first wins) − P(second wins); strong judges stay below on clear pairs (arXiv 2406.07791)
LENGTH = 0.05  # score per doubling: more than separates two neighbours on a board of 300 prompts
ONE_LABEL = 0.9  # share of all games with one verdict (first, second, tie): less than a tenth is left to tell models by
FIRST_TWICE = 0.5  # share of prompts won by the same place in both orders: most verdicts say nothing of the answers
FAMILY = 0.05  # score of its kin beyond the others' judgment, as for length
FAILURES = 0.02  # share of calls: with more, the bounds of a win rate are wider than what models differ by
LEAST_GAMES = 40  # below, nothing is said of collapse and failures
LEAST_ROWS = 100  # rows with a reference for it to be one, and on either side of a comparison of families


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All verdicts of one judge; a row is one model's answer to one prompt against the anchor's. Only rows on which the
    judge was called, in both orders. ValueError: lengths that differ."""

    judge: str
    models: Sequence[str]  # (n,)
    prompts: Sequence[Hashable]  # (n,): the clusters
    first: Floats  # (n,) the model's score 0 to 1 in the game in which it stood first; nan: no valid verdict
    second: Floats  # (n,) the same with the answers swapped
    words: Floats | None = None  # (n, 2): how long the model's answer and the anchor's are
    anchor: str | None = None  # the anchor's name, where it may be a relative
    human: Floats | None = None  # (n,): people's scores of the same, nan where there are none
    others: Floats | None = None  # (judges, n): other judges' swap scores, nan where there are none
    other_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        n = len(self.first)
        arrays = (self.second, self.words, self.human)
        lengths = {n, len(self.models), len(self.prompts), *(len(one) for one in arrays if one is not None)}
        if len(lengths) > 1 or (self.words is not None and self.words.shape != (n, 2)):
            raise ValueError("each row has a model, a prompt, two verdicts, two lengths and at most one human score")
        others = (0, n) if self.others is None else self.others.shape
        if others != (len(self.other_names), n):
            raise ValueError("one row of scores for each other judge, and one column for each of the rows")

    @property
    def battles(self) -> Battles:
        """The verdicts alone."""
        return Battles(self.first, self.second)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a judge."""

    name: Name
    size: float  # a difference of shares, score per doubling of length, a share; see `diagnose`
    low: float  # 95 % interval
    high: float
    words: str
    severity: Severity  # doubt: it may be real


def diagnose(evidence: Evidence) -> list[Fault]:
    """The faults that the verdicts show, none where there is nothing to be seen.

    position    P(first wins) − P(second wins); beyond ±.05
    length      score per doubling of the length ratio, beyond what people (or the other judges) say of the same
                answers; without them the plain slope within models, in "doubt". Beyond ±.05
    collapse    share of all games with one verdict (above 90 %), or of prompts where the same place wins in both orders
                (above 50 %). A judge that collapsed is not asked for position and length again
    family      score of relatives beyond what people (or the other judges) say of them, over the same of other models,
                at equal length; above .05. Where all models are relatives it may be leniency towards all: in "doubt"
    failures    share of calls without a valid verdict; above 2 %
    """
    found = [_collapse(evidence)]
    if found == [None]:
        position = _position(evidence)
        found += [position, *_preferences(evidence, position.size if position else 0.0)]
    found.append(_failures(evidence))
    return [fault for fault in found if fault]


def _collapse(evidence: Evidence) -> Fault | None:
    sides = np.sign(np.concatenate([evidence.first, 1 - evidence.second]) - 0.5)  # 1: the first place won
    valid = np.isfinite(sides)
    if valid.sum() < LEAST_GAMES:
        return None
    by_prompt = subset([*evidence.prompts, *evidence.prompts], valid)
    side, words = max(((1.0, "A"), (-1.0, "B"), (0.0, "a tie")), key=lambda one: int((sides == one[0]).sum()))
    share = proportion_interval(sides[valid] == side, by_prompt)
    if share.value is not None and share.low is not None and share.low > ONE_LABEL:
        found = _shown("collapse", share, f"{share.value:.0%} of all verdicts are {words}, whatever the answers")
        return found if side else dataclasses.replace(found, severity="doubt")  # the answers may be that much alike
    both = sides.reshape(2, -1)[:, evidence.battles.paired]
    if not side or both.shape[1] < LEAST_GAMES // 2:
        return None
    twice = proportion_interval((both == side).all(axis=0), subset(evidence.prompts, evidence.battles.paired))
    if twice.value is None or twice.low is None or twice.low <= FIRST_TWICE:
        return None
    return _shown("collapse", twice, f"{words} wins in both orders on {twice.value:.0%} of the prompts")


def _position(evidence: Evidence) -> Fault | None:
    found = position_difference(evidence.battles, evidence.prompts)
    low, high = found.interval()
    if found.value is None or low is None or high is None:
        return None
    if abs(found.value) <= POSITION or found.p_value() >= CHANCE:
        return None
    place = "first" if found.value > 0 else "second"
    words = f"the answer that stands {place} wins {abs(found.value):.0%} of games more often than the other"
    return Fault("position", found.value, low, high, words, "fault")


def _failures(evidence: Evidence) -> Fault | None:
    failed = ~np.isfinite(np.concatenate([evidence.first, evidence.second]))
    if len(failed) < LEAST_GAMES:
        return None
    share = proportion_interval(failed, [*evidence.prompts, *evidence.prompts])
    if share.value is None or share.low is None or share.low <= FAILURES:
        return None
    return _shown("failures", share, f"{share.value:.1%} of calls have no valid verdict; they are missing, not scored")


def _shown(name: Name, share: Interval, words: str) -> Fault:
    low, high = (math.nan if end is None else end for end in (share.low, share.high))
    return Fault(name, math.nan if share.value is None else share.value, low, high, words, "fault")


def _preferences(evidence: Evidence, bias: float) -> list[Fault | None]:
    """Length and family from one regression, so that one is not taken for the other where relatives write longer.

    With a reference its scores are taken off the judge's: as a regressor its noise would leave a part of the true
    quality to length (errors in variables). A judge that goes by position in a share of games, its position `bias`, has
    swap scores that much closer to .5: they are stretched back, or weak models would seem to be preferred.
    """
    scores = 0.5 + (swap_scores(evidence.battles) - 0.5) / (1 - min(abs(bias), 0.9))
    references, whose = _references(evidence)
    if not references:
        doublings = _doublings(evidence)
        within = doublings - _means(doublings, evidence.models)
        plain = _slopes(scores - _means(scores, evidence.models), [within], evidence.prompts)
        return [_length(plain[1], "", "it may be real, labels of people or other judges would tell")] if plain else []
    found = [_against(evidence, scores - reference) for reference in references]
    length, family, whole = (
        _middle([slopes[name] for slopes in found if name in slopes]) for name in ("length", "family", "all")
    )
    doubt = "" if len(references) > 1 or evidence.human is references[0] else "it may be the other judge's fault"
    lenient = doubt
    if not family and (_kinship(evidence) == 1).all():
        family, lenient = whole, "it may be as lenient with others, there are none here"
    return [
        _length(length, f" beyond what {whose}", doubt) if length else None,
        _family(family, whose, lenient) if family else None,
    ]


def _against(evidence: Evidence, apart: Floats) -> dict[str, _Slope]:
    """How scores less those of a reference (n,) go: "all", by "length" and by "family", where each can be told."""
    doublings, kinship = _doublings(evidence), _kinship(evidence)
    columns, names = [], ["all"]
    if np.isfinite(doublings).any():
        columns, names = [doublings], ["all", "length"]
    sides = [int((np.isfinite(apart) & (kinship == side)).sum()) for side in np.unique(kinship)]
    if len(sides) > 1 and sorted(sides)[-2] >= LEAST_ROWS:
        columns, names = [*columns, kinship], [*names, "family"]
    return dict(zip(names, _slopes(apart, columns, evidence.prompts), strict=False))


def _middle(slopes: Sequence[_Slope]) -> _Slope | None:
    """The median of a judge's slopes against each of several others and against itself (0): one bad judge among the
    others does not make this one look bad. Of two in the middle the one closer to 0. None: it is 0."""
    if len(slopes) < 2:
        return next(iter(slopes), None)
    ordered = sorted([_Slope(0.0, 0.0, 0.0), *slopes], key=lambda one: one.value)
    half = (len(ordered) - 1) // 2
    middle = min(ordered[half : len(ordered) - half], key=lambda one: abs(one.value))
    return middle if middle.error else None


@dataclass(frozen=True, slots=True)
class _Slope:
    value: float
    error: float
    freedom: float

    def surely_beyond(self, size: float) -> bool:
        """Whether it is larger than `size`, and not 0."""
        return abs(self.value) > size and 2 * t_tail(abs(self.value) / self.error, self.freedom) < CHANCE

    def ends(self) -> tuple[float, float]:
        """The 95 % interval."""
        half = t_bound(self.freedom, 0.025) * self.error
        return self.value - half, self.value + half


def _length(slope: _Slope, beyond: str, doubt: str) -> Fault | None:
    if not slope.surely_beyond(LENGTH):
        return None
    words = f"each doubling of the length adds {slope.value:+.2f} to the score{beyond}"
    return _worded("length", slope, words, doubt)


def _family(slope: _Slope, whose: str, doubt: str) -> Fault | None:
    if not (slope.value > 0 and slope.surely_beyond(FAMILY)):
        return None
    return _worded("family", slope, f"models of its own family get {slope.value:+.2f} beyond what {whose}", doubt)


def _worded(name: Name, slope: _Slope, words: str, doubt: str) -> Fault:
    return Fault(
        name, slope.value, *slope.ends(), f"{words}; {doubt}" if doubt else words, "doubt" if doubt else "fault"
    )


def _doublings(evidence: Evidence) -> Floats:
    """(n,): log2 of the model's length over the anchor's, one word added to both; nan: not known."""
    if evidence.words is None:
        return np.full(len(evidence.first), np.nan)
    return np.asarray(np.diff(-np.log2(evidence.words + 1), axis=1)[:, 0], float)


def _kinship(evidence: Evidence) -> Floats:
    """(n,): 1 the model is a relative of the judge, −1 the anchor is, 0 none or both."""
    related = {model: kin(evidence.judge, model) for model in set(evidence.models)}
    anchor = evidence.anchor is not None and kin(evidence.judge, evidence.anchor)
    return np.array([related[model] for model in evidence.models], float) - float(anchor)


def _references(evidence: Evidence) -> tuple[list[Floats], str]:
    """What the answers are worth by others: people where they rated enough, or else each other judge that did. The
    judge's relatives are no reference."""
    if evidence.human is not None and np.isfinite(evidence.human).sum() >= LEAST_ROWS:
        return [evidence.human], "people say"
    scores = np.zeros((0, 0)) if evidence.others is None else evidence.others
    named = [
        (name, own)
        for name, own in zip(evidence.other_names, scores, strict=True)
        if not kin(evidence.judge, name) and np.isfinite(own).sum() >= LEAST_ROWS
    ]
    whose = f"{named[0][0]} says" if len(named) == 1 else "the other judges say"
    return [own for _, own in named], whose


def _means(values: Floats, models: Sequence[str]) -> Floats:
    """(n,): the mean of each row's model over the rows that are known."""
    _, codes = np.unique(np.asarray(models, str), return_inverse=True)
    known = np.isfinite(values)
    counts = np.bincount(codes[known], minlength=int(codes.max(initial=0)) + 1)
    sums = np.bincount(codes[known], values[known], minlength=len(counts))
    return np.asarray((sums / np.maximum(counts, 1))[codes], float)


def _slopes(values: Floats, columns: Sequence[Floats], prompts: Sequence[Hashable]) -> list[_Slope]:
    """Least squares of `values` on a constant (the first slope) and the columns, over rows that are known, with
    cluster-robust errors (Liang & Zeger 1986; CR1, t with G − 1). Nothing where there are too few rows, or columns that
    don't vary."""
    table = np.column_stack([np.ones(len(values)), *columns])
    kept = np.isfinite(values) & np.isfinite(table).all(axis=1)
    x, y = table[kept], values[kept]
    n, k = x.shape
    if n < LEAST_ROWS or np.linalg.matrix_rank(x) < k:
        return []
    seen: dict[Hashable, int] = {}
    codes = np.array([seen.setdefault(name, len(seen)) for name in subset(prompts, kept) or ()], np.intp)
    if len(seen) < 2:
        return []
    inverse = np.linalg.inv(x.T @ x)
    at = inverse @ x.T @ y
    scores = np.zeros((len(seen), k))
    np.add.at(scores, codes, x * (y - x @ at)[:, None])
    adjusted = len(seen) / (len(seen) - 1) * (n - 1) / (n - k)
    errors = np.sqrt(np.diag(inverse @ scores.T @ scores @ inverse) * adjusted)
    freedom = len(seen) - 1
    return [_Slope(float(value), max(float(error), 1e-12), freedom) for value, error in zip(at, errors, strict=True)]
