"""What a `vocab` stage can be told. The fields are the keys in YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from estbench.errors import ConfigError
from estbench_training.kinds import StageSettings, described
from estbench_training.prepare.settings import NAME, DecontaminateSettings, SourceSettings
from estbench_training.sieve import Choice, tests_of

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe

Mode = Literal["extend", "replace", "shrink", "optimise"]
Algorithm = Literal["bpe", "unigram"]
Init = Literal["mean", "weighted", "focus"]


@dataclass(frozen=True)
class VocabSettings(StageSettings):
    """A vocab stage: the model that it starts from gets another vocabulary.

    mode: extend adds merges behind the old vocabulary; replace learns a new one; shrink drops what the texts don't
    use; optimise extends and then shrinks. size: tokens of the result, special ones included (shrink: all that are
    used, if not said; optimise: as many as before). data: the texts, as a prepare stage's sources; `shares` of them
    make up `characters` at most, the same of each if not said. algorithm: of replace; as the old one if not said.
    letters, min_characters: which new tokens extend and optimise take; all others only as parts of those. init: where
    the rows of new tokens come from. pad_to: rows are added until their number is a multiple of this. report: more
    texts to measure fertility on, name -> file.
    """

    mode: Mode
    data: Mapping[str, SourceSettings]
    size: int | None = None
    algorithm: Algorithm | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    characters: int = 100_000_000
    min_count: int = 2  # how often two tokens have to meet to become one
    letters: bool = False
    min_characters: int = 1
    init: Init = "mean"
    pad_to: int = 1
    report: Mapping[str, str] = field(default_factory=dict)
    decontaminate: Choice = field(default_factory=DecontaminateSettings)  # of the texts, those of all sources

    @property
    def how(self) -> str:
        """The mode and what was said of it, in a line."""
        return described(self, (self.mode,), ("size", "algorithm", "init", "pad_to"))

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data is empty: name at least one source of texts.")
        for name in self.data:
            if not NAME.fullmatch(name):
                raise ConfigError(f"data: the source {name!r} has to be of a-z, 0-9, '.', '_' and '-', at most 64.")
            if self.data[name].filters is not None:
                raise ConfigError(f"data, {name}: filters belong to a prepare stage; here all texts are read.")
        if self.size is None and self.mode in ("extend", "replace"):
            raise ConfigError(f"size is missing: how many tokens there are after mode: {self.mode}.")
        for name in ("size", "characters", "min_count", "min_characters", "pad_to"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} has to be 1 or more.")
        if taken := [name for name in self.report if name.startswith("data.")]:
            raise ConfigError(f"report: {taken[0]!r} is what the sources are called there: name it otherwise.")
        self._check_mode()
        self._check_shares()

    def _check_mode(self) -> None:
        if self.algorithm is not None and self.mode != "replace":
            cure = "BPE's merges can be continued, Unigram's pieces can't: say mode: replace"
            raise ConfigError(f"algorithm: goes with mode: replace ({cure}), or leave it out.")
        if (self.letters or self.min_characters > 1) and self.mode not in ("extend", "optimise"):
            raise ConfigError("letters and min_characters go with mode: extend or optimise.")

    def _check_shares(self) -> None:
        if self.shares and set(self.shares) != set(self.data):
            raise ConfigError(f"shares has to name each source of data: {', '.join(self.data)}.")
        for name, share in self.shares.items():
            if not (share > 0 and math.isfinite(share)):
                raise ConfigError(f"shares, {name}: {share:g} has to be above 0.")

    def files(self) -> tuple[str, ...]:
        paths = [source.path for source in self.data.values() if source.path is not None]
        return (*paths, *self.report.values())

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        return tests_of(self.decontaminate, recipe)

    def vocabulary(self) -> int | None:
        """As asked for, with the rows of `pad_to`; the texts may give fewer."""
        return None if self.size is None else math.ceil(self.size / self.pad_to) * self.pad_to

    def most_of(self, name: str) -> int:
        """How many characters are read of a source at most."""
        shares = self.shares or dict.fromkeys(self.data, 1.0)
        return math.ceil(self.characters * shares[name] / sum(shares.values()))
