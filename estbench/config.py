"""Settings from `key=value` words and YAML files, typed, with an answer to every slip of the keyboard.

    settings = read(["model=demo", "tasks=mini", "engine.dtype=float32"], EvalSettings)

A settings class is a dataclass whose fields carry their own help; `@file.yaml` reads more keys from a file (what is
typed wins over what is read). `engine.KEY=VALUE` goes into a mapping, unchecked here: the engine checks it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from estbench.errors import ConfigError, did_you_mean

T = TypeVar("T")
FORMS = ("completion", "chat")
ENGINES = ("hf", "vllm", "openai")


def option(
    help: str, default: Any = dataclasses.MISSING, *, choices: Sequence[str] = (), least: int | None = None
) -> Any:
    """A field of a settings class: its help text, default, the words it may be, the least number it may be."""
    meta = {"help": help, "choices": tuple(choices), "least": least}
    if default is dict:
        return field(default_factory=dict, metadata=meta)
    return field(default=default, metadata=meta) if default is not dataclasses.MISSING else field(metadata=meta)


@dataclass(frozen=True)
class EvalSettings:
    """What `estbench eval` (and `estbench pull`) can be told."""

    model: str = option("a checkpoint's folder, owner/name on the Hub, or a demo model; a,b and step-* are several", "")
    tasks: str | None = option("suites and tasks, with commas; core for a chat model, core_base otherwise", None)
    engine: str = option("what computes", "hf", choices=ENGINES)
    engine_options: dict[str, str] = option(  # noqa: RUF009  a dataclass field
        "engine.KEY=VALUE, by engine: docs/engines.md", dict
    )
    prompt_options: dict[str, str] = option(  # noqa: RUF009
        "prompt.system=TEXT: a system message in front of chat prompts; recorded, changes scores", dict
    )
    cluster: str | None = option("many workers on Ray: local, auto, ray://host:port; docs/cluster.md", None)
    cluster_options: dict[str, str] = option(  # noqa: RUF009
        "cluster.workers=N, cluster.gpus=N, cluster.cpus=N, cluster.wait=SECONDS", dict
    )
    limit: int | None = option("at most N documents a task, by hash order; the run is marked partial", None, least=1)
    share: float | None = option("at most this share of each task's documents (0.1), by hash order; partial", None)
    shots: int | None = option("examples in the prompt; each task has its own number", None, least=0)
    seed: int = option("seed of shots and sampling", 1234)
    name: str | None = option("what to call the model in tables", None)
    revision: str | None = option("a Hub model's commit, branch or tag", None)
    slice: str | None = option(
        "i/n: only that slice of each task; auto: by SLURM's array; `estbench runs import` merges slices", None
    )
    data: str | None = option("folder with offline copies of the data sets (or ESTBENCH_DATA); samples: ours", None)
    gold: str | None = option("JSONL with the golds of a task that withholds them", None)
    include: str | None = option("folder with lm-eval task files of others; their names may stand in tasks=", None)
    trust_task_code: str | None = option("folder of theirs whose Python may run", None)
    form: str | None = option("how tasks of others are asked; completion unless said", None, choices=FORMS)
    missing: str = option("what to do about tasks whose data or template is missing", "stop", choices=("stop", "skip"))
    truncate: bool = option("cut prompts that are too long from the left; recorded, changes scores", False)
    database: str | None = option("database to index the run in; default is SQLite in ESTBENCH_HOME", None)
    output: str | None = option("table or json; json is the default on a pipe", None, choices=("table", "json"))
    judge: str | None = option(
        "who judges open answers afterwards: MODEL@URL, a checkpoint, several with commas; docs/judges.md", None
    )
    judge_options: dict[str, str] = option(  # noqa: RUF009
        "judge.KEY=VALUE: options of the judges' engines; judge.max_cost= for all of them", dict
    )
    plan: bool = option("show what would be done, and stop", False)

    def __post_init__(self) -> None:
        if not self.model and not (self.engine == "openai" and self.engine_options.get("model")):
            remote = "engine.model=, the endpoint's id of a model"
            local = "a checkpoint's folder, owner/name on the Hub, or a demo model"
            raise ConfigError(f"model= is missing: {remote if self.engine == 'openai' else local}.")
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"share={self.share} is not above 0 and at most 1.")
        if self.slice == "auto":
            object.__setattr__(self, "slice", array_slice(os.environ))
        if self.judge_options and not self.judge:
            raise ConfigError(f"judge.{min(self.judge_options)}= needs judge=.")
        if self.judge and self.slice:
            raise ConfigError("judge= needs the whole run: `estbench judge run=ID` judges it once slices are merged.")
        if unknown := self.prompt_options.keys() - {"system"}:
            raise ConfigError(f"There is no key 'prompt.{min(unknown)}'. Did you mean 'prompt.system'?")

    @property
    def slice_of(self) -> tuple[int, int] | None:
        """(i, n) of `slice=i/n`."""
        if self.slice is None:
            return None
        found = re.fullmatch(r"(\d+)/(\d+)", self.slice)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"slice={self.slice} is not i/n with 1 <= i <= n: slice=1/4 is the first of four.")
        return int(found[1]), int(found[2])


def array_slice(environment: Mapping[str, str]) -> str:
    """i/n of the SLURM array job that this process belongs to, however its numbers begin and step."""
    names = ("ID", "MIN", "MAX", "COUNT", "STEP")
    texts = [environment.get(f"SLURM_ARRAY_TASK_{name}", "1" if name == "STEP" else "") for name in names]
    if not texts[0]:
        raise ConfigError("slice=auto needs a SLURM array job (sbatch --array=1-8): elsewhere write slice=i/n.")
    if not all(text.isdigit() for text in texts):
        raise ConfigError("slice=auto: SLURM does not say how large the array is: write slice=i/n.")
    at, least, most, count, step = map(int, texts)
    if count == 1:
        raise ConfigError("slice=auto: an array of one job does not say how many slices there are: write slice=i/n.")
    if list(range(least, most + 1, max(step, 1)))[-1:] != [most] or (most - least) // max(step, 1) + 1 != count:
        raise ConfigError(
            "slice=auto needs an array that is one range (--array=1-8): with numbers left out write slice=i/n."
        )
    return f"{(at - least) // max(step, 1) + 1}/{count}"


def read(words: Sequence[str], kind: type[T]) -> T:
    """Settings of a kind from the words of a command line."""
    given: dict[str, str] = {}
    files: dict[str, str] = {}
    for word in words:
        if word.startswith("@"):
            files |= _from_file(Path(word[1:]))
            continue
        key, equals, value = word.partition("=")
        if not equals:
            hint = did_you_mean(word.lstrip("-"), keys(kind))
            raise ConfigError(f"{word!r} is no key=value.{hint} `--help` lists the keys.")
        if key.lstrip("-") in given:
            raise ConfigError(f"{key.lstrip('-')}= is given twice.")
        given[key.lstrip("-")] = value
    return build(files | given, kind)


def build(given: dict[str, str], kind: type[T]) -> T:
    """Settings of a kind from key -> text."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, text in given.items():
        head, dot, rest = key.partition(".")
        if dot and f"{head}_options" in fields and rest:
            values.setdefault(f"{head}_options", {})[rest] = text
        elif key in fields and not key.endswith("_options"):
            values[key] = _convert(key, text, hints[key], fields[key].metadata)
        else:
            raise ConfigError(f"There is no key {key!r}.{did_you_mean(key, keys(kind))} `--help` lists the keys.")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name}= is missing: {f.metadata['help']}.")
    return kind(**values)


def keys(kind: type[Any]) -> list[str]:
    """The keys of a settings class, as a user types them."""
    return [f.name.replace("_options", ".KEY") for f in dataclasses.fields(kind)]


def _convert(key: str, text: str, hint: Any, meta: Any) -> Any:
    optional = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    kind = next(t for t in typing.get_args(hint) if t is not type(None)) if optional else hint
    if not text:
        raise ConfigError(f"{key}= is empty: give a value or leave it out.")
    if optional and text in ("none", "null"):
        return None
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ConfigError(f"{key}={text} is neither true nor false.")
        return text.lower() in ("true", "1", "yes")
    if kind is int:
        if not re.fullmatch(r"-?\d+", text):
            raise ConfigError(f"{key}={text} is no whole number.")
        if meta["least"] is not None and int(text) < meta["least"]:
            raise ConfigError(f"{key}={text} is too small: at least {meta['least']}.")
        return int(text)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{key}={text} is no number.") from None
    if meta["choices"] and text not in meta["choices"]:
        raise ConfigError(
            f"{key}={text} is not one of {', '.join(meta['choices'])}.{did_you_mean(text, meta['choices'])}"
        )
    return text


def read_yaml(path: Path, shown: str) -> Any:
    """What a user's YAML file holds; ConfigError, with the name that is `shown`, if it can't be read."""
    import yaml

    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{shown} can't be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown} is not valid YAML: {' '.join(str(error).split())}") from None


def _from_file(path: Path) -> dict[str, str]:
    rows = read_yaml(path, f"@{path}")
    if not isinstance(rows, dict):
        raise ConfigError(f"@{path} has to hold keys and values.")
    flat: dict[str, str] = {}
    for key, value in rows.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": _text(part) for name, part in value.items()}
        else:
            flat[str(key)] = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
    return flat


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
