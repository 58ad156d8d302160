"""Checkpoints: what is no whole, safe model is refused in one line before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from estbench import checkpoint, identity
from estbench.errors import ModelError


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_checkpoint_is_described_without_torch(model: Path) -> None:
    found = checkpoint.find(str(model))
    assert found.name == f"{model.parent.name}/model" and found.max_length == 512 and found.has_chat_template
    assert 5_000 < found.parameters < 20_000
    assert found.bytes == os.path.getsize(model / "model.safetensors")


def truncated(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def padded(model: Path) -> None:
    with open(model / "model.safetensors", "ab") as file:
        file.write(b"\0" * 8)


def garbage(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{]" + b"x" * 50)


def tiny_file(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x02\0")


def pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def both_forms(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')


def lost_shard(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def shard_outside(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')


def header(text: str) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode())

    return spoil


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def adapter(model: Path) -> None:
    no_config(model)
    (model / "adapter_config.json").write_text("{}")


def adapter_beside(model: Path) -> None:
    (model / "adapter_config.json").write_text("{}")


def broken_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def no_model_type(model: Path) -> None:
    (model / "config.json").write_text("{}")


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "is truncated: .* bytes where its header promises"),
        (padded, "is too long"),
        (garbage, "its header is not JSON"),
        (header("[]"), "does not say where tensors are"),
        (header('{"a": 3}'), "does not say where tensors are"),
        (header('{"a": {"dtype": "F32", "shape": []}}'), "does not say where tensors are"),
        (header('{"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}}'), "does not say where tensors are"),
        (header('{"a": {"dtype": "F32", "shape": [], "data_offsets": ["x", "y"]}}'), "does not say where tensors are"),
        (tiny_file, "no whole safetensors file"),
        (pickled, "pickled weights .pytorch_model.bin., which can run code"),
        (both_forms, "has both model.safetensors and"),
        (lost_shard, "lacks model-00001-of-00002.safetensors"),
        (shard_outside, "outside the checkpoint"),
        (no_config, "no checkpoint: it has no config.json"),
        (adapter, "LoRA adapter: merge it"),
        (adapter_beside, "LoRA adapter beside the model"),
        (broken_config, "config.json can't be read"),
        (no_model_type, "no model_type"),
        (no_tokenizer, "has no tokenizer"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused_in_one_line(
    model: Path, spoil: Callable[[Path], None], message: str
) -> None:
    checkpoint.find(str(model))  # the control: it was fine before
    spoil(model)
    with pytest.raises(ModelError, match=message) as caught:
        checkpoint.find(str(model))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such/path", "demos", "./nowhere", "/nowhere"])
def test_a_name_that_is_no_model_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="There is no model"):
        checkpoint.find(name)


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(ModelError, match="no home of that user"):
        checkpoint.find("~nobody-of-that-name/model")


def test_demo_is_suggested_for_a_slip() -> None:
    with pytest.raises(ModelError, match="Did you mean 'demo"):
        checkpoint.find("demmo")


def test_a_hub_model_that_is_not_here_says_how_to_fetch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="estbench pull model=tartuNLP/Llammas-base"):
        checkpoint.find("tartuNLP/Llammas-base")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"])
def test_every_part_of_a_checkpoint_is_in_its_fingerprint(model: Path, name: str) -> None:
    before = checkpoint.find(str(model)).fingerprint()
    assert checkpoint.find(str(model)).fingerprint() == before
    file = model / name
    if name == "model.safetensors":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    elif name == "config.json":
        edit_json(file, rms_norm_eps=1e-3)
    else:
        file.write_text(file.read_text() + " ")
    after = checkpoint.find(str(model)).fingerprint()
    assert sum(before[part] != after[part] for part in before) == 1


def test_the_folder_and_version_notes_are_not_in_the_fingerprint(model: Path, tmp_path: Path) -> None:
    before = checkpoint.find(str(model)).fingerprint()
    moved = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    edit_json(moved / "config.json", _name_or_path="/somewhere", transformers_version="9")
    assert checkpoint.find(str(moved)).fingerprint() == before


def test_a_checkpoint_that_changes_while_it_is_loaded_is_refused(model: Path) -> None:
    found = checkpoint.find(str(model))
    found.fingerprint()
    found.check_unchanged()
    time.sleep(0.02)
    file = model / "model.safetensors"
    times = os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=times)
    with pytest.raises(ModelError, match="changed while it was being loaded"):
        found.check_unchanged()


def test_a_checkpoint_overwritten_in_place_has_another_fingerprint(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(identity.time, "time", lambda: now() + 60)  # old enough to be remembered
    before = checkpoint.find(str(model)).fingerprint()
    time.sleep(0.02)
    file = model / "model.safetensors"
    times = os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns
    content = bytearray(file.read_bytes())
    content[-3] ^= 5
    with open(file, "r+b") as inside:
        inside.write(content)
    os.utime(file, ns=times)
    assert checkpoint.find(str(model)).fingerprint()["weights"] != before["weights"]


def test_steps_of_a_training_run_are_named_after_their_run(model: Path, tmp_path: Path) -> None:
    step = Path(shutil.copytree(model, tmp_path / "cpt-et" / "step-2000"))
    assert checkpoint.find(str(step)).name == "cpt-et/step-2000"
