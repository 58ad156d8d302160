"""The documents in lm-eval's `samples_TASK_DATE.jsonl`, as a run folder keeps them.

    documents = read(path, task, n=320)     # .docs, .samples, .responses

A line is one document behind one filter. Rows are hashed as estbench hashes them, and what was asked as it hashes that,
so that an evaluation of the same task by estbench is paired with this one, document by document. Of repeated answers
the first is kept.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from estbench import golds, identity
from estbench.copies import row_hash
from estbench.errors import EstbenchError, StoreError
from estbench.interchange.lm_eval_file import TaskResults, is_number, loads
from estbench.metrics import translation
from estbench.plan import cluster_of, prompt_hash
from estbench.runs import PlannedDoc, Sample
from estbench.scoring import PARSE_FAILURE

INVALID = "[invalid]"  # what lm-eval's filters give where they find no answer
HASHES = ("doc_hash", "prompt_hash", "target_hash")
STATISTICS = {"chrf++": translation.chrf_statistics, "bleu": translation.bleu_statistics}
AGAIN = "copy it again, or move it away to take the scores in alone"

Filters = dict[str, dict[str, Any]]  # a document's line behind each filter


@dataclass
class Documents:
    """A task's documents, in order of doc_id."""

    docs: list[PlannedDoc] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    """The requests of one document."""

    contexts: list[str]  # each once
    choices: list[str]  # whose log-likelihood was asked; a whole text if it was scored as such
    decoding: dict[str, Any] | None  # lm-eval's generation_kwargs, where an answer was generated
    rolling: bool

    @property
    def prompt(self) -> str:
        return "" if self.rolling else self.contexts[0]

    @property
    def hash(self) -> str:
        """Made as `plan` makes it for prompts that go through no chat template: equal words, equal hash."""
        if self.rolling:
            return identity.digest([["rolling", self.choices[0]], None])[:32]
        if self.decoding is None:
            return identity.digest([[self.contexts, self.choices], None])[:32]
        from estbench.lm_tasks import read_decoding

        try:
            decoding = read_decoding(self.decoding, "").record()
        except EstbenchError:  # options that no run of ours can have
            decoding = self.decoding
        return identity.digest([self.prompt, decoding])[:32]


def read(path: Path, task: TaskResults, n: int) -> Documents:
    """The documents of a file. n: how many the result file says there are.

    Raises StoreError (one line) if the file is torn, belongs to another result file, or is not lm-eval's.
    """
    by_doc: dict[int, Filters] = {}
    hasher = hashlib.sha256()
    for row in _lines(path):
        hasher.update("".join(str(row.get(key)) for key in HASHES).encode())
        filters = by_doc.setdefault(row["doc_id"], {})
        if row["filter"] in filters:
            raise StoreError(f"{path} has document {row['doc_id']} twice: {AGAIN}.")
        filters[row["filter"]] = row
    told = task.file.of("task_hashes", task.name)
    if len(by_doc) != n or len({tuple(sorted(filters)) for filters in by_doc.values()}) > 1:
        raise StoreError(f"{path} is not whole, with {len(by_doc):,} of {n:,} documents: {AGAIN}.")
    if told and told != hasher.hexdigest():
        raise StoreError(f"{path} is not what {task.file.path.name} was made of: {AGAIN}.")
    found, seen = Documents(), Counter[str]()
    for doc_id in sorted(by_doc):
        _add(found, task, doc_id, by_doc[doc_id], seen)
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or type(row.get("doc_id")) is not int or type(row.get("filter")) is not str:
                raise StoreError(f"{path}, line {number} is no sample of lm-eval's: {AGAIN}.")
            yield row


def _add(found: Documents, task: TaskResults, doc_id: int, filters: Filters, seen: Counter[str]) -> None:
    """Add one document: what was asked, what was answered, and what that is worth."""
    chief = filters.get(task.first_filter) or next(iter(filters.values()))
    requests = [list(request.values()) for request in chief["arguments"].values()]
    answers = [repeated[0] for repeated in chief["resps"]]
    if "acc_mutual_info" in chief["metrics"]:  # its second half asks for the options alone
        requests, answers = requests[: len(requests) // 2], answers[: len(answers) // 2]
    asked, row = _asked(requests), _row(task, chief)
    seen[row] += 1
    target = _target(chief["target"], asked)
    doc = PlannedDoc(
        doc_id=doc_id,
        doc_hash=row if seen[row] == 1 else f"{row}-{seen[row]}",
        prompt=asked.prompt,
        prompt_hash=prompt_hash(asked.prompt),
        target=target,
        cluster=cluster_of(task.card, chief["doc"]) if task.card else None,
        asked=asked.hash,
        choices=asked.choices,
    )
    given = [_response(asked, answer) for _, answer in zip(requests, answers, strict=True)]
    about = [task.file.fingerprint, doc.asked]
    keys = [identity.digest([*about, index, one])[:32] for index, one in enumerate(given)]
    values = _values(task, filters)
    failed, first = values.pop(PARSE_FAILURE, None), chief["filtered_resps"][0]
    found.docs.append(replace(doc, requests=[{"key": key} for key in keys]))
    found.responses += [
        {"doc_id": doc_id, "index": index, "key": key} | one
        for index, (key, one) in enumerate(zip(keys, given, strict=True))
    ]
    found.samples.append(
        Sample(
            task=task.called,
            doc_id=doc_id,
            doc_hash=doc.doc_hash,
            prompt_hash=doc.prompt_hash,
            cluster=doc.cluster,
            target=target,
            answer=_answer(asked, given, first),
            values=values,
            key=identity.sample_key(keys, row, task.scorer),
            parse_failure=first == INVALID if failed is None else bool(failed),
        )
    )


def _asked(requests: list[list[Any]]) -> _Asked:
    """lm-eval's arguments: [context, continuation], [prompt, how to generate], or [text]."""
    contexts = list(dict.fromkeys(str(request[0]) for request in requests))
    if len(requests[0]) == 1:
        return _Asked([], contexts, None, rolling=True)
    if isinstance(requests[0][1], dict):
        return _Asked(contexts, [], requests[0][1], rolling=False)
    return _Asked(contexts, [str(request[1]) for request in requests], None, rolling=False)


def _row(task: TaskResults, chief: dict[str, Any]) -> str:
    """The hash of the data row by our rules."""
    return row_hash(golds.without_gold(chief["doc"], task.metadata.get("gold") if task.card else None))[:32]


def _target(target: Any, asked: _Asked) -> Any:
    """lm-eval writes targets as text; that of options is the place of one."""
    if asked.rolling:
        return ""
    is_place = len(asked.choices) > 1 and str(target).isascii() and str(target).isdigit()
    return int(target) if is_place and int(target) < len(asked.choices) else target


def _response(asked: _Asked, answer: Any) -> dict[str, Any]:
    """A response as run folders keep it; how many tokens it has and how it ended lm-eval doesn't say."""
    if asked.decoding is not None:
        return {"text": str(answer)}
    logprob, greedy = answer if isinstance(answer, list) else (answer, False)
    number = float(logprob)
    return {"logprob": number if math.isfinite(number) else None, "greedy": str(greedy) == "True"}


def _answer(asked: _Asked, given: list[dict[str, Any]], filtered: Any) -> Any:
    """The text after the filters, or the place of the likeliest option; None where nothing is chosen."""
    if asked.decoding is not None:
        return filtered
    logprobs = [-math.inf if one["logprob"] is None else one["logprob"] for one in given]
    return logprobs.index(max(logprobs)) if len(given) > 1 else None


def _values(task: TaskResults, filters: Filters) -> dict[str, Any]:
    """metric -> number, or sufficient statistics."""
    found = {}
    for filter_name, row in filters.items():
        for name in row["metrics"]:
            value = _value(name, row.get(name))
            if value is not None:
                found[task.metric(name, filter_name)] = value
    return found


def _value(name: str, value: Any) -> Any:
    """What samples keep of a document. lm-eval's own BLEU and chrF++ have pairs of reference and answer, its bits per
    byte the log-likelihood and the bytes; what is neither a number nor a list of numbers is left out."""
    if isinstance(value, list) and len(value) == 2:
        if name in STATISTICS:
            reference, output = (part[0] if isinstance(part, list) and len(part) == 1 else part for part in value)
            if isinstance(reference, str) and isinstance(output, str):
                return STATISTICS[name](output, reference)
        if name == "bits_per_byte" and is_number(value[0]) and value[0] <= 0:
            return [-value[0], value[1]]
    numbers = isinstance(value, list) and bool(value) and all(is_number(one) for one in value)
    return value if is_number(value) or numbers else None
