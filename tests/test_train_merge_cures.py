"""A key that a method lacks, or can't use, is refused with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from estbench_training.merge.command import MergeCommandSettings
from estbench_training.merge.settings import MergeSettings
from estbench_training.reading import parse
from estbench_training.recipe import Recipe, from_row
from merge_world import make

from estbench.config import read
from estbench.errors import ConfigError

TWO = {"parts": ["a", "b"]}
BASED = {"parts": ["a", "b"], "base": "c"}


@pytest.mark.parametrize(
    ("row", "lacking", "cure"),
    [
        ({"method": "ties", **BASED}, "density: ties needs it", "0.2 in the paper"),
        ({"method": "dare", **BASED}, "drop: dare needs it", "0.9 for one"),
        ({"method": "slerp", **TWO}, "t: slerp needs it", "0.5 is halfway"),
        ({"method": "task", **BASED, "density": 0.2}, "density: is for ties, not task", "leave it out"),
        ({"method": "average", **TWO, "scale": 0.5}, "scale: average has none", "leave it out"),
        ({"method": "stock", **BASED, "scales": {"*": 0.5}}, "scales: stock has none", "leave it out"),
        ({"method": "stock", **BASED, "weights": [1, 2]}, "weights: stock has none", "leave it out"),
        ({"method": "average", **BASED}, "base: average takes none", "leave it out"),
        ({"method": "slerp", **TWO, "t": 0.5, "into": "c"}, "into: slerp makes a model of its own", "leave it out"),
        ({"method": "average", **TWO, "embeddings": "skip"}, "average has none", "leave it out"),
    ],
)
def test_a_key_that_a_method_lacks_or_cannot_use_is_refused_with_its_cure(
    row: dict[str, Any], lacking: str, cure: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(MergeSettings, row, "stage merge")
    line = str(caught.value)
    assert lacking in line and cure in line and "\n" not in line


def test_a_recipe_is_refused_for_a_pattern_that_matches_nothing_before_it_trains(tmp_path: Path) -> None:
    make(tmp_path / "base", seed=1)
    merging = {"name": "merged", "kind": "merge", "method": "chat_vector", "base": "base", "instruct": "chat"}
    cpt = {"name": "cpt", "kind": "cpt", "data": "corpus", "rate": 1e-5, "steps": 4, "sequence": 64}
    corpus = {"name": "corpus", "kind": "prepare", "sources": {"et": {"demo": "et", "documents": 10}}}

    def recipe(pattern: str, base: str = "base") -> Recipe:
        stages = [corpus, {**cpt, "batch_tokens": 1024}, {**merging, "base": base, "scales": {pattern: 0.5}}]
        return from_row({"name": "r", "base": base, "stages": stages}, tmp_path)

    with pytest.raises(ConfigError, match=r"'\*\.leyers\.\*' matches no tensor; they are called"):
        recipe("*.leyers.*")
    recipe("*.layers.*")
    recipe("*.leyers.*", "nowhere/yet")  # the control: what is not here can't be looked at


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=chat_vector", "base=b"], r"chat_vector needs base= and instruct="),
        (["method=chat_vector", "base=b", "instruct=c", "parts=a"], r"takes instruct=, and no parts= or weights="),
        (["method=ties", "base=b", "parts=a"], r"density: ties needs it"),
        (["method=average", "parts=a,b", "scales.*.mlp.*=2000"], r"scales, \*\.mlp\.\*: 2000 has to be"),
    ],
)
def test_a_command_is_told_in_its_own_spelling(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _ = read([*words, "output=m"], MergeCommandSettings).merge
