"""Log-likelihoods on the token trie equal those of whole requests, or the trie is not taken, and that is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench import checkpoint
from estbench.engines.base import Pack, Packing, PackTooLarge, Request, Scored
from estbench.engines.hf import HFEngine
from estbench.engines.hf_trie import Costs
from estbench.engines.options import HFOptions
from estbench.engines.trie import Tree, scoring_packs
from estbench.errors import EngineError
from estbench.tokens import Tokens

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.3,  # far from uniform, so that a wrong mask shows
}
GQA = SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
WINDOW = GQA | {"sliding_window": 12}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", GQA | {"tie_word_embeddings": True}, "trie"),
    "sliding window": ("MistralConfig", WINDOW, "trie"),
    "window in some layers": (
        "Gemma3TextConfig",
        WINDOW | {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8},
        "trie",
    ),
    "soft caps": (
        "Gemma2Config",
        WINDOW | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
        "trie",
    ),
    "scaled logits": ("GraniteConfig", GQA | {"logits_scaling": 4.0, "embedding_multiplier": 3.0}, "trie"),
    "cohere": ("CohereConfig", GQA | {"logit_scale": 0.3}, "trie"),
    "qwen3": ("Qwen3Config", GQA, "trie"),
    "learnt positions": (
        "GPT2Config",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512, "vocab_size": 320},
        "trie",
    ),
    "alibi": ("BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 320}, "padded"),
    "local layers": (
        "GPTNeoConfig",
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
        | {"window_size": 12, "vocab_size": 320, "max_position_embeddings": 512},
        "padded",
    ),
    "long rope": (
        "Phi3Config",
        SHAPE
        | {"num_key_value_heads": 2, "original_max_position_embeddings": 24}
        | {
            "rope_parameters": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 2,
                "long_factor": [4.0] * 2,
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 24,
            }
        },
        "padded",
    ),
    "state space": ("MambaConfig", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 320}, "padded"),
}
EAGER = ("soft caps", "alibi", "local layers", "state space")  # transformers has no other attention for them
Make = Callable[..., HFEngine]


@pytest.fixture(scope="module")
def make(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(name, **options)`: an engine for one of MODELS, or for `tiny`; `engine.said` is what it says."""
    paths: dict[str, Path] = {"tiny": tiny_model}

    def saved(name: str) -> Path:
        kind, shape, _ = MODELS[name]
        path = tmp_path_factory.mktemp("model") / "checkpoint"
        shutil.copytree(tiny_model, path)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**shape))
        with torch.no_grad():
            for weights in model.parameters():  # biases too
                weights.normal_(0, 0.3)
        model.save_pretrained(path)
        return path

    def build(name: str, **options: Any) -> HFEngine:
        if name not in paths:
            paths[name] = saved(name)
        said: list[str] = []
        path = paths[name]
        engine = HFEngine(checkpoint.find(str(path)), Tokens(path), HFOptions(**options), said.append)
        engine.said = said  # type: ignore[attr-defined]
        engine.load()
        return engine

    return build


def words(dice: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return dice.integers(3, 320, n).astype(np.int32)


def plan(docs: int = 12, seed: int = 1) -> dict[str, Request]:
    """Two subjects of documents with choices; letters, prefixes of each other, and texts as a whole among them."""
    dice = np.random.default_rng(seed)
    requests: list[Request] = []
    for _ in range(2):
        head = words(dice, 20)
        for doc in range(docs // 2):
            prompt = np.concatenate([head, words(dice, 3 + doc % 5)])
            answers = [words(dice, n) for n in (1, 1, 2, 5)]
            requests += [Request(prompt, answer) for answer in (*answers, answers[-1][:3])]
        requests += [Request(head[:1], head[1:]), Request(head[:5], head[5:9]), Request(head, words(dice, 30))]
    return {f"{i:04}": request for i, request in enumerate(requests)}


def scores(engine: HFEngine, packs: Sequence[Pack]) -> dict[str, Scored]:
    found: dict[str, Scored] = {}
    for pack in packs:
        for key, answer in zip(pack.keys, engine.compute(pack), strict=True):
            assert isinstance(answer, Scored)
            found[key] = answer
    return found


def plain(engine: HFEngine, request: Request) -> tuple[float, bool]:
    """One forward of the whole, by transformers alone."""
    assert request.continuation is not None
    ids = torch.from_numpy(request.ids.astype(np.int64))[None]
    with torch.inference_mode():
        logprobs = engine.model(input_ids=ids, use_cache=False).logits[0, len(request.prompt) - 1 :].log_softmax(-1)
    target = torch.from_numpy(request.continuation.astype(np.int64))
    return float(logprobs.gather(1, target[:, None]).sum()), bool((logprobs.argmax(-1) == target).all())


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_exact_on_each_architecture_or_the_trie_is_not_taken(make: Make, name: str) -> None:
    engine, asked = make(name, attention="eager" if name in EAGER else "sdpa"), plan()
    for nodes in (16, 64, 4096):
        found = scores(engine, scoring_packs("task", asked, Packing(nodes=nodes)))
        for key, request in asked.items():
            logprob, greedy = plain(engine, request)
            assert found[key].logprob == pytest.approx(logprob, abs=1e-4), key
            assert found[key].greedy == greedy
    assert engine.notes()["scoring"] == MODELS[name][2]
    assert bool(engine.said) == (MODELS[name][2] == "padded")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["sliding window", "window in some layers"])
def test_a_window_is_not_right_by_accident(make: Make, name: str) -> None:
    engine, asked = make(name), plan()
    engine.model.config.sliding_window = 10_000
    wrong = scores(engine, scoring_packs("task", asked, Packing()))
    engine.model.config.sliding_window = 12
    assert max(abs(wrong[key].logprob - plain(engine, request)[0]) for key, request in asked.items()) > 0.1


@pytest.mark.parametrize("damage", ["_inputs", "_advance"])
def test_a_model_that_fails_the_test_is_scored_request_by_request(
    make: Make, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    engine, asked = make("tiny"), plan()
    way = engine.scorer.trie
    if damage == "_inputs":  # a model that ignores the mask
        inputs = way._inputs
        monkeypatch.setattr(way, "_inputs", lambda *a: {k: v for k, v in inputs(*a).items() if k != "attention_mask"})
    else:
        monkeypatch.setattr(way, "_advance", lambda *_: (_ for _ in ()).throw(TypeError("no cache")))
    found = scores(engine, scoring_packs("task", asked, Packing()))
    for key, request in asked.items():
        assert found[key].logprob == pytest.approx(plain(engine, request)[0], abs=1e-4)
    assert engine.notes()["scoring"] == "padded" and "slower" in engine.said[0]  # type: ignore[attr-defined]


def test_a_trie_that_was_asked_for_and_fails_is_an_error(make: Make) -> None:
    engine = make("state space", scoring="trie", attention="eager")
    with pytest.raises(EngineError, match=r"engine\.scoring=trie is not possible.*state"):
        engine.compute(Pack("", (), tuple(plan().values())))


def test_the_plain_way_forwards_each_request_and_the_trie_each_token_once(make: Make) -> None:
    asked = {key: request for key, request in plan(40).items() if len(request.prompt) > 20}
    packs = scoring_packs("task", asked, Packing(nodes=128))
    trie, padded = make("tiny", scoring="trie"), make("tiny", scoring="padded")
    one, two = scores(trie, packs), scores(padded, packs)
    assert max(abs(one[key].logprob - two[key].logprob) for key in asked) < 1e-4
    once = len(Tree.build(list(asked.values())).tokens)
    assert once <= trie.notes()["tokens_forwarded"] <= 1.05 * once
    assert padded.notes()["tokens_forwarded"] > 4 * once
    assert trie.fingerprint() != padded.fingerprint()


trunks = st.lists(st.integers(3, 6), max_size=12)
asks = st.tuples(trunks.map(lambda some: [3, *some]), st.lists(st.integers(3, 6), min_size=1, max_size=6))


@given(st.lists(asks, min_size=1, max_size=12, unique_by=str), st.integers(4, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_any_requests_score_alike_and_to_the_bit_wherever_a_run_begins(
    make: Make, some: list[tuple[list[int], list[int]]], nodes: int, data: st.DataObject
) -> None:
    engine = ready(make)
    asked = {str(i): Request(np.array(a, np.int32), np.array(b, np.int32)) for i, (a, b) in enumerate(some)}
    packs = scoring_packs("task", asked, Packing(nodes=nodes, tokens=8))
    found = scores(engine, packs)
    for key, request in asked.items():
        assert found[key].logprob == pytest.approx(plain(engine, request)[0], abs=1e-4)
    first = data.draw(st.integers(0, len(packs) - 1))
    engine.scorer.trie.segments, engine.scorer.trie.cache = [], None
    rest = scores(engine, packs[first:])
    assert rest == {key: found[key] for key in rest}


_READY: dict[int, HFEngine] = {}


def ready(make: Make) -> HFEngine:
    """One engine for all examples."""
    if id(make) not in _READY:
        _READY[id(make)] = make("tiny", scoring="trie")
    return _READY[id(make)]


def test_rows_side_by_side_score_like_one_sequence(make: Make) -> None:
    """As on a GPU; on a CPU parts follow each other."""
    engine, asked = make("tiny", scoring="trie"), plan(30)
    packs = scoring_packs("task", asked, Packing(nodes=400))
    found = scores(engine, packs)
    costs = engine.scorer.trie.costs
    shapes: list[tuple[int, ...]] = []
    forward = engine.model.forward
    engine.model.forward = lambda **kw: (shapes.append(kw["input_ids"].shape), forward(**kw))[1]
    engine.scorer.trie.costs = Costs(1, 1e6, 0, 0, batched=True)
    for key, answer in scores(engine, packs).items():
        assert answer.logprob == pytest.approx(found[key].logprob, abs=1e-4) and answer.greedy == found[key].greedy
    assert max(shape[0] for shape in shapes) > 1
    assert costs.passes(packs[0].requests, 0) and not costs.batched


def test_a_pack_that_runs_out_of_memory_leaves_the_next_one_as_it_would_be(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = make("tiny", scoring="trie"), plan()
    packs = scoring_packs("task", asked, Packing(nodes=32))
    expected = scores(engine, packs)
    for broken in range(1, 4):  # while the stem is forwarded, or what is behind it
        again, calls = make("tiny", scoring="trie"), 0
        scores(again, packs[:1])
        forward = again.model.forward

        def failing(forward: Any = forward, broken: int = broken, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == broken:
                raise torch.OutOfMemoryError("out of memory")
            return forward(**kwargs)

        again.model.forward = failing
        with pytest.raises(PackTooLarge):
            scores(again, packs[1:])
        again.model.forward = forward
        assert scores(again, packs[1:]) == {key: expected[key] for pack in packs[1:] for key in pack.keys}


def test_the_plain_way_keeps_to_the_memory_of_a_pack(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = make("tiny", scoring="padded"), plan(30)
    shapes: list[tuple[int, ...]] = []
    forward = engine.model.forward
    engine.model.forward = lambda **kw: (shapes.append(kw["input_ids"].shape), forward(**kw))[1]
    engine.__dict__["packing"] = Packing(nodes=100, tokens=200)
    found = scores(engine, [Pack("", tuple(asked), tuple(asked.values()))])
    assert all(rows * width <= 200 or rows == 1 for rows, width in shapes) and len(shapes) > 5
    for key, request in asked.items():
        assert found[key].logprob == pytest.approx(plain(engine, request)[0], abs=1e-4)


@pytest.mark.parametrize("name", ["tiny", "window in some layers"])
def test_bfloat16_takes_the_trie_too(make: Make, name: str) -> None:
    engine, exact, asked = make(name, dtype="bfloat16"), make(name), plan()
    packs = scoring_packs("task", asked, Packing(nodes=64))
    found, expected = scores(engine, packs), scores(exact, packs)
    assert engine.notes()["scoring"] == "trie"
    tokens = sum(len(request.continuation) for request in asked.values() if request.continuation is not None)
    assert sum(abs(found[key].logprob - expected[key].logprob) for key in asked) / tokens < 0.1


def test_large_vocabularies_are_turned_into_probabilities_piece_by_piece(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = make("tiny"), plan()
    packs = scoring_packs("task", asked, Packing())
    expected = scores(engine, packs)
    monkeypatch.setattr("estbench.engines.hf_scoring.LOGITS", 700)  # two positions of 320
    assert scores(engine, packs) == expected
