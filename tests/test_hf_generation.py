"""Answers on hf: what prompts share is forwarded once, rows end for themselves, and memory that ends stops nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import World, rows

from estbench import checkpoint
from estbench.engines.base import Decoding, Generated, Packing, PackTooLarge, Request
from estbench.engines.batches import STEM_LEAST, generation_packs
from estbench.engines.hf import HFEngine, place
from estbench.engines.hf_generation import STRIDE, Generator, Row
from estbench.engines.options import HFOptions
from estbench.engines.thinking import THINK
from estbench.errors import ConfigError, EngineError
from estbench.tokens import Tokens

SHOTS = "Küsimus: Õues sajab vihma?\nVastus: jah\n\nKüsimus: müts läks märjaks?\nVastus: jah\n\n"
ENDS = ["Žürii jõi", "The dog sees the house.", "a", "Küsimus: öösel jäätunud šokolaadi?\nVastus:"]
SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
STATE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.3}


def engine_of(path: Path, said: list[str] | None = None, **options: Any) -> HFEngine:
    say = said.append if said is not None else lambda _: None
    engine = HFEngine(checkpoint.find(str(path)), Tokens(path), HFOptions(**options), say)
    engine.load()
    return engine


@pytest.fixture
def engine(tiny_model: Path) -> HFEngine:
    return engine_of(tiny_model)


def asked(engine: HFEngine, prompts: list[str], **decoding: Any) -> dict[str, Request]:
    settings = Decoding(**{"max_new_tokens": 40, **decoding})
    return {str(i): Request(ids, decoding=settings) for i, ids in enumerate(engine.tokens.encode(prompts))}


def answers(engine: HFEngine, requests: Mapping[str, Request], packing: Packing | None = None) -> dict[str, Generated]:
    found: dict[str, Generated] = {}
    for pack in generation_packs("task", requests, packing or Packing()):
        for key, answer in zip(pack.keys, engine.compute(pack), strict=True):
            assert isinstance(answer, Generated)
            found[key] = answer
    return found


def greedy(engine: HFEngine, request: Request) -> str:
    """Plain decoding: the whole sequence forwarded for each token, no padding, no cache."""
    assert request.decoding
    ids = torch.tensor([request.prompt.tolist()])
    with torch.inference_mode():
        for _ in range(request.decoding.max_new_tokens):
            ids = torch.cat([ids, engine.model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
            if int(ids[0, -1]) in engine.ends:
                break
    return str(engine.tokens.tokenizer.decode(ids[0, len(request.prompt) :].tolist(), skip_special_tokens=True))


def shapes_of(engine: HFEngine) -> list[tuple[int, int]]:
    """(rows, tokens) of each forward pass from now on."""
    shapes: list[tuple[int, int]] = []
    engine.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    return shapes


# Packs


def test_packs_are_a_function_of_the_plan_and_hold_each_request_once(engine: HFEngine) -> None:
    requests = asked(engine, [SHOTS + end * (1 + i % 3) for i, end in enumerate(ENDS * 5)])
    packs = generation_packs("task", requests, Packing(rows=4, tokens=600))
    assert sorted(key for pack in packs for key in pack.keys) == sorted(requests)
    assert packs == generation_packs("task", dict(reversed(requests.items())), Packing(rows=4, tokens=600))
    for pack in packs:
        assert len(pack.requests) <= 4
        assert len(pack.requests) == 1 or len(pack.requests) * max(r.tokens for r in pack.requests) <= 600


def test_the_stem_is_what_all_prompts_share_and_each_keeps_a_token(engine: HFEngine) -> None:
    [shared] = {pack.stem for pack in generation_packs("t", asked(engine, [SHOTS + e for e in ENDS]), Packing(rows=2))}
    assert shared == (len(engine.tokens.encode([SHOTS])[0]),)
    same = asked(engine, [SHOTS, SHOTS + "x"])
    assert generation_packs("t", same, Packing())[0].stem == (len(same["0"].prompt) - 1,)
    assert generation_packs("t", asked(engine, ENDS), Packing())[0].stem == ()  # a BOS alone
    assert len(engine.tokens.encode([SHOTS])[0]) > STEM_LEAST
    assert generation_packs("t", asked(engine, [SHOTS]), Packing())[0].stem == ()  # shared with nobody


def test_answers_under_different_decoding_are_never_in_one_pack(engine: HFEngine) -> None:
    short, long = asked(engine, ENDS, max_new_tokens=4), asked(engine, ENDS, max_new_tokens=5)
    mixed = {f"{n}{key}": request for key in short for n, request in ((4, short[key]), (5, long[key]))}
    packs = generation_packs("t", mixed, Packing())
    assert len(packs) == 2 and all(len({r.decoding for r in pack.requests}) == 1 for pack in packs)


# Answers


def test_answers_behind_shared_shots_are_those_of_plain_greedy_decoding(engine: HFEngine) -> None:
    requests = asked(engine, [SHOTS + end for end in ENDS])
    found = answers(engine, requests, Packing(rows=3))
    assert {key: answer.text for key, answer in found.items()} == {k: greedy(engine, r) for k, r in requests.items()}
    assert engine.notes()["generation"] == "stems"


@pytest.mark.slow
def test_answers_of_the_demo_model_are_those_of_plain_greedy_decoding(demo_model: Path) -> None:
    engine = engine_of(demo_model)
    requests = asked(engine, [SHOTS + end for end in [*ENDS, "Kass istub", "Kes on kodus?"]])
    found = answers(engine, requests)
    assert {key: answer.text for key, answer in found.items()} == {k: greedy(engine, r) for k, r in requests.items()}


def test_shared_shots_are_forwarded_once(engine: HFEngine) -> None:
    requests = asked(engine, [SHOTS + end for end in ENDS], max_new_tokens=1)
    packs = generation_packs("t", requests, Packing(rows=2))
    stem = packs[0].stem[0]
    answers(engine, requests)  # the model is tried on made-up tokens first
    engine.generator.kept = (b"", None)
    shapes = shapes_of(engine)
    answers(engine, requests, Packing(rows=2))
    assert len(packs) == 2 and shapes[0] == (1, stem) and [shape[0] for shape in shapes[1:]] == [2, 2]
    assert all(width < stem for _, width in shapes[1:])


def test_answers_do_not_depend_on_the_pack_that_a_run_begins_with(tiny_model: Path) -> None:
    one, other = engine_of(tiny_model), engine_of(tiny_model)
    requests = asked(one, [SHOTS + end * (i + 1) for i, end in enumerate(ENDS)])
    packs = generation_packs("t", requests, Packing(rows=1))
    forward = [one.compute(pack) for pack in packs]
    assert [other.compute(pack) for pack in packs[::-1]][::-1] == forward


def test_rows_that_have_ended_are_no_longer_forwarded(engine: HFEngine) -> None:
    requests = asked(engine, [SHOTS + end for end in ENDS], max_new_tokens=4 * STRIDE)
    free = {key: answer.text for key, answer in answers(engine, requests).items()}
    pairs = {text[i : i + 2] for text in free.values() for i in range(len(text) - 1)}
    stop = next(pair for pair in sorted(pairs) if pair.isascii() and 0 < sum(pair in t for t in free.values()) < 4)
    shapes = shapes_of(engine)
    stopped = answers(engine, asked(engine, [SHOTS + end for end in ENDS], max_new_tokens=4 * STRIDE, stop=(stop,)))
    assert shapes[0][0] == len(ENDS) > shapes[-1][0]
    assert {key: answer.text for key, answer in stopped.items()} == {k: t.partition(stop)[0] for k, t in free.items()}


def test_a_stop_string_across_two_strides_is_found(engine: HFEngine) -> None:
    requests = asked(engine, [SHOTS + end for end in ENDS])
    ids = {key: row for key, row in new_ids(engine, requests).items() if len(row) > STRIDE + 2}
    key, row = next(iter(ids.items()))
    decode = engine.tokens.tokenizer.decode
    stop = decode(row[STRIDE - 2 : STRIDE + 2])
    before = decode(row[: STRIDE + 2], skip_special_tokens=True)
    again = asked(engine, [SHOTS + end for end in ENDS], stop=(stop,))
    assert answers(engine, again)[key].text == before[: before.index(stop)]


def new_ids(engine: HFEngine, requests: dict[str, Request]) -> dict[str, list[int]]:
    made = [Row(engine.generator, request) for request in requests.values()]
    answers(engine, requests)
    engine.generator._run(made, 0)
    return {key: row.new for key, row in zip(requests, made, strict=True)}


def test_nan_behind_a_shared_prefix_is_an_error_and_never_an_answer(engine: HFEngine) -> None:
    requests = asked(engine, [SHOTS + end for end in ENDS])
    answers(engine, requests)
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(EngineError, match="NaN"):
        answers(engine, requests)


def models() -> dict[str, Callable[[], Any]]:
    import transformers as t

    return {
        "mistral": lambda: t.MistralConfig(**SHAPE, sliding_window=20),
        "gemma3": lambda: t.Gemma3TextConfig(
            **SHAPE, sliding_window=20, layer_types=["sliding_attention", "full_attention"]
        ),
        "gemma2": lambda: t.Gemma2Config(**SHAPE, sliding_window=20),  # has no sdpa
        "qwen3": lambda: t.Qwen3Config(**SHAPE),
        "mamba": lambda: t.MambaConfig(**STATE, bos_token_id=0, eos_token_id=1, pad_token_id=2),
    }


@pytest.mark.parametrize("kind", ["mistral", "gemma3", "gemma2", "qwen3", "mamba"])
def test_other_kinds_of_models_are_exact_or_fall_back_and_say_so(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(models()[kind]()).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    said: list[str] = []
    engine = engine_of(tmp_path, said)
    requests = asked(engine, [SHOTS + end for end in ENDS])
    found = answers(engine, requests)
    assert {key: answer.text for key, answer in found.items()} == {k: greedy(engine, r) for k, r in requests.items()}
    assert engine.fingerprint()["attention"] == ("eager" if kind in ("gemma2", "mamba") else "sdpa")
    assert (engine.notes()["generation"] == "stems") == (kind == "qwen3") == (not said)


@pytest.mark.parametrize(("broken", "path"), [("stem", "padded"), ("mask", "alone")])
def test_a_model_that_gets_it_wrong_is_asked_the_slow_way_and_that_is_said(
    broken: str, path: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "stem":
        right_stem = Generator._stem
        monkeypatch.setattr(Generator, "_stem", lambda self, ids, n: right_stem(self, ids[::-1].copy(), n))
    else:
        layout = Generator._layout
        monkeypatch.setattr(Generator, "_layout", lambda self, prompts, stem: leaky(*layout(self, prompts, stem)))
    said: list[str] = []
    engine = engine_of(tiny_model, said)
    requests = asked(engine, [SHOTS + end for end in ENDS])
    found = answers(engine, requests)
    assert {key: answer.text for key, answer in found.items()} == {k: greedy(engine, r) for k, r in requests.items()}
    assert engine.notes()["generation"] == path and len(said) == 1


def leaky(ids: Any, mask: Any) -> tuple[Any, Any]:
    return ids, torch.ones_like(mask)


# Thinking


class Words:
    """A tokenizer whose tokens are characters."""

    @staticmethod
    def decode(ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, ids))


class Thinker:
    """What a row needs of a generator."""

    markers, tokenizer = THINK, Words()

    class engine:
        ends: tuple[int, ...] = (0,)


def reply(written: str, prompt: str = "Mis?", stop: tuple[str, ...] = ("\n",), most: int = 1000) -> Generated:
    """The answer of a model that would write this, and then its end token."""
    ids = np.array(list(map(ord, prompt)), np.int32)
    row = Row(Thinker(), Request(ids, decoding=Decoding(most, stop)))  # type: ignore[arg-type]
    for token in [*map(ord, written), 0]:
        if not row.done:
            row.take(token)
    return row.answer()


def test_thinking_is_counted_and_its_line_breaks_end_no_answer() -> None:
    thought = "<think>\nA?\nB!\n</think>"
    assert reply(thought + "\n\nVastus B\nKüsimus") == Generated("Vastus B", 33, "stop", "A?\nB!", len(thought))
    opened = reply("A?\nB!</think>\n\nVastus B\nKüsimus", prompt="Mis?<think>\n")
    assert (opened.text, opened.thinking, opened.thinking_tokens) == ("Vastus B", "A?\nB!", 13)
    assert reply("Vastus B\nKüsimus") == Generated("Vastus B", 9, "stop")


def test_thinking_that_is_cut_off_has_no_answer() -> None:
    cut = Row(Thinker(), Request(np.array([65], np.int32), decoding=Decoding(8, ("\n",))))  # type: ignore[arg-type]
    for letter in "<think>\nA\nB":
        cut.take(ord(letter))
    assert not cut.done
    assert cut.answer() == Generated("", 11, "length", "A\nB", 11)


def test_the_tasks_limit_counts_from_the_answers_first_token() -> None:
    assert reply("<think>pikk mõte</think>12345678", most=4).text == "1234"
    assert reply("<think>pikk mõte</think>12345678", most=4).finish == "length"


def test_thinking_tokens_come_on_top_and_are_in_the_fingerprint(tiny_model: Path) -> None:
    plain, more = engine_of(tiny_model), engine_of(tiny_model, thinking_tokens=30)
    assert plain.fingerprint() | {"thinking_tokens": "30"} == more.fingerprint()
    requests = asked(plain, ENDS, max_new_tokens=5)
    assert answers(plain, requests) == answers(more, requests)  # a model without markers has nothing to think
    for engine, most in ((plain, 5), (more, 35)):
        engine.generator.markers = THINK
        made = [Row(engine.generator, request) for request in requests.values()]
        assert engine.generator._budget(made) == most


# Memory


def explode_above(engine: HFEngine, tokens: int, error: Exception) -> None:
    """From now on a forward pass of more than so many tokens finds no memory."""

    def check(_: Any, __: Any, given: Any) -> None:
        if given["input_ids"].numel() > tokens:
            raise error

    engine.model.register_forward_pre_hook(check, with_kwargs=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_ends_is_a_pack_too_large_on_every_device(engine: HFEngine, error: Exception) -> None:
    requests = asked(engine, ENDS)
    explode_above(engine, 0, error)
    [pack] = generation_packs("t", requests, Packing())
    with pytest.raises(PackTooLarge) as found:
        engine.compute(pack)
    assert found.value.pack is pack


def test_other_errors_are_not_taken_for_memory(engine: HFEngine) -> None:
    explode_above(engine, 0, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side"):
        engine.generate(list(asked(engine, ENDS).values()))


def test_a_pack_that_does_not_fit_leaves_no_half_made_stem(engine: HFEngine) -> None:
    requests = asked(engine, [SHOTS + end for end in ENDS])
    expected = answers(engine, requests)
    engine.generator.kept = (b"", None)
    handle = engine.model.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")), with_kwargs=True
    )
    with pytest.raises(PackTooLarge):
        answers(engine, requests)
    handle.remove()
    assert answers(engine, requests) == expected


SCRIPT = """
import sys, torch
from pathlib import Path
from estbench import registry
from estbench.engines.base import Packing
from estbench.engines.hf import HFEngine
from estbench.cli import main
folder, most, packs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
registry.project_file = lambda name: folder / name
HFEngine.packing = Packing(rows=8)
use, compute = HFEngine.use, HFEngine.compute
done = 0

def full(_, args, given):
    if given["input_ids"].shape[0] > most:
        raise torch.OutOfMemoryError("CUDA out of memory.")

def using(self, model):
    model.register_forward_pre_hook(full, with_kwargs=True)
    use(self, model)

def computing(self, pack):
    global done
    if done == packs:
        raise KeyboardInterrupt
    answers = compute(self, pack)
    done += 1
    return answers

HFEngine.use, HFEngine.compute = using, computing
sys.exit(main(sys.argv[4:]))
"""


def run(world: World, model: Path, home: Path, most: int, packs: int = -1) -> tuple[int, dict[str, Any], str]:
    import os
    import subprocess

    words = ["eval", f"model={model}", "tasks=words", f"data={world.data}"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(world.folder), str(most), str(packs), *words],
        env=os.environ | {"ESTBENCH_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.mark.slow
def test_a_run_that_ends_in_the_midst_of_halved_packs_goes_on_to_the_same_answers(
    tmp_path: Path, tiny_model: Path
) -> None:
    from estbench.runs import Run

    world = World(tmp_path / "world", n=40)
    world.fill("words", [row | {"question": row["question"] * (1 + i % 5)} for i, row in enumerate(rows(40))])
    code, calm, err = run(world, tiny_model, tmp_path / "calm", most=3)
    assert code == 0, err
    code, _, err = run(world, tiny_model, tmp_path / "home", most=3, packs=5)
    assert code != 0
    stored = [path.read_text() for path in (tmp_path / "home").glob("responses/*/*.jsonl")]
    assert any('"split"' in text for text in stored)
    code, found, err = run(world, tiny_model, tmp_path / "home", most=3)
    assert code == 0 and "are stored already" in err
    assert list(Run(found["folder"]).responses("words")) == list(Run(calm["folder"]).responses("words"))
    assert found["scores"] == calm["scores"]


@pytest.mark.slow
def test_a_single_request_that_does_not_fit_is_one_clear_line(tmp_path: Path, tiny_model: Path) -> None:
    code, _, err = run(World(tmp_path / "world", n=4), tiny_model, tmp_path / "home", most=0)
    assert code == 4 and "does not fit on cpu" in err and "shots=" in err and "Traceback" not in err


# Devices


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"engine\.gpus=2: torch finds no GPUs here"):
        place(HFOptions(gpus=2), {})
    gpus(monkeypatch, 1)
    with pytest.raises(ConfigError, match=r"torch finds 1 GPU here"):
        place(HFOptions(gpus=2), {})
    with pytest.raises(ConfigError, match=r"cuda:3: this machine has 1"):
        place(HFOptions(device="cuda:3"), {})
    gpus(monkeypatch, 4)
    with pytest.raises(ConfigError, match=r"leave engine\.device=cuda:1 out"):
        place(HFOptions(device="cuda:1", gpus=2), {})
    assert place(HFOptions(gpus=2), {"dtype": "bfloat16"}) == ("cuda:0", "bfloat16")
    assert place(HFOptions(device="cuda"), {}) == ("cuda:0", "float32")


def gpus(monkeypatch: pytest.MonkeyPatch, n: int, gigabytes: int = 80) -> None:
    """Let torch say that it has so many GPUs."""

    class Properties:
        total_memory = gigabytes << 30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Big GPU")


def test_a_model_on_several_gpus_is_spread_over_these_and_nothing_else(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    found, tokens = checkpoint.find(str(tiny_model)), Tokens(tiny_model)
    gpus(monkeypatch, 4)
    one, two = HFEngine(found, tokens), HFEngine(found, tokens, HFOptions(gpus=2))
    assert "gpus" not in one.fingerprint() and two.fingerprint()["gpus"] == "2"
    asked: dict[str, Any] = {}

    def from_pretrained(path: Path, **given: Any) -> Any:
        asked.update(given)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(EngineError, match=r"does not fit on 2 GPUs: try engine\.dtype=bfloat16, engine\.gpus="):
        two.load()
    assert asked["device_map"] == "balanced" and set(asked["max_memory"]) == {0, 1}
    asked.clear()
    with pytest.raises(EngineError, match=r"does not fit on cuda:0.*engine\.gpus=2 or more"):
        one.load()
    assert "device_map" not in asked
