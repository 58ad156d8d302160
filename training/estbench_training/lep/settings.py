"""What a `lep` stage can be told. The fields are the keys in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from estbench.errors import ConfigError
from estbench_training.kinds import StageSettings, described
from estbench_training.merge.settings import LARGEST

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe

Variant = Literal["conversion", "overlap", "delta", "swap"]
Layers = Literal["auto", "keep", "adapter", "delta"]


@dataclass(frozen=True)
class LepSettings(StageSettings):
    """Learned embedding propagation (Tikhomirov & Chernyshev 2024, arXiv 2412.21140): what a donor has learnt for a new
    vocabulary, carried to a sibling of the model that it was trained from.

    source, target, donor: stages that make a model, or models from elsewhere. Source and target share a tokenizer.
    """

    source: str  # the base model that the donor was trained from
    target: str  # its instruct model, or any other that was trained from it
    donor: str  # the source with another vocabulary, trained on
    variant: Variant = "conversion"
    weighting: Literal["mean", "weighted"] = "mean"  # of old pieces (conversion, delta), as in a vocab stage
    ridge: float = 1e-9  # pull of P towards I, as a multiple of the mean of AᵀA's diagonal (conversion, overlap)
    layers: Layers = "auto"  # what of the donor's layers is carried over; auto: its adapter, or all that they differ in
    scale: float = 1.0  # of that

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise ConfigError(f"ridge: {self.ridge:g} is below 0.")
        if not abs(self.scale) <= LARGEST:
            raise ConfigError(f"scale: {self.scale:g} has to be from -{LARGEST} to {LARGEST}.")
        if self.scale != 1 and self.layers == "keep":
            raise ConfigError("scale: is of what the donor's layers have learnt; with layers: keep nothing is carried.")
        if self.ridge != LepSettings.ridge and self.variant in ("delta", "swap"):
            raise ConfigError(f"ridge: variant: {self.variant} solves for no P; leave it out.")
        if self.weighting != LepSettings.weighting and self.variant in ("overlap", "swap"):
            raise ConfigError(f"weighting: variant: {self.variant} makes nothing of pieces; leave it out.")

    @property
    def how(self) -> str:
        """The variant and what was said of it, in a line."""
        return described(self, (self.variant,), ("weighting", "ridge", "layers", "scale"))

    def models(self) -> tuple[str, ...]:
        """The three."""
        return tuple(dict.fromkeys((self.source, self.target, self.donor)))

    def check(self, recipe: Recipe) -> None:
        """Source and target of two sizes, where both are here already: not only after all training."""
        found = {role: recipe.here(getattr(self, role)) for role in ("source", "target")}
        widths = {role: model.config.get("hidden_size") for role, model in found.items() if model is not None}
        if len(set(widths.values())) > 1:
            said = " and ".join(f"{width} in the {role}" for role, width in widths.items())
            raise ConfigError(f"hidden_size is {said}: these are no siblings.")

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        """The adapter beside a donor that no stage of the recipe makes: its fingerprint doesn't have it."""
        from estbench import identity
        from estbench_training.lep.places import adapter_of

        place = adapter_of(recipe.path(self.donor))
        if self.donor in (stage.name for stage in recipe.stages) or place is None or self.layers in ("keep", "delta"):
            return {}
        found = identity.FileHashes().of(sorted(place.glob("adapter_*")))
        return {"adapter": identity.digest([[file.name, hashed] for file, (hashed, _) in found.items()])}
