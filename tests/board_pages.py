"""A few models with real answers, as pages about single models, runs and documents need them.

world = make(tmp_path)                  # its database is filled from run folders, as `estbench eval` fills it
with client(world.database) as web: web.get("/mudel/alfa")
"""

from __future__ import annotations

import contextlib
import json
import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from database_fixtures import FakeDoc, choice_docs, make_run, text_docs
from estbench_leaderboard.app import create
from estbench_leaderboard.decided import now
from estbench_leaderboard.site import Site
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from estbench.database import Database, open_database, schema
from estbench.database.index import index_run
from estbench.runs import Run, write_json

HOSTILE = "<script>alert('vastus')</script><img src=x onerror=alert(1)>"
SECRET = "SALAJANEDOKUMENT"  # in every text of a task that is not published
HALF = "POOLPAARI"  # where the database gets half a surrogate pair, which no run folder of ours can hold
OPEN = "AVALIKDOKUMENT"  # the control: in every text of one that is
TASKS = {"valik": True, "tekst": True, "salajane": False, "trivia_et": True}  # task -> what its card says of publishing


@dataclass
class World:
    """What `make` made."""

    database: Database
    folder: Path
    docs: dict[str, list[FakeDoc]]
    runs: dict[str, str] = field(default_factory=dict)  # name -> id


def fingerprint(letter: str) -> str:
    return (letter * 64)[:64]


def documents(seed: int = 0) -> dict[str, list[FakeDoc]]:
    """Documents of the tasks: choices in clusters, texts of all kinds, and two tasks whose documents stay here."""
    texts, dice = text_docs(120, seed=seed), random.Random(seed)
    for place, doc in enumerate(texts):
        doc.values = {"osa": dice.randrange(5) / 4}
        doc.prompt = f"{OPEN} viip {place}"
        doc.responses = [{"text": f"{OPEN} vastus {place}", "tokens": 3, "finish": "stop"}]
        doc.parse_failure = place in (70, 90)
    texts[0].answer = HOSTILE
    texts[0].responses = [{"text": HOSTILE, "tokens": 3, "finish": "stop"}]
    texts[1].responses = [{"text": "enne\u202epärast\u200b\u200b\u200b\x00", "tokens": 3, "finish": "stop"}]
    texts[2].responses = [{"text": f"pool {HALF} paari", "tokens": 3, "finish": "length"}]
    texts[2].answer = f"pool {HALF} paari"
    texts[3].prompt = "pikk " * 2000 + "LÕPP"
    said = {"judge": "kohtunik-1", "rubric": "helpfulness", "mode": "pairwise"}
    texts[4].responses[0] |= {
        "votes": [
            said | {"first": "model", "vote": "A", "score": 1.0, "reason": HOSTILE},
            said | {"first": "anchor", "missing": "invalid JSON"},
            said | {"first": 3, "vote": ["A"], "score": "x", "reason": {"hea": "keel"}},
            {"rubric": "helpfulness", "mode": "pairwise", "without_call": "loops"},
            "ei tea",
        ],
        "moon": {"phase": 1},
    }
    hidden = {name: _secret(seed) for name in ("salajane", "trivia_et")}
    return {"valik": choice_docs(60, seed=seed, clusters=20), "tekst": texts, **hidden}


def _secret(seed: int) -> list[FakeDoc]:
    dice = random.Random(seed)
    docs = text_docs(40, seed=seed)
    for place, doc in enumerate(docs):
        doc.values, doc.parse_failure = {"osa": dice.randrange(5) / 4}, place == 3
        doc.prompt, doc.target, doc.answer = f"{SECRET} viip", f"{SECRET} kuld", f"{SECRET} vastus"
        doc.responses = [{"text": f"{SECRET} toores", "tokens": 2, "finish": "stop"}]
        doc.cluster = f"{SECRET} lõik {place // 4}"
    return docs


def add(
    world: World,
    name: str,
    print_: str,
    docs: Mapping[str, list[FakeDoc]],
    *,
    run: str = "",
    day: int = 1,
    form: str = "chat",
    training: Mapping[str, Any] | None = None,
    publish: Mapping[str, bool] = TASKS,
    **more: Any,
) -> str:
    """Index a run of a model; its id."""
    run = run or f"jooks-{print_[:4]}-{day}"
    made = make_run(world.folder, run=run, tasks=dict(docs), model=name)
    manifest = json.loads((made.path / "manifest.json").read_text("utf-8"))
    manifest["model"] |= {"fingerprint": print_, "path": "/kodu/mari/mudelid/alfa"}
    manifest["model"] |= {"training": dict(training)} if training else {}
    manifest |= {"created": f"2026-11-{day:02}T10:00:00+00:00"}
    manifest |= {"command": "estbench eval model=/kodu/mari/mudelid/alfa tasks=mini", "versions": {"estbench": "0.1.0"}}
    for task, card in manifest["tasks"].items():
        card |= {"form": form, "publish_items": publish.get(task, True), "skill": "reading", "primary": "osa"}
        card |= {"primary": "acc", "skill": "reasoning"} if "acc" in docs[task][0].values else {}
    write_json(made.path / "manifest.json", manifest | more)
    scores = json.loads((made.path / "scores.json").read_text("utf-8"))
    for score in scores:
        score["parse_failures"] = sum(doc.parse_failure for doc in docs[score["task"]])
    write_json(made.path / "scores.json", scores)
    index_run(world.database, Run(made.path))
    world.runs[f"{name} {print_[:1]}"] = run
    return run


def make(folder: Path) -> World:
    """Two chat models, older weights of the first, and one that was withdrawn."""
    world = World(open_database(f"sqlite:///{folder / 'world.db'}"), folder / "runs", documents())
    add(world, "alfa", fingerprint("d"), world.docs, day=1)
    add(world, "beeta", fingerprint("b"), documents(2), day=3)
    add(world, "gamma", fingerprint("c"), documents(4), day=4)
    add(world, "alfa", fingerprint("a"), world.docs, day=5)
    decide(world.database, "withdraw", "kaalud olid valed", model=fingerprint("c"))
    _halve(world.database)
    return world


def _halve(database: Database) -> None:
    responses = schema.responses
    with database.write() as connection:
        for row in connection.execute(select(responses).where(responses.c.task == "tekst")).all():
            data = zlib.decompress(row.data).replace(HALF.encode(), "\ud83d".encode("utf-8", "surrogatepass"))
            own = (responses.c.run_id == row.run_id) & (responses.c.task == row.task) & (responses.c.block == row.block)
            connection.execute(update(responses).where(own).values(data=zlib.compress(data)))


def decide(database: Database, action: str, reason: str, **about: str) -> None:
    """A public decision of a maintainer."""
    row = {"created": now(), "actor": "mari", "action": action, "reason": reason, "public": True, **about}
    with database.write() as connection:
        connection.execute(insert(schema.decisions), row)


@contextlib.contextmanager
def client(database: Database) -> Iterator[TestClient]:
    """The board of a database."""
    with TestClient(create(Site(database))) as web:
        yield web
