"""Recipes with an instructions stage, and what they make, for the tests of that stage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from estbench_training import recipe as recipes
from estbench_training.kinds import Context
from estbench_training.recipe import Recipe

from estbench.demo import stream

Rows = list[dict[str, Any]]
NONE: dict[str, Any] = {"decontaminate": "none", "duplicates": {"exact": False, "near": False}}  # every row stays
ALL: dict[str, Any] = {
    "length_ratio": None,
    "numbers": False,
    "punctuation": False,
    "copies": False,
    "languages": False,
    "letters": 0,
}


def recipe_of(folder: Path, sources: Mapping[str, Any], **keys: Any) -> Recipe:
    """A recipe with one stage."""
    stage = {"name": "instructions", "kind": "instructions", "sources": sources, **keys}
    return recipes.from_row({"name": "r", "stages": [stage]}, folder)


def make(
    folder: Path,
    sources: Mapping[str, Any],
    said: list[str] | None = None,
    *,
    seed: int = 42,
    output: str = "stage",
    **keys: Any,
) -> Rows:
    """Run an instructions stage; its rows."""
    recipe = recipe_of(folder, sources, **keys)
    to = folder / output
    to.mkdir(exist_ok=True)
    say = said.append if said is not None else lambda line: None
    stage = recipe.stages[0]
    stage.kind.run(stage.settings, Context(recipe, stage, to, "k" * 64, seed, say))
    return read(to)


def read(stage: Path) -> Rows:
    """The rows of a stage's folder."""
    return [json.loads(line) for line in (stage / "rows.jsonl").read_text("utf-8").splitlines()]


def manifest(folder: Path, output: str = "stage") -> dict[str, Any]:
    """What the stage says of its rows."""
    found: dict[str, Any] = json.loads((folder / output / "manifest.json").read_text("utf-8"))
    return found


def write(path: Path, rows: Iterable[Any]) -> str:
    """JSONL; its name."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path.name


def pairs(count: int, seed: str = "pairs") -> list[dict[str, str]]:
    """Different sentences of the demo world in both languages, numbered so that none is another's twin."""
    made = islice(stream.parallel(seed), count)
    return [{"et": f"{et[:-1]}, rida {at}.", "en": f"{en[:-1]}, line {at}."} for at, (et, en) in enumerate(made)]


def parallel(path: str, directions: Mapping[str, float], **keys: Any) -> dict[str, Any]:
    """A source of parallel text. Keys of `translation` and of the source; nothing is left out by filters."""
    own = {name: keys.pop(name) for name in ("instruction_language", "separate_input", "templates") if name in keys}
    filters = {**ALL, **keys.pop("pair_filters", {})}
    return {
        "path": path,
        "licence": "cc0-1.0",
        "translation": {"directions": directions, "filters": filters, **own},
        **keys,
    }


def alpaca(path: str, **keys: Any) -> dict[str, Any]:
    """A source of instructions."""
    return {"path": path, "form": "alpaca", "language": "et", "licence": "cc-by-4.0", **keys}


def direction(row: Mapping[str, Any], texts: Iterable[Mapping[str, str]]) -> str:
    """The direction of a row that was made of these pairs, by its answer."""
    answer = row["messages"][1]["content"]
    if any(pair["et"] == answer for pair in texts):
        return "en-et"
    assert any(pair["en"] == answer for pair in texts)
    return "et-en"
