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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from estbench.errors import ConfigError, ModelError
from estbench_training import templates, tuning
from estbench_training.cpt import schedule as schedules
from estbench_training.cpt.logs import Record
from estbench_training.cpt.settings import Logging, Lora, Optimizer, Precision, Save
from estbench_training.evaluation import EvaluateSettings
from estbench_training.kinds import Context, Kind, StageSettings, is_path
from estbench_training.prepare.settings import DecontaminateSettings
from estbench_training.sieve import Choice, tests_of
from estbench_training.templates import LossOn, check_name
from estbench_training.tuned import SoFar, Tuned, common

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe
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
    decontaminate: Choice = field(
        default_factory=DecontaminateSettings
    )  # of files; stages that make rows have looked already
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

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        files = any(not name.endswith(".jinja") for name in self.files())
        return templates.digests(self.template) | (tests_of(self.decontaminate, recipe) if files else {})


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


class Training(Tuned):
    """SFT by TRL's SFTTrainer."""

    STAGE = "sft"
    settings: SftSettings

    def __init__(self, settings: SftSettings, context: Context, chat: Chat, data: Prepared) -> None:
        self.data = data
        super().__init__(settings, context, chat, data.report["sequences"])
        if settings.lora is not None and chat.name != "own":
            context.say(
                "With lora neither embeddings nor output layer are learnt: the base has to know the template's tokens."
            )

    def make_trainer(self) -> Any:
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

    def begin(self, model: Any) -> None:
        """ModelError if packed conversations see each other, or parameters that should be sharded aren't."""
        import torch

        from estbench_training.packing import self_test

        self.check_sharded(model)
        settings = self.settings
        if not settings.packing:
            return
        device = next(model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            try:
                self_test(model, device, length=min(128, settings.max_length))
            except ModelError as error:
                complaint = str(error).replace("kernels.attention", "attention")
                raise ModelError(f"{complaint} Or say packing: false.") from None

    def record(self, step: int, logs: Mapping[str, Any], so_far: SoFar) -> SftRecord:
        return SftRecord(**common(step, logs, so_far), accuracy=logs.get("mean_token_accuracy"))

    def report(self) -> Mapping[str, Any]:
        return self.data.report


@dataclass(frozen=True)
class SftRecord(Record):
    """A step of SFT as it is written down."""

    accuracy: float | None = None  # share of the learnt tokens that are the likeliest


SFT = Kind("sft", SftSettings, run, makes_model=True, parallel=True)
