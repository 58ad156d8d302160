"""What the demo models are made of: a recipe each, by name. Whoever adds one leaves the others as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """What a model is made of. shares: examples in a hundred of each kind: "et", "en" or a task's name."""

    shares: Mapping[str, float] = field(default_factory=dict)
    examples: int = 64_000
    steps: int = 6000
    batch: int = 16  # examples
    rate: float = 2.5e-3  # the highest learning rate, after 50 steps; cosine to 0
    hidden: int = 128
    layers: int = 2
    seed: int = 1
    checkpoints: tuple[int, ...] = ()  # steps after which the model is kept, too
    start: str | None = None  # the demo model that it goes on from
    stage: str = "pretraining"
    chat: bool = False  # prompts are in the chat template
    english_only: bool = False  # what its tokenizer was learnt on


TASK_SHARES = {
    "mini_copa": 4,
    "mini_qa": 22,
    "mini_translate_en_et": 15,
    "mini_translate_et_en": 13,
    "mini_gec": 16,
    "mini_inflect": 7,
    "mini_follow": 15,
}
ENGLISH_SHARES = {"en": 3, "mini_follow_en": 6, "mini_qa_en": 3}
CHAT_SHARES = TASK_SHARES | {"mini_copa": 22}
RECIPES = {
    "demo": Recipe({"et": 4, "en": 4, **TASK_SHARES}, checkpoints=(1500, 3000, 4500)),
    "demo-base": Recipe({"en": 1}, examples=16_000, steps=1000),
    "demo-en": Recipe(ENGLISH_SHARES, examples=48_000, steps=4000),
    "demo-english": Recipe(ENGLISH_SHARES, examples=36_000, steps=3000, english_only=True),
    "demo-small": Recipe({"et": 4, "en": 4, **TASK_SHARES}, steps=3000, hidden=64),
    "demo-et": Recipe({"et": 20, **TASK_SHARES}, examples=32_000, steps=2500, start="demo-base", stage="cpt"),
    "demo-chat": Recipe(
        CHAT_SHARES, examples=8_000, steps=800, rate=1e-3, seed=2, start="demo", stage="sft", chat=True
    ),
    "demo-et-chat": Recipe(
        CHAT_SHARES, examples=8_000, steps=800, rate=1e-3, seed=2, start="demo-et", stage="sft", chat=True
    ),
}
