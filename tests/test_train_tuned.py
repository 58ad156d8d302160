"""What sft and dpo share: precision, attention, memory, states to go on from, energy, and what their keys depend on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_world import model, save, words
from estbench_training import recipe, scorers, show, templates, tuning
from estbench_training.dpo import DpoSettings
from estbench_training.reading import parse
from estbench_training.scorers import JudgeSettings
from estbench_training.sft import SftSettings
from estbench_training.templates import open_chat
from estbench_training.trainer_state import last_whole, mark_whole

from estbench.checkpoint import Checkpoint
from estbench.errors import ConfigError, DataError, StoreError

KEY = "ab" * 32
Row = dict[str, Any]


def settings(kind: type[SftSettings] | type[DpoSettings], **keys: Any) -> Any:
    return parse(kind, {"data": "./rows.jsonl", **keys}, "recipe")


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SftSettings, DpoSettings])
def test_bf16_pure_is_refused_with_a_beta2_that_it_rounds_away(kind: type[SftSettings] | type[DpoSettings]) -> None:
    with pytest.raises(ConfigError, match=r"bf16_pure with beta2 0\.999 rounds .*betas: \[0\.9, 0\.99\]") as caught:
        settings(kind, precision="bf16_pure")
    assert "\n" not in str(caught.value)
    settings(kind, precision="bf16_pure", optimizer={"betas": [0.9, 0.99]})
    settings(kind, precision="bf16", optimizer={"betas": [0.9, 0.999]})


def test_bf16_does_round_a_second_moment_away_just_above_the_limit() -> None:
    """Why: of a square that is twice what it was, 1/100 moves the moment, 1/1000 doesn't."""
    import torch

    for beta2, moves in ((tuning.MOST_BETA2, True), (0.999, False)):
        moment = torch.ones((), dtype=torch.bfloat16)
        moment.mul_(beta2).addcmul_(*[torch.full((), 2**0.5, dtype=torch.bfloat16)] * 2, value=1 - beta2)
        assert (moment.item() != 1) == moves


def test_what_bf16_pure_loses_is_said_once() -> None:
    said: list[str] = []
    tuning.check_processes(settings(SftSettings, precision="bf16_pure", optimizer={"betas": [0.9, 0.95]}), said.append)
    tuning.check_processes(settings(SftSettings), said.append)
    assert len(said) == 1 and "rounded away" in said[0]


def test_flash_attention_is_not_for_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tuning, "has_gpu", lambda: True)
    assert tuning.attention("auto", "bf16") == tuning.attention("auto", "bf16_pure") == "flash_attention_2"
    assert tuning.attention("auto", "fp32") == "sdpa"
    with pytest.raises(ConfigError, match="can't compute in fp32"):
        tuning.attention("flash_attention_2", "fp32")


def test_a_model_that_a_nodes_processes_cant_all_hold_is_refused(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint(tiny_model, "tiny")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    sharded, needed = settings(SftSettings, shard="full"), base.parameters * 4 * 4
    with pytest.raises(ConfigError, match="each of the node's 4 processes reads the whole model first"):
        tuning.check_memory(sharded, base, needed - 1)
    tuning.check_memory(sharded, base, needed)
    with pytest.raises(ConfigError, match="reads the whole model first"):
        tuning.check_memory(sharded, base, needed, copies=2)
    tuning.check_memory(settings(SftSettings), base, 1)


# --- states to go on from ---------------------------------------------------------------------------------------------


def state(folder: Path, step: int = 2, key: str = KEY) -> Path:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"weights")
    mark_whole(place, key)
    return place


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    place = state(tmp_path / "resume")
    assert last_whole(tmp_path / "resume", KEY, clean=True) == place
    with pytest.raises(StoreError, match="state of another training"):
        last_whole(tmp_path / "resume", "cd" * 32, clean=True)
    assert place.exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_state_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path, what: str) -> None:
    elsewhere = state(tmp_path / "elsewhere")
    resume = tmp_path / "resume"
    if what == "folder":
        resume.mkdir()
        (resume / "checkpoint-2").symlink_to(elsewhere)
    else:
        place = state(resume)
        (place / "model.safetensors").unlink()
        (place / "model.safetensors").symlink_to(elsewhere / "model.safetensors")
    with pytest.raises(StoreError, match="link to elsewhere"):
        last_whole(resume, KEY, clean=True)
    assert (elsewhere / "model.safetensors").read_bytes() == b"weights"


def test_a_file_that_was_put_beside_a_state_is_not_loaded(tmp_path: Path) -> None:
    place = state(tmp_path)
    (place / "pytorch_model_fsdp.bin").write_bytes(b"pickle")
    assert last_whole(tmp_path, KEY, clean=False) is None


def test_checkpoints_of_a_sharded_model_are_in_the_format_that_holds_tensors_only(tmp_path: Path) -> None:
    from estbench_training.kinds import Context

    place: Any = Context(None, None, tmp_path, KEY, 1, print)  # type: ignore[arg-type]
    found = tuning.common_arguments(settings(SftSettings, shard="full"), place, 1)
    assert found["fsdp_config"]["state_dict_type"] == "FULL_STATE_DICT"


def test_energy_goes_on_from_the_state_and_is_none_where_nothing_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training import card

    counter = iter([100.0, 160.0, 1000.0, 1007.0])
    monkeypatch.setattr(card, "energy_joules", lambda: next(counter))
    assert tuning.Meter().joules() == 60
    (tmp_path / tuning.ENERGY).write_text(json.dumps({"joules": 60.0}))
    assert tuning.Meter(tmp_path).joules() == 67
    monkeypatch.setattr(card, "energy_joules", lambda: None)
    assert tuning.Meter(tmp_path).joules() is None


# --- text of the data -------------------------------------------------------------------------------------------------


def test_what_moves_a_terminals_cursor_is_shown_as_an_escape() -> None:
    assert show.visible("a\x1b[2J\u202eb\x07\r\n\tõ🌙") == "a\\x1b[2J\\u202eb\\x07\\r\n\tõ🌙"
    tokenizer = words()
    ids = tokenizer("a\x1b[31mb", add_special_tokens=False).input_ids
    for text in (show.marked(tokenizer, ids, ids), show.coloured(tokenizer, ids, ids).plain):
        assert "\x1b" not in text and "\\x1b[31m" in text


def test_a_rule_that_cant_use_a_row_names_it_without_a_traceback() -> None:
    asked = scorers.Prompt("\x1b[2J", ({"role": "user", "content": "x"},), "s", {"rules": 7, "words": None})
    with pytest.raises(DataError) as caught:
        scorers.RuleScorer("follow").score([asked], [["x"]], print)
    assert "\x1b" not in str(caught.value) and "'\\x1b[2J'" in str(caught.value)


OWN = """{{- bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}<bot>
{% generation %}{{ message.content }}<end>{% endgeneration %}{% else %}<usr>
{{ message.content }}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<bot>
{% endif %}"""


def test_tokens_of_ones_own_format_are_control_tokens_special_or_not(tmp_path: Path) -> None:
    tokenizer = words(special=("<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens(["<bot>", "<end>", "<usr>", "<h1>", "sajab", "<|eot_id|>"])
    (tmp_path / "own.jinja").write_text(OWN, "utf-8")
    chat = open_chat(tokenizer, str(tmp_path / "own.jinja"))
    found = chat.control_tokens([{"role": "user", "content": "a <end> <bot> b <usr> <|eot_id|> <h1> õues sajab vihma"}])
    assert found == ["<bot>", "<end>", "<usr>", "<|eot_id|>"]
    end, bot = tokenizer.convert_tokens_to_ids(["<end>", "<bot>"])
    assert {end, bot} <= set(tokenizer("a <end> <bot> b").input_ids), "they do become control ids"


# --- keys -------------------------------------------------------------------------------------------------------------


def made_recipe(folder: Path, **stage: Any) -> recipe.Recipe:
    return recipe.from_row({"name": "demo", "base": "./base", "stages": [stage]}, folder)


def outside(folder: Path, **stage: Any) -> dict[str, str]:
    made = made_recipe(folder, **stage)
    return dict(made.stages[0].settings.outside(made))


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Changes the text of a template."""
    read = templates._text_of
    changed: set[str] = set()
    monkeypatch.setattr(templates, "_text_of", lambda name: read(name) + "#" * (name in changed))
    return changed.add


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_the_key_depends_on_the_text_of_the_template_that_is_used(
    tmp_path: Path, kind: str, edited: Callable[[str], None]
) -> None:
    def keys() -> list[dict[str, str]]:
        shared = {"name": kind, "kind": kind, "data": "./rows.jsonl", "decontaminate": "none"}
        return [outside(tmp_path, **shared, template=name) for name in ("tulu", "chatml", "auto", "./own.jinja")]

    before = keys()
    edited("tulu")
    changed = [one != other for one, other in zip(before, keys(), strict=True)]
    assert changed == [True, False, True, False]
    assert made_recipe(tmp_path, name=kind, kind=kind, data="x.jsonl", template="./own.jinja").stages[
        0
    ].settings.files() == ("x.jsonl", "./own.jinja")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_the_key_depends_on_the_tests_where_files_are_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training.prepare import decontaminate

    monkeypatch.setattr(decontaminate, "tests_key", lambda chosen, place: f"of {chosen.tasks}")
    stage = {"name": kind, "kind": kind, "data": "./rows.jsonl", "template": "tulu"}
    assert outside(tmp_path, **stage)["tests"] == "of all"
    assert "tests" not in outside(tmp_path, **stage, decontaminate="none")
    assert settings(SftSettings).decontaminate != "none", "files are looked at unless it is written otherwise"


def judged(folder: Path, **judge: Any) -> dict[str, str]:
    stage = {"name": "pairs", "kind": "pairs", "prompts": {"rows": "./p.jsonl"}, "decontaminate": "none"}
    return outside(folder, **stage, score={"judge": judge})


def test_the_key_of_pairs_depends_on_panel_rubric_and_the_judges_weights(tmp_path: Path) -> None:
    from estbench_judges import rubrics

    def panel(temperature: float) -> None:
        rows = [{"model": "m", "url": "http://127.0.0.1:9/v1", "temperature": temperature}]
        (tmp_path / "panel.yaml").write_text(yaml.safe_dump({"judges": rows}))

    def rubric(mark: str) -> None:
        text = (rubrics.folder() / "helpfulness.yaml").read_text("utf-8")
        (tmp_path / "own.yaml").write_text(text.replace("name: helpfulness", "name: own") + mark, "utf-8")

    tokenizer = words()
    save(tmp_path / "judge", tokenizer, model(tokenizer, seed=1))
    panel(0.0)
    rubric("")
    keys: Row = {"judge": "./panel.yaml,./judge", "rubric": "./own.yaml"}
    seen = [judged(tmp_path, **keys)]
    assert seen[0] == judged(tmp_path, **keys) and len(seen[0]) == 3
    panel(0.5)
    seen.append(judged(tmp_path, **keys))
    rubric("\n# same words\n")  # a comment is nothing that a judge reads
    assert judged(tmp_path, **keys) == seen[-1]
    rubric("\nmore: 1\n")
    seen.append(judged(tmp_path, **keys))
    save(tmp_path / "judge", tokenizer, model(tokenizer, seed=2))
    seen.append(judged(tmp_path, **keys))
    assert len({json.dumps(one, sort_keys=True) for one in seen}) == 4
    with pytest.raises(ConfigError, match="can't be read"):
        judged(tmp_path, judge="./none.yaml")


def test_files_of_a_judge_are_meant_from_where_the_recipe_lies(tmp_path: Path) -> None:
    (tmp_path / "panel.yaml").write_text("judges: []")
    asked = JudgeSettings("./panel.yaml, qwen@http://127.0.0.1:9/v1", rubric="helpfulness")
    found = scorers.located(asked, lambda text: tmp_path / text)
    assert found.judge == f"{tmp_path / 'panel.yaml'},qwen@http://127.0.0.1:9/v1" and found.rubric == "helpfulness"
