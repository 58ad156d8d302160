"""Merged models are models: transformers and vLLM load them, they answer, and a sweep finds what is best."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import merge_world as world
import pytest
import yaml
from conftest import share_models, share_vllm

from estbench.checkpoint import find
from estbench.cli import main
from estbench.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TASKS = "mini_follow_chat"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("merged")
    share_models(folder / "home")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ESTBENCH_HOME", str(folder / "home"))
        patched.setenv("ESTBENCH_DEVICE", "cpu")
        yield folder


@pytest.fixture(scope="module")
def merged(home: Path) -> Path:
    """The mean of two checkpoints of a training, with the chat vector of its last one."""
    between = {"kind": "merge", "method": "average", "parts": ["demo", "demo-4500"]}
    vector = {"kind": "merge", "method": "chat_vector", "base": "demo", "instruct": "demo-chat"}
    row = {"name": "merged", "base": "demo", "stages": [{"name": "cpt", **between}, {"name": "chat", **vector}]}
    (home / "recipe.yaml").write_text(yaml.safe_dump(row, sort_keys=False))
    assert main(["train", f"recipe={home / 'recipe.yaml'}", f"output_dir={home / 'out'}", "output=json"]) == 0
    return next((home / "out").glob("chat-*/model"))


def measured(home: Path, model: str | Path, name: str, *more: str) -> float:
    """The primary score of a model that is evaluated now."""
    assert main(["eval", f"model={model}", f"name={name}", f"tasks={TASKS}", "limit=80", "output=json", *more]) == 0
    runs = sorted((home / "home" / "runs").glob("*"), key=lambda path: path.stat().st_mtime)
    (score,) = [score for score in Run(runs[-1]).scores() if score.primary]
    assert score.value is not None
    return score.value


def test_transformers_loads_it_and_it_says_what_its_tensors_say(merged: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, loading = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # tied stays tied
    tokenizer = AutoTokenizer.from_pretrained(merged)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Tere"}], tokenize=False)
    theirs = AutoTokenizer.from_pretrained(find("demo-chat").path)
    assert text == theirs.apply_chat_template([{"role": "user", "content": "Tere"}], tokenize=False)
    with torch.no_grad():
        made = model.generate(**tokenizer(text, return_tensors="pt", add_special_tokens=False), max_new_tokens=8)
    assert made.shape[1] > 1


def test_the_chat_vector_of_a_model_into_its_base_is_the_chat_model(home: Path) -> None:
    words = ["method=chat_vector", "base=demo", "instruct=demo-chat", "into=demo", f"output={home / 'same'}"]
    assert main(["merge", *words]) == 0
    assert world.same(world.weights(home / "same"), world.weights(find("demo-chat").path))
    assert main(["merge", *words]) == 0  # done before
    assert main(["merge", *words, "scale=0.5"]) == 2


def test_it_follows_instructions_in_both_engines(
    home: Path, merged: Path, vllm_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = measured(home, merged, "merged")
    control = shutil.copytree(next((home / "out").glob("cpt-*/model")), home / "control")
    shutil.copy(merged / "chat_template.jinja", control)
    assert here > measured(home, control, "control") + 0.1  # the template alone doesn't make it follow
    share_vllm(home / "home", vllm_environment)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert abs(measured(home, merged, "served", "engine=vllm", "engine.dtype=float32") - here) < 0.05


def test_a_sweep_measures_every_scale_and_keeps_the_best(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["method=chat_vector", "base=demo", "instruct=demo-chat", "into=demo", "sweep=0.2,1"]
    assert main(["merge", *words, f"tasks={TASKS}", "limit=80", f"output={home / 'sweep'}", "keep=best"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["best"].endswith("scale-1") and said["rows"][1]["mean"] > said["rows"][0]["mean"]
    assert [path.name for path in (home / "sweep").glob("scale-*")] == ["scale-1"]
    assert (home / "sweep" / "sweep.svg").exists()
