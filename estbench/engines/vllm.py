"""A vLLM server as an engine: one that runs already (`engine.url=`), or one that is started and watched here.

Prompts travel as token ids on /v1/completions. How log-likelihoods are asked for is in `vllm_scoring`, how answers are
in `vllm_generation`. What the server can do is tried before the first log-likelihood: the two ways to a number have to
give the same one. Many prompts are under way together; a pack is stored when its last part is in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from estbench import identity
from estbench.checkpoint import Checkpoint
from estbench.engines import vllm_identity, vllm_scoring
from estbench.engines.base import Answer, Pack, Packing
from estbench.engines.options import VllmOptions
from estbench.engines.transport import Call, Transport
from estbench.engines.vllm_generation import Style, Writing, ends_of
from estbench.engines.vllm_scoring import Costs, Echo, Part, Walk, Work
from estbench.engines.vllm_server import Recipe, Server, recipe_for
from estbench.errors import EngineError
from estbench.tokens import Tokens

CODE = ("vllm.py", "vllm_scoring.py", "vllm_generation.py", "vllm_server.py", "thinking.py")  # may change an answer
SPARE = 2  # tokens of the context that vLLM wants for itself: an echo has the last token, and one is always written
KEY_VARIABLE = "VLLM_API_KEY"  # of a server that runs already
PATIENCE = 15.0  # seconds without a connection after which our own server is looked at


class VllmEngine:
    """One model on one vLLM server."""

    packing = Packing(nodes=1024, rows=16, tokens=1 << 20)  # small packs: a kill loses what is not whole

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokens: Tokens,
        options: VllmOptions | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.checkpoint, self.tokens, self.options, self.say = checkpoint, tokens, options or VllmOptions(), say
        self.recipe: Recipe | None = None if self.options.url else recipe_for(self.options)
        self.server: Server | None = None
        self.transport: Transport | None = None
        self.seen: vllm_identity.Seen | None = None
        self._notes: dict[str, Any] = {}
        self._ways: dict[str, str] = {}  # task -> walk or echo
        self._able: tuple[str, ...] | None = None  # the ways to log-likelihoods that are right

    @property
    def max_length(self) -> int:
        if self.options.url:
            return self._look().max_length - SPARE
        own = self.checkpoint.max_length or 2048
        return min(own, self.options.max_model_len or own) - SPARE

    @property
    def max_age(self) -> float | None:
        """For ever where the weights are known, 30 days where a server's word is all there is."""
        return vllm_identity.MAX_AGE if self.options.url and not self._look().verified else None

    def fingerprint(self) -> dict[str, str]:
        folder = Path(__file__)
        code = hashlib.sha256(b"".join(folder.with_name(name).read_bytes() for name in CODE)).hexdigest()[:16]
        common = {"engine": "vllm", "code": code, "thinking_tokens": str(self.options.thinking_tokens)}
        if self.options.url:
            return common | self._look().fingerprint
        assert self.recipe is not None
        if self.recipe.version is None:
            self._start()  # only the running server knows
        version = self.recipe.version or (self.server.version if self.server else None) or "unknown"
        given = {"args": self.options.args, "command": self.options.command}
        more = {key: value for key, value in given.items() if value}
        if self.options.thinking_tokens and self.options.max_model_len:
            more["max_model_len"] = str(self.options.max_model_len)  # thinking ends there
        if self.options.lora:
            more["lora"] = _adapter_hash(Path(self.options.lora))
        dtype = self.recipe.dtype
        if dtype == "auto":
            saved = self.checkpoint.config.get("dtype") or self.checkpoint.config.get("torch_dtype")
            dtype = str(saved) if saved in ("bfloat16", "float16") else "auto"  # vLLM makes less of float32
        return common | {"vllm": version, "dtype": dtype, "device": self.recipe.device or "of the command"} | more

    def load(self) -> None:
        if self.options.url:
            self._look()
        else:
            self._start()

    def close(self) -> None:
        """End what is under way, and a server of our own."""
        if self.transport is not None:
            self.transport.close()
        if self.server is not None:
            self.server.close()
        self.server = self.transport = None

    def notes(self) -> dict[str, Any]:
        ways = {"scoring": dict(self._ways)} if self._ways else {}
        observed = {"observed": self.seen.observed} if self.seen and self.seen.observed else {}
        return ways | observed | self._notes

    @property
    def _model(self) -> str:
        """What the server calls the model."""
        return self.server.model if self.server else self._look().name

    def _start(self) -> None:
        """Start our own server, unless it runs."""
        if self.server is None:
            assert self.recipe is not None
            self.server = Server(self.recipe, self.checkpoint.path, self.options, self.say)
            self.server.start()
            self._connect()

    def _connect(self) -> Transport:
        if self.transport is not None:
            self.transport.close()
        own = self.server is not None
        self.transport = Transport(
            self.server.url if self.server else str(self.options.url),
            key_variable=Server.key_variable if own else KEY_VARIABLE,
            most=self._most,
            start=self._most,
            timeout=self.options.timeout,
            **({"patience": PATIENCE} if own else {}),
        )
        return self.transport

    @property
    def _cpu(self) -> bool:
        return self.recipe is not None and self.recipe.device == "cpu"

    @property
    def _most(self) -> int:
        """HTTP requests under way. A CPU gains little from more, and each of them would take long."""
        return min(self.options.concurrency, 16) if self._cpu else self.options.concurrency

    def _look(self) -> vllm_identity.Seen:
        """What a running server shows of itself. ConfigError if it serves another model."""
        if self.seen is None:
            transport = self.transport or self._connect()
            self.seen = vllm_identity.look(transport, self.checkpoint, self.tokens, self.options.model)
            if not self.seen.verified:
                self.say(
                    f"{transport.url}: nothing shows that the weights it serves are those of {self.checkpoint.path}; "
                    "the run says so, and its responses count for 30 days."
                )
        return self.seen

    def answer(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        """Each pack with its answers, in the order in which they are done."""
        waiting = {pack.id: pack for pack in packs}
        before = self._cache_counts()
        while waiting:
            left = len(waiting)
            try:
                for pack, answers in self._pass(list(waiting.values())):
                    del waiting[pack.id]
                    yield pack, answers
            except EngineError:
                restarts = self.server.restarts if self.server else 0
                if self.server is None:
                    raise
                self.server.revive()
                if self.server.restarts == restarts and len(waiting) == left:
                    raise  # it lives, and yet nothing comes
                self._connect()
        after = self._cache_counts()
        if before and after and self.server is not None and not self.server.restarts:
            for name, found in (("prompt_tokens", after[1] - before[1]), ("prefix_cache_hits", after[0] - before[0])):
                self._notes[name] = self._notes.get(name, 0) + found  # a worker of a cluster is asked pack by pack

    def _cache_counts(self) -> tuple[int, int] | None:
        """What came out of our own server's prefix cache; a foreign one has other callers."""
        if self.server is not None:
            with contextlib.suppress(EngineError):  # nothing hangs on it
                return vllm_identity.cache_counts(self._asking())
        return None

    def _asking(self) -> Transport:
        assert self.transport is not None, "load() comes first"
        return self.transport

    def _pass(self, packs: Sequence[Pack]) -> Iterator[tuple[Pack, Sequence[Answer]]]:
        """The packs, as long as the server lives."""
        self._choose(packs)
        schedule = Schedule(packs, self._work, self._most * vllm_scoring.PROMPTS // 2)
        for call, given in self._asking().run(schedule.calls()):
            done = schedule.take(call, given)
            if done is not None:
                yield done

    def _work(self, pack: Pack) -> Work:
        if pack.scores:
            return (Walk if self._ways[pack.task] == "walk" else Echo)(pack, self._model)
        return Writing(pack, self._model, self._style())

    def _style(self) -> Style:
        def config(name: str) -> dict[str, Any]:
            path = self.checkpoint.path / name
            found = json.loads(path.read_text("utf-8")) if path.exists() else {}
            return found if isinstance(found, dict) else {}

        return Style(self.tokens, ends_of(config, self.tokens), self.max_length, self.options.thinking_tokens)

    def _choose(self, packs: Sequence[Pack]) -> None:
        """Walk or echo, task by task."""
        tasks: dict[str, list[Pack]] = {}
        for pack in packs:
            if pack.scores and pack.task not in self._ways:
                tasks.setdefault(pack.task, []).append(pack)
        if not tasks:
            return
        if self._able is None:
            self._able = self._probe(next(iter(tasks.values()))[0])
        costs = self._costs()
        for task, own in tasks.items():
            asked = self.options.scoring
            way = vllm_scoring.cheaper(own, costs) if asked == "auto" else asked
            self._ways[task] = way if way in self._able else self._able[0]

    def _probe(self, pack: Pack) -> tuple[str, ...]:
        """The ways to log-likelihoods that this server gets right. EngineError where there is none."""
        close = vllm_identity.CLOSE if self.recipe and self.recipe.dtype == "float32" else vllm_identity.ROUGH
        faults = vllm_identity.examine(self._asking(), self._model, pack.requests[0], close)
        if len(faults) == 2:
            raise EngineError(f"{self._asking().url} gives no log-likelihoods that hold: {'; '.join(faults.values())}.")
        for way, why in faults.items():
            lost = "log-likelihoods are echoed whole, which is slow" if way == "walk" else "every token is asked alone"
            self.say(f"vLLM's way to log-likelihoods by {way} is not right here ({why}), so {lost}.")
        return tuple(way for way in ("walk", "echo") if way not in faults)

    def _costs(self) -> Costs:
        block = vllm_identity.cache_block(self._asking())
        devices = self.options.tensor_parallel_size * self.options.data_parallel_size
        return vllm_scoring.costs_of(self.checkpoint.parameters, block=block, cpu=self._cpu, devices=devices)


class Schedule:
    """Packs as HTTP requests: so many prompts under way, and what follows from an answer before anything new."""

    def __init__(self, packs: Sequence[Pack], work: Callable[[Pack], Work], most: int) -> None:
        self._packs, self._make, self._most = packs, work, most
        self._next: deque[Call[Any]] = deque()  # follow-ups
        self._left: dict[int, int] = {}  # work -> its parts that are not done
        self._prompts = 0  # under way

    def calls(self) -> Iterator[Call[Any] | None]:
        """What `Transport.run` takes."""
        for pack in self._packs:
            work = self._make(pack)
            parts = work.parts()
            self._left[id(work)] = len(parts)
            for part in parts:
                yield from self._first()
                while self._prompts and self._prompts + part.prompts > self._most:
                    yield None
                    yield from self._first()
                yield self._send(pack, work, part)
        while self._left:
            yield from self._first()
            if self._left:
                yield None

    def _first(self) -> Iterator[Call[Any]]:
        while self._next:
            yield self._next.popleft()

    def _send(self, pack: Pack, work: Work, part: Part) -> Call[Any]:
        self._prompts += part.prompts
        return Call("completions", check=part.check, body=part.body, tag=(pack, work, part))

    def take(self, call: Call[Any], given: Any) -> tuple[Pack, list[Answer]] | None:
        """A part's answer; the pack and its answers once it is whole."""
        pack, work, part = call.tag
        self._prompts -= part.prompts
        more = work.take(part, given)
        self._next.extend(self._send(pack, work, one) for one in more)
        self._left[id(work)] += len(more) - 1
        if self._left[id(work)]:
            return None
        del self._left[id(work)]
        return pack, work.answers()


def _adapter_hash(folder: Path) -> str:
    files = [folder / name for name in ("adapter_model.safetensors", "adapter_config.json")]
    found = identity.FileHashes().of(files)
    return identity.digest([[file.name, found[file][0]] for file in files])
