"""What is judged: the documents of a task with a model's answers, turn by turn.

    items = read(run, "estinstruct_chat")        # Item after Item, in the order of the plan
    items[0].turns, items[0].answers             # what the user said, what the model answered

Rows of a prompt set say themselves what can be judged (criteria, reference, the anchor's answers). Of any other task
with generated answers there is the question, the right answer and what the model wrote.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from estbench import identity, prompt_sets
from estbench.errors import ConfigError, DataError
from estbench.registry import Registry, Task
from estbench.runs import Run, Sample

ANY = "any"  # a language that is not checked: only prompt sets say which one an answer has to be in


@dataclass(frozen=True, slots=True)
class Item:
    """One document with a model's answers."""

    task: str
    doc: str  # hash of the data row
    doc_id: int
    key: str  # of the sample: its responses, the row, the scorer
    turns: tuple[str, ...]  # what the user said: one or two messages
    answers: tuple[str, ...]  # what the model answered to each; fewer where a response is missing
    language: str = "et"  # the answers should be in; "code" where they are code, ANY where it is not known
    category: str | None = None
    difficulty: str | None = None
    reference: str | None = None
    checklists: tuple[tuple[str, ...], ...] = ()  # criteria of each turn
    anchors: tuple[str, ...] = ()  # the prompt set's own answer to each turn
    cluster: str | None = None
    finishes: tuple[str, ...] = ()  # how each answer ended: "stop", "length", "refusal"

    @property
    def answered(self) -> bool:
        """Whether every turn has a response (an empty one is a response)."""
        return len(self.answers) == len(self.turns)


def answer_hash(answers: tuple[str, ...]) -> str:
    """Names what was said, whoever said it: labels of people hold it, so that they outlive a run."""
    return hashlib.sha256(identity.canonical(list(answers))).hexdigest()[:32]


def card_of(run: Run, task: str) -> Task:
    """The card of a run's task, also of a prompt set that was named by its path."""
    settings = run.manifest.get("settings") or {}
    for word in str(settings.get("tasks") or "").split(","):
        if word.strip().endswith(prompt_sets.ENDING):
            for card in Registry().select(word.strip()).tasks:
                if card.name == task:
                    return card
    known = {key: settings.get(key) for key in ("include", "trust_task_code", "form")}
    return Registry.of(SimpleNamespace(**known)).task(task)


def read(run: Run, task: str, data: Path | None = None) -> list[Item]:
    """The documents of a task with the run's answers. data: another copy of its data set than the run was made with.

    ConfigError where answers are no texts; DataError where the rows that are here are not those that were asked.
    """
    from estbench.lm_tasks import LmTask

    if task not in run.manifest["tasks"]:
        raise ConfigError(f"Run {run.id} has no task {task!r}; it has {', '.join(run.tasks)}.")
    given = (run.manifest.get("settings") or {}).get("data")
    lm = LmTask(card_of(run, task), data_dir=data or (Path(given).expanduser() if given else None))
    rows = dict(zip(lm.doc_hashes, lm.docs, strict=True))
    answers, finishes = _answers(run, task)
    found = []
    for sample in run.samples(task):
        if (row := rows.get(sample.doc_hash)) is None:
            raise DataError(
                f"{task}: the row of document {sample.doc_id} of run {run.id} is not in the data that is here: name "
                "the copy that the run was made with (data=DIR)."
            )
        texts = tuple(answers.get(sample.doc_id, ()))
        found.append(_item(sample, row, lm, texts, tuple(finishes.get(sample.doc_id, ()))))
    return found


def unanswered(task: str) -> list[Item]:
    """The documents of a task that comes with estbench, without answers."""
    from estbench.lm_tasks import LmTask

    lm = LmTask(Registry().task(task))
    found = []
    for doc_id, (doc, row) in enumerate(zip(lm.doc_hashes, lm.docs, strict=True)):
        sample = Sample(task, doc_id, doc, "", None, None, None, {}, "")
        found.append(_item(sample, row, lm, (), ()))
    return found


def _answers(run: Run, task: str) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """doc_id -> the texts of its responses in order, and how each ended."""
    texts: dict[int, list[str]] = {}
    finishes: dict[int, list[str]] = {}
    for row in sorted(run.responses(task), key=lambda row: (row["doc_id"], row["index"])):
        if "text" not in row:
            raise ConfigError(f"{task} scores options by their likelihood: there are no answers to judge.")
        text = row["text"].encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        texts.setdefault(row["doc_id"], []).append(text)
        finishes.setdefault(row["doc_id"], []).append(row["finish"])
    return texts, finishes


def _item(sample: Sample, row: dict[str, Any], lm: Any, texts: tuple[str, ...], finishes: tuple[str, ...]) -> Item:
    shared: dict[str, Any] = {
        "task": sample.task,
        "doc": sample.doc_hash,
        "doc_id": sample.doc_id,
        "key": sample.key.partition("+")[0],
        "answers": texts if sample.error is None else (),
        "cluster": sample.cluster,
        "finishes": finishes,
    }
    if not lm.card.metadata.get("judge"):
        target = lm.task.doc_to_target(lm.docs[sample.doc_id])
        reference = " | ".join(map(str, target)) if isinstance(target, list) else str(target)
        return Item(turns=(lm.task.doc_to_text(row),), reference=reference or None, language=ANY, **shared)
    two = bool(row.get("follow_up"))
    lists = [row.get("checklist"), row.get("follow_up_checklist")][: 1 + two]
    own = [row.get("answer"), row.get("follow_up_answer")][: 1 + two]
    return Item(
        turns=(row["prompt"], row["follow_up"]) if two else (row["prompt"],),
        language=row.get("language") or "et",
        category=row.get("category"),
        difficulty=row.get("difficulty"),
        reference=row.get("reference"),
        checklists=tuple(tuple(one or ()) for one in lists) if any(lists) else (),
        anchors=tuple(str(one) for one in own) if all(own) else (),
        **shared,
    )
