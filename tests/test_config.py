"""Settings from key=value: typed, and helpful when a key or value is wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench import config
from estbench.config import EvalSettings
from estbench.errors import ConfigError


def read(*words: str) -> EvalSettings:
    return config.read(words, EvalSettings)


def test_words_become_typed_settings() -> None:
    settings = read("model=demo", "limit=200", "engine.dtype=float32", "plan=true", "slice=2/3", "shots=0")
    assert settings.limit == 200 and settings.shots == 0 and settings.plan is True
    assert settings.engine_options == {"dtype": "float32"} and settings.slice_of == (2, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=x", "task=mini"], "Did you mean 'tasks'"),
        (["model=x", "limt=3"], "Did you mean 'limit'"),
        (["model=x", "limit=0"], "limit=0 is too small: at least 1"),
        (["model=x", "limit=-3"], "too small"),
        (["model=x", "limit=ten"], "no whole number"),
        (["model=x", "shots=1.5"], "no whole number"),
        (["model=x", "output=tabel"], "Did you mean 'table'"),
        (["model=x", "engine=vlm"], "not one of"),
        (["model=x", "plan=maybe"], "neither true nor false"),
        (["model=x", "tasks="], "tasks= is empty"),
        (["model=x", "model=y"], "given twice"),
        (["--limit", "3"], "no key=value"),
        (["tasks=mini"], "model= is missing"),
        (["model=x", "engine_options=1"], "no key 'engine_options'"),
        (["model=x", "engine.=1"], "no key 'engine.'"),
    ],
)
def test_a_wrong_word_gets_one_line_with_the_cure(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_a_slice_has_to_be_one_of_n(text: str) -> None:
    with pytest.raises(ConfigError, match="slice="):
        _ = read("model=x", f"slice={text}").slice_of


def test_a_file_gives_keys_and_what_is_typed_wins(tmp_path: Path) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text("tasks: [estcopa, estqa]\nlimit: 50\nplan: true\n")
    settings = read(f"@{file}", "model=demo", "limit=7")
    assert settings.tasks == "estcopa,estqa" and settings.limit == 7 and settings.plan is True


def test_a_file_holds_engine_options_as_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("engine:\n  dtype: float32\n")
    assert read(f"@{file}", "model=demo").engine_options == {"dtype": "float32"}


@pytest.mark.parametrize(
    ("content", "message"), [("- 1", "keys and values"), ("a: [", "not valid YAML"), ("limt: 3", "limit")]
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(f"@{file}", "model=demo")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml can't be read"):
        read(f"@{tmp_path}/nowhere.yaml", "model=demo")


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_words_give_settings_or_one_line(words: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        assert read(*[word for word in words if not word.startswith("@")]).model
