"""What a judge's reply says. What is not exactly what was asked for is no verdict, and never a score.

    read(case, '{"reason": "…", "verdict": "A"}')        # Verdict(score=0.75, label="A", reason="…")
    read(case, "[[A]]")                                  # Invalid("it is no JSON object")

A score is from the model's point of view, 0 to 1, whoever stood first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estbench.engines.base import Generated
from estbench_judges.rendering import EQUIVALENCE, VERDICTS, Case
from estbench_judges.rubrics import LABELS

COVERED = 0.9  # least probability of the labels together; below it the labels are not what the judge wants to write
FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.S)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A valid verdict."""

    score: float  # 0 to 1, of the model
    label: str  # as the judge gave it: "A", "4", "same", "3/5"
    reason: str = ""
    covered: float | None = None  # label probabilities: their sum
    met: tuple[bool, ...] = ()  # checklist: criterion by criterion


@dataclass(frozen=True, slots=True)
class Invalid:
    """A reply that is no verdict, and why."""

    why: str


def read(case: Case, reply: Generated) -> Verdict | Invalid:
    """The verdict of a reply in JSON."""
    if reply.finish == "refusal":
        return Invalid("the judge refused")
    if reply.finish == "length":
        return Invalid("the judge did not come to an end")
    if not reply.text.strip():
        return Invalid("the judge answered nothing")
    found = FENCED.match(reply.text)
    try:
        value = json.loads(found[1] if found else reply.text)
    except (ValueError, RecursionError):
        return Invalid("it is no JSON")
    if not isinstance(value, dict):
        return Invalid("it is no JSON object")
    if set(value) != set(case.schema()["properties"]):
        return Invalid("it has other fields than were asked for")
    reason = value.get("reason", "")
    if not isinstance(reason, str):
        return Invalid("its reason is no text")
    return _decided(case, value, reason)


def _decided(case: Case, value: dict[str, Any], reason: str) -> Verdict | Invalid:
    if case.mode in ("pairwise", "equivalence"):
        table = VERDICTS if case.mode == "pairwise" else EQUIVALENCE
        label = value["verdict"]
        if not isinstance(label, str) or label not in table:
            return Invalid("its verdict is none of those that were offered")
        turned = case.mode == "pairwise" and case.first == "anchor"
        return Verdict(1 - table[label] if turned else table[label], label, reason)
    if case.mode == "pointwise":
        score = value["score"]
        if type(score) is not int or str(score) not in LABELS:
            return Invalid("its score is no whole number from 1 to 5")
        return Verdict(_share(score), str(score), reason)
    met = value["criteria"]
    if not isinstance(met, list) or len(met) != len(case.criteria) or not all(type(one) is bool for one in met):
        return Invalid(f"it does not decide {len(case.criteria)} criteria")
    return Verdict(sum(met) / len(met), f"{sum(met)}/{len(met)}", reason, met=tuple(met))


def _share(score: float) -> float:
    """1 to 5 as 0 to 1."""
    return (score - 1) / (len(LABELS) - 1)


def expected(logprobs: Mapping[str, float]) -> Verdict | Invalid:
    """The expected score over the labels' probabilities: s = Σ k·p_k / Σ p_k, beside the covered mass Σ p_k.

    logprobs: label -> log-probability in nats. Invalid where the labels together are less likely than `COVERED`.
    """
    chances = {label: math.exp(logprobs[label]) for label in LABELS if label in logprobs}
    covered = min(1.0, sum(chances.values()))
    if covered < COVERED:
        return Invalid(f"the labels cover {covered:.2f} of the probability")
    mean = sum(int(label) * chance for label, chance in chances.items()) / sum(chances.values())
    likeliest = max(chances, key=lambda label: chances[label])
    return Verdict(_share(mean), likeliest, covered=covered)


def of_top(top: Mapping[str, float] | None) -> Verdict | Invalid:
    """The expected score from the likeliest first tokens of a chat endpoint; tokens that are a label are summed."""
    if not top:
        return Invalid("the endpoint gives no log-probabilities")
    chances: dict[str, float] = {}
    for token, logprob in top.items():
        if (label := token.strip()) in LABELS:
            chances[label] = chances.get(label, 0.0) + math.exp(logprob)
    return expected({label: math.log(chance) for label, chance in chances.items() if chance > 0})
