"""A prompt set of one's own by its path: `tasks=core,secret/prompts.jsonl`, asked and judged as `estinstruct` is.

A line a prompt: {"prompt": "..."} is enough; `follow_up`, `checklist` and `follow_up_checklist` (yes/no questions),
`reference`, `answer` and `follow_up_answer` (the anchor's), `language` (of the answer, or "code"), `category`,
`difficulty` and `id` are what judges can use. Nothing of it is published.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.errors import ConfigError, DataError

if TYPE_CHECKING:
    from estbench.registry import Task

ENDING = ".jsonl"
KEY = "prompt_set"  # of a card's metadata: the file
MODELS = ("estinstruct_chat.yaml", "estinstruct_language_chat.yaml")  # the task files whose rows have this form
TEXTS = ("prompt", "follow_up", "reference", "answer", "follow_up_answer", "language", "category", "difficulty", "id")
LISTS = ("checklist", "follow_up_checklist")


def is_one(task: Task) -> bool:
    """Whether a task is a prompt set that was named by its path."""
    return KEY in task.metadata


def tasks(path: Path, folder: Path) -> list[Task]:
    """The tasks that a prompt set makes: what answers say, and their Estonian. folder: of the task files."""
    from estbench.registry import Task, read_yaml

    if not path.is_file():
        raise ConfigError(f"tasks={path}: there is no such file.")
    plain = "".join(
        sign for sign in unicodedata.normalize("NFKD", path.stem.lower()) if not unicodedata.combining(sign)
    )
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_") or "prompts"
    found = []
    for file, task in zip(MODELS, (f"{name}_chat", f"{name}_language_chat"), strict=True):
        if (folder / f"{task}.yaml").exists():
            raise ConfigError(
                f"tasks={path}: {task} is a task of estbench: rename the file, so that its scores are told apart."
            )
        config = read_yaml(folder / file)
        own = {"title": {"et": path.stem, "en": path.stem}, "publish_items": False, KEY: str(path.resolve())}
        own |= {"licence": "private", "citation": None, "canary": None}
        config |= {"task": task, "dataset_path": "json", "dataset_kwargs": {"data_files": path.name}}
        config["metadata"] = {**config["metadata"], **own}
        found.append(Task(task, folder / file, config, foreign=True))
    return found


def rows(task: Task) -> dict[str, list[dict[str, Any]]]:
    """The rows of a prompt set, each with all fields. DataError, with the line, for what is no prompt."""
    path = Path(task.metadata[KEY])
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # a row may hold other separators of lines
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}.") from None
    found = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{path} has no prompts.")
    return {"test": found}


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}.") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise DataError(f'{where} has no "prompt".')
    if unknown := row.keys() - {*TEXTS, *LISTS}:
        raise DataError(f"{where} has the field {min(unknown)!r}; there are {', '.join((*TEXTS, *LISTS))}.")
    if odd := [name for name in TEXTS if not isinstance(row.get(name), str | None)]:
        raise DataError(f"{where}: {odd[0]} is no text.")
    if odd := [name for name in LISTS if not _is_texts(row.get(name))]:
        raise DataError(f"{where}: {odd[0]} is no list of texts.")
    two = bool(row.get("follow_up"))
    if (row.get("answer") or row.get("follow_up_answer")) and bool(row.get("follow_up_answer")) != two:
        raise DataError(f"{where}: where there is an answer, follow_up and follow_up_answer go together.")
    if (row.get("follow_up_checklist") and not two) or (row.get("follow_up_answer") and not row.get("answer")):
        raise DataError(f"{where}: follow_up_checklist and follow_up go together, and follow_up_answer and answer.")
    return {name: row.get(name) for name in (*TEXTS, *LISTS)}


def _is_texts(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value))
