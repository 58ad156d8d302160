"""How the demo models are made: a tiny Llama, trained for a fixed number of steps from nothing or from another one.

    path = train(recipes.RECIPES["demo"], Path("demo"), say=print)      # path/step-500 and so on are its checkpoints

Text is learnt whole; of an instruction only the answer is. The batches are a function of the recipe's seed, the
number of threads is fixed, so the same recipe gives the same model on the same machine.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.demo import stream, tokenizer
from estbench.demo.recipes import Recipe
from estbench.demo.tokenizer import BOS_ID, EOS_ID, PAD_ID

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

THREADS = 1
CONTEXT = 512

Example = tuple[list[int], int]  # token ids, and how many at the start are not learnt


@dataclass(frozen=True)
class Progress:
    """How far a training is when a checkpoint is kept."""

    step: int
    tokens: int  # seen so far, padding not counted
    seconds: float
    shares: Mapping[str, float]  # of the tokens of all examples, by kind
    examples: int  # different ones


def train(
    recipe: Recipe,
    folder: Path,
    say: Callable[[str], None] | None = None,
    *,
    start: Path | None = None,
    label: Callable[[Path, Progress], None] | None = None,
) -> Path:
    """Make the model and put it at `folder`, which appears whole or not at all, with its checkpoints inside.

    start: the folder of the model that it goes on from. label: called with each checkpoint's folder, to say more there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary,
        _torch_settings(recipe.seed),
    ):
        made = Path(temporary) / "model"
        words = tokenizer.train(recipe.english_only)
        model = opened(start) if start else new_model(recipe, words.get_vocab_size())
        data = examples(recipe, words)
        shares, begun = token_shares(recipe, data), time.monotonic()

        def keep(step: int, tokens: int) -> None:
            at = made if step == recipe.steps else made / f"step-{step}"
            model.save_pretrained(at)
            tokenizer.save(words, at, CONTEXT, chat=recipe.chat)
            if label:
                label(at, Progress(step, tokens, time.monotonic() - begun, shares, len(data)))

        fit(model, recipe, data, say, keep)
        os.replace(made, folder)
    return folder


@contextmanager
def _torch_settings(seed: int) -> Iterator[None]:
    """Fixed threads and seed, without a trace in the caller's process."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def new_model(recipe: Recipe, vocabulary: int) -> Any:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=2 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )
    return LlamaForCausalLM(config)


def opened(folder: Path) -> Any:
    """A model that was made before, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def counts(recipe: Recipe) -> dict[str, int]:
    """Examples by kind."""
    total = sum(recipe.shares.values())
    return {kind: round(recipe.examples * share / total) for kind, share in recipe.shares.items()}


def pairs(recipe: Recipe) -> list[tuple[str, str]]:
    """(prompt, answer) of every training example; plain text has no prompt."""
    made: list[tuple[str, str]] = []
    for kind, count in counts(recipe).items():
        if kind in ("et", "en"):
            made += [("", text) for text in islice(stream.texts(kind, str(recipe.seed)), count)]
        else:
            made += islice(stream.instructions(kind, str(recipe.seed), recipe.chat), count)
    return made


def examples(recipe: Recipe, words: Tokenizer) -> list[Example]:
    """The training examples as token ids, from `<s>` to `</s>`, in the order of `counts`."""
    made: list[Example] = []
    for prompt, answer in pairs(recipe):
        prompt = tokenizer.chat_prompt(prompt) if recipe.chat else prompt
        ids = words.encode(f"{prompt} {answer}" if prompt else answer).ids
        made.append(([*ids, EOS_ID], len(words.encode(prompt).ids)))
    return made


def token_shares(recipe: Recipe, data: list[Example]) -> dict[str, float]:
    """Each kind's part of the tokens of `examples(recipe, ...)`."""
    lengths = iter([len(ids) for ids, _ in data])
    tokens = {kind: sum(islice(lengths, count)) for kind, count in counts(recipe).items()}
    return {kind: count / sum(tokens.values()) for kind, count in tokens.items()}


def batches(data: list[Example], size: int, r: random.Random) -> Iterator[list[Example]]:
    """Batches of similar length in random order, without end."""
    while True:
        order = sorted(range(len(data)), key=lambda at: len(data[at][0]) + 4 * r.random())
        starts = list(range(0, len(order), size))
        r.shuffle(starts)
        for start in starts:
            yield [data[at] for at in order[start : start + size]]


def tensors(items: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (batch, length), padded on the right, which needs no mask; -100 is not learnt."""
    import torch

    width = max(len(ids) for ids, _ in items)
    inputs = torch.tensor([ids + [PAD_ID] * (width - len(ids)) for ids, _ in items])
    targets = torch.tensor([[-100] * start + ids[start:] + [-100] * (width - len(ids)) for ids, start in items])
    return inputs[:, :-1], targets[:, 1:]


def fit(
    model: Any,
    recipe: Recipe,
    data: list[Example],
    say: Callable[[str], None] | None,
    keep: Callable[[int, int], None],
) -> None:
    """The training loop: AdamW, warm-up and cosine, gradients clipped at 1.

    keep: called with the steps done and the tokens seen after each step of `recipe.checkpoints`, and at the end.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.1, betas=(0.9, 0.98), fused=True)
    queue = batches(data, recipe.batch, random.Random(recipe.seed))
    model.train()
    tokens = 0
    for step in range(recipe.steps):
        rate = recipe.rate * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        optimizer.param_groups[0]["lr"] = rate
        items = next(queue)
        tokens += sum(len(ids) for ids, _ in items)
        inputs, targets = tensors(items)
        kept = targets != -100
        hidden = model.model(inputs, use_cache=False).last_hidden_state
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]), targets[kept])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if say and (step + 1) % 500 == 0:
            say(f"step {step + 1} of {recipe.steps}, loss {loss.item():.3f}")
        if step + 1 in recipe.checkpoints:
            keep(step + 1, tokens)
    model.eval()
    keep(recipe.steps, tokens)
