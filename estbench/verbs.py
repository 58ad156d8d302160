"""What each command runs: its words become settings, and the part that does it is called. No logic lives here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from estbench import config
from estbench.config import EvalSettings
from estbench.errors import ConfigError, MissingPartError, did_you_mean
from estbench.settings import (
    BaselineSettings,
    CometSettings,
    CompareSettings,
    ContaminationSettings,
    DataSettings,
    EnvSettings,
    ExportSettings,
    GateSettings,
    ParitySettings,
    ReportSettings,
    RunsSettings,
    ScoreSettings,
    ServeSettings,
    ShowSettings,
    TasksSettings,
)

JUDGE = "estbench_judges.settings:JudgeSettings"
TRAIN = "estbench_training.settings:TrainSettings"
MERGE = "estbench_training.merge.command:MergeCommandSettings"
FERTILITY = "estbench_training.vocab.command:FertilitySettings"
EXTRAS = {"estbench_judges": "judge", "estbench_leaderboard": "leaderboard", "estbench_training": "train"}
PUSH = "estbench_leaderboard.submissions.settings:PushSettings"
BOARD = "estbench_leaderboard.submissions.settings:BoardSettings"


def evaluate(words: list[str]) -> int:
    """Evaluate a model: the main job."""
    from estbench import commands

    settings = config.read(words, EvalSettings)
    if settings.plan:
        return commands.show_plan(settings)
    return commands.evaluate(settings)


def pull(words: list[str]) -> int:
    """Fetch model and data that an eval with the same words needs."""
    from estbench import commands

    return commands.pull(config.read(words, EvalSettings))


def tasks(words: list[str]) -> int:
    """List tasks and suites, print a task's card, or check task files."""
    from estbench import commands

    verb, paths, rest = verb_of(words, ("list", "check"))
    if paths:
        raise ConfigError(f"{paths[0]!r} is no key=value. `estbench tasks --help` lists the keys.")
    return commands.TASKS[verb](config.read(rest, TasksSettings))


def show(words: list[str]) -> int:
    """Print a prompt exactly as the model gets it."""
    from estbench import commands

    return commands.show(config.read(words, ShowSettings))


def runs(words: list[str]) -> int:
    """List, show, import and export run folders."""
    from estbench import run_commands

    verb, paths, rest = verb_of(words, ("list", "show", "import", "export", "rebuild"))
    settings = config.read(rest, RunsSettings)
    return run_commands.RUNS[verb](settings, [Path(path) for path in paths])


def data(words: list[str]) -> int:
    """List, fetch and check data sets."""
    from estbench import commands

    verb, paths, rest = verb_of(words, ("list", "pull", "verify"))
    if paths:
        raise ConfigError(f"{paths[0]!r} is no key=value. `estbench data --help` lists the keys.")
    return commands.DATA[verb](config.read(rest, DataSettings))


def score(words: list[str]) -> int:
    """Score answers that were made elsewhere."""
    from estbench import commands

    return commands.score(config.read(words, ScoreSettings))


def contamination(words: list[str]) -> int:
    """Look for test data in a corpus."""
    from estbench import commands

    return commands.contamination(config.read(words, ContaminationSettings))


def comet(words: list[str]) -> int:
    """Score the translations of a run with COMET."""
    from estbench import commands

    return commands.comet(config.read(words, CometSettings))


def parity(words: list[str]) -> int:
    """Ask two engines the same, and say what differs."""
    from estbench import commands

    return commands.parity(config.read(words, ParitySettings))


def compare(words: list[str]) -> int:
    """Two runs on the same documents: what differs, and how sure that is."""
    from estbench import compare_command

    plain = [word for word in words if "=" not in word and not word.startswith("@")]
    settings = config.read([word for word in words if word not in plain], CompareSettings)
    return compare_command.compare(settings, plain)


def paper(words: list[str]) -> int:
    """The table of a paper: scores, intervals, what can't be told from the best."""
    from estbench import compare_command

    return compare_command.paper(config.read(words, ReportSettings))


def gate(words: list[str]) -> int:
    """Did a checkpoint get worse? The exit code says."""
    from estbench import gate_commands

    verb, names, rest = verb_of(words, ("run", "calibrate", "noise"))
    if names:
        raise ConfigError(f"{names[0]!r} is no key=value. `estbench gate --help` lists the keys.")
    return gate_commands.GATE[verb](config.read(rest, GateSettings))


def baseline(words: list[str]) -> int:
    """Write baseline files to commit, and list them."""
    from estbench import gate_commands

    verb, names, rest = verb_of(words, ("list", "set"))
    return gate_commands.BASELINE[verb](config.read(rest, BaselineSettings), names)


def env(words: list[str]) -> int:
    """List, install and remove side environments."""
    from estbench import commands

    verb, names, rest = verb_of(words, ("list", "install", "remove"))
    return commands.ENV[verb](config.read(rest, EnvSettings), names)


def judge(words: list[str]) -> int:
    """Have answers judged by language models; price, calibrate, attack and audit that."""
    verbs = part("estbench_judges.commands", "judge").VERBS
    verb, names, rest = verb_of(words, tuple(verbs))
    if names:
        raise ConfigError(f"{names[0]!r} is no key=value. `estbench judge --help` lists the keys.")
    return int(verbs[verb](config.read(rest, settings_of(JUDGE))))


def train(words: list[str]) -> int:
    """Make models by a recipe: continued pretraining, SFT, preferences; runs what is not done yet."""
    verbs = part("estbench_training.commands", "train").VERBS
    verb, names, rest = verb_of(words, tuple(verbs))
    if names:
        raise ConfigError(f"{names[0]!r} is no key=value. `estbench train --help` lists the keys.")
    return int(verbs[verb](config.read(rest, settings_of(TRAIN))))


def merge(words: list[str]) -> int:
    """Make one model of several: chat vector, task arithmetic, TIES, DARE, SLERP, model stock, average."""
    return int(part("estbench_training.merge.command", "train").run(config.read(words, settings_of(MERGE))))


def fertility(words: list[str]) -> int:
    """Count how many tokens texts take, by tokenizer."""
    return int(part("estbench_training.vocab.command", "train").run(config.read(words, settings_of(FERTILITY))))


def serve(words: list[str]) -> int:
    """Show the leaderboard of a database on an address."""
    return int(_leaderboard("serve").serve(config.read(words, ServeSettings)))


def export(words: list[str]) -> int:
    """Write the leaderboard as files that any web server shows."""
    _, folders, rest = verb_of(words, ("site",))
    settings = config.read(rest, ExportSettings)
    if len(folders) != 1:
        raise ConfigError("Name one folder to write to: estbench export site public")
    return int(_leaderboard("static_site").export(settings, Path(folders[0])))


def push(words: list[str]) -> int:
    """Send a run to a leaderboard."""
    settings = config.read(words, settings_of(PUSH))
    return int(_leaderboard("push", "push").push(settings))


def board(words: list[str]) -> int:
    """Maintain a leaderboard: tokens, submissions, decisions."""
    verbs = _leaderboard("submissions.commands").BOARD
    verb, names, rest = verb_of(words, tuple(verbs))
    return int(verbs[verb](config.read(rest, settings_of(BOARD)), names))


def _leaderboard(name: str, extra: str = "leaderboard") -> Any:
    """A module of the leaderboard."""
    return part(f"estbench_leaderboard.{name}", extra)


def part(name: str, extra: str) -> Any:
    """A module of another package, by name: estbench itself imports nothing of them."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("estbench"):
            raise
        raise MissingPartError(f"This needs {error.name}: pip install 'estbench[{extra}]'") from None


def settings_of(name: str) -> type[Any]:
    """The settings class `module:name` of another package."""
    module, _, kind = name.partition(":")
    found: type[Any] = getattr(part(module, EXTRAS[module.partition(".")[0]]), kind)
    return found


def verb_of(words: list[str], verbs: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """(verb, plain words, key=value words) of `runs import a b key=value`; the first verb is the default."""
    plain = [word for word in words if "=" not in word and not word.startswith("@")]
    rest = [word for word in words if word not in plain]
    if not plain:
        return verbs[0], [], rest
    if plain[0] not in verbs:
        raise ConfigError(f"{plain[0]!r} is not one of {', '.join(verbs)}.{did_you_mean(plain[0], verbs)}")
    return plain[0], plain[1:], rest
