"""What the board costs: a fixed rate of requests, first answers, comparisons, growth, sizes, a phone's first paint.

    OMP_NUM_THREADS=1 python benchmarks/leaderboard.py [database=sqlite,postgresql] [docs=1000] [growth=4] [seconds=10]
    … paint=false      without the browser          world=FILE      a SQLite database that `world` made, for trying

The world is that of the tests (tests/board_world.py): 200 chat models × 30 tasks × 1,000 docs and 59 base models by the
names of EuroEval's 259, 12 checkpoints, all answers. One uvicorn process serves it on loopback, another process asks.

    warm       the board at a fixed rate whether it keeps up or not; times count from when a request was due, so that a
               stall counts for all that had to wait (no coordinated omission)
    written_to the same while the board is made anew beside the answers, since the database has changed
    cold       50 different filters, sorts, views and weights, each asked once
    compare    pairs and sixes of models, each once; model, task, run, sample: different ones, each once
    growth     the same addresses in a world with `growth` times the documents
    paint      first contentful paint in Chromium as a phone: 150 ms, 1.6 Mbit/s, a processor four times slower

Prints medians of three repeats as JSON: milliseconds, except where a name says otherwise.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RATE, CONNECTIONS, REPEATS = 500, 32, 3
SIZE = {"models": 200, "tasks": 30, "base": 59}
PHONE = {"latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 750e3 / 8, "offline": False}
WARM = ("/", "/en/", "/?size=small", "/?view=tasks", "/?board=base")


# ---- the server


def serve(url: str) -> None:
    """Serve a database on a free port, and say which."""
    import uvicorn
    from estbench_leaderboard.app import create
    from estbench_leaderboard.serve import listening
    from estbench_leaderboard.site import Site

    from estbench.database import open_database

    site = Site(open_database(url, create=False))
    start = time.perf_counter()
    site.snapshots.current()
    ready = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with listening("127.0.0.1", 0) as door:
        print(json.dumps({"port": door.getsockname()[1], "snapshot_s": ready, "peak_mb": peak / 1024}), flush=True)
        uvicorn.Server(uvicorn.Config(create(site), log_level="warning", access_log=False)).run([door])


@contextmanager
def served(url: str) -> Iterator[dict[str, Any]]:
    """A server in a process of its own: {"port", "pid", "snapshot_s", "peak_mb"}."""
    command = [sys.executable, __file__, "serve", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield json.loads(line) | {"pid": process.pid}
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- asking


def load(port: int, seconds: float, rate: float) -> None:
    """Ask at a fixed rate; prints the times from when each request was due."""
    print(json.dumps(asyncio.run(_load(port, seconds, rate))))


async def _load(port: int, seconds: float, rate: float) -> dict[str, float]:
    due: asyncio.Queue[tuple[float, str]] = asyncio.Queue()
    times: list[float] = []
    failed = 0

    async def connection() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            at, path = await due.get()
            asked = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: gzip\r\n\r\n"
            writer.write(asked.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            failed += not head.startswith(b"HTTP/1.1 200")
            times.append(time.perf_counter() - at)

    workers = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    start, count = time.perf_counter() + 0.1, int(seconds * rate)
    for place in range(count):
        at = start + place / rate
        if (wait := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        due.put_nowait((at, WARM[place % len(WARM)]))
    while len(times) < count and time.perf_counter() < start + 2 * seconds + 5:
        await asyncio.sleep(0.05)
    for worker in workers:
        worker.cancel()
    times.sort()
    at_p = {f"p{share:g}": 1000 * times[min(len(times) - 1, int(share / 100 * len(times)))] for share in (50, 99, 99.9)}
    return at_p | {"worst": 1000 * times[-1], "answered": len(times), "of": count, "failed": failed}


def ask(port: int, path: str) -> tuple[float, bytes]:
    """Milliseconds and the body as it travelled."""
    wanted = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"accept-encoding": "gzip"})
    start = time.perf_counter()
    with urllib.request.urlopen(wanted, timeout=60) as answer:
        body = answer.read()
    return 1000 * (time.perf_counter() - start), body


def asked_once(port: int, paths: list[str]) -> dict[str, float]:
    """Each of these once."""
    times = sorted((ask(port, path)[0], path) for path in paths)
    worst = times[-1]
    return {
        "median": statistics.median(one for one, _ in times),
        "worst": worst[0],
        "worst_path": worst[1],
        "of": len(times),
    }


def data(port: int, path: str) -> Any:
    body = ask(port, path)[1]
    return json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)


def addresses(port: int) -> dict[str, list[str]]:
    """Addresses of each kind that nobody has asked for yet."""
    board = data(port, "/index.json?view=tasks")
    tasks = [column["key"] for column in board["columns"]]
    ranked = [row for row in board["rows"] if row["rank"]]
    slugs = [row["model"] for row in ranked]
    filters = [
        f"q={word}" for word in ("qwen", "llama", "gemma", "mistral", "gpt", "euro", "instruct", "it", "7b", "b")
    ]
    filters += [f"size={size}&open={open_}" for size in ("small", "medium", "large", "huge") for open_ in ("yes", "no")]
    filters += [f"sort={key}&order=reverse&rows=200" for key in ("name", "size", "date", "tokens", "reading")]
    filters += [f"preset={name}" for name in ("writing", "translation", "documents", "estonia", "instructions")]
    filters += [f"board={board}&view=tasks" for board in ("base", "checkpoints")]
    filters += [f"tasks={tasks[place]},{tasks[place + 1]}:2,{tasks[place + 7]}:0.5" for place in range(10)]
    filters += [f"view=tasks&rows=200&sort={task}" for task in tasks[:7]]
    filters += ["commercial=yes&since=2026-06-10", "licence=MIT", "all=yes&rows=200"]
    public = [(run, task) for row in ranked[:40] for task, cell in row["scores"].items() for run in cell["runs"]][:40]
    return {
        "cold": [f"/?{query}" for query in filters],
        "compare": [f"/vordlus?m={slugs[place]},{slugs[place + 50]}" for place in range(10)],
        "compare_six": [f"/vordlus?m={','.join(slugs[place : place + 60 : 10])}" for place in range(5)],
        "model": [f"/mudel/{slug}" for slug in slugs[:20]],
        "task": [f"/ulesanne/{task}" for task in tasks[:10]],
        "run": [f"/mootmine/{run}" for run in dict.fromkeys(run for run, _ in public[:10])],
        "runs": ["/mootmised"],
    }


def measured(url: str, seconds: float, *, warm: bool = True) -> dict[str, Any]:
    """Everything that one server tells."""
    with served(url) as server:
        port, found = server["port"], {key: server[key] for key in ("snapshot_s", "peak_mb")}
        paths = addresses(port)
        assert len(paths["cold"]) == 50 == len(set(paths["cold"]))
        for kind, some in paths.items():
            try:
                found[kind] = asked_once(port, some)
            except urllib.error.HTTPError as error:
                found[kind] = {"failed": f"{error.code} {error.url}"}
        if warm:
            found["warm"] = rate_of(server, seconds)
            found["written_to"] = rate_of(server, seconds, url)
            found["kilobytes"] = {path: len(ask(port, path)[1]) / 1000 for path in (*WARM, "/?view=tasks&rows=200")}
    return found


def rate_of(server: dict[str, Any], seconds: float, written: str = "") -> dict[str, float]:
    """The fixed rate, after every address was asked for once; in the middle of it this database may be written to."""
    for path in WARM:
        ask(server["port"], path)
    before = cpu_seconds(server["pid"])
    command = [sys.executable, __file__, "load", str(server["port"]), str(seconds), str(RATE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        if written:
            time.sleep(seconds / 4)
            write(written)
        found: dict[str, float] = json.loads(asking.communicate(timeout=120)[0])
    return found | {"cpu_ms_per_request": 1000 * (cpu_seconds(server["pid"]) - before) / found["answered"]}


def write(url: str) -> None:
    """Make the database a new version, so that the board reads it again."""
    from estbench.database import open_database

    with open_database(url, create=False) as database, database.write():
        pass


def paint(url: str, times: int = 5) -> dict[str, float]:
    """First contentful paint of the board on a phone, nothing cached."""
    from playwright.sync_api import sync_playwright

    script = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    found: dict[str, list[float]] = {"/": [], "/?view=tasks&rows=200": []}
    with served(url) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for path, paints in found.items():
            for _ in range(times):
                context = browser.new_context(**playwright.devices["Moto G4"])
                page = context.new_page()
                devtools = context.new_cdp_session(page)
                devtools.send("Network.enable")
                devtools.send("Network.emulateNetworkConditions", PHONE)
                devtools.send("Emulation.setCPUThrottlingRate", {"rate": 4})
                page.goto(f"http://127.0.0.1:{server['port']}{path}", wait_until="load")
                page.wait_for_function(script)
                paints.append(page.evaluate(script))
                context.close()
        browser.close()
    return {path: statistics.median(paints) for path, paints in found.items()}


def middle(found: list[Any]) -> Any:
    """The same with the medians of all numbers."""
    first = found[0]
    if isinstance(first, dict):
        return {key: middle([one[key] for one in found if key in one]) for key in first}
    if isinstance(first, str):
        return first
    value = statistics.median(found)
    return round(value, 1 if abs(value) >= 10 else 3)


@contextmanager
def world(engine: str, docs: int, folder: Path) -> Iterator[str]:
    """The URL of a new database with a world in it."""
    from board_world import fill
    from database_fixtures import fresh_url

    from estbench.database import open_database

    place = folder / f"{engine}-{docs}"
    place.mkdir()
    urls = fresh_url(engine, place)
    url = next(urls)
    start = time.perf_counter()
    with open_database(url) as database:
        fill(database, docs=docs, **SIZE)
    print(f"{engine}, {docs} docs: made in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    yield url
    for _ in urls:
        pass


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        return serve(sys.argv[2])
    if sys.argv[1:2] == ["load"]:
        return load(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    docs, growth, seconds = (
        int(given.get(key, value)) for key, value in (("docs", 1000), ("growth", 4), ("seconds", 10))
    )
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for engine in given.get("database", "sqlite,postgresql").split(","):
            if given.get("world"):
                url = f"sqlite:///{given['world']}"
                results["world"] = middle([measured(url, seconds) for _ in range(REPEATS)])
                results["world"]["paint"] = {} if given.get("paint") == "false" else paint(url)
                break
            with world(engine, docs, Path(name)) as url:
                results[engine] = middle([measured(url, seconds) for _ in range(REPEATS)])
                if given.get("paint") != "false" and engine == "sqlite":
                    results["paint"] = paint(url)
            if growth > 1:
                with world(engine, docs * growth, Path(name)) as url:
                    results[f"{engine}, {growth} times the documents"] = middle(
                        [measured(url, seconds, warm=False) for _ in range(REPEATS)]
                    )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
