"""Rubrics: what a judge is asked to look at, as versioned files in `judges/rubrics/`.

    rubric = load("helpfulness")            # or a path to a file of one's own
    rubric.instructions["et"]; rubric.modes; rubric.hash

`frame.yaml` has what every judge is told besides, and how each mode is answered.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from estbench import identity
from estbench.errors import ConfigError, did_you_mean
from estbench.home import project_file

MODES = ("pairwise", "pointwise", "checklist", "equivalence")
METRICS = dict(zip(MODES, ("win_rate", "rating", "checklist", "equivalent"), strict=True))
LANGUAGES = ("et", "en")
AXES = ("content", "language")
RESERVED = (  # what stands beside a number, as METRIC/NAME
    *("panel", "corrected", "without_kin", "equal_style", "position_consistency", "first_position_bias"),
)
NEEDS = ("reference", "two_turns")
LABELS = ("1", "2", "3", "4", "5")
FRAME = "frame"


@dataclass(frozen=True)
class Rubric:
    """What is judged, and in which ways."""

    name: str
    version: int
    axis: str  # "content" or "language": which vote of people it is compared with
    modes: tuple[str, ...]  # the first is the usual one
    title: Mapping[str, str]
    instructions: Mapping[str, str]  # by language
    scale: Mapping[str, Mapping[str, str]]  # label -> language -> what it means; empty without pointwise
    needs: str | None  # what a document must have: "reference" or "two_turns"
    hash: str  # of the file's content

    @property
    def id(self) -> str:
        """`helpfulness@1-3fa9c2d1`: what a signature names."""
        return f"{self.name}@{self.version}-{self.hash[:8]}"


@dataclass(frozen=True)
class Frame:
    """What every judge is told; each text by language."""

    system: Mapping[str, str]
    modes: Mapping[str, Mapping[str, str]]
    texts: Mapping[str, Mapping[str, str]]  # two_turns, reference, reason, plain, label, retry
    hash: str  # of the file's content


def folder() -> Path:
    """Where the rubrics lie: beside the package in a checkout, inside estbench's in a wheel."""
    here = Path(__file__).resolve().parent.parent / "rubrics"
    return here if here.is_dir() else project_file("rubrics")


def names() -> list[str]:
    """The rubrics that come with estbench."""
    return sorted(path.stem for path in folder().glob("*.yaml") if path.stem != FRAME)


def load(name: str) -> Rubric:
    """A rubric by name or path; ConfigError where there is none, or where its file is not one."""
    own = Path(name).expanduser()
    path = own if own.suffix in (".yaml", ".yml") else folder() / f"{name}.yaml"
    if path.stem == FRAME or not path.is_file():
        raise ConfigError(
            f"There is no rubric {name!r}.{did_you_mean(name, names())} There are {', '.join(names())}; a file of "
            "your own ends in .yaml."
        )
    row = _read(path)
    try:
        return _rubric(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} is no rubric: {what}.") from None


def _rubric(row: dict[str, Any]) -> Rubric:
    modes = tuple(row["modes"])
    if not modes or set(modes) - set(MODES):
        raise ValueError(f"modes has to be some of {', '.join(MODES)}")
    if row["axis"] not in AXES or row.get("needs") not in (None, *NEEDS):
        raise ValueError(f"axis is one of {', '.join(AXES)}, needs one of {', '.join(NEEDS)}")
    scale = {str(label): dict(text) for label, text in (row.get("scale") or {}).items()}
    if "pointwise" in modes and tuple(scale) != LABELS:
        raise ValueError("scale has to say what 1 to 5 mean")
    texts = [row["title"], row["instructions"], *scale.values()]
    if any(not isinstance(said := text.get(name), str) or not said.strip() for text in texts for name in LANGUAGES):
        raise ValueError("title, instructions and scale are texts in et and en")
    if not str(row["name"]).replace("_", "").isalnum() or row["name"] in RESERVED:
        raise ValueError(f"its name is letters, digits and _, and none of {', '.join(RESERVED)}")
    return Rubric(
        name=str(row["name"]),
        version=int(row["version"]),
        axis=row["axis"],
        modes=modes,
        title=row["title"],
        instructions=row["instructions"],
        scale=scale,
        needs=row.get("needs"),
        hash=identity.digest(_plain(row)),
    )


@functools.cache
def frame() -> Frame:
    """The texts that all rubrics share."""
    row = _read(folder() / f"{FRAME}.yaml")
    texts = {name: row[name] for name in ("two_turns", "reference", "reason", "plain", "label", "retry")}
    return Frame(row["system"], row["modes"], texts, identity.digest(_plain(row)))


def _plain(value: Any) -> Any:
    """YAML as canonical JSON can hold it: a scale's labels are numbers there."""
    return {str(key): _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        row = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{path} is no rubric: it has to hold a mapping.")
    return row
