"""Recipes: rows into settings, every slip answered in one line; stages that fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from estbench_training import kinds
from estbench_training.reading import parse
from estbench_training.recipe import Recipe, from_row, load

from estbench.cli import main
from estbench.errors import ConfigError


@pytest.fixture(autouse=True)
def made_up_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "words": "training_kinds:WORDS", "copy": "training_kinds:COPY"})


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Settings:
    data: str | tuple[str, ...]
    rate: float = 1e-5
    steps: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    tasks: str | tuple[str, ...] = "all"
    on: bool | Inner = False


def test_every_kind_of_field_is_read() -> None:
    row = {
        "data": ["a", "b"],
        "rate": "2e-5",  # YAML's 2e-5 is text
        "steps": 5e9,
        "mode": "slow",
        "inner": {"share": 1},
        "many": [{"share": 0.1}, {}],
        "weights": {"et": 3, "en": "1e0"},
        "on": {"share": 0.2},
    }
    assert parse(Settings, row, "here") == Settings(
        data=("a", "b"),
        rate=2e-5,
        steps=5_000_000_000,
        mode="slow",
        inner=Inner(1),
        many=(Inner(0.1), Inner()),
        weights={"et": 3, "en": 1.0},
        on=Inner(0.2),
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"data": "x", "rte": 1}, "here has no key 'rte'. Did you mean 'rate'?"),
        ({}, "here lacks the key 'data'"),
        ({"data": "x", "rate": "fast"}, "here, rate: 'fast' is no number"),
        ({"data": "x", "rate": float("nan")}, "is no number"),
        ({"data": "x", "rate": True}, "is no number"),
        ({"data": "x", "steps": 1.5}, "here, steps: 1.5 is no whole number"),
        ({"data": "x", "mode": "slw"}, "not one of fast, slow. Did you mean 'slow'?"),
        ({"data": "x", "inner": {"shre": 1}}, "here, inner has no key 'shre'. Did you mean 'share'?"),
        ({"data": "x", "inner": 3}, "here, inner has to hold keys and values"),
        ({"data": "x", "many": {"share": 1}}, "here, many has to be a list"),
        ({"data": "x", "many": [{"share": "a"}]}, "here, many[0], share: 'a' is no number"),
        ({"data": "x", "weights": [1]}, "here, weights has to hold names and values"),
        ({"data": "x", "on": {"shre": 1}}, "here, on has no key 'shre'"),
        ({"data": None}, "here, data"),
        ("text", "here has to hold keys and values"),
    ],
)
def test_every_slip_is_answered_in_one_line_with_its_place(row: Any, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(Settings, row, "here")
    assert said in str(found.value) and "\n" not in str(found.value)


def recipe(*stages: Mapping[str, Any], **head: Any) -> Recipe:
    return from_row({"name": "r", "base": "demo-base", **head, "stages": list(stages)}, Path())


WORDS: dict[str, Any] = {"name": "corpus", "kind": "words", "words": ["a"]}
COPY: dict[str, Any] = {"name": "tuned", "kind": "copy", "data": "corpus"}


def test_a_stage_starts_from_the_newest_model_before_it_or_the_one_it_names() -> None:
    found = recipe(WORDS, COPY, {**COPY, "name": "next"}, {**COPY, "name": "other", "model": "tuned"})
    assert [found.model_before(stage) for stage in found.stages[1:]] == ["demo-base", "tuned", "tuned"]
    assert found.stage("other").settings.inputs() == ("corpus",)


@pytest.mark.parametrize(
    ("stages", "head", "said"),
    [
        ([COPY], {}, "reads 'corpus', which is no stage before it"),
        ([COPY, WORDS], {}, "It has to come before"),
        ([WORDS, {**COPY, "data": "corpsu"}], {}, "Did you mean 'corpus'?"),
        ([WORDS, WORDS], {}, "two stages called 'corpus'"),
        ([WORDS, COPY], {"base": None}, "needs a model: give the recipe a base"),
        ([WORDS, {**COPY, "model": "corpus"}], {}, "starts from 'corpus', which makes no model"),
        ([{"name": "x", "kind": "wrods"}], {}, "There is no kind of stage 'wrods'. Did you mean 'words'?"),
        ([{"kind": "words"}], {}, "stage 1 lacks the key 'name'"),
        ([{**WORDS, "wrds": 1}], {}, "stage 1 (corpus) has no key 'wrds'. Did you mean 'words'?"),
        ([{**WORDS, "name": "../x"}], {}, "has to be of a-z"),
        ([WORDS], {"name": "Mine"}, "has to be of a-z"),
        ([WORDS], {"seed": -1}, "seed: -1 has to be from 0"),
        ([{**WORDS, "seed": 2**32}], {}, "seed: 4294967296 has to be"),
        ([WORDS], {"bse": 1}, "Did you mean 'base' or 'seed'?"),
        ([], {}, "a list of stages"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(stages: Any, head: Any, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        recipe(*stages, **head)
    assert said in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("name: [", "is not valid YAML"), ("- 1", "is no recipe"), (None, "can't be read"), ("name: x", "is no recipe")],
)
def test_a_file_that_is_no_recipe_ends_with_2_and_one_line(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    if text is None:
        path.mkdir()
        with pytest.raises(ConfigError, match=said):
            load(path)
        return
    path.write_text(text, "utf-8")
    assert main(["train", f"recipe={path}", f"output_dir={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_unknown_recipe_and_a_missing_one_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "recipe=lamas"]) == 2 and "llammas" in capsys.readouterr().err
    assert main(["train"]) == 2 and "recipe= is missing" in capsys.readouterr().err
