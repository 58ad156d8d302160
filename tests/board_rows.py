"""Rows of all tables, as runs of made-up models have them: the lower half of board_world.

maker = Maker(docs=40, seed=0, answers=True, outside=same)
tasks = maker.tasks("core", 6)
run_of(maker, maker.person("mudel"), tasks, hours=1)
maker.rows["scores"], maker.models, maker.lists
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from board_values import Values, Words, answer_lines, values_of
from numpy.typing import NDArray

from estbench.database import packing, schema
from estbench.metrics.judgments import is_judged
from estbench.registry import Registry, Task

START = datetime(2026, 6, 1, 8, tzinfo=UTC)
LICENCES = (("Apache-2.0", True), ("Llama 4", True), ("CC-BY-NC-4.0", False), ("Gemma", True), ("MIT", True))
SIZES = (0.5, 1.1, 2.6, 3.2, 7.2, 8.0, 9.4, 12.2, 27.4, 31.0, 70.6, 123.0, 405.0)  # billions of parameters


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class Made:
    """A task as all its runs share it: difficulties, lists, prompts."""

    card: Task
    values: Values
    manifest: dict[str, Any]  # its part of a manifest
    lists: dict[str, str | None]  # column of run_tasks -> hash
    lines: tuple[list[bytes], list[bytes]]  # records of right and of wrong answers


@dataclass
class Person:
    """A model."""

    name: str
    fingerprint: str
    ability: float
    parameters: int | None
    training: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Maker:
    """Rows of all tables, as they come."""

    def __init__(self, docs: int, seed: int, answers: bool, outside: Callable[[str, str], str]) -> None:
        self.docs, self.seed, self.answers, self.outside = docs, seed, answers, outside
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("runs", "run_tasks", "scores", "items", "responses", "prompts")
        }
        self.models: dict[str, dict[str, Any]] = {}
        self.lists: dict[str, bytes] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.cases: dict[str, str] = {}
        self.runs: dict[str, list[str]] = {}
        self.sent: list[tuple[str, str, Person]] = []  # case, run, model
        self.dice = np.random.default_rng(seed)
        self._made: dict[str, Made] = {}

    def share(self, values: Sequence[Any]) -> str:
        key, self.lists[key] = packing.pack_list(values)
        return key

    def tasks(self, suite: str, count: int) -> list[Made]:
        """The most important tasks of a board: one of each skill first, then the rest of the suite, then all others."""
        registry = _registry()
        everything = {"core": "all_chat", "core_base": "all"}.get(suite, suite)
        names = list(dict.fromkeys((*registry.suites[suite].tasks, *registry.suites[everything].tasks)))
        cards = [registry.task(name) for name in names]
        first = {str(card.metadata.get("skill")): card for card in reversed(cards[: len(registry.suites[suite].tasks)])}
        ordered = sorted(cards, key=lambda card: card not in first.values())
        return [self.task(card) for card in ordered[:count]]

    def task(self, card: Task) -> Made:
        if card.name not in self._made:
            self._made[card.name] = _task(self, card)
        return self._made[card.name]

    def person(self, name: str, *, ability: float | None = None, case: str | None = None) -> Person:
        """A model of made-up size, licence and ability."""
        fingerprint = digest("model", self.seed, len(self.models), name)
        size = SIZES[int(self.dice.integers(len(SIZES)))]
        licence, commercial = LICENCES[int(self.dice.integers(len(LICENCES)))]
        known = {
            "licence": self.outside("licence", licence),
            "commercial": commercial,
            "open_weights": True,
            "organisation": self.outside("organisation", re.split(r"[/-]", name)[0][:40] or "labor"),
        }
        drawn = float(self.dice.normal(0, 0.7))
        person = Person(name, fingerprint, drawn if ability is None else ability, int(size * 1e9), None, known)
        if case == "remote":
            person.parameters = None
            person.facts |= {"open_weights": False, "price_in": 1.25, "price_out": 10.0}
        if case == "reference":
            person.facts["kind"] = "reference"
        self.models[fingerprint] = {}  # counted at once, so that the next has another fingerprint
        if case:
            self.cases[case] = fingerprint
        return person


@functools.cache
def _registry() -> Registry:
    return Registry()


def _task(maker: Maker, card: Task) -> Made:
    n, outside = maker.docs, maker.outside
    dice = np.random.default_rng([maker.seed, *card.name.encode()])
    withheld = card.access == "withheld"
    hashes = [digest("doc", card.name, place)[:32] for place in range(n)]
    words = Words(
        prompts=[outside("prompt", f"Küsimus {place}: mis on õige? ({card.name})\nVastus:") for place in range(n)],
        targets=[outside("target", f"õige vastus {place % 7}") for place in range(n)],
        right=[outside("answer", f"õige vastus {place % 7}") for place in range(n)],
        wrong=[outside("answer", f"vale vastus {place % 5}") for place in range(n)],
        keys=[digest("key", card.name, place)[:32] for place in range(n)],
    )
    prompts = [digest("prompt", card.name, place)[:32] for place in range(n)]
    clusters = [f"lõik {place // 4}" for place in range(n)] if card.metadata.get("cluster") else None
    lists: dict[str, str | None] = dict.fromkeys(schema.SHARED)
    if not withheld:
        lists = {
            "docs": maker.share(hashes),
            "doc_ids": maker.share(list(range(n))),
            "clusters": maker.share(clusters) if clusters else None,
            "prompts": maker.share(prompts),
            "asked": maker.share([digest("asked", card.name, place)[:32] for place in range(n)]),
            "targets": maker.share(words.targets),
        }
        maker.rows["prompts"] += [
            {"hash": key, "text": packing.pack_text(text)} for key, text in zip(prompts, words.prompts, strict=True)
        ]
    lines = answer_lines(card, words) if maker.answers and not withheld else ([], [])
    return Made(card, values_of(card, n, clusters, dice), _manifest_task(maker, card), lists, lines)


def _manifest_task(maker: Maker, card: Task) -> dict[str, Any]:
    """A task's part of a manifest."""
    metadata, outside = card.metadata, maker.outside
    return {
        "title": {code: outside("title", title) for code, title in card.title.items()},
        "skill": metadata.get("skill"),
        "form": card.form,
        "language": metadata.get("language"),
        "licence": outside("task_licence", str(metadata.get("licence") or "")) or None,
        "chance": card.chance,
        "primary": card.primary,
        "metrics": [card.primary],
        "higher_is_better": {card.primary: card.primary != "bits_per_byte"},
        "cluster": metadata.get("cluster"),
        "access": card.access,
        "publish_items": bool(metadata.get("publish_items", False)),
        "sample": False,
        "reason": None,
        "data": {
            "path": outside("data", str((card.dataset or ("estbench/made", None))[0])),
            "config": (card.dataset or (None, None))[1],
            "commit": digest("commit", card.name)[:40],
            "origin": "hub",
            "matches_lock": True,
            "hash": digest("data", card.name, maker.docs),
        },
        "scorer": digest("scorer", card.primary),
        "shots": card.shots,
        "truncated": 0,
        "plan_hash": digest("plan", card.name, maker.docs),
        "n_docs": maker.docs,
        "n_planned": maker.docs,
        "endings": {"n": maker.docs, "truncated": 3, "refused": 1, "empty": 0, "tokens": 40 * maker.docs},
    }


# ---- runs


def run_of(
    maker: Maker, person: Person, tasks: Sequence[Made], *, hours: float, case: str | None = None, slice_: bool = False
) -> str:
    """A run of a model on these tasks; its id."""
    outside = maker.outside
    number = len(maker.rows["runs"])
    result = digest("result", maker.seed, number, person.fingerprint)
    run = f"{re.sub(r'[^a-z0-9]+', '-', person.name.lower())[:40].strip('-') or 'run'}-{result[:12]}"
    created = START + timedelta(hours=hours)
    model = _model_card(maker, person)
    engine: dict[str, Any] = {"engine": "openai" if case == "remote" else "vllm", "dtype": "bfloat16"}
    if case == "remote":
        engine |= {"observed": f"{created:%Y-%m-%d}", "url": outside("engine", "https://api.example.ee/v1")}
    cards = {}
    for position, task in enumerate(tasks):
        cards[task.card.name] = _run_task(maker, person, run, task, position, case)
    manifest = {
        "schema": 1,
        "run": run,
        "name": outside("run", person.name),
        "created": created.isoformat(),
        "seconds": 812.5,
        "partial": case == "partial",
        "slice": "1/2" if slice_ else None,
        "model": model,
        "engine": engine,
        "identity": {"response": digest("r", run), "plan": digest("p", run), "result": result, "series": None},
        "suites": [],
        "tasks": cards,
        "skipped": {},
        "settings": {"model": outside("setting", person.name), "tasks": "core"},
        "command": outside("command", f"estbench eval model={person.name} tasks=core"),
        "versions": {"estbench": "0.1.0", "python": "3.11.7", "lm_eval": "0.4.13"},
        "host": {"machine": "x86_64", "system": "Linux"},
    }
    same_keys = ("name", "seconds", "partial", "slice", "suites", "engine")
    row = {"id": run, "model": person.fingerprint, "created": f"{created:%Y-%m-%dT%H:%M:%S.%f}Z", "manifest": manifest}
    row |= {key: manifest[key] for key in same_keys}
    row |= {f"{key}_identity": manifest["identity"][key] for key in ("response", "plan", "result")}
    maker.rows["runs"].append(row)
    maker.runs.setdefault(person.fingerprint, []).append(run)
    known = {name: model.get(name) for name in ("path", "revision", "parameters", "bytes")}
    maker.models[person.fingerprint] = {
        "fingerprint": person.fingerprint, "name": person.name, "card": model, **known
    }  # fmt: skip
    maker.facts[person.fingerprint] = person.facts
    return run


def _model_card(maker: Maker, person: Person) -> dict[str, Any]:
    outside = maker.outside
    card: dict[str, Any] = {
        "name": person.name,
        "path": outside("path", f"/models/{person.fingerprint[:8]}"),
        "revision": outside("revision", person.fingerprint[:40]),
        "parameters": person.parameters,
        "bytes": None if person.parameters is None else 2 * person.parameters,
        "type": "llama",
        "fingerprint": person.fingerprint,
        "hashes": {"weights": digest("weights", person.fingerprint), "tokenizer": digest("tokenizer", "llama")},
        "dtype": "bfloat16",
        "max_length": 8192,
        "chat_template": "own",
        "bos": "added by the tokenizer",
    }
    return card | ({"training": person.training} if person.training else {})


def _run_task(maker: Maker, person: Person, run: str, task: Made, position: int, case: str | None) -> dict[str, Any]:
    """Rows of a task of a run; its part of the manifest."""
    name, metric, n = task.card.name, task.card.primary, maker.docs
    card, lists = dict(task.manifest), dict(task.lists)
    odd = case if position == 0 else None
    if odd == "other_version":
        card["data"] = card["data"] | {"hash": digest("an older data set", name)}
    if odd == "other_prompt" and lists["asked"]:
        lists["asked"] = maker.share([digest("other words", name, place)[:32] for place in range(n)])
    if odd == "scores_only":
        lists = dict.fromkeys(lists)
    if case == "reference":
        card["data"] = card["data"] | {"hash": None}
    dice = np.random.default_rng([maker.seed, position, int(person.fingerprint[:8], 16)])
    drawn = task.values.draw(-99.0 if case == "at_chance" else person.ability, dice)
    kept = np.ones(n, bool)
    if case == "partial":
        card["n_planned"] = n = maker.docs // 2
        kept[n:] = False
        for key, values in lists.items():
            lists[key] = maker.share(packing.unpack_list(maker.lists[values])[:n]) if values else None
    if odd == "errors":
        kept[::7] = False
    score = task.values.score(drawn.values, kept)
    failures = n // 4 if case == "parse_failures" else 0
    _score_row(maker, run, task, position, score, int(kept.sum()), n, failures, odd)
    known = {key: card[key] for key in ("skill", "form", "language", "chance", "shots", "n_docs", "n_planned")}
    row = {"run_id": run, "task": name, "position": position, "n": n if lists["docs"] else 0, "card": card, **known}
    row |= {"primary_metric": metric, "plan_hash": card["plan_hash"], "publish_items": card["publish_items"], **lists}
    words = 9 * n
    row |= {"words": words, "tokens": int(words * (1.4 + int(person.fingerprint[8:10], 16) / 200))}
    maker.rows["run_tasks"].append(row)
    if lists["docs"] and odd != "failed":
        present = packing.pack_mask(kept[:n].tolist())
        data = zlib.compress(np.ascontiguousarray(drawn.values[kept]).tobytes(), 1)
        item = {"kind": drawn.kind, "width": drawn.width, "present": present, "data": data, "n": int(kept.sum())}
        maker.rows["items"].append({"run_id": run, "task": name, "metric": metric, **item})
    if lists["docs"] and maker.answers:
        maker.rows["responses"] += [
            {"run_id": run, "task": name, "block": block, "data": data}
            for block, data in enumerate(_blocks(maker, task, drawn.right[:n], kept[:n]))
        ]
    return card


def _blocks(maker: Maker, task: Made, right: NDArray[np.bool_], kept: NDArray[np.bool_]) -> Iterable[bytes]:
    good, bad = task.lines
    error = json.dumps([None, "0" * 32, False, maker.outside("error", "the server did not answer"), []]).encode()
    flags = zip(range(len(right)), right.tolist(), kept.tolist(), strict=True)
    lines = [(good if fine else bad)[place] if there else error for place, fine, there in flags]
    for start in range(0, len(lines), schema.BLOCK):
        yield zlib.compress(b"\n".join(lines[start : start + schema.BLOCK]), 1)


def _score_row(
    maker: Maker,
    run: str,
    task: Made,
    position: int,
    score: tuple[float, float | None, float | None],
    n: int,
    planned: int,
    failures: int,
    odd: str | None,
) -> None:
    failed = odd == "failed"
    value, low, high = (None, None, None) if failed else score
    reason = maker.outside("score_reason", "kõik vastused jäid tulemata") if failed else None
    maker.rows["scores"].append(
        {
            "run_id": run,
            "task": task.card.name,
            "metric": task.card.primary,
            "position": position,
            "value": value,
            "ci_low": low,
            "ci_high": high,
            "n": 0 if failed else n,
            "n_planned": planned,
            "chance": task.card.chance,
            "parse_failures": failures,
            "errors": planned - n,
            "unit": task.card.unit,
            "higher_is_better": task.card.primary != "bits_per_byte",
            "primary": True,
            "method": maker.outside("method", "Wilson"),
            "signature": _signature(maker, task.card),
            "reason": reason,
        }
    )


def _signature(maker: Maker, card: Task) -> str:
    """What fixes the metric; of a task that is judged, who judged it by what."""
    if not is_judged(card.primary):
        return maker.outside("signature", "nrefs:1|case:mixed")
    rubric = (card.metadata.get("judge") or {}).get("rubric")
    return f"judge:{card.primary}|{rubric}@1-ab005789|anchor:set|gemma+qwen3|et|uncalibrated"
