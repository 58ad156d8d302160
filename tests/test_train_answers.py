"""A model's own answers as rows for SFT: what is asked, what is learnt of it, and what a manifest says of the rest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from estbench_training import answers, pair_rows, pairs, recipe, rows, stages
from estbench_training.prepare import decontaminate
from estbench_training.provenance import of_folder
from estbench_training.sieve import REASON
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_words import Words
from prepare_world import made_up_tests

from estbench.engines.base import Generated
from estbench.errors import ConfigError, DataError, ModelError

Row = dict[str, Any]
SECRET = Words(1).text(12)  # a test's


def write(path: Path, given: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given), "utf-8")
    return path


# --- which answers are learnt -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jah jah jah jah", True),
        ("jah jah jah", False),
        ("Tere! " + "see on see ja " * 4, True),
        ("Tere! " + "see on see ja " * 3, False),
        ("Üks rida.\n" * 9, True),
        ("palju eri sõnu seisab siin ees enne kui see tuleb ja see on ju pikk lause, ha ha ha ha", False),  # not half
        ("1. kass 2. koer 3. kana 4. kukk", False),
        ("", False),
    ],
)
def test_the_same_words_over_and_over_are_a_circle(text: str, expected: bool) -> None:
    assert answers.circling(text, 4) is expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=14), st.integers(2, 4))
def test_a_circle_is_half_of_the_text_repeated(words: list[str], times: int) -> None:
    """As it is said, by trying every piece of the text."""
    expected = any(
        all(words[k] == words[k - period] for k in range(i + period, j))
        for period in range(1, len(words) + 1)
        for i in range(len(words))
        for j in range(i + times * period, len(words) + 1)
        if 2 * (j - i) >= len(words)
    )
    assert answers.circling(" ".join(words), times) is expected


def test_what_is_not_learnt_of_a_prompts_answers_is_counted() -> None:
    said = [
        Generated("Tere.", 3, "stop"),
        Generated(" Tere.\n", 3, "stop"),
        Generated("  \n", 1, "stop"),
        Generated("Tere, ma", 3, "length"),
        Generated("ei saa", 3, "refusal"),
        Generated("ja nii " * 20, 41, "stop"),
    ]
    texts, why = answers.learnable(said, 4)
    assert texts == ["Tere."]
    assert why == {"said before": 1, "empty": 1, "not finished": 2, "goes in circles": 1}
    assert answers.learnable(said, None)[0] == ["Tere.", "ja nii " * 20]


# --- the stage --------------------------------------------------------------------------------------------------------


class World:
    """A folder with prompts and a recipe of one stage; the tiny model's answers end, cut to what a test says."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.said: list[str] = []
        write(folder / "prompts.jsonl", [{"prompt": f"Küsimus {i}"} for i in range(6)])

    def recipe(self, *more: Row, **keys: Any) -> recipe.Recipe:
        stage = {"name": "answers", "kind": "answers", **ASKED, **keys}
        return recipe.from_row({"name": "toy", "base": str(self.model), "stages": [*more, stage]}, self.folder)

    def make(self, output: str = "out", **keys: Any) -> Path:
        return stages.run(self.recipe(**keys), self.folder / output, self.said.append)[-1].folder

    def manifest(self, **keys: Any) -> Row:
        found: Row = json.loads((self.make(**keys) / "manifest.json").read_text("utf-8"))
        return found


ASKED: Row = {"prompts": {"rows": "./prompts.jsonl"}, "sample": {"max_tokens": 8}, "decontaminate": "none"}


@pytest.fixture
def world(tmp_path: Path, tiny_model: Path, home: Path) -> World:
    return World(tmp_path, tiny_model)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's answers end; a random one's run on to the limit."""
    sample = pairs.sample

    def cut(*given: Any) -> Any:
        found, lost, whose = sample(*given)
        return (
            [[dataclasses.replace(one, finish="stop", text=f"v {one.text}") for one in row] for row in found],
            lost,
            whose,
        )

    monkeypatch.setattr(pairs, "sample", cut)


def test_each_answer_stands_behind_its_prompt_and_sft_can_read_it(world: World, ended: None) -> None:
    folder = world.make(prompts={"rows": "./prompts.jsonl", "system": "Ole abiks."})
    found = list(rows.read_rows(folder))
    assert [[one["role"] for one in row.messages] for row in found] == [["system", "user", "assistant"]] * 6
    assert [row.messages[1]["content"] for row in found] == [f"Küsimus {i}" for i in range(6)]
    assert all(row.messages[2]["content"].startswith("v ") for row in found)
    assert {row.source for row in found} == {"prompts"} and len({row.id for row in found}) == 6
    learns = {"name": "sft", "kind": "sft", "data": "answers", "template": "tulu"}
    row = {"name": "toy", "base": str(world.model), "stages": [{"name": "answers", "kind": "answers", **ASKED}, learns]}
    assert recipe.from_row(row, world.folder).stages[1].settings.inputs() == ("answers",)


def test_the_answers_are_those_that_the_model_gives(world: World, ended: None) -> None:
    """Greedily, and of the model that is named; another model answers otherwise."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world.model)
    model = AutoModelForCausalLM.from_pretrained(world.model, dtype="float32")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Küsimus 3"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    made = {row.messages[0]["content"]: row.messages[-1]["content"] for row in rows.read_rows(world.make())}
    assert made["Küsimus 3"] == f"v {tokenizer.decode(said, skip_special_tokens=True)}"


def test_the_model_key_says_whose_answers(world: World, ended: None, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(shutil.copytree(world.model, tmp_path / "other")) / "model.safetensors"
    save_file({name: weight.flip(0).contiguous() for name, weight in load_file(file).items()}, file, {"format": "pt"})
    mine, theirs = world.manifest(), world.manifest(model="./other")
    assert mine["model"] != theirs["model"] and mine["sha256"] != theirs["sha256"]


def test_several_answers_differ_and_say_which_they_are(world: World, ended: None) -> None:
    folder = world.make(sample={"max_tokens": 8, "count": 3, "temperature": 1.0})
    found = list(rows.read_rows(folder))
    assert len(found) > 6 and len({row.id for row in found}) == len(found)
    assert len({(row.messages[0]["content"], row.messages[-1]["content"].strip()) for row in found}) == len(found)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["answers"] == 18 and manifest["rows"] + sum(manifest["left_out"].values()) == 18
    assert len(manifest["sample"]["seeds"]) == 3


def test_the_same_recipe_gives_the_same_rows(world: World, ended: None, home: Path) -> None:
    keys: Row = {"sample": {"max_tokens": 8, "count": 2, "temperature": 1.0}}
    first = (world.make(**keys) / "rows.jsonl").read_bytes()
    shutil.rmtree(home / "responses")
    assert (world.make("again", **keys) / "rows.jsonl").read_bytes() == first
    assert (world.make(**keys, seed=5) / "rows.jsonl").read_bytes() != first


def test_answers_that_never_end_leave_nothing_and_it_is_said(world: World) -> None:
    with pytest.raises(DataError, match=r"no answer to learn from \(left out: not finished 6\)"):
        world.make()


def test_equal_prompts_are_asked_once_and_a_limit_draws(world: World, ended: None) -> None:
    write(world.folder / "twice.jsonl", [{"prompt": f"Küsimus {i % 4}"} for i in range(8)])
    manifest = world.manifest(prompts={"rows": "./twice.jsonl", "limit": 3})
    assert manifest["prompts"] == 3 and manifest["prompts_left_out"] == {"said before": 4}


def test_licences_and_what_was_kept_out_are_carried_over(world: World, ended: None) -> None:
    write(
        world.folder / "alpaca.jsonl",
        [{"instruction": f"Küsimus {i}", "input": "", "output": "Vastus."} for i in range(5)],
    )
    source = {
        "path": "./alpaca.jsonl",
        "form": "alpaca",
        "language": "et",
        "licence": "cc-by-4.0",
        "url": "https://x.ee",
    }
    tests = {"tasks": "mini_pairs_et"}
    first = {"name": "instructions", "kind": "instructions", "sources": {"alpaca": source}, "decontaminate": tests}
    made = world.recipe(first, prompts={"rows": "instructions"}, decontaminate=tests)
    folder = stages.run(made, world.folder / "out", world.said.append)[-1].folder
    known = of_folder(folder)
    assert known.sources["alpaca"].licence == "cc-by-4.0" and known.sources["alpaca"].url == "https://x.ee"
    [kept] = known.decontaminated
    assert kept is not None and kept.tasks == ("mini_pairs_et",)
    made = world.recipe(first, prompts={"rows": "instructions"})  # of the answers nobody looked
    assert of_folder(stages.run(made, world.folder / "out", world.said.append)[-1].folder).decontaminated == (None,)


def test_an_answer_or_a_prompt_that_says_a_test_is_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontaminate, "collect", lambda *_: made_up_tests([SECRET]))
    asked = ["Küsimus 1", f"Kas {SECRET}?", "Küsimus 2"]
    write(world.folder / "dirty.jsonl", [{"prompt": text} for text in asked])

    def sample(model: Path, prompts: Any, *_: Any) -> Any:
        assert [one.messages[-1]["content"] for one in prompts] == ["Küsimus 1", "Küsimus 2"]  # it is not even asked
        said = [[Generated(f"Vastus: {SECRET}.", 9, "stop")], [Generated("Ei tea.", 3, "stop")]]
        return said, Counter[str](), {}

    monkeypatch.setattr(pairs, "sample", sample)
    folder = world.make(prompts={"rows": "./dirty.jsonl"}, decontaminate={})
    assert [row.messages[-1]["content"] for row in rows.read_rows(folder)] == ["Ei tea."]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["prompts_left_out"] == {REASON: 1} and manifest["left_out"] == {REASON: 1}
    assert manifest["decontaminated"] == {
        "tool": "estbench contamination",
        "tasks": ["t0"],
        "documents": 5,
        "removed": 2,
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompts": {}}, "either rows: or task:"),
        ({"prompts": {"rows": "elsewhere"}}, "no stage before it"),
        ({"sample": {"count": 3}}, "3 greedy answers would be the same"),
        ({"sample": {"temperature": -1}}, "temperature: -1"),
        ({"sample": {"count": 0}}, "have to be 1 or more"),
        ({"sample": {"top_p": 0}}, "top_p: 0"),
        ({"circles": 1}, "circles: 1 is below 2"),
        ({"model": "answers"}, "no stage before it|has to come before"),
    ],
)
def test_slips_in_settings_are_named_before_anything_runs(world: World, keys: Row, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world.recipe(**keys)


def test_a_model_that_can_not_be_asked_and_a_file_that_asks_nothing_are_refused(world: World, tmp_path: Path) -> None:
    write(world.folder / "none.jsonl", [])
    with pytest.raises(DataError, match="has no prompts"):
        world.make(prompts={"rows": "./none.jsonl"})
    bare = Path(shutil.copytree(world.model, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template, in which it could be asked: say whose answers"):
        world.make(model="./bare")


def test_prompts_may_end_with_an_answer_of_others_which_is_not_kept(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    [one] = pair_rows.read_prompts(write(tmp_path / "r.jsonl", [{"messages": said}]), "prompt", "r")
    row = answers._row(one, "C", 2)
    assert [message["content"] for message in row["messages"]] == ["A", "C"] and row["id"] == "1-2"
