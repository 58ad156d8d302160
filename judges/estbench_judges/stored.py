"""Judgments that lie in a run folder, read again: no judge, no network.

of = restore(run, layer)         # a `Judged` like the one that was written
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import judged
from estbench.errors import ConfigError, StoreError
from estbench.judged import FOLDER, Layer
from estbench.runs import Run, read_lines
from estbench_judges import ledger
from estbench_judges.asking import Vote
from estbench_judges.judging import Assignment, Judged, Wishes, assign
from estbench_judges.rubrics import frame
from estbench_judges.verdicts import Verdict

ENGINE = (
    "name",
    "family",
    "model",
    "url",
    "engine",
    "revision",
    "fingerprint",
    "hashes",
)  # of a judge, not of its votes


@dataclass(frozen=True)
class StoredJudge:
    """A judge as the run's manifest names it."""

    row: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def family(self) -> str | None:
        return self.row.get("family")

    @property
    def model_name(self) -> str:
        return str(self.row.get("model") or "")

    @property
    def response_id(self) -> str:
        return str(self.row["fingerprint"])

    def card(self) -> dict[str, Any]:
        return {key: self.row.get(key) for key in ENGINE}


def layers_of(run: Run, tasks: Sequence[str] = (), rubric: str | None = None, mode: str | None = None) -> list[Layer]:
    """The layers of a run that are meant; ConfigError if there is none."""
    found = [
        layer
        for layer in judged.layers(run.path)
        if (not tasks or layer.task in tasks) and rubric in (None, layer.rubric) and mode in (None, layer.mode)
    ]
    if not found:
        raise ConfigError(f"Run {run.id} has no such judgments: `estbench judge run={run.id} judge=…` makes them.")
    return found


def restore(run: Run, layer: Layer, data: Path | None = None) -> Judged:
    """The votes of a layer. StoreError where the folder's answers are not those that were judged."""
    card = layer.card
    anchor = card["anchor"]["name"] if card.get("anchor") else "set"
    wishes = Wishes(
        rubric=layer.rubric,
        mode=layer.mode,
        anchor=anchor,
        language=card["language"],
        reasons=card["reasons"],
        repeats=card["repeats"],
        temperature=card["temperature"],
        structured=card.get("structured", True),
        least=card.get("least"),
        data=data,
    )
    given = assign(run, layer.task, wishes)
    if (given.rubric.hash, frame().hash) != (card["rubric"]["hash"], card["frame"]):
        raise StoreError(f"{run.path} was judged by another text of {layer.rubric}: judge it again, which asks anew.")
    if not layer.fits(list(run.samples(layer.task))):
        raise StoreError(f"The judgments of {layer.task} in {run.path} are of other answers: judge the run again.")
    judges = [StoredJudge(row) for row in card["judges"]]
    votes: list[dict[str, Vote]] = [{} for _ in judges]
    places = {one.name: place for place, one in enumerate(judges)}
    items = {one.doc_id: one for one in given.items}
    for row in read_lines(run.path / FOLDER / f"{layer.stem}.jsonl.gz"):
        for vote in row["votes"]:
            if row["doc_id"] in items:
                votes[places[vote["judge"]]][vote["case"]] = _vote(given, row["doc_id"], items, vote)
    costs = [{key: row[key] for key in ledger.PARTS if key in row} for row in card["judges"]]
    return Judged(given, judges, votes, costs)


def _vote(given: Assignment, doc_id: int, items: dict[int, Any], row: dict[str, Any]) -> Vote:
    _, first, repeat = row["case"].split("/")
    verdict = None
    if row["score"] is not None:
        verdict = Verdict(row["score"], row["vote"], row["reason"] or "", row["covered"], tuple(row["met"] or ()))
    case = given.case(items[doc_id], first)
    return Vote(case, int(repeat), verdict, row["missing"] or "", row["failed"], row["calls"])
