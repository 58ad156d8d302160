"""A run in the format of Every Eval Ever, the shared database of the EvalEval coalition (schema 0.3.0).

    paths = export(Run(path), Path("upload"), developer="tartuNLP")

    upload/data/estbench/DEVELOPER/MODEL/UUID.json            the model, and a result for each score of the run
    upload/data/estbench/DEVELOPER/MODEL/UUID_samples.jsonl   a line for each document and score, where they may leave

The layout is the database's own, whose validator looks at paths, too. The same run gives the same names and bytes.
A score that is missing is left out, and named with its reason among the source's details. Documents leave by the rules
of `estbench.exports`: only if the task's card says `publish_items` and no gold is withheld. What is not known (who ran
it, how the weights may be used) is said to be unknown. Deviation: `input.raw` is the whole prompt, with its examples.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import shlex
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from estbench import judged, metrics
from estbench.errors import StoreError
from estbench.interchange.ranges import bounds
from estbench.registry import Registry, Task
from estbench.runs import PlannedDoc, Run, Sample, Score, atomic, file_name

SCHEMA_VERSION = "0.3.0"
COLLECTION = "estbench"
UNKNOWN = "unknown"
# ids that the coalition's registry of metrics has for what ours measure; others are written with our name in front
METRIC_IDS = {"acc": "accuracy", "em": "exact-match", "exact_match": "exact-match", "f1": "f1", "bleu": "bleu"}
METRIC_IDS |= {"rouge1": "rouge-1", "rouge2": "rouge-2", "rougeL": "rouge-l"}
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?|data|")


@dataclass(frozen=True)
class _Record:
    """What all files of an export share."""

    run: Run
    model_id: str
    private: bool
    cards: dict[str, Task]  # of our own tasks

    @property
    def owner(self) -> str:
        """What stands before the model's name; empty if nobody says whose it is."""
        return self.model_id.partition("/")[0] if "/" in self.model_id else ""

    @property
    def evaluation_id(self) -> str:
        return f"{COLLECTION}/{self.model_id}/{self.moment}-{self.run.id.rpartition('-')[2]}"

    @property
    def moment(self) -> str:
        """When the run was made, in seconds since 1970."""
        return str(int(datetime.fromisoformat(self.run.manifest["created"]).timestamp()))

    @property
    def uuid(self) -> str:
        """A UUID of version 4, which the database asks for, that is always the same for this run."""
        seed = json.dumps([self.run.id, self.run.manifest["identity"], self.model_id, self.private], sort_keys=True)
        return str(uuid.UUID(bytes=hashlib.sha256(seed.encode()).digest()[:16], version=4))

    @property
    def library(self) -> str:
        """What made the scores: estbench, or the harness whose results were imported."""
        return str((self.run.manifest.get("imported") or {}).get("from", "estbench"))

    def result_id(self, score: Score) -> str:
        return f"{self.uuid}/{score.task}/{score.metric}"


def export(
    run: Run,
    folder: Path,
    *,
    private: bool = False,
    developer: str | None = None,
    organization: str = UNKNOWN,
) -> list[Path]:
    """Write the run below `folder`; the files, the aggregate first.

    developer: who made the model, where its name does not say (`owner/name` on the Hub does). organization: who ran
    this. private: documents of all tasks, too. Raises StoreError if there is no score, the run folder is not whole, or
    a file can't be written.
    """
    try:
        return _export(run, folder, private, developer, organization)
    except OSError as error:
        raise StoreError(f"{folder} can't be written: {error.strerror}.") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{run.path} can't be read as a run folder: {error}.") from None


def _export(run: Run, folder: Path, private: bool, developer: str | None, organization: str) -> list[Path]:
    record = _Record(run, _model_id(run.manifest, developer), private, Registry().tasks)
    scores = [score for score in run.scores() if "/" not in score.metric]
    there = [score for score in scores if _is_number(score.value)]
    if not there:
        why = "a slice of an evaluation" if run.manifest["slice"] else "without any score"
        raise StoreError(f"{run.id} is {why}: there is nothing to export.")
    place = f"data/{COLLECTION}/{_portable(record.owner)}/{_portable(record.model_id.removeprefix(f'{record.owner}/'))}"
    path = folder / place / f"{record.uuid}.json"
    samples = path.with_name(f"{record.uuid}_samples.jsonl")
    log = _log(record, scores, there, organization)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = _write_samples(samples, itertools.chain.from_iterable(_samples(record, score) for score in there))
    if written:
        log["detailed_evaluation_results"] = {"format": "jsonl", "file_path": f"{place}/{samples.name}", **written}
    with atomic(path) as temporary:
        temporary.write_bytes(_bytes(log, indent=1))
    return [path, samples] if written else [path]


def _log(record: _Record, scores: list[Score], there: list[Score], organization: str) -> dict[str, Any]:
    """The aggregate document, but for the reference to its samples."""
    manifest = record.run.manifest
    versions = manifest.get("versions") or {}
    imported = manifest.get("imported") or {}
    missing = {f"{score.task} {score.metric}": score.reason or score.method for score in scores if score not in there}
    details = {"run": record.run.id, "partial": manifest["partial"], "missing_scores": missing or None}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": record.evaluation_id,
        "evaluation_timestamp": record.moment,
        "retrieved_timestamp": record.moment,
        "source_metadata": {
            "source_name": "estbench",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "other",
            "additional_details": _texts(details),
        },
        "eval_library": {
            "name": record.library.replace("-", "_"),
            "version": str(imported.get("version") or versions.get("estbench") or UNKNOWN),
            "additional_details": _texts(versions),
        },
        "model_info": _model(record),
        "evaluation_results": [_result(record, score) for score in there],
    }


# --- the model --------------------------------------------------------------------------------------------------------


def _model_id(manifest: dict[str, Any], developer: str | None) -> str:
    """`owner/name`, or the name alone where nobody says whose it is. A checkpoint on disk may be called `run/step-2`,
    which names no owner."""
    model = manifest["model"]
    name = str(model["name"])
    if _has_owner(manifest):
        return name
    flat = name.strip("/").replace("/", "_") or UNKNOWN
    return f"{developer}/{flat}" if developer else flat


def _has_owner(manifest: dict[str, Any]) -> bool:
    model = manifest["model"]
    from_elsewhere = model.get("revision") is not None or model.get("path") is None
    return from_elsewhere and re.fullmatch(r"[^/\s]+/[^/\s]+", str(model["name"])) is not None


def _portable(name: str) -> str:
    """A name that every file system takes."""
    plain = re.sub(r'[<>:"\\|?*/\x00-\x1f]', "_", name).rstrip(". ")
    return (f"_{plain}" if plain else UNKNOWN) if RESERVED.fullmatch(plain) else plain


def _model(record: _Record) -> dict[str, Any]:
    manifest = record.run.manifest
    model, engine = manifest["model"], manifest["engine"]
    on_disk = model.get("path") is not None
    kept = (
        "parameters",
        "bytes",
        "type",
        "revision",
        "dtype",
        "max_length",
        "chat_template",
        "fingerprint",
        "observed",
    )
    details = {
        "deployment_type": "self_deployed" if on_disk else UNKNOWN,
        "model_availability": "open_weights" if on_disk and _has_owner(manifest) else UNKNOWN,
        **{key: model.get(key) for key in kept},
        "weights": "unverified" if not on_disk else None,
    }
    info: dict[str, Any] = {"name": str(manifest["name"]), "id": record.model_id}
    if record.owner:
        info["developer"] = record.owner
    if host := urlsplit(str(model.get("url") or "")).hostname:
        info["inference_platform"] = host
    name = str(engine["engine"]).removeprefix("lm-eval/")  # which names what it computed with
    name = "transformers" if name == "hf" else name
    if name != "openai":
        version = engine.get(name)
        info["inference_engine"] = {"name": name} | ({"version": str(version)} if version else {})
    return info | {"additional_details": _texts(details)}


# --- results ----------------------------------------------------------------------------------------------------------


def _result(record: _Record, score: Score) -> dict[str, Any]:
    card = record.run.manifest["tasks"][score.task]
    uncertainty: dict[str, Any] = {"num_samples": score.n}
    if _is_number(score.ci_low) and _is_number(score.ci_high):
        ends = {"lower": score.ci_low, "upper": score.ci_high, "confidence_level": 0.95, "method": score.method}
        uncertainty = {"confidence_interval": ends} | uncertainty
    kept = ("n_planned", "chance", "parse_failures", "errors", "unit", "primary", "signature")
    details = {key: getattr(score, key) for key in kept} | _judges(record, score, card)
    return {
        "evaluation_result_id": record.result_id(score),
        "evaluation_name": score.task,
        "source_data": _source(score.task, card, record.cards.get(score.task)),
        "evaluation_timestamp": record.moment,
        "metric_config": _metric(record, score, card),
        "score_details": {
            "score": score.value,
            "details": _texts(details),
            "uncertainty": uncertainty,
        },
        "generation_config": _generation(record, score.task, card),
    }


def _judges(record: _Record, score: Score, card: dict[str, Any]) -> dict[str, Any]:
    """Of a score that judges gave: whether people's votes stand behind it, who judged by what, and what stands beside
    the number. Nothing for others."""
    state = judged.state(score)
    if state is None:
        return {}
    layers = (card.get("judge") or {}).get("layers") or ()
    layer: dict[str, Any] = next((one for one in layers if one.get("metric") == score.metric), {})
    beside = {
        one.metric.removeprefix(f"{score.metric}/"): one.value
        for one in record.run.scores()
        if one.task == score.task and one.metric.startswith(f"{score.metric}/") and one.signature == score.signature
    }
    who = [
        {key: one.get(key) for key in ("name", "family", "revision", "kin", "value")}
        for one in layer.get("judges") or ()
    ]
    about = {key: layer.get(key) for key in ("rubric", "mode", "anchor", "language", "bounds")}
    return {"judge": state, **about, "judges": who or None, "beside": beside or None}


def _metric(record: _Record, score: Score, card: dict[str, Any]) -> dict[str, Any]:
    """The metric; its range only where that is known: of a task of others, a unit may be a guess."""
    title = card.get("title") or {}
    config: dict[str, Any] = {
        "evaluation_description": str(title.get("en") or title.get("et") or score.task),
        "metric_id": METRIC_IDS.get(score.metric) or f"{record.library.replace('-', '_')}.{score.metric}",
        "metric_name": score.metric,
        "lower_is_better": not score.higher_is_better,
    }
    low, high = bounds(score.metric, score.unit)
    a_guess = metrics.get(score.metric.split(",")[0]) is None and score.unit == "proportion"
    if a_guess or score.value is None or not low <= score.value <= high:
        return config
    ends = {"min_score": low, "max_score": high if math.isfinite(high) else "Infinity"}
    return config | {"metric_unit": score.unit, "score_type": "continuous"} | ends


def _source(task: str, card: dict[str, Any], ours: Task | None) -> dict[str, Any]:
    """Where the data is from: a Hub data set, a GitHub repository, or elsewhere."""
    data = card.get("data") or {}
    path = str(data.get("path") or task)
    details = {
        "config": data.get("config"),
        "commit": data.get("commit"),
        "hash": data.get("hash"),
        "licence": card.get("licence"),
        "sample": "documents of estbench's own instead of the data set" if card.get("sample") else None,
    }
    shared: dict[str, Any] = {"dataset_name": path, "additional_details": _texts(details)}
    own = path.split("/")[0] in ("estbench", "files") or card.get("sample")
    if own or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        return shared | {"dataset_name": path.rsplit("/", 1)[-1], "source_type": "other"}
    if ours and ours.metadata.get("repository"):
        return shared | {"source_type": "url", "url": [f"https://github.com/{path}"]}
    split = {"hf_split": ours.splits[0]} if ours and ours.splits else {}
    return shared | {"source_type": "hf_dataset", "hf_repo": path, "samples_number": card["n_docs"]} | split


def _generation(record: _Record, task: str, card: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"execution_command": _command(record)}
    details = {"shots": card.get("shots"), "form": card.get("form"), "truncated_prompts": card.get("truncated")}
    if decoding := _decoding(record.run, task):
        kept = {"temperature": decoding["temperature"], "top_p": decoding["top_p"]}
        arguments = kept | {"max_tokens": decoding["max_new_tokens"]} | arguments
        details["stop"] = list(decoding["stop"])
    return {"generation_args": arguments, "additional_details": _texts(details)}


def _decoding(run: Run, task: str) -> dict[str, Any] | None:
    """How answers of a task are generated; None where options are scored, or the plan is not here."""
    if not (run.path / "plan" / f"{file_name(task)}.jsonl.gz").exists():
        return None
    first = next(iter(run.plan(task)), None)
    requests = first.requests if first else []
    return requests[0].get("decoding") if requests else None


def _command(record: _Record) -> str:
    """The command that makes the run again; for others without the places on this machine."""
    command = str(record.run.manifest["command"])
    if record.private:
        return command
    words = [word.partition("=") for word in shlex.split(command)]
    return shlex.join(f"{key}{equals}{_without_places(value)}" for key, equals, value in words)


def _without_places(value: str) -> str:
    """Of each path its last part."""
    return ",".join(Path(part).name if part.startswith(("/", "~", ".")) else part for part in value.split(","))


# --- documents --------------------------------------------------------------------------------------------------------


def _may_leave(record: _Record, task: str) -> bool:
    run = record.run
    card = run.manifest["tasks"][task]
    public = card.get("publish_items") and card.get("access") != "withheld"
    here = (run.path / "samples" / f"{file_name(task)}.jsonl.gz").exists()
    return here and task not in run.manifest.get("items_left_out", ()) and bool(public or record.private)


def _samples(record: _Record, score: Score) -> Iterator[dict[str, Any]]:
    """A line for each document that has this score's metric; those without a response have none."""
    if not _may_leave(record, score.task):
        return
    run = record.run
    texts = {row["doc_id"]: row["text"] for row in run.responses(score.task) if "text" in row}
    docs = {doc.doc_id: replace(doc, requests=[]) for doc in run.plan(score.task)}  # token ids are most of it
    for sample in run.samples(score.task):
        value = _alone(score, sample)
        if value is not None and sample.doc_id in docs:
            yield _line(record, score, sample, docs[sample.doc_id], texts.get(sample.doc_id), value)


def _alone(score: Score, sample: Sample) -> float | None:
    """What a document is worth by itself: its number, or the corpus metric of its own counts; None if it has none."""
    value = sample.values.get(score.metric)
    if isinstance(value, list):
        known = metrics.get(score.metric)
        if known is None or known.combine is None or known.prepare is not None:
            return None
        with np.errstate(all="ignore"):  # nothing to divide by: no value
            value = float(known.combine(np.asarray(value, float)))
    return float(value) if value is not None and _is_number(value) else None


def _line(
    record: _Record, score: Score, sample: Sample, doc: PlannedDoc, text: str | None, value: float
) -> dict[str, Any]:
    """One document under one score, as a line of the samples file."""
    chosen = _chosen(doc, sample.answer)
    answer = chosen if chosen is not None else "" if sample.answer is None else str(sample.answer)
    raw = doc.prompt or (doc.choices[0] if len(doc.choices) == 1 else "")  # a text that is modelled has no prompt
    reference = _reference(doc, sample.target)
    key = json.dumps({"raw": raw, "reference": reference}, sort_keys=True, separators=(",", ":"))
    given = text if text is not None else chosen
    about = {"doc_hash": sample.doc_hash, "prompt_hash": sample.prompt_hash, "cluster": sample.cluster}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": record.evaluation_id,
        "model_id": record.model_id,
        "evaluation_name": score.task,
        "evaluation_result_id": record.result_id(score),
        "sample_id": str(sample.doc_id),
        "sample_hash": hashlib.sha256(key.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": raw, "reference": reference} | ({"choices": doc.choices} if len(doc.choices) > 1 else {}),
        "output": {"raw": [] if given is None else [given]},
        "answer_attribution": []
        if given is None
        else [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": answer,
                "extraction_method": "the task's filters" if text is not None else "highest log-likelihood",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": value, "is_correct": _is_best(score, value)},
        "metadata": _texts(about | {"parse_failure": True if sample.parse_failure else None}),
    }


def _chosen(doc: PlannedDoc, place: Any) -> str | None:
    """The text of an option, if `place` is the place of one."""
    return doc.choices[place] if isinstance(place, int) and 0 <= place < len(doc.choices) else None


def _reference(doc: PlannedDoc, target: Any) -> list[str]:
    if target is None or target == "":
        return []
    if (option := _chosen(doc, target)) is not None:
        return [option]
    return [str(part) for part in target] if isinstance(target, list) else [str(target)]


def _is_best(score: Score, value: float) -> bool:
    """Whether no document could have more: of 0 and 1, whether it is right."""
    if not score.higher_is_better:
        return value <= 0
    return value >= {"proportion": 1.0, "points": 100.0}.get(score.unit, math.inf) - 1e-9


# --- writing ----------------------------------------------------------------------------------------------------------


def _write_samples(path: Path, lines: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """Write the lines; what the aggregate says of the file. None, and no file of that name, if there is no line."""
    first = next(lines, None)
    if first is None:
        path.unlink(missing_ok=True)
        return None
    hasher, rows = hashlib.sha256(), 0
    with atomic(path) as temporary, open(temporary, "wb") as file:
        for line in itertools.chain([first], lines):
            content = _bytes(line)
            hasher.update(content)
            rows += file.write(content) > 0
    return {"hash_algorithm": "sha256", "checksum": hasher.hexdigest(), "total_rows": rows}


def _bytes(value: Any, indent: int | None = None) -> bytes:
    """Strict JSON; half a surrogate pair, which a text of elsewhere may hold, becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return f"{text}\n".encode("utf-8", "replace")


def _texts(values: dict[str, Any]) -> dict[str, str]:
    """What is known, as the texts that the schema asks for."""
    known = {key: value for key, value in values.items() if value is not None}
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for key, value in known.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
