"""A made-up world for the tests and the load of the board: a populated database, written straight into its tables.

    world = fill(database)                        # 200 chat models × 30 tasks × 1,000 docs, 40 base models, checkpoints
    world = fill(database, **SMALL)               # a second
    world.cases["partial"]                        # the fingerprint of a model that a rule is about: see CASES and SENT
    fill(database, outside=lambda kind, text: …)  # another text for everything that people or models write

Everything comes from `seed`.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from board_rows import START, Made, Maker, Person, digest, run_of
from estbench_leaderboard.snapshot import Snapshot, take
from sqlalchemy import insert

from estbench.database import Database, schema

EUROEVAL = Path(__file__).parents[2] / "shared" / "data" / "leaderboards" / "euroeval" / "estonian_all.csv"
SMALL = {"models": 32, "tasks": 6, "docs": 40, "base": 4, "checkpoints": 5, "real": False}
LATER = "2999-01-01T00:00:00.000000Z"

# Chat models of the operators, from the first on, and what is odd about each.
CASES = (
    *("best", "twice", "parse_failures", "at_chance", "partial", "other_version", "other_prompt", "errors"),
    *("scores_only", "failed", "missing", "hidden", "withdrawn", "contaminated", "reference", "remote", "shown_again"),
    *("sft", "dpo", "merge"),
)
# The last chat models come from outside: case -> state, badge, embargo.
SENT = {
    "audited": ("published", "audited", None),
    "rescored": ("published", "rescored", None),
    "claimed": ("published", "claimed", None),
    "received": ("received", "claimed", None),
    "unpublished": ("rescored", "rescored", None),
    "rejected": ("rejected", "claimed", None),
    "taken_back": ("withdrawn", "claimed", None),
    "embargoed": ("published", "audited", LATER),
}
STAGES = ("cpt", "sft", "dpo", "merge")
ODD_NAMES = (
    "<script>alert('nimi')</script>",
    "pikk" * 75,
    '"><img src=x onerror=alert(1)> {{7*7}} \u202ekood',
)


@dataclass(frozen=True)
class World:
    """What `fill` made."""

    database: Database
    cases: dict[str, str]  # case -> fingerprint
    runs: dict[str, list[str]]  # fingerprint -> its runs, the oldest first
    tasks: dict[str, list[str]]  # board -> its tasks, in order of importance

    def snapshot(self) -> Snapshot:
        """The database as it is now."""
        return take(self.database)


def same(kind: str, text: str) -> str:
    """Texts from outside as they are."""
    return text


def fill(
    database: Database,
    models: int = 200,
    tasks: int = 30,
    docs: int = 1000,
    seed: int = 0,
    *,
    base: int | None = None,
    checkpoints: int = 12,
    answers: bool = True,
    real: bool = True,
    outside: Callable[[str, str], str] = same,
) -> World:
    """Fill an empty database.

    Args:
        models: on the chat board, those from outside among them; `base` (a fifth of it) are on the base board.
        tasks: of each of the two boards; checkpoints have at most nine.
        answers: also answers, response by response; without them pages of single documents have nothing to show.
        real: names of EuroEval's list where it is there, made-up ones after them; False: made-up ones only.
        outside: (kind, text) -> text, for each text that does not come from the maintainers.
    """
    maker = Maker(docs, seed, answers, outside)
    base = max(2, models // 5) if base is None else base
    of = {board: maker.tasks(suite, tasks) for board, suite in (("chat", "core"), ("base", "core_base"))}
    of["checkpoints"] = maker.tasks("checkpoint", min(tasks, 9))
    names = [outside("model", name) for name in _names(models + base - len(ODD_NAMES), real)]
    chat = [*names[: models - len(ODD_NAMES)], *(outside("model", name) for name in ODD_NAMES)]
    _chat(maker, chat, of)
    _base(maker, names[models - len(ODD_NAMES) :], of["base"])
    _checkpoints(maker, checkpoints, of["checkpoints"])
    _write(database, maker)
    _decide(database, maker)
    named = {board: [task.card.name for task in found] for board, found in of.items()}
    return World(database, maker.cases, maker.runs, named)


def euroeval() -> list[str]:
    """The names of EuroEval's models; none where the list is not there."""
    if not EUROEVAL.is_file():
        return []
    with EUROEVAL.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[2:]
    return [html.unescape(re.sub(r"<[^>]*>", "", row[0])).strip() for row in rows]


def _names(count: int, real: bool) -> list[str]:
    """Different names."""
    made = (f"labor{place % 7}/mudel-{place}-{place % 90 + 1}b-instruct" for place in range(count))
    return [*dict.fromkeys(euroeval() if real else ()), *made][:count]


# ---- who is there


def _chat(maker: Maker, names: Sequence[str], of: dict[str, list[Made]]) -> None:
    sent = dict(zip(range(len(names) - len(SENT) - len(ODD_NAMES), len(names)), SENT, strict=False))
    for place, name in enumerate(names):
        case = CASES[place] if place < len(CASES) else sent.get(place)
        person = maker.person(name, ability={"best": 3.0, "sft": 1.0}.get(case or ""), case=case)
        if case in STAGES:
            person.training = lineage(maker, case, 2_000_000, final=True)
        tasks = of["chat"]
        missing = maker.dice.random(len(tasks)) < 0.3 if place % 9 == 8 and place >= len(CASES) else None
        if case == "missing":
            tasks = tasks[1:]
        elif missing is not None and not missing.all():
            tasks = [task for task, gone in zip(tasks, missing, strict=True) if not gone]
        if case == "twice":
            person.ability -= 1
            run_of(maker, person, tasks, hours=-100)
            person.ability += 1
        if case == "best":  # chat and plain, in one run
            tasks = [*tasks, *of["base"]]
            run_of(maker, person, tasks[:1], hours=10_000, slice_=True)
        run = run_of(maker, person, tasks, hours=7 * place, case=case)
        if case in SENT:
            maker.sent.append((case, run, person))


def _base(maker: Maker, names: Sequence[str], tasks: Sequence[Made]) -> None:
    for place, name in enumerate(names):
        person = maker.person(name, case={0: "cpt", 1: "foundation"}.get(place))
        if place == 0:
            person.training = lineage(maker, "cpt", 30_000_000_000, final=True)
        run_of(maker, person, tasks, hours=7 * place + 3)


def _checkpoints(maker: Maker, count: int, tasks: Sequence[Made]) -> None:
    for place in range(count):
        tokens = (place + 1) * 30_000_000_000 // count
        person = maker.person(maker.outside("model", f"estbench-cpt-step-{1000 * (place + 1)}"), ability=place / count)
        person.parameters = 1_100_000_000
        person.training = lineage(maker, "cpt", tokens, final=False)
        maker.cases[f"checkpoint_{place}"] = person.fingerprint
        run_of(maker, person, tasks, hours=1000 + place)


def lineage(maker: Maker, stage: str, tokens: int, *, final: bool) -> dict[str, Any]:
    """A training card, as docs/cards.md describes it."""
    outside, order = maker.outside, ("pretraining", *STAGES)
    steps = [
        {
            "stage": name,
            "name": outside("lineage", "foundation" if name == "pretraining" else f"estbench-{name}"),
            "fingerprint": maker.cases.get("foundation" if name == "pretraining" else name),
            "tokens": tokens,
        }
        for name in order[: order.index(stage) + 1]
    ]
    series = outside("series", f"estbench-{stage}")
    return {
        "schema": 1,
        "name": series,
        "kind": "base" if stage == "cpt" else "chat",
        "stage": outside("stage", stage),
        "final": final,
        "lineage": steps,
        "series": series,
        "tokens": tokens,
        "step": max(1, tokens // 1_000_000),
        "steps_planned": 30_000,
        "recipe": {"name": outside("recipe", f"{stage}.yaml"), "hash": digest("recipe", stage)[:12]},
        "data": [
            {"name": outside("training_data", "eesti veeb"), "licence": "CC0-1.0", "tokens": tokens, "share": 0.8}
        ],
        "hours": 12.5,
        "energy_kwh": None,
    }


# ---- into the database


def _write(database: Database, maker: Maker) -> None:
    rows = maker.rows
    rows["lists"] = [{"hash": key, "data": data} for key, data in maker.lists.items()]
    rows["models"] = list(maker.models.values())
    manifests = {row["id"]: row["manifest"] for row in rows["runs"]}
    for place, (_, run, _) in enumerate(maker.sent):  # as the server writes it into the runs that it makes
        manifests[run]["submission"] = f"sub{place}"
    with database.write() as connection:
        for name in ("lists", "prompts", "models", "runs", "run_tasks", "scores", "items", "responses"):
            for start in range(0, len(rows[name]), 1000):
                connection.execute(insert(schema.metadata.tables[name]), rows[name][start : start + 1000])


def _decide(database: Database, maker: Maker) -> None:
    """Facts, submissions, and what the maintainers decided."""
    outside, cases = maker.outside, maker.cases
    moment = f"{START:%Y-%m-%dT%H:%M:%S.%f}Z"
    facts = [{"model": key, "facts": known, "updated": moment} for key, known in maker.facts.items()]
    submitters = [
        {"id": f"s{place}", "name": outside("submitter", name), "contact": "peidus@example.ee", "created": moment}
        for place, name in enumerate(("Tartu labor", "Tallinna firma"))
    ]
    for place, submitter in enumerate(submitters):  # names are unique, also those from `outside`
        submitter["name"] += " " * place
    tokens = [
        {"id": f"t{place}", "submitter": f"s{place}", "hash": "0" * 64, "scopes": ["push"], "created": moment}
        for place in range(2)
    ]
    sent = [_submission(maker, place, *of) for place, of in enumerate(maker.sent)]
    task = maker.rows["run_tasks"][0]["task"]
    decisions = [
        _decision(maker, "hide", "sisaldas isikuandmeid", model=cases.get("hidden")),
        _decision(maker, "hide", "eksitus", model=cases.get("shown_again")),
        _decision(maker, "show", "eksitus parandatud", model=cases.get("shown_again")),
        _decision(maker, "withdraw", "litsents lõpetati", model=cases.get("withdrawn")),
        _decision(maker, "mark", "testid olid treeningandmetes", model=cases.get("contaminated"), task=task),
        _decision(maker, "correct", "kahe dokumendi kuld parandati", task=task, details={"before": 0.5, "after": 0.6}),
        _decision(maker, "reject", "ei avaldata", model=cases.get("rejected"), public=False),
    ]
    with database.write() as connection:
        for table, found in (
            *((schema.facts, facts), (schema.submitters, submitters), (schema.tokens, tokens)),
            *((schema.submissions, sent), (schema.decisions, decisions)),
        ):
            if found:
                connection.execute(insert(table), found)


def _submission(maker: Maker, place: int, case: str, run: str, person: Person) -> dict[str, Any]:
    state, badge, embargo = SENT[case]
    moment = f"{START + timedelta(days=place):%Y-%m-%dT%H:%M:%S.%f}Z"
    return {
        "id": f"sub{place}",
        "submitter": f"s{place % 2}",
        "token": f"t{place % 2}",
        "run": run,
        "model_name": person.name,
        "model": person.fingerprint,
        "bundle": digest("bundle", place),
        "size": 1_000_000,
        "state": state,
        "badge": badge,
        "reason": maker.outside("rejection", "skoorid ei klapi") if state == "rejected" else None,
        "created": moment,
        "updated": moment,
        "embargo": embargo,
    }


def _decision(maker: Maker, action: str, reason: str, *, public: bool = True, **about: Any) -> dict[str, Any]:
    """A line of the log; all lines have the same keys, which an insert of many rows needs."""
    empty: dict[str, Any] = dict.fromkeys(("run", "model", "task", "submission", "details"))
    told = {"actor": maker.outside("actor", "toimetaja"), "reason": maker.outside("reason", reason)}
    moment = f"{START:%Y-%m-%dT%H:%M:%S.%f}Z"
    return empty | {"created": moment, "action": action, "public": public, **told, **about}
