"""What a prepare stage can be told: the keys of its YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from estbench.errors import ConfigError, did_you_mean
from estbench_training.kinds import StageSettings
from estbench_training.shards import PART_TOKENS

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
OWN = "own"  # in filters.languages: the source's own language


@dataclass(frozen=True)
class FilterSettings:
    """Which documents are left out, after NFC. Nothing is left out unless asked for, but what has no text.

    Lengths are in characters, without white space at the ends. languages: codes as `estbench.estonian.language` knows
    them, or "own". unknown: what to do with documents whose language can't be told (too short, too mixed).
    """

    min_characters: int = 1
    max_characters: int | None = None
    languages: tuple[str, ...] | None = None
    unknown: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        from estbench.estonian.language import CODES, code_of

        if self.min_characters < 1:
            raise ConfigError("min_characters has to be 1 or more.")
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ConfigError("max_characters is less than min_characters: nothing would be left.")
        for name in self.languages or ():
            if name != OWN and code_of(name) is None:
                raise ConfigError(f"languages: {name!r} can't be identified.{did_you_mean(name, {*CODES, OWN})}")


@dataclass(frozen=True)
class SourceSettings:
    """Where documents come from: files (path), a data set on the Hub (hub), or the demo world (demo).

    path: a file, a folder or a pattern of JSONL, Parquet or plain text, packed with gzip or zstd if you like.
    unit: of plain text, what a document is: a line, a paragraph (up to an empty line) or the file. damaged: what to do
    about rows that can't be read or lack the field. limit: so many documents are read at most. filters: in place of the
    stage's.
    """

    path: str | None = None
    hub: str | None = None
    demo: str | None = None  # text in "et" or "en", or a task's prompts and answers as text
    config: str | None = None  # of a data set on the Hub
    split: str = "train"
    revision: str | None = None
    documents: int | None = None  # of the demo world
    field: str = "text"
    unit: Literal["line", "paragraph", "file"] | None = None
    language: str | None = None
    licence: str | None = None
    url: str | None = None
    filters: FilterSettings | None = None
    limit: int | None = None
    damaged: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if sum(place is not None for place in (self.path, self.hub, self.demo)) != 1:
            raise ConfigError("give one of path, hub and demo.")
        if self.demo is not None:
            from estbench.demo import english, tasks

            if self.demo not in (known := ("et", "en", *tasks.TASKS, *english.TASKS)):
                raise ConfigError(f"demo: {self.demo!r} is none of {', '.join(known)}.{did_you_mean(self.demo, known)}")
        if self.demo is None and not (self.language and self.licence):
            raise ConfigError("language and licence have to be said: the model's card names them.")
        if (self.demo is None) != (self.documents is None):
            raise ConfigError("documents goes with demo: how many are made (elsewhere limit says how many are read).")
        if self.hub is None and (self.config or self.revision or self.split != "train"):
            raise ConfigError("config, split and revision go with hub.")
        for name in ("limit", "documents"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} has to be 1 or more.")

    @property
    def terms(self) -> str:
        """The licence: as it is said; the demo world is part of estbench, and has its own."""
        return self.licence or "apache-2.0"

    @property
    def tongue(self) -> str:
        """The language that the source is said to have."""
        from estbench.demo import english

        return self.language or ("en" if self.demo in ("en", *english.TASKS) else "et")


@dataclass(frozen=True)
class DuplicateSettings:
    """Which duplicates go, over all sources of the stage together; of several, the earliest document stays.

    exact: equal after NFC, but for white space at the ends. near: at least `threshold` of the distinct word 5-grams
    shared (Jaccard, estimated by MinHash with so many permutations). keep: sources in the order in which they keep a
    document that several have; the others follow by name.
    """

    exact: bool = True
    near: bool = True
    threshold: float = 0.8
    permutations: int = 128
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.3 <= self.threshold <= 1:
            raise ConfigError("threshold is a share from 0.3 to 1.")
        if not 16 <= self.permutations <= 1024:
            raise ConfigError("permutations has to be from 16 to 1024.")


@dataclass(frozen=True)
class DecontaminateSettings:
    """Which tests' documents are looked for; a document that holds one goes (docs/contamination.md says what is found).

    tasks: suites and tasks with commas, or all. data: folder with offline copies of their data (or ESTBENCH_DATA).
    missing: what to do about tasks whose data is not here.
    """

    tasks: str = "all"
    near: bool = False
    data: str | None = None
    missing: Literal["stop", "skip"] = "stop"

    def folder(self, recipe: Recipe) -> Path | None:
        """`data` as the recipe means it."""
        if self.data is None or self.data == "samples":
            return None if self.data is None else Path("samples")
        return recipe.path(self.data)


@dataclass(frozen=True)
class PrepareSettings(StageSettings):
    """A prepare stage. tokenizer: a folder or a model; that of the model it would start from, if none is named.

    workers: processes that read, clean and tokenise; 1 works in this one, with the tokenizer's own threads.
    """

    unkeyed: ClassVar[tuple[str, ...]] = ("workers",)

    sources: Mapping[str, SourceSettings]
    tokenizer: str | None = None
    filters: FilterSettings = FilterSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    decontaminate: DecontaminateSettings | Literal["none"] = DecontaminateSettings()
    part_tokens: int = PART_TOKENS
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty: name at least one.")
        for name in self.sources:
            if not NAME.fullmatch(name):
                raise ConfigError(f"the source {name!r} has to be of a-z, 0-9, '.', '_' and '-', at most 64.")
        self._check_own()
        for name in self.duplicates.keep:
            if name not in self.sources:
                raise ConfigError(f"duplicates.keep: there is no source {name!r}.{did_you_mean(name, self.sources)}")
        if self.part_tokens < 1 or self.workers < 1:
            raise ConfigError("part_tokens and workers have to be 1 or more.")

    def files(self) -> tuple[str, ...]:
        return tuple(source.path for source in self.sources.values() if source.path is not None)

    def _check_own(self) -> None:
        from estbench.estonian.language import CODES, code_of

        for name, source in self.sources.items():
            if OWN in (self.filters_of(name).languages or ()) and code_of(source.tongue) is None:
                raise ConfigError(
                    f"the source {name!r}: its language {source.tongue!r} can't be identified, and [own] would keep "
                    f"anything.{did_you_mean(source.tongue, CODES)} A code such as et is meant."
                )

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        from estbench_training.prepare import decontaminate
        from estbench_training.shards import tokenizer_hash

        found = {}
        if self.tokenizer is not None:
            found["tokenizer"] = tokenizer_hash(self.tokenizer_folder(recipe))
        if isinstance(self.decontaminate, DecontaminateSettings):
            found["tests"] = decontaminate.tests_key(self.decontaminate, self.decontaminate.folder(recipe))
        return found

    def tokenizer_folder(self, recipe: Recipe) -> Path:
        """The folder of the tokenizer that is named."""
        from estbench_training.stages import from_outside

        assert self.tokenizer is not None
        inside = recipe.path(self.tokenizer)
        return inside if inside.is_dir() else from_outside(recipe, self.tokenizer, lambda line: None).path

    def order(self) -> list[str]:
        """The sources in the order in which they keep what several have."""
        return [*self.duplicates.keep, *sorted(set(self.sources) - set(self.duplicates.keep))]

    def filters_of(self, name: str) -> FilterSettings:
        """The filters of a source."""
        return self.sources[name].filters or self.filters
