"""A recipe: one YAML file that describes a model from its base to its release.

    recipe = load(Path("training/recipes/demo.yaml"))
    recipe.stages[0].settings          # a PrepareSettings

Each stage has a name, a kind and the keys of its kind; `model` and `seed` may be given to any of them. Relative paths
are meant from where the recipe lies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.config import read_yaml
from estbench.errors import ConfigError, ModelError, did_you_mean
from estbench_training.kinds import Kind, StageSettings, kind_of
from estbench_training.machines import machine_of
from estbench_training.reading import parse

if TYPE_CHECKING:
    from estbench.checkpoint import Checkpoint

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Head:
    """The keys of a recipe beside its stages."""

    name: str
    base: str | None = None  # a folder, owner/name on the Hub, or a demo model
    revision: str | None = None  # of a base on the Hub
    title: str = ""
    licence: str | None = None  # of the models that it makes
    languages: tuple[str, ...] = ()
    seed: int = 42
    machine: str = "h200"  # whose hours the plan shows

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"name: {self.name!r} has to be of a-z, 0-9, '.', '_' and '-', at most 64.")
        _check_seed(self.seed)
        machine_of(self.machine)


@dataclass(frozen=True)
class Common:
    """The keys that every stage may have."""

    name: str
    kind: str
    model: str | None = None  # an earlier stage, or a model from elsewhere; default is the newest before it
    seed: int | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"name: {self.name!r} has to be of a-z, 0-9, '.', '_' and '-', at most 64.")
        _check_seed(self.seed)


def _check_seed(seed: int | None) -> None:
    if seed is not None and not 0 <= seed < 2**32:
        raise ConfigError(f"seed: {seed} has to be from 0 to 4294967295.")


@dataclass(frozen=True)
class Stage:
    """A stage of a recipe."""

    common: Common
    kind: Kind
    settings: StageSettings

    @property
    def name(self) -> str:
        """Its name, unique in the recipe."""
        return self.common.name

    @property
    def needs_model(self) -> bool:
        """Whether it starts from a model, or its tokenizer."""
        return self.kind.needs_model and self.settings.starts()


@dataclass(frozen=True)
class Recipe:
    """A recipe that holds together: every stage that is named exists, and comes before."""

    head: Head
    stages: tuple[Stage, ...]
    folder: Path  # where relative paths are meant from
    text: str  # the file, as it was read

    @property
    def name(self) -> str:
        """What its models are called after."""
        return self.head.name

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe with another seed; stages that have one of their own keep it."""
        return replace(self, head=replace(self.head, seed=seed))

    def path(self, text: str) -> Path:
        """A path as the recipe means it."""
        return self.folder / Path(text).expanduser()

    def here(self, name: str | None) -> Checkpoint | None:
        """A model that no stage makes, if it is on this machine, and whole."""
        from estbench.checkpoint import find

        if name is None or name in (stage.name for stage in self.stages):
            return None
        try:
            return find(str(self.path(name)) if self.path(name).is_dir() else name, fetch=False)
        except ModelError:
            return None

    def stage(self, name: str) -> Stage:
        """The stage by its name; ConfigError for one that isn't there."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise ConfigError(
                f"{self.name} has no stage {name!r}.{did_you_mean(name, names)} Its stages: {', '.join(names)}."
            )
        return self.stages[names.index(name)]

    def model_before(self, stage: Stage) -> str | None:
        """The stage whose model this one starts from, a model from elsewhere, or the base; None: there is none."""
        if stage.common.model is not None:
            return stage.common.model
        before = self.stages[: self.stages.index(stage)]
        return next((earlier.name for earlier in reversed(before) if earlier.kind.makes_model), self.head.base)


def load(path: Path) -> Recipe:
    """The recipe of a file; ConfigError, one line, for all that is wrong in it."""
    return from_row(read_yaml(path, str(path)), path.parent.absolute(), path.read_text("utf-8"), str(path))


def from_row(row: object, folder: Path, text: str = "", shown: str = "The recipe") -> Recipe:
    """The recipe of what a YAML file holds."""
    if not isinstance(row, Mapping) or not isinstance(row.get("stages"), list) or not row["stages"]:
        raise ConfigError(f"{shown} is no recipe: it has to hold name, base and a list of stages.")
    head = parse(Head, {key: value for key, value in row.items() if key != "stages"}, shown)
    stages = tuple(_stage(part, f"{shown}, stage {place}") for place, part in enumerate(row["stages"], 1))
    recipe = Recipe(head, stages, folder, text)
    _check_names(recipe)
    for stage in stages:
        try:
            stage.settings.check(recipe)
        except ConfigError as error:
            raise ConfigError(f"{shown}, stage {stage.name}: {error}") from None
    return recipe


def _stage(row: object, where: str) -> Stage:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where} has to hold name, kind and the keys of its kind.")
    shared: dict[str, Any] = {key: value for key, value in row.items() if key in Common.__dataclass_fields__}
    common = parse(Common, shared, where)
    kind = kind_of(common.kind)
    own = {key: value for key, value in row.items() if key not in shared}
    return Stage(common, kind, parse(kind.settings, own, f"{where} ({common.name})"))


def _check_names(recipe: Recipe) -> None:
    """Names are unique, and a stage reads only stages before it."""
    known: list[str] = []
    all_names = [stage.name for stage in recipe.stages]
    for stage in recipe.stages:
        if stage.name in known:
            raise ConfigError(f"{recipe.name} has two stages called {stage.name!r}: names are unique.")
        models = [stage.common.model, *stage.settings.models()]
        needed = [*stage.settings.inputs(), *(str(name) for name in models if name in all_names)]
        for name in needed:
            if name not in known:
                late = " It has to come before." if name in all_names else did_you_mean(name, known)
                raise ConfigError(f"Stage {stage.name!r} reads {name!r}, which is no stage before it.{late}")
        if stage.needs_model and recipe.model_before(stage) is None:
            raise ConfigError(f"Stage {stage.name!r} needs a model: give the recipe a base.")
        for model in models:
            if model in known and not recipe.stage(str(model)).kind.makes_model:
                raise ConfigError(f"Stage {stage.name!r} starts from {model!r}, which makes no model.")
        known.append(stage.name)
