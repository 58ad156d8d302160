"""What training is for, shown on the small world by the harness itself: by exit codes of `estbench gate`.

Continued pretraining raises Estonian; without replay it costs English, with a quarter of English it doesn't; SFT raises
instruction following; DPO raises the style that was preferred. `-m soak` repeats the first with three seeds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import share_models, share_vllm

from estbench.cli import main
from estbench.demo import stream
from estbench.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STYLE = """
task: style
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{[plain, loud]}}"
doc_to_target: 1
target_delimiter: " "
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1, primary: acc, chance: 0.5}
"""


@dataclass
class World:
    """A home with the demo models, and what was trained and measured in it."""

    folder: Path

    def recipe(self, name: str, *stages: dict[str, Any], base: str = "demo-base") -> Path:
        """A recipe file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "base": base, "stages": list(stages)}), "utf-8")
        return path

    def train(self, recipe: Path, *more: str) -> Path:
        """Run a recipe; the model of its last stage. All recipes share a folder, and so their first stages."""
        output = self.folder / "out"
        assert main(["train", f"recipe={recipe}", f"output_dir={output}", "output=json", *more]) == 0
        stages = yaml.safe_load(recipe.read_text("utf-8"))["stages"]
        found = sorted(output.glob(f"{stages[-1]['name']}-*/model"), key=lambda path: path.stat().st_mtime)
        return found[-1]

    def run(self, model: str | Path, name: str, tasks: str = "mini_checkpoint", *more: str) -> str:
        """Evaluate a model; the run's folder."""
        assert main(["eval", f"model={model}", f"name={name}", f"tasks={tasks}", "output=json", *more]) == 0
        runs = sorted((self.folder / "home" / "runs").glob("*"), key=lambda path: path.stat().st_mtime)
        return str(runs[-1])

    def gate(self, candidate: str, baseline: str, *tasks: str, margin: float = 2.0) -> int:
        """The exit code of the gate: 0 pass, 1 regression, 3 undecided."""
        policy = self.folder / "policy.yaml"
        policy.write_text(yaml.safe_dump({"margin": margin, "tasks": list(tasks)}), "utf-8")
        return main(["gate", f"candidate={candidate}", f"baseline={baseline}", f"policy={policy}", "output=json"])


CORPUS: dict[str, Any] = {
    "name": "corpus",
    "kind": "prepare",
    "sources": {"et": {"demo": "et", "documents": 12000}, "en": {"demo": "en", "documents": 4000}},
    "duplicates": {"exact": True, "near": False},
    "decontaminate": {"tasks": "mini,mini_checkpoint"},
}


def cpt(share: float) -> dict[str, Any]:
    """Continued pretraining on Estonian with a share of English."""
    replay = {"replay": {"source": "en", "share": share}} if share else {"left_out": ["en"]}
    return {
        "name": "cpt",
        "kind": "cpt",
        "data": "corpus",
        "mixture": {"weights": {"et": 1}, **replay},
        "steps": 400,
        "sequence": 128,
        "batch_tokens": 1024,
        "micro_batch": 8,
        "rate": 1e-3,
        "min_rate": 0,
        "warmup": 0.05,
        "precision": "fp32",
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, demo_base_model: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("science")
    share_models(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        yield World(folder)


@pytest.fixture(scope="module")
def base(world: World) -> str:
    """The run of the base model on the pairs of both languages, 600 documents each."""
    run = world.run("demo-base", "base")
    assert {score.task: score.n for score in Run(Path(run)).scores() if score.primary} == {
        "mini_pairs_et": 600,
        "mini_pairs_en": 600,
    }
    return run


@pytest.fixture(scope="module")
def kept(world: World) -> Path:
    """The model that read Estonian with a quarter of English."""
    return world.train(world.recipe("kept", CORPUS, cpt(0.25)))


@pytest.fixture(scope="module")
def lost(world: World) -> Path:
    """The model that read Estonian alone."""
    return world.train(world.recipe("lost", CORPUS, cpt(0)))


def check_languages(world: World, base: str, kept: str, lost: str) -> None:
    assert world.gate(base, kept, "mini_pairs_et") == 1  # beside it, the base is a regression
    assert world.gate(kept, base, "mini_pairs_et") == 0
    assert world.gate(kept, base, "mini_pairs_en") == 0
    assert world.gate(lost, base, "mini_pairs_en") == 1
    assert world.gate(lost, base, "mini_pairs_et") == 0


def test_cpt_raises_estonian_replay_keeps_english_and_without_it_english_is_lost(
    world: World, base: str, kept: Path, lost: Path
) -> None:
    check_languages(world, base, world.run(kept, "kept"), world.run(lost, "lost"))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_seeds_have_the_same_verdicts(world: World, base: str, seed: int) -> None:
    models = [
        world.train(world.recipe(name, CORPUS, cpt(share)), f"seed={seed}") for name, share in (("k", 0.25), ("l", 0))
    ]
    check_languages(world, base, *(world.run(model, f"{model.parent.name}-{seed}") for model in models))


def test_the_trained_model_behind_a_vllm_server_has_the_same_verdicts(
    world: World, base: str, lost: Path, vllm_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_vllm(world.folder / "home", vllm_environment)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    served = world.run(lost, "served", "mini_checkpoint", "engine=vllm", "engine.dtype=float32")
    assert world.gate(served, base, "mini_pairs_en") == 1
    assert world.gate(served, base, "mini_pairs_et") == 0
    assert world.gate(base, served, "mini_pairs_et") == 1


SFT: dict[str, Any] = {
    "name": "sft",
    "kind": "sft",
    "data": "instructions",
    "template": "demo",
    "max_length": 256,
    "epochs": 1,
    "batch": 8,
    "micro_batch": 8,
    "rate": 1e-3,
    "precision": "fp32",
}
INSTRUCTIONS: dict[str, Any] = {
    "name": "instructions",
    "kind": "instructions",
    "sources": {"tasks": {"demo": {"mini_follow": 3, "mini_translate_et_en": 1}, "rows": 3000}},
}


@pytest.fixture(scope="module")
def tuned(world: World, demo_model: Path) -> Path:
    """The demo model, which knows the tasks but no conversation, tuned to answer in one."""
    return world.train(world.recipe("tuned", INSTRUCTIONS, SFT, base="demo"))


def with_template(model: Path, tuned: Path, folder: Path) -> Path:
    """A model that was not tuned, with the chat template of one that was."""
    made = Path(shutil.copytree(model, folder))
    shutil.copy(tuned / "chat_template.jinja", made / "chat_template.jinja")
    return made


def test_sft_raises_instruction_following(world: World, demo_model: Path, tuned: Path) -> None:
    before = world.run(with_template(demo_model, tuned, world.folder / "before"), "before", "mini_follow_chat")
    after = world.run(tuned, "after", "mini_follow_chat")
    assert world.gate(before, after, "mini_follow_chat") == 1
    assert world.gate(after, before, "mini_follow_chat") == 0


def test_dpo_raises_the_preferred_style(world: World, tuned: Path) -> None:
    answers = _answers()
    _write_pairs(world.folder / "pairs.jsonl", answers[:600])
    _write_task(world.folder / "include", answers[600:1100])
    dpo = {
        "name": "dpo",
        "kind": "dpo",
        "decontaminate": "none",
        "data": str(world.folder / "pairs.jsonl"),
        "max_length": 256,
        "epochs": 1,
        "batch": 16,
        "micro_batch": 16,
        "rate": 1e-4,
        "precision": "fp32",
    }
    preferred = world.train(world.recipe("preferred", INSTRUCTIONS, SFT, dpo, base="demo"))
    before, after = (
        world.run(model, name, "style", f"include={world.folder / 'include'}", "form=chat")
        for model, name in ((tuned, "plain"), (preferred, "loud"))
    )
    assert world.gate(before, after, "style") == 1
    assert world.gate(after, before, "style") == 0


def _answers() -> list[tuple[str, str]]:
    """(prompt, answer): the first to train on, the others to test on; each prompt once."""
    found = dict(islice(stream.instructions("mini_translate_et_en", "style", True), 4000))
    return list(found.items())


def _loud(answer: str) -> str:
    return f"{answer.removesuffix('.')}!"


def _write_pairs(path: Path, answers: list[tuple[str, str]]) -> None:
    """Of each two, the answer that ends with ! is preferred."""
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": _loud(answer)}],
            "rejected": [{"role": "assistant", "content": answer}],
        }
        for prompt, answer in answers
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def _write_task(folder: Path, answers: list[tuple[str, str]]) -> None:
    """A task that asks which of the two is likelier."""
    folder.mkdir()
    rows = [{"prompt": prompt, "plain": answer, "loud": _loud(answer)} for prompt, answer in answers]
    (folder / "style.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    (folder / "style.yaml").write_text(STYLE % (folder / "style.jsonl"), "utf-8")
