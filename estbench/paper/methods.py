"""The paragraph on methods: what was run and how it was scored, as the runs' manifests and scores say it.

paragraph(found)        sentences in English, to be pasted

Nothing is said that no run says: what a file does not hold is "not recorded".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import references
from estbench.errors import StoreError
from estbench.evidence import Evidence

if TYPE_CHECKING:
    from estbench.paper.tables import Table

LIBRARIES = ("torch", "transformers", "vllm")
UNKNOWN = "not recorded in what was read"
CLUSTERED = re.compile(r", [\d,]+ clusters.*")


def paragraph(found: Table) -> str:
    """What was run, how it was scored, compared and averaged, on which data, and what others published."""
    return " ".join(_sentences(found))


def _sentences(found: Table) -> Iterator[str]:
    named = list(zip(found.runs, found.labels, strict=True))
    yield _sentence("Models were evaluated with", ((_software(run), label) for run, label in named))
    yield _sentence("Responses come from", ((_engine(run), label) for run, label in named))
    yield f"Runs: {', '.join(_run(run, label) for run, label in named)}."
    systems = [(str(text), label) for run, label in named if (text := _system(run))]
    if systems:
        yield _sentence("A system message stood in front of chat prompts:", systems, always=True)
    tasks = [
        f"{column.task} ({column.n:,}, {'?' if column.shots is None else column.shots}, {column.form or '?'})"
        for column in found.columns
    ]
    yield f"Tasks, with documents, shots and form: {', '.join(tasks)}."
    answers = (
        (how, column.task) for column in found.columns for run in found.runs for how in _answers(run, column.task)
    )
    yield _sentence("Answers are made", answers)
    yield from _scoring(found)
    yield from _testing(found)
    yield from _averaging(found)
    data = ((how, name) for column in found.columns for run in found.runs for how, name in _data(run, column.task))
    yield _sentence("Data:", data, always=True)
    for name in dict.fromkeys(row.source for row in found.published):
        about = references.sources()[name]
        origin = f"{about['title']} ({about['source']}; looked up {about['checked']}; form: {about['form']})"
        yield (
            f"Rows under “published” are figures of {origin}: made with other prompts and data samples, not paired "
            "with ours and never ranked with them."
        )


def _sentence(start: str, pairs: Iterable[tuple[str, str]], *, always: bool = False) -> str:
    """`start` what is said (of whom); what is said of all alike names nobody."""
    said: dict[str, dict[str, None]] = {}
    for text, name in pairs:
        said.setdefault(text, {})[name] = None
    if len(said) == 1 and not always:
        return f"{start} {next(iter(said))}."
    parts = [f"{text} ({', '.join(names)})" for text, names in said.items()]
    return f"{start} {'; '.join(parts)}."


def _run(run: Evidence, label: str) -> str:
    revision = run.manifest["model"].get("revision")
    return f"{label} ({run.id}{f', revision {revision}' if revision else ''})"


def _software(run: Evidence) -> str:
    versions = run.manifest.get("versions") or {}
    if str(run.manifest["engine"].get("engine")).startswith("lm-eval/"):
        return f"lm-eval {versions.get('lm_eval', UNKNOWN)}, from its result files"
    return f"estbench {versions.get('estbench', UNKNOWN)}"


def _engine(run: Evidence) -> str:
    engine = run.manifest["engine"]
    libraries = [f"{name} {engine[name]}" for name in LIBRARIES if engine.get(name)]
    parts = [f"the {engine.get('engine')} engine", engine.get("dtype") or "a dtype that is not recorded", *libraries]
    return ", ".join(map(str, parts))


def _system(run: Evidence) -> str | None:
    options = (run.manifest.get("settings") or {}).get("prompt_options") or {}
    return f"“{options['system']}”" if options.get("system") else None


def _answers(run: Evidence, task: str) -> Iterator[str]:
    """How a task's answers come about, as its plan says."""
    if task not in run.tasks:
        return
    try:
        doc = next(run.run.plan(task), None) if run.run else None
    except StoreError:
        doc = None
    if doc is None or not doc.requests:
        yield f"in a way {UNKNOWN}"
        return
    decoding: dict[str, Any] | None = doc.requests[0].get("decoding")
    if decoding is None:
        yield "by the log-likelihood of given texts"
        return
    greedy = "greedily" if not decoding["temperature"] else f"at temperature {decoding['temperature']:g}"
    top = f", top-p {decoding['top_p']:g}" if decoding["temperature"] and decoding["top_p"] != 1 else ""
    yield f"by generating {greedy}{top}, at most {decoding['max_new_tokens']:,} tokens"


def _scoring(found: Table) -> Iterator[str]:
    scores = [(column.task, cell.score) for column in found.columns for cell in column.cells if cell.score]
    sure = [(CLUSTERED.sub(", clustered", score.method), task) for task, score in scores if score.ci_low is not None]
    if sure:
        yield _sentence("95 % intervals:", sure, always=True)
    signed = [(f"{score.metric} {score.signature}", task) for task, score in scores if score.signature]
    if signed:
        yield _sentence("Signatures:", signed, always=True)


def _testing(found: Table) -> Iterator[str]:
    tests = [(cell.test, column.task) for column in found.columns for cell in column.cells if cell.p is not None]
    if tests:
        yield _sentence(
            "In each task the best model was compared with each of the others that was asked alike, on the documents "
            "of both, two-sided:",
            tests,
            always=True,
        )
        yield (
            "p-values are adjusted by Holm's procedure for all pairs of models of a task, since the best one is found "
            "in the same data. Bold scores can't be told from the best at 5 %."
        )
    elif len(found.runs) > 1:
        yield "No two models were compared by a test."


def _averaging(found: Table) -> Iterator[str]:
    if found.mean:
        names = ", ".join(found.mean.tasks)
        yield (
            "The mean is that of (score − chance) / (best possible − chance), in per cent, over the "
            f"{len(found.mean.tasks)} tasks that every model has and that have a best possible score ({names}); it has "
            "no interval and was not tested."
        )


def _data(run: Evidence, task: str) -> Iterator[tuple[str, str]]:
    """What is known of a task's data: how sure its commit is, and the data set."""
    data = (run.tasks.get(task) or {}).get("data") or {}
    if not data:
        return
    path = Path(str(data.get("path")))
    name = (path.name if path.is_absolute() else str(path)) + (f", {data['config']}" if data.get("config") else "")
    if data.get("origin") == "made by estbench":
        yield "made by estbench", name
    elif data.get("commit"):
        known = data.get("matches_lock")
        locked = "not in the lock" if known is None else "as locked" if known else "other rows than locked"
        yield f"commit recorded, {locked}", f"{name} at {str(data['commit'])[:12]}"
    else:
        yield "no commit recorded", name
