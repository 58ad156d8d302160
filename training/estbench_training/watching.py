"""Does training cost a language? A gate over the evaluations of a training run, by default an advisor.

    measured = {"en": measure(candidate, baseline, ("belebele_en", "winogrande_en"))}
    look = judge(settings, measured, place, planned, before)    # the tests of one of the planned evaluations
    look.found, look.confirmed                                  # languages that fell; that had been found before

Each evaluation is compared with the same baseline on the same documents, language by language (the mean of its tasks).
A language is *found* to have fallen if that is significant and more than the margin, and it *counts* once the next
evaluation confirms it.

One alpha for all: Holm's procedure over the languages, and of what a language gets each evaluation may use what the
spending function adds at its place (Lan & DeMets 1983), as a level of its own. These levels sum to alpha, which bounds
false alarms whatever the correlation of the points (Boole's inequality). The sharper boundaries of
`estbench.stats.sequential.nominal_levels` are not used: they are for documents that add up from look to look
(independent increments), and here all points share documents and baseline while the weights move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from estbench.compare import compare_task, problems
from estbench.errors import ConfigError
from estbench.stats import Difference, pooled
from estbench.stats.families import step_down
from estbench.stats.paired import widened
from estbench.stats.sequential import Spending, spent

if TYPE_CHECKING:
    from estbench.evidence import Evidence
    from estbench.registry import Task

NAMES = {"et": "Estonian", "en": "English"}  # what is watched unless the settings say otherwise
MISSING = 0.02  # share of documents without a response beyond which a task says nothing
REPLICATES = 2000  # of the bootstrap of corpus metrics


@dataclass(frozen=True)
class GateSettings:
    """What is watched while a model is trained.

    mode: advise only says it, stop ends the training. languages: of each language its tasks (they are evaluated, too);
    default is et and en, with the tasks of each among those that are evaluated. baseline: `start`, the model that the
    training starts from, or a run, a baseline's name, file or address. margin: points that a language may fall. noise:
    standard deviation in points of a language's score from checkpoint to checkpoint, beyond the choice of documents
    (`estbench gate noise`). alpha: the chance that a training that costs nothing is found to cost something, over all
    its evaluations and languages. spending: how alpha is spread over the evaluations.
    """

    mode: Literal["advise", "stop"] = "advise"
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    baseline: str = "start"
    margin: float = 1.0
    noise: float = 0.5
    alpha: float = 0.05
    spending: Spending = "linear"

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.5:
            raise ConfigError(f"alpha: {self.alpha:g} has to be above 0 and at most 0.5.")
        for name in ("margin", "noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name):g} has to be 0 or more points.")
        if empty := [language for language, tasks in self.languages.items() if not tasks]:
            raise ConfigError(f"languages: {empty[0]} has no tasks.")


@dataclass(frozen=True)
class Reading:
    """A language at one evaluation against its baseline. value: points, below 0 where it fell; p: one-sided, of "it did
    not fall"; n: documents; level: what p had to reach."""

    value: float
    p: float
    n: int
    level: float
    found: bool


@dataclass(frozen=True)
class Look:
    """What one evaluation says. found: languages that fell; confirmed: that had been found at the evaluation before."""

    place: int  # among the planned evaluations, from 0
    readings: Mapping[str, Reading]
    confirmed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()  # found at the evaluation before, and not confirmed

    @property
    def found(self) -> tuple[str, ...]:
        """The languages that fell."""
        return tuple(language for language, reading in self.readings.items() if reading.found)

    def to_row(self) -> dict[str, Any]:
        """As JSON has it."""
        readings = {language: vars(reading) for language, reading in self.readings.items()}
        return {"place": self.place, "readings": readings, "confirmed": self.confirmed, "dropped": self.dropped}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Look:
        """What `to_row` made."""
        readings = {language: Reading(**reading) for language, reading in row["readings"].items()}
        return cls(row["place"], readings, tuple(row["confirmed"]), tuple(row["dropped"]))


def languages_of(settings: GateSettings, tasks: Sequence[Task]) -> dict[str, tuple[str, ...]]:
    """The tasks of each language that is watched; ConfigError for a language without one. tasks: all that are
    evaluated, those of `settings.languages` among them. Tasks measured in bits have no points, and are not watched."""
    if settings.languages:
        bits = {task.name for task in tasks if task.unit == "bits"}
        for named in settings.languages.values():
            if wrong := [name for name in named if name in bits]:
                raise ConfigError(f"gate: {wrong[0]} is measured in bits and not in points: name other tasks.")
        return dict(settings.languages)
    of = {
        language: tuple(
            task.name for task in tasks if task.metadata.get("language") == language and task.unit != "bits"
        )
        for language in NAMES
    }
    if lacking := [language for language, names in of.items() if not names]:
        raise ConfigError(
            f"gate: none of the tasks is in {lacking[0]}: add one to tasks, or say what is watched, for instance "
            "languages: {et: [belebele_et], en: [belebele_en]}."
        )
    return of


def measure(candidate: Evidence, baseline: Evidence, tasks: Sequence[str], noise: float = 0.0) -> Difference | None:
    """The paired difference of the mean of tasks in points, above 0 where the candidate is better; None where nothing
    can be said. noise: standard deviation in points of one checkpoint, beyond the choice of documents."""
    parts, scales = [], []
    for task in tasks:
        if not all(_answered(run, task) for run in (candidate, baseline)):
            return None
        row = compare_task(candidate, baseline, task, replicates=REPLICATES)
        if row.difference.value is None or row.difference.error is None:
            return None
        parts.append((row.difference, 1.0))
        scales.append(row.scale)
    return widened(pooled(parts, scales), math.sqrt(2) * noise)


def _answered(run: Evidence, task: str) -> bool:
    """Whether a task is there, and next to all of its documents have a response."""
    if task not in run.tasks:
        return False
    items = run.items(task)
    return bool(items.docs) and items.errors <= MISSING * (len(items.docs) + items.errors)


def comparable(candidate: Evidence, baseline: Evidence, languages: Mapping[str, Sequence[str]]) -> str | None:
    """Why the two can't be compared (another engine, dtype, prompts, documents), in words; None: they can."""
    both = [
        task for tasks in languages.values() for task in tasks if task in candidate.tasks and task in baseline.tasks
    ]
    found = problems(candidate, baseline, both, least_overlap=1 - MISSING)
    return "; ".join(map(str, found[:2])) or None


def judge(
    settings: GateSettings, measured: Mapping[str, Difference], place: int, planned: int, before: Look | None = None
) -> Look:
    """The tests of one evaluation. place: among `planned` evaluations, from 0. before: the one that was judged last;
    what was left for evaluations in between that failed is there to be used."""
    earlier, now = (0.0 if before is None else (before.place + 1) / planned), (place + 1) / planned

    def level(alpha: float) -> float:
        return spent(alpha, now, settings.spending) - spent(alpha, earlier, settings.spending)

    p_values = {language: one.p_below() for language, one in measured.items()}
    shares = [1.0] * len(measured)
    rejected = step_down(list(p_values.values()), shares, settings.alpha, level) if measured else []
    readings: dict[str, Reading] = {}
    confirmed: list[str] = []
    dropped: list[str] = []
    for (language, one), significant in zip(measured.items(), rejected, strict=True):
        value, p = float(one.value or 0.0), p_values[language]
        fell = value < -settings.margin
        own = level(settings.alpha / len(measured))
        readings[language] = Reading(value, p, one.n, own, significant and fell)
        if before is not None and language in before.found:  # a finding is tested once more, and by itself
            (confirmed if fell and p <= settings.alpha else dropped).append(language)
    return Look(place, readings, tuple(confirmed), tuple(dropped))


def in_words(look: Look) -> str:
    """What is to be said of a look; empty where nothing is."""
    fresh = [language for language in look.found if language not in look.confirmed]
    lines = [
        *(f"{_shown(look, language)}: confirmed" for language in look.confirmed),
        *(f"{_shown(look, language)}: not confirmed, and dropped" for language in look.dropped),
        *(f"{_shown(look, language)}: to be confirmed by the next evaluation" for language in fresh),
    ]
    return "; ".join(lines)


def _shown(look: Look, language: str) -> str:
    reading = look.readings[language]
    numbers = f"p = {reading.p:.2g}, level {reading.level:.2g}, n = {reading.n:,}"
    return f"{NAMES.get(language, language)} {reading.value:+.1f} points ({numbers})"
