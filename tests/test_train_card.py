"""The card of a trained checkpoint: what was trained from what, and nothing that nobody knows."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_world import checkpoint, context
from estbench_leaderboard.snapshot import slug
from estbench_training import card
from estbench_training.card import CardFacts

from estbench import cards, identity
from estbench.cards import Decontaminated, Source
from estbench.checkpoint import Checkpoint
from estbench.errors import ModelError, StoreError

FACTS = CardFacts(
    kind="base",
    stage="cpt",
    tokens=4096,
    step=8,
    steps_planned=8,
    data=(Source("Eesti veeb", "cc0-1.0", 3072, 0.75), Source("owner/english-web", None, 1024, 0.25)),
    decontaminated=Decontaminated("estbench contamination", ("estcopa",), 100, 2),
    hours=0.51234,
    precision="bf16",
)


@pytest.fixture
def made(tiny_model: Path, tmp_path: Path) -> Path:
    """A checkpoint whose card is not written yet."""
    return shutil.copytree(tiny_model, tmp_path / "out" / ".model-being-made")


def fingerprint(folder: Path) -> str:
    return identity.digest(Checkpoint(folder, "x").fingerprint())


def front(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])
    return found


def test_the_card_says_what_was_trained_from_what(made: Path, tiny_model: Path, tmp_path: Path, home: Path) -> None:
    card.write(context(tmp_path, tiny_model), made, FACTS)
    found = cards.read_training_card(made)
    assert found is not None
    assert (found["name"], found["series"], found["recipe"]) == (
        "mudel-cpt",
        "mudel-cpt",
        {"name": "mudel", "hash": "ab" * 32},
    )
    start, own = found["lineage"]
    assert (start["stage"], start["name"], start["fingerprint"]) == ("base", tiny_model.name, fingerprint(tiny_model))
    assert own == {"stage": "cpt", "name": "mudel-cpt", "fingerprint": fingerprint(made), "tokens": 4096}
    assert found["hours"] == 0.5123 and found["energy_kwh"] is None
    assert found["data"][1] == {"name": "owner/english-web", "licence": None, "tokens": 1024, "share": 0.25}
    assert found["versions"]["estbench"] and "torch" in found["versions"]


def test_a_lineage_goes_on_from_stage_to_stage(made: Path, tiny_model: Path, tmp_path: Path, home: Path) -> None:
    card.write(context(tmp_path, tiny_model), made, FACTS)
    tuned = shutil.copytree(tiny_model, tmp_path / "tuned")
    card.write(context(tmp_path, made, "sft"), tuned, CardFacts("chat", "sft", tokens=10))
    found = cards.read_training_card(tuned)
    assert found is not None
    assert [(one["stage"], one["name"]) for one in found["lineage"]] == [
        ("base", tiny_model.name),
        ("cpt", "mudel-cpt"),
        ("sft", "mudel-sft"),
    ]
    assert front(tuned)["base_model"] == tiny_model.name  # and not a stage of this recipe
    assert "estbench eval model=. name=mudel-sft tasks=core" in (tuned / "README.md").read_text("utf-8")


def test_a_start_whose_card_is_of_other_weights_keeps_its_own_fingerprint(
    made: Path, tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    """A card that was copied along with changed weights does not make the lineage point to the wrong model."""
    card.write(context(tmp_path, tiny_model), made, FACTS)
    row = json.loads((made / cards.TRAINING).read_text("utf-8"))
    row["lineage"][-1]["fingerprint"] = "0" * 64
    (made / cards.TRAINING).write_text(json.dumps(row), "utf-8")
    tuned = shutil.copytree(tiny_model, tmp_path / "tuned")
    card.write(context(tmp_path, made, "sft"), tuned, CardFacts("chat", "sft"))
    found = cards.read_training_card(tuned)
    assert found is not None and found["lineage"][1]["fingerprint"] == fingerprint(made)


def test_languages_that_nobody_said_are_not_made_up(made: Path, tiny_model: Path, tmp_path: Path, home: Path) -> None:
    card.write(context(tmp_path, tiny_model), made, FACTS)
    assert "language" not in front(made)


def test_a_checkpoint_on_the_way_is_named_by_its_step(made: Path, tiny_model: Path, tmp_path: Path, home: Path) -> None:
    card.write(context(tmp_path, tiny_model), made, CardFacts("base", "cpt", final=False, step=500, steps_planned=9000))
    found = cards.read_training_card(made)
    assert found is not None
    assert (found["name"], found["series"], found["final"]) == ("mudel-cpt-step-000500", "mudel-cpt", False)
    assert "500 of 9,000" in (made / "README.md").read_text("utf-8")


def test_the_readme_has_what_the_hub_reads(made: Path, tiny_model: Path, tmp_path: Path, home: Path) -> None:
    said = {"title": "Eesti keel | <b>juurde</b>", "languages": ("et", "en")}
    card.write(context(tmp_path, tiny_model, **said), made, FACTS)
    found = front(made)
    assert (found["license"], found["language"], found["datasets"]) == (
        "apache-2.0",
        ["et", "en"],
        ["owner/english-web"],
    )
    assert found["tags"] == ["estbench", "cpt", "base"]
    assert cards.read_model_card(made) == {
        "licence": "apache-2.0",
        "base_models": [tiny_model.name],
        "languages": ["et", "en"],
    }
    text = (made / "README.md").read_text("utf-8")
    assert "| owner/english-web | unknown | 1,024 | 25.0 % |" in text
    assert "Decontaminated against the test documents of 1 task with estbench contamination: 100 looked at" in text
    assert "<b>" not in text.replace("\\<b", "")


def test_what_is_not_known_is_said_to_be_unknown_or_left_out(
    made: Path, tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    card.write(context(tmp_path, tiny_model, licence=None), made, CardFacts("base", "cpt", data=(Source("a"),)))
    text = (made / "README.md").read_text("utf-8")
    assert front(made)["license"] == "unknown"
    assert "| a | unknown | unknown | unknown |" in text
    assert "It was not decontaminated" in text
    assert not any(word in text for word in ("kWh", "hours", "precision", "None"))


def test_texts_of_manifests_are_made_to_fit(made: Path, tiny_model: Path, tmp_path: Path, home: Path) -> None:
    """A licence of three lines must not cost the model that was trained for days."""
    wild = Source("et\x1b[31m", "line\nline" + "x" * 500, 10, 1.0)
    card.write(context(tmp_path, tiny_model), made, CardFacts("base", "cpt", data=(wild, Source("\n"))))
    found = cards.read_training_card(made)
    assert found is not None
    assert [source["name"] for source in found["data"]] == ["et[31m", "unknown"]
    assert len(found["data"][0]["licence"]) == 200


def test_a_start_that_cannot_be_hashed_leaves_a_gap_and_a_line(
    made: Path, tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    start = shutil.copytree(tiny_model, tmp_path / "start")
    (start / "tokenizer.json").unlink()
    said: list[str] = []
    card.write(context(tmp_path, start, said=said), made, FACTS)
    found = cards.read_training_card(made)
    assert found is not None and found["lineage"][0]["fingerprint"] is None
    assert len(said) == 1 and "no tokenizer" in said[0]


def test_a_folder_of_the_hubs_cache_is_called_by_its_owner_and_name(
    made: Path, tiny_model: Path, tmp_path: Path
) -> None:
    start = tmp_path / "hub" / "models--meta-llama--Llama-3.1-8B" / "snapshots" / "0123abc"
    shutil.copytree(tiny_model, start)
    card.write(context(tmp_path, start), made, FACTS)
    assert front(made)["base_model"] == "meta-llama/Llama-3.1-8B"


def test_a_folder_without_weights_is_refused(made: Path, tiny_model: Path, tmp_path: Path, home: Path) -> None:
    (made / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        card.write(context(tmp_path, tiny_model), made, FACTS)
    assert not (made / cards.TRAINING).exists()


def test_a_full_disk_is_one_line(
    made: Path, tiny_model: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, card: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cards, "write_training_card", full)
    with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
        card.write(context(tmp_path, tiny_model), made, FACTS)


def test_the_board_shows_the_lineage_and_links_what_was_measured(tiny_model: Path, tmp_path: Path, home: Path) -> None:
    from board_pages import World, add, client, documents
    from database_fixtures import FakeDoc

    from estbench.database import open_database

    made = checkpoint(context(tmp_path, tiny_model), 3)
    training = cards.read_training_card(made)
    assert training is not None
    with open_database(f"sqlite:///{tmp_path / 'world.db'}") as database:
        world = World(database, tmp_path / "runs", {})
        docs: dict[str, list[FakeDoc]] = {"valik": documents()["valik"]}
        add(world, "algus", fingerprint(tiny_model), docs, form="completion")
        add(world, "samm", fingerprint(made), docs, day=2, form="completion", training=training)
        with client(database) as web:
            start, own = web.get(f"/mudel/{slug('samm', fingerprint(made))}.json").json()["lineage"]
            page = web.get(f"/en/model/{slug('samm', fingerprint(made))}").text
    assert start["url"].endswith(slug("algus", fingerprint(tiny_model)))  # by its weights: the card has another name
    assert (own["stage"], own["name"], own["tokens"]) == ("cpt", "mudel-cpt-step-000003", 3000)
    assert "Continued pretraining" in page and "eesti" in page


class Counters:
    """A stand-in for NVML with two GPUs, 5 kJ and 7 kJ."""

    used = {"0": 5_000_000, "1": 7_000_000, "GPU-b": 7_000_000}  # noqa: RUF012
    handles: list[str] = ["0", "1", "GPU-b"]  # noqa: RUF012

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        return self._handle(str(index.value), handle)

    def nvmlDeviceGetHandleByUUID(self, word: bytes, handle: Any) -> int:
        return self._handle(word.decode(), handle)

    def _handle(self, word: str, handle: Any) -> int:
        if word not in self.handles:
            return 6
        handle._obj.value = 1 + self.handles.index(word)
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, used: Any) -> int:
        used._obj.value = self.used[self.handles[(handle.value or 0) - 1]]
        return 0


@pytest.mark.parametrize(
    ("visible", "joules"),
    [(None, 12_000.0), ("1", 7000.0), ("GPU-b", 7000.0), ("", None), ("MIG-x", None), ("9", None)],
)
def test_energy_is_that_of_the_gpus_in_use_or_nothing(
    visible: str | None, joules: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Counters())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert card.energy_joules() == joules


def test_a_machine_without_counters_has_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert card.energy_joules() is None
