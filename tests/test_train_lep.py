"""LEP on tiny models: exact where it has to be, and the target's where it has to be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from estbench_training import recipe, stages
from estbench_training.lep.settings import LepSettings
from estbench_training.lep.solve import EVERY
from estbench_training.vocab.pieces import overlap
from lep_world import EMBEDDINGS, SPECIAL, TEMPLATE, LepWorld, report, usual, weights
from torch import Tensor

from estbench.errors import ConfigError

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LepWorld]:
    made = {}
    for name, keys in {"untied": {}, "tied": {"tied": True}, "wide": {"dtype": torch.float32}}.items():
        world = made[name] = LepWorld(tmp_path_factory.mktemp(name), **keys)
        world.donor("donor", world.new)
        world.donor("same")
    return made


@pytest.fixture(params=["untied", "tied", "wide"])
def world(request: pytest.FixtureRequest, worlds: dict[str, LepWorld]) -> LepWorld:
    return worlds[request.param]


@pytest.fixture
def untied(worlds: dict[str, LepWorld]) -> LepWorld:
    return worlds["untied"]


def parts(world: LepWorld) -> list[str]:
    return [name for name in EMBEDDINGS if name in world.read("source")]


def rounding(world: LepWorld, values: Tensor) -> float:
    """Half a unit in the last place of the largest of these, and a little."""
    return 0.6 * torch.finfo(world.dtype).eps * float(values.abs().max())


# --- the variants -----------------------------------------------------------------------------------------------------


def test_swap_with_the_same_vocabulary_is_the_donor_bit_for_bit(world: LepWorld) -> None:
    made, donor = world.made("./same", variant="swap"), world.read("same")
    ids = usual(world, world.old)
    for name in parts(world):
        assert torch.equal(made[name][ids], donor[name][ids])
        assert not torch.equal(made[name][ids], world.read("target")[name][ids])


def test_the_card_says_how(world: LepWorld) -> None:
    said = (world.run("./donor", variant="delta", layers="keep") / "model" / "README.md").read_text("utf-8")
    assert "| how | delta, layers keep |" in said and "| seed |" not in said


@pytest.mark.parametrize("variant", ["conversion", "overlap"])
def test_a_target_that_is_the_source_gets_the_donors_rows_bit_for_bit(world: LepWorld, variant: str) -> None:
    folder = world.run("./donor", target="./source", variant=variant)
    made, donor = weights(folder / "model"), world.read("donor")
    for name in parts(world):
        assert torch.equal(made[name][usual(world, world.new)], donor[name][usual(world, world.new)])
        assert report(folder)["fit"][name]["moved"] == report(folder)["fit"][name]["residual"] == 0  # P = I


def test_delta_with_the_same_vocabulary_is_the_chat_vector_bit_for_bit(world: LepWorld) -> None:
    made = world.made("./same", variant="delta")
    kind = torch.float64 if world.dtype == torch.float32 else torch.float32
    source, target, donor = (world.read(name) for name in ("source", "target", "same"))
    ids = usual(world, world.old)
    for name in parts(world):
        s, t, d = (found[name][ids].to(kind) for found in (source, target, donor))
        assert torch.equal(made[name][ids], (d + (t - s)).to(world.dtype))


def test_delta_of_a_donor_that_was_trained_whole_is_what_a_merge_makes(world: LepWorld) -> None:
    """All of the model, but for rows of special tokens that the donor makes text with."""
    world.donor("moved", layers=0.01)
    made = world.made("./moved", variant="delta")
    keys = {"kind": "merge", "method": "chat_vector", "base": "./source", "instruct": "./target", "into": "./moved"}
    row = {"name": "toy", "base": "./source", "stages": [{"name": "merge", **keys}]}
    [step] = stages.run(recipe.from_row(row, world.folder), world.folder / "merged", lambda line: None)
    merged, ids = weights(step.folder / "model"), usual(world, world.old)
    assert made.keys() == merged.keys()
    for name, tensor in merged.items():
        kept = ids if name in EMBEDDINGS else slice(None)
        assert torch.equal(made[name][kept], tensor[kept])
    own = [world.old.convert_tokens_to_ids(token) for token in SPECIAL]  # those that only the chat model speaks
    assert all(torch.equal(made[name][own], merged[name][own]) for name in parts(world))


def test_delta_of_a_donor_that_is_the_source_is_the_target_bit_for_bit(world: LepWorld) -> None:
    made, target = world.made("./source", variant="delta"), world.read("target")
    assert made.keys() == target.keys() and all(torch.equal(made[name], target[name]) for name in target)


def test_delta_of_an_untrained_donor_is_the_mean_of_the_targets_old_pieces(world: LepWorld) -> None:
    donor = world.donor("untrained", world.new, trained=0.0)
    made, expected, ids = world.made(donor, variant="delta"), world.mean("target", world.new), usual(world, world.new)
    for name in parts(world):
        difference = (made[name][ids].double() - expected[name][ids]).abs().max()
        assert float(difference) < 2 * rounding(world, expected[name])  # the donor's rows are rounded, too
        assert float((world.mean("source", world.new)[name][ids] - expected[name][ids]).abs().max()) > 0.01


def test_conversion_is_what_a_least_squares_solver_gives(world: LepWorld) -> None:
    folder = world.run("./donor", ridge=0)
    made, donor, ids = weights(folder / "model"), world.read("donor"), usual(world, world.new)
    source, target = (world.mean(name, world.new) for name in ("source", "target"))
    for name in parts(world):
        a, b = source[name][ids], target[name][ids]
        p = torch.linalg.lstsq(a, b, driver="gelsy").solution
        expected = donor[name][ids].double() @ p
        assert float((made[name][ids].double() - expected).abs().max()) < rounding(world, expected)
        fit = report(folder)["fit"][name]
        assert fit["rows"] == len(ids) and fit["residual"] == pytest.approx(float((a @ p - b).norm() / b.norm()))
        assert fit["held_out"] > 0 and fit["ridge"] == 0 and fit["condition"] > 1


def test_overlap_is_fitted_on_the_tokens_of_both_vocabularies(world: LepWorld) -> None:
    folder = world.run("./donor", variant="overlap", ridge=0)
    made, donor, ids = weights(folder / "model"), world.read("donor"), usual(world, world.new)
    old, _ = overlap(world.old, world.new)
    old = np.setdiff1d(old, world.specials(world.old))
    for name in parts(world):
        a, b = (world.read(model)[name][torch.from_numpy(old)].double() for model in ("source", "target"))
        expected = donor[name][ids].double() @ torch.linalg.lstsq(a, b, driver="gelsy").solution
        assert float((made[name][ids].double() - expected).abs().max()) < rounding(world, expected)
        assert report(folder)["fit"][name]["rows"] == len(old)


def test_input_and_head_have_a_matrix_each(untied: LepWorld) -> None:
    fits = report(untied.run("./donor"))["fit"]
    assert fits.keys() == set(EMBEDDINGS) and fits[EMBEDDINGS[0]]["residual"] != fits[EMBEDDINGS[1]]["residual"]


def test_a_tied_head_stays_tied(worlds: dict[str, LepWorld]) -> None:
    from transformers import AutoModelForCausalLM

    for variant in ("conversion", "delta"):
        folder = worlds["tied"].run("./donor", variant=variant)
        assert "lm_head.weight" not in weights(folder / "model")
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        assert len(report(folder)["fit"]) == 1


def test_what_p_does_is_said(untied: LepWorld) -> None:
    untied.said.clear()
    untied.run("./donor", "said")
    fits = [line for line in untied.said if "leaves" in line]
    assert len(fits) == 2 and all("condition" in line and "ridge 1e-09" in line for line in fits)
    assert all("on tokens that P was not made of" in line for line in fits)


def test_a_p_that_only_fits_what_it_was_made_of_is_said(tmp_path: Path) -> None:
    """Here target and source have nothing to do with each other beyond the first 16 rows that decide P."""
    world = LepWorld(tmp_path)
    world.donor("donor", world.new)
    world.change("target", lambda found: found.update({EMBEDDINGS[0]: 9 * found[EMBEDDINGS[0]].flip(1).roll(7, 0)}))
    world.run("./donor")
    assert not any("worse than none" in line for line in world.said)  # both are bad, P is not worse
    world.change("target", lambda found: found.update({EMBEDDINGS[0]: world.read("source")[EMBEDDINGS[0]]}))
    world.change("target", lambda found: found[EMBEDDINGS[0]].__setitem__(50, 40.0))  # one row leads P astray
    world.run("./donor", ridge=0)
    assert any("worse than none" in line for line in world.said)


def test_tokens_that_p_was_not_made_of_are_held_against_the_same_tokens_without_p(tmp_path: Path) -> None:
    """Every 20th token has moved more than the others, none of them as P says: that is no fault of P."""
    world = LepWorld(tmp_path)
    world.donor("donor", world.new)
    world.change("target", lambda found: found.update({EMBEDDINGS[0]: world.read("source")[EMBEDDINGS[0]] * 1.1}))
    held = usual(world, world.new)[EVERY - 1 :: EVERY]
    held = held[held < len(world.read("target")[EMBEDDINGS[0]])]
    world.change("target", lambda found: found[EMBEDDINGS[0]].__setitem__(held, found[EMBEDDINGS[0]][held] * 1.5))
    fit = report(world.run("./donor"))["fit"][EMBEDDINGS[0]]
    assert fit["before"] < fit["held_out"] < fit["held_before"]
    assert not any("worse than none" in line for line in world.said)


# --- what is the target's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["conversion", "overlap", "delta", "swap"])
def test_special_rows_are_the_targets_in_the_new_vocabulary(world: LepWorld, variant: str) -> None:
    made = world.made("./donor", variant=variant)
    for name in parts(world):
        for token in ("<s>", "</s>", "<pad>", *SPECIAL):
            new, old = (tokenizer.convert_tokens_to_ids(token) for tokenizer in (world.new, world.old))
            assert new != old
            row = made[name][new]
            assert torch.equal(row, world.read("target")[name][old])
            assert not torch.equal(row, world.read("source")[name][old])  # nor are they those of the others
            assert not torch.equal(row, world.read("donor")[name][new])


def test_the_template_is_the_targets_and_the_ids_are_the_new_ones(world: LepWorld) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = world.run("./donor") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE and tokenizer.get_vocab() == world.new.get_vocab()
    assert AutoTokenizer.from_pretrained(world.folder / "donor").chat_template is None  # nor had the source one
    end, stop, bos, pad = (world.new.convert_tokens_to_ids(token) for token in ("<|end|>", "</s>", "<s>", "<pad>"))
    assert tokenizer.eos_token == "<|end|>" and tokenizer.eos_token_id == end
    generation = json.loads((folder / "generation_config.json").read_text("utf-8"))
    assert (generation["eos_token_id"], generation["bos_token_id"]) == ([end, stop], bos)
    assert generation["pad_token_id"] == pad
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert (config["vocab_size"], config["eos_token_id"], config["bos_token_id"]) == (len(world.new), end, bos)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == world.dtype
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Kes ütles õues?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert ids["input_ids"][0, 0] == bos and tokenizer.decode(ids["input_ids"][0]).count("ütles õues") == 1
    assert model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def test_special_tokens_that_only_the_targets_map_names_are_carried_over(world: LepWorld) -> None:
    from transformers import AutoTokenizer

    config = json.loads((world.folder / "target" / "tokenizer_config.json").read_text("utf-8"))
    roles = {name: config.pop(name) for name in ("bos_token", "eos_token")}
    (world.folder / "target" / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (world.folder / "target" / "special_tokens_map.json").write_text(json.dumps(roles), "utf-8")
    tokenizer = AutoTokenizer.from_pretrained(world.run("./donor") / "model")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "<|end|>")


def test_layers_stay_the_targets_where_the_donors_are_the_sources(world: LepWorld) -> None:
    made, target = world.made("./donor"), world.read("target")
    assert made.keys() == target.keys()
    assert all(torch.equal(made[name], target[name]) for name in target if name not in EMBEDDINGS)
    assert any("auto is keep" in line for line in world.said)


def test_rows_that_are_no_tokens_are_the_donors(tmp_path: Path) -> None:
    """A matrix that is padded to a round number of rows stays so."""
    world = LepWorld(tmp_path)
    world.donor("donor", world.new)
    size = len(world.new)

    def pad(found: dict[str, Tensor]) -> None:
        for name in EMBEDDINGS:
            found[name] = torch.cat([found[name], torch.full((12, 16), 0.5, dtype=found[name].dtype)])

    world.change("donor", pad)
    for variant in ("swap", "delta"):
        made = world.made("./donor", variant=variant)
        assert all(torch.equal(made[name][size:], torch.full((12, 16), 0.5).bfloat16()) for name in EMBEDDINGS)
        config = json.loads((world.run("./donor", variant=variant) / "model" / "config.json").read_text("utf-8"))
        assert config["vocab_size"] == size + 12


# --- the layers -------------------------------------------------------------------------------------------------------


def test_a_donor_that_was_trained_whole_moves_the_layers_too(world: LepWorld) -> None:
    donor = world.donor("whole", world.new, layers=0.01)
    made, half = world.made(donor), world.made(donor, layers="delta", scale=0.5)
    assert any("auto is delta" in line for line in world.said)
    kind = torch.float64 if world.dtype == torch.float32 else torch.float32
    source, target, trained = (world.read(name) for name in ("source", "target", "whole"))
    for name in target.keys() - set(EMBEDDINGS):
        s, t, d = (found[name].to(kind) for found in (source, target, trained))
        assert torch.equal(made[name], (d + (t - s)).to(world.dtype))
        assert torch.equal(half[name], (t + 0.5 * (d - s)).to(world.dtype))
    kept = world.made(donor, layers="keep")
    assert all(torch.equal(kept[name], target[name]) for name in target.keys() - set(EMBEDDINGS))


# --- the stage --------------------------------------------------------------------------------------------------------


def test_provenance_has_the_hashes_of_all_inputs(untied: LepWorld) -> None:
    from estbench.checkpoint import find

    row = report(untied.run("./donor"))
    assert set(row["models"]) == {"source", "target", "donor"}
    for name, found in row["models"].items():
        assert found.items() >= find(str(untied.folder / name)).fingerprint().items()
    assert (row["variant"], row["layers"], row["special_tokens"]) == ("conversion", "keep", 7)
    assert row["tokens"] == {"target": len(untied.old), "new": len(untied.new)}


def test_the_card_names_lineage_and_stage(untied: LepWorld) -> None:
    folder = untied.run("./donor") / "model"
    card = json.loads((folder / "train_card.json").read_text("utf-8"))
    assert (card["kind"], card["stage"], card["name"]) == ("chat", "lep", "toy-lep")
    assert [stage["name"] for stage in card["lineage"]][-2:] == ["donor", "toy-lep"]
    assert [parent["name"] for parent in card["parents"]] == ["target", "source"]


@pytest.mark.parametrize(("role", "other"), [("source", "target"), ("target", "source"), ("donor", "same")])
def test_another_model_in_any_role_is_another_key(untied: LepWorld, role: str, other: str) -> None:
    usual_one = {"donor": "./donor", "target": "./target", "source": "./source"}
    [first] = stages.chain(untied.recipe(**usual_one), untied.folder)
    [second] = stages.chain(untied.recipe(**usual_one | {role: f"./{other}"}), untied.folder)
    assert first.key != second.key


def test_the_three_may_be_stages_of_the_recipe(untied: LepWorld) -> None:
    merge = {"name": "lep", "kind": "lep", "source": "./source", "target": "./target", "donor": "first"}
    first = {"name": "first", "kind": "lep", "source": "./source", "target": "./source", "donor": "./donor"}
    made = recipe.from_row({"name": "toy", "stages": [first, merge]}, untied.folder)
    steps = stages.run(made, untied.folder / "two", lambda line: None)
    assert steps[1].needs == ("first",) and (steps[1].folder / "model" / "lep.json").is_file()
    assert all(
        torch.equal(tensor, weights(untied.run("./donor") / "model")[name])
        for name, tensor in weights(steps[1].folder / "model").items()
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"variant": "convert"}, "Did you mean 'conversion'"),
        ({"ridge": -1}, "ridge: -1 is below 0"),
        ({"ridge": 0.1, "variant": "swap"}, "solves for no P"),
        ({"weighting": "weighted", "variant": "overlap"}, "makes nothing of pieces"),
        ({"layers": "keep", "scale": 0.5}, "nothing is carried"),
        ({"layers": "adapters"}, "Did you mean 'adapter'"),
    ],
)
def test_slips_in_settings_are_named_before_anything_runs(untied: LepWorld, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        untied.recipe("./donor", **keys)


def test_the_defaults_are_those_that_are_documented() -> None:
    found = dataclasses.asdict(LepSettings("s", "t", "d"))
    assert (found["variant"], found["ridge"], found["layers"], found["scale"]) == ("conversion", 1e-9, "auto", 1.0)
