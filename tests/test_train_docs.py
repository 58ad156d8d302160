"""docs/training.md and docs/merging.md are true: every key of every kind of stage is in them, and their examples are
read as they stand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from estbench_training.kinds import KINDS, kind_of
from estbench_training.reading import parse
from estbench_training.recipe import Common, Head, load

ROOT = Path(__file__).parents[1]
DOCS = "\n".join((ROOT / "docs" / name).read_text("utf-8") for name in ("training.md", "merging.md"))
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)


@pytest.mark.parametrize("name", KINDS)
def test_every_key_of_a_kind_is_in_the_docs(name: str) -> None:
    missing = [
        key.name for key in dataclasses.fields(kind_of(name).settings) if not re.search(rf"\b{key.name}\b", DOCS)
    ]
    assert not missing


def test_every_kind_and_every_key_of_a_recipe_is_in_the_docs() -> None:
    names = [*KINDS, *(key.name for kind in (Head, Common) for key in dataclasses.fields(kind))]
    assert [name for name in names if f"`{name}`" not in DOCS and f"{name}:" not in DOCS] == []


def test_example_stages_are_read_as_they_stand() -> None:
    stages = [row for block in BLOCKS for row in _stages(block)]
    assert {row["kind"] for row in stages} == set(KINDS)
    for row in stages:
        own = {key: value for key, value in row.items() if key not in Common.__dataclass_fields__}
        parse(kind_of(row["kind"]).settings, own, row["name"])


def _stages(block: str) -> list[dict[str, str]]:
    if "…\n" in block:  # an outline
        return []
    rows = yaml.safe_load(block)
    return [row for row in rows if "kind" in row] if isinstance(rows, list) else []


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_read_and_named_in_the_docs(path: Path) -> None:
    assert load(path).stages and f"`{path.stem}`" in DOCS
