"""What the transport costs: calls a second against a bare client, 64 at a time, a server that takes 200 ms.

    OMP_NUM_THREADS=1 python benchmarks/endpoint_throughput.py [calls=2000] [rounds=3] [latency=0.2] [most=64]

The bare client is `openai.AsyncOpenAI` with a semaphore of 64 and nothing else; ours starts slowly, validates every
reply and hands it to another thread. Both send the same requests to the same server on loopback, a process of its own.
They take turns, and medians count. The promise is 95 % of the bare client's calls a second; exit code 1 if not.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

import openai

from estbench.engines.replies import as_text, choices
from estbench.engines.transport import Call, Transport

PROMISE = 0.95
SERVER = Path(__file__).parents[1] / "tests" / "stub_endpoint.py"


def prompt(number: int) -> str:
    return f"Küsimus {number}: kas täna sajab vihma?\nVastus:"


def bare(url: str, calls: int, most: int) -> list[str]:
    """The answers, by a client with a semaphore."""

    async def everything() -> list[str]:
        gate = asyncio.Semaphore(most)
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(number: int) -> str:
                async with gate:
                    reply = await client.completions.create(model="stub", prompt=prompt(number), max_tokens=4)
                    return reply.choices[0].text

            return await asyncio.gather(*(one(number) for number in range(calls)))

    return asyncio.run(everything())


def ours(url: str, calls: int, most: int) -> list[str]:
    """The answers, by the transport."""
    asked = (
        Call("completions", text_of, {"model": "stub", "prompt": prompt(number), "max_tokens": 4}, number)
        for number in range(calls)
    )
    answers = [""] * calls
    with Transport(url, most=most) as transport:
        for call, answer in transport.run(asked):
            answers[call.tag] = str(answer)
    return answers


def text_of(reply: object) -> str:
    return as_text(choices(reply)[0].get("text"), "text")


def main() -> int:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    calls, rounds, most = (int(given.get(key, n)) for key, n in (("calls", 2000), ("rounds", 3), ("most", 64)))
    latency = float(given.get("latency", 0.2))
    server = subprocess.Popen(
        [sys.executable, str(SERVER), f"latency={latency}"], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        seconds: dict[str, list[float]] = {"bare": [], "ours": []}
        burnt: dict[str, list[float]] = {"bare": [], "ours": []}
        for turn in range(rounds + 1):
            for name, ask in (("bare", bare), ("ours", ours)):
                n = calls if turn else most  # the first turn warms up
                wall, cpu = time.perf_counter(), time.process_time()
                answers = ask(url, n, most)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                assert answers == ["jah"] * n, answers
                if turn:
                    seconds[name].append(wall)
                    burnt[name].append(cpu)
                    print(f"{name}: {n / wall:6.1f} calls/s, {1000 * cpu / n:.2f} ms of CPU a call", flush=True)
    finally:
        server.terminate()
        server.wait(10)
    speed = {name: calls / statistics.median(values) for name, values in seconds.items()}
    cost = {name: 1000 * statistics.median(values) / calls for name, values in burnt.items()}
    share = speed["ours"] / speed["bare"]
    print(f"\n{calls:,} calls, {most} at a time, {1000 * latency:.0f} ms: at best {most / latency:.0f} calls/s")
    print(f"bare {speed['bare']:.1f} calls/s ({cost['bare']:.2f} ms of CPU a call)")
    print(f"ours {speed['ours']:.1f} calls/s ({cost['ours']:.2f} ms of CPU a call): {share:.1%} of the bare client")
    return 0 if share >= PROMISE else 1


if __name__ == "__main__":
    sys.exit(main())
