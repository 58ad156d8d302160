"""Preference pairs: which of a model's answers become a pair, what of others' rows is one, and what a kill
costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from estbench_training import pair_rows, pairs, recipe, rows, scorers, stages
from estbench_training.pair_rows import ExistingSettings, existing
from estbench_training.scorers import Prompt
from judge_server import JudgeServer, Persona

from estbench.errors import ConfigError, DataError, EngineError, ModelError

Row = dict[str, Any]


def prompt(text: str, place: int = 0, **row: Any) -> Prompt:
    return Prompt(str(place), ({"role": "user", "content": text},), "test", row)


def write(path: Path, given: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given), "utf-8")
    return path


def silent(line: str) -> None:
    """Hears nothing."""


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_best_is_chosen_and_the_worst_rejected() -> None:
    assert pairs.choose([0.5, 1.0, 0.0, 0.75], 0.25, "k") == (1, 2)


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([0.5, 0.5, 0.5], "no gap"),
        ([0.5, 0.6], "no gap"),
        ([None, 1.0, None], "fewer than two scored answers"),
        ([1.0], "fewer than two scored answers"),
        ([], "fewer than two scored answers"),
    ],
)
def test_a_prompt_without_a_gap_or_scores_has_no_pair_and_says_why(scores: list[float | None], why: str) -> None:
    assert pairs.choose(scores, 0.25, "k") == why


def test_a_missing_score_is_never_a_score() -> None:
    assert pairs.choose([None, 0.9, 0.4], 0.25, "k") == (1, 2)  # not 0, which would have lost


def test_a_gap_of_just_the_least_counts() -> None:
    assert pairs.choose([0.55, 0.3], 0.25, "k") == (0, 1)
    assert pairs.choose([0.55, 0.3000001], 0.25, "k") == "no gap"


def test_ties_are_drawn_evenly_and_the_same_way_again() -> None:
    drawn = Counter(pairs.choose([1.0, 1.0, 0.0, 0.0], 0.25, str(key)) for key in range(2000))
    assert set(drawn) == {(0, 2), (0, 3), (1, 2), (1, 3)} and max(drawn.values()) < 600
    assert pairs.choose([1.0, 1.0, 0.0], 0.25, "k") == pairs.choose([1.0, 1.0, 0.0], 0.25, "k")


def test_equal_answers_count_once() -> None:
    assert pairs.different(["Jah.", " Jah.\n", "Ei.", "Jah."]) == ["Jah.", "Ei."]


def test_equal_prompts_count_once_and_are_counted() -> None:
    kept, repeated = pairs.distinct([prompt("A", 1), prompt("A ", 2), prompt("B", 3)])
    assert [one.id for one in kept] == ["1", "3"] and repeated == 1


def test_a_limit_draws_by_content_and_seed_and_keeps_the_order() -> None:
    given = [prompt(f"p{i}", i) for i in range(50)]
    some = pairs.drawn(given, 10, 1)
    assert some == pairs.drawn(given, 10, 1) != pairs.drawn(given, 10, 2)
    assert [int(one.id) for one in some] == sorted(int(one.id) for one in some) and len(some) == 10
    assert {one.id for one in some} <= {one.id for one in pairs.drawn(given, 20, 1)}
    assert pairs.drawn(given, None, 1) == pairs.drawn(given, 99, 1) == given


def test_answers_have_seeds_of_their_own() -> None:
    assert len({*pairs.seeds(1, 8), *pairs.seeds(2, 8)}) == 16 and pairs.seeds(1, 8)[:4] == pairs.seeds(1, 4)


def test_a_length_bias_is_seen() -> None:
    def made(chosen: str, rejected: str) -> pair_rows.Pair:
        return pair_rows.Pair("1", "s", (), chosen, rejected)

    found = pairs.lengths([made("xxxx", "x"), made("xxx", "x"), made("x", "xxx"), made("aa", "bb")])
    assert found == {"chosen": 2.5, "rejected": 1.8, "chosen_longer": round(2 / 3, 4)}
    assert pairs.lengths([made("a", "b")])["chosen_longer"] == 0.5


# --- prompts and pairs of others --------------------------------------------------------------------------------------


def test_prompts_come_from_messages_or_a_text(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.jsonl",
        [
            {"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], "source": "x"},
            {
                "messages": [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": "A"},
                    {"role": "assistant", "content": "B"},
                    {"role": "user", "content": "C"},
                ]
            },
            {"prompt": "Palun", "answers": ["1"], "id": "kolm"},
        ],
    )
    first, second, third = pair_rows.read_prompts(path, "prompt", "r")
    assert [one["content"] for one in first.messages] == ["A"] and first.source == "x"
    assert [one["content"] for one in second.messages] == ["S", "A", "B", "C"]
    assert (third.id, third.row["answers"], third.source) == ("kolm", ["1"], "r")
    assert [one["role"] for one in scorers.with_system(third, "Ole abiks.").messages] == ["system", "user"]
    assert scorers.with_system(second, "Ole abiks.") == second


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "A"}, "row 1 has neither messages nor a text in 'prompt'"),
        ({"prompt": "  "}, "neither"),
        ({"messages": [{"role": "tool", "content": "A"}]}, "role 'tool'"),
        ({"messages": []}, "list of messages"),
        ({"messages": [{"role": "system", "content": "A"}]}, "no message of the user|nobody asks"),
    ],
)
def test_rows_that_ask_nothing_are_named(tmp_path: Path, row: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(pair_rows.read_prompts(write(tmp_path / "r.jsonl", [row]), "prompt", "r"))


USER = {"role": "user", "content": "Mis?"}


def said(text: str) -> Row:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Mis?", "chosen": "See.", "rejected": "Too."},
        {"prompt": [USER], "chosen": [said("See.")], "rejected": [said("Too.")]},
        {"prompt": [USER], "chosen": "See.", "rejected": "Too."},
        {"prompt": "Mis?", "chosen": [USER, said("See.")], "rejected": [USER, said("Too.")]},  # UltraFeedback
    ],
    ids=["texts", "messages", "both", "whole conversations"],
)
def test_pairs_of_others_in_the_usual_forms(tmp_path: Path, row: Row) -> None:
    path = write(tmp_path / "p.jsonl", [row])
    [found], why = existing(ExistingSettings("p.jsonl"), path, "x")
    assert found.row() == {
        "prompt": [USER],
        "chosen": [said("See.")],
        "rejected": [said("Too.")],
        "source": "x",
        "id": "x-1",
    }
    assert not why


def test_pairs_without_a_prompt_column_share_their_beginning(tmp_path: Path) -> None:
    before = [USER, said("A"), {"role": "user", "content": "Ja?"}]
    path = write(tmp_path / "p.jsonl", [{"chosen": [*before, said("B")], "rejected": [*before, said("C")]}])
    [found], _ = existing(ExistingSettings("p.jsonl", prompt=None), path, "x")
    assert list(found.prompt) == before and (found.chosen, found.rejected) == ("B", "C")


def test_columns_as_in_helpsteer3_are_read_by_the_sign_of_the_preference(tmp_path: Path) -> None:
    def row(preference: int, language: str = "english", one: str = "esimene", two: str = "teine") -> Row:
        return {
            "context": [USER],
            "response1": one,
            "response2": two,
            "overall_preference": preference,
            "language": language,
        }

    given = [row(-3), row(2), row(1), row(0), row(-1), row(3, "french"), row(3, one="a", two="a ")]
    settings = ExistingSettings(
        "h.jsonl", prompt="context", preference="overall_preference", least=2, where={"language": "english"}
    )
    found, why = existing(settings, write(tmp_path / "h.jsonl", given), "helpsteer3")
    assert [(one.chosen, one.rejected) for one in found] == [("esimene", "teine"), ("teine", "esimene")]
    assert why == {"preference too weak": 3, "not where": 1, "both sides equal": 1}


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ({"prompt": "A", "chosen": "B"}, {}, "row 1 has no 'rejected'; it has 'prompt', 'chosen'"),
        ({"chosen": "B", "rejected": "C"}, {}, "has no 'prompt'"),
        ({"prompt": "A", "chosen": [said("B"), USER], "rejected": "C"}, {}, "differ before their last|two answers"),
        ({"prompt": "A", "chosen": [USER, said("B")], "rejected": "C"}, {}, "differ before|user"),
        ({"prompt": "A", "p": "x", "response1": "B", "response2": "C"}, {"preference": "p"}, "'p' is no number"),
        ({"prompt": "A", "chosen": "B", "rejected": {"x": 1}}, {}, "row 1"),
    ],
)
def test_rows_that_are_no_pair_are_named(tmp_path: Path, row: Row, more: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        existing(ExistingSettings("p.jsonl", **more), write(tmp_path / "p.jsonl", [row]), "x")


# --- the stage --------------------------------------------------------------------------------------------------------


def quality(text: str) -> float:
    """What the scripted judge sees in a text."""
    return float(text.partition("tase ")[2][:4] or 0)


def level(value: float) -> str:
    return f"Selle vastuse tase {value:.2f} on kirjas siin lauses."


@pytest.fixture
def server(request: pytest.FixtureRequest, home: Path) -> Iterator[JudgeServer]:
    with JudgeServer(quality, name=f"judge-{abs(hash(request.node.name)) % 10**9}") as running:
        yield running


class World:
    """A folder with prompts and a recipe of one stage."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.said: list[str] = []
        write(folder / "prompts.jsonl", [{"prompt": f"Küsimus {i}", "answers": [str(i)]} for i in range(6)])

    def recipe(self, seed: int = 1, **keys: Any) -> recipe.Recipe:
        head = {"name": "toy", "base": str(self.model), "seed": seed}
        return recipe.from_row({**head, "stages": [{"name": "pairs", "kind": "pairs", **keys}]}, self.folder)

    def make(self, output: str = "out", **keys: Any) -> Path:
        [step] = stages.run(self.recipe(**keys), self.folder / output, self.said.append)
        return step.folder


ASKED: Row = {
    "prompts": {"rows": "./prompts.jsonl"},
    "sample": {"count": 3, "max_tokens": 8, "temperature": 1.0},
    "decontaminate": "none",
}


@pytest.fixture
def world(tmp_path: Path, tiny_model: Path, home: Path) -> World:
    return World(tmp_path, tiny_model)


class Lengths:
    """A scorer that likes short answers: there is nothing that a random model does right."""

    def __init__(self, *_: Any) -> None:
        self.name = "lengths"

    def score(self, asked: Sequence[Prompt], answers: Sequence[Sequence[str]], say: Any) -> scorers.Scores:
        return [[1 / (1 + len(text)) for text in texts] for texts in answers]

    def report(self) -> Row:
        return {"rule": "lengths"}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's answers end (they would run on to the limit), and short ones are liked."""
    import dataclasses

    sample = pairs.sample

    def ended(*given: Any) -> Any:
        answers, lost, whose = sample(*given)
        cut = [
            [dataclasses.replace(one, finish="stop", text=one.text[: 3 + 2 * i]) for i, one in enumerate(row)]
            for row in answers
        ]
        return cut, lost, whose

    monkeypatch.setattr(pairs, "sample", ended)
    monkeypatch.setattr(pairs, "RuleScorer", Lengths)


def test_a_models_own_answers_become_pairs(world: World, short: None) -> None:
    folder = world.make(**ASKED, score={"rule": "exact"}, gap=0.01)
    found = list(rows.read_pairs(folder / "rows.jsonl"))
    manifest = json.loads((folder / "manifest.json").read_text())
    about = manifest["on_policy"]
    assert 1 <= len(found) == manifest["pairs"] == about["pairs"] <= 6
    assert about["prompts"] == 6 and about["answers"] == 18 and about["scored"] == about["different"] <= 18
    for row in found:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert row["chosen_score"] > row["rejected_score"] and len(chosen) < len(rejected)
    assert about["mean_chosen_score"] > about["mean_score"] > about["mean_rejected_score"]
    assert manifest["lengths"]["chosen"] < manifest["lengths"]["rejected"]
    assert manifest["lengths"]["chosen_longer"] == 0  # a length bias is seen, and said
    assert any("the chosen one is the longer in 0%" in line for line in world.said)


def test_prompts_may_be_the_rows_of_another_stage(world: World, short: None) -> None:
    made = recipe.from_row(
        {
            "name": "toy",
            "base": str(world.model),
            "stages": [
                {"name": "p", "kind": "pairs", **ASKED, "score": {"rule": "exact"}, "gap": 0.01},
                {
                    "name": "q",
                    "kind": "pairs",
                    **ASKED,
                    "prompts": {"rows": "p"},
                    "score": {"rule": "exact"},
                    "gap": 0.01,
                },
            ],
        },
        world.folder,
    )
    assert made.stages[1].settings.inputs() == ("p",)
    steps = stages.run(made, world.folder / "out", silent)
    asked = [[one["prompt"] for one in rows.read_pairs(step.folder)] for step in steps]
    assert asked[1] and all(one in asked[0] for one in asked[1])


def test_the_same_seed_gives_the_same_pairs_and_another_one_others(world: World, short: None, home: Path) -> None:
    import shutil

    keys: Row = {**ASKED, "score": {"rule": "exact"}, "gap": 0.01}
    first = (world.make(**keys) / "rows.jsonl").read_bytes()
    shutil.rmtree(home / "responses")  # computed anew
    assert (world.make("again", **keys) / "rows.jsonl").read_bytes() == first
    assert (world.make(seed=2, **keys) / "rows.jsonl").read_bytes() != first


def test_unfinished_answers_are_left_out_and_counted(world: World) -> None:
    with pytest.raises(DataError, match="made no pair") as caught:
        world.make(**ASKED, score={"rule": "exact"})
    assert "fewer than two scored answers" in str(caught.value)  # a random model never ends by itself in 8 tokens


def test_a_kill_costs_no_answer_twice(world: World, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench.engines.hf import HFEngine

    computed: list[int] = []
    generate, write_ = HFEngine.compute, pairs.write_rows

    def counted(self: HFEngine, pack: Any) -> Any:
        computed.append(len(pack.requests))
        return generate(self, pack)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HFEngine, "compute", counted)
    monkeypatch.setattr(pairs, "write_rows", killed)
    keys: Row = {**ASKED, "score": {"rule": "exact"}, "gap": 0.01}
    with pytest.raises(KeyboardInterrupt):
        world.make(**keys)
    assert sum(computed) == 18
    monkeypatch.setattr(pairs, "write_rows", write_)
    folder = world.make(**keys)
    assert sum(computed) == 18 and (folder / "rows.jsonl").is_file()
    assert any("stored already" in line for line in world.said)


def test_a_judge_makes_pairs_of_a_models_answers(world: World, short: None, server: JudgeServer) -> None:
    server.quality = lambda text: min(1.0, len(text) / 12)  # it likes long answers
    who = {"judge": f"{server.endpoint.name}@{server.url}", "language": "any"}
    folder = world.make(**ASKED, score={"judge": who}, gap=0.05)
    found = list(rows.read_pairs(folder))
    assert found and all(len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in found)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["lengths"]["chosen_longer"] == 1  # it shows
    [card] = manifest["on_policy"]["scorer"]["judges"]
    assert card["cases"] == server.calls > 0 and "url" not in card


def test_a_judge_that_fails_ends_the_stage_and_the_same_command_asks_the_rest(
    world: World, short: None, server: JudgeServer
) -> None:
    server.quality = lambda text: min(1.0, len(text) / 12)
    server.persona = Persona(failing=0.5, kinds=("400",))
    who = {"judge": f"{server.endpoint.name}@{server.url}", "language": "any"}
    keys: Row = {**ASKED, "score": {"judge": who}, "gap": 0.05}
    with pytest.raises(EngineError, match="have no score: the same command asks again"):
        world.make(**keys)
    server.persona = Persona()
    assert list(rows.read_pairs(world.make(**keys))) and not server.paid_twice


def test_pairs_of_others_and_own_ones_stand_in_one_file(world: World, short: None) -> None:
    write(world.folder / "other.jsonl", [{"prompt": "A", "chosen": "B", "rejected": "C"}] * 2)
    keys: Row = {**ASKED, "score": {"rule": "exact"}, "gap": 0.01}
    folder = world.make(**keys, existing={"others": {"path": "./other.jsonl", "licence": "cc-by-4.0"}})
    sources = Counter(row["source"] for row in rows.read_pairs(folder))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sources["others"] == 1 and sources["prompts"] >= 1 and manifest["repeated_pairs"] == 1
    assert manifest["existing"]["others"] == {
        "pairs": 2,
        "left_out": {},
        "licence": "cc-by-4.0",
        "url": None,
    }


def test_a_model_without_a_chat_template_is_refused(world: World, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(world.model, bare)
    (bare / "chat_template.jinja").unlink()
    world.model = bare
    with pytest.raises(ModelError, match="no chat template"):
        world.make(**ASKED, score={"rule": "exact"})


def test_prompts_that_leave_no_room_for_an_answer_are_counted(world: World, short: None) -> None:
    write(world.folder / "prompts.jsonl", [{"prompt": "pikk " * 200, "target": "x"}, {"prompt": "A", "target": "x"}])
    folder = world.make(**ASKED, score={"rule": "exact"}, gap=0.01)
    about = json.loads((folder / "manifest.json").read_text())["on_policy"]
    assert about["left_out"]["prompts longer than the context"] == 1 and about["answers"] == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "prompts: and score:, or existing:"),
        ({"prompts": {"rows": "./p.jsonl"}}, "go together"),
        ({**ASKED, "score": {}}, "either rule: or judge:"),
        ({**ASKED, "score": {"rule": "exct"}}, "Did you mean 'exact'"),
        ({**ASKED, "score": {"rule": "task"}}, "prompts of a task"),
        ({**ASKED, "score": {"rule": "exact"}, "gap": 0}, "gap: 0"),
        ({"prompts": {}, "score": {"rule": "exact"}}, "either rows: or task:"),
        ({**ASKED, "sample": {"count": 1}, "score": {"rule": "exact"}}, "at least 2 answers"),
        ({**ASKED, "sample": {"temperature": 0}, "score": {"rule": "exact"}}, "only differ above 0"),
        ({"existing": {"x": {"path": "rows"}}}, "write ./rows"),
        ({**ASKED, "prompts": {"rows": "elsewhere"}, "score": {"rule": "exact"}}, "no stage before it"),
    ],
)
def test_slips_in_settings_are_named_before_anything_runs(world: World, keys: Row, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world.recipe(**keys)
