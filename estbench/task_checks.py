"""What can be wrong with a task file, found on its data without a model: `estbench tasks check`.

    check_task(card, Path("samples"))     [Problem("estqa", 3, "no gold answer"), ...]

Looked for: a card that says too little; templates that don't render, or whose text is not NFC or has full-width signs;
shots that are the asked document or come from the tested split; documents without a gold answer; stop strings that
occur inside a gold answer, and gold answers that don't fit into the tokens that an answer may have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.config import FORMS
from estbench.errors import EstbenchError
from estbench.registry import ACCESS, SKILLS, Task, read_yaml

if TYPE_CHECKING:
    from estbench.lm_tasks import LmTask, Rendered

REQUIRED = {
    *("version", "title", "skill", "language", "licence", "citation", "chance"),
    *("primary", "form", "cluster", "publish_items", "data_seen"),
}
OPTIONAL = {"access", "repository", "gold", "follow_up", "judge", "canary"}
LANGUAGES = ("et", "en", "en-et", "et-en")
DATA_SEEN = ("real", "subset", "own")
FULL_WIDTH = re.compile("[\uff01-\uff5e\u3000-\u3002]")  # ：，（ and their like, made by East Asian keyboards
CHARACTERS = 2  # of Estonian text to a token, where a tokenizer knows the language badly
SHOWN = 3  # documents that are named for the same problem


@dataclass(frozen=True)
class Problem:
    """Something to be mended in a task file or its data."""

    task: str
    doc: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.task}{'' if self.doc is None else f', document {self.doc}'}: {self.message}"


def check_task(card: Task, data: Path | None = None) -> list[Problem]:
    """All problems of a task on the data that `data` gives; of the same one in many documents the first three.

    Raises DataError where the data is missing.
    """
    from estbench.lm_tasks import LmTask

    problems = [Problem(card.name, None, message) for message in (*_card(card), *_text(card))]
    try:
        task = LmTask(card, data_dir=data)
    except EstbenchError as error:
        if type(error).__name__ == "DataError":
            raise
        return [*problems, Problem(card.name, None, str(error))]
    seen: dict[str, int] = {}
    for doc, message in _documents(task):
        kind = re.sub(r"'.*?'|\d+", "", message)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= SHOWN:
            problems.append(Problem(card.name, doc, message))
    more = {kind: n - SHOWN for kind, n in seen.items() if n > SHOWN}
    return problems + [Problem(card.name, None, f"and {n:,} more documents: {kind}") for kind, n in more.items()]


def _card(card: Task) -> Iterator[str]:
    given = card.metadata
    if card.foreign:
        return
    for key in sorted(REQUIRED - set(given)):
        yield f"metadata.{key} is missing"
    for key in sorted(set(given) - REQUIRED - OPTIONAL):
        yield f"metadata.{key} is unknown"
    for key, known in (("skill", SKILLS), ("form", FORMS), ("language", LANGUAGES), ("data_seen", DATA_SEEN)):
        if key in given and given[key] not in known:
            yield f"metadata.{key} {given[key]!r} is none of {', '.join(known)}"
    if card.access not in ACCESS:
        yield f"metadata.access {card.access!r} is none of {', '.join(ACCESS)}"
    if (card.access == "withheld") != bool(given.get("gold")):
        yield "access: withheld and metadata.gold go together"
    if card.access != "public" and given.get("publish_items"):
        yield f"access is {card.access}, so publish_items has to be false"
    if not all(card.title.get(language) for language in ("et", "en")):
        yield "metadata.title needs et and en"
    shown = [row.get("metric") for row in card.config.get("metric_list") or []]
    if card.primary not in shown:
        yield f"metadata.primary {card.primary!r} is not in metric_list"
    if card.form == "chat" and (card.shots or card.config.get("output_type") != "generate_until"):
        yield "a chat task is generated and has no shots"
    if card.form == "chat" and "parse_failure" not in shown:
        yield "a chat task counts answers that can't be read: add parse_failure to metric_list"


def _text(card: Task) -> Iterator[str]:
    """What is wrong with the words of the file itself."""
    for where, text in _strings(read_yaml(card.path), ""):
        if found := FULL_WIDTH.search(text):
            yield f"{where} has the full-width sign {found[0]!r}"
        if not unicodedata.is_normalized("NFC", text):
            yield f"{where} is not NFC"
    shown = card.config.get("fewshot_config") or {}
    tested = card.config.get("test_split") or card.config.get("validation_split")
    source = shown.get("split") or card.config.get("fewshot_split") or card.config.get("training_split")
    if card.shots and not shown.get("samples") and source in (None, tested):
        yield f"its shots come from the tested split, {tested}"


def _strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _strings(part, f"{where}.{key}".strip("."))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _strings(part, f"{where}[{number}]")


def _documents(task: LmTask) -> Iterator[tuple[int, str]]:
    shots = _shots(task)
    withheld = task.card.withheld
    for doc_id, row in enumerate(task.docs):
        try:
            rendered = task.render(doc_id)
            asked = _question(task, row)
        except EstbenchError as error:
            yield doc_id, str(error).removeprefix(f"{task.card.name}, document {doc_id}").lstrip(": ")
            continue
        if asked and asked in shots:
            yield doc_id, "is one of its own shots"
        if not withheld:
            yield from ((doc_id, message) for message in _gold(task, row, rendered))


def _shots(task: LmTask) -> set[str]:
    """The questions of all documents that may be shown."""
    pool = task.task.sampler.df if task.shots and hasattr(task.task, "sampler") else []
    return {_question(task, dict(row)) for row in pool}


def _question(task: LmTask, row: dict[str, Any]) -> str:
    """What a document asks; where its options are contexts (several inputs, one ending), those."""
    asked = task.task.doc_to_choice(row) if task.task.multiple_input else task.task.doc_to_text(row)
    return str(asked).strip()


def _gold(task: LmTask, row: dict[str, Any], rendered: Rendered) -> Iterator[str]:
    target = rendered.target
    if rendered.rolling:
        if not rendered.pairs[0][1].strip():
            yield "has no text"
        return
    if rendered.pairs:
        choices: list[Any] = task.task.doc_to_choice(row) if task.task.config.doc_to_choice else rendered.pairs
        where = choices.index(target) if isinstance(target, str) and target in choices else target
        if not task.task.multiple_input and not (isinstance(where, int) and 0 <= where < len(choices)):
            yield f"gold {target!r} is none of its {len(choices)} choices"
        if isinstance(choices[0], str) and len(set(choices)) < len(choices):
            yield "has the same choice twice"
        return
    golds = [str(gold) for gold in target] if isinstance(target, list) else [str(target)]
    if not any(gold.strip() for gold in golds) or target is None:
        yield "has no gold answer"
    assert rendered.decoding is not None
    for stop in rendered.decoding.stop:
        if any(stop in gold.strip() for gold in golds):
            yield f"its stop {stop!r} occurs inside a gold answer"
    longest = max(map(len, golds))
    if longest > CHARACTERS * rendered.decoding.max_new_tokens:
        yield f"a gold answer of {longest} signs does not fit into {rendered.decoding.max_new_tokens} tokens"
