"""Deciding while it evaluates: at 10, 20, 40, 70 and 100 % of the documents, and stopping when the case is clear.

    found = run("out/step-2000", [("baseline", "main")], policy, "5000", asked, say)
    found.verdicts, found.looks           the verdict, and what each look cost

Documents come by the order of their hashes, so that each look is a random part. What looking several times costs is
paid for by alpha spending (`stats.sequential`): each look has a share of alpha, and of the doubt that a pass may have.
It stops early for a regression, and for a pass only where every blocking task passes by itself: a pool that passes
early says little about a single task.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from estbench import evidence
from estbench.errors import ConfigError
from estbench.evidence import Evidence
from estbench.gate import sources
from estbench.gate.policy import Policy
from estbench.gate.sources import Asked, Say
from estbench.gate.verdict import Nominal, Verdict, decide, obstacles, worst
from estbench.home import home
from estbench.stats.sequential import nominal_levels

ENDS = {"clear": "the case is clear", "the end": "all were seen", "budget": "the budget is used up"}
LEAST = 20  # documents of a task that a look needs


@dataclass(frozen=True, slots=True)
class Look:
    """One look: the share of documents that was seen, how many those are, what was decided."""

    share: float
    documents: int
    status: str


@dataclass(frozen=True, slots=True)
class Found:
    """Where it ended, and how it came there."""

    verdicts: list[Verdict]
    looks: list[Look]
    documents: int  # that all tasks have together
    stopped: str  # "clear", "the end", "budget"

    def as_json(self) -> dict[str, Any]:
        """For the report; `lines` is for people."""
        seen = self.looks[-1]
        less = f"{self.documents / max(1, seen.documents):.1f} times fewer than all {self.documents:,}"
        return {
            "looks": [dataclasses.asdict(look) for look in self.looks],
            "documents": self.documents,
            "stopped": self.stopped,
            "lines": ["", f"Stopped after {seen.documents:,} documents ({less}): {ENDS[self.stopped]}."],
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """What a sequential gate may use."""

    documents: int | None = None
    seconds: float | None = None

    @classmethod
    def read(cls, word: str) -> Budget:
        """`5000` documents, `30m` or `2h`, or `all`."""
        if word == "all":
            return cls()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|min|h|)", word.strip())
        if not found or float(found[1]) <= 0 or (not found[2] and "." in found[1]):
            raise ConfigError(f"budget={word} is neither documents (5000), minutes (30m), hours (2h), nor all.")
        if not found[2]:
            return cls(documents=int(found[1]))
        return cls(seconds=float(found[1]) * (3600 if found[2] == "h" else 60))


def steps(policy: Policy, budget: Budget, documents: int) -> tuple[float, ...]:
    """The shares at which to look: the policy's, cut where the documents of the budget end."""
    most = min(1.0, (budget.documents or documents) / max(1, documents))
    return (*(share for share in policy.looks if share < most), most)


def level_of(shares: Sequence[float], look: int) -> Nominal:
    """Of a level, what the look may spend: its nominal p-value."""

    def nominal(level: float) -> float:
        return nominal_levels(min(level, 0.5), tuple(shares))[look]

    return nominal


def at_look(policy: Policy, counts: dict[str, int]) -> Policy:
    """The policy of a look at a part: `minimum_n` asks about the whole task, whose number of documents is in counts."""
    rules = {}
    for task in {*policy.rules, *counts}:
        rule = policy.rule(task)
        least = rule.minimum_n or policy.minimum_n
        rules[task] = dataclasses.replace(rule, minimum_n=min(LEAST, least) if counts.get(task, 0) >= least else least)
    return dataclasses.replace(policy, rules=rules)


def is_clear(verdicts: Sequence[Verdict]) -> bool:
    """Whether more documents would not change the verdict."""
    if any(one.status == "regression" or _lacks(one) for one in verdicts):
        return True
    return all(
        one.status == "pass" and all(row.status == "pass" for row in one.tasks if row.blocking) for one in verdicts
    )


def _lacks(one: Verdict) -> bool:
    """Whether a blocking task is not there at all: more documents would not bring it."""
    return any(row.task not in one.candidate.tasks for row in one.of("not evaluated"))


Side = Callable[[float], Evidence]


def sequence(
    policy: Policy,
    shares: Sequence[float],
    candidate: Side,
    baselines: Sequence[tuple[str, Side]],
    counts: dict[str, int],
) -> Iterator[tuple[float, list[Verdict]]]:
    """The verdicts of each look, until the case is clear or the last share is reached. ConfigError where the runs are
    not comparable."""
    for place, share in enumerate(shares):
        now = candidate(share)
        verdicts = []
        for kind, side in baselines:
            own = at_look(policy if kind == "baseline" else policy.for_reference(), counts)
            before = side(share)
            if fatal := obstacles(own, now, before)[0]:
                raise sources.refusal(before, now, fatal)
            nominal, alpha = level_of(shares, place), policy.alpha / len(baselines)
            verdicts.append(decide(own, now, before, against=kind, alpha=alpha, nominal=nominal))
        yield share, verdicts
        if is_clear(verdicts):
            return


def run(
    word: str,
    against: Sequence[tuple[str, str]],
    policy: Policy,
    budget: str,
    asked: Asked,
    say: Say,
    database: str | None = None,
) -> Found:
    """Evaluate a model look by look and decide. ConfigError for a stored run, which has nothing left to evaluate."""
    limits, begun = Budget.read(budget), time.monotonic()
    if not sources.is_model(word):
        raise ConfigError(f"budget= needs a model to evaluate, and {word} is stored: leave budget= out.")
    stored = {name: evidence.load(name) for _, name in against if not sources.is_model(name)}
    like = next(iter(stored.values()), None)
    asked = dataclasses.replace(asked, like=like)
    with contextlib.ExitStack() as open_now:
        mine = open_now.enter_context(_Evaluation(word, asked, say))
        words = dict.fromkeys(name for _, name in against if name not in stored)
        others = {name: open_now.enter_context(_Evaluation(name, asked, say)) for name in words}
        sides = [(kind, _stored(stored[name]) if name in stored else others[name].at) for kind, name in against]
        shares = steps(policy, limits, mine.documents)
        looks: list[Look] = []
        verdicts: list[Verdict] = []
        stopped = "the end" if shares[-1] == 1 else "budget"
        for share, verdicts in sequence(policy, shares, mine.at, sides, mine.counts):
            looks.append(Look(share, mine.seen, worst(verdicts).status))
            say(f"{100 * share:.0f} % of documents ({mine.seen:,}): {looks[-1].status}")
            if is_clear(verdicts):
                stopped = "clear"
            elif limits.seconds and share < shares[-1]:
                following = shares[len(looks)]
                if (time.monotonic() - begun) * following / share > limits.seconds:
                    stopped = "budget"
                    break
        mine.index(database)
        return Found(verdicts, looks, mine.documents, stopped)


def _stored(whole: Evidence) -> Side:
    def at(share: float) -> Evidence:
        return whole

    return at


class _Evaluation:
    """A model that answers more and more of its documents; its engine stays loaded in between."""

    def __init__(self, model: str, asked: Asked, say: Say) -> None:
        from estbench import runner

        self.settings, self.say = asked.settings(model), say
        job = runner.prepare(self.settings, say)
        self.counts = {plan.card.name: len(plan.docs) for plan in job.plans}
        self.engine = _Kept(job.engine)
        self.last: Evidence | None = None
        self.made: set[str] = set()

    @property
    def documents(self) -> int:
        return sum(self.counts.values())

    @property
    def seen(self) -> int:
        assert self.last is not None
        return sum(card["n_planned"] for card in self.last.tasks.values())

    def at(self, share: float) -> Evidence:
        """The run of the first documents; that of an earlier look is removed."""
        from estbench import report, runner

        settings = dataclasses.replace(self.settings, share=share if share < 1 else None)
        job = runner.prepare(settings, self.say, engine=self.engine)
        there = {path.name for path in (home() / "runs").glob("*")}
        with report.ProgressBar() as bar:
            run = runner.evaluate(job, say=self.say, progress=bar)
        before, self.last = self.last, evidence.of_run(run)
        if before and before.run and before.id in self.made and before.id != run.id:
            shutil.rmtree(before.run.path)
        if run.id not in there:
            self.made.add(run.id)  # and not somebody's own run of as many documents
        return self.last

    def index(self, database: str | None) -> None:
        from estbench.commands import index

        if self.last and self.last.run:
            index(self.last.run, database)

    def close(self) -> None:
        self.engine.end()

    def __enter__(self) -> _Evaluation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Kept:
    """An engine that stays loaded when it is closed, until its end: a start of a server takes a minute."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._loaded = engine, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def load(self) -> None:
        if not self._loaded:
            self._engine.load()
            self._loaded = True

    def close(self) -> None:
        """Nothing: `end` does it."""

    def end(self) -> None:
        self._engine.close()
