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

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from estbench.errors import ConfigError, DataError, EngineError, ModelError
from estbench.runs import write_json
from estbench_training import rows, tuning
from estbench_training.cpt import schedule as schedules
from estbench_training.cpt.logs import Log, Record, read
from estbench_training.cpt.settings import Logging, Lora, Optimizer, Precision, Save
from estbench_training.kinds import Context, Kind, StageSettings, is_path
from estbench_training.reference import EncodedPair, encode, key_of, trainer
from estbench_training.templates import check_name
from estbench_training.trainer_state import is_sharded, last_whole, mark_whole

if TYPE_CHECKING:
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
    limit: int | None = None  # only so many pairs, the first ones
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(betas=(0.9, 0.999), weight_decay=0.0))
    precision: Precision = "bf16"  # bf16: weights are kept and updated in fp32, computed with in bf16
    lora: DpoLora | None = None
    shard: Literal["none", "full"] = "none"  # full: weights, gradients and optimizer state over all processes (FSDP2)
    activation_checkpointing: bool = False
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    save: Save = field(default_factory=lambda: Save(every=200))
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


# --- the stage --------------------------------------------------------------------------------------------------------


def read_pairs(settings: DpoSettings, context: Context) -> Iterable[Mapping[str, Any]]:
    """The rows of all sources, in order."""
    for name in settings.sources:
        yield from rows.read_pairs(context.source(name))


def run(settings: DpoSettings, context: Context) -> None:
    """Train, and leave the model. An interrupted stage goes on from its last whole checkpoint."""
    if (context.model_folder / "config.json").is_file():  # killed after it had appeared
        return
    tuning.quiet()
    tuning.check_processes(settings, context.say)
    chat = _chat(settings, context)
    pairs, counts = encode(
        chat, read_pairs(settings, context), settings.max_length, settings.too_long, settings.bad_rows
    )
    pairs = pairs[: settings.limit]
    if not pairs:
        raise DataError(f"Stage {context.stage.name!r} has no pairs to learn from{_in_words(counts)}.")
    context.say(f"{len(pairs):,} pairs{_in_words(counts)}; {settings.loss}, beta {settings.strength:g}.")
    with tuning.without_remarks():
        made = Training(settings, context, chat, pairs)
        made.train()
    if made.main:
        made.report(counts)
    made.export()


def _chat(settings: DpoSettings, context: Context) -> Chat:
    from estbench_training.shards import load_tokenizer
    from estbench_training.templates import open_chat

    file = context.path(settings.template) if settings.template.endswith(".jinja") else None
    return open_chat(load_tokenizer(context.start), settings.template, file=file)


def _in_words(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count:,} {reason}' for reason, count in counts.items())})" if counts else ""


class Training:
    """One training: the model, TRL's trainer, what is kept on the way and what comes out."""

    def __init__(self, settings: DpoSettings, context: Context, chat: Chat, pairs: Sequence[EncodedPair]) -> None:
        from estbench.checkpoint import find
        from estbench_training.templates import install

        self.settings, self.context, self.chat, self.pairs = settings, context, chat, pairs
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.checkpoint = find(str(context.start))
        longest = self.checkpoint.max_length
        if longest is not None and settings.max_length > longest:
            raise ConfigError(f"max_length: {settings.max_length:,} is more than the model's {longest:,} positions.")
        self.model = tuning.load(settings, context.start)
        install(chat, self.model, context.say)
        self.key = key_of(
            self.checkpoint.fingerprint(),
            chat.template,
            pairs,
            max_length=settings.max_length,
            precision=settings.precision,
            device="cuda" if tuning.has_gpu() else "cpu",
            attention=str(self.model.config._attn_implementation),
        )
        self.steps = settings.steps or max(1, round(settings.epochs * math.ceil(len(pairs) / settings.batch)))
        last = last_whole(context.folder / tuning.RESUME, clean=self.main)
        self.last = str(last) if last else None
        self.resumed = int(last.name.rpartition("-")[2]) if last else 0
        self.trainer = self._trainer()

    def _trainer(self) -> Any:
        from datasets import Dataset
        from trl.trainer.dpo_config import DPOConfig

        settings, lora = self.settings, self.settings.lora
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

    def train(self) -> None:
        """Train from the start, or from the last whole checkpoint."""
        from estbench.engines.memory import is_out_of_memory
        from estbench_training.cpt import loop

        if self.resumed:
            self.context.say(f"{self.context.stage.name}: goes on from step {self.resumed:,} of {self.steps:,}.")
        with self._log() as written, loop.Stopping() as stopping:
            before = read(self.context.folder / "log.jsonl") if self.main else []
            self.trainer.add_callback(_callback(self, written, before))
            self.trainer.add_callback(tuning.ending(stopping))
            try:
                self.trainer.train(resume_from_checkpoint=self.last)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise EngineError(
                    "Out of memory: lower micro_batch, shorten max_length, say activation_checkpointing: true, lora: "
                    "or shard: full (several GPUs). The last checkpoint is intact."
                ) from None
            if stopping.asked and self.trainer.state.global_step < self.steps:
                raise loop.StopForRequeue

    def _log(self) -> Log:
        log = self.settings.logging
        return Log(
            self.context.folder,
            steps=self.steps,
            resumed=self.resumed,
            every=log.every,
            tensorboard=log.tensorboard,
            main=self.main,
            name=self.context.stage.name,
            say=self.context.say,
        )

    @property
    def first_loss(self) -> float:
        """What the loss is while policy and reference are the same."""
        return 1 / (2 * self.settings.strength) ** 2 if self.settings.loss == "ipo" else math.log(2)

    def check(self, step: int, loss: float) -> None:
        """EngineError for a loss that is no number, or a first one that shows another policy than the reference."""
        if not math.isfinite(loss):
            raise EngineError(f"The loss of step {step:,} is no number: lower rate:, or take precision: fp32.")
        off = abs(loss - self.first_loss) / max(1.0, self.first_loss)
        if step == 1 and off > NEAR[self.settings.precision]:
            raise EngineError(
                f"The first loss is {loss:.4f} and not {self.first_loss:.4f}: the model at the start is not its own "
                "reference (dropout that can't be turned off, or a kernel whose results differ): try attention: eager "
                "or precision: fp32."
            )

    def report(self, counts: Mapping[str, int]) -> None:
        """data.json: what was learnt from."""
        chosen, rejected = ([len(getattr(one, side)) for one in self.pairs] for side in ("chosen", "rejected"))
        write_json(
            self.context.folder / "data.json",
            {
                "pairs": len(self.pairs),
                "left_out": dict(counts),
                "tokens": sum(2 * len(one.prompt) + len(one.chosen) + len(one.rejected) for one in self.pairs),
                "mean_chosen_tokens": round(sum(chosen) / len(chosen), 2),
                "mean_rejected_tokens": round(sum(rejected) / len(rejected), 2),
                "loss": self.settings.loss,
                "beta": self.settings.strength,
                "reference": self.key,
                "template": self.chat.name,
            },
        )

    def export(self) -> None:
        """The model with tokenizer, template and card, in the dtype that it had; the state to go on from is removed."""
        config = self.checkpoint.config
        tuning.write_model(
            self.trainer,
            self.chat,
            self.context.model_folder,
            str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            self._card,
            merge=self.settings.lora is not None,
            main=self.main,
        )
        if self.main:
            with contextlib.suppress(ImportError):  # matplotlib
                from estbench_training.cpt.plots import curves

                curves(self.context.folder, self.context.model_name)
            shutil.rmtree(self.context.folder / tuning.RESUME, ignore_errors=True)

    def _card(self, folder: Path) -> None:
        from estbench.cards import Source
        from estbench_training import card

        last = _last_step(read(self.context.folder / "log.jsonl"))
        seconds = last.get("seconds")
        facts = card.CardFacts(
            kind="chat",
            stage="dpo",
            tokens=last.get("tokens"),
            step=self.steps,
            steps_planned=self.steps,
            data=tuple(Source(name) for name in self.settings.sources),
            hours=seconds / 3600 if seconds is not None else None,
            precision=self.settings.precision,
        )
        card.write(self.context, folder, facts)


def _last_step(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((row for row in reversed(rows) if row["kind"] == "step"), {})


# --- what is kept on the way ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DpoRecord(Record):
    """A step of DPO as it is written down; rewards are β·(log π − log ref), nats."""

    margin: float | None = None  # of the chosen's reward over the rejected's
    accuracy: float | None = None  # share of pairs whose chosen answer has the greater reward
    chosen_reward: float | None = None
    rejected_reward: float | None = None


def _callback(training: Training, log: Log, before: Sequence[Mapping[str, Any]]) -> Any:
    """Writes a line for each step, marks checkpoints that are whole, looks at the first loss."""
    from transformers import TrainerCallback

    earlier = _last_step(before)
    seen, spent = int(earlier.get("tokens") or 0), float(earlier.get("seconds") or 0.0)
    begun = time.monotonic()

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if training.settings.shard == "full" and not is_sharded(model):
                raise ModelError(
                    "shard: full was asked for, and the parameters are not sharded (accelerate does so on GPUs under "
                    "torchrun only): leave it out."
                )

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            training.check(state.global_step, float(logs["loss"]))
            seconds = time.monotonic() - begun
            tokens = int(logs.get("num_tokens") or 0)
            log.write(
                DpoRecord(
                    step=state.global_step,
                    tokens=seen + tokens,
                    loss=float(logs["loss"]),
                    rate=float(logs["learning_rate"]),
                    grad_norm=float(logs.get("grad_norm") or 0.0),
                    tokens_per_second=tokens / max(seconds, 1e-9),
                    seconds=spent + seconds,
                    margin=logs.get("rewards/margins"),
                    accuracy=logs.get("rewards/accuracies"),
                    chosen_reward=logs.get("rewards/chosen"),
                    rejected_reward=logs.get("rewards/rejected"),
                )
            )

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if training.main:
                mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()


DPO = Kind("dpo", DpoSettings, run, makes_model=True, parallel=True)
