"""Scores of answers that were made elsewhere: `estbench score task=NAME outputs=FILE [gold=FILE]`.

    {"doc_id": 0, "response": "Vastus: B"}     JSON lines, in any order; doc_hash, if given, has to fit
    Vastus: B                                  or plain text, a line a document

An answer ends at the task's stop strings, as one that an engine gives; then the task's own filters and metrics score
it, so that the same answers get the score that an eval gives them. A document without an answer is missing data, never
a zero. No run folder is written: nothing is known of what made the answers, so that nothing could name the result.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.engines.base import Generated, Response
from estbench.errors import ConfigError, DataError
from estbench.registry import Registry, Task
from estbench.runs import Sample, Score
from estbench.scoring import PARSE_FAILURE, score_task

if TYPE_CHECKING:
    from estbench.lm_tasks import LmTask, Rendered

Say = Callable[[str], None]
RANKED_BY_EDITS = "f0.5"  # the primary metric of tasks whose gold is M2
NAMED = 3  # documents that a message names


def score(task: str, outputs: Path, *, gold: Path | None = None, data_dir: Path | None = None, say: Say) -> list[Score]:
    """The scores of a file of answers, the primary one first.

    gold: an M2 file in place of the task's own documents, or golds that are withheld.
    Raises ConfigError for a task that can't be scored so, DataError for a file that does not fit its documents.
    """

    tasks = Registry()
    card = tasks.task(task)
    if card.config.get("output_type", "generate_until") != "generate_until":
        raise _no_answers(card, tasks)
    lm = _task(card, gold, data_dir, say)
    if lm.dataset.withheld:
        raise DataError(f"The golds of {task} are withheld: name a file that has them with gold=.")
    hashes = lm.doc_hashes
    answers = read_answers(outputs, hashes)
    if len(answers) < len(hashes):
        lacking = [i for i in range(len(hashes)) if i not in answers]
        named = ", ".join(map(str, lacking[:NAMED])) + (", …" if len(lacking) > NAMED else "")
        say(
            f"{len(lacking):,} of {len(hashes):,} documents have no answer (doc_id {named}): they are errors, not part "
            "of n."
        )
    samples = _samples(lm, answers, hashes, say)
    return score_task(
        card.name,
        samples,
        primary=card.primary or next((name for sample in samples for name in sample.values), ""),
        chance=card.chance,
        n_planned=len(hashes),
        listed=lm.metrics,
        higher_is_better=lm.task.higher_is_better(),
        aggregations=lm.task.aggregation(),
    )


def _no_answers(card: Task, tasks: Registry) -> ConfigError:
    """Why a task of log-likelihoods is refused, with the task that takes answers."""
    chat = f"{card.name}_chat"
    cure = f": use task={chat}." if chat in tasks.tasks else ", and it has no form that is answered."
    return ConfigError(f"{card.name} is scored by log-likelihoods, which a file of answers lacks{cure}")


def _task(card: Task, gold: Path | None, data_dir: Path | None, say: Say) -> LmTask:
    from estbench.lm_tasks import LmTask

    if gold is None or card.metadata.get("gold"):
        return LmTask(card, data_dir=data_dir, shots=0, gold=gold)
    if card.primary != RANKED_BY_EDITS:
        raise ConfigError(f"{card.name} has golds of its own: gold= is for withheld golds and for M2 files of edits.")
    rows = _m2_rows(gold, say)
    metadata = {key: value for key, value in card.metadata.items() if key != "repository"}
    config = {key: value for key, value in card.config.items() if key != "custom_dataset"}
    config |= {"dataset_path": "own/gold", "dataset_name": None, "metadata": metadata}
    with tempfile.TemporaryDirectory(prefix="estbench-gold-") as folder:
        for split in card.splits:  # shots are not shown, and their split is not used
            file = Path(folder) / "own__gold" / "default" / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return LmTask(replace(card, config=config), data_dir=Path(folder), shots=0)


def _m2_rows(gold: Path, say: Say) -> list[dict[str, Any]]:
    """The documents of an M2 file; each sentence is a text of its own, since the file does not say which belong
    together."""
    from estbench.metrics.m2 import first_correction, read_m2, running_text

    rows, warnings = read_m2(_text(gold), gold.name)
    for warning in warnings[:NAMED]:
        say(warning)
    if len(warnings) > NAMED:
        say(f"{gold.name}: {len(warnings) - NAMED:,} more such lines.")
    return [
        row
        | {
            "source": running_text(row["source_tokens"]),
            "target": running_text(first_correction(row["source_tokens"], row["edits"])),
            "text": place,
        }
        for place, row in enumerate(rows)
    ]


def read_answers(path: Path, hashes: Sequence[str]) -> dict[int, str]:
    """doc_id -> answer, from JSON lines or a line a document. hashes: of the documents, in order.

    A byte order mark and CRLF are let pass; an empty line of plain text is an empty answer.
    """
    lines = _text(path).replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not any(lines):
        raise DataError(f"{path} is empty: write {{doc_id, response}} as JSON lines, or an answer a line.")
    if path.suffix in (".jsonl", ".ndjson") or _is_record(next(line for line in lines if line)):
        return _records(path, lines, hashes)
    if len(lines) != len(hashes):
        raise DataError(
            f"{path} has {len(lines):,} lines, the task {len(hashes):,} documents: write an answer a line, an empty "
            "line where there is none, or JSON lines with doc_id."
        )
    return dict(enumerate(lines))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start:,}): convert it.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None


def _is_record(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and ("doc_id" in row or "response" in row)


def _records(path: Path, lines: Sequence[str], hashes: Sequence[str]) -> dict[int, str]:
    answers: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{where} is no JSON: write {{doc_id, response}}.") from None
        doc_id, response = (row.get("doc_id"), row.get("response")) if isinstance(row, dict) else (None, None)
        if type(doc_id) is not int or not isinstance(response, str):
            raise DataError(f"{where} needs doc_id (a whole number) and response (text); leave out what has no answer.")
        if not 0 <= doc_id < len(hashes):
            raise DataError(f"{where}: there is no document {doc_id}, they go from 0 to {len(hashes) - 1:,}.")
        if doc_id in answers:
            raise DataError(f"{where}: document {doc_id} is answered a second time: keep one answer.")
        if row.get("doc_hash") not in (None, hashes[doc_id]):
            raise DataError(f"{where}: document {doc_id} has another doc_hash here: the answers are to other data.")
        answers[doc_id] = response
    return answers


def _samples(lm: LmTask, answers: dict[int, str], hashes: Sequence[str], say: Say) -> list[Sample]:
    from estbench.plan import cluster_of, prompt_hash

    rendered = {doc_id: lm.render(doc_id) for doc_id in sorted(answers)}
    responses = {doc_id: _response(doc, answers[doc_id]) for doc_id, doc in rendered.items()}
    cut = sum(len(answers[doc_id].rstrip()) > len(response.text) for doc_id, response in responses.items())
    if cut:
        other = f"; answers of chat models belong to task={lm.card.name}_chat" if lm.card.form == "completion" else ""
        say(f"{cut:,} of {len(responses):,} answers were cut at a stop of {lm.card.name}, as an engine does{other}.")
    asked: list[tuple[int, Rendered, list[Response]]] = [(i, rendered[i], [responses[i]]) for i in rendered]
    return [
        Sample(
            task=lm.card.name,
            doc_id=doc_id,
            doc_hash=hashes[doc_id],
            prompt_hash=prompt_hash(rendered[doc_id].prompt),
            cluster=cluster_of(lm.card, lm.docs[doc_id]),
            target=rendered[doc_id].target,
            answer=answer,
            values={name: value for name, value in values.items() if name != PARSE_FAILURE},
            key="",
            parse_failure=bool(values.get(PARSE_FAILURE, 0)),
        )
        for doc_id, values, answer in lm.results(asked)
    ]


def _response(doc: Rendered, answer: str) -> Generated:
    """The answer as an engine would have given it: cut before the first stop string."""
    stops = doc.decoding.stop if doc.decoding else ()
    cuts = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return Generated(answer[: min(cuts)] if cuts else answer, 0, "stop")
