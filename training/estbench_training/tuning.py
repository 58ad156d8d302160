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
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from estbench.checkpoint import Checkpoint
from estbench.errors import ConfigError, MissingPartError, ModelError
from estbench_training.cpt import schedule as schedules
from estbench_training.cpt.settings import Logging, Optimizer, Precision, Save
from estbench_training.evaluation import EvaluateSettings
from estbench_training.kinds import Context
from estbench_training.trainer_state import in_dtype

if TYPE_CHECKING:
    from estbench_training.cpt.settings import Lora
    from estbench_training.templates import Chat

PATIENCE = 7 * 86_400  # seconds that processes wait for the one that evaluates or writes
T = TypeVar("T")
RESUME, ENERGY = "resume", "energy.json"  # the trainer's own checkpoints in the stage's folder; in each, joules so far
MOST_BETA2 = 0.99  # of bf16_pure: a second moment in bf16, which has 8 bits, takes in no less than 1/256 of a square


class TuningSettings(schedules.ScheduleSettings, Protocol):
    """The keys that sft and dpo share."""

    @property
    def batch(self) -> int:
        """Rows of an optimizer step, over all processes."""

    @property
    def micro_batch(self) -> int:
        """Rows that a process computes at once."""

    @property
    def epochs(self) -> float:
        """Times that the data is gone through."""

    @property
    def steps(self) -> int | None:
        """Instead of epochs."""

    @property
    def max_length(self) -> int:
        """Tokens of a sequence."""

    @property
    def lora(self) -> object | None:
        """Low-rank adapters, merged at the end."""

    @property
    def evaluate(self) -> EvaluateSettings | None:
        """Evaluations on the way."""

    @property
    def logging(self) -> Logging:
        """What is written down."""

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
    beta2 = settings.optimizer.betas[1]
    if settings.precision == "bf16_pure" and beta2 > MOST_BETA2:
        raise ConfigError(
            f"precision: bf16_pure with beta2 {beta2:g} rounds most updates of the second moment away: say optimizer: "
            f"{{betas: [0.9, {MOST_BETA2:g}]}} (or less), or precision: bf16."
        )


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
    """Refuse what accelerate would silently do otherwise, and say how several processes share the work, and what a
    precision loses."""
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
    if settings.precision == "bf16_pure":
        say(
            "bf16_pure keeps weights in bf16: updates below 1/512 of a weight are rounded away. precision: bf16 keeps "
            "them in fp32."
        )


def check_memory(settings: TuningSettings, base: Checkpoint, memory: int | None, copies: int = 1) -> None:
    """ConfigError where the processes of a node can't all hold the model before it is sharded: each reads it whole into
    the CPU's memory. memory: bytes of the node's, None where that isn't known. copies: models of a process."""
    local, width = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 2 if settings.precision == "bf16_pure" else 4
    needed = base.parameters * width * local * copies
    if settings.shard == "full" and memory is not None and needed > memory:
        raise ConfigError(
            f"shard: full: each of the node's {local} processes reads the whole model first, together "
            f"{needed / 1e9:,.1f} GB of the CPU's memory, and it has {memory / 1e9:,.1f} GB: take fewer processes of "
            "each node, or lora without shard."
        )


def node_memory() -> int | None:
    """Bytes of the CPU's memory, as Linux has it; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemTotal:")), None)
    return None if kilobytes is None else int(kilobytes) * 1024


class Meter:
    """What all GPUs have used for a training, earlier attempts included."""

    def __init__(self, last: Path | None = None) -> None:
        """last: the checkpoint that it goes on from."""
        self._before: float | None = 0.0
        if last is not None:
            self._before = json.loads((last / ENERGY).read_text("utf-8"))["joules"]
        self._begun = _counter()

    def joules(self) -> float | None:
        """Until now; None where nothing counts. All processes have to ask."""
        now = _counter()
        used = gathered(None if now is None or self._begun is None else now - self._begun)
        known = [one for one in used if one is not None]
        return self._before + sum(known) if known and self._before is not None else None


def _counter() -> float | None:
    """Of this node's GPUs, by the first of its processes."""
    from estbench_training import card

    return card.energy_joules() if os.environ.get("LOCAL_RANK", "0") == "0" else None


def load(settings: TuningSettings, path: Path) -> Any:
    """The model, in the dtype in which its weights are updated; ModelError if it can't be.

    Each process reads all of it into the CPU's memory, with shard: full, too: `check_memory`. accelerate's way out
    (cpu_ram_efficient_loading) leaves zeros in all processes but one until the trainer has sharded the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if settings.precision == "bf16_pure" else torch.float32
    try:
        return AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attention(settings.attention, settings.precision),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (ValueError, ImportError, OSError) as error:
        raise ModelError(f"transformers can't load {path}: {str(error).splitlines()[0]}") from None


def attention(asked: str, precision: Precision) -> str:
    """What transformers calls attn_implementation. auto: flash_attention_2 on a GPU where flash-attn is installed (sdpa
    makes a mask of length × length for packed sequences) and computing is in bf16 (it knows no fp32), else sdpa."""
    if asked == "flash_attention_2" and precision == "fp32":
        raise ConfigError("attention: flash_attention_2 can't compute in fp32: take sdpa, or precision: bf16.")
    installed = importlib.util.find_spec("flash_attn") is not None
    if asked == "flash_attention_2" and not installed:
        raise MissingPartError("attention: flash_attention_2 needs flash-attn, which isn't installed.")
    if asked != "auto":
        return asked
    return "flash_attention_2" if installed and precision != "fp32" and has_gpu() else "sdpa"


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
    # whole tensors in a checkpoint: torch reads those with weights_only, and the sharded format's table with pickle
    fsdp = {"version": 2, "state_dict_type": "FULL_STATE_DICT"}
    sharded: dict[str, Any] = {"fsdp": True, "fsdp_config": fsdp} if settings.shard == "full" else {}
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

    from estbench_training.appearing import appearing

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
    return rule(gathered(value))


def gathered(value: T) -> list[T]:
    """What each process says, by rank. All have to call it."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    said: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(said, value)
    return said
