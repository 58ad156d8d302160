"""What a run of the story found, as data: the page and its figures are made of it, and of nothing else.

    write(results, Path("docs/story/results.json"))
    results = read(Path("docs/story/results.json"))

No place on the machine is in it. `cpu_seconds` and `Writing` are measured times, all else is the same on the
same machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from estbench import report
from estbench.errors import ConfigError
from estbench_training.reading import parse
from estbench_training.story.claims import Found


@dataclass(frozen=True)
class Made:
    """A stage that ran. None: it trains nothing, or its kind has no such number."""

    stage: str
    kind: str
    folder: str  # its name, with the key
    cpu_seconds: float  # of the process and its children, measured
    parameters: int | None = None  # of the model that it made
    tokens: int | None = None  # that it was trained on, repeats counted
    steps: int | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Score:
    """A model's score in a task, in points."""

    task: str
    metric: str
    value: float | None
    low: float | None  # 95 %
    high: float | None
    n: int
    chance: float | None

    @property
    def at_chance(self) -> bool:
        """Whether the interval does not show that it beats guessing."""
        return self.chance is not None and self.low is not None and self.low <= self.chance


@dataclass(frozen=True)
class Evaluated:
    """A run, and the primary score of each of its tasks."""

    run: str
    scores: tuple[Score, ...]

    def score(self, task: str) -> Score | None:
        """The score in a task; None where it was not asked."""
        return next((score for score in self.scores if score.task == task), None)


@dataclass(frozen=True)
class Point:
    """A score on the way of a training, or along a sweep."""

    at: float  # the step, or λ
    score: Score


@dataclass(frozen=True)
class Writing:
    """How long a model took to write given answers, token by token, prompts included."""

    answers: int
    characters: int
    tokens: int  # of the answers
    cpu_seconds: float  # measured: the median of several rounds

    @property
    def pace(self) -> float:
        """CPU seconds for 1,000 characters."""
        return 1000 * self.cpu_seconds / self.characters


@dataclass(frozen=True)
class SeedResults:
    """All that was found for a seed."""

    key: str  # of what it is made from: recipe, models, claims
    made: Mapping[str, Made]  # stage -> what it was
    runs: Mapping[str, Evaluated]  # model -> its run
    found: Mapping[str, Found]  # claim -> what the command says
    curves: Mapping[str, tuple[Point, ...]]  # stage -> what was measured on the way
    writing: Mapping[str, Mapping[str, Writing]] = field(default_factory=dict)  # task -> model -> its pace
    fertility: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # text -> model -> tokens per word
    sweep: tuple[Point, ...] = ()  # scores of merges; `at` is λ
    again: Mapping[str, Mapping[str, Found]] = field(default_factory=dict)  # another random seed -> claim -> found


@dataclass(frozen=True)
class Results:
    """A run of the story."""

    seeds: Mapping[str, SeedResults]
    versions: Mapping[str, str]


def write(results: Results, path: Path) -> None:
    """Write them whole, or not at all; StoreError if that fails."""
    report.write(path, json.dumps(asdict(results), ensure_ascii=False, indent=1) + "\n")


def read(path: Path) -> Results:
    """Read them; ConfigError for a file that holds something else."""
    try:
        row = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there: `make story` makes it.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from None
    return parse(Results, row, str(path))
