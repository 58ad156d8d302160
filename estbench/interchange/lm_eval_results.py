"""What lm-eval wrote, taken in as a run.

    run = take_in(Path("out/owner__model/results_2026-11-28T19-56-56.470243.json"), print)

Values are those of the file. Where samples lie beside it, the run has documents, and a metric keeps its values of
single documents only if they make the file's score by our own code: then it can be compared with other runs, and its
interval is ours. Else the interval is value ± 1.96 times lm-eval's standard error, which takes no notice of documents
that share a passage. A task file of ours that lm-eval ran keeps its name and card; lm-eval's own is `lm_eval/NAME`.

What is not known stays so: the weights are unverified, a metric whose unit is not sure (perplexities, what a task's own
code makes) is left out, and each such thing is said. Groups are left out, too: they are means over tasks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import estbench
from estbench import identity, metrics
from estbench.errors import EstbenchError, StoreError
from estbench.home import check_home, home
from estbench.interchange import lm_eval_file, lm_eval_samples
from estbench.interchange.lm_eval_file import SOURCE, ResultFile, TaskResults, is_number, last_part
from estbench.interchange.lm_eval_samples import Documents
from estbench.interchange.ranges import bounds
from estbench.manifests import is_partial
from estbench.metrics import base
from estbench.runs import SCHEMA, Run, Score, file_name, write_json, write_lines
from estbench.scoring import GUESSING, KEPT, PARSE_FAILURE, metric_of, score_task

Say = Callable[[str], None]
NORMAL = 1.96  # standard errors to each side
# lm-eval's own metrics whose unit is sure, with the aggregation that a task's metric_list has to name (or leave open)
MEANS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
UNITS = dict.fromkeys(MEANS, ("proportion", "mean")) | {"f1": ("proportion", "f1")}
UNITS |= {name: ("points", name) for name in ("bleu", "chrf", "chrf++", "ter")}
UNITS |= {"bits_per_byte": ("bits", "bits_per_byte")}
LOWER_IS_BETTER = ("ter", "bits_per_byte")
UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass
class _Taken:
    """What is taken of a task."""

    task: TaskResults
    n_docs: int
    n: int  # documents that were asked
    found: Documents
    primary: str = ""
    scores: list[Score] = field(default_factory=list)

    def values(self, metric: str) -> list[Any]:
        """The metric's values of the documents that have one."""
        return [sample.values[metric] for sample in self.found.samples if metric in sample.values]

    @property
    def plan_hash(self) -> str:
        """Of the documents and what was asked, as in runs of ours; without documents of what the file says instead."""
        docs = [(doc.doc_hash, doc.asked) for doc in self.found.docs]
        return identity.plan_key(self.task.called, self.task.form, False, docs) if docs else self.task.told


def take_in(path: Path, say: Say) -> Run:
    """Make a run of a result file in `home()/runs`, and return it; the same files give the same run.

    `say` gets a line for each thing that is left out. Raises StoreError for a file that lm-eval did not write, that is
    torn, or that has no metric whose unit is sure.
    """
    check_home()
    file = lm_eval_file.read(path)
    try:
        parts = [part for part in _parts(file, say) if part.scores]
        if not parts:
            raise StoreError(f"{path} has no score that can be taken in: of none of its metrics the unit is sure.")
        return _write(file, parts)
    except EstbenchError:
        raise
    except OSError as error:
        raise StoreError(f"{error.filename or home()} can't be read or written: {error.strerror}.") from None
    except UNREADABLE as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise StoreError(f"{path} or its samples are not as lm-eval writes them ({what}).") from None


def _parts(file: ResultFile, say: Say) -> Iterator[_Taken]:
    if file.groups:
        say(f"Left out: {', '.join(map(repr, file.groups))}: means over tasks.")
    for task in file.tasks():
        if task.counts is None:
            say(f"Left out: {task.name}: the file does not say how many documents were asked.")
            continue
        part = _Taken(task, *task.counts, Documents())
        if task.samples and task.card and task.card.withheld:
            say(f"Left out: the documents of {task.name}, whose golds are withheld.")
        elif task.samples:
            part.found = lm_eval_samples.read(task.samples, task, part.n)
        _take_scores(part, say)
        yield part


# --- scores -----------------------------------------------------------------------------------------------------------


def _take_scores(part: _Taken, say: Say) -> None:
    """The scores whose unit is sure, the primary one first; documents keep the values that make them."""
    task = part.task
    units = {name: _unit(part, name) for name in task.values if name not in (PARSE_FAILURE, *KEPT)}
    if unsure := [name for name, unit in units.items() if unit is None]:
        say(f"Left out: {task.name}: {', '.join(unsure)}: the unit is not sure.")
    sure = {name: unit for name, unit in units.items() if unit is not None}
    told = str(task.metadata.get("primary") or next(iter(task.listed), ""))
    part.primary = told if told in sure else next(iter(sure), "")
    lost = _keep_values(part, list(sure))
    if lost:
        say(f"Left out: {task.name}: {', '.join(lost)} of single documents: our code does not make the score of them.")
    scores = [_score(part, name, unit) for name, unit in sure.items()]
    options: dict[str, Any] = {"primary": part.primary, "chance": None, "n_planned": part.n}
    samples = part.found.samples if len(lost) < len(sure) else []
    own = {score.metric: score for score in score_task(task.called, samples, **options)} if samples else {}
    part.scores = [
        _with_error(score, task.values[score.metric][1])
        if score.metric in lost or not samples
        else _with_documents(score, own[score.metric])
        for score in scores
    ]
    part.scores.sort(key=lambda score: (not score.primary, "/" in score.metric))


def _with_documents(score: Score, own: Score) -> Score:
    """The score with what its documents tell."""
    return replace(score, ci_low=own.ci_low, ci_high=own.ci_high, n=own.n, method=own.method, signature=own.signature)


def _unit(part: _Taken, metric: str) -> str | None:
    """ "proportion", "points" or "bits"; None where that is not sure, or where values belie it."""
    task, value, name = part.task, part.task.values[metric][0], metric.split(",")[0]
    if task.card and (known := metrics.get(name.split("/")[0])):
        return known.unit
    unit, usual = UNITS.get(name, (None, ""))
    if unit is None or name not in task.listed or task.listed[name].get("aggregation", usual) != usual:
        return None  # what a task's own code makes may be anything
    low, high = bounds(metric, unit)
    single = [one for one in part.values(metric) if is_number(one)] if unit == "proportion" else []
    return unit if all(low <= one <= high for one in [value, *single] if is_number(one)) else None


def _score(part: _Taken, metric: str, unit: str) -> Score:
    value, name = part.task.values[metric][0], metric.split(",")[0]
    told = lm_eval_file.mapping(part.task.file.of("higher_is_better", part.task.name)).get(name)
    primary, known = metric == part.primary, is_number(value)
    return Score(
        task=part.task.called,
        metric=metric,
        value=float(value) if known else None,
        ci_low=None,
        ci_high=None,
        n=part.n,
        n_planned=part.n,
        chance=_chance(part) if primary else None,
        parse_failures=_failures(part),
        errors=0,
        unit=unit,
        higher_is_better=told if isinstance(told, bool) else name not in LOWER_IS_BETTER,
        primary=primary,
        reason=None if known else "lm-eval's value is not a number",
    )


def _with_error(score: Score, error: Any) -> Score:
    """The score with an interval from lm-eval's standard error; one of 0 says nothing."""
    if score.value is None:
        return score
    if not is_number(error) or error <= 0:
        why = "missing" if not is_number(error) else "0"
        return replace(score, method=f"no interval: lm-eval's standard error is {why}")
    low, high = bounds(score.metric, score.unit)
    ends = max(low, score.value - NORMAL * error), min(high, score.value + NORMAL * error)
    return replace(score, ci_low=ends[0], ci_high=ends[1], method="lm-eval's standard error")


def _chance(part: _Taken) -> float | None:
    """Our card's chance level, or the mean of what the documents say, if this is our task and its primary metric."""
    card = part.task.card
    if card is None or part.primary != card.primary:
        return None
    guessed = part.task.values.get(GUESSING, (None, None))[0]
    return float(guessed) if is_number(guessed) else card.chance


def _failures(part: _Taken) -> int:
    """Answers in which nothing was found: our tasks count them, and lm-eval's filters mark them."""
    share = part.task.values.get(PARSE_FAILURE, (None, None))[0]
    return round(share * part.n) if is_number(share) else sum(sample.parse_failure for sample in part.found.samples)


def _keep_values(part: _Taken, sure: Sequence[str]) -> list[str]:
    """Drop the documents' values of all metrics but those that are taken in and whose score they make; the names of
    those that are taken in and have none now."""
    if not part.found.samples:
        return []
    kept = {name for name in sure if _makes(name, part.values(name), part.task.values[name][0])}
    for sample in part.found.samples:
        for name in [name for name in sample.values if name not in kept and name not in KEPT]:
            del sample.values[name]
    return [name for name in sure if name not in kept]


def _makes(metric: str, values: Sequence[Any], value: Any) -> bool:
    """Whether the documents' values give the score."""
    known, numbers = metric_of(metric, values), all(is_number(one) for one in values)
    if not values or not is_number(value) or not (numbers or (known and known.kind == "corpus")):
        return False
    try:
        found = base.aggregate(known, values) if known and not numbers else float(np.mean(values))
    except (EstbenchError, *UNREADABLE):
        return False
    return math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-9)


# --- the run folder ---------------------------------------------------------------------------------------------------


def _write(file: ResultFile, parts: Sequence[_Taken]) -> Run:
    tasks = {part.task.called: _task(part) for part in parts}
    plan = identity.digest({name: row["plan_hash"] for name, row in tasks.items()})
    scores = [asdict(score) for part in parts for score in part.scores]
    keys = [sample.key for part in parts for sample in part.found.samples]
    result = identity.digest([identity.result_key(plan, keys), file.fingerprint, scores])
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", file.model).strip("-.").lower()[:100] or "model"
    folder = home() / "runs" / f"{name}-{result[:12]}"
    (folder / "manifest.json").unlink(missing_ok=True)  # a folder counts as a run only while it is whole
    for kind in ("plan", "responses", "samples"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for part in parts:
        if (found := part.found).samples:
            for kind, rows in (("plan", found.docs), ("responses", found.responses), ("samples", found.samples)):
                write_lines(folder / kind / f"{file_name(part.task.called)}.jsonl.gz", rows)
    write_json(folder / "scores.json", scores)
    response = identity.digest([file.fingerprint, file.version])
    series = identity.digest([SOURCE, file.sha256])
    identities = {"source": SOURCE, "response": response, "plan": plan, "result": result, "series": series}
    alone = [part.task.called for part in parts if not part.found.samples]
    manifest = _manifest(file, tasks) | {"run": folder.name, "identity": identities, "items_left_out": alone}
    write_json(folder / "manifest.json", manifest)
    return Run(folder)


def _manifest(file: ResultFile, tasks: dict[str, Any]) -> dict[str, Any]:
    """But for the run's id and identity."""
    library = file.content.get("transformers_version")
    told = {"transformers": str(library)} if library else {}
    took = str(file.content.get("total_evaluation_time_seconds") or "")
    return {
        "schema": SCHEMA,
        "name": file.model,
        "created": file.created,
        "seconds": round(float(took), 1) if re.fullmatch(r"\d+(\.\d+)?", took) else None,
        "partial": any(is_partial(row) for row in tasks.values()),
        "slice": None,
        "model": _model(file),
        "engine": {
            "engine": f"{SOURCE}/{file.computed_by}",
            "dtype": file.dtype,
            "weights": "unverified",
            "observed": file.created[:10],
            **told,
        },
        "suites": [],
        "tasks": tasks,
        "skipped": {},
        "settings": {"model": file.model, "tasks": ",".join(tasks)},
        "command": file.command,
        "versions": {"estbench": estbench.__version__, "lm_eval": file.version, **told},
        "host": {},
        "imported": {"from": SOURCE, "version": file.version, "file": file.path.name, "sha256": file.sha256},
    }


def _model(file: ResultFile) -> dict[str, Any]:
    parameters, template = file.config.get("model_num_parameters"), file.chat_template
    revision = file.config.get("model_sha") or file.config.get("model_revision") or file.arguments.get("revision")
    return {
        "name": file.model,
        "path": None,
        "revision": str(revision) if revision else None,
        "parameters": parameters if type(parameters) is int and parameters > 0 else None,
        "bytes": None,
        "type": None,
        "fingerprint": file.fingerprint,
        "hashes": {"weights": "unverified", "source": SOURCE, "told": file.fingerprint},
        "weights": "unverified",
        "dtype": file.dtype,
        "max_length": file.content.get("max_length"),
        "chat_template": identity.digest(template) if template else None,
        "bos": "not recorded",
    }


def _task(part: _Taken) -> dict[str, Any]:
    """A task's part of the manifest: from our card if it is our task, else from the file."""
    task, metadata, card = part.task, part.task.metadata, part.task.card
    dataset = task.config.get("dataset_path") or task.name, task.config.get("dataset_name")
    if card:
        dataset = card.dataset or (f"estbench/{card.name}", None)
    shots = task.file.of("n-shot", task.name)
    return {
        "title": card.title if card else {"et": task.name, "en": task.name},
        "skill": metadata.get("skill"),
        "form": task.form,
        "language": metadata.get("language"),
        "licence": metadata.get("licence"),
        "chance": _chance(part),
        "primary": part.primary,
        "metrics": [score.metric for score in part.scores],
        "higher_is_better": {score.metric.split(",")[0]: score.higher_is_better for score in part.scores},
        "cluster": metadata.get("cluster") if card else None,
        "access": card.access if card else "public",
        "publish_items": bool(card and metadata.get("publish_items")),  # else nobody said that they may leave
        "sample": False,
        "reason": None,
        "data": {
            "path": last_part(str(dataset[0])),
            "config": dataset[1],
            "commit": None,
            "origin": SOURCE,
            "matches_lock": None,
            "hash": None,
        },
        "scorer": task.scorer,
        "shots": shots if type(shots) is int else None,
        "truncated": None,  # lm-eval cuts prompts that are too long, and does not count them
        "plan_hash": part.plan_hash,
        "n_docs": part.n_docs,
        "n_planned": part.n,
        "endings": {},
    }
