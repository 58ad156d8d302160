"""Everything a training run is made of, from a stage's settings: model, optimizer, data, guard, state to go on from.

A model that is shared among processes is never in the memory of one of them as a whole: it is made empty, sharded, and
each process reads its slices of the safetensors. Where names or tied weights don't allow that, each process loads it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from estbench.checkpoint import Checkpoint, find, read_header
from estbench.errors import ConfigError, EngineError, MissingPartError, ModelError
from estbench_training import card
from estbench_training.cpt import flops, freezing, losses, parallel, saving
from estbench_training.cpt.averaging import Averages, local
from estbench_training.cpt.guards import Guard
from estbench_training.cpt.parallel import Ranks
from estbench_training.cpt.settings import CptSettings, Kernels, Precision
from estbench_training.kinds import Context
from estbench_training.machines import MACHINES

TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "bf16_pure": 2e-2}  # relative, of a loss computed in two ways
SAMPLE = 32  # tokens of the sample on which they are compared


@dataclass
class Run:
    """A training run, ready to begin or to go on."""

    settings: CptSettings
    context: Context
    ranks: Ranks
    base: Checkpoint
    model: losses.LossModel
    weights: Mapping[str, nn.Parameter]  # what is trained, by name
    optimizer: torch.optim.AdamW
    averages: Averages
    checkpoints: saving.Checkpoints
    guard: Guard
    step: int = 0
    seconds: float = 0.0  # of training, earlier attempts included
    skipped: int = 0  # steps that the guard did not take
    joules: float | None = 0.0  # used by all GPUs in earlier attempts; None where nothing counts them
    meter: float | None = None  # of this process's node when this attempt began
    saved: int = 0  # the step of the newest state that this attempt wrote or went on from
    undone: int | None = None  # the step to which a roll-back went, until somebody has dropped what came after it
    tensors: dict[str, Tensor] = field(default_factory=dict)  # the state, by name

    def save(self) -> None:
        """The state after `step` steps, unless its last update ruined the weights: nobody could go on from there."""
        if not self.is_finite():
            self.context.say(f"{self.context.stage.name}: step {self.step:,} is not saved, its weights are no numbers.")
            return
        facts = {
            "taken": self.averages.taken,
            "guard": self.guard.state(),
            "seconds": self.seconds,
            "skipped": self.skipped,
            "joules": self.energy(),
            "world": self.ranks.world,
        }
        self.checkpoints.save(self.step, self.tensors, facts)
        self.saved = self.step

    def is_finite(self) -> bool:
        """Whether all weights that are trained are finite numbers. All processes ask."""
        parts = [local(weight.detach()) for weight in self.weights.values()]
        bad = sum((~torch.isfinite(part).all()).double() for part in parts)
        return self.ranks.total(torch.as_tensor(bad, dtype=torch.float64, device=self.ranks.device))[0] == 0

    def energy(self) -> float | None:
        """Joules that all GPUs have used, earlier attempts included; None where none counts. All processes ask."""
        now = meter()
        used = [0.0, 0.0] if now is None or self.meter is None else [now - self.meter, 1.0]
        used.append(float(counts()))
        joules, counted, nodes = self.ranks.total(*torch.tensor(used, dtype=torch.float64, device=self.ranks.device))
        return self.joules + joules if counted == nodes and self.joules is not None else None

    @property
    def turns(self) -> frozenset[int]:
        """The steps in which another phase of the mixture begins: what was usual before is not, then."""
        return frozenset(int(phase.until * self.settings.total_steps) for phase in self.settings.mixture.phases[:-1])

    def restore(self) -> None:
        """Go on from the newest state, if there is one."""
        step = self.checkpoints.newest()
        if step is None:
            return
        facts = self.checkpoints.load(step, self.tensors)
        self.step, self.seconds, self.skipped = step, float(facts["seconds"]), int(facts["skipped"])
        self.joules = facts["joules"]
        self.saved, self.averages.taken = step, int(facts["taken"])
        self.guard = Guard(self.settings.guards, facts["guard"])
        self.context.say(f"{self.context.stage.name}: goes on after step {step:,}.")

    def roll_back(self) -> int:
        """Weights, moments and averages of the newest state (its step); the data goes on after this step.

        If it was returned to before, and training went wrong again at once, it is dropped, and the one before it taken.
        """
        step = self.checkpoints.newest()
        if step is not None and self.guard.repeated:
            self.checkpoints.drop(step)
            step = self.checkpoints.newest()
        if step is None:
            raise EngineError(
                "Training diverges before the first state was saved: lower rate, lengthen warmup, or lower save.every."
            )
        facts = self.checkpoints.load(step, self.tensors)
        self.averages.taken, self.undone = int(facts["taken"]), step
        return step


def build(settings: CptSettings, context: Context, ranks: Ranks) -> Run:
    """The run of a stage, at its beginning."""
    base = find(str(context.start))
    check_shares(settings, ranks.world)
    model = make_model(settings, base, ranks, context.seed)
    weights = freezing.trained(model)
    choose_loss(model, settings, ranks, context.say)
    optimizer = make_optimizer(settings, weights, ranks)
    averages = Averages(settings.average, weights, settings.total_steps)
    checkpoints = saving.Checkpoints(context.folder / "resume", context.key, settings.save.keep, ranks, context.say)
    run = Run(settings, context, ranks, base, model, weights, optimizer, averages, checkpoints, Guard(settings.guards))
    run.meter = meter()
    run.tensors = {
        **{f"weights/{name}": weight.detach() for name, weight in weights.items()},
        **{f"average/{name}": value for name, value in averages.values.items()},
        **saving.optimizer_tensors(optimizer, weights),
    }
    return run


def check_shares(settings: CptSettings, world: int) -> None:
    """ConfigError if a step's sequences can't be dealt out to the processes in equal micro batches."""
    part = settings.micro_batch * world
    if settings.batch_sequences % part:
        raise ConfigError(
            f"batch_tokens: the {settings.batch_sequences} sequences of a step can't be dealt out to {world} processes "
            f"in micro batches of {settings.micro_batch}: take a multiple of {part * settings.sequence:,} tokens."
        )


# --- the model --------------------------------------------------------------------------------------------------------


def make_model(settings: CptSettings, base: Checkpoint, ranks: Ranks, seed: int) -> losses.LossModel:
    """The base, frozen, recomputing, compiled, sharded as asked; on the device."""
    config = _config(base, settings)
    streamed = ranks.mesh is not None and settings.freeze != "lora"
    empty = _empty(config) if streamed else None
    places = _places(empty, base) if empty is not None else None
    model = empty if places is not None else _loaded(base, config, settings)
    if settings.kernels.liger:
        _add_liger(model, ranks.device)
    freezing.freeze(model, settings, seed)
    layers = freezing.layers(model)
    if settings.activation_checkpointing != "none":
        for layer in layers[:: 1 if settings.activation_checkpointing == "full" else 2]:
            _recompute(layer)
    if settings.compile:
        for layer in layers:
            layer.compile()
    module = losses.LossModel(model, chunked=settings.kernels.chunked_loss is not False, liger=settings.kernels.liger)
    module.train()
    if ranks.mesh is None:
        return module.to(ranks.device)
    parallel.shard(module, layers, ranks, settings.precision)
    if places is not None:
        _read_slices(module, places, ranks)
    return module.to(ranks.device)


def _dtype(settings: CptSettings) -> torch.dtype:
    """In which weights are kept and updated."""
    return torch.bfloat16 if settings.precision == "bf16_pure" else torch.float32


def _config(base: Checkpoint, settings: CptSettings) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
    except Exception as error:  # one that this version of transformers doesn't know
        raise ModelError(f"transformers can't read {base.path}/config.json: {_line(error)}") from None
    longest = base.max_length
    if longest is not None and settings.sequence > longest:
        raise ConfigError(f"sequence: {settings.sequence} is longer than the {longest} positions of {base.name}.")
    config._attn_implementation = attention(settings.kernels, settings.precision)
    config.dtype = _dtype(settings)
    return config


def attention(kernels: Kernels, precision: Precision) -> str:
    """The implementation of attention; MissingPartError if the one that is asked for isn't installed."""
    installed = importlib.util.find_spec("flash_attn") is not None
    if kernels.attention == "flash_attention_2" and not installed:
        raise MissingPartError("kernels.attention: flash_attention_2 needs flash-attn, which isn't installed.")
    if kernels.attention != "auto":
        return kernels.attention
    fits = installed and torch.cuda.is_available() and precision != "fp32"  # it computes in 16 bits only
    return "flash_attention_2" if fits else "sdpa"


def _loaded(base: Checkpoint, config: Any, settings: CptSettings) -> Any:
    """The model with its weights, in this process's memory."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.path, config=config, dtype=_dtype(settings), use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # shapes that don't fit, kernels that aren't there, …
        raise ModelError(f"transformers can't load {base.path}: {_line(error)}") from None
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise ModelError(f"{base.path} lacks weights of the model, {missing[0]} for one: save it again.")
    return model


def _empty(config: Any) -> Any:
    """The model without weights; what it computes from its configuration is there."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        with init_empty_weights(include_buffers=False):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=config.dtype)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ModelError(f"transformers can't make this model: {_line(error)}") from None
    model.tie_weights()
    return model


def _places(model: Any, base: Checkpoint) -> dict[str, Path] | None:
    """The file of each weight; None if names or shapes aren't those of the files."""
    found: dict[str, Path] = {}
    for file in base.weight_files:
        found |= dict.fromkeys(read_header(file), file)
    shapes = {name: tuple(row["shape"]) for name, row in base.tensors.items()}
    names = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    persistent = model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys()
    fits = not persistent and all(shapes.get(name) == shape for name, shape in names.items())
    return found if fits else None


def _read_slices(module: losses.LossModel, places: Mapping[str, Path], ranks: Ranks) -> None:
    """Give each process its part of each weight."""
    from safetensors import safe_open
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.to_empty(device=ranks.device)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
        for name, parameter in module.named_parameters():
            own, weight = name.removeprefix("model."), cast(DTensor, parameter)
            shape, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
            with safe_open(places[own], framework="pt") as file:
                rows = file.get_slice(own)[offset[0] : offset[0] + shape[0]]
            weight.to_local().copy_(rows)


def _recompute(layer: nn.Module) -> None:
    """Keep a layer's input only, and compute the layer again for its gradients (Chen et al. 2016, arXiv 1604.06174)."""
    forward = layer.forward

    def again(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return recomputed(forward, *arguments, use_reentrant=False, **named)

    layer.forward = again


def _add_liger(model: Any, device: torch.device) -> None:
    if device.type != "cuda":
        raise ConfigError("kernels.liger: its kernels need a GPU; leave it out.")
    if importlib.util.find_spec("liger_kernel") is None:
        raise MissingPartError("kernels.liger needs liger-kernel: pip install 'estbench[liger]'")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)


def choose_loss(module: losses.LossModel, settings: CptSettings, ranks: Ranks, say: Callable[[str], None]) -> None:
    """Take the loss in pieces only where it is the model's loss."""
    if not module.chunked:
        return
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, module.config.get_text_config().vocab_size, (1, SAMPLE), generator=generator).to(
        ranks.device
    )
    positions = torch.arange(SAMPLE, device=ranks.device).unsqueeze(0)
    module.eval()
    # A compiled model isn't tried: it would be compiled for the sample's shape.
    with torch.compiler.set_stance("force_eager"), computing(settings, ranks):
        module.chunked = losses.plain_head(module, ids, positions, TOLERANCE[settings.precision])
    module.train()
    parallel.at_rest(module)
    if module.chunked:
        return
    if settings.kernels.liger or settings.kernels.chunked_loss is True:
        raise ModelError("This model's logits are more than its output layer: chunked_loss and liger can't be had.")
    say("The loss is taken from whole logits: this model's are more than its output layer's.")


def computing(settings: CptSettings, ranks: Ranks) -> torch.autocast:
    """bf16 where no sharding casts the weights."""
    mixed = settings.precision == "bf16" and ranks.mesh is None
    return torch.autocast(ranks.device.type, torch.bfloat16, enabled=mixed)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


# --- the optimizer ----------------------------------------------------------------------------------------------------


def make_optimizer(settings: CptSettings, weights: Mapping[str, nn.Parameter], ranks: Ranks) -> torch.optim.AdamW:
    """AdamW with its state in place, so that a stored one can be read into it. Norms and biases don't decay."""
    asked = settings.optimizer
    groups = [
        {"params": [weight for weight in weights.values() if weight.ndim >= 2], "weight_decay": asked.weight_decay},
        {"params": [weight for weight in weights.values() if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.rate,
        betas=(asked.betas[0], asked.betas[1]),
        eps=asked.eps,
        fused=True,
    )
    for weight in weights.values():
        optimizer.state[weight] = {
            "step": torch.zeros((), dtype=torch.float32, device=ranks.device),
            "exp_avg": torch.zeros_like(weight.detach()),
            "exp_avg_sq": torch.zeros_like(weight.detach()),
        }
    return optimizer


# --- what it takes ----------------------------------------------------------------------------------------------------


def meter() -> float | None:
    """The counters of a node's GPUs in joules, read by one of its processes."""
    return card.energy_joules() if counts() else None


def counts() -> bool:
    """Whether this process is the one of its node that reads the counters."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def utilisation(run: Run) -> Callable[[float], float | None]:
    """Tokens a second of all devices -> model FLOPs utilisation of one; None where a peak or the build isn't known."""
    peak = _peak(run.ranks.device)
    learnt = sum(weight.numel() for weight in run.weights.values())
    share = learnt / sum(parameter.numel() for parameter in run.model.parameters())
    try:
        work = flops.per_token(run.model.config, run.settings.sequence, trained=share)
    except ModelError:
        work = None
    if peak is None or work is None:
        return lambda speed: None
    return lambda speed: speed / run.ranks.world * work / peak


def _peak(device: torch.device) -> float | None:
    """FLOP/s of a GPU in dense bf16, by its name."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((one.peak for one in MACHINES.values() if one.device.split()[0] in name), None)
