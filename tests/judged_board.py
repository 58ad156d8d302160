"""A board with judged scores: five models, made and judged in half a minute, so all of its tests are in one file.

@pytest.fixture: web, world                  # pytest imports them by name from here
world.runs["hea"], world.slug("hea")         # judged by two, one of them a relative; one reason is hostile
                                             # halb: by the same two; inimestega: people's votes, too;
                                             # teisiti: by another judge; ootab: by none
doc_of(world)                                # a published document of `hea` that judges were asked about
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from estbench_judges import bradley_terry
from estbench_leaderboard import snapshot
from estbench_leaderboard.app import create
from estbench_leaderboard.site import Site
from estbench_leaderboard.snapshot import take
from judge_server import JudgeServer, Persona
from judge_world import answered, quality_of, text_of, write_prompts
from starlette.testclient import TestClient

from estbench import judged
from estbench.cli import main
from estbench.commands import index
from estbench.database import Database, open_database
from estbench.runs import Run

OPEN, OWN, LANGUAGE = "estinstruct_chat", "own_chat", "own_language_chat"
HOSTILE = "<script>alert('põhjus')</script>\u202e"


@dataclasses.dataclass
class World:
    """A board with models that were judged alike, by others, with people's votes, and not at all."""

    database: Database
    runs: dict[str, Run]
    folder: Path

    def slug(self, name: str) -> str:
        models = take(self.database).boards["chat"].models.values()
        return next(
            model.slug for model in models if model.fingerprint == self.runs[name].manifest["model"]["fingerprint"]
        )


def made(folder: Path, name: str, level: float) -> Run:
    """A run on eight prompts of a published and all of a private set; some with a second turn."""
    prompts = write_prompts(folder / "own.jsonl", 8, two_turns=2)
    return answered(prompts, lambda prompt: text_of(level, prompt), name=name, tasks=f"{OPEN},{prompts}", limit=8)


def calibrate(run: Run, task: str) -> None:
    """What a layer looks like once people's votes stand behind it."""
    for layer in judged.layers(run.path):
        if layer.task == task:
            rows = [row | {"signature": row["signature"].replace("|uncal", "|cal")} for row in layer.scores]
            extra = rows[0] | {"metric": f"{rows[0]['metric']}/corrected", "value": 0.625, "primary": False}
            card = layer.card | {"calibrated": True}
            judged.write(run.path, dataclasses.replace(layer, scores=[*rows, extra], card=card))
    index(judged.merge(run), None)


def spoil(run: Run, doc: int) -> None:
    """Make what judges wrote of a document hostile."""
    path = run.path / "judgments" / f"{OPEN}.helpfulness.pairwise.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    votes = next(row for row in rows if row["doc_id"] == doc)["votes"]
    votes[0] |= {"reason": HOSTILE, "judge": f"kohtunik{HOSTILE}"}
    votes[1] |= {"vote": None, "score": None, "reason": None, "missing": "invalid JSON"}
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("judged-board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTBENCH_HOME", str(folder / "home"))
        names = {"hea": "qwen3-hea"}  # a relative of a judge
        patch.setattr(bradley_terry.fit, "__kwdefaults__", {**(bradley_terry.fit.__kwdefaults__ or {}), "rounds": 50})
        patch.setattr(snapshot, "_suite", lambda name: (OWN, LANGUAGE))  # what the board ranks by
        levels = {"hea": 0.7, "halb": 0.3, "inimestega": 0.6, "teisiti": 0.65, "ootab": 0.6}
        runs = {name: made(folder, names.get(name, name), level) for name, level in levels.items()}
        with (
            JudgeServer(quality_of) as a,
            JudgeServer(quality_of, Persona(first=0.9), name="qwen3-7b") as b,
            JudgeServer(quality_of, name="kolmas") as c,
        ):
            same = ",".join(str(runs[name].path) for name in ("hea", "halb", "inimestega"))
            assert main(["judge", f"run={same}", f"judges=judge@{a.url},qwen3-7b@{b.url}", "output=json"]) == 0
            assert main(["judge", f"run={runs['teisiti'].path}", f"judge=kolmas@{c.url}", "output=json"]) == 0
        spoil(runs["hea"], first(runs["hea"]))
        index(Run(runs["hea"].path), None)
        calibrate(Run(runs["inimestega"].path), OWN)
        with open_database(None) as database:
            yield World(database, {name: Run(run.path) for name, run in runs.items()}, folder)


def first(run: Run) -> int:
    """A document of the published task that judges were asked about."""
    path = run.path / "judgments" / f"{OPEN}.helpfulness.pairwise.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return next(int(row["doc_id"]) for row in map(json.loads, lines) if len(row["votes"]) > 3)


@pytest.fixture(scope="module")
def web(world: World) -> Iterator[TestClient]:
    with TestClient(create(Site(world.database, base_url="https://tabel.example.ee"))) as client:
        yield client


def doc_of(world: World, name: str = "hea") -> str:
    run = world.runs[name]
    return next(one.doc_hash for one in run.samples(OPEN) if one.doc_id == first(run))
