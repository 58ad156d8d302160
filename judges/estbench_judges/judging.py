"""A run's answers to votes, and votes to one value a document.

    given = assign(run, "estinstruct_chat", Wishes())          # what is judged, how, against whom
    judged = judge(given, judges, say=say, progress=progress)  # every vote; `judged.panel` is a value a document

What needs no judge gets no call: an empty, looping or foreign answer (`screens`) scores 0, one that is word for word
the anchor's is a tie. A document without a response, or without enough valid votes, has no value: it is missing, and
reports say how much that could change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from estbench import identity
from estbench.answering import Progress, Say, silent
from estbench.errors import ConfigError
from estbench.runs import Run, find_run
from estbench.stats.intervals import Floats
from estbench_judges import battles, items, ledger, panel, rubrics, screens
from estbench_judges.asking import Sampling, Vote, ask
from estbench_judges.items import Item
from estbench_judges.judges import Judge
from estbench_judges.rendering import Case
from estbench_judges.rubrics import Rubric

SET = "set"  # the anchor: the prompt set's own answers
SAME = "same as the anchor's"
NO_ANCHOR = "no answer of the anchor"
OWN = {"checklist": "instruction_following", "equivalence": "equivalence"}  # a mode's usual rubric
ORDERS = ("model", "anchor")  # who stands first


@dataclass(frozen=True)
class Wishes:
    """How a task is judged, where that is not as its card says."""

    rubric: str | None = None
    mode: str | None = None
    anchor: str = SET
    language: str = "et"
    reasons: bool = True
    repeats: int = 1
    temperature: float = 0.0
    structured: bool = True
    least: int | None = None  # valid votes that a document needs; more than half of the panel if not given
    data: Path | None = None


@dataclass(frozen=True)
class Assignment:
    """What is judged."""

    run: Run
    task: str
    rubric: Rubric
    mode: str
    items: list[Item]  # those that this rubric and mode can be used on
    left_out: dict[str, int]  # why others can't be judged -> how many
    anchor: str  # "set", or the id of a run; "" where there is none
    anchors: Mapping[str, tuple[str, ...]]  # row hash -> the anchor's answers
    wishes: Wishes
    fixed: Mapping[int, tuple[float, str]]  # doc_id -> value and why no judge is asked

    @cached_property
    def metric(self) -> str:
        """`win_rate`, or `win_rate/language_quality` where that is not what the task is ranked by."""
        name = rubrics.METRICS[self.mode]
        own = items.card_of(self.run, self.task).metadata.get("judge") or {}
        usual = own.get("rubric") if self.mode in ("pairwise", "pointwise") else OWN[self.mode]
        return name if usual == self.rubric.name else f"{name}/{self.rubric.name}"

    @property
    def asked(self) -> list[Item]:
        """The items that judges are asked about."""
        anchored = self.anchors if self.mode == "pairwise" else {one.doc for one in self.items}
        return [one for one in self.items if one.answered and one.doc_id not in self.fixed and one.doc in anchored]

    def cases(self, label: bool = False) -> dict[str, tuple[Case, int]]:
        """Name -> case and seed; label: digits alone, for their log-probabilities."""
        found = {}
        for item in self.asked:
            for first in ORDERS if self.mode == "pairwise" else ("-",):
                for repeat in range(self.wishes.repeats):
                    case = self.case(item, first, label)
                    found[f"{item.doc_id}/{first}/{repeat}"] = (case, repeat)
        return found

    def case(self, item: Item, first: str = "-", label: bool = False) -> Case:
        """One question about an item."""
        pair = self.mode == "pairwise"
        return Case(
            item,
            self.rubric,
            self.mode,
            self.wishes.language,
            self.wishes.reasons and not label,
            self.anchors[item.doc] if pair else (),
            first if pair else "model",
            label,
        )


def assign(run: Run, task: str, wishes: Wishes) -> Assignment:
    """What a task's answers are judged by. ConfigError where they can't be judged so."""
    if run.manifest["slice"]:
        raise ConfigError(f"{run.id} is a slice: `estbench runs import` makes the whole run, which can be judged.")
    given = items.card_of(run, task).metadata.get("judge") or {}
    rubric = rubrics.load(wishes.rubric or given.get("rubric") or _without_rubric(task))
    usual = given.get("mode") if given.get("rubric") == rubric.name else rubric.modes[0]
    mode = wishes.mode or str(usual)
    if mode not in rubric.modes:
        raise ConfigError(f"The rubric {rubric.name} has no mode {mode!r}; it has {', '.join(rubric.modes)}.")
    whole = items.read(run, task, wishes.data)
    anchor, anchors = _anchor(run, whole, wishes, task) if mode == "pairwise" else ("", {})
    kept, left_out = [], dict[str, int]()
    for item in whole:
        if why := _unfit(item, rubric, mode):
            left_out[why] = left_out.get(why, 0) + 1
        else:
            kept.append(item)
    if lost := sum(mode == "pairwise" and item.doc not in anchors for item in kept):
        left_out[NO_ANCHOR] = lost  # these stay in the plan: they are missing, not out of the question
    if not kept:
        raise ConfigError(f"{task} can't be judged by {rubric.name} in mode {mode}: {', '.join(left_out)}.")
    known = [one for one in kept if mode != "pairwise" or one.doc in anchors]
    fixed = {one.doc_id: found for one in known if (found := _fixed(one, anchors.get(one.doc)))}
    return Assignment(run, task, rubric, mode, kept, left_out, anchor, anchors, wishes, fixed)


def _without_rubric(task: str) -> str:
    raise ConfigError(f"{task} does not say what it is judged by: rubric= is one of {', '.join(rubrics.names())}.")


def _unfit(item: Item, rubric: Rubric, mode: str) -> str:
    """Why a document is none of those that a rubric and mode are for; empty if it is one."""
    if (rubric.needs == "reference" or mode == "equivalence") and not item.reference:
        return "no reference"
    if rubric.needs == "two_turns" and len(item.turns) < 2:
        return "one turn only"
    return "no checklist" if mode == "checklist" and not any(item.checklists) else ""


def _anchor(run: Run, whole: Sequence[Item], wishes: Wishes, task: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The anchor's name and its answers by row hash."""
    if wishes.anchor == SET:
        found = {one.doc: one.anchors for one in whole if one.anchors}
        if not found:
            raise ConfigError(f"{task} has no answers of its own to compare with: anchor=RUN names a run that has it.")
        return SET, found
    other = Run(find_run(wishes.anchor))
    if other.id == run.id:
        raise ConfigError(f"anchor={wishes.anchor} is the run itself: it would be compared with its own answers.")
    given = {one.doc: one.answers for one in items.read(other, task, wishes.data) if one.answered}
    return other.id, given


def _fixed(item: Item, anchor: tuple[str, ...] | None) -> tuple[float, str] | None:
    """The value of an answer that no judge is asked about, and why."""
    if not item.answered:
        return None
    if anchor is not None and [one.strip() for one in item.answers] == [one.strip() for one in anchor]:
        return 0.5, SAME
    mine = screens.screen(item.answers, item.language)
    theirs = screens.screen(anchor, item.language) if anchor is not None else None
    if mine is None:
        return (1.0, f"anchor {theirs.reason}") if theirs is not None else None
    return (0.5 if theirs is not None else 0.0), mine.reason


class Who(Protocol):
    """A judge as its votes need it: one that was asked, or one that a run folder names."""

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str | None: ...

    @property
    def model_name(self) -> str: ...

    @property
    def response_id(self) -> str: ...

    def card(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Judged:
    """An assignment with all votes."""

    given: Assignment
    judges: Sequence[Who]
    votes: list[dict[str, Vote]]  # of each judge, by name of the case
    costs: list[ledger.Record] = field(default_factory=list)  # of each judge: what its calls have used

    @cached_property
    def games(self) -> list[battles.Battles]:
        """Pairwise: each judge's games, document by document; documents that no judge is asked about have none."""
        return [battles.Battles(self._column(one, "model"), self._column(one, "anchor")) for one in self.votes]

    @cached_property
    def table(self) -> Floats:
        """(judges, items): each judge's value of each item, 0 to 1; nan where it has none. What is fixed is the same
        for all judges."""
        pair = self.given.mode == "pairwise"
        rows = [battles.swap_scores(one) for one in self.games] if pair else [self._column(v, "-") for v in self.votes]
        table = np.array(rows, float)
        for place, item in enumerate(self.given.items):
            if item.doc_id in self.given.fixed:
                table[:, place] = self.given.fixed[item.doc_id][0]
        return table

    @cached_property
    def panel(self) -> Floats:
        """(items,): the median of the judges; nan where too few have a valid vote."""
        return panel.median(self.table, self.given.wishes.least)

    def _column(self, votes: Mapping[str, Vote], first: str) -> Floats:
        """(items,): the mean over repeats that have a verdict; nan where none has."""
        column = np.full(len(self.given.items), np.nan)
        for place, item in enumerate(self.given.items):
            named = (votes.get(f"{item.doc_id}/{first}/{repeat}") for repeat in range(self.given.wishes.repeats))
            scores = [vote.verdict.score for vote in named if vote is not None and vote.verdict is not None]
            if scores:
                column[place] = np.mean(scores)
        return column

    def mark(self, doc_id: int) -> str:
        """Hash of everything that was said of a document."""
        said = [
            [judge.response_id, name, [vote.verdict.score, vote.verdict.label] if vote.verdict else None]
            for judge, votes in zip(self.judges, self.votes, strict=True)
            for name, vote in sorted(votes.items())
            if vote.case.item.doc_id == doc_id
        ]
        fixed = self.given.fixed.get(doc_id)
        how = [self.given.rubric.hash, self.given.mode, self.given.wishes.least, self.given.anchor]
        return identity.digest([how, said, list(fixed) if fixed else None])[:16]

    @property
    def failed(self) -> int:
        """Calls that failed, so that asking again may help."""
        return sum(vote.failed for votes in self.votes for vote in votes.values())


def judge(
    given: Assignment,
    judges: Sequence[Judge],
    *,
    say: Say = silent,
    progress: Progress = silent,
    before: Callable[[Judge], None] = silent,
) -> Judged:
    """Ask every judge. before: called with each judge before it is asked (a budget that is shared)."""
    wishes = given.wishes
    sampling = Sampling(wishes.temperature, wishes.structured)
    if wishes.repeats > 1 and not wishes.temperature:
        raise ConfigError("repeats= asks a judge the same again, which makes sense with temperature= above 0 only.")
    votes, costs = [], []
    for one in judges:
        before(one)
        noted = one.engine.notes() if one.engine is not None else {}
        label = given.mode == "pointwise" and not wishes.temperature
        votes.append(ask(one, given.cases(label), sampling, say, progress))
        costs.append(ledger.used(noted, one.engine.notes() if one.engine is not None else {}))
    return Judged(given, list(judges), votes, costs)
