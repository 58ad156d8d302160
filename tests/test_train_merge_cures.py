"""A key that a method lacks, or can't use, is refused with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
from estbench_training.merge.settings import MergeSettings
from estbench_training.reading import parse

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
