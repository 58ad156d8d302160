"""What a model's folder says of the model: its README's front matter, and train_card.json, how it was trained.

    read_model_card(folder)          # {"licence": "apache-2.0", "base_models": [...], "languages": ["et"]} or None
    read_training_card(folder)       # train_card.json as a dict, checked field by field, or None
    write_training_card(folder, TrainingCard(name="m", kind="base", stage="cpt", final=True, lineage=(...)))
    of_folder(folder, say)           # {"card": ..., "training": ...}: what a run's manifest takes

Both are said, not measured: no key, fingerprint or score depends on them. What can't be read is left out, with one
line. docs/cards.md describes every field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from estbench.errors import ModelError

TRAINING, README = "train_card.json", "README.md"
SCHEMA = 1
KINDS = ("base", "chat")
FRONT_MATTER_MOST = 64 << 10  # bytes, from the first --- to the second
TRAINING_MOST = 256 << 10  # bytes
TEXT_MOST = 200  # characters
ENTRIES_MOST = 200  # of a list or a mapping
WHOLE_MOST = 2**53  # JSON numbers are exact up to here
STAGE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")

Say = Callable[[str], None]


class _Damaged(Exception):
    """Why a card is no card."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A model on the way to this one."""

    stage: str  # what made it: pretraining, cpt, sft, dpo, merge, vocab, lep, ...
    name: str
    fingerprint: str | None = None  # of its weights, tokenizer and config, as in a run's manifest
    tokens: int | None = None  # that this stage showed to it


@dataclass(frozen=True, slots=True)
class Source:
    """A part of the training data."""

    name: str
    licence: str | None = None
    tokens: int | None = None  # of it that were seen, repeats counted
    share: float | None = None  # of the mixture, 0 to 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What was run."""

    name: str
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class Decontaminated:
    """How test documents were kept out of the training data."""

    tool: str
    tasks: tuple[str, ...] = ()  # whose documents were looked for
    documents: int | None = None  # of the training data that were looked at
    removed: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingCard:
    """How a checkpoint came to be. lineage: oldest first, ending with itself. parents: other models that went into it
    (of a merge, of another vocabulary), each as it ends its own lineage."""

    name: str
    kind: str  # "base" or "chat"
    stage: str
    final: bool  # False: a checkpoint on the way
    lineage: tuple[Stage, ...]
    series: str | None = None  # what the checkpoints of one training have in common
    tokens: int | None = None  # seen in this stage up to here
    step: int | None = None
    steps_planned: int | None = None
    recipe: Recipe | None = None
    data: tuple[Source, ...] = ()
    decontaminated: Decontaminated | None = None
    hours: float | None = None  # of this stage up to here
    energy_kwh: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    parents: tuple[Stage, ...] = ()
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """As train_card.json and the manifest have it."""
        row: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if not self.parents:
            del row["parents"]
        return {"schema": row.pop("schema"), **row}

    @classmethod
    def from_dict(cls, row: object) -> TrainingCard:
        """The card, every field of the right type and within bounds; unknown keys are dropped. ModelError if not."""
        try:
            return _card(row)
        except _Damaged as reason:
            raise ModelError(f"This is no training card: {reason}.") from None


def read_training_card(folder: Path, say: Say = lambda line: None) -> dict[str, Any] | None:
    """The checked train_card.json of a model's folder; None where there is none, or, with a line, a damaged one."""
    path = folder / TRAINING
    try:
        content = _head(path, TRAINING_MOST)
        if content is None:
            return None
        if len(content) > TRAINING_MOST:
            raise _Damaged(f"it has more than {TRAINING_MOST >> 10} KiB")
        row = json.loads(content.decode("utf-8"), parse_constant=_no_number)
        return _card(row).to_dict()
    except (_Damaged, OSError, ValueError, RecursionError) as error:
        say(f"{path} is left out: {_reason(error)}.")
        return None


def write_training_card(folder: Path, card: TrainingCard | Mapping[str, Any]) -> Path:
    """Write train_card.json into a model's folder, whole or not at all. ModelError for a card that is not sound."""
    from estbench.runs import write_json

    made = TrainingCard.from_dict(card.to_dict() if isinstance(card, TrainingCard) else card)
    write_json(folder / TRAINING, made.to_dict())
    return folder / TRAINING


def read_model_card(folder: Path, say: Say = lambda line: None) -> dict[str, Any] | None:
    """{licence, base_models, languages} and maybe {links} of README.md's front matter; None where there is none, or,
    with a line, none that can be read."""
    path = folder / README
    try:
        row = _front_matter(_head(path, FRONT_MATTER_MOST) or b"")
    except (_Damaged, OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        say(f"{path}: its front matter is left out: {_reason(error)}.")
        return None
    if row is None:
        return None
    named = _clean(row.get("license_name")) if row.get("license") == "other" else None
    card: dict[str, Any] = {
        "licence": named or ", ".join(_cleaned(row.get("license"))) or None,
        "base_models": _cleaned(row.get("base_model")),
        "languages": _cleaned(row.get("language")),
    }
    link = _clean(row.get("license_link"))
    return card | ({"links": {"licence": link}} if link and re.fullmatch(r"https?://\S+", link) else {})


def of_folder(folder: Path, say: Say = lambda line: None) -> dict[str, Any]:
    """What a manifest's model part takes from the folder: `card` and `training`, each where there is one."""
    found = {"card": read_model_card(folder, say), "training": read_training_card(folder, say)}
    return {key: value for key, value in found.items() if value is not None}


def place(training: object) -> tuple[int | None, int | None]:
    """(tokens, step) of a manifest's `training`, to sort checkpoints by; None where it has none."""
    row = training if isinstance(training, dict) else {}
    tokens, step = (value if _is_whole(value) else None for value in (row.get("tokens"), row.get("step")))
    return tokens, step


# --- reading ----------------------------------------------------------------------------------------------------------


def _head(path: Path, most: int) -> bytes | None:
    """The first bytes of a file, one more than `most` where it is longer; None where it is no file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return file.read(most + 1)


def _front_matter(content: bytes) -> dict[str, Any] | None:
    """The mapping between the first two lines of ---. All its scalars are text: `no` is a language."""
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    if not lines or lines[0].rstrip() != b"---":
        return None
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == b"---"), None)
    if end is None:
        raise _Damaged(f"it does not end within {FRONT_MATTER_MOST >> 10} KiB")
    # BaseLoader makes nothing but text, lists and mappings; libyaml's twin can't stop at deep nesting
    row = yaml.load(b"\n".join(lines[1:end]).decode("utf-8"), Loader=yaml.BaseLoader)
    if not isinstance(row, dict):
        raise _Damaged("it is no mapping")
    return row


def _clean(value: object) -> str | None:
    """A text without what a terminal or page would obey, cut; None for anything else."""
    if not isinstance(value, str):
        return None
    return "".join(sign for sign in value if sign.isprintable()).strip()[:TEXT_MOST] or None


def _cleaned(value: object) -> list[str]:
    """The texts of one value or of a list of them."""
    several = value if isinstance(value, list) else [value]
    return [text for text in map(_clean, several[:ENTRIES_MOST]) if text]


def _no_number(word: str) -> None:
    raise _Damaged(f"{word} is no JSON number")


def _reason(error: Exception) -> str:
    """A parser's or our own words on one short line."""
    return _short("it is nested too deeply" if isinstance(error, RecursionError) else str(error))


def _short(words: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in words).split())[:TEXT_MOST].rstrip(".")


# --- checking ---------------------------------------------------------------------------------------------------------


def _card(row: object) -> TrainingCard:
    """The card of what train_card.json holds."""
    given = _mapping(row, "it")
    if given.get("schema") != SCHEMA or isinstance(given.get("schema"), bool):
        raise _Damaged(f"schema is not {SCHEMA}")
    card = TrainingCard(
        name=_text(given, "name"),
        kind=_text(given, "kind"),
        stage=_text(given, "stage"),
        final=_flag(given, "final"),
        lineage=tuple(_stage(_mapping(one, "lineage")) for one in _list(given, "lineage")),
        series=_maybe_text(given, "series"),
        tokens=_whole(given, "tokens"),
        step=_whole(given, "step"),
        steps_planned=_whole(given, "steps_planned"),
        recipe=_recipe(given.get("recipe")),
        data=tuple(_source(_mapping(one, "data")) for one in _list(given, "data")),
        decontaminated=_decontaminated(given.get("decontaminated")),
        hours=_number(given, "hours"),
        energy_kwh=_number(given, "energy_kwh"),
        versions=_versions(given),
        parents=tuple(_stage(_mapping(one, "parents")) for one in _list(given, "parents")),
    )
    if card.kind not in KINDS:
        raise _Damaged(f"kind is none of {', '.join(KINDS)}")
    if not all(
        STAGE.fullmatch(stage) for stage in (card.stage, *(one.stage for one in (*card.lineage, *card.parents)))
    ):
        raise _Damaged("a stage is no word in small letters")
    if not card.lineage or (card.lineage[-1].name, card.lineage[-1].stage) != (card.name, card.stage):
        raise _Damaged("lineage does not end with the model itself")
    return card


def _stage(given: Mapping[str, Any]) -> Stage:
    fingerprint = _maybe_text(given, "fingerprint")
    if fingerprint is not None and not FINGERPRINT.fullmatch(fingerprint):
        raise _Damaged("a fingerprint in lineage or parents is not 64 hex digits")
    return Stage(_text(given, "stage"), _text(given, "name"), fingerprint, _whole(given, "tokens"))


def _source(given: Mapping[str, Any]) -> Source:
    share = _number(given, "share")
    if share is not None and share > 1:
        raise _Damaged("a share in data is more than 1")
    return Source(_text(given, "name"), _maybe_text(given, "licence"), _whole(given, "tokens"), share)


def _recipe(value: object) -> Recipe | None:
    if value is None:
        return None
    given = _mapping(value, "recipe")
    return Recipe(_text(given, "name"), _maybe_text(given, "hash"))


def _decontaminated(value: object) -> Decontaminated | None:
    if value is None:
        return None
    given = _mapping(value, "decontaminated")
    tasks = [_text({"decontaminated.tasks": task}, "decontaminated.tasks") for task in _list(given, "tasks")]
    return Decontaminated(_text(given, "tool"), tuple(tasks), _whole(given, "documents"), _whole(given, "removed"))


def _versions(given: Mapping[str, Any]) -> dict[str, str]:
    versions = _mapping(given.get("versions") or {}, "versions")
    return {_text({"versions": name}, "versions"): _text(versions, name) for name in versions}


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Damaged(f"{what} is no mapping" if what != "it" else "it is no JSON object")
    if len(value) > ENTRIES_MOST:
        raise _Damaged(f"{what} has more than {ENTRIES_MOST} entries")
    return value


def _list(given: Mapping[str, Any], key: str) -> list[Any]:
    value = given.get(key)
    if value is not None and not isinstance(value, list | tuple):
        raise _Damaged(f"{key} is no list")
    if value and len(value) > ENTRIES_MOST:
        raise _Damaged(f"{key} has more than {ENTRIES_MOST} entries")
    return list(value or [])


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value.strip() or len(value) > TEXT_MOST or not value.isprintable():
        raise _Damaged(f"{_short(key)} is no text of 1 to {TEXT_MOST} printable signs")
    return value


def _maybe_text(given: Mapping[str, Any], key: str) -> str | None:
    return None if given.get(key) is None else _text(given, key)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= WHOLE_MOST


def _whole(given: Mapping[str, Any], key: str) -> int | None:
    value = given.get(key)
    if value is not None and not _is_whole(value):
        raise _Damaged(f"{key} is no whole number from 0 to 2^53")
    return value


def _number(given: Mapping[str, Any], key: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= WHOLE_MOST:
        raise _Damaged(f"{key} is no number from 0 to 2^53")
    return float(value)


def _flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key)
    if not isinstance(value, bool):
        raise _Damaged(f"{key} is not true or false")
    return value
