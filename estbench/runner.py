"""plan -> responses -> samples -> scores -> run folder.

    job = prepare(settings)   # everything that can be refused is refused here, before anything is written
    run = evaluate(job)       # a Run; running the same again finishes, or finds everything there

What is reused is decided by response keys alone; `answering` asks for the rest.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import data, distributed, endings, engines, golds, identity, judged, manifests, registry, turns
from estbench.answering import Answers, Progress, Say, answer, silent
from estbench.checkpoint import Checkpoint
from estbench.config import EvalSettings
from estbench.engines.base import Engine, Response, to_record
from estbench.engines.options import read_options
from estbench.errors import ConfigError, DataError, ModelError, StoreError, UserError
from estbench.home import check_home, home
from estbench.plan import Doc, Scope, TaskPlan, prompt_hash, render
from estbench.remote import Model, RemoteModel
from estbench.responses import ResponseStore
from estbench.runs import PlannedDoc, Run, Sample, Score, file_name, write_json, write_lines
from estbench.scoring import PARSE_FAILURE, needs_its_own_aggregation, score_task
from estbench.tokens import Tokens

if TYPE_CHECKING:
    from estbench.lm_tasks import Rendered


@dataclass
class Job:
    """A plan for one model, checked and ready to run."""

    settings: EvalSettings
    checkpoint: Model
    tokens: Tokens
    engine: Engine
    plans: list[TaskPlan]
    suites: list[str]
    skipped: dict[str, tuple[registry.Task, str]]  # task -> its card and why it can't run, with missing=skip

    fingerprint: dict[str, Any] = field(default_factory=dict)

    @property
    def response_id(self) -> str:
        """Fingerprint of everything but the request: names the store of responses."""
        return identity.digest(self.fingerprint)


def choose(settings: EvalSettings, model: Model, say: Say = silent) -> registry.Selection:
    """The tasks that `tasks=` means for this model; without it `core` or `core_base`, and that is said."""
    if settings.tasks:
        return registry.Registry.of(settings).select(settings.tasks)
    suite, has = ("core", "a") if model.has_chat_template else ("core_base", "no")
    say(f"tasks={suite}, since {model.name} has {has} chat template.")
    return registry.Registry().select(suite)


def missing_parts(cards: Sequence[registry.Task], model: Model, data_dir: Path | None) -> dict[str, UserError]:
    """Task -> what it lacks on this machine, found without loading or fetching anything."""
    lacking: dict[str, UserError] = {}
    for card in cards:
        if isinstance(model, RemoteModel) and (why := model.cannot(card)):
            lacking[card.name] = ConfigError(f"{why}.")
        elif card.form == "chat" and not model.has_chat_template:
            lacking[card.name] = ModelError(
                f"{model.name} has no chat template: use the completion form (tasks=core_base), or save the tokenizer "
                "with its template."
            )
        elif reason := data.missing_of_task(card, data_dir):
            lacking[card.name] = DataError(f"{reason}.")
    return lacking


def _fetch_missing(
    cards: Sequence[registry.Task], model: Model, data_dir: Path | None, say: Say
) -> dict[str, UserError]:
    """Like `missing_parts`, after trying to fetch data that is not here."""
    lacking = missing_parts(cards, model, data_dir)
    for card in cards:
        if isinstance(lacking.get(card.name), DataError):
            try:
                if not data.is_sample(data_dir):
                    say(f"{card.name}: fetching {', '.join(map(str, data.references([card])))}.")
                data.pull_missing(card, data_dir)
                del lacking[card.name]
            except DataError as error:
                lacking[card.name] = error
    return lacking


def check(settings: EvalSettings, say: Say = silent) -> None:
    """Everything that `prepare` refuses before it renders: a light look at one of many models."""
    engines.find_model(settings, say)  # aloud: a demo model is made, a Hub model fetched
    _find(settings, silent)


Found = tuple[Model, registry.Selection, dict[str, UserError]]


def _find(settings: EvalSettings, say: Say) -> Found:
    """The model, the tasks that are meant, and what those lack that can't be run."""
    check_home()
    settings.slice_of  # noqa: B018  a wrong slice is refused here
    if settings.tasks:
        registry.Registry.of(settings).select(settings.tasks)  # a slip is found before a model is made or fetched
    read_options(settings.engine, settings.engine_options)
    distributed.read_options(settings)
    data_dir = Path(settings.data).expanduser() if settings.data else None
    model = engines.find_model(settings, say)
    chosen = choose(settings, model, say)
    lacking = _fetch_missing(chosen.tasks, model, data_dir, say)
    if lacking and settings.missing == "stop":
        reason = next(iter(lacking.values()))
        names = [name for name, other in lacking.items() if str(other) == str(reason)]
        others = len(lacking) - len(names)
        more = f" {others} more tasks lack something: plan=true lists all." if others else ""
        raise type(reason)(f"{', '.join(names)}: {reason}{more} missing=skip goes on without.")
    engines.check_parts(settings.engine)
    return model, chosen, lacking


def prepare(settings: EvalSettings, say: Say = silent, before: Job | None = None, engine: Engine | None = None) -> Job:
    """Find the model, choose tasks, render the plan. Raises before anything is written or loaded.

    before: the job of another model with these settings; its plans are used again if they would be the same.
    engine: one that was made for this model and these settings before.
    """
    model, chosen, lacking = _find(settings, say)
    cards = [card for card in chosen.tasks if card.name not in lacking]
    if model.has_chat_template and any(card.form == "completion" for card in cards) and settings.tasks:
        say(
            f"{model.name} has a chat template, and completion tasks don't use it: scores are not comparable with the "
            "chat form's."
        )
    tokens = engines.tokens_of(settings, model)
    engine = engine or _engine(settings, model, tokens, say)
    try:
        ready = _ready(before, model, engine) if before else {}
        plans = _rendered(settings, cards, tokens, engine.max_length, lacking, ready)
    except BaseException:
        engine.close()
        raise
    unpinned = [plan.card.name for plan in plans if _is_unpinned(plan)]
    if unpinned:
        say(f"data.lock does not say which data is meant for {', '.join(unpinned)}: scores are of the copy found here.")
    for plan in plans:
        if plan.lm.dataset.sample:
            say(f"{plan.card.name}: sample data, {plan.n_docs} documents of our own: for trying only.")
        if plan.lm.dataset.withheld:
            say(f"{plan.card.name}: {golds.REASON}. Responses are kept; there is no score without it.")
        if plan.lm.dataset.matches_lock is False:
            say(f"{plan.card.name}: {plan.lm.dataset.ref} in {plan.lm.dataset.origin} is not the data of the lock.")
    skipped = {card.name: (card, str(lacking[card.name])) for card in chosen.tasks if card.name in lacking}
    return Job(settings, model, tokens, engine, plans, chosen.suites, skipped)


def _engine(settings: EvalSettings, model: Model, tokens: Tokens, say: Say) -> Engine:
    """The engine, in this process or on a cluster."""
    if settings.cluster:
        if isinstance(model, RemoteModel):
            raise ConfigError(f"cluster= needs a model on disk, and {model.name} is behind an endpoint: leave it out.")
        return distributed.RayEngine(settings, model, say)
    return engines.make(settings, model, tokens, say)


def _ready(before: Job, model: Model, engine: Engine) -> dict[str, TaskPlan]:
    """The plans of an earlier job, if tokenizer, template and context are those of this model."""
    if not isinstance(model, Checkpoint) or not isinstance(before.checkpoint, Checkpoint):
        return {}  # an endpoint's model: nobody knows its tokenizer
    mine, other = model.tokenizer_hash(), before.checkpoint.tokenizer_hash()
    alike = mine is not None and mine == other and engine.max_length == before.engine.max_length
    return {plan.card.name: plan for plan in before.plans} if alike else {}


def _rendered(
    settings: EvalSettings,
    cards: Sequence[registry.Task],
    tokens: Tokens,
    most: int,
    lacking: dict[str, UserError],
    ready: dict[str, TaskPlan],
) -> list[TaskPlan]:
    """The plans of the tasks, `ready` or new; with missing=skip, `lacking` takes what can't be rendered."""
    scope = scope_of(settings)
    plans = []
    for card in cards:
        try:
            plans.append(ready.get(card.name) or render(card, tokens, most, scope))
        except UserError as error:
            if settings.missing == "stop":
                raise
            lacking[card.name] = error
    if settings.slice:
        _check_mergeable(plans)
    if not plans:
        name, reason = next(iter(lacking.items()))
        raise type(reason)(f"None of the tasks can run here. {name}: {reason}")
    return plans


def _check_mergeable(plans: Sequence[TaskPlan]) -> None:
    """Refuse slices of tasks whose scores only the task's own code can make: merging has no task code."""
    for plan in plans:
        for metric, aggregate in plan.lm.task.aggregation().items():
            if needs_its_own_aggregation(aggregate):
                raise ConfigError(
                    f"{plan.card.name} aggregates {metric} itself, which needs all documents: leave slice= out."
                )


def _is_unpinned(plan: TaskPlan) -> bool:
    """Whether nothing vouches for a task's data: neither the lock nor that it comes with estbench."""
    dataset = plan.lm.dataset
    return (
        dataset.matches_lock is None
        and not dataset.sample
        and plan.card.dataset is not None
        and not data.is_own(dataset.ref)
    )


def scope_of(settings: EvalSettings) -> Scope:
    """Which documents the settings ask for, and how."""
    data_dir, gold = (Path(name).expanduser() if name else None for name in (settings.data, settings.gold))
    return Scope(
        settings.limit,
        settings.slice_of,
        settings.shots,
        settings.seed,
        data_dir,
        settings.truncate,
        gold,
        settings.prompt_options.get("system"),
        settings.share,
    )


def evaluate(job: Job, *, say: Say = silent, progress: Progress = silent) -> Run:
    """Answer what has no answer yet, score everything, write the run folder."""
    begun = time.monotonic()
    try:
        job.fingerprint = {"model": job.checkpoint.fingerprint(), "engine": job.engine.fingerprint()}
        for plan in job.plans:
            for doc in plan.docs:
                if doc.follow_up:
                    del doc.requests[1:]  # of another model that had this plan: it follows from that one's answer
                doc.keys = [identity.response_key(job.response_id, request.content()) for request in doc.requests]
        with _disk_errors(), ResponseStore(job.response_id) as store:
            store.check_writable()
            second = turns.then(
                job.plans,
                job.tokens,
                job.settings.prompt_options.get("system"),
                job.engine.max_length,
                job.response_id,
            )
            answers = answer(job.plans, job.engine, store, job.checkpoint.check_unchanged, say, progress, second)
    finally:
        job.engine.close()  # what it started to know its fingerprint ends, too
    results = [_score(job, plan, answers) for plan in job.plans]
    if line := endings.in_words({result.plan.card.name: result.endings for result in results}):
        say(line)
    with _disk_errors():
        return _write(job, results, answers, begun)


@dataclass
class TaskResult:
    """A task's samples and scores, and what the manifest says of it."""

    plan: TaskPlan
    samples: list[Sample]
    scores: list[Score]
    scorer: str
    endings: dict[str, int]  # how generated answers ended


def _score(job: Job, plan: TaskPlan, answers: Answers) -> TaskResult:
    scorer = plan.lm.scorer()
    samples = [sample for part in plan.parts() for sample in _samples(plan, part, answers, scorer)]
    scores = [] if job.settings.slice else _scores(plan, samples)
    given = (answers.responses[key] for doc in plan.docs for key in doc.keys if key in answers.responses)
    return TaskResult(plan, samples, scores, scorer, endings.count(given))


def _samples(plan: TaskPlan, part: Sequence[tuple[Doc, Rendered]], answers: Answers, scorer: str) -> Iterator[Sample]:
    answered = [
        (doc.doc_id, rendered, [answers.responses[key] for key in doc.keys])
        for doc, rendered in part
        if all(key in answers.responses for key in doc.keys)
    ]
    found = {doc_id: (values, answer) for doc_id, values, answer in plan.lm.results(answered)}
    for doc, rendered in part:
        values, given = found.get(doc.doc_id, ({}, None))
        failed = next((answers.failures[key] for key in doc.keys if key in answers.failures), None)
        yield Sample(
            task=plan.card.name,
            doc_id=doc.doc_id,
            doc_hash=doc.hash,
            prompt_hash=prompt_hash(rendered.prompt),
            cluster=doc.cluster,
            target=None if doc.withheld else rendered.target,
            answer=given,
            values={name: value for name, value in values.items() if name != PARSE_FAILURE},
            key=identity.sample_key([*doc.keys, "no response"] if failed else doc.keys, doc.row, scorer),
            parse_failure=bool(values.get(PARSE_FAILURE, 0)),
            error=failed,
        )


def _scores(plan: TaskPlan, samples: list[Sample]) -> list[Score]:
    card = plan.card
    return score_task(
        card.name,
        samples,
        primary=plan.lm.primary,
        chance=card.chance,
        n_planned=len(plan.docs),
        listed=plan.lm.metrics,
        reason=golds.REASON if plan.lm.dataset.withheld else None,
        higher_is_better=plan.lm.task.higher_is_better(),
        aggregations=plan.lm.task.aggregation(),
    )


def _write(job: Job, results: list[TaskResult], answers: Answers, begun: float) -> Run:
    """The run folder: every file atomically, the manifest last."""
    tasks = {
        result.plan.card.name: manifests.of_task(result.plan, result.scorer) | {"endings": result.endings}
        for result in results
    }
    whole = identity.digest({name: row["plan_hash"] for name, row in tasks.items()})
    result_id = identity.result_key(whole, (sample.key for result in results for sample in result.samples))
    if job.settings.slice:  # a part that happens to be the whole is still not the whole
        result_id = identity.digest([result_id, job.settings.slice])
    run_id = (
        f"{re.sub(r'[^A-Za-z0-9.-]+', '-', job.checkpoint.name).strip('-.').lower()[:100] or 'model'}-{result_id[:12]}"
    )
    folder = home() / "runs" / run_id
    first = _first_manifest(folder)
    (folder / "manifest.json").unlink(missing_ok=True)  # a folder counts as a run only while it is whole
    for result in results:
        file = f"{file_name(result.plan.card.name)}.jsonl.gz"
        write_lines(folder / "plan" / file, _records(result.plan))
        write_lines(folder / "responses" / file, _response_rows(result.plan, answers.responses))
        write_lines(folder / "samples" / file, result.samples)
    skipped = [_skipped(card, reason) for card, reason in job.skipped.values()]
    scores = [asdict(score) for result in results for score in result.scores]
    scores += skipped if not job.settings.slice else []
    write_json(folder / "scores.json", scores)
    identities = {"response": job.response_id, "plan": whole, "result": result_id}
    seconds = round(time.monotonic() - begun, 1)
    manifest = manifests.of_run(job, tasks, identities) | {"run": run_id, "seconds": seconds}
    manifest["skipped_scores"] = skipped
    if errors := [sample.error for result in results for sample in result.samples if sample.error]:
        manifest["unanswered"] = {"documents": len(errors), "reason": errors[0]}
    if first:  # the same run again: how it first came to be stays
        manifest |= {
            key: first[key] for key in ("created", "seconds", "command", "settings", "versions", "host") if key in first
        }
        manifest["engine"] = first["engine"] | manifest["engine"]  # what it says of its work stays, if it had none now
    write_json(folder / "manifest.json", manifest)
    judged.merge(Run(folder))  # what judges said of these very answers before
    return Run(folder)


def _first_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of this very run from an earlier time, if there is one that can be read."""
    try:
        return Run(folder).manifest
    except StoreError:
        return None


def _records(plan: TaskPlan) -> Iterator[PlannedDoc]:
    for part in plan.parts():
        for doc, rendered in part:
            yield doc.record(rendered)


def _response_rows(plan: TaskPlan, responses: dict[str, Response]) -> Iterator[dict[str, Any]]:
    for doc in plan.docs:
        for index, key in enumerate(doc.keys):
            if key not in responses:
                continue  # its sample says why
            yield {"doc_id": doc.doc_id, "index": index, "key": key} | to_record(responses[key])


def _skipped(card: registry.Task, reason: str) -> dict[str, Any]:
    [score] = score_task(card.name, [], primary=card.primary, chance=card.chance, n_planned=0)
    return asdict(score) | {"reason": reason}


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise
        where = error.filename or home()
        raise StoreError(
            f"{where} can't be written ({error.strerror}): free some space, or set ESTBENCH_HOME to a folder that can "
            "be written, and run the same command again; what is stored is kept."
        ) from None
