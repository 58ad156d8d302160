"""Made-up kinds of stages, light ones, for tests of the chain: one writes words, two make a model of one or of more."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from estbench_training.kinds import Context, Kind, StageSettings
from estbench_training.recipe import Recipe

from estbench.errors import EngineError

RAN: list[str] = []  # the stages that ran, in order
FAIL: set[str] = set()  # the stages that break in the middle
OUTSIDE: dict[str, str] = {}  # what else from outside goes into words


@dataclass(frozen=True)
class WordsSettings(StageSettings):
    """Words, from here or from a file."""

    unkeyed: ClassVar[tuple[str, ...]] = ("loud",)
    words: tuple[str, ...] = ()
    file: str | None = None
    loud: bool = False

    def files(self) -> tuple[str, ...]:
        """The file."""
        return (self.file,) if self.file else ()

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        """What a test says."""
        return OUTSIDE


@dataclass(frozen=True)
class CopySettings(StageSettings):
    """A copy of a model, with the words of an earlier stage beside it."""

    data: str = ""

    def inputs(self) -> tuple[str, ...]:
        """The stage of words."""
        return (self.data,) if self.data else ()


@dataclass(frozen=True)
class JoinSettings(StageSettings):
    """A copy of the model that it starts from, beside others that it reads."""

    others: tuple[str, ...] = ()

    def models(self) -> tuple[str, ...]:
        """The others."""
        return self.others


def write_words(settings: WordsSettings, context: Context) -> None:
    """Writes half, breaks if it should, writes all."""
    RAN.append(context.stage.name)
    left = context.folder / "half"
    left.write_text("half", "utf-8")
    if context.stage.name in FAIL:
        raise EngineError("it broke")
    (context.folder / "words.txt").write_text(" ".join([*settings.words, str(context.seed)]), "utf-8")


def copy_model(settings: CopySettings, context: Context) -> None:
    """Copies the model that it starts from."""
    RAN.append(context.stage.name)
    shutil.copytree(context.start, context.model_folder, dirs_exist_ok=True)


def join_models(settings: JoinSettings, context: Context) -> None:
    """Copies the model that it starts from, and notes where the others are."""
    copy_model(CopySettings(), context)
    found = "".join(f"{name}={context.models[name]}\n" for name in settings.others)
    (context.folder / "others.txt").write_text(found, "utf-8")


WORDS = Kind("words", WordsSettings, write_words, needs_model=False)
LETTERS = Kind("letters", WordsSettings, write_words, needs="tokenizer")
COPY = Kind("copy", CopySettings, copy_model, makes_model=True)
JOIN = Kind("join", JoinSettings, join_models, makes_model=True)
