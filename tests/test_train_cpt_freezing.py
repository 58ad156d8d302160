"""What of a model is trained, how adapters are merged, and what averages the exported weights are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import training_world as world
from estbench_training.cpt import freezing
from estbench_training.cpt.averaging import Averages
from estbench_training.cpt.settings import Average

from estbench.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and shards; recipes are written into it."""
    folder = tmp_path_factory.mktemp("freezing")
    world.make_model(folder / "tied", tied=True)
    world.make_shards(
        folder / "shards", world.make_model(folder / "base", num_hidden_layers=3), {"et": 4000, "en": 2000}
    )
    return folder


@pytest.fixture
def train(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains with other keys than usual; the stage's folder."""
    world.without_curves(monkeypatch)

    def run(base: str = "base", **keys: Any) -> Path:
        path = world.make_recipe(place, place / base, f"{tmp_path.name}.yaml", **{"steps": 2} | keys)
        return world.train(path, tmp_path)

    return run


def hashes(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def changed(base: Path, made: Path) -> set[str]:
    """The tensors that differ, by hash."""
    before, after = hashes(world.weights(base)), hashes(world.weights(made / "model"))
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("base", "expected"),
    [("base", {"model.embed_tokens.weight", "lm_head.weight"}), ("tied", {"model.embed_tokens.weight"})],
)
def test_a_stage_on_embeddings_changes_nothing_else(
    place: Path, train: Callable[..., Path], base: str, expected: set[str]
) -> None:
    assert changed(place / base, train(base, freeze="embeddings")) == expected


def test_a_stage_on_all_changes_all(place: Path, train: Callable[..., Path]) -> None:
    """Negative control for the tests on frozen parts."""
    assert changed(place / "base", train()) == world.weights(place / "base").keys()


def test_a_stage_on_the_ends_changes_these_layers(place: Path, train: Callable[..., Path]) -> None:
    names = changed(place / "base", train(freeze="ends", ends={"first": 1, "last": 1}))
    assert {name.split(".")[2] for name in names} == {"0", "2"} and all("layers" in name for name in names)
    assert len(names) == 2 * 9


def test_more_ends_than_layers_are_refused(train: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="first 2 and last 2 are more than the 3 layers"):
        train(freeze="ends")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft calls it
@pytest.mark.parametrize("base", ["base", "tied"])
def test_adapters_are_merged_as_peft_merges_them(place: Path, train: Callable[..., Path], base: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = train(base, freeze="lora", lora={"rank": 4, "alpha": 12, "dropout": 0.1}, steps=3)
    start = AutoModelForCausalLM.from_pretrained(place / base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(start, str(folder / "adapter")).merge_and_unload()
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    expected, found = merged.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.allclose(expected[name], found[name], rtol=0, atol=1e-6) for name in expected)
    adapted = changed(place / base, folder)
    assert adapted == {name for name in world.weights(place / base) if "_proj" in name}


def test_modules_may_be_trained_whole_beside_adapters(place: Path, train: Callable[..., Path]) -> None:
    lora = {"rank": 2, "modules": ["q_proj"], "whole": ["embed_tokens", "lm_head"]}
    names = changed(place / "base", train(freeze="lora", lora=lora))
    queries = {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3)}
    assert names == queries | {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("lora", "message"),
    [({"modules": ["nothing"]}, "lora.modules"), ({"whole": ["nothing"]}, "no module called 'nothing'")],
)
def test_adapters_on_modules_that_are_not_there_are_refused(
    train: Callable[..., Path], lora: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(freeze="lora", lora=lora)


def test_nothing_to_train_is_refused() -> None:
    module = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ModelError, match="Nothing of this model is trained"):
        freezing.trained(module)


def test_layers_are_found_without_their_class_s_name() -> None:
    layers = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
    model = torch.nn.ModuleDict({"small": torch.nn.ModuleList([torch.nn.Linear(1, 1)]), "layers": layers})
    assert freezing.layers(model) == list(layers)
    with pytest.raises(ModelError, match="no list of layers"):
        freezing.layers(torch.nn.Linear(1, 1))


# --- averages ---------------------------------------------------------------------------------------------------------


def steps_of(folder: Path, steps: int) -> list[dict[str, torch.Tensor]]:
    return [world.weights(folder / f"checkpoints/step-{step:06d}") for step in range(1, steps + 1)]


def test_a_moving_average_is_exported_and_trains_as_without(place: Path, train: Callable[..., Path]) -> None:
    plain = train(steps=4, export={"every": 1})
    averaged = train(steps=4, average={"kind": "ema", "decay": 0.8})
    assert world.losses(plain) == world.losses(averaged)
    expected = world.weights(place / "base")
    for weights in steps_of(plain, 4):
        expected = {name: 0.8 * value + 0.2 * weights[name] for name, value in expected.items()}
    found = world.weights(averaged / "model")
    assert all(torch.allclose(expected[name], found[name], rtol=0, atol=1e-6) for name in expected)
    assert not world.same(found, world.weights(plain / "model"))


def test_the_mean_of_the_last_snapshots_is_exported(train: Callable[..., Path]) -> None:
    plain = train(steps=5, export={"every": 1})
    averaged = train(steps=5, average={"kind": "last", "every": 2, "count": 2}, export={"steps": [2]})
    taken = [steps_of(plain, 5)[step - 1] for step in (3, 5)]
    found = world.weights(averaged / "model")
    assert all(torch.allclose((taken[0][name] + taken[1][name]) / 2, found[name], rtol=0, atol=1e-6) for name in found)
    early = world.weights(averaged / "checkpoints/step-000002")  # before the first snapshot: the weights themselves
    assert world.same(early, steps_of(plain, 5)[1])


@pytest.mark.parametrize(("steps", "every", "count"), [(10, 3, 3), (10, 3, 9), (4, 1, 2), (3, 5, 4)])
def test_snapshots_end_with_the_last_step(steps: int, every: int, count: int) -> None:
    weight = torch.zeros(1)
    averages = Averages(Average("last", every=every, count=count), {"w": weight}, steps)
    taken = list(range(steps, 0, -every))[:count]
    for step in range(1, steps + 1):
        weight.fill_(float(step))
        averages.update(step)
        assert bool(averages.exported) == (step >= taken[-1])
    assert float(averages.exported["w"]) == pytest.approx(sum(taken) / len(taken))


def test_snapshots_that_a_roll_back_undid_do_not_leave_the_start_in_the_mean() -> None:
    weight = torch.full((1,), 100.0)
    averages = Averages(Average("last", every=1, count=3), {"w": weight}, 6)
    before = averages.values["w"].clone()
    for step in (4, 5, 6):
        weight.fill_(1.0)
        if step == 5:  # back to a state from before the first snapshot
            averages.values["w"].copy_(before)
            averages.taken = 0
        averages.update(step)
    assert float(averages.exported["w"]) == pytest.approx(1.0)
