"""The licence of a merged model: that of the models in it where they agree, and all of theirs where they don't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from merge_world import Trio, make, own_home, trio
from test_train_merge import chat_vector, merge

from estbench import cards

__all__ = ["own_home", "trio"]  # fixtures


def says(folder: Path, front: str) -> None:
    """Give a model a README.md with this front matter."""
    (folder / "README.md").write_text(f"---\n{front}\n---\n# Model\n\n    license: other\n", "utf-8")


def front(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])
    return found


def text(folder: Path) -> str:
    return (folder / "README.md").read_text("utf-8")


def on_the_board(folder: Path) -> str:
    """What a run's manifest, and so the board, takes."""
    found: str = cards.of_folder(folder)["card"]["licence"]
    return found


def test_a_licence_that_all_models_have_is_the_merged_models(tmp_path: Path, trio: Trio) -> None:
    for folder in trio:
        says(folder, "license: llama3.1")
    says(trio[1], "license: Llama3.1")  # the Hub's are in small letters
    made = chat_vector(tmp_path / "m", trio)
    assert front(made)["license"] == "llama3.1" and on_the_board(made) == "llama3.1"
    assert "| et | llama3.1 |" in text(made) and "| chat | Llama3.1 |" in text(made)


def test_a_model_that_is_averaged_with_itself_keeps_its_licence(tmp_path: Path, trio: Trio) -> None:
    says(trio[0], "license: apache-2.0")
    made = merge(tmp_path / "m", method="average", parts=f"{trio[0]},{trio[0]}")
    assert front(made)["license"] == "apache-2.0" and on_the_board(made) == "apache-2.0"


def test_models_in_folders_called_model_are_told_apart(tmp_path: Path) -> None:
    places = [tmp_path / "out" / name / "model" for name in ("a", "b")]
    for at, (place, licence) in enumerate(zip(places, ("llama3.1", "mit"), strict=True)):
        place.parent.mkdir(parents=True)
        says(make(place, seed=at), f"license: {licence}")
    made = merge(tmp_path / "m", method="average", parts=f"{places[0]},{places[1]}")
    assert front(made)["base_model"] == ["a", "b"]
    assert "| a | llama3.1 |" in text(made) and "| b | mit |" in text(made)
    step = make(tmp_path / "out" / "step-500", seed=3)
    made = merge(tmp_path / "n", method="average", parts=f"{places[0]},{step}")
    assert front(made)["base_model"] == ["a", "out-step-500"]


def test_a_licence_of_its_own_name_is_the_merged_models_with_its_link(tmp_path: Path, trio: Trio) -> None:
    for folder in trio:
        says(folder, "license: 'other'\nlicense_name: est-1.0\nlicense_link: https://example.ee/est")
    made = chat_vector(tmp_path / "m", trio)
    assert {name: value for name, value in front(made).items() if name.startswith("license")} == {
        "license": "other", "license_name": "est-1.0", "license_link": "https://example.ee/est",
    }  # fmt: skip
    assert on_the_board(made) == "est-1.0"


def test_licences_that_differ_are_all_named(tmp_path: Path, trio: Trio, capsys: pytest.CaptureFixture[str]) -> None:
    base, chat, into = trio
    says(base, "license: llama3.1")
    says(chat, "license: other\nlicense_name: Gemma Terms")
    made = chat_vector(tmp_path / "m", trio)  # and `into` says nothing
    assert front(made)["license"] == "other" and on_the_board(made) == "unknown-and-llama3.1-and-gemma-terms"
    said = "The licences of the models in it differ: et (unknown), base (llama3.1), chat (Gemma Terms)."
    assert said in text(made) and "| chat | Gemma Terms |" in text(made)
    assert "The licences of the models in m differ: et (unknown), base" in capsys.readouterr().err
    says(into, "license: llama3.1")
    again = merge(tmp_path / "n", method="average", parts=f"{base},{into}")
    assert on_the_board(again) == "llama3.1"
    assert "differ" not in capsys.readouterr().err


@pytest.mark.parametrize("third", ["license: unknown", "license: other", "language: et", "license: [", ""])
def test_a_licence_that_one_of_the_models_does_not_say_is_not_invented(tmp_path: Path, trio: Trio, third: str) -> None:
    says(trio[0], "license: mit")
    says(trio[1], "license: mit")
    says(trio[2], third)
    made = chat_vector(tmp_path / "m", trio)
    assert front(made)["license"] == "unknown"
    assert "Not known: not all models in it say theirs." in text(made) and "| base | mit |" in text(made)


def test_two_models_of_other_licences_without_a_name_need_not_have_the_same(tmp_path: Path, trio: Trio) -> None:
    for folder in trio:
        says(folder, "license: other")
    assert front(chat_vector(tmp_path / "m", trio))["license"] == "unknown"


def test_several_licences_of_one_model_stay_several(tmp_path: Path, trio: Trio) -> None:
    for folder in trio:
        says(folder, "license: [mit, apache-2.0]")
    made = chat_vector(tmp_path / "m", trio)
    assert front(made)["license"] == ["mit", "apache-2.0"] and on_the_board(made) == "mit, apache-2.0"


def test_two_folders_of_one_name_both_count(tmp_path: Path) -> None:
    parts = [make(tmp_path / at / "model", seed=seed) for seed, at in enumerate(("a", "b"))]
    says(parts[0], "license: mit")
    says(parts[1], "license: gemma")
    made = merge(tmp_path / "m", method="average", parts=f"{parts[0]},{parts[1]}")
    assert on_the_board(made) == "mit-and-gemma"


def test_the_licence_of_the_recipe_counts_before_all_others(tmp_path: Path, trio: Trio) -> None:
    from estbench_training import recipe, stages

    for folder in trio:
        says(folder, "license: mit")
    vector = {"name": "chat", "kind": "merge", "method": "chat_vector", "base": str(trio[0]), "instruct": str(trio[1])}
    head = {"name": "tiny", "base": str(trio[2]), "licence": "apache-2.0", "stages": [vector]}
    done = stages.run(recipe.from_row(head, tmp_path), tmp_path / "out", lambda line: None)[0]
    made = done.folder / "model"
    assert front(made)["license"] == "apache-2.0" and "| chat | mit |" in text(made)
    assert front(made)["base_model"] == ["et", "base", "chat"]


def test_the_card_of_a_merge_says_how_it_was_made_and_of_which_models(tmp_path: Path, trio: Trio) -> None:
    made = chat_vector(tmp_path / "merge-et", trio, "scales.*.mlp.*=0.5", scale=0.8, embeddings="skip")
    assert "| how | chat_vector, scale 0.8, scales \\*.mlp.\\*: 0.5, embeddings skip |" in text(made)
    assert front(made)["base_model"] == ["et", "base", "chat"] and front(made)["base_model_relation"] == "merge"
    assert "decontaminated" not in text(made) and "Data of this stage" not in text(made)  # nothing was trained
    again = merge(tmp_path / "s", method="slerp", parts=f"{made},{trio[2]}", t=0)
    assert front(again)["base_model"] == ["merge-et", "et"]  # also where it is called as stages of a recipe are
    assert "| how | slerp, t 0 |" in text(again)


def test_the_card_writes_numbers_as_people_do(tmp_path: Path, trio: Trio) -> None:
    more = {"base": trio[0], "parts": f"{trio[1]},{trio[2]}", "weights": "1,3", "drop": 0.25}
    made = merge(tmp_path / "m", "scales.*.mlp.*=0.6", "scales.*.layers.0.*=0", method="dare", **more)
    said = "dare, scale 1, scales \\*.mlp.\\*: 0.6, \\*.layers.0.\\*: 0, weights 1, 3, drop 0.25"
    assert f"| how | {said} |" in text(made)


# --- languages --------------------------------------------------------------------------------------------------------


def test_the_languages_of_a_merge_are_those_that_its_models_say(tmp_path: Path, trio: Trio) -> None:
    for folder in trio:
        says(folder, "language: [et]")
    assert front(chat_vector(tmp_path / "same", trio))["language"] == ["et"]
    says(trio[1], "language: [en, et]")
    says(trio[2], "language: fi")
    assert front(chat_vector(tmp_path / "others", trio))["language"] == ["fi", "et", "en"]  # into, base, instruct


def test_languages_that_no_model_says_are_not_made_up(tmp_path: Path, trio: Trio) -> None:
    says(trio[0], "license: mit")
    says(trio[1], "license: [")
    assert "language" not in front(chat_vector(tmp_path / "m", trio))


@pytest.mark.parametrize(("said", "expected"), [(["et", "en"], ["et", "en"]), (["lv"], ["lv"]), (None, ["fi"])])
def test_the_languages_of_the_recipe_count_before_those_of_the_models(
    tmp_path: Path, trio: Trio, said: list[str] | None, expected: list[str]
) -> None:
    """Also where it says what is the default of other stages."""
    from estbench_training import recipe, stages

    for folder in trio:
        says(folder, "language: fi")
    average = {"name": "mean", "kind": "merge", "method": "average", "parts": [str(trio[0]), str(trio[2])]}
    head = {"name": "tiny", **({"languages": said} if said else {}), "stages": [average]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(head), "utf-8")
    done = stages.run(recipe.load(tmp_path / "recipe.yaml"), tmp_path / "out", lambda line: None)[0]
    assert front(done.folder / "model")["language"] == expected
