"""Models as they are found: odd tensors, files beside the weights, folders by other names, two who write at once."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import merge_world as world
import pytest
import torch
from estbench_training.merge import stream
from merge_world import SPECIAL, Trio, make, own_home, same, trio, weights
from test_train_merge import chat_vector, exact, merge
from test_train_merge_faults import refused

from estbench.errors import ConfigError, ModelError, StoreError

__all__ = ["own_home", "trio"]  # fixtures
UP, HEAD = "model.layers.1.mlp.up_proj.weight", "lm_head.weight"
CHATML = ["<|im_start|>", "<|im_end|>"]


def three(tmp_path: Path, change: dict[str, torch.Tensor], **config: object) -> Trio:
    """base, instruct, into with more tensors."""
    found = [make(tmp_path / f"odd-{at}", seed=at, change=change, **config) for at in range(3)]
    return found[0], found[1], found[2]


def row(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text("utf-8"))
    return found


# --- tensors ---


@pytest.mark.parametrize(
    "words",
    [
        {"method": "average"},
        {"method": "slerp", "t": 0.5},
        {"method": "ties", "density": 0.2},
        {"method": "dare", "drop": 0.5},
        {"method": "stock"},
        {"method": "task"},
        {"method": "chat_vector"},
    ],
)
def test_scalars_empty_tensors_and_truth_values_go_through_every_method(
    tmp_path: Path, words: dict[str, object]
) -> None:
    odd = {
        "model.õ.scalar": torch.tensor(2.5),
        "model.[0]*.empty": torch.zeros(0, 4, dtype=torch.bfloat16),
        "model.wide": torch.zeros(3, 0),
        "model.mask": torch.tensor([True, False]),
        "model.steps": torch.tensor(7),
        "model.zero": torch.zeros(9),
        "model.double": torch.full((3,), 1e-9, dtype=torch.float64),
    }
    base, one, two = three(tmp_path, odd)
    models = {"base": base, "instruct": one, "into": two} if words["method"] == "chat_vector" else {}
    if not models:
        models = {"parts": f"{one},{two}"} | ({} if words["method"] in ("average", "slerp") else {"base": base})
    made = weights(merge(tmp_path / "m", **words, **models))
    assert all(torch.equal(made[name], tensor) and made[name].dtype == tensor.dtype for name, tensor in odd.items())


def test_weights_of_32_bits_are_rounded_once_to_16(tmp_path: Path) -> None:
    """torch goes from fp64 to bf16 by way of fp32: what is just above the middle would become it, and fall."""
    first = torch.full((24, 16), 1 + 2**-8, dtype=torch.float32)
    second = first.nextafter(torch.tensor(2.0))
    parts = [make(tmp_path / f"p{at}", dtype=torch.float32, change={UP: w}) for at, w in enumerate((first, second))]
    words = {"method": "average", "parts": f"{parts[0]},{parts[1]}", "weights": "3,1"}
    assert 0.75 * first.double()[0, 0] + 0.25 * second.double()[0, 0] > 1 + 2**-8
    assert (weights(merge(tmp_path / "m", dtype="bfloat16", **words))[UP] == 1 + 2**-7).all()


def test_a_bias_of_the_head_has_a_number_for_each_token(tmp_path: Path) -> None:
    bias = "lm_head.bias"
    base = make(tmp_path / "b", seed=1, change={bias: torch.arange(40.0)})
    chat = make(tmp_path / "c", seed=2, added=CHATML, template="t", change={bias: torch.arange(42.0) * 10})
    new = [*SPECIAL, *(f"w{at}" for at in reversed(range(36)))]  # as many, in another order
    into = make(tmp_path / "e", seed=3, words=new, change={bias: torch.zeros(40)})
    made = weights(chat_vector(tmp_path / "m", (base, chat, into), embeddings="by_token"))
    expected = torch.tensor([0, 9, 18, 30, *(9.0 * at for at in reversed(range(4, 40))), 400, 410])
    assert torch.equal(made[bias], expected)  # <|user|>, 30, is the chat model's
    skipped = weights(chat_vector(tmp_path / "n", (base, chat, into), embeddings="skip"))
    assert torch.equal(skipped[bias], torch.tensor([0, 0, 0, 30, *[0.0] * 36, 400, 410]))


def test_frequencies_that_older_llamas_stored_are_left_out(tmp_path: Path, trio: Trio) -> None:
    """Transformers makes them from config.json, and newer versions no longer store them: a family may have both."""
    stored = {f"model.layers.{at}.self_attn.rotary_emb.inv_freq": torch.arange(4.0) for at in range(2)}
    old = make(tmp_path / "old", like=trio[0], change=stored)
    plain = weights(chat_vector(tmp_path / "m", trio))
    assert same(weights(chat_vector(tmp_path / "n", (old, trio[1], trio[2]))), plain)
    assert same(
        weights(chat_vector(tmp_path / "k", (trio[0], trio[1], make(tmp_path / "z", like=trio[2], change=stored)))),
        plain,
    )


def test_a_quantised_model_is_named_by_its_configuration_too(tmp_path: Path, trio: Trio) -> None:
    four = make(
        tmp_path / "four", seed=2, change={"model.layers.0.mlp.up_proj.qweight": torch.zeros(2, 2, dtype=torch.int32)},
        quantization_config={"quant_method": "gptq"},
    )  # fmt: skip
    said = str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", (trio[0], four, trio[2]))))
    assert said == "four is quantised (config.json has a quantization_config): merge the model that it was made of."


def test_a_tensor_that_two_shards_have_is_named(tmp_path: Path, trio: Trio) -> None:
    twice = make(tmp_path / "twice", seed=3, shards=2)
    from safetensors.torch import load_file, save_file

    tensors = load_file(twice / "model-1.safetensors")
    save_file(tensors | {HEAD: torch.zeros(40, 16)}, twice / "model-1.safetensors")
    save_file(load_file(twice / "model-0.safetensors") | {HEAD: torch.zeros(40, 16)}, twice / "model-0.safetensors")
    said = str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", (trio[0], trio[1], twice))))
    assert f"both have {HEAD}: keep one of them" in said


@pytest.mark.parametrize("method", ["average", "slerp", "stock", "ties"])
def test_the_cure_for_vocabularies_that_differ_is_one_that_the_method_takes(tmp_path: Path, method: str) -> None:
    base, more = make(tmp_path / "a", seed=1), make(tmp_path / "c", seed=2, added=CHATML)
    other = make(tmp_path / "b", seed=3, words=[*SPECIAL, *(f"x{at}" for at in range(36))])
    given: dict[str, object] = {"slerp": {"t": 0.5}, "ties": {"density": 0.5}}.get(method, {})
    given |= {"base": base} if method in ("stock", "ties") else {}
    for part in (more, other):
        said = str(
            refused(tmp_path, lambda part=part: merge(tmp_path / "m", method=method, parts=f"{base},{part}", **given))
        )  # type: ignore[misc]
        assert "by_token" not in said
        cure = "embeddings=skip leaves the rows" if method == "ties" else f"{method} is for models of one vocabulary"
        assert cure in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": None}, "its header says too little of model.norm.weight"),
        ({"shape": None}, "its header says too little of model.norm.weight"),
        ({"shape": 16}, "its header says too little of model.norm.weight"),
        ({"shape": [-4, -4]}, "model.norm.weight has a size of [-4, -4] at"),
        ({"shape": [16.0]}, "model.norm.weight has a size of [16.0] at"),
        ({"shape": "16"}, "model.norm.weight has a size of ['1', '6'] at"),
        ({"shape": [True, 16]}, "model.norm.weight has a size of [True, 16] at"),
        ({"dtype": ["BF16"]}, "model.norm.weight is of type ['BF16'], which can't be computed with"),
        ({"dtype": "F8_E8M0"}, "model.norm.weight is of type F8_E8M0, which can't be computed with"),
    ],
)
def test_a_header_that_is_damaged_is_one_line(tmp_path: Path, trio: Trio, change: dict[str, object], said: str) -> None:
    path = trio[2] / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    changed = header["model.norm.weight"] | change
    header["model.norm.weight"] = {name: value for name, value in changed.items() if value is not None}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert said in str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))


def test_an_infinity_that_two_models_share_is_named_also_where_their_types_differ(tmp_path: Path, trio: Trio) -> None:
    broken = weights(trio[0])[UP]
    broken[3, 5] = float("inf")
    base = make(tmp_path / "b", like=trio[0], change={UP: broken.float()})
    into = make(tmp_path / "e", like=trio[2], change={UP: broken})
    said = str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", (base, trio[1], into))))
    assert said.startswith(f"{into / 'model.safetensors'}: {UP} holds NaN or an infinity")


# --- files beside the weights ---


def test_a_chat_model_without_generation_config_ends_where_its_config_says(tmp_path: Path) -> None:
    """Generation reads generation_config.json first: with the base's end of text alone it would never stop."""
    base, chat = make(tmp_path / "b", seed=1), make(tmp_path / "c", seed=2, eos_token_id=[2, 3])
    (chat / "chat_template.jinja").write_text(world.TEMPLATE)
    into = make(tmp_path / "e", seed=3)
    (into / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "temperature": 0.7}))
    made = chat_vector(tmp_path / "m", (base, chat, into))
    assert row(made / "config.json")["eos_token_id"] == [2, 3]
    assert row(made / "generation_config.json") == {
        "eos_token_id": [2, 3], "temperature": 0.7, "bos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    kept = chat_vector(tmp_path / "n", (base, chat, into), scale=0)
    assert row(kept / "generation_config.json") == {"eos_token_id": 2, "temperature": 0.7}


def test_what_a_language_is_added_to_keeps_its_template_if_the_language_model_has_none(tmp_path: Path) -> None:
    """A base model's learning in a chat model: `into` is the one that can be talked with."""
    base, et = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3, eos_token_id=1)
    chat = make(tmp_path / "c", seed=2, template=world.TEMPLATE, eos_token_id=[2, 3])
    made = merge(tmp_path / "m", method="task", base=base, parts=et, into=chat)
    assert (made / "chat_template.jinja").read_text() == world.TEMPLATE
    assert row(made / "config.json")["eos_token_id"] == [2, 3]
    assert row(made / "generation_config.json") == row(chat / "generation_config.json")
    mean = merge(tmp_path / "n", method="average", parts=f"{et},{chat}")
    assert (mean / "chat_template.jinja").read_text() == world.TEMPLATE
    assert row(mean / "train_card.json")["kind"] == "chat"


def test_tokens_are_appended_also_of_a_chat_model_without_a_template(tmp_path: Path) -> None:
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3, template=world.TEMPLATE)
    chat = make(tmp_path / "c", seed=2, added=CHATML)
    made = chat_vector(tmp_path / "m", (base, chat, into), embeddings="by_token")
    from tokenizers import Tokenizer

    assert Tokenizer.from_file(str(made / "tokenizer.json")).token_to_id("<|im_end|>") == 41
    plain = make(tmp_path / "p", seed=2)
    kept = chat_vector(tmp_path / "n", (base, plain, into))
    assert (kept / "chat_template.jinja").read_text() == world.TEMPLATE


def test_a_template_that_names_tokens_which_are_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3)
    chat = make(tmp_path / "c", seed=2, added=CHATML, template="<|im_start|>{{ messages }}")
    (chat / "generation_config.json").unlink()
    merge(tmp_path / "m", method="task", base=base, parts=chat, into=into, embeddings="skip")
    assert "The chat template of c names '<|im_start|>', which e lacks: they will be read" in capsys.readouterr().err
    chat_vector(tmp_path / "n", (base, chat, into), embeddings="skip")  # appends it
    assert "The chat template" not in capsys.readouterr().err


def test_a_configuration_inside_the_configuration_follows_and_the_inputs_own_stays(tmp_path: Path) -> None:
    from estbench_training.merge import command

    nested = {"vocab_size": 40, "torch_dtype": "bfloat16", "eos_token_id": 2, "hidden_size": 16}
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3, text_config=nested)
    chat = make(tmp_path / "c", seed=2, added=CHATML, template="t", eos_token_id=41)
    settings = command.MergeSettings(
        "chat_vector", base=str(base), instruct=str(chat), into=str(into), embeddings="by_token", dtype="float32"
    )
    known = command.find_models(settings)
    command.make(settings, tmp_path / "m", 1, None, known)
    made = row(tmp_path / "m" / "config.json")
    assert made["dtype"] == "float32" and made["vocab_size"] == 42
    assert made["text_config"] == nested | {"vocab_size": 42, "torch_dtype": "float32", "eos_token_id": 41}
    assert known[str(into)].config["text_config"] == nested  # of a sweep it is read again


def test_appended_tokens_stand_in_added_tokens_json_where_there_is_one(tmp_path: Path) -> None:
    base, into = make(tmp_path / "b", seed=1), make(tmp_path / "e", seed=3)
    (into / "added_tokens.json").write_text(json.dumps({"<|user|>": 3}))
    chat = make(tmp_path / "c", seed=2, added=CHATML, template="t")
    made = chat_vector(tmp_path / "m", (base, chat, into), embeddings="by_token")
    assert row(made / "added_tokens.json") == {"<|user|>": 3, "<|im_start|>": 40, "<|im_end|>": 41}


def test_a_chat_template_that_is_no_text_is_found_before_the_work(tmp_path: Path, trio: Trio) -> None:
    (trio[1] / "chat_template.jinja").write_bytes(b"\xff\xfe")
    said = str(refused(tmp_path, lambda: chat_vector(tmp_path / "m", trio)))
    assert said.startswith(f"{trio[1] / 'chat_template.jinja'} can't be read: 'utf-8' codec")


# --- folders ---


@pytest.mark.parametrize("name", ["~nobody-of-that-name/m", "m" * 300, "m" * 251, "õ" * 126])
def test_an_output_that_can_be_no_folder_is_refused_before_the_work(tmp_path: Path, trio: Trio, name: str) -> None:
    with pytest.raises(ConfigError, match="can be no folder"):
        chat_vector(Path(name) if name.startswith("~") else tmp_path / name, trio)


def test_an_output_that_is_a_link_to_nothing_is_refused_before_the_work(tmp_path: Path, trio: Trio) -> None:
    (tmp_path / "m").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="is there already"):
        chat_vector(tmp_path / "m", trio)


def test_names_that_cards_can_not_hold_cost_no_merge(tmp_path: Path, trio: Trio) -> None:
    for name in ("a\nb\x1b[31m", "m" * 230, "mõte [*] Šž"):
        made = chat_vector(tmp_path / name, trio)
        assert row(made / "train_card.json")["name"] == "".join(sign for sign in name if sign.isprintable())[:200]


def test_a_merge_may_lie_in_one_of_its_models_and_models_may_be_links(tmp_path: Path, trio: Trio) -> None:
    plain = chat_vector(tmp_path / "m", trio)
    (tmp_path / "link").symlink_to(trio[2])
    files = tmp_path / "files"
    files.mkdir()
    for file in trio[1].iterdir():  # as the Hub's cache has them
        (files / file.name).symlink_to(file)
    inside = chat_vector(trio[2] / "m", (trio[0], files, tmp_path / "link"))
    assert (inside / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert not (inside / "chat_template.jinja").is_symlink()


def test_the_same_models_by_other_names_are_the_same_merge(
    tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = chat_vector(tmp_path / "m", trio)
    monkeypatch.chdir(tmp_path)
    merge(made, method="chat_vector", base="base/", instruct="./chat", into="et")
    assert "done before" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is not this merge"):
        merge(made, method="chat_vector", base="et", instruct="chat", into="base")


def test_a_merge_that_was_damaged_since_is_not_called_done(tmp_path: Path, trio: Trio) -> None:
    made = chat_vector(tmp_path / "m", trio)
    chat_vector(made, trio)  # the control: it is done
    whole = (made / "model.safetensors").read_bytes()
    (made / "model.safetensors").write_bytes(whole[:-4] + b"xyzw")
    with pytest.raises(ModelError, match="was this merge, and is damaged or changed: remove it to merge again"):
        chat_vector(made, trio)
    os.truncate(made / "model.safetensors", 5000)
    with pytest.raises(ModelError, match=r"is damaged or changed \(.*is truncated\): remove it"):
        chat_vector(made, trio)
    (made / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"is damaged or changed \(.*lacks model\.safetensors\): remove it"):
        chat_vector(made, trio)


def test_an_input_is_not_called_a_thing_to_remove(tmp_path: Path, trio: Trio) -> None:
    before = {path.name: path.read_bytes() for path in trio[2].iterdir()}
    with pytest.raises(ConfigError, match="is one of the models that are merged: give another output=") as caught:
        chat_vector(trio[2], trio)
    assert "remove" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in trio[2].iterdir()} == before


def test_a_seed_that_draws_nothing_makes_no_other_merge(
    tmp_path: Path, trio: Trio, capsys: pytest.CaptureFixture[str]
) -> None:
    made = chat_vector(tmp_path / "m", trio, seed=7)
    chat_vector(made, trio, seed=8)
    assert "done before" in capsys.readouterr().err
    merge(tmp_path / "d", method="dare", base=trio[0], parts=trio[1], drop=0.5, seed=7)
    with pytest.raises(ConfigError, match="is not this merge"):
        merge(tmp_path / "d", method="dare", base=trio[0], parts=trio[1], drop=0.5, seed=8)


def test_a_folder_that_another_process_writes_is_left_to_it(tmp_path: Path, trio: Trio) -> None:
    """Without a lock the second would remove the first one's work, or give its own the name of the first."""
    part = tmp_path / ".m.part"
    part.mkdir()
    (part / "model.safetensors").write_text("of another")
    held = os.open(part, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(StoreError, match="m is being written by another process: wait until it is there"):
            chat_vector(tmp_path / "m", trio)
    finally:
        os.close(held)
    assert (part / "model.safetensors").read_text() == "of another"
    assert same(weights(chat_vector(tmp_path / "m", trio)), weights(chat_vector(tmp_path / "n", trio)))


def test_a_place_that_can_not_be_written_is_not_called_full(tmp_path: Path, trio: Trio) -> None:
    (tmp_path / ".m.part").write_text("a file")
    with pytest.raises(StoreError, match=r"can't be written \(File exists\): write elsewhere, or mend that first"):
        chat_vector(tmp_path / "m", trio)


def test_keys_of_a_sweep_are_refused_without_one(tmp_path: Path, trio: Trio) -> None:
    with pytest.raises(ConfigError, match=r"engine=, .*are for a sweep"):
        chat_vector(tmp_path / "m", trio, engine="vllm")
    with pytest.raises(ConfigError, match="weights: a number is empty; look for a comma too many"):
        merge(tmp_path / "m", method="average", parts=f"{trio[0]},{trio[2]}", weights="1,")


def test_special_rows_in_several_slices(tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are wider than a slice, and slices that end between special tokens."""
    base, chat, into = map(weights, trio)
    for size in (8, 16, 50):
        monkeypatch.setattr(stream, "SLICE", size)
        made = weights(chat_vector(tmp_path / f"m{size}", trio))
        assert torch.equal(made[HEAD][3], chat[HEAD][3])
        others = [at for at in range(40) if at != 3]
        assert torch.equal(made[HEAD][others], exact(base[HEAD], chat[HEAD], into[HEAD])[others])


def test_an_interrupted_merge_whose_models_have_changed_begins_anew(
    tmp_path: Path, trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estbench_training.weights import Writer

    inner, done = Writer.finished, []

    def stop(self: Writer, name: str) -> None:
        inner(self, name)
        done.append(name)
        if len(done) == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "finished", stop)
        with pytest.raises(KeyboardInterrupt):
            chat_vector(tmp_path / "m", trio)
    world.save(trio[0], {name: tensor + 1 for name, tensor in weights(trio[0]).items()})
    made = chat_vector(tmp_path / "m", trio)
    assert same(weights(made), weights(chat_vector(tmp_path / "n", trio)))
