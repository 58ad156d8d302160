"""What training on TRL's trainers has in common: the model as it is loaded, the trainer's arguments, the learning rate,
the log, and the model that comes out.

    model = load(settings, context.start)
    arguments = common_arguments(settings, context, steps)      # for an SFTConfig or a DPOConfig
    trainer = scheduled(SFTTrainer, settings, steps)(…)         # rates are cpt.schedule's; nothing is sent anywhere
    write_model(trainer, chat, context.model_folder, …)         # appears whole
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from estbench.errors import ConfigError, MissingPartError, ModelError
from estbench_training.cpt import schedule as schedules
from estbench_training.cpt.settings import Lora, Optimizer, Precision, Save
from estbench_training.kinds import Context
from estbench_training.trainer_state import in_dtype

if TYPE_CHECKING:
    from estbench_training.templates import Chat

PATIENCE = 7 * 86_400  # seconds that processes wait for the one that evaluates or writes
RESUME = "resume"  # the trainer's own checkpoints, in the stage's folder


class TuningSettings(schedules.ScheduleSettings, Protocol):
    """The keys that sft and dpo share."""

    @property
    def batch(self) -> int:
        """Rows of an optimizer step, over all processes."""

    @property
    def micro_batch(self) -> int:
        """Rows that a process computes at once."""

    @property
    def optimizer(self) -> Optimizer:
        """AdamW."""

    @property
    def precision(self) -> Precision:
        """bf16: weights are kept and updated in fp32, computed with in bf16."""

    @property
    def shard(self) -> Literal["none", "full"]:
        """full: over all processes (FSDP2)."""

    @property
    def activation_checkpointing(self) -> bool:
        """Whether activations are computed again for the gradients."""

    @property
    def attention(self) -> str:
        """As `attention` takes it."""

    @property
    def save(self) -> Save:
        """How often the state to go on from is written."""


def check_batch(settings: TuningSettings) -> None:
    """ConfigError for a batch that can't be shared out."""
    for name in ("batch", "micro_batch"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name}: {getattr(settings, name)} has to be 1 or more.")
    if settings.batch % settings.micro_batch:
        raise ConfigError(f"micro_batch: {settings.micro_batch} doesn't divide the {settings.batch} rows of a step.")
    if settings.save.keep < 2:
        raise ConfigError("save, keep: has to be 2 or more: a checkpoint counts once the next one is whole.")


def quiet() -> None:
    """Keep the libraries' bars and remarks from the terminal; what matters is said by us."""
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Without the libraries' remarks on each other: peft 0.21 asks transformers 5.23 by names that it will drop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def has_gpu() -> bool:
    """Whether there is a GPU for this process."""
    import torch

    return bool(torch.cuda.is_available())


def check_processes(settings: TuningSettings, say: Callable[[str], None]) -> None:
    """Refuse what accelerate would silently do otherwise, and say how several processes share the work."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.shard == "full" and not has_gpu():
        raise ConfigError("shard: full needs GPUs: on a CPU, accelerate would train copies (DDP) and not say so.")
    if settings.batch % (settings.micro_batch * world):
        raise ConfigError(
            f"batch: {settings.batch} rows can't be shared by {world} processes in parts of {settings.micro_batch} "
            "(micro_batch)."
        )
    if world == 1 and has_gpu():
        import torch

        if torch.cuda.device_count() > 1:
            raise ConfigError(
                f"One process sees {torch.cuda.device_count()} GPUs: start it with torchrun --nproc-per-node="
                f"{torch.cuda.device_count()} -m estbench train …, or let it see one (CUDA_VISIBLE_DEVICES)."
            )
    if world > 1:
        how = "the model is sharded (FSDP2)" if settings.shard == "full" else "each has a copy of the model (DDP)"
        say(f"{world} processes: {how}.")


def load(settings: TuningSettings, path: Path) -> Any:
    """The model, in the dtype in which its weights are updated; ModelError if it can't be."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if settings.precision == "bf16_pure" else torch.float32
    try:
        return AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attention(settings.attention),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (ValueError, ImportError, OSError) as error:
        raise ModelError(f"transformers can't load {path}: {str(error).splitlines()[0]}") from None


def attention(asked: str) -> str:
    """What transformers calls attn_implementation. auto: flash_attention_2 on a GPU where flash-attn is installed (sdpa
    makes a mask of length × length for packed sequences), else sdpa."""
    installed = importlib.util.find_spec("flash_attn") is not None
    if asked == "flash_attention_2" and not installed:
        raise MissingPartError("attention: flash_attention_2 needs flash-attn, which isn't installed.")
    if asked != "auto":
        return asked
    return "flash_attention_2" if installed and has_gpu() else "sdpa"


def lora_config(lora: Lora | None) -> Any:
    """peft's configuration; None without LoRA."""
    if lora is None:
        return None
    from peft import LoraConfig

    alpha: Any = lora.alpha  # a float will do
    return LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.modules if isinstance(lora.modules, str) else list(lora.modules),
        modules_to_save=list(lora.whole) or None,
        task_type="CAUSAL_LM",
    )


def common_arguments(settings: TuningSettings, context: Context, steps: int) -> dict[str, Any]:
    """Arguments of TRL's configurations. Everything that has another default there is said here."""
    from transformers import TrainingArguments

    renamed = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
    beta1, beta2 = settings.optimizer.betas
    world = int(os.environ.get("WORLD_SIZE", "1"))
    sharded: dict[str, Any] = {"fsdp": True, "fsdp_config": {"version": 2}} if settings.shard == "full" else {}
    return {
        "output_dir": str(context.folder / RESUME),
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": settings.batch // (settings.micro_batch * world),
        "max_steps": steps,
        "learning_rate": settings.rate,
        "optim": "adamw_torch_fused",
        "adam_beta1": beta1,
        "adam_beta2": beta2,
        "adam_epsilon": settings.optimizer.eps,
        "weight_decay": settings.optimizer.weight_decay,
        "max_grad_norm": settings.optimizer.clip,
        "seed": context.seed,
        "data_seed": context.seed,
        "bf16": settings.precision == "bf16",
        "use_cpu": not has_gpu(),
        f"{'activation' if renamed else 'gradient'}_checkpointing": settings.activation_checkpointing,
        "save_strategy": "steps",
        "save_steps": settings.save.every,
        "save_total_limit": settings.save.keep,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # or a loss that is no number would be shown as the last one that was
        "report_to": "none",
        "ddp_timeout": PATIENCE,
        "disable_tqdm": True,
        **sharded,
    }


def scheduled(base: type[Any], settings: TuningSettings, steps: int) -> type[Any]:
    """A trainer whose learning rate is `cpt.schedule`'s, and that sends nothing and writes no card of its own."""

    from transformers import PrinterCallback

    class Scheduled(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.remove_callback(PrinterCallback)  # it writes on stdout, which is for the command's result

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            from torch.optim.lr_scheduler import LambdaLR

            def share(step: int) -> float:
                return schedules.rate_at(settings, min(step, steps), steps) / settings.rate

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share)
            return self.lr_scheduler

        def _send_telemetry(self) -> None:
            """TRL tells the Hub what is trained; we don't."""

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Ours is written with the model."""

    return Scheduled


def write_model(
    trainer: Any, chat: Chat, place: Path, dtype: str, card: Callable[[Path], None], *, merge: bool, main: bool
) -> None:
    """Write a checkpoint that appears whole: weights with adapters merged, tokenizer, generation_config, card.

    All processes have to call it; the model is trained on as it was.

    Args:
        trainer: TRL's.
        chat: the tokenizer, and its template.
        place: the folder that appears.
        dtype: of the weights, as config.json names it.
        card: writes the card into the folder, last.
        merge: whether the model has adapters.
        main: whether this process writes.
    """
    import torch

    from estbench_training.cpt.exporting import appearing

    model = copy.deepcopy(trainer.model).merge_and_unload() if merge else trainer.model
    state = trainer.accelerator.get_state_dict(model)  # all ranks: it is gathered where it is sharded
    if not main:
        return
    with appearing(place) as folder:
        plain = trainer.accelerator.unwrap_model(model)
        plain.save_pretrained(folder, state_dict=in_dtype(state, getattr(torch, dtype)), max_shard_size="5GB")
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config |= {"dtype": dtype, "use_cache": True}  # while it is trained both are others
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        chat.tokenizer.save_pretrained(folder)
        card(folder)


def ending(stopping: Any) -> Any:
    """A callback that saves and ends the training after a step at which a process was asked to end (SIGTERM).

    stopping: `cpt.loop.Stopping`; raise its `StopForRequeue` when the training has ended so.
    """
    from transformers import TrainerCallback

    class Ending(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if agreed(stopping.asked, any):
                stopping.asked = control.should_save = control.should_training_stop = True

    return Ending()


def agreed(value: bool, rule: Callable[[list[bool]], bool]) -> bool:
    """What all processes make of what each of them says."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    said: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(said, value)
    return rule(said)
