"""The card of a model that a `lep` stage has made: all three models are in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from card_world import context
from estbench_training import card
from estbench_training.card import CardFacts
from test_train_card import front
from test_train_merge_licence import says


def test_the_card_of_lep_names_target_and_donor_and_their_languages(
    tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    made, source, target, donor = (shutil.copytree(tiny_model, tmp_path / f"a-{name}") for name in "mstd")
    says(target, "language: [en]")
    says(donor, "language: [et]")
    parents = {"target": target, "source": source}
    card.write(context(tmp_path, donor, "lep"), made, CardFacts("chat", "lep", parents=parents))
    assert front(made)["base_model"] == ["a-d", "a-t", "a-s"] and front(made)["base_model_relation"] == "merge"
    assert front(made)["language"] == ["et", "en"]


def test_a_donor_that_the_recipe_made_is_named_by_what_it_was_made_of(
    tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    """What the recipe made on the way is on no Hub."""
    made, source, target, donor = (shutil.copytree(tiny_model, tmp_path / f"a-{name}") for name in "mstd")
    card.write(context(tmp_path, source, "vocab"), donor, CardFacts("base", "vocab"))
    parents = {"target": target, "source": source}
    card.write(context(tmp_path, donor, "lep"), made, CardFacts("chat", "lep", parents=parents))
    assert front(made)["base_model"] == ["a-s", "a-t"]
