"""The test that a model passes before it is scored on the token trie: the same numbers as with whole requests.

It uses tokens of a fixed sentence and the model alone, so that each run of a model takes the same way. Where layers see
a sliding window, the test is repeated with a window that is shorter than the test's prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from estbench.engines.base import Pack, Request
from estbench.engines.hf_trie import KINDS

if TYPE_CHECKING:
    from estbench.engines.hf_scoring import Floats, Scorer

TEXT = "Täna õhtul sõidame bussiga Tartusse, sest vanaema ootab meid juba ammu. The quick brown fox jumps over 13 dogs."
FLOOR = {"float32": 1e-4, "float16": 5e-3}  # nats a token; bfloat16 and others: 0.02
NOISE = 4  # differences between two plain ways may grow by so much
SHORT = 5  # a window that cuts into each prompt of the test


def trouble(scorer: Scorer) -> str:
    """Why the trie can't be taken; nothing if it can."""
    from transformers.cache_utils import DynamicLayer

    from estbench.engines import memory

    trie = scorer.trie
    if getattr(scorer.engine.model, "_is_stateful", False):
        return "the model keeps a state that does not branch"
    if trie.kinds - KINDS:
        return f"it has layers of the kind {', '.join(sorted(trie.kinds - KINDS))}"
    if why := by_length(trie.config):
        return why
    windows = [trie.window, SHORT] if trie.window else [None]
    for window in windows:
        before = trie.window
        try:
            if window:
                trie.config.sliding_window = window
            off, most = difference(scorer)
        except Exception as error:
            if memory.is_out_of_memory(error):
                raise
            return (
                f"it does not take a mask and positions ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            )
        finally:
            if before:
                trie.config.sliding_window = before
            kept, trie.cache, trie.segments = trie.cache, None, []
        if not off <= most:
            return f"log-probabilities would differ by {off:.2g} on average"
        if not all(type(layer) is DynamicLayer for layer in kept.layers):
            return "its memory is not keys and values alone"
    return ""


def by_length(config: Any) -> str:
    """Why a model's numbers hang on how much is forwarded at once, beyond what a short test sees; empty if not."""
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo: a window over places, not positions
        return "its local layers count what is forwarded, not positions"
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        return "its rotary embedding changes with the longest position that is forwarded"
    return ""


def difference(scorer: Scorer) -> tuple[float, float]:
    """Mean difference between the trie and the plain way (nats a token), and the most that it may be."""
    packs = samples(scorer)
    asked = [request for pack in packs for request in pack.requests]
    plain = scorer.tokens(Pack("", (), tuple(asked)), "padded")[0]
    most = FLOOR.get(scorer.engine.dtype, 0.02)
    if scorer.engine.dtype != "float32":  # how far the plain way is from itself
        alone = [scorer.tokens(Pack("", (), (request,)), "padded")[0] for request in asked]
        most = max(most, NOISE * _mean(plain, np.concatenate(alone)))
    one = np.concatenate([scorer.tokens(pack, "trie")[0] for pack in packs])
    half = [range(len(pack.requests))[i::2] for pack in packs for i in range(2)]
    two = np.concatenate([scorer.trie.tokens(pack, half[2 * i : 2 * i + 2])[0] for i, pack in enumerate(packs)])
    return max(_mean(one, plain), _mean(two, plain)), most


def _mean(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).mean())


def samples(scorer: Scorer) -> list[Pack]:
    """Packs with stems of two, one and no segments; branches at several depths, and continuations of many lengths."""
    text = scorer.engine.tokens.tokenizer(TEXT, add_special_tokens=False).input_ids
    dice = np.random.default_rng(1)

    def words(n: int) -> list[int]:
        return [int(i) for i in dice.choice(text, n)]

    def document(head: list[int], question: int) -> list[Request]:
        prompt = np.array([*head, *words(question)], np.int32)
        answers = [words(1), words(3)]
        return [Request(prompt, np.array(answer, np.int32)) for answer in [*answers, answers[1][:2]]]

    head = words(4)
    longer, other = head + words(6), head + words(2)
    packs = [
        ((4, 10), [*document(longer, 4), *document(longer, 2)]),
        ((4,), [*document(other, 5), *document(other, 1)]),
        ((), [*document([], 3), *document([], 9)]),
    ]
    return [Pack("", (), tuple(requests), stem) for stem, requests in packs]
