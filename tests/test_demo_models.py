"""The demo models: the tokenizer, the training loop, and that a model is made once, whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from estbench import cards, checkpoint, demo, identity
from estbench.demo import baselines, models, recipes, tasks, tokenizer, train
from estbench.demo.about import About
from estbench.errors import ModelError, StoreError

TINY = recipes.Recipe({"et": 1, "en": 1, "mini_inflect": 1}, examples=120, steps=6, hidden=16, layers=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(TINY, tmp_path_factory.mktemp("demo") / "tiny")


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


# the tokenizer


def test_the_tokenizer_adds_exactly_one_start_and_gives_every_text_back(tiny: Path) -> None:
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(tiny)
    for text in (
        "Mari ostis eile turul kolm punast õuna.",
        "Sõna: võti\nKääne: mitmuse osastav\nVorm: võtmeid",
        "„ŠOKOLAAD“, 3,14 € – žürii",
        " tühik ees",
    ):
        ids = read(text)["input_ids"]
        assert ids[0] == tokenizer.BOS_ID
        assert ids.count(tokenizer.BOS_ID) == 1
        assert read(text, add_special_tokens=False)["input_ids"] == ids[1:]
        assert read.decode(ids[1:]) == text
    assert (read.pad_token_id, read.bos_token_id, read.eos_token_id) == (0, 1, 2)
    assert read.chat_template is None


def test_prompt_and_answer_tokenize_apart_as_they_do_together() -> None:
    """lm-eval scores an answer behind its prompt: the border must be a border of tokens."""
    words = tokenizer.train()
    for task in tasks.TASKS:
        for doc in demo.rows(task)["test"][:40]:
            prompt, answer = tasks.prompt(task, doc), tasks.answer(task, doc)
            whole = words.encode(f"{prompt} {answer}").ids
            assert whole[: len(words.encode(prompt).ids)] == words.encode(prompt).ids


def test_training_the_tokenizer_again_gives_the_same_one() -> None:
    assert tokenizer.train().to_str() == tokenizer.train().to_str()


# training


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(tiny: Path, tmp_path: Path) -> None:
    assert weights(train.train(TINY, tmp_path / "again")) == weights(tiny)
    assert weights(train.train(dataclasses.replace(TINY, seed=2), tmp_path / "other")) != weights(tiny)


def test_training_leaves_no_trace_in_the_process(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(5)
    before = (torch.get_num_threads(), torch.get_rng_state().tolist())
    train.train(TINY, tmp_path / "model")
    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == before


def test_a_checkpoint_has_what_transformers_and_estbench_read(tiny: Path) -> None:
    files = {path.name for path in tiny.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= files
    assert json.loads((tiny / "config.json").read_text())["tie_word_embeddings"] is True
    assert json.loads((tiny / "generation_config.json").read_text())["eos_token_id"] == tokenizer.EOS_ID


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_models_are_small(name: str) -> None:
    recipe = recipes.RECIPES[name]
    assert train.new_model(recipe, tokenizer.SIZE).num_parameters() <= 1_000_000


def test_checkpoints_lie_inside_the_model_and_leave_its_weights_alone(tiny: Path, tmp_path: Path) -> None:
    kept: list[tuple[str, int, int]] = []
    recipe = dataclasses.replace(TINY, checkpoints=(2, 4))
    made = train.train(recipe, tmp_path / "model", label=lambda at, far: kept.append((at.name, far.step, far.tokens)))
    assert weights(made) == weights(tiny)
    assert len({weights(made), weights(made / "step-2"), weights(made / "step-4")}) == 3
    assert [(name, step) for name, step, _ in kept] == [("step-2", 2), ("step-4", 4), ("model", 6)]
    queue = train.batches(train.examples(TINY, tokenizer.train()), TINY.batch, random.Random(TINY.seed))
    seen = list(accumulate(sum(len(ids) for ids, _ in next(queue)) for _ in range(6)))
    assert [tokens for _, _, tokens in kept] == [seen[1], seen[3], seen[5]]


def test_a_checkpoint_in_the_middle_is_the_model_of_that_step(tmp_path: Path) -> None:
    """And a fingerprint does not see what lies beside the weights."""
    recipe = dataclasses.replace(TINY, checkpoints=(3,))
    made = train.train(recipe, tmp_path / "model", label=About("demo", recipe, "c0ffee").write)
    outer, inner = (checkpoint.find(str(folder)) for folder in (made, made / "step-3"))
    bare = train.train(TINY, tmp_path / "bare")
    assert checkpoint.find(str(bare)).fingerprint() == outer.fingerprint() != inner.fingerprint()
    assert inner.name == "model/step-3"


def test_each_checkpoint_says_how_it_came_to_be(tmp_path: Path) -> None:
    first = dataclasses.replace(TINY, checkpoints=(3,))
    base = train.train(first, tmp_path / "base", label=About("demo", first, "c0ffee").write)
    second = dataclasses.replace(TINY, start="demo", stage="sft", chat=True)
    chat = train.train(second, tmp_path / "chat", start=base, label=About("demo-chat", second, "beef", base).write)
    middle, final, tuned = (cards.read_training_card(folder) for folder in (base / "step-3", base, chat))
    assert middle and final and tuned
    assert (middle["name"], middle["final"], middle["step"], middle["steps_planned"]) == ("demo-3", False, 3, 6)
    assert (final["name"], final["final"], final["step"]) == ("demo", True, 6)
    assert middle["series"] == final["series"] == "demo" and 0 < middle["tokens"] < final["tokens"]
    assert [(stage["stage"], stage["name"]) for stage in tuned["lineage"]] == [
        ("pretraining", "demo"),
        ("sft", "demo-chat"),
    ]
    for folder, stage in zip((base, chat), tuned["lineage"], strict=True):
        assert stage["fingerprint"] == identity.digest(checkpoint.find(str(folder)).fingerprint())
    assert (tuned["kind"], final["kind"]) == ("chat", "base")
    assert sum(part["share"] for part in final["data"]) == pytest.approx(1, abs=1e-3)
    assert cards.read_model_card(chat) == {
        "licence": "apache-2.0",
        "base_models": ["demo"],
        "languages": ["et", "en"],
    }


def test_a_model_goes_on_from_the_weights_of_another(tiny: Path, tmp_path: Path) -> None:
    still = dataclasses.replace(TINY, steps=1, rate=0.0)
    assert weights(train.train(still, tmp_path / "on", start=tiny)) == weights(tiny)
    assert weights(train.train(still, tmp_path / "anew")) != weights(tiny)


def test_the_chat_template_makes_the_prompts_of_training(tiny: Path, tmp_path: Path) -> None:
    from estbench.tokens import Tokens

    chat = dataclasses.replace(TINY, chat=True)
    tokens = Tokens(train.train(chat, tmp_path / "chat"))
    assert Tokens(tiny).chat_template is None
    asked = "Sõna: võti\nKääne: omastav\nVorm:"
    said = tokens.chat([{"role": "user", "content": asked}])
    (ids,) = tokens.encode([said])
    assert ids.tolist() == tokenizer.train().encode(tokenizer.chat_prompt(asked)).ids
    tokens.check_bos(ids)
    whole = tokens.chat(
        [{"role": "system", "content": "Ole lühike."}, {"role": "user", "content": asked}], add_generation_prompt=True
    )
    assert whole.startswith("<s>Kasutaja: Ole lühike.\nKasutaja: Sõna") and whole.endswith("\nAbiline:")
    (item, *_) = train.examples(dataclasses.replace(chat, shares={"mini_inflect": 1}, examples=1), tokenizer.train())
    assert tokenizer.train().decode(item[0][: item[1]]).startswith("Kasutaja: ")


def test_a_killed_training_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(TINY, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_only_the_answer_is_learnt() -> None:
    words = tokenizer.train()
    ((ids, start),) = train.examples(recipes.Recipe({"mini_inflect": 1}, examples=1), words)
    assert words.decode(ids[:start]).endswith("Vorm:")
    assert ids[-1] == tokenizer.EOS_ID
    _, targets = train.tensors([(ids, start)])
    assert int((targets != -100).sum()) == len(ids) - start


# model_path


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A home without models, and a training that only writes a file; the list gets a line each time."""
    made: list[str] = []

    def fake(recipe: recipes.Recipe, folder: Path, say: Callable[[str], None] | None = None, **_: object) -> Path:
        made.append(folder.name)
        time.sleep(0.2)
        folder.mkdir()
        for step in recipe.checkpoints:
            (folder / f"step-{step}").mkdir()
        return folder

    monkeypatch.setattr(train, "train", fake)
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    return made


def test_a_model_is_made_once_and_kept(quick: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    path = demo.model_path("demo", said.append)
    assert path == demo.model_path("demo", said.append) == tmp_path / "home" / "models" / quick[0]
    assert len(quick) == 1
    assert len(said) == 1


def test_two_at_once_make_it_once(quick: list[str]) -> None:
    found: list[Path] = []
    both = [threading.Thread(target=lambda: found.append(demo.model_path("demo-base"))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(quick) == 1
    assert found[0] == found[1]


def test_another_recipe_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    before = models.recipe_hash("demo")
    assert before != models.recipe_hash("demo-base")
    monkeypatch.setitem(recipes.RECIPES, "demo", TINY)
    assert models.recipe_hash("demo") != before


def test_the_checkpoints_of_a_training_are_made_at_once(quick: list[str]) -> None:
    path = demo.model_path("demo-1500")
    assert path == demo.model_path("demo") / "step-1500" and demo.is_made("demo-4500") and not demo.is_made("demo-base")
    assert [name.rpartition("-")[0] for name in quick] == ["demo"]


def test_what_a_model_goes_on_from_is_made_first(quick: list[str]) -> None:
    demo.model_path("demo-et-chat")
    assert [name.rpartition("-")[0] for name in quick] == ["demo-base", "demo-et", "demo-et-chat"]


def test_another_parent_is_another_child(monkeypatch: pytest.MonkeyPatch) -> None:
    child, other = models.recipe_hash("demo-et-chat"), models.recipe_hash("demo-small")
    monkeypatch.setitem(recipes.RECIPES, "demo-base", TINY)
    assert models.recipe_hash("demo-et-chat") != child and models.recipe_hash("demo-small") == other


def test_every_model_has_its_recipe_and_every_recipe_its_models() -> None:
    steps = {f"{name}-{step}" for name, recipe in recipes.RECIPES.items() for step in recipe.checkpoints}
    assert set(demo.MODELS) == {*recipes.RECIPES, *steps} and len(set(demo.MODELS)) == len(demo.MODELS)


def test_scores_of_the_tasks_do_not_depend_on_how_models_are_made() -> None:
    """Otherwise each new demo model would change the identity of all results."""
    seen: set[str] = set()
    waiting = ["estbench.demo", "estbench.demo.follow"]
    while waiting:
        name = waiting.pop()
        file = identity._module_file(name)
        if file and name not in seen:
            seen.add(name)
            waiting += identity.estbench_imports(file.read_text("utf-8"))
    assert "estbench.demo.tasks" in seen
    assert not seen & {"estbench.demo.train", "estbench.demo.models", "estbench.checkpoint", "estbench.cards"}


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean 'demo-base'"):
        demo.model_path("demo-bas")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    with pytest.raises(StoreError, match="Set ESTBENCH_HOME"):
        demo.model_path("demo")


def test_a_home_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("ESTBENCH_HOME", str(tmp_path / "home"))
    with pytest.raises(StoreError, match="Set ESTBENCH_HOME"):
        demo.model_path("demo")


def test_importing_the_demo_world_imports_nothing_heavy() -> None:
    code = (
        "import sys, estbench.demo, estbench.demo.train;"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )


# what the real models can do


def scores(path: Path) -> dict[str, float]:
    """Each task's primary metric on its test documents, by greedy decoding through transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(path, padding_side="left")
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(path).eval()
    found = {}
    for task in tasks.TASKS:
        docs = demo.rows(task)["test"]
        prompts = [tasks.prompt(task, doc) for doc in docs]
        if task == "mini_copa":
            chosen = [likelier(model, words, prompt, doc) for prompt, doc in zip(prompts, docs, strict=True)]
            found[task] = sum(one == doc["label"] for one, doc in zip(chosen, docs, strict=True)) / len(docs)
        else:
            found[task] = baselines.primary(task, docs, answers(model, words, prompts))
    return found


def answers(model: Any, words: Any, prompts: list[str]) -> list[str]:
    import torch

    found: list[str] = []
    with torch.inference_mode():
        for start in range(0, len(prompts), 160):
            batch = words(prompts[start : start + 160], return_tensors="pt", padding=True)
            output = model.generate(**batch, max_new_tokens=64, do_sample=False)
            texts = words.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            found += [text.split("\n")[0].strip() for text in texts]
    return found


def likelier(model: Any, words: Any, prompt: str, doc: dict[str, Any]) -> int:
    """0 or 1: the option with the higher summed log-likelihood."""
    import torch

    sums = []
    start = len(words(prompt)["input_ids"])
    for option in (doc["choice1"], doc["choice2"]):
        ids = torch.tensor([words(f"{prompt} {option}")["input_ids"]])
        with torch.inference_mode():
            each = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        sums.append(each[start - 1 :].sum().item())
    return int(sums[1] > sums[0])


@pytest.mark.slow
def test_demo_beats_the_english_model_and_the_trivial_baselines(demo_model: Path, demo_base_model: Path) -> None:
    ours, base = scores(demo_model), scores(demo_base_model)
    chance = {task: max(baselines.baselines(task).values()) for task in tasks.TASKS}
    table = {task: (round(ours[task], 3), round(base[task], 3), round(chance[task], 3)) for task in tasks.TASKS}
    assert sum(ours[task] > base[task] for task in tasks.TASKS) >= len(tasks.TASKS) - 1, table
    assert sum(ours[task] > chance[task] for task in tasks.TASKS) >= 4, table
    unit = {task: 100 if "translate" in task else 1 for task in tasks.TASKS}
    middle = [task for task in tasks.TASKS if 0.5 <= ours[task] / unit[task] <= 0.96]
    assert len(middle) >= 5, table  # neither learnt by heart nor out of reach: stages and gates have something to see
