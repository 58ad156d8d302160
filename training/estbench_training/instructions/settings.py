"""What an instructions stage can be told: the keys of its YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from estbench.errors import ConfigError, did_you_mean
from estbench_training.instructions import phrasing
from estbench_training.kinds import StageSettings
from estbench_training.prepare.settings import DecontaminateSettings, DuplicateSettings, FilterSettings

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
WHERE = ("path", "aligned", "hub", "task", "demo")
DIRECTION = re.compile(r"([a-z]{2,3})-([a-z]{2,3})")
FIELDS: Mapping[str, tuple[str, ...]] = {"alpaca": ("instruction", "input", "output"), "messages": ("messages",)}


@dataclass(frozen=True)
class PairFilterSettings:
    """Which pairs of parallel text are left out, after NFC and with white space at the ends cut off.

    length_ratio: of characters, the longer side to the shorter. letters: the least share of the signs that are letters.
    numbers: the digits of both sides have to be the same, zeros and order aside (1 000 000 agrees with 1 million).
    punctuation: both sides end as a sentence or neither does, a question answers a question, and the numbers of marks
    that end sentences differ by 2 at most. copies: a side that is the other one, or shares three fifths of its words.
    languages: a side that is identified as another language goes; unknown: what to do where that can't be told.
    """

    min_characters: int = 5
    max_characters: int = 2000
    length_ratio: float | None = 3.0
    letters: float = 0.5
    numbers: bool = True
    punctuation: bool = True
    copies: bool = True
    languages: bool = True
    unknown: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        if not 1 <= self.min_characters <= self.max_characters:
            raise ConfigError("min_characters has to be 1 or more, and max_characters at least as many.")
        if self.length_ratio is not None and self.length_ratio < 1:
            raise ConfigError(f"length_ratio: {self.length_ratio:g} has to be 1 or more.")
        if not 0 <= self.letters <= 1:
            raise ConfigError(f"letters: {self.letters:g} is no share from 0 to 1.")


@dataclass(frozen=True)
class TranslationSettings:
    """How parallel text becomes translation instructions; a pair makes one row, in one direction.

    directions: weights by FROM-TO, as {en-et: 3, et-en: 1}; one that is not named is not made. instruction_language:
    shares of the languages that instructions are in. separate_input: share of instructions that stand apart from the
    text, the others hold it in their own sentence. Both defaults are those of Llammas (arXiv 2404.04042: 85 %; 5 % in
    Estonian). templates: of a file of one's own, by the instructions' language, in place of ours.
    """

    directions: Mapping[str, float]
    instruction_language: Mapping[str, float] = field(default_factory=lambda: {"et": 0.05, "en": 0.95})
    separate_input: float = 0.85
    filters: PairFilterSettings = PairFilterSettings()
    templates: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.directions:
            raise ConfigError("directions is empty: give weights, as {en-et: 1, et-en: 1}.")
        _positive(self.directions, "directions", "leave out a direction that is not to be made")
        known = {f"{one}-{other}" for one in phrasing.NAMED for other in phrasing.NAMED if one != other}
        for name in self.directions:
            if name not in known:
                raise ConfigError(f"directions: there is no {name!r}.{did_you_mean(name, known)} Write FROM-TO: en-et.")
        if len(self.languages) != 2:
            raise ConfigError(f"directions: a source has two languages, not {', '.join(self.languages)}.")
        if not self.instruction_language:
            raise ConfigError("instruction_language is empty: give shares, as {et: 0.05, en: 0.95}.")
        _positive(self.instruction_language, "instruction_language", "leave out a language that is not to be used")
        for name in (*self.instruction_language, *self.templates):
            _known(name, {*phrasing.TRANSLATION, *self.templates}, "instruction_language")
        if not 0 <= self.separate_input <= 1:
            raise ConfigError(f"separate_input: {self.separate_input:g} is no share from 0 to 1.")

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the pairs, by their codes' order."""
        return tuple(sorted({code for name in self.directions for code in name.split("-")}))


@dataclass(frozen=True)
class SourceSettings:
    """Where rows come from, and what they are.

    path: a file, a folder or a pattern of JSONL, JSON, Parquet or TSV, packed with gzip or zstd if you like. aligned:
    two text files with a line for a line, by language. hub: a data set there. task: of estbench, in chat form, its
    training split. demo: chat tasks of the demo world, all alike or with shares; `rows` are made.

    form: alpaca (an instruction, an input and an answer) or messages (conversations); translation: parallel text.
    fields: what the fields are called; a.b is b inside a; of TSV, columns by number from 1, or by the first line.
    read: only the first so many rows are read. limit: of what is left, so many are drawn. epochs: how often each is
    used. weight: share of the stage's rows, relative to other sources (all have one, or none). damaged: what to do
    about rows that lack a field or are no conversation.
    """

    path: str | None = None
    aligned: Mapping[str, str] | None = None
    hub: str | None = None
    task: str | None = None
    demo: tuple[str, ...] | Mapping[str, float] | None = None
    rows: int | None = None  # of the demo world
    config: str | None = None  # of a data set on the Hub
    split: str | None = None  # of a data set on the Hub (default: train), or of a task (default: that of its examples)
    revision: str | None = None
    form: Literal["alpaca", "messages"] | None = None
    translation: TranslationSettings | None = None
    fields: Mapping[str, str | int] = field(default_factory=dict)
    language: str | None = None
    licence: str | None = None
    url: str | None = None
    filters: FilterSettings = field(default_factory=FilterSettings)
    read: int | None = None
    limit: int | None = None
    epochs: float = 1.0
    weight: float | None = None
    damaged: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in WHERE) != 1:
            raise ConfigError(f"give one of {', '.join(WHERE)}.")
        for name in ("rows", "read", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} has to be 1 or more.")
        for name in ("epochs", "weight"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name}: {value:g} has to be above 0.")
        if self.hub is None and (self.config or self.revision):
            raise ConfigError("config and revision go with hub.")
        if self.split is not None and self.hub is None and self.task is None:
            raise ConfigError("split goes with hub or task.")
        self._check_demo()
        self._check_form()

    def column(self, name: str) -> str:
        """What a field is called here."""
        return str(self.fields.get(name, name))

    def _check_demo(self) -> None:
        from estbench.demo import english, tasks

        known = (*tasks.TASKS, *english.TASKS)
        if (self.demo is None) != (self.rows is None):
            raise ConfigError("rows goes with demo: how many are made.")
        if self.demo is None:
            return
        if not self.demo:
            raise ConfigError(f"demo is empty: name some of {', '.join(known)}.")
        for name in self.demo:
            _known(name, known, "demo")
        if isinstance(self.demo, Mapping):
            _positive(self.demo, "demo", "leave out a task that is not to be made")

    def _check_form(self) -> None:
        if self.task is not None or self.demo is not None:
            if self.form or self.translation or self.fields:
                raise ConfigError("form, translation and fields go with path, aligned and hub.")
            return
        if (self.form is None) == (self.translation is None):
            raise ConfigError("give form: alpaca or messages, or translation: {directions: …}.")
        if not self.licence or (not self.language and self.translation is None):
            raise ConfigError(
                "language (but of parallel text) and licence have to be said: the model's card names them."
            )
        for name in self.fields:
            _known(name, self.asked, "fields")
        if self.aligned is not None:
            if self.translation is None:
                raise ConfigError("aligned goes with translation: {directions: …}.")
            if set(self.aligned) != set(self.translation.languages):
                languages = " and ".join(self.translation.languages)
                raise ConfigError(f"aligned has to name a file for {languages}, not {', '.join(self.aligned)}.")
            if len(set(self.aligned.values())) < 2:
                raise ConfigError("aligned names one file twice: each language has its own.")

    @property
    def asked(self) -> tuple[str, ...]:
        """The fields that a row is made of."""
        return self.translation.languages if self.translation else FIELDS.get(str(self.form), ())

    @property
    def kind(self) -> str:
        """What the manifest calls it."""
        return self.form or ("translation" if self.translation else "task" if self.task else "demo")

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it reads, as the recipe has them."""
        own = (self.path,) if self.path is not None else tuple((self.aligned or {}).values())
        return (*own, *(self.translation.templates.values() if self.translation else ()))


@dataclass(frozen=True)
class OverlapSettings(DecontaminateSettings):
    """Which tests' texts are looked for, as in a prepare stage; a row that holds a part of one goes.

    texts: files of plain text with a test sentence a line, of tests that estbench doesn't have (WMT, say).
    """

    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class InstructionSettings(StageSettings):
    """An instructions stage. rows: so many in all, instead of as many as the sources have.

    duplicates: over all sources but the demo world's. workers: processes that read and clean.
    """

    unkeyed: ClassVar[tuple[str, ...]] = ("workers",)

    sources: Mapping[str, SourceSettings]
    rows: int | None = None
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    decontaminate: OverlapSettings | Literal["none"] = OverlapSettings()
    workers: int = 1
    templates: str = field(default="", init=False)  # hash of our wordings, where they are used: they belong to the key

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty: name at least one.")
        for name in self.sources:
            if not NAME.fullmatch(name):
                raise ConfigError(f"the source {name!r} has to be of a-z, 0-9, '.', '_' and '-', at most 64.")
        for name in self.duplicates.keep:
            _known(name, self.sources, "duplicates.keep")
        without = [name for name, source in self.sources.items() if source.weight is None]
        if without and len(without) < len(self.sources):
            raise ConfigError(f"{without[0]} has no weight, and others have one: give all of them one, or none.")
        if self.workers < 1 or (self.rows is not None and self.rows < 1):
            raise ConfigError("rows and workers have to be 1 or more.")
        if any(source.form == "alpaca" or source.translation for source in self.sources.values()):
            object.__setattr__(self, "templates", phrasing.digest())

    def files(self) -> tuple[str, ...]:
        tests = () if self.decontaminate == "none" else self.decontaminate.texts
        return (*(file for source in self.sources.values() for file in source.files), *tests)

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        from estbench_training.instructions import reading
        from estbench_training.prepare import decontaminate

        tasks = {(source.task, source.split) for source in self.sources.values() if source.task is not None}
        found = {f"task {name} {split or ''}".rstrip(): reading.task_key(name, split) for name, split in tasks}
        if (wanted := self.looked_for) is not None:
            found["tests"] = decontaminate.tests_key(wanted, wanted.folder(recipe))
        return found

    @property
    def looked_for(self) -> OverlapSettings | None:
        """Which tests' texts are looked for; None for none. Rows of the demo world alone are not looked through."""
        constructed = all(source.demo is not None for source in self.sources.values())
        return None if constructed or self.decontaminate == "none" else self.decontaminate

    def order(self) -> list[str]:
        """The sources in the order in which they keep what several have."""
        return [*self.duplicates.keep, *sorted(set(self.sources) - set(self.duplicates.keep))]


def _known(name: str, names: Collection[str], what: str) -> None:
    if name not in names:
        raise ConfigError(f"{what}: there is no {name!r}.{did_you_mean(name, names)} Known: {', '.join(names)}.")


def _positive(values: Mapping[str, float], what: str, cure: str) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{what}.{name} is {value:g}: it has to be above 0; {cure}.")
