"""The transformers engine against plain transformers: same numbers, nothing forwarded twice, nothing leaking in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from estbench import checkpoint
from estbench.engines.base import Decoding, Request
from estbench.engines.hf import HFEngine
from estbench.engines.options import HFOptions
from estbench.errors import EngineError
from estbench.tokens import Tokens


def engine_of(path: Path) -> HFEngine:
    engine = HFEngine(checkpoint.find(str(path)), Tokens(path))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> HFEngine:
    return engine_of(tiny_model)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval().requires_grad_(False)


def ask(engine: HFEngine, prompts: list[str], **decoding: Any) -> list[Request]:
    settings = Decoding(**{"max_new_tokens": 12, **decoding})
    return [Request(ids, decoding=settings) for ids in engine.tokens.encode(prompts)]


def choices(engine: HFEngine, context: str, options: list[str]) -> list[Request]:
    return [Request(*pair) for pair in engine.tokens.encode_pairs([(context, option) for option in options])]


PROMPTS = ["Õues sajab", "The dog sees the house.", "Žürii jõi öösel jäätunud šokolaadi ja müts läks märjaks", "a"]


def test_log_likelihoods_equal_one_plain_forward_a_request(engine: HFEngine, plain: Any) -> None:
    requests = [r for prompt in PROMPTS for r in choices(engine, prompt, [" vihma", " maja", " õõ öö üü ää", " x"])]
    for request, scored in zip(requests, engine.score(requests), strict=True):
        assert request.continuation is not None
        ids = torch.tensor([[*request.prompt.tolist(), *request.continuation.tolist()]])
        logprobs = plain(ids).logits[0].log_softmax(-1)
        start = len(request.prompt) - 1
        rows = logprobs[start : start + len(request.continuation)]
        target = torch.tensor(request.continuation.tolist())
        assert scored.logprob == pytest.approx(float(rows.gather(1, target[:, None]).sum()), abs=1e-4)
        assert scored.greedy == bool((rows.argmax(-1) == target).all())


def count_forwarded(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    forward: Callable[..., Any] = engine.model.forward
    monkeypatch.setattr(engine.model, "forward", lambda **kw: (shapes.append(kw["input_ids"].shape), forward(**kw))[1])
    return shapes


def test_letters_behind_one_prompt_are_one_forward_row(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = choices(engine, "Küsimus: mis?\nVastus:", [" A", " B", " C", " D"])
    engine.score(letters)  # the test at the start forwards tokens of its own
    shapes = count_forwarded(engine, monkeypatch)
    answers = [request.continuation for request in letters if request.continuation is not None]
    assert {len(answer) for answer in answers} == {2}  # " " and letter
    shared = [Request(np.append(r.prompt, a[0]), a[1:]) for r, a in zip(letters, answers, strict=True)]
    engine.score(shared)
    assert shapes == [(1, len(shared[0].prompt))]
    texts = choices(engine, "Küsimus: mis?\nVastus:", [" pikk vastus", " muu"])
    engine.score(texts)
    assert shapes[1:] == [(1, len({r.ids[:n].tobytes() for r in texts for n in range(1, len(r.ids) + 1)}))]


def test_generation_equals_plain_greedy_decoding(engine: HFEngine, plain: Any) -> None:
    for request, generated in zip(ask(engine, PROMPTS), engine.generate(ask(engine, PROMPTS)), strict=True):
        ids = torch.tensor([request.prompt.tolist()])
        for _ in range(12):
            ids = torch.cat([ids, plain(ids).logits[:, -1:].argmax(-1)], 1)
            if int(ids[0, -1]) in engine.ends:
                break
        new = ids[0, len(request.prompt) :].tolist()
        ended = new[-1] in engine.ends
        assert generated.text == engine.tokens.tokenizer.decode(new, skip_special_tokens=True)
        assert generated.finish == ("stop" if ended else "length") and generated.tokens == len(new)


def test_a_stop_string_ends_its_row_alone(engine: HFEngine) -> None:
    free = engine.generate(ask(engine, PROMPTS))
    pairs = [free[0].text[i : i + 2] for i in range(2, len(free[0].text) - 1)]
    stop = next(pair for pair in pairs if pair.isascii() and sum(pair in other.text for other in free) == 1)
    stopped = engine.generate(ask(engine, PROMPTS, stop=(stop,)))
    assert stopped[0].text == free[0].text[: free[0].text.index(stop)]
    assert stopped[0].finish == "stop" and stopped[0].tokens < free[0].tokens
    assert stopped[1:] == free[1:]


def test_sampling_habits_saved_with_a_model_do_not_leak_into_scores(tiny_model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    file = path / "generation_config.json"
    saved = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0, "max_new_tokens": 2, "top_k": 1}
    file.write_text(json.dumps(json.loads(file.read_text()) | saved))
    changed, plain = engine_of(path), engine_of(tiny_model)
    assert changed.generate(ask(changed, PROMPTS)) == plain.generate(ask(plain, PROMPTS))


def test_sampling_is_repeatable_by_its_seed(engine: HFEngine) -> None:
    one = engine.generate(ask(engine, PROMPTS, temperature=1.0, seed=1))
    assert engine.generate(ask(engine, PROMPTS, temperature=1.0, seed=1)) == one
    assert engine.generate(ask(engine, PROMPTS, temperature=1.0, seed=2)) != one


def test_nan_is_an_error_and_never_a_score(tiny_model: Path) -> None:
    engine = engine_of(tiny_model)
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(EngineError, match="NaN"):
        engine.score(choices(engine, "Küsimus", [" a", " b"]))
    with pytest.raises(EngineError, match="NaN"):
        engine.generate(ask(engine, PROMPTS))


def test_dtype_and_device_are_in_the_fingerprint(tiny_model: Path) -> None:
    found, tokens = checkpoint.find(str(tiny_model)), Tokens(tiny_model)
    one, two = HFEngine(found, tokens).fingerprint(), HFEngine(found, tokens, HFOptions(dtype="bfloat16")).fingerprint()
    assert one["dtype"] == "float32" and one["device"] == "cpu" and one != two
    assert one["transformers"] and one["torch"] and one["attention"] == "sdpa"
