"""What a merge can be told, as a stage and as a command; and what can't be meant is refused before anything is read.

    MergeSettings("chat_vector", base="llama", instruct="llama-chat", scale=0.8, scales={"*.mlp.*": 0.5})

Patterns are globs over tensors' names; of those that match, the last one counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from estbench import identity
from estbench.errors import ConfigError
from estbench_training.kinds import StageSettings, described

if TYPE_CHECKING:
    from estbench_training.recipe import Recipe

Method = Literal["chat_vector", "task", "ties", "dare", "slerp", "stock", "average"]
Rows = Literal["add", "skip", "by_token"]
METHODS: tuple[Method, ...] = ("chat_vector", "task", "ties", "dare", "slerp", "stock", "average")
BASED = ("task", "ties", "dare", "stock")  # methods that look at what models have learnt since a base
LARGEST = 1000  # scale, weight; far beyond all that makes a model
HOW = ("scales", "weights", "density", "drop", "t", "embeddings", "special_tokens", "dtype")  # what a card says
SCALED = ("chat_vector", "task", "ties", "dare")
OWN = {  # keys of one method, which needs it, and what to say
    "density": ("ties", "the share of what was learnt that is kept: 0.2 in the paper"),
    "drop": ("dare", "the share of what was learnt that is left out: 0.9 for one"),
    "t": ("slerp", "how far it goes from the first model to the second: 0.5 is halfway"),
}


@dataclass(frozen=True)
class MergeSettings(StageSettings):
    """The keys of a merge stage. Models are stages that make one, folders, owner/name on the Hub, demo models."""

    method: Method
    base: str | None = None  # what the others were trained from
    instruct: str | None = None  # chat_vector: the chat model that was made of the base
    into: str | None = None  # chat_vector: default is the model that the stage starts from; else it is the base
    parts: tuple[str, ...] = ()  # of the other methods: the models that are merged
    weights: tuple[float, ...] = ()  # one for each of parts; all 1 unless said
    scale: float = 1.0  # λ: how much of what was learnt is added
    scales: Mapping[str, float] = field(default_factory=dict)  # pattern of tensors' names -> its own λ; of slerp: its t
    density: float | None = None  # ties: share of what was learnt that is kept, the largest first
    drop: float | None = None  # dare: share of what was learnt that is dropped at random
    t: float | None = None  # slerp: 0 is the first model, 1 the second
    embeddings: Rows = "add"  # skip: those of `into` stay; by_token: rows are matched by their tokens
    special_tokens: Literal["chat", "add"] = "chat"  # chat_vector: rows of special tokens are the chat model's
    dtype: Literal["into", "bfloat16", "float16", "float32"] = "into"
    shard_gb: float = 5.0  # of a safetensors file at most

    def __post_init__(self) -> None:
        for key, names in {"base": self.base, "instruct": self.instruct, "into": self.into}.items():
            if names == "":
                raise ConfigError(f"{key}: the name is empty.")
        if "" in self.parts:
            raise ConfigError("parts: a name is empty; look for a comma too many.")
        (self._check_chat_vector if self.method == "chat_vector" else self._check_parts)()
        self._check_numbers()
        for name, (method, what) in OWN.items():
            value = getattr(self, name)
            if (value is None) == (self.method == method):
                raise ConfigError(
                    f"{name}: {method} needs it, {what}."
                    if value is None
                    else f"{name}: is for {method}, not {self.method}: leave it out."
                )
        if self.embeddings == "by_token" and self.method != "chat_vector":
            raise ConfigError(f"embeddings: by_token is for chat_vector; {self.method} takes add or skip.")
        if self.embeddings == "skip" and self.method not in SCALED:
            raise ConfigError(f"embeddings: skip leaves those of into:; {self.method} has none: leave it out.")

    def _check_chat_vector(self) -> None:
        if not self.base or not self.instruct:
            raise ConfigError("chat_vector needs base: and instruct:, the chat model that was made of it.")
        if self.parts or self.weights:
            raise ConfigError("chat_vector takes instruct:, and no parts: or weights:; task adds up several.")

    def _check_parts(self) -> None:
        least = {"slerp": 2, "stock": 2, "average": 2}.get(self.method, 1)
        if len(self.parts) < least or (self.method == "slerp" and len(self.parts) != 2):
            number = "exactly two" if self.method == "slerp" else f"{least} or more"
            raise ConfigError(f"parts: {self.method} needs {number} models, not {len(self.parts)}.")
        if self.instruct:
            raise ConfigError(f"instruct: is for chat_vector; name the models of {self.method} in parts:.")
        if (self.method in BASED) != bool(self.base):
            raise ConfigError(
                f"base: {self.method} needs it, the model that the others were trained from."
                if self.method in BASED
                else f"base: {self.method} takes none, it merges parts: alone; leave it out."
            )
        if self.into and self.method not in SCALED:
            raise ConfigError(f"into: {self.method} makes a model of its own: leave it out.")
        if self.weights and len(self.weights) != len(self.parts):
            raise ConfigError(f"weights: {len(self.weights)} of them for {len(self.parts)} models in parts.")
        if self.weights and self.method in ("slerp", "stock"):
            raise ConfigError(f"weights: {self.method} has none: leave it out; t: says how far slerp goes.")

    def _check_numbers(self) -> None:
        numbers = {"scale": self.scale, "shard_gb": self.shard_gb}
        numbers |= {f"scales, {pattern}": value for pattern, value in self.scales.items()}
        numbers |= {f"weights[{at}]": value for at, value in enumerate(self.weights)}
        if self.t is not None:
            numbers["t"] = self.t
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ConfigError(f"{name}: {value} is no number.")
            if abs(value) > LARGEST:
                raise ConfigError(f"{name}: {value:g} has to be from -{LARGEST} to {LARGEST}.")
            if self.method == "slerp" and name.startswith(("t", "scales")) and not 0 <= value <= 1:
                raise ConfigError(f"{name}: {value:g} has to be from 0, the first model, to 1, the second.")
        if self.scale != 1 and self.method not in SCALED:
            raise ConfigError(f"scale: {self.method} has none: leave it out.")
        if self.scales and self.method not in (*SCALED, "slerp"):
            raise ConfigError(f"scales: {self.method} has none: leave it out.")
        if self.weights and self.method in ("average", "ties") and (sum(self.weights) <= 0 or min(self.weights) < 0):
            raise ConfigError("weights: have to be 0 or more, one of them above 0.")
        if self.density is not None and not 0 < self.density <= 1:
            raise ConfigError(f"density: {self.density:g} has to be above 0 and at most 1.")
        if self.drop is not None and not 0 <= self.drop < 1:
            raise ConfigError(f"drop: {self.drop:g} has to be 0 or more and below 1.")
        if self.shard_gb <= 0:
            raise ConfigError(f"shard_gb: {self.shard_gb:g} has to be above 0.")

    def starts(self) -> bool:
        """A chat vector is added to the model before, unless `into` names another; all else is named."""
        return self.method == "chat_vector" and self.into is None

    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name in (self.into, self.base, self.instruct, *self.parts) if name))

    def outside(self, recipe: Recipe) -> Mapping[str, str]:
        """The order of the patterns, which a key's JSON doesn't keep."""
        return {"patterns": identity.digest(list(self.scales))} if len(self.scales) > 1 else {}

    def check(self, recipe: Recipe) -> None:
        """Patterns that match no tensor of a model that is here already: not only after all training."""
        for name in (*self.models(), recipe.head.base) if self.scales else ():
            if (found := recipe.here(name)) is not None:
                return self.check_patterns(found.tensors)

    def check_patterns(self, names: Collection[str]) -> None:
        """ConfigError for a pattern of scales that matches none of the tensors."""
        for pattern in self.scales:
            if not any(fnmatchcase(name, pattern) for name in names):
                called = ", ".join(list(names)[:2])
                raise ConfigError(f"scales: {pattern!r} matches no tensor; they are called {called}, …")

    @property
    def merged(self) -> tuple[str, ...]:
        """The models whose weights are mixed in: the chat model, or the parts."""
        return (self.instruct,) if self.instruct else self.parts

    @property
    def shares(self) -> tuple[float, ...]:
        """The weight of each of them, as given or 1; of an average they add up to 1."""
        given = self.weights or (1.0,) * len(self.merged)
        return tuple(weight / sum(given) for weight in given) if self.method == "average" else given

    def scale_of(self, tensor: str) -> float:
        """λ of a tensor by its name, or slerp's t: that of the last pattern that matches, or the common one."""
        common = self.scale if self.t is None else self.t
        return next((value for glob, value in reversed(list(self.scales.items())) if fnmatchcase(tensor, glob)), common)

    @property
    def how(self) -> str:
        """The method and what was said of it, in a line, but for the models."""
        scale = (f"scale {self.scale:.12g}",) if self.method in SCALED else ()
        return described(self, (self.method, *scale), HOW)

    def with_scale(self, scale: float) -> MergeSettings:
        """The same with another λ."""
        return replace(self, scale=scale)
