"""SFT: a model learns to answer, on TRL's SFTTrainer, from sequences that say token by token what is learnt.

    - name: sft
      kind: sft
      data: instructions             # stages that make rows, or JSONL or Parquet files with messages
      template: llama-3.1            # auto, llama-3.1, apertus, gemma, chatml, tulu, demo or a .jinja file
      replay: {data: corpus, source: en, share: 0.1}
      rate: 5e-6
      batch: 128

Tokens and labels are made here (`templates`, `sft_data`), and the trainer takes them as they are. Packed sequences have
positions that begin anew with each conversation, no attention mask and no cache; a test at the start refuses a model
or kernel with which conversations would see each other. The loss of a step is the mean over its learnt tokens.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from estbench.errors import ConfigError, EngineError, ModelError
from estbench_training import tuning
from estbench_training.cpt import schedule as schedules
from estbench_training.cpt.logs import Log, Record, read
from estbench_training.cpt.settings import Logging, Lora, Optimizer, Precision, Save
from estbench_training.evaluation import EvaluateSettings
from estbench_training.kinds import Context, Kind, StageSettings, is_path
from estbench_training.templates import LossOn, check_name
from estbench_training.trainer_state import is_sharded, last_whole, mark_whole

if TYPE_CHECKING:
    from estbench_training.evaluation import Decision
    from estbench_training.sft_data import Prepared
    from estbench_training.templates import Chat


@dataclass(frozen=True)
class Replay:
    """What is mixed in so that it isn't forgotten: documents of pretraining, learnt whole, or other conversations."""

    data: str  # a prepare stage, or a JSONL or Parquet file with texts or messages
    share: float  # of all tokens
    source: str | None = None  # of a prepare stage: only this one
    field: str = "text"  # of a file

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"replay, share: {self.share:g} has to be above 0 and below 1.")


@dataclass(frozen=True)
class SftSettings(StageSettings):
    """The keys of an sft stage. Rate, schedule, warm-up, epochs, batch and max_length are those of Tülu 3's 8B
    (arXiv 2411.15124), other defaults our choice."""

    data: str | tuple[str, ...]  # stages that make rows, or files
    template: str = "auto"  # the model's own if it marks answers or is of a known family, a family, or a .jinja file
    add_tokens: bool = False  # whether tokens of the template that the vocabulary lacks enlarge the model
    loss_on: LossOn = "assistant"  # answers, the last answer, or all
    max_length: int = 4096  # tokens of a sequence
    too_long: Literal["error", "drop", "truncate"] = "error"  # conversations that are longer; truncate: their end
    bad_rows: Literal["error", "drop"] = "error"  # of which nothing is learnt, or with control tokens in the text
    packing: bool = True
    replay: Replay | None = None
    limit: int | None = None  # only so many conversations, the first ones
    epochs: float = 2.0
    steps: int | None = None  # instead of epochs
    batch: int = 128  # sequences of an optimizer step, over all processes; a packed one holds several conversations
    micro_batch: int = 1  # sequences that a process computes at once
    rate: float = 5e-6
    min_rate: float = 0.0
    schedule: schedules.Schedule = "linear"
    warmup: float = 0.03  # share of the steps (< 1), or steps (>= 1)
    decay: float = 0.1  # wsd: share of the steps at the end
    decay_shape: schedules.DecayShape = "1-sqrt"
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(betas=(0.9, 0.999), weight_decay=0.0))
    neftune: float | None = None  # noise on the embeddings: alpha of arXiv 2310.05914
    precision: Precision = "bf16"  # bf16: weights are kept and updated in fp32, computed with in bf16
    lora: Lora | None = None
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
            raise ConfigError("data: is empty: name a stage that makes rows, or a file.")
        check_name(self.template)
        schedules.check(self)
        tuning.check_batch(self)
        for name in ("steps", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value} has to be 1 or more.")
        for name in ("epochs", "neftune"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}: {value:g} has to be above 0.")
        if self.max_length < 2:
            raise ConfigError(f"max_length: {self.max_length} has to be 2 or more.")
        if self.lora is not None:
            self._check_lora(self.lora)

    def _check_lora(self, lora: Lora) -> None:
        if self.shard == "full":
            raise ConfigError("shard: full is for the whole model; with lora: leave it out, each process has a copy.")
        if self.add_tokens:
            raise ConfigError("add_tokens: with lora the new rows would not be learnt: train the whole model.")
        if "lm_head" in {*lora.whole, *([lora.modules] if isinstance(lora.modules, str) else lora.modules)}:
            raise ConfigError("lora: TRL takes the loss from lm_head's own weights; an adapter there learns nothing.")

    @property
    def sources(self) -> tuple[str, ...]:
        """The stages and files that the conversations come from."""
        return (self.data,) if isinstance(self.data, str) and self.data else tuple(self.data)

    def inputs(self) -> tuple[str, ...]:
        read_too = [self.replay.data] if self.replay else []
        return tuple(name for name in (*self.sources, *read_too) if not is_path(name))

    def files(self) -> tuple[str, ...]:
        own = [*self.sources, *([self.replay.data] if self.replay else [])]
        own += [self.template] if self.template.endswith(".jinja") else []
        return tuple(name for name in own if is_path(name) or name.endswith(".jinja"))


def run(settings: SftSettings, context: Context) -> None:
    """Train, and leave the model. An interrupted stage goes on from its last whole checkpoint."""
    if (context.model_folder / "config.json").is_file():  # killed after it had appeared
        return
    from estbench_training import show
    from estbench_training.sft_data import Prepared
    from estbench_training.shards import load_tokenizer
    from estbench_training.templates import open_chat

    tuning.quiet()
    tuning.check_processes(settings, context.say)
    file = context.path(settings.template) if settings.template.endswith(".jinja") else None
    chat = open_chat(load_tokenizer(context.start), settings.template, file=file, add_tokens=settings.add_tokens)
    data = Prepared.make(settings, context, chat)
    made = Training(settings, context, chat, data)
    if made.main and not made.resumed:
        for line in in_words(settings, data.report):
            context.say(line)
        show.example(chat.tokenizer, *data.example(), f"{context.stage.name}, the first conversation ({chat.name})")
    made.train()
    made.export()


def in_words(settings: SftSettings, report: Mapping[str, Any]) -> list[str]:
    """What is learnt from, what is lost and replayed, a line each."""
    tokens, learnt = report["tokens"], report["learnt_tokens"]
    packed = (
        f", packed into {report['sequences']:,} sequences ({report['filled']:.0%} full)" if settings.packing else ""
    )
    lines = [f"{report['conversations']:,} conversations, {tokens:,} tokens, {learnt:,} of them learnt{packed}."]
    if report["too_long"]:
        what = "dropped" if settings.too_long == "drop" else "cut"
        lines.append(
            f"{report['too_long']:,} conversations longer than {settings.max_length:,} tokens are {what}: "
            f"{report['lost_tokens']:,} tokens, {report['lost_share']:.2%} of all, are lost."
        )
    lines += [f"{count:,} rows are left out: {reason}." for reason, count in report["left_out"].items()]
    if replay := report["replay"]["tokens"]:
        documents, share = report["replay"]["documents"], report["replay"]["share"]
        lines.append(f"Replay: {documents:,} documents, {replay:,} tokens, {share:.1%} of all.")
    if report["split_borders"]:
        lines.append(
            f"{report['split_borders']:,} conversations have an answer that would share a token with the prompt: both "
            "are tokenised apart, as a server does."
        )
    return lines


class Training:
    """One training: the model, TRL's trainer, what is kept on the way and what comes out."""

    def __init__(self, settings: SftSettings, context: Context, chat: Chat, data: Prepared) -> None:
        from estbench.checkpoint import find
        from estbench_training.templates import install

        self.settings, self.context, self.chat, self.data = settings, context, chat, data
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.checkpoint = find(str(context.start))
        self.model = tuning.load(settings, context.start)
        longest = self.checkpoint.max_length
        if longest is not None and settings.max_length > longest:
            raise ConfigError(f"max_length: {settings.max_length:,} is more than the model's {longest:,} positions.")
        install(chat, self.model, context.say)
        if settings.lora is not None and chat.name != "own":
            context.say(
                "With lora neither embeddings nor output layer are learnt: the base has to know the template's tokens."
            )
        per_epoch = math.ceil(data.report["sequences"] / settings.batch)
        self.steps = settings.steps or max(1, round(settings.epochs * per_epoch))
        last = last_whole(context.folder / tuning.RESUME, clean=self.main)
        self.last = str(last) if last else None
        self.resumed = int(last.name.rpartition("-")[2]) if last else 0
        self.trainer = self._trainer()

    def _trainer(self) -> Any:
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        settings = self.settings
        arguments = SFTConfig(
            **tuning.common_arguments(settings, self.context, self.steps),
            packing=settings.packing,
            packing_strategy="bfd",
            max_length=settings.max_length,
            dataset_kwargs={"skip_prepare_dataset": True},
            neftune_noise_alpha=settings.neftune,
        )
        with tuning.without_remarks():
            return tuning.scheduled(SFTTrainer, settings, self.steps)(
                model=self.model,
                args=arguments,
                train_dataset=self.data.dataset(),
                processing_class=self.chat.tokenizer,
                peft_config=tuning.lora_config(settings.lora),
            )

    def train(self) -> None:
        """Train from the start, or from the last whole checkpoint."""
        from estbench.engines.memory import is_out_of_memory
        from estbench_training.cpt import loop

        if self.resumed:
            self.context.say(f"{self.context.stage.name}: goes on from step {self.resumed:,} of {self.steps:,}.")
        with self._log() as written, loop.Stopping() as stopping, contextlib.closing(Looks(self, written)) as looks:
            before = read(self.context.folder / "log.jsonl") if self.main else []
            self.trainer.add_callback(_callback(self, written, looks, before))
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
            if stopping.asked and not looks.ended and self.trainer.state.global_step < self.steps:
                raise loop.StopForRequeue

    def _log(self) -> Log:
        settings = self.settings.logging
        return Log(
            self.context.folder,
            steps=self.steps,
            resumed=self.resumed,
            every=settings.every,
            tensorboard=settings.tensorboard,
            main=self.main,
            name=self.context.stage.name,
            say=self.context.say,
        )

    def self_test(self, model: Any) -> None:
        """ModelError if packed conversations see each other, or parameters that should be sharded aren't."""
        import torch

        from estbench_training.packing import self_test

        settings = self.settings
        if settings.shard == "full" and not is_sharded(model):
            raise ModelError(
                "shard: full was asked for, and the parameters are not sharded (accelerate does that under torchrun): "
                "leave it out."
            )
        if not settings.packing:
            return
        device = next(model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            try:
                self_test(model, device, length=min(128, settings.max_length))
            except ModelError as error:
                complaint = str(error).replace("kernels.attention", "attention")
                raise ModelError(f"{complaint} Or say packing: false.") from None

    def export(self) -> None:
        """The model, in the dtype that it had; the state to go on from is removed."""
        self.write(self.context.model_folder)
        if self.main:
            with contextlib.suppress(ImportError):  # matplotlib
                from estbench_training.cpt.plots import curves

                curves(self.context.folder, self.context.model_name)
            shutil.rmtree(self.context.folder / tuning.RESUME, ignore_errors=True)

    def write(self, place: Path, step: int | None = None) -> None:
        """Write a checkpoint with its card; step: it is one on the way."""
        config = self.checkpoint.config
        tuning.write_model(
            self.trainer,
            self.chat,
            place,
            str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            lambda folder: self._card(folder, step),
            merge=self.settings.lora is not None,
            main=self.main,
        )

    def _card(self, folder: Path, step: int | None) -> None:
        from estbench.cards import Source
        from estbench_training import card

        rows = [row for row in read(self.context.folder / "log.jsonl") if row["kind"] == "step"]
        last = rows[-1] if rows else {}
        tokens, seconds = last.get("tokens"), last.get("seconds")
        total = self.data.report["tokens"]
        facts = card.CardFacts(
            kind="chat",
            stage="sft",
            final=step is None,
            tokens=tokens,
            step=self.trainer.state.global_step,
            steps_planned=self.steps,
            data=tuple(
                Source(name, tokens=round(tokens * count / total) if tokens else None, share=round(count / total, 4))
                for name, count in self.data.report["sources"].items()
            ),
            hours=seconds / 3600 if seconds is not None else None,
            precision=self.settings.precision,
        )
        card.write(self.context, folder, facts)


# --- what is kept on the way ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SftRecord(Record):
    """A step of SFT as it is written down."""

    accuracy: float | None = None  # share of the learnt tokens that are the likeliest


class Looks:
    """Evaluations on the way, where they are due. All processes call it after each step."""

    def __init__(self, training: Training, log: Log) -> None:
        from estbench_training.evaluation import Evaluator

        self._training, self._log = training, log
        evaluate = training.settings.evaluate
        self._evaluator = Evaluator(evaluate, training.context, training.steps) if evaluate else None
        self.ended = False  # the gate ended the training

    def __call__(self, step: int, tokens: int) -> bool:
        """Whether the training is to end here."""
        if self._evaluator is None or not self._evaluator.due(step):
            return False
        place = self._training.context.folder / "checkpoints" / f"step-{step:06d}"
        self._training.write(place, step)
        self.ended = tuning.agreed(self._training.main and self._evaluate(place, step, tokens), any)
        if self._training.main:
            shutil.rmtree(place, ignore_errors=True)
        return self.ended

    def _evaluate(self, place: Path, step: int, tokens: int) -> bool:
        assert self._evaluator is not None
        decision = self._evaluator(place, step, tokens)
        self._note(decision)
        if decision.stop:
            self._note(self._evaluator.finish())
        return decision.stop

    def _note(self, decision: Decision) -> None:
        for point in decision.points:
            self._log.evaluation(point.step, point.tokens or 0, point.scores)
        if decision.reason:
            self._training.context.say(decision.reason)

    def close(self) -> None:
        """End what is evaluated in the background; it is taken up again when the training goes on."""
        if self._evaluator is not None:
            self._evaluator.close()


def _callback(training: Training, log: Log, looks: Looks, before: Sequence[Mapping[str, Any]]) -> Any:
    """Tests the start, writes a line for each step, looks, marks checkpoints that are whole."""
    from transformers import TrainerCallback

    earlier: Mapping[str, Any] = next((row for row in reversed(before) if row["kind"] == "step"), {})
    seen, spent = int(earlier.get("tokens") or 0), float(earlier.get("seconds") or 0.0)

    class Watch(TrainerCallback):
        begun = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            training.self_test(model)
            self.begun = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            record = _record(state.global_step, logs, seen, spent, time.monotonic() - self.begun)
            log.write(record)
            if looks(record.step, record.tokens):
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if training.main:
                mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()


def _record(step: int, logs: Mapping[str, Any], seen: int, spent: float, seconds: float) -> SftRecord:
    """A step as the trainer reports it; EngineError for a loss that is no number.

    Args:
        step: steps taken.
        logs: the trainer's numbers, of this attempt.
        seen: tokens of earlier attempts.
        spent: seconds of earlier attempts.
        seconds: of this attempt.
    """
    loss, tokens = float(logs["loss"]), int(logs.get("num_tokens") or 0)
    if not math.isfinite(loss):
        raise EngineError(f"The loss of step {step:,} is no number: lower rate:, or take precision: fp32.")
    return SftRecord(
        step=step,
        tokens=seen + tokens,
        loss=loss,
        rate=float(logs["learning_rate"]),
        grad_norm=float(logs.get("grad_norm") or 0.0),
        tokens_per_second=tokens / max(seconds, 1e-9),
        seconds=spent + seconds,
        accuracy=logs.get("mean_token_accuracy"),
    )


SFT = Kind("sft", SftSettings, run, makes_model=True, parallel=True)
