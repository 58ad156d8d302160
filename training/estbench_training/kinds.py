"""What a stage is: its kind, its settings, and what it is given when it runs.

A kind's module holds a frozen dataclass of settings (its fields are the keys in YAML), a function that runs it, and
the `Kind` that names both. `KINDS` says where each is; a module is imported when a recipe has a stage of its kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from estbench.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe, Stage

Say = Callable[[str], None]

KINDS: Mapping[str, str] = {
    "prepare": "estbench_training.prepare:PREPARE",
    "cpt": "estbench_training.cpt:CPT",
    "instructions": "estbench_training.instructions:INSTRUCTIONS",
    "sft": "estbench_training.sft:SFT",
    "pairs": "estbench_training.pairs:PAIRS",
    "dpo": "estbench_training.dpo:DPO",
    "answers": "estbench_training.answers:ANSWERS",
    "merge": "estbench_training.merge:MERGE",
    "vocab": "estbench_training.vocab:VOCAB",
    "lep": "estbench_training.lep:LEP",
}


@dataclass(frozen=True)
class StageSettings:
    """Base of a kind's settings. A field named in `unkeyed` does not change what is made (logging, speed)."""

    unkeyed: ClassVar[tuple[str, ...]] = ()

    def inputs(self) -> tuple[str, ...]:
        """The earlier stages that it reads, beside the model that it starts from."""
        return ()

    def starts(self) -> bool:
        """Whether it starts from the model before it, where its kind does; a merge may name all of its models."""
        return True

    def models(self) -> tuple[str, ...]:
        """More models that it reads: stages that make one, or models from elsewhere (a folder, owner/name, demo)."""
        return ()

    def vocabulary(self) -> int | None:
        """How many rows the embeddings have that it makes; None where it doesn't change that, or it isn't known."""
        return None

    def files(self) -> tuple[str, ...]:
        """Files from outside, as paths or globs relative to the recipe, whose content belongs to the key."""
        return ()

    def check(self, recipe: Recipe) -> None:
        """Refuse, with a ConfigError, what can't be meant with the stages that it reads; before anything runs."""

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        """What else from outside belongs to the key: name -> hash (test sets, templates, a tokenizer by name)."""
        return {}


@dataclass(frozen=True)
class Kind:
    """A kind of stage."""

    name: str
    settings: type[StageSettings]
    run: Callable[[Any, Context], None]
    version: int = 1  # raised when the same settings make something else than before
    needs_model: bool = True  # starts from a model (or its tokenizer)
    makes_model: bool = False  # leaves a checkpoint in model/
    parallel: bool = False  # under torchrun all ranks run it; else rank 0 does, and the others wait
    needs: Literal["weights", "tokenizer"] = "weights"  # of the model, where it comes from outside

    def key_of(self, settings: StageSettings) -> dict[str, Any]:
        """The settings that change what is made, as JSON would have them. Of evaluations it is those that can end a
        training."""
        row = dataclasses.asdict(settings)
        if (evaluate := getattr(settings, "evaluate", None)) is not None:
            row["evaluate"] = evaluate.key()
        return {name: value for name, value in row.items() if name not in settings.unkeyed}


@dataclass(frozen=True)
class Context:
    """What a stage is given when it runs."""

    recipe: Recipe
    stage: Stage
    folder: Path  # where it writes; holds what an interrupted attempt left
    key: str  # sha256 of all that goes into it
    seed: int
    say: Say
    inputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)  # the folders of the stages it names
    model: Path | None = None  # the checkpoint that it starts from
    models: Mapping[str, Path] = dataclasses.field(default_factory=dict)  # the folders of the other models, by name

    @property
    def model_folder(self) -> Path:
        """Where the model goes that it makes."""
        return self.folder / "model"

    @property
    def model_name(self) -> str:
        """What the model that it makes is called."""
        return f"{self.recipe.name}-{self.stage.name}"

    @property
    def start(self) -> Path:
        """The checkpoint that it starts from; ConfigError if the recipe gives none."""
        if self.model is None:
            raise ConfigError(f"Stage {self.stage.name!r} needs a model: give the recipe a base.")
        return self.model

    def path(self, text: str) -> Path:
        """A path of the recipe: relative ones are meant from where the recipe lies."""
        return self.recipe.path(text)

    def source(self, name: str) -> Path:
        """The folder of a stage that is named, or a path from outside."""
        return self.path(name) if is_path(name) else self.inputs[name]


def described(settings: StageSettings, first: Sequence[str], names: Sequence[str]) -> str:
    """A line for a card: what is always said, and those of the keys that are not as usual."""
    usual = {one.name: one.default for one in dataclasses.fields(settings)}
    values = {name: getattr(settings, name) for name in names}
    said = [f"{name} {_shown(value)}" for name, value in values.items() if value not in (None, (), {}, usual[name])]
    return ", ".join([*first, *said])


def _shown(value: str | float | tuple[float, ...] | Mapping[str, float]) -> str:
    """A value as people write it: 1, 3; *.mlp.*: 0.6."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{pattern}: {number:.12g}" for pattern, number in value.items())
    return ", ".join(f"{number:.12g}" for number in (value if isinstance(value, tuple) else (value,)))


def kind_of(name: str) -> Kind:
    """The kind by its name; ConfigError for one that isn't there."""
    from estbench.verbs import part

    if name not in KINDS:
        raise ConfigError(f"There is no kind of stage {name!r}.{did_you_mean(name, KINDS)} Known: {', '.join(KINDS)}.")
    module, _, attribute = KINDS[name].partition(":")
    found: Kind = getattr(part(module, "train"), attribute)
    return found


def is_path(text: str) -> bool:
    """Whether a name in a recipe means files from outside (./rows.jsonl, ~/x, a/b) and no stage."""
    return "/" in text or text.startswith("~") or text.endswith((".jsonl", ".json", ".parquet", ".gz", ".zst"))
