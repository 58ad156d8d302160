"""A board that takes submissions, a run to send, and ways to spoil a bundle, for the tests of submissions.

@pytest.fixture: board, live                 # pytest imports them by name from here
board.send(run)                              # packed, signed, received: a Submission
board.rescore()                              # the worker, once
"""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from estbench_leaderboard.submissions import bundle as bundles
from estbench_leaderboard.submissions import tokens
from estbench_leaderboard.submissions.bundle import Address, Packed, pack
from estbench_leaderboard.submissions.receive import Submission, receive
from estbench_leaderboard.submissions.recompute import Sources, plan_of
from estbench_leaderboard.submissions.rescoring import rescore_next

from estbench.database import Database, open_database
from estbench.engines.base import from_record
from estbench.registry import Registry
from estbench.runs import Run, Sample
from estbench.scoring import score_task

URL = "https://tabel.example.ee"
TASKS = "mini_copa,mini_qa,mini_translate_en_et"  # log-likelihoods, answers, a corpus metric


def measured(folder: Path, **more: Any) -> Run:
    """The demo model evaluated on three tasks."""
    from conftest import share_models

    from estbench import runner
    from estbench.config import EvalSettings

    place = folder / "home"
    share_models(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(place))
        return runner.evaluate(runner.prepare(EvalSettings(model="demo", tasks=TASKS, **more)))


@dataclass
class Board:
    """A board with one sender, who has a token and a key."""

    database: Database
    folder: Path
    work: Path  # where bundles are packed
    url: str = URL
    key: Any = field(default_factory=bundles.new_key)

    def __post_init__(self) -> None:
        self.text = tokens.new_token(self.database, "Saatja", "saatja@example.ee")
        self.token = self.holder(self.text)

    def holder(self, text: str) -> tokens.Token:
        """The token as the database has it now."""
        return tokens.verify(self.database, f"Bearer {text}")

    def pack(self, run: Run, **changes: Any) -> Packed:
        """A bundle of the run, for this board and token unless something else is said."""
        address = Address(changes.pop("audience", self.url), changes.pop("token", self.token.id), **changes)
        return pack(run, self.work / f"{run.id}-{time.monotonic_ns()}.tar.gz", address, self.key)

    def take(self, packed: Packed) -> Submission:
        """Receive a bundle as it is."""
        token = self.holder(self.text)
        return receive(
            self.database, self.folder, token, [packed.path.read_bytes()], packed.signature, audience=self.url
        )

    def send(self, run: Run, **changes: Any) -> Submission:
        return self.take(self.pack(run, **changes))

    def rescore(self, **options: Any) -> Submission | None:
        return rescore_next(self.database, self.folder, Sources(), **options)

    def stored(self) -> list[str]:
        """Every file of the board's folder."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def board(home: Path, tmp_path: Path) -> Iterator[Board]:
    (tmp_path / "packed").mkdir()
    with open_database(None) as database:
        yield Board(database, home / "board", tmp_path / "packed")


@dataclass
class Live:
    """A board that answers on loopback."""

    board: Board
    url: str
    app: Any


@pytest.fixture
def live(board: Board) -> Iterator[Live]:
    """The real application with the routes of submissions, in a thread of its own."""
    import uvicorn
    from estbench_leaderboard.app import create
    from estbench_leaderboard.site import Site
    from estbench_leaderboard.submissions.web import Intake

    door = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{door.getsockname()[1]}"
    app = create(Site(board.database), Intake(board.folder, url))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    board.url = url
    yield Live(board, url, app)
    server.should_exit = True
    thread.join(10)
    door.close()


def rescored(board: Board, run: Run) -> str:
    """The id of a submission of this run that the worker is done with."""
    identity = board.send(run).id
    board.rescore()
    return identity


# ---- spoiling


def copied(run: Run, folder: Path) -> Run:
    """A copy of a run to change."""
    shutil.copytree(run.path, folder / run.id)
    return Run(folder / run.id)


def rewrite(run: Run, part: str, task: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change each record of a part (responses, samples) of a run."""
    path = run.path / part / f"{task}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [change(json.loads(line)) for line in lines]
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file of a run."""
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8"))), ensure_ascii=False), "utf-8")


def made_of_golds(run: Run, folder: Path, sources: Sources | None = None) -> Run:
    """The run as somebody would send it who knows the golds and has no model: every answer is right."""
    forged = copied(run, folder)
    scores = []
    for task in forged.tasks:
        targets = {sample.doc_id: sample.target for sample in forged.samples(task)}

        def right(row: dict[str, Any], targets: dict[int, Any] = targets) -> dict[str, Any]:
            target = targets[row["doc_id"]]
            if "logprob" in row:
                return row | {"logprob": -1.0 if row["index"] == target else -9.0}
            return row | {"text": f" {target}", "tokens": 3}

        rewrite(forged, "responses", task, right)
        scores += _scores_of_answers(forged, task, sources or Sources())
    edit_json(forged.path / "scores.json", lambda _: scores)
    return Run(forged.path)


def _scores_of_answers(run: Run, task: str, sources: Sources) -> list[dict[str, Any]]:
    """What the task's own code makes of the answers: a forger can run it, too."""
    card = Registry().task(task)
    plan = plan_of(card, run.manifest, sources)
    answers: dict[int, list[Any]] = {}
    for row in run.responses(task):
        record = {key: value for key, value in row.items() if key not in ("doc_id", "index", "key")}
        answers.setdefault(row["doc_id"], []).append(from_record(record))
    asked = [(doc.doc_id, rendered, answers[doc.doc_id]) for part in plan.parts() for doc, rendered in part]
    clusters = {doc.doc_id: doc.cluster for doc in plan.docs}
    samples = [
        Sample(task, doc_id, "", "", clusters[doc_id], None, answer, values, "", bool(values.pop("parse_failure", 0)))
        for doc_id, values, answer in plan.lm.results(asked)
    ]
    found = score_task(
        task,
        samples,
        primary=card.primary,
        chance=card.chance,
        n_planned=len(samples),
        listed=plan.lm.metrics,
        higher_is_better=plan.lm.task.higher_is_better(),
        aggregations=plan.lm.task.aggregation(),
    )
    return [asdict(score) for score in found]
