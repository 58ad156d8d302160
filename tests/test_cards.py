"""Model cards and training cards: what is read is what was said, what is hostile or damaged is left out with one line,
and no key or fingerprint depends on either."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench import cards, checkpoint, identity, runner
from estbench.cards import Decontaminated, Recipe, Source, Stage, TrainingCard
from estbench.config import EvalSettings
from estbench.errors import ModelError
from estbench.evidence import Evidence
from estbench.gate import noise
from estbench.runs import Run

BASE = Stage("pretraining", "parent", "a" * 64, 1000)
WHOLE = TrainingCard(
    name="mudel",
    kind="base",
    stage="cpt",
    final=False,
    lineage=(BASE, Stage("cpt", "mudel", None, 500)),
    series="mudel",
    tokens=500,
    step=10,
    steps_planned=100,
    recipe=Recipe("et-cpt", "c0ffee"),
    data=(Source("Estonian web", "CC0-1.0", 400, 0.8), Source("English web", share=0.2)),
    decontaminated=Decontaminated("estbench contamination", ("estcopa",), 90_000, 12),
    hours=1.5,
    energy_kwh=0.25,
    versions={"torch": "2.13.0"},
    parents=(Stage("sft", "chat", "b" * 64),),
)
LEAST: dict[str, Any] = {
    "schema": 1,
    "name": "m",
    "kind": "chat",
    "stage": "sft",
    "final": True,
    "lineage": [{"stage": "sft", "name": "m"}],
}


def readme(folder: Path, text: str | bytes) -> Path:
    (folder / "README.md").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def training(folder: Path, text: str | bytes) -> Path:
    (folder / "train_card.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


# --- README.md --------------------------------------------------------------------------------------------------------


def test_the_front_matter_is_read(tmp_path: Path) -> None:
    readme(
        tmp_path,
        "---\nlicense: apache-2.0\nlanguage:\n- et\n- no\nbase_model: [a/b, c/d]\n---\n# Õ\n---\nlicense: mit\n",
    )
    said: list[str] = []
    assert cards.read_model_card(tmp_path, said.append) == {
        "licence": "apache-2.0",
        "base_models": ["a/b", "c/d"],
        "languages": ["et", "no"],  # and not False
    }
    assert said == []


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("license: other\nlicense_name: gemma", {"licence": "gemma"}),
        ("license: other", {"licence": "other"}),
        ("license: [mit, cc0-1.0]", {"licence": "mit, cc0-1.0"}),
        ("license: {a: b}\nlanguage: {et: 1}\nbase_model: [[a], {b: c}, d]", {"licence": None, "base_models": ["d"]}),
        ("language: et\nbase_model: a/b", {"languages": ["et"], "base_models": ["a/b"]}),
        (
            "license: x\nlicense_link: https://example.org/l",
            {"licence": "x", "links": {"licence": "https://example.org/l"}},
        ),
        ("license: !!python/object/apply:os.system [id]", {"licence": "id"}),
        (f'license: "{"a" * 5000}"', {"licence": "a" * cards.TEXT_MOST}),
        ('license: "\\x1b[31mm\\u202eit\\n\\0"', {"licence": "[31mmit"}),
    ],
)
def test_what_the_front_matter_may_say(tmp_path: Path, text: str, card: dict[str, Any]) -> None:
    empty = {"licence": None, "base_models": [], "languages": []}
    assert cards.read_model_card(readme(tmp_path, f"---\n{text}\n---\n")) == empty | card


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "https://a b", "//x", "[1]"])
def test_a_link_that_is_no_web_address_is_left_out(tmp_path: Path, link: str) -> None:
    card = cards.read_model_card(readme(tmp_path, f"---\nlicense: x\nlicense_link: {link}\n---\n"))
    assert card and "links" not in card


@pytest.mark.parametrize("text", ["", "# Model\n", "text\n---\nlicense: mit\n---\n", "----\nlicense: mit\n---\n"])
def test_a_readme_without_front_matter_says_nothing(tmp_path: Path, text: str) -> None:
    said: list[str] = []
    assert cards.read_model_card(readme(tmp_path, text), said.append) is None and said == []


BOMB = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 60))


@pytest.mark.parametrize(
    "text",
    [
        b"---\nlicense: [\n---\n",
        b"---\n- a\n---\n",
        b"---\n\xff\xfe\n---\n",
        b"---\nlicense: mit\n",
        b"---\nlicense: " + b"a" * cards.FRONT_MATTER_MOST + b"\n---\n",
        b"---\n" + b"[" * 60_000 + b"\n---\n",
        b"---\nlicense: \x1b[31m\n---\n",
        b"---\n? [a]\n: b\n---\n",
    ],
)
def test_front_matter_that_can_not_be_read_is_one_line(tmp_path: Path, text: bytes) -> None:
    said: list[str] = []
    assert cards.read_model_card(readme(tmp_path, text), said.append) is None
    assert len(said) == 1 and "README.md: its front matter is left out" in said[0] and said[0].isprintable()


def test_front_matter_can_not_grow(tmp_path: Path) -> None:
    cards.read_model_card(readme(tmp_path, f"---\nlicense: mit\n{BOMB}---\n"))  # 9 to the 59th pairs would never end


def test_a_long_readme_behind_its_front_matter_is_fine(tmp_path: Path) -> None:
    card = cards.read_model_card(readme(tmp_path, "\ufeff---\r\nlicense: mit\r\n---\r\n" + "õ" * (1 << 20)))
    assert card and card["licence"] == "mit"


def test_what_is_no_file_is_no_card(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")  # to open it would wait for ever
    (tmp_path / "train_card.json").mkdir()
    assert cards.of_folder(tmp_path) == {}


# --- train_card.json --------------------------------------------------------------------------------------------------


def test_a_training_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    cards.write_training_card(tmp_path, WHOLE)
    read = cards.read_training_card(tmp_path)
    assert read == WHOLE.to_dict() and TrainingCard.from_dict(read) == WHOLE
    assert read["lineage"][0] == {"stage": "pretraining", "name": "parent", "fingerprint": "a" * 64, "tokens": 1000}


def test_the_least_that_a_card_says(tmp_path: Path) -> None:
    read = cards.read_training_card(training(tmp_path, json.dumps(LEAST)))
    assert read and read["tokens"] is None and read["data"] == [] and read["decontaminated"] is None
    assert "parents" not in read  # of most models there are none


def test_unknown_keys_are_dropped_everywhere(tmp_path: Path) -> None:
    row = json.loads(json.dumps(WHOLE.to_dict() | {"own": 1}))
    for part in (row["lineage"][0], row["parents"][0], row["data"][0], row["recipe"], row["decontaminated"]):
        part["own"] = {"deep": 1}
    assert cards.read_training_card(training(tmp_path, json.dumps(row))) == WHOLE.to_dict()


DAMAGED: list[tuple[dict[str, Any], str]] = [
    ({"schema": 2}, "schema is not 1"),
    ({"schema": True}, "schema is not 1"),
    ({"name": None}, "name is no text"),
    ({"name": ""}, "name is no text"),
    ({"name": "a\u202eb", "lineage": [{"stage": "sft", "name": "a\u202eb"}]}, "no text"),
    ({"name": "x" * 201}, "name is no text"),
    ({"kind": "instruct"}, "kind is none of base, chat"),
    ({"stage": "Fine Tuning"}, "stage is no word"),
    ({"final": 1}, "final is not true or false"),
    ({"final": None}, "final is not true or false"),
    ({"lineage": []}, "does not end with the model itself"),
    ({"lineage": [{"stage": "sft", "name": "other"}]}, "does not end with the model itself"),
    ({"lineage": {"stage": "sft"}}, "lineage is no list"),
    ({"lineage": ["m"]}, "lineage is no mapping"),
    ({"lineage": [LEAST["lineage"][0]] * 201}, "more than 200 entries"),
    ({"lineage": [{"stage": "sft", "name": "m", "fingerprint": "abc"}]}, "fingerprint"),
    ({"parents": [{"stage": "sft"}]}, "name is no text"),
    ({"parents": [{"stage": "Two Words", "name": "m"}]}, "no word in small letters"),
    ({"parents": {}}, "parents is no list"),
    ({"tokens": -1}, "tokens is no whole number"),
    ({"tokens": 1.5}, "tokens is no whole number"),
    ({"tokens": True}, "tokens is no whole number"),
    ({"tokens": "1"}, "tokens is no whole number"),
    ({"tokens": 2**60}, "tokens is no whole number"),
    ({"series": 5}, "series is no text"),
    ({"hours": "1"}, "hours is no number"),
    ({"hours": -0.1}, "hours is no number"),
    ({"hours": False}, "hours is no number"),
    ({"recipe": "r"}, "recipe is no mapping"),
    ({"recipe": {"hash": "x"}}, "name is no text"),
    ({"data": [{"name": "d", "share": 1.1}]}, "share in data is more than 1"),
    ({"data": [{"licence": "d"}]}, "name is no text"),
    ({"decontaminated": True}, "decontaminated is no mapping"),
    ({"decontaminated": {"tool": "x", "tasks": [1]}}, "decontaminated.tasks is no text"),
    ({"versions": ["torch"]}, "versions is no mapping"),
    ({"versions": {"torch": 2}}, "torch is no text"),
    ({"versions": {"a\u001bb": 2}}, "versions is no text"),
]


@pytest.mark.parametrize(("change", "reason"), DAMAGED)
def test_a_damaged_card_is_one_line_and_is_not_written(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    said: list[str] = []
    assert cards.read_training_card(training(tmp_path, json.dumps(LEAST | change)), said.append) is None
    assert len(said) == 1 and reason in said[0] and "train_card.json is left out" in said[0] and said[0].isprintable()
    with pytest.raises(ModelError, match="no training card"):
        cards.write_training_card(tmp_path / "other", LEAST | change)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'{"schema": 1',
        b"\xff",
        b"[" * 100_000,
        b"1" * 10_000,
        json.dumps(LEAST | {"note": "x" * cards.TRAINING_MOST}).encode(),
        json.dumps(LEAST).replace("true", "NaN").encode(),
        json.dumps(LEAST | {"hours": 1}).replace(": 1}", ": 1e999}").encode(),
        json.dumps(LEAST | {"series": "\ud800"}).encode(),
    ],
)
def test_what_is_no_card_at_all_is_one_line(tmp_path: Path, text: bytes) -> None:
    said: list[str] = []
    assert cards.read_training_card(training(tmp_path, text), said.append) is None
    assert len(said) == 1 and said[0].isprintable() and len(said[0]) < 600


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(WHOLE.to_dict())), JSON)
def test_any_value_anywhere_is_a_card_or_a_clear_error(key: str, value: Any) -> None:
    try:
        card = TrainingCard.from_dict(WHOLE.to_dict() | {key: value})
    except ModelError:
        return
    assert TrainingCard.from_dict(card.to_dict()) == card
    json.dumps(card.to_dict(), allow_nan=False)


# --- in a run ---------------------------------------------------------------------------------------------------------

NOT_IDENTITY = ("card", "training", "path")


@pytest.fixture
def evaluated(tiny_model: Path, tmp_path: Path, home: Path) -> Callable[[Callable[[Path], None]], Run]:
    """`evaluated(change)`: the run of a copy of the tiny model, in whose folder something is changed before."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))

    def run(change: Callable[[Path], None]) -> Run:
        change(folder)
        return runner.evaluate(runner.prepare(EvalSettings(model=str(folder), tasks="mini_copa", limit=8)))

    return run


def with_cards(folder: Path) -> None:
    readme(folder, "---\nlicense: mit\n---\n")
    cards.write_training_card(folder, LEAST)


def test_cards_are_in_the_manifest_and_no_key_depends_on_them(
    evaluated: Callable[[Callable[[Path], None]], Run], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = evaluated(lambda folder: None).manifest
    carded = evaluated(with_cards).manifest
    assert carded["model"]["card"]["licence"] == "mit" and carded["model"]["training"]["stage"] == "sft"
    assert not {"card", "training"} & set(plain["model"])
    assert carded["identity"] == plain["identity"] and carded["run"] == plain["run"]
    assert {key: value for key, value in carded["model"].items() if key not in NOT_IDENTITY} == {
        key: value for key, value in plain["model"].items() if key not in NOT_IDENTITY
    }
    assert "left out" not in capsys.readouterr().err


def test_the_control_a_file_of_the_tokenizer_does_change_the_keys(
    evaluated: Callable[[Callable[[Path], None]], Run],
) -> None:
    plain = evaluated(lambda folder: None).manifest
    other = evaluated(lambda folder: edit(folder / "tokenizer_config.json", padding_side="left")).manifest
    assert other["identity"]["response"] != plain["identity"]["response"]


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_damaged_card_stops_no_evaluation(
    evaluated: Callable[[Callable[[Path], None]], Run], capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(folder: Path) -> None:
        readme(folder, "---\nlicense: [\n---\n")
        training(folder, "{")

    model = evaluated(damage).manifest["model"]
    assert not {"card", "training"} & set(model)
    err = capsys.readouterr().err
    assert err.count("left out") == 2 and "Traceback" not in err


def test_files_beside_the_weights_leave_the_fingerprint(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    before = checkpoint.find(str(folder)).fingerprint()
    with_cards(folder)
    (folder / "step-500").mkdir()
    (folder / "step-500" / "model.safetensors").write_bytes(b"")
    assert checkpoint.find(str(folder)).fingerprint() == before


def test_a_folder_of_the_hub_cache_has_its_cards(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A snapshot is a folder of links into blobs."""
    import huggingface_hub

    blobs = Path(shutil.copytree(tiny_model, tmp_path / "blobs"))
    with_cards(blobs)
    snapshot = tmp_path / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    asked: list[list[str]] = []

    def download(model: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = checkpoint.find("owner/name")
    assert set(cards.of_folder(found.path)) == {"card", "training"}
    assert {"README.md", "*.json"} <= set(asked[0])


# --- checkpoints in order ---------------------------------------------------------------------------------------------


def of_step(name: str, training: object) -> Evidence:
    model = {} if training is None else {"training": training}
    return Evidence({"name": name, "run": name, "model": model, "tasks": {}}, [], None, {})


def order(*runs: tuple[str, object]) -> list[str]:
    return [run.name for run in noise.in_order([of_step(*run) for run in runs])]


def test_checkpoints_are_sorted_by_tokens_then_step() -> None:
    names = order(
        ("final", {"tokens": 900, "step": 9}),
        ("b", {"tokens": 100, "step": 2}),
        ("c", {"tokens": 100, "step": 1}),
        ("a", {"tokens": 500}),
    )
    assert names == ["c", "b", "a", "final"]


@pytest.mark.parametrize("training", [None, {}, {"tokens": None}, {"tokens": "5"}, {"tokens": True}, [5], "x"])
def test_one_checkpoint_without_tokens_sorts_all_by_name(training: object) -> None:
    assert order(("step-10", {"tokens": 1}), ("step-9", training)) == ["step-9", "step-10"]


def test_a_lineage_links_by_what_a_manifest_calls_fingerprint(
    evaluated: Callable[[Callable[[Path], None]], Run], tmp_path: Path
) -> None:
    run = evaluated(lambda folder: None)
    found = checkpoint.find(str(tmp_path / "model"))
    assert identity.digest(found.fingerprint()) == run.manifest["model"]["fingerprint"]
