"""Renders a plan, once and in order: documents, shots, prompts, token ids, packs.

Everything later (slices, `estbench show`, partial looks, workers) takes the rendered token ids from here, since the
shots of a document can depend on all documents before it. `limit` and slices take documents by the order of their
hashes, because files are sorted by level or subject. Packs are a function of the plan alone, never of what is cached.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench import identity, registry, turns
from estbench.answering import Questions
from estbench.engines.base import Pack, Packing, Request
from estbench.errors import PlanError
from estbench.runs import PlannedDoc
from estbench.texts import Texts
from estbench.tokens import Tokens

if TYPE_CHECKING:
    from estbench.lm_tasks import Chat, LmTask, Rendered

CHUNK = 128  # documents whose texts are tokenised together


@dataclass(slots=True)
class Doc:
    """A document that is ready to be asked."""

    doc_id: int
    hash: str  # of the data row; repeated rows get "-2", "-3", ...
    row: str  # of the data row alone
    asked: str  # hash of what is asked, before any model's template and tokenizer
    cluster: str | None
    requests: list[Request]
    keys: list[str] = field(default_factory=list)  # response keys, known once the fingerprint is
    withheld: bool = False  # the gold answer stays with the maintainers: it is in no run folder
    opening: list[dict[str, str]] | None = None  # messages so far, where the user says something after the answer
    follow_up: str | None = None  # what that is (`turns`)

    def record(self, rendered: Rendered) -> PlannedDoc:
        """The document as the run folder keeps it; a context that all choices share is written once."""
        requests: list[dict[str, Any]] = []
        before: list[int] | None = None
        for request, key in zip(self.requests, self.keys, strict=True):
            ids = request.prompt.tolist()
            row: dict[str, Any] = {"key": key} if ids == before or request.messages else {"key": key, "prompt_ids": ids}
            before = ids
            if request.messages is not None:
                row["messages"] = json.loads(request.messages)
            if request.continuation is not None:
                row["continuation_ids"] = request.continuation.tolist()
            if request.decoding is not None:
                row["decoding"] = request.decoding.record()
            requests.append(row)
        prompt = rendered.prompt
        return PlannedDoc(
            doc_id=self.doc_id,
            doc_hash=self.hash,
            prompt=prompt,
            prompt_hash=prompt_hash(prompt),
            target=None if self.withheld else rendered.target,
            cluster=self.cluster,
            asked=self.asked,
            choices=[continuation for _, continuation in rendered.pairs],
            requests=requests,
        )


@dataclass(slots=True)
class TaskPlan:
    """A task's part of a plan."""

    card: registry.Task
    lm: LmTask
    docs: list[Doc]  # by doc_id
    n_docs: int  # documents that the task has
    truncated: int = 0  # prompts cut from the left, because truncate=true
    texts: Texts = field(default_factory=Texts)  # of the docs, in parts of CHUNK

    def parts(self) -> Iterator[list[tuple[Doc, Rendered]]]:
        """The documents with their texts, CHUNK at a time."""
        start = 0
        for part in self.texts:
            yield list(zip(self.docs[start : start + len(part)], part, strict=True))
            start += len(part)

    @property
    def keys(self) -> Iterator[str]:
        """The response keys of all documents."""
        return (key for doc in self.docs for key in doc.keys)

    @property
    def hash(self) -> str:
        """The plan's identity: equal for all models that are asked the same."""
        return identity.plan_key(
            self.card.name, self.card.form, bool(self.truncated), ((doc.hash, doc.asked) for doc in self.docs)
        )

    def packs(self, packing: Packing) -> list[Pack]:
        """The requests, each key once, in the packs in which they are computed: a function of the plan alone."""
        asked = {key: request for doc in self.docs for key, request in zip(doc.keys, doc.requests, strict=True)}
        return Questions(self.card.name, asked).packs(packing)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which documents of a task are asked, and how prompts are made."""

    limit: int | None = None
    slice: tuple[int, int] | None = None  # (i, n), i from 1
    shots: int | None = None
    seed: int = 1234
    data: Path | None = None
    truncate: bool = False
    gold: Path | None = None
    system: str | None = None
    share: float | None = None  # of the documents that `limit` leaves


def prompt_hash(prompt: str) -> str:
    """Hash of a prompt's text (prompts are kept once, by this)."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def render(card: registry.Task, tokens: Tokens, max_length: int, scope: Scope) -> TaskPlan:
    """The documents of one task as token ids."""
    from estbench.lm_tasks import LmTask

    lm = LmTask(card, data_dir=scope.data, shots=scope.shots, seed=scope.seed, gold=scope.gold)
    lm.dataset = replace(lm.dataset, splits={})  # the rows are in `lm.docs` now
    chat = with_system(tokens.chat, scope.system) if card.form == "chat" else None
    system = scope.system if chat else None
    plan = TaskPlan(card, lm, [], len(lm.docs))
    for part in _rendered(lm, _choose(lm.doc_hashes, scope), chat):
        asked = _requests([doc for _, doc in part], tokens, scope.seed, max_length)
        for (doc_id, doc), requests in zip(part, asked, strict=True):
            bos = len(tokens.prefix)
            fitted = [_fit(request, max_length, scope.truncate, card, doc_id, bos) for request in requests]
            plan.truncated += any(a is not b for a, b in zip(fitted, requests, strict=True))
            tokens.check_bos(fitted[0].prompt)
            plan.docs.append(_doc(lm, doc_id, doc, fitted, system))
        plan.texts.add([doc for _, doc in part])
    return plan


def _rendered(lm: LmTask, chosen: Sequence[int], chat: Chat | None) -> Iterator[list[tuple[int, Rendered]]]:
    """The chosen documents as texts, CHUNK at a time. Random shots advance document by document: all are drawn."""
    wanted = set(chosen)
    part: list[tuple[int, Rendered]] = []
    for doc_id in range(chosen[-1] + 1 if chosen else 0) if lm.draws_shots else chosen:
        doc = lm.render(doc_id, chat)
        lm.task.forget(lm.docs[doc_id])
        if doc_id in wanted:
            part.append((doc_id, doc))
        if len(part) == CHUNK:
            yield part
            part = []
    if part:
        yield part


def _doc(lm: LmTask, doc_id: int, rendered: Rendered, requests: list[Request], system: str | None) -> Doc:
    name, card = lm.doc_hashes[doc_id], lm.card
    row, _, repeated = name.partition("-")
    decoding = rendered.decoding.record() if rendered.decoding else None
    said = [system] if system else []
    follow_up = turns.follow_up_of(card, lm.docs[doc_id], lm.shots)
    said += [follow_up] if follow_up else []
    asked = identity.digest([rendered.source, decoding, *said])[:32]
    cluster = cluster_of(card, lm.docs[doc_id])
    doc = Doc(doc_id, name, row if repeated else name, asked, cluster, requests, withheld=card.withheld)
    if follow_up:
        doc.opening, doc.follow_up = rendered.source[-1], follow_up
    return doc


def with_system(chat: Chat, system: str | None) -> Chat:
    """A chat template with a system message in front."""
    if system is None:
        return chat

    def through(messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        first = {"role": "system", "content": system}
        return chat([first, *messages], add_generation_prompt=add_generation_prompt)

    return through


def _choose(hashes: Sequence[str], scope: Scope) -> list[int]:
    order = sorted(range(len(hashes)), key=hashes.__getitem__)[: scope.limit]
    if scope.share is not None:
        order = order[: math.ceil(scope.share * len(order) - 1e-9)]
    if scope.slice:
        i, n = scope.slice
        order = order[i - 1 :: n]
    return sorted(order)


def _requests(rendered: Sequence[Rendered], tokens: Tokens, seed: int, most: int) -> Iterator[list[Request]]:
    pairs = iter(tokens.encode_pairs([pair for doc in rendered if not doc.rolling for pair in doc.pairs]))
    prompts = iter(tokens.encode([doc.prompt for doc in rendered if doc.decoding]))
    for doc in rendered:
        if decoding := doc.decoding:
            sampled = decoding if decoding.temperature == 0 else replace(decoding, seed=seed)
            messages = doc.prompt if tokens.sends_messages else None
            yield [Request(next(prompts), decoding=sampled, messages=messages)]
        elif doc.rolling:
            yield [Request(*window) for window in tokens.windows(doc.pairs[0][1], most)]
        else:
            yield [Request(context, continuation) for context, continuation in (next(pairs) for _ in doc.pairs)]


def _fit(request: Request, most: int, truncate: bool, card: registry.Task, doc_id: int, bos: int) -> Request:
    """The request, or one whose prompt is cut from the left (the BOS stays) when that was asked for."""
    over = request.tokens - most
    if over <= 0:
        return request
    if not truncate:
        answer = f" and {request.decoding.max_new_tokens} for the answer" if request.decoding else ""
        raise PlanError(
            f"{card.name}, document {doc_id}: the prompt needs {len(request.prompt):,} tokens{answer}, the model's "
            f"context is {most:,}. Use fewer shots (shots=), or truncate=true to cut prompts from the left (it changes "
            "scores and is recorded)."
        )
    if over >= len(request.prompt) - bos:
        raise PlanError(
            f"{card.name}, document {doc_id}: the answer alone is longer than the model's context of {most:,} tokens."
        )
    cut = np.concatenate([request.prompt[:bos], request.prompt[bos + over :]])
    return Request(cut, request.continuation, request.decoding)


def cluster_of(card: registry.Task, row: dict[str, Any]) -> str | None:
    """What documents that belong together share (a hash), by the card's `cluster` template; None: each is its own."""
    template = card.metadata.get("cluster")
    if not template:
        return None
    from lm_eval.utils import apply_template

    try:
        return hashlib.sha256(str(apply_template(template, row)).encode()).hexdigest()[:16]
    except Exception as error:
        raise PlanError(f"{card.path}: metadata.cluster {template!r} does not fit the rows: {error}") from None
