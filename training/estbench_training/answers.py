"""Answers: what a model itself says to prompts, as rows for SFT (self-calibration).

    - name: answers
      kind: answers
      model: meta-llama/Llama-3.1-8B-Instruct             # whose answers; default is the model before
      prompts: {rows: instructions, limit: 20000}
      sample: {temperature: 0.7, max_tokens: 1024, engine: vllm}
    - name: calibrated
      kind: sft
      model: lep                                          # the model that learns them
      data: answers

A model whose embeddings were exchanged (`lep`) is tuned on what it said before (Tikhomirov & Chernyshev 2024, arXiv
2412.21140): answers of the target, learnt by the propagated model. An answer that is cut off, empty, goes in circles or
holds a part of a test is left out and counted. Answers go through estbench's store of responses: what a killed command
has computed is not computed again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from estbench.cards import Decontaminated
from estbench.checkpoint import Checkpoint
from estbench.errors import ConfigError, DataError, ModelError
from estbench.runs import write_json
from estbench_training import pairs
from estbench_training.kinds import Context, Kind, StageSettings, is_path
from estbench_training.pair_rows import read_prompts
from estbench_training.pairs import PromptSettings, SampleSettings
from estbench_training.prepare.settings import DecontaminateSettings
from estbench_training.provenance import Known, Provenance, of_folder
from estbench_training.rows import MANIFEST, ROWS
from estbench_training.scorers import Prompt, TaskScorer, with_system
from estbench_training.sieve import REASON, Choice, Sieve, tests_of, text_of

if TYPE_CHECKING:
    from estbench.engines.base import Generated
    from estbench_training.recipe import Recipe

SCHEMA = 1  # of the manifest
LONGEST = 64  # words that may make a circle


@dataclass(frozen=True)
class AnswerSampling(SampleSettings):
    """How the model answers: once and greedily, unless the recipe says otherwise."""

    count: int = 1  # answers to a prompt
    temperature: float = 0.0  # 0: greedy
    max_tokens: int = 1024  # an answer that is not finished then is left out

    def __post_init__(self) -> None:
        if self.count < 1 or self.max_tokens < 1:
            raise ConfigError("count and max_tokens have to be 1 or more.")
        if self.temperature < 0:
            raise ConfigError(f"temperature: {self.temperature} is below 0.")
        if self.temperature == 0 and self.count > 1:
            raise ConfigError(f"count: {self.count} greedy answers would be the same: raise the temperature.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: {self.top_p} is not above 0 and at most 1.")


@dataclass(frozen=True)
class AnswerSettings(StageSettings):
    """The keys of a stage of answers."""

    prompts: PromptSettings
    sample: AnswerSampling = field(default_factory=AnswerSampling)
    circles: int | None = 4  # the same words so often in a row, over half of an answer, are a circle; null: not looked
    decontaminate: Choice = field(default_factory=DecontaminateSettings)  # of answers, and of prompts from files

    def __post_init__(self) -> None:
        if self.circles is not None and self.circles < 2:
            raise ConfigError(f"circles: {self.circles} is below 2; null doesn't look for them.")

    def inputs(self) -> tuple[str, ...]:
        rows = self.prompts.rows
        return (rows,) if rows is not None and not is_path(rows) else ()

    def files(self) -> tuple[str, ...]:
        rows = self.prompts.rows
        return (rows,) if rows is not None and is_path(rows) else ()

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        from estbench_training.instructions.reading import task_key

        asked = self.prompts
        task = {} if asked.task is None else {"prompts": task_key(asked.task, asked.split)}
        return task | tests_of(self.decontaminate, recipe)


# --- which answers are learnt -----------------------------------------------------------------------------------------


def circling(text: str, times: int) -> bool:
    """Whether the same words, up to 64 of them, stand `times` times or more in a row, and that is half of the text or
    more. White space makes no difference."""
    words = text.split()
    for period in range(1, min(LONGEST, len(words) // times) + 1):
        run = 0
        for place in range(period, len(words)):
            run = run + 1 if words[place] == words[place - period] else 0
            covered = run + period
            if covered >= times * period and 2 * covered >= len(words):
                return True
    return False


def learnable(answers: Sequence[Generated], circles: int | None) -> tuple[list[str], Counter[str]]:
    """The texts of a prompt's answers that are worth learning, each once, and why others are not."""
    why = Counter[str]()
    kept = []
    for one in answers:
        if one.finish != "stop":
            why["not finished"] += 1
        elif not one.text.strip():
            why["empty"] += 1
        elif circles is not None and circling(one.text, circles):
            why["goes in circles"] += 1
        else:
            kept.append(one.text)
    different = pairs.different(kept)
    why["said before"] = len(kept) - len(different)
    return different, +why


# --- the stage --------------------------------------------------------------------------------------------------------


def run(settings: AnswerSettings, context: Context) -> None:
    """Ask, choose, write rows.jsonl and manifest.json."""
    if not Checkpoint(context.start, context.start.name).has_chat_template:
        raise ModelError(
            f"{context.start} has no chat template, in which it could be asked: say whose answers, model:."
        )
    sieve = Sieve(settings.decontaminate, context)
    found, repeated = pairs.distinct(_prompts(settings.prompts, context, sieve))
    prompts = [
        with_system(one, settings.prompts.system) for one in pairs.drawn(found, settings.prompts.limit, context.seed)
    ]
    if not prompts:
        raise DataError(f"Stage {context.stage.name!r} has no prompts{_why(Counter({REASON: sieve.removed}))}.")
    asked_away = sieve.removed
    answers, why, whose = pairs.sample(context.start, prompts, settings.sample, context.seed, context.say)
    rows: list[dict[str, Any]] = []
    for prompt, given in zip(prompts, answers, strict=True):
        texts, left = learnable(given, settings.circles)
        why += left
        rows += [_row(prompt, text, place) for place, text in enumerate(texts, 1)]
    kept = list(sieve.keep(rows, lambda row: text_of(row["messages"][-1:])))
    why += Counter({REASON: len(rows) - len(kept)})
    context.say(f"{len(kept):,} answers to {len(prompts):,} prompts{_why(why)}.")
    if not kept:
        raise DataError(f"Stage {context.stage.name!r} has no answer to learn from{_why(why)}.")
    manifest = {
        "schema": SCHEMA,
        "seed": context.seed,
        "rows": len(kept),
        "sha256": pairs.write_rows(context.folder / ROWS, kept),
        "prompts": len(prompts),
        "prompts_left_out": dict(+Counter({"said before": repeated, REASON: asked_away})),
        "answers": sum(map(len, answers)),
        "left_out": dict(why),
        "sample": dataclasses.asdict(settings.sample) | {"seeds": pairs.seeds(context.seed, settings.sample.count)},
        "model": whose,
        "files": sieve.row(),
    }
    write_json(context.folder / MANIFEST, manifest | _provenance(settings, context, kept, sieve).row())


def _prompts(asked: PromptSettings, context: Context, sieve: Sieve) -> Iterator[Prompt]:
    """The prompts of rows, those of a file without what holds a part of a test; or of a task's training split."""
    if asked.task is not None:
        return iter(TaskScorer(asked.task, asked.split).prompts())
    assert asked.rows is not None
    path = context.source(asked.rows)
    found = read_prompts(path, asked.field, path.stem if is_path(asked.rows) else asked.rows)
    return found if path.is_dir() else sieve.keep(found, lambda prompt: text_of(prompt.messages))


def _row(prompt: Prompt, text: str, place: int) -> dict[str, Any]:
    messages = [*prompt.messages, {"role": "assistant", "content": text}]
    return {"messages": messages, "source": prompt.source, "id": prompt.id + (f"-{place}" if place > 1 else "")}


def _provenance(
    settings: AnswerSettings, context: Context, kept: Sequence[Mapping[str, Any]], sieve: Sieve
) -> Provenance:
    """Licences of the prompts' sources, and how tests were kept out of prompts and answers. A task's prompts are held
    against its own tests only, which counts as not decontaminated."""
    sources = {str(row["source"]): Known() for row in kept}
    before: tuple[Decontaminated | None, ...] = (None,) if settings.prompts.task is not None else ()
    rows = settings.prompts.rows
    if rows is not None and (path := context.source(rows)).is_dir():
        known = of_folder(path)
        sources |= {name: one for name, one in known.sources.items() if name in sources}
        before = known.decontaminated
    return Provenance(sources, (*before, sieve.result))


def _why(why: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{reason} {count:,}' for reason, count in why.items())})" if +Counter(why) else ""


ANSWERS = Kind("answers", AnswerSettings, run)
