"""plan -> packs -> responses: what is asked of an engine, in which portions, and what a failure means.

    answers = answer(plans, engine, store, say, progress)     # Answers(responses, failures, ...)

What follows from answers (a second turn, a repeated question) is asked in rounds, by the same loaded engine. Packs come
from the whole plan; of a pack only what has no response yet is asked. A response is on disk before it counts
as done. A request that failed is missing data: it is neither stored nor scored, and the same command asks it again. A
pack that does not fit into memory is halved; the store notes that, so that a run that goes on makes the same packs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from estbench.engines import batches, trie
from estbench.engines.base import Answer, Engine, Failed, Pack, Packing, PackTooLarge, Request, Response
from estbench.errors import EngineError
from estbench.responses import ResponseStore

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # task, tokens done, tokens in all

HOPELESS = 20  # failures without a single answer: nothing will come


def silent(*_: object) -> None:
    """A listener that hears nothing."""


class Asked(Protocol):
    """What is asked of an engine: a task's plan, or `Questions`."""

    @property
    def keys(self) -> Iterable[str]:
        """The response keys that are wanted."""

    def packs(self, packing: Packing) -> list[Pack]:
        """The requests, each key once, in the packs in which they are computed."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Requests by key, under one name."""

    name: str
    requests: Mapping[str, Request]

    @property
    def keys(self) -> Iterable[str]:
        return self.requests.keys()

    def packs(self, packing: Packing) -> list[Pack]:
        scored = {key: request for key, request in self.requests.items() if request.decoding is None}
        generated = {key: request for key, request in self.requests.items() if request.decoding is not None}
        return [
            *trie.scoring_packs(self.name, scored, packing),
            *batches.generation_packs(self.name, generated, packing),
        ]


@dataclass
class Answers:
    """What was found and computed, by response key."""

    responses: dict[str, Response]
    failures: dict[str, str] = field(default_factory=dict)  # key -> why there is no response
    computed: int = 0  # responses that came, in all rounds, and were not stored before


Then = Callable[[Answers], Sequence[Asked]]  # what follows from the answers so far; nothing: that was all


def answer(
    plans: Sequence[Asked],
    engine: Engine,
    store: ResponseStore,
    loaded: Callable[[], None] = silent,
    say: Say = silent,
    progress: Progress = silent,
    then: Then = lambda _: (),
) -> Answers:
    """Responses for every key of the plans: stored ones, and new ones that are stored as they come.

    loaded: called once the engine has loaded, which it does only if there is something to compute.
    then: called after each round, until it has no more to ask.
    """
    answers, asking, wanted = Answers({}), False, 0
    try:
        while plans:
            missing = _stored(plans, engine, store, answers, say if not wanted else silent)
            wanted += sum(len({*plan.keys}) for plan in plans)
            if missing and not asking:
                engine.load()
                asking = True
                loaded()
            if missing:
                _compute(plans, engine, store, answers, progress)
            plans = then(answers)
    finally:
        if asking:
            engine.close()
    if answers.failures:
        reason = next(iter(answers.failures.values()))
        say(f"{len(answers.failures):,} of {wanted:,} requests have no response ({reason}).")
    return answers


def _stored(plans: Sequence[Asked], engine: Engine, store: ResponseStore, answers: Answers, say: Say) -> bool:
    """Take what is stored of a round; whether something is missing."""
    wanted = {key for plan in plans for key in plan.keys}
    since = None if engine.max_age is None else time.time() - engine.max_age
    damaged = store.damaged
    found = store.load(wanted, since)
    answers.responses |= found
    if not damaged and store.damaged:
        say(f"{store.damaged} damaged lines in {store.folder} are computed again.")
    if wanted and len(found) == len(wanted):
        say(f"All {len(wanted):,} responses are stored already: no token is forwarded.")
    elif found:
        say(f"{len(found):,} of {len(wanted):,} responses are stored already.")
    return len(found) < len(wanted)


def _compute(
    plans: Sequence[Asked], engine: Engine, store: ResponseStore, answers: Answers, progress: Progress
) -> None:
    packs = open_packs(plans, engine.packing, answers.responses, store.splits)
    totals: dict[str, int] = {}
    for pack in packs:
        totals[pack.task] = totals.get(pack.task, 0) + pack.tokens
    done = dict.fromkeys(totals, 0)
    for task, total in totals.items():
        progress(task, 0, total)
    for pack, given in _in_portions(engine, packs, store):
        new = {key: one for key, one in zip(pack.keys, given, strict=True) if not isinstance(one, Failed)}
        if new:
            store.append(new)
            answers.responses |= new
            answers.computed += len(new)
        answers.failures |= {
            key: one.reason for key, one in zip(pack.keys, given, strict=True) if isinstance(one, Failed)
        }
        done[pack.task] += pack.tokens
        progress(pack.task, done[pack.task], totals[pack.task])
        if len(answers.failures) >= HOPELESS and not answers.computed:
            raise _hopeless(answers)
    if answers.failures and not answers.responses:
        raise _hopeless(answers)


def open_packs(
    plans: Sequence[Asked], packing: Packing, have: Container[str], splits: Container[str] = ()
) -> list[Pack]:
    """The packs of all tasks with what has no response yet; a request that two tasks ask is in the first one's pack."""
    packs: list[Pack] = []
    taken: set[str] = set()
    for plan in plans:
        for whole in plan.packs(packing):
            for pack in _parts(whole, splits):
                left = [i for i, key in enumerate(pack.keys) if key not in have and key not in taken]
                taken.update(pack.keys[i] for i in left)
                if left:
                    keys, requests = (tuple(part[i] for i in left) for part in (pack.keys, pack.requests))
                    packs.append(Pack(pack.task, keys, requests, pack.stem))  # type: ignore[arg-type]
    return packs


def _parts(pack: Pack, splits: Container[str]) -> Iterator[Pack]:
    """The pack, or the parts it was split into."""
    if pack.id in splits and len(pack.requests) > 1:
        for half in pack.halves():
            yield from _parts(half, splits)
    else:
        yield pack


def _in_portions(
    engine: Engine, packs: Sequence[Pack], store: ResponseStore
) -> Iterator[tuple[Pack, Sequence[Answer]]]:
    """Each pack with its answers; packs that are too large are halved, and asked again."""
    waiting = {pack.id: pack for pack in packs}
    while waiting:
        try:
            for pack, given in engine.answer(list(waiting.values())):
                del waiting[pack.id]
                yield pack, given
            return
        except PackTooLarge as error:
            if len(error.pack.requests) == 1:
                raise EngineError(
                    f"{error} That is a single request of {error.pack.tokens:,} tokens: take a larger machine, "
                    "engine.dtype=bfloat16, or fewer shots (shots=)."
                ) from None
            store.split(error.pack.id)
            parts = {pack.id: _parts(pack, {error.pack.id}) for pack in waiting.values()}
            waiting = {part.id: part for found in parts.values() for part in found}


def _hopeless(answers: Answers) -> EngineError:
    reason = next(iter(answers.failures.values()))
    return EngineError(f"None of the first {len(answers.failures)} requests got an answer: {reason}")
