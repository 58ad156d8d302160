"""The server's own scores of answers that were sent: its tasks, its data, its golds, its arithmetic.

    found = recompute(bundle, "mini_copa", Sources())     # Recomputed(plan, samples, scores, card)

Refused: the answers are not to what this server asks, or the claimed scores are not what the answers give.
Lacking: this server can't tell, since it has no such task, data or gold; the task stays as it was claimed.
A task that is judged awaits a judge of this board (`estbench judge` on the rebuilt run); the rest of it is computed.

A document is found by the hash of its row. What was asked of it is hashed before any model's template and tokenizer, so
that it can be checked without either. Response keys are taken as they were sent: they decide nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench import data, identity, judged
from estbench.engines.base import Response, from_record
from estbench.errors import EstbenchError, TaskError
from estbench.metrics.judgments import is_judged
from estbench.registry import Registry, Task
from estbench.runs import PlannedDoc, Sample, Score
from estbench.scoring import PARSE_FAILURE, score_task
from estbench.tokens import Tokens
from estbench_leaderboard.submissions.bundle import Bundle
from estbench_leaderboard.submissions.content import COMET
from estbench_leaderboard.submissions.errors import Refused

if TYPE_CHECKING:
    from estbench.engines.base import Ids
    from estbench.lm_tasks import Rendered
    from estbench.plan import Doc, Scope, TaskPlan

TOLERANCE = {"proportion": 1e-6, "points": 1e-4, "bits": 1e-6}  # between a claimed score and ours, by unit
ROOM = 1 << 30  # tokens of a context in which everything fits
LONGEST = 200  # characters that a token of an answer may have on average
PLAN_SETTINGS = ("shots", "seed", "prompt_options", "form", "include", "data")  # those that make another plan


@dataclass(frozen=True)
class Sources:
    """What the server has of its own. golds: a folder with TASK.jsonl for tasks that withhold them."""

    data: Path | None = None
    golds: Path | None = None
    registry: Registry = field(default_factory=Registry)

    def gold(self, task: str) -> Path | None:
        path = self.golds / f"{task}.jsonl" if self.golds else None
        return path if path and path.is_file() else None


class Lacking(Exception):
    """This server can't compute a task again, and why."""


@dataclass(frozen=True)
class Recomputed:
    """A task as the server sees it."""

    card: dict[str, Any]  # its part of a manifest
    docs: list[PlannedDoc]
    samples: list[Sample]
    scores: list[Score]
    rows: list[dict[str, Any]]  # answers in the order of docs
    uncomputed: list[str]  # metrics that were claimed and need a part that is not installed here


class NoTokens(Tokens):
    """What stands for a tokenizer where no model is: prompts are texts, chats JSON of their messages."""

    sends_messages = True
    chat_template = None
    bos = None
    prefix: list[int] = []  # noqa: RUF012
    start: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        """Nothing to load."""

    def chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        return json.dumps(messages, ensure_ascii=False)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.zeros(0, np.int32) for _ in texts]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        return [(np.zeros(0, np.int32), np.zeros(1, np.int32)) for _ in pairs]

    def windows(self, text: str, most: int) -> list[tuple[Ids, Ids]]:
        return [(np.zeros(0, np.int32), np.zeros(1, np.int32))]

    def check_bos(self, ids: Ids) -> None:
        """There is no BOS."""


def recompute(bundle: Bundle, task: str, sources: Sources) -> Recomputed:
    """One task of a bundle."""
    from estbench import manifests

    card = known_task(task, sources)
    plan = plan_of(card, bundle.manifest, sources)
    rows = _matched(plan, bundle, task)
    truncated = int(bundle.manifest["tasks"][task]["truncated"])
    plan.truncated = truncated  # as the sender's context was: the server has none
    scorer = plan.lm.scorer()
    docs, samples = _samples(plan, rows, scorer)
    scores = score_task(
        task,
        samples,
        primary=plan.lm.primary,
        chance=card.chance,
        n_planned=len(plan.docs),
        listed=plan.lm.metrics,
        higher_is_better=plan.lm.task.higher_is_better(),
        aggregations=plan.lm.task.aggregation(),
    )
    primary = next(score for score in scores if score.primary)
    if primary.value is None and not is_judged(primary.metric):
        raise Lacking(primary.reason or "its primary score can't be computed here")
    claimed = [score for score in bundle.scores if score.task == task]
    uncomputed = check_claims(task, claimed, scores)
    own = manifests.of_task(plan, scorer)
    own["data"] = own["data"] | {"origin": Path(own["data"]["origin"]).name}
    own["endings"] = bundle.manifest["tasks"][task].get("endings", {})
    return Recomputed(own, docs, samples, scores, [rows[doc.hash] for doc in plan.docs], uncomputed)


def known_task(task: str, sources: Sources) -> Task:
    """The server's own task of that name, with its data here; Lacking if it is not."""
    card = sources.registry.tasks.get(task)
    if card is None:
        raise Lacking("this board has no task of that name")
    if data.missing_of_task(card, sources.data):
        raise Lacking("this board has no data for it")
    if card.withheld and sources.gold(task) is None:
        raise Lacking("its golds are withheld, and not here")
    return card


def scope_of(manifest: dict[str, Any], card: Task, sources: Sources) -> Scope:
    """The server's own way to ask: only how many documents, by hash order, is the sender's choice."""
    from estbench.plan import Scope

    settings = manifest["settings"]
    limit, share = settings.get("limit"), settings.get("share")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise Refused(400, "The run's limit= is none.")
    if share is not None and (type(share) not in (int, float) or not 0 < share <= 1):
        raise Refused(400, "The run's share= is none.")
    return Scope(limit=limit, share=share, data=sources.data, gold=sources.gold(card.name))


def plan_of(card: Task, manifest: dict[str, Any], sources: Sources) -> TaskPlan:
    """What this server asks in a task; Lacking where it can't even do that."""
    from estbench.plan import render

    try:
        return render(card, NoTokens(), ROOM, scope_of(manifest, card, sources))
    except Refused:
        raise
    except EstbenchError as error:
        raise Lacking(f"it can't be rendered here ({type(error).__name__})") from error


def _matched(plan: TaskPlan, bundle: Bundle, task: str) -> dict[str, dict[str, Any]]:
    """Document hash -> its row of the bundle. Refused where the answers are to something else than the server asks."""
    wanted = {doc.hash for doc in plan.docs}
    changed = [f"{key}=" for key in PLAN_SETTINGS if key in bundle.manifest["settings"]]
    hint = f" The run was made with {', '.join(changed)}, and the board asks its own way." if changed else ""
    rows: dict[str, dict[str, Any]] = {}
    keys: dict[str, Any] = {}
    for row in bundle.rows(task):
        if row["doc"] not in wanted:
            raise Refused(400, f"{task}: document {row['doc']} is not one of this board's.{hint}")
        for key, response in zip(row["keys"], row["responses"], strict=True):
            if keys.setdefault(key, response) != response:
                raise Refused(400, f"{task}: one question, {key}, has two answers.")
        rows[row["doc"]] = row
    if len(rows) < len(wanted):
        first = min(wanted - rows.keys())
        raise Refused(400, f"{task}: {len(wanted) - len(rows):,} documents have no answer, {first} first.{hint}")
    for doc, rendered in _parts(plan):
        row = rows[doc.hash]
        same_text = plan.card.form == "chat" or row["prompt"] == _prompt_hash(rendered)
        if row["asked"] != doc.asked or not same_text:
            raise Refused(400, f"{task}: document {doc.hash} was asked in other words than this board asks it.{hint}")
        _check_answers(task, doc, rendered, row)
    return rows


def _parts(plan: TaskPlan) -> Iterator[tuple[Doc, Rendered]]:
    for part in plan.parts():
        yield from part


def _prompt_hash(rendered: Rendered) -> str:
    from estbench.plan import prompt_hash

    return prompt_hash(rendered.prompt)


def _check_answers(task: str, doc: Doc, rendered: Rendered, row: dict[str, Any]) -> None:
    """Whether the answers are of the kind, number and length that the questions have."""
    answers = row["responses"]
    generated = ["text" in answer for answer in answers]
    expected = rendered.decoding is not None
    turns = len(doc.requests) + (doc.follow_up is not None)  # the second turn's request follows from the first answer
    if any(one is not expected for one in generated) or not (rendered.rolling or len(answers) == turns):
        raise Refused(400, f"{task}: the answers to document {doc.hash} do not fit its questions.")
    if rendered.decoding is not None:
        most = rendered.decoding.max_new_tokens
        for one in answers:
            tokens = max(most, one.get("thinking_tokens", 0) + most)
            if len(one["text"]) > LONGEST * (most + 10) or one["tokens"] > tokens:
                raise Refused(400, f"{task}: the answer to document {doc.hash} is longer than the task allows.")


def _samples(plan: TaskPlan, rows: dict[str, dict[str, Any]], scorer: str) -> tuple[list[PlannedDoc], list[Sample]]:
    """Documents and samples, as a run of our own has them but for token ids."""
    docs, samples = [], []
    for part in plan.parts():
        asked = [(doc.doc_id, rendered, responses_of(rows[doc.hash])) for doc, rendered in part]
        try:
            found = {doc_id: (values, answer) for doc_id, values, answer in plan.lm.results(asked)}
        except TaskError:
            raise Refused(400, f"{plan.card.name}: its answers can't be scored.") from None
        for doc, rendered in part:
            values, answer = found[doc.doc_id]
            planned = _planned(doc, rendered)
            docs.append(planned)
            samples.append(
                Sample(
                    task=plan.card.name,
                    doc_id=doc.doc_id,
                    doc_hash=doc.hash,
                    prompt_hash=planned.prompt_hash,
                    cluster=doc.cluster,
                    target=planned.target,
                    answer=answer,
                    values={name: value for name, value in values.items() if name != PARSE_FAILURE},
                    key=identity.sample_key(rows[doc.hash]["keys"], doc.row, scorer),
                    parse_failure=bool(values.get(PARSE_FAILURE, 0)),
                )
            )
    return docs, samples


def responses_of(row: dict[str, Any]) -> list[Response]:
    """A row's answers as an engine gives them."""
    return [from_record(record) for record in row["responses"]]


def _planned(doc: Doc, rendered: Rendered) -> PlannedDoc:
    return PlannedDoc(
        doc_id=doc.doc_id,
        doc_hash=doc.hash,
        prompt=rendered.prompt,
        prompt_hash=_prompt_hash(rendered),
        target=None if doc.withheld else rendered.target,
        cluster=doc.cluster,
        asked=doc.asked,
        choices=[continuation for _, continuation in rendered.pairs],
    )


def check_claims(task: str, claimed: Sequence[Score], ours: Sequence[Score]) -> list[str]:
    """Refused where a claimed score is not what the answers give; the metrics that can't be computed here."""
    known = {score.metric: score for score in ours}
    uncomputed = []
    for score in claimed:
        if score.value is None or score.metric.startswith(COMET) or judged.state(score) is not None:
            continue
        own = known.get(score.metric)
        if own is None:
            raise Refused(400, f"{task}: {score.metric} was claimed, which the task does not have.")
        if own.value is None:
            uncomputed.append(score.metric)
            continue
        if abs(own.value - score.value) > TOLERANCE[own.unit]:
            both = f"{score.value:.10g} was claimed, and the answers give {own.value:.10g}"
            raise Refused(400, f"{task}, {score.metric}: {both}.")
        for name in ("n", "n_planned", "parse_failures", "errors"):
            if getattr(score, name) != getattr(own, name):
                counts = f"{getattr(score, name):,} was claimed, and it is {getattr(own, name):,}"
                raise Refused(400, f"{task}, {score.metric}: of {name}, {counts}.")
    return uncomputed
