"""How large is the database? Claim: 6 million samples (200 runs x 30 tasks x 1,000 docs) take under 2 GB.

    python benchmarks/database_size.py [runs=10] [tasks=6] [docs=1000]

Made-up runs are indexed into a fresh SQLite file: prompts of 1,500 characters that all runs share, answers of 150
characters with chrF++ and BLEU statistics for half of the tasks, four log-likelihoods with two metrics for the other.
Text is words drawn by Zipf's law, independently: harder to compress than language. What runs share and what each run
adds are measured apart, and extrapolated.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from estbench.database import Database, index_run, open_database, queries
from estbench.runs import SCHEMA, PlannedDoc, Run, Sample, Score, file_name, write_json, write_lines

CLAIM = 2e9  # bytes
SAMPLES = 200 * 30 * 1000
PROMPT, ANSWER = 1500, 150  # characters


def _vocabulary() -> list[str]:
    dice = np.random.default_rng(0)
    syllables = [a + b for a in "kstlmnrpvhj" for b in ("a", "e", "i", "u", "o", "ää", "õ", "ü", "ad", "el", "is")]
    return ["".join(syllables[i] for i in dice.integers(0, len(syllables), dice.integers(1, 5))) for _ in range(20_000)]


VOCABULARY = _vocabulary()
ZIPF = np.cumsum(1 / np.arange(1, len(VOCABULARY) + 1))


class Words:
    """Running text over made-up words."""

    def __init__(self, seed: int) -> None:
        self.dice = np.random.default_rng(seed)

    def text(self, characters: int) -> str:
        chosen = np.searchsorted(ZIPF, self.dice.random(characters // 3) * ZIPF[-1])
        return " ".join(VOCABULARY[i] for i in chosen)[:characters]


def prompts_of(task: int, docs: int) -> list[str]:
    """A prompt a doc: two thirds of it are few shots, the same for all."""
    words = Words(task)
    shots = words.text(PROMPT * 2 // 3)
    return [shots + words.text(PROMPT - len(shots)) for _ in range(docs)]


def make_run(root: Path, number: int, prompts: list[list[str]]) -> Run:
    """The folder of one made-up run."""
    folder, words = root / f"run-{number:03}", Words(1000 + number)
    names = [f"task_{i}" for i in range(len(prompts))]
    scores = []
    for i, (task, texts) in enumerate(zip(names, prompts, strict=True)):
        rows = [_doc(words, task, i, doc_id, text) for doc_id, text in enumerate(texts)]
        write_lines(folder / "plan" / f"{file_name(task)}.jsonl.gz", (plan for plan, _, _ in rows))
        write_lines(folder / "samples" / f"{file_name(task)}.jsonl.gz", (sample for _, sample, _ in rows))
        write_lines(
            folder / "responses" / f"{file_name(task)}.jsonl.gz", (part for _, _, parts in rows for part in parts)
        )
        shown = (0.5, 0.4, 0.6, docs := len(rows), docs, 0.25, 0, 0, "proportion", True, True)
        scores += [Score(task, metric, *shown) for metric in rows[0][1].values]
    card = {"title": {"et": "Ülesanne", "en": "Task"}, "skill": "reading", "primary": "acc", "plan_hash": _hex(words)}
    manifest = {
        "schema": SCHEMA,
        "run": folder.name,
        "name": folder.name,
        "created": f"2026-11-20T10:{number // 60:02}:{number % 60:02}+00:00",
        "partial": False,
        "model": {"name": folder.name, "fingerprint": _hex(words)},
        "engine": {"engine": "hf"},
        "identity": {"response": _hex(words), "plan": _hex(words), "result": _hex(words)},
        "tasks": dict.fromkeys(names, card),
    }
    write_json(folder / "scores.json", [dataclasses.asdict(score) for score in scores])
    write_json(folder / "manifest.json", manifest)
    return Run(folder)


def _doc(words: Words, task: str, i: int, doc_id: int, prompt: str) -> tuple[PlannedDoc, Sample, list[dict[str, Any]]]:
    """A doc with its sample and responses: choices in even tasks, text in odd ones."""
    dice = words.dice
    row, asked = (np.random.default_rng([i, doc_id, part]).bytes(16).hex() for part in (0, 1))
    values: dict[str, Any]
    if i % 2 == 0:
        logprobs = (-dice.random(4) * 60).tolist()
        answer: Any = int(np.argmax(logprobs))
        target: Any = doc_id % 4
        values = {"acc": int(answer == target), "acc_norm": int(dice.random() < 0.6)}
        parts = [{"logprob": value, "greedy": False} for value in logprobs]
    else:
        answer, target = words.text(ANSWER), Words(doc_id).text(ANSWER)
        mine, gold = dice.integers(100, 200, 2)
        lengths = np.array([[mine - k, gold - k, dice.integers(10, 100)] for k in range(8)])
        values = {"chrf": lengths.ravel().tolist(), "bleu": dice.integers(0, 25, 10).tolist()}
        parts = [{"text": answer + "\n", "tokens": int(dice.integers(30, 60)), "finish": "stop"}]
    hashes = (doc_id, row, row[::-1])
    plan = PlannedDoc(doc_id, row, prompt, hashes[2], target, f"p{doc_id // 4}", asked)
    sample = Sample(task, doc_id, row, hashes[2], f"p{doc_id // 4}", target, answer, values, _hex(words))
    return plan, sample, [{"doc_id": doc_id, "index": k, "key": _hex(words), **part} for k, part in enumerate(parts)]


def _hex(words: Words) -> str:
    return words.dice.bytes(16).hex()


def size(database: Database) -> int:
    """Bytes of the file, with the log folded in."""
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.connection.dbapi_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    return Path(database.label).stat().st_size


def main(runs: int = 10, tasks: int = 6, docs: int = 1000) -> None:
    samples = tasks * docs
    prompts = [prompts_of(i, docs) for i in range(tasks)]
    with tempfile.TemporaryDirectory() as made, open_database(f"sqlite:///{made}/size.db") as database:
        sizes, seconds = [size(database)], 0.0
        for number in range(runs):
            run = make_run(Path(made), number, prompts)
            begun = time.process_time()
            index_run(database, run)
            seconds += time.process_time() - begun
            sizes.append(size(database))
        each = (sizes[-1] - sizes[1]) / (runs - 1) / samples
        shared = (sizes[1] - sizes[0]) / samples - each
        print(f"{runs} runs x {tasks} tasks x {docs} docs = {runs * samples:,} samples: {sizes[-1] / 1e6:.1f} MB")
        print(f"each sample {each:.0f} bytes; each doc of a plan, shared by its runs, {shared:.0f} bytes")
        print(f"indexing {seconds / runs / samples * 1e6:.0f} µs of CPU a sample")
        for name, ask in _questions(database):
            begun = time.perf_counter()
            ask()
            print(f"{name}: {(time.perf_counter() - begun) * 1e3:.1f} ms")
        with database.read() as connection:
            for table, column in (("responses", "data"), ("items", "data"), ("lists", "data"), ("prompts", "text")):
                total = connection.scalar(sa.text(f"SELECT sum(length({column})) FROM {table}"))
                print(f"  {table}: {total / 1e6:.2f} MB of blobs")
        for renderings in (1, 10):
            whole = SAMPLES * each + 30 * 1000 * shared * renderings
            verdict = "holds" if whole < CLAIM else "FAILS"
            print(
                f"{SAMPLES:,} samples, {renderings} chat templates: {whole / 1e9:.2f} GB (claim: under 2 GB, {verdict})"
            )


def _questions(database: Database) -> list[tuple[str, Any]]:
    first, second = (row.id for row in queries.runs(database, limit=2))
    doc = queries.items(database, first, "task_1", "bleu").docs[-1]
    return [
        ("list of runs", lambda: queries.runs(database)),
        ("all scores", lambda: queries.scores(database)),
        ("pair of runs", lambda: queries.pair(database, first, second, "task_0", "acc")),
        ("one sample", lambda: queries.sample(database, first, "task_1", doc)),
    ]


if __name__ == "__main__":
    main(**{name: int(value) for name, value in (word.split("=") for word in sys.argv[1:])})
