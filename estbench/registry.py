"""Finds tasks and suites. Reads only YAML, so that `estbench tasks` is instant.

registry = Registry()
registry.task("estcopa").title["et"]
registry.select("core")  # -> Selection: tasks in order, and the form their suite asks for
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from estbench import prompt_sets
from estbench.config import FORMS
from estbench.errors import ConfigError, did_you_mean
from estbench.home import project_file

if TYPE_CHECKING:
    from estbench.foreign import Folder

SUITES = "suites.yaml"
SKILLS = (
    "reasoning",
    "reading",
    "translation",
    "grammar",
    "morphology",
    "instructions",
    "knowledge",
    "classification",
    "summarisation",
    "modelling",
    "language_quality",
)
ACCESS = ("public", "gated", "withheld")  # gated: the Hub asks for a token; withheld: golds are not published
FILE_FORMATS = ("json", "csv", "parquet", "text")  # what `dataset_path` may say in place of a data set's name
UNITS = {"chrf++": "points", "bleu": "points", "bits_per_byte": "bits"}  # as in estbench.metrics, not loaded here


@dataclass(frozen=True)
class Task:
    """A task's card: what its YAML says about it."""

    name: str
    path: Path
    config: dict[str, Any] = field(repr=False)  # the YAML as read; `!function` values are `Function`s
    foreign: bool = False  # a file of somebody else's, by `include=` or `lm_eval/NAME`

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self.config.get("metadata") or {})

    @property
    def title(self) -> dict[str, str]:
        return dict(self.metadata.get("title") or {"et": self.name, "en": self.name})

    @property
    def form(self) -> str:
        """`chat`: prompts go through the model's chat template; `completion`: they don't."""
        return str(self.metadata.get("form", "completion"))

    @property
    def access(self) -> str:
        """`public`, `gated` (a token is needed) or `withheld` (golds are kept by the maintainers)."""
        return str(self.metadata.get("access", "public"))

    @property
    def withheld(self) -> bool:
        """Whether golds stay with the maintainers (`gold=FILE` supplies them)."""
        return self.access == "withheld" or bool(self.metadata.get("gold"))

    @property
    def primary(self) -> str:
        """The metric the task is ranked by."""
        return str(self.metadata.get("primary", ""))

    @property
    def unit(self) -> str:
        """The primary metric's unit: a proportion, points from 0 to 100, or bits."""
        return UNITS.get(self.primary, "proportion")

    @property
    def chance(self) -> float | None:
        """What guessing (or the best trivial baseline) gives, in the primary metric's unit."""
        value = self.metadata.get("chance")
        return None if value is None else float(value)

    @property
    def shots(self) -> int:
        return int(self.config.get("num_fewshot") or 0)

    @property
    def dataset(self) -> tuple[str, str | None] | None:
        """Hub id (or GitHub owner/name) and config of the data, or None for a task that makes its own."""
        path = self.config.get("dataset_path")
        read_by_us = self.configs or self.metadata.get("repository")  # custom_dataset is for plain lm-eval then
        files = path in FILE_FORMATS and "data_files" in (self.config.get("dataset_kwargs") or {})
        if path is None or files or (self.config.get("custom_dataset") and not read_by_us):
            return None
        return str(path), self.config.get("dataset_name")

    @property
    def configs(self) -> list[str]:
        """The configs that are read one after the other, for a task that joins several."""
        return list((self.config.get("dataset_kwargs") or {}).get("configs") or [])

    @property
    def splits(self) -> list[str]:
        """The splits that the task reads: the tested one first, then the one that shots come from."""
        config, shown = self.config, self.config.get("fewshot_config") or {}
        tested = config.get("test_split") or config.get("validation_split")
        fewshot = shown.get("split") or config.get("fewshot_split")
        if not fewshot and not shown.get("samples"):  # where lm-eval takes them from, and looks even for none
            fewshot = config.get("training_split") or config.get("validation_split")
        return list(dict.fromkeys(name for name in (tested, fewshot) if name))


@dataclass(frozen=True)
class Suite:
    """A named list of tasks of one form."""

    name: str
    title: dict[str, str]
    form: str
    tasks: list[str]


@dataclass(frozen=True)
class Selection:
    """What `tasks=` means: tasks in order, without repeats, and the suites that were named."""

    tasks: list[Task]
    suites: list[str]


class Registry:
    """The tasks and suites of a folder (the project's own by default), and the task files of others.

    include, trusted: folders of lm-eval task files, and those whose code may run. form: how their tasks are asked.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        include: Sequence[Path] = (),
        trusted: Sequence[Path] = (),
        form: str | None = None,
    ) -> None:
        self.folder = folder or project_file("tasks")
        self.include, self.trusted, self.form = include, trusted, form

    @classmethod
    def of(cls, settings: Any) -> Registry:
        """The registry that `include=`, `trust_task_code=` and `form=` of some settings ask for."""
        include, trusted = (
            [
                Path(name.strip()).expanduser()
                for name in (getattr(settings, key, None) or "").split(",")
                if name.strip()
            ]
            for key in ("include", "trust_task_code")
        )
        return cls(include=include, trusted=trusted, form=getattr(settings, "form", None))

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """All tasks by name, in name order."""
        found: dict[str, Task] = {}
        for path in self._files():
            config = read_yaml(path)
            name = config.get("task")
            if not isinstance(name, str):
                continue  # a base that others include
            if name in found:
                raise ConfigError(f"Two files define the task {name}: {found[name].path} and {path}.")
            found[name] = Task(name, path, config)
        return dict(sorted(found.items()))

    @cached_property
    def suites(self) -> dict[str, Suite]:
        path = self.folder / SUITES
        if not path.exists():
            return {}
        rows = read_yaml(path)
        return {name: Suite(name, row["title"], row["form"], list(row["tasks"])) for name, row in rows.items()}

    @cached_property
    def included(self) -> list[Folder]:
        """The tasks of the folders that `include=` names."""
        from estbench import foreign

        form = self.form or "completion"
        return [foreign.folder(path, form=form, trusted=self.trusted) for path in self.include]

    def task(self, name: str) -> Task:
        """The task of that name; ConfigError with the nearest names if there is none."""
        found = [] if name in self.suites else self._named(name)
        if len(found) != 1:
            raise self._unknown("task", name)
        return found[0]

    def _named(self, name: str) -> list[Task]:
        """The tasks that a name means: one, or those of a group or prompt set. ConfigError if it means two things."""
        if name.endswith(prompt_sets.ENDING):
            return prompt_sets.tasks(Path(name).expanduser(), self.folder)
        if name.startswith("lm_eval/"):
            from estbench import foreign

            return foreign.built_in(name, form=self.form or "completion")
        meanings = [[self.tasks[name]]] if name in self.tasks else []
        for folder in self.included:
            meanings += [[folder.tasks[task] for task in members] for members in [folder.members(name)] if members]
        if len(meanings) > 1:
            paths = " and ".join(str(tasks[0].path) for tasks in meanings)
            raise ConfigError(f"{name!r} means {paths}: rename one, or leave out include=.")
        return meanings[0] if meanings else []

    def select(self, names: str | list[str]) -> Selection:
        """Tasks for `tasks=`: names of suites and tasks, separated by commas."""
        wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names) if name.strip()]
        if not wanted:
            raise ConfigError(
                "tasks= names nothing: give suites or tasks, separated by commas. `estbench tasks` lists them."
            )
        chosen: dict[str, Task] = {}
        suites = []
        for name in wanted:
            if name in self.suites:
                suites.append(name)
                chosen |= {task: self.task(task) for task in self.suites[name].tasks}
            elif found := self._named(name):
                if twice := next((one for one in found if chosen.get(one.name, one).metadata != one.metadata), None):
                    raise ConfigError(f"tasks= means two prompt sets by {twice.name}: rename the file of one of them.")
                chosen |= {task.name: task for task in found}
            else:
                raise self._unknown("task or suite", name)
        if self.form and not any(task.foreign for task in chosen.values()):
            raise ConfigError(
                f"form={self.form} is for tasks of others (include=, lm_eval/NAME): a task of our own has its form; "
                "`estbench tasks` lists the chat and completion tasks."
            )
        return Selection(list(chosen.values()), suites)

    def _unknown(self, what: str, name: str) -> ConfigError:
        if name in self.suites:
            return ConfigError(f"{name!r} is a suite: name one of its tasks, {', '.join(self.suites[name].tasks)}.")
        others = [task for folder in self.included for task in (*folder.tasks, *folder.groups)]
        hint = did_you_mean(name, [*self.tasks, *self.suites, *others])
        return ConfigError(f"There is no {what} {name!r}.{hint} `estbench tasks` lists them.")

    def _files(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            raise ConfigError(f"The task folder {self.folder} is missing: install estbench again.")
        yield from (path for path in sorted(self.folder.rglob("*.yaml")) if path.name != SUITES)


class Function(str):
    """What `!function` names, unresolved; `folder` is where its file lies. Nothing is imported by reading one."""

    folder: Path


def _loader(folder: Path) -> type[yaml.SafeLoader]:
    """YAML in which `!function module.name` is read as a `Function`, not resolved."""

    class Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
        pass

    def function(loader: Any, node: Any) -> Function:
        named = Function(loader.construct_scalar(node))
        named.folder = folder
        return named

    Loader.add_constructor("!function", function)
    Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))
    return Loader


def read_yaml(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A task file with its `include`s merged in, as lm-eval merges them; no function is imported.

    `metadata` is merged key by key, so that a file says only where it differs from what it includes. `including`: the
    files that include this one. Raises ConfigError for what is no task file; dates are read as text.
    """
    if path.resolve() in including:
        raise ConfigError(f"{path} includes itself.")
    try:
        config = yaml.load(path.read_text("utf-8"), Loader=_loader(path.parent))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8.") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ConfigError(f"{path} has to hold a mapping from names.")
    includes = config.pop("include", [])
    includes = includes if isinstance(includes, list) else [includes]
    _check_shape(path, config | {"include": includes})
    merged: dict[str, Any] = {}
    for name in includes:
        merged |= read_yaml(path.parent / name, (*including, path.resolve()))
    merged.pop("task_list", None)  # as in lm-eval: it is about the included file
    if merged.get("metadata") and config.get("metadata"):
        config["metadata"] = merged["metadata"] | config["metadata"]
    return merged | config


def _check_shape(path: Path, config: dict[str, Any]) -> None:
    """ConfigError where a key has a value of another kind than everything that reads it expects."""
    for key in ("metadata", "dataset_kwargs", "fewshot_config", "generation_kwargs"):
        if not isinstance(config.get(key) or {}, dict | Function):
            raise ConfigError(f"{path}: {key} has to be a mapping.")
    for key in ("metric_list", "include"):
        if not isinstance(config.get(key) or [], list):
            raise ConfigError(f"{path}: {key} has to be a list.")
    if not all(isinstance(name, str) for name in config["include"]):
        raise ConfigError(f"{path}: include has to name files.")
    if not all(isinstance(row, dict) and row.get("metric") for row in config.get("metric_list") or []):
        raise ConfigError(f"{path}: each entry of metric_list has to name its metric.")
    metadata = config.get("metadata") or {}
    if not isinstance(metadata.get("title") or {}, dict):
        raise ConfigError(f"{path}: metadata.title has to be {{et: ..., en: ...}}.")
    if isinstance(metadata.get("chance"), bool) or not isinstance(metadata.get("chance") or 0, int | float):
        raise ConfigError(f"{path}: metadata.chance has to be a number.")
    if metadata.get("form", FORMS[0]) not in FORMS:
        raise ConfigError(f"{path}: metadata.form {metadata['form']!r} is none of {', '.join(FORMS)}.")
    if not isinstance(config.get("num_fewshot") or 0, int):
        raise ConfigError(f"{path}: num_fewshot has to be a whole number.")
