"""`estbench parity`: the same requests to two engines, what differs, and an exit code that says whether it matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_endpoint import Endpoint, TinyModel
from worlds import World

from estbench import cli, config, parity, registry
from estbench.answering import Answers
from estbench.engines.base import Decoding, Generated, Request, Response, Scored
from estbench.errors import ConfigError
from estbench.plan import Doc
from estbench.settings import ParitySettings


@pytest.fixture
def world(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "world", 8)
    monkeypatch.setattr(registry, "project_file", lambda name: made.folder / name)
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = cli.main(["parity", *words, "output=json"])
    return code, json.loads(capsys.readouterr().out)


def test_hf_and_a_server_agree_and_nothing_is_stored(
    world: World, tiny_model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Endpoint(TinyModel(tiny_model), fingerprint="vllm-0-abc") as endpoint:
        engines = f"engines=hf,vllm:url={endpoint.url}:scoring=walk"
        code, found = run(capsys, f"model={tiny_model}", "tasks=both", f"data={world.data}", engines)
    assert code == 0 and found["verdict"] == "within"
    letters, words = found["tasks"]
    assert letters["requests"] == letters["scored"] == 16 and 0 < letters["largest"] < 1e-4 and letters["flips"] == 0
    assert words["texts"] == 8 and words["equal_texts"] == 1.0
    assert found["engines"][1]["notes"]["scoring"] == {"letters": "walk"}
    assert not (home / "runs").exists() and not (home / "responses").exists()


def test_past_the_tolerance_it_says_what_and_ends_with_1(
    world: World, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model={tiny_model}", "tasks=letters", f"data={world.data}", "engines=hf,hf:dtype=bfloat16"]
    code, found = run(capsys, *words, "tolerance=1e-6")
    [row] = found["tasks"]
    assert code == 1 and found["verdict"] == "past" and row["past"][0].startswith("a log-likelihood differs by")
    assert row["largest"] > 1e-6
    code, found = run(capsys, *words, "tolerance=5")
    assert code == 0 and found["tasks"][0]["largest"] == row["largest"]
    assert cli.main(["parity", *words, "tolerance=1e-6", "output=table"]) == 1
    said = capsys.readouterr().out
    assert "hf against hf:dtype=bfloat16" in said and "a log-likelihood differs by" in said


def doc(*keys: str) -> Doc:
    requests = [Request(np.array([1], np.int32), np.array([2], np.int32)) for _ in keys]
    return Doc(0, "h", "r", "a", None, requests, list(keys))


def scored(**values: float) -> dict[str, Response]:
    return {key: Scored(value, False) for key, value in values.items()}


def test_a_choice_that_turns_counts_by_its_margin() -> None:
    """0.3 apart for one engine and 0.1 for the other, on different sides: the margin is 0.1."""
    first, second = scored(a=-1.0, b=-1.3), scored(a=-1.2, b=-1.1)
    assert parity.turned(doc("a", "b"), first, first) is None
    found = parity.turned(doc("a", "b"), first, second)
    assert found is not None and found["choices"] == [0, 1] and abs(found["margin"] - 0.1) < 1e-9
    assert parity.turned(doc("a"), first, second) is None  # one log-likelihood is no choice
    assert parity.turned(doc("a", "b"), first, scored(a=-1.2)) is None  # one that is missing is counted as that


def judged(docs: list[Doc], one: dict[str, Response], other: dict[str, Response], **limits: float) -> dict[str, Any]:
    plan: Any = type("Plan", (), {"docs": docs, "card": type("Card", (), {"name": "t"})})
    settings = ParitySettings(model="m", tasks="t", **limits)  # type: ignore[arg-type]
    return parity._task(plan, Answers(one), Answers(other), settings)


def test_what_has_no_answer_is_not_within() -> None:
    first = scored(a=-1.0, b=-2.0)
    assert judged([doc("a", "b")], first, first)["past"] == []
    assert judged([doc("a", "b")], first, scored(a=-1.0))["past"] == ["1 requests have no answer"]


def test_a_turned_choice_is_past_only_above_the_margin() -> None:
    first, second = scored(a=-1.0, b=-1.3), scored(a=-1.2, b=-1.1)
    assert judged([doc("a", "b")], first, second, tolerance=0.25)["past"] == []
    assert any("a choice turns" in line for line in judged([doc("a", "b")], first, second, tolerance=0.05)["past"])


def test_texts_have_to_be_equal_but_for_a_share_and_sampled_ones_do_not() -> None:
    asked = [Request(np.array([i], np.int32), decoding=Decoding(4)) for i in range(4)]
    one: dict[str, Response] = {str(i): Generated("jah", 1, "stop") for i in range(4)}
    other: dict[str, Response] = {**one, "3": Generated("ei", 1, "stop")}
    docs = [Doc(i, "h", "r", "a", None, [asked[i]], [str(i)]) for i in range(4)]
    row = judged(docs, one, other, equal=0.9)
    assert row["equal_texts"] == 0.75 and row["past"] == ["1 of 4 texts differ"]
    assert row["unequal"] == [{"doc_id": 3, "texts": ["jah", "ei"]}]
    assert judged(docs, one, other, equal=0.7)["past"] == []
    docs[3].requests = [Request(np.array([3], np.int32), decoding=Decoding(4, temperature=1.0))]
    assert judged(docs, one, other)["texts"] == 3


@pytest.mark.parametrize(
    ("engines", "why"),
    [
        ("hf", "two engines"),
        ("hf,vllm,hf", "two engines"),
        ("hf,vlm", "two engines"),
        ("hff,vllm", "'hff', which is not one of hf, vllm. Did you mean 'hf'"),
        ("hf,openai:url=http://h/v1", "which weights"),
        ("hf,hf:dtyp=bfloat16", "no option 'dtyp'. Did you mean 'dtype'"),
        ("hf,hf:dtype=int4", "dtype=int4"),
    ],
)
def test_engines_that_can_not_be_are_refused(engines: str, why: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parity.sides_of(config.read(["model=m", "tasks=t", f"engines={engines}"], ParitySettings))
    assert why in str(raised.value)


def test_options_may_hold_colons_and_commas() -> None:
    words = ["model=m", "tasks=t", "engines=hf:dtype=float32,vllm:command=run docker://a,b:args=--a x,y"]
    sides = parity.sides_of(config.read(words, ParitySettings))
    assert sides[0][1].engine_options == {"dtype": "float32"}
    assert sides[1][1].engine_options == {"command": "run docker://a,b", "args": "--a x,y"}
