"""What a `cpt` stage can be told. The fields are the keys in YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from estbench.errors import ConfigError
from estbench_training.cpt.schedule import DecayShape, Schedule
from estbench_training.cpt.schedule import check as check_schedule
from estbench_training.evaluation import EvaluateSettings
from estbench_training.kinds import StageSettings, is_path
from estbench_training.mixture import Mixture, MixtureSettings

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe

Precision = Literal["bf16", "fp32", "bf16_pure"]
MANY = 10**15  # tokens, more than any run reads: whether there are enough is known when the shards are there
Freeze = Literal["none", "embeddings", "lora", "ends"]


def _refuse_unless(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter 2019). Matrices decay, embeddings too; norms and biases don't."""

    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0  # largest norm of all gradients together; 0: never clipped

    def __post_init__(self) -> None:
        _refuse_unless(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas: {list(self.betas)} have to be two numbers from 0 to below 1, [0.9, 0.95] for instance.",
        )
        _refuse_unless(self.eps > 0, f"eps: {self.eps:g} has to be above 0.")
        for name in ("weight_decay", "clip"):
            _refuse_unless(getattr(self, name) >= 0, f"{name}: {getattr(self, name):g} has to be 0 or more.")


@dataclass(frozen=True)
class Parallel:
    """How several processes share the model.

    full: weights, gradients and optimizer state over all of them (FSDP). hybrid: over those of a group, and each group
    has a copy (HSDP). none: each process has a copy.
    """

    shard: Literal["full", "hybrid", "none"] = "full"
    replicas: int | None = None  # hybrid: groups; default is one a node

    def __post_init__(self) -> None:
        _refuse_unless(
            self.replicas is None or (self.replicas >= 1 and self.shard == "hybrid"),
            "replicas: is for shard: hybrid, and has to be 1 or more.",
        )


@dataclass(frozen=True)
class Kernels:
    """What computes attention and loss. None of it changes what is computed; a start-up test sees to that.

    attention: auto is flash_attention_2 on a GPU where flash-attn is installed, else sdpa. chunked_loss: the loss by
    pieces of the sequence, so that the logits never lie in memory as a whole; auto: where the model allows it. liger:
    Liger's fused norms, MLP and loss, on a GPU.
    """

    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    liger: bool = False
    chunked_loss: bool | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), for `freeze: lora`. Merged when the model is exported."""

    rank: int = 32
    alpha: float = 32
    dropout: float = 0.05
    modules: str | tuple[str, ...] = "all-linear"  # names of the layers that are adapted
    whole: tuple[str, ...] = ()  # names of modules that are trained whole beside it: embed_tokens, lm_head

    def __post_init__(self) -> None:
        _refuse_unless(self.rank >= 1, f"rank: {self.rank} has to be 1 or more.")
        _refuse_unless(self.alpha > 0, f"alpha: {self.alpha:g} has to be above 0.")
        _refuse_unless(0 <= self.dropout < 1, f"dropout: {self.dropout:g} has to be from 0 to below 1.")


@dataclass(frozen=True)
class Ends:
    """For `freeze: ends`: only the first and last layers are trained (all that is in them, nothing else)."""

    first: int = 2
    last: int = 2

    def __post_init__(self) -> None:
        _refuse_unless(
            min(self.first, self.last) >= 0 and self.first + self.last >= 1,
            "ends: first and last have to be 0 or more, and not both 0.",
        )


@dataclass(frozen=True)
class Average:
    """Which weights are exported: those of the last step, or an average over the steps.

    ema: a ← decay·a + (1 - decay)·w after every `every` steps, from the weights at the start on. last: the mean of
    `count` snapshots, `every` steps apart, the newest at the end.
    """

    kind: Literal["none", "ema", "last"] = "none"
    decay: float = 0.999
    every: int = 1
    count: int = 5

    def __post_init__(self) -> None:
        _refuse_unless(0 < self.decay < 1, f"decay: {self.decay:g} has to be above 0 and below 1.")
        for name in ("every", "count"):
            _refuse_unless(getattr(self, name) >= 1, f"{name}: {getattr(self, name)} has to be 1 or more.")


@dataclass(frozen=True)
class Guards:
    """When a step is not taken: its loss or gradient norm is no number, or spikes."""

    spike: float = 6.0  # robust standard deviations above the usual; 0: only NaN and infinities count
    patience: int = 3  # bad steps in a row before the last checkpoint is loaded
    rollback: bool = True  # false: the run ends with an error instead

    def __post_init__(self) -> None:
        _refuse_unless(self.spike >= 0, f"spike: {self.spike:g} has to be 0 or more.")
        _refuse_unless(self.patience >= 1, f"patience: {self.patience} has to be 1 or more.")


@dataclass(frozen=True)
class Save:
    """The state to go on from when the run is interrupted, in resume/ of the stage's folder."""

    every: int = 500  # steps
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            _refuse_unless(getattr(self, name) >= 1, f"{name}: {getattr(self, name)} has to be 1 or more.")


@dataclass(frozen=True)
class Export:
    """The checkpoints in Hugging Face's format: model/ at the end, checkpoints/step-NNNNNN on the way."""

    every: int | None = None  # steps between those on the way that are kept
    steps: tuple[int, ...] = ()  # more of them
    dtype: Literal["base", "bfloat16", "float32"] = "base"  # base: as the model that it starts from

    def __post_init__(self) -> None:
        _refuse_unless(self.every is None or self.every >= 1, f"every: {self.every} has to be 1 or more.")
        _refuse_unless(all(step >= 1 for step in self.steps), "steps: have to be 1 or more.")


@dataclass(frozen=True)
class Logging:
    """What is written down of a step, in log.jsonl and for TensorBoard."""

    every: int = 1  # steps
    tensorboard: bool | None = None  # null: where it is installed

    def __post_init__(self) -> None:
        _refuse_unless(self.every >= 1, f"every: {self.every} has to be 1 or more.")


@dataclass(frozen=True)
class CptSettings(StageSettings):
    """Continued pretraining on a mixture of prepared shards.

    One of tokens and steps says how long. Tokens are positions that the model reads; a step has batch_tokens of them,
    and the last step is a whole one.
    """

    data: str | tuple[str, ...]  # prepare stages, or folders of prepared shards
    rate: float
    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    tokens: int | None = None
    steps: int | None = None
    sequence: int = 4096
    batch_tokens: int = 262_144  # of an optimizer step, over all processes
    micro_batch: int = 1  # sequences that a process computes at once
    min_rate: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.01  # share of the steps (< 1), or steps (>= 1)
    decay: float = 0.1  # wsd: share of the steps at the end (< 1), or steps (>= 1)
    decay_shape: DecayShape = "1-sqrt"
    optimizer: Optimizer = field(default_factory=Optimizer)
    precision: Precision = "bf16"  # bf16: weights are kept and updated in fp32, computed with in bf16
    parallel: Parallel = field(default_factory=Parallel)
    activation_checkpointing: Literal["none", "full", "selective"] = "none"  # selective: every second layer
    compile: bool = False
    kernels: Kernels = field(default_factory=Kernels)
    freeze: Freeze = "none"
    lora: Lora = field(default_factory=Lora)
    ends: Ends = field(default_factory=Ends)
    average: Average = field(default_factory=Average)
    guards: Guards = field(default_factory=Guards)
    save: Save = field(default_factory=Save)
    export: Export = field(default_factory=Export)
    evaluate: EvaluateSettings | None = None
    logging: Logging = field(default_factory=Logging)

    # How it is computed, not what: a run goes on with others of these, on another number of devices for instance.
    unkeyed: ClassVar[tuple[str, ...]] = (
        "micro_batch",
        "parallel",
        "activation_checkpointing",
        "compile",
        "kernels",
        "save",
        "logging",
    )

    def __post_init__(self) -> None:
        _refuse_unless(bool(self.sources), "data: is empty: name a prepare stage or a folder of shards.")
        _refuse_unless(
            (self.tokens is None) != (self.steps is None), "Give one of tokens and steps: how long it trains."
        )
        for name in ("tokens", "steps", "sequence", "batch_tokens", "micro_batch"):
            value = getattr(self, name)
            _refuse_unless(value is None or value >= 1, f"{name}: {value} has to be 1 or more.")
        near = max(1, round(self.batch_tokens / self.sequence)) * self.sequence
        _refuse_unless(
            self.batch_tokens % self.sequence == 0,
            f"batch_tokens: {self.batch_tokens} is no multiple of sequence {self.sequence}; the nearest is {near}.",
        )
        _refuse_unless(
            self.batch_sequences % self.micro_batch == 0,
            f"micro_batch: {self.micro_batch} doesn't divide the {self.batch_sequences} sequences of a step "
            "(batch_tokens / sequence).",
        )
        check_schedule(self)
        for name, kind in (("lora", Lora()), ("ends", Ends())):
            _refuse_unless(
                self.freeze == name or getattr(self, name) == kind, f"{name}: is for freeze: {name}; leave it out."
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """The stages and folders that the shards come from."""
        return (self.data,) if isinstance(self.data, str) and self.data else tuple(self.data)

    @property
    def batch_sequences(self) -> int:
        """Sequences of an optimizer step, over all processes."""
        return self.batch_tokens // self.sequence

    @property
    def total_steps(self) -> int:
        """Optimizer steps; the last one is whole, so that at least `tokens` are read."""
        if self.steps is not None:
            return self.steps
        return math.ceil((self.tokens or 0) / self.batch_tokens)

    @property
    def total_tokens(self) -> int:
        """Tokens that are read in all steps."""
        return self.total_steps * self.batch_tokens

    def inputs(self) -> tuple[str, ...]:
        """The prepare stages."""
        return tuple(name for name in self.sources if not is_path(name))

    def check(self, recipe: Recipe) -> None:
        """The mixture is one of the sources that the prepare stages have."""
        if any(is_path(name) for name in self.sources):
            return  # what these have is known when they are opened
        stages = [recipe.stage(name).settings for name in self.sources]
        sources = [name for stage in stages for name in getattr(stage, "sources", ())]
        if sources:
            Mixture(self.mixture, dict.fromkeys(sources, MANY), self.sequence, 1, 0)

    def files(self) -> tuple[str, ...]:
        """The manifests of shards from outside: they have the checksums of what lies beside them."""
        return tuple(f"{name.rstrip('/')}/**/manifest.json" for name in self.sources if is_path(name))
