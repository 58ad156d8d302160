"""Task files of others, unchanged: a folder of lm-eval YAMLs (`include=DIR`), and lm-eval's own (`lm_eval/NAME`).

    folder(Path("my-tasks"), form="chat", trusted=[])    tasks, groups and tags of a folder by name
    built_in("lm_eval/xcopa_et", form="completion")      one of lm-eval's, or the tasks of a group or tag of theirs

A file can name code (`!function utils.process_docs`). Code of a folder runs only if the folder was named with
`trust_task_code=DIR`; lm-eval's own is part of the installed package. Templates are rendered in a sandbox. What such a
task lacks (title, chance level, primary metric) is left open, never invented: its first metric comes first.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench.errors import ConfigError, DataError, did_you_mean
from estbench.registry import Function, Task, read_yaml

BUILT_IN = "lm_eval/"
SKIPPED = ("__pycache__", ".ipynb_checkpoints")


@dataclass(frozen=True)
class Folder:
    """The tasks of a folder, and what their groups and tags stand for."""

    path: Path
    tasks: dict[str, Task]
    groups: dict[str, list[str]]

    def members(self, name: str) -> list[str]:
        """The tasks that a name stands for, groups within groups included; empty if it is unknown."""
        if name in self.tasks:
            return [name]
        found = [task for part in self.groups.get(name, ()) if part != name for task in self.members(part)]
        return list(dict.fromkeys(found))


def folder(path: Path, *, form: str, trusted: Sequence[Path], prefix: str = "") -> Folder:
    """All tasks of a folder; ConfigError if it is none, holds no task, or the same task twice."""
    path = path.expanduser()
    if not path.is_dir():
        raise ConfigError(f"include={path} is no folder: name one that holds lm-eval task files (*.yaml).")
    found = _read(_files(path), form, prefix)
    if not found.tasks:
        raise ConfigError(f"include={path} holds no lm-eval task (a YAML file with `task:`).")
    for task in found.tasks.values():
        _check_trust(task, trusted)
    return Folder(path, found.tasks, found.groups)


def built_in(name: str, *, form: str) -> list[Task]:
    """lm-eval's task of that name, or the tasks of its group or tag; ConfigError if there is none.

    Only files in which the name stands are parsed: reading lm-eval's whole index takes ten seconds and more.
    """
    bare = name.removeprefix(BUILT_IN)
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise ConfigError(f"{name} needs lm-eval, which is not installed: pip install lm-eval.")
    texts = {path: path.read_bytes() for path in _files(Path(spec.origin).parent / "tasks")}
    known, wanted = Folder(Path(), {}, {}), [bare]
    seen: set[str] = set()
    while wanted:
        asked = wanted.pop()
        seen.add(asked)
        word = re.compile(rb"(?<![\w-])" + re.escape(asked.encode()) + rb"(?![\w-])")
        found = _read((path for path, text in texts.items() if word.search(text)), form, BUILT_IN)
        known.tasks.update(found.tasks)
        for group, members in found.groups.items():
            known.groups.setdefault(group, []).extend(members)
        wanted += [part for part in known.groups.get(asked, ()) if part not in seen and part not in known.tasks]
    if not (members := known.members(bare)):
        names = [match.decode() for text in texts.values() for match in re.findall(rb"^task: *([\w.-]+)", text, re.M)]
        hint = did_you_mean(bare, names)
        raise ConfigError(f"lm-eval has no task {bare!r}.{hint}")
    return [known.tasks[member] for member in members]


def _files(path: Path) -> Iterator[Path]:
    yield from sorted(file for file in path.rglob("*.yaml") if not set(SKIPPED) & set(file.parts))


def _read(files: Iterable[Path], form: str, prefix: str) -> Folder:
    tasks: dict[str, Task] = {}
    groups: dict[str, list[str]] = {}
    for path in files:
        try:
            config = read_yaml(path)
        except ConfigError:
            if prefix == BUILT_IN:
                continue  # an odd file of lm-eval's that was not asked for
            raise
        name = config.get("task")
        if isinstance(group := config.get("group"), str):
            groups.setdefault(group, []).extend(_member_names(name))
        elif isinstance(name, str):
            if name in tasks:
                raise ConfigError(f"Two files define the task {name}: {tasks[name].path} and {path}.")
            metadata = {"form": form, **_mapping(config.get("metadata")), "publish_items": False}
            tasks[name] = Task(prefix + name, path, config | {"metadata": metadata}, foreign=True)
            tags = config.get("tag") or []
            for tag in tags if isinstance(tags, list) else [tags]:
                groups.setdefault(str(tag), []).append(name)
    return Folder(Path(), tasks, groups)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _member_names(members: Any) -> list[str]:
    """The names in a group's `task:` list; an entry may be a mapping, which names a task or a group of its own."""
    names = []
    for member in [members] if isinstance(members, str) else members or []:
        if isinstance(member, dict):
            if isinstance(member.get("task"), list):
                names += _member_names(member["task"])
            elif isinstance(member.get("task"), str):
                names.append(member["task"])
        else:
            names.append(str(member))
    return names


def _check_trust(task: Task, trusted: Sequence[Path]) -> None:
    roots = [root.expanduser().resolve() for root in trusted]
    for function in functions(task.config):
        if not any(function.folder.resolve().is_relative_to(root) for root in roots):
            raise ConfigError(
                f"{task.path} runs code ({function}): read it, and if you trust it, add "
                f"trust_task_code={function.folder}."
            )


def functions(value: Any) -> Iterator[Function]:
    """Every `!function` in a configuration."""
    if isinstance(value, Function):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from functions(part)
    elif isinstance(value, list):
        for part in value:
            yield from functions(part)


def file_rows(task: Task) -> dict[str, list[dict[str, Any]]]:
    """The rows of a task whose `dataset_path` is a file format and `dataset_kwargs.data_files` local files.

    Paths are taken from the working directory, as in lm-eval, and lead below it or below the task file's folder: a
    stranger's file is not to read what else lies on this machine. Raises DataError for anything else.
    """
    import datasets

    roots = (Path.cwd(), task.path.parent.resolve())

    kwargs = _mapping(task.config.get("dataset_kwargs"))
    files = kwargs.get("data_files")
    by_split = files if isinstance(files, dict) else {"train": files}
    for name in (name for part in by_split.values() for name in ([part] if isinstance(part, str) else part or [None])):
        if not isinstance(name, str) or "://" in name or not Path(name).exists():
            raise DataError(f"{task.path}: data_files has to name files on this machine, and {name!r} is none.")
        if not any(Path(name).resolve().is_relative_to(root) for root in roots):
            raise DataError(
                f"{task.path}: {name} lies neither beside it nor below the working directory: copy it there."
            )
    found = datasets.load_dataset(str(task.config["dataset_path"]), data_files=files)
    return {str(split): [dict(row) for row in rows] for split, rows in found.items()}
