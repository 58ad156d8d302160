"""What is wrong is one clear line, and nothing is left; what is interrupted goes on, with the same bytes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import merge_world as world
import pytest
import torch
import yaml
from estbench_training.merge.settings import MergeSettings
from estbench_training.weights import Writer
from merge_world import Trio, make, own_home, trio, weights
from test_train_merge import chat_vector, merge

from estbench.errors import ConfigError, EstbenchError, StoreError

__all__ = ["own_home", "trio"]  # fixtures
UP = "model.layers.1.mlp.up_proj.weight"


def refused(tmp_path: Path, do: Callable[[], object]) -> EstbenchError:
    """The error of a merge into `m`, which is one line with exit code 2, and leaves no folder."""
    with pytest.raises(EstbenchError) as caught:
        do()
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists() and not (tmp_path / ".m.part").exists()
    return caught.value


def test_a_missing_shard(tmp_path: Path, trio: Trio) -> None:
    (trio[1] / "model-1.safetensors").unlink()
    assert "lacks model-1.safetensors: copy the checkpoint again" in str(
        refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio))
    )


def test_a_pickle(tmp_path: Path, trio: Trio) -> None:
    (trio[0] / "model.safetensors").rename(trio[0] / "pytorch_model.bin")
    assert "never loaded" in str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))


def test_a_truncated_file(tmp_path: Path, trio: Trio) -> None:
    os.truncate(trio[2] / "model.safetensors", 3000)
    assert "is truncated" in str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench_training.merge import work

    inner = work.Merger.run

    def cut(self: Any) -> None:
        os.truncate(trio[2] / "model.safetensors", 6000)
        inner(self)

    monkeypatch.setattr(work.Merger, "run", cut)
    assert "became shorter while it was read" in str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))


def test_a_file_that_changes_while_it_is_merged(tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench_training.merge import work

    inner = work.Merger.run

    def touched(self: Any) -> None:
        inner(self)
        os.utime(trio[0] / "model.safetensors")

    monkeypatch.setattr(work.Merger, "run", touched)
    assert "changed while it was being loaded" in str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))


def test_a_full_disk(tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, written = os.pwrite, []

    def full(descriptor: int, data: Any, at: int) -> int:
        written.append(len(data))
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return inner(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    error = refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio))
    assert isinstance(error, StoreError) and "No space left on device): make room" in str(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("role", [0, 1, 2])
def test_a_weight_that_is_no_number_is_named_with_its_file(tmp_path: Path, trio: Trio, role: int, value: float) -> None:
    tensors = weights(trio[role])
    tensors[UP][7, 3] = value
    for file in trio[role].glob("model*"):
        file.unlink()
    world.save(trio[role], tensors)
    said = str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))
    assert said.startswith(f"{trio[role] / 'model.safetensors'}: {UP} holds NaN or an infinity")


@pytest.mark.parametrize(
    "words",
    [
        {"method": "average"},
        {"method": "slerp", "t": 0.5},
        {"method": "ties", "density": 0.2},
        {"method": "dare", "drop": 0.9},
        {"method": "stock"},
        {"method": "task"},
    ],
)
def test_every_method_names_a_weight_that_is_no_number(tmp_path: Path, words: dict[str, object]) -> None:
    base, a = make(tmp_path / "base", seed=1), make(tmp_path / "a", seed=2)
    broken = weights(a)[UP]
    broken[23, 15] = float("nan")
    b = make(tmp_path / "b", seed=2, change={UP: broken})
    based = {} if words["method"] in ("average", "slerp") else {"base": base}
    said = str(refused(tmp_path, lambda: merge(tmp_path / "m", parts=f"{a},{b}", **words, **based)))
    assert said.startswith(f"{b / 'model.safetensors'}: {UP} holds NaN or an infinity")


def test_a_nan_in_a_special_row_is_named(tmp_path: Path, trio: Trio) -> None:
    name = "model.embed_tokens.weight"
    rows = weights(trio[1])[name]
    rows[3, 0] = float("nan")
    chat = make(tmp_path / "odd", seed=2, change={name: rows})
    said = str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", (trio[0], chat, trio[2]), embeddings="skip")))
    assert said.startswith(f"{chat / 'model.safetensors'}: {name} holds NaN")


def test_with_a_scale_of_zero_only_what_is_added_to_is_read(tmp_path: Path, trio: Trio) -> None:
    broken = weights(trio[0])[UP] * float("nan")
    odd = make(tmp_path / "odd", seed=2, change={UP: broken})
    assert world.same(weights(chat_vector(tmp_path / "n", (odd, odd, trio[2]), scale=0)), weights(trio[2]))
    said = str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", (trio[0], trio[1], odd), scale=0)))
    assert said.startswith(f"{odd / 'model.safetensors'}: {UP} holds NaN")


def test_a_result_that_the_type_can_not_hold(tmp_path: Path, trio: Trio) -> None:
    big = make(tmp_path / "big", seed=3, change={UP: torch.full((24, 16), 70000.0, dtype=torch.bfloat16)})
    error = refused(tmp_path, lambda: chat_vector(tmp_path / "m", (trio[0], trio[1], big), dtype="float16"))
    assert f"{UP} becomes larger than torch.float16 can hold: say dtype=float32" in str(error)


def test_large_weights_whose_sum_overflows_are_no_error(tmp_path: Path, trio: Trio) -> None:
    big = torch.full((24, 16), 3e38, dtype=torch.bfloat16)
    into = make(tmp_path / "big", seed=3, change={UP: big})
    assert torch.equal(weights(chat_vector(tmp_path / "m", (trio[0], trio[0], into)))[UP], big)


def test_models_of_other_shapes_names_or_kinds(tmp_path: Path, trio: Trio) -> None:
    base, chat, _ = trio
    wide = make(tmp_path / "wide", seed=4, change={UP: torch.zeros(25, 16, dtype=torch.bfloat16)})
    deep = make(
        tmp_path / "deep", seed=4, change={"model.layers.2.x.weight": torch.zeros(2), "model.z": torch.zeros(1)}
    )
    apertus = make(tmp_path / "other", seed=4, model_type="apertus")
    ints = make(tmp_path / "ints", seed=4, change={UP: torch.zeros(24, 16, dtype=torch.int8)})
    for into, said in {
        wide: f"{UP} is [24, 16] in base and [25, 16] in wide: they are not of one size",
        deep: "base lacks model.layers.2.x.weight and 1 more, which deep has: they are not of one family",
        apertus: "base is a llama and other a apertus: only models of one kind merge",
        ints: f"{UP} is BF16 in base and I8 in ints: save both alike",
    }.items():
        assert said in str(refused(tmp_path, lambda into=into: chat_vector(tmp_path / "m", (base, chat, into))))  # type: ignore[misc]


def test_whole_numbers_are_copied_and_have_to_agree(tmp_path: Path, trio: Trio) -> None:
    counts = torch.arange(5)
    models = [make(tmp_path / f"i{at}", seed=at, change={"model.counts": counts + (at == 3)}) for at in range(4)]
    assert torch.equal(weights(chat_vector(tmp_path / "ok", (models[0], models[1], models[2])))["model.counts"], counts)
    said = refused(tmp_path, lambda: chat_vector(tmp_path / "m", (models[0], models[3], models[2])))
    assert "model.counts holds whole numbers (I64) that differ in i3 and i2" in str(said)


def test_quantised_weights_are_refused(tmp_path: Path, trio: Trio) -> None:
    eight = make(tmp_path / "f8", seed=4, change={UP: torch.zeros(24, 16).to(torch.float8_e4m3fn)})
    said = refused(tmp_path, lambda: chat_vector(tmp_path / "m", (trio[0], trio[1], eight)))
    assert str(said) == f"f8 is quantised ({UP} is F8_E4M3): merge the model that it was made of."


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_file_beside_the_weights_is_found_before_the_work(
    tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch, file: str, text: str
) -> None:
    (trio[1] / file).write_text(text)
    monkeypatch.setattr(Writer, "__init__", lambda *_, **__: pytest.fail("it began to write"))
    assert str(trio[1] / file) in str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))


def test_an_index_that_names_nothing(tmp_path: Path, trio: Trio) -> None:
    (trio[1] / "model.safetensors.index.json").write_text("{}")
    assert "names no files" in str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))


def test_a_comma_too_many(tmp_path: Path, trio: Trio) -> None:
    words = {"method": "average", "parts": f"{trio[0]},{trio[1]},"}
    assert "a comma too many" in str(refused(tmp_path, lambda: merge(tmp_path / "m", **words)))


def test_differences_of_configurations_are_said(tmp_path: Path, trio: Trio, capsys: pytest.CaptureFixture[str]) -> None:
    long = make(tmp_path / "long", seed=3, rope_theta=500000.0)
    chat_vector(tmp_path / "m", (trio[0], trio[1], long))
    assert "base and long differ in rope_parameters of config.json: long's stay." in capsys.readouterr().err


def test_configurations_that_two_versions_of_a_library_spell_otherwise_are_the_same(
    tmp_path: Path, trio: Trio, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = {"factor": 8.0, "rope_type": "llama3", "original_max_position_embeddings": 128}
    for folder in trio:
        row = json.loads((folder / "config.json").read_text("utf-8"))
        row = {key: value for key, value in row.items() if key not in ("head_dim", "rope_parameters", "rope_theta")}
        if folder is trio[2]:
            new = {"head_dim": row["hidden_size"] // row["num_attention_heads"], "attention_bias": False}
            row |= {**new, "rope_parameters": {**scaling, "rope_theta": 5e5}, "attention_dropout": 0.0}
        else:
            row |= {"rope_theta": 5e5, "rope_scaling": scaling}
        (folder / "config.json").write_text(json.dumps(row), "utf-8")
    chat_vector(tmp_path / "m", trio)
    assert "differ" not in capsys.readouterr().err
    row["rope_parameters"]["factor"] = 4.0  # the control
    (trio[2] / "config.json").write_text(json.dumps(row), "utf-8")
    chat_vector(tmp_path / "n", trio)
    assert "differ in rope_parameters of config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"method": "chat_vector", "base": "b"}, "chat_vector needs base: and instruct:"),
        ({"method": "chat_vector", "base": "b", "instruct": "c", "parts": ["a"]}, "takes instruct:, and no parts:"),
        ({"method": "slerp", "parts": ["a", "b", "c"], "t": 0.5}, "slerp needs exactly two models, not 3"),
        ({"method": "slerp", "parts": ["a", "b"]}, "t: slerp needs it"),
        ({"method": "slerp", "parts": ["a", "b"], "t": 1.5}, "t: 1.5 has to be from 0"),
        ({"method": "slerp", "parts": ["a", "b"], "t": float("nan")}, "t: nan is no number"),
        ({"method": "slerp", "parts": ["a", "b"], "t": 0.5, "scales": {"*": -1}}, "scales, *: -1 has to be from 0"),
        ({"method": "ties", "parts": ["a"], "base": "b"}, "density: ties needs it"),
        ({"method": "ties", "parts": ["a"], "base": "b", "density": 0}, "density: 0 has to be above 0"),
        ({"method": "dare", "parts": ["a"], "base": "b", "drop": 1}, "drop: 1 has to be 0 or more and below 1"),
        ({"method": "task", "parts": ["a"]}, "base: task needs it"),
        ({"method": "task", "parts": ["a"], "base": "b", "drop": 0.5}, "drop: is for dare, not task"),
        ({"method": "average", "parts": ["a", "b"], "base": "b"}, "base: average takes none"),
        ({"method": "average", "parts": ["a", "b"], "scale": 0.5}, "scale: average has none"),
        ({"method": "average", "parts": ["a", "b"], "weights": [1]}, "weights: 1 of them for 2 models"),
        ({"method": "average", "parts": ["a", "b"], "weights": [1, -2]}, "weights: have to be 0 or more"),
        ({"method": "stock", "parts": ["a", "b"], "base": "c", "into": "d"}, "into: stock makes a model of its own"),
        ({"method": "ties", "parts": ["a"], "base": "b", "density": 1, "embeddings": "by_token"}, "is for chat_vector"),
        ({"method": "task", "parts": ["a"], "base": "b", "scale": 1e39}, "scale: 1e+39 has to be from -1000 to 1000"),
        ({"method": "magic"}, "is not one of chat_vector, task"),
    ],
)
def test_what_can_not_be_meant_is_refused(row: dict[str, Any], said: str) -> None:
    from estbench_training.reading import parse

    with pytest.raises(ConfigError) as caught:
        parse(MergeSettings, row, "stage merge")
    assert said in str(caught.value)


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path, trio: Trio) -> None:
    error = refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio, "scales.*.ffn.*=0.5"))
    assert "scales: '*.ffn.*' matches no tensor; they are called lm_head.weight, " in str(error)


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path, trio: Trio) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already, and is not this merge"):
        chat_vector(tmp_path / "m", trio)
    assert (tmp_path / "m" / "thesis.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="is no folder"):
        chat_vector(tmp_path / "no" / "m", trio)


KILLED = """
import os, signal, sys
from estbench import config
from estbench_training.merge import command
from estbench_training.weights import writing
writing.SYNC_BYTES = 1
inner, done = writing.Writer.finished, []
def finished(self, name):
    inner(self, name)
    done.append(name)
    if len(done) == 9:
        self._flusher.submit(lambda: None).result()  # what was finished is noted
        os.kill(os.getpid(), signal.SIGKILL)
writing.Writer.finished = finished
command.run(config.read(sys.argv[1:], command.MergeCommandSettings))
"""


def test_a_killed_merge_goes_on_with_the_same_bytes(
    tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training.weights import Writer

    whole = chat_vector(tmp_path / "whole", trio)
    words = ["method=chat_vector", f"base={trio[0]}", f"instruct={trio[1]}", f"into={trio[2]}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", KILLED, *words, f"output={tmp_path / 'm'}"], env=environment)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / ".m.part").is_dir() and not (tmp_path / "m").exists()
    written: list[str] = []
    inner = Writer.finished

    def finished(self: Writer, name: str) -> None:
        written.append(name)
        inner(self, name)

    monkeypatch.setattr(Writer, "finished", finished)
    made = chat_vector(tmp_path / "m", trio)
    assert len(written) == len(weights(whole)) - 9
    assert (made / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / ".m.part").exists()


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    from estbench_training.weights import Writer

    def stop(self: Writer, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "finished", stop)
        with pytest.raises(KeyboardInterrupt):
            chat_vector(tmp_path / "m", trio)
    assert (tmp_path / ".m.part").is_dir() and not (tmp_path / "m").exists()
    chat_vector(tmp_path / "m", trio, scale=0.5)  # another merge begins anew
    assert not (tmp_path / ".m.part").exists()


def test_a_stage_merges_and_is_done_once(tmp_path: Path, trio: Trio) -> None:
    from estbench_training import recipe, stages

    stage = {"name": "chat", "kind": "merge", "method": "chat_vector", "base": str(trio[0]), "instruct": str(trio[1])}
    mean = {"name": "mean", "kind": "merge", "method": "average", "parts": ["chat", str(trio[2])], "shard_gb": 2e-6}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "base": str(trio[2]), "stages": [stage, mean]}, sort_keys=False))
    chat, last = stages.run(recipe.load(path), tmp_path / "out", lambda line: None)
    plain = weights(chat_vector(tmp_path / "m", trio))
    assert world.same(weights(chat.folder / "model"), plain)
    expected = {name: ((one.float() + weights(trio[2])[name].float()) / 2).bfloat16() for name, one in plain.items()}
    assert world.same(weights(last.folder / "model"), expected)
    assert len(list((last.folder / "model").glob("model-*.safetensors"))) > 1
    said: list[str] = []
    stages.run(recipe.load(path), tmp_path / "out", said.append)
    assert all("done before" in line for line in said) and len(said) == 2


def test_a_merge_that_names_all_its_models_needs_no_other(tmp_path: Path, trio: Trio) -> None:
    """Neither a base nor the stage before it, which would run and be in its key."""
    from estbench_training import recipe, stages

    mean = {"kind": "merge", "method": "average", "parts": [str(trio[0]), str(trio[2])]}
    vector = {"kind": "merge", "method": "chat_vector", "base": str(trio[0]), "instruct": str(trio[1])}
    rows = [{"name": "mean", **mean}, {"name": "other", **mean}, {"name": "chat", **vector, "into": str(trio[2])}]
    made = recipe.from_row({"name": "tiny", "stages": rows}, tmp_path)
    assert stages.closure(made, ["other"]) == {"other"} and stages.closure(made, ["chat"]) == {"chat"}
    first, other, chat = stages.run(made, tmp_path / "out", lambda line: None)
    assert first.model is other.model is chat.model is None and first.made_of["models"] == other.made_of["models"]
    assert stages.closure(
        recipe.from_row({"name": "t", "stages": [*rows, {"name": "last", **vector}]}, tmp_path), ["last"]
    ) == {"chat", "last"}


def test_the_order_of_patterns_belongs_to_the_key(tmp_path: Path, trio: Trio) -> None:
    from estbench_training import recipe, stages

    keys = []
    for scales in ({"*.mlp.*": 0.5, "*.up*": 0.1}, {"*.up*": 0.1, "*.mlp.*": 0.5}):
        row = {"name": "chat", "kind": "merge", "method": "chat_vector", "base": str(trio[0]), "instruct": str(trio[1])}
        path = tmp_path / "recipe.yaml"
        path.write_text(
            yaml.safe_dump({"name": "t", "base": str(trio[2]), "stages": [row | {"scales": scales}]}, sort_keys=False)
        )
        keys.append(stages.chain(recipe.load(path), tmp_path / "out")[0].key)
    assert keys[0] != keys[1]
