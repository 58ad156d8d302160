"""What a run folder says about itself: who was asked what, with which parts, and the command that does it again."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import estbench
from estbench import cards, golds, identity, registry, report
from estbench.config import EvalSettings
from estbench.remote import RemoteModel
from estbench.runs import SCHEMA

if TYPE_CHECKING:
    from estbench.plan import TaskPlan
    from estbench.runner import Job

NOT_IN_COMMAND = ("output", "database", "plan", "judge", "judge_options")  # they change no answer
LIBRARIES = ("lm_eval", "torch", "transformers", "tokenizers", "datasets", "sacrebleu", "numpy")


def of_run(job: Job, tasks: dict[str, Any], identities: dict[str, str]) -> dict[str, Any]:
    """The manifest, but for the run's id and seconds. `tasks`: `of_task` of each."""
    settings = job.settings
    return {
        "schema": SCHEMA,
        "name": settings.name or job.checkpoint.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "partial": settings.slice is not None or any(is_partial(row) for row in tasks.values()),
        "slice": settings.slice,
        "model": of_model(job),
        "engine": job.fingerprint["engine"] | job.engine.notes(),
        "identity": identities | {"series": series(job, tasks)},
        "suites": job.suites,
        "tasks": tasks,
        "skipped": {name: reason for name, (_, reason) in job.skipped.items()},
        "settings": changed(settings),
        "command": command(settings),
        "versions": versions(),
        "host": {"machine": platform.machine(), "system": platform.system()},
    }


def is_partial(task: dict[str, Any]) -> bool:
    """Whether a task's part of a manifest is about fewer documents than the benchmark has."""
    return bool(task["n_planned"] < task["n_docs"] or task.get("sample"))


def of_task(plan: TaskPlan, scorer: str) -> dict[str, Any]:
    """A task's part: its card, its data, and the identity of its plan."""
    card, dataset = plan.card, plan.lm.dataset
    return {
        "title": card.title,
        "skill": card.metadata.get("skill"),
        "form": card.form,
        "language": card.metadata.get("language"),
        "licence": card.metadata.get("licence"),
        "chance": card.chance,
        "primary": plan.lm.primary,
        "metrics": plan.lm.metrics,
        "higher_is_better": plan.lm.task.higher_is_better(),
        "cluster": card.metadata.get("cluster"),
        "access": card.access,
        "publish_items": card.metadata.get("publish_items", False),
        "sample": dataset.sample,
        "reason": golds.REASON if dataset.withheld else None,  # why there is no score
        "data": {
            "path": dataset.ref.path,
            "config": dataset.ref.config,
            "commit": dataset.commit,
            "origin": dataset.origin,
            "matches_lock": dataset.matches_lock,
            "hash": dataset.hash,
        },
        "scorer": scorer,
        "shots": plan.lm.shots,
        "truncated": plan.truncated,
        "plan_hash": plan.hash,
        "n_docs": plan.n_docs,
        "n_planned": len(plan.docs),
    }


def of_model(job: Job) -> dict[str, Any]:
    """The model's part: content hashes, its whereabouts for people, and what its folder says of it (`cards`)."""
    model, template = job.checkpoint, job.tokens.chat_template
    if isinstance(model, RemoteModel):
        card = model.card()
    else:
        card = {
            "name": model.name,
            "path": str(model.path.resolve()),
            "revision": model.revision,
            "parameters": model.parameters,
            "bytes": model.bytes,
            "type": model.config.get("model_type"),
            **cards.of_folder(model.path, report.say),
        }
    own = "the endpoint's own" if job.tokens.sends_messages else None
    adapter = {key: value for key, value in job.fingerprint["engine"].items() if key == "lora"}
    hashes = job.fingerprint["model"] | adapter  # with an adapter it is another model
    return card | {
        "fingerprint": identity.digest(hashes),
        "hashes": hashes,
        "dtype": job.fingerprint["engine"].get("dtype"),
        "max_length": job.engine.max_length,
        "chat_template": identity.digest(template) if template else own,
        "bos": own or ("added by the tokenizer" if job.tokens.prefix else "none"),
    }


def series(job: Job, tasks: dict[str, Any]) -> str:
    """What the slices of one evaluation have in common, and nothing else has."""
    per_task = {}
    for plan in job.plans:
        row = tasks[plan.card.name]
        files = identity.digest(_with_text_keys(registry.read_yaml(plan.card.path)))
        per_task[plan.card.name] = [files, row["scorer"], row["data"]["hash"], row["shots"], row["n_docs"]]
    settings, of = job.settings, (job.settings.slice or "").partition("/")[2]
    asked: list[Any] = [
        settings.seed,
        settings.limit,
        settings.truncate,
        settings.prompt_options,
        job.engine.max_length,
        of,
    ]
    asked += [settings.share] if settings.share is not None else []
    return identity.digest([job.response_id, per_task, *asked])


def _with_text_keys(value: Any) -> Any:
    """What YAML holds, as JSON can: a key may be a number there."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(part) for key, part in value.items()}
    return [_with_text_keys(part) for part in value] if isinstance(value, list) else value


def changed(settings: EvalSettings) -> dict[str, Any]:
    """The settings that are not at their default."""
    plain = asdict(settings)
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    kept = {key: value for key, value in plain.items() if key not in NOT_IN_COMMAND}  # a database URL has a password
    return {key: value for key, value in kept.items() if value != {} and value != defaults[key]}


def command(settings: EvalSettings) -> str:
    """The command line that makes this run again."""
    words = []
    for key, value in changed(settings).items():
        if key.endswith("_options"):
            words += [f"{key.removesuffix('_options')}.{name}={part}" for name, part in value.items()]
        else:
            words.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return shlex.join(["estbench", "eval", *words])


def versions() -> dict[str, str]:
    """Versions of estbench, Python and the libraries that can change a score."""
    found = {"estbench": estbench.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
