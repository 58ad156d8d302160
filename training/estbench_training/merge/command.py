"""`estbench merge`: the models that its words name, merged into a folder; with sweep=, one for each λ, evaluated.

estbench merge method=chat_vector base=B instruct=C into=A scale=0.8 output=merged
estbench merge method=ties base=B parts=a,b density=0.2 output=merged
estbench merge method=chat_vector base=B instruct=C into=A sweep=0.2,0.4,0.6 tasks=mini_checkpoint output=sweep
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from estbench import cards, identity, report
from estbench.checkpoint import Checkpoint, find
from estbench.config import ENGINES, option
from estbench.errors import ConfigError, ModelError
from estbench_training import card
from estbench_training.kinds import Context
from estbench_training.merge.settings import METHODS, MergeSettings, Method, Rows
from estbench_training.recipe import Common, Head, Recipe, Stage

VERSION = 1  # raised when the same words make other weights than before
NAMED = ("base", "instruct", "into", "parts")  # keys that name models


@dataclass(frozen=True)
class MergeCommandSettings:
    """What `estbench merge` can be told."""

    method: str = option("how models are merged", choices=METHODS)
    output: str = option("folder that the merged model goes to; of a sweep: all of them")
    base: str | None = option("the model that the others were trained from; not of slerp and average", None)
    instruct: str | None = option("chat_vector: the chat model that was made of the base", None)
    into: str | None = option(
        "what is added to; of chat_vector: the model that knows Estonian. Default is the base", None
    )
    parts: str | None = option("the models that are merged, with commas; not of chat_vector", None)
    weights: str | None = option("one for each of parts, with commas; all 1 unless said", None)
    scale: float = option("how much of what was learnt is added (λ)", 1.0)
    scales_options: dict[str, str] = option(  # noqa: RUF009  a dataclass field
        "scales.PATTERN=λ of tensors whose names match ('scales.*.mlp.*=0.5'); the last that matches counts", dict
    )
    density: float | None = option("ties: share of what was learnt that is kept", None)
    drop: float | None = option("dare: share of what was learnt that is dropped at random", None)
    t: float | None = option("slerp: 0 is the first model, 1 the second", None)
    embeddings: str = option("rows that tokens have", "add", choices=("add", "skip", "by_token"))
    special_tokens: str = option("chat_vector: whose the rows of special tokens are", "chat", choices=("chat", "add"))
    dtype: str = option("of the merged weights", "into", choices=("into", "bfloat16", "float16", "float32"))
    seed: int = option("dare: seed of what is dropped", 42, least=0)
    threads: int | None = option("threads that read, compute and write; default is one a core, 2 to 8", None, least=1)
    sweep: str | None = option("several λ with commas (0.2,0.4,0.6): each is merged and evaluated", None)
    tasks: str | None = option("sweep: suites and tasks that are evaluated", None)
    limit: int | None = option("sweep: at most N documents a task; the runs are marked partial", None, least=1)
    engine: str = option("sweep: what computes", "hf", choices=ENGINES[:2])
    engine_options: dict[str, str] = option("engine.KEY=VALUE, as for eval", dict)  # noqa: RUF009
    data: str | None = option("sweep: folder with offline copies of the data sets", None)
    keep: str = option("sweep: which models stay", "all", choices=("all", "best"))

    def __post_init__(self) -> None:
        if (self.sweep is None) != (self.tasks is None):
            raise ConfigError("sweep= and tasks= belong together: λs, and what they are evaluated on.")
        if self.sweep and self.scale != 1:
            raise ConfigError("sweep= gives the scales: leave scale= out.")
        others = self.limit or self.keep != "all" or self.engine != "hf" or self.engine_options or self.data
        if not self.sweep and others:
            raise ConfigError(
                "limit=, keep=, engine=, engine.KEY= and data= are for a sweep: give sweep=0.2,0.4,… and tasks=."
            )

    @property
    def place(self) -> Path:
        """The output folder; ConfigError where its name can be none."""
        try:
            place = Path(self.output).expanduser()
            os.lstat(place.parent / f".{place.name}.part")  # what it is called while it is written
        except FileNotFoundError:
            return place
        except (OSError, RuntimeError) as error:  # RuntimeError: ~name of nobody
            why = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise ConfigError(f"output={self.output} can be no folder ({why}): give another one.") from None
        return place

    @property
    def sweeps(self) -> tuple[float, ...]:
        """The λs, ascending; ConfigError for what is none."""
        found = _numbers("sweep", self.sweep)
        if len(found) != len(set(found)):
            raise ConfigError(f"sweep={self.sweep}: a scale is given twice.")
        return tuple(sorted(found))

    @property
    def merge(self) -> MergeSettings:
        """The settings of the merge itself; ConfigError in a command's spelling (base=, not base:)."""
        try:
            return self._merge()
        except ConfigError as error:
            keys = "|".join(sorted((one.name for one in dataclasses.fields(MergeSettings)), key=len, reverse=True))
            raise ConfigError(re.sub(rf"(?<=\s)({keys}):", r"\1=", str(error))) from None

    def _merge(self) -> MergeSettings:
        return MergeSettings(
            method=cast(Method, self.method),
            base=self.base,
            instruct=self.instruct,
            into=self.into,
            parts=tuple(part.strip() for part in self.parts.split(",")) if self.parts else (),
            weights=_numbers("weights", self.weights),
            scale=self.scale,
            scales={pattern: _number(f"scales.{pattern}", text) for pattern, text in self.scales_options.items()},
            density=self.density,
            drop=self.drop,
            t=self.t,
            embeddings=cast(Rows, self.embeddings),
            special_tokens=cast(Literal["chat", "add"], self.special_tokens),
            dtype=cast(Literal["into", "bfloat16", "float16", "float32"], self.dtype),
        )


def run(settings: MergeCommandSettings) -> int:
    """Merge, and say where the model is."""
    own = settings.merge
    if own.method == "chat_vector" and own.into is None:
        raise ConfigError("chat_vector needs into=, the model that the chat vector is added to.")
    if settings.sweep:
        from estbench_training.merge.sweep import run as sweep

        return sweep(settings, own)
    made = make(own, settings.place, settings.seed, settings.threads)
    if sys.stdout.isatty():
        print(f"{settings.place}: {own.how}\nEvaluate it: estbench eval model={settings.place}")
    else:
        print(report.as_json({"model": str(settings.place), "method": own.method, "made": made}))
    return 0


def make(
    own: MergeSettings, place: Path, seed: int, threads: int | None, known: Mapping[str, Checkpoint] | None = None
) -> bool:
    """Merge into a folder, unless it holds this very merge; False then. ConfigError where it holds something else.

    known: the models, where they were found before.
    """
    from estbench_training.merge.work import merge

    models = known or find_models(own)
    if os.path.lexists(place):
        if place.resolve() in [model.path.resolve() for model in models.values()]:
            raise ConfigError(f"{place} is one of the models that are merged: give another output=.")
        if not is_made(own, place, seed, models):
            raise ConfigError(f"{place} is there already, and is not this merge: give another output=.")
        _check_whole(place)
        report.say(f"{place}: done before.")
        return False
    if not place.absolute().parent.is_dir():
        raise ConfigError(f"{place.parent} is no folder: make it, or give another output=.")
    merge(own, models, place, _context(own, place, seed, models), threads)
    return True


def _check_whole(place: Path) -> None:
    """ModelError where a merge is not what it was when it was written, as its card has it."""
    try:
        now = identity.digest(find(str(place)).fingerprint())
        why = ""
    except ModelError as error:
        now, why = None, f" ({str(error).partition(':')[0]})"
    lineage = (cards.read_training_card(place) or {}).get("lineage") or [{}]
    if now is None or now != lineage[-1].get("fingerprint"):
        raise ModelError(f"{place} was this merge, and is damaged or changed{why}: remove it to merge again.")


def find_models(own: MergeSettings) -> dict[str, Checkpoint]:
    """The models by their names; fetched or made where they are not here."""
    return {name: find(name, say=report.say) for name in own.models()}


def settings_row(own: MergeSettings, seed: int) -> dict[str, Any]:
    """What of a merge changes the weights, beside the models."""
    row = json.loads(json.dumps(dataclasses.asdict(own)))
    drawn = seed if own.method == "dare" else None
    return {"version": VERSION, "seed": drawn, "settings": row, "patterns": list(own.scales)}


def is_made(own: MergeSettings, place: Path, seed: int, models: Mapping[str, Checkpoint]) -> bool:
    """Whether a folder holds this merge of models with these very bytes."""
    from estbench_training.merge.work import RECORD, roles

    try:
        row = json.loads((place / RECORD).read_text("utf-8"))
        before = MergeSettings(**_tuples(row["settings"]))
        same = _unnamed(settings_row(own, seed)) == _unnamed(settings_row(before, row["seed"]))
        recorded = [model["files"] for model in row["models"]]
    except (OSError, ValueError, KeyError, TypeError, ConfigError):  # another version wrote it
        return False
    hashes = identity.FileHashes()
    return same and recorded == [
        {file.name: value for file, (value, _) in hashes.of(models[name].files).items()} for name in roles(own)
    ]


def _unnamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without the models' names: the same folder may be called otherwise, and its hashes say which it is."""
    settings = {name: value for name, value in row["settings"].items() if name not in NAMED}
    return {**row, "settings": settings}


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


@dataclass(frozen=True)
class _Command(Context):
    """What a stage is given, for a merge that no recipe names: the model is called like its folder."""

    called: str = ""

    @property
    def model_name(self) -> str:
        return self.called


def _context(own: MergeSettings, place: Path, seed: int, models: Mapping[str, Checkpoint]) -> Context:
    """The key is of the files as they are, by their times: an interrupted merge need not hash them to go on."""
    from estbench_training.merge import MERGE

    seen = [[name, [[file.name, identity.stat_of(file)] for file in one.files]] for name, one in models.items()]
    stage = Stage(Common("merge", "merge"), MERGE, own)
    return _Command(
        recipe=Recipe(Head("merge"), (stage,), Path(os.getcwd()), ""),
        stage=stage,
        folder=place.parent,
        key=identity.digest([settings_row(own, seed), seen]),
        seed=seed,
        say=report.say,
        called=card.called(place),
    )


def _numbers(key: str, text: str | None) -> tuple[float, ...]:
    return tuple(_number(key, part) for part in text.split(",")) if text else ()


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        if not text.strip():
            raise ConfigError(f"{key}: a number is empty; look for a comma too many.") from None
        raise ConfigError(f"{key}={text} is no number.") from None
