"""What becomes of the target's other tensors: kept, or what the donor's layers have learnt added to them.

    layers = choose(settings, roles, adapter_folder, say)
    layers.rows("model.layers.0.mlp.up_proj.weight", 0, 100)

    keep      T                                  adapter   T + scale · α/r · B A, the donor's LoRA
    delta     T + scale · (D − S), the donor's layers as they were trained

auto is adapter where the donor has one, delta where its layers differ from the source's, else keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from estbench.errors import ConfigError, ModelError
from estbench_training.kinds import Say
from estbench_training.lep.adapter import Adapter
from estbench_training.lep.roles import Model, Roles
from estbench_training.lep.settings import LepSettings
from estbench_training.lep.solve import slices
from estbench_training.merge.methods import chat_vector
from estbench_training.weights import check_finite, computing, rounded

ELEMENTS = 1 << 22  # numbers that are computed together
CURE = "layers: delta carries over all that the donor's layers have learnt"


@dataclass(frozen=True)
class Layers:
    """How the tensors beside the embeddings are made. how: keep, adapter or delta."""

    roles: Roles
    how: str
    scale: float
    adapter: Adapter | None = None

    def spans(self, name: str) -> Iterator[tuple[int, int]]:
        """(start, stop) of the rows that are computed together."""
        info = self.roles.target.weights.tensors[name]
        return slices(info.rows, max(1, ELEMENTS // max(1, info.row)))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of a tensor of the new model, in the target's type; ModelError for a number that is none."""
        target = self.roles.target
        found = _read(target, name, start, stop)
        if not found.is_floating_point():
            return found
        kind = computing(found.dtype)
        if self.adapter is not None and name in self.adapter.parts:
            made = found.to(kind) + self.scale * self.adapter.parts[name].rows(start, stop, kind)
        elif self.how == "delta" or (self.adapter is not None and name in self.adapter.whole):
            made = self._moved(name, start, stop, found.to(kind))
        else:
            return found
        return rounded(made, found.dtype, name, start)

    def _moved(self, name: str, start: int, stop: int, found: Tensor) -> Tensor:
        """T + scale · (D − S); with scale 1 as D + (T − S), which is the chat vector to the bit."""
        before, after = (
            _read(model, name, start, stop).to(found.dtype) for model in (self.roles.source, self.roles.donor)
        )
        if self.scale == 1:
            return chat_vector(after, found, before)
        return chat_vector(found, after, before, self.scale)


def others(model: Model) -> list[str]:
    """The names of a model's tensors that are no embeddings and no head."""
    return [name for name in model.weights.tensors if name not in model.names.names]


def _read(model: Model, name: str, start: int, stop: int) -> Tensor:
    found = model.weights.read(name, start, stop)
    check_finite(found, f"{model.weights.file_of(name)}: {name}", start=start)
    return found


def choose(settings: LepSettings, roles: Roles, place: Path | None, say: Say) -> Layers:
    """What `layers` means for these models. place: the donor's adapter, where there is one.

    ConfigError: adapter, and there is none. ModelError: the models' tensors don't fit, or the adapter is not all that
    the donor's layers have learnt.
    """
    how = settings.layers
    if how == "adapter" and place is None:
        raise ConfigError(f"layers: adapter, and beside {roles.donor.checkpoint.path} is no adapter/. {CURE}.")
    if how == "keep" or (how == "auto" and place is None):
        return _without_adapter(settings, roles, say)
    if how == "delta" or place is None:
        _check_same_tensors(roles)
        return Layers(roles, "delta", settings.scale)
    adapter = Adapter.open(place)
    _check_adapter(roles, adapter)
    if how == "auto":
        say(f"layers: auto is adapter: {len(adapter.parts)} weights get what {place} has learnt")
    return Layers(roles, "adapter", settings.scale, adapter)


def _without_adapter(settings: LepSettings, roles: Roles, say: Say) -> Layers:
    if settings.layers == "keep":
        return Layers(roles, "keep", settings.scale)
    _check_same_tensors(roles)
    changed = next((name for name in others(roles.target) if _differ(roles, name)), None)
    if changed is None:
        say("layers: auto is keep: the donor's layers are the source's")
        return Layers(roles, "keep", settings.scale)
    say(f"layers: auto is delta: the donor's layers are not the source's ({changed})")
    return Layers(roles, "delta", settings.scale)


def _differ(roles: Roles, name: str) -> bool:
    """Whether a tensor is another one in the donor than in the source."""
    layers = Layers(roles, "keep", 1.0)
    return any(
        not torch.equal(roles.donor.weights.read(name, *span), roles.source.weights.read(name, *span))
        for span in layers.spans(name)
    )


def _check_same_tensors(roles: Roles) -> None:
    """All three have the same tensors beside the embeddings; ModelError names one that doesn't fit."""
    expected = {name: roles.target.weights.tensors[name] for name in others(roles.target)}
    for model in (roles.source, roles.donor):
        found = {name: model.weights.tensors[name] for name in others(model)}
        if odd := sorted(found.keys() ^ expected.keys()):
            where = (roles.target.role, model.role) if odd[0] in expected else (model.role, roles.target.role)
            raise ModelError(
                f"{odd[0]} is in the {where[0]} and not in the {where[1]}: layers: keep leaves them alone."
            )
        for name, info in expected.items():
            if found[name].shape != info.shape:
                raise ModelError(
                    f"{name} is {list(found[name].shape)} in the {model.role} and {list(info.shape)} in the target: "
                    "these are no siblings."
                )


def _check_adapter(roles: Roles, adapter: Adapter) -> None:
    """The adapter fits the target, and is all that the donor's layers differ in from the source's."""
    target = roles.target.weights.tensors
    ours = {name: part for name, part in adapter.parts.items() if name not in roles.target.names.names}
    for name, part in ours.items():
        if name not in target or target[name].shape != part.shape:
            there = f"is {list(target[name].shape)} in" if name in target else "is not in"
            raise ModelError(
                f"{adapter.folder}: {name} ({' × '.join(map(str, part.shape))}) {there} the target: the adapter is of "
                "another model."
            )
    _check_same_tensors(roles)
    for name in others(roles.target):
        if name not in ours and name not in adapter.whole and _differ(roles, name):
            raise ModelError(
                f"{name} differs in donor and source, and the donor's adapter knows nothing of it: layers were trained "
                f"before the adapter was. {CURE}."
            )
    for name in [*ours][:1]:  # one tells: what trains layers trains all of them
        if not _explains(roles, name, ours[name].rows):
            raise ModelError(f"{name} of the donor is not the source's with the donor's adapter added. {CURE}.")


def _explains(roles: Roles, name: str, added: Callable[[int, int, torch.dtype], Tensor]) -> bool:
    """Whether the donor's weight is the source's with the adapter's part added, to rounding."""
    for start, stop in Layers(roles, "keep", 1.0).spans(name):
        before, after = (model.weights.read(name, start, stop) for model in (roles.source, roles.donor))
        more = added(start, stop, torch.float64)
        largest = before.double().abs().max() + more.abs().max()
        left = (before.double() + more - after.double()).abs().max()
        if float(left) > 8 * torch.finfo(after.dtype).eps * float(largest):
            return False
    return True
