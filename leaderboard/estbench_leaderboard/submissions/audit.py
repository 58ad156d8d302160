"""Do these weights give these answers? Random documents are asked again, and the answers laid side by side.

    found = audit(database, folder, submission, weights, sources, actor="Mari")     # found["passed"], found["reasons"]

Documents are drawn with a seed that is made now, after the bundle came, so that nobody could know which ones would be
asked. Weights must have the fingerprint that the manifest names; a model behind an endpoint must be at the manifest's
URL under its name. An audit holds if, in every task, enough documents agree, and if those that do not are not mostly
better than they should be.

A document agrees if each log-likelihood is within the tolerance of `estbench parity`, or if the greedy text is the
same, or scored the same. Since a strong model's answers are mostly scored as the golds are, most texts of a task have
to be the same, too. Runs of a part of a benchmark are not audited, nor fewer than LEAST documents.

What 50 documents of a task find: a bundle in which one answer in five was made up fails that task 95 times in 100, one
in ten 38 times. All tasks together are tested for answers that are better than the model's own: over 20 tasks even one
in fifty is found nearly always.
"""

from __future__ import annotations

import math
import random
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from estbench import answering, engines, identity, parity, turns
from estbench.config import EvalSettings
from estbench.database import Database, schema
from estbench.engines.base import Generated, Response, Scored
from estbench.errors import ConfigError, EngineError
from estbench.plan import Doc, TaskPlan, prompt_hash, render
from estbench.remote import RemoteModel
from estbench.responses import ResponseStore
from estbench_leaderboard.submissions import moderation
from estbench_leaderboard.submissions.bundle import Bundle, open_bundle
from estbench_leaderboard.submissions.errors import Refused
from estbench_leaderboard.submissions.receive import Submission, bundle_path
from estbench_leaderboard.submissions.recompute import Lacking, Sources, known_task, responses_of, scope_of
from estbench_leaderboard.submissions.tokens import stamp

if TYPE_CHECKING:
    from estbench.engines.base import Engine
    from estbench.lm_tasks import Rendered
    from estbench.remote import Model

LEAST = 30  # documents, of all tasks together
LEVEL = 0.01  # of the test whether answers that differ are better than they should be


@dataclass(frozen=True)
class Demands:
    """How much is asked again, and how much of it may differ."""

    docs: int = 50  # of each task
    tolerance: float = 0.01  # nats
    equal: float = 0.9  # least share of a task's documents that agree
    texts: float = 0.8  # least share of a task's generated answers that are the same text


@dataclass
class Drawn:
    """A task's documents that are asked again."""

    plan: TaskPlan
    docs: list[tuple[Doc, Rendered]]
    rows: dict[str, dict[str, Any]]  # hash -> what was sent


def audit(
    database: Database,
    folder: Path,
    identity_of: str,
    weights: EvalSettings,
    sources: Sources,
    *,
    actor: str,
    demands: Demands = Demands(),
    say: answering.Say = answering.silent,
    progress: answering.Progress = answering.silent,
) -> dict[str, Any]:
    """Ask random documents again, and note what came of it. ConfigError, with nothing noted, for other weights."""
    submission = moderation.find(database, identity_of)
    if submission.state not in ("rescored", "published"):
        raise ConfigError(f"Submission {identity_of} is {submission.state}: only what was rescored can be audited.")
    _check_whole(database, submission)
    bundle = open_bundle(bundle_path(folder, submission.bundle))
    seed = secrets.token_hex(16)
    model = engines.find_model(weights, say)
    engines.check_parts(weights.engine)
    tokens = engines.tokens_of(weights, model)
    engine = engines.make(weights, model, tokens, say)
    try:
        _check_weights(model, engine, bundle)
        drawn = [
            _drawn(bundle, task, sources, tokens, engine, random.Random(f"{seed} {task}"), demands.docs)
            for task in _tasks(submission)
        ]
        asked = sum(len(one.docs) for one in drawn)
        if asked < LEAST:
            raise ConfigError(f"{asked} documents are too few to tell anything: {LEAST} have to be asked, raise docs=.")
        responses = _ask(drawn, engine, tokens, say, progress)
    finally:
        engine.close()
    found = compare(drawn, responses, demands)
    shown: dict[str, Any] = {
        "seed": seed,
        "when": stamp(),
        "actor": actor,
        "engine": weights.engine,
        "demands": asdict(demands),
    }
    shown |= {"docs": asked, **found}
    reason = "; ".join(found["reasons"])[:1500] or f"{asked:,} documents were asked again, and agree"
    moderation.audited(database, identity_of, actor, shown, reason, seen=submission.bundle)
    return shown


def _tasks(submission: Submission) -> list[str]:
    found = (submission.report or {}).get("tasks", {})
    return [task for task, row in found.items() if row["state"] == "rescored"]


def _check_whole(database: Database, submission: Submission) -> None:
    """ConfigError for a run of a part of the documents: whoever chose the part may have chosen the easy one."""
    of = schema.run_tasks.c
    part = select(of.task).where(of.run_id == submission.run, of.n_planned < of.n_docs).order_by(of.position)
    with database.read() as connection:
        task = connection.scalar(part.limit(1))
    if task is not None:
        raise ConfigError(
            f"{submission.run} is a run of a part of {task} (limit= or share=): only whole runs are audited."
        )


def _check_weights(model: Model, engine: Engine, bundle: Bundle) -> None:
    """ConfigError unless the model is the one that the manifest names."""
    claimed = bundle.manifest["model"]
    unverified = claimed.get("weights") == "unverified"
    if isinstance(model, RemoteModel):
        same = unverified and (claimed.get("url"), claimed["name"]) == (model.url, model.name)
        what = f"{model.name} at {model.url}"
    else:
        lora = {key: value for key, value in engine.fingerprint().items() if key == "lora"}
        found = identity.digest(model.fingerprint() | lora)
        same = not unverified and found == claimed["fingerprint"]
        what = f"{model.path} ({found[:12]}…)"
    if not same:
        named = f"{claimed.get('url') or ''} {claimed['name']} ({claimed['fingerprint'][:12]}…)".strip()
        raise ConfigError(f"{what} is not the model of this submission, {named}: nothing was audited.")


def _drawn(
    bundle: Bundle,
    task: str,
    sources: Sources,
    tokens: Any,
    engine: Engine,
    dice: random.Random,
    n: int,
) -> Drawn:
    """Random documents of a task, as this model is asked them."""
    try:
        card = known_task(task, sources)
    except Lacking as why:
        raise ConfigError(f"{task} can't be audited: {why}.") from None
    truncate = bool(bundle.manifest["tasks"][task]["truncated"])
    plan = render(card, tokens, engine.max_length, replace(scope_of(bundle.manifest, card, sources), truncate=truncate))
    chosen = set(dice.sample(sorted(doc.hash for doc in plan.docs), min(n, len(plan.docs))))
    docs = [(doc, rendered) for part in plan.parts() for doc, rendered in part if doc.hash in chosen]
    plan.docs = [doc for doc, _ in docs]
    for doc in plan.docs:
        doc.keys = [identity.response_key(parity.NAME, request.content()) for request in doc.requests]
    rows = {row["doc"]: row for row in bundle.rows(task) if row["doc"] in chosen}
    if rows.keys() != chosen:
        raise Refused(409, f"{task}: the bundle has other documents than were rescored.")
    return Drawn(plan, docs, rows)


def _ask(
    drawn: Sequence[Drawn], engine: Engine, tokens: Any, say: answering.Say, progress: answering.Progress
) -> dict[str, Response]:
    plans = [one.plan for one in drawn]
    second = turns.then(plans, tokens, None, engine.max_length, parity.NAME)
    with tempfile.TemporaryDirectory() as folder, ResponseStore(parity.NAME, Path(folder)) as store:
        answers = answering.answer(plans, engine, store, say=say, progress=progress, then=second)
    if answers.failures:
        raise EngineError(f"{len(answers.failures):,} requests had no answer: nothing was audited. Try again.")
    return answers.responses


def compare(drawn: Sequence[Drawn], responses: Mapping[str, Response], demands: Demands) -> dict[str, Any]:
    """What agrees, task by task, and why the audit does not hold (no reasons: it does)."""
    tasks = {}
    better = worse = 0
    for one in drawn:
        row, gains = _task(one, responses, demands.tolerance)
        tasks[one.plan.card.name] = row
        better, worse = better + sum(gain > 0 for gain in gains), worse + sum(gain < 0 for gain in gains)
    reasons = judge(tasks, better, worse, demands)
    sums = {name: sum(row[name] for row in tasks.values()) for name in ("docs", "agree", "generated", "texts")}
    shares = {
        "agree": sums["agree"] / sums["docs"] if sums["docs"] else None,
        "texts": sums["texts"] / sums["generated"] if sums["generated"] else None,
    }
    return {
        "passed": not reasons,
        "reasons": reasons,
        "shares": shares,
        "better": better,
        "worse": worse,
        "tasks": tasks,
    }


def judge(tasks: Mapping[str, Mapping[str, Any]], better: int, worse: int, demands: Demands) -> list[str]:
    """Why an audit with these counts does not hold; nothing if it does. better, worse: answers that differ."""
    reasons = []
    for task, row in tasks.items():
        if row["sampled"]:
            reasons.append(f"{task} is answered by sampling, and can't be asked again")
        elif row["agree"] < demands.equal * row["docs"]:
            reasons.append(f"{task}: {row['agree']} of {row['docs']} documents agree")
        elif row["texts"] < demands.texts * row["generated"]:
            reasons.append(f"{task}: {row['texts']} of {row['generated']} answers are the same text")
    if better > worse and chance_of(better, better + worse) < LEVEL:
        reasons.append(f"{better} answers are scored higher than those that the model gives now, and {worse} lower")
    if not tasks:
        reasons.append("no task was rescored")
    return reasons


def chance_of(k: int, n: int) -> float:
    """How likely k or more of n are heads."""
    return float(sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n)


def _task(one: Drawn, responses: Mapping[str, Response], tolerance: float) -> tuple[dict[str, Any], list[float]]:
    """A task's documents side by side; and how much better each was scored than it is now."""
    lm = one.plan.lm
    now = [(doc.doc_id, rendered, [responses[key] for key in doc.keys]) for doc, rendered in one.docs]
    sent = [(doc.doc_id, rendered, responses_of(one.rows[doc.hash])) for doc, rendered in one.docs]
    scored_now = {doc_id: values for doc_id, values, _ in lm.results(now)}
    scored_sent = {doc_id: values for doc_id, values, _ in lm.results(sent)}
    higher = lm.task.higher_is_better().get(lm.primary.split(",")[0]) is not False
    agree = generated = texts = 0
    largest, gains, sampled = 0.0, [], False
    for (doc, rendered), (_, _, first), (_, _, second) in zip(one.docs, sent, now, strict=True):
        values = scored_sent[doc.doc_id], scored_now[doc.doc_id]
        apart = _apart(first, second)
        same_prompt = one.rows[doc.hash]["prompt"] == prompt_hash(rendered.prompt)
        if apart is None:
            same_text = same_prompt and _texts(first) == _texts(second)
            generated, texts = generated + 1, texts + same_text
            agree += same_text or (same_prompt and dict(values[0]) == dict(values[1]))
        else:
            agree += same_prompt and apart <= tolerance
        largest = max(largest, apart or 0.0)
        gains.append(_gain(lm.primary, *values) * (1 if higher else -1))
        sampled |= rendered.decoding is not None and rendered.decoding.temperature > 0
    counts = {"docs": len(one.docs), "agree": agree, "generated": generated, "texts": texts}
    return {**counts, "largest": largest, "sampled": sampled}, gains


def _apart(sent: Sequence[Response], now: Sequence[Response]) -> float | None:
    """The largest distance between log-likelihoods, in nats; None where texts were asked."""
    if len(sent) != len(now):
        return math.inf
    pairs = list(zip(sent, now, strict=True))
    numbers = [abs(a.logprob - b.logprob) for a, b in pairs if isinstance(a, Scored) and isinstance(b, Scored)]
    return max(numbers) if len(numbers) == len(pairs) else None


def _texts(answers: Sequence[Response]) -> list[str | None]:
    return [answer.text.strip() if isinstance(answer, Generated) else None for answer in answers]


def _gain(primary: str, sent: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """By how much the sent answer is scored higher; 0 where a document has no score of its own."""
    a, b = sent.get(primary), now.get(primary)
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return float(a - b) if numbers else 0.0  # type: ignore[operator]
