"""A training on one of TRL's trainers, whatever it learns from: what is kept on the way, evaluated, resumed and left.

class Training(Tuned):              # sft and dpo
    STAGE = "sft"
    def make_trainer(self): …       # TRL's
    def begin(self, model): …       # checks before the first step
    def record(self, step, logs, so_far): …      # a line of log.jsonl
    def report(self): …             # what data.json says: sources, tokens, where they come from

made.train()                        # from the start, or from the last whole checkpoint
made.export()                       # model/, with its card
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from estbench.errors import ConfigError, EngineError, ModelError
from estbench.runs import write_json
from estbench_training import tuning
from estbench_training.cpt.logs import Log, Record, read
from estbench_training.evaluation import Decision, Evaluator
from estbench_training.kinds import Context
from estbench_training.provenance import of_manifest, together
from estbench_training.trainer_state import is_sharded, last_whole, mark_whole

if TYPE_CHECKING:
    from estbench_training.templates import Chat

DATA = "data.json"


@dataclass(frozen=True)
class SoFar:
    """What a training had taken when a step was logged. earlier_*: by attempts before this one."""

    earlier_tokens: int
    earlier_seconds: float
    seconds: float  # of this attempt


class Tuned(ABC):
    """One training: the model, TRL's trainer, what is kept on the way and what comes out."""

    STAGE: ClassVar[str]  # as a card calls it
    COPIES: ClassVar[int] = 1  # of the model in a process's memory before it is sharded

    def __init__(self, settings: tuning.TuningSettings, context: Context, chat: Chat, rows: int) -> None:
        from estbench.checkpoint import find
        from estbench_training.templates import install

        self.settings, self.context, self.chat = settings, context, chat
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.checkpoint = find(str(context.start))
        longest = self.checkpoint.max_length
        if longest is not None and settings.max_length > longest:
            raise ConfigError(f"max_length: {settings.max_length:,} is more than the model's {longest:,} positions.")
        tuning.check_memory(settings, self.checkpoint, tuning.node_memory(), self.COPIES)
        self.model = tuning.load(settings, context.start)
        install(chat, self.model, context.say)
        self.steps = settings.steps or max(1, round(settings.epochs * math.ceil(rows / settings.batch)))
        last = last_whole(context.folder / tuning.RESUME, context.key, clean=self.main)
        self.last = str(last) if last else None
        self.resumed = int(last.name.rpartition("-")[2]) if last else 0
        self.meter = tuning.Meter(last)
        self.trainer = self.make_trainer()

    @abstractmethod
    def make_trainer(self) -> Any:
        """TRL's trainer of the model."""

    @abstractmethod
    def begin(self, model: Any) -> None:
        """Checks before the first step; model: as the trainer has wrapped it."""

    @abstractmethod
    def record(self, step: int, logs: Mapping[str, Any], so_far: SoFar) -> Record:
        """A step as the trainer reports it; EngineError for a loss that can't be."""

    @abstractmethod
    def report(self) -> Mapping[str, Any]:
        """data.json: what is learnt from, with `sources` (tokens by name), `tokens` and `provenance`."""

    def train(self) -> None:
        """Train from the start, or from the last whole checkpoint."""
        from estbench.engines.memory import is_out_of_memory
        from estbench_training.cpt import loop

        if self.resumed:
            self.context.say(f"{self.context.stage.name}: goes on from step {self.resumed:,} of {self.steps:,}.")
        with self._log() as written, loop.Stopping() as stopping, contextlib.closing(Looks(self, written)) as looks:
            self.trainer.add_callback(_callback(self, written, looks))
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

    def last_step(self) -> Mapping[str, Any]:
        """The last line of log.jsonl that tells of a step; empty if there is none."""
        rows = read(self.context.folder / "log.jsonl")
        return next((row for row in reversed(rows) if row["kind"] == "step"), {})

    def check_sharded(self, model: Any) -> None:
        """ModelError if parameters that should be sharded aren't."""
        if self.settings.shard == "full" and not is_sharded(model):
            raise ModelError(
                "shard: full was asked for, and the parameters are not sharded (accelerate does that under torchrun): "
                "leave it out."
            )

    def export(self) -> None:
        """The model, in the dtype that it had; the state to go on from is removed."""
        self.write(self.context.model_folder)
        if self.main:
            with contextlib.suppress(ImportError):  # matplotlib
                from estbench_training.cpt.plots import curves

                curves(self.context.folder, self.context.model_name)
            shutil.rmtree(self.context.folder / tuning.RESUME, ignore_errors=True)

    def write(self, place: Path, step: int | None = None) -> None:
        """Write a checkpoint with its card; step: it is one on the way. All processes have to call it."""
        config = self.checkpoint.config
        joules = self.meter.joules()
        tuning.write_model(
            self.trainer,
            self.chat,
            place,
            str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            lambda folder: self._card(folder, step, joules),
            merge=self.settings.lora is not None,
            main=self.main,
        )

    def _card(self, folder: Path, step: int | None, joules: float | None) -> None:
        """What is known of the checkpoint. Tokens of a source: its share of the data, of the tokens seen."""
        from estbench.cards import Source
        from estbench_training import card

        last, report = self.last_step(), self.report()
        tokens, seconds, total = last.get("tokens"), last.get("seconds"), max(1, int(report["tokens"]))
        known = of_manifest(report["provenance"], self.context.folder / DATA)
        licences = {name: one.licence for name, one in known.sources.items()}
        facts = card.CardFacts(
            kind="chat",
            stage=self.STAGE,
            final=step is None,
            tokens=tokens,
            step=self.trainer.state.global_step,
            steps_planned=self.steps,
            data=tuple(
                Source(
                    name,
                    licences.get(name),
                    round(tokens * count / total) if tokens else None,
                    round(count / total, 4),
                )
                for name, count in report["sources"].items()
            ),
            urls={name: one.url for name, one in known.sources.items() if one.url is not None},
            decontaminated=together(known.decontaminated),
            hours=seconds / 3600 if seconds is not None else None,
            energy_kwh=None if joules is None else joules / card.JOULES,
            precision=self.settings.precision,
        )
        card.write(self.context, folder, facts)


class Looks:
    """Evaluations on the way, where they are due. All processes call it after each step."""

    def __init__(self, training: Tuned, log: Log) -> None:
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


def _callback(training: Tuned, log: Log, looks: Looks) -> Any:
    """Tests the start, writes a line for each step, looks, marks checkpoints that are whole."""
    from transformers import TrainerCallback

    earlier = training.last_step() if training.main else {}
    tokens, spent = int(earlier.get("tokens") or 0), float(earlier.get("seconds") or 0.0)

    class Watch(TrainerCallback):
        begun = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            training.begin(model)
            self.begun = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            so_far = SoFar(tokens, spent, time.monotonic() - self.begun)
            record = training.record(state.global_step, logs, so_far)
            log.write(record)
            if looks(record.step, record.tokens):
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            joules = training.meter.joules()
            if training.main:
                write_json(place / tuning.ENERGY, {"joules": joules})
                mark_whole(place, training.context.key)

    return Watch()


def common(step: int, logs: Mapping[str, Any], so_far: SoFar) -> dict[str, Any]:
    """The fields that every record has, of what the trainer reports. EngineError for a loss that is no number."""
    loss, tokens = float(logs["loss"]), int(logs.get("num_tokens") or 0)
    if not math.isfinite(loss):
        raise EngineError(f"The loss of step {step:,} is no number: lower rate:, or take precision: fp32.")
    return {
        "step": step,
        "tokens": so_far.earlier_tokens + tokens,
        "loss": loss,
        "rate": float(logs["learning_rate"]),
        "grad_norm": float(logs.get("grad_norm") or 0.0),
        "tokens_per_second": tokens / max(so_far.seconds, 1e-9),
        "seconds": so_far.earlier_seconds + so_far.seconds,
    }
