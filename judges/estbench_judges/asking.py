"""Cases to votes: what is asked of a judge, again where its answer has not the form, and what is missing in the end.

    votes = ask(judge, {"3/model/0": case, ...}, say, progress)     # Vote by name

A case is asked by its steps: label log-probabilities first where they are wanted, JSON, JSON once more. A request has
its own key in the judge's store, so that a kill loses nothing that was paid and a replay needs no network. A failed
call is no vote; neither is an answer that is still not what was asked for after the retry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from estbench import identity
from estbench.answering import Answers, Progress, Questions, Say, answer, silent
from estbench.engines.base import Decoding, Generated, Request, Scored
from estbench.responses import ResponseStore
from estbench_judges import verdicts
from estbench_judges.judges import Judge, request_of
from estbench_judges.rendering import Case, schema_text
from estbench_judges.rubrics import LABELS
from estbench_judges.verdicts import Invalid, Verdict

TOP = 20  # likeliest first tokens that an endpoint is asked for


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a judge writes. Temperature 0 is greedy."""

    temperature: float = 0.0
    structured: bool = True  # whether the endpoint is asked to hold the answer to the schema


@dataclass
class Vote:
    """What became of a case: a verdict, or why there is none."""

    case: Case
    seed: int
    verdict: Verdict | None = None
    why: str = ""  # no verdict: the last answer's fault, or the call's
    failed: bool = False  # no verdict because the call failed: asking again may help
    calls: list[dict[str, Any]] = field(default_factory=list)  # key, kind, what came

    @property
    def attempts(self) -> int:
        return len(self.calls)


class Asking:
    """The rounds of asking one judge."""

    def __init__(self, judge: Judge, cases: Mapping[str, tuple[Case, int]], sampling: Sampling) -> None:
        self.judge, self.sampling = judge, sampling
        self.votes = {name: Vote(case, seed) for name, (case, seed) in cases.items()}
        self.steps = {
            name: ["label", "json", "again"] if case.label else ["json", "again"] for name, (case, _) in cases.items()
        }
        self.under_way: dict[str, tuple[str, list[str]]] = {}  # name -> step, keys

    def first(self) -> list[Questions]:
        return self._ask(list(self.votes))

    def requests(self) -> dict[str, Request]:
        """What is asked first, by key."""
        return {key: request for asked in self.first() for key, request in asked.requests.items()}

    def then(self, answers: Answers) -> Sequence[Questions]:
        """Take what came; ask again where there is no verdict and a step is left."""
        again = []
        for name, (step, keys) in self.under_way.items():
            vote = self.votes[name]
            failure = next((answers.failures[key] for key in keys if key in answers.failures), None)
            if failure is not None:
                vote.why, vote.failed = failure, True
                vote.calls.append({"step": step, "keys": keys, "failed": failure})
                continue
            found = self._read(vote, step, [answers.responses[key] for key in keys], keys)
            if isinstance(found, Verdict):
                vote.verdict, vote.why = found, ""
            else:
                vote.why = found.why
                if self.steps[name]:
                    again.append(name)
        self.under_way = {}
        return self._ask(again)

    def _read(self, vote: Vote, step: str, given: Sequence[Any], keys: list[str]) -> Verdict | Invalid:
        found: Verdict | Invalid
        row: dict[str, Any] = {"step": step, "keys": keys}
        if step == "label" and isinstance(given[0], Scored):
            logprobs = {label: one.logprob for label, one in zip(LABELS, given, strict=True)}
            found, row["labels"] = verdicts.expected(logprobs), logprobs
        else:
            [reply] = given
            assert isinstance(reply, Generated)
            row |= {"text": reply.text, "tokens": reply.tokens, "finish": reply.finish}
            if step == "label":
                found, row["top"] = verdicts.of_top(reply.top), reply.top
            else:
                found = verdicts.read(dataclasses.replace(vote.case, label=False), reply)
        row |= {"invalid": found.why} if isinstance(found, Invalid) else {}
        vote.calls.append(row)
        return found

    def _ask(self, names: Sequence[str]) -> list[Questions]:
        """The next step of these cases; those that don't fit the judge's context have no vote."""
        judge = self.judge
        steps = [(name, self.steps[name].pop(0)) for name in names]
        texts = [judge.text(self._messages(self.votes[name].case, step)) for name, step in steps]
        requests: dict[str, Request] = {}
        for (name, step), text, plain in zip(steps, texts, request_of(judge, texts), strict=True):
            asked = self._requests(self.votes[name], step, text, plain)
            if (most := max(one.tokens for one in asked)) > judge.max_length:
                self.votes[name].why = f"it needs {most:,} tokens, the judge's context is {judge.max_length:,}"
                continue
            keys = [identity.response_key(judge.response_id, one.content()) for one in asked]
            self.under_way[name] = (step, keys)
            requests |= dict(zip(keys, asked, strict=True))
        return [Questions(judge.name, requests)] if requests else []

    def _messages(self, case: Case, step: str) -> list[dict[str, str]]:
        return dataclasses.replace(case, label=step == "label").messages(again=step == "again")

    def _requests(self, vote: Vote, step: str, text: str, plain: Request) -> list[Request]:
        judge, case, sampling = self.judge, vote.case, self.sampling
        if step == "label" and judge.scores_labels:
            assert judge.tokens is not None
            pairs = judge.tokens.encode_pairs([(text, label) for label in LABELS])
            return [Request(context, continuation) for context, continuation in pairs]
        if step == "label":
            return [dataclasses.replace(plain, decoding=Decoding(1, top=TOP))]
        decoding = Decoding(
            dataclasses.replace(case, label=False).tokens,
            temperature=sampling.temperature,
            seed=vote.seed,
            schema=schema_text(case) if sampling.structured else None,
        )
        return [dataclasses.replace(plain, decoding=decoding)]


def ask(
    judge: Judge,
    cases: Mapping[str, tuple[Case, int]],
    sampling: Sampling,
    say: Say = silent,
    progress: Progress = silent,
) -> dict[str, Vote]:
    """The votes of one judge on cases, by name; each case comes with the seed of its sampling."""
    assert judge.engine is not None
    asking = Asking(judge, cases, sampling)
    with ResponseStore(judge.response_id) as store:
        store.check_writable()
        checked = judge.model.check_unchanged if judge.model is not None else silent
        answer(asking.first(), judge.engine, store, checked, say, progress, asking.then)
    return asking.votes
