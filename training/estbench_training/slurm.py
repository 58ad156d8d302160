"""A recipe as a job for a cluster: a head that knows the machine, and train.sh, which is the same on all of them.

    path = write(recipe, "lumi", output, Path("recipe.yaml"), gpus=64)      # then: sbatch path
    python -m estbench_training.slurm recipe=… output_dir=… stage=corpus    # in the job: is it done?

Stages that train are started as one process for each GPU, all others as one process; each is a command of its own, in
the recipe's order, so that a job that is queued again goes on where it was. Compute nodes have no network: stages that
read data sets of the Hub are done before, and the job begins by looking whether they are.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from estbench import config, report
from estbench.errors import ConfigError, EstbenchError, StoreError, did_you_mean
from estbench.home import home, project_file
from estbench_training import commands, plan, stages
from estbench_training.machines import machine_of
from estbench_training.recipe import Recipe, Stage
from estbench_training.settings import TrainSettings
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

    What has to be done before it starts is said on stderr.

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
    nodes, _ = split(cluster, gpus)
    for line in _before(recipe, plan.wanted(recipe, only), nodes, output, path, words):
        report.say(line)
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
    wanted = plan.wanted(recipe, only)
    nodes, each = split(cluster, gpus)
    check(wanted, nodes * each)
    values = {
        "NAME": f"estbench-{recipe.name}",
        "NODES": str(nodes),
        "PER_NODE": str(each),
        "VENV": _quoted(sys.prefix),
        "HOME": _quoted(str(home())),
        "RECIPE": shlex.quote(str(path.absolute())),
        "OUTPUT": shlex.quote(str(output.absolute())),
        "WORDS": " ".join(map(shlex.quote, words)),
        "STAGES": "\n".join(_calls(recipe, wanted)),
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


def check(wanted: Sequence[Stage], gpus: int) -> None:
    """ConfigError now, and not after hours in a queue, if a stage can't use so many devices."""
    for stage in wanted:
        work = work_of(stage.settings)
        if why := work.undivided(gpus) if work else "":
            raise ConfigError(f"Stage {stage.name!r}: {why}. Choose another gpus=, or another batch.")


def reads_hub(stage: Stage) -> bool:
    """Whether a stage reads data sets of the Hub, for which it needs a network."""
    named = (getattr(stage.settings, key, None) for key in ("sources", "data"))
    return any(getattr(source, "hub", None) for one in named if isinstance(one, Mapping) for source in one.values())


def _calls(recipe: Recipe, wanted: Sequence[Stage]) -> Iterator[str]:
    """The lines of the job; what needs a network is looked at as soon as it can have been done."""
    before = [stage.name for stage in wanted if reads_hub(stage) and not _trained_for(recipe, stage)]
    if before:
        yield f"stage prepared {','.join(before)}"
    for stage in wanted:
        if stage.name not in before:
            how = "together" if stage.kind.parallel else "prepared" if reads_hub(stage) else "alone"
            yield f"stage {how} {stage.name}"


def _trained_for(recipe: Recipe, stage: Stage) -> bool:
    """Whether something has to be trained before a stage can begin."""
    needed = stages.closure(recipe, [stage.name]) - {stage.name}
    return any(recipe.stage(name).kind.parallel for name in needed)


def _before(
    recipe: Recipe, wanted: Sequence[Stage], nodes: int, output: Path, path: Path, words: Sequence[str]
) -> Iterator[str]:
    """What to do before the job is sent, a line each. A stage counts as done here if a folder of its name is whole; the
    job knows for sure."""
    ours = path.parent == project_file("training/recipes")
    where = f"recipe={path.stem if ours else path.absolute()}", f"output_dir={output.absolute()}"
    command = ["estbench", "train", *where, *words]
    undone = [stage for stage in wanted if not stage.kind.parallel and not _seems_done(stage, output)]
    if outside := [stage.name for stage in undone if reads_hub(stage)]:
        names = ",".join(outside)
        yield (
            f"{', '.join(outside)}: data sets of the Hub are read, and compute nodes have no network. Before the job, "
            f"where there is one: {shlex.join([*command, f'stage={names}'])}"
        )
    waited = [stage.name for stage in undone if not reads_hub(stage) and not _trained_for(recipe, stage)]
    if waited and nodes > 1:
        names = ",".join(waited)
        yield (
            f"{', '.join(waited)}: the first node does it while the others wait. To spare them that, before the job: "
            f"{shlex.join([*command, f'stage={names}'])}"
        )


def _seems_done(stage: Stage, output: Path) -> bool:
    return any(output.glob(f"{stage.name}-{'[0-9a-f]' * 12}/{stages.DONE}"))


def prepared(settings: TrainSettings) -> None:
    """ConfigError, and what to do, if a stage of `stage=` is not done."""
    recipe, names = commands.open_recipe(settings), (settings.stage or "").split(",")
    steps = stages.chain(recipe, commands.output_of(settings, recipe), report.say, only=names)
    if undone := [step.stage.name for step in steps if step.stage.name in names and not step.done]:
        words = [f"{key}={value}" for key in ("recipe", "output_dir", "seed") if (value := getattr(settings, key))]
        command = shlex.join(["estbench", "train", *words, f"stage={','.join(undone)}"])
        raise ConfigError(
            f"Not done: {', '.join(undone)}. There is no network here for the data sets of the Hub: run it where there "
            f"is one ({command}), and send the job again."
        )


def main(words: list[str]) -> int:
    """`prepared` as a command, for the job."""
    try:
        prepared(config.read(words, TrainSettings))
    except EstbenchError as error:
        report.say(f"estbench: {error}")
        return error.exit_code
    return 0


def _quoted(text: str) -> str:
    """Text inside double quotes of a shell."""
    for mark in ("\\", '"', "$", "`"):
        text = text.replace(mark, f"\\{mark}")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
