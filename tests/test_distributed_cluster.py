"""A real Ray, of this machine alone and of three raylets: whatever is killed, the bits are those of one process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_resume import evidence
from worlds import World

from estbench.runs import Run

DRIVER = """
import dataclasses, os, sys, time
from pathlib import Path
from estbench import distributed, ray_worker, registry
from estbench.cli import main
from estbench.engines.base import Packing
from estbench.engines.hf import HFEngine

class Slow(ray_worker.Worker):  # so that there is something to interrupt
    def answer(self, pack):
        time.sleep(0.15)
        return super().answer(pack)

folder, tries = Path(sys.argv[1]), int(sys.argv[2])
registry.project_file = lambda name: folder / name
distributed.Worker, distributed.TRIES = Slow, tries
# The size of packs is in the fingerprint, and workers are processes of their own, in which it is as it always is.
named, usual = HFEngine.fingerprint, HFEngine.packing.func
HFEngine.fingerprint = lambda self: named(self) | {"packs": "/".join(map(str, dataclasses.astuple(usual(self))))}
HFEngine.packing = distributed.RayEngine.packing = Packing(nodes=40, rows=4)
sys.exit(main(sys.argv[3:]))
"""

CLUSTER = """
import json, os, sys
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="token")
import psutil
from ray.cluster_utils import Cluster

def below():
    return set(psutil.Process().children(recursive=True))

cluster, nodes = Cluster(initialize_head=False), []
for attempt in range(9):  # Ray gives its parts fixed times to start, which a busy machine misses
    before = below()
    try:
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False))
    except Exception as error:
        print(error, file=sys.stderr)
        for process in below() - before:
            process.kill()
        if not nodes:
            cluster = Cluster(initialize_head=False)
    if len(nodes) == 3:
        break
raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


class Driver:
    """`estbench eval` in a process of its own, in a home of its own."""

    def __init__(self, world: World, model: Path, home: Path, *words: str, tries: int = 3) -> None:
        common = ["eval", f"model={model}", "tasks=both", f"data={world.data}", "output=json"]
        self.words = [sys.executable, "-c", DRIVER, str(world.folder), str(tries), *common, *words]
        ray = {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # loopback
        self.env = os.environ | ray | {"ESTBENCH_HOME": str(home)}
        self.home = home

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.words, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def finish(self, process: subprocess.Popen[bytes] | None = None) -> tuple[dict[str, Any], str]:
        process = process or self.start()
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
        return json.loads(out), err.decode()

    def stored(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.home.glob("responses/*/*.jsonl"))

    def wait_for(self, packs: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 240
        while self.stored() < packs:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline, "nothing was computed"
            time.sleep(0.02)


TOKEN = "5" * 64


def below(pid: int) -> dict[int, str]:
    """All processes below one: pid -> what it is called."""
    import psutil

    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[child.pid] = " ".join(child.cmdline())
    return found


def alive(pids: Any) -> list[int]:
    import psutil

    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def gone(pids: Any, seconds: float = 180) -> bool:
    """Wait until none is alive. Workers ask the system whether their raylet is; in a container whose first process
    reaps nobody a dead one seems alive for a minute or two."""
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not alive(pids)


def workers(raylet: int) -> list[int]:
    """Workers of ours below a raylet."""
    return [pid for pid, name in below(raylet).items() if name.startswith("ray::Slow")]


@pytest.fixture(scope="module")
def three(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A Ray cluster of three raylets with a core each: its address and the raylets' pids."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=os.environ | {"RAY_AUTH_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdin is not None
    line = process.stdout.readline()
    while line and not line.startswith(b"{"):
        line = process.stdout.readline()
    found = json.loads(line)
    assert len(found["raylets"]) == 3
    yield found
    started = below(process.pid)
    process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    process.stdout.close()
    for pid in alive([*started, process.pid]):
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("cluster") / "world", n=60)


@pytest.fixture(scope="module")
def calm(world: World, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The evidence of one process that nobody disturbs."""
    result, _ = Driver(world, tiny_model, tmp_path_factory.mktemp("calm")).finish()
    return evidence(result)


@pytest.mark.slow
@pytest.mark.needs("ray", "psutil")
def test_scores_of_three_nodes_equal_one_process_after_a_worker_and_a_node_were_killed(
    world: World, tiny_model: Path, tmp_path: Path, three: dict[str, Any], calm: Any
) -> None:
    driver = Driver(world, tiny_model, tmp_path / "home", f"cluster={three['address']}", "cluster.workers=3")
    process = driver.start()
    driver.wait_for(4, process)
    deadline = time.monotonic() + 120
    while not all(workers(pid) for pid in three["raylets"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(workers(three["raylets"][0])[0], signal.SIGKILL)
    driver.wait_for(12, process)
    os.kill(three["raylets"][2], signal.SIGKILL)
    result, err = driver.finish(process)
    assert "is gone" in err
    assert evidence(result) == calm
    manifest = Run(result["folder"]).manifest
    assert manifest["engine"]["cluster"]["restarts"] >= 1
    lines = [line for path in driver.home.glob("responses/*/*.jsonl") for line in path.read_text().splitlines()]
    keys = [key for line in lines for key in json.loads(line.partition(" ")[2])]
    assert len(keys) == len(set(keys)) == 180  # none lost, none computed twice


@pytest.mark.slow
@pytest.mark.needs("ray", "psutil")
def test_a_killed_worker_would_lose_answers_if_packs_were_not_given_to_others(
    world: World, tiny_model: Path, tmp_path: Path, three: dict[str, Any], calm: Any
) -> None:
    """The control of the test above: with one try a pack, the same kill costs answers. Ctrl-C then ends all workers."""
    words = (f"cluster={three['address']}", "cluster.workers=1")
    driver = Driver(world, tiny_model, tmp_path / "home", *words, tries=1)
    process = driver.start()
    driver.wait_for(4, process)
    [worker] = [pid for raylet in three["raylets"] for pid in workers(raylet)]
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert "have no response (1 workers died" in err.decode() or "died in a row" in err.decode()
    assert process.returncode != 0 or evidence(json.loads(out)) != calm


@pytest.mark.slow
@pytest.mark.needs("ray", "psutil")
def test_ctrl_c_ends_the_workers_of_a_cluster(
    world: World, tiny_model: Path, tmp_path: Path, three: dict[str, Any]
) -> None:
    driver = Driver(world, tiny_model, tmp_path / "home", f"cluster={three['address']}", "cluster.workers=1")
    process = driver.start()
    driver.wait_for(2, process)
    pids = [pid for raylet in three["raylets"] for pid in workers(raylet)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command goes on from there" in err.decode()
    assert pids and gone(pids)


@pytest.mark.slow
@pytest.mark.needs("ray", "psutil")
def test_a_cluster_of_this_machine_survives_its_driver_and_leaves_nothing_behind(
    world: World, tiny_model: Path, tmp_path: Path, calm: Any
) -> None:
    import psutil

    driver = Driver(world, tiny_model, tmp_path / "home", "cluster=local", "cluster.workers=2")
    process = driver.start()
    driver.wait_for(5, process)
    started = below(process.pid)
    assert any("raylet" in name for name in started.values()) and any("ray::Slow" in name for name in started.values())
    addresses = {
        connection.laddr.ip
        for pid in alive(started)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses and all("127.0.0.1" in ip or ip == "::1" for ip in addresses)  # nobody else can reach it
    process.kill()
    process.communicate()
    assert gone(started)  # no orphan
    result, err = driver.finish()
    assert "are stored already" in err and evidence(result) == calm
    alone = Driver(world, tiny_model, tmp_path / "home")
    again, err = alone.finish()
    assert "no token is forwarded" in err and evidence(again) == calm
