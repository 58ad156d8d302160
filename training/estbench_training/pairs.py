"""Preference pairs: the model's own answers, scored by rule or by a judge, the best against the worst.

    - name: pairs
      kind: pairs
      prompts: {rows: instructions, limit: 5000}           # or {task: mini_follow_chat}: its training split
      sample: {count: 4, temperature: 1.0, max_tokens: 512}
      score: {rule: exact}                                  # or {judge: {judge: MODEL@URL, rubric: helpfulness}}
      gap: 0.25

Pairs that somebody else made are taken over with `existing`; both may stand in one stage. rows.jsonl has the pairs,
manifest.json what became of every prompt, and how long the chosen and the rejected answers are. Samples and verdicts
go through estbench's stores of responses: what was computed or paid once is not asked again.

A model learns more from its own answers than from those of others (Tülu 3, arXiv 2411.15124, on-policy preferences).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from estbench.cards import Decontaminated
from estbench.errors import ConfigError, DataError, EngineError, ModelError
from estbench.runs import atomic, write_json
from estbench_training.kinds import Context, Kind, Say, StageSettings, is_path
from estbench_training.pair_rows import ExistingSettings, Pair, existing, read_prompts
from estbench_training.prepare.settings import DecontaminateSettings
from estbench_training.provenance import Known, Provenance, of_folder
from estbench_training.rows import MANIFEST, ROWS
from estbench_training.scorers import (
    JudgeScorer,
    JudgeSettings,
    Prompt,
    RuleScorer,
    Scorer,
    TaskScorer,
    judge_keys,
    located,
    same_prompt,
    with_system,
)
from estbench_training.sieve import REASON, Choice, Sieve, tests_of, text_of

if TYPE_CHECKING:
    from estbench.engines.base import Generated
    from estbench_training.recipe import Recipe

SCHEMA = 2  # of the manifest
SEEDS = 2**31 - 1  # seeds of sampling are below it


@dataclass(frozen=True)
class PromptSettings:
    """Where prompts come from: rows, or a split of a task that it is not tested on."""

    rows: str | None = None  # an earlier stage that makes rows, or a JSONL or Parquet file
    task: str | None = None  # a task of estbench in chat form; what it is tested on is never taken
    split: str | None = None  # of the task's data set; default is the one that its examples come from
    field: str = "prompt"  # of rows that have no messages: the user's text
    system: str | None = None  # a system message in front of prompts that have none
    limit: int | None = None  # so many prompts, drawn with the stage's seed

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.task is None):
            raise ConfigError("prompts: has to say either rows: or task:.")
        if self.split is not None and self.task is None:
            raise ConfigError("prompts, split: is for prompts of a task.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"prompts, limit: {self.limit} is below 1.")


@dataclass(frozen=True)
class SampleSettings:
    """How the model answers."""

    count: int = 4  # answers to a prompt
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512  # an answer that is not finished then is left out
    engine: Literal["hf", "vllm"] = "hf"
    options: Mapping[str, str] = field(default_factory=dict)  # engine.KEY of `estbench eval`

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(f"sample, count: {self.count}: a pair needs at least 2 answers.")
        if self.temperature <= 0:
            raise ConfigError(f"sample, temperature: {self.temperature}: answers only differ above 0.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sample, top_p: {self.top_p} is not above 0 and at most 1.")
        if self.max_tokens < 1:
            raise ConfigError(f"sample, max_tokens: {self.max_tokens} is below 1.")


@dataclass(frozen=True)
class ScoreSettings:
    """Who says what an answer is worth: a rule, or judges."""

    rule: Literal["task", "exact", "f1", "ifeval", "follow"] | None = None
    judge: JudgeSettings | None = None

    def __post_init__(self) -> None:
        if (self.rule is None) == (self.judge is None):
            raise ConfigError("score: has to say either rule: or judge:.")


@dataclass(frozen=True)
class PairSettings(StageSettings):
    """The keys of a stage of pairs."""

    unkeyed: ClassVar[tuple[str, ...]] = ()

    prompts: PromptSettings | None = None
    sample: SampleSettings = field(default_factory=SampleSettings)
    score: ScoreSettings | None = None
    missing: float = 0.1  # share of scores that may be missing (failed calls, no verdict); more is an error
    gap: float = 0.25  # least difference of the two scores, which lie between 0 and 1 (a judge's grade is 0.25)
    existing: Mapping[str, ExistingSettings] = field(default_factory=dict)  # by the name of the source
    decontaminate: Choice = field(default_factory=DecontaminateSettings)  # of files: pairs of others, prompts

    def __post_init__(self) -> None:
        if self.prompts is None and not self.existing:
            raise ConfigError("it has to say prompts: and score:, or existing:, or both.")
        if (self.prompts is None) != (self.score is None):
            raise ConfigError("prompts: and score: go together.")
        if not 0 <= self.missing <= 1:
            raise ConfigError(f"missing: {self.missing} is no share from 0 to 1.")
        if not 0 < self.gap <= 1:
            raise ConfigError(f"gap: {self.gap} is not above 0 and at most 1.")
        if self.score is not None and self.score.rule == "task" and (self.prompts is None or not self.prompts.task):
            raise ConfigError("score, rule: task is for prompts of a task.")

    def inputs(self) -> tuple[str, ...]:
        rows = self.prompts.rows if self.prompts else None
        return (rows,) if rows is not None and not is_path(rows) else ()

    def files(self) -> tuple[str, ...]:
        rows = self.prompts.rows if self.prompts else None
        own = (rows,) if rows is not None and is_path(rows) else ()
        return (*own, *(one.path for one in self.existing.values()))

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        from estbench_training.instructions.reading import task_key

        judge = self.score.judge if self.score else None
        found = judge_keys(located(judge, recipe.path)) if judge is not None else {}
        if self.prompts is not None and self.prompts.task is not None:
            found["prompts"] = task_key(self.prompts.task, self.prompts.split)
        return found | (tests_of(self.decontaminate, recipe) if self.files() else {})


# --- choosing ---------------------------------------------------------------------------------------------------------


def choose(scores: Sequence[float | None], gap: float, key: str) -> tuple[int, int] | str:
    """(best, worst) of a prompt's answers, or why there is no pair. Ties are drawn by a hash of key and place: taking
    the first or the longest would teach a model what is not in the scores."""
    known = [place for place, score in enumerate(scores) if score is not None]
    if len(known) < 2:
        return "fewer than two scored answers"

    def order(place: int) -> tuple[float, str]:
        score = scores[place]
        assert score is not None
        return score, hashlib.sha256(f"{key}/{place}".encode()).hexdigest()

    worst, best = min(known, key=order), max(known, key=order)
    if order(best)[0] - order(worst)[0] < gap - 1e-9:
        return "no gap"
    return best, worst


def different(texts: Iterable[str]) -> list[str]:
    """The texts, each once: white space at the ends makes no difference."""
    kept: dict[str, str] = {}
    for text in texts:
        kept.setdefault(text.strip(), text)
    return list(kept.values())


def pairs_of(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[str]], scorer: Scorer, gap: float, seed: int, say: Say
) -> tuple[list[Pair], Counter[str], list[float]]:
    """The pairs, why other prompts have none (and how many scores are missing), and all scores that there are."""
    made, why, known = [], Counter[str](), []
    scores = scorer.score(prompts, answers, say)
    for prompt, texts, row in zip(prompts, answers, scores, strict=True):
        known += [score for score in row if score is not None]
        why["scores missing"] += row.count(None)
        chosen = choose(row, gap, f"{seed}/{prompt.source}/{prompt.id}")
        if isinstance(chosen, str):
            why[chosen] += 1
            continue
        best, worst = chosen
        made.append(Pair(prompt.id, prompt.source, prompt.messages, texts[best], texts[worst], row[best], row[worst]))
    return made, +why, known


# --- sampling ---------------------------------------------------------------------------------------------------------


def seeds(seed: int, count: int) -> list[int]:
    """The seed of each answer to a prompt: others for each seed of the stage."""
    return [int(hashlib.sha256(f"{seed}/{place}".encode()).hexdigest(), 16) % SEEDS for place in range(count)]


def sample(
    model: Path, prompts: Sequence[Prompt], settings: SampleSettings, seed: int, say: Say
) -> tuple[list[list[Generated]], Counter[str], dict[str, Any]]:
    """Each prompt's answers, why others are missing, and whose answers they are.

    Everything goes through estbench's store of responses, so that what a killed command has computed stays.
    ModelError: a model without a chat template. EngineError: the engine died, or nothing was answered.
    """
    from estbench import engines, identity
    from estbench.answering import Questions, answer
    from estbench.config import EvalSettings
    from estbench.engines.base import Decoding, Generated, Request
    from estbench.responses import ResponseStore

    given = EvalSettings(model=str(model), engine=settings.engine, engine_options=dict(settings.options))
    engines.check_parts(settings.engine)
    checkpoint = engines.find_model(given, say)
    if not checkpoint.has_chat_template:
        raise ModelError(f"{model} has no chat template, in which it could be asked: pairs are made after sft.")
    tokens = engines.tokens_of(given, checkpoint)
    engine = engines.make(given, checkpoint, tokens, say)
    try:
        fingerprint = {"model": checkpoint.fingerprint(), "engine": engine.fingerprint()}
        response_id = identity.digest(fingerprint)
        texts = tokens.encode([tokens.chat(list(prompt.messages)) for prompt in prompts])
        fits = [len(ids) + settings.max_tokens <= engine.max_length for ids in texts]
        keys: list[list[str]] = [[] for _ in prompts]
        plans = []
        for place, own in enumerate(seeds(seed, settings.count), 1):
            decoding = Decoding(settings.max_tokens, (), settings.temperature, settings.top_p, own)
            asked: dict[str, Request] = {}
            for kept, ids, fit in zip(keys, texts, fits, strict=True):
                if fit:
                    request = Request(ids, decoding=decoding)
                    kept.append(identity.response_key(response_id, request.content()))
                    asked[kept[-1]] = request
            plans.append(Questions(f"answer {place}", asked))
        with ResponseStore(response_id) as store:
            store.check_writable()
            found = answer(plans, engine, store, checkpoint.check_unchanged, say)
    finally:
        engine.close()
    lost = Counter({"prompts longer than the context": fits.count(False), "answers failed": len(found.failures)})
    given_ = [[found.responses[key] for key in kept if key in found.responses] for kept in keys]
    return [[one for one in row if isinstance(one, Generated)] for row in given_], +lost, fingerprint


# --- prompts ----------------------------------------------------------------------------------------------------------


def distinct(prompts: Iterable[Prompt]) -> tuple[list[Prompt], int]:
    """The prompts, each once, and how many were there before."""
    kept: dict[str, Prompt] = {}
    repeated = 0
    for prompt in prompts:
        key = same_prompt(prompt.messages)
        repeated += key in kept
        kept.setdefault(key, prompt)
    return list(kept.values()), repeated


def drawn(prompts: Sequence[Prompt], limit: int | None, seed: int) -> list[Prompt]:
    """At most `limit` prompts in their order, by the order of a hash of seed and content."""
    if limit is None or limit >= len(prompts):
        return list(prompts)
    order = sorted(
        range(len(prompts)),
        key=lambda place: hashlib.sha256(f"{seed}/{same_prompt(prompts[place].messages)}".encode()).hexdigest(),
    )
    return [prompts[place] for place in sorted(order[:limit])]


# --- the stage --------------------------------------------------------------------------------------------------------


def run(settings: PairSettings, context: Context) -> None:
    """Make the pairs, and say what became of every prompt."""
    pairs: list[Pair] = []
    manifest: dict[str, Any] = {"schema": SCHEMA, "seed": context.seed, "gap": settings.gap}
    sieve = Sieve(settings.decontaminate, context)
    for source, given in settings.existing.items():
        read, why = existing(given, context.path(given.path), source)
        found = list(sieve.keep(read, lambda one: text_of([*one.prompt, *_said(one.chosen, one.rejected)])))
        why += Counter({REASON: len(read) - len(found)})
        pairs += found
        entry = {"pairs": len(found), "left_out": dict(why), "licence": given.licence, "url": given.url}
        manifest.setdefault("existing", {})[source] = entry
        context.say(f"{source}: {len(found):,} pairs{_in_words(why)}.")
    if settings.prompts is not None:
        made, manifest["on_policy"] = _on_policy(settings, settings.prompts, context, sieve)
        pairs += made
    unique = {(same_prompt(one.prompt), one.chosen.strip(), one.rejected.strip()): one for one in reversed(pairs)}
    kept = list(unique.values())[::-1]
    manifest |= {"pairs": len(kept), "repeated_pairs": len(pairs) - len(kept), "lengths": lengths(kept)}
    if not kept:
        raise DataError(f"Stage {context.stage.name!r} made no pair{_in_words(_reasons(manifest))}.")
    context.say(_length_words(manifest["lengths"]))
    manifest |= {"sha256": write_rows(context.folder / ROWS, (one.row() for one in kept)), "files": sieve.row()}
    write_json(context.folder / MANIFEST, manifest | _provenance(settings, context, kept, sieve).row())


def _provenance(settings: PairSettings, context: Context, kept: Iterable[Pair], sieve: Sieve) -> Provenance:
    """Licences of the pairs' sources, and how tests were kept out of the pairs of others and of the prompts. A task's
    prompts are held against its own tests only, which counts as not decontaminated."""
    sources = {one.source: Known() for one in kept}
    parts: list[Decontaminated | None] = []
    rows = settings.prompts.rows if settings.prompts else None
    if rows is not None and (path := context.source(rows)).is_dir():
        before = of_folder(path)
        sources |= {name: known for name, known in before.sources.items() if name in sources}
        parts += before.decontaminated
    elif settings.prompts is not None and settings.prompts.task is not None:
        parts.append(None)
    sources |= {name: Known(one.licence, one.url) for name, one in settings.existing.items() if name in sources}
    if settings.existing or (rows is not None and not context.source(rows).is_dir()):
        parts.append(sieve.result)
    return Provenance(sources, tuple(parts))


def _said(*answers: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text} for text in answers]


def _on_policy(
    settings: PairSettings, asked: PromptSettings, context: Context, sieve: Sieve
) -> tuple[list[Pair], dict[str, Any]]:
    """Pairs of the model's own answers, and the manifest's entry."""
    assert settings.score is not None
    task = TaskScorer(asked.task, asked.split) if asked.task is not None else None
    scorer = _scorer(settings.score, task, context)  # what can't be is found before anything is sampled
    found, repeated = distinct(task.prompts() if task else _rows(asked, context, sieve))
    prompts = [with_system(one, asked.system) for one in drawn(found, asked.limit, context.seed)]
    if not prompts:
        raise DataError(f"Stage {context.stage.name!r} has no prompts: {asked.rows or asked.task} is empty.")
    answers, lost, whose = sample(context.start, prompts, settings.sample, context.seed, context.say)
    texts = [different(one.text for one in row if one.finish == "stop") for row in answers]
    unfinished = sum(one.finish != "stop" for row in answers for one in row)
    made, why, scores = pairs_of(prompts, texts, scorer, settings.gap, context.seed, context.say)
    context.say(f"{len(made):,} pairs of {len(prompts):,} prompts{_in_words(why + lost)}.")
    if why["scores missing"] > settings.missing * sum(map(len, texts)):
        raise EngineError(
            f"{why['scores missing']:,} of {sum(map(len, texts)):,} answers have no score: the same command asks again "
            f"what failed; missing: allows more than {settings.missing:.0%}."
        )
    return made, {
        "prompts": len(prompts),
        "repeated_prompts": repeated,
        "answers": sum(map(len, answers)),
        "unfinished": unfinished,
        "different": sum(map(len, texts)),
        "scored": len(scores),
        "pairs": len(made),
        "left_out": dict(why + lost),
        "mean_score": _mean(scores),
        "mean_chosen_score": _mean([one.chosen_score for one in made if one.chosen_score is not None]),
        "mean_rejected_score": _mean([one.rejected_score for one in made if one.rejected_score is not None]),
        "sample": dataclasses.asdict(settings.sample) | {"seeds": seeds(context.seed, settings.sample.count)},
        "scorer": scorer.report(),
        "model": whose,
    }


def _scorer(settings: ScoreSettings, task: TaskScorer | None, context: Context) -> Scorer:
    if settings.judge is not None:
        return JudgeScorer(located(settings.judge, context.path), str(context.start))
    assert settings.rule is not None
    if settings.rule == "task":
        assert task is not None
        return task
    return RuleScorer(settings.rule)


def _rows(asked: PromptSettings, context: Context, sieve: Sieve) -> Iterator[Prompt]:
    assert asked.rows is not None
    path = context.source(asked.rows)
    source = path.stem if is_path(asked.rows) else asked.rows
    found = read_prompts(path, asked.field, source)
    return found if path.is_dir() else sieve.keep(found, lambda prompt: text_of(prompt.messages))


def lengths(pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean characters of chosen and rejected answers, and the share of pairs (of different lengths) whose chosen one is
    longer: far from one half, a model learns to write long or short."""
    chosen, rejected = [len(one.chosen) for one in pairs], [len(one.rejected) for one in pairs]
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    unequal = sum(a != b for a, b in zip(chosen, rejected, strict=True))
    return {
        "chosen": round(sum(chosen) / max(1, len(pairs)), 1),
        "rejected": round(sum(rejected) / max(1, len(pairs)), 1),
        "chosen_longer": round(longer / unequal, 4) if unequal else 0.5,
    }


def _length_words(found: Mapping[str, float]) -> str:
    return (
        f"Chosen answers have {found['chosen']:,.0f} characters on average, rejected ones {found['rejected']:,.0f}; "
        f"the chosen one is the longer in {found['chosen_longer']:.0%}."
    )


def _reasons(manifest: Mapping[str, Any]) -> Counter[str]:
    parts = [*manifest.get("existing", {}).values(), manifest.get("on_policy", {})]
    return sum((Counter(part.get("left_out", {})) for part in parts), Counter[str]())


def _in_words(why: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count:,} {reason}' for reason, count in why.items())})" if why else ""


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write JSON lines, whole or not at all; their SHA-256."""
    digest = hashlib.sha256()
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for row in rows:
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


PAIRS = Kind("pairs", PairSettings, run, version=2)
