"""What `estbench train` can be told: fields that carry their own help."""

from __future__ import annotations

from dataclasses import dataclass

from estbench.config import option
from estbench.errors import ConfigError


@dataclass(frozen=True)
class TrainSettings:
    """What `estbench train` can be told."""

    recipe: str | None = option("a recipe's file, or one of ours by name: estbench train recipes", None)
    stage: str | None = option("only these stages, with commas, and what they need; all unless said", None)
    output_dir: str | None = option("where stages are kept; default is training/NAME in ESTBENCH_HOME", None)
    plan: bool = option("show stages, tokens, FLOPs, memory and hours, and stop", False)
    machine: str | None = option("whose hours plan= shows; default is the recipe's", None)
    gpus: int | None = option("how many devices plan= and slurm= count with", None, least=1)
    slurm: str | None = option("write a job for this cluster instead: lumi, leonardo, h200, local", None)
    seed: int | None = option("another seed than the recipe's", None, least=0)
    output: str | None = option("table or json; json is the default on a pipe", None, choices=("table", "json"))

    def __post_init__(self) -> None:
        if self.plan and self.slurm:
            raise ConfigError("plan= and slurm= are two questions: leave one out.")

    @property
    def recipe_name(self) -> str:
        """The recipe as typed; ConfigError if there is none."""
        if self.recipe:
            return self.recipe
        raise ConfigError("recipe= is missing: a YAML file, or one of `estbench train recipes`.")
