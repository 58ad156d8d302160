"""Many machines: whole packs of rendered token ids as work units on Ray, one engine a worker.

    engine = RayEngine(settings, model, say)    # cluster=local, auto, ray://host:port or host:port

The driver renders the plan, hands out packs and writes the responses; workers compute. A pack is computed whole by one
worker, so that scores have the bits of one process on the same kind of device, and the engine's fingerprint is the
workers' own: responses of one process are reused on a cluster, and the other way round.

Workers and nodes may die at any time. What they had is given to others, and a new worker takes their place where there
is room. A pack that kills three workers has no answer: it is missing data, not the end of the cluster. The driver may
die, too: Ray ends its workers, and the same command goes on from what is stored.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from estbench import config, ray_session
from estbench.config import EvalSettings, option
from estbench.engines.base import Answer, Failed, Pack, Packing, PackTooLarge
from estbench.errors import ConfigError, EngineError, did_you_mean
from estbench.ray_worker import Facts, Order, Reply, Worker

if TYPE_CHECKING:
    from estbench.checkpoint import Checkpoint

Say = Callable[[str], None]
TRIES = 3  # of a pack; a pack that kills a worker each time is given up
IN_FLIGHT = 2  # packs at a worker: one that it computes, one that waits, so that it never waits for the driver
TICK = 1.0  # seconds between looks at the clock
CLOSE_SECONDS = 10.0
SHARED = ("ESTBENCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
HIDDEN_GPUS = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "")


@dataclass(frozen=True)
class ClusterOptions:
    """`cluster.KEY=VALUE`."""

    workers: int | None = option("engines at work; default is one for each GPU, without GPUs one a node", None, least=1)
    gpus: int | None = option(
        "GPUs of a worker; default is what the engine needs, 1 where there are any", None, least=0
    )
    cpus: int = option("cores of a worker", 1, least=1)
    wait: float = option("seconds without any worker until the run is given up", 600.0)


def read_options(settings: EvalSettings) -> ClusterOptions:
    """The cluster's options, typed; ConfigError for what does not fit."""
    given, address = settings.cluster_options, settings.cluster
    if address is None:
        if given:
            raise ConfigError(f"cluster.{min(given)}= needs cluster=local, auto or ray://host:port.")
        return ClusterOptions()
    if not re.fullmatch(r"local|auto|(ray://)?[\w.-]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:]+\]:\d{1,5}", address):
        raise ConfigError(f"cluster={address} is not one of local, auto, ray://host:port, host:port.")
    if settings.engine == "openai":
        raise ConfigError("engine=openai needs no cluster=: one process keeps an endpoint busy (engine.concurrency=).")
    if "url" in settings.engine_options:
        raise ConfigError("engine.url= is a server that runs already: it needs no cluster=.")
    known = [item.name for item in dataclasses.fields(ClusterOptions)]
    for key in given:
        if key not in known:
            raise ConfigError(f"There is no key 'cluster.{key}'.{did_you_mean(key, known)} It has {', '.join(known)}.")
    try:
        return config.build(dict(given), ClusterOptions)
    except ConfigError as error:
        raise ConfigError(f"cluster.{error}") from None


class PackQueue:
    """Packs that wait, in plan order. A worker gets packs of one stem as long as there are any: it keeps the state
    after the stem. Workers take stems that nobody works on first, and help each other at the end."""

    def __init__(self, packs: Sequence[Pack]) -> None:
        self._groups: dict[Hashable, deque[Pack]] = {}
        self._at: dict[Hashable, Hashable] = {}  # worker -> its group
        for pack in packs:
            self._groups.setdefault(stem_of(pack), deque()).append(pack)

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def take(self, worker: Hashable) -> Pack | None:
        """The next pack for a worker; None when nothing waits."""
        key = self._at.get(worker)
        if key not in self._groups:
            key = self._next()
        if key is None:
            return None
        self._at[worker] = key
        group = self._groups[key]
        pack = group.popleft()
        if not group:
            del self._groups[key]
        return pack

    def put_back(self, pack: Pack) -> None:
        """A pack whose worker is gone comes first again."""
        self._groups.setdefault(stem_of(pack), deque()).appendleft(pack)

    def forget(self, worker: Hashable) -> None:
        """A worker that is gone holds no group."""
        self._at.pop(worker, None)

    def _next(self) -> Hashable | None:
        held = set(self._at.values())
        free = next((key for key in self._groups if key not in held), None)
        return free if free is not None else max(self._groups, key=lambda key: len(self._groups[key]), default=None)


def stem_of(pack: Pack) -> Hashable:
    """What packs have in common that an engine keeps: the task and the token ids of the stem."""
    return pack.task, pack.requests[0].prompt[: pack.stem[-1]].tobytes() if pack.stem else b""


@dataclass(eq=False)
class Seat:
    """A place in the cluster, and the worker that has it now. Calls are answered in order."""

    actor: Any
    calls: deque[tuple[str, Any, Pack | None]] = field(default_factory=deque)  # what, Ray's reference, pack
    facts: Facts | None = None
    ready: bool = False  # weights are loaded
    false_starts: int = 0  # workers in a row that died before they were ready

    @property
    def node(self) -> str:
        return self.facts.node if self.facts else "a node"

    def call(self, what: str, pack: Pack | None = None) -> None:
        method = getattr(self.actor, what)
        self.calls.append((what, method.remote() if pack is None else method.remote(pack), pack))

    @property
    def packs(self) -> list[Pack]:
        return [pack for _, _, pack in self.calls if pack is not None]


@dataclass(frozen=True)
class Event:
    """A call that came back: with a reply, or with the reason why its worker is gone."""

    seat: Seat
    pack: Pack | None
    what: str
    reply: Reply | None
    reason: str = ""


class RayEngine:
    """An engine whose packs are computed by workers on a Ray cluster."""

    def __init__(self, settings: EvalSettings, model: Checkpoint, say: Say) -> None:
        assert settings.cluster is not None
        self.options = read_options(settings)
        self.address, self.settings, self.model, self.say = settings.cluster, settings, model, say
        self.ray: Any = None
        self.seats: list[Seat] = []
        self.facts: Facts | None = None  # of the first worker; all others have to be like it
        self.loading = False
        self.tries: Counter[str] = Counter()  # by pack
        self.done: Counter[str] = Counter()  # packs by node
        self.restarts = 0
        self.heard: set[str] = set()
        self.kept: dict[str, Any] = {}  # notes, when the workers are gone

    @property
    def max_length(self) -> int:
        return self._known().max_length

    @property
    def packing(self) -> Packing:
        return self._known().packing

    @property
    def max_age(self) -> float | None:
        return self._known().max_age

    def fingerprint(self) -> dict[str, str]:
        """The workers' own: the same as of one process on such a device."""
        return self._known().fingerprint

    def load(self) -> None:
        """Let all workers load; returns when the first one has."""
        self._start()
        self.loading = True
        for seat in self.seats:
            if seat.facts:
                seat.call("load")
        while not any(seat.ready for seat in self.seats):
            self._look_after_workers()

    def answer(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        """Each pack with its answers, as they come. What is under way from an earlier call is not sent again."""
        wanted = {pack.id: pack for pack in packs}
        away = {pack.id for seat in self.seats for pack in seat.packs}
        queue = PackQueue([pack for pack in packs if pack.id not in away])
        while wanted:
            self._hand_out(queue)
            large: PackTooLarge | None = None
            for event in self._events():
                if event.reply is None:
                    yield from self._take_back(event, queue, wanted)
                elif event.pack is None or event.pack.id not in wanted:
                    continue
                elif event.reply.too_large:
                    large = PackTooLarge(event.pack, event.reply.too_large)
                else:
                    self.done[event.seat.node] += 1
                    yield wanted.pop(event.pack.id), cast(Sequence[Answer], event.reply.value)
            if large:
                raise large

    def notes(self) -> dict[str, Any]:
        return self.kept

    def close(self) -> None:
        """End the workers, and the Ray that was started for them."""
        if self.ray is None:
            return
        try:
            self._say_goodbye()
        finally:
            for seat in self.seats:
                self._kill(seat)
            self.seats, self.ray, self.loading = [], None, False
            ray_session.leave()

    # -- workers ------------------------------------------------------------------------------------------------------

    def _known(self) -> Facts:
        """What the first worker says of its engine; starts the cluster."""
        if self.facts is None:
            self._start()
        while self.facts is None:
            self._look_after_workers()
        return self.facts

    def _look_after_workers(self) -> None:
        for event in self._events():
            if event.reply is None:
                self._replace(event)

    def _start(self) -> None:
        if self.ray is not None:
            return
        options, local = self.options, self.address == "local"
        cpus = options.cpus * options.workers if options.workers else max(options.cpus, len(os.sched_getaffinity(0)))
        self.say("Ray is starting." if local else f"Joining Ray: cluster={self.address}.")
        self.ray = ray_session.join(self.address, cpus=cpus, gpus=0 if options.gpus == 0 else None)
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        self.gpus = options.gpus if options.gpus is not None else _gpus(self.settings, nodes)
        if local and self.gpus > max((node.get("GPU", 0) for node in nodes), default=0):
            raise ConfigError(f"cluster.gpus={self.gpus}: this machine has not so many GPUs that Ray can use.")
        self.count = count = options.workers or _room(nodes, self.gpus, options.cpus)
        self.order = Order(
            EvalSettings(
                model=self.settings.model,
                revision=self.settings.revision,
                name=self.settings.name,
                engine=self.settings.engine,
                engine_options=self.settings.engine_options,
            ),
            self.model.name,
            str(self.model.path.resolve()),
            self.model.fingerprint(),
            {key: os.environ[key] for key in SHARED if key in os.environ} | ({} if self.gpus else HIDDEN_GPUS),
        )
        self.last_alive = time.monotonic()
        self.seats = [Seat(None) for _ in range(count)]
        for seat in self.seats:
            self._engage(seat)
        each = f"{options.cpus} CPU{'s' * (options.cpus > 1)}" + (
            f", {self.gpus} GPU{'s' * (self.gpus > 1)}" * bool(self.gpus)
        )
        self.say(f"{count} worker{'s' * (count > 1)} of {each} each; nodes of the cluster: {len(nodes)}.")

    def _engage(self, seat: Seat) -> None:
        """A new worker for a seat. It waits in Ray until there is room."""
        remote = self.ray.remote(Worker).options(
            num_cpus=self.options.cpus, num_gpus=self.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        seat.actor, seat.facts, seat.ready = remote.remote(self.order), None, False
        seat.calls.clear()
        seat.call("open")

    def _events(self) -> list[Event]:
        """What came back meanwhile, by seat and in order; takes care of what concerns the workers themselves."""
        first = {seat.calls[0][1]: seat for seat in self.seats if seat.calls}
        if any(seat.facts for seat in self.seats):
            self.last_alive = time.monotonic()
        elif time.monotonic() - self.last_alive > self.options.wait:
            raise self._nobody()
        ready, _ = self.ray.wait(list(first), num_returns=1, timeout=TICK)
        if len(first) > 1 and ready:
            ready, _ = self.ray.wait(list(first), num_returns=len(first), timeout=0)
        return [event for reference in ready if (event := self._event(first[reference]))]

    def _event(self, seat: Seat) -> Event | None:
        what, reference, pack = seat.calls[0]
        reply, reason = self._fetch(reference)
        if reply is None:
            return Event(seat, pack, what, None, reason)
        seat.calls.popleft()
        for line in reply.said:
            if line not in self.heard:
                self.heard.add(line)
                self.say(line)
        if reply.error:
            raise reply.raised()
        if what == "open":
            self._admit(seat, reply.value)
        elif what == "load":
            seat.ready = True
        return Event(seat, pack, what, reply)

    def _fetch(self, reference: Any) -> tuple[Reply | None, str]:
        """A reply, or why there is none: the worker or its node is gone."""
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(reference), ""
        except exceptions.RayTaskError as error:  # not even a Reply could be made
            raise EngineError(f"A worker failed: {_last_line(error)}") from None
        except exceptions.RayActorError as error:
            if getattr(error, "actor_init_failed", False) or getattr(error, "_actor_init_failed", False):
                raise EngineError(
                    f"Workers can't be started: {_last_line(error)} (all nodes need the same estbench and Ray)."
                ) from None
            return None, _reason(error)
        except exceptions.RayError as error:
            return None, _reason(error)

    def _admit(self, seat: Seat, facts: Facts) -> None:
        """Take note of a new worker; ConfigError if its engine is not like that of the others."""
        self.facts = self.facts or facts
        ours, theirs = self.facts.fingerprint, facts.fingerprint
        if differ := [key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)]:
            key = differ[0]
            raise ConfigError(
                f"The cluster is mixed: {key} is {ours.get(key)} on node {self.facts.node} and {theirs.get(key)} on "
                f"node {facts.node}. A run takes one kind of device and one set of versions."
            )
        seat.facts = facts
        if self.loading:
            seat.call("load")

    # -- packs --------------------------------------------------------------------------------------------------------

    def _hand_out(self, queue: PackQueue) -> None:
        ready = [seat for seat in self.seats if seat.ready]
        for depth in range(1, IN_FLIGHT + 1):
            for seat in ready:
                spare = depth == 1 or len(queue) > len(ready)  # towards the end nobody gets two
                if len(seat.calls) < depth and spare and (pack := queue.take(seat)):
                    seat.call("answer", pack)

    def _take_back(
        self, event: Event, queue: PackQueue, wanted: dict[str, Pack]
    ) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        """Put the packs of a dead worker back; the one that it computed has used a try, and may have no more."""
        lost = [pack for pack in event.seat.packs if pack.id in wanted]
        queue.forget(event.seat)
        self._replace(event)
        if event.pack is not None and event.pack.id in wanted:
            self.tries[event.pack.id] += 1
        for pack in reversed(lost):
            if self.tries[pack.id] < TRIES:
                queue.put_back(pack)
                continue
            failed = Failed(
                f"{TRIES} workers died while they computed this pack of {len(pack.requests)} requests of {pack.task}: "
                f"{event.reason}"
            )
            yield wanted.pop(pack.id), [failed] * len(pack.requests)

    def _replace(self, event: Event) -> None:
        """A new worker in place of one that died; none where they die before they are ready, time after time."""
        seat = event.seat
        self._kill(seat)
        self.restarts += 1
        self.say(f"A worker on {seat.node} is gone ({event.reason}); its packs go to others.")
        seat.false_starts = 0 if seat.ready else seat.false_starts + 1
        if seat.false_starts < TRIES:
            return self._engage(seat)
        self.seats.remove(seat)
        if not self.seats:
            raise EngineError(f"All workers died before they were ready, {TRIES} times each: {event.reason}.")
        self.say(f"{TRIES} workers in a row died before they were ready: {len(self.seats)} remain.")

    def _nobody(self) -> EngineError:
        free = self.ray.available_resources()
        has = f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs"
        return EngineError(
            f"No worker for {self.options.wait:g} s: the cluster has {has} to spare, a worker wants "
            f"{self.options.cpus} and {self.gpus}. Start nodes, or change cluster.cpus=, cluster.gpus= or "
            "cluster.wait=; what is stored is kept."
        )

    def _kill(self, seat: Seat) -> None:
        try:
            self.ray.kill(seat.actor)
        except Exception:  # it is gone, or the whole cluster
            return

    def _say_goodbye(self) -> None:
        """Fetch the engines' notes and let them end what they started, if they are idle."""
        idle = [seat for seat in self.seats if seat.ready and not seat.calls]
        found: list[dict[str, Any]] = []
        for what in ("notes", "close"):
            calls = [getattr(seat.actor, what).remote() for seat in idle]
            ready, _ = self.ray.wait(calls, num_returns=len(calls), timeout=CLOSE_SECONDS) if calls else ([], [])
            for reference in ready if what == "notes" else []:
                reply, _ = self._fetch(reference)
                found += [reply.value] if reply and reply.value else []
        cluster = {"workers": self.count, "nodes": len(self.done), "restarts": self.restarts}
        self.kept = merged(found) | {"cluster": cluster}


def merged(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Notes of several engines as of one: numbers are added up, other values are kept where they are equal."""
    result: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in notes for key in one):
        values = [one[key] for one in notes if key in one]
        if all(isinstance(value, dict) for value in values):
            result[key] = merged(values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            result[key] = sum(values)
        else:
            result[key] = values[0] if all(value == values[0] for value in values) else values
    return result


def _gpus(settings: EvalSettings, nodes: Sequence[dict[str, float]]) -> int:
    """GPUs that an engine needs, by its own options; 1 where the cluster has any."""
    given = settings.engine_options
    if given.get("device") == "cpu":
        return 0
    asked = [
        given[key] for key in ("gpus", "tensor_parallel_size", "data_parallel_size") if given.get(key, "").isdigit()
    ]
    several = 1
    for number in asked:
        several *= int(number)
    return several if any(node.get("GPU") for node in nodes) else 0


def _room(nodes: Sequence[dict[str, float]], gpus: int, cpus: int) -> int:
    """How many workers the cluster has room for; without GPUs one a node, since each holds the whole model."""
    if not gpus:
        return max(1, sum(node.get("CPU", 0) >= cpus for node in nodes))
    return max(1, sum(min(int(node.get("GPU", 0)) // gpus, int(node.get("CPU", 0)) // cpus) for node in nodes))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _reason(error: Exception) -> str:
    """Ray's long explanation in a few words."""
    text = " ".join(str(error).split())
    if "node" in text.lower() and re.search(r"node .{0,80}(died|dead|terminated|failed)", text, re.IGNORECASE):
        return "its node died"
    if "OOM" in type(error).__name__ or "OutOfMemory" in type(error).__name__ or "memory monitor" in text.lower():
        return "its node ran out of memory"
    if "worker process has died" in text or "Worker unexpectedly exits" in text:
        return "its process died"
    return text[:200] or type(error).__name__
