"""What a vocabulary changes: tokens of the same answers, and the time that it takes to write them.

    counts = tokens(model, "mini_translate_en_et_chat")            # of each reference answer
    found = fewer(candidate, baseline, tasks)                      # paired, as `compare` pairs scores
    speeds = write({"old": folder, "new": folder}, task)           # each model writes the same answers, token by token

Answers are the references of a task's test documents, so that both models write the very same text: what differs is
how many steps it takes, and not what they say.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from estbench import report, stats
from estbench.demo import tasks as world
from estbench_training.story.claims import Found, Row
from estbench_training.story.results import Writing

ROUNDS = 3  # models take turns; the median counts
ANSWERS = 64  # that are written


def texts(task: str) -> list[tuple[str, str]]:
    """(prompt, answer) of a mini task's test documents, as in a chat."""
    name = task.removesuffix("_fresh").removesuffix("_chat")
    docs = world.rows(name, fresh=task.endswith("_fresh"))["test"]
    return [(world.prompt(name, doc, chat=True), world.answer(name, doc)) for doc in docs]


def files(folder: Path) -> dict[str, Path]:
    """Texts of the small world that no corpus has, as files: language -> path."""
    found = {}
    for language, task in (("et", "mini_translate_en_et"), ("en", "mini_translate_et_en")):
        found[f"world-{language}"] = path = folder / f"world-{language}.txt"
        report.write(path, "".join(f"{answer}\n" for _, answer in texts(task)))
    return found


@cache
def _tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def tokens(model: Path, task: str) -> list[int]:
    """How many tokens each answer takes, as it stands behind its prompt."""
    tokenizer = _tokenizer(model)
    return [len(tokenizer.encode(f" {answer}", add_special_tokens=False)) for _, answer in texts(task)]


def fewer(candidate: Path, baseline: Path, names: Sequence[str]) -> Found:
    """Tokens an answer, paired by answer; `a` where the candidate takes fewer."""
    return Found(tuple(_paired(name, tokens(candidate, name), tokens(baseline, name)) for name in names))


def _paired(task: str, one: Sequence[int], other: Sequence[int]) -> Row:
    found = stats.difference(one, other, span=None, higher_is_better=False)
    low, high = found.interval()
    p, value = found.p_value(), found.value
    status = "equal" if list(one) == list(other) else "open" if p > 0.05 or not value else "a" if value > 0 else "b"
    return Row(
        task=task,
        status=status,
        n=found.n,
        candidate=statistics.fmean(one),
        baseline=statistics.fmean(other),
        difference=None if value is None else -value,  # tokens, as they are: fewer is below 0
        low=None if high is None else -high,
        high=None if low is None else -low,
        p=p,
        detectable=found.detectable(0.025),
        unit="tokens",
    )


def write(models: Mapping[str, Path], task: str, *, answers: int = ANSWERS) -> dict[str, Writing]:
    """Let each model write the same answers, and measure its CPU time. Models take turns, round by round."""
    opened = {name: (_opened(folder), _ids(folder, task, answers)) for name, folder in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, (model, pairs) in opened.items():
            begun = time.process_time()
            for asked, answer in pairs:
                _written(model, asked, answer)
            seconds[name].append(time.process_time() - begun)
    characters = sum(len(answer) for _, answer in texts(task)[:answers])
    return {
        name: Writing(
            answers=len(pairs),
            characters=characters,
            tokens=sum(len(answer) for _, answer in pairs),
            cpu_seconds=round(statistics.median(seconds[name]), 2),
        )
        for name, (_, pairs) in opened.items()
    }


def _opened(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def _ids(folder: Path, task: str, answers: int) -> list[tuple[list[int], list[int]]]:
    tokenizer = _tokenizer(folder)
    return [
        (tokenizer.encode(prompt), tokenizer.encode(f" {answer}", add_special_tokens=False))
        for prompt, answer in texts(task)[:answers]
    ]


def _written(model: Any, asked: Sequence[int], answer: Sequence[int]) -> None:
    """Read the prompt, then take the answer's tokens one by one, as generation does."""
    import torch

    with torch.inference_mode():
        past = model(torch.tensor([list(asked)]), use_cache=True).past_key_values
        for token in answer:
            past = model(torch.tensor([[token]]), past_key_values=past, use_cache=True).past_key_values
