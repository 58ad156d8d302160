"""A recipe as a job for a cluster: a head that knows the machine, and train.sh, which is the same on all of them.

    path = write(recipe, "lumi", output, Path("recipe.yaml"), gpus=64)      # then: sbatch path

Stages that train are started as one process for each GPU, all others as one process; each is a command of its own, in
the recipe's order, so that a job that is queued again goes on where it was.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from estbench import report
from estbench.errors import ConfigError, StoreError, did_you_mean
from estbench.home import home, project_file
from estbench_training import plan
from estbench_training.machines import machine_of
from estbench_training.recipe import Recipe, Stage
from estbench_training.work import work_of

CLUSTERS = {
    "lumi": "lumi",
    "leonardo": "leonardo",
    "h200": "h200",
    "local": "laptop",
}  # whose machine's nodes they have


def write(
    recipe: Recipe,
    cluster: str,
    output: Path,
    path: Path,
    *,
    gpus: int | None = None,
    only: Sequence[str] = (),
    words: Sequence[str] = (),
) -> str:
    """Write the job into the output folder; its path, to be given to sbatch (local: to bash).

    Args:
        recipe: what is run.
        cluster: lumi, leonardo, h200 or local.
        output: the folder of the stages; all nodes have to see it.
        path: the recipe's file.
        gpus: devices; by default those of one node (local: one process).
        only: these stages and what they need.
        words: more key=value words for each command.

    Raises:
        ConfigError: an unknown cluster, a number of devices that makes no whole nodes or doesn't divide a step.
        StoreError: the folder can't be written.
    """
    script = job(recipe, cluster, output, path, gpus=gpus, only=only, words=words)
    target = output / f"{recipe.name}-{cluster}.{'sh' if cluster == 'local' else 'sbatch'}"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{output} can't be written: {error.strerror}. Give another output_dir=.") from None
    report.write(target, script)
    return str(target)


def job(
    recipe: Recipe,
    cluster: str,
    output: Path,
    path: Path,
    *,
    gpus: int | None = None,
    only: Sequence[str] = (),
    words: Sequence[str] = (),
) -> str:
    """The text of the job; arguments and errors as for `write`."""
    if cluster not in CLUSTERS:
        raise ConfigError(f"slurm={cluster} is not one of {', '.join(CLUSTERS)}.{did_you_mean(cluster, CLUSTERS)}")
    stages = plan.wanted(recipe, only)
    nodes, each = split(cluster, gpus)
    check(stages, nodes * each)
    values = {
        "NAME": f"estbench-{recipe.name}",
        "NODES": str(nodes),
        "PER_NODE": str(each),
        "VENV": _quoted(sys.prefix),
        "HOME": _quoted(str(home())),
        "RECIPE": shlex.quote(str(path.absolute())),
        "OUTPUT": shlex.quote(str(output.absolute())),
        "WORDS": " ".join(map(shlex.quote, words)),
        "STAGES": "\n".join(_calls(stages)),
    }
    text = "".join(project_file(f"training/slurm/{name}.sh").read_text("utf-8") for name in (cluster, "train"))
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def split(cluster: str, gpus: int | None) -> tuple[int, int]:
    """(nodes, devices of each); ConfigError if the devices are no whole nodes."""
    per_node = machine_of(CLUSTERS[cluster]).per_node
    count = gpus or per_node
    if cluster == "local" or count <= per_node:
        return 1, count
    if count % per_node:
        below = count // per_node * per_node
        raise ConfigError(
            f"gpus={count}: a node of {cluster} has {per_node}, so take {below} or {below + per_node} (or fewer than a "
            "node's)."
        )
    return count // per_node, per_node


def check(stages: Sequence[Stage], gpus: int) -> None:
    """ConfigError now, and not after hours in a queue, if a stage can't use so many devices."""
    for stage in stages:
        work = work_of(stage.settings)
        if why := work.undivided(gpus) if work else "":
            raise ConfigError(f"Stage {stage.name!r}: {why}. Choose another gpus=, or another batch.")


def _calls(stages: Sequence[Stage]) -> Iterator[str]:
    for stage in stages:
        yield f"stage {'together' if stage.kind.parallel else 'alone'} {stage.name}"


def _quoted(text: str) -> str:
    """Text inside double quotes of a shell."""
    for mark in ("\\", '"', "$", "`"):
        text = text.replace(mark, f"\\{mark}")
    return text
