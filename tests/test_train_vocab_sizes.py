"""What can't be made of an old vocabulary is refused before the texts are read, which may take an hour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import vocab_world as world
from estbench_training.vocab import corpus
from vocab_world import run as make

from estbench.errors import ConfigError


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return world.bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("the texts are read")

    monkeypatch.setattr(corpus, "read", read)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("base", "keys", "line"),
    [
        ("demo", {"mode": "extend", "size": 1000}, r"1,000 is not more than the [\d,]+ tokens.*in all, old and new"),
        ("unigram", {"mode": "extend", "size": 9000}, "say mode: replace"),
        ("unigram", {"mode": "optimise"}, "say mode: replace"),
        ("llama3", {"mode": "optimise", "size": 200}, "too small.*a larger one"),
        ("llama3", {"mode": "replace", "size": 260}, "leaves no room.*take 260; give a larger one"),
        ("llama3", {"mode": "shrink", "size": 200}, "too small.*a larger one"),
        ("llama3", {"mode": "shrink", "size": 504}, "504 is not below the 504 tokens.*leave size out to drop only"),
    ],
)
def test_a_size_that_the_old_vocabulary_rules_out_is_refused_before_texts_are_read(
    tmp_path: Path, bases: Mapping[str, Path], base: str, keys: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        make(tmp_path, bases[base], **keys)
    assert not list((tmp_path / "out").glob("*/*model*"))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ("llama3", {"mode": "extend", "size": 505}),
        ("llama3", {"mode": "optimise", "size": 504}),
        ("unigram", {"mode": "replace", "size": 400}),
        ("llama3", {"mode": "shrink", "size": 503}),
        ("llama3", {"mode": "shrink"}),
    ],
)
def test_a_size_that_may_be_had_gets_as_far_as_the_texts(
    tmp_path: Path, bases: Mapping[str, Path], base: str, keys: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError, match="the texts are read"):
        make(tmp_path, bases[base], **keys)
