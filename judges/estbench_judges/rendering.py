"""A judge's prompt: rubric, what is judged between fences, and how to answer.

    case = Case(item, mode="pairwise", rubric=rubric, other=anchors, first="model", language="et", reasons=True)
    case.messages()                # [{"role": "system", ...}, {"role": "user", ...}]
    case.schema()                  # the JSON schema that the answer has to fit

Everything that comes from outside (task, reference, criteria, answers) stands between fences; the order is TASK,
REFERENCE, CRITERIA, ANSWER or ANSWER_A and ANSWER_B, and instructions follow only after the last fence.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from estbench_judges import fences
from estbench_judges.items import Item
from estbench_judges.rubrics import LABELS, Rubric, frame

VERDICTS = {"A_much": 1.0, "A": 0.75, "tie": 0.5, "B": 0.25, "B_much": 0.0}  # of the answer that stands first
EQUIVALENCE = {"same": 1.0, "different": 0.0, "none": 0.0}
REASON = 300  # characters of a reason, at most
TOKENS = {True: 640, False: 96}  # of an answer with and without a reason
OF_A_CRITERION = 8  # tokens


@dataclass(frozen=True)
class Case:
    """One question to a judge."""

    item: Item
    rubric: Rubric
    mode: str
    language: str = "et"  # of the instructions
    reasons: bool = True
    other: tuple[str, ...] = ()  # pairwise: the anchor's answers, one a turn
    first: str = "model"  # pairwise: who stands first, "model" or "anchor"
    label: bool = False  # pointwise: the digit alone, for log-probabilities

    @cached_property
    def criteria(self) -> tuple[str, ...]:
        """The criteria of all turns, in order; each says its turn where there are two."""
        lists = self.item.checklists
        if len(lists) < 2:
            return tuple(one for criteria in lists for one in criteria)
        turn = {"et": "vastus", "en": "answer"}[self.language]
        return tuple(f"[{i}. {turn}] {one}" for i, criteria in enumerate(lists, 1) for one in criteria)

    def messages(self, again: bool = False) -> list[dict[str, str]]:
        """The judge's messages. again: its first answer did not have the form that is asked for."""
        parts = self._parts()
        nonce = fences.nonce_of([[label, value] for label, value in parts])
        texts, language = frame().texts, self.language
        head = [self.rubric.instructions[language].strip(), self._task()]
        head += [texts["reference"][language]] * any(label == "REFERENCE" for label, _ in parts)
        head += [texts["two_turns"][language]] * (len(self.item.turns) > 1)
        closing = texts["label" if self.label else "reason" if self.reasons else "plain"][language]
        user = [*head, *(fences.fenced(label, value, nonce) for label, value in parts), closing]
        user += [texts["retry"][language]] * again
        system = frame().system[language].replace("{nonce}", nonce)
        return [{"role": "system", "content": system}, {"role": "user", "content": "\n\n".join(user)}]

    def _task(self) -> str:
        text = frame().modes[self.mode][self.language].replace("{count}", str(len(self.criteria)))
        if self.mode != "pointwise":
            return text
        return "\n".join([text, *(f"{label} – {self.rubric.scale[label][self.language]}" for label in LABELS)])

    def _parts(self) -> list[tuple[str, Any]]:
        """What is fenced, by label."""
        item = self.item
        parts: list[tuple[str, Any]] = [("TASK", list(item.turns) if len(item.turns) > 1 else item.turns[0])]
        if item.reference is not None and self.rubric.axis == "content":
            parts.append(("REFERENCE", item.reference))
        if self.mode == "checklist":
            parts.append(("CRITERIA", list(self.criteria)))
        if self.mode != "pairwise":
            return [*parts, ("ANSWER", said(item.turns, item.answers))]
        answers = [item.answers, self.other] if self.first == "model" else [self.other, item.answers]
        labels = ("ANSWER_A", "ANSWER_B")
        return parts + [(label, said(item.turns, one)) for label, one in zip(labels, answers, strict=True)]

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the judge's answer: the reason first, where there is one."""
        fields: dict[str, Any] = {"reason": {"type": "string", "maxLength": REASON}} if self.reasons else {}
        if self.mode == "pairwise":
            fields["verdict"] = {"type": "string", "enum": list(VERDICTS)}
        elif self.mode == "equivalence":
            fields["verdict"] = {"type": "string", "enum": list(EQUIVALENCE)}
        elif self.mode == "pointwise":
            fields["score"] = {"type": "integer", "enum": [int(label) for label in LABELS]}
        else:
            n = len(self.criteria)
            fields["criteria"] = {"type": "array", "items": {"type": "boolean"}, "minItems": n, "maxItems": n}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}

    @property
    def tokens(self) -> int:
        """Room for the judge's answer, in tokens."""
        if self.label:
            return 1
        return TOKENS[self.reasons] + OF_A_CRITERION * (len(self.criteria) if self.mode == "checklist" else 0)

    def swapped(self) -> Case:
        """The same pair in the other order."""
        return dataclasses.replace(self, first="anchor" if self.first == "model" else "model")


def said(turns: Sequence[str], answers: Sequence[str]) -> Any:
    """What was answered: a text, or a conversation where there was more than one turn."""
    if len(turns) == 1:
        return answers[0]
    return [
        {"role": role, "content": text}
        for turn, answer in zip(turns, answers, strict=True)
        for role, text in (("user", turn), ("assistant", answer))
    ]


def merged(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The messages for a chat template without a system role: its text stands in front of the user's."""
    return [{"role": "user", "content": "\n\n".join(one["content"] for one in messages)}]


def schema_text(case: Case) -> str:
    """The schema as the request holds it: key order is the order in which the judge writes."""
    return json.dumps(case.schema(), ensure_ascii=False, separators=(",", ":"))
