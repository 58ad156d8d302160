"""Rows of others: prompts that are to be answered, and pairs that somebody else made.

read_prompts(Path("rows.jsonl"), "prompt", "alpaca-et")       # Prompt after Prompt
existing(ExistingSettings("helpsteer3.jsonl", …), path, "helpsteer3")     # pairs, and why rows were left out
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estbench.errors import ConfigError, DataError
from estbench_training.kinds import is_path
from estbench_training.rows import keys_of, messages_of, read_raw, rows_file
from estbench_training.scorers import Message, Prompt


@dataclass(frozen=True)
class Pair:
    """A pair, as rows.jsonl has it."""

    id: str
    source: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_score: float | None = None
    rejected_score: float | None = None

    def row(self) -> dict[str, Any]:
        """{"prompt": messages, "chosen": [message], "rejected": [message], "source", "id", scores where known}."""
        row: dict[str, Any] = {
            "prompt": list(self.prompt),
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
            "source": self.source,
            "id": self.id,
        }
        scores = {"chosen_score": self.chosen_score, "rejected_score": self.rejected_score}
        return row | {key: round(value, 6) for key, value in scores.items() if value is not None}


@dataclass(frozen=True)
class ExistingSettings:
    """Pairs that somebody else made, by the names of their columns: texts, or lists of messages.

    preference: a column of numbers that are below 0 where `first` is better and above 0 where `second` is (as in
    HelpSteer3: context, response1, response2, overall_preference); then first and second stand for chosen and rejected.
    """

    path: str  # a JSONL or Parquet file
    prompt: str | None = "prompt"  # null: chosen and rejected are whole conversations
    chosen: str = "chosen"
    rejected: str = "rejected"
    preference: str | None = None
    first: str = "response1"
    second: str = "response2"
    least: float = 1.0  # of the preference, whatever its sign: weaker ones are left out
    where: Mapping[str, str] = field(default_factory=dict)  # only rows with these values: {language: english}
    licence: str | None = None
    url: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if not is_path(self.path):
            raise ConfigError(f"path: {self.path!r} is no file's name: write ./{self.path} for one in this folder.")
        if self.least <= 0:
            raise ConfigError(f"least: {self.least} has to be above 0: without a preference there is no pair.")


def read_prompts(path: Path, text: str, source: str) -> Iterator[Prompt]:
    """The prompts of a JSONL or Parquet file: `messages` up to the last that is the user's, or the field `text`.

    DataError, with its place, for a row that has neither.
    """
    file = rows_file(path)
    for place, row in enumerate(read_raw(file), 1):
        where = f"{file}, row {place}"
        messages = row.get("messages")
        if messages is None and isinstance(row.get(text), list):
            messages = row[text]
        if messages is None:
            if not isinstance(row.get(text), str) or not row[text].strip():
                raise DataError(f"{where} has neither messages nor a text in {text!r}.")
            messages = [{"role": "user", "content": row[text]}]
        asked = checked(messages, where)
        while asked and asked[-1]["role"] != "user":
            asked.pop()
        if not asked:
            raise DataError(f"{where}: nobody asks anything in its messages.")
        yield Prompt(str(row.get("id") or place), tuple(asked), str(row.get("source") or source), row)


def checked(messages: object, where: str) -> list[Message]:
    """The messages with role and content only; DataError where they are no conversation."""
    return messages_of({"messages": messages}, "messages", where)


def existing(settings: ExistingSettings, path: Path, source: str) -> tuple[list[Pair], Counter[str]]:
    """The pairs of a file, and why rows of it are left out. DataError, with its place, for a row that is no pair."""
    made: list[Pair] = []
    why = Counter[str]()
    for place, row in enumerate(read_raw(path), 1):
        if settings.limit is not None and len(made) >= settings.limit:
            break
        where = f"{path}, row {place}"
        if any(str(row.get(key)) != value for key, value in settings.where.items()):
            why["not where"] += 1
            continue
        sides = _sides(settings, row, where)
        if sides is None:
            why["preference too weak"] += 1
            continue
        prompt, chosen, rejected = _conversation(settings.prompt, row, sides, where)
        if chosen.strip() == rejected.strip():
            why["both sides equal"] += 1
            continue
        made.append(Pair(str(row.get("id") or f"{source}-{place}"), source, tuple(prompt), chosen, rejected))
    return made, why


def _sides(settings: ExistingSettings, row: Mapping[str, Any], where: str) -> tuple[Any, Any] | None:
    """(chosen, rejected) as the row has them; None where the preference is too weak."""
    names: tuple[str, str] = (settings.chosen, settings.rejected)
    if settings.preference is not None:
        value = row.get(settings.preference)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{where}: its {settings.preference!r} is no number.")
        if abs(value) < settings.least:
            return None
        names = (settings.first, settings.second) if value < 0 else (settings.second, settings.first)
    missing = next((name for name in names if row.get(name) is None), None)
    if missing is not None:
        raise DataError(f"{where} has no {missing!r}; it has {keys_of(row)}.")
    return row[names[0]], row[names[1]]


def _conversation(
    column: str | None, row: Mapping[str, Any], sides: tuple[Any, Any], where: str
) -> tuple[list[Message], str, str]:
    """(prompt, chosen text, rejected text); sides may be texts, last messages, or whole conversations."""
    before = row.get(column) if column is not None else []
    if before is None:
        raise DataError(f"{where} has no {column!r}; it has {keys_of(row)}.")
    prompt = [{"role": "user", "content": before}] if isinstance(before, str) else list(before)
    ends = []
    for side in sides:
        said = [{"role": "assistant", "content": side}] if isinstance(side, str) else list(side)
        whole = said if said[: len(prompt)] == prompt else [*prompt, *said]
        ends.append(checked(whole, where))
    if ends[0][:-1] != ends[1][:-1]:
        raise DataError(f"{where}: the two conversations differ before their last message: that is no pair.")
    if {one[-1]["role"] for one in ends} != {"assistant"} or len(ends[0]) < 2:
        raise DataError(f"{where}: a pair is one question with two answers of the assistant.")
    return ends[0][:-1], ends[0][-1]["content"], ends[1][-1]["content"]
