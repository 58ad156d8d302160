"""DPO: a model learns which of two answers is the better one, on TRL's DPOTrainer.

    - name: dpo
      kind: dpo
      data: pairs                    # stages of pairs, or JSONL or Parquet files with prompt, chosen, rejected
      loss: sigmoid                  # or sigmoid_norm (Tülu 3's: mean log-probability of a token, beta 5), ipo
      rate: 5e-7
      batch: 32

With logps summed over an answer's tokens (its end token included), π the model and ref the model at the start,

    sigmoid        −log σ(β·(Δ(chosen) − Δ(rejected))),  Δ(y) = log π(y|x) − log ref(y|x)     arXiv 2305.18290, eq. 7
    sigmoid_norm   the same with Δ(y) / |y|                                                   arXiv 2411.15124
    ipo            (Δ(chosen)/|chosen| − Δ(rejected)/|rejected| − 1/(2β))²                    arXiv 2310.12036, eq. 17

so that the first loss is ln 2 (or 1/(4β²)), which is looked at: another one means that policy and reference are not
the same model. The reference's log-probabilities are computed once (`reference`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from estbench.errors import ConfigError, DataError, EngineError
from estbench.runs import write_json
from estbench_training import rows, templates, tuning
from estbench_training.cpt import schedule as schedules
from estbench_training.cpt.logs import Record
from estbench_training.cpt.settings import Logging, Lora, Optimizer, Precision, Save
from estbench_training.evaluation import EvaluateSettings
from estbench_training.kinds import Context, Kind, StageSettings, is_path
from estbench_training.prepare.settings import DecontaminateSettings
from estbench_training.provenance import Known, Provenance, of_folder
from estbench_training.reference import EncodedPair, encode, key_of, trainer
from estbench_training.sieve import REASON, Choice, Sieve, tests_of, text_of
from estbench_training.templates import check_name
from estbench_training.tuned import DATA, SoFar, Tuned, common

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe
    from estbench_training.templates import Chat

Loss = Literal["sigmoid", "sigmoid_norm", "ipo"]
BETAS: Mapping[str, float] = {"sigmoid": 0.1, "sigmoid_norm": 5.0, "ipo": 0.1}  # the papers above
NEAR = {"fp32": 1e-3, "bf16": 0.05, "bf16_pure": 0.1}  # how far the first loss may be from what it has to be


@dataclass(frozen=True)
class DpoLora:
    """Low-rank adaptation (arXiv 2106.09685), merged when the model is exported. Without dropout: TRL's DPO has none,
    since a policy with dropout is not its reference."""

    rank: int = 32
    alpha: int = 32
    modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(f"lora: rank {self.rank} has to be 1 or more, alpha {self.alpha} above 0.")
        if "lm_head" in (self.modules if isinstance(self.modules, tuple) else (self.modules,)):
            raise ConfigError("lora: TRL takes the loss from lm_head's own weights; an adapter there learns nothing.")

    @property
    def full(self) -> Lora:
        """The same as the other stages have it."""
        return Lora(self.rank, self.alpha, 0.0, self.modules)


@dataclass(frozen=True)
class DpoSettings(StageSettings):
    """The keys of a dpo stage. Rate, schedule, warm-up, epochs and max_length are Tülu 3's of its 8B model (arXiv
    2411.15124), other defaults our choice."""

    data: str | tuple[str, ...]  # stages of pairs, or files
    template: str = "auto"  # the model's own, a family, or a .jinja file
    loss: Loss = "sigmoid"
    beta: float | None = None  # 0.1; 5 for sigmoid_norm
    rate: float = 5e-7
    min_rate: float = 0.0
    schedule: schedules.Schedule = "linear"
    warmup: float = 0.1  # share of the steps (< 1), or steps (>= 1)
    decay: float = 0.1  # wsd: share of the steps at the end
    decay_shape: schedules.DecayShape = "1-sqrt"
    epochs: float = 1.0
    steps: int | None = None  # instead of epochs
    batch: int = 128  # pairs of an optimizer step, over all processes
    micro_batch: int = 1  # pairs that a process computes at once
    max_length: int = 2048  # tokens of prompt and answer
    too_long: Literal["error", "drop", "truncate"] = "error"  # pairs of which a side is longer; truncate: its end
    bad_rows: Literal["error", "drop"] = "error"  # with an empty chosen answer, or control tokens in the text
    decontaminate: Choice = field(
        default_factory=DecontaminateSettings
    )  # of files; stages of pairs have looked already
    limit: int | None = None  # only so many pairs, the first ones
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(betas=(0.9, 0.999), weight_decay=0.0))
    precision: Precision = "bf16"  # bf16: weights are kept and updated in fp32, computed with in bf16
    lora: DpoLora | None = None
    shard: Literal["none", "full"] = "none"  # full: weights, gradients and optimizer state over all processes (FSDP2)
    activation_checkpointing: bool = False
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    save: Save = field(default_factory=lambda: Save(every=200))
    evaluate: EvaluateSettings | None = None
    logging: Logging = field(default_factory=Logging)

    unkeyed: ClassVar[tuple[str, ...]] = (
        "micro_batch",
        "shard",
        "activation_checkpointing",
        "attention",
        "save",
        "logging",
    )

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("data: is empty: name a stage of pairs or a file.")
        check_name(self.template)
        schedules.check(self)
        tuning.check_batch(self)
        for name in ("steps", "max_length", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value} has to be 1 or more.")
        if self.epochs <= 0:
            raise ConfigError(f"epochs: {self.epochs:g} has to be above 0.")
        if self.beta is not None and self.beta <= 0:
            raise ConfigError(f"beta: {self.beta:g} has to be above 0.")
        if self.lora is not None and self.shard == "full":
            raise ConfigError("shard: full is for the whole model; with lora: leave it out, each process has a copy.")

    @property
    def sources(self) -> tuple[str, ...]:
        """The stages and files that the pairs come from."""
        return (self.data,) if isinstance(self.data, str) and self.data else tuple(self.data)

    @property
    def strength(self) -> float:
        """beta, given or the loss's usual one."""
        return BETAS[self.loss] if self.beta is None else self.beta

    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.sources if not is_path(name))

    def files(self) -> tuple[str, ...]:
        own = tuple(name for name in self.sources if is_path(name))
        return (*own, self.template) if self.template.endswith(".jinja") else own

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        files = any(not name.endswith(".jinja") for name in self.files())
        return templates.digests(self.template) | (tests_of(self.decontaminate, recipe) if files else {})


# --- the stage --------------------------------------------------------------------------------------------------------


def read_pairs(settings: DpoSettings, context: Context, sieve: Sieve) -> Iterator[Mapping[str, Any]]:
    """The rows of all sources, in order; those of files where they hold no part of a test."""
    for name in settings.sources:
        path = context.source(name)
        found = rows.read_pairs(path)
        yield from found if path.is_dir() else sieve.keep(found, said)


def said(pair: Mapping[str, Any]) -> str:
    """All that is said in a pair."""
    return text_of([*pair["prompt"], *pair["chosen"], *pair["rejected"]])


def provenance(settings: DpoSettings, context: Context, sieve: Sieve) -> Provenance:
    """What the stages that are read say of their data, and what the sieve has done with that of files."""
    paths = [context.source(name) for name in settings.sources]
    known = [of_folder(path) for path in paths if path.is_dir()]
    sources: dict[str, Known] = {}
    for one in reversed(known):
        sources |= one.sources
    kept = [part for one in known for part in one.decontaminated]
    return Provenance(sources, (*kept, *([sieve.result] if len(known) < len(paths) else [])))


def run(settings: DpoSettings, context: Context) -> None:
    """Train, and leave the model. An interrupted stage goes on from its last whole checkpoint."""
    if (context.model_folder / "config.json").is_file():  # killed after it had appeared
        return
    tuning.quiet()
    tuning.check_processes(settings, context.say)
    chat = _chat(settings, context)
    sieve = Sieve(settings.decontaminate, context)
    pairs, counts = encode(
        chat, read_pairs(settings, context, sieve), settings.max_length, settings.too_long, settings.bad_rows
    )
    counts += Counter({REASON: sieve.removed})
    pairs = pairs[: settings.limit]
    if not pairs:
        raise DataError(f"Stage {context.stage.name!r} has no pairs to learn from{_in_words(counts)}.")
    context.say(f"{len(pairs):,} pairs{_in_words(counts)}; {settings.loss}, beta {settings.strength:g}.")
    facts = {"left_out": dict(counts), "provenance": provenance(settings, context, sieve).row()}
    with tuning.without_remarks():
        made = Training(settings, context, chat, pairs, facts)
        if made.main:
            write_json(context.folder / DATA, made.report())
        made.train()
    made.export()


def _chat(settings: DpoSettings, context: Context) -> Chat:
    from estbench_training.shards import load_tokenizer
    from estbench_training.templates import open_chat

    file = context.path(settings.template) if settings.template.endswith(".jinja") else None
    return open_chat(load_tokenizer(context.start), settings.template, file=file)


def _in_words(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count:,} {reason}' for reason, count in counts.items())})" if counts else ""


class Training(Tuned):
    """DPO by TRL's DPOTrainer, with a reference from the cache."""

    STAGE = "dpo"
    COPIES = 2  # TRL keeps the reference beside a policy that is sharded
    settings: DpoSettings

    def __init__(
        self,
        settings: DpoSettings,
        context: Context,
        chat: Chat,
        pairs: Sequence[EncodedPair],
        facts: Mapping[str, Any],
    ) -> None:
        """facts: what data.json says of the pairs beside what is in them."""
        self.pairs, self._facts, self.key = pairs, facts, ""
        super().__init__(settings, context, chat, len(pairs))

    def make_trainer(self) -> Any:
        from datasets import Dataset
        from trl.trainer.dpo_config import DPOConfig

        settings, lora = self.settings, self.settings.lora
        self.key = key_of(
            self.checkpoint.fingerprint(),
            self.chat.template,
            self.pairs,
            max_length=settings.max_length,
            precision=settings.precision,
            device="cuda" if tuning.has_gpu() else "cpu",
            attention=str(self.model.config._attn_implementation),
        )
        arguments = DPOConfig(
            **tuning.common_arguments(settings, self.context, self.steps),
            loss_type=[settings.loss],
            beta=settings.strength,
            max_length=None,  # pairs are cut before
            precompute_ref_log_probs=True,
        )
        columns = [
            {"prompt_ids": list(one.prompt), "chosen_ids": list(one.chosen), "rejected_ids": list(one.rejected)}
            for one in self.pairs
        ]
        kind = tuning.scheduled(trainer(self.key, self.context.say), settings, self.steps)
        return kind(
            model=self.model,
            args=arguments,
            train_dataset=Dataset.from_list(columns),
            processing_class=self.chat.tokenizer,
            peft_config=tuning.lora_config(lora.full if lora is not None else None),
        )

    def begin(self, model: Any) -> None:
        self.check_sharded(model)

    @property
    def first_loss(self) -> float:
        """What the loss is while policy and reference are the same."""
        return 1 / (2 * self.settings.strength) ** 2 if self.settings.loss == "ipo" else math.log(2)

    def check(self, step: int, loss: float) -> None:
        """EngineError for a first loss that shows another policy than the reference."""
        off = abs(loss - self.first_loss) / max(1.0, self.first_loss)
        if step == 1 and off > NEAR[self.settings.precision]:
            raise EngineError(
                f"The first loss is {loss:.4f} and not {self.first_loss:.4f}: the model at the start is not its own "
                "reference (dropout that can't be turned off, or a kernel whose results differ): try attention: eager "
                "or precision: fp32."
            )

    def record(self, step: int, logs: Mapping[str, Any], so_far: SoFar) -> DpoRecord:
        row = common(step, logs, so_far)
        self.check(step, row["loss"])
        return DpoRecord(
            **row,
            margin=logs.get("rewards/margins"),
            accuracy=logs.get("rewards/accuracies"),
            chosen_reward=logs.get("rewards/chosen"),
            rejected_reward=logs.get("rewards/rejected"),
        )

    def report(self) -> dict[str, Any]:
        chosen, rejected = ([len(getattr(one, side)) for one in self.pairs] for side in ("chosen", "rejected"))
        sources = Counter[str]()
        for one in self.pairs:
            sources[one.source] += one.tokens
        return {
            "pairs": len(self.pairs),
            **self._facts,
            "tokens": sources.total(),
            "sources": dict(sources),
            "mean_chosen_tokens": round(sum(chosen) / len(chosen), 2),
            "mean_rejected_tokens": round(sum(rejected) / len(rejected), 2),
            "loss": self.settings.loss,
            "beta": self.settings.strength,
            "reference": self.key,
            "template": self.chat.name,
        }


@dataclass(frozen=True)
class DpoRecord(Record):
    """A step of DPO as it is written down; rewards are β·(log π − log ref), nats."""

    margin: float | None = None  # of the chosen's reward over the rejected's
    accuracy: float | None = None  # share of pairs whose chosen answer has the greater reward
    chosen_reward: float | None = None
    rejected_reward: float | None = None


DPO = Kind("dpo", DpoSettings, run, makes_model=True, parallel=True)
