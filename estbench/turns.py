"""Conversations: what the user says after the model's first answer, which is part of the prompt then.

    metadata:
      follow_up: follow_up        # the row's field with the user's second message; rows without one have one turn

The plan holds what the user says, and so it is the same for all models; the second request is made once the first
answer is there, and is kept under its own response key. lm-eval alone asks the first turn only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from estbench import identity
from estbench.answering import Answers, Questions
from estbench.engines.base import Generated, Request
from estbench.errors import PlanError
from estbench.tokens import Tokens

if TYPE_CHECKING:
    from estbench.plan import Doc, TaskPlan
    from estbench.registry import Task

SIGNS = 3  # of a token of Estonian, roughly
NOTHING = "(tühi vastus)"  # stands for an empty first answer: many templates and endpoints take no empty message


def follow_up_of(card: Task, row: dict[str, Any], shots: int) -> str | None:
    """The user's second message of a row; PlanError where the task can't have one."""
    field = card.metadata.get("follow_up")
    if not field or not row.get(field):
        return None
    if card.form != "chat" or shots or card.config.get("output_type", "generate_until") != "generate_until":
        raise PlanError(f"{card.name}: follow_up is for generated answers in chat form without shots (shots=0).")
    return str(row[field])


def then(
    plans: Sequence[TaskPlan], tokens: Tokens, system: str | None, most: int, response_id: str
) -> Callable[[Answers], Sequence[Questions]]:
    """What `answering.answer` asks after the first round: the second turns, each once its first answer is there."""
    waiting = [(plan, doc) for plan in plans for doc in plan.docs if doc.follow_up]

    def ask(answers: Answers) -> Sequence[Questions]:
        ready = [(plan, doc) for plan, doc in waiting if doc.keys[0] in answers.responses]
        waiting.clear()
        asked: dict[str, dict[str, Request]] = {}
        for plan, doc in ready:
            request = _second(doc, answers, tokens, system)
            key = identity.response_key(response_id, request.content())
            doc.requests, doc.keys = [doc.requests[0], request], [doc.keys[0], key]
            if request.tokens > most:
                answers.failures[key] = (
                    f"the conversation needs {request.tokens:,} tokens, the model's context is {most:,}"
                )
            else:
                asked.setdefault(plan.card.name, {})[key] = request
        return [Questions(name, requests) for name, requests in asked.items()]

    return ask


def at_most(doc: Doc) -> Request:
    """About the largest second turn that a document can come to, for a plan that is priced before anything is asked."""
    first, said = doc.requests[0], doc.follow_up or ""
    assert first.decoding is not None and doc.opening is not None
    most = first.decoding.max_new_tokens
    ids = np.zeros(len(first.prompt) + (0 if first.messages else most + len(said) // SIGNS), np.int32)
    messages = [*doc.opening, {"role": "assistant", "content": "x" * (most * SIGNS)}, {"role": "user", "content": said}]
    return Request(ids, decoding=first.decoding, messages=json.dumps(messages) if first.messages else None)


def _second(doc: Doc, answers: Answers, tokens: Tokens, system: str | None) -> Request:
    """The second turn's request: all that was said so far, under the decoding of the first."""
    from estbench.plan import with_system

    first, answered = doc.requests[0], answers.responses[doc.keys[0]]
    assert isinstance(answered, Generated) and doc.opening is not None and doc.follow_up is not None
    messages = [
        *doc.opening,
        {"role": "assistant", "content": answered.text.strip() or NOTHING},
        {"role": "user", "content": doc.follow_up},
    ]
    text = with_system(tokens.chat, system)(messages)
    [ids] = tokens.encode([text])
    return Request(ids, decoding=first.decoding, messages=text if tokens.sends_messages else None)
