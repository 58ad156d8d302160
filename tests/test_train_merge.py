"""Chat vectors: exact where the arithmetic has an exact answer; the same bytes however models are cut into files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import merge_world as world
import pytest
import torch
from estbench_training import card
from estbench_training.merge import command, methods, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_world import bits, make, own_home, same, trio, weights

from estbench import cards, config

__all__ = ["own_home", "trio"]  # fixtures
UP = "model.layers.1.mlp.up_proj.weight"
KINDS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def merge(place: Path, *words: str, **keys: object) -> Path:
    """What `estbench merge` makes in a folder."""
    given_words = [*words, *(f"{key}={value}" for key, value in keys.items()), f"output={place}"]
    assert command.run(config.read(given_words, command.MergeCommandSettings)) == 0
    return place


def chat_vector(place: Path, trio: tuple[Path, Path, Path], *words: str, **keys: object) -> Path:
    base, chat, into = trio
    return merge(place, *words, method="chat_vector", base=base, instruct=chat, into=into, **keys)


def exact(base: torch.Tensor, chat: torch.Tensor, into: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    found = into.double() + scale * (chat.double() - base.double())
    return found.to(into.dtype)


def test_the_chat_vector_is_added_and_rounded_once(tmp_path: Path, trio: tuple[Path, Path, Path]) -> None:
    base, chat, into = map(weights, trio)
    for scale in (1.0, 0.25, -0.5):  # of others the product is rounded, too
        made = weights(chat_vector(tmp_path / f"m{scale}", trio, scale=scale))
        assert made.keys() == into.keys()
        for name in made.keys() - {"model.embed_tokens.weight", "lm_head.weight"}:
            assert torch.equal(made[name], exact(base[name], chat[name], into[name], scale)), name


def test_a_base_that_is_also_what_is_added_to_gives_the_chat_model_bit_for_bit(
    tmp_path: Path, trio: tuple[Path, Path, Path]
) -> None:
    odd = torch.tensor([-0.0, 0.0, 1e-40, -1e-40, 3e38, 1e-30, -1.0, 2.0**-133] * 48, dtype=torch.bfloat16).view(24, 16)
    base = make(tmp_path / "b", seed=4, change={UP: odd})
    chat = make(tmp_path / "c", seed=5, change={UP: odd.flip(0, 1)}, template=world.TEMPLATE)
    made = weights(chat_vector(tmp_path / "m", (base, chat, base)))
    assert same(made, weights(chat))
    plain = odd.float() + (odd.flip(0, 1).float() - odd.float())  # without care it is not
    assert not torch.equal(bits(plain.bfloat16()), bits(odd.flip(0, 1)))


def test_a_scale_of_zero_gives_the_model_that_is_added_to_with_nothing_of_the_chat_model(
    tmp_path: Path, trio: tuple[Path, Path, Path]
) -> None:
    made = chat_vector(tmp_path / "m", trio, scale=0)
    assert same(weights(made), weights(trio[2]))
    assert not (made / "chat_template.jinja").exists()
    patterns = chat_vector(tmp_path / "n", trio, "scales.*=0")
    assert same(weights(patterns), weights(trio[2]))


def test_a_chat_model_that_is_its_base_changes_nothing(tmp_path: Path, trio: tuple[Path, Path, Path]) -> None:
    into = make(tmp_path / "z", seed=6, change={UP: torch.full((24, 16), -0.0, dtype=torch.bfloat16)})
    for scale in (1.0, -2.0):
        made = chat_vector(tmp_path / f"m{scale}", (trio[0], trio[0], into), special_tokens="add", scale=scale)
        assert same(weights(made), weights(into))


@pytest.mark.parametrize("kind", KINDS)
def test_all_types_are_exact_where_it_matters(tmp_path: Path, kind: torch.dtype) -> None:
    base, chat = make(tmp_path / "b", seed=1, dtype=kind), make(tmp_path / "c", seed=2, dtype=kind)
    into = make(tmp_path / "e", seed=3, dtype=kind)
    assert same(weights(chat_vector(tmp_path / "m", (base, chat, base))), weights(chat))
    made = weights(chat_vector(tmp_path / "n", (base, chat, into)))[UP]
    assert made.dtype == kind
    assert torch.equal(made, exact(*(weights(one)[UP] for one in (base, chat, into))))


def test_types_may_differ_and_the_result_has_that_of_the_model_that_is_added_to(tmp_path: Path) -> None:
    base, chat = make(tmp_path / "b", seed=1), make(tmp_path / "c", seed=2)
    into = make(tmp_path / "e", like=base, seed=1, change={n: t.float() for n, t in weights(base).items()})
    made = chat_vector(tmp_path / "m", (base, chat, into))
    assert same(weights(made), {name: tensor.float() for name, tensor in weights(chat).items()})
    assert json.loads((made / "config.json").read_text())["dtype"] == "float32"
    half = weights(chat_vector(tmp_path / "n", (base, chat, into), dtype="float16"))
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 2**16 - 1)] * 3), min_size=1, max_size=40), st.sampled_from([1.0, 0.5, -1.0])
)
def test_any_bit_patterns_keep_the_two_identities(rows: list[tuple[int, int, int]], scale: float) -> None:
    def of(values: list[int]) -> torch.Tensor:
        raw = torch.tensor([value - 2**16 if value >= 2**15 else value for value in values], dtype=torch.int16)
        made = raw.view(torch.bfloat16)
        return torch.where(torch.isfinite(made), made, torch.zeros_like(made))

    into, base, chat = (of([row[at] for row in rows]) for at in range(3))

    def merged(into: torch.Tensor, base: torch.Tensor, chat: torch.Tensor) -> torch.Tensor:
        found = into.float()
        methods.add_difference_(found, base.float(), chat.float(), scale)
        rounded = found.bfloat16()
        if scale == 1:
            methods.take_where_equal_(rounded, into, base, chat)
        return rounded

    assert torch.equal(bits(merged(into, base, base)), bits(into))
    if scale == 1:
        assert torch.equal(bits(merged(base, base, chat)), bits(chat))
        mixed = torch.where(torch.arange(len(rows)) % 2 == 0, base, into)
        chosen = bits(mixed).view(-1, 2).eq(bits(base).view(-1, 2)).all(1)
        assert torch.equal(merged(mixed, base, chat)[chosen].view(torch.int16), chat[chosen].view(torch.int16))


def test_the_bytes_do_not_depend_on_files_slices_or_threads(
    tmp_path: Path, trio: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = [make(tmp_path / f"s{at}", like=one, seed=at, shards=3) for at, one in enumerate(trio)]
    plain = weights(chat_vector(tmp_path / "m", trio))
    for threads in (1, 5):
        assert same(weights(chat_vector(tmp_path / f"t{threads}", (cut[0], cut[1], cut[2]), threads=threads)), plain)
    words = {"method": "dare", "base": trio[0], "parts": f"{trio[1]},{trio[2]}", "drop": 0.5}
    dropped = weights(merge(tmp_path / "d", **words))
    monkeypatch.setattr(stream, "SLICE", 40)
    assert same(weights(merge(tmp_path / "d40", **words)), dropped)
    assert same(weights(chat_vector(tmp_path / "m40", trio)), plain)


def test_patterns_have_their_own_scale_and_the_last_that_matches_counts(
    tmp_path: Path, trio: tuple[Path, Path, Path]
) -> None:
    made = weights(chat_vector(tmp_path / "m", trio, "scales.*.mlp.*=0.5", "scales.*.1.mlp.up*=0", scale=0.8))
    base, chat, into = map(weights, trio)
    for name, scale in {UP: 0.0, UP.replace(".1.", ".0."): 0.5, "model.norm.weight": 0.8}.items():
        assert torch.equal(made[name], exact(base[name], chat[name], into[name], scale)), name


def test_config_generation_tokenizer_and_template_are_those_of_a_chat_model(
    tmp_path: Path, trio: tuple[Path, Path, Path]
) -> None:
    made = chat_vector(tmp_path / "m", trio)
    _, chat, into = trio
    assert json.loads((made / "config.json").read_text()) == json.loads((into / "config.json").read_text())
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        mine, theirs = ((folder / name).read_text() for folder in (made, chat))
        assert (json.loads(mine) == json.loads(theirs)) if name.endswith("json") else mine == theirs


def test_the_record_and_the_card_say_what_went_in(tmp_path: Path, trio: tuple[Path, Path, Path]) -> None:
    import hashlib

    made = chat_vector(tmp_path / "m", trio, scale=0.5)
    row = json.loads((made / "merge.json").read_text())
    assert [model["role"] for model in row["models"]] == ["into", "base", "instruct"]
    for model, folder in zip(row["models"], (trio[2], trio[0], trio[1]), strict=True):
        for file, value in model["files"].items():
            assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == value
    assert row["settings"]["scale"] == 0.5
    found = cards.TrainingCard.from_dict(cards.read_training_card(made))
    assert (found.name, found.kind, found.stage) == ("m", "chat", "merge")
    assert [stage.name for stage in found.lineage] == ["et", "m"]
    assert [stage.name for stage in found.parents] == ["base", "chat"]
    assert all(stage.fingerprint for stage in (*found.lineage, *found.parents))
    said = (made / "README.md").read_text()
    assert "Other models in it" in said and card.UNKNOWN in said
    assert f"| base | {card.OUTSIDE} | base |" in said and f"| instruct | {card.OUTSIDE} | chat |" in said
    twice = chat_vector(tmp_path / "n", (trio[0], trio[0], trio[2]))
    assert f"| base, instruct | {card.OUTSIDE} | base |" in (twice / "README.md").read_text()


def test_the_record_has_no_path_of_whose_machine_it_was(tmp_path: Path, trio: tuple[Path, Path, Path]) -> None:
    made = chat_vector(tmp_path / "m", trio)
    others = merge(tmp_path / "n", method="ties", base=trio[0], parts=f"{trio[1]},{trio[2]}", density=0.5)
    for place in (made, others):
        assert str(tmp_path) not in (place / "merge.json").read_text() + (place / "README.md").read_text()
    assert json.loads((others / "merge.json").read_text())["settings"]["parts"] == ["chat", "et"]


def test_a_base_that_the_chat_models_card_does_not_know_is_said(
    tmp_path: Path, trio: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base, chat, into = trio
    made = chat_vector(tmp_path / "tuned", trio)  # its card knows what it was made of: et
    capsys.readouterr()
    chat_vector(tmp_path / "right", (into, made, base))
    assert "is that its base" not in capsys.readouterr().err
    chat_vector(tmp_path / "wrong", (base, made, into))
    assert "tuned was made of et, by its card, and not of base: is that its base?" in capsys.readouterr().err
    chat_vector(tmp_path / "unknown", (into, chat, base))  # the control: without a card nobody knows
    assert "is that its base" not in capsys.readouterr().err


def test_a_chat_vector_that_is_nothing_is_said(
    tmp_path: Path, trio: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base, chat, into = trio
    chat_vector(tmp_path / "m", (base, shutil.copytree(base, tmp_path / "again"), into))
    assert "again has the very weights of its base, base: nothing is added of it." in capsys.readouterr().err
    chat_vector(tmp_path / "n", (base, chat, into))
    assert "very weights" not in capsys.readouterr().err


def test_a_done_merge_is_not_made_again_and_another_one_is_refused(
    tmp_path: Path, trio: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = chat_vector(tmp_path / "m", trio)
    seen = (place / "model.safetensors").stat().st_mtime_ns
    chat_vector(place, trio)
    assert "done before" in capsys.readouterr().err and (place / "model.safetensors").stat().st_mtime_ns == seen
    from estbench.errors import ConfigError

    with pytest.raises(ConfigError, match="is not this merge"):
        chat_vector(place, trio, scale=0.5)
    record = (place / "merge.json").read_text()
    (place / "merge.json").write_text(json.dumps(json.loads(record) | {"settings": {"method": "slerp"}}))
    with pytest.raises(ConfigError, match="is not this merge"):  # and not what is wrong with the record
        chat_vector(place, trio)
    (place / "merge.json").write_text(record)
    os.utime(trio[0] / "model.safetensors")  # the same bytes, copied
    chat_vector(place, trio)
    (trio[0] / "model.safetensors").rename(tmp_path / "aside")  # two models in each other's place
    (trio[2] / "model.safetensors").rename(trio[0] / "model.safetensors")
    (tmp_path / "aside").rename(trio[2] / "model.safetensors")
    with pytest.raises(ConfigError, match="is not this merge"):
        chat_vector(place, trio)
    changed = weights(trio[0])
    changed[UP] = changed[UP] + 1
    world.save(trio[0], changed)
    with pytest.raises(ConfigError, match="is not this merge"):
        chat_vector(place, trio)


MEMORY = """
import re, sys
from pathlib import Path
from estbench import config
from estbench_training.merge import combine, command, work

def memory(kind):  # ru_maxrss would begin with that of the process that started this one
    return int(re.search(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

before = memory("VmRSS")
command.run(config.read(sys.argv[1:], command.MergeCommandSettings))
print(memory("VmHWM") - before)
"""


def test_memory_is_that_of_slices_and_not_of_tensors(tmp_path: Path) -> None:
    size = 32 << 20  # elements: 67 MB of bf16 in each model, 134 MB in fp32
    models = {}
    for at, role in enumerate(("base", "instruct", "into")):
        big = torch.full((size // world.WIDTH, world.WIDTH), 0.5 + at / 8, dtype=torch.bfloat16)
        models[role] = make(tmp_path / role, seed=at, change={"model.layers.0.mlp.big.weight": big})
    words = ["method=chat_vector", *(f"{role}={folder}" for role, folder in models.items()), f"output={tmp_path / 'm'}"]
    words.append("threads=2")
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, *words], capture_output=True, text=True, check=True, env=_paths()
    )
    used = int(ran.stdout.split()[-1])
    assert used < 60e6, f"{used / 1e6:.0f} MB"
    made = weights(tmp_path / "m")["model.layers.0.mlp.big.weight"]
    assert (made == 0.5 + 2 / 8 + 1 / 8).all()


def _paths() -> dict[str, Any]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
