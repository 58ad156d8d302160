"""Do two engines give the same? The same requests to both, and what came back side by side.

    found = compare(settings, say)      # what differs, task by task; found["verdict"] is "within" or "past"

Numbers of two engines never agree to the bit. What counts is whether they differ by more than arithmetic explains, and
whether a choice turns over that was not close to begin with. Nothing is stored, and no run is written.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import answering, engines, identity, registry, report, runner
from estbench.config import ENGINES, EvalSettings
from estbench.engines.base import Generated, Response, Scored
from estbench.engines.options import read_options
from estbench.errors import ConfigError, did_you_mean
from estbench.plan import Doc, TaskPlan, render
from estbench.responses import ResponseStore

if TYPE_CHECKING:
    from estbench.answering import Answers, Progress, Say
    from estbench.engines.base import Engine
    from estbench.settings import ParitySettings

NAME = identity.digest("parity")  # of a store that is thrown away
WORST = 5  # turned choices and unequal texts that are listed a task


def sides_of(settings: ParitySettings) -> list[tuple[str, EvalSettings]]:
    """The two engines as they were typed, each with the settings of an eval."""
    specs = re.split(rf",(?=(?:{'|'.join(ENGINES)})(?:[:,]|$))", settings.engines)
    if len(specs) != 2:
        raise ConfigError(f"engines={settings.engines} has to name two engines: engines=hf,vllm.")
    if settings.tolerance < 0 or not 0 <= settings.equal <= 1:
        raise ConfigError("tolerance= is from 0 up, equal= from 0 to 1.")
    return [(spec, _side(settings, spec)) for spec in specs]


def _side(settings: ParitySettings, spec: str) -> EvalSettings:
    """The settings of ENGINE or ENGINE:KEY=VALUE:KEY=VALUE."""
    name, *words = re.split(r":(?=\w+=)", spec)
    if name not in ENGINES:
        raise ConfigError(f"engines= names {name!r}, which is not one of hf, vllm.{did_you_mean(name, ENGINES)}")
    if name == "openai":
        raise ConfigError("engines=: which weights an endpoint serves is not known; compare hf and vllm.")
    names = ("model", "tasks", "limit", "shots", "seed", "revision", "data", "include", "trust_task_code", "form")
    given = {name: getattr(settings, name) for name in names}
    options = dict(word.partition("=")[::2] for word in words)
    read_options(name, options)
    return EvalSettings(engine=name, engine_options=options, name="parity", **given)


def compare(settings: ParitySettings, say: Say = answering.silent, progress: Progress = answering.silent) -> Any:
    """Ask both engines, and say what differs. ConfigError, ModelError and DataError before anything is computed."""
    sides = sides_of(settings)
    specs, both = [spec for spec, _ in sides], [side for _, side in sides]
    model = engines.find_model(both[0], say)
    cards = registry.Registry.of(both[0]).select(settings.tasks).tasks
    scope = runner.scope_of(both[0])
    for name, error in runner.missing_parts(cards, model, scope.data).items():
        raise type(error)(f"{name}: {error}")
    for side in both:
        engines.check_parts(side.engine)
    tokens = engines.tokens_of(both[0], model)
    made: list[Engine] = []
    try:
        made += [engines.make(side, model, tokens, say) for side in both]
        plans = [render(card, tokens, min(engine.max_length for engine in made), scope) for card in cards]
        for plan in plans:
            for doc in plan.docs:
                doc.keys = [identity.response_key(NAME, request.content()) for request in doc.requests]
        given = [_ask(engine, plans, spec, say, progress) for engine, spec in zip(made, specs, strict=True)]
    finally:
        for engine in made:
            engine.close()
    (left, first), (right, second) = given
    tasks = [_task(plan, left, right, settings) for plan in plans]
    verdict = "past" if any(row["past"] for row in tasks) else "within"
    limits = {"tolerance": settings.tolerance, "equal": settings.equal}
    return {"model": model.name, "engines": [first, second], **limits, "tasks": tasks, "verdict": verdict}


def _ask(
    engine: Engine, plans: Sequence[TaskPlan], spec: str, say: Say, progress: Progress
) -> tuple[Answers, dict[str, Any]]:
    """All answers of one engine, and what it is. Its store is thrown away."""
    say(f"{spec} answers.")
    fingerprint = engine.fingerprint()  # here, and not for both at once: a server may have to run for it
    with tempfile.TemporaryDirectory() as folder, ResponseStore(NAME, Path(folder)) as store:
        answers = answering.answer(plans, engine, store, say=say, progress=progress)
    return answers, {"engine": spec, "fingerprint": fingerprint, "notes": engine.notes()}


def _task(plan: TaskPlan, one: Answers, other: Answers, settings: ParitySettings) -> dict[str, Any]:
    """What differs in one task, and what of that is past the tolerance."""
    keys = list(dict.fromkeys(key for doc in plan.docs for key in doc.keys))
    pairs = [(one.responses[key], other.responses[key]) for key in keys if _in_both(key, one, other)]
    numbers = [(a, b) for a, b in pairs if isinstance(a, Scored) and isinstance(b, Scored)]
    off = [abs(a.logprob - b.logprob) for a, b in numbers]
    flips = [flip for doc in plan.docs if (flip := turned(doc, one.responses, other.responses))]
    unequal, texts = _texts(plan.docs, one.responses, other.responses)
    missing = len(keys) - len(pairs)
    margin = max((flip["margin"] for flip in flips), default=0.0)
    past = [
        *([f"a log-likelihood differs by {max(off):.2g}"] if off and max(off) > settings.tolerance else []),
        *([f"a choice turns at a margin of {margin:.2g}"] if margin > settings.tolerance else []),
        *([f"{len(unequal)} of {texts} texts differ"] if texts and 1 - len(unequal) / texts < settings.equal else []),
        *([f"{missing} requests have no answer"] if missing else []),
    ]
    return {
        "task": plan.card.name,
        "docs": len(plan.docs),
        "requests": len(keys),
        "missing": missing,
        "scored": len(numbers),
        "largest": max(off, default=None),
        "mean": sum(off) / len(off) if off else None,
        "greedy_differs": sum(a.greedy != b.greedy for a, b in numbers),
        "flips": len(flips),
        "largest_margin": margin if flips else None,
        "turned": sorted(flips, key=lambda flip: -flip["margin"])[:WORST],
        "texts": texts,
        "equal_texts": 1 - len(unequal) / texts if texts else None,
        "unequal": unequal[:WORST],
        "past": past,
    }


def _in_both(key: str, one: Answers, other: Answers) -> bool:
    return key in one.responses and key in other.responses


def turned(doc: Doc, one: Mapping[str, Response], other: Mapping[str, Response]) -> dict[str, Any] | None:
    """A document whose best choice is another one: both choices, and how far apart the engines that see it so are.

    margin: the smaller of the two engines' own distances between the two choices, in nats.
    """
    rows = []
    for given in (one, other):
        found = [given.get(key) for key in doc.keys]
        values = [response.logprob for response in found if isinstance(response, Scored)]
        if len(values) < 2 or len(values) < len(doc.keys):
            return None
        rows.append(values)
    best = [values.index(max(values)) for values in rows]
    if best[0] == best[1]:
        return None
    margin = min(abs(values[best[0]] - values[best[1]]) for values in rows)
    return {"doc_id": doc.doc_id, "choices": best, "margin": margin}


def _texts(
    docs: Sequence[Doc], one: Mapping[str, Response], other: Mapping[str, Response]
) -> tuple[list[dict[str, Any]], int]:
    """Greedy answers that are not the same text, and how many there are in all. Sampled ones have no right to be."""
    unequal, n = [], 0
    for doc in docs:
        for request, key in zip(doc.requests, doc.keys, strict=True):
            a, b = one.get(key), other.get(key)
            if not isinstance(a, Generated) or not isinstance(b, Generated):
                continue
            if request.decoding and request.decoding.temperature == 0:
                n += 1
                if a.text != b.text:
                    unequal.append({"doc_id": doc.doc_id, "texts": [a.text, b.text]})
    return unequal, n


def as_text(found: dict[str, Any]) -> str:
    """The comparison for a terminal."""
    columns = {"task": "task", "requests": ">requests", "largest": ">largest Δ", "mean": ">mean Δ"}
    columns |= {
        "flips": ">choices turned",
        "largest_margin": ">at most by",
        "equal": ">texts equal",
        "verdict": "verdict",
    }
    rows = [
        row
        | {name: None if row[name] is None else f"{row[name]:.1e}" for name in ("largest", "mean", "largest_margin")}
        | {"flips": row["flips"] if row["scored"] else None}
        | {"equal": None if row["equal_texts"] is None else f"{row['equal_texts']:.0%} of {row['texts']}"}
        | {"verdict": "; ".join(row["past"]) or "within"}
        for row in found["tasks"]
    ]
    first, second = (side["engine"] for side in found["engines"])
    head = f"{found['model']}: {first} against {second} · tolerance {found['tolerance']:g} nats"
    return "\n".join([head, "", report.listing(rows, columns)])
